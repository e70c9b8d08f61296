//! Old shapes of a payload to newer ones, step by step. PURE.
//!
//! Knows: which step leads from a version of an event type to the next. Must not know: events'
//! envelopes, the database, handlers.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

type Step = Box<dyn Fn(&RawValue) -> Result<Box<RawValue>, serde_json::Error> + Send + Sync>;

/// Steps from a version of an event type's payload to the next.
///
/// A version is the number before the first dot of `event_version`: `1` for `1.0` and `1.4`. What
/// changes behind the dot is taken to be readable by the same code.
///
/// ```
/// use consumer::Upcasters;
///
/// #[derive(serde::Deserialize)]
/// struct NameV1 {
///     name: String,
/// }
///
/// #[derive(serde::Deserialize, serde::Serialize)]
/// struct NameV2 {
///     first: String,
///     last: String,
/// }
///
/// let upcasters = Upcasters::default().step("customer.registered", 1, |old: NameV1| {
///     let (first, last) = old.name.split_once(' ').unwrap_or((&old.name, ""));
///     NameV2 { first: first.to_owned(), last: last.to_owned() }
/// });
/// # let _ = upcasters;
/// ```
#[derive(Default)]
pub struct Upcasters {
    steps: HashMap<String, HashMap<u32, Step>>,
}

/// Why a payload cannot be brought to the newest version.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpcastError {
    /// There is no step from this version.
    #[error("expected an upcaster from version {from} of {event_type}, found none")]
    NoStep {
        /// Type of the event, such as `customer.registered`.
        event_type: String,
        /// Version of the payload that no step begins at, or that it was read as.
        from: u32,
    },
    /// The payload does not have the shape of its version.
    #[error("the data of {event_type} does not have the shape of version {from}")]
    Shape {
        /// Type of the event, such as `customer.registered`.
        event_type: String,
        /// Version of the payload that no step begins at, or that it was read as.
        from: u32,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl Upcasters {
    /// Adds the step from version `from` of an event type to `from + 1`: a pure function.
    #[must_use]
    pub fn step<Old, New>(
        mut self,
        event_type: &str,
        from: u32,
        convert: impl Fn(Old) -> New + Send + Sync + 'static,
    ) -> Self
    where
        Old: DeserializeOwned,
        New: Serialize,
    {
        let step = move |data: &RawValue| to_raw_value(&convert(serde_json::from_str(data.get())?));
        self.steps.entry(event_type.to_owned()).or_default().insert(from, Box::new(step));
        self
    }

    /// The payload in version `to`; borrowed where it is of that version already.
    ///
    /// # Errors
    /// When a step is missing, or the payload is not what its version says.
    pub fn upcast<'a>(
        &self,
        event_type: &str,
        data: &'a RawValue,
        from: u32,
        to: u32,
    ) -> Result<Cow<'a, RawValue>, UpcastError> {
        let mut data = Cow::Borrowed(data);
        for version in from..to {
            let step = self.steps.get(event_type).and_then(|steps| steps.get(&version));
            let event_type = || event_type.to_owned();
            let step = step
                .ok_or_else(|| UpcastError::NoStep { event_type: event_type(), from: version })?;
            data = Cow::Owned(step(&data).map_err(|source| UpcastError::Shape {
                event_type: event_type(),
                from: version,
                source,
            })?);
        }
        Ok(data)
    }
}

impl fmt::Debug for Upcasters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps =
            self.steps.iter().flat_map(|(kind, steps)| steps.keys().map(move |v| (kind, v)));
        f.debug_list().entries(steps).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn upcasters() -> Upcasters {
        Upcasters::default().step("a", 1, |old: Vec<u8>| serde_json::json!({ "all": old })).step(
            "a",
            2,
            |old: Value| serde_json::json!({ "of": old["all"] }),
        )
    }

    #[test]
    fn steps_follow_each_other_from_whatever_version() {
        let chain = upcasters();
        let upcast =
            |from, data: &str| chain.upcast("a", &raw(data), from, 3).unwrap().get().to_owned();
        assert_eq!(upcast(1, "[1,2]"), r#"{"of":[1,2]}"#);
        assert_eq!(upcast(2, r#"{"all":[]}"#), r#"{"of":[]}"#);
        // The newest passes byte for byte.
        assert_eq!(upcast(3, r#"{"of" : 1.50}"#), r#"{"of" : 1.50}"#);
    }

    #[test]
    fn a_missing_step_and_a_wrong_shape_are_told_apart() {
        let chain = upcasters();
        let missing = chain.upcast("a", &raw("[]"), 0, 3).unwrap_err();
        assert!(matches!(missing, UpcastError::NoStep { from: 0, .. }), "{missing}");
        let shape = chain.upcast("a", &raw("{}"), 1, 3).unwrap_err();
        assert!(matches!(shape, UpcastError::Shape { from: 1, .. }), "{shape}");
        assert!(matches!(chain.upcast("b", &raw("1"), 1, 2), Err(UpcastError::NoStep { .. })));
    }
}
