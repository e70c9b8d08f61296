//! What is read from `order_summary`.
//!
//! Knows: its columns and its connection. Must not know: HTTP, waits.

use dsn::Dsn;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

/// A read model that is silent for so long is taken for gone.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// An order as JSON. The total is a text: money never passes through a float.
const ORDER: &str = "select (to_jsonb(o) || jsonb_build_object('total', o.total::text))::text
    from order_summary as o where o.order_id = $1";

const OF_CUSTOMER: &str = "select (to_jsonb(o) || jsonb_build_object('total', o.total::text))::text
    from order_summary as o where o.customer_id = $1
    order by o.created_at desc, o.order_id limit $2";

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the read model cannot be reached")]
    Unreachable(#[from] dsn::Error),
    #[error("the read model refused")]
    Refused(#[from] tokio_postgres::Error),
    #[error("expected an answer of the read model within {} s, found none", ANSWER_LIMIT.as_secs())]
    Silent,
}

/// The table, over one connection that is made anew when it breaks; queries share it.
pub(crate) struct Orders {
    dsn: Dsn,
    client: Mutex<Option<Arc<Client>>>,
}

impl Orders {
    pub(crate) fn new(dsn: Dsn) -> Self {
        Self { dsn, client: Mutex::new(None) }
    }

    /// The order as JSON, where there is one.
    pub(crate) async fn order(&self, id: &str) -> Result<Option<String>, ReadError> {
        let rows = self.ask(ORDER, &[(&id, Type::TEXT)]).await?;
        Ok(rows.first().map(|row| row.get(0)))
    }

    /// A customer's newest orders as a JSON list.
    pub(crate) async fn of_customer(&self, id: &str, limit: u16) -> Result<String, ReadError> {
        let limit = i64::from(limit);
        let rows = self.ask(OF_CUSTOMER, &[(&id, Type::TEXT), (&limit, Type::INT8)]).await?;
        let orders: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
        Ok(format!("[{}]", orders.join(",")))
    }

    /// Whether the read model answers, and has the table.
    pub(crate) async fn answers(&self) -> Result<(), ReadError> {
        self.ask("select from order_summary limit 0", &[]).await.map(drop)
    }

    /// Asks, and where the connection was found broken once more on a new one: between two
    /// requests a Lambda function is frozen, and its connections end unseen.
    async fn ask(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, ReadError> {
        let client = self.client().await?;
        match self.answered(client.query_typed(sql, parameters)).await {
            Err(ReadError::Refused(_)) if client.is_closed() => {
                let client = self.client().await?;
                self.answered(client.query_typed(sql, parameters)).await
            }
            answered => answered,
        }
    }

    async fn client(&self) -> Result<Arc<Client>, ReadError> {
        let mut held = self.client.lock().await;
        if let Some(client) = held.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        // The task that drives it ends with the client.
        let (client, _driver) = self.dsn.connect("orders_api").await?;
        let client = Arc::new(client);
        *held = Some(Arc::clone(&client));
        Ok(client)
    }

    async fn answered(
        &self,
        question: impl Future<Output = Result<Vec<Row>, tokio_postgres::Error>>,
    ) -> Result<Vec<Row>, ReadError> {
        match timeout(ANSWER_LIMIT, question).await {
            Ok(answer) => Ok(answer?),
            Err(_) => {
                *self.client.lock().await = None;
                Err(ReadError::Silent)
            }
        }
    }
}
