//! The top level of the author's metadata, read without its values.
//!
//! Metadata is JSON that somebody else wrote. What a text search finds may stand in a nested object
//! or in a string, and an escape hides a name from it. So the top level is parsed; values are passed
//! over, and nothing is copied.

use crate::write::raw;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// The member of the metadata that names the tenant.
pub(crate) const TENANT_ID: &str = "tenant_id";

/// The text of one member of a JSON object; `None` where it is missing or no string.
///
/// Of members with one name the last counts, as for Postgres' `jsonb`.
pub(crate) fn member_text<'a>(object: &'a str, name: &str) -> Option<Cow<'a, str>> {
    if !may_have(object, name) {
        return None;
    }
    let mut found = None;
    for_each_member(object, |key, value| {
        if is_name(key, name) {
            found = Some(value);
        }
    })?;
    text(found?)
}

/// Whether a JSON object has a member of this name at its top level.
pub(crate) fn has_member(object: &str, name: &str) -> bool {
    let mut found = false;
    if may_have(object, name) {
        for_each_member(object, |key, _| found |= is_name(key, name));
    }
    found
}

/// Appends the members of a JSON object as they are, without the braces and without those of this
/// name; each has a comma before it.
pub(crate) fn push_members_without(out: &mut String, object: &str, name: &str) {
    for_each_member(object, |key, value| {
        if !is_name(key, name) {
            out.push(',');
            raw(out, key.get());
            out.push(':');
            raw(out, value.get());
        }
    });
}

/// False where no member can have this name: without an escape a name stands in the text as it is.
/// Most metadata lacks most names, and is not parsed.
fn may_have(object: &str, name: &str) -> bool {
    object.contains(name) || object.contains('\\')
}

fn is_name(key: &RawValue, name: &str) -> bool {
    text(key).is_some_and(|key| key == name)
}

/// What a JSON string says; `None` for other values, and for a lone surrogate, which is no text.
fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    let quoted = value.get();
    let plain = quoted.strip_prefix('"')?.strip_suffix('"')?;
    if plain.contains('\\') {
        return serde_json::from_str(quoted).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(plain))
}

/// Calls back for each member of a JSON object; `None` where the text is none.
fn for_each_member<'a>(
    object: &'a str,
    each: impl FnMut(&'a RawValue, &'a RawValue),
) -> Option<()> {
    struct Members<F>(F);
    impl<'de, F: FnMut(&'de RawValue, &'de RawValue)> Visitor<'de> for Members<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            // A key is read as it stands: one with a lone surrogate must not hide those behind it.
            while let Some((key, value)) = map.next_entry()? {
                (self.0)(key, value);
            }
            Ok(())
        }
    }
    let mut json = serde_json::Deserializer::from_str(object);
    json.deserialize_map(Members(each)).ok()?;
    json.end().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tenant(object: &str) -> Option<String> {
        member_text(object, TENANT_ID).map(Cow::into_owned)
    }

    #[test]
    fn only_a_member_of_the_top_level_is_one() {
        assert_eq!(tenant(r#"{"tenant_id": "a"}"#).as_deref(), Some("a"));
        assert_eq!(tenant(r#"{"tenant\u005fid":"a\nb"}"#).as_deref(), Some("a\nb"));
        assert_eq!(tenant(r#"{"tenant_id":"a","x":{},"tenant_id":"b"}"#).as_deref(), Some("b"));
        assert_eq!(tenant(r#"{"\ud800":1,"tenant_id":"a"}"#).as_deref(), Some("a"));
        for other in [
            r#"{"actor":{"tenant_id":"x"}}"#,
            r#"{"changed":["tenant_id"]}"#,
            r#"{"note":"\"tenant_id\":\"x\""}"#,
            r#"{"tenant_id":7}"#,
            r#"{"tenant_id":"\ud800"}"#,
            r#"{"tenant_id":null}"#,
            r#"["tenant_id"]"#,
            r#"{"tenant_id":"a"} x"#,
            "{}",
            "",
        ] {
            assert_eq!(tenant(other), None, "{other}");
        }
    }

    #[test]
    fn depth_hides_nothing() {
        let deep = format!(r#"{{"a":{}{},"tenant_id":"t"}}"#, "[".repeat(5000), "]".repeat(5000));
        assert_eq!(tenant(&deep).as_deref(), Some("t"));
    }

    proptest! {
        /// What is left has every other member as it was, and none of that name.
        #[test]
        fn a_member_is_taken_out_whatever_stands_around_it(
            names in proptest::collection::vec("tenant_id|tenant.id|[a-c\"\\\\]{1,2}", 0..5),
            text: String,
        ) {
            let value = serde_json::to_string(&text).unwrap();
            let name = |name: &String| serde_json::to_string(name).unwrap();
            let members: Vec<_> = names.iter().map(|n| format!("{} : {value}", name(n))).collect();
            let object = format!("{{ {} }}", members.join(" , "));
            prop_assert_eq!(has_member(&object, TENANT_ID), names.iter().any(|n| n == TENANT_ID));
            let mut left = String::new();
            push_members_without(&mut left, &object, TENANT_ID);
            let kept = names.iter().filter(|n| *n != TENANT_ID);
            let mut expected = String::new();
            for kept in kept {
                expected.push(',');
                expected.push_str(&name(kept));
                expected.push(':');
                raw(&mut expected, &value);
            }
            prop_assert_eq!(left, expected);
        }
    }
}
