//! Tables that are attached to a captured one while the relay runs.
//!
//! A session with PostgreSQL 14 goes by what it first found of a table: one that was written to,
//! and attached as a partition then, is not sent for as long as the session lasts. From 15 on a
//! session learns of the attachment.

use crate::condition::{Condition, Conditions};
use crate::outbox::{SCHEMA, TABLE};
use crate::table::TableRule;
use std::collections::HashSet;
use tokio_postgres::Client;

/// The kind of the condition.
const ATTACHED: &str = "attached";

/// The partitions that were attached by another transaction than the one that made them. An
/// attribute of the system's own keeps the number of the transaction that made the table.
const SQL: &str = "select p.relid::oid, root.oid::regclass::text, p.relid::text
    from unnest($1::text[], $2::text[]) as w (s, t)
    join pg_catalog.pg_namespace as n on n.nspname = w.s
    join pg_catalog.pg_class as root on root.relnamespace = n.oid and root.relname = w.t
    cross join pg_catalog.pg_partition_tree(root.oid) as p
    join pg_catalog.pg_inherits as i on i.inhrelid = p.relid
    join pg_catalog.pg_attribute as a on a.attrelid = p.relid and a.attnum = -1
    where root.relkind = 'p' and a.xmin <> i.xmin
      and current_setting('server_version_num')::int < 150000";

/// What was attached before the first look.
#[derive(Debug, Default)]
pub(super) struct Attached {
    before: Option<HashSet<u32>>,
}

impl Attached {
    /// Says what was attached since the first look. A new session would send it; the relay says it
    /// until it is restarted, since what was written in between is not sent.
    pub(super) async fn look(
        &mut self,
        client: &Client,
        rules: &[TableRule],
        conditions: &Conditions,
    ) {
        let wanted = rules.iter().map(|rule| (rule.schema.as_str(), rule.name.as_str()));
        let (schemas, names): (Vec<_>, Vec<_>) = wanted.chain([(SCHEMA, TABLE)]).unzip();
        // A server that does not answer is told of by the other looks.
        let Ok(rows) = client.query(SQL, &[&schemas, &names]).await else { return };
        let Some(before) = &self.before else {
            self.before = Some(rows.iter().map(|row| row.get(0)).collect());
            return;
        };
        for row in rows.iter().filter(|row| !before.contains(&row.get(0))) {
            let (root, leaf): (String, String) = (row.get(1), row.get(2));
            conditions.set(
                ATTACHED,
                &leaf,
                Condition::losing(
                    format!("expected every change of {root}, found {leaf} attached to it after it was made: a session with PostgreSQL 14 sends no change of a table that it had met before"),
                    format!("restart the relay, and write again what {leaf} got since it was attached"),
                ),
            );
        }
    }
}
