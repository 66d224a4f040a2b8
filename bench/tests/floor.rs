//! `synod-bench floor` with short rows: all rows are there, and their figures fit.

use std::process::Command;

use serde_json::Value;

#[test]
fn every_floor_is_measured() {
    let output = Command::new(env!("CARGO_BIN_EXE_synod-bench"))
        .args(["floor", "--each", "0.005", "--body", "8KiB", "--window", "2", "--replicas", "2", "--format", "json"])
        .args(["--dir", env!("CARGO_TARGET_TMPDIR")])
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let rows = |name: &str| report[name].as_array().unwrap_or_else(|| panic!("{name} in {report}")).clone();
    let disk = rows("disk");
    assert_eq!(disk.len(), 2 * 4 * 3 * 2, "writers, blocks, depths, ways to sync");
    assert!(disk.iter().all(|row| row["mb_per_second"].as_f64() > Some(0.0)), "{report}");
    assert_eq!(disk.iter().filter(|row| row["writers"] == 2 && row["sync"] == "O_DSYNC").count(), 12);
    assert_eq!(rows("loopback").len(), 3);
    let pipeline = rows("pipeline");
    let own = pipeline.last().expect("rows");
    assert_eq!((&own["frame_bytes"], &own["window_frames"]), (&Value::from(8 << 10), &Value::from(2)));
    assert!(pipeline.iter().all(|row| row["commands_per_second"].as_f64() > Some(0.0)), "{report}");
}

#[test]
fn a_body_that_no_node_takes_is_refused() {
    for body in ["5KiB", "2MiB", "1KiB"] {
        let output = Command::new(env!("CARGO_BIN_EXE_synod-bench"))
            .args(["floor", "--body", body])
            .output()
            .expect("the program runs");
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("4KiB to 1MiB"));
    }
}
