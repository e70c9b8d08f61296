//! The preconditions of the tables whose changes are events.

use super::{Finding, Preconditions, Problem};
use crate::table::TableRule;
use serde::Deserialize;

/// A captured table as the catalogue and the publication have it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Table {
    /// `r` table, `p` partitioned, `v` view and so on.
    kind: String,
    /// `p` permanent, `u` unlogged, `t` temporary.
    persistence: String,
    identity: String,
    via_root: bool,
    /// The operations that the publication leaves out.
    leaves_out: Vec<String>,
    /// Whether the publication has it under its own name.
    listed: bool,
    /// Whether it has a partition of it.
    part_listed: bool,
    /// The partitioned table under whose name the changes come.
    root: Option<String>,
    columns: Vec<String>,
    /// The first column of the configured key that is outside the replica identity.
    key_outside: Option<String>,
    /// The columns that are sent; `None` before 15, which sends all.
    sent: Option<Vec<String>>,
    filter: Option<String>,
}

impl Preconditions<'_> {
    /// The publication sends the table's changes, under its own name, with what its key needs.
    ///
    /// # Errors
    /// When it does not.
    pub async fn table(&self, rule: &TableRule) -> Finding {
        // By way of JSON, because version 14 has no column lists.
        const SQL: &str = "with part as (
              select r.relid from pg_class as c
              join pg_namespace as n on n.oid = c.relnamespace
              cross join lateral pg_partition_tree(c.oid) as r
              where n.nspname = $2 and c.relname = $3
            ), listed as (
              select t.oid, to_jsonb(p) as publication, p.name from (
                select l.*, format('%I.%I', l.schemaname, l.tablename) as name from pg_publication_tables as l where l.pubname = $1) as p
              join pg_namespace as n on n.nspname = p.schemaname
              join pg_class as t on t.relnamespace = n.oid and t.relname = p.tablename
            )
            select jsonb_build_object(
              'kind', c.relkind, 'persistence', c.relpersistence, 'identity', c.relreplident,
              'via_root', p.pubviaroot,
              'leaves_out', (select coalesce(jsonb_agg(o), '[]') from (values
                ('insert', p.pubinsert), ('update', p.pubupdate), ('delete', p.pubdelete), ('truncate', p.pubtruncate)) as v (o, has) where not has),
              'listed', l.oid is not null,
              'part_listed', exists (select from listed where oid in (select relid from part)),
              'root', (select a.name from listed as a where p.pubviaroot and a.oid <> c.oid
                and a.oid in (select relid from pg_partition_ancestors(c.oid)) limit 1),
              'columns', (select coalesce(jsonb_agg(attname), '[]') from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped),
              'key_outside', (select k from unnest($4::text[]) as k
                where exists (select
                  from (select c.oid union select t.relid from pg_partition_tree(c.oid) as t where t.isleaf) as f (oid)
                  join pg_class as r on r.oid = f.oid and r.relkind = 'r' and r.relreplident in ('d', 'i')
                  where not exists (select from pg_index as i
                    join pg_attribute as a on a.attrelid = i.indrelid
                      and a.attnum = any ((i.indkey::smallint[])[0:i.indnkeyatts - 1])
                    where i.indrelid = r.oid and a.attname = k
                      and case r.relreplident when 'd' then i.indisprimary else i.indisreplident end))
                limit 1),
              'sent', l.publication -> 'attnames', 'filter', l.publication -> 'rowfilter')::text
            from pg_publication as p
            join pg_namespace as n on n.nspname = $2
            join pg_class as c on c.relnamespace = n.oid and c.relname = $3
            left join listed as l on l.oid = c.oid
            where p.pubname = $1";
        let name = self.publication;
        let row = self.client.query_opt(SQL, &[&name, &rule.schema, &rule.name, &rule.key]).await;
        let row = row.map_err(|e| Problem::query(&e))?;
        let table = row.map(|row| serde_json::from_str(row.get(0)).unwrap_or_default());
        judge(table.as_ref(), rule, name).map_err(Problem::may_pass)
    }

    /// The types of the table's columns can be asked for: their schemas are open to the role.
    ///
    /// # Errors
    /// When one cannot.
    pub async fn types(&self, rule: &TableRule) -> Result<(), Problem> {
        const SQL: &str = "select distinct format_type(a.atttypid, -1) from pg_attribute as a
            join pg_class as c on c.oid = a.attrelid
            join pg_namespace as n on n.oid = c.relnamespace
            where n.nspname = $1 and c.relname = $2 and a.attnum > 0 and not a.attisdropped
              and a.atttypid >= 16384";
        let rows = self.client.query(SQL, &[&rule.schema, &rule.name]).await;
        for row in rows.map_err(|e| Problem::query(&e))? {
            let name: String = row.get(0);
            self.client.prepare(&format!("select null::{name}")).await.map_err(|error| {
                let doing = format!(
                    "expected the type {name} of a column of {}.{} to be readable",
                    rule.schema, rule.name
                );
                let cure = "run GRANT USAGE ON SCHEMA … TO the relay's role, of the schema that has the type";
                Problem::refused_or(&doing, &error, cure).may_pass()
            })?;
        }
        Ok(())
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

/// What a publication keeps back of a table's rows and columns, from 15 on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Narrowed {
    /// The row filter, as SQL.
    filter: Option<String>,
    /// The columns outside the column list.
    without: Vec<String>,
}

impl Narrowed {
    /// What is kept back now and was not before, in words; `None` where nothing is.
    pub(crate) fn since(&self, before: &Self) -> Option<String> {
        let without: Vec<_> = self.without.iter().filter(|c| !before.without.contains(c)).collect();
        let filter = self.filter.as_ref().filter(|_| self.filter != before.filter);
        let filter = filter.map(|filter| format!("only rows come for which {filter}"));
        let without = without.iter().map(|c| c.as_str()).collect::<Vec<_>>().join(", ");
        let without =
            (!without.is_empty()).then(|| format!("the columns {without} are not sent any more"));
        let said: Vec<String> = filter.into_iter().chain(without).collect();
        (!said.is_empty()).then(|| said.join(", and "))
    }
}

impl Preconditions<'_> {
    /// What the publication keeps back of this table.
    pub(crate) async fn narrowed(
        &self,
        schema: &str,
        table: &str,
    ) -> Result<Narrowed, tokio_postgres::Error> {
        // By way of JSON, because version 14 has neither filters nor lists.
        const SQL: &str = "select to_jsonb(t) ->> 'rowfilter', array(
                select a.attname::text from pg_attribute as a
                join pg_class as c on c.oid = a.attrelid
                join pg_namespace as n on n.oid = c.relnamespace
                where n.nspname = t.schemaname and c.relname = t.tablename
                  and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
                  and not to_jsonb(t) -> 'attnames' ? a.attname::text
                order by a.attnum)
            from pg_publication_tables as t
            where t.pubname = $1 and t.schemaname = $2 and t.tablename = $3";
        let row = self.client.query_opt(SQL, &[&self.publication, &schema, &table]).await?;
        Ok(row.map_or_else(Narrowed::default, |row| Narrowed {
            filter: row.get(0),
            without: row.get(1),
        }))
    }
}

fn judge(table: Option<&Table>, rule: &TableRule, publication: &str) -> Finding {
    let (name, quoted) = (format!("{}.{}", rule.schema, rule.name), rule.quoted());
    let Some(table) = table else {
        return Err(Problem::new(
            format!(
                "expected the table {name} in the publication {publication}, found that it is not there: there is no table of that name"
            ),
            "correct the name in [[table]] or RELAY_TABLES, or make the table",
        ));
    };
    if !matches!(table.kind.as_str(), "r" | "p") || table.persistence != "p" {
        let kind = match (table.kind.as_str(), table.persistence.as_str()) {
            ("v" | "m", _) => "a view",
            ("f", _) => "a foreign table",
            (_, "u") => "an unlogged table",
            (_, "t") => "a temporary table",
            _ => "something else",
        };
        return Err(Problem::new(
            format!("expected {name} to be a table that is written to the log, found {kind}"),
            "capture the tables that it is made of; an unlogged one: ALTER TABLE … SET LOGGED",
        ));
    }
    if let (false, Some(root)) = (table.listed, &table.root) {
        return Err(Problem::new(
            format!(
                "expected the changes of {name} under its own name, found that the publication {publication} sends them under {root}, of which it is a partition"
            ),
            format!(
                "capture {root} instead, or run ALTER PUBLICATION \"{publication}\" SET (publish_via_partition_root = false)"
            ),
        ));
    }
    if !table.listed && !table.part_listed {
        return Err(Problem::new(
            format!(
                "expected the table {name} in the publication {publication}, found that it is not there: none of its changes would come"
            ),
            format!(
                "run ALTER PUBLICATION \"{publication}\" ADD TABLE {quoted}, or correct the name"
            ),
        ));
    }
    if table.kind == "p" && !table.via_root {
        return Err(Problem::new(
            format!(
                "expected the changes of the partitioned table {name} under its own name, found that the publication {publication} sends them under its partitions'"
            ),
            format!(
                "run ALTER PUBLICATION \"{publication}\" SET (publish_via_partition_root = true)"
            ),
        ));
    }
    if !table.listed {
        return Err(Problem::new(
            format!(
                "expected the table {name} in the publication {publication}, found only a partition of it, whose changes come under the partition's name"
            ),
            format!("run ALTER PUBLICATION \"{publication}\" ADD TABLE {quoted}"),
        ));
    }
    if !table.leaves_out.is_empty() {
        return Err(Problem::new(
            format!(
                "expected the publication {publication} to send every change of {name}, found that it leaves some kinds out: {}",
                table.leaves_out.join(", ")
            ),
            format!(
                "run ALTER PUBLICATION \"{publication}\" SET (publish = 'insert, update, delete, truncate')"
            ),
        ));
    }
    let sent = table.sent.as_ref().unwrap_or(&table.columns);
    if let Some(column) = rule.key.iter().find(|key| !sent.contains(key)) {
        return Err(Problem::new(
            format!(
                "expected the key column {column} among the published columns of {name}, found none of that name"
            ),
            "correct the key in [[table]], or the publication's column list",
        ));
    }
    if let Some(column) = &table.key_outside {
        return Err(Problem::new(
            format!(
                "expected the key column {column} of {name} in its replica identity, found it outside: a delete would come without its key, and an update of it without the old one"
            ),
            format!(
                "run ALTER TABLE {quoted} REPLICA IDENTITY FULL (or USING INDEX with a unique index of the key), or make the key of columns of its primary key"
            ),
        ));
    }
    Ok(format!("publication {publication} publishes {name}{}", table.remarks(sent)))
}

impl Table {
    /// What of it does not come, which may be what is meant.
    fn remarks(&self, sent: &[String]) -> String {
        let mut remarks = Vec::new();
        match self.identity.as_str() {
            "n" => remarks.push("replica identity nothing".to_owned()),
            "f" => remarks.push("replica identity full".to_owned()),
            "i" => remarks.push("replica identity of an index".to_owned()),
            _ => {}
        }
        if let Some(filter) = &self.filter {
            remarks.push(format!("only rows come for which {filter}"));
        }
        let kept_back: Vec<&str> =
            self.columns.iter().filter(|c| !sent.contains(c)).map(String::as_str).collect();
        if !kept_back.is_empty() {
            remarks.push(format!("without the columns {}", kept_back.join(", ")));
        }
        if remarks.is_empty() { String::new() } else { format!(" ({})", remarks.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> TableRule {
        TableRule {
            schema: "public".to_owned(),
            name: "item".to_owned(),
            aggregate_type: "item".to_owned(),
            key: vec!["id".to_owned()],
        }
    }

    fn table() -> Table {
        Table {
            kind: "r".to_owned(),
            persistence: "p".to_owned(),
            identity: "d".to_owned(),
            listed: true,
            part_listed: true,
            columns: vec!["id".to_owned(), "note".to_owned()],
            ..Table::default()
        }
    }

    #[test]
    fn what_was_kept_back_from_the_start_is_what_is_meant() {
        let narrowed = |filter: Option<&str>, without: &[&str]| Narrowed {
            filter: filter.map(str::to_owned),
            without: without.iter().map(|c| (*c).to_owned()).collect(),
        };
        let whole = Narrowed::default();
        let some = narrowed(Some("(id > 5)"), &["note"]);
        assert_eq!(some.since(&some), None);
        assert_eq!(whole.since(&some), None, "all comes again");
        assert_eq!(
            some.since(&whole).as_deref(),
            Some("only rows come for which (id > 5), and the columns note are not sent any more")
        );
        assert!(narrowed(Some("(id > 6)"), &[]).since(&some).is_some(), "another filter");
        assert!(narrowed(Some("(id > 5)"), &["note", "x"]).since(&some).is_some());
    }

    #[test]
    fn what_keeps_the_changes_of_a_table_back_is_named_with_the_cure() {
        let said = |table: Option<Table>| match judge(table.as_ref(), &rule(), "p") {
            Ok(well) => well,
            Err(problem) => problem.to_string(),
        };
        assert_eq!(said(Some(table())), "publication p publishes public.item");
        assert!(said(None).contains("no table of that name"));
        let view = Table { kind: "v".to_owned(), ..table() };
        assert!(said(Some(view)).contains("found a view"));
        let unlogged = Table { persistence: "u".to_owned(), ..table() };
        assert!(said(Some(unlogged)).contains("SET LOGGED"));
        let leaf = Table {
            listed: false,
            part_listed: false,
            root: Some("public.items".to_owned()),
            ..table()
        };
        assert!(said(Some(leaf)).contains("capture public.items instead"));
        let absent = Table { listed: false, part_listed: false, ..table() };
        assert!(said(Some(absent)).contains("ADD TABLE \"public\".\"item\""));
        let parts = Table { kind: "p".to_owned(), listed: false, ..table() };
        assert!(said(Some(parts.clone())).contains("publish_via_partition_root"));
        assert!(said(Some(Table { via_root: true, ..parts })).contains("only a partition of it"));
        let inserts = Table { leaves_out: vec!["update".to_owned()], ..table() };
        assert!(said(Some(inserts)).contains("leaves some kinds out: update"));
        let list = Table { sent: Some(vec!["note".to_owned()]), ..table() };
        assert!(said(Some(list)).contains("the key column id"));
        let outside = Table { key_outside: Some("id".to_owned()), ..table() };
        assert!(said(Some(outside)).contains("\"public\".\"item\" REPLICA IDENTITY FULL"));
        let narrowed = Table {
            sent: Some(vec!["id".to_owned()]),
            filter: Some("(id > 5)".to_owned()),
            ..table()
        };
        let narrowed = said(Some(narrowed));
        assert!(narrowed.contains("only rows come for which (id > 5)"), "{narrowed}");
        assert!(narrowed.contains("without the columns note"), "{narrowed}");
    }
}
