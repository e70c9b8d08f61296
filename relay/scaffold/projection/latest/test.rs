//! The rows on a real Postgres, however the events are delivered.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use consumer::testing::{Failure, ReadModel, event};
use local::postgres::Postgres;
use serde_json::json;

#[tokio::test]
async fn the_rows_are_the_same_however_the_events_are_delivered() -> Result<(), Failure> {
    let postgres = Postgres::start(&[]).await.unwrap();
    let server = postgres.url("postgres").parse()?;
    ReadModel::new(&server, include_str!("../__name__.sql"))
        .given([
            __given__
        ])
        .deliver(__name__::handler)
        .then(
            "select aggregate_id, status, version from __name__ order by 1",
            __rows__,
        )
        .await
}
