//! A project outside this workspace needs the crate `consumer`, `serde` and `tokio`, and no other of
//! ours: the pages for authors are compiled as doc tests, and name nothing else.

/// The pages whose Rust is compiled (`Readme`, `Authors` and their like in the crate's lib.rs).
const PAGES: [(&str, &str); 4] = [
    ("consumer.md", include_str!("../../../relay/docs/consumer.md")),
    ("side-effects.md", include_str!("../../../relay/docs/side-effects.md")),
    ("large-events.md", include_str!("../../../relay/docs/large-events.md")),
    ("read-your-writes.md", include_str!("../../../relay/docs/read-your-writes.md")),
];

/// Crates that a stranger's manifest does not have.
const NOT_THEIRS: [&str; 6] = ["dsn", "envelope", "tokio_postgres", "uuid", "time", "aws_sdk_sqs"];

#[test]
fn the_pages_for_authors_need_no_crate_beside_this_one_serde_and_tokio() {
    for (page, text) in PAGES {
        assert!(!text.contains("workspace = true"), "{page}");
        for (number, line) in (1..).zip(text.lines()) {
            for name in NOT_THEIRS {
                for (at, _) in line.match_indices(&format!("{name}::")) {
                    let before = line[..at].chars().next_back();
                    let is_path =
                        before.is_some_and(|c| c == ':' || c == '_' || c.is_alphanumeric());
                    assert!(is_path, "{page}:{number} names {name}: {line}");
                }
            }
        }
    }
}

/// What the API takes can be named by way of it.
#[test]
fn the_types_of_the_api_are_had_from_it() {
    use consumer::{tokio_postgres::types::ToSql, uuid::Uuid};
    let dsn: Result<consumer::Dsn, consumer::DsnError> = "postgres://u@localhost/d".parse();
    assert!(dsn.is_ok());
    let id = Uuid::nil();
    let _: &(dyn ToSql + Sync) = &id;
    let _: consumer::time::OffsetDateTime = consumer::time::OffsetDateTime::UNIX_EPOCH;
}
