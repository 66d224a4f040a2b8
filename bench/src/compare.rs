//! `synod-bench compare`: what changed between runs, and whether it is more than noise.
//!
//! Several reports on a side are samples of their own; of a single one, its seconds are. Neighbouring seconds resemble each
//! other, so they count for less than as many independent ones. A change is a *regression* if it is for the worse, by more
//! than the tolerance, and further from nothing than chance would put it 19 times in 20.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::options::CompareOptions;

/// Samples below which nothing can be said.
const SAMPLES_MIN: usize = 3;

/// What is compared.
#[derive(Clone, Copy)]
struct Metric {
    name: &'static str,
    unit: &'static str,
    /// Its value for a whole run.
    whole: &'static str,
    /// A field of the timeline's points, or a list of numbers: its samples within a run.
    samples: Samples,
    is_better_higher: bool,
}

#[derive(Clone, Copy)]
enum Samples {
    Timeline(&'static str),
    List(&'static str),
    None,
}

const METRICS: [Metric; 6] = [
    Metric {
        name: "commits",
        unit: "/s",
        whole: "/load/commits_per_second",
        samples: Samples::Timeline("commits_per_second"),
        is_better_higher: true,
    },
    Metric {
        name: "share of bare pipeline",
        unit: "",
        whole: "/pipeline/share",
        samples: Samples::List("/pipeline/shares"),
        is_better_higher: true,
    },
    Metric {
        name: "append p50",
        unit: "us",
        whole: "/load/append_latency/p50_us",
        samples: Samples::Timeline("p50_us"),
        is_better_higher: false,
    },
    Metric {
        name: "append p99",
        unit: "us",
        whole: "/load/append_latency/p99_us",
        samples: Samples::Timeline("p99_us"),
        is_better_higher: false,
    },
    Metric {
        name: "single command p50",
        unit: "us",
        whole: "/single/latency/p50_us",
        samples: Samples::None,
        is_better_higher: false,
    },
    Metric {
        name: "CPU a commit",
        unit: "us",
        whole: "/load/cpu_us_per_commit",
        samples: Samples::None,
        is_better_higher: false,
    },
];

/// What came of a comparison.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    rows: Vec<Row>,
    /// Settings and machines that differ: then the change may be theirs.
    differences: Vec<String>,
    tolerance: f64,
}

#[derive(Clone, Debug, Serialize)]
struct Row {
    metric: &'static str,
    unit: &'static str,
    before: f64,
    after: f64,
    /// As a share of before.
    change: f64,
    /// Half the width of the interval in which the change lies 19 times in 20; none with too few samples.
    noise: Option<f64>,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// Too few samples.
    Unjudged,
    Noise,
    Better,
    /// Worse, but by no more than is tolerated.
    SlightlyWorse,
    Regression,
}

/// Compares the reports on both sides.
///
/// # Errors
/// If a file is no report of a run whose audit passed.
pub(crate) fn run(options: &CompareOptions) -> Result<Report> {
    let (before, after) = (read(&options.before)?, read(&options.after)?);
    let tolerance = options.tolerance / 100.0;
    let rows = METRICS.iter().filter_map(|metric| row(metric, &before, &after, tolerance)).collect();
    Ok(Report { rows, differences: differences(&before[0], &after[0]), tolerance })
}

fn read(paths: &[PathBuf]) -> Result<Vec<Value>> {
    let one = |path: &PathBuf| {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {shown}"))?;
        let report: Value = serde_json::from_str(&text).with_context(|| format!("{shown} is no JSON"))?;
        let Some(failures) = report.pointer("/audit/failures").and_then(Value::as_array) else {
            bail!("{shown} is no report of `synod-bench run`; make one with --json FILE");
        };
        ensure!(report.pointer("/load/commits_per_second").is_some(), "{shown} is no report of `synod-bench run`");
        ensure!(failures.is_empty(), "the audit of {shown} failed: its figures mean nothing");
        Ok(report)
    };
    paths.iter().map(one).collect()
}

fn row(metric: &Metric, before: &[Value], after: &[Value], tolerance: f64) -> Option<Row> {
    let whole = |reports: &[Value]| {
        let values: Vec<f64> = reports.iter().filter_map(|report| report.pointer(metric.whole)?.as_f64()).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let (from, to) = (whole(before)?, whole(after)?);
    if from <= 0.0 {
        return None;
    }
    let change = to / from - 1.0;
    let noise = match (samples(metric, before), samples(metric, after)) {
        (Some(one), Some(other)) => Some(half_width(&one, &other) / from),
        _ => None,
    };
    let loss = if metric.is_better_higher { -change } else { change };
    let verdict = match noise {
        None => Verdict::Unjudged,
        Some(noise) if change.abs() <= noise => Verdict::Noise,
        Some(_) if loss < 0.0 => Verdict::Better,
        Some(_) if loss <= tolerance => Verdict::SlightlyWorse,
        Some(_) => Verdict::Regression,
    };
    let Metric { name, unit, .. } = *metric;
    Some(Row { metric: name, unit, before: from, after: to, change, noise, verdict })
}

/// The samples of one side, if there are enough.
fn samples(metric: &Metric, reports: &[Value]) -> Option<Vec<f64>> {
    let samples: Vec<f64> = match (reports, metric.samples) {
        ([report], Samples::Timeline(field)) => seconds(report, field),
        ([report], Samples::List(list)) => report.pointer(list)?.as_array()?.iter().filter_map(Value::as_f64).collect(),
        ([_], Samples::None) => return None,
        _ => reports.iter().filter_map(|report| report.pointer(metric.whole)?.as_f64()).collect(),
    };
    (samples.len() >= SAMPLES_MIN).then_some(samples)
}

/// A field of the timeline's points that count, averaged over each second.
fn seconds(report: &Value, field: &str) -> Vec<f64> {
    let points = report["timeline"].as_array().map_or(&[][..], Vec::as_slice);
    let mut seconds: Vec<(i64, f64, f64)> = Vec::new();
    for point in points.iter().filter(|point| point["counts"] == true) {
        let (Some(at), Some(value)) = (point["at_seconds"].as_f64(), point[field].as_f64()) else { continue };
        let second = at.floor() as i64;
        match seconds.last_mut() {
            Some((last, sum, count)) if *last == second => {
                *sum += value;
                *count += 1.0;
            }
            _ => seconds.push((second, value, 1.0)),
        }
    }
    seconds.into_iter().map(|(_, sum, count)| sum / count).collect()
}

/// Half the width of the 95 % interval of the difference of two means.
fn half_width(one: &[f64], other: &[f64]) -> f64 {
    let ((error, freedom), (other_error, other_freedom)) = (error_of_mean(one), error_of_mean(other));
    let (a, b) = (error * error, other_error * other_error);
    if a + b == 0.0 {
        return 0.0;
    }
    // Welch: as many degrees of freedom as the two together are worth.
    let freedom = (a + b) * (a + b) / (a * a / freedom + b * b / other_freedom);
    student(freedom) * (a + b).sqrt()
}

/// The standard error of a mean, and its degrees of freedom: neighbours that resemble each other count for less.
fn error_of_mean(samples: &[f64]) -> (f64, f64) {
    let count = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / count;
    let variance = samples.iter().map(|sample| (sample - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let products = samples.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean)).sum::<f64>();
    let likeness = if variance > 0.0 { (products / (count - 1.0) / variance).clamp(0.0, 0.9) } else { 0.0 };
    let worth = (count * (1.0 - likeness) / (1.0 + likeness)).max(2.0);
    ((variance / worth).sqrt(), worth - 1.0)
}

/// Beyond what Student's t of so many degrees of freedom lies once in 20 times, on either side together.
fn student(freedom: f64) -> f64 {
    const TABLE: [(f64, f64); 9] = [
        (1.0, 12.71),
        (2.0, 4.30),
        (3.0, 3.18),
        (4.0, 2.78),
        (6.0, 2.45),
        (10.0, 2.23),
        (20.0, 2.09),
        (60.0, 2.00),
        (1000.0, 1.96),
    ];
    // Rounded down to the next row, which is on the safe side.
    TABLE.iter().rev().find(|(row, _)| freedom >= *row).map_or(TABLE[0].1, |(_, t)| *t)
}

fn differences(before: &Value, after: &Value) -> Vec<String> {
    let mut differences = Vec::new();
    for (part, fields) in [("settings", &["directory", "seed"][..]), ("environment", &["load_average", "command"][..])]
    {
        let Some(object) = before[part].as_object() else { continue };
        for (field, value) in object.iter().filter(|(field, _)| !fields.contains(&field.as_str())) {
            if after[part][field] != *value {
                differences.push(format!("{field}: {value} before, {} after", after[part][field]));
            }
        }
    }
    differences
}

impl Report {
    pub(crate) fn has_no_regression(&self) -> bool {
        self.rows.iter().all(|row| row.verdict != Verdict::Regression)
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a string can't fail");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "{:<24} {:>15} {:>15} {:>9} {:>10}", "", "before", "after", "change", "noise")?;
        let number = |row: &Row, value: f64| {
            let digits = if value < 10.0 { 3 } else { 0 };
            format!("{value:.digits$} {}", row.unit)
        };
        for row in &self.rows {
            writeln!(
                text,
                "{:<24} {:>15} {:>15} {:>+8.1}% {:>10}  {}",
                row.metric,
                number(row, row.before),
                number(row, row.after),
                row.change * 100.0,
                row.noise.map_or_else(|| "unknown".to_owned(), |noise| format!("+-{:.1}%", noise * 100.0)),
                match row.verdict {
                    Verdict::Unjudged => "too few samples to judge",
                    Verdict::Noise => "within the noise",
                    Verdict::Better => "better",
                    Verdict::SlightlyWorse => "worse, but tolerated",
                    Verdict::Regression => "REGRESSION",
                }
            )?;
        }
        for difference in &self.differences {
            writeln!(text, "note: not the same: {difference}")?;
        }
        write!(text, "tolerated: {:.1} % for the worse", self.tolerance * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report whose seconds are these.
    fn report(commits: &[f64]) -> Value {
        let point = |(at, rate): (usize, &f64)| serde_json::json!({"at_seconds": at as f64, "commits_per_second": rate, "p50_us": 100.0, "p99_us": 900.0, "counts": true});
        let points: Vec<Value> = commits.iter().enumerate().map(point).collect();
        let mean = commits.iter().sum::<f64>() / commits.len() as f64;
        serde_json::json!({
            "load": {"commits_per_second": mean, "append_latency": {"p50_us": 100, "p99_us": 900}, "cpu_us_per_commit": 0.1},
            "timeline": points,
            "settings": {"replicas": 3},
        })
    }

    fn verdict(before: &[f64], after: &[f64]) -> Verdict {
        row(&METRICS[0], &[report(before)], &[report(after)], 0.05).expect("a row").verdict
    }

    #[test]
    fn a_change_is_told_from_noise() {
        let steady = [100.0, 101.0, 99.0, 100.0, 102.0, 98.0, 100.0, 100.0];
        let by = |share: f64| steady.map(|value| value * share);
        assert_eq!(verdict(&steady, &by(1.0)), Verdict::Noise);
        assert_eq!(verdict(&steady, &by(0.999)), Verdict::Noise);
        assert_eq!(verdict(&steady, &by(1.2)), Verdict::Better);
        assert_eq!(verdict(&steady, &by(0.96)), Verdict::SlightlyWorse);
        assert_eq!(verdict(&steady, &by(0.8)), Verdict::Regression);
        assert_eq!(verdict(&steady, &[80.0, 80.0]), Verdict::Unjudged, "two seconds say nothing");
        let noisy = [100.0, 60.0, 140.0, 100.0, 50.0, 150.0];
        assert_eq!(verdict(&noisy, &noisy.map(|value| value * 0.9)), Verdict::Noise);
    }

    #[test]
    fn seconds_that_drift_count_for_less() {
        let drifting: Vec<f64> = (0..40).map(|second| 100.0 + f64::from(second)).collect();
        let shuffled: Vec<f64> = (0..40).map(|second| 100.0 + f64::from(second * 17 % 40)).collect();
        assert!(error_of_mean(&drifting).0 > 2.0 * error_of_mean(&shuffled).0);
    }

    #[test]
    fn several_reports_are_samples_of_their_own() {
        let side = |rates: [f64; 3]| rates.map(|rate| report(&[rate; 9])).to_vec();
        let row = |before, after| row(&METRICS[0], &side(before), &side(after), 0.05).expect("a row");
        assert_eq!(row([100.0, 90.0, 110.0], [99.0, 88.0, 111.0]).verdict, Verdict::Noise);
        assert_eq!(row([100.0, 99.0, 101.0], [80.0, 79.0, 81.0]).verdict, Verdict::Regression);
    }
}
