//! The page on topic and queue by hand: its commands, in its order, make what the relay needs.

use crate::harness::{LIMIT, World};
use crate::readme::blocks_of;
use anyhow::{Context as _, Result, ensure};
use local::ministack::{MiniStack, aws_environment, python};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const PAGE: &str = include_str!("../relay/docs/by-hand.md");

/// The blocks of this name as one script.
fn script(name: &str) -> String {
    let blocks = blocks_of(PAGE, name);
    assert!(!blocks.is_empty(), "{name}");
    prepared(&blocks.concat())
}

/// A script that ends with the first command that fails.
fn prepared(script: &str) -> String {
    // Version 1 of the command line asks AWS itself for SQS, whatever AWS_ENDPOINT_URL says.
    let aws = r#"aws() { command aws --endpoint-url "$AWS_ENDPOINT_URL" "$@"; }"#;
    format!("set -euo pipefail\n{aws}\n{script}")
}

/// A shell with the relay and the AWS command line on its path, and nothing of the caller's.
fn shell(world: &World, endpoint: &str, script: &str) -> Result<Command> {
    let programs = local::stack::binary("relay")?;
    let path = std::env::join_paths([
        programs.parent().context("the folder of the programs")?,
        &python().join("bin"),
        Path::new("/usr/local/bin"),
        Path::new("/usr/bin"),
        Path::new("/bin"),
    ])?;
    let mut shell = local::process::command(Path::new("bash"), "TERM", None);
    shell
        .arg("-c")
        .arg(script)
        .current_dir(world.folder())
        .env_clear()
        .env("PATH", path)
        .env("HOME", world.folder())
        .env("DATABASE_URL", world.postgres.url(&world.database))
        .envs(aws_environment(endpoint));
    Ok(shell)
}

#[tokio::test]
async fn the_commands_of_the_page_lead_an_event_into_the_queue() -> Result<()> {
    let world = World::bare(&[]).await?;
    let ministack = MiniStack::start(world.folder()).await?;
    let run_script = |script: &str| -> Result<String> {
        let output = shell(&world, &ministack.endpoint(), script)?.output()?;
        let printed = crate::harness::text(&output);
        ensure!(output.status.success(), "{script}: {printed}");
        Ok(printed)
    };
    let run = |name: &str| run_script(&script(name));
    let made = run("sh by-hand")?;
    assert!(made.contains(":relay-events.fifo:"), "the subscription's ARN: {made}");
    assert_eq!(made.matches("\nall is well").count(), 2, "{made}");
    assert!(made.contains("a probe was published"), "{made}");

    // The policy is one, and names the topic.
    let attributes = run_script(&prepared(
        ". ./relay.env; aws sqs get-queue-attributes --queue-url $QUEUE_URL --attribute-names All",
    ))?;
    let attributes: serde_json::Value = serde_json::from_str(&attributes)?;
    let text = |name: &str| attributes["Attributes"][name].as_str().unwrap_or_default().to_owned();
    let policy: serde_json::Value = serde_json::from_str(&text("Policy"))?;
    let source = &policy["Statement"][0]["Condition"]["ArnEquals"]["aws:SourceArn"];
    assert!(source.as_str().is_some_and(|arn| arn.ends_with(":relay-events.fifo")), "{policy}");
    assert!(text("RedrivePolicy").contains("orders-dead.fifo"), "{attributes}");

    // In the shell's place, so that SIGTERM reaches it.
    let last = script("sh by-hand run").replace("relay run", "exec relay run");
    let mut relay = world.start(shell(&world, &ministack.endpoint(), &last)?)?;
    relay.said("streaming", LIMIT).await?;
    let sql = blocks_of(PAGE, "sql by-hand").concat();
    world.client().await?.batch_execute(&sql).await?;
    // The queue shows the probe, then the event; what was shown once is not shown again for long.
    let deadline = Instant::now() + LIMIT;
    let mut received = String::new();
    while !received.contains("order.paid") {
        assert!(Instant::now() < deadline, "{received}");
        received += &run("sh by-hand receive")?;
    }
    assert!(received.contains("Events flow.") && received.contains("ord_123456"), "{received}");
    assert!(relay.terminate(LIMIT).await?.success());
    run("sh by-hand gone")?;
    assert!(run("sh by-hand gone").is_err(), "nothing is left to be deleted");
    Ok(())
}
