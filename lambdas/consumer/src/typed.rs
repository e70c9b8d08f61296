//! Handlers of typed events: an enum by event type, in the newest version of each.
//!
//! Knows: how an event becomes a variant, and what is done with one that is none. Must not know:
//! the database, queues.

use crate::error::misfit;
use crate::handler::{Handler, HandlerError, Mode, Tx};
use crate::upcast::{UpcastError, Upcasters};
use envelope::Event;
use std::future::Future;

/// A set of event types, each with the newest version of its payload that the code knows;
/// [`events!`](crate::events) writes it.
pub trait EventSet: Sized {
    /// The newest version of this event type; `None` for a type that is not in the set.
    fn newest(event_type: &str) -> Option<u32>;

    /// Reads the payload of an event of the set, in that version.
    ///
    /// # Errors
    /// When the payload has another shape.
    fn read(event_type: &str, data: &str) -> Result<Self, serde_json::Error>;
}

/// Writes an enum of event types with its [`EventSet`](crate::EventSet).
///
/// `@` gives the version of the payload, 1 where there is none:
///
/// ```
/// #[derive(Debug, serde::Deserialize)]
/// struct Registered {
///     name: String,
/// }
///
/// #[derive(Debug, serde::Deserialize)]
/// struct Moved {
///     city: String,
/// }
///
/// consumer::events! {
///     /// What happens to a customer.
///     #[derive(Debug)]
///     enum CustomerEvent {
///         "customer.registered" @ 2 => Registered(Registered),
///         "customer.moved" => Moved(Moved),
///     }
/// }
///
/// use consumer::EventSet;
/// assert_eq!(CustomerEvent::newest("customer.registered"), Some(2));
/// assert_eq!(CustomerEvent::newest("customer.deleted"), None);
/// ```
#[macro_export]
macro_rules! events {
    (
        $(#[$meta:meta])*
        $visibility:vis enum $name:ident {
            $($(#[$of:meta])* $kind:literal $(@ $version:literal)? => $variant:ident($data:ty)),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        $visibility enum $name {
            $($(#[$of])* $variant($data)),+
        }

        impl $crate::EventSet for $name {
            fn newest(event_type: &str) -> ::core::option::Option<u32> {
                match event_type {
                    $($kind => ::core::option::Option::Some($crate::events!(@version $($version)?)),)+
                    _ => ::core::option::Option::None,
                }
            }

            fn read(
                event_type: &str,
                data: &str,
            ) -> ::core::result::Result<Self, $crate::serde_json::Error> {
                match event_type {
                    $($kind => $crate::serde_json::from_str(data).map(Self::$variant),)+
                    unknown => ::core::result::Result::Err(
                        <$crate::serde_json::Error as $crate::serde::de::Error>::unknown_variant(
                            unknown,
                            &[$($kind),+],
                        ),
                    ),
                }
            }
        }
    };
    (@version) => { 1 };
    (@version $version:literal) => { $version };
}

/// A [`Handler`] of typed events. [`Typed`] makes one of it.
pub trait Projection: Send + Sync {
    /// The events that it understands.
    type Event: EventSet + Send;

    /// The name that its inbox and its progress are kept under.
    fn name(&self) -> &str;

    /// How redelivered and reordered events are told from new ones.
    fn mode(&self) -> Mode {
        Mode::Versioned
    }

    /// Gives the event its effect; `envelope` says when it happened and to what.
    ///
    /// # Errors
    /// As [`Handler::handle`].
    fn apply(
        &self,
        event: Self::Event,
        envelope: &Event,
        tx: &mut Tx<'_>,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;
}

/// What is done with an event of a type that is not in the set.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Unknown {
    /// It counts as done: it does not concern this projection.
    #[default]
    Skip,
    /// It is parked.
    Reject,
}

/// A projection of typed events as a handler.
///
/// An event of an older version is brought to the newest by the upcasters. One of a newer version
/// than the code knows is parked: deploy the newer code, then replay it. So is one whose payload
/// does not have the shape of its version.
#[derive(Debug)]
pub struct Typed<P> {
    projection: P,
    upcasters: Upcasters,
    unknown: Unknown,
}

impl<P: Projection> Typed<P> {
    /// Without upcasters, passing over events of unknown types.
    #[must_use]
    pub fn new(projection: P) -> Self {
        Self { projection, upcasters: Upcasters::default(), unknown: Unknown::default() }
    }

    /// With steps from old versions to the newest.
    #[must_use]
    pub fn upcasters(self, upcasters: Upcasters) -> Self {
        Self { upcasters, ..self }
    }

    /// What is done with an event of a type that is not in the set.
    #[must_use]
    pub fn unknown(self, unknown: Unknown) -> Self {
        Self { unknown, ..self }
    }

    /// The event in the newest version; `None` if it is to be passed over.
    fn read(&self, event: &Event) -> Result<Option<P::Event>, HandlerError> {
        let kind = event.event_type.as_str();
        let Some(newest) = P::Event::newest(kind) else {
            return match self.unknown {
                Unknown::Skip => Ok(None),
                Unknown::Reject => Err(HandlerError::Reject(format!(
                    "expected an event of a known type, found {kind:?}"
                ))),
            };
        };
        let version = version(event)?;
        if version > newest {
            return Err(HandlerError::Reject(format!(
                "expected {kind} of version {newest} at most, found {}: deploy code that knows it, then replay the event",
                event.event_version
            )));
        }
        let data = self.upcasters.upcast(kind, &event.data, version, newest).map_err(|error| {
            HandlerError::Reject(match &error {
                UpcastError::Shape { source, .. } => format!("{error}: {}", misfit(source)),
                UpcastError::NoStep { .. } => error.to_string(),
            })
        })?;
        Ok(Some(P::Event::read(kind, data.get())?))
    }
}

/// The number before the first dot.
fn version(event: &Event) -> Result<u32, HandlerError> {
    let text = event.event_version.as_str();
    let number = text.split_once('.').map_or(text, |(number, _)| number);
    number.trim_start_matches('v').parse().map_err(|_| {
        HandlerError::Reject(format!(
            "expected event_version to begin with a number, such as 1.0, found {text:?}"
        ))
    })
}

impl<P: Projection> Handler for Typed<P> {
    fn name(&self) -> &str {
        self.projection.name()
    }

    fn mode(&self) -> Mode {
        self.projection.mode()
    }

    async fn handle(&self, event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
        match self.read(event)? {
            Some(typed) => self.projection.apply(typed, event, tx).await,
            None => {
                tracing::debug!(event_type = event.event_type, "passed over: of another concern");
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
    struct Name {
        first: String,
    }

    #[derive(serde::Deserialize)]
    struct OldName {
        name: String,
    }

    crate::events! {
        #[derive(Debug, Eq, PartialEq)]
        enum Happened {
            "a.named" @ 2 => Named(Name),
            "a.counted" => Counted(u8),
        }
    }

    struct Nothing;

    impl Projection for Nothing {
        type Event = Happened;

        fn name(&self) -> &'static str {
            "nothing"
        }

        async fn apply(&self, _: Happened, _: &Event, _: &mut Tx<'_>) -> Result<(), HandlerError> {
            Ok(())
        }
    }

    fn read(kind: &str, version: &str, data: &str) -> Result<Option<Happened>, String> {
        let upcasters =
            Upcasters::default().step("a.named", 1, |old: OldName| Name { first: old.name });
        let typed = Typed::new(Nothing).upcasters(upcasters);
        let event = Event::from_json(&format!(
            r#"{{"event_id":"01930000-0000-7000-8000-000000000001","event_type":"{kind}",
               "event_version":"{version}","timestamp":"2026-01-15T10:30:00Z",
               "aggregate_type":"a","aggregate_id":"1","data":{data}}}"#
        ))
        .unwrap();
        typed.read(&event).map_err(|error| error.to_string())
    }

    #[test]
    fn versions_live_at_once_and_the_handler_sees_the_newest() {
        let named = || Ok(Some(Happened::Named(Name { first: "Ada".to_owned() })));
        assert_eq!(read("a.named", "1.0", r#"{"name":"Ada"}"#), named());
        assert_eq!(read("a.named", "2.3", r#"{"first":"Ada","more":1}"#), named());
        assert_eq!(read("a.counted", "1", "7"), Ok(Some(Happened::Counted(7))));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_what_to_do_and_a_foreign_type_is_passed_over() {
        assert_eq!(read("b", "9", "null"), Ok(None));
        let refused = |kind, version, data| read(kind, version, data).unwrap_err();
        assert!(refused("a.named", "3.0", "{}").contains("deploy code that knows it"));
        assert!(refused("a.counted", "0", "1").contains("an upcaster from version 0"));
        assert!(
            refused("a.named", "1", "{}").contains("the shape of version 1: a field is missing")
        );
        let shape = "the expected shape: a field is missing or of another type, at column";
        for data in ["300", "\"4111\""] {
            let words = refused("a.counted", "1", data);
            assert!(words.contains(shape) && !words.contains(data.trim_matches('"')), "{words}");
        }
        assert!(refused("a.counted", "one", "1").contains("begin with a number"));
    }
}
