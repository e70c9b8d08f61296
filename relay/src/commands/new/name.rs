//! What a projection may be called. PURE.

use std::str::FromStr;

/// The queue's name has the stack's name before it and `-dead.fifo` after it, in 80 characters.
const LONGEST: usize = 40;

/// Crates that the function itself uses, and those that Rust has.
const CRATES: &str = "\
    alloc consumer core local main proc_macro serde serde_json std test tokio";

/// Words that Rust keeps for itself.
const OF_RUST: &str = "\
    abstract as async await become box break const continue crate do dyn else enum extern false \
    final fn for gen if impl in let loop macro match mod move mut override priv pub ref return \
    self static struct super trait true try type typeof unsafe unsized use virtual where while";

/// Words that are no table's name in Postgres unless they are quoted.
/// <https://www.postgresql.org/docs/18/sql-keywords-appendix.html>, reserved, those of Rust left out.
const OF_POSTGRES: &str = "\
    all analyse analyze and any array asc asymmetric authorization binary both case cast check \
    collate collation column concurrently constraint create cross current_catalog current_date \
    current_role current_schema current_time current_timestamp current_user default deferrable \
    desc distinct end except fetch foreign freeze from full grant group having ilike initially \
    inner intersect into is isnull join lateral leading left like limit localtime localtimestamp \
    natural not notnull null offset on only or order outer overlaps placing primary references \
    returning right select session_user similar some symmetric system_user table tablesample \
    then to trailing union unique user using variadic verbose when window with";

/// A name such as `paid_orders`, in the spellings that it has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Name(String);

impl Name {
    /// `paid_orders`: the folder, the crate, the table.
    pub(super) fn snake(&self) -> &str {
        &self.0
    }

    /// `PaidOrders`: the type, and the beginning of what stands in the template.
    pub(super) fn pascal(&self) -> String {
        pascal(&self.0)
    }

    /// `paid-orders`: what AWS shows.
    pub(super) fn kebab(&self) -> String {
        self.0.replace('_', "-")
    }
}

/// Each word with a capital.
pub(super) fn pascal(snake: &str) -> String {
    let words = snake.split(['_', '.']).map(|word| {
        let mut letters = word.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    });
    words.collect()
}

/// Whether it is words of `a-z` and `0-9` with `_` between them, a letter first.
pub(super) fn is_snake(text: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    text.starts_with(|first: char| first.is_ascii_lowercase()) && text.split('_').all(is_word)
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !is_snake(text) || text.len() > LONGEST {
            return Err(format!(
                "expected words of a-z and 0-9 with _ between them, a letter first and {LONGEST} characters at most, such as paid_orders, found {text:?}"
            ));
        }
        let reserved = [
            (CRATES, "a crate that the function would use itself"),
            (OF_RUST, "a word of Rust"),
            (OF_POSTGRES, "a word of Postgres, which no table can be called"),
        ];
        let is_one = |words: &str| words.split(' ').any(|word| word == text);
        match reserved.into_iter().find(|(words, _)| is_one(words)) {
            Some((_, whose)) => {
                Err(format!("expected a name of your own, such as paid_{text}, found {whose}"))
            }
            None => Ok(Self(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_spellings() {
        let name: Name = "paid_orders_2".parse().unwrap();
        assert_eq!(name.snake(), "paid_orders_2");
        assert_eq!(name.pascal(), "PaidOrders2");
        assert_eq!(name.kebab(), "paid-orders-2");
    }

    #[test]
    fn what_is_no_name_is_refused_with_what_was_expected() {
        let long = "a".repeat(41);
        for bad in [
            "",
            "_",
            "a_",
            "_a",
            "a__b",
            "Paid",
            "paid-orders",
            "paid orders",
            "2a",
            "ä",
            "../a",
            &long,
        ] {
            let said = Name::from_str(bad).unwrap_err();
            assert!(
                said.contains("such as paid_orders") && said.contains(&format!("{bad:?}")),
                "{said}"
            );
        }
        for (bad, whose) in [
            ("match", "Rust"),
            ("gen", "Rust"),
            ("order", "Postgres"),
            ("user", "Postgres"),
            ("tokio", "crate"),
        ] {
            let said = Name::from_str(bad).unwrap_err();
            assert!(said.contains(whose), "{said}");
        }
    }
}
