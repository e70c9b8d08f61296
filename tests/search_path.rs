//! Functions, operators, types and views that someone planted before those of Postgres on the
//! search_path of the relay's role: none of them runs.

use crate::harness::{LIMIT, World, member, text};
use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// All of our SQL: the migrations, and what stands in the relay's source.
fn our_text() -> Result<String> {
    fn read(folder: &Path, into: &mut String) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                read(&path, into)?;
            } else if path.extension().is_some_and(|e| e == "sql" || e == "rs") {
                into.push_str(&fs::read_to_string(&path)?);
            }
        }
        Ok(())
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut all = String::new();
    for folder in ["sql", "relay/src", "relay/dsn/src"] {
        read(&root.join(folder), &mut all)?;
    }
    Ok(all)
}

/// A look-alike of each function, operator, type and relation of `pg_catalog` whose name stands in
/// our SQL, in the schemas `app` and `public`. What cannot be written in plpgsql is left out: a
/// function of `VARIADIC "any"` has look-alikes for texts instead.
///
/// Each look-alike notes in a sequence, which no rollback undoes, that it ran.
const PLANT: &str = r#"
    set search_path = pg_catalog, pg_temp;
    create schema app;
    create sequence app.ran;
    create table app.planted (kind text primary key, number int not null default 0);
    insert into app.planted (kind) values ('function'), ('operator'), ('type'), ('relation');
    create function app.trap() returns boolean language plpgsql as $$
      begin perform pg_catalog.nextval('app.ran'::pg_catalog.regclass); raise exception 'planted: a condition ran'; end $$;
    create function app.plant(kind text, statement text) returns void language plpgsql as $$
      begin
        execute statement;
        update app.planted as p set number = p.number + 1 where p.kind = plant.kind;
      exception when others then null;
      end $$;
    create function app.body(what text) returns text language sql as $$
      select format('begin perform pg_catalog.nextval(''app.ran''::pg_catalog.regclass); raise exception %L; end', 'planted: ' || what) $$;

    select app.plant('function', format('create function %I.%I(%s) returns %s language plpgsql as %L',
        s, p.proname, a.args, pg_get_function_result(p.oid), app.body(p.oid::regprocedure::text)))
      from pg_proc as p
      cross join unnest(array['app', 'public']) as s
      cross join lateral (
        select pg_get_function_identity_arguments(p.oid) as args
        union select replace(pg_get_function_identity_arguments(p.oid), 'bigint', 'integer')
        union select replace(pg_get_function_identity_arguments(p.oid), 'VARIADIC "any"', repeat('text, ', n) || 'text')
          from generate_series(0, 7) as n
        union select replace(pg_get_function_identity_arguments(p.oid), '"any"', 'anyelement')
      ) as a
      where p.pronamespace = 'pg_catalog'::regnamespace and p.proname = any (string_to_array(current_setting('test.words'), ' '));

    select app.plant('operator', format('create function app.%I(%s) returns %s language plpgsql as %L; create operator app.%s (%s function = app.%I)',
        'of_' || o.oid, concat_ws(', ', nullif(o.oprleft::regtype::text, '-'), o.oprright::regtype), o.oprresult::regtype,
        app.body(o.oid::regoperator::text), o.oprname,
        case when o.oprleft <> 0 then format('leftarg = %s, ', o.oprleft::regtype) end || format('rightarg = %s,', o.oprright::regtype),
        'of_' || o.oid))
      from pg_operator as o
      where o.oprnamespace = 'pg_catalog'::regnamespace and position(o.oprname in current_setting('test.text')) > 0;

    select app.plant('type', format('create domain app.%I as pg_catalog.%I check (app.trap())', t.typname, t.typname))
      from pg_type as t
      where t.typnamespace = 'pg_catalog'::regnamespace and t.typtype = 'b' and t.typname = any (string_to_array(current_setting('test.words'), ' '));

    select app.plant('relation', format('create view app.%I as select * from pg_catalog.%I where app.trap()', c.relname, c.relname))
      from pg_class as c
      where c.relnamespace = 'pg_catalog'::regnamespace and c.relkind in ('r', 'v') and c.relname = any (string_to_array(current_setting('test.words'), ' '));
"#;

#[tokio::test]
async fn nothing_that_was_planted_on_the_search_path_runs() -> Result<()> {
    let world = World::bare(&[]).await?;
    // Its own sessions find Postgres's own.
    let client = world.client().await?;
    client.batch_execute("set search_path = pg_catalog, pg_temp").await?;
    let all = our_text()?;
    let words: BTreeSet<&str> = all
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
        .collect();
    let words = words.into_iter().collect::<Vec<_>>().join(" ");
    // The characters of operators only: text of comments is as good as any.
    let signs: String =
        all.chars().map(|c| if c.is_ascii_punctuation() { c } else { ' ' }).collect();
    let set = "select set_config('test.words', $1, false), set_config('test.text', $2, false)";
    client.execute(set, &[&words, &signs]).await?;
    client.batch_execute(PLANT).await?;
    for (kind, least) in [("function", 400), ("operator", 300), ("type", 20), ("relation", 15)] {
        let sql = "select number from app.planted where kind = $1";
        let planted: i32 = client.query_one(sql, &[&kind]).await?.get(0);
        println!("{planted} look-alikes: {kind}");
        ensure!(planted >= least, "{kind}: {planted}");
    }
    let database = &world.database;
    client
        .batch_execute(&format!(
            "create schema shop; create table shop.customers (id int primary key, name text, of regclass);
             alter database {database} set search_path = app, public, pg_catalog;
             alter role postgres set search_path = app, public, pg_catalog"
        ))
        .await?;
    let hostile = world.client().await?;
    let tripped = hostile.batch_execute("select upper('a') where 1 = 1").await.unwrap_err();
    ensure!(tripped.as_db_error().is_some_and(|e| e.message().contains("planted")), "{tripped}");
    client.batch_execute("select setval('app.ran', 1, false)").await?;

    let topic = world.broker.topic("orders.fifo");
    let url = world.postgres.url(database);
    let say = |arguments: &[&str]| -> Result<String> {
        let mut command = world.relay(&topic);
        command.args(arguments).env("RELAY_TABLES", "shop.customers");
        command.env("READ_MODEL_URL", &url).env("RELAY_HEARTBEAT", "1s");
        let output = command.output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", text(&output));
        ensure!(!text(&output).contains("planted"), "{arguments:?}: {}", text(&output));
        Ok(text(&output))
    };
    say(&["init", "--dry-run"])?;
    say(&["init"])?;
    say(&["init"])?;
    say(&["init", "--read-model"])?;
    say(&["check", "--probe"])?;
    let run = |routes: Option<&str>| {
        let mut command = world.relay(if routes.is_some() { "" } else { &topic });
        command.arg("run").env("RELAY_TABLES", "shop.customers").env("RELAY_HEARTBEAT", "1s");
        command.envs(routes.map(|routes| ("RELAY_ROUTES", routes)));
        world.start(command)
    };
    // An application whose own search_path is hostile, too: our functions are safe by themselves.
    let write = "insert into relay.outbox (aggregate_type, aggregate_id, event_type, data)
          values ('order', 'by insert', 'order.created', '{}');
        select relay.emit('order', 'by emit', 'order.created', '{}');
        insert into shop.customers values (1, 'a name', 'pg_catalog.pg_class')";
    hostile.batch_execute(write).await?;
    let mut relay = run(Some(&format!("other={topic}")))?;
    world.until(&client, "select count(*) = 3 from relay.dead_letter").await?;
    assert!(relay.terminate(LIMIT).await?.success());
    let log = relay.log();
    say(&["dead-letters", "list"])?;
    let first = "select min(id)::text from relay.dead_letter";
    let first: String = client.query_one(first, &[]).await?.get(0);
    say(&["dead-letters", "show", &first])?;
    say(&["dead-letters", "redrive", "--all"])?;
    let mut relay = run(None)?;
    hostile.batch_execute("select relay.rotate_secret()").await?;
    hostile
        .batch_execute("select relay.emit('order', 'signed anew', 'order.created', '{}')")
        .await?;
    // The probe is an event too.
    world.broker.wait("the events", LIMIT, |s| s.accepted.len() == 5).await;
    let keys: BTreeSet<String> = world.broker.state().accepted[1..]
        .iter()
        .map(|sent| member(sent, "aggregate_id").as_str().unwrap_or_default().to_owned())
        .collect();
    ensure!(keys.contains("by insert") && keys.contains("by emit"), "{keys:?}");
    // The watch, the heartbeat, the sign of life and the upkeep have been there.
    let beat = "select count(*) = 4 from pg_stat_activity where application_name in
        ('relay watch', 'relay heartbeat', 'relay alive relay', 'relay')";
    world.until(&client, beat).await?;
    let says = say(&["status"])?;
    ensure!(says.contains("Events flow."), "{says}");
    say(&["dead-letters", "drop", "--all", "--yes"]).unwrap_or_default();
    assert!(relay.terminate(LIMIT).await?.success());
    let log = log + &relay.log();
    ensure!(!log.contains("planted"), "{log}");
    for arguments in [&["parked", "list"][..], &["parked", "list", "--json"]] {
        say(arguments)?;
    }
    say(&["drop", "--yes", "--publication"])?;
    let ran: bool = client.query_one("select is_called from app.ran", &[]).await?.get(0);
    ensure!(!ran, "something that was planted ran");
    Ok(())
}
