//! Bytes that no server sends, and names that none has: each is a typed error.

use crate::{AnyMessage, Error, Message, Value, encode};

#[test]
fn a_negative_length_is_named_with_its_place() {
    let expected = Err(Error::Length { offset: 9, found: -1 });
    assert_eq!(Message::decode(b"I\0\0\0\x01N\0\x01t\xff\xff\xff\xff"), expected);
    let columns = Message::decode(b"I\0\0\0\x01N\xff\xff");
    assert_eq!(columns, Err(Error::Length { offset: 6, found: -1 }));
}

#[test]
fn a_huge_length_is_an_error_and_reserves_nothing() {
    let value = Message::decode(b"I\0\0\0\x01N\0\x01t\x7f\xff\xff\xffx");
    assert_eq!(value, Err(Error::Truncated { offset: 13, wanted: 0x7fff_ffff, left: 1 }));
    // Had the count been believed, this would ask for eight gigabytes.
    let tables = Message::decode(b"T\x7f\xff\xff\xff\0\0\0\0\x01");
    assert_eq!(tables, Err(Error::Truncated { offset: 10, wanted: 4, left: 0 }));
    let columns = Message::decode(b"R\0\0\0\x01s\0t\0d\x7f\xff");
    assert!(matches!(columns, Err(Error::Truncated { offset: 12, .. })));
}

#[test]
fn a_name_that_is_not_utf8_ends_nothing_and_equals_no_other() {
    let described = Message::decode(b"R\0\0\0\x01s\0t\xff\0d\0\0");
    let Ok(Message::Relation(table)) = described else { panic!("{described:?}") };
    assert_eq!(table.name, "t\u{fffd}");
    let message = Message::decode(b"M\x01\0\0\0\0\0\0\0\x09p\xffq\0\0\0\0\x01c");
    let Ok(Message::Message { prefix, content, .. }) = message else { panic!("{message:?}") };
    assert_eq!((prefix, content), ("p", &b"c"[..]));
}

#[test]
fn what_no_protocol_can_carry_is_not_encoded() {
    let origin = Message::Origin { commit_lsn: 1.into(), name: "a\0b" };
    let row = vec![Value::Null; 40_000];
    let mut out = Vec::new();
    assert_eq!(encode::message(&origin, &mut out), Err(encode::Unencodable));
    assert_eq!(encode::values(&row, &mut out), Err(encode::Unencodable));
}

/// Byte by byte as the documentation lists it, since no server before 16 sends it.
#[test]
fn an_abort_of_version_4_reads_its_position_and_time() {
    let mut bytes = b"A\0\0\0\x07\0\0\0\x08".to_vec();
    bytes.extend(b"\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\x09");
    let abort =
        AnyMessage::StreamAbort { xid: 7, subxid: 8, aborted: Some(("1/2".parse().unwrap(), 9)) };
    assert_eq!(AnyMessage::decode(&bytes, false), Ok(abort));
}

#[test]
fn a_streamed_block_holds_no_begin_and_no_second_start() {
    for tag in b"BCScAbPpKr" {
        let bytes = [*tag, 0, 0, 0, 1];
        let inside = AnyMessage::decode(&bytes, true);
        assert!(matches!(inside, Err(Error::Tag { offset: 0, .. })));
    }
    assert!(AnyMessage::decode(b"E", false).is_err());
}
