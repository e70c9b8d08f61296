//! Whether a message under the relay's prefixes was written by a function that may write it.
//!
//! Knows: the keys of `relay.secret`, and how `relay.write_message` signs. Must not know: what a
//! message says, how keys are read from the database.
//!
//! Every role may execute `pg_logical_emit_message`, so a prefix proves nothing. The signature is
//! an HMAC-SHA256 (RFC 2104) over the transaction, the prefix and the content. A message that is
//! copied into another transaction does not verify.

use pgoutput::Lsn;
use sha2::{Digest as _, Sha256};

/// What the prefix of each message of our own begins with.
pub const OUR_PREFIXES: &str = "relay.";

/// The prefix under which `relay.rotate_secret` says that there is a new key.
pub const SECRET_PREFIX: &str = "relay.secret";

/// The first byte of a signed message: the version of its form.
const SIGNED: u8 = 1;

/// One key of `relay.secret`.
#[derive(Clone, Debug)]
pub struct Secret {
    id: u32,
    /// The hash of the inner padded key, to go on from.
    inner: Sha256,
    /// The hash of the outer padded key, to go on from.
    outer: Sha256,
    unsigned_until: Option<Lsn>,
}

impl Secret {
    /// A key as a row of `relay.secret` has it: padded to 64 bytes and exclusive-or 0x36 and 0x5c.
    ///
    /// Messages without a signature are taken that were written up to `unsigned_until`, by a
    /// `relay.emit` that did not sign yet.
    #[must_use]
    pub fn new(id: u32, inner: &[u8], outer: &[u8], unsigned_until: Option<Lsn>) -> Self {
        let (inner, outer) = (Sha256::new_with_prefix(inner), Sha256::new_with_prefix(outer));
        Self { id, inner, outer, unsigned_until }
    }

    fn digest(&self, parts: [&[u8]; 4]) -> [u8; 32] {
        let mut inner = self.inner.clone();
        for part in parts {
            inner.update(part);
        }
        let mut outer = self.outer.clone();
        outer.update(inner.finalize());
        outer.finalize().into()
    }
}

/// The keys that messages may be signed with.
#[derive(Clone, Debug, Default)]
pub struct Secrets(Vec<Secret>);

impl Secrets {
    /// These keys.
    #[must_use]
    pub fn new(secrets: Vec<Secret>) -> Self {
        Self(secrets)
    }

    /// The id of the newest key; 0 where there is none.
    #[must_use]
    pub fn newest(&self) -> u32 {
        self.0.iter().map(|secret| secret.id).max().unwrap_or(0)
    }

    /// The content of a message, without its signature; `None` for one that a role wrote which
    /// may not make the relay send.
    ///
    /// `xid` is the transaction that the message came in, `lsn` where the message was written.
    #[must_use]
    pub fn verified<'a>(
        &self,
        xid: u32,
        lsn: Lsn,
        prefix: &str,
        content: &'a [u8],
    ) -> Option<&'a [u8]> {
        let Some((&SIGNED, rest)) = content.split_first() else {
            let old = self.0.iter().filter_map(|secret| secret.unsigned_until);
            return old.max().filter(|until| lsn <= *until).map(|_| content);
        };
        let (id, rest) = rest.split_first_chunk::<4>()?;
        let (digest, content) = rest.split_first_chunk::<32>()?;
        let secret = self.0.iter().find(|secret| secret.id == u32::from_be_bytes(*id))?;
        let expected = secret.digest([&xid.to_be_bytes(), prefix.as_bytes(), &[0], content]);
        // In constant time: how far a guess is right must not be seen.
        let differs = expected.iter().zip(digest).fold(0, |differs, (a, b)| differs | (a ^ b));
        (differs == 0).then_some(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(id: u32, key: &[u8]) -> Secret {
        let pad = |with: u8| {
            let mut padded = [with; 64];
            for (padded, key) in padded.iter_mut().zip(key) {
                *padded ^= key;
            }
            padded
        };
        Secret::new(id, &pad(0x36), &pad(0x5c), None)
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_digest_is_that_of_rfc_4231() {
        let digest = |key: &[u8], data: &[u8]| hex(&secret(1, key).digest([data, b"", b"", b""]));
        assert_eq!(
            digest(&[0x0b; 20], b"Hi There"),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
        assert_eq!(
            digest(b"Jefe", b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            digest(&[0xaa; 20], &[0xdd; 50]),
            "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"
        );
    }

    /// As `relay.write_message` writes it.
    fn signed(secret: &Secret, xid: u32, prefix: &str, content: &[u8]) -> Vec<u8> {
        let digest = secret.digest([&xid.to_be_bytes(), prefix.as_bytes(), &[0], content]);
        [&[SIGNED][..], &secret.id.to_be_bytes(), &digest, content].concat()
    }

    #[test]
    fn a_message_verifies_in_its_transaction_under_its_prefix_and_as_it_was_alone() {
        let (old, new) = (secret(1, b"old"), secret(2, b"new"));
        let secrets = Secrets::new(vec![old.clone(), new.clone()]);
        let lsn = Lsn::from(9);
        for key in [&old, &new] {
            let message = signed(key, 7, "relay.event", b"{}");
            fn verified<'a>(by: &Secrets, xid: u32, prefix: &str, m: &'a [u8]) -> Option<&'a [u8]> {
                by.verified(xid, Lsn::from(9), prefix, m)
            }
            assert_eq!(verified(&secrets, 7, "relay.event", &message), Some(&b"{}"[..]));
            assert_eq!(verified(&secrets, 8, "relay.event", &message), None, "copied");
            assert_eq!(
                verified(&secrets, 7, "relay.redrive", &message),
                None,
                "under another prefix"
            );
            for at in 0..message.len() {
                let mut other = message.clone();
                other[at] ^= 1;
                assert_eq!(verified(&secrets, 7, "relay.event", &other), None, "byte {at} changed");
                assert_eq!(
                    verified(&secrets, 7, "relay.event", &message[..at]),
                    None,
                    "cut at {at}"
                );
            }
        }
        assert_eq!(secrets.verified(7, lsn, "p", &signed(&secret(3, b"new"), 7, "p", b"")), None);
        assert_eq!(secrets.newest(), 2);
    }

    #[test]
    fn without_a_signature_only_what_was_written_before_there_were_any_is_taken() {
        let mut key = secret(1, b"key");
        let lsn = Lsn::from(100);
        let taken = |key: &Secret, lsn| {
            Secrets::new(vec![key.clone()]).verified(7, lsn, "relay.event", b"{}").is_some()
        };
        assert!(!taken(&key, lsn));
        key.unsigned_until = Some(lsn);
        assert!(taken(&key, lsn) && !taken(&key, 101.into()));
    }
}
