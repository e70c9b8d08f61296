//! The whole path with the real binaries on MiniStack: what the demo shows, in small.

use anyhow::Result;
use local::orders::{Workload, Written, write};
use local::stack::{SHOP_DATABASE, Stack};
use local::verdict::{judge, judge_all};
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
    let committed = i64::try_from(written.effects.load(Ordering::Relaxed))?;
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
