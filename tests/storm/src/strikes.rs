//! The strikes at what once stopped a relay for good, lost a part without a word, or held the
//! server: foreign messages, odd texts, changes of the catalogue, refusals, limits.

use crate::odd;
use crate::plan::{Mood, Strike};
use crate::run::Run;
use crate::source::{KINDS, STOP};
use crate::writers::Order;
use anyhow::{Context, Result};
use local::stack::relay_command;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::broker::Target;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

/// What a destination's limit is raised to, in bytes.
const RAISED: usize = 32 * 1024;

/// A payload between the limit and the raised one.
const BETWEEN: i32 = 20_000;

/// A payload over both.
const ABOVE: i32 = 40_000;

/// An answer about the limit is good for 5 s.
const LIMIT_IS_KNOWN: Duration = Duration::from_secs(6);

/// A condition is told after so long at most: 30 s, and as long as moods and back-offs keep the
/// relay from what it is to find.
const TOLD: Duration = Duration::from_secs(45);

/// The shortest first wait between two tries.
const FIRST_WAIT: Duration = Duration::from_millis(25);

/// No event is written while this is held: none is in the middle of a change of the catalogue.
const HOLD_WRITERS: &str = "begin; lock table counter in exclusive mode";

/// What a seed has done to the limit of a destination.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limit {
    is_refused: bool,
    is_raised: bool,
    since: Option<Instant>,
}

impl Run {
    /// Carries out one of the strikes of this file.
    pub(crate) async fn hard_strike(&mut self, strike: Strike) -> Result<()> {
        match strike {
            Strike::Forged(count) => self.forge(count).await,
            Strike::OddTexts(count) => self.write_odd_texts(count).await,
            Strike::WithoutColumn { lasting, kill } => self.without_column(lasting, kill).await,
            Strike::LimitsRefused(at) => {
                self.change_limit(at, |limit, target| {
                    limit.is_refused = true;
                    target.asked = Some("AuthorizationError");
                });
                Ok(())
            }
            Strike::LimitRaised(at) => {
                self.raise_limit(at);
                Ok(())
            }
            Strike::StopBehindRefusal { smart } => self.stop_behind_refusal(smart).await,
            // What the first session of a process would be refused for ends the process.
            other if self.has_session().await? => self.strike_at_session(other).await,
            _ => Ok(()),
        }
    }

    async fn strike_at_session(&mut self, strike: Strike) -> Result<()> {
        match strike {
            Strike::Unpublished => self.unpublish().await,
            Strike::PublicationAnew(lasting) => self.publish_anew(lasting).await,
            Strike::Renamed { outbox: true, lasting } => self.rename_outbox(lasting).await,
            Strike::Renamed { outbox: false, lasting } => self.rename_mark(lasting).await,
            Strike::SessionsEnded(lasting) => self.end_sessions(lasting).await,
            Strike::LoginRefused { replication, lasting } => {
                self.refuse_login(replication, lasting).await
            }
            Strike::LettersRevoked => self.revoke_letters().await,
            Strike::TypesRevoked(lasting) => self.revoke_types(lasting).await,
            _ => Ok(()),
        }
    }

    /// Waits for the newest process to have had a session; whether it has.
    async fn has_session(&mut self) -> Result<bool> {
        let until = Instant::now() + TOLD;
        while !self.child.has_streamed() && Instant::now() < until {
            self.watch_for(Duration::from_millis(20)).await?;
        }
        Ok(self.child.has_streamed())
    }

    async fn forge(&mut self, count: u32) -> Result<()> {
        let client = self.source.postgres.connect(&self.source.database).await?;
        let mut rng = self.rng.fork();
        let emit = "select pg_logical_emit_message($1, $2::text, $3::bytea)::text";
        client.batch_execute("set role stranger").await?;
        for _ in 0..count {
            let (prefix, content) = odd::forged(&mut rng);
            client.query_one(emit, &[&rng.bool(), &prefix, &content]).await?;
        }
        // And in one transaction with an event, before and behind it.
        client.batch_execute("reset role; begin").await?;
        for turn in 0..3 {
            let (prefix, content) = odd::forged(&mut rng);
            client.query_one(emit, &[&true, &prefix, &content]).await?;
            if turn == 1 {
                let key = odd::key(&mut rng, self.plan.encoding);
                self.happen_odd(&client, &mut rng, &key, false).await?;
            }
        }
        client.batch_execute("commit").await?;
        Ok(())
    }

    async fn write_odd_texts(&mut self, count: u32) -> Result<()> {
        let client = self.source.postgres.connect(&self.source.database).await?;
        let mut rng = self.rng.fork();
        let keys: Vec<_> = (0..4).map(|_| odd::key(&mut rng, self.plan.encoding)).collect();
        for _ in 0..count {
            let no_text =
                self.plan.encoding == crate::plan::Encoding::SqlAscii && rng.u8(0..3) == 0;
            let key = &keys[rng.usize(..keys.len())];
            self.happen_odd(&client, &mut rng, key, no_text).await?;
            if rng.bool() {
                self.write_mark(&client, "mark").await?;
            }
        }
        Ok(())
    }

    /// An event with an odd text, or with bytes that are no text.
    async fn happen_odd(
        &self,
        client: &tokio_postgres::Client,
        rng: &mut fastrand::Rng,
        key: &[u8],
        no_text: bool,
    ) -> Result<()> {
        let id = uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid();
        let marker = no_text.then(|| odd::marker(id));
        let note = marker.clone().unwrap_or_else(|| odd::note(rng, self.plan.encoding));
        let happen = "select happen_odd($1, $2, $3, $4, $5, $6)";
        let kind = KINDS[rng.usize(..KINDS.len())];
        client.execute(happen, &[&kind, &key, &id, &rng.bool(), &note, &marker]).await?;
        Ok(())
    }

    /// A row of the captured table under this name, with an odd text.
    async fn write_mark(&mut self, client: &tokio_postgres::Client, table: &str) -> Result<()> {
        let note = odd::note(&mut self.rng, self.plan.encoding);
        let insert = format!(
            "insert into {table} (colour, note) values ('green', convert_from($1, getdatabaseencoding()))"
        );
        client.execute(&insert, &[&note]).await?;
        Ok(())
    }

    async fn without_column(&mut self, lasting: Duration, kill: bool) -> Result<()> {
        self.change_outbox("alter table relay.outbox drop column causation_id").await?;
        self.watch_for(lasting / 2).await?;
        if kill {
            self.kill().await?;
        }
        self.watch_for(lasting / 2).await?;
        self.change_outbox("alter table relay.outbox add column causation_id text").await
    }

    /// Once more where the upkeep of its partitions was in the way.
    async fn change_outbox(&mut self, sql: &str) -> Result<()> {
        let client = self.source.client().await?;
        match client.batch_execute(sql).await {
            Err(error) if error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) => {
                client.batch_execute(sql).await?;
            }
            done => done.with_context(|| sql.to_owned())?,
        }
        Ok(())
    }

    /// Changes what is published while no event is in the middle of being written.
    async fn change_publication(&mut self, sql: &str, publishes: bool) -> Result<()> {
        let client = self.source.postgres.connect(&self.source.database).await?;
        let change =
            format!("{HOLD_WRITERS}; {sql}; update published set outbox = {publishes}; commit");
        client.batch_execute(&change).await.with_context(|| change)
    }

    async fn unpublish(&mut self) -> Result<()> {
        let drop = "alter publication relay drop table relay.outbox";
        self.change_publication(drop, false).await?;
        self.told("the outbox is not published", &["publish the inserts of relay.outbox"]).await?;
        let add = "alter publication relay add table relay.outbox";
        self.change_publication(add, true).await
    }

    /// A server before 18 cannot decode what is written while there is none, so there it is left.
    async fn publish_anew(&mut self, lasting: Duration) -> Result<()> {
        if self.source.version().await? < 18 {
            return Ok(());
        }
        self.change_publication("drop publication relay", false).await?;
        self.watch_for(lasting).await?;
        let create = "create publication relay for table relay.outbox, public.mark
              with (publish_via_partition_root = true);
            alter publication relay owner to relay";
        self.change_publication(create, true).await
    }

    async fn rename_mark(&mut self, lasting: Duration) -> Result<()> {
        let client = self.source.postgres.connect(&self.source.database).await?;
        self.write_mark(&client, "mark").await?;
        client.batch_execute("alter table mark rename to mark_away").await?;
        self.write_mark(&client, "mark_away").await?;
        self.watch_for(lasting).await?;
        self.write_mark(&client, "mark_away").await?;
        client.batch_execute("alter table mark_away rename to mark").await?;
        self.write_mark(&client, "mark").await
    }

    /// The writers wait meanwhile; what is written under the other name is owed like the rest.
    async fn rename_outbox(&mut self, lasting: Duration) -> Result<()> {
        let holding = self.source.postgres.connect(&self.source.database).await?;
        holding.batch_execute(HOLD_WRITERS).await?;
        self.change_outbox("alter table relay.outbox rename to outbox_away").await?;
        let key = format!("renamed {}", self.rng.u64(..));
        for n in 1..=4_i64 {
            let id = Uuid::from_u128(self.rng.u128(..));
            let insert = "with event as (
                  insert into relay.outbox_away
                    (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, data)
                  values ($1, 'order', $2, $3, 'key.counted', '{}')
                )
                insert into journal (event_id, kind, key, n, digest, bytes, owed)
                values ($1, 'order', $2, $3, md5('{}'), 2, true)";
            self.source.client().await?.execute(insert, &[&id, &key, &n]).await?;
            self.watch_for(lasting / 4).await?;
        }
        self.change_outbox("alter table relay.outbox_away rename to outbox").await?;
        holding.batch_execute("commit").await?;
        Ok(())
    }

    async fn end_sessions(&mut self, lasting: Duration) -> Result<()> {
        let until = Instant::now() + lasting;
        while Instant::now() < until {
            self.source.terminate_walsender().await?;
            self.child.look()?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// The waits between the tries double, so their number is bounded.
    async fn refuse_login(&mut self, replication: bool, lasting: Duration) -> Result<()> {
        let right = if replication { "replication" } else { "login" };
        self.source.execute(&format!("alter role relay no{right}")).await?;
        self.source.terminate_walsender().await?;
        let (before, began) = (self.proxy.tries(), Instant::now());
        self.watch_for(lasting).await?;
        let (tries, time) = (self.proxy.tries() - before, began.elapsed());
        self.source.execute(&format!("alter role relay {right}")).await?;
        // A try is two connections at most, and one may be under way when it begins.
        let doubled = (time.as_secs_f64() / FIRST_WAIT.as_secs_f64()).log2().ceil();
        let most = 2.0 * (doubled + 2.0);
        if f64::from(u32::try_from(tries).unwrap_or(u32::MAX)) > most {
            self.wrong.push(format!(
                "Tries without a back-off: expected at most {most} connections within {time:?} in which {right} was refused, found {tries}; the relay's log ends:\n{}",
                self.child.newest_log()
            ));
        }
        Ok(())
    }

    async fn stop_behind_refusal(&mut self, smart: bool) -> Result<()> {
        self.sky.refuse_all(true);
        self.watch_for(Duration::from_millis(600)).await?;
        if smart {
            self.order.send_replace(Order::Pause);
        }
        self.stop_server(smart).await?;
        self.down(Duration::from_millis(100)).await?;
        self.sky.refuse_all(false);
        self.order.send_replace(Order::Write);
        Ok(())
    }

    /// Stops the server in order; one that does not stop in time is wrong.
    pub(crate) async fn stop_server(&mut self, smart: bool) -> Result<()> {
        if !self.source.stop(smart).await? {
            let how = if smart { "smart" } else { "fast" };
            self.wrong.push(format!(
                "The server is held: expected it to stop ({how}) within {STOP:?}; the relay's log ends:\n{}",
                self.child.newest_log()
            ));
        }
        Ok(())
    }

    async fn revoke_letters(&mut self) -> Result<()> {
        self.source.execute("revoke insert on relay.dead_letter from relay").await?;
        self.sky.add(Mood::EntriesRefused, Duration::from_secs(1), None);
        let id = Uuid::from_u128(self.rng.u128(..));
        self.happen(KINDS[0], id, ABOVE).await?;
        self.told("no dead letter can be written", &["relay.dead_letter"]).await?;
        self.source.execute("grant insert on relay.dead_letter to relay").await
    }

    async fn revoke_types(&mut self, lasting: Duration) -> Result<()> {
        let client = self.source.postgres.connect(&self.source.database).await?;
        client.batch_execute("revoke usage on schema kinds from relay").await?;
        // A new session learns the types anew.
        self.source.terminate_walsender().await?;
        self.write_mark(&client, "mark").await?;
        self.watch_for(lasting).await?;
        self.write_mark(&client, "mark").await?;
        client.batch_execute("grant usage on schema kinds to relay").await?;
        Ok(())
    }

    async fn happen(&mut self, kind: &str, id: Uuid, bytes: i32) -> Result<()> {
        let key = format!("k{}", self.rng.u64(..crate::source::KEYS));
        let happen = "select happen($1, $2, $3, false, $4)";
        self.source.client().await?.execute(happen, &[&kind, &key, &id, &bytes]).await?;
        Ok(())
    }

    fn change_limit(&mut self, at: usize, change: impl FnOnce(&mut Limit, &mut Target)) {
        let limit = &mut self.limits[at];
        limit.since = Some(Instant::now());
        self.broker.change(&self.targets[at], |target| change(limit, target));
    }

    fn raise_limit(&mut self, at: usize) {
        self.change_limit(at, |limit, target| {
            limit.is_raised = true;
            target.limit = RAISED;
        });
    }

    /// Writes an event between the limit and the raised one where a limit was raised, or cannot be
    /// asked for: the relay must leave it to the broker, which takes it.
    pub(crate) async fn probe_limits(&mut self) -> Result<()> {
        for (at, kind) in KINDS.into_iter().enumerate() {
            let Some(since) = self.limits[at].since else {
                continue;
            };
            self.watch_for(LIMIT_IS_KNOWN.saturating_sub(since.elapsed())).await?;
            if self.limits[at].is_refused && !self.limits[at].is_raised {
                self.raise_limit(at);
            }
            let id = Uuid::from_u128(self.rng.u128(..));
            self.happen(kind, id, BETWEEN).await?;
            self.within_limit.insert(id);
        }
        Ok(())
    }

    /// A command of the relay, straight to Postgres.
    pub(crate) fn relay(&self, arguments: &[&str]) -> Command {
        let url = self.source.postgres.url(&self.source.database);
        let mut command = relay_command(&self.relay, &url, "", "http://127.0.0.1:9");
        command.args(arguments).env_remove("RELAY_TOPIC_ARN");
        command
    }

    /// Waits for `relay status` to say all of this, and not that events flow.
    async fn told(&mut self, what: &str, expected: &[&str]) -> Result<()> {
        let until = Instant::now() + TOLD;
        loop {
            self.watch_for(Duration::from_millis(250)).await?;
            let mut command = self.relay(&["status"]);
            let output = tokio::task::spawn_blocking(move || command.output()).await??;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            if !output.status.success() && expected.iter().all(|expected| said.contains(expected)) {
                return Ok(());
            }
            if Instant::now() > until {
                self.wrong.push(format!(
                    "Not told within {TOLD:?}: {what}; expected {expected:?} in what relay status says:\n{said}"
                ));
                return Ok(());
            }
        }
    }
}
