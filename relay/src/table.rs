//! A published table whose changes become events: which, under what name, with what key.
//!
//! Knows: the rules of the configuration, and a table as the stream describes
//! it. Must not know: values, where an event goes.

use crate::transaction::Image;
use pgoutput::{Column, Relation, ReplicaIdentity, Value};
use std::collections::HashMap;

/// What the configuration says of one table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TableRule {
    /// Its schema.
    pub schema: String,
    /// Its name; a partitioned table's own, not its partitions'.
    pub name: String,
    /// The aggregate type of its events, and the first part of their type.
    pub aggregate_type: String,
    /// The columns whose values make the ordering key; none for the primary key.
    pub key: Vec<String>,
}

impl TableRule {
    /// Its name as SQL.
    #[must_use]
    pub fn quoted(&self) -> String {
        let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        format!("{}.{}", quote(&self.schema), quote(&self.name))
    }
}

/// The columns of each table's primary key, by schema and name, as the catalogue has them now.
pub type PrimaryKeys = HashMap<(String, String), Vec<String>>;

/// One column of a captured table.
#[derive(Clone, Debug)]
pub(crate) struct CapturedColumn {
    /// The column's name.
    pub(crate) name: String,
    /// Its name as a JSON member, with the colon.
    pub(crate) member: String,
    pub(crate) type_oid: u32,
    /// Whether it belongs to the replica identity.
    pub(crate) identity: bool,
}

/// A rule and the table it is about, as one description of it in the stream has it.
#[derive(Clone, Debug)]
pub struct Capture {
    pub(crate) aggregate_type: String,
    /// `schema.name`.
    pub(crate) table: String,
    pub(crate) columns: Vec<CapturedColumn>,
    /// The places of the columns that make the key; none where all changes share one.
    key: Vec<usize>,
    /// Whether the configured key could not be had.
    pub(crate) other_key: bool,
}

/// A row whose key cannot be read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {
    /// The server did not send the key's column.
    #[error(
        "expected the value of the key column {column}, found that the server did not send it; run ALTER TABLE {table} REPLICA IDENTITY FULL, or make the key of columns that belong to its replica identity"
    )]
    Unknown {
        /// The column.
        column: String,
        /// The table.
        table: String,
    },
    /// The key's column is null.
    #[error("expected a value in the key column {column}, found null")]
    Null {
        /// The column.
        column: String,
    },
    /// The key is not text.
    #[error("expected UTF-8 text in the key column {column}")]
    Text {
        /// The column.
        column: String,
    },
}

impl Capture {
    /// Binds a rule to a table.
    ///
    /// The key is made of the configured columns, or else of the primary key where the replica
    /// identity has it, or else of the replica identity. A table that has none of them has one key for all its changes: slower,
    /// and in order.
    #[must_use]
    pub fn of(rule: &TableRule, relation: &Relation, primary_keys: &PrimaryKeys) -> Self {
        let place = |name: &String| relation.columns.iter().position(|c| c.name == *name);
        let all = |names: &[String]| -> Option<Vec<usize>> {
            names.iter().map(place).collect::<Option<Vec<_>>>().filter(|key| !key.is_empty())
        };
        let configured = all(&rule.key);
        let other_key = configured.is_none() && !rule.key.is_empty();
        // A key whose old value does not come with a deletion would be none.
        let told = |key: &Vec<usize>| {
            relation.identity == ReplicaIdentity::Nothing
                || key.iter().all(|at| relation.columns[*at].key)
        };
        let primary = || {
            let names = primary_keys.get(&(relation.schema.clone(), relation.name.clone()))?;
            all(names).filter(told)
        };
        let identity = || match relation.identity {
            ReplicaIdentity::Default | ReplicaIdentity::Index => {
                (0..relation.columns.len()).filter(|at| relation.columns[*at].key).collect()
            }
            // Full flags every column, nothing none.
            ReplicaIdentity::Full | ReplicaIdentity::Nothing => Vec::new(),
        };
        let columns = relation.columns.iter().map(|column| {
            let mut member = String::new();
            envelope::write_text(&mut member, &column.name);
            member.push(':');
            CapturedColumn {
                name: column.name.clone(),
                member,
                type_oid: column.type_oid,
                identity: column.key,
            }
        });
        Self {
            aggregate_type: rule.aggregate_type.clone(),
            table: format!("{}.{}", relation.schema, relation.name),
            columns: columns.collect(),
            key: configured.or_else(primary).unwrap_or_else(identity),
            other_key,
        }
    }

    /// A column's value, where this image of the row has it.
    pub(crate) fn value<'a>(&self, image: &Image<'a>, column: usize) -> Option<Value<'a>> {
        if let Image::Key(_) = image
            && !self.columns.get(column)?.identity
        {
            return None;
        }
        image.tuple().values().nth(column).filter(|value| *value != Value::UnchangedToast)
    }

    /// The ordering key of a row: the text of its key column, or a JSON array of several.
    ///
    /// The first image that has a value gives it: a new row leaves out a TOASTed one that did
    /// not change, and the old one may have it.
    ///
    /// # Errors
    /// When a key column has no value in any.
    pub(crate) fn key(&self, images: &[Image<'_>]) -> Result<String, KeyError> {
        let texts = self.key.iter().map(|&at| self.key_text(images, at));
        match texts.collect::<Result<Vec<_>, _>>()?.as_slice() {
            [] => Ok(self.table.clone()),
            [one] => Ok((*one).to_owned()),
            several => {
                let mut key = String::from("[");
                for (at, text) in several.iter().enumerate() {
                    if at > 0 {
                        key.push(',');
                    }
                    envelope::write_text(&mut key, text);
                }
                key.push(']');
                Ok(key)
            }
        }
    }

    /// The key as far as it is known, for a change whose key cannot be read: the columns of the
    /// replica identity by name, where the key's own column was not sent.
    pub(crate) fn told_key(&self, columns: &[Column], image: Option<Image<'_>>) -> String {
        let Some(image) = image else { return self.aggregate_type.clone() };
        let key = self.key(&[image]).unwrap_or_else(|_| {
            let named = |at: usize| {
                let column = columns.get(at).filter(|column| column.key)?;
                match self.value(&image, at)? {
                    Value::Text(text) => {
                        Some(format!("{}={}", column.name, String::from_utf8_lossy(text)))
                    }
                    _ => None,
                }
            };
            (0..columns.len()).filter_map(named).collect::<Vec<_>>().join(",")
        });
        envelope::ordering_key(None, &self.aggregate_type, &key)
    }

    fn key_text<'a>(&self, images: &[Image<'a>], at: usize) -> Result<&'a str, KeyError> {
        let column = || self.columns.get(at).map(|c| c.name.clone()).unwrap_or_default();
        match images.iter().find_map(|image| self.value(image, at)) {
            Some(Value::Text(text)) => {
                std::str::from_utf8(text).map_err(|_| KeyError::Text { column: column() })
            }
            Some(Value::Null) => Err(KeyError::Null { column: column() }),
            Some(Value::Binary(_)) => Err(KeyError::Text { column: column() }),
            Some(Value::UnchangedToast) | None => {
                Err(KeyError::Unknown { column: column(), table: self.table.clone() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::tests::{relation, tuple};
    use pgoutput::Tuple;

    fn rule(key: &[&str]) -> TableRule {
        TableRule {
            schema: "public".to_owned(),
            name: "line".to_owned(),
            aggregate_type: "line".to_owned(),
            key: key.iter().map(|k| (*k).to_owned()).collect(),
        }
    }

    #[test]
    fn the_key_is_the_configured_one_or_the_primary_one_or_the_identity_or_the_table() {
        let table =
            relation("line", ReplicaIdentity::Default, &[("a", true), ("b", true), ("c", false)]);
        let row = tuple(&[Some("1"), Some("x\"y"), Some("3")]);
        let row = [Image::Row(Tuple::decode(&row).unwrap())];
        let none = PrimaryKeys::new();
        let key = |rule: &TableRule, keys| Capture::of(rule, &table, keys).key(&row);
        assert_eq!(key(&rule(&["c"]), &none).unwrap(), "3");
        assert_eq!(key(&rule(&[]), &none).unwrap(), r#"["1","x\"y"]"#);
        let primary = [(("public".to_owned(), "line".to_owned()), vec!["a".to_owned()])].into();
        assert_eq!(key(&rule(&[]), &primary).unwrap(), "1");
        let missing = Capture::of(&rule(&["gone"]), &table, &primary);
        assert!(missing.other_key && missing.key(&row).unwrap() == "1");
        let full =
            relation("line", ReplicaIdentity::Full, &[("a", true), ("b", true), ("c", true)]);
        assert_eq!(Capture::of(&rule(&[]), &full, &none).key(&row).unwrap(), "public.line");
    }

    #[test]
    fn a_key_that_the_server_does_not_send_is_named_with_the_cure() {
        let table = relation("line", ReplicaIdentity::Default, &[("a", true), ("b", false)]);
        let capture = Capture::of(&rule(&["b"]), &table, &PrimaryKeys::new());
        let old = tuple(&[Some("1"), None]);
        let error = capture.key(&[Image::Key(Tuple::decode(&old).unwrap())]).unwrap_err();
        assert!(error.to_string().contains("public.line REPLICA IDENTITY FULL"), "{error}");
        let null = capture.key(&[Image::Row(Tuple::decode(&old).unwrap())]).unwrap_err();
        assert_eq!(null, KeyError::Null { column: "b".to_owned() });
    }
}
