//! However events are delivered, the read model ends as by clean delivery: eight hosts on one
//! queue, duplicates, reorderings, batches of any cut, handlers that fail, connections and hosts
//! that are killed, in every mode.

use crate::queue::{Queue, Received};
use crate::support::ReadModel;
use consumer::{Consumer, Event, Handler, HandlerError, Mode, NewEvent, Outcome, Tx};
use fastrand::Rng;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

const HOSTS: u64 = 8;

/// Long enough for a slow machine.
const LIMIT: Duration = Duration::from_secs(60);

const TABLES: &str = "create table state (projection text, aggregate_id text,
      total bigint not null default 0, digest text not null default '', written text,
      primary key (projection, aggregate_id))";

#[derive(Clone, Copy, Debug)]
enum Kind {
    Write,
    Delete,
    /// Refused by the handler for good.
    Reject,
    /// Without a version; for the modes that take such events as they come.
    Unversioned,
}

#[derive(Clone, Debug)]
struct Case {
    mode: Mode,
    fifo: bool,
    /// Aggregate and kind, in the order of commit.
    events: Vec<(u8, Kind)>,
    /// Places of events that are published twice.
    republished: Vec<prop::sample::Index>,
    faults: u32,
    kills: u32,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let mode = prop_oneof![Just(Mode::Once), Just(Mode::Versioned), Just(Mode::Latest)];
    let kind = prop_oneof![
        6 => Just(Kind::Write),
        1 => Just(Kind::Delete),
        1 => Just(Kind::Reject),
        1 => Just(Kind::Unversioned),
    ];
    (
        (mode, any::<bool>()),
        prop::collection::vec((0..4_u8, kind), 1..40),
        prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        (0..25_u32, 0..6_u32),
        any::<u64>(),
    )
        .prop_map(|((mode, fifo), events, republished, (faults, kills), seed)| Case {
            mode,
            fifo,
            events,
            republished,
            faults,
            kills,
            seed,
        })
}

/// Bodies with their groups, in the order of publishing; each in its commit order first.
fn bodies(case: &Case) -> Vec<(String, String)> {
    let mut versions = [0_i64; 4];
    let mut bodies: Vec<(String, String)> = Vec::new();
    let body = |place: usize, at: usize, (aggregate, kind): (u8, Kind), version: i64| {
        let versioned = !matches!(kind, Kind::Unversioned) || case.mode == Mode::Latest;
        let version = if versioned { version.to_string() } else { "null".to_owned() };
        let kind = match kind {
            Kind::Write | Kind::Unversioned => "write",
            Kind::Delete => "delete",
            Kind::Reject => "reject",
        };
        format!(
            r#"{{"event_id":"00000000-0000-4000-8000-{at:012x}","event_type":"{kind}","timestamp":"2026-01-15T10:30:00Z","aggregate_type":"thing","aggregate_id":"{aggregate}","aggregate_version":{version},"data":{at},"position":"00000000016b3748-{place:08x}"}}"#
        )
    };
    let mut all = Vec::new();
    for (at, event) in case.events.iter().enumerate() {
        let (aggregate, kind) = *event;
        let reached = &mut versions[usize::from(aggregate)];
        if !matches!(kind, Kind::Unversioned) || case.mode == Mode::Latest {
            *reached += 1;
        }
        all.push((at, *event, *reached));
        bodies.push((body(at, at, *event, *reached), aggregate.to_string()));
    }
    // What is published anew is the same event at another place of the log.
    for (place, index) in (1000..).zip(&case.republished) {
        let (at, event, version) = all[index.index(all.len())];
        bodies.push((body(place, at, event, version), event.0.to_string()));
    }
    bodies
}

/// What goes wrong in handlers, so often in all.
#[derive(Debug)]
struct Faults {
    left: AtomicU32,
    random: Mutex<Rng>,
}

impl Faults {
    fn next(&self) -> Option<u8> {
        let mut random = self.random.lock().unwrap();
        if random.u8(..3) != 0 {
            return None;
        }
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .ok()
            .map(|_| random.u8(..7))
    }
}

/// Effects that show what was applied and, where the mode keeps it, in which order.
#[derive(Clone, Debug)]
struct Ledger {
    name: String,
    mode: Mode,
    faults: Arc<Faults>,
}

impl Handler for Ledger {
    fn name(&self) -> &str {
        &self.name
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    async fn handle(&self, event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
        let id = &event.aggregate_id;
        let n: i64 = event.data()?;
        match (self.mode, event.event_type.as_str()) {
            (_, "reject") => return Err(HandlerError::Reject("never".to_owned())),
            (Mode::Latest, "delete") => {
                let sql = "delete from state where projection = $1 and aggregate_id = $2";
                tx.execute(sql, &[&self.name, id]).await?;
            }
            (Mode::Latest, _) => {
                let sql = "insert into state (projection, aggregate_id, written) values ($1, $2, $3)
                    on conflict (projection, aggregate_id) do update set written = excluded.written";
                tx.write(sql, &[&self.name, id, &n.to_string()]).await?;
            }
            (Mode::Versioned, _) if event.aggregate_version == Some(1) => {
                // As projections do: the first event makes the row, if nothing else has.
                let sql = "insert into state (projection, aggregate_id, digest) values ($1, $2, $3)
                    on conflict (projection, aggregate_id) do update set digest = excluded.digest || state.digest";
                tx.execute(sql, &[&self.name, id, &format!("{n} ")]).await?;
            }
            (Mode::Versioned, _) if event.aggregate_version.is_some() => {
                let sql = "insert into state (projection, aggregate_id, digest) values ($1, $2, $3)
                    on conflict (projection, aggregate_id) do update set digest = state.digest || excluded.digest";
                tx.write(sql, &[&self.name, id, &format!("{n} ")]).await?;
            }
            _ => {
                let sql = "insert into state (projection, aggregate_id, total) values ($1, $2, $3)
                    on conflict (projection, aggregate_id) do update set total = state.total + excluded.total";
                tx.write_one(sql, &[&self.name, id, &(n + 1)], "one row").await?;
            }
        }
        if self.mode != Mode::Latest {
            tx.emit(NewEvent::new(self.name.as_str(), id, "thing.seen", &n)?).await?;
        }
        match self.faults.next() {
            Some(0) => Err(HandlerError::Retry("not now".to_owned())),
            Some(1) => Err(HandlerError::RetryAfter {
                after: Duration::ZERO,
                reason: "in no time".to_owned(),
            }),
            Some(2) => Ok(tx.execute("select no_such_function()", &[]).await.map(drop)?),
            Some(3) => {
                let _ = tx.execute("select 1 / 0", &[]).await;
                Ok(())
            }
            Some(4) => Ok(tx
                .query("select pg_terminate_backend(pg_backend_pid())", &[])
                .await
                .map(drop)?),
            Some(5) => Ok(tx.execute("select pg_sleep(0.2)", &[]).await.map(drop)?),
            Some(6) => {
                let refused = "do $$ begin raise exception 'not today'; end $$";
                Ok(tx.write(refused, &[]).await?)
            }
            _ => Ok(()),
        }
    }
}

/// One host, until the queue is empty.
async fn host(read_model: dsn::Dsn, ledger: Ledger, queue: Arc<Queue>, seed: u64) {
    let mut random = Rng::with_seed(seed);
    let new = || Consumer::new(ledger.clone(), &read_model);
    let mut consumer = new();
    let deadline = Instant::now() + LIMIT;
    while !queue.is_empty() {
        assert!(Instant::now() < deadline, "never done: {}", queue.left());
        let received = queue.receive();
        if received.is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        }
        let records = received.iter().map(|received| received.record.clone()).collect();
        let within = (random.u8(..4) == 0).then(|| Duration::from_millis(random.u64(20..300)));
        let work = consumer.deliver_until(records, within.map(|within| Instant::now() + within));
        let life = if random.u8(..12) == 0 { random.u64(1..40) } else { 60_000 };
        let Ok(report) = tokio::time::timeout(Duration::from_millis(life), work).await else {
            // The host is killed in the middle of its work; another takes its place.
            consumer = new();
            queue.answer(Vec::new(), received);
            continue;
        };
        let outcomes = match report {
            Ok(report) => report.outcomes.into_iter().map(|(_, outcome)| outcome).collect(),
            Err(_) => vec![Outcome::Failed; received.len()],
        };
        let judged = received.into_iter().zip(outcomes);
        let (done, not_done): (Vec<_>, Vec<_>) = judged.partition(|(_, o)| o.is_done());
        let only = |all: Vec<(Received, Outcome)>| all.into_iter().map(|(r, _)| r).collect();
        queue.answer(only(done), only(not_done));
    }
}

/// Ends connections of a projection's hosts, at any moment of their work.
async fn kill(read_model: &ReadModel, name: &str, kills: u32, queue: &Queue) {
    const SQL: &str = "select pg_terminate_backend(pid) from pg_stat_activity
        where application_name = $1 order by random() limit 1";
    for _ in 0..kills {
        if queue.is_empty() {
            return;
        }
        read_model.client.query(SQL, &[&name]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..20))).await;
    }
}

/// All that a projection has written, a line each.
async fn written(read_model: &ReadModel, name: &str, mode: Mode) -> Vec<String> {
    let mut sql = vec![
        "select 'state ' || concat_ws(' ', aggregate_id, total, digest, written) from state where projection = $1",
        "select 'progress ' || aggregate_id || ' ' || version from relay.progress where projection = $1",
    ];
    if mode != Mode::Latest {
        sql.extend([
            "select 'parked ' || event_id from relay.parked where projection = $1",
            "select 'inbox ' || event_id from relay.inbox where projection = $1",
            "select 'emitted ' || concat_ws(' ', aggregate_id, causation_id, correlation_id, data) from relay.outbox where aggregate_type = $1",
        ]);
    }
    let mut lines: Vec<String> = Vec::new();
    for sql in sql {
        let rows = read_model.client.query(sql, &[&name]).await.unwrap();
        lines.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    lines.sort();
    lines
}

async fn both_ways(read_model: &ReadModel, case: &Case) -> (Vec<String>, Vec<String>) {
    let id = fastrand::u64(..);
    let ledger = |name: &str, faults| Ledger {
        name: format!("{name}-{id:x}"),
        mode: case.mode,
        faults: Arc::new(Faults {
            left: AtomicU32::new(faults),
            random: Mutex::new(Rng::with_seed(case.seed)),
        }),
    };
    let bodies = bodies(case);

    let clean = ledger("clean", 0);
    let mut consumer = Consumer::new(clean.clone(), &read_model.dsn());
    for (at, (body, _)) in bodies.iter().take(case.events.len()).enumerate() {
        let record = crate::support::record(&at.to_string(), body, None);
        let report = consumer.deliver(vec![record]).await.unwrap();
        assert!(report.outcomes[0].1.is_done(), "{report:?}");
    }

    let wild = ledger("wild", case.faults);
    let queue = Arc::new(Queue::new(case.fifo, bodies, case.seed));
    let hosts: Vec<_> = (0..HOSTS)
        .map(|n| {
            let (wild, queue) = (wild.clone(), Arc::clone(&queue));
            tokio::spawn(host(read_model.dsn(), wild, queue, case.seed.wrapping_add(n)))
        })
        .collect();
    kill(read_model, &wild.name, case.kills, &queue).await;
    for host in hosts {
        host.await.unwrap();
    }
    (
        written(read_model, &clean.name, case.mode).await,
        written(read_model, &wild.name, case.mode).await,
    )
}

#[test]
fn any_delivery_to_eight_hosts_ends_where_clean_delivery_ends() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let read_model = runtime.block_on(async {
        let read_model = ReadModel::start().await.with_outbox().await;
        read_model.client.batch_execute(TABLES).await.unwrap();
        read_model
    });
    // A number in PROPTEST_CASES makes it as thorough as there is time for.
    let usual =
        Config { cases: 16, max_shrink_iters: 30, failure_persistence: None, ..Config::default() };
    let config = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => Config { cases: Config::default().cases, ..usual },
        None => usual,
    };
    let done = TestRunner::new(config).run(&case(), |case| {
        let (clean, wild) = runtime.block_on(both_ways(&read_model, &case));
        if clean == wild {
            return Ok(());
        }
        let only = |these: &[String], those: &[String]| -> Vec<String> {
            these.iter().filter(|line| !those.contains(line)).cloned().collect()
        };
        Err(TestCaseError::fail(format!(
            "only by clean delivery: {:#?}\nonly by this one: {:#?}\nof {} and {} lines",
            only(&clean, &wild),
            only(&wild, &clean),
            clean.len(),
            wild.len()
        )))
    });
    if let Err(error) = done {
        panic!("{error}");
    }
    let _inside = runtime.enter();
    drop(read_model);
}
