//! What can be wrong with a configuration.

use std::fmt;

/// Where a value stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// In the environment variable of its key.
    Variable,
    /// In the file.
    File,
}

/// The file's name stands in the context that the program adds to an error of the file.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Variable => "the variable",
            Self::File => "the file",
        })
    }
}

/// What is wrong with a configuration. Every variant that is about a key names its variable too;
/// none shows a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("expected a configuration file at {path}")]
    File {
        /// Where it was looked for.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML, or has a key that is not known or of another type.
    #[error("{message}")]
    Invalid {
        /// What is wrong and where, with the nearest known key where one is unknown.
        message: String,
    },
    /// A variable that begins with `RELAY_` and resembles one of ours.
    #[error("expected a known variable, found {found}; did you mean {nearest}?")]
    UnknownVariable {
        /// The variable.
        found: String,
        /// The known one that it resembles.
        nearest: &'static str,
    },
    /// A value that must be there is not.
    #[error("expected {key}, found nothing; set {variable} or {key} in relay.toml")]
    Missing {
        /// The key.
        key: &'static str,
        /// Its variable.
        variable: &'static str,
    },
    /// A value is none that its key may have.
    #[error("expected {key} ({variable}) to be {expected}, found {found} in {origin}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its variable.
        variable: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
        /// Where it stands.
        origin: Origin,
    },
    /// A `[[destination]]` is wrong or of no use.
    #[error("expected [[destination]] {number} to have {expected}, found {found}")]
    Destination {
        /// Its place among the `[[destination]]` of the file, from 1.
        number: usize,
        /// What was expected of it.
        expected: String,
        /// What it has.
        found: String,
    },
}

impl ConfigError {
    /// Whether the text of the file must be changed: then its path helps.
    #[must_use]
    pub fn is_in_file(&self) -> bool {
        match self {
            Self::Invalid { .. } | Self::Destination { .. } => true,
            Self::Value { origin, .. } => *origin == Origin::File,
            Self::File { .. } | Self::UnknownVariable { .. } | Self::Missing { .. } => false,
        }
    }
}
