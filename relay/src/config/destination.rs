//! `[[destination]]`: what holds for one destination and not for the others.

use super::{ConfigError, Publish};
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
    /// Which of its events wait for each other.
    pub ordering: Ordering,
    /// What is done with an event that it refuses for good.
    pub on_poison: OnPoison,
}

impl Settings {
    /// Those of `[publish]`, and over them what the destination's own section says.
    fn of(publish: &Publish, own: Option<&Destination>) -> Self {
        let (format, ordering, on_poison) =
            own.map_or((None, None, None), |own| (own.format, own.ordering, own.on_poison));
        Self {
            format: format.unwrap_or(publish.format),
            ordering: ordering.unwrap_or(publish.ordering),
            on_poison: on_poison.unwrap_or(publish.on_poison),
        }
    }
}

/// The settings of each address, in the same order.
///
/// # Errors
/// When a section is of no address that events go to, or of one that has a section already.
pub(super) fn settings(
    publish: &Publish,
    sections: &[Destination],
    addresses: &[Address],
) -> Result<Vec<Settings>, ConfigError> {
    let mut own: Vec<Option<&Destination>> = vec![None; addresses.len()];
    for section in sections {
        let key = || format!("destination.to {:?}", section.to);
        let address: Address =
            section.to.parse().map_err(|source| ConfigError::Address { key: key(), source })?;
        let place = addresses.iter().position(|known| *known == address);
        let Some(place) = place.and_then(|at| own.get_mut(at)) else {
            return Err(ConfigError::Destination {
                found: section.to.clone(),
                expected: "an address of publish.to or of a [[route]]",
            });
        };
        if place.replace(section).is_some() {
            return Err(ConfigError::Destination {
                found: section.to.clone(),
                expected: "one section for each address",
            });
        }
    }
    Ok(own.into_iter().map(|own| Settings::of(publish, own)).collect())
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
