//! The credentials that Lambda gives a function, in its environment.

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};

/// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`: as long as the process
/// lives they are the same ones.
pub(crate) fn of_environment() -> SharedCredentialsProvider {
    SharedCredentialsProvider::new(Environment)
}

#[derive(Debug)]
struct Environment;

impl ProvideCredentials for Environment {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let (id, secret) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"));
        let (Some(id), Some(secret)) = (id, secret) else {
            let missing = "expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, found none";
            return future::ProvideCredentials::ready(Err(CredentialsError::not_loaded(missing)));
        };
        let token = variable("AWS_SESSION_TOKEN");
        let found = Credentials::new(id, secret, token, None, "environment");
        future::ProvideCredentials::ready(Ok(found))
    }
}

/// A variable that is set and not empty.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
