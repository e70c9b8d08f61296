//! What people and scripts meet of the commands: exit codes, JSON, what is printed of texts from
//! outside, readers that go away, starts in odd surroundings.

use crate::harness::{INSERT, LIMIT, World, text};
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What a terminal would obey: colour, a title, an 8-bit sequence, a line of our own, an override.
const EVIL: &str =
    "a\u{1b}[2Jb\u{1b}]0;x\u{7}c\u{9b}31md\u{7f}e\nok    all is well\r\u{202e}f\u{200b}g";

/// A world whose one database is the source and the read model.
async fn both() -> Result<World> {
    let world = World::new().await?;
    let output = relay(&world).args(["init", "--read-model"]).output()?;
    anyhow::ensure!(output.status.success(), "{}", text(&output));
    Ok(world)
}

fn relay(world: &World) -> Command {
    let mut command = world.relay(&world.broker.topic("orders.fifo"));
    command.env("READ_MODEL_URL", world.postgres.url(&world.database));
    command
}

/// A dead letter and a parked event, each number 1 or later, with this text in each column.
async fn keep(world: &World, evil: &str) -> Result<(String, String)> {
    let client = world.client().await?;
    let letter = client
        .query_one(
            "insert into relay.dead_letter
               (event_id, destination, key, event_type, reason, error_code, attempts, position, body)
             values (gen_random_uuid(), $1, $1, $1, $1, $1, 1, gen_random_uuid()::text, $1)
             returning id::text",
            &[&evil],
        )
        .await?;
    let parked = client
        .query_one(
            "insert into relay.parked
               (projection, event_id, event_type, aggregate_type, aggregate_id, reason, body)
             values ($1, gen_random_uuid(), $1, $1, $1, $1, $1) returning id::text",
            &[&evil],
        )
        .await?;
    Ok((letter.get(0), parked.get(0)))
}

/// The exit codes of each verb, as `relay/docs/commands.md` has them: the arguments, and what is
/// to come of them. `LETTER` and `PARKED` stand for a number that there is.
const CODES: &[(&str, i32)] = &[
    ("init", 0),
    ("init --read-model", 0),
    ("init --nonsense", 2),
    ("check", 0),
    ("check --json", 0),
    ("check --nonsense", 2),
    ("status", 1),
    ("status --json", 1),
    ("status --nonsense", 2),
    ("dead-letters list", 0),
    ("dead-letters list --json", 0),
    ("dead-letters list LETTER", 0),
    ("dead-letters list 999", 1),
    ("dead-letters list --since yesterday", 2),
    ("dead-letters show LETTER", 0),
    ("dead-letters show LETTER --json", 0),
    ("dead-letters show 999", 1),
    ("dead-letters show", 2),
    ("dead-letters drop", 2),
    ("dead-letters drop --all", 0),
    ("dead-letters drop LETTER", 0),
    ("dead-letters drop 999", 1),
    ("dead-letters drop 999 --yes", 1),
    ("dead-letters redrive", 2),
    ("dead-letters redrive 999", 1),
    ("dead-letters redrive LETTER", 0),
    ("dead-letters redrive LETTER", 1),
    ("dead-letters drop --all --yes", 0),
    ("parked list", 0),
    ("parked list --json", 0),
    ("parked list 999", 1),
    ("parked list --nonsense", 2),
    ("parked show PARKED", 0),
    ("parked show PARKED --json", 0),
    ("parked show 999", 1),
    ("parked show x", 2),
    ("parked replay", 2),
    ("parked replay 999", 1),
    ("parked replay PARKED", 0),
    ("parked drop", 2),
    ("parked drop PARKED", 0),
    ("parked drop 999 --yes", 1),
    ("parked drop PARKED --yes", 0),
    ("run --nonsense", 2),
    ("new projection Bad-Name", 2),
    ("new projection good_name", 1),
    ("completions bash", 0),
    ("completions klingon", 2),
    ("drop", 0),
    ("drop --yes --publication", 0),
    ("drop", 0),
    ("drop --nonsense", 2),
    ("run", 1),
    ("check", 1),
    ("status", 1),
    ("nonsense", 2),
    ("--help", 0),
    ("--version", 0),
];

#[tokio::test]
async fn every_verb_has_the_exit_codes_of_the_page() -> Result<()> {
    let world = both().await?;
    let (letter, parked) = keep(&world, "x").await?;
    let page = include_str!("../relay/docs/commands.md");
    for (arguments, code) in CODES {
        let words = arguments.split(' ').map(|word| match word {
            "LETTER" => letter.as_str(),
            "PARKED" => parked.as_str(),
            word => word,
        });
        let output = relay(&world).args(words).output()?;
        assert_eq!(output.status.code(), Some(*code), "relay {arguments}: {}", text(&output));
        if *code == 0 && arguments.ends_with("--json") {
            for line in String::from_utf8(output.stdout)?.lines() {
                let value: Value = serde_json::from_str(line).context(line.to_owned())?;
                let fields: Vec<_> = value.as_object().context("an object")?.keys().collect();
                let of_check: [&[&str]; 3] =
                    [&["check", "cure", "found", "well"], &["check", "cure", "note"], &["well"]];
                let known = of_check.iter().any(|of| fields == *of);
                assert!(known || *arguments != "check --json", "{line}");
            }
        }
    }
    // Each verb of the page is tried with each of its codes.
    for row in page.lines().filter(|row| row.starts_with("| `relay ")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        // The table of the fields of --json has three columns.
        if cells.len() != 4 {
            continue;
        }
        let verb = cells[0].trim_start_matches("| `relay ").trim_end_matches('`');
        for (code, cell) in cells[1..].iter().enumerate() {
            let cell = cell.trim_end_matches(" |").trim();
            let code = i32::try_from(code)?;
            let is_tried = CODES.iter().any(|(tried, c)| tried.starts_with(verb) && *c == code);
            // Its end is SIGTERM's, and other tests see it.
            let elsewhere = ["run", "status", "new projection"].contains(&verb) && code == 0
                || ["init", "drop"].contains(&verb) && code == 1;
            assert_eq!(is_tried || elsewhere, cell != "-", "{verb}: {code}");
        }
    }
    // What is wrong before any database is asked, and a database that is not there.
    for verb in ["init", "check", "status", "run", "drop", "dead-letters list"] {
        let command = |name: &str, value: &str| {
            let mut command = relay(&world);
            command.args(verb.split(' ')).env(name, value);
            command.output()
        };
        for (name, value) in [
            ("RELAY_HEARTBEAT", "0s"),
            ("RELAY_LOG", "inf"),
            ("DATABASE_URL", "nonsense"),
            ("RELAY_SLOTT", "x"),
        ] {
            let output = command(name, value)?;
            assert_eq!(output.status.code(), Some(2), "{verb} {name}: {}", text(&output));
            let said = text(&output);
            assert!(said.contains(name) && !said.contains("relay.toml cannot"), "{verb}: {said}");
        }
        // The relay waits for a database that is away.
        if verb == "run" {
            continue;
        }
        let away = command("DATABASE_URL", "postgres://postgres@127.0.0.1:1/x")?;
        assert_eq!(away.status.code(), Some(1), "{verb}: {}", text(&away));
    }
    let without = relay(&world).env("READ_MODEL_URL", "").args(["parked", "list"]).output()?;
    assert_eq!(without.status.code(), Some(2), "{}", text(&without));
    Ok(())
}

#[test]
fn each_verb_shows_examples() {
    let relay = local::stack::binary("relay").unwrap();
    let verbs = [
        "",
        "init",
        "run",
        "check",
        "status",
        "drop",
        "dead-letters",
        "dead-letters list",
        "dead-letters show",
        "dead-letters redrive",
        "dead-letters drop",
        "parked",
        "parked list",
        "parked show",
        "parked replay",
        "parked drop",
        "new projection",
        "completions",
    ];
    for verb in verbs {
        let words = verb.split(' ').filter(|word| !word.is_empty());
        let output = Command::new(&relay).args(words).arg("--help").output().unwrap();
        assert!(text(&output).contains("Example"), "{verb}: {}", text(&output));
    }
}

#[tokio::test]
async fn nothing_from_outside_reaches_a_terminal_as_it_is() -> Result<()> {
    let world = both().await?;
    let (letter, parked) = keep(&world, EVIL).await?;
    let client = world.client().await?;
    client
        .execute(
            "insert into relay.condition (slot, kind, subject, severity, found, cure)
             values ('relay', 'destination', $1, 'partial', $1, $1)",
            &[&EVIL],
        )
        .await?;
    for arguments in [
        "dead-letters list",
        &format!("dead-letters show {letter}"),
        "parked list",
        &format!("parked show {parked}"),
        "status",
    ] {
        let plain = relay(&world).args(arguments.split(' ')).output()?;
        let printed = text(&plain);
        let legal =
            |c: char| c == '\n' || !c.is_control() && !['\u{202e}', '\u{200b}'].contains(&c);
        assert!(printed.chars().all(legal), "relay {arguments}: {printed:?}");
        assert!(printed.contains("\\u{1b}[2J"), "relay {arguments}: {printed}");
        // No line is begun by a text of theirs, but for a body's.
        let body = printed.split("\nbody\n").next().unwrap_or_default();
        assert!(!body.lines().any(|line| line.starts_with("ok ")), "relay {arguments}: {printed}");
        let json = relay(&world).args(arguments.split(' ')).arg("--json").output()?;
        let printed = String::from_utf8(json.stdout)?;
        assert!(printed.chars().all(legal), "relay {arguments} --json: {printed:?}");
        let value: Value = serde_json::from_str(printed.trim_end())?;
        let found = match arguments {
            "status" => &value["conditions"][0]["found"],
            _ => &value["reason"],
        };
        assert_eq!(found, EVIL, "relay {arguments} --json");
        if arguments.contains("show") {
            assert_eq!(value["body"], EVIL, "relay {arguments} --json");
        }
    }
    // The log, of a table's name that the server quotes.
    let wrong = relay(&world)
        .args(["dead-letters", "redrive", "--type", EVIL])
        .env("RELAY_PUBLICATION", "p\u{202e}")
        .output()?;
    assert!(!text(&wrong).contains('\u{202e}'), "{}", text(&wrong));
    Ok(())
}

/// A pipe's end that nobody reads.
fn closed() -> Result<Stdio> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    Ok(writer.into())
}

#[tokio::test]
async fn a_reader_that_goes_away_changes_neither_the_work_nor_its_exit_code() -> Result<()> {
    let world = both().await?;
    for (arguments, code) in CODES {
        let (letter, parked) = keep(&world, "x").await?;
        let words = arguments.replace("LETTER", &letter).replace("PARKED", &parked);
        // What depends on what went before in the other test.
        if ["run", "completions klingon"].contains(arguments) || arguments.starts_with("drop") {
            continue;
        }
        let normal = relay(&world).args(words.split(' ')).output()?;
        if normal.status.code() != Some(*code) {
            continue;
        }
        keep(&world, "x").await?;
        let words = arguments.replace("LETTER", &keep(&world, "x").await?.0);
        let words = words.replace("PARKED", &keep(&world, "x").await?.1);
        for broken in ["stdout", "stderr"] {
            let mut command = relay(&world);
            command.args(words.split(' '));
            if broken == "stdout" {
                command.stdout(closed()?).stderr(Stdio::piped());
            } else {
                command.stderr(closed()?).stdout(Stdio::piped());
            }
            let output = command.output()?;
            let may_differ = words.contains("--yes") || words.contains("redrive");
            let said = text(&output);
            assert!(!said.contains("panicked") && !said.contains("roken pipe"), "{words}: {said}");
            let found = output.status.code();
            let right = found == Some(*code) || may_differ && matches!(found, Some(0 | 1));
            assert!(right, "relay {words} without a reader of {broken}: {found:?} {said}");
        }
    }
    let full = relay(&world)
        .args(["dead-letters", "list"])
        .stdout(std::fs::File::options().write(true).open("/dev/full")?)
        .stderr(Stdio::piped())
        .output()?;
    assert_eq!(full.status.code(), Some(1), "{}", text(&full));
    assert!(text(&full).contains("cannot write to standard output"), "{}", text(&full));
    Ok(())
}

#[tokio::test]
async fn a_relay_whose_log_has_lost_its_reader_goes_on() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    for format in ["text", "json"] {
        let before = world.broker.state().accepted.len();
        let mut child = relay(&world)
            .args(["--log-format", format, "--log", "debug", "run"])
            .stdin(Stdio::null())
            .stdout(closed()?)
            .stderr(closed()?)
            .spawn()?;
        client.execute(INSERT, &[&"o", &1_i64, &"order.created", &"{}"]).await?;
        world.broker.wait("the event", LIMIT, |s| s.accepted.len() > before).await;
        assert!(child.try_wait()?.is_none(), "it has ended");
        Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(status.code(), Some(0), "{format}");
    }
    Ok(())
}

#[tokio::test]
async fn it_starts_in_odd_surroundings() -> Result<()> {
    let world = World::new().await?;
    let raw = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let gone = world.folder().join("gone");
    std::fs::create_dir(&gone)?;
    let mut command = Command::new("sh");
    // The folder is removed under the shell, and standard input is closed.
    let script =
        format!("cd {0} && rmdir {0} && exec \"$0\" dead-letters list <&-", gone.display());
    command.arg("-c").arg(script).arg(local::stack::binary("relay")?);
    command
        .env_remove("HOME")
        .env("DATABASE_URL", world.postgres.url(&world.database))
        .env(raw(b"LS_\xff"), raw(b"\xfe"))
        .env("LS_COLORS", raw(b"\xff"))
        .env("RELAY_SERVICE_HOST", "10.0.0.1")
        .env("RELAY_PORT_80_TCP", "tcp://10.0.0.1:80")
        .env("RELAY_METRICS", "on")
        .env("RELAY_OTHER", raw(b"\xff"))
        .env("RELAY_SLOT", "")
        .env("RELAY_CONFIG", "")
        .env("RELAY_LOG", "")
        .env("RELAY_LOG_FORMAT", "");
    let output = command.output()?;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let refused = |name: &str, value: OsString| -> Result<Output> {
        Ok(relay(&world).args(["dead-letters", "list"]).env(name, value).output()?)
    };
    for name in ["RELAY_SLOT", "DATABASE_URL", "PGPASSWORD", "RELAY_LOG"] {
        let output = refused(name, raw(b"\xff"))?;
        assert_eq!(output.status.code(), Some(2), "{name}: {}", text(&output));
        let said = text(&output);
        assert!(name == "RELAY_LOG" || said.contains(name), "{name}: {said}");
    }
    let argument =
        relay(&world).args(["dead-letters", "list", "--type"]).arg(raw(b"\xff")).output()?;
    assert_eq!(argument.status.code(), Some(2), "{}", text(&argument));
    Ok(())
}

#[tokio::test]
async fn errors_and_logs_are_read_by_people() -> Result<()> {
    let world = World::bare(&[]).await?;
    let first = relay(&world).arg("init").output()?;
    assert!(first.status.success() && first.stderr.is_empty(), "{}", text(&first));
    // A wrong value in the file is told with its key and the file's path.
    let file = world.folder().join("own.toml");
    std::fs::write(&file, "[publish]\nordering = 'random'\n")?;
    let wrong = relay(&world).arg("--config").arg(&file).arg("run").output()?;
    let said = text(&wrong);
    assert!(
        said.contains("publish.ordering (RELAY_ORDERING)") && said.contains("own.toml"),
        "{said}"
    );
    // A broker that is not there is told in a line, with its host.
    let mut away = relay(&world);
    away.arg("check").env("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
    let said = text(&away.output()?);
    assert!(said.contains("no connection to 127.0.0.1:1: Connection refused"), "{said}");
    assert!(
        said.lines().all(|line| line.len() < 400) && !said.contains("DispatchFailure"),
        "{said}"
    );
    // After a restart it says from where it goes on.
    let topic = world.broker.topic("orders.fifo");
    let relay = world.run(&topic).await?;
    assert!(!relay.log().contains("confirmed=0/0"), "{}", relay.log());
    Ok(())
}
