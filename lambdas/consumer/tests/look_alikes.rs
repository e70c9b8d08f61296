//! A schema that is first on the author's search_path holds look-alikes of what Postgres has: none of
//! the consumer's own statements runs them, and the handler keeps the path that its author set.

use crate::support::{ReadModel, Sent, deliver, sent};
use consumer::Outcome::{Applied, Duplicate, Gap, Parked};
use consumer::{
    Consumer, Effects, Event, Handler, HandlerError, Mode, NewEvent, Outcome, Performed, Tx,
};
use std::time::Duration;

/// Each operator and plain function of Postgres's own on types of its own, the aggregates and types
/// that the consumer's SQL names, and tables called as its are. Whatever runs of it raises.
const PLANTED: &str = r#"
create schema hostile;
set check_function_bodies = off;
create function hostile.ran() returns boolean language plpgsql as
  $$ begin raise exception 'a look-alike ran'; end $$;
do $do$
declare
  f record;
  elements text;
begin
  for f in
    select p.oid, p.proname, p.proretset, p.prorettype, pg_get_function_identity_arguments(p.oid) as arguments
    from pg_proc as p join pg_type as r on r.oid = p.prorettype
    where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f' and r.typtype <> 'p'
      and not exists (select from unnest(p.proargtypes) as a (oid) join pg_type as t using (oid) where t.typtype = 'p')
      and p.proallargtypes is null and p.pronargs < 5
  loop
    execute format('create function hostile.%I(%s) returns %s %s language plpgsql as %L', f.proname, f.arguments,
      case when f.proretset then 'setof' else '' end, f.prorettype::regtype,
      'begin raise exception ''a look-alike ran''; end');
  end loop;
  for f in
    select distinct on (o.oprname, o.oprleft, o.oprright) o.oprname, o.oprleft::regtype as l, o.oprright::regtype as r,
      o.oprresult::regtype as result, row_number() over () as n
    from pg_operator as o
    join pg_type as lt on lt.oid = o.oprleft join pg_type as rt on rt.oid = o.oprright
    where o.oprnamespace = 'pg_catalog'::regnamespace and o.oprkind = 'b'
      and lt.typtype <> 'p' and rt.typtype <> 'p' and o.oprresult <> 0
  loop
    execute format('create function hostile.operator_%s(%s, %s) returns %s language plpgsql as %L', f.n, f.l, f.r, f.result,
      'begin raise exception ''a look-alike ran''; end');
    execute format('create operator hostile.%s (leftarg = %s, rightarg = %s, function = hostile.operator_%s)',
      f.oprname, f.l, f.r, f.n);
  end loop;
  foreach elements in array array['uuid', 'text', 'bigint', 'date', 'timestamptz', 'float8'] loop
    execute format('create function hostile.unnest(%s[]) returns setof %s language plpgsql as %L', elements, elements,
      'begin raise exception ''a look-alike ran''; end');
    execute format('create function hostile.cardinality(%s[]) returns integer language plpgsql as %L', elements,
      'begin raise exception ''a look-alike ran''; end');
  end loop;
end
$do$;
create function hostile.counted(bigint) returns bigint language plpgsql as
  $$ begin raise exception 'a look-alike ran'; end $$;
create aggregate hostile.count(*) (sfunc = hostile.counted, stype = bigint, initcond = '0');
create table hostile.inbox (a int);
create table hostile.progress (a int);
create table hostile.parked (a int);
create table hostile.effect (a int);
create domain hostile.text as pg_catalog.text check (hostile.ran());
create domain hostile.uuid as pg_catalog.uuid check (hostile.ran());
create domain hostile.date as pg_catalog.date check (hostile.ran());
create domain hostile.timestamptz as pg_catalog.timestamptz check (hostile.ran());
create domain hostile.json as pg_catalog.json check (hostile.ran());
create domain hostile.float8 as pg_catalog.float8 check (hostile.ran());
create domain hostile.int8 as pg_catalog.int8 check (hostile.ran());
"#;

const PATH: &str = "hostile, public, pg_catalog";

/// Writes with nothing but names, and sees that its author's path is what it was set to.
#[derive(Clone, Copy)]
struct Author {
    mode: Mode,
}

impl Handler for Author {
    fn name(&self) -> &'static str {
        "author"
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    async fn handle(&self, event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
        let shown = tx.query_first("show search_path", &[]).await?;
        let path: String = shown.map(|row| row.get(0)).unwrap_or_default();
        if path != PATH {
            return Err(HandlerError::Retry(format!("found the path {path:?}")));
        }
        tx.write("insert into effects (aggregate_id) values ($1)", &[&event.aggregate_id]).await?;
        match event.event_type.as_str() {
            "reject" => {
                let gate = tx.query_first("select closed from gate", &[]).await?;
                if gate.is_some_and(|row| row.get(0)) {
                    return Err(HandlerError::Reject("no".to_owned()));
                }
                Ok(())
            }
            "effect" => tx.effect("do it"),
            "emit" => {
                let seen = serde_json::json!({ "n": 1 });
                tx.emit(NewEvent::new("thing", &event.aggregate_id, "thing.seen", &seen)?).await?;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// A read model on whose path the planted schema is first, for every session that is made from now on.
async fn hostile() -> ReadModel {
    let read_model = ReadModel::start().await.with_outbox().await;
    let gate = "create table gate (closed boolean); insert into gate values (true)";
    read_model.client.batch_execute(gate).await.unwrap();
    read_model.client.batch_execute(PLANTED).await.unwrap();
    let path = format!("alter database {} set search_path = {PATH}", read_model.database);
    read_model.client.batch_execute(&path).await.unwrap();
    read_model
}

fn consumer(read_model: &ReadModel, mode: Mode) -> Consumer<Author> {
    let effects = Effects::new(|effect| async move {
        match effect.tries {
            1 => Performed::NotDone("not yet".to_owned()),
            2 => Performed::Done,
            _ => Performed::Refused("never".to_owned()),
        }
    });
    Consumer::new(Author { mode }, &read_model.dsn()).with_effects(effects).park_after(3)
}

#[tokio::test]
async fn no_statement_of_the_consumer_runs_a_look_alike() {
    let read_model = hostile().await;
    // The plants bite: an unqualified statement runs one.
    let fresh = read_model.postgres.connect(&read_model.database).await.unwrap();
    for bites in [
        "select 1 where 'a'::pg_catalog.text = 'a'::pg_catalog.text",
        "select * from unnest('{a}'::pg_catalog.text[])",
        "select count(*) from pg_class",
        "select 'x'::text",
        "select clock_timestamp()",
    ] {
        let error = fresh.batch_execute(bites).await.unwrap_err();
        let message = error.as_db_error().unwrap().message().to_owned();
        assert_eq!(message, "a look-alike ran", "{bites}");
    }

    // New, known and missing events of each mode; tenants; the upkeep; someone who waits.
    let waits = consumer::ReadModel::connect(&read_model.dsn()).await.unwrap();
    for mode in [Mode::Versioned, Mode::Latest, Mode::Once] {
        let mut consumer = consumer(&read_model, mode);
        let aggregate = format!("{mode:?}");
        let batch = [
            sent(&aggregate, 1).at(1),
            Sent { tenant: "acme", ..sent(&format!("t-{aggregate}"), 2).at(2) }.unversioned(),
            sent(&format!("e-{aggregate}"), 1).at(3).kind("emit"),
            sent(&format!("r-{aggregate}"), 1).at(4).kind("reject"),
        ];
        let first = deliver(&mut consumer, &batch).await;
        assert_eq!(first, [Applied, Applied, Applied, Parked], "{mode:?}");
        assert_eq!(deliver(&mut consumer, &batch).await, [Duplicate; 4], "{mode:?}");
        let mut forged = batch[0].clone();
        forged.data = "2".to_owned();
        assert_eq!(deliver(&mut consumer, [&forged]).await, [Parked], "{mode:?}");
        let next = [sent(&aggregate, 2).at(5), sent(&aggregate, 9).at(6)];
        let expected: [Outcome; 2] =
            if mode == Mode::Versioned { [Applied, Gap] } else { [Applied, Applied] };
        assert_eq!(deliver(&mut consumer, &next).await, expected, "{mode:?}");
    }
    // One who waits is announced, woken or asks, and goes.
    let mut versioned = consumer(&read_model, Mode::Versioned);
    let limit = Duration::from_secs(60);
    let wait = waits.await_version("author", "thing", "w", 1, limit);
    let one = [sent("w", 1)];
    let (waited, outcomes) = tokio::join!(wait, deliver(&mut versioned, &one));
    assert_eq!((waited.unwrap().is_stale(), outcomes), (false, vec![Applied]));

    // Replays: one that is refused again, one that is applied.
    let ask = "update relay.parked set replay_requested_at = pg_catalog.now()
        where event_type operator(pg_catalog.=) 'reject'";
    read_model.client.batch_execute(ask).await.unwrap();
    assert_eq!(versioned.replay_parked(None).await.unwrap().refused, 3);
    let open = "update gate set closed = false";
    read_model.client.batch_execute(open).await.unwrap();
    read_model.client.batch_execute(ask).await.unwrap();
    assert_eq!(versioned.replay_parked(None).await.unwrap().applied, 3);

    // Effects: due again, done, and parked.
    let one = [sent("x", 1).kind("effect")];
    assert_eq!(deliver(&mut versioned, &one).await, [Outcome::Failed]);
    assert_eq!(deliver(&mut versioned, &one).await, [Duplicate]);
    let lost = "insert into relay.effect (projection, event_id, event_type, aggregate_type, aggregate_id, request, body, begun_at, tries)
        values ('author', pg_catalog.gen_random_uuid(), 'e', 'thing', 'y', '1', '{}', '2026-01-01', 1)";
    read_model.client.batch_execute(lost).await.unwrap();
    deliver(&mut versioned, &[sent("z", 1)]).await;
    assert_eq!(read_model.count("relay.effect").await, 0);
    assert_eq!(read_model.count("relay.parked where aggregate_id = 'y'").await, 1);
    assert_eq!(read_model.count("relay.outbox").await, 3);
}

#[tokio::test]
async fn a_command_that_applies_at_once_runs_none_either() {
    let read_model = hostile().await;
    let mut client = read_model.postgres.connect(&read_model.database).await.unwrap();
    let mut transaction = client.transaction().await.unwrap();
    let seen = serde_json::json!({ "n": 1 });
    let event = NewEvent::new("thing", "a", "thing.seen", &seen).unwrap().aggregate_version(1);
    let event = event.append(&transaction).await.unwrap();
    let author = Author { mode: Mode::Versioned };
    let outcome = consumer::apply_now(&author, &mut transaction, &event).await.unwrap();
    assert_eq!(outcome, Applied);
    transaction.commit().await.unwrap();
}
