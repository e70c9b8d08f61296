//! How fast the decoder reads: `cargo bench -p pgoutput`.
//!
//! Each case is a CopyData payload, read as the relay reads it: the frame, the
//! message, and every value of its rows.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench that cannot go on stops")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pgoutput::{
    AnyMessage, Column, Frame, Lsn, Message, Relation, ReplicaIdentity, Tuple, Value, encode,
};
use std::hint::black_box;

/// An outbox row of about 580 bytes: what the relay reads all day.
fn outbox_row() -> Vec<u8> {
    let data = format!(r#"{{"order_id": "ord_123456", "note": "{}"}}"#, "x".repeat(250));
    let values = [
        Value::Text(b"748213"),
        Value::Text(b"1000482"),
        Value::Text(b"2026-01-15 10:30:00.123456+00"),
        Value::Text(b"019bc0de-7a1b-7c3d-9e4f-5a6b7c8d9e0f"),
        Value::Text(b"5"),
        Value::Text(b"order"),
        Value::Text(b"ord_123456"),
        Value::Text(b"order.paid"),
        Value::Text(b"1.0"),
        Value::Text(b"tenant-17"),
        Value::Text(b"019bc0de-7a1b-7c3d-9e4f-000000000001"),
        Value::Null,
        Value::Text(data.as_bytes()),
        Value::Text(
            br#"{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}"#,
        ),
    ];
    row(&values)
}

fn row(values: &[Value<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::values(values, &mut out).unwrap();
    out
}

/// A relation of so many columns.
fn relation(columns: usize) -> Relation {
    let column = |number| Column {
        key: number == 0,
        name: format!("column_{number}"),
        type_oid: 25,
        type_modifier: -1,
    };
    Relation {
        oid: 16_384,
        schema: "relay".to_owned(),
        name: "outbox".to_owned(),
        identity: ReplicaIdentity::Default,
        columns: (0..columns).map(column).collect(),
    }
}

/// The message as the server sends it: within a frame.
fn payload(message: &Message<'_>) -> Vec<u8> {
    let mut data = Vec::new();
    encode::message(message, &mut data).unwrap();
    let (start, end) = (Lsn::from(1), Lsn::from(2));
    let mut out = Vec::new();
    encode::frame(&Frame::XLogData { start, end, clock: 3, data: &data }, &mut out);
    out
}

/// Reads a payload to its last value; returns what depends on all of it.
fn read(payload: &[u8]) -> usize {
    let Frame::XLogData { data, .. } = Frame::decode(payload).unwrap() else {
        return 0;
    };
    match Message::decode(data).unwrap() {
        Message::Insert { new, .. } => walk(new),
        Message::Update { key, old, new, .. } => {
            [key, old, Some(new)].into_iter().flatten().map(walk).sum()
        }
        Message::Relation(relation) => relation.columns.len(),
        _ => 1,
    }
}

fn walk(row: Tuple<'_>) -> usize {
    let lengths = row.values().map(|value| match value {
        Value::Text(bytes) | Value::Binary(bytes) => bytes.len(),
        Value::Null | Value::UnchangedToast => 0,
    });
    lengths.sum()
}

fn messages(criterion: &mut Criterion) {
    let (commit_lsn, end_lsn, commit_time) = (1.into(), 2.into(), 3);
    let outbox = outbox_row();
    let wide = row(&[Value::Text(b"12345678"); 1_600]);
    let (outbox, wide) = (Tuple::decode(&outbox).unwrap(), Tuple::decode(&wide).unwrap());
    let cases = [
        ("begin", Message::Begin { commit_lsn, commit_time, xid: 748_213 }),
        ("commit", Message::Commit { commit_lsn, end_lsn, commit_time }),
        ("relation_14_columns", Message::Relation(relation(14))),
        ("insert_outbox_row", Message::Insert { relation: 1, new: outbox }),
        (
            "update_with_old_row",
            Message::Update { relation: 1, key: None, old: Some(outbox), new: outbox },
        ),
        ("insert_1600_columns", Message::Insert { relation: 1, new: wide }),
    ];
    let mut group = criterion.benchmark_group("message");
    for (name, message) in cases {
        let payload = payload(&message);
        let bytes = payload.len() as u64;
        group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes });
        group.bench_function(name, |bench| bench.iter(|| read(black_box(&payload))));
    }
    group.finish();
}

/// All that the newest server sent in a capture, of every kind of message.
fn capture(criterion: &mut Criterion) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/captures/pg18/text.bin");
    let file = std::fs::read(path).unwrap();
    let (mut rest, mut messages) = (&file[..], Vec::new());
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let (message, next) = behind.split_at(u32::from_be_bytes(*length) as usize);
        messages.push(message);
        rest = next;
    }
    let bytes = messages.iter().map(|message| message.len() as u64).sum();
    let mut group = criterion.benchmark_group("capture");
    group.throughput(Throughput::ElementsAndBytes { elements: messages.len() as u64, bytes });
    group.bench_function("text", |bench| {
        bench.iter(|| {
            for message in &messages {
                black_box(AnyMessage::decode(black_box(message), false).unwrap());
            }
        });
    });
    group.finish();
}

criterion_group!(decode, messages, capture);
criterion_main!(decode);
