//! A fresh read model, a handler that does as the event says, and events to send it.

use consumer::{Consumer, Event, Handler, HandlerError, Mode, NewEvent, Outcome, Record, Tx};
use dsn::Dsn;
use local::migrations;
use local::postgres::Postgres;
use std::collections::HashMap;
use std::time::Duration;
use tokio_postgres::Client;

/// A server with the consumer's tables and the handler's.
pub(crate) struct ReadModel {
    pub(crate) postgres: Postgres,
    pub(crate) database: String,
    pub(crate) client: Client,
}

impl ReadModel {
    pub(crate) async fn start() -> Self {
        let postgres = Postgres::start(&[]).await.unwrap();
        let database = postgres.create_database().await.unwrap();
        let client = postgres.connect(&database).await.unwrap();
        migrations::apply(&client, "sql/read_model").await.unwrap();
        let own = "create table effects (place bigint generated always as identity,
            aggregate_id text, event_id uuid, version bigint, data text)";
        client.batch_execute(own).await.unwrap();
        Self { postgres, database, client }
    }

    /// With the outbox in the same database.
    pub(crate) async fn with_outbox(self) -> Self {
        migrations::apply(&self.client, "sql/source").await.unwrap();
        self
    }

    pub(crate) fn dsn(&self) -> Dsn {
        self.postgres.url(&self.database).parse().unwrap()
    }

    pub(crate) fn consumer(&self, mode: Mode) -> Consumer<Recorder> {
        Consumer::new(Recorder { mode }, &self.dsn())
    }

    /// Each aggregate's versions in the order they had their effect.
    pub(crate) async fn effects(&self) -> HashMap<String, Vec<i64>> {
        let sql = "select aggregate_id, coalesce(version, 0) from effects order by place";
        let mut effects: HashMap<String, Vec<i64>> = HashMap::new();
        for row in self.client.query(sql, &[]).await.unwrap() {
            effects.entry(row.get(0)).or_default().push(row.get(1));
        }
        effects
    }

    pub(crate) async fn count(&self, table: &str) -> i64 {
        let sql = format!("select count(*) from {table}");
        self.client.query_one(&sql, &[]).await.unwrap().get(0)
    }
}

/// Writes one row for each event; then does what the event's type says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recorder {
    mode: Mode,
}

impl Recorder {
    pub(crate) fn new(mode: Mode) -> Self {
        Self { mode }
    }
}

impl Handler for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    async fn handle(&self, event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
        let sql =
            "insert into effects (aggregate_id, event_id, version, data) values ($1, $2, $3, $4)";
        let data = event.data.get();
        let version = event.aggregate_version;
        tx.write(sql, &[&event.aggregate_id, &event.event_id, &version, &data]).await?;
        match event.event_type.as_str() {
            "retry" => Err(HandlerError::Retry("not now".to_owned())),
            "retry_later" => Err(HandlerError::RetryAfter {
                after: Duration::from_secs(90),
                reason: "in a while".to_owned(),
            }),
            "slow" => Ok(tx.execute("select pg_sleep(60)", &[]).await.map(drop)?),
            "delete" => {
                let sql = "delete from effects where aggregate_id = $1";
                Ok(tx.execute(sql, &[&event.aggregate_id]).await.map(drop)?)
            }
            "emit" | "emit_and_retry" => {
                for _ in 0..2 {
                    let seen = serde_json::json!({ "n": 1 });
                    let event = NewEvent::new("thing", &event.aggregate_id, "thing.seen", &seen)?;
                    tx.emit(event).await?;
                }
                if event.event_type == "emit" {
                    Ok(())
                } else {
                    Err(HandlerError::Retry("no".to_owned()))
                }
            }
            "wants_table" => {
                let there = tx.query_first("select to_regclass('wanted') is not null", &[]).await?;
                match there.is_some_and(|row| row.get(0)) {
                    true => Ok(()),
                    false => Err(HandlerError::Reject("no table yet".to_owned())),
                }
            }
            "reject" => Err(HandlerError::Reject("never".to_owned())),
            "typed" => event.data::<u8>().map(drop).map_err(HandlerError::from),
            "broken" => tx
                .execute("insert into nowhere values (1)", &[])
                .await
                .map(drop)
                .map_err(Into::into),
            "swallow" => {
                let _ = tx.execute("select 1 / 0", &[]).await;
                Ok(())
            }
            "killed_once" => {
                // A sequence counts outside of transactions: the second run passes.
                let row = tx.query_first("select nextval('runs')", &[]).await?;
                if row.unwrap().get::<_, i64>(0) == 1 {
                    tx.query("select pg_terminate_backend(pg_backend_pid())", &[]).await?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// What a test sends: by default a good event with an id of its own.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) event_id: String,
    pub(crate) kind: &'static str,
    pub(crate) aggregate_id: String,
    pub(crate) version: Option<i64>,
    pub(crate) data: String,
    pub(crate) timestamp: &'static str,
    pub(crate) fifo: bool,
    pub(crate) ordinal: Option<u32>,
    pub(crate) receive_count: u32,
    pub(crate) epoch: Option<u64>,
    pub(crate) tenant: &'static str,
}

pub(crate) fn sent(aggregate_id: &str, version: i64) -> Sent {
    Sent {
        event_id: uuid_of(aggregate_id, version),
        kind: "ok",
        aggregate_id: aggregate_id.to_owned(),
        version: Some(version),
        data: "1".to_owned(),
        timestamp: "2026-01-15T10:30:00Z",
        fifo: false,
        ordinal: None,
        receive_count: 1,
        epoch: None,
        tenant: "",
    }
}

/// The same aggregate and version is the same event. Version 4: its day is the timestamp's.
fn uuid_of(aggregate_id: &str, version: i64) -> String {
    let key = aggregate_id
        .bytes()
        .fold(7_u64, |hash, b| hash.wrapping_mul(31).wrapping_add(u64::from(b)));
    format!("{:08x}-0000-4000-8000-{version:012x}", key & 0xffff_ffff)
}

impl Sent {
    pub(crate) fn kind(self, kind: &'static str) -> Self {
        Self { kind, ..self }
    }

    pub(crate) fn fifo(self) -> Self {
        Self { fifo: true, ..self }
    }

    /// At this place of its transaction.
    pub(crate) fn at(self, ordinal: u32) -> Self {
        Self { ordinal: Some(ordinal), ..self }
    }

    /// In this history of the log.
    pub(crate) fn in_epoch(self, epoch: u64) -> Self {
        Self { epoch: Some(epoch), ..self }
    }

    /// Of this tenant, under an id of its own.
    pub(crate) fn of_tenant(self, tenant: &'static str) -> Self {
        let event_id = format!("{:08x}{}", tenant.len(), &self.event_id[8..]);
        Self { tenant, event_id, ..self }
    }

    pub(crate) fn received(self, receive_count: u32) -> Self {
        Self { receive_count, ..self }
    }

    pub(crate) fn unversioned(self) -> Self {
        Self { version: None, ..self }
    }

    pub(crate) fn body(&self) -> String {
        let Self { event_id, kind, aggregate_id, data, timestamp, .. } = self;
        let version = self.version.map_or("null".to_owned(), |v| v.to_string());
        let position = match (self.epoch, self.ordinal) {
            (None, Some(n)) => format!(r#""00000000016b3748-{n:08x}""#),
            (Some(epoch), Some(n)) => format!(r#""{epoch:016x}-0000000000000001-{n:016x}""#),
            (_, None) => "null".to_owned(),
        };
        let tenant = self.tenant;
        format!(
            r#"{{"event_id":"{event_id}","event_type":"{kind}","timestamp":"{timestamp}","aggregate_type":"thing","aggregate_id":"{aggregate_id}","aggregate_version":{version},"data":{data},"metadata":{{"tenant_id":"{tenant}"}},"position":{position}}}"#
        )
    }

    /// The body with this in its metadata, beside the tenant.
    pub(crate) fn body_with(&self, name: &str, value: &serde_json::Value) -> String {
        self.body().replacen("\"metadata\":{", &format!("\"metadata\":{{\"{name}\":{value},"), 1)
    }

    pub(crate) fn record(&self) -> Record {
        let id = format!("{}/{:?}", self.aggregate_id, self.version);
        let record = record(&id, &self.body(), self.fifo.then_some(self.aggregate_id.as_str()));
        Record { receive_count: self.receive_count, ..record }
    }
}

pub(crate) fn record(message_id: &str, body: &str, group: Option<&str>) -> Record {
    let attribute = |name: &str| match name {
        "MessageGroupId" => group,
        "SentTimestamp" => Some("1768473000123"),
        _ => None,
    };
    Record::new(Some(message_id.to_owned()), Some(body.to_owned()), group.is_some(), attribute)
}

/// Delivers, and returns the outcomes in order.
pub(crate) async fn deliver<'a, H: Handler>(
    consumer: &mut Consumer<H>,
    sent: impl IntoIterator<Item = &'a Sent>,
) -> Vec<Outcome> {
    let records = sent.into_iter().map(Sent::record).collect();
    let report = consumer.deliver(records).await.unwrap();
    report.outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}
