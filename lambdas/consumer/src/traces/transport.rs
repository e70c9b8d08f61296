//! The HTTP of the exporter, which remembers why a request failed: the exporter's own error says
//! only that the network did.

use crate::error::chain;
use http::{Request, Response};
use opentelemetry_http::{Bytes, HttpClient, HttpError};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

/// Why the last request failed that got no answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Reason(Arc<Mutex<Option<String>>>);

impl Reason {
    /// Takes it out.
    pub(super) fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note(&self, error: &HttpError) {
        let reason = chain(error.as_ref());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }
}

/// A client whose failures are noted.
#[derive(Debug)]
pub(super) struct Noted<C> {
    pub(super) client: C,
    pub(super) reason: Reason,
}

impl<C: HttpClient> HttpClient for Noted<C> {
    fn send_bytes<'a, 'sent>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'sent>>
    where
        'a: 'sent,
        Self: 'sent,
    {
        Box::pin(async move {
            let answer = self.client.send_bytes(request).await;
            answer.inspect_err(|error| self.reason.note(error))
        })
    }
}
