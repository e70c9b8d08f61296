//! The template onto MiniStack, with the commands that deploy it to AWS.

use crate::ministack::{MiniStack, point_at, python};
use crate::process::command;
use crate::read_back::OrdersApi;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// The stack's name, and so the prefix of what it makes.
const STACK: &str = "relay-demo";

/// The bucket for events that are too large for a message.
pub const CLAIM_CHECK_BUCKET: &str = "relay-large-events";

/// What the template made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Deployed {
    /// For the relay.
    pub topic_arn: String,
    /// What the function reads.
    pub queue_url: String,
    /// What the function could not take.
    pub dead_letter_queue_url: String,
    /// The function.
    pub function: String,
    /// The query service.
    pub orders_api: OrdersApi,
}

/// The functions' binaries.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Functions {
    /// The life of an order as one row.
    pub order_summary: PathBuf,
    /// Orders beside their customers.
    pub customer_orders: PathBuf,
    /// A call for each paid order.
    pub notifier: PathBuf,
    /// Orders over HTTP.
    pub orders_api: PathBuf,
}

/// Runs the AWS command line against MiniStack; returns what it printed.
///
/// # Errors
/// When the command fails.
pub fn aws(ministack: &MiniStack, arguments: &[&str]) -> Result<String> {
    let mut run = command(&python().join("bin/aws"), "TERM", None);
    point_at(&mut run, &ministack.endpoint());
    let output = run.args(arguments).output();
    let output = output.context("run the AWS command line; infra/local/setup installs it")?;
    if !output.status.success() {
        bail!("aws {} failed:\n{}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Deploys `infra/template.yaml` with these functions; the notifier calls `notify_url`.
///
/// # Errors
/// When a step fails.
pub fn deploy(
    ministack: &MiniStack,
    functions: &Functions,
    read_model_url: &str,
    notify_url: &str,
    folder: &Path,
) -> Result<Deployed> {
    let code = folder.join("code");
    for (name, binary) in [
        ("order_summary", &functions.order_summary),
        ("customer_orders", &functions.customer_orders),
        ("notifier", &functions.notifier),
        ("orders_api", &functions.orders_api),
    ] {
        pack(name, binary, folder, &code)?;
    }
    let template = crate::workspace().join("infra/template.yaml");
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" };
    for bucket in ["relay-code", CLAIM_CHECK_BUCKET] {
        aws(ministack, &["s3", "mb", &format!("s3://{bucket}")])?;
    }
    aws(
        ministack,
        &[
            "s3",
            "cp",
            &code.to_string_lossy(),
            "s3://relay-code",
            "--recursive",
            "--only-show-errors",
        ],
    )?;
    aws(
        ministack,
        &[
            "cloudformation",
            "deploy",
            "--stack-name",
            STACK,
            "--template-file",
            &template.to_string_lossy(),
            "--capabilities",
            "CAPABILITY_IAM",
            "--parameter-overrides",
            "CodeBucket=relay-code",
            "CodeKey=order_summary.zip",
            "CustomerOrdersCodeKey=customer_orders.zip",
            "NotifierCodeKey=notifier.zip",
            "OrdersApiCodeKey=orders_api.zip",
            &format!("NotifyUrl={notify_url}"),
            &format!("ReadModelUrl={read_model_url}"),
            &format!("ClaimCheckBucket={CLAIM_CHECK_BUCKET}"),
            &format!("Architecture={architecture}"),
        ],
    )?;
    let deployed = outputs(ministack)?;
    // MiniStack's CloudFormation drops FifoTopic, which AWS's does not.
    let topic = &deployed.topic_arn;
    aws(
        ministack,
        &[
            "sns",
            "set-topic-attributes",
            "--topic-arn",
            topic,
            "--attribute-name",
            "FifoTopic",
            "--attribute-value",
            "true",
        ],
    )?;
    Ok(deployed)
}

/// Packs this binary into a zip file of the folder `code`, as Lambda wants it; works in `folder`.
///
/// # Errors
/// When the binary is not there, or cannot be packed.
pub fn pack(name: &str, binary: &Path, folder: &Path, code: &Path) -> Result<PathBuf> {
    let own = folder.join(name);
    for folder in [&own, code] {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("make the folder {}", folder.display()))?;
    }
    let (bootstrap, zip) = (own.join("bootstrap"), code.join(format!("{name}.zip")));
    std::fs::copy(binary, &bootstrap)
        .with_context(|| format!("copy the function {}", binary.display()))?;
    let packed = command(&python().join("bin/python"), "TERM", None)
        .args(["-m", "zipfile", "-c"])
        .args([&zip, &bootstrap])
        .status()
        .context("pack the function")?;
    if !packed.success() {
        bail!("the function could not be packed into {}", zip.display());
    }
    Ok(zip)
}

fn outputs(ministack: &MiniStack) -> Result<Deployed> {
    let text = aws(
        ministack,
        &[
            "cloudformation",
            "describe-stacks",
            "--stack-name",
            STACK,
            "--query",
            "Stacks[0].Outputs",
            "--output",
            "json",
        ],
    )?;
    let outputs: serde_json::Value =
        serde_json::from_str(&text).context("read the stack's outputs")?;
    let value = |key: &str| {
        let output = outputs.as_array()?.iter().find(|output| output["OutputKey"] == key)?;
        Some(output["OutputValue"].as_str()?.to_owned())
    };
    let needed = |key: &str| {
        value(key).with_context(|| format!("expected the output {key} of the stack, found {text}"))
    };
    Ok(Deployed {
        topic_arn: needed("TopicArn")?,
        queue_url: needed("QueueUrl")?,
        dead_letter_queue_url: needed("DeadLetterQueueUrl")?,
        function: needed("FunctionName")?,
        orders_api: OrdersApi::new(&needed("OrdersApiUrl")?, &ministack.endpoint())?,
    })
}
