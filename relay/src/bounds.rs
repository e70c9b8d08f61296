//! What the columns of an event may hold: the same as the constraints of `relay.outbox`.
//!
//! Knows: the bounds. Must not know: which columns there are. A row can get around a constraint
//! (`not valid`, a trigger, `session_replication_role`), and what breaks a bound breaks a
//! consumer's index or a message attribute later, where nobody can mend it.

/// The longest name of a kind of thing or of event, in bytes.
pub const NAME: usize = 255;

/// The longest `aggregate_id`, in bytes: with a tenant, a type and a projection it fits into an
/// index of Postgres, whose entries have 2,704 bytes.
pub const KEY: usize = 1024;

/// The longest `tenant_id`, in bytes.
pub const TENANT: usize = 128;

/// The longest `event_version`, in bytes.
pub const VERSION: usize = 255;

/// The longest `correlation_id` and `causation_id`, in bytes.
pub const REFERENCE: usize = 1024;

/// The longest `metadata`, in bytes of JSON: `user_id`, `traceparent` and the like together.
pub const METADATA: usize = 65_536;

/// Whether the text has at most so many bytes. As `relay.fits` has it.
#[must_use]
pub fn fits(text: &str, bytes: usize) -> bool {
    text.len() <= bytes
}

/// Whether the text is a name: 1 to 255 bytes without a space or a control character of ASCII.
/// As `relay.is_name` has it.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=NAME).contains(&text.len()) && !text.bytes().any(|b| b <= b' ' || b == 0x7f)
}

/// Whether the text is a time in UTC that RFC 3339 can write and a reader can move to another
/// offset: from 0001-01-02 to 9999-12-30.
#[must_use]
pub fn is_time(text: &str) -> bool {
    const FORM: &[u8; 19] = b"0000-00-00T00:00:00";
    let Some((seconds, fraction)) = text.as_bytes().split_at_checked(FORM.len()) else {
        return false;
    };
    let fits = |(form, found): (&u8, &u8)| match form {
        b'0' => found.is_ascii_digit(),
        mark => mark == found,
    };
    let fraction = match fraction {
        [b'.', digits @ .., b'Z'] => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
        rest => rest == b"Z",
    };
    let day = seconds.get(..10).unwrap_or_default();
    fraction
        && FORM.iter().zip(seconds).all(fits)
        && (b"0001-01-02".as_slice()..=b"9999-12-30".as_slice()).contains(&day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_any_letter_and_no_space() {
        for name in ["order", "commande.créée", "注文", &"n".repeat(255), "a\u{a0}b"] {
            assert!(is_name(name), "{name:?}");
        }
        for other in ["", " ", "a b", "a\tb", "a\n", "\u{7f}", &"n".repeat(256), &"é".repeat(128)]
        {
            assert!(!is_name(other), "{other:?}");
        }
    }

    #[test]
    fn a_time_that_a_reader_cannot_have_is_none() {
        for time in [
            "2026-01-15T10:30:00Z",
            "2026-01-15T10:30:00.123456Z",
            "0001-01-02T00:00:00Z",
            "9999-12-30T23:59:59.999999Z",
        ] {
            assert!(is_time(time), "{time}");
        }
        for other in [
            "infinityZ",
            "-infinityZ",
            "0044-03-15T00:00:00+00 BCZ",
            "12026-01-15T10:30:00Z",
            "0001-01-01T00:00:00Z",
            "9999-12-31T00:00:00Z",
            "2026-01-15T10:30:00.Z",
            "2026-01-15T10:30:00",
            "2026-01-15T10:30:00+01Z",
            "",
            "é",
        ] {
            assert!(!is_time(other), "{other}");
        }
    }
}
