//! A row is borrowed from the buffer it came in, and a length is not believed before its bytes are there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use allocation_counter::measure;
use pgoutput::{Frame, Lsn, Message, Tuple, Value, encode};
use std::hint::black_box;

/// A row of so many columns, of each kind of value in turn.
fn row(columns: usize) -> Vec<u8> {
    let kinds = [
        Value::Text(b"a value of some length"),
        Value::Binary(&[0, 1, 2, 3]),
        Value::Null,
        Value::UnchangedToast,
    ];
    let values: Vec<_> = kinds.into_iter().cycle().take(columns).collect();
    let mut out = Vec::new();
    encode::values(&values, &mut out).unwrap();
    out
}

fn encoded(message: &Message<'_>) -> Vec<u8> {
    let mut data = Vec::new();
    encode::message(message, &mut data).unwrap();
    let mut payload = Vec::new();
    let (start, end) = (Lsn::from(1), Lsn::from(2));
    encode::frame(&Frame::XLogData { start, end, clock: 3, data: &data }, &mut payload);
    payload
}

/// Reads a frame, its message and each of its values; returns how many bytes these have.
fn walk(payload: &[u8]) -> usize {
    let Frame::XLogData { data, .. } = Frame::decode(payload).unwrap() else {
        return 0;
    };
    let length = |row: Tuple<'_>| {
        let lengths = row.values().map(|value| match value {
            Value::Text(bytes) | Value::Binary(bytes) => bytes.len(),
            Value::Null | Value::UnchangedToast => 0,
        });
        lengths.sum::<usize>()
    };
    match Message::decode(data).unwrap() {
        Message::Insert { new, .. } => length(new),
        Message::Update { key, old, new, .. } => {
            [key, old, Some(new)].into_iter().flatten().map(length).sum()
        }
        Message::Delete { key, old, .. } => [key, old].into_iter().flatten().map(length).sum(),
        Message::Message { content, .. } => content.len(),
        _ => 0,
    }
}

#[test]
fn a_change_and_its_values_are_read_without_an_allocation() {
    for columns in [1, 13, 1_600] {
        let bytes = row(columns);
        let new = Tuple::decode(&bytes).unwrap();
        let (commit_lsn, end_lsn, commit_time) = (1.into(), 2.into(), 3);
        let messages = [
            Message::Begin { commit_lsn, commit_time, xid: 1 },
            Message::Insert { relation: 1, new },
            Message::Update { relation: 1, key: None, old: Some(new), new },
            Message::Update { relation: 1, key: Some(new), old: None, new },
            Message::Delete { relation: 1, key: Some(new), old: None },
            Message::Message { transactional: true, lsn: 1.into(), prefix: "p", content: &bytes },
            Message::Commit { commit_lsn, end_lsn, commit_time },
        ];
        for message in messages {
            let payload = encoded(&message);
            let mut read = 0;
            let allocated = measure(|| read = walk(black_box(&payload)));
            assert_eq!(allocated.count_total, 0, "{columns} columns: {message:?}");
            let is_boundary = matches!(message, Message::Begin { .. } | Message::Commit { .. });
            assert_eq!(read == 0, is_boundary, "{columns} columns: {message:?}");
        }
    }
}

#[test]
fn a_length_reserves_nothing_before_its_bytes_are_there() {
    let hostile: [&[u8]; 4] = [
        b"T\x7f\xff\xff\xff\0\0\0\0\x01",
        b"R\0\0\0\x01s\0t\0d\x7f\xff",
        b"I\0\0\0\x01N\0\x01t\x7f\xff\xff\xffx",
        b"M\x01\0\0\0\0\0\0\0\x01p\0\x7f\xff\xff\xffx",
    ];
    for bytes in hostile {
        let allocated = measure(|| assert!(Message::decode(bytes).is_err()));
        assert!(allocated.bytes_max <= 64, "{bytes:?} allocates {allocated:?}");
    }
}
