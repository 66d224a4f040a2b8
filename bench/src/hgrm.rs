//! HdrHistogram's percentile table: what its plotters read.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Lines for each halving of the distance to 100 %.
const TICKS: u32 = 5;

/// The table, in milliseconds.
pub(crate) fn table(latency_us: &Histogram<u64>) -> String {
    let mut text = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let ms = |us: f64| us / 1000.0;
    for value in latency_us.iter_quantiles(TICKS) {
        let quantile = value.quantile_iterated_to();
        let _ = write!(
            text,
            "{:12.3} {:2.12} {:10}",
            ms(value.value_iterated_to() as f64),
            quantile,
            latency_us.count_between(0, value.value_iterated_to())
        );
        if quantile < 1.0 {
            let _ = write!(text, " {:14.2}", 1.0 / (1.0 - quantile));
        }
        text.push('\n');
    }
    let _ =
        writeln!(text, "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]", ms(latency_us.mean()), ms(latency_us.stdev()));
    let _ =
        writeln!(text, "#[Max     = {:12.3}, Total count    = {:12}]", ms(latency_us.max() as f64), latency_us.len());
    let _ = writeln!(
        text,
        "#[Buckets = {:12}, SubBuckets     = {:12}]",
        latency_us.buckets(),
        (2 * 10_u32.pow(latency_us.sigfig().into())).next_power_of_two()
    );
    text
}

/// A point of the latency by percentile.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Quantile {
    /// From 0 to 1.
    pub(crate) quantile: f64,
    pub(crate) us: u64,
}

/// Enough points for a picture.
pub(crate) fn spectrum(latency_us: &Histogram<u64>) -> Vec<Quantile> {
    let point = |quantile| Quantile { quantile, us: latency_us.value_at_quantile(quantile) };
    if latency_us.is_empty() {
        return Vec::new();
    }
    let coarse = (0..10).map(|tenth| f64::from(tenth) / 10.0);
    // As far into the tail as there are calls.
    let halvings = (latency_us.len() as f64).log2();
    let fine = (14..).map(|quarter| f64::from(quarter) / 4.0).take_while(|halving| *halving <= halvings);
    coarse.chain(fine.map(|halving| 1.0 - 0.5_f64.powf(halving))).chain([1.0]).map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latencies() -> Histogram<u64> {
        let mut latency_us = Histogram::new_with_bounds(1, 600_000_000, 3).expect("constant bounds");
        (1..=1000).for_each(|us| latency_us.record(us * 1000).expect("in bounds"));
        latency_us
    }

    #[test]
    fn the_table_is_what_plotters_read() {
        let text = table(&latencies());
        let rows: Vec<Vec<f64>> = text
            .lines()
            .filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit()))
            .map(|line| line.split_whitespace().map(|number| number.parse().expect("a number")).collect())
            .collect();
        assert!(rows.len() > 20 && rows.is_sorted_by(|a, b| a[0] <= b[0] && a[1] <= b[1] && a[2] <= b[2]), "{text}");
        let last = rows.last().expect("rows");
        assert_eq!((last[1], last[2], last.len()), (1.0, 1000.0, 3), "{text}");
        let half = rows.iter().find(|row| row[1] == 0.5).expect("the median");
        assert!((half[0] - 500.0).abs() < 1.0 && (half[3] - 2.0).abs() < 1e-9, "{text}");
        assert!(text.contains("Total count    =         1000]"), "{text}");
    }

    #[test]
    fn the_spectrum_goes_as_far_as_there_are_calls() {
        let points = spectrum(&latencies());
        assert!(points.is_sorted_by(|a, b| a.quantile < b.quantile && a.us <= b.us), "{points:?}");
        assert!(points[points.len() - 2].quantile < 1.0 - 1.0 / 1001.0);
        assert!(spectrum(&Histogram::new(3).expect("constant")).is_empty());
    }
}
