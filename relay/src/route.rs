//! Which event goes where, and in which format.

use crate::config::{Destinations, Settings};
use crate::publish::DestinationId;
use envelope::Format;
use std::collections::HashMap;

/// The routes of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    by_type: HashMap<String, DestinationId>,
    default: Option<DestinationId>,
    /// By their addresses.
    by_address: HashMap<String, DestinationId>,
    /// By the place of a destination.
    settings: Vec<Settings>,
}

impl Routes {
    /// The routes that a configuration names.
    #[must_use]
    pub fn new(destinations: &Destinations) -> Self {
        let by_type = destinations.by_type.iter();
        Self {
            by_type: by_type.map(|(name, at)| (name.clone(), DestinationId(*at))).collect(),
            default: destinations.default.map(DestinationId),
            by_address: (0..)
                .zip(&destinations.addresses)
                .map(|(at, address)| (address.to_string(), DestinationId(at)))
                .collect(),
            settings: destinations.settings.clone(),
        }
    }

    /// Everything to one destination, in the default format.
    #[must_use]
    pub fn all_to(destination: DestinationId) -> Self {
        Self { default: Some(destination), ..Self::default() }
    }

    /// Where the events of this aggregate type go; `None` when nothing says.
    #[must_use]
    pub fn destination(&self, aggregate_type: &str) -> Option<DestinationId> {
        self.by_type.get(aggregate_type).copied().or(self.default)
    }

    /// Where a dead letter goes again: to the address it was meant for, or where the routes of
    /// today send its like when events do not go there any more.
    #[must_use]
    pub fn redriven(&self, address: &str, aggregate_type: Option<&str>) -> Option<DestinationId> {
        let same = self.by_address.get(address).copied();
        same.or_else(|| self.destination(aggregate_type?))
    }

    /// The format of a destination.
    #[must_use]
    pub fn format(&self, destination: DestinationId) -> Format {
        self.settings.get(destination.0).map(|settings| settings.format).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_goes_its_own_way_and_the_rest_to_the_default() {
        let destinations = Destinations {
            addresses: Vec::new(),
            settings: Vec::new(),
            default: None,
            by_type: [("order".to_owned(), 1)].into(),
        };
        let mut routes = Routes::new(&destinations);
        assert_eq!(routes.destination("order"), Some(DestinationId(1)));
        assert_eq!(routes.destination("customer"), None);
        routes.default = Some(DestinationId(0));
        assert_eq!(routes.destination("customer"), Some(DestinationId(0)));
    }
}
