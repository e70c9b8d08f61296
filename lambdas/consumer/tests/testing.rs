//! The harness for authors finds what is wrong with a projection, and says how.

use consumer::testing::{Failure, GivenEvent, ReadModel, event};
use consumer::{Event, Handler, HandlerError, Mode, Tx};
use local::postgres::Postgres;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU32, Ordering};

const TABLE: &str = "create table journal (id text primary key, said text)";
const QUERY: &str = "select id, said from journal order by id";

/// Writes what each event says behind what those before it said.
struct Journal {
    mode: Mode,
    /// What no handler may keep: its own runs, which a rollback does not take back.
    runs: Option<AtomicU32>,
}

impl Handler for Journal {
    fn name(&self) -> &'static str {
        "journal"
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    async fn handle(&self, event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
        let said = match &self.runs {
            Some(runs) => format!("{},", runs.fetch_add(1, Ordering::Relaxed)),
            None => event.data()?,
        };
        let sql = "insert into journal (id, said) values ($1, $2)
            on conflict (id) do update set said = journal.said || excluded.said";
        tx.execute(sql, &[&event.aggregate_id, &said]).await?;
        Ok(())
    }
}

fn events() -> Vec<GivenEvent> {
    let said = |id, version, text| event("said", "person", id, version, json!(text));
    vec![said("p", 1, "a"), said("p", 2, "b"), said("q", 1, "x"), said("p", 3, "c")]
}

fn journal(mode: Mode) -> impl Fn() -> Journal {
    move || Journal { mode, runs: None }
}

async fn server() -> (Postgres, ReadModel) {
    let postgres = Postgres::start(&[]).await.unwrap();
    let read_model = ReadModel::new(&postgres.url("postgres").parse().unwrap(), TABLE);
    (postgres, read_model)
}

/// What the failure says, and that no database is left.
async fn message(postgres: &Postgres, result: Result<(), Failure>) -> String {
    let client = postgres.connect("postgres").await.unwrap();
    let sql = "select count(*) from pg_database where datname like 'relay_test_%'";
    assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 0);
    result.unwrap_err().to_string()
}

#[tokio::test]
async fn a_projection_that_keeps_to_the_rules_passes() {
    let (_postgres, read_model) = server().await;
    let rows: &[&[&str]] = &[&["p", "abc"], &["q", "x"]];
    let given = || read_model.given(events()).without_late_events();
    given().deliver(journal(Mode::Versioned)).then(QUERY, rows).await.unwrap();
    given().fifo().deliver(journal(Mode::Once)).then(QUERY, rows).await.unwrap();
}

/// The row shows what the last event said; `guards` says whether it knows which was the last.
struct Newest {
    mode: Mode,
    guards: bool,
}

impl Handler for Newest {
    fn name(&self) -> &'static str {
        "newest"
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    async fn handle(&self, event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
        let said: String = event.data()?;
        // An event without a version is before every one that has one.
        let version = event.aggregate_version.unwrap_or(0);
        let guard = if self.guards { "where had.version < excluded.version" } else { "" };
        let sql = format!(
            "insert into newest as had values ($1, $2, $3)
            on conflict (id) do update set said = excluded.said, version = excluded.version {guard}"
        );
        tx.write(&sql, &[&event.aggregate_id, &said, &version]).await?;
        Ok(())
    }
}

#[tokio::test]
async fn rows_that_go_back_are_found_with_what_to_write() {
    const TABLE: &str = "create table newest (id text primary key, said text, version bigint)";
    const QUERY: &str = "select id, said from newest order by id";
    let postgres = Postgres::start(&[]).await.unwrap();
    let read_model = ReadModel::new(&postgres.url("postgres").parse().unwrap(), TABLE);
    let rows: &[&[&str]] = &[&["p", "c"], &["q", "x"]];
    let tried = |mode, guards| {
        let given = read_model.given(events()).seed(7);
        given.deliver(move || Newest { mode, guards }).then(QUERY, rows)
    };
    tried(Mode::Versioned, true).await.unwrap();
    tried(Mode::Latest, true).await.unwrap();
    // The last write wins by the guard alone, where the events have versions.
    tried(Mode::Latest, false).await.unwrap();
    let found = message(&postgres, tried(Mode::Versioned, false).await).await;
    let begins =
        "newest: a parked event replayed behind later ones: expected, not found:\n  [\"p\", \"c\"]";
    assert!(found.starts_with(begins), "{found}");
    assert!(found.contains("version = greatest(version, $2)"), "{found}");
    assert!(found.contains("parked events replayed: 1 applied"), "{found}");
}

/// Guards by the version, but for an event without one, which it takes for the newest.
struct Careless;

impl Handler for Careless {
    fn name(&self) -> &'static str {
        "careless"
    }

    async fn handle(&self, event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
        let said: String = event.data()?;
        let sql = "insert into newest as had values ($1, $2, $3)
            on conflict (id) do update set said = excluded.said,
              version = greatest(had.version, excluded.version)
            where excluded.version is null or had.version < excluded.version";
        tx.write(sql, &[&event.aggregate_id, &said, &event.aggregate_version]).await?;
        Ok(())
    }
}

#[tokio::test]
async fn an_event_without_a_version_that_sets_a_row_back_is_found() {
    const TABLE: &str = "create table newest (id text primary key, said text, version bigint)";
    let postgres = Postgres::start(&[]).await.unwrap();
    let read_model = ReadModel::new(&postgres.url("postgres").parse().unwrap(), TABLE);
    let given = read_model.given(events()).seed(7).deliver(|| Careless);
    let tried = given.then("select id, said from newest order by id", &[&["p", "c"], &["q", "x"]]);
    let found = message(&postgres, tried.await).await;
    let begins = "careless: an event without a version behind a later one: expected, not found:";
    assert!(found.starts_with(begins), "{found}");
    assert!(found.contains("0 for an event without one"), "{found}");
}

#[tokio::test]
async fn reliance_on_an_order_that_the_queue_does_not_keep_is_found_and_found_again() {
    let (postgres, read_model) = server().await;
    let rows: &[&[&str]] = &[&["p", "abc"], &["q", "x"]];
    let tried = |seed| {
        let given = read_model.given(events()).rounds(8).seed(seed);
        given.deliver(journal(Mode::Once)).then(QUERY, rows)
    };
    let first = message(&postgres, tried(7).await).await;
    assert!(first.starts_with("journal: reordered: expected, not found:"), "{first}");
    assert!(first.contains(r#"["p", "abc"]"#), "{first}");
    assert!(first.contains("said p/2 Applied"), "{first}");
    assert!(first.ends_with("RELAY_TEST_SEED=7"), "{first}");
    assert_eq!(message(&postgres, tried(7).await).await, first);
}

#[tokio::test]
async fn an_effect_that_a_rollback_does_not_take_back_is_found() {
    let (postgres, read_model) = server().await;
    let handler = || Journal { mode: Mode::Versioned, runs: Some(AtomicU32::new(0)) };
    let events = (1..=6).map(|version| event("said", "person", "p", version, json!("a")));
    let given = read_model.given(events).fifo().rounds(4);
    let tried = given.deliver(handler).then(QUERY, &[&["p", "0,1,2,3,4,5,"]]).await;
    let message = message(&postgres, tried).await;
    assert!(message.contains("with failures: "), "{message}");
}

#[tokio::test]
async fn wrong_rows_and_events_that_are_never_done_are_found_by_clean_delivery() {
    let (postgres, read_model) = server().await;
    let deliver =
        |events: Vec<GivenEvent>| read_model.given(events).deliver(journal(Mode::Versioned));
    let wrong = deliver(events()).then(QUERY, &[&["p", "abc"]]).await;
    let wrong = message(&postgres, wrong).await;
    assert!(
        wrong.starts_with(
            "journal: clean delivery: expected, not found:\nfound, not expected:\n  [\"q\", \"x\"]"
        ),
        "{wrong}"
    );

    let late = deliver(events().into_iter().skip(1).take(1).collect()).then(QUERY, &[]).await;
    let late = message(&postgres, late).await;
    assert!(late.starts_with("journal: clean delivery: never done: said p/2"), "{late}");

    let refused =
        deliver(vec![event("said", "person", "p", 1, json!(1))]).then(QUERY, &[&["p", "1"]]);
    let refused = message(&postgres, refused.await).await;
    assert!(
        refused.contains("parked: said of p: data does not have the expected shape"),
        "{refused}"
    );

    let no_event =
        deliver(vec![event("said", "person", "p", 1, json!("a")).with("timestamp", Value::Null)]);
    let no_event = message(&postgres, no_event.then(QUERY, &[]).await).await;
    assert!(no_event.starts_with("expected given event 1 to be one; "), "{no_event}");
}
