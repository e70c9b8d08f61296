//! What real servers sent decodes to the last byte, and encodes to the same bytes.

use crate::{AnyMessage, Message, Relations, ReplicaIdentity, Tuple, Value, encode};
use std::path::{Path, PathBuf};

/// The captures of this name, one for each version of Postgres that was recorded.
fn recorded(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    let versions = std::fs::read_dir(folder).unwrap();
    let files: Vec<PathBuf> = versions
        .map(|version| version.unwrap().path().join(name))
        .filter(|file| file.exists())
        .collect();
    assert!(!files.is_empty(), "expected a capture named {name}");
    files
}

/// The messages of a capture: each behind its length.
fn messages(file: &[u8]) -> Vec<&[u8]> {
    let (mut rest, mut found) = (file, Vec::new());
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap();
        let (message, next) = behind.split_at(length);
        found.push(message);
        rest = next;
    }
    assert!(rest.is_empty(), "expected the capture to end with a message");
    found
}

fn decoded<'a>(messages: &[&'a [u8]]) -> Vec<AnyMessage<'a>> {
    let mut in_stream = false;
    let decode = |bytes: &&'a [u8]| {
        let message = AnyMessage::decode(bytes, in_stream).unwrap();
        in_stream = match message {
            AnyMessage::StreamStart { .. } => true,
            AnyMessage::StreamStop => false,
            _ => in_stream,
        };
        message
    };
    messages.iter().map(decode).collect()
}

fn values(row: Tuple<'_>) -> Vec<Option<&str>> {
    let text = |value| match value {
        Value::Text(bytes) => Some(std::str::from_utf8(bytes).unwrap()),
        Value::Null => None,
        other => panic!("expected text or null, found {other:?}"),
    };
    row.values().map(text).collect()
}

#[test]
fn every_capture_decodes_to_the_last_byte_and_encodes_to_the_same() {
    for name in ["text.bin", "binary.bin", "streamed.bin", "prepared.bin"] {
        for path in recorded(name) {
            let file = std::fs::read(&path).unwrap();
            let messages = messages(&file);
            for (message, bytes) in decoded(&messages).iter().zip(&messages) {
                let mut out = Vec::new();
                encode::any(message, &mut out).unwrap();
                assert_eq!(out, *bytes, "{}: {message:?}", path.display());
            }
        }
    }
}

#[test]
fn the_captures_hold_every_message_that_the_table_lists() {
    let mut seen: Vec<u8> = Vec::new();
    for name in ["text.bin", "streamed.bin", "prepared.bin"] {
        for path in recorded(name) {
            let file = std::fs::read(path).unwrap();
            seen.extend(messages(&file).iter().map(|message| message[0]));
        }
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(String::from_utf8_lossy(&seen), "ABCDEIKMOPRSTUYbcpr");
}

#[test]
fn every_change_of_a_capture_fits_the_relation_before_it() {
    for name in ["text.bin", "binary.bin"] {
        for path in recorded(name) {
            let file = std::fs::read(path).unwrap();
            let mut relations = Relations::default();
            let mut changes = 0;
            for bytes in messages(&file) {
                let (relation, rows) = match Message::decode(bytes).unwrap() {
                    Message::Relation(relation) => {
                        relations.insert(relation);
                        continue;
                    }
                    Message::Insert { relation, new } => (relation, vec![new]),
                    Message::Update { relation, key, old, new } => {
                        let rows = [key, old, Some(new)].into_iter().flatten();
                        (relation, rows.collect())
                    }
                    Message::Delete { relation, key, old } => {
                        (relation, [key, old].into_iter().flatten().collect())
                    }
                    _ => continue,
                };
                let columns = relations.get(relation).unwrap().columns.len();
                for row in rows {
                    changes += 1;
                    assert_eq!(row.columns(), columns);
                    assert_eq!(row.values().count(), columns);
                }
            }
            assert!(changes > 1000, "expected the changes of the workload");
        }
    }
}

#[test]
fn the_values_of_a_capture_are_those_that_were_written() {
    for path in recorded("text.bin") {
        let file = std::fs::read(path).unwrap();
        let messages = messages(&file);
        let read = decoded(&messages);
        let relation = |wanted: &str| {
            let found = read.iter().find_map(|message| match message {
                AnyMessage::Plain(Message::Relation(relation)) if relation.name == wanted => {
                    Some(relation)
                }
                _ => None,
            });
            found.unwrap()
        };
        let item = relation("item");
        assert_eq!((item.schema.as_str(), item.identity), ("public", ReplicaIdentity::Default));
        let keys: Vec<bool> = item.columns.iter().map(|column| column.key).collect();
        assert_eq!(keys, [true, false, false, false, false, false, false, false]);
        assert_eq!(relation("whole").identity, ReplicaIdentity::Full);
        assert_eq!(relation("by_index").identity, ReplicaIdentity::Index);
        assert_eq!(relation("silent").identity, ReplicaIdentity::Nothing);
        let first = read.iter().find_map(|message| match message {
            AnyMessage::Plain(Message::Insert { relation, new }) if *relation == item.oid => {
                Some(values(*new))
            }
            _ => None,
        });
        let row = first.unwrap();
        assert_eq!(
            row[..6],
            [Some("1"), Some("café 日 😀"), Some("12.50"), Some("calm"), Some(""), Some("\\x00ff")]
        );
        assert_eq!(row[7], Some("{a,NULL,\"b,c\"}"));
        let truncated = read.iter().filter_map(|message| match message {
            AnyMessage::Plain(Message::Truncate { relations, cascade, restart_identity }) => {
                Some((relations.len(), *cascade, *restart_identity))
            }
            _ => None,
        });
        let truncated: Vec<_> = truncated.collect();
        assert_eq!(truncated[..3], [(1, false, false), (2, true, false), (1, false, true)]);
        let large = relation("large").oid;
        let spared = read.iter().find_map(|message| match message {
            AnyMessage::Plain(Message::Update { relation, new, .. }) if *relation == large => {
                new.values().last()
            }
            _ => None,
        });
        assert_eq!(spared, Some(Value::UnchangedToast));
    }
}

#[test]
fn a_streamed_capture_tells_what_was_kept_and_what_was_rolled_back() {
    for path in recorded("streamed.bin") {
        let file = std::fs::read(path).unwrap();
        let messages = messages(&file);
        let mut committed = Vec::new();
        let mut aborted = Vec::new();
        let read = decoded(&messages);
        // An origin follows the start of its block at once, and names no transaction.
        assert!(read.windows(2).any(|pair| matches!(
            pair,
            [
                AnyMessage::StreamStart { .. },
                AnyMessage::Plain(Message::Origin { name: "elsewhere", .. }),
            ]
        )));
        for message in read {
            match message {
                AnyMessage::StreamCommit { xid, .. } => committed.push(xid),
                AnyMessage::StreamAbort { xid, subxid, .. } => aborted.push((xid, subxid)),
                _ => {}
            }
        }
        assert!(aborted.iter().any(|(xid, subxid)| committed.contains(xid) && xid != subxid));
        assert!(committed.iter().all(|xid| !aborted.contains(&(*xid, *xid))));
    }
}
