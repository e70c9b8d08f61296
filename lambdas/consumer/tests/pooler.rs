//! pgbouncer in transaction mode stands between, as RDS Proxy does on AWS: each transaction may
//! have another server connection, and what one client has prepared another must not find.

use crate::support::{ReadModel, Sent, deliver, sent};
use consumer::Outcome::{Applied, Parked};
use local::process::{Process, command, free_port, server_user};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// More clients than that.
const SERVER_CONNECTIONS: u32 = 2;

struct Pooler {
    process: Process,
    _folder: tempfile::TempDir,
    port: u16,
}

fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join("pgbouncer"))
        .find(|program| program.exists())
        .expect("expected pgbouncer on the PATH, found none; run infra/local/setup, or install the package pgbouncer")
}

impl Pooler {
    async fn start(read_model: &ReadModel) -> Self {
        let folder = tempfile::Builder::new().prefix("relay-pgbouncer-").tempdir().unwrap();
        let user = server_user().unwrap();
        let port = free_port().unwrap();
        let settings = folder.path().join("pgbouncer.ini");
        let (server, database) = (read_model.postgres.port(), &read_model.database);
        let text = format!(
            "[databases]\n\
             {database} = host=127.0.0.1 port={server} user=postgres password=postgres\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = {SERVER_CONNECTIONS}\n\
             max_client_conn = 100\nserver_reset_query =\nignore_startup_parameters = extra_float_digits\n"
        );
        std::fs::write(&settings, text).unwrap();
        // It refuses to run as root, and its user must read what we wrote.
        open(folder.path(), 0o755);
        open(&settings, 0o644);
        let mut pgbouncer = command(&program(), "TERM", user);
        pgbouncer.arg(&settings).current_dir(folder.path());
        let log = folder.path().join("pgbouncer.log");
        let process = Process::start("pgbouncer", pgbouncer, &log).unwrap();
        let mut pooler = Self { process, _folder: folder, port };
        let deadline = Instant::now() + Duration::from_secs(30);
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let runs = pooler.process.is_running() && Instant::now() < deadline;
            assert!(runs, "pgbouncer does not start; its log:\n{}", pooler.process.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        pooler
    }

    fn dsn(&self, read_model: &ReadModel) -> dsn::Dsn {
        let text = format!("postgres://postgres@127.0.0.1:{}/{}", self.port, read_model.database);
        text.parse().unwrap()
    }
}

fn open(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_hosts_than_server_connections_work_through_a_pooler() {
    let read_model = ReadModel::start().await;
    let pooler = Pooler::start(&read_model).await;
    let hosts: Vec<_> = (0..6)
        .map(|host| {
            let recorder = crate::support::Recorder::default();
            let dsn = pooler.dsn(&read_model);
            tokio::spawn(async move {
                let mut consumer = consumer::Consumer::new(recorder, &dsn).through_a_pool();
                for version in 1..=8 {
                    let own = format!("own-{host}");
                    let batch: Vec<Sent> = vec![
                        sent(&own, version),
                        sent(&format!("b-{host}-{version}"), 1).kind("swallow"),
                        sent(&format!("c-{host}"), version),
                    ];
                    let outcomes = deliver(&mut consumer, &batch).await;
                    assert_eq!(outcomes[0], Applied, "{host} {version}");
                    assert_eq!(outcomes[2], Applied, "{host} {version}");
                }
            })
        })
        .collect();
    for host in hosts {
        host.await.unwrap();
    }
    for (aggregate, versions) in read_model.effects().await {
        assert_eq!(versions, (1..=8).collect::<Vec<_>>(), "{aggregate}");
    }
    let behind = "pg_stat_activity where application_name = 'recorder'";
    assert!(read_model.count(behind).await <= i64::from(SERVER_CONNECTIONS));
    // Nothing that a client prepared is left behind: the pooler's next client would find it.
    let left = consumer::Consumer::new(Left, &pooler.dsn(&read_model)).through_a_pool();
    let mut left = left;
    for version in 1..=4 {
        assert_eq!(deliver(&mut left, &[sent("left", version)]).await, [Applied]);
    }
}

/// Fails where its server connection holds a statement that is not its own transaction's.
struct Left;

impl consumer::Handler for Left {
    fn name(&self) -> &'static str {
        "left"
    }

    async fn handle(
        &self,
        _: &consumer::Event,
        tx: &mut consumer::Tx<'_>,
    ) -> Result<(), consumer::HandlerError> {
        let sql = "select count(*) from pg_prepared_statements
            where prepare_time < transaction_timestamp()";
        let old: i64 = tx.query_first(sql, &[]).await?.unwrap().get(0);
        match old {
            0 => Ok(()),
            _ => Err(consumer::HandlerError::Retry(format!("{old} statements are left"))),
        }
    }
}

#[tokio::test]
async fn upkeep_and_replay_work_through_a_pooler() {
    let read_model = ReadModel::start().await;
    let pooler = Pooler::start(&read_model).await;
    // Upkeep has something to do: today's partitions are gone.
    let drop = "do $$ declare t regclass; begin
        for t in select inhrelid::regclass from pg_inherits join pg_class on oid = inhrelid
          where inhparent = 'relay.inbox'::regclass and relname ~ '^inbox_[0-9]{8}$'
        loop execute format('drop table %s', t); end loop; end $$";
    read_model.client.batch_execute(drop).await.unwrap();
    let new = || {
        let recorder = crate::support::Recorder::default();
        consumer::Consumer::new(recorder, &pooler.dsn(&read_model)).through_a_pool()
    };
    let (mut one, mut other) = (new(), new());
    assert_eq!(deliver(&mut one, &[sent("a", 1).kind("wants_table")]).await, [Parked]);
    assert_eq!(read_model.count("pg_inherits where inhparent = 'relay.inbox'::regclass").await, 10);
    assert_eq!(deliver(&mut other, &[sent("b", 1)]).await, [Applied]);
    read_model.client.batch_execute("create table wanted ()").await.unwrap();
    let ask = "select relay.replay_parked(array(select id from relay.parked))";
    read_model.client.query_one(ask, &[]).await.unwrap();
    for consumer in [&mut one, &mut other] {
        consumer.replay_parked(None).await.unwrap();
        assert_eq!(deliver(consumer, &[sent("c", 1)]).await.len(), 1);
    }
    assert_eq!(read_model.count("relay.parked").await, 0);
    assert_eq!(read_model.effects().await["a"], [1]);
    for version in 2..=5 {
        assert_eq!(deliver(&mut one, &[sent("a", version)]).await, [Applied]);
        assert_eq!(deliver(&mut other, &[sent("b", version)]).await, [Applied]);
    }
}

#[tokio::test]
async fn a_pooler_that_was_not_named_is_said_with_what_to_set() {
    let read_model = ReadModel::start().await;
    let pooler = Pooler::start(&read_model).await;
    // Another process has taken the names that ours gives its statements, s0, s1 and so on, on each
    // server connection: no two of its transactions share one.
    let taken: String = (0..1_000).map(|n| format!("prepare s{n} as select 1;")).collect();
    let mut others = Vec::new();
    for _ in 0..SERVER_CONNECTIONS {
        let (other, driver) = pooler.dsn(&read_model).connect("other").await.unwrap();
        other.batch_execute("begin").await.unwrap();
        other.batch_execute(&taken).await.unwrap();
        others.push((other, driver));
    }
    for (other, _) in &others {
        other.batch_execute("commit").await.unwrap();
    }
    let recorder = crate::support::Recorder::default();
    let mut consumer = consumer::Consumer::new(recorder, &pooler.dsn(&read_model));
    let named = consumer.deliver(vec![sent("a", 1).record()]).await.unwrap_err();
    assert!(matches!(named, consumer::Error::Pooler(_)), "{named:?}");
    assert!(named.to_string().contains("READ_MODEL_POOLER=transaction"), "{named}");
}

#[tokio::test]
async fn waits_behind_a_pooler_leave_nothing_on_the_connections_of_others() {
    let read_model = ReadModel::start().await;
    let pooler = Pooler::start(&read_model).await;
    let dsn = pooler.dsn(&read_model);
    let pauses = consumer::Pauses::default();
    let named = consumer::ReadModel::connect_through_a_pool(&dsn, pauses).await.unwrap();
    let mut consumer = consumer::Consumer::new(crate::support::Recorder::default(), &dsn);
    consumer = consumer.through_a_pool();
    let limit = Duration::from_secs(60);
    let one = [sent("a", 1)];
    let wait = named.await_version("recorder", "thing", "a", 1, limit);
    let (waited, outcomes) = tokio::join!(wait, deliver(&mut consumer, &one));
    assert_eq!((waited.unwrap().is_stale(), outcomes), (false, vec![Applied]));
    // Not named, it announces and listens, and still sets nothing for the session.
    let unnamed = consumer::ReadModel::connect_with(&dsn, pauses).await.unwrap();
    let soon = Duration::from_millis(50);
    let waited = unnamed.await_version("recorder", "thing", "a", 2, soon).await.unwrap();
    assert!(waited.is_stale());
    let mut others = Vec::new();
    for _ in 0..SERVER_CONNECTIONS {
        let (other, driver) = dsn.connect("other").await.unwrap();
        other.batch_execute("begin").await.unwrap();
        let rows = other.simple_query("show synchronous_commit").await.unwrap();
        let shown = rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        assert_eq!(shown, Some("on"));
        others.push((other, driver));
    }
}

#[tokio::test]
async fn a_statement_that_a_pooler_has_lost_is_said_though_a_new_connection_has_it() {
    let read_model = ReadModel::start().await;
    let pooler = Pooler::start(&read_model).await;
    let dsn = pooler.dsn(&read_model);
    let lines = crate::observed::Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    let _here = tracing::subscriber::set_default(subscriber);
    let mut consumer = consumer::Consumer::new(crate::support::Recorder::default(), &dsn);
    assert_eq!(deliver(&mut consumer, &[sent("a", 1)]).await, [Applied]);
    // Another client takes each server connection for a while, and keeps the one that has the
    // consumer's statements.
    let mut others = Vec::new();
    for _ in 0..SERVER_CONNECTIONS {
        let (other, driver) = dsn.connect("other").await.unwrap();
        other.batch_execute("begin").await.unwrap();
        let asked = "select from pg_prepared_statements where statement like '%relay.%'";
        let rows = other.simple_query(asked).await.unwrap();
        let is_row = |m: &tokio_postgres::SimpleQueryMessage| {
            matches!(m, tokio_postgres::SimpleQueryMessage::Row(_))
        };
        others.push((rows.iter().any(is_row), other, driver));
    }
    assert!(others.iter().any(|(has, ..)| *has), "no server connection has the statements");
    for (_, other, _) in others.iter().filter(|(has, ..)| !has) {
        other.batch_execute("commit").await.unwrap();
    }
    assert_eq!(deliver(&mut consumer, &[sent("a", 2)]).await, [Applied]);
    let said = |line: &serde_json::Value| {
        line["fields"]["error"]
            .as_str()
            .is_some_and(|e| e.contains("READ_MODEL_POOLER=transaction"))
    };
    assert_eq!(lines.read().iter().filter(|line| said(line)).count(), 1);
}
