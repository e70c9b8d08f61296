//! A receiver of calls on loopback that counts them by their key, and misbehaves on request.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What it does with a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Behaviour {
    /// Takes it and answers so.
    Answer(u16),
    /// Takes it and closes the connection without a word.
    HangUp,
    /// Takes it and says nothing for as long as the caller waits.
    Silence,
    /// Closes the connection before it has read anything.
    Refuse,
}

#[derive(Debug, Default)]
struct State {
    /// The next calls; then all is well.
    script: VecDeque<Behaviour>,
    calls: HashMap<String, u32>,
    bodies: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct Receiver {
    state: Arc<Mutex<State>>,
    pub(crate) port: u16,
}

impl Receiver {
    pub(crate) async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let receiver = Self { state: Arc::default(), port };
        let serving = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (serving, tls) = (serving.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serving.serve(stream).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serving.serve(stream).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        receiver
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/notices", self.port)
    }

    /// The next calls go like this.
    pub(crate) fn then(&self, script: impl IntoIterator<Item = Behaviour>) {
        self.state.lock().unwrap().script.extend(script);
    }

    /// How often a call with each key was taken, sorted.
    pub(crate) fn calls(&self) -> Vec<u32> {
        let mut counts: Vec<u32> = self.state.lock().unwrap().calls.values().copied().collect();
        counts.sort_unstable();
        counts
    }

    pub(crate) fn bodies(&self) -> Vec<String> {
        self.state.lock().unwrap().bodies.clone()
    }

    pub(crate) async fn called(&self, times: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.bodies().len() < times {
            assert!(Instant::now() < deadline, "expected {times} calls, found {:?}", self.bodies());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn serve(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<()> {
        let behaviour = self.state.lock().unwrap().script.pop_front();
        let behaviour = behaviour.unwrap_or(Behaviour::Answer(202));
        if behaviour == Behaviour::Refuse {
            return None;
        }
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let field = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
        };
        assert!(head.starts_with("post /notices http/1.1"), "{head}");
        let mut body = vec![0; field("content-length:")?.parse().unwrap()];
        stream.read_exact(&mut body).await.ok()?;
        {
            let mut state = self.state.lock().unwrap();
            *state.calls.entry(field("idempotency-key:")?).or_default() += 1;
            state.bodies.push(String::from_utf8(body).unwrap());
        }
        match behaviour {
            Behaviour::Answer(status) => {
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.ok()?;
                stream.shutdown().await.ok()
            }
            Behaviour::HangUp | Behaviour::Refuse => None,
            Behaviour::Silence => stream.read_u8().await.ok().map(drop),
        }
    }
}
