//! Whether the application can still update and delete what is published.
//!
//! Postgres refuses each UPDATE and DELETE of a table whose publication sends them, and whose
//! replica identity is missing or is not covered by the publication's column list and row filter.
//! Nothing of it is seen when the publication is made.

use super::{Finding, Preconditions, Problem};
use crate::table::TableRule;

/// `published` (oid, listed, has_list, filter) is put before it. Of each table the leaves are judged: the
/// server looks at the identity of the partition that holds the row.
const JUDGE: &str = "
leaf as (
  select p.oid as root, coalesce(r.relid, p.oid) as oid, p.listed, p.has_list, p.filter
  from published as p
  left join lateral (select t.relid from pg_partition_tree(p.oid) as t where t.isleaf) as r on true
), judged as (
  select format('%I.%I', n.nspname, c.relname) as name,
    case
      when c.relreplident <> 'f' and i.indexrelid is null then 'none'
      when c.relreplident = 'f' and l.has_list then 'list'
      when l.listed is not null and exists (
        select from pg_attribute as a
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
          and case when c.relreplident = 'f' then a.attgenerated <> '' and current_setting('server_version_num')::int >= 180000
            else a.attnum = any (i.indkey::smallint[]) end
          and not l.listed ? a.attname::text) then 'list'
      when l.filter is not null and c.relreplident <> 'f' and exists (
        select from regexp_matches(l.filter, ':varattno (\\d+)', 'g') as m
        join pg_attribute as f on f.attrelid = l.root and f.attnum = m[1]::smallint
        where not exists (select from pg_attribute as a
          where a.attrelid = c.oid and a.attname = f.attname and a.attnum = any (i.indkey::smallint[]))) then 'filter'
    end as fault,
    c.relreplident::text as identity
  from leaf as l
  join pg_class as c on c.oid = l.oid and c.relkind = 'r'
  join pg_namespace as n on n.oid = c.relnamespace
  left join lateral (
    select i.indexrelid, i.indkey from pg_index as i
    where i.indrelid = c.oid and i.indisvalid and i.indimmediate
      and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident else false end
    limit 1) as i on true
)
select name, fault, identity, count(*) over () from judged where fault is not null order by fault desc, name limit 1";

impl Preconditions<'_> {
    /// Postgres takes the updates and deletes of every table in the publication.
    ///
    /// # Errors
    /// With a table whose changes it refuses.
    pub async fn identities(&self) -> Finding {
        // By way of JSON, because version 14 has no lists and no filters.
        let sql = format!(
            "with published as (
               select c.oid, to_jsonb(t) -> 'attnames' as listed,
                 to_jsonb(r) ->> 'prattrs' is not null as has_list, to_jsonb(r) ->> 'prqual' as filter
               from pg_publication as p
               join pg_publication_tables as t on t.pubname = p.pubname
               join pg_namespace as n on n.nspname = t.schemaname
               join pg_class as c on c.relnamespace = n.oid and c.relname = t.tablename
               left join pg_publication_rel as r on r.prpubid = p.oid and r.prrelid = c.oid
               where p.pubname = $1 and (p.pubupdate or p.pubdelete)
             ), {JUDGE}"
        );
        let name = self.publication;
        let row = self.client.query_opt(&sql, &[&name]).await.map_err(|e| Problem::query(&e))?;
        match row {
            None => Ok(format!("publication {name} lets every table be updated and deleted from")),
            Some(row) => Err(refusal(&row, &format!("the publication {name}"))),
        }
    }

    /// Postgres will take the updates and deletes of these tables once they are published.
    ///
    /// # Errors
    /// With a table whose changes it would refuse.
    pub async fn identities_of(&self, tables: &[TableRule]) -> Result<(), Problem> {
        let sql = format!(
            "with published as (
               select c.oid, null::jsonb as listed, false as has_list, null::text as filter
               from unnest($1::text[], $2::text[]) as w (schema, name)
               join pg_namespace as n on n.nspname = w.schema
               join pg_class as c on c.relnamespace = n.oid and c.relname = w.name
             ), {JUDGE}"
        );
        let schemas: Vec<&str> = tables.iter().map(|t| t.schema.as_str()).collect();
        let names: Vec<&str> = tables.iter().map(|t| t.name.as_str()).collect();
        let row = self.client.query_opt(&sql, &[&schemas, &names]).await;
        match row.map_err(|e| Problem::query(&e))? {
            None => Ok(()),
            Some(row) => Err(refusal(&row, "a publication that sends them")),
        }
    }
}

fn refusal(row: &tokio_postgres::Row, publication: &str) -> Problem {
    let (table, fault): (String, String) = (row.get(0), row.get(1));
    let (identity, count): (String, i64) = (row.get(2), row.get(3));
    let others = match count {
        1 => String::new(),
        more => format!(" (and {} more tables)", more - 1),
    };
    let full = format!("ALTER TABLE {table} REPLICA IDENTITY FULL");
    let (found, cure) = match (fault.as_str(), identity.as_str()) {
        ("list", _) => (
            "a column list without its replica identity",
            "add the columns of the replica identity to the publication's column list (a replica identity FULL goes with no list)".to_owned(),
        ),
        ("filter", _) => (
            "a row filter on columns outside its replica identity",
            format!("run {full}, or make the row filter of columns of its replica identity"),
        ),
        (_, "n") => (
            "REPLICA IDENTITY NOTHING",
            format!("run {full}, or REPLICA IDENTITY DEFAULT where it has a primary key"),
        ),
        (_, "i") => (
            "a replica identity whose index was dropped",
            format!(
                "run {full}, or REPLICA IDENTITY USING INDEX with a unique index over columns that are not null"
            ),
        ),
        _ => (
            "no primary key (one that is deferrable is none here)",
            format!("add a primary key, or run {full}"),
        ),
    };
    Problem::new(
        format!(
            "expected a replica identity of {table}, found {found}{others}: Postgres refuses each UPDATE and DELETE of it by the application while it is in {publication}"
        ),
        cure,
    )
}
