//! Local stand-ins for what the product runs on, the demo's workload, and its judge.
//!
//! Knows: how to start a real Postgres and MiniStack and to stop them, how to
//! deploy the template, how an order is written, and what must then stand in the
//! read model. Must not know: the relay's or the consumer's insides.

pub mod postgres;
pub mod process;
