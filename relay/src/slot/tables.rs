//! The preconditions of the tables whose changes are events.

use super::{Finding, Preconditions, Problem};
use crate::table::TableRule;

impl Preconditions<'_> {
    /// The publication sends the table's changes, under its own name, with what its key needs.
    ///
    /// # Errors
    /// When it does not.
    pub async fn table(&self, rule: &TableRule) -> Finding {
        // By way of JSON, because version 14 has no column lists.
        const SQL: &str = "select c.relkind = 'p' and not p.pubviaroot,
                not (p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate),
                c.relreplident::text,
                (select k from unnest($4::text[]) as k
                 where not coalesce(to_jsonb(t) -> 'attnames' ? k, k in (select attname from pg_attribute where attrelid = c.oid and attnum > 0))
                 limit 1),
                (select k from unnest($4::text[]) as k
                 where p.pubupdate and p.pubdelete and exists (select
                    from (select c.oid union select relid from pg_partition_tree(c.oid) where isleaf) as l (oid)
                    join pg_class as r on r.oid = l.oid and r.relkind = 'r' and r.relreplident in ('d', 'i')
                    where not exists (select from pg_index as i
                        join pg_attribute as a on a.attrelid = i.indrelid
                            and a.attnum = any ((i.indkey::smallint[])[0:i.indnkeyatts - 1])
                        where i.indrelid = r.oid and a.attname = k
                            and case r.relreplident when 'd' then i.indisprimary else i.indisreplident end))
                 limit 1)
            from pg_publication as p
            join pg_publication_tables as t on t.pubname = p.pubname and t.schemaname = $2
            join pg_class as c on c.relname = $3 and c.relnamespace = (select oid from pg_namespace where nspname = $2)
            where p.pubname = $1 and (t.tablename = $3
                or t.tablename in (select r.relid::regclass::text from pg_partition_tree(c.oid) as r)
                or exists (select from pg_partition_tree(c.oid) as r join pg_class as l on l.oid = r.relid where l.relname = t.tablename))
            limit 1";
        let (name, table) = (self.publication, format!("{}.{}", rule.schema, rule.name));
        let row = self.client.query_opt(SQL, &[&name, &rule.schema, &rule.name, &rule.key]).await;
        let Some(row) = row.map_err(|e| Problem::query(&e))? else {
            return Err(Problem::new(
                format!("expected the table {table} in the publication {name}, found that it is not there: none of its changes would come"),
                format!("run ALTER PUBLICATION \"{name}\" ADD TABLE {}, or correct the name", rule.quoted()),
            )
            .may_pass());
        };
        if row.get::<_, Option<bool>>(0) == Some(true) {
            return Err(Problem::new(
                format!("expected the changes of the partitioned table {table} under its own name, found that the publication {name} sends them under its partitions'"),
                format!("run ALTER PUBLICATION \"{name}\" SET (publish_via_partition_root = true)"),
            )
            .may_pass());
        }
        if row.get::<_, bool>(1) {
            return Err(Problem::new(
                format!("expected the publication {name} to send every change of {table}, found that it leaves some kinds out"),
                format!("run ALTER PUBLICATION \"{name}\" SET (publish = 'insert, update, delete, truncate')"),
            )
            .may_pass());
        }
        if let Some(column) = row.get::<_, Option<&str>>(3) {
            return Err(Problem::new(
                format!("expected the key column {column} among the published columns of {table}, found none of that name"),
                "correct the key in [[table]], or the publication's column list",
            )
            .may_pass());
        }
        if let Some(column) = row.get::<_, Option<&str>>(4) {
            return Err(Problem::new(
                format!("expected the key column {column} of {table} in its replica identity, found it outside: a delete would come without its key, and an update of it without the old one"),
                format!("run ALTER TABLE {} REPLICA IDENTITY FULL (or USING INDEX with a unique index of the key), or make the key of columns of its primary key", rule.quoted()),
            )
            .may_pass());
        }
        let identity = match row.get::<_, &str>(2) {
            "n" => " (replica identity nothing: updates and deletes of it are refused by Postgres)",
            "f" => " (replica identity full)",
            "i" => " (replica identity of an index)",
            _ => "",
        };
        Ok(format!("publication {name} publishes {table}{identity}"))
    }

    /// What the publication keeps back of the outbox, from 15 on: events outside its row filter
    /// never come, which may be what is meant.
    ///
    /// # Errors
    /// When the server does not tell.
    pub async fn row_filter(&self) -> Finding {
        const SQL: &str = "select to_jsonb(t) ->> 'rowfilter' from pg_publication_tables as t
            where t.pubname = $1 and t.schemaname = 'relay' and t.tablename = 'outbox'";
        let filter = self.client.query_opt(SQL, &[&self.publication]).await;
        let filter = filter.map_err(|e| Problem::query(&e))?;
        Ok(match filter.and_then(|row| row.get::<_, Option<String>>(0)) {
            None => "no row filter on relay.outbox".to_owned(),
            Some(filter) => format!("only rows of relay.outbox come for which {filter}"),
        })
    }
}
