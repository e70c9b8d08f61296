//! The publication: its own is brought up to date, another is judged.
//!
//! Its own has a comment that says so. A publication without it was made by hand: what it lacks is
//! told, with the statement that mends it, and nothing of it is changed unless that is asked for.

use super::waiting::Waiting;
use crate::out::out;
use anyhow::{Context as _, bail};
use dsn::Dsn;
use relay::slot::{Preconditions, Problem};
use relay::table::TableRule;
use serde::Deserialize;
use tokio_postgres::Client;

/// The comment on a publication that `relay init` keeps up to date.
const COMMENT: &str = "Made by relay init, which keeps it up to date.";

/// What may be done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// Tables that are not configured go.
    pub(super) remove: bool,
    /// A publication that was made by hand is taken over.
    pub(super) adopt: bool,
    /// Statements are printed.
    pub(super) dry_run: bool,
}

/// A publication as the catalogue has it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Found {
    comment: Option<String>,
    all_tables: bool,
    /// `insert`, `update`, `delete`, `truncate`, in this order.
    publish: Vec<String>,
    via_root: bool,
    /// The tables that were added by name, as `(schema, name)`.
    tables: Vec<(String, String)>,
}

/// One change, in SQL and in words.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Step {
    sql: String,
    said: String,
}

/// What is to be done, and what is only told.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Plan {
    steps: Vec<Step>,
    told: Vec<String>,
}

const ALL: [&str; 4] = ["insert", "update", "delete", "truncate"];

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What makes it the one that is wanted.
fn plan(found: Option<&Found>, name: &str, tables: &[TableRule], options: Options) -> Plan {
    let publication = quote(name);
    // The outbox alone is only ever inserted into; of a table every change counts.
    let publish: &[&str] = if tables.is_empty() { &ALL[..1] } else { &ALL };
    let comment = Step {
        sql: format!("comment on publication {publication} is '{COMMENT}'"),
        said: format!("adopt publication {name}: relay init keeps it up to date from now on"),
    };
    let mut plan = Plan::default();
    let Some(found) = found else {
        let listed: String = tables.iter().map(|table| format!(", {}", table.quoted())).collect();
        let also: String = tables.iter().map(|t| format!(", {}.{}", t.schema, t.name)).collect();
        plan.steps.push(Step {
            sql: format!(
                "create publication {publication} for table relay.outbox{listed} with (publish = '{}', publish_via_partition_root = true); {}",
                publish.join(", "),
                comment.sql
            ),
            said: format!("made  publication {name} for relay.outbox{also}"),
        });
        return plan;
    };
    if found.comment.as_deref() != Some(COMMENT) {
        plan.steps.push(comment);
    }
    let set = |option: String| Step {
        said: format!("set   {option} of publication {name}"),
        sql: format!("alter publication {publication} set ({option})"),
    };
    if !found.via_root {
        plan.steps.push(set("publish_via_partition_root = true".to_owned()));
    }
    let is =
        |schema: &str, table: &str| found.tables.iter().any(|(s, t)| s == schema && t == table);
    let extra: Vec<_> = found
        .tables
        .iter()
        .filter(|(schema, table)| {
            let outbox = schema == "relay" && table == "outbox";
            !outbox && !tables.iter().any(|t| t.schema == *schema && t.name == *table)
        })
        .collect();
    // What is published for a table that stays is not narrowed.
    let narrow = tables.is_empty() && !found.all_tables && (extra.is_empty() || options.remove);
    let has = |operation: &&&str| found.publish.iter().any(|o| o == **operation);
    if !publish.iter().all(|operation| has(&operation)) || narrow && found.publish.len() > 1 {
        plan.steps.push(set(format!("publish = '{}'", publish.join(", "))));
    }
    if !found.all_tables {
        let mut add = |schema: &str, table: &str, quoted: String| {
            if !is(schema, table) {
                plan.steps.push(Step {
                    sql: format!("alter publication {publication} add table {quoted}"),
                    said: format!("added {schema}.{table} to publication {name}"),
                });
            }
        };
        add("relay", "outbox", "relay.outbox".to_owned());
        for table in tables {
            add(&table.schema, &table.name, table.quoted());
        }
    }
    for (schema, table) in extra {
        if options.remove {
            plan.steps.push(Step {
                sql: format!(
                    "alter publication {publication} drop table {}.{}",
                    quote(schema),
                    quote(table)
                ),
                said: format!("gone  {schema}.{table} from publication {name}"),
            });
        } else {
            plan.told.push(format!(
                "{schema}.{table} is in publication {name} and not configured: its changes are read and thrown away; relay init --remove-tables takes it out"
            ));
        }
    }
    plan
}

/// Reads what there is, makes of it what is wanted, and says each change.
pub(super) async fn bring_up_to_date(
    dsn: &Dsn,
    client: &Client,
    wanted: &Preconditions<'_>,
    tables: &[TableRule],
    options: Options,
) -> anyhow::Result<()> {
    if options.dry_run {
        let found = read(client, wanted.publication).await?;
        let plan = plan(found.as_ref(), wanted.publication, tables, options);
        if found.as_ref().is_none_or(|f| f.comment.as_deref() == Some(COMMENT)) || options.adopt {
            for step in plan.steps {
                crate::out::text(&format!("-- {}\n{};", step.said, step.sql));
            }
        }
        for told in plan.told {
            out!("-- note  {told}");
        }
        return Ok(());
    }
    let waiting = Waiting::new(dsn, "the publication");
    let process: i32 = client.query_one("select pg_backend_pid()", &[]).await?.get(0);
    client.batch_execute("begin").await?;
    let changed = tokio::select! {
        changed = change(client, wanted, tables, options) => changed,
        () = waiting.tell(process) => Ok(Plan::default()),
    };
    let end = if changed.is_ok() { "commit" } else { "rollback" };
    let ended = client.batch_execute(end).await;
    let plan = changed?;
    ended.context("the publication cannot be changed")?;
    for step in plan.steps {
        out!("{}", step.said);
    }
    out!("ok    {}", wanted.published().await?);
    out!("ok    {}", wanted.columns().await?);
    for table in tables {
        out!("ok    {}", wanted.table(table).await?);
    }
    out!("ok    {}", wanted.identities().await?);
    for told in plan.told {
        out!("note  {told}");
    }
    Ok(())
}

async fn change(
    client: &Client,
    wanted: &Preconditions<'_>,
    tables: &[TableRule],
    options: Options,
) -> anyhow::Result<Plan> {
    let name = wanted.publication;
    // Two at once wait for each other, as for the schema.
    client
        .batch_execute("select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('relay.migrate'::text, 0::bigint))")
        .await
        .map_err(|e| Problem::refused("the publication cannot be looked at", &e))?;
    let found = read(client, name).await?;
    let plan = plan(found.as_ref(), name, tables, options);
    let own = found.as_ref().is_none_or(|found| found.comment.as_deref() == Some(COMMENT));
    if !own && !options.adopt {
        return judged(wanted, tables).await.map(|()| Plan { steps: Vec::new(), ..plan });
    }
    // Before its updates and deletes are published, which Postgres would then refuse.
    wanted.identities_of(tables).await?;
    for step in &plan.steps {
        client.batch_execute(&step.sql).await.map_err(|error| {
            Problem::refused_or(
                &format!("the publication {name} cannot be brought up to date ({})", step.sql),
                &error,
                format!("run this with a role that owns the publication {name} and each of its tables, and that has CREATE on the database"),
            )
        })?;
    }
    // A table that was in it before may lack what the new operations need.
    wanted.identities().await?;
    Ok(plan)
}

/// A publication that was made by hand: told what it lacks.
async fn judged(wanted: &Preconditions<'_>, tables: &[TableRule]) -> anyhow::Result<()> {
    let mut problem = wanted.published().await.err();
    if problem.is_none() {
        problem = wanted.columns().await.err();
    }
    for table in tables {
        if problem.is_none() {
            problem = wanted.table(table).await.err();
        }
    }
    if problem.is_none() {
        problem = wanted.identities().await.err();
    }
    let Some(Problem { found, cure, .. }) = problem else { return Ok(()) };
    bail!(Problem::new(
        format!("{found} (relay init did not make this publication, and leaves it alone)"),
        format!("{cure}; or let relay init do it, now and later: relay init --adopt-publication"),
    ))
}

async fn read(client: &Client, name: &str) -> anyhow::Result<Option<Found>> {
    const SQL: &str = "select jsonb_build_object(
          'comment', obj_description(p.oid, 'pg_publication'),
          'all_tables', p.puballtables, 'via_root', p.pubviaroot,
          'publish', (select coalesce(jsonb_agg(o order by place), '[]') from (values
            (1, 'insert', p.pubinsert), (2, 'update', p.pubupdate), (3, 'delete', p.pubdelete), (4, 'truncate', p.pubtruncate))
              as v (place, o, has) where has),
          'tables', (select coalesce(jsonb_agg(jsonb_build_array(n.nspname, c.relname) order by n.nspname, c.relname), '[]')
            from pg_publication_rel as r join pg_class as c on c.oid = r.prrelid
            join pg_namespace as n on n.oid = c.relnamespace where r.prpubid = p.oid))::text
        from pg_publication as p where p.pubname = $1";
    let row = client.query_opt(SQL, &[&name]).await;
    let row = row.map_err(|e| Problem::refused("the publications cannot be read", &e))?;
    row.map(|row| serde_json::from_str(row.get(0)).context("read the publication")).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Options = Options { remove: false, adopt: false, dry_run: false };

    fn rule(name: &str) -> TableRule {
        TableRule {
            schema: "public".to_owned(),
            name: name.to_owned(),
            aggregate_type: name.to_owned(),
            key: Vec::new(),
        }
    }

    fn own(publish: &[&str], tables: &[(&str, &str)]) -> Found {
        Found {
            comment: Some(COMMENT.to_owned()),
            all_tables: false,
            publish: publish.iter().map(|o| (*o).to_owned()).collect(),
            via_root: true,
            tables: tables.iter().map(|(s, t)| ((*s).to_owned(), (*t).to_owned())).collect(),
        }
    }

    fn sql(plan: &Plan) -> Vec<&str> {
        plan.steps.iter().map(|step| step.sql.as_str()).collect()
    }

    #[test]
    fn what_is_as_it_is_wanted_is_left_alone() {
        let outbox = own(&["insert"], &[("relay", "outbox")]);
        assert_eq!(plan(Some(&outbox), "relay", &[], USUAL), Plan::default());
        let table = own(&ALL, &[("public", "item"), ("relay", "outbox")]);
        assert_eq!(plan(Some(&table), "relay", &[rule("item")], USUAL), Plan::default());
    }

    #[test]
    fn a_table_that_comes_later_is_added_with_its_operations() {
        let outbox = own(&["insert"], &[("relay", "outbox")]);
        let plan = plan(Some(&outbox), "re\"lay", &[rule("item")], USUAL);
        assert_eq!(
            sql(&plan),
            [
                "alter publication \"re\"\"lay\" set (publish = 'insert, update, delete, truncate')",
                "alter publication \"re\"\"lay\" add table \"public\".\"item\"",
            ]
        );
    }

    #[test]
    fn a_table_that_goes_is_told_and_taken_out_when_that_is_asked_for() {
        let both = own(&ALL, &[("public", "item"), ("relay", "outbox")]);
        let told = plan(Some(&both), "relay", &[], USUAL);
        assert!(told.steps.is_empty() && told.told[0].contains("--remove-tables"), "{told:?}");
        let removed = plan(Some(&both), "relay", &[], Options { remove: true, ..USUAL });
        assert_eq!(
            sql(&removed),
            [
                "alter publication \"relay\" set (publish = 'insert')",
                "alter publication \"relay\" drop table \"public\".\"item\"",
            ]
        );
    }

    #[test]
    fn one_for_all_tables_gets_its_options_only() {
        let all = Found {
            all_tables: true,
            comment: None,
            via_root: false,
            tables: Vec::new(),
            ..own(&ALL, &[])
        };
        let plan = plan(Some(&all), "p", &[rule("item")], Options { adopt: true, ..USUAL });
        let sql = sql(&plan);
        assert_eq!(sql.len(), 2, "{sql:?}");
        assert!(sql[0].starts_with("comment on publication \"p\""));
        assert!(sql[1].contains("publish_via_partition_root = true"));
    }
}
