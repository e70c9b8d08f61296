//! One seed: the load, the faults, the quiet after them, and the evidence.

use crate::child::{Child, GRACE};
use crate::judge::{Note, Verdict};
use crate::plan::{Kind, Mood, Plan, Strike};
use crate::proxy::{Cut, Proxy};
use crate::sky::Sky;
use crate::source::{KINDS, Source, as_relay};
use crate::strikes;
use crate::writers::{Order, large_transaction, seed_of, write};
use anyhow::{Context, Result, bail, ensure};
use local::stack::{output_of, relay_command};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tests::broker::{Broker, Fault};
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

/// The destinations' limit of a message and of a batch, in bytes: low, so that a batch meets
/// it and a few events are over it.
pub(crate) const LIMIT: usize = 16 * 1024;

/// How often the slot and the relay are looked at.
pub(crate) const LOOK: Duration = Duration::from_millis(40);

/// How often `relay status` is asked.
const STATUS: Duration = Duration::from_secs(3);

/// `relay status` may not say that events flow when none has for so long.
const STILL: Duration = Duration::from_secs(30);

/// The captured table.
const TABLES: &str = "public.mark";

/// What came of a seed.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) committed: usize,
    pub(crate) accepted: usize,
    pub(crate) letters: usize,
    pub(crate) kills: usize,
    pub(crate) verdict: Verdict,
    /// The most memory that a relay had resident, in KiB.
    pub(crate) peak: u64,
    /// What was wrong, a paragraph each.
    pub(crate) wrong: Vec<String>,
}

/// The parts of a run, in the order in which they are dropped.
pub(crate) struct Run {
    pub(crate) plan: Plan,
    pub(crate) rng: fastrand::Rng,
    pub(crate) child: Child,
    writers: JoinSet<Result<()>>,
    pub(crate) order: watch::Sender<Order>,
    side: JoinSet<()>,
    pub(crate) proxy: Proxy,
    pub(crate) sky: Sky,
    pub(crate) broker: Broker,
    pub(crate) source: Source,
    pub(crate) relay: PathBuf,
    /// The two destinations as the broker calls them.
    pub(crate) targets: [String; 2],
    /// What was done to their limits.
    pub(crate) limits: [strikes::Limit; 2],
    /// Events over a limit that was raised before they were written.
    pub(crate) within_limit: HashSet<Uuid>,
    /// What `relay status` says, asked on another thread.
    status: JoinSet<Result<String>>,
    asked_at: Instant,
    /// What was accepted, set aside and confirmed, and since when.
    progress: (usize, i64, u64),
    moved_at: Instant,
    pub(crate) notes: Vec<Note>,
    /// How many messages had been accepted when the relay was started again.
    pub(crate) starts: Vec<usize>,
    pub(crate) kills: usize,
    pub(crate) wrong: Vec<String>,
}

impl Run {
    /// Makes everything and starts this relay and the writers; logs go to `folder`.
    pub(crate) async fn start(plan: Plan, relay: PathBuf, folder: &Path) -> Result<Self> {
        let mut source = Source::start(plan.sender_timeout, plan.encoding).await?;
        let own = as_relay(&source.postgres.url(&source.database));
        let mut init = relay_command(&relay, &own, "", "");
        init.arg("init").env_remove("RELAY_TOPIC_ARN").current_dir(folder);
        init.env("RELAY_TABLES", TABLES);
        output_of(init)?;
        source.prepare().await?;
        let broker = Broker::start();
        let (addresses, targets) = destinations(&broker, plan.destinations);
        let proxy = Proxy::start(source.postgres.port()).await?;
        let url = source.postgres.url(&source.database);
        let through =
            own.replace(&format!(":{}/", source.postgres.port()), &format!(":{}/", proxy.port()));
        let command = {
            let relay = relay.clone();
            let (endpoint, folder) = (broker.endpoint().to_owned(), folder.to_owned());
            let plan = plan.clone();
            move || {
                let mut run = relay_command(&relay, &through, &addresses[0], &endpoint);
                run.arg("run").current_dir(&folder);
                run.env("RELAY_ROUTES", format!("{}={}", KINDS[1], addresses[1]));
                run.env("RELAY_TABLES", TABLES);
                run.env("RELAY_BYTES_IN_FLIGHT", format!("{}KiB", plan.budget));
                run.env("RELAY_REQUESTS_IN_FLIGHT", plan.requests.to_string());
                run.env("RELAY_SHUTDOWN_GRACE", format!("{}s", GRACE.as_secs()));
                run
            }
        };
        let mut child = Child::new(command, folder.to_owned());
        child.start()?;
        let sky = Sky::over(&broker, plan.seed, plan.background);
        let (order, ordered) = watch::channel(Order::Write);
        let mut writers = JoinSet::new();
        for writer in 0..plan.writers {
            writers.spawn(write(url.clone(), seed_of(plan.seed, writer), ordered.clone()));
        }
        Ok(Self {
            rng: fastrand::Rng::with_seed(seed_of(plan.seed, u64::MAX)),
            plan,
            child,
            writers,
            order,
            side: JoinSet::new(),
            proxy,
            sky,
            broker,
            source,
            relay,
            targets,
            limits: Default::default(),
            within_limit: HashSet::new(),
            status: JoinSet::new(),
            asked_at: Instant::now(),
            progress: Default::default(),
            moved_at: Instant::now(),
            notes: Vec::new(),
            starts: Vec::new(),
            kills: 0,
            wrong: Vec::new(),
        })
    }

    /// Carries the plan out and judges.
    pub(crate) async fn finish(mut self) -> Result<Outcome> {
        self.watch_for(Duration::from_secs(1)).await?;
        for (pause, strike) in self.plan.strikes.clone() {
            self.watch_for(pause).await?;
            self.strike(strike).await.with_context(|| format!("carry out: {strike}"))?;
            if let Some(ended) = self.writers.try_join_next() {
                ended??;
                bail!("expected the writers to go on until they are told to stop");
            }
        }
        self.watch_for(Duration::from_millis(500)).await?;
        self.quiet().await?;
        self.probe_limits().await?;
        self.settle().await
    }

    /// Looks at the slot and at the relay for so long.
    pub(crate) async fn watch_for(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.child.look()?;
            self.note("while it ran").await?;
            self.ask_status()?;
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// What the slot has confirmed first, what is done with then: so whatever it has confirmed
    /// must be among what is done with.
    pub(crate) async fn note(&mut self, when: &str) -> Result<()> {
        let (confirmed, _) = self.source.slot().await?;
        let accepted = self.broker.state().accepted.len();
        let letter = self.source.newest_letter().await?;
        let progress = (accepted, letter, confirmed);
        if self.progress != progress {
            (self.progress, self.moved_at) = (progress, Instant::now());
        }
        self.notes.push(Note { when: when.to_owned(), confirmed, accepted, letter });
        Ok(())
    }

    /// Asks `relay status` from time to time: where nothing moves it may not say that events flow.
    /// Events are owed all the while: the writers write, or it is waited for what they wrote.
    fn ask_status(&mut self) -> Result<()> {
        if let Some(said) = self.status.try_join_next() {
            let said = said??;
            if self.moved_at.elapsed() > STILL && says_that_events_flow(&said) {
                let since = self.moved_at.elapsed();
                self.wrong.push(format!(
                    "Status lies: nothing was accepted, set aside or confirmed for {since:?}, and relay status says:\n{said}"
                ));
                // Said once.
                self.moved_at = Instant::now();
            }
        }
        if self.status.is_empty() && self.asked_at.elapsed() >= STATUS {
            self.asked_at = Instant::now();
            let mut command = self.relay(&["status"]);
            self.status.spawn_blocking(move || {
                let output = command.output().context("run relay status")?;
                Ok(String::from_utf8_lossy(&output.stdout).into_owned())
            });
        }
        Ok(())
    }

    async fn strike(&mut self, strike: Strike) -> Result<()> {
        match strike {
            Strike::Kill => self.kill().await,
            Strike::KillBehindHang => {
                self.broker.script([Fault::Hang(Duration::from_secs(30))]);
                // Time for others to be accepted behind it and for two reports of the position.
                let before = self.broker.state().accepted.len();
                let until = Instant::now() + Duration::from_secs(2);
                while self.broker.state().accepted.len() < before + 50 && Instant::now() < until {
                    self.watch_for(LOOK).await?;
                }
                self.watch_for(self.plan.sender_timeout / 2).await?;
                self.kill().await
            }
            Strike::Terminate => self.terminate().await,
            Strike::Restart(down) => {
                self.stop_server(false).await?;
                self.down(down).await
            }
            Strike::Crash(down) => {
                self.source.postgres.crash().await?;
                self.down(down).await
            }
            Strike::TerminateWalsender => self.source.terminate_walsender().await,
            Strike::Cut { after, to_relay, reset } => {
                self.proxy.cut(Cut { after, to_relay, reset });
                Ok(())
            }
            Strike::Silence(time) => {
                self.proxy.silence(true);
                self.watch_for(time).await?;
                self.proxy.silence(false);
                Ok(())
            }
            Strike::Broker { mood, lasting, only } => {
                let only = only.and_then(|at| self.targets.get(at).cloned());
                self.sky.add(mood, lasting, only);
                Ok(())
            }
            Strike::NeverAnswered => {
                self.broker.script([Fault::Hang(Duration::from_secs(60))]);
                Ok(())
            }
            Strike::LockDeadLetters(time) => self.lock_dead_letters(time).await,
            Strike::Redrive => self.redrive().await,
            Strike::LargeTransaction(events) => {
                let client = self.source.postgres.connect(&self.source.database).await?;
                let mut rng = self.rng.fork();
                let cut =
                    Cut { after: rng.usize(100_000..500_000), to_relay: true, reset: rng.bool() };
                // Half of them are cut off in the middle: to be read on from there.
                if rng.bool() {
                    large_transaction(&client, events, &mut rng).await;
                    self.proxy.cut(cut);
                } else {
                    self.side
                        .spawn(async move { large_transaction(&client, events, &mut rng).await });
                }
                Ok(())
            }
            hard => self.hard_strike(hard).await,
        }
    }

    /// Kills the relay, and notes what its slot had confirmed at that very moment.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.broker.client_is_gone();
        self.kills += 1;
        // Nothing is accepted any more that this relay could have known of.
        let accepted = self.broker.state().accepted.len();
        let letter = self.source.newest_letter().await?;
        // What it had reported counts when its walsender has read it, and is gone.
        let deadline = Instant::now() + Duration::from_secs(10);
        let confirmed = loop {
            let (confirmed, active) = self.source.slot().await?;
            if !active {
                break confirmed;
            }
            ensure!(Instant::now() < deadline, "expected the walsender of a killed relay to end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let when = format!("at kill {}", self.kills);
        self.notes.push(Note { when, confirmed, accepted, letter });
        self.start_again()
    }

    fn start_again(&mut self) -> Result<()> {
        self.starts.push(self.broker.state().accepted.len());
        self.child.start()
    }

    async fn terminate(&mut self) -> Result<()> {
        let ended = self.child.terminate().await;
        self.broker.client_is_gone();
        match ended {
            // 1: the grace was over before all was sent.
            Ok(status) if matches!(status.code(), Some(0 | 1)) => {}
            Ok(status) => self.wrong.push(format!(
                "SIGTERM: expected the relay to end with 0 or 1, found {status}; its log ends:\n{}",
                self.child.newest_log()
            )),
            Err(error) => self.wrong.push(format!("SIGTERM: {error:#}")),
        }
        self.note("after a SIGTERM").await?;
        self.start_again()
    }

    /// Leaves the server down for a while, then starts it.
    pub(crate) async fn down(&mut self, down: Duration) -> Result<()> {
        tokio::time::sleep(down).await;
        self.source.postgres.restart().await?;
        self.child.look()
    }

    /// Entries are refused, and their dead letters cannot be written, by a lock that readers pass.
    async fn lock_dead_letters(&mut self, time: Duration) -> Result<()> {
        self.sky.add(Mood::EntriesRefused, time, None);
        let client = self.source.postgres.connect(&self.source.database).await?;
        self.side.spawn(async move {
            let lock = "begin; lock table relay.dead_letter in exclusive mode";
            if client.batch_execute(lock).await.is_ok() {
                tokio::time::sleep(time).await;
            }
        });
        Ok(())
    }

    /// Sends the dead letters again; on another thread, since it may wait for a lock held here.
    async fn redrive(&mut self) -> Result<()> {
        let mut command = self.relay(&["dead-letters", "redrive", "--all"]);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        // Bytes that are no text were no event that could be read.
        ensure!(output.status.success() || said.contains("cannot be redriven"), "{said}");
        Ok(())
    }

    /// No more faults and no more load.
    async fn quiet(&mut self) -> Result<()> {
        self.broker.calm();
        self.proxy.calm();
        self.order.send_replace(Order::Stop);
        while let Some(ended) = self.writers.join_next().await {
            ended??;
        }
        while let Some(ended) = self.side.join_next().await {
            ended?;
        }
        Ok(())
    }
}

/// Whether the last sentence of `relay status` says that all is well.
fn says_that_events_flow(said: &str) -> bool {
    said.lines().any(|line| line.starts_with("Events flow."))
}

/// Makes the destinations; returns the relay's addresses of them and the broker's names.
fn destinations(broker: &Broker, kinds: [Kind; 2]) -> ([String; 2], [String; 2]) {
    let names = ["first", "second"];
    let mut at = 0;
    let made = kinds.map(|kind| {
        let name = names[at];
        at += 1;
        let (address, target) = match kind {
            Kind::FifoTopic => (broker.topic(&format!("{name}.fifo")), None),
            Kind::Topic => (broker.topic(name), None),
            Kind::FifoQueue => {
                let name = format!("{name}.fifo");
                (broker.queue(&name), Some(name))
            }
            Kind::Queue => (broker.queue(name), Some(name.to_owned())),
        };
        let target = target.unwrap_or_else(|| address.clone());
        broker.change(&target, |target| {
            target.limit = LIMIT;
            // Every message is to be seen, the repeats too.
            target.deduplicates = false;
        });
        (address, target)
    });
    let [(a, b), (c, d)] = made;
    ([a, c], [b, d])
}
