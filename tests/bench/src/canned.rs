//! A broker that costs next to nothing: it takes every batch, and answers after a given time with
//! what was written before the first request came.
//!
//! Knows: as much of HTTP/1.1 and of the two wire formats as the AWS SDK sends. Must not know:
//! what a message says.

use anyhow::{Context as _, Result};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long each answer takes, in milliseconds.
    #[arg(long)]
    latency: u64,
}

/// The server in a process of its own; dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Canned {
    process: Child,
    pub(crate) endpoint: String,
}

impl Canned {
    pub(crate) fn start(latency: u32) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["client", "canned", "--latency", &latency.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the canned server")?;
        let mut endpoint = String::new();
        let stdout = process.stdout.take().context("no output to read")?;
        BufReader::new(stdout).read_line(&mut endpoint)?;
        Ok(Self { process, endpoint: endpoint.trim().to_owned() })
    }
}

impl Drop for Canned {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Prints where it answers, and answers until it is killed.
pub(crate) async fn run(options: Options) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("bind a port")?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let answers = Rc::new(Answers::new(&endpoint));
    println!("{endpoint}");
    let latency = Duration::from_millis(options.latency);
    let clients = tokio::task::LocalSet::new();
    let serving = async {
        loop {
            let (socket, _) = listener.accept().await?;
            // A client that goes away ends its own connection only.
            tokio::task::spawn_local(serve(socket, Rc::clone(&answers), latency));
        }
    };
    clients.run_until(serving).await
}

async fn serve(
    mut socket: TcpStream,
    answers: Rc<Answers>,
    latency: Duration,
) -> std::io::Result<()> {
    const READ: usize = 32 << 10;
    socket.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(READ);
    loop {
        let Some(request) = Request::in_front(&buffer) else {
            buffer.reserve(READ);
            if socket.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let arrived = Instant::now();
        let answer = answers.to(&request);
        let length = request.length;
        buffer.drain(..length);
        if !latency.is_zero() {
            tokio::time::sleep_until(arrived + latency).await;
        }
        socket.write_all(answer).await?;
    }
}

/// One request at the front of a buffer.
struct Request<'a> {
    head: &'a [u8],
    body: &'a [u8],
    /// Of both.
    length: usize,
}

impl<'a> Request<'a> {
    fn in_front(buffer: &'a [u8]) -> Option<Self> {
        let head = buffer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let (head, rest) = buffer.split_at_checked(head)?;
        let body = rest.get(..content_length(head).unwrap_or(0))?;
        Some(Self { head, body, length: head.len() + body.len() })
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let mut lines = head.split(|byte| *byte == b'\n');
    let value = lines.find_map(|line| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        name.eq_ignore_ascii_case(NAME).then_some(value)
    })?;
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

/// Whole answers, head and body, by the number of entries that were sent.
struct Answers {
    topic: Vec<Vec<u8>>,
    queue: Vec<Vec<u8>>,
    topic_attributes: Vec<u8>,
    queue_attributes: Vec<u8>,
    queue_url: Vec<u8>,
    unknown: Vec<u8>,
}

impl Answers {
    fn new(endpoint: &str) -> Self {
        const XML: &str = "text/xml";
        const JSON: &str = "application/x-amz-json-1.0";
        let queue_url = format!(r#"{{"QueueUrl":"{endpoint}/000000000000/bench"}}"#);
        let attributes = r#"{"Attributes":{"MaximumMessageSize":"1048576"}}"#;
        Self {
            topic: (0..=10).map(|n| answer("200 OK", XML, &published(n))).collect(),
            queue: (0..=10).map(|n| answer("200 OK", JSON, &sent(n))).collect(),
            topic_attributes: answer("200 OK", XML, TOPIC_ATTRIBUTES),
            queue_attributes: answer("200 OK", JSON, attributes),
            queue_url: answer("200 OK", JSON, &queue_url),
            unknown: answer("400 Bad Request", JSON, r#"{"__type":"UnknownOperation"}"#),
        }
    }

    fn to(&self, request: &Request<'_>) -> &[u8] {
        // The number stands in the name of the last entry's fields, from 1.
        const MEMBER: &[u8] = b"PublishBatchRequestEntries.member.";
        // The entries' ids are 0, 1, 2 …; within a body the quotes would be escaped.
        const ID: &[u8] = br#""Id":""#;
        let entries = if request.body.starts_with(b"Action=PublishBatch&") {
            let last = number_after_last(request.body, MEMBER);
            last.and_then(|last| self.topic.get(last))
        } else if request.body.starts_with(b"Action=GetTopicAttributes&") {
            Some(&self.topic_attributes)
        } else if holds(request.head, b"AmazonSQS.SendMessageBatch") {
            let last = number_after_last(request.body, ID);
            last.and_then(|last| self.queue.get(last + 1))
        } else if holds(request.head, b"AmazonSQS.GetQueueAttributes") {
            Some(&self.queue_attributes)
        } else if holds(request.head, b"AmazonSQS.GetQueueUrl") {
            Some(&self.queue_url)
        } else {
            None
        };
        entries.unwrap_or(&self.unknown)
    }
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn number_after_last(text: &[u8], part: &[u8]) -> Option<usize> {
    let at = text.windows(part.len()).rposition(|window| window == part)? + part.len();
    let digits = text.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit());
    digits.map(|digit| usize::from(digit - b'0')).reduce(|number, digit| number * 10 + digit)
}

fn answer(status: &str, content_type: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\nx-amzn-requestid: {REQUEST}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

const REQUEST: &str = "00000000-0000-4000-8000-000000000000";

const TOPIC_ATTRIBUTES: &str = "<GetTopicAttributesResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><GetTopicAttributesResult><Attributes><entry><key>DisplayName</key><value>bench</value></entry></Attributes></GetTopicAttributesResult></GetTopicAttributesResponse>";

fn published(entries: usize) -> String {
    let mut members = String::new();
    for id in 0..entries {
        let _ = write!(members, "<member><MessageId>{REQUEST}</MessageId><Id>{id}</Id></member>");
    }
    format!(
        "<PublishBatchResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><PublishBatchResult><Failed/><Successful>{members}</Successful></PublishBatchResult><ResponseMetadata><RequestId>{REQUEST}</RequestId></ResponseMetadata></PublishBatchResponse>"
    )
}

fn sent(entries: usize) -> String {
    const MD5: &str = "00000000000000000000000000000000";
    let entries: Vec<String> = (0..entries)
        .map(|id| {
            format!(
                r#"{{"Id":"{id}","MessageId":"{REQUEST}","MD5OfMessageBody":"{MD5}","MD5OfMessageAttributes":"{MD5}"}}"#
            )
        })
        .collect();
    format!(r#"{{"Successful":[{}],"Failed":[]}}"#, entries.join(","))
}
