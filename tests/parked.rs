//! What a projection refused is listed, shown, replayed and dropped.

use crate::harness::{World, text};
use anyhow::Result;
use std::process::Output;

const PARKED: &str = "insert into relay.parked
    (projection, event_id, event_type, aggregate_type, aggregate_id, reason, body) values
    ('order_summary', gen_random_uuid(), 'order.created', 'order', 'ord_1', 'no customer', '{\"a\": 1}'),
    ('order_summary', gen_random_uuid(), 'order.paid', 'order', 'ord_2', 'no order', '{}'),
    ('notifier', gen_random_uuid(), 'order.paid', 'order', 'ord_2', 'no address', '{}')";

#[tokio::test]
async fn parked_events_are_listed_shown_replayed_and_dropped() -> Result<()> {
    let world = World::bare(&[]).await?;
    let url = world.postgres.url(&world.database);
    let relay = |arguments: &[&str]| -> Result<Output> {
        Ok(world.relay("").env("READ_MODEL_URL", &url).args(arguments).output()?)
    };
    let made = relay(&["init", "--read-model"])?;
    assert!(made.status.success(), "{}", text(&made));
    let client = world.client().await?;
    client.batch_execute(PARKED).await?;

    let listed =
        text(&relay(&["parked", "list", "--projection", "order_summary", "--since", "1h"])?);
    assert!(listed.contains("order.created  order ord_1"), "{listed}");
    assert!(listed.contains("no customer") && listed.contains("2 parked events"), "{listed}");
    let json = text(&relay(&["parked", "list", "--key", "ord_1", "--json"])?);
    let one: serde_json::Value = serde_json::from_str(&json)?;
    assert_eq!(one["reason"], "no customer");
    let id = one["id"].to_string();
    let shown = text(&relay(&["parked", "show", &id])?);
    assert!(shown.contains("{\"a\": 1}"), "{shown}");

    let asked = text(&relay(&["parked", "replay", &id])?);
    assert!(asked.contains("asked for the replay of 1 parked event"), "{asked}");
    let sql = "select aggregate_id from relay.parked where replay_requested_at is not null";
    assert_eq!(client.query_one(sql, &[]).await?.get::<_, &str>(0), "ord_1");
    assert!(text(&relay(&["parked", "list"])?).contains("to be replayed"));

    let would = relay(&["parked", "drop", "--type", "order.paid"])?;
    assert_eq!(would.status.code(), Some(0));
    assert!(text(&would).contains("would drop 2 parked events"), "{}", text(&would));
    let dropped = relay(&["parked", "drop", "--type", "order.paid", "--yes"])?;
    assert!(dropped.status.success() && text(&dropped).contains("dropped 2 parked events"));
    Ok(())
}

#[tokio::test]
async fn none_is_meant_by_saying_nothing_and_what_is_missing_is_said() -> Result<()> {
    let world = World::bare(&[]).await?;
    let url = world.postgres.url(&world.database);
    let without = world.relay("").env_remove("READ_MODEL_URL").args(["parked", "list"]).output()?;
    assert!(text(&without).contains("expected READ_MODEL_URL"), "{}", text(&without));
    let relay = |arguments: &[&str]| -> Result<Output> {
        Ok(world.relay("").env("READ_MODEL_URL", &url).args(arguments).output()?)
    };
    let bare = relay(&["parked", "list"])?;
    assert_eq!(bare.status.code(), Some(1));
    assert!(text(&bare).contains("run `relay init --read-model`"), "{}", text(&bare));
    for verb in ["replay", "drop"] {
        let all = relay(&["parked", verb])?;
        assert!(text(&all).contains("or --all, found none"), "{}", text(&all));
    }
    let none = relay(&["parked", "show", "99"])?;
    assert_eq!(none.status.code(), Some(1));
    Ok(())
}
