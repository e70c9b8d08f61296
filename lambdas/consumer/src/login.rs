//! What the read model is shown at the login: `READ_MODEL_LOGIN`.
//!
//! Knows: its values, which are those of the relay's `postgres.login`. Must not know: where
//! credentials come from; each host has its own source of them.

/// Variable that says how to log in: `password`, the default, or `aws-iam`.
pub(crate) const VARIABLE: &str = "READ_MODEL_LOGIN";

/// Why the read model cannot be logged in to in that way.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// There is no such login.
    #[error("expected {VARIABLE} to be password or aws-iam, found {found:?}")]
    Unknown {
        /// Value of the variable.
        found: String,
    },
    /// The function was built without it.
    #[error(
        "expected a build with the feature iam of the crate consumer for {VARIABLE}=aws-iam, found one without it"
    )]
    NotBuiltIn,
    /// No region is known.
    #[error("expected a region to sign the login token for, found none; set AWS_REGION")]
    NoRegion,
    /// There are no credentials.
    #[error("expected AWS credentials to sign the login token with, found no source of them")]
    NoCredentials,
    /// The connection is not one for a token.
    #[error("the read model cannot be logged in to with a token")]
    Dsn(#[from] dsn::Error),
}

/// What is shown at the login.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Login {
    /// The password, wherever it comes from.
    Password,
    /// A token of AWS IAM, made for each connection.
    #[cfg(feature = "iam")]
    AwsIam,
}

impl Login {
    /// Reads the variable's value.
    pub(crate) fn read(value: Option<&str>) -> Result<Self, LoginError> {
        match value {
            None | Some("" | "password") => Ok(Self::Password),
            #[cfg(feature = "iam")]
            Some("aws-iam") => Ok(Self::AwsIam),
            #[cfg(not(feature = "iam"))]
            Some("aws-iam") => Err(LoginError::NotBuiltIn),
            Some(other) => Err(LoginError::Unknown { found: other.to_owned() }),
        }
    }

    /// What the environment says.
    pub(crate) fn of_environment() -> Result<Self, LoginError> {
        Self::read(std::env::var(VARIABLE).ok().as_deref())
    }
}

/// The same read model, shown a token for each connection.
#[cfg(feature = "iam")]
pub(crate) fn with_tokens(
    read_model: dsn::Dsn,
    region: Option<String>,
    credentials: Option<aws_credential_types::provider::SharedCredentialsProvider>,
) -> Result<dsn::Dsn, LoginError> {
    let region = region.ok_or(LoginError::NoRegion)?;
    let credentials = credentials.ok_or(LoginError::NoCredentials)?;
    Ok(read_model.with_mint(dsn::Mint::iam(region, credentials))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_known_or_refused_by_name() {
        for value in [None, Some(""), Some("password")] {
            assert_eq!(Login::read(value).unwrap(), Login::Password);
        }
        let error = Login::read(Some("iam")).unwrap_err().to_string();
        assert!(error.contains("password or aws-iam") && error.contains("\"iam\""), "{error}");
        let token = Login::read(Some("aws-iam"));
        assert_eq!(token.is_ok(), cfg!(feature = "iam"), "{token:?}");
    }

    #[cfg(feature = "iam")]
    #[test]
    fn a_token_is_for_tls_and_needs_a_region() {
        let credentials = || {
            let keys = aws_credential_types::Credentials::new("id", "secret", None, None, "test");
            Some(aws_credential_types::provider::SharedCredentialsProvider::new(keys))
        };
        let with = |url: &str, region: Option<&str>| {
            with_tokens(url.parse().unwrap(), region.map(str::to_owned), credentials())
        };
        // A host that is not local is spoken to over TLS though nothing asks for it.
        assert!(with("postgres://u@db.example.com/d", Some("eu-west-1")).is_ok());
        assert!(matches!(with("postgres://u@db.example.com/d", None), Err(LoginError::NoRegion)));
        let plain = with("postgres://u@localhost/d", Some("eu-west-1"));
        assert!(
            matches!(plain, Err(LoginError::Dsn(dsn::Error::TokenWithoutTls { .. }))),
            "{plain:?}"
        );
    }
}
