//! What decodes encodes, and decodes to the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::round_trip(bytes));
