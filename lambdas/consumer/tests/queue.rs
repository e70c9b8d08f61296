//! A small honest model of SQS, in memory: what it may do to a consumer, it does.
//!
//! A standard queue gives any of its messages in any order, at least once: to two receivers at
//! once, too. A FIFO queue gives a group's messages in order and to one receiver at a time. A
//! message that is not deleted comes again; its visibility may run out while its receiver is
//! still at work, and on a FIFO queue that receiver can delete it no more.

use consumer::Record;
use fastrand::Rng;
use std::collections::HashSet;
use std::sync::Mutex;

/// Most messages of one receipt, as SQS has it.
const MOST: usize = 10;

#[derive(Debug)]
struct Message {
    id: usize,
    body: String,
    group: String,
    /// By the receipt that it was last given with, while that holds.
    held: Option<u64>,
    receive_count: u32,
}

#[derive(Debug)]
struct State {
    /// In the order of sending.
    messages: Vec<Message>,
    random: Rng,
    receipts: u64,
}

#[derive(Debug)]
pub(crate) struct Queue {
    fifo: bool,
    state: Mutex<State>,
}

/// A message in the hands of a receiver.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) record: Record,
    receipt: u64,
    id: usize,
}

impl Queue {
    /// Holds these messages: body and FIFO group.
    pub(crate) fn new(fifo: bool, messages: Vec<(String, String)>, seed: u64) -> Self {
        let message =
            |(id, (body, group))| Message { id, body, group, held: None, receive_count: 0 };
        let messages = messages.into_iter().enumerate().map(message).collect();
        let state = State { messages, random: Rng::with_seed(seed), receipts: 0 };
        Self { fifo, state: Mutex::new(state) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().unwrap().messages.is_empty()
    }

    pub(crate) fn left(&self) -> String {
        format!("{:?}", self.state.lock().unwrap().messages)
    }

    /// Some of the messages that are visible; none when there are none.
    pub(crate) fn receive(&self) -> Vec<Received> {
        let mut state = self.state.lock().unwrap();
        let State { messages, random, receipts } = &mut *state;
        // Time passes: now and then a receiver has taken too long.
        for message in messages.iter_mut() {
            if message.held.is_some() && random.u8(..20) == 0 {
                message.held = None;
            }
        }
        let most = random.usize(1..=MOST);
        let mut blocked: HashSet<String> = HashSet::new();
        let mut chosen: Vec<usize> = Vec::new();
        if self.fifo {
            blocked.extend(messages.iter().filter(|m| m.held.is_some()).map(|m| m.group.clone()));
            // Now and then a group has to wait for the next receipt.
            for message in messages.iter() {
                if random.u8(..8) == 0 {
                    blocked.insert(message.group.clone());
                }
            }
            chosen.extend((0..messages.len()).filter(|at| !blocked.contains(&messages[*at].group)));
        } else {
            // At least once: what is with one receiver may be given to another.
            let again = |random: &mut Rng, m: &Message| m.held.is_none() || random.u8(..25) == 0;
            chosen.extend((0..messages.len()).filter(|at| again(random, &messages[*at])));
            random.shuffle(&mut chosen);
        }
        chosen.truncate(most);
        if !self.fifo && chosen.len() > 1 && random.u8(..6) == 0 {
            // The same message twice in one receipt.
            chosen.push(chosen[0]);
        }
        chosen
            .into_iter()
            .map(|at| {
                let message = &mut messages[at];
                *receipts += 1;
                message.held = Some(*receipts);
                message.receive_count += 1;
                Received {
                    record: record(message, self.fifo, *receipts),
                    receipt: *receipts,
                    id: message.id,
                }
            })
            .collect()
    }

    /// What is done is deleted, and the rest can be received again.
    pub(crate) fn answer(&self, done: Vec<Received>, not_done: Vec<Received>) {
        let mut state = self.state.lock().unwrap();
        let State { messages, random, .. } = &mut *state;
        for received in done {
            // Now and then the deletion does not reach the queue.
            if random.u8(..15) == 0 {
                continue;
            }
            let fifo = self.fifo;
            messages.retain(|message| {
                let ours = message.held == Some(received.receipt);
                !(ours || (!fifo && message.id == received.id))
            });
        }
        for received in not_done {
            for message in messages.iter_mut().filter(|m| m.held == Some(received.receipt)) {
                message.held = None;
            }
        }
    }
}

fn record(message: &Message, fifo: bool, receipt: u64) -> Record {
    let count = message.receive_count.to_string();
    Record::new(Some(receipt.to_string()), Some(message.body.clone()), fifo, |name| match name {
        "MessageGroupId" => fifo.then_some(message.group.as_str()),
        "ApproximateReceiveCount" => Some(count.as_str()),
        "SentTimestamp" => Some("1768473000123"),
        _ => None,
    })
}
