//! What happens to orders and customers, as this projection reads it. PURE.
//!
//! Knows: the newest shape of each payload, and how an older one becomes it. Must not know: the
//! database.

use consumer::Upcasters;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;

consumer::events! {
    /// All that the list is made of.
    #[derive(Debug)]
    pub enum Happened {
        /// An order was begun.
        "order.created" => Created(Created),
        /// It has one more item.
        "order.item_added" => ItemAdded(ItemAdded),
        /// It was paid.
        "order.paid" => Paid(Nothing),
        /// It is on its way.
        "order.shipped" => Shipped(Nothing),
        /// It will not be.
        "order.cancelled" => Cancelled(Nothing),
        /// A customer has an account.
        "customer.registered" @ 2 => Registered(Registered),
        /// A customer lives elsewhere now.
        "customer.moved" => Moved(Moved),
    }
}

/// An order was begun.
#[derive(Debug, Deserialize)]
pub struct Created {
    /// Who ordered.
    pub customer_id: String,
    /// The currency of all its prices.
    pub currency: String,
}

/// An order has one more item.
#[derive(Debug, Deserialize)]
pub struct ItemAdded {
    /// How many of it.
    pub quantity: NonZeroU32,
    /// What one of them costs.
    pub unit_price: Price,
}

/// An event whose type says all that is wanted of it.
#[derive(Debug, Deserialize)]
pub struct Nothing {}

/// A customer has an account.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Registered {
    /// The first word of the name.
    pub first_name: String,
    /// The rest of it; may be empty.
    pub last_name: String,
    /// Where they live.
    pub city: String,
}

/// Version 1 had the name in one piece.
#[derive(Debug, Deserialize)]
struct RegisteredV1 {
    name: String,
    city: String,
}

/// A customer lives elsewhere now.
#[derive(Debug, Deserialize)]
pub struct Moved {
    /// Where.
    pub city: String,
}

/// The steps from old versions to the newest.
pub(crate) fn upcasters() -> Upcasters {
    Upcasters::default().step("customer.registered", 1, |old: RegisteredV1| {
        let (first, last) = old.name.split_once(' ').unwrap_or((&old.name, ""));
        Registered { first_name: first.to_owned(), last_name: last.to_owned(), city: old.city }
    })
}

impl Registered {
    /// The name as it is shown.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {}", self.first_name, self.last_name).trim().to_owned()
    }
}

/// A decimal as text, such as `12.50`: money never passes through a float.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Price(String);

impl Price {
    /// The text, which Postgres reads as a `numeric`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Price {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = text.strip_prefix('-').unwrap_or(&text);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits =
            |part: &str| (1..=30).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        match all_digits(whole) && all_digits(fraction) {
            true => Ok(Self(text)),
            false => Err("expected a price such as \"12.50\""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{json, value::to_raw_value};

    #[test]
    fn the_first_version_of_a_registration_reads_as_the_second() {
        for (name, first, last) in
            [("Ada King Noel", "Ada", "King Noel"), ("Plato", "Plato", ""), ("", "", "")]
        {
            let old = to_raw_value(&json!({ "name": name, "city": "Paris" })).unwrap();
            let new = upcasters().upcast("customer.registered", &old, 1, 2).unwrap();
            let new: Registered = serde_json::from_str(new.get()).unwrap();
            let expected = (first.to_owned(), last.to_owned());
            assert_eq!((new.first_name.clone(), new.last_name.clone()), expected);
            assert_eq!(new.name(), name);
        }
    }

    #[test]
    fn prices_are_told_from_other_texts() {
        for good in ["0", "12.50", "-1.5", "99999999999999999999.99"] {
            assert!(Price::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", ".", "1.", ".5", "1e9", "NaN", "1,5", " 1", "--1"] {
            assert!(Price::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
