//! `[[table]]`: the tables whose changes are events.

use super::kind::shown;
use super::{ConfigError, Origin};
use crate::bounds;
use crate::table::TableRule;
use serde::Deserialize;

/// `[[table]]`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Its schema and its name, joined by a dot; the schema is `public` where none is named.
    pub name: String,
    /// The aggregate type of its events; the table's name where it is not set.
    #[serde(default, rename = "as")]
    pub aggregate_type: Option<String>,
    /// The columns whose values make the ordering key; the primary key where none is named.
    #[serde(default)]
    pub key: Vec<String>,
}

impl Table {
    /// The rule that it stands for.
    ///
    /// # Errors
    /// When its name cannot be one, or cannot begin an event type.
    pub fn rule(&self) -> Result<TableRule, ConfigError> {
        self.rule_of(Origin::File)
    }

    fn rule_of(&self, origin: Origin) -> Result<TableRule, ConfigError> {
        let range = |expected, found: &str| wrong(origin, expected, shown(found));
        let (schema, name) = self.name.split_once('.').unwrap_or(("public", &self.name));
        if schema.is_empty() || name.is_empty() || self.name.chars().any(char::is_control) {
            return Err(range("a table's name such as public.customers", &self.name));
        }
        let aggregate_type = self.aggregate_type.as_deref().unwrap_or(name);
        if aggregate_type.len() > 240 || !bounds::is_name(aggregate_type) {
            return Err(range(
                "a name without spaces, of at most 240 bytes, for its events (set `as`)",
                aggregate_type,
            ));
        }
        for (at, column) in self.key.iter().enumerate() {
            if column.is_empty() || self.key[..at].contains(column) {
                let found = format!("{} in the key of {}", shown(column), shown(&self.name));
                return Err(wrong(
                    origin,
                    "a table with the names of columns, each once, as its key",
                    found,
                ));
            }
        }
        Ok(TableRule {
            schema: schema.to_owned(),
            name: name.to_owned(),
            aggregate_type: aggregate_type.to_owned(),
            key: self.key.clone(),
        })
    }
}

/// Judges each table, and that none stands there twice.
pub(super) fn check(tables: &[Table], origin: Origin) -> Result<(), ConfigError> {
    let mut rules: Vec<TableRule> = Vec::new();
    for (at, table) in tables.iter().enumerate() {
        let rule = table.rule_of(origin)?;
        let same = |other: &TableRule| (&other.schema, &other.name) == (&rule.schema, &rule.name);
        if let Some(first) = rules.iter().position(same) {
            let found =
                format!("{} as entry {} and as entry {}", shown(&table.name), first + 1, at + 1);
            return Err(wrong(origin, "tables that are named once each", found));
        }
        rules.push(rule);
    }
    Ok(())
}

fn wrong(origin: Origin, expected: &str, found: String) -> ConfigError {
    let key = super::keys::of_name("table");
    let (key, variable) = (key.name, key.variable);
    ConfigError::Value { key, variable, expected: expected.to_owned(), found, origin }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    #[test]
    fn a_table_names_its_events_and_its_key() {
        let file = "[[table]]\nname = 'shop.customer list'\nas = 'customer'\nkey = ['id']\n[[table]]\nname = 'item'\n";
        let config = Config::from_sources(file, []).unwrap();
        let rules: Vec<_> = config.table.iter().map(|t| t.rule().unwrap()).collect();
        assert_eq!((rules[0].schema.as_str(), rules[0].name.as_str()), ("shop", "customer list"));
        assert_eq!((rules[0].aggregate_type.as_str(), rules[0].key.len()), ("customer", 1));
        assert_eq!(
            (rules[1].schema.as_str(), rules[1].aggregate_type.as_str()),
            ("public", "item")
        );
    }

    #[test]
    fn a_variable_names_tables_and_a_name_with_spaces_needs_another() {
        let variable = |value: &str| [("RELAY_TABLES".to_owned(), value.to_owned())];
        let config = Config::from_sources("", variable("public.a, b")).unwrap();
        assert_eq!(config.table.len(), 2);
        let error = Config::from_sources("", variable("public.my table")).unwrap_err().to_string();
        assert!(error.contains("(set `as`)"), "{error}");
        let error = Config::from_sources("", variable(".x")).unwrap_err().to_string();
        assert!(error.contains("such as public.customers"), "{error}");
    }
}
