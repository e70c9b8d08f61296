//! A batch of messages: the fault it meets, the rules it is held to, and the answer.

use super::rules::{self, Entry, Refusal};
use super::server::{Protocol, refusal};
use super::{Fault, Shared, Target, sns, sqs};
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response};
use std::collections::HashMap;
use std::time::Instant;

pub(super) async fn publish(
    shared: &Shared,
    protocol: Protocol,
    key: &str,
    target: &Target,
    entries: &[Entry],
) -> Response<Body> {
    let request = shared.state().arrived(key, entries);
    let fault = shared.next_fault(key);
    let response = misbehave(shared, protocol, key, target, entries, request, fault).await;
    shared.state().answered(key, entries, request);
    response
}

async fn misbehave(
    shared: &Shared,
    protocol: Protocol,
    key: &str,
    target: &Target,
    entries: &[Entry],
    request: u64,
    fault: Option<Fault>,
) -> Response<Body> {
    let take_in =
        |order: Order, failed| take(shared, protocol, key, target, entries, order, failed);
    let take = |failed| take_in(Order::AsSent, failed);
    match fault {
        None => take(HashMap::new()),
        Some(Fault::Throttle) if protocol == Protocol::Sns => {
            protocol.refuse(429, &refusal("Throttled", "Rate exceeded"))
        }
        Some(Fault::Throttle) => {
            protocol.refuse(400, &refusal("RequestThrottled", "Rate exceeded"))
        }
        Some(Fault::ServerError) => {
            protocol.refuse(500, &refusal("InternalError", "We had a problem"))
        }
        Some(Fault::Hang(time)) => {
            // The client gives up before this is over, and may send again.
            shared.state().answered(key, entries, request);
            tokio::time::sleep(time).await;
            cut()
        }
        Some(Fault::CutBefore) => cut(),
        Some(Fault::CutAfter) => {
            drop(take(HashMap::new()));
            cut()
        }
        Some(Fault::Slow(time)) => {
            tokio::time::sleep(time).await;
            take(HashMap::new())
        }
        Some(Fault::Refuse(code)) => {
            protocol.refuse(400, &refusal(code, "Refused as the test asked"))
        }
        Some(Fault::Forbid(code)) => {
            protocol.refuse(403, &refusal(code, "The security token is not valid, or not any more"))
        }
        Some(Fault::Shuffle(places)) => {
            take_in(Order::Reversed, failing(places, "InternalError", false))
        }
        Some(Fault::FailEntries { places, code, sender_fault }) => {
            take(failing(places, code, sender_fault))
        }
    }
}

fn failing(
    places: Vec<usize>,
    code: &'static str,
    sender_fault: bool,
) -> HashMap<usize, (Refusal, bool)> {
    let failed = |at| (at, (refusal(code, "Failed as the test asked"), sender_fault));
    places.into_iter().map(failed).collect()
}

/// The order in which an answer names the entries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Order {
    AsSent,
    Reversed,
}

/// Takes a batch by AWS's rules.
fn take(
    shared: &Shared,
    protocol: Protocol,
    key: &str,
    target: &Target,
    entries: &[Entry],
    order: Order,
    mut failed: HashMap<usize, (Refusal, bool)>,
) -> Response<Body> {
    if let Err(refusal) = rules::batch(entries, target.limit) {
        return protocol.refuse(400, &refusal);
    }
    let sent_at = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    for (at, entry) in entries.iter().enumerate() {
        if let Err(refusal) = rules::entry(entry, target.fifo) {
            failed.insert(at, (refusal, true));
        }
        if !failed.contains_key(&at) {
            shared.state().accept(key, entry, Instant::now(), sent_at);
        }
    }
    let mut named: Vec<(usize, &Entry)> = entries.iter().enumerate().collect();
    if order == Order::Reversed {
        named.reverse();
    }
    match protocol {
        Protocol::Sns => protocol.respond(200, sns::published(&named, &failed)),
        Protocol::Sqs => protocol.respond(200, sqs::sent(&named, &failed).to_string()),
    }
}

/// An answer that breaks off: the connection is closed before it is whole.
fn cut() -> Response<Body> {
    let broken =
        futures_util::stream::once(async { Err::<Bytes, _>(std::io::Error::other("cut")) });
    let mut response = Response::new(Body::from_stream(broken));
    response.headers_mut().insert("content-length", HeaderValue::from_static("1000"));
    response
}
