//! Customers of the workload: they register at some time, and some of them move.
//!
//! An order may name a customer who registers only later, or never.

use anyhow::Result;
use fastrand::Rng;
use tokio_postgres::{Client, Statement, Transaction};
use uuid::Uuid;

const FIRST_NAMES: [&str; 6] = ["Ada", "Edgar", "Grace", "Barbara", "Niklaus", "Donald"];
const LAST_NAMES: [&str; 5] = ["Lovelace", "Codd", "Hopper", "van der Berg", "O'Neil"];
const CITIES: [&str; 6] = ["London", "Paris", "Zürich", "Malmö", "New York", "Lagos"];

/// The name of the customer with this number.
pub(crate) fn id(number: u32) -> String {
    format!("cus_{number}")
}

/// One customer while there is something left to happen.
pub(crate) struct Customer {
    id: String,
    version: i64,
    /// How often they will still move.
    moves: u8,
}

impl Customer {
    pub(crate) fn new(number: u32, rng: &mut Rng) -> Self {
        Self { id: id(number), version: 0, moves: rng.u8(0..3) }
    }

    /// The last step was committed; false if it was the last of all.
    pub(crate) fn go_on(&mut self) -> bool {
        self.version += 1;
        self.version <= i64::from(self.moves)
    }
}

/// The statements, prepared once for a connection.
pub(crate) struct Statements {
    register: Statement,
    relocate: Statement,
    outbox: Statement,
}

impl Statements {
    pub(crate) async fn prepare(client: &Client) -> Result<Self> {
        Ok(Self {
            register: client
                .prepare("insert into customers (customer_id, first_name, last_name, city, version) values ($1, $2, $3, $4, $5)")
                .await?,
            relocate: client
                .prepare("update customers set city = $2, version = $3 where customer_id = $1")
                .await?,
            outbox: client
                .prepare(
                    "insert into relay.outbox (aggregate_type, aggregate_id, aggregate_version, event_type, event_version, data)
                     values ('customer', $1, $2, $3, $4, $5::text::json) returning event_id",
                )
                .await?,
        })
    }
}

/// The customer's next step; half of the registrations are written as an old application would.
pub(crate) async fn change(
    transaction: &Transaction<'_>,
    statements: &Statements,
    rng: &mut Rng,
    customer: &Customer,
) -> Result<Uuid> {
    let version = customer.version + 1;
    let mut pick = |from: &[&'static str]| from[rng.usize(..from.len())];
    let city = pick(&CITIES);
    let (event_type, event_version, data) = if version == 1 {
        let (first, last) = (pick(&FIRST_NAMES), pick(&LAST_NAMES));
        transaction
            .execute(&statements.register, &[&customer.id, &first, &last, &city, &version])
            .await?;
        let data =
            format!(r#"{{"first_name": "{first}", "last_name": "{last}", "city": "{city}"}}"#);
        let old = format!(r#"{{"name": "{first} {last}", "city": "{city}"}}"#);
        if rng.bool() {
            ("customer.registered", "2.0", data)
        } else {
            ("customer.registered", "1.0", old)
        }
    } else {
        transaction.execute(&statements.relocate, &[&customer.id, &city, &version]).await?;
        ("customer.moved", "1.0", format!(r#"{{"city": "{city}"}}"#))
    };
    let row = transaction
        .query_one(
            &statements.outbox,
            &[&customer.id, &version, &event_type, &event_version, &data],
        )
        .await?;
    Ok(row.get(0))
}
