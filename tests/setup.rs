//! `relay init` and `relay check`: each precondition taken away, each cure the right one.

use crate::harness::{INSERT, LIMIT, World, text};
use anyhow::Result;
use std::process::{Output, Stdio};
use tokio_postgres::Client;

async fn version(client: &Client) -> Result<i32> {
    let sql = "select current_setting('server_version_num')::int / 10000";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

fn says(output: &Output, wanted: &[&str]) {
    let said = text(output);
    for wanted in wanted {
        assert!(said.contains(wanted), "expected {wanted:?} in:\n{said}");
    }
}

/// A role that owns nothing and has grants alone.
const ROLE: &str = "
    create role streamer login replication password 'streamer';
    grant usage on schema relay to streamer;
    grant select, insert, update, delete on relay.dead_letter, relay.condition to streamer;
    grant select on relay.secret to streamer;
    grant select, insert, update on relay.history to streamer;";

#[tokio::test]
async fn what_check_passes_run_can_do_for_a_role_with_grants_alone() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    client.batch_execute(ROLE).await?;
    let topic = world.broker.topic("orders.fifo");
    let url =
        world.postgres.url(&world.database).replace("postgres:postgres@", "streamer:streamer@");
    let check = || world.relay(&topic).args(["check"]).env("DATABASE_URL", &url).output();
    let well = check()?;
    assert!(well.status.success(), "{}", text(&well));
    says(
        &well,
        &[
            "ok    session",
            "ok    writes",
            "ok    log",
            "read to its end",
            "expected a role that owns relay.outbox",
        ],
    );
    // The slot was read from, and nothing of it confirmed.
    client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    assert!(check()?.status.success());

    // Each privilege in turn, as the catalogue has them.
    let granted = client
        .query(
            "select format('%s on %s from streamer', a.privilege_type, c.oid::regclass), format('%s on %s to streamer', a.privilege_type, c.oid::regclass), c.relname::text
             from pg_class as c cross join lateral aclexplode(c.relacl) as a
             join pg_namespace as n on n.oid = c.relnamespace
             where n.nspname = 'relay' and a.grantee = 'streamer'::regrole and a.privilege_type in ('INSERT', 'DELETE', 'UPDATE', 'SELECT')
             union all select 'usage on schema relay from streamer', 'usage on schema relay to streamer', 'schema'",
            &[],
        )
        .await?;
    assert!(granted.len() >= 13, "{}", granted.len());
    let mut refused = 0;
    for row in granted {
        let (revoke, grant, of): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        client.batch_execute(&format!("revoke {revoke}")).await?;
        let output = check()?;
        // Of a letter the running relay inserts alone; all else is needed.
        if of == "dead_letter" && !revoke.starts_with("INSERT") {
            assert!(output.status.success(), "{revoke}: {}", text(&output));
        } else if of == "history" && !revoke.starts_with("SELECT") {
            // The slot has its epoch; only another server behind it begins one.
            assert!(output.status.success(), "{revoke}: {}", text(&output));
            says(&output, &["a new epoch", "permission denied", "run GRANT"]);
        } else {
            refused += 1;
            assert_eq!(output.status.code(), Some(1), "{revoke}: {}", text(&output));
            says(&output, &["SQLSTATE 42501", "permission denied", "cure: run GRANT"]);
        }
        client.batch_execute(&format!("grant {grant}")).await?;
    }
    assert!(refused >= 8, "{refused}");

    // What is taken away, how it is given back, and what check and run say of it.
    let cases = [
        (
            "revoke insert on relay.dead_letter from streamer",
            "grant insert on relay.dead_letter to streamer",
            "permission denied for table dead_letter",
        ),
        (
            "revoke insert on relay.history from streamer; delete from relay.history",
            "grant insert on relay.history to streamer",
            "permission denied for table history",
        ),
        ("alter role streamer noreplication", "alter role streamer replication", "ALTER ROLE"),
        (
            "alter role streamer set default_transaction_read_only = on",
            "alter role streamer reset default_transaction_read_only",
            "default_transaction_read_only",
        ),
        (
            "alter publication relay rename to other",
            "alter publication other rename to relay",
            "expected the publication relay, found none",
        ),
        (
            "alter publication relay set (publish_via_partition_root = false)",
            "alter publication relay set (publish_via_partition_root = true)",
            "publish_via_partition_root = true",
        ),
    ];
    for (take, give, wanted) in cases {
        client.batch_execute(take).await?;
        let output = check()?;
        assert_eq!(output.status.code(), Some(1), "{take}: {}", text(&output));
        says(&output, &[wanted]);
        let mut command = world.relay(&topic);
        command.arg("run").env("DATABASE_URL", &url);
        let mut relay = world.start(command)?;
        relay.said(wanted, LIMIT).await?;
        relay.kill();
        let free =
            "select not exists (select from pg_replication_slots where active_pid is not null)";
        world.until(&client, free).await?;
        client.batch_execute(give).await?;
    }
    assert!(check()?.status.success());
    let mut command = world.relay(&topic);
    command.arg("run").env("DATABASE_URL", &url);
    let mut relay = world.start(command)?;
    world.broker.wait("the event", LIMIT, |s| !s.accepted.is_empty()).await;
    // In use by a relay: check leaves it alone.
    says(&check()?, &["not tried, because the slot is in use"]);
    assert!(relay.terminate(LIMIT).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_pooler_or_no_free_wal_sender_is_found_by_a_session() -> Result<()> {
    let world = World::bare(&[("max_wal_senders", "1")]).await?;
    assert!(world.relay("").arg("init").output()?.status.success());
    let topic = world.broker.topic("orders.fifo");
    let client = world.client().await?;
    client.batch_execute("select pg_create_logical_replication_slot('other', 'pgoutput')").await?;
    let mut other = world.relay(&topic);
    other.arg("run").env("RELAY_SLOT", "other");
    let mut other = world.start(other)?;
    other.said("streaming", LIMIT).await?;
    let check = world.relay(&topic).args(["check"]).output()?;
    assert_eq!(check.status.code(), Some(1));
    says(&check, &["FAIL  session", "SQLSTATE 53300", "every wal sender is taken"]);
    other.kill();

    let pooler = local::pgbouncer::Pgbouncer::start(&world.postgres, &world.database).await?;
    let url = pooler.url(&world.database);
    for verb in ["check", "init"] {
        let output = world.relay(&topic).arg(verb).env("DATABASE_URL", &url).output()?;
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        says(&output, &["to be the server itself", "leads to a pooler"]);
    }
    // Two at once wait for each other behind it, and nothing of theirs is left behind.
    let read_model = world.postgres.create_database().await?;
    let pooler = local::pgbouncer::Pgbouncer::start(&world.postgres, &read_model).await?;
    let url = pooler.url(&read_model);
    for _ in 0..2 {
        let both: Vec<_> = (0..3)
            .map(|_| {
                let mut command = world.relay("");
                command.args(["init", "--read-model"]).env("READ_MODEL_URL", &url);
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
            })
            .collect::<std::io::Result<_>>()?;
        for child in both {
            let output = child.wait_with_output()?;
            assert!(output.status.success(), "{}", text(&output));
        }
    }
    let inside = world.postgres.connect(&read_model).await?;
    let locks = "select count(*) from pg_locks where locktype = 'advisory'";
    assert_eq!(inside.query_one(locks, &[]).await?.get::<_, i64>(0), 0);
    Ok(())
}

#[tokio::test]
async fn a_table_whose_updates_postgres_would_refuse_is_not_published() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    client
        .batch_execute(
            "create table bare (a int);
             create table nothing (a int primary key); alter table nothing replica identity nothing;
             create table late (a int primary key deferrable);
             create table dropped (a int not null unique); alter table dropped replica identity using index dropped_a_key;
             alter table dropped drop constraint dropped_a_key;
             create table split (a int not null) partition by range (a);
             create table split_1 partition of split for values from (0) to (9);
             alter table split replica identity full;
             create table well (a int primary key)",
        )
        .await?;
    let init = |table: &str| {
        world.relay("").arg("init").env("RELAY_TABLES", format!("public.{table}")).output()
    };
    for (table, wanted) in [
        ("bare", "no primary key"),
        ("nothing", "REPLICA IDENTITY NOTHING"),
        ("late", "deferrable"),
        ("dropped", "index was dropped"),
        ("split", "public.split_1"),
    ] {
        let output = init(table)?;
        assert_eq!(output.status.code(), Some(1), "{table}: {}", text(&output));
        says(&output, &[wanted, "Postgres refuses each UPDATE and DELETE", "REPLICA IDENTITY"]);
        client.batch_execute(&format!("delete from {table}")).await?;
    }
    let well = init("well")?;
    assert!(well.status.success(), "{}", text(&well));
    client.batch_execute("insert into well values (1); update well set a = 2").await?;
    let topic = world.broker.topic("orders.fifo");
    let check = || world.relay(&topic).args(["check"]).output();
    assert!(check()?.status.success());
    // By hand, and for all tables: check finds it, and run says it.
    client.batch_execute("alter publication relay add table bare").await?;
    let refused = check()?;
    assert_eq!(refused.status.code(), Some(1));
    says(&refused, &["FAIL  identities", "public.bare", "REPLICA IDENTITY FULL"]);
    let mut relay = world.run(&topic).await?;
    relay.said("expected a replica identity of public.bare", LIMIT).await?;
    assert!(relay.terminate(LIMIT).await?.success());
    client.batch_execute("alter table bare replica identity full").await?;
    assert!(check()?.status.success());
    if version(&client).await? >= 15 {
        client
            .batch_execute(
                "alter publication relay set table relay.outbox, bare, well where (a > 0)",
            )
            .await?;
        assert!(check()?.status.success());
        client
            .batch_execute(
                "alter table well add note text;
                 alter publication relay set table relay.outbox, well where (note > '')",
            )
            .await?;
        says(&check()?, &["FAIL  identities", "a row filter on columns outside"]);
        client.batch_execute("alter publication relay set table relay.outbox, bare (a)").await?;
        says(&check()?, &["FAIL  identities", "a column list without its replica identity"]);
        let kept = "alter publication relay set table relay.outbox, well (a) where (a > 5)";
        client.batch_execute(kept).await?;
        let told =
            world.relay(&topic).args(["check"]).env("RELAY_TABLES", "public.well").output()?;
        assert!(told.status.success(), "{}", text(&told));
        says(&told, &["only rows come for which (a > 5)", "without the columns note"]);
    }
    Ok(())
}

#[tokio::test]
async fn init_brings_its_own_publication_up_to_date_and_leaves_others_alone() -> Result<()> {
    let world = World::bare(&[]).await?;
    let client = world.client().await?;
    client.batch_execute("create table customers (id int primary key)").await?;
    let dry = world.relay("").args(["init", "--dry-run"]).output()?;
    assert!(dry.status.success(), "{}", text(&dry));
    says(
        &dry,
        &[
            "create table relay.outbox",
            "create publication \"relay\"",
            "pg_create_logical_replication_slot('relay'",
        ],
    );
    let made = "select count(*) from pg_namespace where nspname = 'relay'";
    assert_eq!(client.query_one(made, &[]).await?.get::<_, i64>(0), 0);
    // What it printed is SQL that does it.
    let printed = String::from_utf8_lossy(&dry.stdout);
    let (schema, slot) = printed.split_at(printed.rfind("select lsn::text").expect("the slot"));
    client.batch_execute(schema).await?;
    client.batch_execute(slot).await?;
    let again = world.relay("").arg("init").output()?;
    assert!(again.status.success(), "{}", text(&again));
    says(&again, &["is up to date", "ok    slot relay is there and free"]);
    assert!(!text(&again).contains("made  "), "{}", text(&again));

    let with = |tables: &str, more: &[&str]| {
        world.relay("").arg("init").args(more).env("RELAY_TABLES", tables).output()
    };
    let later = with("public.customers", &[])?;
    assert!(later.status.success(), "{}", text(&later));
    says(&later, &["added public.customers to publication relay", "set   publish ="]);
    client.batch_execute("insert into customers values (1); update customers set id = 2").await?;
    let without = world.relay("").arg("init").output()?;
    assert!(without.status.success(), "{}", text(&without));
    says(&without, &["note  public.customers is in publication relay and not configured"]);
    let removed = world.relay("").args(["init", "--remove-tables"]).output()?;
    says(&removed, &["gone  public.customers from publication relay"]);

    // Made by hand: judged, and changed only when that is asked for.
    client.batch_execute("create publication p for all tables").await?;
    let by_hand = |more: &[&str]| {
        world.relay("").arg("init").args(more).env("RELAY_PUBLICATION", "p").output()
    };
    let refused = by_hand(&[])?;
    assert_eq!(refused.status.code(), Some(1));
    says(
        &refused,
        &["publish_via_partition_root = true", "leaves it alone", "--adopt-publication"],
    );
    let adopted = by_hand(&["--adopt-publication"])?;
    says(&adopted, &["adopt publication p"]);
    let sql = "select current_setting('server_version_num')::int >= 180000";
    if client.query_one(sql, &[]).await?.get(0) {
        assert!(adopted.status.success(), "{}", text(&adopted));
        assert!(by_hand(&[])?.status.success());
    } else {
        // The slot is older than the publication p: before 18 it cannot be read with it.
        says(&adopted, &["relay drop --yes"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_slot_of_another_kind_is_refused_by_init_check_and_run() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    let topic = world.broker.topic("orders.fifo");
    client
        .batch_execute(
            "select pg_create_logical_replication_slot('two', 'pgoutput', false, true);
             select pg_create_logical_replication_slot('brief', 'pgoutput', true);
             select pg_create_logical_replication_slot('decoding', 'test_decoding');
             select pg_create_physical_replication_slot('physical')",
        )
        .await?;
    for (slot, wanted) in [
        ("two", "found two_phase = true"),
        ("brief", "found a temporary one"),
        ("decoding", "found test_decoding"),
        ("physical", "found a physical one"),
    ] {
        for verb in ["init", "check", "run"] {
            let output = world.relay(&topic).arg(verb).env("RELAY_SLOT", slot).output()?;
            assert_eq!(output.status.code(), Some(1), "{verb} {slot}: {}", text(&output));
            says(&output, &[wanted, "cure: "]);
        }
    }
    // A slot that is older than its publication, with a change between them.
    client
        .batch_execute("drop publication relay; insert into relay.outbox (aggregate_type, aggregate_id, event_type, data) values ('order', 'o', 'order.created', '{}')")
        .await?;
    let init = world.relay("").arg("init").output()?;
    let check = world.relay(&topic).args(["check"]).output()?;
    if version(&client).await? < 18 {
        for output in [init, check] {
            assert_eq!(output.status.code(), Some(1), "{}", text(&output));
            says(&output, &["SQLSTATE 42704", "written while that publication was not there"]);
        }
    } else {
        assert!(init.status.success() && check.status.success(), "{}", text(&check));
    }
    Ok(())
}

#[tokio::test]
async fn what_init_waits_for_is_said_and_a_killed_one_leaves_nothing_half_made() -> Result<()> {
    let world = World::bare(&[("max_prepared_transactions", "2")]).await?;
    let client = world.client().await?;
    client
        .batch_execute("create table t (a int); begin; insert into t values (1); prepare transaction 'forgotten'")
        .await?;
    let init = || {
        let mut command = world.relay("");
        command.arg("init");
        command
    };
    // Twice, killed at its most delicate point; the second finds the first one's backend, or none.
    for _ in 0..2 {
        let mut killed = world.start(init())?;
        killed.said("the prepared transaction 'forgotten'", LIMIT).await?;
        killed.kill();
    }
    let gone = "select not exists (select from pg_replication_slots where slot_name = 'relay')";
    world.until(&client, gone).await?;
    // With a time limit: the limit is blamed, and what was waited for.
    let mut limited = init();
    let url = world.postgres.url(&world.database);
    limited.env("DATABASE_URL", format!("{url}?options=-c%20statement_timeout%3D1500"));
    let limited = limited.output()?;
    assert_eq!(limited.status.code(), Some(1));
    says(&limited, &["SQLSTATE 57014", "statement_timeout = 0", "'forgotten'"]);
    client.batch_execute("rollback prepared 'forgotten'").await?;
    let mut last = world.start(init())?;
    assert!(last.ended(LIMIT).await?.success(), "{}", last.log());

    // Every slot taken.
    client
        .batch_execute("select pg_create_physical_replication_slot('s' || n) from generate_series(1, current_setting('max_replication_slots')::int - 1) as n")
        .await?;
    let full = init().env("RELAY_SLOT", "more").output()?;
    says(&full, &["SQLSTATE 53400", "max_replication_slots"]);
    Ok(())
}

#[tokio::test]
async fn a_standby_is_named_by_init_and_check() -> Result<()> {
    let mut world = World::new().await?;
    let standby = world.postgres.standby().await?;
    let url = standby.url(&world.database);
    let topic = world.broker.topic("orders.fifo");
    for verb in ["init", "check", "run"] {
        let output = world.relay(&topic).arg(verb).env("DATABASE_URL", &url).output()?;
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        says(&output, &["expected a server that takes writes, found a standby", "primary"]);
    }
    Ok(())
}
