//! Histories of the log: each new slot begins one, and nothing else does.

use crate::harness::{LIMIT, World, member, text};
use anyhow::{Result, ensure};
use envelope::Position;

#[tokio::test]
async fn a_new_slot_begins_an_epoch_that_is_in_positions_and_ids_and_a_restart_does_not()
-> Result<()> {
    let world = World::bare(&[]).await?;
    let client = world.client().await?;
    client.batch_execute("create table item (id int primary key)").await?;
    let init = || -> Result<()> {
        let output = world.relay("").arg("init").env("RELAY_TABLES", "item").output()?;
        ensure!(output.status.success(), "{}", text(&output));
        Ok(())
    };
    init()?;
    let topic = world.broker.topic("items.fifo");
    let mut positions: Vec<Position> = Vec::new();
    let same = "select 1";
    let other_server = "update relay.history set system_id = '1'";
    let new_slot = "select pg_drop_replication_slot('relay')";
    for (n, before) in (0..).zip([same, same, other_server, new_slot]) {
        client.batch_execute(before).await?;
        init()?;
        let mut command = world.relay(&topic);
        command.arg("run").env("RELAY_TABLES", "item");
        let mut relay = world.start(command)?;
        relay.said("streaming", LIMIT).await?;
        client.execute("insert into item values ($1)", &[&n]).await?;
        let count = positions.len();
        world.broker.wait("the row", LIMIT, |s| s.accepted.len() > count).await;
        let position = member(&world.broker.state().accepted[count], "position");
        positions.push(position.as_str().unwrap_or_default().parse()?);
        assert!(relay.terminate(LIMIT).await?.success());
    }
    assert!(positions.is_sorted(), "{positions:?}");
    let epochs: Vec<u64> = positions.iter().map(|position| position.epoch).collect();
    assert_eq!(epochs[0], epochs[1], "the same slot");
    assert!(epochs[1] < epochs[2], "another server: {epochs:?}");
    assert!(epochs[2] < epochs[3], "a slot made anew: {epochs:?}");
    assert!(epochs[0] > 1_700_000_000, "seconds since 1970: {epochs:?}");
    Ok(())
}
