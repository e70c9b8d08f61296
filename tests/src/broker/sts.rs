//! STS: sessions of roles, by the Query protocol. Their credentials are refused once they end.

use super::server::{Protocol, refusal};
use super::{Shared, sns};
use axum::body::Body;
use axum::http::Response;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A role that was taken on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Session {
    /// The role's ARN.
    pub role: String,
    /// What it asks of those who take it on.
    pub external_id: Option<String>,
    /// The name that the session was given.
    pub name: String,
    /// Its access key.
    pub access_key: String,
    /// The access key of who took it on.
    pub by: String,
    /// When its credentials are good no more.
    pub ends: Instant,
}

/// Whether a request is signed for STS.
pub(super) fn is_sts(authorization: &str) -> bool {
    authorization.contains("/sts/aws4_request")
}

pub(super) fn answer(shared: &Shared, by: &str, fields: &sns::Fields) -> Response<Body> {
    let field = |name: &str| fields.get(name).cloned();
    if field("Action").as_deref() != Some("AssumeRole") {
        let refusal = refusal("InvalidAction", "The action is not known here");
        return Protocol::Sns.refuse(400, &refusal);
    }
    let mut state = shared.state();
    let length = state.session.unwrap_or(Duration::from_secs(3600));
    let access_key = format!("ASIA{}", state.sessions.len());
    state.sessions.push(Session {
        role: field("RoleArn").unwrap_or_default(),
        external_id: field("ExternalId"),
        name: field("RoleSessionName").unwrap_or_default(),
        access_key: access_key.clone(),
        by: by.to_owned(),
        ends: Instant::now() + length,
    });
    let expiration = (OffsetDateTime::now_utc() + length).format(&Rfc3339).unwrap_or_default();
    let body = format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
         <AssumedRoleUser><Arn>arn:aws:sts::000000000000:assumed-role/r/s</Arn><AssumedRoleId>A:s</AssumedRoleId></AssumedRoleUser>\
         <Credentials><AccessKeyId>{access_key}</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>\
         <SessionToken>token</SessionToken><Expiration>{expiration}</Expiration></Credentials>\
         </AssumeRoleResult><ResponseMetadata><RequestId>0</RequestId></ResponseMetadata></AssumeRoleResponse>"
    );
    Protocol::Sns.respond(200, body)
}
