//! `[aws]`: in whose name the broker is reached, and by which endpoints.

use serde::Deserialize;

/// `[aws]`
///
/// What is not set is as the SDK's own variables and profiles say.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Aws {
    /// The role to publish with.
    role_arn: Option<String>,
    /// What the role asks of those who take it on.
    external_id: Option<String>,
    /// Whether endpoints have IPv6 addresses too.
    pub dual_stack: bool,
    /// Whether endpoints are those whose cryptography is validated under FIPS 140.
    pub fips: bool,
}

impl Aws {
    /// The ARN of the role to publish with, where there is one.
    #[must_use]
    pub fn role_arn(&self) -> Option<&str> {
        self.role_arn.as_deref().filter(|role| !role.is_empty())
    }

    /// What the role asks of those who take it on, where it does.
    #[must_use]
    pub fn external_id(&self) -> Option<&str> {
        self.external_id.as_deref().filter(|id| !id.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    const ROLE: &str = "arn:aws:iam::123456789012:role/teams/relay";

    #[test]
    fn each_key_is_a_variable_too() {
        let variables = [
            ("RELAY_ROLE_ARN", ROLE),
            ("RELAY_ROLE_EXTERNAL_ID", "shop"),
            ("RELAY_DUAL_STACK", "true"),
            ("RELAY_FIPS", "false"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let aws = Config::from_sources("[aws]\nfips = true", variables).unwrap().aws;
        assert_eq!((aws.role_arn(), aws.external_id()), (Some(ROLE), Some("shop")));
        assert!(aws.dual_stack && !aws.fips, "a variable wins over the file");
        let wrong = [("RELAY_FIPS".to_owned(), "yes".to_owned())];
        let error = Config::from_sources("", wrong).unwrap_err().to_string();
        assert!(error.contains("true or false"), "{error}");
    }

    #[test]
    fn what_is_no_role_is_refused() {
        for (file, said) in [
            ("role_arn = 'relay'", "role/NAME"),
            ("role_arn = 'arn:aws:iam::1:user/relay'", "role/NAME"),
            ("role_arn = 'arn:aws:sns:eu-west-1:1:role/relay'", "role/NAME"),
            ("external_id = 'shop'", "set only with aws.role_arn"),
            ("role = 'x'", "did you mean `role_arn`?"),
        ] {
            let error = Config::from_sources(&format!("[aws]\n{file}"), []).unwrap_err();
            assert!(error.to_string().contains(said), "{file}: {error}");
        }
        assert_eq!(Config::from_sources("[aws]\nrole_arn = ''", []).unwrap().aws.role_arn(), None);
    }
}
