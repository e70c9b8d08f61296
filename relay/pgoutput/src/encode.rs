//! The other direction: what a server would send, for tests, fuzzing and benches.
//!
//! Knows: the same formats as the decoder, written from the documentation and
//! not from the decoder's code. Must not know: anything a reader needs at work.

use crate::relation::BUILT_IN;
use crate::{AnyMessage, Frame, Message, Prepared, Relation, ReplicaIdentity, Tuple, Value};

/// A name with a zero byte, or more bytes or columns than a length can say.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected names without a zero byte and lengths the protocol can carry")]
pub struct Unencodable;

type Done = Result<(), Unencodable>;

/// Writes the payload of one CopyData message.
pub fn frame(frame: &Frame<'_>, out: &mut Vec<u8>) {
    match *frame {
        Frame::XLogData { start, end, clock, data } => {
            out.push(b'w');
            numbers(out, &[start.into(), end.into()]);
            out.extend(clock.to_be_bytes());
            out.extend(data);
        }
        Frame::Keepalive { end, clock, reply_requested } => {
            out.push(b'k');
            numbers(out, &[end.into()]);
            out.extend(clock.to_be_bytes());
            out.push(u8::from(reply_requested));
        }
    }
}

/// Writes a row of these values: what [`Tuple::decode`] reads.
///
/// # Errors
/// When a value is too long or there are too many.
pub fn values(values: &[Value<'_>], out: &mut Vec<u8>) -> Done {
    count(out, values.len())?;
    for value in values {
        match value {
            Value::Null => out.push(b'n'),
            Value::UnchangedToast => out.push(b'u'),
            Value::Text(bytes) => {
                out.push(b't');
                sized(out, bytes)?;
            }
            Value::Binary(bytes) => {
                out.push(b'b');
                sized(out, bytes)?;
            }
        }
    }
    Ok(())
}

/// Writes a message of protocol version 1: what [`Message::decode`] reads.
///
/// # Errors
/// When a name or a length cannot be written.
pub fn message(message: &Message<'_>, out: &mut Vec<u8>) -> Done {
    out.push(tag(message));
    body(message, out)
}

/// Writes a message of any version: what [`AnyMessage::decode`] reads.
///
/// # Errors
/// When a name or a length cannot be written.
pub fn any(any: &AnyMessage<'_>, out: &mut Vec<u8>) -> Done {
    match any {
        AnyMessage::Plain(plain) => message(plain, out)?,
        AnyMessage::Streamed { xid, message } => {
            out.push(tag(message));
            out.extend(xid.to_be_bytes());
            body(message, out)?;
        }
        AnyMessage::StreamStart { xid, first } => {
            out.push(b'S');
            out.extend(xid.to_be_bytes());
            out.push(u8::from(*first));
        }
        AnyMessage::StreamStop => out.push(b'E'),
        AnyMessage::StreamCommit { xid, commit_lsn, end_lsn, commit_time } => {
            out.push(b'c');
            out.extend(xid.to_be_bytes());
            out.push(0);
            numbers(out, &[(*commit_lsn).into(), (*end_lsn).into()]);
            out.extend(commit_time.to_be_bytes());
        }
        AnyMessage::StreamAbort { xid, subxid, aborted } => {
            out.push(b'A');
            out.extend(xid.to_be_bytes());
            out.extend(subxid.to_be_bytes());
            if let Some((lsn, time)) = aborted {
                numbers(out, &[(*lsn).into()]);
                out.extend(time.to_be_bytes());
            }
        }
        AnyMessage::BeginPrepare(named) => prepared(b"b", named, out)?,
        AnyMessage::Prepare(named) => prepared(b"P\0", named, out)?,
        AnyMessage::StreamPrepare(named) => prepared(b"p\0", named, out)?,
        AnyMessage::CommitPrepared { commit_lsn, end_lsn, commit_time, xid, gid } => {
            out.extend(b"K\0");
            numbers(out, &[(*commit_lsn).into(), (*end_lsn).into()]);
            out.extend(commit_time.to_be_bytes());
            out.extend(xid.to_be_bytes());
            text(out, gid)?;
        }
        AnyMessage::RollbackPrepared {
            prepare_end_lsn,
            rollback_end_lsn,
            prepare_time,
            rollback_time,
            xid,
            gid,
        } => {
            out.extend(b"r\0");
            numbers(out, &[(*prepare_end_lsn).into(), (*rollback_end_lsn).into()]);
            out.extend(prepare_time.to_be_bytes());
            out.extend(rollback_time.to_be_bytes());
            out.extend(xid.to_be_bytes());
            text(out, gid)?;
        }
    }
    Ok(())
}

fn prepared(head: &[u8], named: &Prepared<'_>, out: &mut Vec<u8>) -> Done {
    out.extend(head);
    numbers(out, &[named.prepare_lsn.into(), named.end_lsn.into()]);
    out.extend(named.prepare_time.to_be_bytes());
    out.extend(named.xid.to_be_bytes());
    text(out, named.gid)
}

fn tag(message: &Message<'_>) -> u8 {
    match message {
        Message::Begin { .. } => b'B',
        Message::Commit { .. } => b'C',
        Message::Origin { .. } => b'O',
        Message::Relation(_) => b'R',
        Message::Type { .. } => b'Y',
        Message::Insert { .. } => b'I',
        Message::Update { .. } => b'U',
        Message::Delete { .. } => b'D',
        Message::Truncate { .. } => b'T',
        Message::Message { .. } => b'M',
    }
}

fn body(message: &Message<'_>, out: &mut Vec<u8>) -> Done {
    match message {
        Message::Begin { commit_lsn, commit_time, xid } => {
            numbers(out, &[(*commit_lsn).into()]);
            out.extend(commit_time.to_be_bytes());
            out.extend(xid.to_be_bytes());
        }
        Message::Commit { commit_lsn, end_lsn, commit_time } => {
            out.push(0);
            numbers(out, &[(*commit_lsn).into(), (*end_lsn).into()]);
            out.extend(commit_time.to_be_bytes());
        }
        Message::Origin { commit_lsn, name } => {
            numbers(out, &[(*commit_lsn).into()]);
            text(out, name)?;
        }
        Message::Relation(described) => relation(described, out)?,
        Message::Type { oid, schema, name } => {
            out.extend(oid.to_be_bytes());
            text(out, named(schema))?;
            text(out, name)?;
        }
        Message::Insert { relation, new } => {
            out.extend(relation.to_be_bytes());
            row(out, b'N', Some(new))?;
        }
        Message::Update { relation, key, old, new } => {
            out.extend(relation.to_be_bytes());
            row(out, b'K', key.as_ref())?;
            row(out, b'O', old.as_ref())?;
            row(out, b'N', Some(new))?;
        }
        Message::Delete { relation, key, old } => {
            out.extend(relation.to_be_bytes());
            row(out, b'K', key.as_ref())?;
            row(out, b'O', old.as_ref())?;
        }
        Message::Truncate { relations, cascade, restart_identity } => {
            let number = i32::try_from(relations.len()).map_err(|_| Unencodable)?;
            out.extend(number.to_be_bytes());
            out.push(u8::from(*cascade) | u8::from(*restart_identity) << 1);
            out.extend(relations.iter().flat_map(|oid| oid.to_be_bytes()));
        }
        Message::Message { transactional, lsn, prefix, content } => {
            out.push(u8::from(*transactional));
            numbers(out, &[(*lsn).into()]);
            text(out, prefix)?;
            sized(out, content)?;
        }
    }
    Ok(())
}

fn relation(relation: &Relation, out: &mut Vec<u8>) -> Done {
    out.extend(relation.oid.to_be_bytes());
    text(out, named(&relation.schema))?;
    text(out, &relation.name)?;
    out.push(match relation.identity {
        ReplicaIdentity::Default => b'd',
        ReplicaIdentity::Nothing => b'n',
        ReplicaIdentity::Full => b'f',
        ReplicaIdentity::Index => b'i',
    });
    count(out, relation.columns.len())?;
    for column in &relation.columns {
        out.push(u8::from(column.key));
        text(out, &column.name)?;
        out.extend(column.type_oid.to_be_bytes());
        out.extend(column.type_modifier.to_be_bytes());
    }
    Ok(())
}

fn named(schema: &str) -> &str {
    if schema == BUILT_IN { "" } else { schema }
}

fn row(out: &mut Vec<u8>, tag: u8, tuple: Option<&Tuple<'_>>) -> Done {
    let Some(tuple) = tuple else { return Ok(()) };
    out.push(tag);
    count(out, tuple.columns())?;
    out.extend(tuple.bytes());
    Ok(())
}

fn numbers(out: &mut Vec<u8>, numbers: &[u64]) {
    out.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
}

fn text(out: &mut Vec<u8>, text: &str) -> Done {
    if text.contains('\0') {
        return Err(Unencodable);
    }
    out.extend(text.as_bytes());
    out.push(0);
    Ok(())
}

fn count(out: &mut Vec<u8>, count: usize) -> Done {
    let count = i16::try_from(count).map_err(|_| Unencodable)?;
    out.extend(count.to_be_bytes());
    Ok(())
}

fn sized(out: &mut Vec<u8>, bytes: &[u8]) -> Done {
    let length = i32::try_from(bytes.len()).map_err(|_| Unencodable)?;
    out.extend(length.to_be_bytes());
    out.extend(bytes);
    Ok(())
}
