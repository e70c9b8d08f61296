//! Events that can never be sent, kept with their reason in `relay.dead_letter`.

use crate::condition::Failures;
use crate::publish::{Outgoing, Retry, Sealed};
use dsn::Dsn;
use envelope::Position;
use std::collections::BTreeMap;
use std::fmt::Write as _;
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
    /// The body as it would have been sent, or the row or message as it came, in whatever bytes.
    pub body: Vec<u8>,
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
            body: event.body.into_bytes(),
            attributes: event.attributes,
        }
    }

    /// The memory that it takes, in bytes: what the budget counts.
    #[must_use]
    pub fn weight(&self) -> usize {
        let texts = [&self.destination, &self.key, &self.event_type, &self.reason];
        let texts: usize = texts.iter().map(|text| text.capacity()).sum();
        let code = self.error_code.as_ref().map_or(0, String::capacity);
        let attributes: usize = self.attributes.iter().map(|(_, value)| value.capacity()).sum();
        size_of::<Self>() + texts + code + self.body.capacity() + attributes
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
    /// Begins anew once a letter was written.
    retry: Retry,
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
        let mut retry = Retry::default();
        loop {
            match self.take_turn(letter).await {
                Ok(()) => break,
                // Said once, as a condition of the pipeline.
                Err(error) => task.failed(dsn::causes(&error)),
            }
            tokio::time::sleep(retry.next(fastrand::f64())).await;
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
                // The last of the letters that wait lets go of the connection: a server that stops
                // (`smart`) waits for whoever is connected.
                let others_wait = self.failures.tasks() > 1;
                let client = others_wait.then_some(client);
                *writer = Writer { client, ..Writer::default() };
                Ok(())
            }
            Err(error) => {
                let wait = writer.retry.next(fastrand::f64());
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
        let mut kept = Ok(());
        for row in Row::forms(letter) {
            kept = insert(&client, letter, &row).await;
            // Refused for a character that the database's encoding has not: escaped then.
            let refused = |error: &tokio_postgres::Error| {
                let code = error.code().map_or("", |code| code.code());
                code.starts_with("22") || code.starts_with("54")
            };
            if !kept.as_ref().is_err_and(refused) {
                break;
            }
        }
        kept?;
        Ok(client)
    }
}

/// A letter in the texts of the table's columns.
struct Row {
    destination: String,
    key: String,
    event_type: String,
    reason: String,
    error_code: Option<String>,
    body: String,
    attributes: BTreeMap<&'static str, String>,
    /// The body's bytes, where `body` is not them.
    content: Option<Vec<u8>>,
    /// The other columns as JSON in ASCII, where they are escaped.
    head: Option<String>,
}

impl Row {
    /// The letter as it is, where all of it is text; and escaped, so that it stands in a table of
    /// any encoding.
    fn forms(letter: &DeadLetter) -> impl Iterator<Item = Self> {
        let texts = [&letter.destination, &letter.key, &letter.event_type, &letter.reason];
        let values = letter.attributes.iter().map(|(_, value)| value);
        // Postgres has no text with a zero byte.
        let no_text = texts.into_iter().chain(values).any(|text| text.contains('\0'));
        let body = std::str::from_utf8(&letter.body).ok().filter(|body| !body.contains('\0'));
        let plain = body.filter(|_| !no_text).map(|body| Self::plain(letter, body));
        plain.into_iter().chain(std::iter::once_with(|| Self::escaped(letter)))
    }

    fn plain(letter: &DeadLetter, body: &str) -> Self {
        Self {
            destination: letter.destination.clone(),
            key: letter.key.clone(),
            event_type: letter.event_type.clone(),
            reason: letter.reason.clone(),
            error_code: letter.error_code.clone(),
            body: body.to_owned(),
            attributes: letter.attributes.iter().cloned().collect(),
            content: None,
            head: None,
        }
    }

    fn escaped(letter: &DeadLetter) -> Self {
        let attributes: BTreeMap<_, _> = letter.attributes.iter().cloned().collect();
        let head = serde_json::json!({
            "event_id": letter.event_id, "destination": letter.destination, "key": letter.key,
            "event_type": letter.event_type, "attributes": attributes,
        });
        let text = |text: &str| escape(text.as_bytes());
        Self {
            destination: text(&letter.destination),
            key: text(&letter.key),
            event_type: text(&letter.event_type),
            reason: text(&letter.reason),
            error_code: letter.error_code.as_deref().map(text),
            body: escape(&letter.body),
            attributes: attributes.iter().map(|(name, value)| (*name, text(value))).collect(),
            content: Some(letter.body.clone()),
            // Whatever is not ASCII stands in a string, where the escapes are those of JSON.
            head: Some(text(&head.to_string())),
        }
    }
}

async fn insert(
    client: &Client,
    letter: &DeadLetter,
    row: &Row,
) -> Result<(), tokio_postgres::Error> {
    // The position and the id make a repeat after a crash a no-op.
    const INSERT: &str = "insert into relay.dead_letter
        (event_id, destination, key, event_type, reason, error_code, attempts, position, body, attributes,
         content, head)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::text::json)
        on conflict do nothing";
    let attempts = i32::try_from(letter.attempts).unwrap_or(i32::MAX);
    let position = letter.position.to_string();
    client
        .execute(
            INSERT,
            &[
                &letter.event_id,
                &row.destination,
                &row.key,
                &row.event_type,
                &row.reason,
                &row.error_code,
                &attempts,
                &position,
                &row.body,
                &tokio_postgres::types::Json(&row.attributes),
                &row.content,
                &row.head,
            ],
        )
        .await?;
    Ok(())
}

/// Bytes as ASCII that a person can read: other characters as JSON escapes them, and bytes that
/// are no text as `\xff`.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                ' '..='~' | '\n' | '\t' => out.push(character),
                other => {
                    for unit in other.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(key: &str, body: &[u8]) -> DeadLetter {
        DeadLetter {
            event_id: None,
            destination: "(none)".to_owned(),
            key: key.to_owned(),
            event_type: "order.créé".to_owned(),
            reason: "r".to_owned(),
            error_code: None,
            attempts: 0,
            position: Position::default(),
            body: body.to_vec(),
            attributes: vec![("event_type", "order.créé".to_owned())],
        }
    }

    #[test]
    fn a_letter_of_text_is_written_as_it_is_and_escaped_where_that_is_refused() {
        let letter = letter("é🐘", "{\"n\":\"é\"}".as_bytes());
        let [plain, escaped] = &Row::forms(&letter).collect::<Vec<_>>()[..] else { panic!() };
        assert_eq!((plain.key.as_str(), &plain.content, &plain.head), ("é🐘", &None, &None));
        assert_eq!(escaped.key, "\\u00e9\\ud83d\\udc18");
        assert_eq!(escaped.body, "{\"n\":\"\\u00e9\"}");
        assert_eq!(escaped.content.as_ref(), Some(&letter.body));
        let head: serde_json::Value = serde_json::from_str(escaped.head.as_ref().unwrap()).unwrap();
        assert_eq!(
            (head["key"].as_str(), head["attributes"]["event_type"].as_str()),
            (Some("é🐘"), Some("order.créé"))
        );
        assert!(escaped.head.as_ref().unwrap().is_ascii());
    }

    #[test]
    fn what_is_no_text_is_escaped_at_once_with_its_bytes_beside_it() {
        for (key, body) in [("k", &b"a\0\xff"[..]), ("a\0", b"")] {
            let letter = letter(key, body);
            let [escaped] = &Row::forms(&letter).collect::<Vec<_>>()[..] else { panic!() };
            assert!(!escaped.body.contains('\0') && !escaped.key.contains('\0'));
            assert_eq!(escaped.content.as_deref(), Some(body));
        }
        assert_eq!(escape(b"a\0\xff"), "a\\u0000\\xff");
    }
}
