//! A column's value to JSON.
//!
//! Knows: Postgres's types and the text that each writes. Must not know: which
//! table a value stands in, where it goes. `docs/values.md` has the form of
//! every type, and the test that makes it compares them with what the server
//! itself makes of the same value.
//!
//! Text that does not have its type's form becomes a JSON string of that text:
//! nothing is lost, and nothing that can be read as another value is written.

mod binary;
mod calendar;
mod literal;
mod scalar;

use envelope::write_text;
use pgoutput::Value;
use serde::Deserialize;
use std::collections::HashMap;
use tokio_postgres::types::{Kind, Type as Known};

pub use tokio_postgres::types::Type;

/// How deep a value may nest: arrays in composites in arrays.
const DEEPEST: u8 = 32;

/// The types of columns, by oid: those that are built in, and those that were asked for.
#[derive(Debug, Default)]
pub struct Types {
    asked: HashMap<u32, Type>,
}

impl Types {
    /// Whether a type is known.
    #[must_use]
    pub fn contains(&self, oid: u32) -> bool {
        self.asked.contains_key(&oid) || Known::from_oid(oid).is_some()
    }

    /// Puts in what the catalogue says of a type.
    pub fn insert(&mut self, oid: u32, known: Type) {
        self.asked.insert(oid, known);
    }

    fn get(&self, oid: u32) -> Type {
        self.asked.get(&oid).cloned().or_else(|| Known::from_oid(oid)).unwrap_or(Known::UNKNOWN)
    }
}

/// How a `numeric` is written. Its digits are the server's, never a float's, either way.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Numeric {
    /// As a JSON string: no parser rounds it.
    #[default]
    String,
    /// As a JSON number: exact for parsers that keep digits, rounded by those that use floats.
    Number,
}

/// How numbers are written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Numbers {
    /// How a `numeric` is.
    pub numeric: Numeric,
}

/// A value that cannot be written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// It is not UTF-8, as it is where the database's encoding is SQL_ASCII.
    #[error(
        "expected UTF-8 text, found other bytes; the database's encoding must not be SQL_ASCII"
    )]
    Utf8,
    /// The server left it out.
    #[error("expected a value, found one that was not sent")]
    NotSent,
    /// Its binary form is not one that is known here.
    #[error("expected a value in its text form, or in a binary form that is known, found another")]
    Binary,
}

/// Appends a value as JSON.
///
/// # Errors
/// When it is not text of the session's encoding, or not there; `out` is then as it was.
pub fn write_json(
    out: &mut String,
    value: Value<'_>,
    type_oid: u32,
    types: &Types,
    numbers: Numbers,
) -> Result<(), ValueError> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Text(bytes) => {
            let text = std::str::from_utf8(bytes).map_err(|_| ValueError::Utf8)?;
            write(out, text, &types.get(type_oid), numbers, DEEPEST);
        }
        Value::UnchangedToast => return Err(ValueError::NotSent),
        Value::Binary(bytes) => {
            return binary::write_binary(out, bytes, &types.get(type_oid), numbers, DEEPEST);
        }
    }
    Ok(())
}

/// Appends a text of this type; as a JSON string where it has not the type's form.
fn write(out: &mut String, text: &str, of: &Type, numbers: Numbers, deeper: u8) {
    let before = out.len();
    if typed(out, text, of, numbers, deeper).is_none() {
        out.truncate(before);
        write_text(out, text);
    }
}

/// Appends a text in the form of its type; `None` where it has not that form.
fn typed(out: &mut String, text: &str, of: &Type, numbers: Numbers, deeper: u8) -> Option<()> {
    let deeper = deeper.checked_sub(1)?;
    match of.kind() {
        Kind::Array(element) => {
            // The one built-in type with a delimiter of its own.
            let delimiter = if *element == Known::BOX { b';' } else { b',' };
            return literal::array(out, text, delimiter, &mut |out, text| {
                write(out, text, element, numbers, deeper);
            });
        }
        Kind::Composite(fields) => {
            return literal::composite(out, text, fields, &mut |out, text, of| {
                write(out, text, of, numbers, deeper);
            });
        }
        Kind::Domain(base) => {
            write(out, text, base, numbers, deeper);
            return Some(());
        }
        Kind::Simple | Kind::Enum(_) | Kind::Pseudo | Kind::Range(_) | Kind::Multirange(_) | _ => {}
    }
    match *of {
        Known::BOOL => scalar::boolean(out, text),
        Known::INT2 | Known::INT4 | Known::INT8 | Known::FLOAT4 | Known::FLOAT8 => {
            scalar::number(out, text)
        }
        Known::NUMERIC => match numbers.numeric {
            Numeric::Number => scalar::number(out, text),
            Numeric::String => None,
        },
        Known::BYTEA => scalar::bytea(out, text),
        Known::TIMESTAMP => scalar::timestamp(out, text, false),
        Known::TIMESTAMPTZ => scalar::timestamp(out, text, true),
        Known::JSON | Known::JSONB => scalar::json(out, text),
        _ if of.name() == "hstore" => literal::hstore(out, text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio_postgres::types::Field;

    fn json(text: &str, of: &Type) -> String {
        let mut types = Types::default();
        types.insert(9_999_999, of.clone());
        let mut out = String::new();
        let value = Value::Text(text.as_bytes());
        write_json(&mut out, value, 9_999_999, &types, Numbers::default()).unwrap();
        out
    }

    fn composite() -> Type {
        let fields = vec![
            Field::new("n".to_owned(), Known::INT4),
            Field::new("t".to_owned(), Known::TEXT),
            Field::new("a".to_owned(), Known::INT4_ARRAY),
        ];
        Type::new("pair".to_owned(), 1, Kind::Composite(fields), "public".to_owned())
    }

    #[test]
    fn text_that_has_not_its_types_form_becomes_a_string() {
        for (text, of) in [
            ("NaN", Known::FLOAT8),
            ("-Infinity", Known::FLOAT4),
            ("1.", Known::INT4),
            ("01", Known::INT4),
            ("{1,2", Known::INT4_ARRAY),
            ("{1}}", Known::INT4_ARRAY),
            ("maybe", Known::BOOL),
            ("\\xabc", Known::BYTEA),
            ("{\"a\":}", Known::JSON),
            ("infinity", Known::TIMESTAMPTZ),
            ("(1,2)", composite()),
        ] {
            assert_eq!(json(text, &of), serde_json::to_string(text).unwrap(), "{text} as {of}");
        }
    }

    #[test]
    fn a_numeric_is_a_string_or_its_own_digits() {
        let mut out = String::new();
        let digits = "123456789012345678901234567890.12345678901234567890";
        let (value, types) = (Value::Text(digits.as_bytes()), Types::default());
        let oid = Known::NUMERIC.oid();
        write_json(&mut out, value, oid, &types, Numbers { numeric: Numeric::Number }).unwrap();
        assert_eq!(out, digits);
        assert_eq!(json(digits, &Known::NUMERIC), format!("\"{digits}\""));
    }

    #[test]
    fn what_was_not_sent_or_is_not_text_is_an_error_and_writes_nothing() {
        let (mut out, types) = (String::from("x"), Types::default());
        for (value, error) in [
            (Value::UnchangedToast, ValueError::NotSent),
            (Value::Binary(b"\xff"), ValueError::Binary),
            (Value::Text(b"\xff"), ValueError::Utf8),
        ] {
            let found = write_json(&mut out, value, 25, &types, Numbers::default());
            assert_eq!((found, out.as_str()), (Err(error), "x"));
        }
    }

    #[test]
    fn nesting_has_an_end() {
        let mut of = Known::INT4;
        let mut text = "1".to_owned();
        for n in 0..100 {
            of = Type::new(format!("d{n}"), n, Kind::Domain(of), "public".to_owned());
        }
        assert_eq!(json(&text, &of), "\"1\"");
        text = format!("{}{}", "{".repeat(100_000), "}".repeat(100_000));
        assert!(json(&text, &Known::INT4_ARRAY).starts_with('"'));
    }

    proptest! {
        /// Whatever the text and whatever the type, what is written is JSON.
        #[test]
        fn what_is_written_is_always_json(
            text in "[{}()\\[\\]\",;\\\\ a1.:=>NULtfxe+-]{0,24}|\\PC{0,12}|[\\x00-\\x1f\u{fffe}]{0,4}",
            of in 0_usize..12,
        ) {
            let hstore = Type::new("hstore".to_owned(), 2, Kind::Simple, "public".to_owned());
            let of = [
                Known::BOOL, Known::INT8, Known::NUMERIC, Known::BYTEA, Known::TIMESTAMPTZ, Known::JSON,
                Known::TEXT_ARRAY, Known::JSONB_ARRAY, Known::BOX_ARRAY, composite(), hstore, Known::TEXT,
            ][of].clone();
            let written = json(&text, &of);
            prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&written).is_ok(), "{written}");
        }

        #[test]
        fn a_text_survives_arrays_and_composites(texts in proptest::collection::vec(proptest::option::of("\\PC{0,8}|[\"\\\\{},() ]{0,4}"), 1..5)) {
            // As array_out and record_out quote.
            let quoted: Vec<String> = texts.iter().map(|t| match t {
                None => "NULL".to_owned(),
                Some(t) => format!("\"{}\"", t.replace('\\', "\\\\").replace('"', "\\\"")),
            }).collect();
            let written = json(&format!("{{{}}}", quoted.join(",")), &Known::TEXT_ARRAY);
            let read: Vec<Option<String>> = serde_json::from_str(&written).unwrap();
            prop_assert_eq!(&read, &texts);

            let text = texts[0].clone().unwrap_or_default();
            let record = format!("(7,\"{}\",\"{{1,2}}\")", text.replace('\\', "\\\\").replace('"', "\"\""));
            let read: serde_json::Value = serde_json::from_str(&json(&record, &composite())).unwrap();
            prop_assert_eq!(read, serde_json::json!({"n": 7, "t": text, "a": [1, 2]}));
        }
    }
}
