//! An error and its causes in one line, in words that show no value.
//!
//! Every log line, reason and status text of the relay and of the consumers prints errors by this
//! function. tokio-postgres prints only `db error` for a refused statement; the server's words stand
//! in its source.

use std::error::Error;
use std::fmt::Write as _;
use tokio_postgres::error::DbError;

/// The error, then each cause, joined by `: `. A refused statement is printed as the server's
/// message with its SQLSTATE.
///
/// A cause that the text before it already repeats is left out. The detail of a server error is
/// never printed, because it quotes rows; the message is left out for class 22 (data exceptions),
/// because it quotes the value.
#[must_use]
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut line = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        next = error.source();
        // Its own text is only "db error"; its source is what the server said.
        let refused = error.downcast_ref::<tokio_postgres::Error>();
        if refused.is_some_and(|refused| refused.as_db_error().is_some()) {
            continue;
        }
        let text = match error.downcast_ref::<DbError>() {
            Some(refused) => server_words(refused),
            None => error.to_string(),
        };
        append(&mut line, &text);
    }
    line
}

fn append(line: &mut String, text: &str) {
    if line.contains(text) {
        return;
    }
    if !line.is_empty() {
        line.push_str(": ");
    }
    line.push_str(text);
}

/// `message (SQLSTATE 42501)`, with the table, column and constraint that the server names.
fn server_words(refused: &DbError) -> String {
    let code = refused.code().code();
    let mut words = match code {
        // Data exceptions quote the offending value.
        data if data.starts_with("22") => "the server refused a value".to_owned(),
        _ => refused.message().to_owned(),
    };
    let _ = write!(words, " (SQLSTATE {code}");
    let names = [
        ("table", refused.table()),
        ("column", refused.column()),
        ("constraint", refused.constraint()),
    ];
    for (what, name) in names {
        // The message usually names it already.
        if let Some(name) = name.filter(|name| !refused.message().contains(name)) {
            let _ = write!(words, ", {what} {name}");
        }
    }
    words.push(')');
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read: {0}")]
    struct Repeats(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("nothing was read")]
    struct Outer(#[source] Repeats);

    #[test]
    fn each_cause_is_said_once() {
        let error = Outer(Repeats(std::io::Error::other("the disk is gone")));
        assert_eq!(causes(&error), "nothing was read: cannot read: the disk is gone");
    }
}
