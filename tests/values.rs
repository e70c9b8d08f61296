//! Every type of Postgres as JSON: the table of `relay/docs/values.md`, made here and compared
//! with what the server itself says.

use crate::harness::{LIMIT, World, text};
use anyhow::{Context, Result, ensure};
use pgoutput::Message;
use relay::value::{Numbers, Types, ValueError, write_json};
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::fmt::Write as _;

/// A type, and a value of it as SQL. Each is a column of one row.
const CASES: &[(&str, &str)] = &[
    ("boolean", "true"),
    ("smallint", "-32768"),
    ("integer", "2147483647"),
    ("bigint", "9223372036854775807"),
    ("numeric", "123456789012345678901234567890.0123456789"),
    ("numeric(10,2)", "1.5"),
    ("numeric", "'NaN'"),
    ("numeric", "'-Infinity'"),
    ("real", "1.1"),
    ("double precision", "0.1"),
    ("double precision", "1e300"),
    ("double precision", "'NaN'"),
    ("double precision", "'-Infinity'"),
    ("money", "'$1,234.50'"),
    ("text", r#"E'a "quoted" \\ text\nwith lines, é and 🐘'"#),
    ("varchar(10)", "'ten'"),
    ("char(5)", "'ab'"),
    ("\"char\"", "'c'"),
    ("name", "'a_name'"),
    ("bytea", r"'\x00ff10'"),
    ("bytea", r"'\x'"),
    ("date", "'2026-01-15'"),
    ("date", "'infinity'"),
    ("date", "'0044-03-15 BC'"),
    ("date", "'12026-01-15'"),
    ("time", "'10:30:00.5'"),
    ("time with time zone", "'10:30:00+02'"),
    ("timestamp", "'2026-01-15 10:30:00.123456'"),
    ("timestamp", "'-infinity'"),
    ("timestamp", "'0044-03-15 10:30:00 BC'"),
    ("timestamp with time zone", "'2026-01-15 12:30:00.5+02'"),
    ("timestamp with time zone", "'infinity'"),
    ("interval", "'1 year 2 months 3 days 04:05:06.5'"),
    ("interval", "'-1 day -00:00:01'"),
    ("uuid", "'0193f0a2-0000-7000-8000-000000000001'"),
    ("json", r#"'{"b": 1.50,  "a": [1, null]}'"#),
    ("jsonb", r#"'{"b": 1.50,  "a": [1, null]}'"#),
    ("jsonpath", "'$.a[*]'"),
    ("xml", "'<a b=\"c\">d</a>'"),
    ("bit(4)", "B'1010'"),
    ("bit varying", "B'101'"),
    ("inet", "'192.168.0.1/24'"),
    ("inet", "'::1'"),
    ("cidr", "'10.0.0.0/8'"),
    ("macaddr", "'08:00:2b:01:02:03'"),
    ("macaddr8", "'08:00:2b:01:02:03:04:05'"),
    ("point", "'(1,2.5)'"),
    ("line", "'{1,-1,0}'"),
    ("lseg", "'[(0,0),(1,1)]'"),
    ("box", "'(1,1),(0,0)'"),
    ("path", "'((0,0),(1,1))'"),
    ("polygon", "'((0,0),(1,1),(1,0))'"),
    ("circle", "'<(0,0),2>'"),
    ("tsvector", "'fat:2 cat:3A'"),
    ("tsquery", "'fat & cat'"),
    ("oid", "4294967295"),
    ("regclass", "'pg_class'"),
    ("xid8", "'18446744073709551615'"),
    ("pg_lsn", "'16/B374D848'"),
    ("integer[]", "'{1,NULL,3}'"),
    ("integer[]", "'{}'"),
    ("integer[]", "'{{1,2},{3,4}}'"),
    ("integer[]", "'[0:1]={7,8}'"),
    ("text[]", r#"ARRAY['a,b', 'say "hi"', '', NULL, 'null', E'back\\slash', '{}']"#),
    ("numeric[]", "'{1.50,NaN}'"),
    ("timestamp with time zone[]", "'{2026-01-15 10:30:00+00,infinity}'"),
    ("jsonb[]", r#"ARRAY['{"a": 1}'::jsonb, '"x"'::jsonb]"#),
    ("box[]", "'{(1,1),(0,0);(2,2),(1,1)}'"),
    ("bytea[]", r"ARRAY['\x00ff'::bytea]"),
    ("int4range", "'[1,5)'"),
    ("int4range", "'empty'"),
    ("numrange", "'(,1.5]'"),
    ("tstzrange", "'[2026-01-15 10:30:00+00,)'"),
    ("int4multirange", "'{[1,3),[5,8)}'"),
    ("int4range[]", "'{\"[1,3)\",empty}'"),
    ("mood", "'glad'"),
    ("mood[]", "'{glad,\"so so\"}'"),
    ("positive", "7"),
    ("positive[]", "'{1,2}'"),
    ("pair", r#"ROW(7, 'a "b", c')"#),
    ("pair", "ROW(NULL, '')"),
    ("pair[]", "ARRAY[ROW(1, 'x'), ROW(2, NULL)]::pair[]"),
    ("nested", "ROW(ROW(1, 'in')::pair, '{glad}', '2026-01-15 10:30:00+00', 1.50)"),
    ("floatrange", "'[1.5,2.5)'"),
    ("hstore", r#"'a=>1, "b c"=>NULL, d=>"say \"hi\""'"#),
    ("citext", "'Word'"),
];

const TYPES: &str = "
    create type mood as enum ('glad', 'so so');
    create domain positive as int check (value > 0);
    create type pair as (n int, t text);
    create type nested as (p pair, moods mood[], at timestamptz, amount numeric);
    create type floatrange as range (subtype = float8);";

#[tokio::test]
async fn every_type_reads_as_the_table_in_the_docs_says() -> Result<()> {
    let world = World::bare(&[]).await?;
    let client = world.client().await?;
    client.batch_execute("set intervalstyle = iso_8601; set timezone = utc").await?;
    client.batch_execute(TYPES).await?;
    // Extensions and libxml that this server was built without are left out, and said.
    let mut left_out = Vec::new();
    for extension in ["hstore", "citext"] {
        if client.batch_execute(&format!("create extension {extension}")).await.is_err() {
            left_out.push(extension);
        }
    }
    if client.batch_execute("select '<a/>'::xml").await.is_err() {
        left_out.push("xml");
    }
    let cases: Vec<_> =
        CASES.iter().enumerate().filter(|(_, (of, _))| !left_out.contains(of)).collect();
    let columns: Vec<String> = cases.iter().map(|(n, (of, _))| format!("c{n} {of}")).collect();
    let table = format!("create table everything (id int primary key, {})", columns.join(", "));
    client.batch_execute(&table).await?;
    let init = world.relay("").arg("init").env("RELAY_TABLES", "public.everything").output()?;
    ensure!(init.status.success(), "{}", text(&init));
    let values: Vec<&str> = cases.iter().map(|(_, (_, sql))| *sql).collect();
    let binary = "select pg_create_logical_replication_slot('binary', 'pgoutput')";
    client.batch_execute(binary).await?;
    client
        .batch_execute(&format!("insert into everything values (1, {})", values.join(", ")))
        .await?;

    let topic = world.broker.topic("everything.fifo");
    let mut command = world.relay(&topic);
    command.arg("run").env("RELAY_TABLES", "public.everything");
    let _relay = world.start(command)?;
    world.broker.wait("the row", LIMIT, |s| s.accepted.len() == 1).await;
    let body = world.broker.state().accepted[0].entry.body.clone();
    let body: HashMap<String, Box<RawValue>> = serde_json::from_str(&body)?;
    let data: HashMap<String, Box<RawValue>> = serde_json::from_str(body["data"].get())?;
    let row: HashMap<String, Box<RawValue>> = serde_json::from_str(data["after"].get())?;

    let mut written = String::new();
    for (n, (of, sql)) in &cases {
        let found = row[&format!("c{n}")].get();
        let own =
            client.query_one(&format!("select to_jsonb(c{n})::text from everything"), &[]).await?;
        let own: serde_json::Value = serde_json::from_str(own.get(0))?;
        let same = serde_json::from_str::<serde_json::Value>(found)? == own;
        let cell = |text: &str| text.replace('|', "\\|").replace('\n', "\\n");
        writeln!(
            written,
            "| `{of}` | `{}` | `{}` | {} |",
            cell(sql),
            cell(found),
            if same { "yes" } else { "no" }
        )?;
    }
    compare(&written, &left_out)?;
    let in_binary = in_binary_form(&client).await?;
    for (place, (n, (of, sql))) in cases.iter().enumerate() {
        let expected = row[&format!("c{n}")].get();
        match &in_binary[place + 1] {
            Ok(found) => assert_eq!(found, expected, "{of}: {sql}"),
            Err(ValueError::Binary) => assert!(TEXT_ONLY.contains(of), "{of}: {sql}"),
            Err(error) => panic!("{of}: {sql}: {error}"),
        }
    }
    Ok(())
}

/// Types whose binary form is refused: it is the server's own business, or needs its locale. The
/// server sends those that have none as text.
const TEXT_ONLY: &[&str] = &["money", "tsvector", "tsquery", "regclass"];

/// The row as pgoutput sends it under its option `binary`, each value as JSON.
async fn in_binary_form(
    client: &tokio_postgres::Client,
) -> Result<Vec<Result<String, ValueError>>> {
    const CHANGES: &str =
        "select data from pg_logical_slot_get_binary_changes('binary', null, null,
        'proto_version', '1', 'publication_names', 'relay', 'binary', 'true')";
    let mut types = Types::default();
    let mut columns = Vec::new();
    for message in client.query(CHANGES, &[]).await? {
        match Message::decode(message.get(0))? {
            Message::Relation(relation) if relation.name == "everything" => {
                let statement = client.prepare("select * from everything").await?;
                // A domain's column has the type that it is made of.
                for (column, described) in statement.columns().iter().zip(&relation.columns) {
                    types.insert(described.type_oid, column.type_().clone());
                }
                columns = relation.columns;
            }
            Message::Insert { new, .. } if new.columns() == columns.len() => {
                let binary =
                    new.values().filter(|value| matches!(value, pgoutput::Value::Binary(_)));
                ensure!(binary.count() > columns.len() / 2, "expected values in their binary form");
                let values = columns.iter().zip(new.values());
                return Ok(values
                    .map(|(column, value)| {
                        let mut out = String::new();
                        let numbers = Numbers::default();
                        write_json(&mut out, value, column.type_oid, &types, numbers).map(|()| out)
                    })
                    .collect());
            }
            _ => {}
        }
    }
    anyhow::bail!("expected the row among the changes")
}

/// Compares the table with the one that is committed; `RELAY_BLESS=1` writes it instead.
fn compare(written: &str, left_out: &[&str]) -> Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../relay/docs/values.md");
    let page = std::fs::read_to_string(path)?;
    let (before, rest) = page.split_once("|---|---|---|---|\n").context("expected a table")?;
    let (table, after) = rest.split_once("\n\n").context("expected text behind the table")?;
    if std::env::var_os("RELAY_BLESS").is_some() {
        ensure!(left_out.is_empty(), "this server has no {left_out:?}");
        std::fs::write(path, format!("{before}|---|---|---|---|\n{written}\n{after}"))?;
        return Ok(());
    }
    let kept = |line: &&str| !left_out.iter().any(|of| line.starts_with(&format!("| `{of}`")));
    let expected: Vec<&str> = table.lines().filter(kept).collect();
    let found: Vec<&str> = written.lines().collect();
    assert_eq!(found, expected, "docs/values.md is not what the relay writes; see RELAY_BLESS");
    if !left_out.is_empty() {
        println!("skipped, because this server has none: {left_out:?}");
    }
    Ok(())
}
