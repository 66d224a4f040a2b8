//! `synod-bench peers`, where it is built in: every peer gives something.
#![cfg(feature = "peers")]

use std::process::Command;

use serde_json::Value;

#[test]
fn every_peer_gives_something() {
    let output = Command::new(env!("CARGO_BIN_EXE_synod-bench"))
        .args(["peers", "--duration", "0.3", "--rounds", "1", "--format", "json"])
        .args(["--dir", env!("CARGO_TARGET_TMPDIR")])
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let rows = report["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 10);
    for row in rows {
        assert!(row["commits_per_second"].as_f64() > Some(0.0) && row["p50_us"].as_u64() > Some(0), "{row}");
    }
}
