//! The whole system on one machine: Postgres, MiniStack, the template, the relay.

use crate::deploy::{CLAIM_CHECK_BUCKET, Deployed, Functions, aws, deploy};
use crate::ministack::{MiniStack, point_at};
use crate::orders::SHOP;
use crate::postgres::Postgres;
use crate::process::{Process, command, tail};
use crate::receiver::Receiver;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tokio_postgres::Client;

/// The database of the shop, which the events come from.
pub const SHOP_DATABASE: &str = "shop";

/// The database of the read model.
pub const READ_MODEL_DATABASE: &str = "read_model";

/// The DDL of the read model's own table.
pub const ORDER_SUMMARY: &str = include_str!("../../../lambdas/order_summary/order_summary.sql");

/// The DDL of the list beside the customers.
pub const CUSTOMER_ORDERS: &str =
    include_str!("../../../lambdas/customer_orders/customer_orders.sql");

/// The parts, in the order in which they are dropped: readers before what they read.
#[derive(Debug)]
pub struct Stack {
    relay: Process,
    /// What the template made.
    pub deployed: Deployed,
    ministack: MiniStack,
    postgres: Postgres,
    /// What the notifier calls.
    pub receiver: Receiver,
    folder: TempDir,
}

/// A binary of this workspace, beside the one that runs.
///
/// # Errors
/// When it was not built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find the running program")?;
    let found =
        own.ancestors().skip(1).take(3).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "expected the program {name} beside {}, found none; run cargo build --workspace",
            own.display()
        )
    })
}

/// A command of the relay with nothing of the caller's configuration.
#[must_use]
pub fn relay_command(relay: &Path, database_url: &str, topic_arn: &str, endpoint: &str) -> Command {
    let mut run = command(relay, "TERM", None);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"RELAY_") {
            run.env_remove(name);
        }
    }
    point_at(&mut run, endpoint);
    run.env("DATABASE_URL", database_url).env("RELAY_TOPIC_ARN", topic_arn);
    run
}

/// Runs a command to its end; returns what it printed.
///
/// # Errors
/// When it fails.
pub fn output_of(mut command: Command) -> Result<String> {
    let output = command.output().context("start a command")?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{command:?} failed:\n{printed}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(printed)
}

/// Makes the databases of the shop and the read model and all that stands in them.
///
/// # Errors
/// When a step fails.
pub async fn prepare(postgres: &Postgres, relay: &Path) -> Result<()> {
    let root = postgres.connect("postgres").await?;
    root.batch_execute(&format!("create database {SHOP_DATABASE}")).await?;
    root.batch_execute(&format!("create database {READ_MODEL_DATABASE}")).await?;
    postgres.connect(SHOP_DATABASE).await?.batch_execute(SHOP).await.context("make the shop")?;
    let mut init = relay_command(relay, &postgres.url(SHOP_DATABASE), "", "http://127.0.0.1:9");
    init.arg("init").env_remove("RELAY_TOPIC_ARN");
    output_of(init)?;
    let mut init = relay_command(relay, "", "", "http://127.0.0.1:9");
    init.args(["init", "--read-model"]).env_remove("RELAY_TOPIC_ARN").env_remove("DATABASE_URL");
    init.env("READ_MODEL_URL", postgres.url(READ_MODEL_DATABASE));
    output_of(init)?;
    let read_model = postgres.connect(READ_MODEL_DATABASE).await?;
    for table in [ORDER_SUMMARY, CUSTOMER_ORDERS] {
        read_model.batch_execute(table).await.context("make the read model")?;
    }
    Ok(())
}

impl Stack {
    /// Starts everything; `say` is told what is being done.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start(say: impl Fn(&str)) -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("relay-demo-").tempdir().context("make a folder")?;
        let relay = binary("relay")?;
        let functions = Functions {
            order_summary: binary("order_summary")?,
            customer_orders: binary("customer_orders")?,
            notifier: binary("notifier")?,
            orders_api: binary("orders_api")?,
        };
        say("Postgres, with wal_level = logical");
        let postgres = Postgres::start(&[("fsync", "on")]).await?;
        say("relay init: tables, publication, slot; the read model's inbox");
        prepare(&postgres, &relay).await?;
        say("MiniStack: SNS, SQS, Lambda, CloudFormation");
        let ministack = MiniStack::start(folder.path()).await?;
        let receiver = Receiver::start().await?;
        say("infra/template.yaml, with order_summary, customer_orders, notifier and orders_api");
        let read_model_url = postgres.url(READ_MODEL_DATABASE);
        let deployed =
            deploy(&ministack, &functions, &read_model_url, &receiver.url(), folder.path())?;
        say("relay run");
        let mut run = relay_command(
            &relay,
            &postgres.url(SHOP_DATABASE),
            &deployed.topic_arn,
            &ministack.endpoint(),
        );
        run.arg("run").env("RELAY_CLAIM_CHECK_BUCKET", CLAIM_CHECK_BUCKET);
        let mut relay = Process::start("relay run", run, &folder.path().join("relay.log"))?;
        relay.said("streaming", Duration::from_secs(20)).await?;
        Ok(Self { relay, deployed, ministack, postgres, receiver, folder })
    }

    /// A connection to the shop.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub async fn shop(&self) -> Result<Client> {
        self.postgres.connect(SHOP_DATABASE).await
    }

    /// A connection to the read model.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub async fn read_model(&self) -> Result<Client> {
        self.postgres.connect(READ_MODEL_DATABASE).await
    }

    /// The connection string of one of the databases.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.postgres.url(database)
    }

    /// Where MiniStack answers.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.ministack.endpoint()
    }

    /// Runs the AWS command line against MiniStack; returns what it printed.
    ///
    /// # Errors
    /// When the command fails.
    pub fn aws(&self, arguments: &[&str]) -> Result<String> {
        aws(&self.ministack, arguments)
    }

    /// The folder of the logs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The last lines of the relay's log and of MiniStack's, which has the function's.
    #[must_use]
    pub fn logs(&self) -> String {
        format!(
            "relay:\n{}\n\nMiniStack and the function:\n{}",
            tail(&self.relay.log()),
            tail(&self.ministack.log())
        )
    }

    /// Ends the relay with SIGTERM, then the rest.
    ///
    /// # Errors
    /// When the relay does not end in order.
    pub async fn stop(mut self) -> Result<()> {
        let status = self.relay.terminate(Duration::from_secs(30)).await?;
        if !status.success() {
            bail!(
                "expected the relay to end in order, found {status}; its log ends:\n{}",
                tail(&self.relay.log())
            );
        }
        self.ministack.stop().await?;
        self.postgres.stop().await
    }
}
