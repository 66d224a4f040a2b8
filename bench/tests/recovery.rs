//! `synod-bench recovery` on logs of a few segments: the figures are there, and fit each other.

use std::process::Command;

use serde_json::Value;

const MIB: u64 = 1 << 20;

#[test]
fn a_node_is_restarted_on_each_log() {
    let output = Command::new(env!("CARGO_BIN_EXE_synod-bench"))
        .args(["recovery", "--size", "3MiB,6MiB", "--times", "2", "--segment", "2MiB", "--format", "json"])
        .args(["--dir", env!("CARGO_TARGET_TMPDIR")])
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let logs = report["logs"].as_array().expect("a list");
    assert_eq!(logs.iter().map(|log| log["log_bytes"].as_u64()).collect::<Vec<_>>(), [Some(3 * MIB), Some(6 * MIB)]);
    for log in logs {
        assert_eq!(log["audit"]["failures"].as_array().map(Vec::len), Some(0), "{log}");
        assert!(log["audit"]["commands_read"].as_u64() > Some(1000), "{log}");
        let restarts = log["restarts"].as_array().expect("a list");
        assert_eq!(restarts.len(), 2);
        for restart in restarts {
            let number = |name: &str| restart[name].as_f64().unwrap_or_else(|| panic!("{name} in {restart}"));
            assert!(number("bytes_read") >= log["log_bytes"].as_f64().unwrap(), "{log}");
            assert_eq!(number("bytes_read"), number("segments") * (2 * MIB) as f64, "whole segments are read");
            assert!(number("recovery_seconds") > 0.0 && number("recovery_seconds") <= number("open_seconds"));
            assert!(number("recovery_seconds") <= number("first_vote_seconds") && number("bodies") > 0.0);
            let disk = &restart["disk"];
            let best = ["before", "after"].map(|when| disk[format!("{when}_bytes_per_second")].as_f64().unwrap());
            let share = number("bytes_per_second") / best[0].max(best[1]);
            assert!((share - number("share_of_disk")).abs() < 1e-9 && share > 0.0, "{restart}");
        }
    }
    let left = std::fs::read_dir(env!("CARGO_TARGET_TMPDIR")).expect("a directory").flatten();
    let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("synod-bench-")).count();
    assert_eq!(left, 0, "the logs are gone");
}

#[test]
fn what_a_load_needs_is_refused() {
    let refused = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_synod-bench")).args(arguments).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    assert!(refused(&["recovery", "--size", "1GB"]).contains("KiB, MiB or GiB"));
    assert!(refused(&["recovery", "--times", "0"]).contains("--times"));
    assert!(refused(&["recovery", "--duration", "1"]).contains("--duration"));
}
