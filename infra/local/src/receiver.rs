//! A receiver of HTTP calls on loopback: it counts them by their key, and misbehaves on request.

use anyhow::{Context, Result};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

/// What it does with a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Behaviour {
    /// Takes it and answers with this status.
    Answer(u16),
    /// Takes it and answers with this status and this `Retry-After`.
    AnswerLater(u16, &'static str),
    /// Takes it and closes the connection without a word.
    HangUp,
    /// Takes it and says nothing for as long as the caller waits.
    Silence,
    /// Closes the connection before it has read anything.
    Refuse,
}

#[derive(Debug, Default)]
struct State {
    /// The next calls; then each is answered 202.
    script: VecDeque<Behaviour>,
    calls: BTreeMap<String, u32>,
    bodies: Vec<String>,
}

/// A running receiver.
#[derive(Clone, Debug)]
pub struct Receiver {
    state: Arc<Mutex<State>>,
    port: u16,
}

impl Receiver {
    /// Listens on a free port of loopback.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen on loopback")?;
        let receiver = Self::behind(listener.local_addr().context("read the port")?.port());
        let serving = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move { serving.serve(stream).await });
            }
        });
        Ok(receiver)
    }

    /// One that is handed its connections ([`Receiver::serve`]), which come in by this port.
    #[must_use]
    pub fn behind(port: u16) -> Self {
        Self { state: Arc::default(), port }
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it is called.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/notices", self.port)
    }

    /// The next calls go like this.
    pub fn then(&self, script: impl IntoIterator<Item = Behaviour>) {
        self.state().script.extend(script);
    }

    /// How often calls with each `Idempotency-Key` were taken.
    #[must_use]
    pub fn calls(&self) -> BTreeMap<String, u32> {
        self.state().calls.clone()
    }

    /// What was posted, in the order of arrival.
    #[must_use]
    pub fn bodies(&self) -> Vec<String> {
        self.state().bodies.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one call; nothing where it was none, or broke off.
    pub async fn serve(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<()> {
        let behaviour = self.state().script.pop_front().unwrap_or(Behaviour::Answer(202));
        if behaviour == Behaviour::Refuse {
            return None;
        }
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).ok()?.to_lowercase();
        let field = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
        };
        if !head.starts_with("post /notices http/1.1") {
            return None;
        }
        let mut body = vec![0; field("content-length:")?.parse().ok()?];
        stream.read_exact(&mut body).await.ok()?;
        let (key, body) = (field("idempotency-key:")?, String::from_utf8(body).ok()?);
        {
            let mut state = self.state();
            *state.calls.entry(key).or_default() += 1;
            state.bodies.push(body);
        }
        match behaviour {
            Behaviour::Answer(status) => {
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.ok()?;
                stream.shutdown().await.ok()
            }
            Behaviour::AnswerLater(status, after) => {
                let answer = format!(
                    "HTTP/1.1 {status} X\r\nretry-after: {after}\r\ncontent-length: 0\r\n\r\n"
                );
                stream.write_all(answer.as_bytes()).await.ok()?;
                stream.shutdown().await.ok()
            }
            Behaviour::HangUp | Behaviour::Refuse => None,
            Behaviour::Silence => stream.read_u8().await.ok().map(drop),
        }
    }
}
