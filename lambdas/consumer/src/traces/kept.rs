//! Spans that have ended and are not sent yet.
//!
//! The SDK's own processors send from a thread of theirs or wait for the answer in place: a Lambda
//! function is frozen between invocations, and has one thread. This one only keeps; the host sends.

use opentelemetry::Context;
use opentelemetry::trace::SpanKind;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a span of a message does.
pub(super) const OPERATION: &str = "messaging.operation.name";

/// For whom: the projection.
pub(super) const GROUP: &str = "messaging.consumer.group.name";

/// The most that are kept, as the SDK's own processor has it.
const MOST: usize = 2048;

/// The spans, and how many there were too many.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept(Arc<Mutex<(Vec<SpanData>, usize)>>);

impl Kept {
    /// Takes them out: the spans, and how many found no place.
    pub(super) fn take(&self) -> (Vec<SpanData>, usize) {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl SpanProcessor for Kept {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, mut span: SpanData) {
        name_by_convention(&mut span);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.0.len() < MOST {
            kept.0.push(span);
        } else {
            kept.1 += 1;
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// A message's span is of the kind `consumer`, and called by what it does and for whom. Said here,
/// so that what is for traces alone stands in no line of the log.
fn name_by_convention(span: &mut SpanData) {
    let value = |key| {
        let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == key)?;
        Some(found.value.as_str().into_owned())
    };
    if let (Some(operation), Some(group)) = (value(OPERATION), value(GROUP)) {
        span.name = format!("{operation} {group}").into();
        span.span_kind = SpanKind::Consumer;
    }
}
