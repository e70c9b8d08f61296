//! What an operator sees of a delivery: its figures, and lines that say which event they are of.

use crate::support::{ReadModel, Recorder, record, sent};
use consumer::{Consumer, Event, Handler, HandlerError, Tx};
use serde_json::Value;
use std::io::Write;
use std::sync::{Arc, Mutex};

/// A place for lines.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    pub(crate) fn read(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[tokio::test]
async fn each_delivery_writes_its_figures_in_one_line() {
    let mut read_model = ReadModel::start().await;
    let lines = Lines::default();
    let mut consumer =
        Consumer::new(Recorder::default(), &read_model.dsn()).with_metrics(lines.clone());
    let batch = [sent("a", 1), sent("a", 1), sent("b", 2), sent("c", 1).kind("reject")];
    crate::support::deliver(&mut consumer, &batch).await;
    crate::support::deliver(&mut consumer, &[sent("a", 1)]).await;
    crate::support::deliver(&mut consumer, &[]).await;
    read_model.postgres.stop().await.unwrap();
    assert!(consumer.deliver(vec![sent("a", 2).record(), sent("a", 3).record()]).await.is_err());

    let lines = lines.read();
    let figures = |n: usize| {
        let names = ["applied", "duplicate", "gap", "stale", "parked", "failed", "held_back"];
        names.map(|name| lines[n][name].as_u64().unwrap())
    };
    assert_eq!(lines.len(), 3, "an empty delivery has no figures");
    assert_eq!(figures(0), [1, 1, 1, 0, 1, 0, 0]);
    assert_eq!(figures(1), [0, 1, 0, 0, 0, 0, 0]);
    assert_eq!(figures(2), [0, 0, 0, 0, 0, 2, 0]);
    assert_eq!((&lines[0]["cold_start"], lines[1].get("cold_start")), (&1.into(), None));
    assert_eq!(lines[0]["projection"], "recorder");
    // The events are of 15 January 2026; a duplicate is no lag.
    assert!(lines[0]["lag"].as_u64().unwrap() > 1_000);
    assert_eq!(lines[1].get("lag"), None);
}

/// Logs while it works.
struct Talker;

impl Handler for Talker {
    fn name(&self) -> &'static str {
        "talker"
    }

    async fn handle(&self, _: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
        tracing::info!("before");
        tx.execute("select 1", &[]).await?;
        tracing::info!("after");
        Ok(())
    }
}

#[tokio::test]
async fn what_a_handler_logs_says_which_event_it_is_of() {
    let read_model = ReadModel::start().await;
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    let _here = tracing::subscriber::set_default(subscriber);
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let body = sent("a", 1)
        .body_with("traceparent", &traceparent.into())
        .replace("\"data\":1", r#""correlation_id":"c-1","data":1"#);
    let mut received = record("m", &body, None);
    received.receive_count = 3;
    received.trace_header = Some("Root=1-5759e988-bd862e3fe1be46a994272793".to_owned());
    let mut consumer = Consumer::new(Talker, &read_model.dsn());
    consumer.deliver(vec![received]).await.unwrap();
    let lines = lines.read();
    for said in ["before", "after"] {
        let line = lines.iter().find(|line| line["fields"]["message"] == said).unwrap();
        let span = &line["span"];
        assert_eq!(span["name"], "event");
        assert_eq!(span["event_id"], sent("a", 1).event_id);
        assert_eq!(span["event_type"], "ok");
        assert_eq!(span["correlation_id"], "c-1");
        assert_eq!(span["receive_count"], 3);
        assert_eq!(span["traceparent"], traceparent);
        assert_eq!(span["aws_trace_header"], "Root=1-5759e988-bd862e3fe1be46a994272793");
    }
    let batch = lines.iter().find(|line| line["fields"]["message"] == "batch").unwrap();
    assert_eq!(batch.get("span"), None);
}
