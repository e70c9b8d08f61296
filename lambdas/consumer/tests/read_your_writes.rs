//! Waiting until a projection has come so far: in SQL, and woken in Rust.

use crate::support::{ReadModel as Database, Recorder, Sent, deliver, sent};
use consumer::Outcome::{Applied, Parked, Stale};
use consumer::{Consumer, Error, Mode, Pauses, ReadModel, TimedOut, Waited};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;
use uuid::Uuid;

/// No test waits that long unless what it waits for does not come.
const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(50);

/// Longer than any test: a wait of an hour that asks by itself after an hour is ended by a
/// notification alone, as it asks once more when its time is over.
const HOUR: Duration = Duration::from_secs(3600);
const WOKEN_ALONE: Pauses = Pauses { first: HOUR, longest: HOUR };

/// Waits until so many waits are announced.
async fn announced(database: &Database, waits: i64) {
    let announced = async {
        while database.count("relay.awaited").await != waits {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, announced).await.unwrap();
}

fn id(sent: &Sent) -> Uuid {
    sent.event_id.parse().unwrap()
}

/// The two ways of SQL, each on a connection of its own.
async fn in_sql(database: &Database, sql: &str) -> bool {
    let client = database.postgres.connect(&database.database).await.unwrap();
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn in_sql_a_wait_ends_with_the_commit_it_waits_for_or_with_its_time() {
    let database = Database::start().await;
    let mut consumer = database.consumer(Mode::Versioned);
    let version = |version: i64, limit: &str| {
        let sql =
            format!("select relay.await_version('recorder', 'thing', 'a', {version}, '{limit}')");
        let database = &database;
        async move { in_sql(database, &sql).await }
    };
    let event = |event: &Sent, limit: &str| {
        let sql = format!("select relay.await_event('recorder', '{}', '{limit}')", event.event_id);
        let database = &database;
        async move { in_sql(database, &sql).await }
    };
    let (first, second) = (sent("a", 1), sent("a", 2));
    assert!(!version(1, "0 s").await);
    assert!(!event(&first, "30 ms").await);
    assert_eq!(deliver(&mut consumer, [&first]).await, [Applied]);
    assert!(!version(2, "30 ms").await);
    let deliver = async {
        waiting_in_sql(&database, 2).await;
        assert_eq!(deliver(&mut consumer, [&second]).await, [Applied]);
    };
    let waits = (version(2, "60 s"), event(&second, "60 s"), deliver);
    assert_eq!(tokio::join!(waits.0, waits.1, waits.2), (true, true, ()));
    // What is there already is seen whatever the time, and so is what lies behind.
    assert!(version(1, "0 s").await && event(&first, "0 s").await);
}

/// Waits until so many sessions sleep between two looks, so that what follows is seen while they wait.
async fn waiting_in_sql(database: &Database, sessions: i64) {
    let waiting = "(select from pg_stat_activity where wait_event = 'PgSleep') as waiting";
    while database.count(waiting).await < sessions {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn in_sql_a_transaction_that_can_see_nothing_new_is_refused() {
    let database = Database::start().await;
    let fixed = "begin isolation level repeatable read";
    database.client.batch_execute(fixed).await.unwrap();
    let wait = "select relay.await_version('recorder', 'thing', 'a', 1)";
    let error = database.client.query(wait, &[]).await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "55000");
    assert!(error.message().contains("found repeatable read"), "{error}");
}

#[tokio::test]
async fn a_notification_wakes_a_wait() {
    let database = Database::start().await;
    let mut consumer = database.consumer(Mode::Versioned);
    let read_model = ReadModel::connect_with(&database.dsn(), WOKEN_ALONE).await.unwrap();
    let (first, second) = (sent("a", 1), sent("a", 2));
    let version = |version| read_model.await_version("recorder", "thing", "a", version, HOUR);
    // Pauses are an hour: only a notification ends these. An aggregate's first progress is a row
    // that is inserted, its next one that is changed.
    let deliver_first = async {
        announced(&database, 2).await;
        assert_eq!(deliver(&mut consumer, [&first]).await, [Applied]);
    };
    let event = read_model.await_event("recorder", id(&first), HOUR);
    let (one, event, ()) =
        timeout(LONG, Box::pin(async { tokio::join!(version(1), event, deliver_first) }))
            .await
            .unwrap();
    assert_eq!((one.unwrap(), event.unwrap()), (Waited::Reached, Waited::Reached));
    // What is over is taken back, so that no consumer notifies of it.
    announced(&database, 0).await;
    let deliver_second = async {
        announced(&database, 1).await;
        assert_eq!(deliver(&mut consumer, [&second]).await, [Applied]);
    };
    let (two, ()) =
        timeout(LONG, Box::pin(async { tokio::join!(version(2), deliver_second) })).await.unwrap();
    assert_eq!(two.unwrap(), Waited::Reached);
    announced(&database, 0).await;
}

#[tokio::test]
async fn without_notifications_a_wait_asks_again_and_again() {
    let database = Database::start().await;
    // No one is notified whose time is over.
    let silence = "create function public.expire() returns trigger language plpgsql as
          $$ begin new.expires_at := '-infinity'; return new; end $$;
        create trigger expire before insert or update on relay.awaited
          for each row execute function public.expire()";
    database.client.batch_execute(silence).await.unwrap();
    let mut consumer = database.consumer(Mode::Once);
    let read_model = ReadModel::connect(&database.dsn()).await.unwrap();
    let event = sent("a", 1);
    let deliver = async {
        announced(&database, 1).await;
        assert_eq!(deliver(&mut consumer, [&event]).await, [Applied]);
    };
    let (waited, ()) = tokio::join!(read_model.await_event("recorder", id(&event), LONG), deliver);
    assert_eq!(waited.unwrap(), Waited::Reached);
}

#[tokio::test]
async fn a_role_that_may_only_read_waits_without_being_woken() {
    let database = Database::start().await;
    let role = "create role reader login password 'reader'; grant usage on schema relay to reader;
        grant select on relay.progress, relay.inbox to reader";
    database.client.batch_execute(role).await.unwrap();
    let dsn = database.postgres.url(&database.database);
    let dsn = dsn.replacen("postgres:postgres@", "reader:reader@", 1).parse().unwrap();
    let read_model = ReadModel::connect(&dsn).await.unwrap();
    let mut consumer = database.consumer(Mode::Versioned);
    let wait = read_model.await_version("recorder", "thing", "a", 1, LONG);
    let deliver = async {
        waiting(&database, "reader").await;
        assert_eq!(deliver(&mut consumer, [&sent("a", 1)]).await, [Applied]);
    };
    let (waited, ()) = tokio::join!(wait, deliver);
    assert_eq!(waited.unwrap(), Waited::Reached);
    assert_eq!(database.count("relay.awaited").await, 0);
}

/// Waits until the role has asked how far the projection is.
async fn waiting(database: &Database, role: &str) {
    let asked = format!(
        "(select from pg_stat_activity where usename = '{role}' and query ~ 'version_reached') as asked"
    );
    while database.count(&asked).await == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn many_wait_on_one_connection_and_each_for_its_own() {
    let database = Database::start().await;
    let mut consumer = database.consumer(Mode::Versioned);
    let read_model = ReadModel::connect_with(&database.dsn(), WOKEN_ALONE).await.unwrap();
    let mut waits = JoinSet::new();
    for aggregate in 0..200_u32 {
        let read_model = read_model.clone();
        waits.spawn(async move {
            let id = aggregate.to_string();
            let waited = read_model.await_version("recorder", "thing", &id, 1, HOUR).await;
            (aggregate, waited.unwrap())
        });
    }
    announced(&database, 200).await;
    let connections = "(select from pg_stat_activity where application_name = 'read_model') as c";
    assert_eq!(database.count(connections).await, 1);
    // Half of them come, one by one; each wakes its own wait.
    for aggregate in 0..100_u32 {
        let event = sent(&aggregate.to_string(), 1);
        assert_eq!(deliver(&mut consumer, [&event]).await, [Applied]);
    }
    for _ in 0..100 {
        let (aggregate, waited) = timeout(LONG, waits.join_next()).await.unwrap().unwrap().unwrap();
        assert!(aggregate < 100, "{aggregate} was not delivered");
        assert_eq!(waited, Waited::Reached);
    }
    // The others are waited for as before, until their callers go away.
    announced(&database, 100).await;
    waits.shutdown().await;
    drop(read_model);
    announced(&database, 0).await;
}

#[tokio::test]
async fn a_wait_that_is_not_ended_in_time_says_so_and_the_caller_chooses() {
    let database = Database::start().await;
    let mut consumer = database.consumer(Mode::Versioned);
    let read_model = ReadModel::connect(&database.dsn()).await.unwrap();
    let wait = |version, limit| read_model.await_version("recorder", "thing", "a", version, limit);
    assert_eq!(deliver(&mut consumer, [&sent("a", 1)]).await, [Applied]);
    let waited = wait(2, SHORT).await.unwrap();
    assert!(waited.is_stale());
    assert_eq!(waited.or_timed_out(), Err(TimedOut));
    // No time at all still asks once.
    assert_eq!(wait(1, Duration::ZERO).await.unwrap(), Waited::Reached);
    assert_eq!(wait(2, Duration::ZERO).await.unwrap(), Waited::TimedOut);
    // Another projection, and another aggregate, are not meant.
    let other = read_model.await_version("other", "thing", "a", 1, Duration::ZERO).await;
    assert_eq!(other.unwrap(), Waited::TimedOut);
}

#[tokio::test]
async fn who_waits_for_nothing_is_notified_of_nothing() {
    let database = Database::start().await;
    let mut consumer = database.consumer(Mode::Versioned);
    let (listener, mut heard, _driver) = database.dsn().connect_to_listen("test").await.unwrap();
    listener.batch_execute("listen relay_progress").await.unwrap();
    assert_eq!(deliver(&mut consumer, [&sent("a", 1)]).await, [Applied]);
    // Its end was announced, but is over: the waiter died.
    let dead = "insert into relay.awaited values
        (relay.await_key('recorder', 'thing', 'a'), gen_random_uuid(), now() - interval '1 s')";
    database.client.batch_execute(dead).await.unwrap();
    assert_eq!(deliver(&mut consumer, [&sent("a", 2)]).await, [Applied]);
    // Notifications of a server arrive in the order of the commits.
    database.client.batch_execute("notify relay_progress, 'end'").await.unwrap();
    assert_eq!(heard.recv().await.unwrap().payload(), "end");
}

#[tokio::test]
async fn a_wait_outlives_its_connection() {
    let database = Database::start().await;
    let mut consumer = database.consumer(Mode::Versioned);
    let read_model = ReadModel::connect_with(&database.dsn(), WOKEN_ALONE).await.unwrap();
    let wait = read_model.await_version("recorder", "thing", "a", 1, HOUR);
    let disturb = async {
        announced(&database, 1).await;
        let kill = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'read_model'";
        assert_eq!(database.client.query(kill, &[]).await.unwrap().len(), 1);
        // What the first connection announced stays until it expires; the second announces anew.
        announced(&database, 2).await;
        assert_eq!(deliver(&mut consumer, [&sent("a", 1)]).await, [Applied]);
    };
    let (waited, ()) =
        timeout(LONG, Box::pin(async { tokio::join!(wait, disturb) })).await.unwrap();
    assert_eq!(waited.unwrap(), Waited::Reached);
}

#[tokio::test]
async fn a_read_model_that_is_down_is_an_error_once_the_time_is_over() {
    let mut database = Database::start().await;
    let read_model = ReadModel::connect(&database.dsn()).await.unwrap();
    database.postgres.stop().await.unwrap();
    let wait = |limit| read_model.await_version("recorder", "thing", "a", 1, limit);
    let error = wait(SHORT).await.unwrap_err();
    assert!(error.to_string().contains("cannot be asked"), "{error}");
    // While there is time it is waited for.
    let (waited, restarted) =
        tokio::join!(wait(Duration::from_secs(5)), database.postgres.restart());
    restarted.unwrap();
    assert_eq!(waited.unwrap(), Waited::TimedOut);
}

#[tokio::test]
async fn a_read_model_without_the_tables_says_what_to_run_to_those_who_would_wait() {
    let database = Database::start().await;
    let empty = database.postgres.create_database().await.unwrap();
    let dsn = database.postgres.url(&empty).parse().unwrap();
    let error = ReadModel::connect(&dsn).await.unwrap_err();
    assert!(matches!(error, Error::NotInitialised(_)), "{error}");
}

#[tokio::test]
async fn what_was_parked_or_overtaken_does_not_hold_up_those_who_wait() {
    let database = Database::start().await;
    let read_model = ReadModel::connect(&database.dsn()).await.unwrap();
    let wait =
        |version| read_model.await_version("recorder", "thing", "a", version, Duration::ZERO);
    let mut consumer = database.consumer(Mode::Latest);
    let parked = sent("a", 3).kind("reject");
    assert_eq!(deliver(&mut consumer, [&parked]).await, [Parked]);
    let event = read_model.await_event("recorder", id(&parked), Duration::ZERO).await;
    assert_eq!(event.unwrap(), Waited::Reached, "it is done with");
    assert_eq!(wait(3).await.unwrap(), Waited::TimedOut, "what it says is not in the read model");
    assert_eq!(deliver(&mut consumer, [&sent("a", 4)]).await, [Applied]);
    assert_eq!(wait(3).await.unwrap(), Waited::Reached);
    assert_eq!(deliver(&mut consumer, [&sent("a", 2)]).await, [Stale]);
    assert_eq!(wait(2).await.unwrap(), Waited::Reached);
}

#[tokio::test]
async fn an_event_is_found_under_the_day_of_its_id_and_under_any_other() {
    let database = Database::start().await;
    let mut consumer = database.consumer(Mode::Once);
    let read_model = ReadModel::connect(&database.dsn()).await.unwrap();
    let now = Uuid::now_v7().to_string();
    // The day of the id; of an id of a year that no calendar here has; of the timestamp.
    let ids = [
        "01930000-0000-7000-8000-000000000001",
        now.as_str(),
        "ffffffff-ffff-7fff-bfff-ffffffffffff",
        "e677d21f-dbff-7fff-8000-000000000000",
        "8f7dbb62-4ab5-4a34-9a51-1b9c3fc8b1ad",
    ];
    for id in ids {
        let event = Sent { event_id: id.to_owned(), ..sent("a", 1) };
        let id = id.parse().unwrap();
        let wait = || read_model.await_event("recorder", id, Duration::ZERO);
        assert_eq!(wait().await.unwrap(), Waited::TimedOut, "{id}");
        assert_eq!(deliver(&mut consumer, [&event]).await, [Applied], "{id}");
        assert_eq!(wait().await.unwrap(), Waited::Reached, "{id}");
    }
}

#[tokio::test]
async fn a_consumers_role_needs_no_more_than_before_to_notify() {
    let database = Database::start().await;
    let role = "create role writer login password 'writer';
        grant usage on schema relay to writer;
        grant select, insert, update on relay.inbox, relay.progress, relay.parked,
          relay.inbox_horizon, effects to writer";
    database.client.batch_execute(role).await.unwrap();
    let url = database.postgres.url(&database.database);
    let dsn = url.replacen("postgres:postgres@", "writer:writer@", 1).parse().unwrap();
    let mut consumer = Consumer::new(Recorder::new(Mode::Versioned), &dsn);
    let read_model = ReadModel::connect_with(&database.dsn(), WOKEN_ALONE).await.unwrap();
    let deliver = async {
        announced(&database, 1).await;
        assert_eq!(deliver(&mut consumer, [&sent("a", 1)]).await, [Applied]);
    };
    let wait = read_model.await_version("recorder", "thing", "a", 1, HOUR);
    let (waited, ()) =
        timeout(LONG, Box::pin(async { tokio::join!(wait, deliver) })).await.unwrap();
    assert_eq!(waited.unwrap(), Waited::Reached);
}
