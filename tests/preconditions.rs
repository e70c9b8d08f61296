//! What a session needs and does not have: `run` and `check` name it, with the cure.

use crate::harness::{INSERT, LIMIT, World, text};
use anyhow::Result;
use std::process::Command;

/// Runs a command that must fail; returns its code and what it printed.
fn refused(command: &mut Command) -> Result<(Option<i32>, String)> {
    let output = command.output()?;
    assert!(!output.status.success(), "{}", text(&output));
    Ok((output.status.code(), text(&output)))
}

fn assert_says(said: &str, wanted: &[&str]) {
    for text in wanted {
        assert!(said.contains(text), "expected {text:?} in:\n{said}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_named_and_not_shown() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let url =
        world.postgres.url(&world.database).replace("postgres:postgres@", "postgres:hunter2@");
    for verb in ["run", "check", "status"] {
        let (code, said) = refused(world.relay(&topic).arg(verb).env("DATABASE_URL", &url))?;
        assert_eq!(code, Some(1));
        assert_says(&said, &["password authentication failed", "check the user and the password"]);
        assert!(!said.contains("hunter2"), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_slot_name_is_named() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    for verb in ["run", "check"] {
        let (code, said) = refused(world.relay(&topic).arg(verb).env("RELAY_SLOT", "nosuch"))?;
        assert_eq!(code, Some(1));
        assert_says(&said, &["expected a replication slot nosuch, found none", "run `relay init`"]);
    }
    let (code, said) = refused(world.relay(&topic).arg("run").env("RELAY_SLOT", "No-Such"))?;
    assert_eq!(code, Some(2));
    assert_says(&said, &["lower-case letters"]);
    Ok(())
}

#[tokio::test]
async fn a_server_with_wal_level_replica_is_named() -> Result<()> {
    let world = World::bare(&[("wal_level", "replica")]).await?;
    let topic = world.broker.topic("orders.fifo");
    for verb in ["init", "run", "check"] {
        let (_, said) = refused(world.relay(&topic).arg(verb))?;
        assert_says(
            &said,
            &[
                "expected wal_level = logical, found replica",
                "ALTER SYSTEM SET wal_level",
                "rds.logical_replication",
            ],
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_publication_without_the_table_is_named_and_init_mends_it() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let client = world.client().await?;
    client.batch_execute("alter publication relay drop table relay.outbox").await?;
    for verb in ["run", "check"] {
        let (_, said) = refused(world.relay(&topic).arg(verb))?;
        assert_says(
            &said,
            &[
                "expected the publication relay to publish the inserts of relay.outbox",
                "ADD TABLE relay.outbox",
            ],
        );
    }
    assert!(world.relay("").arg("init").output()?.status.success());
    assert!(world.relay(&topic).arg("check").output()?.status.success());
    Ok(())
}

#[tokio::test]
async fn a_role_that_may_not_replicate_is_named() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    world
        .client()
        .await?
        .batch_execute(
            "create role reader login password 'reader'; grant usage on schema relay to reader",
        )
        .await?;
    let url = world.postgres.url(&world.database).replace("postgres:postgres@", "reader:reader@");
    let (_, said) = refused(world.relay(&topic).arg("run").env("DATABASE_URL", &url))?;
    assert_says(&said, &["reader without REPLICATION", "ALTER ROLE \"reader\" REPLICATION"]);
    Ok(())
}

#[tokio::test]
async fn a_slot_in_use_is_named_and_taken_over_when_it_is_free() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let mut first = world.run(&topic).await?;
    let mut command = world.relay(&topic);
    command.arg("run");
    let mut second = world.start(command)?;
    second.said("standing by: another relay reads from the slot", LIMIT).await?;
    assert!(second.log().contains("is active for PID"), "{}", second.log());
    first.kill();
    second.said("streaming", LIMIT).await?;
    world.client().await?.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    world.broker.wait("the event", LIMIT, |s| s.accepted.len() == 1).await;
    Ok(())
}

#[tokio::test]
async fn wrong_configuration_is_named_with_exit_code_2() -> Result<()> {
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let cases = [
        ("DATABASE_URL", "", "expected postgres.url, found nothing; set DATABASE_URL"),
        ("DATABASE_URL", "nonsense", "expected a connection string"),
        ("DATABASE_URL", "postgres://u@db.example.com/d?sslmode=disable", "expected TLS"),
        ("RELAY_TOPIC_ARN", "orders", "publish.to (RELAY_TOPIC_ARN) to be the ARN of an SNS topic"),
        ("RELAY_SLOTT", "x", "did you mean RELAY_SLOT?"),
    ];
    for (name, value, wanted) in cases {
        let (code, said) = refused(world.relay(&topic).arg("run").env(name, value))?;
        assert_eq!(code, Some(2), "{name}={value}: {said}");
        assert_says(&said, &[wanted]);
    }
    let (code, said) = refused(world.relay(&topic).args(["--config", "missing.toml", "run"]))?;
    assert_eq!(code, Some(2));
    assert_says(&said, &["missing.toml"]);
    Ok(())
}

#[tokio::test]
async fn status_says_what_the_role_of_the_readme_may_know() -> Result<()> {
    let world = World::bare(&[]).await?;
    let topic = world.broker.topic("orders.fifo");
    let client = world.client().await?;
    let database = &world.database;
    client
        .batch_execute(&format!(
            "create role relay_role login replication password 'relay';
             grant create on database \"{database}\" to relay_role"
        ))
        .await?;
    let url = world.postgres.url(database).replace("postgres:postgres@", "relay_role:relay@");
    let relay = || {
        let mut command = world.relay(&topic);
        command.env("DATABASE_URL", &url);
        command
    };
    let made = relay().arg("init").output()?;
    assert!(made.status.success(), "{}", text(&made));
    let mut command = relay();
    command.arg("run");
    let mut running = world.start(command)?;
    running.said("streaming", LIMIT).await?;
    let status = relay().arg("status").output()?;
    let said = text(&status);
    assert!(said.contains("reader        process") && !said.contains("connecting"), "{said}");
    assert!(said.contains("grant pg_read_all_stats to this role"), "{said}");
    assert_eq!(status.status.code(), Some(0), "{said}");
    client.batch_execute("grant pg_read_all_stats to relay_role").await?;
    let said = text(&relay().arg("status").output()?);
    assert!(said.contains(", streaming\n") || said.contains(", catchup\n"), "{said}");
    Ok(())
}
