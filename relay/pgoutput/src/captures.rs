//! What real servers sent decodes to the last byte, and encodes to the same bytes.

use crate::{AnyMessage, Message, Relation, Relations, ReplicaIdentity, Tuple, Value, encode};
use std::path::{Path, PathBuf};

/// Every recording: its name, and the first version of Postgres that can make it.
const RECORDINGS: &[(&str, u32)] =
    &[("text", 14), ("binary", 14), ("streamed", 14), ("prepared", 15), ("parallel", 16)];

/// The captures of this name, one for each version of Postgres that can make it.
fn recorded(name: &str) -> Vec<(u32, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    let (_, since) = RECORDINGS.iter().find(|(recording, _)| *recording == name).unwrap();
    (*since..=18)
        .map(|major| (major, folder.join(format!("pg{major}")).join(format!("{name}.bin"))))
        .collect()
}

/// The tags of a capture in order, a number behind one that follows itself.
fn tags(messages: &[&[u8]]) -> String {
    let runs = messages.chunk_by(|a, b| a[0] == b[0]).map(|run| {
        let tag = char::from(run[0][0]);
        if run.len() == 1 { tag.to_string() } else { format!("{tag}{}", run.len()) }
    });
    runs.collect::<Vec<_>>().join(" ")
}

/// What a version sends of `workload.sql`, as [`tags`] writes it.
fn expected(name: &str, major: u32) -> String {
    let start = "B Y2 R I2 C B U C B U C B D C B R I C B U C B D C B R I C B U C B D C B R I C \
        B R I C B R I C B U C B R2 I C B R T C B Y2 R2 T C B R T C B M C M B R I R I C";
    // Before version 15 a transaction that changed nothing is sent too.
    let empty = if major < 15 { " B C" } else { "" };
    let whole = "B O I C B O I600 C B I300 M R T I300 C B R I C B I600 C";
    let streamed = "B O I C S O R I497 E S I103 E c S R I300 E A S M R T I300 E c";
    // From version 18 on what was rolled back before it was decoded is not sent at all.
    let rolled_back = if major < 18 { " S E A" } else { "" };
    match name {
        "text" | "binary" => format!("{start}{empty} {whole}"),
        "streamed" => {
            format!("{start}{empty} {streamed}{rolled_back} B R I C S R I497 E S I103 E c")
        }
        _ => format!("{start} {streamed}{rolled_back} b R I P K b I P r S R I497 E S I103 E p K"),
    }
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
    for (name, _) in RECORDINGS {
        for (_, path) in recorded(name) {
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
fn each_version_sends_the_messages_that_are_expected_of_it() {
    for (name, _) in RECORDINGS {
        for (major, path) in recorded(name) {
            let file = std::fs::read(&path).unwrap();
            assert_eq!(tags(&messages(&file)), expected(name, major), "{}", path.display());
        }
    }
}

#[test]
fn the_captures_hold_every_message_that_the_table_lists() {
    let mut seen: Vec<u8> = Vec::new();
    for (name, _) in RECORDINGS {
        for (_, path) in recorded(name) {
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
    for name in ["text", "binary"] {
        for (_, path) in recorded(name) {
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

/// The description of a table in a capture.
fn relation<'a>(read: &'a [AnyMessage<'_>], wanted: &str) -> &'a Relation {
    let found = read.iter().find_map(|message| match message {
        AnyMessage::Plain(Message::Relation(relation)) if relation.name == wanted => Some(relation),
        _ => None,
    });
    found.unwrap()
}

/// The first row that was inserted into a table.
fn first_row<'a>(read: &[AnyMessage<'a>], table: u32) -> Tuple<'a> {
    let found = read.iter().find_map(|message| match message {
        AnyMessage::Plain(Message::Insert { relation, new }) if *relation == table => Some(*new),
        _ => None,
    });
    found.unwrap()
}

#[test]
fn the_values_of_a_capture_are_those_that_were_written() {
    for (_, path) in recorded("text") {
        let file = std::fs::read(path).unwrap();
        let messages = messages(&file);
        let read = decoded(&messages);
        let relation = |wanted| relation(&read, wanted);
        let item = relation("item");
        assert_eq!((item.schema.as_str(), item.identity), ("public", ReplicaIdentity::Default));
        let keys: Vec<bool> = item.columns.iter().map(|column| column.key).collect();
        assert_eq!(keys, [true, false, false, false, false, false, false, false]);
        assert_eq!(relation("whole").identity, ReplicaIdentity::Full);
        assert_eq!(relation("by_index").identity, ReplicaIdentity::Index);
        assert_eq!(relation("silent").identity, ReplicaIdentity::Nothing);
        let row = values(first_row(&read, item.oid));
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
    for (_, path) in recorded("streamed") {
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

#[test]
fn an_abort_names_its_place_and_time_where_parallel_streaming_was_asked_for() {
    let aborts = |name| {
        let mut found = Vec::new();
        for (_, path) in recorded(name) {
            let file = std::fs::read(path).unwrap();
            found.extend(decoded(&messages(&file)).iter().filter_map(|message| match message {
                AnyMessage::StreamAbort { aborted, .. } => Some(*aborted),
                _ => None,
            }));
        }
        found
    };
    // Twice on each version, and from version 18 on once.
    let (plain, parallel) = (aborts("prepared"), aborts("parallel"));
    assert_eq!((plain.len(), parallel.len()), (7, 5));
    assert!(plain.iter().all(Option::is_none));
    assert!(parallel.iter().flatten().all(|(lsn, time)| u64::from(*lsn) > 0 && *time > 0));
    assert!(parallel.iter().all(Option::is_some));
}

#[test]
fn a_generated_column_is_sent_from_version_18_on() {
    for (major, path) in recorded("text") {
        let file = std::fs::read(path).unwrap();
        let messages = messages(&file);
        let read = decoded(&messages);
        let product = relation(&read, "product");
        let names: Vec<&str> = product.columns.iter().map(|column| column.name.as_str()).collect();
        let row = values(first_row(&read, product.oid));
        if major < 18 {
            assert_eq!((names, row), (vec!["id", "price"], vec![Some("1"), Some("12.5")]));
        } else {
            assert_eq!(names, ["id", "price", "twice"]);
            assert_eq!(row, [Some("1"), Some("12.5"), Some("25.0")]);
        }
    }
}
