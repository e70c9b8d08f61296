//! Any message encodes and decodes back; anything else is an error, never a panic.

use super::*;
use crate::{Column, ReplicaIdentity, Value};
use proptest::collection::vec;
use proptest::prelude::*;

type Cell = (u8, Vec<u8>);

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend(text.as_bytes());
    out.push(0);
}

fn put_tuple(out: &mut Vec<u8>, cells: &[Cell]) {
    out.extend((cells.len() as i16).to_be_bytes());
    for (kind, bytes) in cells {
        let tag = b"nutb"[usize::from(*kind % 4)];
        out.push(tag);
        if matches!(tag, b't' | b'b') {
            out.extend((bytes.len() as i32).to_be_bytes());
            out.extend(bytes);
        }
    }
}

fn expected(cells: &[Cell]) -> Vec<Value<'_>> {
    let value = |(kind, bytes): &'_ Cell| -> Value<'static> {
        let bytes: &'static [u8] = Box::leak(bytes.clone().into_boxed_slice());
        match kind % 4 {
            0 => Value::Null,
            1 => Value::UnchangedToast,
            2 => Value::Text(bytes),
            _ => Value::Binary(bytes),
        }
    };
    cells.iter().map(value).collect()
}

fn cells() -> impl Strategy<Value = Vec<Cell>> {
    vec((any::<u8>(), vec(any::<u8>(), 0..20)), 0..8)
}

fn relation_bytes(relation: &Relation) -> Vec<u8> {
    let mut out = vec![b'R'];
    out.extend(relation.oid.to_be_bytes());
    put_text(&mut out, &relation.schema);
    put_text(&mut out, &relation.name);
    out.push(b'f');
    out.extend((relation.columns.len() as i16).to_be_bytes());
    for column in &relation.columns {
        out.push(u8::from(column.key));
        put_text(&mut out, &column.name);
        out.extend(column.type_oid.to_be_bytes());
        out.extend(column.type_modifier.to_be_bytes());
    }
    out
}

/// A valid message of a random kind.
fn message_bytes() -> impl Strategy<Value = Vec<u8>> {
    (0_u8..9, cells(), cells(), "[a-z]{0,8}", any::<u64>()).prop_map(
        |(kind, a, b, name, number)| {
            let mut out = Vec::new();
            let lsn = number.to_be_bytes();
            match kind {
                0 => {
                    out.push(b'B');
                    out.extend(lsn);
                    out.extend(lsn);
                    out.extend([0; 4]);
                }
                1 => {
                    out.extend(b"C\0");
                    out.extend(lsn);
                    out.extend(lsn);
                    out.extend(lsn);
                }
                2 => {
                    out.push(b'O');
                    out.extend(lsn);
                    put_text(&mut out, &name);
                }
                3 => {
                    out.extend(b"Y\0\0\0\x01");
                    put_text(&mut out, &name);
                    put_text(&mut out, &name);
                }
                4 => {
                    out.extend(b"I\0\0\0\x01N");
                    put_tuple(&mut out, &a);
                }
                5 => {
                    out.extend(b"U\0\0\0\x01O");
                    put_tuple(&mut out, &a);
                    out.push(b'N');
                    put_tuple(&mut out, &b);
                }
                6 => {
                    out.extend(b"D\0\0\0\x01K");
                    put_tuple(&mut out, &a);
                }
                7 => {
                    out.extend(b"T\0\0\0\x02\x03\0\0\0\x01\0\0\0\x02");
                }
                _ => {
                    out.extend(b"M\x01");
                    out.extend(lsn);
                    put_text(&mut out, &name);
                    out.extend((name.len() as i32).to_be_bytes());
                    out.extend(name.as_bytes());
                }
            }
            out
        },
    )
}

proptest! {
    #[test]
    fn an_update_reads_back(old in cells(), new in cells(), relation: u32) {
        let mut out = vec![b'U'];
        out.extend(relation.to_be_bytes());
        out.push(b'K');
        put_tuple(&mut out, &old);
        out.push(b'N');
        put_tuple(&mut out, &new);
        let Ok(Message::Update { relation: oid, key: Some(key), old: None, new: row }) = Message::decode(&out) else {
            panic!("expected an update");
        };
        prop_assert_eq!(oid, relation);
        prop_assert_eq!(key.values().collect::<Vec<_>>(), expected(&old));
        prop_assert_eq!(row.values().collect::<Vec<_>>(), expected(&new));
        prop_assert_eq!(row.columns(), new.len());
    }

    #[test]
    fn a_relation_reads_back(oid: u32, schema in "[a-z]{1,9}", name in "\\PC{1,9}", columns in vec((any::<bool>(), "\\PC{1,9}", any::<u32>(), any::<i32>()), 0..9)) {
        let columns = columns.into_iter().map(|(key, name, type_oid, type_modifier)| Column { key, name, type_oid, type_modifier });
        let relation = Relation { oid, schema, name, identity: ReplicaIdentity::Full, columns: columns.collect() };
        let bytes = relation_bytes(&relation);
        prop_assert_eq!(Message::decode(&bytes), Ok(Message::Relation(relation)));
    }

    #[test]
    fn a_valid_message_reads_and_no_part_of_it_does(bytes in message_bytes()) {
        prop_assert!(Message::decode(&bytes).is_ok());
        for end in 0..bytes.len() {
            prop_assert!(Message::decode(&bytes[..end]).is_err(), "cut at {}", end);
        }
        let mut longer = bytes;
        longer.push(0);
        let trailing = matches!(Message::decode(&longer), Err(Error::Trailing { left: 1, .. }));
        prop_assert!(trailing);
    }

    #[test]
    fn any_bytes_never_panic(bytes: Vec<u8>, tag in proptest::sample::select(b"BCORYIUDTM".to_vec())) {
        let _ = Message::decode(&bytes);
        let tagged: Vec<u8> = std::iter::once(tag).chain(bytes).collect();
        let _ = Message::decode(&tagged);
    }

    #[test]
    fn a_message_with_a_changed_byte_never_panics(bytes in message_bytes(), at: usize, byte: u8) {
        let mut bytes = bytes;
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = Message::decode(&bytes);
    }
}

#[test]
fn a_negative_length_is_named() {
    let bytes = b"I\0\0\0\x01N\0\x01t\xff\xff\xff\xff";
    assert_eq!(
        Message::decode(bytes),
        Err(Error::Length {
            offset: 9,
            found: -1
        })
    );
}
