//! A network between a client and its server on loopback: what is sent arrives some time later.

use anyhow::{Context as _, Result};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Leads connections to a server's port, each message of theirs taking `half` of a round trip;
/// returns the port to connect to. Its threads end with their connections, or with the process.
///
/// Threads rather than tasks: tokio's timers count in milliseconds.
pub(crate) fn before(server: u16, half: Duration) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listen on loopback")?;
    let port = listener.local_addr().context("ask for the port")?.port();
    thread::spawn(move || {
        for client in listener.incoming() {
            if let Err(error) =
                client.map_err(Into::into).and_then(|client| connect(&client, server, half))
            {
                eprintln!("no way through the network: {error:#}");
            }
        }
    });
    Ok(port)
}

fn connect(client: &TcpStream, server: u16, half: Duration) -> Result<()> {
    let server = TcpStream::connect(("127.0.0.1", server)).context("connect to the server")?;
    for (from, to) in [(client, &server), (&server, client)] {
        to.set_nodelay(true).context("set TCP_NODELAY")?;
        carry(from.try_clone()?, to.try_clone()?, half);
    }
    Ok(())
}

/// One direction: one thread reads, the other writes what is due.
fn carry(mut from: TcpStream, mut to: TcpStream, half: Duration) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            let part = bytes.get(..read).unwrap_or_default().to_vec();
            if sender.send((Instant::now() + half, part)).is_err() {
                break;
            }
        }
    });
    thread::spawn(move || {
        for (due, part) in receiver {
            #[expect(
                clippy::disallowed_methods,
                reason = "a thread of its own, for the time asked for"
            )]
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&part).is_err() {
                break;
            }
        }
        // The other side need not be there any more.
        let _ = to.shutdown(Shutdown::Both);
    });
}
