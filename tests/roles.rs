//! The grants of the page on roles: with them each role does its task, without one of them it does not.

use crate::harness::{LIMIT, World, member, text};
use anyhow::{Context as _, Result, ensure};
use consumer::{
    Consumer, Effects, Event, Handler, HandlerError, Outcome, Performed, Record, Replayed, Tx,
};
use local::process::Process;
use std::future::Future;
use std::time::Duration;
use tokio_postgres::{Client, NoTls};

const PAGE: &str = include_str!("../relay/docs/roles.md");

/// One privilege of a role on one object, as a statement can grant or revoke it.
#[derive(Debug)]
struct Grant {
    what: String,
    role: String,
}

/// The statements of the page that this role runs.
fn statements(of: &str) -> String {
    crate::readme::blocks_of(PAGE, &format!("sql roles {of}")).concat()
}

/// Each privilege by itself, of `grant A, B on C, D to ROLE`.
fn grants(statements: &str) -> Vec<Grant> {
    let mut grants = Vec::new();
    for statement in statements.split(';').map(str::trim) {
        let Some(rest) = statement.strip_prefix("grant ") else { continue };
        let (privileges, rest) = rest.split_once(" on ").expect(statement);
        let (objects, role) = rest.split_once(" to ").expect(statement);
        for privilege in privileges.split(", ") {
            for object in objects.split(", ") {
                grants.push(Grant {
                    what: format!("{privilege} on {object}"),
                    role: role.to_owned(),
                });
            }
        }
    }
    grants
}

/// The connection string of a role, whose password is its name.
fn url(world: &World, role: &str, database: &str) -> String {
    world.postgres.url(database).replace("postgres:postgres@", &format!("{role}:{role}@"))
}

async fn client(world: &World, role: &str, database: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(&url(world, role, database), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn run(client: &Client, statements: &str) -> Result<()> {
    ensure!(!statements.is_empty(), "expected statements on the page");
    client.batch_execute(statements).await.context(statements.to_owned())
}

/// Every role of the page has its name as its password.
async fn passwords(superuser: &Client, statements: &str) -> Result<()> {
    for statement in statements.split("create role ").skip(1) {
        let role = statement.split([' ', ';']).next().unwrap_or_default();
        superuser.batch_execute(&format!("alter role {role} password '{role}'")).await?;
    }
    Ok(())
}

/// The task succeeds, and fails without any one of the role's grants.
async fn needs_each<F: Future<Output = Result<()>>>(
    owner: &Client,
    grants: &[Grant],
    role: &str,
    task: impl Fn() -> F,
) -> Result<()> {
    let own: Vec<_> = grants.iter().filter(|grant| grant.role == role).collect();
    ensure!(own.len() > 1, "expected grants to {role} on the page");
    task().await.with_context(|| format!("{role}, with what the page grants"))?;
    for Grant { what, .. } in own {
        owner.batch_execute(&format!("revoke {what} from {role}")).await?;
        ensure!(task().await.is_err(), "{role} does its task without {what}");
        owner.batch_execute(&format!("grant {what} to {role}")).await?;
    }
    task().await.with_context(|| format!("{role}, with everything granted again"))
}

/// Runs a command as a role; fails unless it says this and ends with this code.
fn says(world: &World, role: &str, arguments: &str, code: i32, wanted: &str) -> Result<()> {
    let output = world
        .relay(&world.broker.topic("orders.fifo"))
        .env("DATABASE_URL", url(world, role, "shop"))
        .env("READ_MODEL_URL", url(world, role, "read_model"))
        .args(arguments.split(' '))
        .output()?;
    let said = text(&output);
    ensure!(output.status.code() == Some(code) && said.contains(wanted), "{arguments}: {said}");
    Ok(())
}

/// The roles of the source, made by the page, and `relay init` by its owner.
async fn source() -> Result<(World, Client, Client)> {
    let mut world = World::bare(&[]).await?;
    let root = world.postgres.connect("postgres").await?;
    root.batch_execute("create database shop").await?;
    "shop".clone_into(&mut world.database);
    let superuser = world.client().await?;
    // Which rights everyone has on `public` is up to the version: none here.
    superuser.batch_execute("revoke all on schema public from public").await?;
    run(&superuser, &statements("superuser")).await?;
    passwords(&superuser, &statements("superuser")).await?;
    says(&world, "relay", "init", 0, "the log behind the slot relay was read")?;
    let owner = client(&world, "relay", "shop").await?;
    run(&owner, &statements("relay")).await?;
    Ok((world, superuser, owner))
}

const LETTER: &str = "insert into relay.dead_letter
    (event_id, destination, key, event_type, reason, attempts, position, body, attributes)
    select gen_random_uuid(), 'nowhere', '/order/o', 'order.created', 'a test', 1, gen_random_uuid(), '{}',
      '{\"aggregate_type\": \"order\"}'
    from generate_series(1, 2) returning id";

#[tokio::test]
async fn each_role_of_the_source_needs_what_the_page_grants_and_no_more() -> Result<()> {
    let (world, superuser, owner) = source().await?;
    let grants = grants(&statements("relay"));

    let app = client(&world, "shop_app", "shop").await?;
    needs_each(&owner, &grants, "shop_app", || async {
        app.batch_execute(
            "insert into relay.outbox (aggregate_type, aggregate_id, event_type, data)
             values ('order', 'o', 'order.created', '{}') returning event_id;
             select relay.emit('order', 'o', 'order.paid', '{}')",
        )
        .await?;
        Ok(())
    })
    .await?;
    // Each of the two ways by itself, and nothing beside them.
    owner.batch_execute("revoke select (event_id), insert on relay.outbox from shop_app").await?;
    app.batch_execute("select relay.emit('order', 'o', 'order.paid', '{}'::jsonb)").await?;
    owner
        .batch_execute(
            "revoke execute on function relay.emit_event from shop_app; grant insert on relay.outbox to shop_app",
        )
        .await?;
    let insert = "insert into relay.outbox (aggregate_type, aggregate_id, event_type, data)
        values ('order', 'o', 'order.created', '{}')";
    app.batch_execute(insert).await?;
    for refused in [
        "select relay.emit('order', 'o', 'order.paid', '{}')",
        "select from relay.outbox",
        "select from relay.secret",
        "select from relay.dead_letter",
        "select relay.redrive('{1}')",
        "select relay.rotate_secret()",
        "select relay.make_secret()",
        "select relay.write_message('relay.event', '')",
        "delete from relay.outbox",
    ] {
        let error = app.batch_execute(refused).await.expect_err(refused);
        assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE));
    }
    run(&owner, &statements("relay")).await?;

    needs_each(&owner, &grants, "relay_run", || async {
        says(&world, "relay_run", "check", 0, "written and rolled back: a dead letter")?;
        // Begun by another server, or a slot made anew: check notes it, the page grants it.
        let anew = says(&world, "relay_run", "check", 0, "a new epoch");
        ensure!(anew.is_err(), "a new epoch cannot be written");
        Ok(())
    })
    .await?;

    needs_each(&owner, &grants, "relay_watch", || async {
        says(&world, "relay_watch", "status", 1, "no relay reads from the slot")
    })
    .await?;

    needs_each(&owner, &grants, "relay_operator", || async {
        let letters = superuser.query(LETTER, &[]).await?;
        let id = |at: usize| letters[at].get::<_, i64>(0);
        let operates =
            |arguments: String, wanted: &str| says(&world, "relay_operator", &arguments, 0, wanted);
        operates("dead-letters list".to_owned(), "order.created")?;
        operates(format!("dead-letters show {}", id(0)), "a test")?;
        operates(format!("dead-letters redrive {}", id(0)), "redrove 1 dead letter")?;
        operates(format!("dead-letters drop {} --yes", id(1)), "dropped 1 dead letter")
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn the_relay_runs_and_keeps_letters_with_what_the_page_grants() -> Result<()> {
    let (world, superuser, _owner) = source().await?;
    let (orders, app) =
        (world.broker.topic("orders.fifo"), client(&world, "shop_app", "shop").await?);
    let start = || -> Result<Process> {
        let mut command = world.relay("");
        command
            .arg("run")
            .env("DATABASE_URL", url(&world, "relay_run", "shop"))
            .env("RELAY_ROUTES", format!("order={orders}"));
        world.start(command)
    };
    let mut relay = start()?;
    app.batch_execute(
        "insert into relay.outbox (aggregate_type, aggregate_id, event_type, data)
         values ('order', 'o', 'order.created', '{}'), ('stock', 's', 'stock.moved', '{}');
         select relay.emit('order', 'o', 'order.paid', '{}')",
    )
    .await?;
    world.broker.wait("both", LIMIT, |s| s.accepted.len() == 2).await;
    // No route for the other one.
    world.until(&superuser, "select count(*) = 1 from relay.dead_letter").await?;
    let kinds: Vec<_> =
        world.broker.state().accepted.iter().map(|a| member(a, "event_type")).collect();
    assert_eq!(kinds, ["order.created", "order.paid"]);
    says(&world, "relay_watch", "status", 0, "Events flow.")?;
    assert!(relay.terminate(LIMIT).await?.success());
    // As the page says: with the owner's role it sees to the partitions, without it check notes it.
    let note = "expected a role that owns relay.outbox";
    says(&world, "relay_run", "check", 0, note)?;
    superuser.batch_execute("grant relay to relay_run").await?;
    assert!(says(&world, "relay_run", "check", 0, note).is_err());
    let last = "select to_regclass('relay.outbox_' || to_char((now() at time zone 'UTC')::date + 7, 'YYYYMMDD'))";
    let there = format!("select ({last}) is not null");
    let sql = format!("do $$ begin execute 'drop table ' || ({last})::text; end $$");
    superuser.batch_execute(&sql).await?;
    let _relay = start()?;
    world.until(&superuser, &there).await
}

/// Does as the event's type says.
struct Summary;

impl Handler for Summary {
    fn name(&self) -> &'static str {
        "order_summary"
    }

    async fn handle(&self, event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
        match event.event_type.as_str() {
            "order.refused" => Err(HandlerError::Reject("a test".to_owned())),
            "order.called" => tx.effect(&event.aggregate_id),
            _ => Ok(()),
        }
    }
}

fn record(id: &str, version: i64, kind: &str) -> Record {
    let body = serde_json::json!({
        "event_id": uuid::Uuid::now_v7(), "event_type": kind, "timestamp": "2026-01-15T10:30:00Z",
        "aggregate_type": "order", "aggregate_id": id, "aggregate_version": version, "data": {},
    });
    Record::new(Some(format!("{id}/{version}")), Some(body.to_string()), false, |_| None)
}

/// All that a projection does: it records, counts versions, parks, replays, and has effects.
async fn project(world: &World, superuser: &Client) -> Result<()> {
    let dsn: dsn::Dsn = url(world, "order_summary", "read_model").parse()?;
    let id = uuid::Uuid::now_v7().to_string();
    let mut consumer =
        Consumer::new(Summary, &dsn).with_effects(Effects::new(|_| async { Performed::Done }));
    let events = ["order.created", "order.called", "order.refused"];
    for (place, kind) in events.into_iter().enumerate() {
        let version = i64::try_from(place)? + 1;
        let report = tokio::time::timeout(
            Duration::from_secs(20),
            consumer.deliver(vec![record(&id, version, kind)]),
        )
        .await??;
        let expected = if kind == "order.refused" { Outcome::Parked } else { Outcome::Applied };
        ensure!(report.outcomes[0].1 == expected, "{kind}: {:?}", report.outcomes);
    }
    superuser
        .batch_execute("update relay.parked set replay_requested_at = now() where replays = 0")
        .await?;
    let replayed = consumer.replay_parked(None).await?;
    let expected = Replayed { refused: 1, ..Replayed::default() };
    superuser.batch_execute("delete from relay.parked").await?;
    ensure!(replayed == expected, "{replayed:?}");
    Ok(())
}

#[tokio::test]
async fn each_role_of_the_read_model_needs_what_the_page_grants_and_no_more() -> Result<()> {
    let mut world = World::bare(&[]).await?;
    let root = world.postgres.connect("postgres").await?;
    root.batch_execute("create database read_model").await?;
    "read_model".clone_into(&mut world.database);
    let superuser = world.client().await?;
    superuser.batch_execute("revoke all on schema public from public").await?;
    run(&superuser, &statements("read-model superuser")).await?;
    passwords(&superuser, &statements("read-model superuser")).await?;
    says(&world, "read_model", "init --read-model", 0, "made")?;
    let owner = client(&world, "read_model", "read_model").await?;
    run(&owner, &statements("read-model")).await?;
    let grants = grants(&statements("read-model"));

    needs_each(&owner, &grants, "order_summary", || project(&world, &superuser)).await?;

    needs_each(&owner, &grants, "parked_operator", || async {
        let parked = superuser
            .query(
                "insert into relay.parked
                   (projection, event_id, event_type, aggregate_type, aggregate_id, reason, body)
                 select 'order_summary', gen_random_uuid(), 'order.created', 'order', 'o', 'a test', '{}'
                 from generate_series(1, 2) returning id",
                &[],
            )
            .await?;
        let id = |at: usize| parked[at].get::<_, i64>(0);
        let operates = |arguments: String, wanted: &str| {
            says(&world, "parked_operator", &arguments, 0, wanted)
        };
        operates("parked list".to_owned(), "order.created")?;
        operates(format!("parked show {}", id(0)), "a test")?;
        operates(format!("parked replay {}", id(0)), "asked for the replay of 1 parked event")?;
        operates(format!("parked drop {} --yes", id(1)), "dropped 1 parked event")
    })
    .await?;
    Ok(())
}
