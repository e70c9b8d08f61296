//! The event types that a projection is made of. PURE.

use super::name::{is_snake, pascal};
use std::collections::HashMap;
use std::str::FromStr;

/// A filter policy has 150 combinations of values at most (aggregate types times event types):
/// <https://docs.aws.amazon.com/sns/latest/dg/subscription-filter-policy-constraints.html>.
const COMBINATIONS: usize = 150;

/// A type such as `order.item_added`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct EventType(String);

impl EventType {
    /// `order.item_added`.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// `order`: what it happens to.
    pub(super) fn aggregate(&self) -> &str {
        self.0.split_once('.').map_or(&self.0, |(aggregate, _)| aggregate)
    }

    /// `item_added`: what happens.
    pub(super) fn what(&self) -> &str {
        self.0.split_once('.').map_or(&self.0, |(_, what)| what)
    }

    /// `OrderItemAdded`: its variant and its payload.
    pub(super) fn pascal(&self) -> String {
        pascal(&self.0)
    }
}

/// Some of them, in the order in which they were given; at least one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct EventTypes(Vec<EventType>);

impl EventTypes {
    pub(super) fn iter(&self) -> impl Iterator<Item = &EventType> {
        self.0.iter()
    }

    /// What they happen to, each once.
    pub(super) fn aggregates(&self) -> Vec<&str> {
        let mut aggregates: Vec<&str> = Vec::new();
        for aggregate in self.0.iter().map(EventType::aggregate) {
            if !aggregates.contains(&aggregate) {
                aggregates.push(aggregate);
            }
        }
        aggregates
    }
}

impl FromStr for EventTypes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut seen: HashMap<String, &str> = HashMap::new();
        let mut types = Vec::new();
        for kind in text.split(',').map(str::trim) {
            let words: Vec<&str> = kind.split('.').collect();
            if words.len() < 2 || !words.iter().all(|word| is_snake(word)) {
                return Err(format!(
                    "expected what it happens to, a dot and what happened, such as order.item_added, found {kind:?}"
                ));
            }
            if let Some(before) = seen.insert(pascal(kind), kind) {
                return Err(format!(
                    "expected event types that differ as Rust names, found {before:?} and {kind:?}"
                ));
            }
            types.push(EventType(kind.to_owned()));
        }
        let types = Self(types);
        let combinations = types.aggregates().len() * types.0.len();
        if combinations > COMBINATIONS {
            return Err(format!(
                "expected {COMBINATIONS} combinations of aggregate types and event types at most, which is what a filter policy holds, found {combinations}"
            ));
        }
        Ok(types)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_types_say_what_happened_to_what() {
        let types: EventTypes =
            "order.item_added, order.paid,customer.address.moved".parse().unwrap();
        let told: Vec<_> =
            types.iter().map(|kind| (kind.aggregate(), kind.what(), kind.pascal())).collect();
        assert_eq!(
            told,
            [
                ("order", "item_added", "OrderItemAdded".to_owned()),
                ("order", "paid", "OrderPaid".to_owned()),
                ("customer", "address.moved", "CustomerAddressMoved".to_owned()),
            ]
        );
        assert_eq!(types.aggregates(), ["order", "customer"]);
    }

    #[test]
    fn what_is_no_list_of_types_is_refused_with_what_was_expected() {
        for bad in ["", "paid", "order.", ".paid", "Order.paid", "order.paid,", "a.b\"", "a b.c"] {
            let said = EventTypes::from_str(bad).unwrap_err();
            assert!(said.contains("such as order.item_added"), "{bad}: {said}");
        }
        for twice in ["order.paid,order.paid", "order.item_added,order.item.added"] {
            assert!(EventTypes::from_str(twice).unwrap_err().contains("that differ"), "{twice}");
        }
        let many: Vec<String> = (0..13).map(|n| format!("a{n}.b")).collect();
        assert!(EventTypes::from_str(&many.join(",")).unwrap_err().contains("found 169"));
    }
}
