//! The workload: orders that live and die through eight connections, and customers beside them.
//!
//! Each step of a life is one real transaction that changes the shop's
//! tables and inserts into the outbox; one in ten is rolled back.

use crate::customers::{self, Customer};
use anyhow::{Context, Result};
use fastrand::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio_postgres::{Client, NoTls, Statement, Transaction};
use uuid::Uuid;

/// The shop's tables.
pub const SHOP: &str = include_str!("../shop.sql");

/// How many orders one connection works on at a time, so that aggregates interleave.
const OPEN_ORDERS: usize = 25;

/// What to write.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The connection string of the shop's database.
    pub url: String,
    /// How many connections write at once.
    pub connections: u32,
    /// How many orders to bring to their end.
    pub orders: u64,
    /// How many customers register meanwhile; orders name one of 500, whoever registers.
    pub customers: u32,
    /// Begin no new order after this long, whatever their number.
    pub time: Option<Duration>,
    /// Decides every random choice.
    pub seed: u64,
    /// A pause between transactions, for a load that is not a flood.
    pub pause: Duration,
    /// The writers wait while more effects than this are to come.
    pub most_behind: u64,
}

/// What was written so far.
#[derive(Debug, Default)]
pub struct Written {
    /// Orders begun.
    pub orders: AtomicU64,
    /// Events of committed transactions.
    pub committed: AtomicU64,
    /// Effects of those events: one for each function of the template that takes it.
    pub effects: AtomicU64,
    /// Transactions rolled back.
    pub rolled_back: AtomicU64,
    /// Effects that are there, as far as the observer has told.
    pub projected: AtomicU64,
}

/// Writes the workload; `written` shows how far it has come.
///
/// # Errors
/// When the database refuses a statement.
pub async fn write(workload: &Workload, written: Arc<Written>) -> Result<()> {
    let deadline = workload.time.map(|time| Instant::now() + time);
    let writers = (0..workload.connections).map(|n| {
        let (workload, written) = (workload.clone(), Arc::clone(&written));
        async move {
            let (client, connection) =
                tokio_postgres::connect(&workload.url, NoTls).await.context("connect a writer")?;
            let connection = tokio::spawn(connection);
            let rng = Rng::with_seed(workload.seed.wrapping_mul(1000).wrapping_add(n.into()));
            let mut writer = Writer::new(client, rng, workload, written, deadline).await?;
            writer.take_customers(n);
            let done = writer.run().await;
            connection.abort();
            done
        }
    });
    futures_util::future::try_join_all(writers).await?;
    Ok(())
}

/// One order while it lives.
struct Order {
    id: String,
    version: i64,
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Create,
    AddItem,
    Pay,
    Ship,
    Cancel,
}

impl Order {
    fn new(rng: &mut Rng) -> Self {
        let mut steps = vec![Step::Create];
        steps.extend(std::iter::repeat_n(Step::AddItem, rng.usize(1..=3)));
        match rng.u8(0..10) {
            0..2 => steps.push(Step::Cancel),
            2..3 => steps.push(Step::Pay),
            _ => steps.extend([Step::Pay, Step::Ship]),
        }
        steps.reverse();
        let id = format!("ord_{:016x}", rng.u64(..));
        Self { id, version: 0, steps }
    }
}

/// The statements, prepared once for a connection.
struct Statements {
    create: Statement,
    item: Statement,
    advance: Statement,
    reach: Statement,
    outbox: Statement,
    note: Statement,
    customers: customers::Statements,
}

struct Writer {
    client: Client,
    statements: Statements,
    rng: Rng,
    /// Of this connection, with something left to happen.
    customers: Vec<Customer>,
    workload: Workload,
    written: Arc<Written>,
    deadline: Option<Instant>,
}

impl Writer {
    async fn new(
        client: Client,
        rng: Rng,
        workload: Workload,
        written: Arc<Written>,
        deadline: Option<Instant>,
    ) -> Result<Self> {
        let statements = Statements {
            create: client.prepare("insert into orders (order_id, customer_id, currency, version) values ($1, $2, 'EUR', $3)").await?,
            item: client.prepare("insert into order_item (order_id, sku, quantity, unit_price) values ($1, $2, $3, $4::text::numeric)").await?,
            advance: client.prepare("update orders set version = $2 where order_id = $1").await?,
            reach: client
                .prepare(
                    "update orders set version = $2, status = $3,
                     paid_at = case when $3 = 'paid' then now() else paid_at end,
                     shipped_at = case when $3 = 'shipped' then now() else shipped_at end,
                     cancelled_at = case when $3 = 'cancelled' then now() else cancelled_at end
                     where order_id = $1",
                )
                .await?,
            outbox: client
                .prepare(
                    "insert into relay.outbox (aggregate_type, aggregate_id, aggregate_version, event_type, data)
                     values ('order', $1, $2, $3, $4::text::json) returning event_id",
                )
                .await?,
            note: client.prepare("insert into rolled_back (event_id) values ($1)").await?,
            customers: customers::Statements::prepare(&client).await?,
        };
        let customers = Vec::new();
        Ok(Self { client, statements, rng, customers, workload, written, deadline })
    }

    /// The customers of the connection with this number.
    fn take_customers(&mut self, connection: u32) {
        let step = usize::try_from(self.workload.connections).unwrap_or(usize::MAX);
        for number in (connection..self.workload.customers).step_by(step) {
            self.customers.push(Customer::new(number, &mut self.rng));
        }
    }

    async fn run(mut self) -> Result<()> {
        let mut open: Vec<Order> = Vec::new();
        loop {
            while open.len() < OPEN_ORDERS && self.may_begin() {
                open.push(Order::new(&mut self.rng));
            }
            if open.is_empty() && self.customers.is_empty() {
                return Ok(());
            }
            if !self.customers.is_empty() && (open.is_empty() || self.rng.u8(0..4) == 0) {
                self.customer_step().await?;
            } else {
                let at = self.rng.usize(..open.len());
                self.step(&mut open[at]).await?;
                if open[at].steps.is_empty() {
                    open.swap_remove(at);
                }
            }
            if !self.workload.pause.is_zero() {
                tokio::time::sleep(self.workload.pause).await;
            }
            while self.is_too_far_ahead() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    fn is_too_far_ahead(&self) -> bool {
        let effects = self.written.effects.load(Ordering::Relaxed);
        effects.saturating_sub(self.written.projected.load(Ordering::Relaxed))
            > self.workload.most_behind
    }

    fn may_begin(&self) -> bool {
        if self.deadline.is_some_and(|deadline| Instant::now() > deadline) {
            return false;
        }
        self.written.orders.fetch_add(1, Ordering::Relaxed) < self.workload.orders
    }

    /// One transaction: the business change and its event, or neither.
    async fn step(&mut self, order: &mut Order) -> Result<()> {
        let Some(step) = order.steps.last().copied() else {
            return Ok(());
        };
        let version = order.version + 1;
        let rolls_back = self.rng.u8(0..10) == 0;
        let transaction = self.client.transaction().await?;
        let event =
            change(&transaction, &self.statements, &mut self.rng, order, step, version).await?;
        if rolls_back {
            transaction.rollback().await?;
            self.client.execute(&self.statements.note, &[&event]).await?;
            self.written.rolled_back.fetch_add(1, Ordering::Relaxed);
        } else {
            transaction.commit().await?;
            order.version = version;
            order.steps.pop();
            // order_summary and customer_orders; the notifier too for a paid one.
            self.committed(if step == Step::Pay { 3 } else { 2 });
        }
        Ok(())
    }

    fn committed(&self, effects: u64) {
        self.written.committed.fetch_add(1, Ordering::Relaxed);
        self.written.effects.fetch_add(effects, Ordering::Relaxed);
    }

    /// The same for one of the customers.
    async fn customer_step(&mut self) -> Result<()> {
        let at = self.rng.usize(..self.customers.len());
        let rolls_back = self.rng.u8(0..10) == 0;
        let transaction = self.client.transaction().await?;
        let statements = &self.statements.customers;
        let event =
            customers::change(&transaction, statements, &mut self.rng, &self.customers[at]).await?;
        if rolls_back {
            transaction.rollback().await?;
            self.client.execute(&self.statements.note, &[&event]).await?;
            self.written.rolled_back.fetch_add(1, Ordering::Relaxed);
        } else {
            transaction.commit().await?;
            self.committed(1);
            if !self.customers[at].go_on() {
                self.customers.swap_remove(at);
            }
        }
        Ok(())
    }
}

async fn change(
    transaction: &Transaction<'_>,
    statements: &Statements,
    rng: &mut Rng,
    order: &Order,
    step: Step,
    version: i64,
) -> Result<Uuid> {
    let (event_type, data) = match step {
        Step::Create => {
            let customer = customers::id(rng.u32(0..500));
            transaction.execute(&statements.create, &[&order.id, &customer, &version]).await?;
            ("order.created", format!(r#"{{"customer_id": "{customer}", "currency": "EUR"}}"#))
        }
        Step::AddItem => {
            let sku = format!("sku-{}", rng.u32(0..2000));
            let quantity = rng.i64(1..=5);
            let price = format!("{}.{:02}", rng.u32(1..300), rng.u32(0..100));
            transaction.execute(&statements.item, &[&order.id, &sku, &quantity, &price]).await?;
            transaction.execute(&statements.advance, &[&order.id, &version]).await?;
            (
                "order.item_added",
                format!(r#"{{"sku": "{sku}", "quantity": {quantity}, "unit_price": "{price}"}}"#),
            )
        }
        Step::Pay | Step::Ship | Step::Cancel => {
            let (status, event_type, data) = match step {
                Step::Pay => ("paid", "order.paid", r#"{"method": "card"}"#),
                Step::Ship => ("shipped", "order.shipped", r#"{"carrier": "post"}"#),
                _ => ("cancelled", "order.cancelled", r#"{"reason": "changed their mind"}"#),
            };
            transaction.execute(&statements.reach, &[&order.id, &version, &status]).await?;
            (event_type, data.to_owned())
        }
    };
    let row = transaction
        .query_one(&statements.outbox, &[&order.id, &version, &event_type, &data])
        .await?;
    Ok(row.get(0))
}
