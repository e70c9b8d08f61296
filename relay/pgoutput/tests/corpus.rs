//! What the fuzzer has found so far, and what real servers sent, under the fuzzer's own checks.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

#[expect(unreachable_pub, reason = "it is also the library of the fuzz targets")]
#[path = "../fuzz/checks.rs"]
mod checks;

/// The files of inputs in a folder and in the folders within it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|ending| ending == "bin") {
            found.push(path);
        }
    }
    found
}

/// The inputs of a file: each behind its length.
fn inputs(file: &[u8]) -> Vec<&[u8]> {
    let (mut rest, mut found) = (file, Vec::new());
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap();
        let (input, next) = behind.split_at(length);
        found.push(input);
        rest = next;
    }
    assert!(rest.is_empty(), "expected the file to end with an input");
    found
}

#[test]
fn what_the_fuzzer_has_found_still_holds() {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (folder, fewest) in [("fuzz/corpus", 500), ("captures", 10_000)] {
        let mut replayed = 0;
        for path in files(&crate_folder.join(folder)) {
            let file = std::fs::read(&path).unwrap();
            for input in inputs(&file) {
                checks::message(input);
                checks::round_trip(input);
                replayed += 1;
            }
        }
        assert!(replayed >= fewest, "expected {fewest} inputs in {folder}, found {replayed}");
    }
}
