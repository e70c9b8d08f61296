//! Whether the read model is right, judged from the databases alone.

use crate::read_back::ReadBack;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use tokio_postgres::Client;
use uuid::Uuid;

/// One thing that must hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Clause {
    /// What must hold, with the numbers found.
    pub text: String,
    /// Whether it does.
    pub holds: bool,
    /// A few of the things that break it.
    pub examples: Vec<String>,
}

/// All that must hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// Each clause.
    pub clauses: Vec<Clause>,
}

impl Verdict {
    /// Whether every clause holds.
    #[must_use]
    pub fn is_yes(&self) -> bool {
        !self.clauses.is_empty() && self.clauses.iter().all(|clause| clause.holds)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for clause in &self.clauses {
            writeln!(f, "  {}  {}", if clause.holds { "yes" } else { "NO " }, clause.text)?;
            for example in &clause.examples {
                writeln!(f, "         {example}")?;
            }
        }
        write!(f, "verdict: {}", if self.is_yes() { "yes" } else { "no" })
    }
}

fn clause(text: String, broken: &[String]) -> Clause {
    let examples = broken.iter().take(3).cloned().collect();
    Clause { text, holds: broken.is_empty(), examples }
}

/// What was just written is what was read.
#[must_use]
pub fn read_your_writes(read: &[ReadBack]) -> Clause {
    let mut wrong: Vec<String> =
        read.iter().filter(|read| !read.is_fresh()).map(ToString::to_string).collect();
    let fresh = read.len() - wrong.len();
    if read.is_empty() {
        wrong.push("nothing was asked for".to_owned());
    }
    clause(
        format!(
            "what was just written is what orders_api answers: {fresh} of {} asked for",
            read.len()
        ),
        &wrong,
    )
}

/// Judges all that the template's functions have done: [`judge`], every row of `customer_orders`,
/// and the calls that a receiver has counted by their key.
///
/// # Errors
/// When a database cannot be read.
pub async fn judge_all(
    shop: &Client,
    read_model: &Client,
    calls: &BTreeMap<String, u32>,
) -> Result<Verdict> {
    let mut verdict = judge(shop, read_model).await?;
    verdict.clauses.push(customer_orders(shop, read_model).await?);
    verdict.clauses.push(notices(shop, calls).await?);
    Ok(verdict)
}

/// Judges the read model of `order_summary` by the shop it was made from.
///
/// # Errors
/// When a database cannot be read.
pub async fn judge(shop: &Client, read_model: &Client) -> Result<Verdict> {
    for client in [shop, read_model] {
        client.batch_execute("set timezone = 'UTC'").await.context("set the time zone")?;
    }
    let committed =
        ids(shop, "select event_id from relay.outbox where aggregate_type = 'order'").await?;
    let rolled_back = ids(shop, "select event_id from rolled_back").await?;
    let applied =
        ids(read_model, "select event_id from relay.inbox where projection = 'order_summary'")
            .await?;
    let mut clauses = vec![clause(
        format!(
            "there is something to judge: {} committed events, {} rolled back",
            committed.len(),
            rolled_back.len()
        ),
        &if committed.is_empty() { vec!["no event was committed".to_owned()] } else { Vec::new() },
    )];
    let missing: Vec<String> = committed.difference(&applied).map(ToString::to_string).collect();
    clauses.push(clause(
        format!(
            "every committed event had its effect: {} of {}, {} missing",
            committed.len() - missing.len(),
            committed.len(),
            missing.len()
        ),
        &missing,
    ));
    let ghosts: Vec<String> = applied
        .iter()
        .filter(|id| rolled_back.contains(id) || !committed.contains(id))
        .map(ToString::to_string)
        .collect();
    clauses.push(clause(
        format!("no event of a rolled-back transaction had one: {} found", ghosts.len()),
        &ghosts,
    ));
    clauses.push(rows(shop, read_model).await?);
    clauses.push(order(read_model).await?);
    Ok(Verdict { clauses })
}

async fn ids(client: &Client, sql: &str) -> Result<HashSet<Uuid>> {
    let rows = client.query(sql, &[]).await.with_context(|| format!("ask: {sql}"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What the source tables say each row must be, as text.
const EXPECTED: &str = "
select o.order_id, concat_ws('|', o.customer_id, o.currency, o.status,
  coalesce(i.items, 0), coalesce(i.total, 0)::numeric(20, 2), o.created_at,
  coalesce(o.paid_at::text, '-'), coalesce(o.shipped_at::text, '-'), coalesce(o.cancelled_at::text, '-'), o.version)
from orders as o
left join (
  select order_id, sum(quantity) as items, sum(quantity * unit_price) as total from order_item group by order_id
) as i using (order_id)";

const FOUND: &str = "
select order_id, concat_ws('|', customer_id, currency, status,
  item_count, total::numeric(20, 2), created_at,
  coalesce(paid_at::text, '-'), coalesce(shipped_at::text, '-'), coalesce(cancelled_at::text, '-'), version)
from order_summary";

async fn rows(shop: &Client, read_model: &Client) -> Result<Clause> {
    let expected = texts(shop, EXPECTED).await?;
    let found = texts(read_model, FOUND).await?;
    let wrong = differences(&expected, &found);
    Ok(clause(
        format!(
            "every row equals what the source tables say: {} orders, {} rows, {} wrong",
            expected.len(),
            found.len(),
            wrong.len()
        ),
        &wrong,
    ))
}

/// The same for the list beside the customers; an order may name one who never registered.
const EXPECTED_LIST: &str = "
select o.order_id, concat_ws('|', o.customer_id, coalesce(c.first_name || ' ' || c.last_name, '-'),
  coalesce(c.city, '-'), o.currency, o.status, coalesce(i.items, 0),
  coalesce(i.total, 0)::numeric(20, 2), o.created_at, o.version)
from orders as o
left join customers as c using (customer_id)
left join (
  select order_id, sum(quantity) as items, sum(quantity * unit_price) as total from order_item group by order_id
) as i using (order_id)";

const FOUND_LIST: &str = "
select order_id, concat_ws('|', customer_id, coalesce(customer_name, '-'), coalesce(customer_city, '-'),
  currency, status, item_count, total::numeric(20, 2), created_at, version)
from customer_orders";

async fn customer_orders(shop: &Client, read_model: &Client) -> Result<Clause> {
    let expected = texts(shop, EXPECTED_LIST).await?;
    let found = texts(read_model, FOUND_LIST).await?;
    let wrong = differences(&expected, &found);
    let row = shop.query_one("select count(*) from customers", &[]).await?;
    Ok(clause(
        format!(
            "so does every row beside its customer: {} rows, {} customers, {} wrong",
            found.len(),
            row.get::<_, i64>(0),
            wrong.len()
        ),
        &wrong,
    ))
}

/// Each paid order once, by the id of its event.
async fn notices(shop: &Client, calls: &BTreeMap<String, u32>) -> Result<Clause> {
    let paid =
        ids(shop, "select event_id from relay.outbox where event_type = 'order.paid'").await?;
    let mut wrong: Vec<String> = paid
        .iter()
        .map(ToString::to_string)
        .filter(|id| calls.get(id) != Some(&1))
        .map(|id| format!("{id}: called {} times", calls.get(&id).unwrap_or(&0)))
        .collect();
    let known: HashSet<String> = paid.iter().map(ToString::to_string).collect();
    let strangers = calls.keys().filter(|id| !known.contains(*id));
    wrong.extend(strangers.map(|id| format!("{id}: called for no paid order")));
    Ok(clause(
        format!(
            "each paid order was notified exactly once: {} paid, {} calls, {} wrong",
            paid.len(),
            calls.values().sum::<u32>(),
            wrong.len()
        ),
        &wrong,
    ))
}

fn differences(
    expected: &BTreeMap<String, String>,
    found: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for (id, row) in expected {
        match found.get(id) {
            Some(other) if other == row => {}
            other => wrong.push(format!(
                "{id}: expected {row}, found {}",
                other.map_or("no row", String::as_str)
            )),
        }
    }
    wrong.extend(
        found
            .keys()
            .filter(|id| !expected.contains_key(*id))
            .map(|id| format!("{id}: a row of no order")),
    );
    wrong
}

async fn texts(client: &Client, sql: &str) -> Result<BTreeMap<String, String>> {
    let rows = client.query(sql, &[]).await.context("read the rows to compare")?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The versions of each aggregate, in the order in which they had their effect, count from 1.
async fn order(read_model: &Client) -> Result<Clause> {
    let sql = "select aggregate_id, aggregate_version from relay.inbox
        where projection = 'order_summary' order by position";
    let rows = read_model.query(sql, &[]).await.context("read the order of effects")?;
    let mut last: HashMap<String, i64> = HashMap::new();
    let mut wrong = Vec::new();
    for row in &rows {
        let (id, version): (String, Option<i64>) = (row.get(0), row.get(1));
        let version = version.unwrap_or(0);
        let before = last.insert(id.clone(), version).unwrap_or(0);
        if version != before + 1 {
            wrong.push(format!("{id}: version {version} after {before}"));
        }
    }
    Ok(clause(
        format!(
            "order per aggregate is intact: {} aggregates, {} out of order",
            last.len(),
            wrong.len()
        ),
        &wrong,
    ))
}
