//! What the database knows and the stream does not tell: primary keys, types that are not built
//! in, and the keys that messages of our own are signed with.

use crate::publish::backoff;
use crate::secret::{Secret, Secrets};
use crate::table::{PrimaryKeys, TableRule};
use crate::value::Type;
use dsn::Dsn;
use tokio_postgres::Client;

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
/// long as it takes. The transaction that made it may be read before it is visible.
pub(crate) async fn ask_secrets(dsn: &Dsn, newest: u32) -> Secrets {
    let mut attempt = 0;
    loop {
        match try_ask_secrets(dsn).await {
            Ok(secrets) if secrets.newest() >= newest => return secrets,
            Ok(_) => tracing::debug!(newest, "the new key of relay.secret is not visible yet"),
            Err(error) => tracing::warn!(
                error = dsn::causes(&error),
                "the new key of relay.secret is not known yet; trying again, messages wait"
            ),
        }
        tokio::time::sleep(backoff(attempt, fastrand::f64())).await;
        attempt += 1;
    }
}

async fn try_ask_secrets(dsn: &Dsn) -> Result<Secrets, CatalogError> {
    let (client, driver) = dsn.connect("relay secrets").await?;
    let secrets = secrets(&client).await;
    drop(client);
    driver.abort();
    secrets
}

/// Types by their oids, and those they are made of; tries for as long as it takes.
pub(crate) async fn ask(dsn: &Dsn, oids: Vec<u32>) -> Vec<(u32, Type)> {
    let mut attempt = 0;
    loop {
        match try_ask(dsn, &oids).await {
            Ok(types) => return types,
            Err(error) => {
                tracing::warn!(
                    error = dsn::causes(&error),
                    "types of a table are not known yet; trying again, its changes wait"
                );
            }
        }
        tokio::time::sleep(backoff(attempt, fastrand::f64())).await;
        attempt += 1;
    }
}

async fn try_ask(dsn: &Dsn, oids: &[u32]) -> Result<Vec<(u32, Type)>, CatalogError> {
    let (client, driver) = dsn.connect("relay types").await?;
    let types = types(&client, oids).await;
    drop(client);
    driver.abort();
    Ok(types?)
}

/// The driver resolves the type of a column with all that it is made of; so a column of it is
/// prepared, and never asked for.
async fn types(client: &Client, oids: &[u32]) -> Result<Vec<(u32, Type)>, tokio_postgres::Error> {
    let mut types = Vec::with_capacity(oids.len());
    for oid in oids {
        const NAME: &str = "select format_type(oid, -1) from pg_type where oid = $1";
        // A type that is gone by now, from a backlog: its values are text.
        let mut known = Type::UNKNOWN;
        if let Some(row) = client.query_opt(NAME, &[oid]).await? {
            // Quoted and qualified by the server, as far as it needs to be.
            let name: String = row.get(0);
            let statement = client.prepare(&format!("select null::{name}")).await?;
            known = statement.columns().first().map_or(known, |column| column.type_().clone());
        }
        types.push((*oid, known));
    }
    Ok(types)
}
