//! A request of S3, signed. PURE but for the time and the credentials that it is handed.
//!
//! Form: <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>; its
//! examples are the tests.

use crate::Error;
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use bytes::Bytes;
use std::time::SystemTime;

/// What is to be asked of S3.
#[derive(Clone, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) method: &'a str,
    pub(crate) url: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: Bytes,
}

impl Call<'_> {
    /// The request, with a signature over its headers and its body.
    pub(crate) fn signed(
        self,
        region: &str,
        credentials: Credentials,
        now: SystemTime,
    ) -> Result<http::Request<Bytes>, Error> {
        let Self { method, url, headers, body } = self;
        let failed = |source| Error::Request { source };
        let mut settings = SigningSettings::default();
        // Of all services S3 alone encodes a path once and does not normalise it.
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let identity = credentials.into();
        let params = SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name("s3")
            .time(now)
            .settings(settings)
            .build()
            .map_err(|e| failed(e.into()))?
            .into();
        let signable =
            SignableRequest::new(method, url, headers.iter().copied(), SignableBody::Bytes(&body));
        let signable = signable.map_err(|e| failed(e.into()))?;
        let (instructions, _) = sign(signable, &params).map_err(|e| failed(e.into()))?.into_parts();
        let request = http::Request::builder().method(method).uri(url);
        let request = headers.iter().fold(request, |r, (name, value)| r.header(*name, *value));
        let mut request = request.body(body).map_err(|e| failed(e.into()))?;
        instructions.apply_to_request_http1x(&mut request);
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// The signature of a call in AWS's examples.
    fn signature(call: Call<'_>) -> String {
        let credentials = Credentials::new(
            "AKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            None,
            None,
            "example",
        );
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_369_353_600);
        let request = call.signed("us-east-1", credentials, then).unwrap();
        let header = request.headers()["authorization"].to_str().unwrap();
        header.rsplit_once("Signature=").unwrap().1.to_owned()
    }

    #[test]
    fn a_put_has_the_signature_of_awss_example() {
        let call = Call {
            method: "PUT",
            url: "https://examplebucket.s3.amazonaws.com/test%24file.text",
            headers: &[
                ("date", "Fri, 24 May 2013 00:00:00 GMT"),
                ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ],
            body: Bytes::from_static(b"Welcome to Amazon S3."),
        };
        let expected = "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd";
        assert_eq!(signature(call), expected);
    }

    #[test]
    fn a_get_has_the_signature_of_awss_example() {
        let call = Call {
            method: "GET",
            url: "https://examplebucket.s3.amazonaws.com/test.txt",
            headers: &[("range", "bytes=0-9")],
            body: Bytes::new(),
        };
        let expected = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        assert_eq!(signature(call), expected);
    }
}
