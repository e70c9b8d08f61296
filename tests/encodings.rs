//! Whatever bytes a message or a row has, in whatever encoding: an event or a letter with its
//! content, and the position moves.

use crate::harness::{LIMIT, World, member, text};
use anyhow::{Result, ensure};
use local::postgres::Postgres;

const ENCODINGS: [&str; 3] = ["UTF8", "LATIN1", "SQL_ASCII"];

/// A world whose database has this encoding, with a captured table.
async fn world(encoding: &str) -> Result<World> {
    let mut world = World::bare(&[]).await?;
    let name = format!("in_{}", encoding.to_lowercase());
    let sql = format!("create database {name} encoding '{encoding}' locale 'C' template template0");
    world.client().await?.batch_execute(&sql).await?;
    world.database = name;
    let client = world.client().await?;
    client.batch_execute("create table item (id int primary key, note text)").await?;
    let init = world.relay("").arg("init").env("RELAY_TABLES", "public.item").output()?;
    ensure!(init.status.success(), "{}", text(&init));
    Ok(world)
}

fn run(world: &World, topic: &str) -> Result<local::process::Process> {
    let mut command = world.relay(topic);
    command.arg("run").env("RELAY_TABLES", "public.item");
    world.start(command)
}

/// The position has passed all that was written until now.
async fn position_moves(world: &World) -> Result<()> {
    let client = world.client().await?;
    let here: String =
        client.query_one("select pg_current_wal_insert_lsn()::text", &[]).await?.get(0);
    client.batch_execute("select pg_logical_emit_message(true, 'end', '')").await?;
    let sql = format!(
        "select bool_and(confirmed_flush_lsn >= '{here}') from pg_replication_slots where slot_name = 'relay'"
    );
    world.until(&client, &sql).await
}

#[tokio::test]
async fn any_bytes_and_any_text_arrive_or_are_kept_in_every_encoding() -> Result<()> {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    for encoding in ENCODINGS {
        let mut random = fastrand::Rng::with_seed(seed);
        let world = world(encoding).await?;
        let client = world.client().await?;
        let topic = world.broker.topic("orders.fifo");
        let relay = run(&world, &topic)?;
        const EACH: usize = 20;
        let (mut events, mut letters) = (0, Vec::new());
        for n in 0..EACH {
            // Any text that the encoding has, in the bytes that it has for it.
            let length = random.usize(1..40);
            let latin: String =
                std::iter::repeat_with(|| char::from(random.u8(0x20..))).take(length).collect();
            let latin: String =
                latin.chars().filter(|c| !c.is_control() && !matches!(c, '"' | '\\')).collect();
            let data = serde_json::json!({ "n": latin }).to_string();
            let key = format!("k{n}");
            for sql in [
                "insert into relay.outbox (aggregate_type, aggregate_id, event_type, data) values ('order', $1, 'x', $2::text::json)",
                "select relay.emit('order', $1, 'x', $2)",
            ] {
                client.execute(sql, &[&key, &data]).await?;
                events += 1;
            }
            client
                .execute("insert into item values ($1, $2)", &[&i32::try_from(n)?, &latin])
                .await?;
            events += 1;
            // Any bytes, as the owner of the functions may write them.
            let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
            for prefix in ["relay.event", "relay.redrive"] {
                client.execute("select relay.write_message($1, $2)", &[&prefix, &bytes]).await?;
                letters.push(bytes.clone());
            }
        }
        if encoding == "SQL_ASCII" {
            let bad = "convert_from('\\x22e9ff22', 'SQL_ASCII')";
            client
                .batch_execute(&format!(
                    "insert into relay.outbox (aggregate_type, aggregate_id, event_type, data) values ('order', 'bad', 'x', {bad}::json);
                     select relay.emit('order', 'bad', 'x', {bad}::json);
                     insert into item values (1000, {bad});
                     select pg_logical_emit_message(true, convert_from('\\xe9', 'SQL_ASCII'), '')"
                ))
                .await?;
            world.until(&client, "select count(*) = 3 from relay.dead_letter where position(decode('e9ff', 'hex') in content) > 0").await?;
        }
        let client = world.client().await?;
        world.broker.wait("every event", LIMIT, |s| s.accepted.len() == events).await;
        position_moves(&world).await?;
        for bytes in letters {
            let sql = "select count(*) > 0 from relay.dead_letter where coalesce(content, convert_to(body, 'UTF8')) = $1";
            ensure!(
                client.query_one(sql, &[&bytes]).await?.get::<_, bool>(0),
                "{encoding}: {bytes:?} is nowhere"
            );
        }
        ensure!(!relay.log().contains("connecting again"), "{encoding}: {}", relay.log());
    }
    Ok(())
}

#[tokio::test]
async fn a_letter_with_accents_is_redriven_unchanged_in_every_encoding() -> Result<()> {
    for encoding in ENCODINGS {
        let world = world(encoding).await?;
        let client = world.client().await?;
        client.batch_execute("select relay.emit('order', 'clé', 'order.créé', '{\"n\": \"café\"}', tenant_id => 'été')").await?;
        let topic = world.broker.topic("orders.fifo");
        // The source is no LATIN1: the letter cannot stand there as it is.
        let mut command = world.relay("");
        command
            .arg("run")
            .env("RELAY_ROUTES", format!("customer={topic}"))
            .env("RELAY_SOURCE", "заказы");
        let mut relay = world.start(command)?;
        world.until(&client, "select count(*) = 1 from relay.dead_letter").await?;
        assert!(relay.terminate(LIMIT).await?.success());
        // Its columns are escaped where they cannot hold it; the body is shown as it is.
        let id = client.query_one("select max(id)::text from relay.dead_letter", &[]).await?;
        let shown = world.relay("").args(["dead-letters", "show", id.get(0)]).output()?;
        ensure!(text(&shown).contains("\"n\": \"café\""), "{encoding}: {}", text(&shown));
        ensure!(text(&shown).contains("заказы"), "{encoding}: {}", text(&shown));
        let redriven = world.relay("").args(["dead-letters", "redrive", "--all"]).output()?;
        assert!(redriven.status.success(), "{}", text(&redriven));
        let _relay = world.run(&topic).await?;
        world.broker.wait("the event", LIMIT, |s| s.accepted.len() == 1).await;
        {
            let state = world.broker.state();
            let sent = &state.accepted[0];
            assert_eq!(member(sent, "aggregate_id"), "clé", "{encoding}");
            assert_eq!(member(sent, "event_type"), "order.créé");
            assert_eq!(member(sent, "data")["n"], "café");
            assert_eq!(member(sent, "source"), "заказы");
            assert_eq!(member(sent, "metadata")["tenant_id"], "été");
        }
        position_moves(&world).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_column_that_the_table_had_not_reads_as_null_or_costs_its_rows_alone() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    let insert = |key: &str| {
        format!(
            "insert into relay.outbox (aggregate_type, aggregate_id, event_type, data) values ('order', '{key}', 'x', '{{\"n\": 1}}')"
        )
    };
    client
        .batch_execute(&format!(
            "alter table relay.outbox drop column causation_id; {}; alter table relay.outbox add column causation_id text;
             alter table relay.outbox rename column data to payload;
             insert into relay.outbox (aggregate_type, aggregate_id, event_type, payload) values ('order', 'b', 'x', '{{\"kept\": 1}}');
             alter table relay.outbox rename column payload to data; {}",
            insert("a"),
            insert("c")
        ))
        .await?;
    let topic = world.broker.topic("orders.fifo");
    // It starts without the column, too.
    client.batch_execute("alter table relay.outbox drop column correlation_id").await?;
    let _relay = world.run(&topic).await?;
    world.broker.wait("the others", LIMIT, |s| s.accepted.len() == 2).await;
    world
        .until(&client, "select count(*) = 1 from relay.dead_letter where key = '/order/b' and event_type = 'x' and reason like '%the column data%' and body like '%kept%'")
        .await?;
    position_moves(&world).await
}

/// A text of up to so many bytes, of every kind of character: controls, spaces, ASCII, and those
/// of two, three and four bytes, spaces and no characters among them.
fn any_text(rng: &mut fastrand::Rng, bytes: usize) -> String {
    const ODD: [char; 12] = [
        '\u{80}', '\u{85}', '\u{a0}', '\u{ad}', 'é', '\u{2028}', '\u{3000}', '文', '\u{feff}',
        '\u{fffe}', '\u{ffff}', '🐘',
    ];
    let odd = rng.u32(0..4);
    let mut text = String::new();
    while text.len() < bytes {
        text.push(match rng.u32(0..100) {
            0..2 if odd == 0 => char::from(rng.u8(1..0x21)),
            2 if odd == 0 => '\u{7f}',
            3..30 if odd > 1 => ODD[rng.usize(0..ODD.len())],
            30..60 if odd == 3 => rng.char('\u{80}'..),
            _ => char::from(rng.u8(0x21..0x7f)),
        });
    }
    text
}

#[tokio::test]
async fn the_database_and_the_relay_judge_every_text_alike() -> Result<()> {
    use relay::bounds::{fits, is_name};
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let edges = [0, 1, 42, 43, 85, 86, 127, 128, 129, 254, 255, 256, 341, 342, 1023, 1024, 1025];
    let texts: Vec<String> = (0..3000)
        .map(|_| {
            let about = edges[rng.usize(0..edges.len())] + rng.usize(0..3);
            any_text(&mut rng, about)
        })
        .collect();
    let server = Postgres::start(&[]).await?;
    let admin = server.connect("postgres").await?;
    let locales = admin
        .query("select collname::text from pg_collation where collprovider = 'c' and collname ~* 'utf-?8$' order by 1", &[])
        .await?;
    println!("{} locales of UTF-8", locales.len());
    let mut named = vec!["C".to_owned()];
    named.extend(locales.iter().map(|row| row.get::<_, String>(0)).take(2));
    for (at, locale) in named.iter().enumerate() {
        let database = format!("judges_{at}");
        let create = format!(
            "create database {database} template template0 encoding 'UTF8' locale '{locale}'"
        );
        admin.batch_execute(&create).await?;
        let dsn: dsn::Dsn = server.url(&database).parse()?;
        let (client, _driver) = dsn.connect("test").await?;
        relay::migrate::migrate(&client, relay::migrate::Side::Source).await?;
        let sql = "select t, relay.is_name(t), relay.fits(t, 128), relay.fits(t, 255), relay.fits(t, 1024)
            from unnest($1::text[]) as t";
        let (mut names, mut rows) = (0, 0);
        for row in client.query(sql, &[&texts]).await? {
            let text: &str = row.get(0);
            rows += 1;
            names += usize::from(is_name(text));
            ensure!(row.get::<_, bool>(1) == is_name(text), "{locale}, seed {seed}: {text:?}");
            for (column, bytes) in [(2, 128), (3, 255), (4, 1024)] {
                let found = row.get::<_, bool>(column);
                ensure!(found == fits(text, bytes), "{locale}, seed {seed}, {bytes}: {text:?}");
            }
        }
        println!("{locale}: {names} of {rows} are names");
        ensure!(rows == 3000 && (300..2700).contains(&names));
    }
    Ok(())
}

#[tokio::test]
async fn every_column_has_its_bound_at_the_writer_and_at_the_relay() -> Result<()> {
    let world = World::new().await?;
    let client = world.client().await?;
    let columns = [
        ("event_version", 255, "v"),
        ("correlation_id", 1024, "é"),
        ("causation_id", 1024, "文"),
        ("tenant_id", 128, "t"),
    ];
    let text = |value: &str, bytes: usize| {
        let (times, more) = (bytes / value.len(), bytes % value.len());
        format!("repeat('{value}', {times}) || repeat('x', {more})")
    };
    let metadata =
        |bytes: usize| format!("('{{\"a\":\"' || repeat('x', {}) || '\"}}')::json", bytes - 8);
    let mut values: Vec<(&str, String, String)> = columns
        .iter()
        .map(|(column, bytes, value)| (*column, text(value, *bytes), text(value, bytes + 1)))
        .collect();
    values.push(("metadata", metadata(65_536), metadata(65_537)));
    for (column, fits, too_long) in &values {
        let insert = |value: &str| {
            format!(
                "insert into relay.outbox (aggregate_type, aggregate_id, event_type, data, {column}) values ('order', '{column}', 'x', '{{}}', {value})"
            )
        };
        let emit = |value: &str| {
            format!("select relay.emit('order', '{column}', 'x', '{{}}', {column} => {value})")
        };
        for statement in [insert(fits), emit(fits)] {
            client.batch_execute(&statement).await?;
        }
        for statement in [insert(too_long), emit(too_long)] {
            let refused = client.batch_execute(&statement).await.unwrap_err();
            let refused = refused.as_db_error().map(|e| e.message().to_owned());
            ensure!(
                refused.as_ref().is_some_and(|m| m.contains(&format!("relay: {column} must be"))),
                "{column}: {refused:?}"
            );
        }
    }
    // A row that got around the constraints is a letter.
    let drop = values.iter().map(|(column, ..)| format!("drop constraint {column}_is_short"));
    let drop = drop.collect::<Vec<_>>().join(", ");
    client.batch_execute(&format!("alter table relay.outbox {drop}")).await?;
    for (column, _, too_long) in &values {
        client
            .batch_execute(&format!("insert into relay.outbox (aggregate_type, aggregate_id, event_type, data, {column}) values ('order', '{column}', 'x', '{{}}', {too_long})"))
            .await?;
    }
    let topic = world.broker.topic("orders.fifo");
    let _relay = world.run(&topic).await?;
    world.broker.wait("those that fit", LIMIT, |s| s.accepted.len() == 10).await;
    for (column, ..) in &values {
        world
            .until(&client, &format!("select count(*) = 1 from relay.dead_letter where key like '%/order/{column}' and reason like 'expected {column} to be %'"))
            .await?;
    }
    position_moves(&world).await
}
