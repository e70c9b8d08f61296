//! The whole path with the real binaries on MiniStack: what the demo shows, in small.

use crate::harness::{INSERT, LIMIT};
use anyhow::Result;
use local::deploy::CLAIM_CHECK_BUCKET;
use local::orders::{Workload, Written, write};
use local::read_back::write_and_read;
use local::stack::{SHOP_DATABASE, Stack};
use local::verdict::{judge, judge_all, read_your_writes};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

#[tokio::test]
async fn orders_arrive_in_the_read_model_through_sns_sqs_and_lambda() -> Result<()> {
    let stack = Stack::start(|part| println!("{part}")).await?;
    let workload = Workload {
        url: stack.url(SHOP_DATABASE),
        connections: 4,
        orders: 40,
        customers: 30,
        time: None,
        seed: 3,
        pause: Duration::ZERO,
        most_behind: u64::MAX,
    };
    let written = Arc::new(Written::default());
    write(&workload, Arc::clone(&written)).await?;
    let (shop, read_model) = (stack.shop().await?, stack.read_model().await?);
    // Read-your-writes, while the rest is still on its way: three events of two effects each.
    let api = &stack.deployed.orders_api;
    let read = write_and_read(&shop, api).await?;
    let fresh = read_your_writes(&read);
    assert!(fresh.holds, "{fresh:?}\n{}", stack.logs());
    let order = format!("/orders/{}", read[0].order);
    let as_it_ended = &api.get(&order).await?.body;
    assert_eq!(
        (&as_it_ended["status"], &as_it_ended["total"]),
        (&"cancelled".into(), &"25.00".into())
    );
    // What no event brings is waited for in vain, and no one is answered who does not sign.
    assert_eq!(api.get(&format!("{order}?min_version=4")).await?.status, 504);
    assert_eq!(api.get(&format!("{order}?min_version=0")).await?.status, 400);
    assert_eq!(
        api.get("/orders/unknown%20one").await?.body["message"],
        "there is no order unknown one"
    );
    assert_eq!(api.get_unsigned(&order).await?.status, 403);
    let committed = i64::try_from(written.effects.load(Ordering::Relaxed) + 6)?;
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let projected: i64 = read_model
            .query_one(
                "select (select count(*) from relay.inbox) - (select count(*) from relay.effect)",
                &[],
            )
            .await?
            .get(0);
        if projected >= committed {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{projected} of {committed} projected\n{}",
            stack.logs()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let verdict = judge_all(&shop, &read_model, &stack.receiver.calls()).await?;
    assert!(verdict.is_yes(), "{verdict}");

    // The judge can say no: each clause once.
    read_model.batch_execute("update order_summary set total = total + 1 where order_id = (select min(order_id) from order_summary)").await?;
    assert!(judge(&shop, &read_model).await?.to_string().contains("1 wrong"));
    read_model.batch_execute("update order_summary set total = total - 1 where order_id = (select min(order_id) from order_summary)").await?;
    shop.batch_execute("insert into rolled_back select event_id from relay.outbox where aggregate_type = 'order' limit 1").await?;
    assert!(
        judge(&shop, &read_model).await?.to_string().contains("NO   no event of a rolled-back")
    );
    shop.batch_execute("truncate rolled_back").await?;
    assert!(judge(&shop, &read_model).await?.is_yes());
    read_model
        .batch_execute("update relay.inbox set aggregate_version = 9 where aggregate_version = 2")
        .await?;
    assert!(!judge(&shop, &read_model).await?.is_yes());
    read_model.batch_execute("update relay.inbox set aggregate_version = 2 where aggregate_version = 9; delete from relay.inbox where aggregate_version = 1").await?;
    assert!(judge(&shop, &read_model).await?.to_string().contains("NO   every committed event"));
    drop((shop, read_model));
    stack.stop().await
}

#[tokio::test]
async fn an_event_over_the_limit_of_a_message_has_its_effect_in_the_functions_through_s3()
-> Result<()> {
    let stack = Stack::start(|part| println!("{part}")).await?;
    let (shop, read_model) = (stack.shop().await?, stack.read_model().await?);
    let note = "x".repeat(400_000);
    let created = format!(r#"{{"customer_id": "c", "currency": "EUR", "note": "{note}"}}"#);
    for (version, event, data) in
        [(1_i64, "order.created", created.as_str()), (2, "order.paid", r#"{"amount": "1.00"}"#)]
    {
        shop.execute(INSERT, &[&"large", &version, &event, &data]).await?;
    }
    let deadline = Instant::now() + LIMIT;
    let both = "select (select status from order_summary where order_id = 'large') = 'paid'
        and (select status from customer_orders where order_id = 'large') = 'paid'";
    while read_model.query_one(both, &[]).await?.get::<_, Option<bool>>(0) != Some(true) {
        assert!(Instant::now() < deadline, "{}", stack.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let objects = stack.aws(&["s3", "ls", &format!("s3://{CLAIM_CHECK_BUCKET}")])?;
    let id: String = shop
        .query_one("select event_id::text from relay.outbox where aggregate_version = 1", &[])
        .await?
        .get(0);
    assert!(objects.lines().count() == 1 && objects.contains(&id), "{objects}");
    drop((shop, read_model));
    stack.stop().await
}
