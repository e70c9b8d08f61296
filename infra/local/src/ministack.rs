//! MiniStack: SNS, SQS, Lambda and CloudFormation on loopback.

use crate::process::{Process, command, free_port, tail};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The folder of the stand-ins' Python environment, made by `infra/local/setup`.
#[must_use]
pub fn python() -> PathBuf {
    std::env::var_os("RELAY_LOCAL_PYTHON")
        .map_or_else(|| crate::workspace().join("target/python"), PathBuf::from)
}

/// What a client needs in its environment to speak to MiniStack and to no one else.
#[must_use]
pub fn aws_environment(endpoint: &str) -> Vec<(String, String)> {
    [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_REGION", "us-east-1"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "local"),
        ("AWS_SECRET_ACCESS_KEY", "local"),
        // The user's own profiles stay out of it.
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_PAGER", ""),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Points a command at MiniStack, and takes the caller's own AWS settings out of its sight.
pub fn point_at(command: &mut std::process::Command, endpoint: &str) {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"AWS_") {
            command.env_remove(name);
        }
    }
    command.envs(aws_environment(endpoint));
}

/// A running MiniStack.
#[derive(Debug)]
pub struct MiniStack {
    process: Process,
    port: u16,
}

impl MiniStack {
    /// Starts it with all its state in `folder`.
    ///
    /// # Errors
    /// When it is not installed or does not answer within half a minute.
    pub async fn start(folder: &Path) -> Result<Self> {
        let program = python().join("bin/ministack");
        if !program.exists() {
            bail!(
                "expected MiniStack at {}, found nothing; run infra/local/setup",
                program.display()
            );
        }
        let port = free_port()?;
        let mut server = command(&python().join("bin/python"), "TERM", None);
        point_at(&mut server, "");
        server
            .env_remove("AWS_ENDPOINT_URL")
            .arg(crate::workspace().join("infra/local/start_ministack.py"))
            .env("BIND_HOST", "127.0.0.1")
            .env("MINISTACK_HOST", "127.0.0.1")
            .env("GATEWAY_PORT", port.to_string())
            .env("LOG_LEVEL", "INFO")
            // For the functions, which inherit it.
            .env("AWS_ENDPOINT_URL_S3", format!("http://127.0.0.1:{port}"))
            // Or it opens ports for them on every interface.
            .env("IOT_MTLS_ENABLED", "0")
            .env("SFTP_ENABLED", "0")
            // Code, objects and logs of functions go to its temporary folder.
            .env("TMPDIR", folder)
            .env("S3_DATA_DIR", folder.join("s3"))
            .current_dir(folder);
        let process = Process::start("MiniStack", server, &folder.join("ministack.log"))?;
        let mut stack = Self { process, port };
        let deadline = Instant::now() + Duration::from_secs(30);
        while stack.health().await.is_err() {
            if !stack.process.is_running() || Instant::now() > deadline {
                bail!("MiniStack does not start; its log ends:\n{}", tail(&stack.process.log()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(stack)
    }

    async fn health(&self) -> Result<()> {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.write_all(b"GET /_ministack/health HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.context("read the health")?;
        if answer.contains(" 200 ") { Ok(()) } else { bail!("not healthy yet") }
    }

    /// Where it answers.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it and its functions have printed.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Ends it, and the functions it runs.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop(&mut self) -> Result<()> {
        self.process.terminate(Duration::from_secs(10)).await.map(drop)
    }
}
