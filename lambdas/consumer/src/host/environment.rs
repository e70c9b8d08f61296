//! What a host is told by its environment.
//!
//! Knows: the variables' names and what they may say. Must not know: what is done with it. An
//! empty variable counts as none, as templates leave them.

use crate::error::chain;
use crate::login::LoginError;
use dsn::Dsn;
use std::fmt;

/// An environment with which a host cannot start.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Misconfigured {
    /// A variable is not set.
    #[error("expected {name}, {what}; found nothing")]
    Missing {
        /// Name of the variable.
        name: &'static str,
        /// What it is to be.
        what: &'static str,
    },
    /// The connection string of the read model is none, or asks for what is refused.
    #[error("READ_MODEL_URL cannot be used")]
    ReadModel(#[source] dsn::Error),
    /// The read model cannot be logged in to as `READ_MODEL_LOGIN` says.
    #[error("READ_MODEL_LOGIN cannot be used")]
    Login(#[from] LoginError),
    /// There is no such mode of a pooler.
    #[error("expected READ_MODEL_POOLER to be transaction, session or none, found {found:?}")]
    Pooler {
        /// Value of the variable.
        found: String,
    },
    /// A number was expected.
    #[error("expected {name} to be a number, found {found:?}")]
    NoNumber {
        /// Name of the variable.
        name: &'static str,
        /// Value of the variable.
        found: String,
    },
    /// The system does not tell this process when it is to end.
    #[error("the signal to end cannot be waited for")]
    Signal(#[source] std::io::Error),
}

/// As a process shows it that returns it from `main`: the sentence and its causes.
impl fmt::Debug for Misconfigured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(self))
    }
}

/// The read model: `READ_MODEL_URL`, its connection string. Where it has no `target_session_attrs`,
/// a server that takes writes is meant (`read-write`).
///
/// # Errors
/// When it is not set or cannot be used. No error shows a password.
pub fn read_model() -> Result<Dsn, Misconfigured> {
    read_model_of(variable)
}

fn read_model_of(variable: impl Fn(&str) -> Option<String>) -> Result<Dsn, Misconfigured> {
    needed(variable, "READ_MODEL_URL", "the connection string of the read model")?
        .parse::<Dsn>()
        .map(Dsn::or_read_write)
        .map_err(Misconfigured::ReadModel)
}

/// Whether a pooler in transaction mode stands before the read model: `READ_MODEL_POOLER`, which is
/// `transaction`, or `session` or `none`, as it is where it is not set. The hosts read it by
/// themselves ([`Consumer::through_a_pool`](crate::Consumer::through_a_pool)).
///
/// # Errors
/// When it says something else.
pub fn through_a_pool() -> Result<bool, Misconfigured> {
    pooled_of(variable)
}

fn pooled_of(variable: impl Fn(&str) -> Option<String>) -> Result<bool, Misconfigured> {
    match set(variable, "READ_MODEL_POOLER").as_deref() {
        None | Some("none" | "session") => Ok(false),
        Some("transaction") => Ok(true),
        Some(found) => Err(Misconfigured::Pooler { found: found.to_owned() }),
    }
}

/// The bucket of the claim checks: `RELAY_CLAIM_CHECK_BUCKET`.
#[cfg(all(feature = "lambda", feature = "s3"))]
pub(super) fn claim_check_bucket() -> Option<String> {
    set(variable, "RELAY_CLAIM_CHECK_BUCKET")
}

/// A queue and how many deliveries of it are worked at a time.
#[cfg(feature = "poll")]
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Queue {
    pub(super) url: String,
    pub(super) workers: usize,
}

/// How many deliveries a worker has in hand at a time where it is not told.
#[cfg(feature = "poll")]
const WORKERS: usize = 4;

#[cfg(feature = "poll")]
pub(super) fn queue() -> Result<Queue, Misconfigured> {
    queue_of(variable)
}

#[cfg(feature = "poll")]
fn queue_of(variable: impl Fn(&str) -> Option<String>) -> Result<Queue, Misconfigured> {
    let url = needed(&variable, "QUEUE_URL", "the URL of the queue to work")?;
    let workers = match set(&variable, "WORKERS") {
        Some(found) => {
            found.parse().map_err(|_| Misconfigured::NoNumber { name: "WORKERS", found })?
        }
        None => WORKERS,
    };
    Ok(Queue { url, workers })
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What it says, without the line break that a mounted secret ends with.
fn set(variable: impl Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    variable(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn needed(
    variable: impl Fn(&str) -> Option<String>,
    name: &'static str,
    what: &'static str,
) -> Result<String, Misconfigured> {
    set(variable, name).ok_or(Misconfigured::Missing { name, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        move |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        }
    }

    #[test]
    fn the_read_model_is_named_or_missed_or_refused_without_its_password() {
        let url = "postgres://app:secret@localhost/shop";
        let found = read_model_of(environment(&[("READ_MODEL_URL", url)])).unwrap();
        assert_eq!((found.user(), found.database()), ("app", "shop"));
        for nothing in [&[][..], &[("READ_MODEL_URL", "")]] {
            let error = read_model_of(environment(nothing)).unwrap_err();
            let expected = "expected READ_MODEL_URL, the connection string of the read model; \
                found nothing";
            assert_eq!(format!("{error:?}"), expected);
        }
        let refused = format!("{url}?sslmode=never");
        let error = read_model_of(environment(&[("READ_MODEL_URL", &refused)])).unwrap_err();
        let shown = format!("{error:?}");
        assert!(shown.starts_with("READ_MODEL_URL cannot be used: "), "{shown}");
        assert!(shown.contains("sslmode") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn a_pooler_is_named_by_its_mode_or_refused() {
        for (found, pooled) in
            [("", false), ("none", false), ("session", false), ("transaction", true)]
        {
            let set = [("READ_MODEL_POOLER", found)];
            assert_eq!(pooled_of(environment(&set)).unwrap(), pooled);
        }
        let error = pooled_of(environment(&[("READ_MODEL_POOLER", "statement")])).unwrap_err();
        let expected =
            "expected READ_MODEL_POOLER to be transaction, session or none, found \"statement\"";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_read_model_is_one_that_takes_writes_unless_the_string_says_otherwise() {
        for (more, question) in [
            ("", Some("show transaction_read_only")),
            ("?target_session_attrs=any", None),
            ("?target_session_attrs=primary", Some("show in_hot_standby")),
        ] {
            let url = format!("postgres://app@localhost/shop{more}\n");
            let set = [("READ_MODEL_URL", url.as_str())];
            let found = read_model_of(environment(&set)).unwrap();
            assert_eq!(found.question(), question, "{more}");
        }
    }

    #[cfg(feature = "poll")]
    #[test]
    fn a_worker_needs_a_queue_and_takes_four_deliveries_at_a_time_unless_told() {
        let url = ("QUEUE_URL", "http://localhost/queue");
        let queue = |workers| Queue { url: url.1.to_owned(), workers };
        assert_eq!(queue_of(environment(&[url])).unwrap(), queue(4));
        assert_eq!(queue_of(environment(&[url, ("WORKERS", "")])).unwrap(), queue(4));
        assert_eq!(queue_of(environment(&[url, ("WORKERS", "7")])).unwrap(), queue(7));
        let error = queue_of(environment(&[("WORKERS", "7")])).unwrap_err();
        assert!(error.to_string().starts_with("expected QUEUE_URL"), "{error}");
        let error = queue_of(environment(&[url, ("WORKERS", "many")])).unwrap_err();
        assert_eq!(error.to_string(), r#"expected WORKERS to be a number, found "many""#);
    }
}
