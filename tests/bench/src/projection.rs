//! One simple projection, a row for each order: with the consumer, by hand without an inbox, and
//! by hand with a transaction and an inbox row for each event.

use anyhow::{Context as _, Result, ensure};
use consumer::{Consumer, Event, Handler, HandlerError, Mode, Outcome, Record, Tx};
use dsn::Dsn;
use futures_util::future::try_join_all;
use serde::Deserialize;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

/// The read model, and the inbox of the usual way.
pub(crate) const TABLES: &str = "
create table public.orders (
  order_id text primary key, status text not null, total bigint not null, version bigint not null
);
create table public.processed (event_id uuid primary key, at timestamptz not null default now())";

const UPSERT: &str = "insert into public.orders (order_id, status, total, version)
    values ($1, $2, $3, $4)
    on conflict (order_id) do update
      set status = excluded.status, total = excluded.total, version = excluded.version";

const INBOX: &str = "insert into public.processed (event_id) values ($1) on conflict do nothing";

/// How it is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// By hand: a transaction for each batch and no inbox. A redelivery has its effect again.
    ByHand,
    /// The same, its statements sent without a wait for each.
    Pipelined,
    /// With the consumer.
    Consumer(Mode),
    /// By hand: a transaction for each event, with a row in an inbox.
    OneByOne,
}

impl Way {
    pub(crate) const ALL: [Self; 5] = [
        Self::ByHand,
        Self::Pipelined,
        Self::Consumer(Mode::Versioned),
        Self::Consumer(Mode::Once),
        Self::OneByOne,
    ];
}

/// A message as it comes from the queue.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) body: String,
}

/// What the events say.
#[derive(Deserialize)]
struct Order {
    status: String,
    total: i64,
}

/// The projection as an author writes it for the consumer.
pub(crate) struct Orders(Mode);

impl Handler for Orders {
    fn name(&self) -> &str {
        match self.0 {
            Mode::Once => "orders_once",
            _ => "orders",
        }
    }

    fn mode(&self) -> Mode {
        self.0
    }

    async fn handle(&self, event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
        let order: Order = event.data()?;
        let version = event.aggregate_version.unwrap_or(1);
        tx.write(UPSERT, &[&event.aggregate_id, &order.status, &order.total, &version]).await?;
        Ok(())
    }
}

/// As much of an event as the projection needs that is written by hand.
#[derive(Deserialize)]
struct Needed {
    event_id: Uuid,
    aggregate_id: String,
    aggregate_version: i64,
    data: Order,
}

/// The projection in one of its ways, connected and its statements prepared.
pub(crate) enum Projection {
    Consumer(Box<Consumer<Orders>>),
    ByHand(ByHand),
}

pub(crate) struct ByHand {
    client: Client,
    upsert: Statement,
    pipelined: bool,
    /// With it, each event has a transaction of its own.
    inbox: Option<Statement>,
}

impl Projection {
    pub(crate) async fn start(way: Way, url: &Dsn) -> Result<Self> {
        if let Way::Consumer(mode) = way {
            let mut consumer = Consumer::new(Orders(mode), url);
            consumer.connect().await?;
            return Ok(Self::Consumer(Box::new(consumer)));
        }
        let (client, _) = url.connect("bench").await?;
        let upsert = client.prepare(UPSERT).await?;
        let inbox = match way {
            Way::OneByOne => Some(client.prepare(INBOX).await?),
            Way::ByHand | Way::Pipelined | Way::Consumer(_) => None,
        };
        let pipelined = way == Way::Pipelined;
        Ok(Self::ByHand(ByHand { client, upsert, pipelined, inbox }))
    }

    /// Takes the messages of one delivery, from their bodies to the commit.
    pub(crate) async fn deliver(&mut self, messages: Vec<Message>) -> Result<()> {
        match self {
            Self::Consumer(consumer) => {
                let records = messages.into_iter().map(record).collect();
                let report = consumer.deliver(records).await?;
                let all_applied = report.outcomes.iter().all(|(_, o)| *o == Outcome::Applied);
                ensure!(all_applied, "expected each event to be applied, found {report:?}");
                Ok(())
            }
            Self::ByHand(by_hand) => by_hand.deliver(&messages).await,
        }
    }
}

fn record(message: Message) -> Record {
    Record::new(Some(message.id), Some(message.body), false, |name| match name {
        "SentTimestamp" => Some("1768473000123"),
        "ApproximateReceiveCount" => Some("1"),
        _ => None,
    })
}

impl ByHand {
    async fn deliver(&mut self, messages: &[Message]) -> Result<()> {
        let events = messages.iter().map(|message| serde_json::from_str(&message.body));
        let events: Vec<Needed> = events.collect::<Result<_, _>>().context("read an event")?;
        let Some(inbox) = &self.inbox else {
            let transaction = self.client.transaction().await?;
            if self.pipelined {
                let upserts = events.iter().map(|event| upsert(&transaction, &self.upsert, event));
                try_join_all(upserts).await?;
            } else {
                for event in &events {
                    upsert(&transaction, &self.upsert, event).await?;
                }
            }
            return Ok(transaction.commit().await?);
        };
        for event in &events {
            let transaction = self.client.transaction().await?;
            if transaction.execute(inbox, &[&event.event_id]).await? == 1 {
                upsert(&transaction, &self.upsert, event).await?;
            }
            transaction.commit().await?;
        }
        Ok(())
    }
}

async fn upsert(
    transaction: &tokio_postgres::Transaction<'_>,
    statement: &Statement,
    event: &Needed,
) -> Result<()> {
    let Needed { aggregate_id, aggregate_version, data: Order { status, total }, .. } = event;
    let rows =
        transaction.execute(statement, &[aggregate_id, status, total, aggregate_version]).await?;
    ensure!(rows == 1, "expected one row of an order, found {rows}");
    Ok(())
}
