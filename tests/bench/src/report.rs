//! Medians, ratios, and how they are printed.

use crate::measure::Cost;
use std::time::Duration;

/// The median of what several turns gave.
pub(crate) fn median<T: Copy + PartialOrd>(values: impl IntoIterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.into_iter().collect();
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values.get(values.len().saturating_sub(1) / 2).copied()
}

/// The turns of one client on one backlog, by their medians.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) client: &'static str,
    pub(crate) rows_a_second: f64,
    pub(crate) processor: Duration,
    pub(crate) peak_mib: f64,
}

impl Line {
    pub(crate) fn new(client: &'static str, rows: u32, turns: &[Cost]) -> Self {
        let wall = median(turns.iter().map(|c| c.wall)).unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "a figure to print")]
        let peak = median(turns.iter().map(|c| c.peak)).unwrap_or_default() as f64;
        Self {
            client,
            rows_a_second: f64::from(rows) / wall.as_secs_f64(),
            processor: median(turns.iter().map(|c| c.processor)).unwrap_or_default(),
            peak_mib: peak / f64::from(1 << 20),
        }
    }
}

/// Prints a table of clients, each as a ratio to the first.
pub(crate) fn table(title: &str, lines: &[Line]) {
    println!("\n| {title} | rows/s | of the first | CPU s | peak MiB |");
    println!("|---|--:|--:|--:|--:|");
    let Some(first) = lines.first() else {
        return;
    };
    for line in lines {
        println!(
            "| {} | {:.0} | {:.2} | {:.2} | {:.1} |",
            line.client,
            line.rows_a_second,
            line.rows_a_second / first.rows_a_second,
            line.processor.as_secs_f64(),
            line.peak_mib
        );
    }
}

/// A time in microseconds, to print.
pub(crate) fn microseconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e6)
}

/// A size in MiB, to print.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{}", bytes.div_ceil(1 << 20))
}
