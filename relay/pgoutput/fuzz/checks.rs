//! What must hold for any bytes at all. The fuzz targets and `tests/corpus.rs`,
//! which replays what the fuzzer has found, share it.

use pgoutput::{AnyMessage, Frame, Message, Relations, StandbyStatus, Tuple, encode};

/// Reads the bytes as everything they could be, down to each value.
pub fn message(bytes: &[u8]) {
    let _ = StandbyStatus::decode(bytes);
    let _ = Tuple::decode(bytes).map(walk);
    if let Ok(Frame::XLogData { data, .. }) = Frame::decode(bytes) {
        read(data);
    }
    read(bytes);
}

fn read(bytes: &[u8]) {
    let plain = Message::decode(bytes);
    for in_stream in [false, true] {
        match AnyMessage::decode(bytes, in_stream) {
            Ok(AnyMessage::Plain(message)) => {
                if !in_stream {
                    assert_eq!(plain, Ok(message.clone()), "protocol 1 reads the same");
                }
                rows(message);
            }
            Ok(AnyMessage::Streamed { message, .. }) => rows(message),
            Ok(_) => assert!(in_stream || plain.is_err(), "protocol 1 refuses what came later"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

fn rows(message: Message<'_>) {
    match message {
        Message::Relation(relation) => {
            let oid = relation.oid;
            let mut relations = Relations::default();
            relations.insert(relation);
            assert!(relations.get(oid).is_ok());
        }
        Message::Insert { new, .. } => walk(new),
        Message::Update { key, old, new, .. } => {
            [key, old, Some(new)].into_iter().flatten().for_each(walk);
        }
        Message::Delete { key, old, .. } => [key, old].into_iter().flatten().for_each(walk),
        _ => {}
    }
}

/// A row that was read has as many values as it says.
fn walk(row: Tuple<'_>) {
    assert_eq!(row.values().count(), row.columns());
}

/// What decodes encodes, and decodes to the same.
pub fn round_trip(bytes: &[u8]) {
    for in_stream in [false, true] {
        if let Ok(message) = AnyMessage::decode(bytes, in_stream) {
            let mut out = Vec::with_capacity(bytes.len());
            assert_eq!(encode::any(&message, &mut out), Ok(()), "{message:?}");
            assert_eq!(AnyMessage::decode(&out, in_stream), Ok(message));
        }
    }
    if let Ok(frame) = Frame::decode(bytes) {
        let mut out = Vec::with_capacity(bytes.len());
        encode::frame(&frame, &mut out);
        assert_eq!(Frame::decode(&out), Ok(frame));
    }
    if let Ok(status) = StandbyStatus::decode(bytes) {
        assert_eq!(StandbyStatus::decode(&status.encode()), Ok(status));
    }
}
