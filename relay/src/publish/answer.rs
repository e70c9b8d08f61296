//! What the broker's answer to a batch says of each entry: SNS and SQS say it alike.
//!
//! Knows: how the SDK wraps an error. Must not know: which of the two was asked.

use super::cause::in_words;
use super::{DestinationError, Outcome, Outgoing};
use aws_sdk_sns::error::{ProvideErrorMetadata, SdkError};

/// An entry that was not accepted, as the answer names it.
pub(super) struct Refused<'a> {
    pub(super) id: &'a str,
    pub(super) code: &'a str,
    pub(super) message: Option<&'a str>,
    pub(super) sender_fault: bool,
}

/// The outcome of each of so many entries, whose ids are their places in the batch.
///
/// Accepted is only what the answer names: an entry that it forgets is sent again.
pub(super) fn outcomes<'a>(
    entries: usize,
    accepted: impl Iterator<Item = &'a str>,
    refused: impl Iterator<Item = Refused<'a>>,
) -> Vec<Outcome> {
    let mut outcomes = vec![Outcome::unanswered(); entries];
    let accepted = accepted.map(|id| (id, Outcome::Accepted));
    let refused = refused
        .map(|entry| (entry.id, Outcome::entry(entry.code, entry.message, entry.sender_fault)));
    for (id, outcome) in accepted.chain(refused) {
        if let Some(place) = id.parse::<usize>().ok().and_then(|at| outcomes.get_mut(at)) {
            *place = outcome;
        }
    }
    outcomes
}

/// The outcome of each entry of a request that failed as a whole.
pub(super) fn failed<E>(batch: &[&Outgoing], error: &SdkError<E>, host: &str) -> Vec<Outcome>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let server_error = error.raw_response().is_some_and(|r| r.status().is_server_error());
    let code = error.code().unwrap_or(match error {
        SdkError::TimeoutError(_) => "timeout",
        SdkError::DispatchFailure(_) => "unreachable",
        _ => "unknown",
    });
    Outcome::all(batch, code, &in_words(error, host), server_error)
}

/// Why a destination did not tell of itself.
pub(super) fn asked<E>(error: &SdkError<E>, host: &str) -> DestinationError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    DestinationError::Asked {
        code: error.code().unwrap_or("unreachable").to_owned(),
        message: in_words(error, host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::Class;

    #[test]
    fn an_entry_is_accepted_only_where_the_answer_names_it() {
        let refused = |id, code, sender_fault| Refused { id, code, message: None, sender_fault };
        let answer = [refused("1", "InvalidParameter", true), refused("9", "InternalError", false)];
        let found = outcomes(4, ["0", "none", "4"].into_iter(), answer.into_iter());
        assert_eq!(found[0], Outcome::Accepted);
        assert!(matches!(&found[1], Outcome::Failed { class: Class::Event, .. }), "{found:?}");
        assert_eq!(found[2..], [Outcome::unanswered(), Outcome::unanswered()]);
    }
}
