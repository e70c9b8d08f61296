//! S3: buckets that take and give whole objects, by path, and check the hash that was signed.

use super::Shared;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// Whether a request is signed for S3.
pub(super) fn is_s3(authorization: &str) -> bool {
    authorization.contains("/s3/aws4_request")
}

pub(super) fn answer(
    shared: &Shared,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &Bytes,
) -> Response<Body> {
    let mut state = shared.state();
    if *method == Method::PUT {
        state.puts += 1;
    }
    if let Some((status, code)) = state.object_faults.pop_front() {
        return refuse(status, code);
    }
    let signed = headers.get("x-amz-content-sha256").and_then(|v| v.to_str().ok());
    if signed != Some(&hex(&Sha256::digest(body))) {
        return refuse(400, "XAmzContentSHA256Mismatch");
    }
    let path = uri.path().trim_start_matches('/');
    let Some((bucket, key)) = path.split_once('/').filter(|(_, key)| !key.is_empty()) else {
        return refuse(405, "MethodNotAllowed");
    };
    let Some(objects) = state.buckets.get_mut(bucket) else {
        return refuse(404, "NoSuchBucket");
    };
    match *method {
        Method::PUT => {
            objects.insert(key.to_owned(), body.to_vec());
            respond(200, Body::empty())
        }
        Method::GET => match objects.get(key) {
            Some(object) => respond(200, Body::from(object.clone())),
            None => refuse(404, "NoSuchKey"),
        },
        _ => refuse(405, "MethodNotAllowed"),
    }
}

pub(super) fn refuse(status: u16, code: &str) -> Response<Body> {
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>Refused for a test</Message></Error>"
    );
    respond(status, Body::from(body))
}

fn respond(status: u16, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
