//! The life of an order, as one row: the projection `order_summary`.

use consumer::{Event, Handler, HandlerError, Tx};
use serde::Deserialize;

/// Brings the table `order_summary` up to date.
#[derive(Clone, Copy, Debug, Default)]
pub struct OrderSummary;

/// Events arrive in the order of their versions, so an order that is not there
/// was parked when it was created, or never was: waiting does not bring it.
const NONE: &str = "expected the order to be there, found none";

#[derive(Deserialize)]
struct Created {
    customer_id: String,
    currency: String,
}

#[derive(Deserialize)]
struct ItemAdded {
    quantity: i64,
    /// A decimal as text: money never passes through a float.
    unit_price: String,
}

impl Handler for OrderSummary {
    fn name(&self) -> &'static str {
        "order_summary"
    }

    async fn handle(&self, event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
        match event.event_type.as_str() {
            "order.created" => created(event, tx).await,
            "order.item_added" => item_added(event, tx).await,
            "order.paid" => reached(event, tx, "paid").await,
            "order.shipped" => reached(event, tx, "shipped").await,
            "order.cancelled" => reached(event, tx, "cancelled").await,
            unknown => {
                tracing::debug!(event_type = unknown, "passed over: no event of an order's life");
                Ok(())
            }
        }
    }
}

async fn created(event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
    let Created { customer_id, currency } = event.data()?;
    let sql =
        "insert into order_summary (order_id, customer_id, currency, status, created_at, version)
        values ($1, $2, $3, 'created', $4, $5)";
    let version = version(event);
    tx.write(sql, &[&event.aggregate_id, &customer_id, &currency, &event.timestamp, &version])
        .await?;
    Ok(())
}

async fn item_added(event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
    let ItemAdded { quantity, unit_price } = event.data()?;
    if quantity < 1 || !is_decimal(&unit_price) {
        return Err(HandlerError::Reject(
            "expected a quantity of 1 or more and a unit_price such as \"12.50\" in order.item_added".to_owned(),
        ));
    }
    let sql = "update order_summary set item_count = item_count + $2,
        total = total + $2 * $3::text::numeric, version = greatest(version, $4) where order_id = $1";
    let version = version(event);
    tx.write_one(sql, &[&event.aggregate_id, &quantity, &unit_price, &version], NONE).await?;
    Ok(())
}

async fn reached(event: &Event, tx: &mut Tx<'_>, status: &str) -> Result<(), HandlerError> {
    // A parked event can be replayed when later ones have had their effect: the row does not go back.
    let sql = "update order_summary set
        status = case when $3 > version or ($3 = 0 and version = 0) then $2 else status end,
        version = greatest(version, $3),
        paid_at = case when $2 = 'paid' then $4 else paid_at end,
        shipped_at = case when $2 = 'shipped' then $4 else shipped_at end,
        cancelled_at = case when $2 = 'cancelled' then $4 else cancelled_at end
        where order_id = $1";
    let version = version(event);
    tx.write_one(sql, &[&event.aggregate_id, &status, &version, &event.timestamp], NONE).await?;
    Ok(())
}

/// The order's version after the event; 0 where it has none, which is before every version: nothing
/// tells whether such an event came before or after those that have one.
fn version(event: &Event) -> i64 {
    event.aggregate_version.unwrap_or(0)
}

fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits =
        |part: &str| (1..=30).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    all_digits(whole) && all_digits(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_told_from_other_texts() {
        for good in ["0", "12.50", "-1.5", "99999999999999999999.99"] {
            assert!(is_decimal(good), "{good}");
        }
        for bad in ["", ".", "1.", ".5", "1e9", "NaN", "1,5", " 1", "--1"] {
            assert!(!is_decimal(bad), "{bad}");
        }
    }
}
