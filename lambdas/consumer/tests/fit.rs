//! A read model that takes no event, whichever it is: the events are held, and the cure is said.

use crate::support::{ReadModel, Recorder, Sent, deliver, sent};
use consumer::Outcome::{Applied, Failed};
use consumer::{Consumer, Effects, Error, Mode, Performed};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

fn records(sent: &[Sent]) -> Vec<consumer::Record> {
    sent.iter().map(Sent::record).collect()
}

fn in_seconds(seconds: u64) -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(seconds))
}

/// A name whose server changes: each new connection goes to the port that is named now.
async fn name_for(port: u16) -> (u16, Arc<AtomicU16>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    let target = Arc::new(AtomicU16::new(port));
    let now = Arc::clone(&target);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let port = now.load(Ordering::SeqCst);
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await {
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    (own, target)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_given_up_and_the_delivery_waits_for_the_primary() {
    let mut read_model = ReadModel::start().await;
    let standby = read_model.postgres.standby().await.unwrap();
    let (old, new) = (standby.port(), read_model.postgres.port());
    let (port, target) = name_for(old).await;
    let url = read_model.postgres.url(&read_model.database);
    let url = url.replace(&format!(":{new}/"), &format!(":{port}/"));
    // Whatever the string says: a consumer cannot do without writes.
    for (version, more) in ["", "?target_session_attrs=any"].into_iter().enumerate() {
        let dsn = format!("{url}{more}").parse().unwrap();
        let mut consumer = Consumer::new(Recorder::new(Mode::Once), &dsn);
        target.store(old, Ordering::SeqCst);
        let event = [sent("a", i64::try_from(version).unwrap() + 1)];
        let error = consumer.deliver(records(&event)).await.unwrap_err();
        assert!(matches!(error, Error::ReadOnly), "{error}");
        let name_follows = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            target.store(new, Ordering::SeqCst);
        };
        let (report, ()) =
            tokio::join!(consumer.deliver_until(records(&event), in_seconds(60)), name_follows);
        assert_eq!(report.unwrap().count(Applied), 1);
    }
}

#[tokio::test]
async fn a_server_that_takes_no_writes_any_more_is_left_and_its_events_are_held() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    assert_eq!(deliver(&mut consumer, &[sent("a", 1)]).await, [Applied]);
    let admin = read_model.postgres.connect("postgres").await.unwrap();
    for sql in ["alter system set default_transaction_read_only = on", "select pg_reload_conf()"] {
        admin.batch_execute(sql).await.unwrap();
    }
    // Each session takes a reloaded setting up in its own time.
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut last = 1;
    let (batch, error) = loop {
        last += 1;
        let batch = [sent("a", last), sent("b", last - 1)];
        match consumer.deliver(records(&batch)).await {
            Ok(report) => assert_eq!(report.count(Applied), 2),
            Err(error) => break (batch, error),
        }
        assert!(Instant::now() < deadline, "expected a server that takes no writes");
    };
    assert!(matches!(error, Error::ReadOnly), "{error}");
    admin.batch_execute("set default_transaction_read_only = off").await.unwrap();
    let back = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        for sql in ["alter system reset default_transaction_read_only", "select pg_reload_conf()"] {
            admin.batch_execute(sql).await.unwrap();
        }
    };
    let (report, ()) = tokio::join!(consumer.deliver_until(records(&batch), in_seconds(60)), back);
    assert_eq!(report.unwrap().count(Applied), 2);
    assert_eq!(read_model.effects().await["a"], (1..=last).collect::<Vec<_>>());
}

#[tokio::test]
async fn tables_of_an_earlier_version_are_said_with_their_cure_and_the_events_are_held() {
    let read_model = ReadModel::start().await;
    let mut open = read_model.consumer(Mode::Versioned);
    assert_eq!(deliver(&mut open, &[sent("a", 1)]).await, [Applied]);
    let older = "alter table relay.progress rename column moved_from to was";
    read_model.client.batch_execute(older).await.unwrap();
    // On a connection that was there before, and on a new one.
    for mut consumer in [open, read_model.consumer(Mode::Versioned)] {
        let error = consumer.deliver(records(&[sent("a", 2)])).await.unwrap_err();
        assert!(matches!(error, Error::NotInitialised(_)), "{error}");
        assert!(error.to_string().contains("relay init --read-model"), "{error}");
        let began = Instant::now();
        let held = consumer.deliver_until(records(&[sent("a", 2)]), in_seconds(1)).await;
        assert!(matches!(held, Err(Error::NotInitialised(_))), "{held:?}");
        assert!(began.elapsed() > Duration::from_millis(500), "returned at once");
    }
    let mut consumer = read_model.consumer(Mode::Versioned);
    let newer = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let newer = "alter table relay.progress rename column was to moved_from";
        read_model.client.batch_execute(newer).await.unwrap();
    };
    let batch = [sent("a", 2), sent("b", 1)];
    let (report, ()) = tokio::join!(consumer.deliver_until(records(&batch), in_seconds(60)), newer);
    assert_eq!(report.unwrap().count(Applied), 2);
}

#[tokio::test]
async fn a_table_that_the_handler_misses_is_the_events_failure_alone() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    let batch = [sent("a", 1).kind("broken"), sent("b", 1)];
    let report = consumer.deliver_until(records(&batch), in_seconds(60)).await.unwrap();
    let outcomes: Vec<_> = report.outcomes.iter().map(|(_, outcome)| *outcome).collect();
    assert_eq!(outcomes, [Failed, Applied]);
}

#[tokio::test]
async fn what_an_effect_needs_is_looked_for_before_an_event_is_taken() {
    let read_model = ReadModel::start().await;
    read_model.client.batch_execute("drop table relay.effect").await.unwrap();
    let effects = Effects::new(|_| async { Performed::Done });
    let recorder = Recorder::new(Mode::Versioned);
    let mut consumer = Consumer::new(recorder, &read_model.dsn()).with_effects(effects);
    let error = consumer.deliver(records(&[sent("a", 1)])).await.unwrap_err();
    assert!(matches!(error, Error::NotInitialised(_)), "{error}");
    assert_eq!(read_model.count("relay.inbox").await, 0);
    // Who performs none does without.
    let mut consumer = read_model.consumer(Mode::Versioned);
    assert_eq!(deliver(&mut consumer, &[sent("a", 1)]).await, [Applied]);
}

#[tokio::test]
async fn a_statement_timeout_is_not_called_a_lost_connection() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned).park_after(1);
    let sql = format!("alter database {} set statement_timeout = '300ms'", read_model.database);
    read_model.client.batch_execute(&sql).await.unwrap();
    let outcomes = deliver(&mut consumer, &[sent("a", 1).kind("slow"), sent("b", 1)]).await;
    assert_eq!(outcomes, [consumer::Outcome::Parked, Applied]);
    let row = read_model.client.query_one("select reason from relay.parked", &[]).await.unwrap();
    let reason: String = row.get(0);
    assert!(reason.contains("57014") && reason.contains("statement_timeout"), "{reason}");
}
