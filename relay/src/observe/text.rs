//! The two text formats of metrics, and which of them a scraper asks for. PURE.
//!
//! The metrics' library writes OpenMetrics. Prometheus's own format, which every scraper reads
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>), differs in what is made of it
//! here: a counter's help and type stand under its full name, and there is no end mark.

use std::collections::HashSet;

/// The content type of Prometheus's own text format.
pub(super) const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The content type of OpenMetrics.
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether an `Accept` header prefers OpenMetrics to plain text.
pub(super) fn wants_open_metrics(accept: &str) -> bool {
    let (mut open, mut plain) = (0.0, 0.0);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let quality = parts.filter_map(|part| part.strip_prefix("q=")).find_map(|q| q.parse().ok());
        let quality: f32 = quality.unwrap_or(1.0);
        if kind.eq_ignore_ascii_case("application/openmetrics-text") {
            open = quality.max(open);
        } else if kind.eq_ignore_ascii_case("text/plain") {
            plain = quality.max(plain);
        }
    }
    open > 0.0 && open >= plain
}

/// OpenMetrics text in Prometheus's own format.
pub(super) fn classic(open_metrics: &str) -> String {
    let types = open_metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let counters: HashSet<&str> = types.filter_map(|line| line.strip_suffix(" counter")).collect();
    let mut classic = String::with_capacity(open_metrics.len() + 64);
    for line in open_metrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let comment = ["# HELP ", "# TYPE "].into_iter().find(|mark| line.starts_with(mark));
        let named = comment.and_then(|mark| Some((mark, line[mark.len()..].split_once(' ')?)));
        match named {
            Some((mark, (name, rest))) if counters.contains(name) => {
                classic.push_str(&format!("{mark}{name}_total {rest}\n"));
            }
            _ => {
                classic.push_str(line);
                classic.push('\n');
            }
        }
    }
    classic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_has_one_name_and_the_rest_stays() {
        let open = "# HELP a_b What.\n# TYPE a_b counter\na_b_total{x=\"1\"} 2\n\
            # HELP a_b_c How.\n# TYPE a_b_c gauge\na_b_c 3\n# EOF\n";
        assert_eq!(
            classic(open),
            "# HELP a_b_total What.\n# TYPE a_b_total counter\na_b_total{x=\"1\"} 2\n\
            # HELP a_b_c How.\n# TYPE a_b_c gauge\na_b_c 3\n"
        );
    }

    #[test]
    fn open_metrics_is_for_who_asks_for_it() {
        for (accept, wants) in [
            ("", false),
            ("*/*", false),
            ("text/plain", false),
            ("application/openmetrics-text", true),
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
                true,
            ),
            ("text/plain;version=0.0.4;q=0.6,application/openmetrics-text; q=0.5", false),
            ("application/openmetrics-text;q=0", false),
        ] {
            assert_eq!(wants_open_metrics(accept), wants, "{accept}");
        }
    }
}
