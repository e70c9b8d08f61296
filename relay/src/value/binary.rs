//! Values in their types' binary form, as pgoutput sends them under its option `binary`.
//!
//! A value that holds no others becomes the text that the server would have sent, and that text
//! the JSON; so both forms give the same. Forms: the `*_send` functions of Postgres's
//! `src/backend/utils/adt`.

use super::calendar;
use super::{Numbers, ValueError, scalar, write};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use envelope::write_text;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use tokio_postgres::types::{Field, Kind, Type};
use uuid::Uuid;

/// Takes numbers and slices off the front of a value.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn i16(&mut self) -> Option<i16> {
        self.take().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.take().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_be_bytes)
    }

    fn f64(&mut self) -> Option<f64> {
        self.take().map(f64::from_be_bytes)
    }

    /// A length and so many bytes; `Some(None)` for null.
    fn element(&mut self) -> Option<Option<&'a [u8]>> {
        match self.i32()? {
            -1 => Some(None),
            length => self.bytes(usize::try_from(length).ok()?).map(Some),
        }
    }
}

/// Appends a value; nothing where it cannot be read.
pub(super) fn write_binary(
    out: &mut String,
    bytes: &[u8],
    of: &Type,
    numbers: Numbers,
    deeper: u8,
) -> Result<(), ValueError> {
    let before = out.len();
    let written = deeper.checked_sub(1).and_then(|deeper| value(out, bytes, of, numbers, deeper));
    written.ok_or_else(|| {
        out.truncate(before);
        ValueError::Binary
    })
}

fn value(out: &mut String, bytes: &[u8], of: &Type, numbers: Numbers, deeper: u8) -> Option<()> {
    match of.kind() {
        Kind::Array(element) => return array(out, bytes, element, numbers, deeper),
        Kind::Composite(fields) => return composite(out, bytes, fields, numbers, deeper),
        Kind::Domain(base) => return write_binary(out, bytes, base, numbers, deeper).ok(),
        _ => {}
    }
    match *of {
        Type::BYTEA => {
            out.push('"');
            STANDARD.encode_string(bytes, out);
            out.push('"');
        }
        _ if of.name() == "hstore" => hstore(out, bytes)?,
        _ => write(out, &text(bytes, of, deeper)?, of, numbers, deeper),
    }
    Some(())
}

fn array(
    out: &mut String,
    bytes: &[u8],
    element: &Type,
    numbers: Numbers,
    deeper: u8,
) -> Option<()> {
    let mut reader = Reader(bytes);
    let (dimensions, _has_null, _element) = (reader.i32()?, reader.i32()?, reader.i32()?);
    // Postgres's own limit (MAXDIM).
    let dimensions = usize::try_from(dimensions).ok().filter(|n| *n <= 6)?;
    let mut lengths = Vec::with_capacity(dimensions);
    for _ in 0..dimensions {
        lengths.push(usize::try_from(reader.i32()?).ok()?);
        let _lower_bound = reader.i32()?;
    }
    if lengths.is_empty() {
        out.push_str("[]");
        return reader.0.is_empty().then_some(());
    }
    nested(out, &mut reader, &lengths, &mut |out, bytes| {
        write_binary(out, bytes, element, numbers, deeper).ok()
    })?;
    reader.0.is_empty().then_some(())
}

fn nested(
    out: &mut String,
    reader: &mut Reader<'_>,
    lengths: &[usize],
    element: &mut dyn FnMut(&mut String, &[u8]) -> Option<()>,
) -> Option<()> {
    let (length, inner) = lengths.split_first()?;
    out.push('[');
    for at in 0..*length {
        if at > 0 {
            out.push(',');
        }
        if inner.is_empty() {
            match reader.element()? {
                None => out.push_str("null"),
                Some(bytes) => element(out, bytes)?,
            }
        } else {
            nested(out, reader, inner, element)?;
        }
    }
    out.push(']');
    Some(())
}

fn composite(
    out: &mut String,
    bytes: &[u8],
    fields: &[Field],
    numbers: Numbers,
    deeper: u8,
) -> Option<()> {
    let mut reader = Reader(bytes);
    if usize::try_from(reader.i32()?) != Ok(fields.len()) {
        return None;
    }
    out.push('{');
    for (at, field) in fields.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write_text(out, field.name());
        out.push(':');
        let _type = reader.i32()?;
        match reader.element()? {
            None => out.push_str("null"),
            Some(bytes) => write_binary(out, bytes, field.type_(), numbers, deeper).ok()?,
        }
    }
    out.push('}');
    reader.0.is_empty().then_some(())
}

fn hstore(out: &mut String, bytes: &[u8]) -> Option<()> {
    let mut reader = Reader(bytes);
    let pairs = reader.i32()?;
    out.push('{');
    for at in 0..pairs {
        if at > 0 {
            out.push(',');
        }
        let name = std::str::from_utf8(reader.element()??).ok()?;
        let value = reader.element()?.map(std::str::from_utf8).transpose().ok()?;
        scalar::member(out, name, value);
    }
    out.push('}');
    reader.0.is_empty().then_some(())
}

/// The text that the server would have sent; `None` for a type whose binary form is not known
/// here, such as `tsvector`, and for `money`, whose text is up to the server's locale.
fn text(bytes: &[u8], of: &Type, deeper: u8) -> Option<String> {
    let mut reader = Reader(bytes);
    let text = match of.kind() {
        Kind::Range(element) => return range(bytes, element, deeper),
        Kind::Multirange(element) => {
            let ranges = reader.i32()?;
            let texts = (0..ranges).map(|_| range(reader.element()??, element, deeper));
            let texts = texts.collect::<Option<Vec<_>>>()?;
            return reader.0.is_empty().then(|| format!("{{{}}}", texts.join(",")));
        }
        Kind::Enum(_) => return utf8(bytes),
        _ => match *of {
            Type::TEXT
            | Type::VARCHAR
            | Type::BPCHAR
            | Type::NAME
            | Type::CHAR
            | Type::UNKNOWN
            | Type::JSON
            | Type::XML => return utf8(bytes),
            // A version, then the text.
            Type::JSONB | Type::JSONPATH => {
                return utf8(bytes.strip_prefix(&[1])?);
            }
            Type::BOOL => (if reader.take::<1>()? == [0] { "f" } else { "t" }).to_owned(),
            Type::INT2 => reader.i16()?.to_string(),
            Type::INT4 => reader.i32()?.to_string(),
            Type::INT8 => reader.i64()?.to_string(),
            Type::OID | Type::XID | Type::CID => u32::from_be_bytes(reader.take()?).to_string(),
            Type::XID8 => u64::from_be_bytes(reader.take()?).to_string(),
            Type::FLOAT4 => float4(f32::from_be_bytes(reader.take()?)),
            Type::FLOAT8 => float8(reader.f64()?),
            Type::NUMERIC => numeric(&mut reader)?,
            Type::UUID => Uuid::from_bytes(reader.take()?).hyphenated().to_string(),
            Type::DATE => calendar::date(reader.i32()?),
            Type::TIME => calendar::time(reader.i64()?)?,
            Type::TIMETZ => calendar::time_with_zone(reader.i64()?, reader.i32()?)?,
            Type::TIMESTAMP => calendar::timestamp(reader.i64()?, "")?,
            Type::TIMESTAMPTZ => calendar::timestamp(reader.i64()?, "+00")?,
            Type::INTERVAL => calendar::interval(reader.i64()?, reader.i32()?, reader.i32()?),
            Type::BIT | Type::VARBIT => bits(&mut reader)?,
            Type::INET | Type::CIDR => network(&mut reader)?,
            Type::MACADDR => colons(&reader.take::<6>()?),
            Type::MACADDR8 => colons(&reader.take::<8>()?),
            Type::PG_LSN => {
                let lsn = u64::from_be_bytes(reader.take()?);
                format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff)
            }
            Type::POINT => points(&mut reader, 1, "", "")?,
            Type::LSEG => points(&mut reader, 2, "[", "]")?,
            Type::BOX => points(&mut reader, 2, "", "")?,
            Type::PATH => {
                let closed = reader.take::<1>()? != [0];
                let (open, close) = if closed { ("(", ")") } else { ("[", "]") };
                let count = reader.i32()?;
                points(&mut reader, count, open, close)?
            }
            Type::POLYGON => {
                let count = reader.i32()?;
                points(&mut reader, count, "(", ")")?
            }
            Type::CIRCLE => {
                let centre = points(&mut reader, 1, "", "")?;
                format!("<{centre},{}>", float8(reader.f64()?))
            }
            Type::LINE => {
                let (a, b, c) = (reader.f64()?, reader.f64()?, reader.f64()?);
                format!("{{{},{},{}}}", float8(a), float8(b), float8(c))
            }
            _ if of.name() == "citext" => return utf8(bytes),
            _ => return None,
        },
    };
    reader.0.is_empty().then_some(text)
}

fn utf8(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// As `range_out` writes it; its flags are those of `rangetypes.h`.
fn range(bytes: &[u8], element: &Type, deeper: u8) -> Option<String> {
    const EMPTY: u8 = 0x01;
    const LOWER_INCLUSIVE: u8 = 0x02;
    const UPPER_INCLUSIVE: u8 = 0x04;
    const LOWER_INFINITE: u8 = 0x08;
    const UPPER_INFINITE: u8 = 0x10;
    let deeper = deeper.checked_sub(1)?;
    let mut reader = Reader(bytes);
    let [flags] = reader.take()?;
    if flags & EMPTY != 0 {
        return reader.0.is_empty().then(|| "empty".to_owned());
    }
    let mut bound = |infinite: u8| -> Option<String> {
        if flags & infinite != 0 {
            return Some(String::new());
        }
        let text = text(reader.element()??, element, deeper)?;
        let special = |c: char| c.is_ascii_whitespace() || "\"\\()[],".contains(c);
        Some(if text.is_empty() || text.contains(special) {
            format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\"\""))
        } else {
            text
        })
    };
    let (lower, upper) = (bound(LOWER_INFINITE)?, bound(UPPER_INFINITE)?);
    let open = if flags & LOWER_INCLUSIVE != 0 { '[' } else { '(' };
    let close = if flags & UPPER_INCLUSIVE != 0 { ']' } else { ')' };
    reader.0.is_empty().then(|| format!("{open}{lower},{upper}{close}"))
}

fn points(reader: &mut Reader<'_>, count: i32, open: &str, close: &str) -> Option<String> {
    let mut text = open.to_owned();
    for at in 0..count {
        let comma = if at > 0 { "," } else { "" };
        let (x, y) = (reader.f64()?, reader.f64()?);
        let _ = write!(text, "{comma}({},{})", float8(x), float8(y));
    }
    text.push_str(close);
    Some(text)
}

fn float4(value: f32) -> String {
    if value.is_finite() { notation(&format!("{value:e}"), 6) } else { not_finite(value.into()) }
}

fn float8(value: f64) -> String {
    if value.is_finite() { notation(&format!("{value:e}"), 15) } else { not_finite(value) }
}

fn not_finite(value: f64) -> String {
    if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
    .to_owned()
}

/// Rust's shortest digits, `-1.5e-7`, in the notation of Postgres's shortest: an exponent of two
/// digits at least where it is below -4 or from `most` on (`ryu/d2s.c`, `ryu/f2s.c`).
fn notation(shortest: &str, most: i32) -> String {
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if exponent < -4 || exponent >= most {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let (sign, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", mantissa),
    };
    let digits: String = digits.chars().filter(char::is_ascii_digit).collect();
    let places = usize::try_from(exponent.unsigned_abs()).unwrap_or(0);
    if exponent < 0 {
        return format!("{sign}0.{}{digits}", "0".repeat(places.saturating_sub(1)));
    }
    match digits.split_at_checked(places + 1) {
        Some((whole, "")) => format!("{sign}{whole}"),
        Some((whole, fraction)) => format!("{sign}{whole}.{fraction}"),
        None => format!("{sign}{digits}{}", "0".repeat(places + 1 - digits.len())),
    }
}

/// Digits to the base of 10,000, the weight of the first, and how many decimals are shown.
fn numeric(reader: &mut Reader<'_>) -> Option<String> {
    let (count, weight) = (reader.i16()?, i32::from(reader.i16()?));
    let (sign, decimals) = (reader.take::<2>()?, reader.i16()?);
    let sign = match u16::from_be_bytes(sign) {
        0x0000 => "",
        0x4000 => "-",
        0xc000 => return Some("NaN".to_owned()),
        0xd000 => return Some("Infinity".to_owned()),
        0xf000 => return Some("-Infinity".to_owned()),
        _ => return None,
    };
    let mut digits = Vec::new();
    for _ in 0..count {
        digits.push(reader.i16().filter(|digit| (0..10_000).contains(digit))?);
    }
    let digit = |place: i32| -> i16 {
        let at = usize::try_from(weight - place).ok();
        at.and_then(|at| digits.get(at).copied()).unwrap_or(0)
    };
    let mut text = sign.to_owned();
    let _ = write!(text, "{}", digit(weight.max(0)));
    for place in (0..weight.max(0)).rev() {
        let _ = write!(text, "{:04}", digit(place));
    }
    let decimals = usize::try_from(decimals).ok()?;
    if decimals > 0 {
        let mut fraction = String::new();
        for place in 1..=i32::try_from(decimals.div_ceil(4)).ok()? {
            let _ = write!(fraction, "{:04}", digit(-place));
        }
        let _ = write!(text, ".{}", fraction.get(..decimals)?);
    }
    Some(text)
}

fn bits(reader: &mut Reader<'_>) -> Option<String> {
    let count = usize::try_from(reader.i32()?).ok()?;
    let bytes = reader.bytes(count.div_ceil(8))?;
    let bit = |at: usize| bytes.get(at / 8).map(|byte| byte >> (7 - at % 8) & 1);
    (0..count).map(|at| bit(at).map(|bit| if bit == 1 { '1' } else { '0' })).collect()
}

/// The family (2 or 3), the bits of the mask, whether it is a network, and the address.
fn network(reader: &mut Reader<'_>) -> Option<String> {
    let [family, mask, is_network, length] = reader.take()?;
    let (address, all) = match (family, length) {
        (2, 4) => (Ipv4Addr::from(reader.take::<4>()?).to_string(), 32),
        (3, 16) => (Ipv6Addr::from(reader.take::<16>()?).to_string(), 128),
        _ => return None,
    };
    Some(if is_network == 1 || mask != all { format!("{address}/{mask}") } else { address })
}

fn colons(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn floats_are_written_as_postgres_writes_them() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (100.0, "100"),
            (123_456.789, "123456.789"),
            (1e14, "100000000000000"),
            (1e15, "1e+15"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(float8(value), text);
        }
        assert_eq!(float4(1.1), "1.1");
        assert_eq!(float4(1e6), "1e+06");
        assert_eq!(float4(100_000.0), "100000");
    }

    proptest! {
        /// Whatever the bytes, there is JSON or an error, and nothing in between.
        #[test]
        fn any_bytes_are_json_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..40), of in 0_usize..20) {
            let fields = vec![Field::new("n".to_owned(), Type::INT4), Field::new("t".to_owned(), Type::TEXT)];
            let pair = Type::new("pair".to_owned(), 1, Kind::Composite(fields), "public".to_owned());
            let hstore = Type::new("hstore".to_owned(), 2, Kind::Simple, "public".to_owned());
            let of = [
                Type::BOOL, Type::INT8, Type::FLOAT8, Type::NUMERIC, Type::TIMESTAMPTZ, Type::DATE, Type::TIMETZ,
                Type::INTERVAL, Type::INET, Type::VARBIT, Type::PATH, Type::JSONB, Type::INT4_ARRAY, Type::TEXT_ARRAY,
                Type::TSTZ_RANGE, Type::INT4MULTI_RANGE, Type::CIRCLE, Type::BYTEA, pair, hstore,
            ][of].clone();
            let mut out = String::from(" ");
            match write_binary(&mut out, &bytes, &of, Numbers::default(), 32) {
                Ok(()) => prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&out).is_ok(), "{out}"),
                Err(_) => prop_assert_eq!(out, " "),
            }
        }
    }
}
