//! What cannot be done in time goes back to the queue, not half done.

use crate::support::{ReadModel, sent};
use consumer::Mode;
use consumer::Outcome::{Applied, Failed};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test]
async fn an_event_that_takes_too_long_leaves_no_effect_and_those_before_it_are_done() {
    let read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    let batch = [sent("a", 1), sent("b", 1).kind("slow"), sent("c", 1)];
    let records = batch.iter().map(crate::support::Sent::record).collect();
    let deadline = Instant::now() + Duration::from_secs(2);
    let report = consumer.deliver_until(records, Some(deadline)).await.unwrap();
    assert!(
        Instant::now() < deadline + Duration::from_secs(5),
        "it does not wait for the slow one"
    );
    let outcomes: Vec<_> = report.outcomes.iter().map(|(_, outcome)| *outcome).collect();
    assert_eq!(outcomes, [Applied, Failed, Failed]);
    assert_eq!(read_model.effects().await.len(), 1);
    // The next delivery has a connection of its own.
    let records = vec![sent("c", 1).record()];
    assert_eq!(consumer.deliver(records).await.unwrap().count(Applied), 1);
}

#[tokio::test]
async fn while_there_is_time_the_read_model_is_waited_for() {
    let mut read_model = ReadModel::start().await;
    let mut consumer = read_model.consumer(Mode::Versioned);
    read_model.postgres.stop().await.unwrap();
    let records = || vec![sent("a", 1).record()];
    let at_once = Some(Instant::now());
    assert!(consumer.deliver_until(records(), at_once).await.is_err());
    let deadline = Some(Instant::now() + Duration::from_secs(60));
    let (report, restarted) =
        tokio::join!(consumer.deliver_until(records(), deadline), read_model.postgres.restart());
    restarted.unwrap();
    assert_eq!(report.unwrap().count(Applied), 1);
}

/// Takes connections and says nothing: as where packets are swallowed.
async fn silent() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    port
}

#[tokio::test]
async fn connecting_ends_with_the_delivery() {
    let dsn = format!("postgres://u@127.0.0.1:{}/d", silent().await).parse().unwrap();
    let mut consumer = consumer::Consumer::new(crate::support::Recorder::default(), &dsn);
    let began = Instant::now();
    let deadline = Some(began + Duration::from_secs(1));
    let error = consumer.deliver_until(vec![sent("a", 1).record()], deadline).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(4), "{error}");
    assert!(error.to_string().contains("within the delivery's time"), "{error}");
}

#[tokio::test]
async fn a_claim_check_that_never_comes_costs_its_event_alone() {
    let read_model = ReadModel::start().await;
    let golden = include_str!("../../../relay/envelope/golden/relay_1.json");
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = asked.clone();
    let claim_checks = consumer::ClaimChecks::new(move |check| {
        seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move {
            // The first never comes; those behind it do not wait for it.
            if check.key == "0" {
                std::future::pending::<()>().await;
            }
            Ok(golden.replace("ord_123456", &format!("k{}", check.key)).replace(
                "01930000-0000-7000-8000-000000000001",
                &format!("01930000-0000-7000-8000-00000000010{}", check.key),
            ))
        }
    });
    let mut consumer = read_model.consumer(Mode::Once).with_claim_checks(claim_checks);
    let check = |key: &str| {
        let check = envelope::ClaimCheck { bucket: "b".to_owned(), key: key.to_owned() };
        check.to_body()
    };
    let records = vec![
        crate::support::record("m0", &check("0"), Some("g0")),
        crate::support::record("m1", &check("1"), Some("g1")),
        crate::support::record("m2", &check("2"), Some("g0")),
        sent("a", 1).record(),
    ];
    let began = Instant::now();
    let deadline = Some(began + Duration::from_secs(3));
    let report = consumer.deliver_until(records, deadline).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(3));
    let outcomes: Vec<_> = report.outcomes.iter().map(|(_, outcome)| *outcome).collect();
    assert_eq!(outcomes, [Failed, Applied, consumer::Outcome::HeldBack, Applied]);
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 3);
}

#[tokio::test]
async fn an_effect_that_never_fits_into_a_delivery_is_said_once() {
    let read_model = ReadModel::start().await;
    let effects = consumer::Effects::new(|_| async { consumer::Performed::Done });
    let mut consumer = read_model.consumer(Mode::Versioned).with_effects(effects);
    let lines = crate::observed::Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    let _here = tracing::subscriber::set_default(subscriber);
    for version in 1..=2 {
        // Less than the 10 s that one call may take.
        let deadline = Some(Instant::now() + Duration::from_secs(9));
        let records = vec![sent("a", version).record()];
        let report = consumer.deliver_until(records, deadline).await.unwrap();
        assert_eq!(report.count(Applied), 1);
    }
    let said = |line: &serde_json::Value| {
        let message = line["fields"]["message"].as_str().unwrap();
        message.contains("expected deliveries as long as one effect may take")
    };
    assert_eq!(lines.read().iter().filter(|line| said(line)).count(), 1);
}
