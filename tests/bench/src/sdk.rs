//! The bare AWS SDK: the batches that the relay would send, made before the clock starts.

use crate::broker::Broker;
use crate::measure::Meter;
use anyhow::{Context as _, Result, ensure};
use envelope::{Format, Position};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use relay::outbox::OutboxEvent;
use relay::publish::{Sealed, aws_config};
use relay::seal::seal;
use std::cell::Cell;
use std::collections::HashMap;
use uuid::Uuid;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(value_enum)]
    broker: Broker,
    /// Where the server answers.
    #[arg(long)]
    endpoint: String,
    /// How many events one request carries.
    #[arg(long)]
    entries: u32,
    /// How many requests are in flight.
    #[arg(long)]
    in_flight: u32,
    /// How many events to send before it ends.
    #[arg(long)]
    events: u32,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let config = aws_config(Some("us-east-1")).await;
    let address = options.broker.address(&options.endpoint);
    let events: Vec<Sealed> = (0..options.entries).map(event).collect();
    match options.broker {
        Broker::Sns | Broker::Fifo => {
            let client = aws_sdk_sns::Client::new(&config);
            let fifo = options.broker == Broker::Fifo;
            let entries = (0..).zip(&events).map(|(id, event)| topic_entry(id, event, fifo));
            let entries = entries.collect::<Result<Vec<_>>>()?;
            drive(&options, || async {
                let request = client.publish_batch().topic_arn(&address);
                let request = request.set_publish_batch_request_entries(Some(entries.clone()));
                Ok(request.send().await?.successful().len())
            })
            .await
        }
        Broker::Sqs => {
            let client = aws_sdk_sqs::Client::new(&config);
            let entries = (0..).zip(&events).map(|(id, event)| queue_entry(id, event));
            let entries = entries.collect::<Result<Vec<_>>>()?;
            drive(&options, || async {
                let request = client.send_message_batch().queue_url(&address);
                let request = request.set_entries(Some(entries.clone()));
                Ok(request.send().await?.successful().len())
            })
            .await
        }
    }
}

/// Sends until all is accepted, with so many requests in flight.
async fn drive<F, R>(options: &Options, send: F) -> Result<()>
where
    F: Fn() -> R,
    R: Future<Output = Result<usize>>,
{
    // The first request of all: the client makes its parts.
    send().await?;
    let left = Cell::new(options.events / options.entries);
    let requests = left.get();
    let senders: FuturesUnordered<_> = (0..options.in_flight)
        .map(|_| async {
            while let Some(rest) = left.get().checked_sub(1) {
                left.set(rest);
                let accepted = send().await?;
                ensure!(accepted == options.entries as usize, "found {accepted} accepted");
            }
            Ok(())
        })
        .collect();
    let meter = Meter::start()?;
    let done: Vec<Result<()>> = senders.collect().await;
    done.into_iter().collect::<Result<()>>()?;
    meter.read()?.print(u64::from(requests));
    Ok(())
}

/// An event as the load writes it and the relay seals it.
fn event(n: u32) -> Sealed {
    let note = "a note on the order ".repeat(12);
    let data = format!(r#"{{"id" : {}, "status" : "paid", "note" : "{note}"}}"#, 100_000 + n);
    let event = OutboxEvent {
        event_id: Uuid::from_u128((1 << 120) + u128::from(n)),
        recorded_at: "2026-01-15T10:30:00.123456Z".into(),
        aggregate_type: "order".into(),
        aggregate_id: format!("order-{}", 1000 + n).into(),
        aggregate_version: Some(100_000 + i64::from(n)),
        event_type: "order.changed".into(),
        event_version: "1.0".into(),
        tenant_id: None,
        correlation_id: Some(Uuid::from_u128((1 << 120) + u128::from(n)).to_string().into()),
        causation_id: None,
        data: &data,
        metadata: r#"{"user_id": "u-4711"}"#,
    };
    seal(&event, Position::default(), "bench", Format::default())
}

fn topic_entry(
    id: u32,
    event: &Sealed,
    fifo: bool,
) -> Result<aws_sdk_sns::types::PublishBatchRequestEntry> {
    use aws_sdk_sns::types::{MessageAttributeValue, PublishBatchRequestEntry};
    let attributes = event.attributes.iter().map(|(name, value)| {
        let value = MessageAttributeValue::builder().data_type("String").string_value(value);
        anyhow::Ok(((*name).to_owned(), value.build()?))
    });
    let mut entry = PublishBatchRequestEntry::builder()
        .id(id.to_string())
        .message(&event.body)
        .set_message_attributes(Some(attributes.collect::<Result<HashMap<_, _>>>()?));
    if fifo {
        entry =
            entry.message_group_id(&event.key).message_deduplication_id(event.event_id.to_string());
    }
    entry.build().context("an entry without an id or a message")
}

fn queue_entry(
    id: u32,
    event: &Sealed,
) -> Result<aws_sdk_sqs::types::SendMessageBatchRequestEntry> {
    use aws_sdk_sqs::types::{MessageAttributeValue, SendMessageBatchRequestEntry};
    let attributes = event.attributes.iter().map(|(name, value)| {
        let value = MessageAttributeValue::builder().data_type("String").string_value(value);
        anyhow::Ok(((*name).to_owned(), value.build()?))
    });
    SendMessageBatchRequestEntry::builder()
        .id(id.to_string())
        .message_body(&event.body)
        .set_message_attributes(Some(attributes.collect::<Result<HashMap<_, _>>>()?))
        .build()
        .context("an entry without an id or a body")
}
