//! End to end: a real Postgres, the relay's real binary, real HTTP. One promise a file.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod breaker;
mod by_hand;
mod captured;
mod claim_checks;
mod commands;
mod crash;
mod credentials;
mod dead_letters;
mod debezium;
mod delivery;
mod encodings;
mod faults;
mod forged;
mod formats;
mod harness;
mod histories;
mod idle;
mod large;
mod limits;
mod memory;
mod new_projection;
mod observe;
mod ordering;
mod outcomes;
mod overload;
mod own_writes;
mod parked;
mod partitions;
mod preconditions;
mod publications;
mod purity;
mod readme;
mod roles;
mod search_path;
mod server;
mod sessions;
mod setup;
mod slots;
mod tables;
mod tls;
mod values;
mod versions;
mod whole_path;
mod worker_processes;
mod workers;
