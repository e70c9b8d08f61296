//! Every order beside its customer's name and city: the projection `customer_orders`.
//!
//! Orders and customers are two kinds of aggregates, from two queues. Each one's events are
//! applied in the order of their versions; between an order and its customer there is no order at
//! all: either may come first, and two hosts may have both in hand at once. So each leaves what
//! the other needs, and both take the customer's row first:
//!
//! | | takes | and writes |
//! |---|---|---|
//! | an order is created | its customer's row, made empty if need be | its own row, with the name and city found there |
//! | a customer is registered or moves | the customer's row | name and city into all orders of the customer that are there |
//!
//! Whoever takes the row second waits for the first one's commit and finds what it wrote: the
//! order its customer, or the customer the order.
//!
//! `events` is an example of typed events, with an older version of one of them.

mod events;

pub use events::{Created, Happened, ItemAdded, Moved, Nothing, Price, Registered};

use consumer::{Event, HandlerError, Projection, Tx, Typed};

/// Brings the table `customer_orders` up to date.
#[derive(Clone, Copy, Debug, Default)]
pub struct CustomerOrders;

/// The projection as a handler, reading older versions of its events too.
#[must_use]
pub fn handler() -> Typed<CustomerOrders> {
    Typed::new(CustomerOrders).upcasters(events::upcasters())
}

impl Projection for CustomerOrders {
    type Event = Happened;

    fn name(&self) -> &'static str {
        "customer_orders"
    }

    async fn apply(
        &self,
        event: Happened,
        envelope: &Event,
        tx: &mut Tx<'_>,
    ) -> Result<(), HandlerError> {
        match event {
            Happened::Created(order) => created(&order, envelope, tx).await,
            Happened::ItemAdded(item) => item_added(&item, envelope, tx).await,
            Happened::Paid(_) => reached(envelope, tx, "paid").await,
            Happened::Shipped(_) => reached(envelope, tx, "shipped").await,
            Happened::Cancelled(_) => reached(envelope, tx, "cancelled").await,
            Happened::Registered(customer) => registered(&customer, envelope, tx).await,
            Happened::Moved(Moved { city }) => moved(&city, envelope, tx).await,
        }
    }
}

async fn created(order: &Created, envelope: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
    // The update changes nothing and locks the row: a customer's event waits until we are done,
    // or we wait for it and get what it wrote.
    const CUSTOMER: &str = "insert into customer_orders_customer as c (customer_id) values ($1)
        on conflict (customer_id) do update set customer_id = excluded.customer_id
        returning c.name, c.city";
    const ORDER: &str = "insert into customer_orders (order_id, customer_id, customer_name,
          customer_city, currency, status, created_at, version)
        values ($1, $2, $3, $4, $5, 'created', $6, $7)";
    let customer = tx.query_first(CUSTOMER, &[&order.customer_id]).await?;
    let (name, city): (Option<String>, Option<String>) =
        customer.map(|row| (row.get(0), row.get(1))).unwrap_or_default();
    tx.write(
        ORDER,
        &[
            &envelope.aggregate_id,
            &order.customer_id,
            &name,
            &city,
            &order.currency,
            &envelope.timestamp,
            &version(envelope),
        ],
    )
    .await?;
    Ok(())
}

async fn item_added(
    item: &ItemAdded,
    envelope: &Event,
    tx: &mut Tx<'_>,
) -> Result<(), HandlerError> {
    const SQL: &str = "update customer_orders set item_count = item_count + $2,
        total = total + $2 * $3::text::numeric, version = greatest(version, $4) where order_id = $1";
    let quantity = i64::from(item.quantity.get());
    let price = item.unit_price.as_str();
    let missing = missing("order");
    tx.write_one(SQL, &[&envelope.aggregate_id, &quantity, &price, &version(envelope)], missing)
        .await?;
    Ok(())
}

async fn reached(envelope: &Event, tx: &mut Tx<'_>, status: &str) -> Result<(), HandlerError> {
    // A parked event can be replayed when later ones have had their effect: the row does not go back.
    const SQL: &str = "update customer_orders set
        status = case when $3 > version or ($3 = 0 and version = 0) then $2 else status end,
        version = greatest(version, $3) where order_id = $1";
    let missing = missing("order");
    tx.write_one(SQL, &[&envelope.aggregate_id, &status, &version(envelope)], missing).await?;
    Ok(())
}

async fn registered(
    customer: &Registered,
    envelope: &Event,
    tx: &mut Tx<'_>,
) -> Result<(), HandlerError> {
    // Where a later event of the customer has had its effect, its city stays.
    const CUSTOMER: &str =
        "insert into customer_orders_customer as c (customer_id, name, city, version)
        values ($1, $2, $3, $4)
        on conflict (customer_id) do update set name = excluded.name,
          city = case when c.version <= excluded.version then excluded.city else c.city end,
          version = greatest(c.version, excluded.version)";
    let (name, id) = (customer.name(), &envelope.aggregate_id);
    tx.write(CUSTOMER, &[id, &name, &customer.city, &version(envelope)]).await?;
    // A statement of its own, and after the lock: it sees the orders that we have waited for.
    Ok(tx.write(OF_CUSTOMER, &[id]).await?)
}

async fn moved(city: &str, envelope: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
    const CUSTOMER: &str = "update customer_orders_customer set
        city = case when version <= $3 then $2 else city end, version = greatest(version, $3)
        where customer_id = $1 and name is not null";
    let id = &envelope.aggregate_id;
    tx.write_one(CUSTOMER, &[id, &city, &version(envelope)], missing("customer")).await?;
    Ok(tx.write(OF_CUSTOMER, &[id]).await?)
}

/// Brings the orders of a customer to what is known of the customer.
const OF_CUSTOMER: &str = "update customer_orders as o
    set customer_name = c.name, customer_city = c.city
    from customer_orders_customer as c where c.customer_id = $1 and o.customer_id = $1";

/// The aggregate's version after the event; 0 where it has none, which is before every version:
/// nothing tells whether such an event came before or after those that have one.
fn version(envelope: &Event) -> i64 {
    envelope.aggregate_version.unwrap_or(0)
}

/// One aggregate's events come in the order of their versions, so what is not there was parked
/// when it began, or never was: waiting does not bring it.
fn missing(what: &str) -> String {
    format!("expected the {what} to be there, found none")
}
