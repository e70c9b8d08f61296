//! No bytes make the decoder panic, and what it reads it reads to the last value.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::message(bytes));
