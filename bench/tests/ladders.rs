//! `sweep`, `wal`, `wake` and `compare` with short steps.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_synod-bench")).args(arguments).output().expect("the program runs")
}

fn measured(subcommand: &str, arguments: &[&str]) -> Value {
    let small = ["--segment", "2MiB", "--retention", "16MiB", "--dir", env!("CARGO_TARGET_TMPDIR"), "--format", "json"];
    let output = bench(&[&[subcommand, "--step", "0.1"], &small[..], arguments].concat());
    assert!(output.status.success(), "{subcommand}: {}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(report["audit"]["failures"].as_array().map(Vec::len), Some(0), "{report}");
    report
}

fn rows<'a>(report: &'a Value, name: &str) -> &'a [Value] {
    report[name].as_array().unwrap_or_else(|| panic!("{name} in {report}"))
}

#[test]
fn a_sweep_finds_peak_and_knee() {
    let report = measured("sweep", &["--in-flight-max", "8", "--batch", "10"]);
    let closed = rows(&report, "closed");
    let in_flight: Vec<_> = closed.iter().map(|rung| rung["in_flight_calls"].as_u64()).collect();
    assert_eq!(in_flight, [Some(1), Some(2), Some(4), Some(8)]);
    let rates: Vec<f64> = closed.iter().map(|rung| rung["commits_per_second"].as_f64().expect("a rate")).collect();
    let (peak, knee) = (report["peak"].as_u64().expect("a place"), report["knee"].as_u64().expect("a place"));
    assert!(rates.iter().all(|rate| *rate <= rates[peak as usize]) && knee < 4, "{report}");
    let asked = rows(&report, "open")[3]["commands_per_second"].as_f64().expect("a rate");
    assert!((asked - 0.7 * rates[peak as usize]).abs() < 1e-6 * asked);
    assert!(report["tail_at_70_percent"].as_f64() > Some(0.0));
}

#[test]
fn one_log_alone_is_measured_by_batch() {
    let report = measured("wal", &["--size", "128"]);
    assert_eq!(report["settings"]["replicas"], 1);
    let rows = rows(&report, "rows");
    assert!(rows.len() == 9 && rows.iter().all(|row| row["commits_per_second"].as_f64() > Some(0.0)), "{report}");
    assert!(rows.iter().any(|row| row["in_flight_calls"] == 256 && row["batch_commands"] == 1));
}

#[test]
fn a_shard_answers_asleep_and_busy() {
    let report = measured("wake", &["--in-flight", "8"]);
    let rows = rows(&report, "rows");
    let shards: Vec<_> = rows.iter().map(|row| row["shard"].as_str().expect("a name")).collect();
    assert_eq!(shards, ["asleep", "awake", "under load"]);
    assert!(rows.iter().all(|row| row["questions"].as_u64() > Some(0) && row["p50_ns"].as_u64() > Some(0)), "{report}");
}

/// A file as `run --json` writes it, as far as it is compared.
fn written(name: &str, commits_per_second: f64, failures: &[&str]) -> PathBuf {
    let point = |second: u32| {
        let rate = commits_per_second * (1.0 + f64::from(second % 3) / 100.0);
        json!({"at_seconds": second, "commits_per_second": rate, "p50_us": 1, "p99_us": 2, "counts": true})
    };
    let report = json!({
        "load": {"commits_per_second": commits_per_second, "cpu_us_per_commit": 1.0},
        "timeline": (0..10).map(point).collect::<Vec<_>>(),
        "settings": {"replicas": 3}, "environment": {}, "audit": {"failures": failures},
    });
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, report.to_string()).expect("a file");
    path
}

#[test]
fn a_regression_is_an_exit_code() {
    let compared = |before: &Path, after: &Path| {
        let output = bench(&["compare", before.to_str().expect("text"), after.to_str().expect("text")]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    };
    let (slow, fast) = (written("slow.json", 70_000.0, &[]), written("fast.json", 100_000.0, &[]));
    let (code, text) = compared(&fast, &slow);
    assert!(code == Some(1) && text.contains("REGRESSION") && text.contains("-30.0%"), "{text}");
    let (code, text) = compared(&slow, &fast);
    assert!(code == Some(0) && text.contains("better"), "{text}");
    let (code, text) = compared(&fast, &fast);
    assert!(code == Some(0) && text.contains("within the noise"), "{text}");
    let (code, text) = compared(&fast, &written("failed.json", 1e9, &["a command is missing"]));
    assert!(code == Some(3) && text.contains("audit of") && text.contains("failed"), "{text}");
    let (code, text) = compared(&fast, Path::new("nowhere.json"));
    assert!(code == Some(3) && text.contains("nowhere.json"), "{text}");
}
