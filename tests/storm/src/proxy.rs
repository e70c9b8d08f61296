//! A wire between the relay and Postgres that can be cut in the middle of a message, and held.

use anyhow::{Context, Result};
use socket2::SockRef;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Where the wire is cut next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// After so many more bytes,
    pub(crate) after: usize,
    /// towards the relay or towards Postgres,
    pub(crate) to_relay: bool,
    /// by a reset or an orderly end.
    pub(crate) reset: bool,
}

#[derive(Debug)]
struct Wire {
    cut: Mutex<Option<Cut>>,
    silent: watch::Sender<bool>,
    /// Connections that the relay opened to read the stream, or to prepare for it.
    tries: AtomicUsize,
}

/// A listener whose connections end at Postgres. Dropped, it is gone with all of them.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    wire: Arc<Wire>,
    /// Dropped, it ends the listener and the connections.
    _serving: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 for connections to the port `to`.
    pub(crate) async fn start(to: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("bind a port")?;
        let port = listener.local_addr().context("read the port")?.port();
        let wire = Arc::new(Wire {
            cut: Mutex::new(None),
            silent: watch::Sender::new(false),
            tries: AtomicUsize::new(0),
        });
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, to, Arc::clone(&wire)));
        Ok(Self { port, wire, _serving: serving })
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Cuts the first connection that has carried so much.
    pub(crate) fn cut(&self, cut: Cut) {
        *self.wire.cut.lock().unwrap_or_else(PoisonError::into_inner) = Some(cut);
    }

    /// From now on nothing passes, or all of it again.
    pub(crate) fn silence(&self, silent: bool) {
        self.wire.silent.send_replace(silent);
    }

    /// How often the relay has tried to get a session until now: once or twice for each attempt.
    pub(crate) fn tries(&self) -> usize {
        self.wire.tries.load(Ordering::Relaxed)
    }

    /// No more faults.
    pub(crate) fn calm(&self) {
        *self.wire.cut.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.silence(false);
    }
}

async fn serve(listener: TcpListener, to: u16, wire: Arc<Wire>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    connections.spawn(carry(client, to, Arc::clone(&wire)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries one connection until either side ends, or it is cut.
async fn carry(mut client: TcpStream, to: u16, wire: Arc<Wire>) {
    // A server that is down refuses; the client sees its connection end.
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let reset = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            reset = pump(from_client, to_server, &wire, false) => reset,
            reset = pump(from_server, to_client, &wire, true) => reset,
        }
    };
    if reset {
        for end in [&client, &server] {
            let _ = SockRef::from(end).set_linger(Some(Duration::ZERO));
        }
    }
}

/// Carries one direction to its end; returns whether it ends by a reset.
async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, wire: &Wire, to_relay: bool) -> bool {
    let mut silent = wire.silent.subscribe();
    let mut buffer = vec![0; 16 * 1024];
    // The first message of a client, or the second where the first asks for TLS.
    let mut greetings = if to_relay { 0 } else { 2 };
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            return false;
        };
        if greetings > 0 {
            greetings -= 1;
            wire.greeted(buffer.get(..length).unwrap_or_default());
        }
        if silent.wait_for(|silent| !silent).await.is_err() {
            return false;
        }
        let cut = wire.passes(length, to_relay);
        let passing = buffer.get(..cut.map_or(length, |cut| cut.after)).unwrap_or_default();
        if to.write_all(passing).await.is_err() {
            return false;
        }
        if let Some(cut) = cut {
            return cut.reset;
        }
    }
}

impl Wire {
    /// Counts a session of the relay: its other connections have longer names.
    fn greeted(&self, message: &[u8]) {
        const NAME: &[u8] = b"application_name\0relay\0";
        if message.windows(NAME.len()).any(|part| part == NAME) {
            self.tries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts bytes; the cut when it falls among them, with how many of them still pass.
    fn passes(&self, length: usize, to_relay: bool) -> Option<Cut> {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        let next = cut.as_mut().filter(|cut| cut.to_relay == to_relay)?;
        if next.after >= length {
            next.after -= length;
            return None;
        }
        cut.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_passes_before_the_cut_arrives_and_nothing_after_it() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(server.local_addr().unwrap().port()).await.unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        let (mut served, _) = server.accept().await.unwrap();
        proxy.cut(Cut { after: 5, to_relay: true, reset: false });
        served.write_all(b"0123456789").await.unwrap();
        let mut found = Vec::new();
        client.read_to_end(&mut found).await.unwrap();
        assert_eq!(found, b"01234");
    }

    #[tokio::test]
    async fn a_session_is_counted_by_its_name_and_other_connections_are_not() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(server.local_addr().unwrap().port()).await.unwrap();
        for (name, tries) in [("relay", 1), ("relay watch", 1), ("relay", 2)] {
            let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
            let (mut served, _) = server.accept().await.unwrap();
            let message = format!("user\0relay\0application_name\0{name}\0\0");
            client.write_all(message.as_bytes()).await.unwrap();
            served.read_exact(&mut vec![0; message.len()]).await.unwrap();
            assert_eq!(proxy.tries(), tries, "{name}");
        }
    }

    #[tokio::test]
    async fn a_silent_wire_holds_what_it_has_until_it_is_not() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(server.local_addr().unwrap().port()).await.unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        let (mut served, _) = server.accept().await.unwrap();
        proxy.silence(true);
        served.write_all(b"late").await.unwrap();
        let mut found = [0; 4];
        let early = tokio::time::timeout(Duration::from_millis(50), client.read(&mut found)).await;
        assert!(early.is_err(), "expected nothing to pass");
        proxy.silence(false);
        client.read_exact(&mut found).await.unwrap();
        assert_eq!(&found, b"late");
    }
}
