//! A row as the server sent it, for a dead letter: a JSON object of column and text.
//!
//! Knows: names and values. Must not know: types, or whether a text is UTF-8. Where every text is
//! UTF-8, the result is JSON; where one is not, its bytes stand in the string as they are.

use pgoutput::{Column, Tuple, Value};

/// Appends the values of the columns for which `sent` is true.
pub(crate) fn write_raw_row(
    out: &mut Vec<u8>,
    columns: &[Column],
    row: Tuple<'_>,
    sent: impl Fn(&Column) -> bool,
) {
    out.push(b'{');
    let mut separator: &[u8] = b"";
    for (column, value) in columns.iter().zip(row.values()) {
        let text = match value {
            Value::Text(bytes) | Value::Binary(bytes) => Some(bytes),
            Value::Null => None,
            Value::UnchangedToast => continue,
        };
        if !sent(column) {
            continue;
        }
        out.extend(separator);
        separator = b",";
        write_string(out, column.name.as_bytes());
        out.push(b':');
        match text {
            Some(text) => write_string(out, text),
            None => out.extend(b"null"),
        }
    }
    out.push(b'}');
}

/// Bytes as a JSON string; those above 0x7f as they are.
fn write_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', *byte]),
            0..0x20 => out.extend(format!("\\u{byte:04x}").into_bytes()),
            byte => out.push(*byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::tests::{relation, tuple};
    use pgoutput::ReplicaIdentity;

    #[test]
    fn a_row_is_json_and_bytes_that_are_no_text_are_kept() {
        let table =
            relation("t", ReplicaIdentity::Default, &[("a", true), ("b", false), ("c", false)]);
        let mut row = tuple(&[Some("x\"\\\n"), None, Some("é")]);
        let mut out = Vec::new();
        write_raw_row(&mut out, &table.columns, Tuple::decode(&row).unwrap(), |_| true);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"a\":\"x\\\"\\\\\\u000a\",\"b\":null,\"c\":\"é\"}"
        );
        *row.last_mut().unwrap() = 0xff;
        let mut out = Vec::new();
        write_raw_row(&mut out, &table.columns, Tuple::decode(&row).unwrap(), |c| c.name == "c");
        assert_eq!(out, b"{\"c\":\"\xc3\xff\"}");
    }
}
