//! Events that can never be sent, kept with their reason in `relay.dead_letter`.

use crate::publish::{Outgoing, backoff};
use dsn::Dsn;
use envelope::Position;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio_postgres::Client;
use uuid::Uuid;

/// One event set aside.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its identity, where it could be read.
    pub event_id: Option<Uuid>,
    /// Where it was meant to go.
    pub destination: String,
    /// Its ordering key.
    pub key: String,
    /// What happened.
    pub event_type: String,
    /// Why it cannot be sent.
    pub reason: String,
    /// The broker's code, when the broker refused it.
    pub error_code: Option<String>,
    /// How often it was sent.
    pub attempts: u32,
    /// Its place in the stream.
    pub position: Position,
    /// The body, or what could be read of the row.
    pub body: String,
    /// The message attributes.
    pub attributes: Vec<(&'static str, String)>,
}

impl DeadLetter {
    /// Of an entry that was on its way.
    #[must_use]
    pub fn of(
        entry: &Outgoing,
        destination: &str,
        reason: String,
        error_code: Option<String>,
    ) -> Self {
        Self {
            event_id: Some(entry.event.event_id),
            destination: destination.to_owned(),
            key: entry.event.key.clone(),
            event_type: entry.event.event_type.clone(),
            reason,
            error_code,
            attempts: entry.attempts,
            position: entry.position,
            body: entry.event.body.clone(),
            attributes: entry.event.attributes.clone(),
        }
    }
}

/// Writes dead letters over a connection of its own, made when it is needed.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    dsn: Dsn,
    client: Arc<Mutex<Option<Client>>>,
}

/// Why a dead letter could not be written.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// There is no connection.
    #[error("no connection to write dead letters with")]
    Connect(#[from] dsn::Error),
    /// The insert failed.
    #[error("the dead letter could not be written")]
    Write(#[from] tokio_postgres::Error),
}

impl DeadLetters {
    /// Dead letters of the database that the events come from.
    #[must_use]
    pub fn new(dsn: Dsn) -> Self {
        Self { dsn, client: Arc::new(Mutex::new(None)) }
    }

    /// Writes the letter, and tries for as long as it takes: until it is written
    /// the event counts as on its way, so it cannot be lost.
    pub async fn keep(&self, letter: &DeadLetter) {
        let mut attempt = 0;
        loop {
            match self.try_keep(letter).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!(
                        event_id = ?letter.event_id, error = dsn::causes(&error),
                        "a dead letter could not be written; its event stays in flight and is tried again"
                    );
                }
            }
            tokio::time::sleep(backoff(attempt, fastrand::f64())).await;
            attempt += 1;
        }
        tracing::warn!(
            event_id = ?letter.event_id, event_type = letter.event_type, key = letter.key,
            destination = letter.destination, position = %letter.position, reason = letter.reason,
            "an event cannot be sent and was set aside in relay.dead_letter"
        );
    }

    async fn try_keep(&self, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        let mut slot = self.client.lock().await;
        let client = match slot.take() {
            Some(client) if !client.is_closed() => client,
            _ => self.dsn.connect("relay dead letters").await?.0,
        };
        // The position and the id make a repeat after a crash a no-op.
        const INSERT: &str = "insert into relay.dead_letter
            (event_id, destination, key, event_type, reason, error_code, attempts, position, body, attributes)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
            on conflict do nothing";
        let attempts = i32::try_from(letter.attempts).unwrap_or(i32::MAX);
        let position = letter.position.to_string();
        let attributes: BTreeMap<&str, &str> =
            letter.attributes.iter().map(|(name, value)| (*name, value.as_str())).collect();
        client
            .execute(
                INSERT,
                &[
                    &letter.event_id,
                    &letter.destination,
                    &letter.key,
                    &letter.event_type,
                    &letter.reason,
                    &letter.error_code,
                    &attempts,
                    &position,
                    &letter.body,
                    &tokio_postgres::types::Json(attributes),
                ],
            )
            .await?;
        *slot = Some(client);
        Ok(())
    }
}
