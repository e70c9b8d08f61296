//! Any message encodes and decodes back; anything else is an error, never a panic.

use crate::{
    AnyMessage, Column, Error, Frame, Lsn, Message, Prepared, Relation, ReplicaIdentity, Tuple,
    Value, encode,
};
use proptest::collection::vec;
use proptest::prelude::*;

const TAGS: &[u8] = b"BCORYIUDTMSEcAbPpKr";

/// What messages borrow from, and numbers to fill the rest.
#[derive(Clone, Debug)]
struct Parts {
    kind: u8,
    in_stream: bool,
    rows: [Vec<u8>; 2],
    columns: Vec<Column>,
    name: String,
    content: Vec<u8>,
    lsn: [u64; 2],
    time: [i64; 2],
    oid: [u32; 2],
    flags: [bool; 2],
}

fn cells() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    vec((0_u8..4, vec(any::<u8>(), 0..20)), 0..8)
}

fn values(cells: &[(u8, Vec<u8>)]) -> Vec<Value<'_>> {
    let values = cells.iter().map(|(kind, bytes)| match kind {
        0 => Value::Null,
        1 => Value::UnchangedToast,
        2 => Value::Text(bytes),
        _ => Value::Binary(bytes),
    });
    values.collect()
}

fn row() -> impl Strategy<Value = Vec<u8>> {
    cells().prop_map(|cells| {
        let mut out = Vec::new();
        encode::values(&values(&cells), &mut out).unwrap();
        out
    })
}

fn column() -> impl Strategy<Value = Column> {
    (any::<bool>(), "\\PC{1,9}", any::<u32>(), any::<i32>()).prop_map(
        |(key, name, type_oid, type_modifier)| Column { key, name, type_oid, type_modifier },
    )
}

fn parts() -> impl Strategy<Value = Parts> {
    (
        (any::<u8>(), any::<bool>(), [row(), row()]),
        (vec(column(), 0..6), "\\PC{1,9}", vec(any::<u8>(), 0..40)),
        any::<([u64; 2], [i64; 2], [u32; 2], [bool; 2])>(),
    )
        .prop_map(
            |((kind, in_stream, rows), (columns, name, content), (lsn, time, oid, flags))| Parts {
                kind,
                in_stream,
                rows,
                columns,
                name,
                content,
                lsn,
                time,
                oid,
                flags,
            },
        )
}

impl Parts {
    fn lsns(&self) -> [Lsn; 2] {
        self.lsn.map(Lsn::from)
    }

    fn row(&self, at: usize) -> Tuple<'_> {
        Tuple::decode(&self.rows[at]).unwrap()
    }

    /// One of the changes, which stand inside streamed blocks and outside.
    fn change(&self) -> Message<'_> {
        let [relation, other] = self.oid;
        let row = |wanted: bool, at| wanted.then(|| self.row(at));
        match self.kind % 7 {
            0 => Message::Relation(Relation {
                oid: relation,
                schema: self.name.clone(),
                name: self.name.clone(),
                identity: ReplicaIdentity::Full,
                columns: self.columns.clone(),
            }),
            1 => Message::Type { oid: relation, schema: "pg_catalog", name: &self.name },
            2 => Message::Insert { relation, new: self.row(0) },
            3 => Message::Update {
                relation,
                key: row(self.flags[0] && self.flags[1], 0),
                old: row(self.flags[0] && !self.flags[1], 0),
                new: self.row(1),
            },
            4 => Message::Delete {
                relation,
                key: row(self.flags[0], 0),
                old: row(!self.flags[0], 0),
            },
            5 => Message::Truncate {
                relations: vec![relation, other],
                cascade: self.flags[0],
                restart_identity: self.flags[1],
            },
            _ => Message::Message {
                transactional: self.flags[0],
                lsn: self.lsn[0].into(),
                prefix: &self.name,
                content: &self.content,
            },
        }
    }

    fn plain(&self) -> Message<'_> {
        let ([commit_lsn, end_lsn], [commit_time, _]) = (self.lsns(), self.time);
        match self.kind % 4 {
            0 => Message::Begin { commit_lsn, commit_time, xid: self.oid[0] },
            1 => Message::Commit { commit_lsn, end_lsn, commit_time },
            2 => Message::Origin { commit_lsn, name: &self.name },
            _ => self.change(),
        }
    }

    fn prepared(&self) -> Prepared<'_> {
        let [prepare_lsn, end_lsn] = self.lsns();
        Prepared {
            prepare_lsn,
            end_lsn,
            prepare_time: self.time[0],
            xid: self.oid[0],
            gid: &self.name,
        }
    }

    fn any(&self) -> AnyMessage<'_> {
        let ([first, second], [time, later]) = (self.lsns(), self.time);
        let ([xid, subxid], gid) = (self.oid, self.name.as_str());
        if self.in_stream {
            return match self.kind % 4 {
                0 => AnyMessage::StreamStop,
                1 => AnyMessage::Plain(Message::Origin { commit_lsn: first, name: gid }),
                _ => AnyMessage::Streamed { xid, message: self.change() },
            };
        }
        match self.kind % 12 {
            0 => AnyMessage::StreamStart { xid, first: self.flags[0] },
            1 => AnyMessage::StreamCommit {
                xid,
                commit_lsn: first,
                end_lsn: second,
                commit_time: time,
            },
            2 => AnyMessage::StreamAbort {
                xid,
                subxid,
                aborted: self.flags[0].then_some((first, time)),
            },
            3 => AnyMessage::BeginPrepare(self.prepared()),
            4 => AnyMessage::Prepare(self.prepared()),
            5 => AnyMessage::StreamPrepare(self.prepared()),
            6 => AnyMessage::CommitPrepared {
                commit_lsn: first,
                end_lsn: second,
                commit_time: time,
                xid,
                gid,
            },
            7 => AnyMessage::RollbackPrepared {
                prepare_end_lsn: first,
                rollback_end_lsn: second,
                prepare_time: time,
                rollback_time: later,
                xid,
                gid,
            },
            _ => AnyMessage::Plain(self.plain()),
        }
    }

    fn encoded(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode::any(&self.any(), &mut out).unwrap();
        out
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn every_message_decodes_back(parts in parts()) {
        let bytes = parts.encoded();
        prop_assert_eq!(AnyMessage::decode(&bytes, parts.in_stream), Ok(parts.any()));
    }

    #[test]
    fn protocol_1_reads_its_own_messages_and_refuses_the_later_ones(parts in parts()) {
        let parts = Parts { in_stream: false, ..parts };
        let bytes = parts.encoded();
        match parts.any() {
            AnyMessage::Plain(plain) => prop_assert_eq!(Message::decode(&bytes), Ok(plain)),
            _ => {
                let refused = matches!(Message::decode(&bytes), Err(Error::Tag { offset: 0, .. }));
                prop_assert!(refused);
            }
        }
    }

    #[test]
    fn every_value_of_a_row_reads_back(cells in cells()) {
        let mut out = Vec::new();
        encode::values(&values(&cells), &mut out).unwrap();
        let row = Tuple::decode(&out).unwrap();
        prop_assert_eq!(row.columns(), cells.len());
        prop_assert_eq!(row.values().size_hint(), (cells.len(), Some(cells.len())));
        prop_assert_eq!(row.into_iter().collect::<Vec<_>>(), values(&cells));
    }

    #[test]
    fn no_part_of_a_message_is_a_message(parts in parts()) {
        let bytes = parts.encoded();
        for end in 0..bytes.len() {
            // The last fields of this one are only there from version 4 on.
            if bytes[0] == b'A' && end == 9 {
                continue;
            }
            let cut = AnyMessage::decode(&bytes[..end], parts.in_stream);
            prop_assert!(cut.is_err(), "cut at {}: {:?}", end, cut);
        }
    }

    #[test]
    fn a_byte_too_many_is_an_error(parts in parts()) {
        let mut bytes = parts.encoded();
        let end = bytes.len();
        bytes.push(0);
        let found = AnyMessage::decode(&bytes, parts.in_stream);
        // After an abort, a version 4 reader expects sixteen bytes where one is.
        let expected = if bytes[0] == b'A' && end == 9 {
            Error::Truncated { offset: 9, wanted: 8, left: 1 }
        } else {
            Error::Trailing { offset: end, left: 1 }
        };
        prop_assert_eq!(found, Err(expected));
    }

    #[test]
    fn changed_bytes_never_panic(parts in parts(), changes in vec(any::<(prop::sample::Index, u8)>(), 1..4)) {
        let mut bytes = parts.encoded();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        read_whole(&bytes);
    }

    #[test]
    fn any_bytes_never_panic(bytes: Vec<u8>, tag in proptest::sample::select(TAGS)) {
        read_whole(&bytes);
        read_whole(&[&[tag], &bytes[..]].concat());
    }

    #[test]
    fn a_frame_decodes_back(start: u64, end: u64, clock: i64, reply_requested: bool, data: Vec<u8>) {
        let (start, end) = (start.into(), end.into());
        for frame in [
            Frame::XLogData { start, end, clock, data: &data },
            Frame::Keepalive { end, clock, reply_requested },
        ] {
            let mut out = Vec::new();
            encode::frame(&frame, &mut out);
            prop_assert_eq!(Frame::decode(&out), Ok(frame));
        }
    }
}

/// Reads in every way there is, down to the values.
fn read_whole(bytes: &[u8]) {
    let _ = Message::decode(bytes);
    let _ = Tuple::decode(bytes).map(|row| row.values().count());
    for in_stream in [false, true] {
        let read = AnyMessage::decode(bytes, in_stream);
        if let Ok(
            AnyMessage::Plain(Message::Insert { new, .. })
            | AnyMessage::Streamed { message: Message::Insert { new, .. }, .. },
        ) = read
        {
            assert_eq!(new.values().count(), new.columns());
        }
    }
}
