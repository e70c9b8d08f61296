//! Tables as the stream describes them.

use crate::Error;
use crate::cursor::Cursor;
use std::collections::HashMap;

/// The schema of what is built in, which the protocol writes as an empty name.
pub(crate) const BUILT_IN: &str = "pg_catalog";

/// Which old values an update or a delete carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReplicaIdentity {
    /// The primary key's.
    Default,
    /// None.
    Nothing,
    /// All.
    Full,
    /// Those of a chosen unique index.
    Index,
}

/// One column of a relation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Column {
    /// Whether it belongs to the replica identity.
    pub key: bool,
    /// Its name.
    pub name: String,
    /// Its type's oid.
    pub type_oid: u32,
    /// Its type's modifier, -1 for none.
    pub type_modifier: i32,
}

/// A table, as it was when the changes that follow were made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Relation {
    /// Its oid.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Which old values come with its changes.
    pub identity: ReplicaIdentity,
    /// Its published columns, in the order of the tuples.
    pub columns: Vec<Column>,
}

impl Relation {
    pub(crate) fn read(cursor: &mut Cursor<'_>) -> Result<Self, Error> {
        let oid = cursor.u32()?;
        let schema = match cursor.name()?.as_str() {
            "" => BUILT_IN.to_owned(),
            named => named.to_owned(),
        };
        let name = cursor.name()?;
        let offset = cursor.offset();
        let identity = match cursor.u8()? {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            found => {
                return Err(Error::Tag { expected: "a replica identity", offset, found });
            }
        };
        let count = cursor.count()?;
        // Not `with_capacity(count)`: a count is only believed once its columns were read.
        let mut columns = Vec::new();
        for _ in 0..count {
            columns.push(Column {
                key: cursor.u8()? & 1 == 1,
                name: cursor.name()?,
                type_oid: cursor.u32()?,
                type_modifier: cursor.i32()?,
            });
        }
        Ok(Self { oid, schema, name, identity, columns })
    }
}

/// Reads a schema's name; the protocol leaves that of what is built in out.
pub(crate) fn schema<'a>(cursor: &mut Cursor<'a>) -> Result<&'a str, Error> {
    match cursor.text()? {
        "" => Ok(BUILT_IN),
        named => Ok(named),
    }
}

/// The relations described so far, by oid; each replaced by its next description.
#[derive(Debug, Default)]
pub struct Relations {
    by_oid: HashMap<u32, Relation>,
}

impl Relations {
    /// Keeps a description, in place of an older one.
    pub fn insert(&mut self, relation: Relation) {
        self.by_oid.insert(relation.oid, relation);
    }

    /// The relation with this oid.
    ///
    /// # Errors
    /// When the stream never described it.
    pub fn get(&self, oid: u32) -> Result<&Relation, Error> {
        self.by_oid.get(&oid).ok_or(Error::UnknownRelation { oid })
    }
}
