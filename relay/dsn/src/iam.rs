//! AWS IAM login: a token in place of a password, signed here, good for fifteen minutes.
//!
//! Form: <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.html>:
//! a presigned request for the action `connect` of the service `rds-db`, without its `https://`.
//! Nothing is asked of AWS for it: the SDK's signer alone, without the SDK.

use crate::{Mint, MintError};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use std::fmt;
use std::time::{Duration, SystemTime};

/// How long AWS takes a token for good.
const VALID: Duration = Duration::from_secs(15 * 60);

/// A token: whoever has it can log in. `Debug` does not show it.
#[derive(Clone, Eq, PartialEq)]
pub struct Token(String);

impl Token {
    /// What is sent in place of a password.
    #[must_use]
    pub fn into_password(self) -> String {
        self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IamError {
    /// The source of credentials failed.
    #[error("AWS credentials cannot be had")]
    Credentials(#[from] aws_credential_types::provider::error::CredentialsError),
    /// The token cannot be signed.
    #[error("the token for {host} cannot be signed")]
    Sign {
        /// The server.
        host: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A token for this server and role, from these credentials, at this time.
///
/// # Errors
/// When the host or the role cannot stand in a URL.
pub fn token(
    (host, port): (&str, u16),
    user: &str,
    region: &str,
    credentials: &Credentials,
    now: SystemTime,
) -> Result<Token, IamError> {
    let failed = |source| IamError::Sign { host: host.to_owned(), source };
    let url = format!("https://{host}:{port}/?Action=connect&DBUser={}", percent_encoded(user));
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(VALID);
    let identity = credentials.clone().into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("rds-db")
        .time(now)
        .settings(settings)
        .build()
        .map_err(|e| failed(e.into()))?;
    let request = SignableRequest::new("GET", &url, std::iter::empty(), SignableBody::Bytes(&[]))
        .map_err(|e| failed(e.into()))?;
    let (instructions, _) =
        sign(request, &params.into()).map_err(|e| failed(e.into()))?.into_parts();
    let mut signed = http::Request::get(&url).body(()).map_err(|e| failed(e.into()))?;
    instructions.apply_to_request_http1x(&mut signed);
    Ok(Token(signed.uri().to_string().trim_start_matches("https://").to_owned()))
}

impl Mint {
    /// Tokens for servers in this region, with the credentials that the provider has at that time.
    #[must_use]
    pub fn iam(region: impl Into<String>, credentials: SharedCredentialsProvider) -> Self {
        let region = region.into();
        Self::new(move |host, port, user| {
            let (region, credentials) = (region.clone(), credentials.clone());
            async move {
                let credentials =
                    credentials.provide_credentials().await.map_err(IamError::from)?;
                let now = SystemTime::now();
                let token = token((&host, port), &user, &region, &credentials, now);
                token.map(Token::into_password).map_err(MintError::from)
            }
        })
    }
}

/// What is not unreserved in a URL (RFC 3986) as `%XX`.
fn percent_encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The token as it is sent.
    fn token(
        host: (&str, u16),
        user: &str,
        region: &str,
        credentials: &Credentials,
        now: SystemTime,
    ) -> Result<String, IamError> {
        super::token(host, user, region, credentials, now).map(Token::into_password)
    }

    /// AWS's own example keys.
    fn credentials(session: Option<&str>) -> Credentials {
        Credentials::new(
            "AKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            session.map(str::to_owned),
            None,
            "test",
        )
    }

    /// 2026-01-15T10:30:00Z.
    fn then() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_768_473_000)
    }

    #[test]
    fn a_token_is_a_presigned_connect_for_this_host_and_role() {
        let host = ("shop.abc.eu-west-1.rds.amazonaws.com", 5432);
        let made = token(host, "relay user", "eu-west-1", &credentials(None), then()).unwrap();
        let (place, query) = made.split_once("/?").unwrap();
        assert_eq!(place, "shop.abc.eu-west-1.rds.amazonaws.com:5432");
        let pairs: Vec<(&str, &str)> =
            query.split('&').map(|p| p.split_once('=').unwrap()).collect();
        let value = |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        assert_eq!(value("Action"), Some("connect"));
        assert_eq!(value("DBUser"), Some("relay%20user"));
        assert_eq!(value("X-Amz-Algorithm"), Some("AWS4-HMAC-SHA256"));
        assert_eq!(
            value("X-Amz-Credential"),
            Some("AKIAIOSFODNN7EXAMPLE%2F20260115%2Feu-west-1%2Frds-db%2Faws4_request")
        );
        assert_eq!(value("X-Amz-Date"), Some("20260115T103000Z"));
        assert_eq!(value("X-Amz-Expires"), Some("900"));
        assert_eq!(value("X-Amz-SignedHeaders"), Some("host"));
        let signature = value("X-Amz-Signature").unwrap();
        assert!(signature.len() == 64 && signature.bytes().all(|b| b.is_ascii_hexdigit()));
        let again = token(host, "relay user", "eu-west-1", &credentials(None), then()).unwrap();
        assert_eq!(again, made, "the same clock and keys give the same token");
        let later = then() + Duration::from_secs(1);
        let other = token(host, "relay user", "eu-west-1", &credentials(None), later).unwrap();
        assert!(!other.contains(signature), "another time gives another signature");
        assert!(!made.contains("wJalrXUtnFEMI"), "the key itself is not in it");
    }

    /// The signature worked out step by step as AWS's documentation of Signature Version 4 has it.
    #[test]
    fn the_signature_is_that_of_signature_version_4() {
        use hmac_sha256 as hmac;
        let made =
            token(("db.example.com", 5432), "relay", "eu-west-1", &credentials(None), then())
                .unwrap();
        let (query, signature) = made
            .split_once("/?")
            .and_then(|(_, query)| query.split_once("&X-Amz-Signature="))
            .unwrap();
        let mut pairs: Vec<&str> = query.split('&').collect();
        pairs.sort_unstable();
        let empty = hex(&sha256(b""));
        let canonical =
            format!("GET\n/\n{}\nhost:db.example.com:5432\n\nhost\n{empty}", pairs.join("&"));
        let scope = "20260115/eu-west-1/rds-db/aws4_request";
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n20260115T103000Z\n{scope}\n{}",
            hex(&sha256(canonical.as_bytes()))
        );
        let mut key = b"AWS4wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_vec();
        for part in scope.split('/') {
            key = hmac(&key, part.as_bytes());
        }
        assert_eq!(signature, hex(&hmac(&key, to_sign.as_bytes())));
    }

    /// Made by botocore 1.43 (`RequestSigner.generate_presigned_url`, what the AWS CLI's
    /// `generate-db-auth-token` calls) with the same clock and keys.
    #[test]
    fn the_sdk_for_python_makes_the_same_token() {
        let place = "shop.abc.eu-west-1.rds.amazonaws.com:5432/?";
        let pairs = "Action=connect&DBUser=relay%20user&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20260115%2Feu-west-1%2Frds-db%2Faws4_request&X-Amz-Date=20260115T103000Z&X-Amz-SignedHeaders=host&X-Amz-Expires=900";
        for (session, more) in [
            (
                None,
                "X-Amz-Signature=724d96759508bc4b623e7f475a51da1347a2e3f647a0252c0182db1c8d1e79a3",
            ),
            (
                Some("a/b+c=="),
                "X-Amz-Security-Token=a%2Fb%2Bc%3D%3D&X-Amz-Signature=c10f408c69bb6c3e821d85a089583301e9f67fa4fe90213cac06748a2190b8e9",
            ),
        ] {
            let host = ("shop.abc.eu-west-1.rds.amazonaws.com", 5432);
            let made = token(host, "relay user", "eu-west-1", &credentials(session), then());
            let made = made.unwrap();
            // Their order means nothing.
            let sorted = |query: &str| {
                let mut pairs: Vec<String> = query.split('&').map(str::to_owned).collect();
                pairs.sort_unstable();
                pairs
            };
            assert_eq!(
                made.strip_prefix(place).map(sorted),
                Some(sorted(&format!("{pairs}&{more}")))
            );
        }
    }

    #[tokio::test]
    async fn a_minted_token_is_for_the_connections_host_role_and_region_and_from_now_on() {
        let dsn: crate::Dsn = "postgres://relay@db.example.com:6543/shop".parse().unwrap();
        let provider = SharedCredentialsProvider::new(credentials(None));
        let dsn = dsn.with_mint(Mint::iam("eu-west-1", provider)).unwrap();
        let seconds = || {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            now.unwrap().as_secs()
        };
        let before = seconds();
        let minted = String::from_utf8(dsn.password().await.unwrap().unwrap()).unwrap();
        let expected = (before..=seconds()).map(|second| {
            let then = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
            token(("db.example.com", 6543), "relay", "eu-west-1", &credentials(None), then).unwrap()
        });
        assert!(expected.collect::<Vec<_>>().contains(&minted), "{minted}");
    }

    #[test]
    fn a_token_does_not_print() {
        let host = ("db.example.com", 5432);
        let made = super::token(host, "relay", "eu-west-1", &credentials(None), then()).unwrap();
        assert_eq!(format!("{made:?}"), "Token");
    }

    #[test]
    fn a_session_token_travels_with_it() {
        let host = ("db.example.com", 5432);
        let made = token(host, "relay", "eu-west-1", &credentials(Some("a/b+c")), then()).unwrap();
        assert!(made.contains("X-Amz-Security-Token=a%2Fb%2Bc"), "{made}");
    }

    fn sha256(data: &[u8]) -> Vec<u8> {
        use sha2::Digest as _;
        sha2::Sha256::digest(data).to_vec()
    }

    /// RFC 2104, with SHA-256.
    fn hmac_sha256(key: &[u8], data: &[u8]) -> Vec<u8> {
        let mut block = if key.len() > 64 { sha256(key) } else { key.to_vec() };
        block.resize(64, 0);
        let pad = |with: u8| block.iter().map(|b| b ^ with).collect::<Vec<u8>>();
        let inner = sha256(&[pad(0x36), data.to_vec()].concat());
        sha256(&[pad(0x5c), inner].concat())
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }
}
