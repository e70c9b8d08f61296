//! A request's body, written straight from the events.
//!
//! The SDK would copy each text into types of its own, and from those into the body: that was
//! a third of what a request cost. So it is handed a request without entries, and the body is put
//! in its place before it is signed. All the rest stays the SDK's: credentials, signature,
//! connections, answers.

use aws_sdk_sns::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_sns::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_sns::error::BoxError;
use std::cell::Cell;

tokio::task_local! {
    /// The body of the request that is being sent.
    static BODY: Cell<Option<Vec<u8>>>;
}

/// Sends a request with this body; the client must have [`OwnBody`].
pub(super) async fn with<F: Future>(body: Vec<u8>, sending: F) -> F::Output {
    BODY.scope(Cell::new(Some(body)), sending).await
}

/// What puts the body in its place.
#[derive(Debug)]
pub(super) struct OwnBody {
    /// The type that the SDK says the body is of: that of the protocol it is written for.
    pub(super) content_type: &'static str,
}

impl Intercept for OwnBody {
    fn name(&self) -> &'static str {
        "OwnBody"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Ok(Some(body)) = BODY.try_with(Cell::take) else {
            return Ok(());
        };
        let request = context.request_mut();
        let found = request.headers().get("content-type").unwrap_or_default();
        if found != self.content_type {
            return Err(
                format!("expected the SDK to send {}, found {found}", self.content_type).into()
            );
        }
        request.headers_mut().insert("content-length", body.len().to_string());
        *request.body_mut() = body.into();
        Ok(())
    }
}
