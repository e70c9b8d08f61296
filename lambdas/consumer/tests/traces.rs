//! What a trace shows of a delivery, as a receiver of OpenTelemetry's protocol gets it.

use crate::otlp::{Otlp, attribute, hex};
use crate::support::{ReadModel, Recorder, Sent, sent};
use consumer::{Consumer, NewEvent, Outcome, Record, Traces, apply_now};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use std::time::Duration;
use tracing::Instrument as _;
use tracing_subscriber::layer::SubscriberExt as _;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const XRAY: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";

/// What a test waits for a request at most.
const LIMIT: Duration = Duration::from_secs(30);

/// A consumer whose spans go to a receiver of its own, as long as the guard is there.
async fn traced(read_model: &ReadModel) -> (Otlp, Traces, Consumer<Recorder>) {
    let otlp = Otlp::start().await;
    let traces = Traces::to(&format!("{}/v1/traces", otlp.address())).unwrap();
    let consumer = Consumer::new(Recorder::default(), &read_model.dsn()).with_traces(&traces);
    (otlp, traces, consumer)
}

fn keep(traces: &Traces) -> tracing::subscriber::DefaultGuard {
    let subscriber = tracing_subscriber::registry().with(traces.layer());
    tracing::subscriber::set_default(subscriber)
}

/// The event as it comes with these headers.
fn with_headers(sent: &Sent, traceparent: Option<&str>, xray: Option<&str>) -> Record {
    let body = sent.body_with("traceparent", &traceparent.into());
    let trace_header = xray.map(str::to_owned);
    Record { trace_header, ..crate::support::record(&sent.aggregate_id, &body, None) }
}

fn links(span: &Span) -> Vec<(String, String)> {
    span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect()
}

#[tokio::test]
async fn an_event_is_a_span_of_its_batch_linked_to_where_it_was_written_and_sent() {
    let read_model = ReadModel::start().await;
    let (otlp, traces, mut consumer) = traced(&read_model).await;
    let _here = keep(&traces);
    let secret = Sent { data: "\"payload\"".to_owned(), ..sent("a", 1) };
    let records = vec![
        with_headers(&secret, Some(TRACEPARENT), Some(XRAY)),
        with_headers(&sent("b", 1), Some("00-nonsense"), Some("Root=nonsense;Parent=x")),
        with_headers(&sent("c", 1), None, Some("Root=1-5759e988-bd862e3fe1be46a994272793")),
    ];
    let report = consumer.deliver(records).await.unwrap();
    assert_eq!(report.count(Outcome::Applied), 3);
    assert_eq!(otlp.requests().len(), 0, "nothing is sent while events wait");
    traces.flush(LIMIT).await;
    traces.flush(LIMIT).await;

    assert_eq!(otlp.requests().len(), 1, "one request for a batch, none for nothing");
    let spans = otlp.spans();
    let named = |name: &str| spans.iter().filter(|s| s.name == name).collect::<Vec<_>>();
    let (batches, events) = (named("batch recorder"), named("process recorder"));
    assert_eq!((spans.len(), batches.len(), events.len()), (4, 1, 3));
    let batch = batches[0];
    assert_eq!(hex(&batch.parent_span_id), "");
    assert_eq!(links(batch), []);
    let count = attribute(&batch.attributes, "messaging.batch.message_count");
    assert_eq!(count.as_deref(), Some("3"));
    let written = ("0af7651916cd43dd8448eb211c80319c".into(), "b7ad6b7169203331".into());
    let carried = ("5759e988bd862e3fe1be46a994272793".into(), "53995c3f42cd8ad8".into());
    let origins = [vec![written, carried], vec![], vec![]];
    for (event, (id, origins)) in events.iter().zip(["a", "b", "c"].into_iter().zip(origins)) {
        assert_eq!((&event.trace_id, &event.parent_span_id), (&batch.trace_id, &batch.span_id));
        assert_eq!(links(event), origins);
        for (key, value) in [
            ("messaging.system", "aws_sqs"),
            ("messaging.operation.type", "process"),
            ("messaging.consumer.group.name", "recorder"),
            ("messaging.message.id", id),
            ("event_id", &sent(id, 1).event_id),
            ("event_type", "ok"),
        ] {
            assert_eq!(attribute(&event.attributes, key).as_deref(), Some(value), "{key}");
        }
    }
    for span in &spans {
        assert_eq!(span.kind(), SpanKind::Consumer);
        assert_eq!(span.status.clone().unwrap_or_default().code(), StatusCode::Unset);
    }
    assert!(!format!("{:?}", otlp.requests()).contains("payload"));
}

#[tokio::test]
async fn what_fails_says_so_by_the_kind_of_the_error_alone() {
    let mut read_model = ReadModel::start().await;
    let (otlp, traces, mut consumer) = traced(&read_model).await;
    let _here = keep(&traces);
    for kind in ["retry", "reject", "broken"] {
        consumer.deliver(vec![sent(kind, 1).kind(kind).record()]).await.unwrap();
    }
    read_model.postgres.stop().await.unwrap();
    consumer.deliver(vec![sent("d", 1).record()]).await.unwrap_err();
    traces.flush(LIMIT).await;
    let failed: Vec<_> = otlp
        .spans()
        .iter()
        .filter_map(|span| {
            let status = span.status.clone().filter(|s| s.code() == StatusCode::Error)?;
            let kind = attribute(&span.attributes, "error.type").unwrap();
            assert_eq!(status.message, kind, "no words of the handler's or of Postgres");
            Some((span.name.clone(), kind))
        })
        .collect();
    let event = |kind: &str| ("process recorder".to_owned(), kind.to_owned());
    let batch = ("batch recorder".to_owned(), "Unreachable".to_owned());
    assert_eq!(failed, [event("retry"), event("reject"), event("database"), batch]);
}

#[tokio::test]
async fn what_is_emitted_leads_on_from_the_span_that_is_open() {
    let read_model = ReadModel::start().await.with_outbox().await;
    let (otlp, traces, mut consumer) = traced(&read_model).await;
    let traceparents = async || {
        let sql = "select metadata->>'traceparent' from relay.outbox order by position";
        let rows = read_model.client.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect::<Vec<Option<String>>>()
    };
    let emit = |id| with_headers(&sent(id, 1).kind("emit"), Some(TRACEPARENT), None);
    // Without spans the origin's is passed on.
    consumer.deliver(vec![emit("a")]).await.unwrap();
    let origin = Some(TRACEPARENT.to_owned());
    assert_eq!(traceparents().await, [origin.clone(), origin]);
    let here = keep(&traces);
    consumer.deliver(vec![emit("b")]).await.unwrap();
    drop(here);
    traces.flush(LIMIT).await;
    let spans = otlp.spans();
    let span = spans.iter().find(|span| span.name == "process recorder").unwrap();
    let open = format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id));
    assert_eq!(traceparents().await[2..], [Some(open.clone()), Some(open)]);
}

#[tokio::test]
async fn what_a_command_appends_is_linked_to_the_commands_span_at_once_and_when_delivered() {
    let mut read_model = ReadModel::start().await.with_outbox().await;
    let (otlp, traces, mut consumer) = traced(&read_model).await;
    let _here = keep(&traces);
    let command = tracing::info_span!("command");
    let event = async {
        let mut transaction = read_model.client.transaction().await.unwrap();
        let new = NewEvent::new("thing", "a", "ok", &1).unwrap().aggregate_version(1);
        let event = new.append(&transaction).await.unwrap();
        apply_now(&Recorder::default(), &mut transaction, &event).await.unwrap();
        transaction.commit().await.unwrap();
        event
    };
    let event = event.instrument(command).await;
    let sql = "select metadata->>'traceparent' from relay.outbox where event_id = $1";
    let row = read_model.client.query_one(sql, &[&event.event_id]).await.unwrap();
    // As another projection gets it, to which it is no duplicate.
    let delivered = with_headers(&sent("b", 1), row.get(0), None);
    consumer.deliver(vec![delivered]).await.unwrap();
    traces.flush(LIMIT).await;

    let spans = otlp.spans();
    let command = spans.iter().find(|span| span.name == "command").unwrap();
    let origin = (hex(&command.trace_id), hex(&command.span_id));
    let handled: Vec<_> = spans.iter().filter(|span| span.name == "process recorder").collect();
    assert_eq!(handled.len(), 2);
    for span in handled {
        assert_eq!(links(span), std::slice::from_ref(&origin));
    }
}

#[tokio::test]
async fn a_receiver_that_is_gone_harms_no_event() {
    let read_model = ReadModel::start().await;
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/v1/traces", gone.local_addr().unwrap());
    let traces = Traces::to(&address).unwrap();
    let _here = keep(&traces);
    let mut consumer = Consumer::new(Recorder::default(), &read_model.dsn()).with_traces(&traces);
    // One that never answers, then one that is not there.
    let mut gone = Some(gone);
    for version in 1..=2 {
        let report = consumer.deliver(vec![sent("a", version).record()]).await.unwrap();
        assert_eq!(report.count(Outcome::Applied), 1);
        tokio::time::timeout(LIMIT, traces.flush(Duration::from_millis(300))).await.unwrap();
        gone.take();
    }
}
