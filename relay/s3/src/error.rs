//! Why an object was not put or got.

use std::error::Error as StdError;

/// Why an object was not put or got. Shows no part of one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There are no credentials.
    #[error("expected AWS credentials, found none")]
    Credentials {
        /// Why not.
        #[source]
        source: aws_credential_types::provider::error::CredentialsError,
    },
    /// The bucket or the key cannot stand in a request.
    #[error("expected a bucket and a key that can stand in a URL")]
    Request {
        /// Why not.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// S3 did not answer.
    #[error("S3 cannot be reached")]
    Unreachable {
        /// Why not.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// S3 refused.
    #[error("{message} ({code})")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// S3's code, such as `NoSuchBucket`; where it gives none, the status.
        code: String,
        /// S3's words.
        message: String,
    },
    /// The object is larger than was asked for.
    #[error("expected an object of at most {most} bytes, found a larger one")]
    TooLarge {
        /// The most that was asked for.
        most: usize,
    },
}

impl Error {
    /// Reads the XML of an error (<https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>).
    pub(crate) fn refused(status: u16, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let element = |name: &str| {
            let (_, rest) = text.split_once(&format!("<{name}>"))?;
            rest.split_once(&format!("</{name}>")).map(|(inner, _)| inner.to_owned())
        };
        Self::Refused {
            status,
            code: element("Code").unwrap_or_else(|| status.to_string()),
            message: element("Message").unwrap_or_else(|| "S3 gave no reason".to_owned()),
        }
    }

    /// S3's code, or ours for what it did not say.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Credentials { .. } => "NoCredentials",
            Self::Request { .. } => "InvalidRequest",
            Self::Unreachable { .. } => "unreachable",
            Self::Refused { code, .. } => code,
            Self::TooLarge { .. } => "TooLarge",
        }
    }

    /// Whether the fault is S3's own.
    #[must_use]
    pub fn is_of_server(&self) -> bool {
        matches!(self, Self::Refused { status: 500.., .. })
    }

    /// Whether other credentials may be let in.
    pub(crate) fn is_of_credentials(&self) -> bool {
        const CODES: [&str; 4] =
            ["ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "TokenRefreshRequired"];
        CODES.contains(&self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_a_code_has_its_status() {
        let body = b"<?xml version=\"1.0\"?><Error><Code>NoSuchBucket</Code><Message>It is not there</Message></Error>";
        assert_eq!(Error::refused(404, body).to_string(), "It is not there (NoSuchBucket)");
        assert_eq!(Error::refused(502, b"<html>").code(), "502");
        assert!(
            Error::refused(503, b"").is_of_server() && !Error::refused(403, b"").is_of_server()
        );
    }
}
