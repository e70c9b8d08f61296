//! How often a batch waits for the network, counted on a line between consumer and server.

use crate::support::{ReadModel, Sent, deliver, sent};
use consumer::{Consumer, Event, Handler, HandlerError, Mode, Outcome, Tx};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// One statement for each event, with or without a wait for it.
struct Upserts {
    mode: Mode,
    waits: bool,
}

impl Handler for Upserts {
    fn name(&self) -> &'static str {
        "upserts"
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    async fn handle(&self, event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
        let sql = "insert into effects (aggregate_id, event_id) values ($1, $2)";
        if self.waits {
            tx.execute(sql, &[&event.aggregate_id, &event.event_id]).await?;
        } else {
            tx.write(sql, &[&event.aggregate_id, &event.event_id]).await?;
        }
        Ok(())
    }
}

/// Carries one connection to the server, and counts how often the client speaks after an answer.
async fn line(server: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let trips = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&trips);
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
        let (mut asked, mut answer) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let mut answered = true;
        loop {
            tokio::select! {
                biased;
                read = client.read(&mut asked) => {
                    let Ok(read @ 1..) = read else { break };
                    counted.fetch_add(usize::from(std::mem::take(&mut answered)), Ordering::Relaxed);
                    server.write_all(&asked[..read]).await.unwrap();
                }
                read = server.read(&mut answer) => {
                    let Ok(read @ 1..) = read else { break };
                    answered = true;
                    client.write_all(&answer[..read]).await.unwrap();
                }
            }
        }
    });
    (port, trips)
}

#[tokio::test]
async fn a_batch_that_only_writes_takes_two_round_trips() {
    let read_model = ReadModel::start().await;
    let url = read_model.postgres.url(&read_model.database);
    let server = read_model.postgres.port();
    for (mode, waits, expected) in
        [(Mode::Versioned, false, 2), (Mode::Once, false, 2), (Mode::Versioned, true, 12)]
    {
        let (port, trips) = line(server).await;
        let url = url.replace(&format!(":{server}/"), &format!(":{port}/"));
        let mut consumer = Consumer::new(Upserts { mode, waits }, &url.parse().unwrap());
        let mut fewest = usize::MAX;
        // The first batch connects and prepares.
        for version in 1..=5 {
            let name = |n| format!("{mode:?}-{waits}-{n}");
            let batch: Vec<Sent> = (0..10).map(|n| sent(&name(n), version)).collect();
            let before = trips.load(Ordering::Relaxed);
            assert_eq!(deliver(&mut consumer, &batch).await, [Outcome::Applied; 10]);
            fewest = fewest.min(trips.load(Ordering::Relaxed) - before);
        }
        assert_eq!(fewest, expected, "{mode:?}, with a wait for each statement: {waits}");
    }
}
