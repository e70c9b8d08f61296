//! Texts from outside, made safe for a terminal and for a line of a log. PURE.
//!
//! A key or a reason may hold what a terminal obeys: escape sequences that hide lines or write
//! others, directional overrides that show a text in another order, newlines that begin a line as
//! if the program had printed it.

use std::borrow::Cow;

/// The same text with each control character written as an escape: `\n`, `\u{1b}`. Every other
/// character stays as it is, in whatever script.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |c, escape| match c {
        '\n' | '\r' | '\t' => escape.extend(c.escape_default()),
        c => escape.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
    })
}

/// A JSON text in which what a terminal obeys is written as JSON's own escapes. What it means
/// stays the same.
#[must_use]
pub fn printable_json(json: &str) -> Cow<'_, str> {
    escaped(json, |c, escape| {
        let mut units = [0; 2];
        for unit in c.encode_utf16(&mut units) {
            escape.push_str(&format!("\\u{unit:04x}"));
        }
    })
}

fn escaped(text: &str, escape: impl Fn(char, &mut String)) -> Cow<'_, str> {
    let Some(first) = text.find(acts) else { return Cow::Borrowed(text) };
    let (plain, rest) = text.split_at(first);
    let mut escaped = plain.to_owned();
    for c in rest.chars() {
        if acts(c) { escape(c, &mut escaped) } else { escaped.push(c) }
    }
    Cow::Owned(escaped)
}

/// Whether a character does something in place of being shown: control characters (C0, DEL, C1),
/// line and paragraph separators, directional marks and overrides, and what is invisible and
/// joins nothing.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_terminal_obeys_is_written_out_and_the_rest_stays() {
        assert_eq!(printable("a\u{1b}[2Jb\n\u{9b}31m\u{7f}"), "a\\u{1b}[2Jb\\n\\u{9b}31m\\u{7f}");
        assert_eq!(printable("commande_é_注文_\u{202e}x"), "commande_é_注文_\\u{202e}x");
        assert!(matches!(printable("ord_1 \\n 👩\u{200d}🚀"), Cow::Borrowed(_)));
        assert_eq!(printable_json("\"\u{9b}\u{e0041}\""), "\"\\u009b\\udb40\\udc41\"");
    }

    proptest! {
        #[test]
        fn nothing_that_acts_is_left(text in any::<String>()) {
            prop_assert!(!printable(&text).contains(acts));
            let json = serde_json::to_string(&text).unwrap();
            let shown = printable_json(&json);
            prop_assert!(!shown.contains(acts));
            prop_assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        }
    }
}
