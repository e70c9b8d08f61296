//! What can be wrong with a configuration.

use crate::publish::AddressError;

/// What is wrong with a configuration.
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
    /// The file, with the variables put in, is not a configuration.
    #[error("{message}")]
    Invalid {
        /// What is wrong, with the nearest known key where one is unknown.
        message: String,
    },
    /// A variable that begins with `RELAY_` and means nothing.
    #[error("expected a known variable, found {found}; did you mean {nearest}?")]
    UnknownVariable {
        /// The variable.
        found: String,
        /// The nearest known one.
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
    /// A destination is not an address.
    #[error("{key} is wrong")]
    Address {
        /// The key.
        key: String,
        /// What is wrong with it.
        #[source]
        source: AddressError,
    },
    /// A `[[destination]]` is of no use.
    #[error("expected [[destination]] to have {expected}, found to = {found:?}")]
    Destination {
        /// The address that it names.
        found: String,
        /// What was expected of it.
        expected: &'static str,
    },
    /// A value is out of its range.
    #[error("expected {key} to be {expected}, found {found}")]
    Range {
        /// The key.
        key: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
}
