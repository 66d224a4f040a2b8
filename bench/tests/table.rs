//! `synod-bench table` with moments for each run: the rows asked for are there, and say what they found.

use std::process::Command;

use serde_json::Value;

#[test]
fn rows_are_measured_and_audited() {
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("table.json");
    let output = Command::new(env!("CARGO_BIN_EXE_synod-bench"))
        .args([
            "table",
            "--duration",
            "0.3",
            "--rows",
            "64B,idle,wal,paused-follower",
            "--segment",
            "8MiB",
            "--retention",
            "32MiB",
        ])
        .args(["--dir", env!("CARGO_TARGET_TMPDIR"), "--json", file.to_str().expect("text")])
        .output()
        .expect("the program runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("| what | here |") && text.contains("bars met"), "{text}");
    let report: Value = serde_json::from_slice(&std::fs::read(&file).expect("a report")).expect("one JSON object");
    let rows = report["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 4, "{text}");
    for row in rows {
        let bars = row["bars"].as_array().expect("bars");
        assert!(bars.iter().any(|bar| bar["is_aim"] == false), "{row}");
        assert!(bars.iter().all(|bar| bar["found"].as_str().is_some_and(|found| !found.is_empty())), "{row}");
        assert!(!row["here"].as_str().expect("text").is_empty(), "{row}");
    }
}

#[test]
fn an_unknown_row_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_synod-bench")).args(["table", "--rows", "65B"]).output();
    let output = output.expect("the program runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && errors.contains("65B") && errors.contains("growth"), "{errors}");
}
