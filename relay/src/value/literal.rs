//! The texts of values that hold others: arrays, composites, hstore.
//!
//! Formats: <https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO>,
//! <https://www.postgresql.org/docs/current/rowtypes.html#ROWTYPES-IO-SYNTAX>,
//! <https://www.postgresql.org/docs/current/hstore.html>.

use super::scalar::member;
use std::borrow::Cow;
use tokio_postgres::types::{Field, Type};

/// Postgres's own limit of an array's dimensions (`MAXDIM`).
const DIMENSIONS: usize = 6;

/// Reads a text from its front.
struct Reader<'a> {
    text: &'a str,
}

impl<'a> Reader<'a> {
    fn next_is(&mut self, byte: u8) -> bool {
        let is = self.text.as_bytes().first() == Some(&byte);
        if is {
            self.text = &self.text[1..];
        }
        is
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.next_is(byte).then_some(())
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().first().copied()
    }

    /// What stands before the first of these bytes.
    fn until(&mut self, ends: [u8; 2]) -> Option<&'a str> {
        let at = self.text.bytes().position(|b| ends.contains(&b))?;
        let (before, rest) = self.text.split_at(at);
        self.text = rest;
        Some(before)
    }

    /// The text up to the closing quote, the opening one being behind; a backslash, or where
    /// `doubled` a quote before another, makes the next character plain.
    fn quoted(&mut self, doubled: bool) -> Option<Cow<'a, str>> {
        let mut whole = Cow::Borrowed("");
        loop {
            let at = self.text.bytes().position(|b| b == b'"' || b == b'\\')?;
            let (clean, rest) = self.text.split_at(at);
            if whole.is_empty() {
                whole = Cow::Borrowed(clean);
            } else {
                whole.to_mut().push_str(clean);
            }
            let escapes = rest.starts_with('\\') || (doubled && rest.starts_with("\"\""));
            self.text = &rest[1..];
            if !escapes {
                return Some(whole);
            }
            let escaped = self.text.chars().next()?;
            whole.to_mut().push(escaped);
            self.text = &self.text[escaped.len_utf8()..];
        }
    }
}

/// An array of any dimension as nested JSON arrays; bounds other than 1 are dropped.
pub(super) fn array(
    out: &mut String,
    text: &str,
    delimiter: u8,
    element: &mut dyn FnMut(&mut String, &str),
) -> Option<()> {
    // [0:2][1:1]={...}
    let text = if text.starts_with('[') { text.split_once('=')?.1 } else { text };
    let mut reader = Reader { text };
    elements(out, &mut reader, delimiter, DIMENSIONS, element)?;
    reader.text.is_empty().then_some(())
}

fn elements(
    out: &mut String,
    reader: &mut Reader<'_>,
    delimiter: u8,
    dimensions: usize,
    element: &mut dyn FnMut(&mut String, &str),
) -> Option<()> {
    let dimensions = dimensions.checked_sub(1)?;
    reader.expect(b'{')?;
    out.push('[');
    if !reader.next_is(b'}') {
        loop {
            match reader.peek()? {
                b'{' => elements(out, reader, delimiter, dimensions, element)?,
                b'"' => {
                    reader.expect(b'"')?;
                    element(out, &reader.quoted(false)?);
                }
                _ => match reader.until([delimiter, b'}'])? {
                    "" => return None,
                    null if null.eq_ignore_ascii_case("null") => out.push_str("null"),
                    text if text.contains(['{', '"', '\\']) => return None,
                    text => element(out, text),
                },
            }
            if reader.next_is(b'}') {
                break;
            }
            reader.expect(delimiter)?;
            out.push(',');
        }
    }
    out.push(']');
    Some(())
}

/// A composite as an object by the names of its attributes.
pub(super) fn composite(
    out: &mut String,
    text: &str,
    fields: &[Field],
    write: &mut dyn FnMut(&mut String, &str, &Type),
) -> Option<()> {
    let mut reader = Reader { text };
    reader.expect(b'(')?;
    out.push('{');
    for (at, field) in fields.iter().enumerate() {
        if at > 0 {
            reader.expect(b',')?;
            out.push(',');
        }
        envelope::write_text(out, field.name());
        out.push(':');
        if reader.next_is(b'"') {
            write(out, &reader.quoted(true)?, field.type_());
        } else {
            match reader.until([b',', b')'])? {
                "" => out.push_str("null"),
                text if text.contains(['(', '"', '\\']) => return None,
                text => write(out, text, field.type_()),
            }
        }
    }
    reader.expect(b')')?;
    out.push('}');
    reader.text.is_empty().then_some(())
}

/// `"a"=>"1", "b"=>NULL` as an object.
pub(super) fn hstore(out: &mut String, text: &str) -> Option<()> {
    let mut reader = Reader { text };
    out.push('{');
    while !reader.text.is_empty() {
        if out.as_bytes().last() != Some(&b'{') {
            reader.expect(b',')?;
            reader.expect(b' ')?;
            out.push(',');
        }
        reader.expect(b'"')?;
        let name = reader.quoted(false)?;
        reader.expect(b'=')?;
        reader.expect(b'>')?;
        if reader.next_is(b'"') {
            member(out, &name, Some(&reader.quoted(false)?));
        } else {
            reader.text = reader.text.strip_prefix("NULL")?;
            member(out, &name, None);
        }
    }
    out.push('}');
    Some(())
}
