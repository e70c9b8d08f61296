//! Writes that nobody waits for: in order, all or none, and no refusal goes unseen.

use crate::support::{ReadModel, Sent, deliver, sent};
use consumer::Outcome::{self, Applied, Failed, Parked};
use consumer::{Consumer, Event, Handler, HandlerError, Tx};

/// Writes a row without a wait; then does as the event's type says.
struct Writer;

const ROW: &str = "insert into effects (aggregate_id, event_id, version) values ($1, $2, $3)";

impl Handler for Writer {
    fn name(&self) -> &'static str {
        "writer"
    }

    async fn handle(&self, event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
        let (id, version) = (&event.aggregate_id, event.aggregate_version);
        tx.write(ROW, &[id, &event.event_id, &version]).await?;
        match event.event_type.as_str() {
            "sees" => {
                let sql = "select count(*) from effects where event_id = $1";
                let row = tx.query_first(sql, &[&event.event_id]).await?;
                let found: i64 = row.map(|row| row.get(0)).unwrap_or_default();
                if found != 1 {
                    return Err(HandlerError::Retry(format!("expected its row, found {found}")));
                }
            }
            "refused" => {
                // What is sent for another event after it does not hide the reason.
                let _ = tx.write("select 1 / ($1::bigint - 1)", &[&1_i64]).await;
                let _ = tx.execute("select 1", &[]).await;
            }
            "no_table" => tx.write("insert into nowhere values (1)", &[]).await?,
            "broken" => {
                let raises = "do $$ begin raise exception 'not today'; end $$";
                tx.write(raises, &[]).await?;
            }
            "too_few" => tx.write(ROW, &[id]).await?,
            "wrong_type" => tx.write(ROW, &[id, &"no uuid", &version]).await?,
            "missing" | "there" => {
                let sql = "update effects set data = 'seen' where aggregate_id = $1";
                let id = if event.event_type == "there" { id } else { "nobody" };
                tx.write_one(sql, &[&id], "expected the row, found none").await?;
            }
            "many" => {
                for n in 0..1000_i64 {
                    tx.write(ROW, &[&"many", &event.event_id, &n]).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

async fn delivered(read_model: &ReadModel, batch: &[Sent]) -> Vec<Outcome> {
    deliver(&mut Consumer::new(Writer, &read_model.dsn()), batch).await
}

#[tokio::test]
async fn what_is_written_is_there_for_the_next_statement_and_in_order() {
    let read_model = ReadModel::start().await;
    let batch = [sent("a", 1), sent("a", 2).kind("sees"), sent("b", 1).kind("many"), sent("a", 3)];
    assert_eq!(delivered(&read_model, &batch).await, [Applied; 4]);
    let effects = read_model.effects().await;
    assert_eq!(effects["a"], [1, 2, 3]);
    assert_eq!(effects["many"], (0..1000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_refused_write_costs_its_own_event_alone_and_gives_its_own_reason() {
    let read_model = ReadModel::start().await;
    for (kind, outcome) in [
        ("refused", Parked),
        ("no_table", Failed),
        ("broken", Failed),
        ("too_few", Failed),
        ("wrong_type", Failed),
    ] {
        let bad = sent(&format!("{kind}-bad"), 1).kind(kind);
        let batch = [sent(kind, 1), bad.clone(), sent(kind, 2)];
        assert_eq!(delivered(&read_model, &batch).await, [Applied, outcome, Applied], "{kind}");
        let effects = read_model.effects().await;
        assert_eq!(effects[kind], [1, 2], "{kind}");
        assert!(!effects.contains_key(&bad.aggregate_id), "{kind}");
    }
    let sql = "select reason from relay.parked";
    let reason: String = read_model.client.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(reason, "the data cannot be stored: the server refused a value (SQLSTATE 22012)");
    // Mended, each applies: nothing of the first try was taken for done.
    let mended = [sent("no_table-bad", 1), sent("wrong_type-bad", 1)];
    assert_eq!(delivered(&read_model, &mended).await, [Applied; 2]);
}

#[tokio::test]
async fn a_write_of_one_row_that_touches_none_rejects_its_event() {
    let read_model = ReadModel::start().await;
    let batch = [
        sent("a", 1).kind("there"),
        sent("b", 1).kind("missing"),
        sent("a", 2),
        sent("c", 1).kind("there"),
    ];
    assert_eq!(delivered(&read_model, &batch).await, [Applied, Parked, Applied, Applied]);
    let sql = "select reason from relay.parked";
    let reason: String = read_model.client.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(reason, "expected the row, found none");
    assert_eq!(read_model.count("effects where data = 'seen'").await, 2);
}

#[tokio::test]
async fn a_write_that_only_the_commit_refuses_leaves_nothing() {
    let read_model = ReadModel::start().await;
    let late = "create function late() returns trigger language plpgsql as
          $$ begin if new.aggregate_id = 'bad' then raise exception 'at the commit'; end if; return null; end $$;
        create constraint trigger late after insert on effects deferrable initially deferred
          for each row execute function late()";
    read_model.client.batch_execute(late).await.unwrap();
    let batch = [sent("a", 1), sent("bad", 1), sent("a", 2)];
    assert_eq!(delivered(&read_model, &batch).await, [Applied, Failed, Applied]);
    assert_eq!(read_model.count("relay.inbox").await, 2);
    assert_eq!(read_model.count("relay.progress where aggregate_id = 'bad'").await, 0);
}
