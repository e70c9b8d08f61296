//! Where a bucket answers. PURE.

use std::fmt::Write as _;

/// A region's S3, or a stand-in for it.
///
/// Names: <https://docs.aws.amazon.com/general/latest/gr/s3.html>.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Place {
    region: String,
    endpoint: Option<String>,
    fips: bool,
    dual_stack: bool,
}

impl Place {
    /// The S3 of a region.
    #[must_use]
    pub fn new(region: impl Into<String>) -> Self {
        Self { region: region.into(), ..Self::default() }
    }

    /// Another server that speaks S3; buckets are the first part of its paths.
    #[must_use]
    pub fn at(self, endpoint: Option<String>) -> Self {
        Self { endpoint, ..self }
    }

    /// Whether the endpoint must be one whose cryptography is validated under FIPS 140.
    #[must_use]
    pub fn fips(self, fips: bool) -> Self {
        Self { fips, ..self }
    }

    /// Whether the endpoint must have IPv6 addresses too.
    #[must_use]
    pub fn dual_stack(self, dual_stack: bool) -> Self {
        Self { dual_stack, ..self }
    }

    pub(crate) fn region(&self) -> &str {
        &self.region
    }

    /// The URL of an object.
    ///
    /// A bucket whose name has a dot stands in the path: the certificate's `*.s3…` has none.
    #[must_use]
    pub fn url(&self, bucket: &str, key: &str) -> String {
        let mut url = match &self.endpoint {
            Some(endpoint) => format!("{}/{bucket}/", endpoint.trim_end_matches('/')),
            None if bucket.contains('.') => format!("https://{}/{bucket}/", self.host()),
            None => format!("https://{bucket}.{}/", self.host()),
        };
        for byte in key.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
                url.push(char::from(byte));
            } else {
                let _ = write!(url, "%{byte:02X}");
            }
        }
        url
    }

    fn host(&self) -> String {
        let fips = if self.fips { "-fips" } else { "" };
        let dual_stack = if self.dual_stack { ".dualstack" } else { "" };
        let region = &self.region;
        let suffix = match region.split('-').take(2).collect::<Vec<_>>().as_slice() {
            ["cn", _] => "amazonaws.com.cn",
            ["eusc", _] => "amazonaws.eu",
            ["us", "iso"] => "c2s.ic.gov",
            ["us", "isob"] => "sc2s.sgov.gov",
            _ => "amazonaws.com",
        };
        format!("s3{fips}{dual_stack}.{region}.{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_answers_where_aws_says() {
        let place = || Place::new("eu-west-1");
        let key = "a/b c";
        assert_eq!(place().url("b", key), "https://b.s3.eu-west-1.amazonaws.com/a/b%20c");
        assert_eq!(place().url("b.c", "k"), "https://s3.eu-west-1.amazonaws.com/b.c/k");
        assert_eq!(
            place().fips(true).dual_stack(true).url("b", "k"),
            "https://b.s3-fips.dualstack.eu-west-1.amazonaws.com/k"
        );
        assert_eq!(
            Place::new("cn-north-1").url("b", "k"),
            "https://b.s3.cn-north-1.amazonaws.com.cn/k"
        );
        let stand_in = place().at(Some("http://127.0.0.1:4566/".to_owned()));
        assert_eq!(stand_in.url("b", "k"), "http://127.0.0.1:4566/b/k");
    }
}
