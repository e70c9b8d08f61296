//! What is seen of a relay over HTTP: metrics, and whether it lives and is ready.

use crate::harness::{INSERT, LIMIT, World};
use anyhow::{Context as _, Result};
use local::process::Process;
use relay::observe::metric::{Kind, METRICS};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Starts a relay that listens at a port of its own choice; where that is.
async fn start(world: &World, topic: &str, settings: &[(&str, &str)]) -> Result<(Process, String)> {
    let mut command = world.relay(topic);
    command.arg("run").env("RELAY_LISTEN", "127.0.0.1:0").envs(settings.iter().copied());
    let mut relay = world.start(command)?;
    relay.said("/metrics", LIMIT).await?;
    let log = relay.log();
    let address = log.split("http://").nth(1).and_then(|rest| rest.split('/').next());
    Ok((relay, address.context("no address in the log")?.to_owned()))
}

/// The status line and the body of an answer.
async fn get(address: &str, path: &str) -> Result<(String, String)> {
    let (head, body) = get_as(address, path, "*/*").await?;
    Ok((head.lines().next().unwrap_or_default().to_owned(), body))
}

/// The head and the body of an answer to a scraper that takes this.
async fn get_as(address: &str, path: &str, accept: &str) -> Result<(String, String)> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\naccept: {accept}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
    Ok((head.to_owned(), body.to_owned()))
}

/// Hands a text to `promtool check metrics`; what it says of it. `None` where it is not installed:
/// `infra/local/setup --lint` does so.
fn promtool(metrics: &str) -> Result<Option<std::process::Output>> {
    let own = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/promtool/promtool");
    let program = if own.is_file() { own } else { "promtool".into() };
    let mut command = std::process::Command::new(program);
    command.args(["check", "metrics"]).stdin(Stdio::piped());
    let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match spawned {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        spawned => spawned?,
    };
    std::io::Write::write_all(&mut child.stdin.take().context("no stdin")?, metrics.as_bytes())?;
    Ok(Some(child.wait_with_output()?))
}

/// Waits until the answer of a path has this text in its status line or body.
async fn until(address: &str, path: &str, expected: &str) -> Result<String> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let (status, body) = get(address, path).await?;
        if status.contains(expected) || body.lines().any(|line| line == expected) {
            return Ok(body);
        }
        assert!(Instant::now() < deadline, "expected {expected:?}, found {status} {body}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn metrics_say_what_was_published_and_which_destination_is_down() -> Result<()> {
    const MISSING: &str = "arn:aws:sns:us-east-1:000000000000:customers.fifo";
    let world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let routes = format!("customer={MISSING}");
    let (_relay, address) = start(&world, &topic, &[("RELAY_ROUTES", &routes)]).await?;
    until(&address, "/ready", "200 OK").await?;
    let client = world.client().await?;
    client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
    client
        .batch_execute(
            "insert into relay.outbox (aggregate_type, aggregate_id, event_type, data)
        values ('customer', 'c', 'customer.joined', '{}')",
        )
        .await?;
    let published = format!("relay_published_total{{destination=\"{topic}\"}} 1");
    until(&address, "/metrics", &published).await?;
    let down = format!("relay_destination_up{{destination=\"{MISSING}\"}} 0");
    let body = until(&address, "/metrics", &down).await?;
    for line in [
        "relay_streaming 1".to_owned(),
        format!("relay_destination_up{{destination=\"{topic}\"}} 1"),
        format!("relay_destination_held_events{{destination=\"{MISSING}\"}} 1"),
    ] {
        assert!(body.lines().any(|found| found == line), "expected {line}, found {body}");
    }
    assert!(
        body.contains(&format!(
            "relay_requests_total{{destination=\"{MISSING}\",outcome=\"wrong\"}}"
        )),
        "{body}"
    );
    for metric in METRICS {
        let kind = if metric.kind == Kind::Counter { "counter" } else { "gauge" };
        let name = metric.name;
        assert!(body.contains(&format!("# TYPE {name} {kind}\n")), "{name}");
        assert!(body.contains(&format!("# HELP {name} {}.\n", metric.help)), "{name}");
    }
    assert!(!body.contains("# EOF"), "{body}");
    if let Some(judged) = promtool(&body)? {
        assert!(judged.status.success(), "{}", crate::harness::text(&judged));
    }
    let (head, _) = get_as(&address, "/metrics", "*/*").await?;
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let (head, open) = get_as(&address, "/metrics", "application/openmetrics-text").await?;
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(
        open.contains("# TYPE relay_published counter\n") && open.ends_with("# EOF\n"),
        "{open}"
    );
    let _ = world.broker.topic("customers.fifo");
    let up = format!("relay_destination_up{{destination=\"{MISSING}\"}} 1");
    until(&address, "/metrics", &up).await?;
    Ok(())
}

#[tokio::test]
async fn a_relay_without_a_session_lives_and_is_not_ready() -> Result<()> {
    let mut world = World::new().await?;
    let topic = world.broker.topic("orders.fifo");
    let (_relay, address) = start(&world, &topic, &[]).await?;
    until(&address, "/ready", "200 OK").await?;
    world.postgres.stop().await?;
    let body = until(&address, "/ready", "503").await?;
    assert!(body.contains("no session with Postgres"), "{body}");
    assert_eq!(get(&address, "/live").await?.0, "HTTP/1.1 200 OK");
    Ok(())
}

#[tokio::test]
async fn an_address_that_is_taken_ends_the_start_with_what_to_do() -> Result<()> {
    let world = World::new().await?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let mut command = world.relay(&world.broker.topic("orders.fifo"));
    let output =
        command.arg("run").env("RELAY_LISTEN", taken.local_addr()?.to_string()).output()?;
    assert_eq!(output.status.code(), Some(1));
    let said = crate::harness::text(&output);
    assert!(
        said.contains("set observe.listen (RELAY_LISTEN) to an address that is free"),
        "{said}"
    );
    Ok(())
}

#[test]
fn the_table_of_the_manual_is_that_of_the_code() {
    let mut table = String::from("| metric | kind | labels | what it says |\n|---|---|---|---|\n");
    for metric in METRICS {
        let kind = if metric.kind == Kind::Counter { "counter" } else { "gauge" };
        let labels = metric.labels.join(", ");
        table += &format!("| `{}` | {kind} | {labels} | {} |\n", metric.name, metric.help);
    }
    let page = include_str!("../relay/docs/observing.md");
    assert!(page.contains(&table), "expected in relay/docs/observing.md:\n{table}");
}

#[test]
fn each_severity_of_the_manual_is_that_of_the_code_at_ready_and_in_status() {
    use relay::condition::{Condition, Conditions, Severity};
    let page = include_str!("../relay/docs/observing.md");
    let conditions = |severity| {
        let conditions = Conditions::default();
        let condition = Condition { severity, found: "found".to_owned(), cure: "cure".to_owned() };
        conditions.set_silently("kind", "", condition);
        conditions
    };
    let severities = [
        Severity::Losing,
        Severity::Blocked,
        Severity::AtRisk,
        Severity::Partial,
        Severity::Notice,
    ];
    assert!(severities.is_sorted(), "from the worst");
    let status = include_str!("../relay/src/admin/status.rs");
    for severity in severities {
        let name = format!("| `{}` |", severity.as_str());
        let row = page.lines().find(|line| line.starts_with(&name)).expect(&name);
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let ready = if conditions(severity).blocked().is_some() { "503" } else { "200" };
        assert_eq!(cells[4], ready, "{row}");
        assert!(status.contains(cells[2]), "{row}");
        assert_eq!(cells[3], if severity == Severity::Notice { "0" } else { "1" }, "{row}");
    }
}
