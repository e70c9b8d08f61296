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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::publish::{Outgoing, Sealed};
    use aws_sdk_sns::config::interceptors::BeforeTransmitInterceptorContextRef;
    use std::sync::{Arc, Mutex};

    /// Takes down the body that the SDK writes, and ends the request there.
    #[derive(Clone, Debug, Default)]
    pub(in super::super) struct Written(pub(in super::super) Arc<Mutex<Vec<u8>>>);

    impl Intercept for Written {
        fn name(&self) -> &'static str {
            "Written"
        }

        fn read_after_serialization(
            &self,
            context: &BeforeTransmitInterceptorContextRef<'_>,
            _: &RuntimeComponents,
            _: &mut ConfigBag,
        ) -> Result<(), BoxError> {
            let body = context.request().body().bytes().unwrap_or_default();
            *self.0.lock().unwrap() = body.to_vec();
            Err("taken down".into())
        }
    }

    /// A batch of texts that each protocol has to escape.
    pub(in super::super) fn batch() -> Vec<Outgoing> {
        let texts = ["{}", "a b+c&d=e%41~/:", "ü\"\\\n\r\t\u{7f}\u{1f600}", r#"{"a":"\u0001"}"#];
        let entry = |(n, text): (usize, &&str)| {
            // One each: the SDK puts several in no order.
            let attribute = match n % 2 {
                0 => ("event_type", (*text).to_owned()),
                _ => (envelope::SIZE_ATTRIBUTE, "17".to_owned()),
            };
            Outgoing::probe(Sealed {
                event_id: uuid::Uuid::from_u128(7),
                event_type: "t".to_owned(),
                key: (*text).to_owned(),
                body: (*text).to_owned(),
                attributes: vec![attribute],
            })
        };
        texts.iter().enumerate().map(entry).collect()
    }
}
