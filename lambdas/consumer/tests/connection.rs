//! The database goes away, or was never there.

use crate::support::{ReadModel, Recorder, deliver, sent};
use consumer::Outcome::Applied;
use consumer::{Consumer, Error, Mode};
use std::future::pending;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[tokio::test]
async fn a_connection_killed_in_the_middle_of_a_batch_is_made_anew() {
    let read_model = ReadModel::start().await;
    read_model.client.batch_execute("create sequence runs").await.unwrap();
    let mut consumer = read_model.consumer(Mode::Versioned);
    let batch = [sent("a", 1), sent("b", 1).kind("killed_once"), sent("a", 2)];
    assert_eq!(deliver(&mut consumer, &batch).await, [Applied; 3]);
    assert_eq!(read_model.count("effects").await, 3);
}

#[tokio::test]
async fn a_connection_killed_between_batches_is_made_anew() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    for version in 1..=5 {
        assert_eq!(deliver(&mut consumer, &[sent("a", version)]).await, [Applied]);
        let kill = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'recorder'";
        assert_eq!(read_model.client.query(kill, &[]).await.unwrap().len(), 1);
    }
    assert_eq!(read_model.count("effects").await, 5);
}

/// Leads to the server's port from one of its own, until it is told to be silent: then what is
/// connected stays so, and nothing comes through any more. What connects later does.
async fn passage(to: u16) -> (u16, watch::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (silence, silenced) = watch::channel(());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut silenced = silenced.clone();
            silenced.mark_unchanged();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => {}
                    Ok(()) = silenced.changed() => pending().await,
                }
            });
        }
    });
    (port, silence)
}

/// As a function finds it that was frozen while a firewall forgot the connection.
#[tokio::test]
async fn a_connection_that_is_dead_without_a_word_is_found_out_and_made_anew() {
    let read_model = ReadModel::start().await;
    let port = read_model.postgres.port();
    let (passage, silence) = passage(port).await;
    let url = read_model.postgres.url(&read_model.database);
    let through = url.replace(&port.to_string(), &passage.to_string());
    assert_ne!(through, url);
    let mut consumer = Consumer::new(Recorder::new(Mode::Versioned), &through.parse().unwrap());
    assert_eq!(deliver(&mut consumer, &[sent("a", 1)]).await, [Applied]);
    silence.send(()).unwrap();
    let batch = [sent("a", 2), sent("b", 1)];
    let delivered = tokio::time::timeout(Duration::from_secs(60), deliver(&mut consumer, &batch));
    assert_eq!(delivered.await.expect("a delivery that ends"), [Applied; 2]);
    assert_eq!(read_model.effects().await["a"], [1, 2]);
}

#[tokio::test]
async fn a_changed_table_does_not_stop_statements_that_were_prepared_before() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    assert_eq!(deliver(&mut consumer, &[sent("a", 1)]).await, [Applied]);
    let change = "alter table effects alter column data type varchar, add column more text";
    read_model.client.batch_execute(change).await.unwrap();
    assert_eq!(deliver(&mut consumer, &[sent("a", 2)]).await, [Applied]);
}

#[tokio::test]
async fn a_database_that_is_down_fails_the_whole_batch_and_works_again_when_it_is_back() {
    let mut read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    assert_eq!(deliver(&mut consumer, &[sent("a", 1)]).await, [Applied]);
    read_model.postgres.stop().await.unwrap();
    let records = || vec![sent("a", 2).record(), sent("b", 1).record()];
    let error = consumer.deliver(records()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error}");
    read_model.postgres.restart().await.unwrap();
    let report = consumer.deliver(records()).await.unwrap();
    assert_eq!(report.count(Applied), 2);
}

#[tokio::test]
async fn a_read_model_without_the_tables_says_what_to_run() {
    let read_model = ReadModel::start().await;
    let empty = read_model.postgres.create_database().await.unwrap();
    let dsn = read_model.postgres.url(&empty).parse().unwrap();
    let mut consumer = Consumer::new(crate::support::Recorder::default(), &dsn);
    let error = consumer.deliver(vec![sent("a", 1).record()]).await.unwrap_err();
    assert!(error.to_string().contains("relay init --read-model"), "{error}");
}

#[tokio::test]
async fn a_delivery_that_is_dropped_in_the_middle_leaves_nothing_behind() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    let asleep = async {
        let sql = "select from pg_stat_activity where wait_event = 'PgSleep'";
        while read_model.client.query(sql, &[]).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        report = consumer.deliver(vec![sent("a", 1).kind("slow").record()]) => {
            panic!("expected a handler that sleeps, found {report:?}")
        }
        () = asleep => {}
    }
    assert_eq!(deliver(&mut consumer, &[sent("a", 1)]).await, [Applied]);
    assert_eq!(read_model.effects().await["a"], [1]);
}
