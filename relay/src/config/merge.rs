//! The file and the environment become one table of values that are judged one by one.
//!
//! Knows: the keys. Must not know: what values mean together.

use super::error::{ConfigError, Origin};
use super::keys::{KEYS, Key, misspelt};
use std::collections::BTreeSet;
use std::ffi::OsString;

/// The values of the file, with those of the variables put over them.
pub(super) struct Merged {
    pub(super) table: toml::Table,
    of_variables: BTreeSet<&'static str>,
}

impl Merged {
    pub(super) fn of_file(text: &str) -> Result<Self, ConfigError> {
        let table = text.parse().map_err(|error: toml::de::Error| {
            // Its Display quotes the line, and so a password in it.
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map(|before| before.matches('\n').count() + 1);
            let line = line.map(|line| format!(" in line {line}")).unwrap_or_default();
            ConfigError::Invalid {
                message: format!("expected TOML, found an error{line}: {}", error.message()),
            }
        })?;
        Ok(Self { table, of_variables: BTreeSet::new() })
    }

    /// Takes a variable. One without a value counts as not set.
    pub(super) fn variable(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let Some(key) = KEYS.iter().find(|key| key.variable == name) else {
            return match misspelt(name) {
                Some(nearest) => {
                    Err(ConfigError::UnknownVariable { found: name.to_owned(), nearest })
                }
                None => Ok(()),
            };
        };
        // A mounted secret often ends with a newline.
        let value = value.trim();
        if value.is_empty() {
            return Ok(());
        }
        let value = key
            .kind
            .of_variable(value)
            .map_err(|found| wrong(key, Origin::Variable, key.kind.expected(), found))?;
        match key.name.split_once('.') {
            None => {
                self.table.insert(key.name.to_owned(), value);
            }
            Some((section, name)) => {
                let empty = || toml::Value::Table(toml::Table::new());
                let section = self.table.entry(section).or_insert_with(empty);
                // Where the file has something else of that name, the file's error is told.
                if let Some(section) = section.as_table_mut() {
                    section.insert(name.to_owned(), value);
                }
            }
        }
        self.of_variables.insert(key.name);
        Ok(())
    }

    /// Judges each value by its key. Spaces around a text are not part of it, and an empty text
    /// counts as not set.
    pub(super) fn check(&mut self) -> Result<(), ConfigError> {
        for key in KEYS {
            let origin = self.origin(key.name);
            let (table, name) = match key.name.split_once('.') {
                None => (Some(&mut self.table), key.name),
                Some((section, name)) => {
                    (self.table.get_mut(section).and_then(toml::Value::as_table_mut), name)
                }
            };
            let Some(table) = table else { continue };
            if let Some(toml::Value::String(text)) = table.get_mut(name) {
                *text = text.trim().to_owned();
                if text.is_empty() {
                    table.remove(name);
                }
            }
            let Some(value) = table.get(name) else { continue };
            let checked = key.kind.check(value);
            checked.map_err(|found| wrong(key, origin, key.kind.expected(), found))?;
        }
        Ok(())
    }

    /// Whether the file or a variable says something of a key.
    pub(super) fn has(&self, name: &str) -> bool {
        match name.split_once('.') {
            None => self.table.contains_key(name),
            Some((section, name)) => self
                .table
                .get(section)
                .and_then(toml::Value::as_table)
                .is_some_and(|section| section.contains_key(name)),
        }
    }

    /// Where the value of a key stands.
    pub(super) fn origin(&self, name: &str) -> Origin {
        if self.of_variables.contains(name) { Origin::Variable } else { Origin::File }
    }

    /// An error of a key's value.
    pub(super) fn wrong(&self, name: &str, expected: &str, found: String) -> ConfigError {
        wrong(super::keys::of_name(name), self.origin(name), expected.to_owned(), found)
    }
}

fn wrong(key: &Key, origin: Origin, expected: String, found: String) -> ConfigError {
    ConfigError::Value { key: key.name, variable: key.variable, expected, found, origin }
}

/// The variables as text. Bytes that are no UTF-8 are an error in a variable of ours, and no
/// matter in others.
pub(super) fn texts(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut texts = Vec::new();
    for (name, value) in environment {
        let Ok(name) = name.into_string() else { continue };
        match (value.into_string(), KEYS.iter().find(|key| key.variable == name)) {
            (Ok(value), _) => texts.push((name, value)),
            (Err(_), Some(key)) => {
                let found = "bytes that are not".to_owned();
                return Err(wrong(key, Origin::Variable, "UTF-8 text".to_owned(), found));
            }
            (Err(_), None) => texts.push((name, String::new())),
        }
    }
    Ok(texts)
}
