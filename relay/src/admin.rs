//! What an operator asks for, as data: the command line and other fronts print the same.
//!
//! Knows: the tables, and what follows from them. Must not know: who asks, and how it is printed.

pub mod dead_letters;
mod kept;
pub mod parked;
pub mod status;

pub use kept::{AdminError, Filter, Kept, Listed, Table, drop, get, ids, list};
