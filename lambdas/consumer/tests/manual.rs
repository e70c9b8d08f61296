//! The SQL that the page on reading one's writes shows runs, and does what the page says.

use crate::support::ReadModel;
use tokio_postgres::SimpleQueryMessage;

const PAGE: &str = include_str!("../../../relay/docs/read-your-writes.md");
const ORDER_SUMMARY: &str = include_str!("../../order_summary/order_summary.sql");

#[tokio::test]
async fn the_sql_of_the_page_runs() {
    let read_model = ReadModel::start().await;
    read_model.client.batch_execute(ORDER_SUMMARY).await.unwrap();
    let there = "create role orders_api;
        insert into relay.progress values ('order_summary', 'order', 'ord_1', 5);
        insert into order_summary values
          ('ord_1', 'c_1', 'EUR', 'paid', 1, 12.50, now(), now(), null, null, 5)";
    read_model.client.batch_execute(there).await.unwrap();
    let blocks: Vec<&str> = PAGE
        .split("```sql read-model\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    let mut answers = Vec::new();
    for block in &blocks {
        for message in read_model.client.simple_query(block).await.unwrap() {
            if let SimpleQueryMessage::Row(row) = message {
                answers.push(
                    (0..row.len()).filter_map(|at| row.get(at)).collect::<Vec<_>>().join(" "),
                );
            }
        }
    }
    // The version is there, the event is not; the grants answer nothing.
    assert_eq!(answers, ["t", "paid 12.50", "f"]);
    assert_eq!(blocks.len(), 3);
}
