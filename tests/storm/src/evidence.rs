//! What the broker recorded, as the judge needs it.

use crate::judge::Accepted;
use anyhow::{Context, Result};
use envelope::Event;
use md5::{Digest as _, Md5};
use std::fmt::Write as _;
use tests::broker;

/// Reads an accepted message.
///
/// # Errors
/// When its body is no event.
pub(crate) fn accepted(message: &broker::Accepted) -> Result<Accepted> {
    let entry = &message.entry;
    let event = Event::from_json(&entry.body).context("read an accepted body")?;
    let mut attributes = entry.attributes.clone();
    attributes.sort();
    let whole =
        format!("{:?} {:?} {:?} {}", attributes, entry.group, entry.deduplication, entry.body);
    Ok(Accepted {
        id: event.event_id,
        target: message.target.clone(),
        kind: event.aggregate_type,
        key: event.aggregate_id,
        n: event.aggregate_version,
        digest: md5(&as_written(event.data.get())),
        commit_lsn: event.position.map(|position| position.commit_lsn),
        whole: md5(&whole),
    })
}

/// XML has no U+FFFE and no U+FFFF: the relay escapes them, which is the same JSON.
fn as_written(data: &str) -> String {
    data.replace("\\ufffe", "\u{fffe}").replace("\\uffff", "\u{ffff}")
}

/// As Postgres's `md5` writes it.
fn md5(text: &str) -> String {
    Md5::digest(text.as_bytes()).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
