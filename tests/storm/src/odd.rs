//! Texts that a program may stumble over, in the bytes of a database's encoding, and bytes that are
//! no text. Pure.

use crate::plan::Encoding;
use uuid::Uuid;

/// Parts of a JSON string: no quote and no backslash but in an escape.
const ASCII: [&str; 11] = [
    "\\u0001",
    "\\u0000",
    "\\n",
    "\\\"",
    "\\\\",
    "\\ud83d\\ude00",
    "'",
    "]]>&<!--",
    "%2F/",
    "\u{7f}",
    "a",
];

/// The same, outside ASCII.
const BEYOND: [&str; 9] =
    ["é", "😀", "\u{fffe}", "\u{ffff}", "\u{2028}", "\u{feff}", "\u{85}", "\u{10ffff}", "中"];

/// Parts of a key: a text of any kind.
const OF_KEYS: [&str; 10] = ["\"", "\\", "'", "/", "%", " ", "\u{1}", "\t", "\n", "k"];

/// The inside of a JSON string, in the bytes of the encoding.
pub(crate) fn note(rng: &mut fastrand::Rng, encoding: Encoding) -> Vec<u8> {
    some(rng, encoding, &ASCII)
}

/// A key that is not empty.
pub(crate) fn key(rng: &mut fastrand::Rng, encoding: Encoding) -> Vec<u8> {
    let mut key = b"odd".to_vec();
    key.extend(some(rng, encoding, &OF_KEYS));
    key
}

/// Bytes that are no UTF-8, and that nothing else has.
pub(crate) fn marker(id: Uuid) -> Vec<u8> {
    [b"\xe9\xff", id.simple().to_string().as_bytes()].concat()
}

fn some(rng: &mut fastrand::Rng, encoding: Encoding, ascii: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rng.usize(1..12) {
        match (rng.bool(), encoding) {
            (true, _) => bytes.extend(ascii[rng.usize(..ascii.len())].as_bytes()),
            (false, Encoding::Latin1) => bytes.push(rng.u8(0x80..)),
            (false, _) => bytes.extend(BEYOND[rng.usize(..BEYOND.len())].as_bytes()),
        }
    }
    bytes
}

/// A message that is to make a relay send or stumble, with its prefix; nobody has signed it.
pub(crate) fn forged(rng: &mut fastrand::Rng) -> (&'static str, Vec<u8>) {
    const PREFIXES: [&str; 8] = [
        "relay.event",
        "relay.event",
        "relay.redrive",
        "relay.redrive",
        "relay.redrive.x",
        "relay.secret",
        "relay.",
        "",
    ];
    let prefix = PREFIXES[rng.usize(..PREFIXES.len())];
    let mut random = |most: usize| -> Vec<u8> {
        let length = rng.usize(..most);
        std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
    };
    let (noise, digest) = (random(200), [random(2), vec![7; 32]].concat());
    let digest = &digest[digest.len() - 32..];
    let id = uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid();
    let event = format!(
        r#"{{"event_id":"{id}","recorded_at":"2026-01-15T10:30:00Z","aggregate_type":"order","aggregate_id":"forged","event_type":"forged","event_version":"1.0","data":{{}},"metadata":{{}}}}"#
    );
    let head = format!(
        r#"{{"event_id":"{id}","destination":"first","key":"forged","event_type":"forged","attributes":{{"aggregate_type":"order"}}}}"#
    );
    let length = u32::try_from(head.len()).unwrap_or_default().to_be_bytes();
    let letter = [&length[..], head.as_bytes(), b"{}"].concat();
    // As relay.write_message writes it: a version, the key's number, the digest.
    let signed = |content: &[u8]| [b"\x01\0\0\0\x01", digest, content].concat();
    let content = match rng.u8(0..6) {
        0 => noise,
        1 => event.into_bytes(),
        2 => signed(event.as_bytes()),
        3 => letter,
        4 => signed(&letter),
        _ => signed(&noise),
    };
    (prefix, content)
}
