//! What values a key may have.
//!
//! Knows: texts and TOML values. Must not know: which key is which.

use crate::publish::Address;
use bytesize::ByteSize;
use std::net::SocketAddr;
use std::time::Duration;

/// The values that a key may have.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A connection string, which no message shows.
    Secret,
    /// A text of 1 to this many bytes, without control characters.
    Text(usize),
    /// The name of a replication slot.
    Slot,
    /// The name of an S3 bucket.
    Bucket,
    /// What the keys of S3 objects begin with.
    Prefix,
    /// The ARN of a role.
    Role,
    /// The ARN of a topic or queue, or the URL of a queue.
    Address,
    /// An IP address with a port.
    Listen,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// `true` or `false`.
    Switch,
    /// A whole number from the first to the second.
    Number(i64, i64),
    /// A duration from the first to the second.
    Duration(Duration, Duration),
    /// A number of bytes from the first to the second.
    Size(ByteSize, ByteSize),
    /// `[[route]]`; in the variable `TYPE=ADDRESS`, separated by commas.
    Routes,
    /// `[[table]]`; in the variable `SCHEMA.NAME`, separated by commas.
    Tables,
}

impl Kind {
    /// What a value may be, in words that end "expected … to be".
    #[must_use]
    pub fn expected(&self) -> String {
        match self {
            Self::Secret => "a connection string without control characters".to_owned(),
            Self::Text(most) => format!("1 to {most} bytes without control characters"),
            Self::Slot => "1 to 63 lower-case letters, digits and underscores".to_owned(),
            Self::Bucket => "3 to 63 lower-case letters, digits, hyphens and dots".to_owned(),
            Self::Prefix => {
                "at most 512 bytes without control characters and without a slash at the beginning"
                    .to_owned()
            }
            Self::Role => "arn:aws:iam::ACCOUNT:role/NAME".to_owned(),
            Self::Address => {
                "the ARN of an SNS topic or SQS queue (arn:aws:sns:REGION:ACCOUNT:NAME) or the URL of an SQS queue"
                    .to_owned()
            }
            Self::Listen => "an IP address with a port, such as 127.0.0.1:9464".to_owned(),
            Self::OneOf(words) => match words {
                [first, last] => format!("{first} or {last}"),
                words => format!("one of {}", words.join(", ")),
            },
            Self::Switch => "true or false".to_owned(),
            Self::Number(least, most) => format!("a number from {least} to {most}"),
            Self::Duration(least, most) => format!(
                "a duration such as 10s or 7days, from {} to {}",
                humantime::format_duration(*least),
                humantime::format_duration(*most)
            ),
            Self::Size(least, most) => {
                format!("a size such as 32MiB, from {least} to {most}")
            }
            Self::Routes => "TYPE=ADDRESS, separated by commas".to_owned(),
            Self::Tables => "names such as public.customers, separated by commas".to_owned(),
        }
    }

    /// The TOML value that a variable's text stands for. An error says what was found.
    pub(super) fn of_variable(&self, text: &str) -> Result<toml::Value, String> {
        let found = || self.shown(text);
        match self {
            Self::Switch => text.parse().map(toml::Value::Boolean).map_err(|_| found()),
            Self::Number(..) => text.parse().map(toml::Value::Integer).map_err(|_| found()),
            Self::Routes => entries(text, |entry| {
                let (aggregate_type, to) = entry.split_once('=').ok_or_else(|| shown(entry))?;
                Ok([("aggregate_type", aggregate_type.trim()), ("to", to.trim())].into())
            }),
            Self::Tables => entries(text, |entry| Ok([("name", entry)].into())),
            _ => Ok(toml::Value::String(text.to_owned())),
        }
    }

    /// Whether a value is one of these. An error says what was found. The entries of a list are
    /// judged where they become rules.
    pub(super) fn check(&self, value: &toml::Value) -> Result<(), String> {
        let legal = match (self, value) {
            (Self::Routes | Self::Tables, toml::Value::Array(_))
            | (Self::Switch, toml::Value::Boolean(_)) => true,
            (Self::Number(least, most), toml::Value::Integer(number)) => {
                (least..=most).contains(&number)
            }
            (Self::Size(least, most), toml::Value::Integer(bytes)) => {
                u64::try_from(*bytes).is_ok_and(|bytes| (least.0..=most.0).contains(&bytes))
            }
            (_, toml::Value::String(text)) => self.takes(text),
            _ => false,
        };
        if legal {
            return Ok(());
        }
        Err(match value {
            toml::Value::String(text) => self.shown(text),
            toml::Value::Integer(number) => number.to_string(),
            _ if matches!(self, Self::Secret) => "one that is not shown".to_owned(),
            other => format!("a TOML {}", other.type_str()),
        })
    }

    fn takes(&self, text: &str) -> bool {
        let plain = !text.chars().any(char::is_control);
        match self {
            Self::Secret => plain,
            Self::Text(most) => plain && (1..=*most).contains(&text.len()),
            Self::Slot => {
                let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
                (1..=63).contains(&text.len()) && text.bytes().all(legal)
            }
            Self::Bucket => {
                let legal =
                    |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
                (3..=63).contains(&text.len()) && text.bytes().all(legal)
            }
            Self::Prefix => plain && text.len() <= 512 && !text.starts_with('/'),
            Self::Role => {
                // arn:partition:iam::account:role/path/name
                let parts: Vec<&str> = text.splitn(6, ':').collect();
                plain
                    && matches!(parts.as_slice(), ["arn", _, "iam", "", account, name]
                        if !account.is_empty() && name.starts_with("role/"))
            }
            Self::Address => plain && text.len() <= 2048 && text.parse::<Address>().is_ok(),
            Self::Listen => text.parse::<SocketAddr>().is_ok(),
            Self::OneOf(words) => words.contains(&text),
            Self::Duration(least, most) => humantime::parse_duration(text)
                .is_ok_and(|duration| (least..=most).contains(&&duration)),
            Self::Size(least, most) => {
                text.parse::<ByteSize>().is_ok_and(|size| (least..=most).contains(&&size))
            }
            Self::Switch | Self::Number(..) | Self::Routes | Self::Tables => false,
        }
    }

    fn shown(&self, text: &str) -> String {
        match self {
            Self::Secret => "one that is not shown".to_owned(),
            _ => shown(text),
        }
    }
}

/// A value as an error shows it: quoted, escaped, its beginning only.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{:?} and {} bytes more", &text[..end], text.len() - end),
        None => format!("{text:?}"),
    }
}

/// The entries of a list in a variable. An empty one is an error: something that was to stand
/// there does not.
fn entries<'a>(
    text: &'a str,
    entry: impl Fn(&'a str) -> Result<Vec<(&'static str, &'a str)>, String>,
) -> Result<toml::Value, String> {
    let entries = text.split(',').map(str::trim).enumerate().map(|(at, one)| {
        if one.is_empty() {
            return Err(format!("nothing as entry {} of {}", at + 1, shown(text)));
        }
        let keys = entry(one)?;
        let keys = keys.into_iter().map(|(key, value)| (key.to_owned(), value.into()));
        Ok(toml::Value::Table(keys.collect()))
    });
    Ok(toml::Value::Array(entries.collect::<Result<_, String>>()?))
}
