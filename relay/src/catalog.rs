//! What the database knows and the stream does not tell: primary keys, types that are not built
//! in, and the keys that messages of our own are signed with.

use crate::condition::Failures;
use crate::outbox::{SCHEMA, TABLE};
use crate::publish::Retry;
use crate::secret::{Secret, Secrets};
use crate::table::{PrimaryKeys, TableRule};
use crate::value::Type;
use dsn::Dsn;
use std::collections::HashMap;
use tokio_postgres::Client;
use tokio_postgres::types::{Field, Kind};

/// Why the catalogue did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// There is no connection.
    #[error("no connection to ask the catalogue with")]
    Connect(#[from] dsn::Error),
    /// A question failed.
    #[error("the catalogue did not answer")]
    Query(#[from] tokio_postgres::Error),
}

/// The primary keys of the tables that the rules name, in the order of their columns.
///
/// # Errors
/// When the server does not answer.
pub(crate) async fn primary_keys(
    client: &Client,
    rules: &[TableRule],
) -> Result<PrimaryKeys, CatalogError> {
    const SQL: &str = "select array_agg(a.attname::text order by k.place)
        from pg_index as i
        join pg_class as c on c.oid = i.indrelid
        join pg_namespace as n on n.oid = c.relnamespace
        cross join unnest(i.indkey::smallint[]) with ordinality as k (attnum, place)
        join pg_attribute as a on a.attrelid = c.oid and a.attnum = k.attnum
        where i.indisprimary and n.nspname = $1 and c.relname = $2
        group by c.oid";
    let mut keys = PrimaryKeys::new();
    for rule in rules {
        if let Some(row) = client.query_opt(SQL, &[&rule.schema, &rule.name]).await? {
            keys.insert((rule.schema.clone(), rule.name.clone()), row.get(0));
        }
    }
    Ok(keys)
}

/// The oid of the outbox and of each table that a rule names, by schema and name: a table that is
/// renamed is known by it.
///
/// # Errors
/// When the server does not answer.
pub(crate) async fn oids(
    client: &Client,
    rules: &[TableRule],
) -> Result<HashMap<(String, String), u32>, CatalogError> {
    const SQL: &str = "select n.nspname::text, c.relname::text, c.oid
        from pg_catalog.pg_class as c
        join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
        join unnest($1::text[], $2::text[]) as w (s, t) on n.nspname = w.s and c.relname = w.t";
    let wanted = rules.iter().map(|rule| (rule.schema.as_str(), rule.name.as_str()));
    let (schemas, names): (Vec<_>, Vec<_>) = wanted.chain([(SCHEMA, TABLE)]).unzip();
    let rows = client.query(SQL, &[&schemas, &names]).await?;
    Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect())
}

/// The keys of `relay.secret`.
///
/// # Errors
/// When the server does not answer.
pub(crate) async fn secrets(client: &Client) -> Result<Secrets, CatalogError> {
    const SQL: &str = "select id, inner_key, outer_key, unsigned_until from relay.secret";
    let secret = |row: &tokio_postgres::Row| {
        let until: Option<tokio_postgres::types::PgLsn> = row.get(3);
        let id = u32::try_from(row.get::<_, i32>(0)).unwrap_or_default();
        Secret::new(id, row.get(1), row.get(2), until.map(|until| u64::from(until).into()))
    };
    Ok(Secrets::new(client.query(SQL, &[]).await?.iter().map(secret).collect()))
}

/// The keys of `relay.secret`, once one of this id or a greater one is among them; tries for as
/// long as it takes, and says in `failures` why it has not read them yet. The transaction that made
/// it may be read before it is visible.
pub(crate) async fn ask_secrets(dsn: &Dsn, newest: u32, failures: Failures) -> Secrets {
    let task = failures.task();
    let mut retry = Retry::default();
    loop {
        match try_ask_secrets(dsn).await {
            Ok(secrets) if secrets.newest() >= newest => return secrets,
            Ok(_) => tracing::debug!(newest, "the new key of relay.secret is not visible yet"),
            Err(error) => task.failed(dsn::causes(&error)),
        }
        tokio::time::sleep(retry.next(fastrand::f64())).await;
    }
}

async fn try_ask_secrets(dsn: &Dsn) -> Result<Secrets, CatalogError> {
    let (client, driver) = dsn.connect("relay secrets").await?;
    let secrets = secrets(&client).await;
    drop(client);
    driver.abort();
    secrets
}

/// Types by their oids, with those they are made of; tries for as long as it takes, and says in
/// `failures` why it has none yet.
pub(crate) async fn ask(dsn: &Dsn, oids: Vec<u32>, failures: Failures) -> Vec<(u32, Type)> {
    let task = failures.task();
    let mut retry = Retry::default();
    loop {
        match try_ask(dsn, &oids).await {
            Ok(types) => return types,
            Err(error) => task.failed(dsn::causes(&error)),
        }
        tokio::time::sleep(retry.next(fastrand::f64())).await;
    }
}

async fn try_ask(dsn: &Dsn, oids: &[u32]) -> Result<Vec<(u32, Type)>, CatalogError> {
    let (client, driver) = dsn.connect("relay types").await?;
    let types = Described::read(&client, oids).await;
    drop(client);
    driver.abort();
    let types = types?;
    Ok(oids.iter().map(|oid| (*oid, types.build(*oid, DEEPEST))).collect())
}

/// How deep a type may be made of others; Postgres has no circles among them.
const DEEPEST: u8 = 32;

/// Rows of `pg_type`: types that are not built in, and all that they are made of.
///
/// The driver would find them by preparing a column of each, which needs USAGE on the type's
/// schema. Everyone may read the catalogue.
#[derive(Debug, Default)]
struct Described {
    types: HashMap<u32, Row>,
    /// The columns of composite types, by the oid of the relation that describes them.
    fields: HashMap<u32, Vec<(String, u32)>>,
}

#[derive(Debug)]
struct Row {
    name: String,
    schema: String,
    /// `pg_type.typtype`.
    kind: String,
    /// Of an array, of a domain and of a range: the other type; else 0.
    element: u32,
    base: u32,
    subtype: u32,
    /// The relation of a composite type, else 0.
    relation: u32,
}

impl Described {
    async fn read(client: &Client, oids: &[u32]) -> Result<Self, tokio_postgres::Error> {
        let mut known = Self::default();
        let mut wanted: Vec<u32> = oids.to_vec();
        while !wanted.is_empty() {
            let mut parts = known.read_types(client, &wanted).await?;
            let rows = wanted.iter().filter_map(|oid| known.types.get(oid));
            let relations: Vec<u32> =
                rows.map(|row| row.relation).filter(|oid| *oid != 0).collect();
            parts.extend(known.read_fields(client, &relations).await?);
            let types = &known.types;
            let is_new = |oid: &u32| Type::from_oid(*oid).is_none() && !types.contains_key(oid);
            parts.retain(|oid| *oid != 0 && is_new(oid));
            parts.sort_unstable();
            parts.dedup();
            wanted = parts;
        }
        Ok(known)
    }

    /// Reads these types; returns what they are made of, with 0 for nothing.
    async fn read_types(
        &mut self,
        client: &Client,
        oids: &[u32],
    ) -> Result<Vec<u32>, tokio_postgres::Error> {
        const SQL: &str = "select t.oid, t.typname::text, n.nspname::text, t.typtype::text,
                case when t.typcategory = 'A' then t.typelem else 0 end, t.typbasetype,
                coalesce(r.rngsubtype, 0), case when t.typtype = 'c' then t.typrelid else 0 end
            from pg_catalog.pg_type as t
            join pg_catalog.pg_namespace as n on n.oid = t.typnamespace
            left join pg_catalog.pg_range as r on r.rngtypid = t.oid
            where t.oid = any ($1)";
        let mut made_of = Vec::new();
        for row in client.query(SQL, &[&oids]).await? {
            let known = Row {
                name: row.get(1),
                schema: row.get(2),
                kind: row.get(3),
                element: row.get(4),
                base: row.get(5),
                subtype: row.get(6),
                relation: row.get(7),
            };
            made_of.extend([known.element, known.base, known.subtype]);
            self.types.insert(row.get(0), known);
        }
        Ok(made_of)
    }

    /// Reads the columns of these composite types; returns the types of the columns.
    async fn read_fields(
        &mut self,
        client: &Client,
        relations: &[u32],
    ) -> Result<Vec<u32>, tokio_postgres::Error> {
        const SQL: &str = "select attrelid, attname::text, atttypid from pg_catalog.pg_attribute
            where attrelid = any ($1) and attnum > 0 and not attisdropped
            order by attrelid, attnum";
        if relations.is_empty() {
            return Ok(Vec::new());
        }
        let rows = client.query(SQL, &[&relations]).await?;
        for row in &rows {
            self.fields.entry(row.get(0)).or_default().push((row.get(1), row.get(2)));
        }
        Ok(rows.iter().map(|row| row.get(2)).collect())
    }

    /// The type of this oid; unknown, and so text, where it is gone by now.
    fn build(&self, oid: u32, deeper: u8) -> Type {
        if let Some(built_in) = Type::from_oid(oid) {
            return built_in;
        }
        let (Some(row), Some(deeper)) = (self.types.get(&oid), deeper.checked_sub(1)) else {
            return Type::UNKNOWN;
        };
        let kind = match row.kind.as_str() {
            // No one asks for the labels.
            "e" => Kind::Enum(Vec::new()),
            "p" => Kind::Pseudo,
            "d" => Kind::Domain(self.build(row.base, deeper)),
            "r" => Kind::Range(self.build(row.subtype, deeper)),
            "c" => {
                let fields = self.fields.get(&row.relation).into_iter().flatten();
                let fields = fields
                    .map(|(name, oid)| Field::new(name.clone(), self.build(*oid, deeper)))
                    .collect();
                Kind::Composite(fields)
            }
            _ if row.element != 0 => Kind::Array(self.build(row.element, deeper)),
            _ => Kind::Simple,
        };
        Type::new(row.name.clone(), oid, kind, row.schema.clone())
    }
}
