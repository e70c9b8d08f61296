//! Values that hold no others. Each returns `None` where the text has not the type's form.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use envelope::write_text;
use serde::de::IgnoredAny;

pub(super) fn boolean(out: &mut String, text: &str) -> Option<()> {
    out.push_str(match text {
        "t" | "true" => "true",
        "f" | "false" => "false",
        _ => return None,
    });
    Some(())
}

/// Digits that JSON takes as a number, as they are: `NaN` and the infinities are none.
pub(super) fn number(out: &mut String, text: &str) -> Option<()> {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let legal = digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|e| digits(e.strip_prefix(['+', '-']).unwrap_or(e)));
    legal.then(|| out.push_str(text))
}

/// `\x` and hexadecimal digits (the session asks for `bytea_output = hex`) as base64.
pub(super) fn bytea(out: &mut String, text: &str) -> Option<()> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    let nibble = |b: u8| char::from(b).to_digit(16).and_then(|n| u8::try_from(n).ok());
    if digits.len() % 2 != 0 {
        return None;
    }
    let bytes = digits.chunks_exact(2).map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?));
    let bytes = bytes.collect::<Option<Vec<u8>>>()?;
    out.push('"');
    STANDARD.encode_string(bytes, out);
    out.push('"');
    Some(())
}

/// `2026-01-15 10:30:00.5`, with `+00` behind it where it has a zone (the session's is UTC), as
/// RFC 3339. A year before Christ keeps its ` BC`, as `to_jsonb` has it; infinities are words.
pub(super) fn timestamp(out: &mut String, text: &str, zoned: bool) -> Option<()> {
    let (date, time) = text.split_once(' ')?;
    let (time, era) = match time.strip_suffix(" BC") {
        Some(time) => (time, " BC"),
        None => (time, ""),
    };
    let time = if zoned { time.strip_suffix("+00")? } else { time };
    out.push('"');
    // Digits and separators alone: nothing that JSON would have escaped.
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b"-:.".contains(&b));
    if !plain(date) || !plain(time) {
        return None;
    }
    for part in [date, "T", time, if zoned { "Z" } else { "" }, era, "\""] {
        out.push_str(part);
    }
    Some(())
}

/// JSON as its author wrote it.
pub(super) fn json(out: &mut String, text: &str) -> Option<()> {
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    // A character that SQS refuses can only stand in a string, where its escape is the same.
    if text.contains('\u{fffe}') || text.contains('\u{ffff}') {
        out.push_str(&text.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff"));
    } else {
        out.push_str(text);
    }
    Some(())
}

/// A member of an object: its name, and a text or null.
pub(super) fn member(out: &mut String, name: &str, value: Option<&str>) {
    write_text(out, name);
    out.push(':');
    match value {
        Some(value) => write_text(out, value),
        None => out.push_str("null"),
    }
}
