//! Statements that are as fast in a grown read model as in a new one.

use crate::support::{ReadModel, deliver, sent};
use consumer::{Mode, Outcome};
use std::time::{Duration, Instant};

#[tokio::test]
async fn progress_is_read_and_written_by_its_keys_alone() {
    let read_model = ReadModel::start().await;
    let others = "insert into relay.progress (projection, aggregate_type, aggregate_id, version)
        select 'recorder', 'thing', 'other-' || n, 1 from generate_series(1, 1000) as n";
    read_model.client.batch_execute(others).await.unwrap();
    let mut consumer = read_model.consumer(Mode::Versioned);
    // So often that the server keeps a plan for any parameters.
    for version in 1..=12 {
        let batch: Vec<_> = (0..10).map(|n| sent(&format!("a-{n}"), version)).collect();
        assert_eq!(deliver(&mut consumer, &batch).await, [Outcome::Applied; 10]);
    }
    // A backend tells what it scanned when it is idle or ends.
    drop(consumer);
    let sql = "select coalesce(idx_tup_fetch, 0), seq_tup_read from pg_stat_user_tables
        where relid = 'relay.progress'::regclass";
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let row = read_model.client.query_one(sql, &[]).await.unwrap();
        let (by_key, by_scan): (i64, i64) = (row.get(0), row.get(1));
        assert_eq!(by_scan, 0, "rows of relay.progress that were read by scanning it");
        assert!(by_key < 1000, "{by_key} rows were read for 120 events");
        // Of eleven deliveries that found the rows of the one before.
        if by_key >= 110 {
            break;
        }
        assert!(Instant::now() < deadline, "only {by_key} rows were read by their keys");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
