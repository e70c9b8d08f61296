//! Events that can never be sent, kept with their reason in `relay.dead_letter`.

use crate::condition::Failures;
use crate::publish::{Outgoing, Sealed, backoff};
use dsn::Dsn;
use envelope::Position;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_postgres::Client;
use uuid::Uuid;

/// Where dead letters stand.
pub const TABLE: &str = "relay.dead_letter";

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
    /// Of an entry that was on its way; its content is moved here, not copied.
    #[must_use]
    pub fn of(
        entry: &Outgoing,
        event: Sealed,
        destination: &str,
        reason: String,
        error_code: Option<String>,
    ) -> Self {
        Self {
            event_id: Some(event.event_id),
            destination: destination.to_owned(),
            key: event.key,
            event_type: event.event_type,
            reason,
            error_code,
            attempts: entry.attempts,
            position: entry.position,
            body: event.body,
            attributes: event.attributes,
        }
    }

    /// The memory that it takes, in bytes: what the budget counts.
    #[must_use]
    pub fn weight(&self) -> usize {
        let texts = [&self.destination, &self.key, &self.event_type, &self.reason, &self.body];
        let texts: usize = texts.iter().map(|text| text.capacity()).sum();
        let attributes: usize = self.attributes.iter().map(|(_, value)| value.capacity()).sum();
        size_of::<Self>() + texts + attributes
    }
}

/// Writes dead letters over a connection of its own, made when it is needed.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    dsn: Dsn,
    writer: Arc<Mutex<Writer>>,
    failures: Failures,
}

/// The one connection, and the one back-off of all letters: what refuses one refuses most.
#[derive(Debug, Default)]
struct Writer {
    client: Option<Client>,
    failed_attempts: u32,
    not_before: Option<Instant>,
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
        Self { dsn, writer: Arc::default(), failures: Failures::default() }
    }

    /// The letters that could not be written yet, with the server's words.
    #[must_use]
    pub fn failures(&self) -> &Failures {
        &self.failures
    }

    /// Writes the letter, and tries for as long as it takes: until it is written
    /// the event counts as on its way, so it cannot be lost.
    pub async fn keep(&self, letter: &DeadLetter) {
        let task = self.failures.task();
        let mut attempt = 0;
        loop {
            match self.take_turn(letter).await {
                Ok(()) => break,
                // Said once, as a condition of the pipeline.
                Err(error) => task.failed(dsn::causes(&error)),
            }
            tokio::time::sleep(backoff(attempt, 0.5 + fastrand::f64() / 2.0)).await;
            attempt += 1;
        }
        tracing::warn!(
            event_id = ?letter.event_id, event_type = letter.event_type, key = letter.key,
            destination = letter.destination, position = %letter.position, reason = letter.reason,
            "an event cannot be sent and was set aside in relay.dead_letter"
        );
    }

    /// Tries once, when it is this letter's turn. Letters take turns, so that one that is refused
    /// for its own sake holds back no other.
    async fn take_turn(&self, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        let mut writer = self.writer.lock().await;
        if let Some(at) = writer.not_before {
            tokio::time::sleep_until(at).await;
        }
        let client = writer.client.take();
        match self.write(client, letter).await {
            Ok(client) => {
                *writer = Writer { client: Some(client), ..Writer::default() };
                Ok(())
            }
            Err(error) => {
                let wait = backoff(writer.failed_attempts, 0.5 + fastrand::f64() / 2.0);
                writer.failed_attempts = writer.failed_attempts.saturating_add(1);
                writer.not_before = Some(Instant::now() + wait);
                Err(error)
            }
        }
    }

    /// Writes over the client that there is or a new one; returns it for the next letter.
    async fn write(
        &self,
        client: Option<Client>,
        letter: &DeadLetter,
    ) -> Result<Client, DeadLetterError> {
        let client = match client {
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
        Ok(client)
    }
}
