//! `[[destination]]`: what holds for one destination and not for the others.

use super::kind::shown;
use super::{Config, ConfigError, Kind};
use crate::pipeline::OnPoison;
use crate::publish::Address;
use crate::publish::schedule::Ordering;
use envelope::Format;
use serde::Deserialize;

/// `[[destination]]`
///
/// A key that is not set is what `[publish]` says.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// Its address, as `publish.to` or a `[[route]]` has it.
    pub to: String,
    /// What its messages look like.
    #[serde(default)]
    pub format: Option<Format>,
    /// Whether what is too large for it goes to the bucket of `[claim_check]`; true where it is
    /// not set.
    #[serde(default)]
    pub claim_check: Option<bool>,
    /// Which of its events wait for each other.
    #[serde(default)]
    pub ordering: Option<Ordering>,
    /// What is done with an event that it refuses for good.
    #[serde(default)]
    pub on_poison: Option<OnPoison>,
}

/// What holds for one destination, with the defaults put in.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// What its messages look like.
    pub format: Format,
    /// Whether what is too large for it is put elsewhere, where there is a bucket.
    pub claim_check: bool,
    /// The most bytes of an event that it can be sent.
    pub largest: usize,
    /// Which of its events wait for each other.
    pub ordering: Ordering,
    /// What is done with an event that it refuses for good.
    pub on_poison: OnPoison,
}

impl Settings {
    /// Those of `[publish]`, and over them what the destination's own section says.
    fn of(config: &Config, own: Option<&Destination>) -> Self {
        let unset = Destination::default();
        let own = own.unwrap_or(&unset);
        let claim_check = own.claim_check.unwrap_or(true);
        Self {
            format: own.format.unwrap_or(config.publish.format),
            claim_check,
            largest: config.claim_check.largest(claim_check),
            ordering: own.ordering.unwrap_or(config.publish.ordering),
            on_poison: own.on_poison.unwrap_or(config.publish.on_poison),
        }
    }
}

/// The settings of each address, in the same order.
///
/// # Errors
/// When a section is of no address that events go to, or of one that has a section already.
pub(super) fn settings(
    config: &Config,
    addresses: &[Address],
) -> Result<Vec<Settings>, ConfigError> {
    let mut own: Vec<Option<(usize, &Destination)>> = vec![None; addresses.len()];
    for (at, section) in config.destination.iter().enumerate() {
        let number = at + 1;
        let wrong = |expected: &str, found| {
            Err(ConfigError::Destination { number, expected: expected.to_owned(), found })
        };
        let Ok(address) = section.to.parse::<Address>() else {
            return wrong(&format!("as `to` {}", Kind::Address.expected()), shown(&section.to));
        };
        let place = addresses.iter().position(|known| *known == address);
        let Some(place) = place.and_then(|at| own.get_mut(at)) else {
            return wrong(
                "as `to` an address of publish.to or of a [[route]], because no other gets events",
                shown(&section.to),
            );
        };
        if section.claim_check == Some(true) && config.claim_check.bucket().is_none() {
            return wrong(
                "claim_check = true only with claim_check.bucket (RELAY_CLAIM_CHECK_BUCKET)",
                "no bucket".to_owned(),
            );
        }
        if let Some((first, _)) = place.replace((number, section)) {
            return wrong(
                "an address of its own, one section for each",
                format!("{}, as [[destination]] {first} has it", shown(&section.to)),
            );
        }
    }
    Ok(own.into_iter().map(|own| Settings::of(config, own.map(|(_, own)| own))).collect())
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use envelope::Format;

    const TOPIC: &str = "arn:aws:sns:eu-west-1:123456789012:orders.fifo";
    const QUEUE: &str = "arn:aws:sqs:eu-west-1:123456789012:customers";

    fn formats(more: &str) -> Result<Vec<Format>, String> {
        let file = format!(
            "[publish]\nto = '{TOPIC}'\nformat = 'cloudevents'\n[[route]]\naggregate_type = 'customer'\nto = '{QUEUE}'\n{more}"
        );
        let config = Config::from_sources(&file, []).map_err(|e| e.to_string())?;
        let destinations = config.destinations().map_err(|e| e.to_string())?;
        Ok(destinations.settings.iter().map(|s| s.format).collect())
    }

    #[test]
    fn a_destination_has_its_own_format_and_the_others_that_of_publish() {
        assert_eq!(formats(""), Ok(vec![Format::CloudEvents; 2]));
        let own = format!("[[destination]]\nto = '{QUEUE}'\nformat = 'payload'");
        assert_eq!(formats(&own), Ok(vec![Format::CloudEvents, Format::Payload]));
        let variable = [
            ("RELAY_TOPIC_ARN".to_owned(), TOPIC.to_owned()),
            ("RELAY_FORMAT".to_owned(), "payload".to_owned()),
        ];
        let config = Config::from_sources("", variable).unwrap();
        assert_eq!(config.destinations().unwrap().settings[0].format, Format::Payload);
    }

    #[test]
    fn a_section_that_no_event_goes_to_is_refused() {
        let error = formats("[[destination]]\nto = 'arn:aws:sqs:eu-west-1:1:other'").unwrap_err();
        assert!(error.contains("publish.to or of a [[route]]"), "{error}");
        let twice = format!("[[destination]]\nto = '{QUEUE}'\n").repeat(2);
        assert!(formats(&twice).unwrap_err().contains("one section for each"));
        let error = formats("[[destination]]\nto = 'x'\nfromat = 'relay'").unwrap_err();
        assert!(error.contains("did you mean `format`?"), "{error}");
        let error = formats("[[destination]]\nto = 'x'\nformat = 'avro'").unwrap_err();
        assert!(error.contains("cloudevents"), "{error}");
    }
}
