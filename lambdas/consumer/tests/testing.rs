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
    let given = || read_model.given(events());
    given().deliver(journal(Mode::Versioned)).then(QUERY, rows).await.unwrap();
    given().fifo().deliver(journal(Mode::Once)).then(QUERY, rows).await.unwrap();
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
