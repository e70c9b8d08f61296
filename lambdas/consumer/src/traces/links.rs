//! Where a message comes from, as its headers say. PURE.
//!
//! What is malformed leads nowhere and harms nothing: headers are others' words.

use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use std::collections::HashMap;

/// W3C's `traceparent`: <https://www.w3.org/TR/trace-context/#traceparent-header>.
pub(super) fn of_traceparent(header: &str) -> Option<SpanContext> {
    let carrier = HashMap::from([("traceparent".to_owned(), header.to_owned())]);
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
    let span = context.span();
    Some(span.span_context().clone()).filter(SpanContext::is_valid)
}

/// The same the other way.
pub(super) fn to_traceparent(context: &SpanContext) -> Option<String> {
    context.is_valid().then(|| {
        let flags = context.trace_flags() & TraceFlags::SAMPLED;
        format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), flags.to_u8())
    })
}

/// X-Ray's header, `Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1`:
/// <https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader>.
/// Without a parent it names no span that could be linked to.
pub(super) fn of_xray(header: &str) -> Option<SpanContext> {
    let field = |name: &str| {
        header
            .split(';')
            .filter_map(|part| part.split_once('='))
            .find_map(|(key, value)| (key.trim() == name).then_some(value.trim()))
    };
    let (time, random) = field("Root")?.strip_prefix("1-")?.split_once('-')?;
    let trace = hexadecimal(time, 8)? << 96 | hexadecimal(random, 24)?;
    let parent = u64::try_from(hexadecimal(field("Parent")?, 16)?).ok()?;
    let sampled = field("Sampled") == Some("1");
    let flags = if sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace, parent) = (TraceId::from(trace), SpanId::from(parent));
    Some(SpanContext::new(trace, parent, flags, true, TraceState::default()))
        .filter(SpanContext::is_valid)
}

/// So many hexadecimal digits.
fn hexadecimal(text: &str, digits: usize) -> Option<u128> {
    let fits = text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
    fits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const XRAY: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";

    fn ids(context: Option<SpanContext>) -> Option<(String, String, bool)> {
        context.map(|c| (c.trace_id().to_string(), c.span_id().to_string(), c.is_sampled()))
    }

    #[test]
    fn both_headers_name_a_trace_a_span_and_whether_it_is_sampled() {
        let named = |trace: &str, span: &str, sampled| Some((trace.into(), span.into(), sampled));
        let w3c = named("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", true);
        assert_eq!(ids(of_traceparent(TRACEPARENT)), w3c);
        let (trace, span) = ("5759e988bd862e3fe1be46a994272793", "53995c3f42cd8ad8");
        assert_eq!(ids(of_xray(XRAY)), named(trace, span, true));
        let unsampled = XRAY.replace("Sampled=1", "Sampled=0");
        assert_eq!(ids(of_xray(&unsampled)), named(trace, span, false));
        let other_order = "Sampled=1; Lineage=a:1; Parent=53995c3f42cd8ad8; Root=1-5759e988-bd862e3fe1be46a994272793";
        assert_eq!(ids(of_xray(other_order)), named(trace, span, true));
        let again = of_traceparent(TRACEPARENT).and_then(|context| to_traceparent(&context));
        assert_eq!(again.as_deref(), Some(TRACEPARENT));
    }

    #[test]
    fn what_is_malformed_leads_nowhere() {
        for header in [
            "",
            "Root=1-5759e988-bd862e3fe1be46a994272793",
            "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=;Sampled=1",
            "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=0000000000000000;Sampled=1",
            "Root=2-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8",
            "Root=1-5759e98-bd862e3fe1be46a9942727933;Parent=53995c3f42cd8ad8",
            "Root=1-5759e988-+d862e3fe1be46a994272793;Parent=53995c3f42cd8ad8",
            "Root=1-00000000-000000000000000000000000;Parent=53995c3f42cd8ad8",
            TRACEPARENT,
        ] {
            assert_eq!(of_xray(header), None, "{header}");
        }
        for header in
            ["", XRAY, &TRACEPARENT[3..], "00-00000000000000000000000000000000-b7ad6b7169203331-01"]
        {
            assert_eq!(of_traceparent(header), None, "{header}");
        }
        assert_eq!(to_traceparent(&SpanContext::empty_context()), None);
    }

    proptest! {
        #[test]
        fn no_header_makes_a_panic(any in any::<String>(), near in "Root=1-[0-9a-g-]{30,36};Parent=[0-9a-zé]{14,17}") {
            for header in [&any, &near] {
                let _ = (of_xray(header), of_traceparent(header));
            }
        }
    }
}
