//! What can be seen of a running relay from outside: metrics, and whether it lives and reads.

pub mod http;
pub mod metric;
mod pulse;
mod text;

pub use pulse::Pulse;
