//! A read model, the function that keeps it, and the service that reads it.

use consumer::{Consumer, Outcome, Record};
use local::postgres::Postgres;
use order_summary::OrderSummary;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_postgres::Client;

/// No test waits that long unless what it waits for does not come.
pub(crate) const LONG: Duration = Duration::from_secs(60);

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
        local::migrations::apply(&client, "sql/read_model").await.unwrap();
        client.batch_execute(local::stack::ORDER_SUMMARY).await.unwrap();
        Self { postgres, database, client }
    }

    pub(crate) fn url(&self) -> String {
        self.postgres.url(&self.database)
    }

    /// Brings an order to this version: created by the customer, then an item with each event.
    pub(crate) async fn bring(&self, order: &str, version: i64, customer: &str) {
        let mut consumer = Consumer::new(OrderSummary, &self.url().parse().unwrap());
        let (kind, data) = match version {
            1 => ("order.created", json!({ "customer_id": customer, "currency": "EUR" })),
            _ => ("order.item_added", json!({ "sku": "s", "quantity": 2, "unit_price": "0.10" })),
        };
        let event = json!({
            "event_id": format!("{:08x}-0000-4000-8000-{version:012x}", order.bytes().map(u32::from).sum::<u32>()),
            "event_type": kind, "timestamp": format!("2026-01-15T10:30:{version:02}Z"),
            "aggregate_type": "order", "aggregate_id": order, "aggregate_version": version, "data": data,
        });
        let record = Record::new(Some("m".to_owned()), Some(event.to_string()), false, |_| None);
        let report = consumer.deliver(vec![record]).await.unwrap();
        assert_eq!(report.count(Outcome::Applied), 1);
    }

    /// Waits until so many waits are announced.
    pub(crate) async fn announced(&self, waits: i64) {
        let announced = async {
            let sql = "select count(*) from relay.awaited";
            while self.client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) != waits {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, announced).await.unwrap();
    }
}

/// The service as a process, killed with the test.
pub(crate) struct Service {
    pub(crate) process: Child,
    pub(crate) address: String,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Value,
}

impl Service {
    pub(crate) async fn start(url: &str, wait: &str) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_orders_api"))
            .env("READ_MODEL_URL", url)
            .env("LISTEN", "127.0.0.1:0")
            .env("WAIT", wait)
            .env_remove("RUST_LOG")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = loop {
            let line = timeout(LONG, lines.next_line()).await.unwrap().unwrap();
            let line: Value = serde_json::from_str(&line.expect("it listens")).unwrap();
            if line["fields"]["message"] == "listening" {
                break line["fields"]["address"].as_str().unwrap().to_owned();
            }
        };
        // The rest is read as well, or the service would stop at a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { process, address }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path).await
    }

    pub(crate) async fn ask(&self, method: &str, path: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        timeout(LONG, stream.read_to_string(&mut text)).await.unwrap().unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
        let (status, headers) = head.split_once("\r\n").unwrap();
        Answer {
            status: status.split(' ').nth(1).unwrap().parse().unwrap(),
            headers: headers
                .lines()
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            body: serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}")),
        }
    }

    /// Asks it to end, as a container's host does.
    pub(crate) fn terminate(&self) {
        let id = self.process.id().unwrap().to_string();
        let killed = std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(killed.success());
    }
}
