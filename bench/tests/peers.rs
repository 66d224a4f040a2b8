//! `synod-bench peers`, where it is built in: every peer that is installed gives something, the others are named.
#![cfg(feature = "peers")]

use std::process::{Command, Output};

use serde_json::Value;

fn peers(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_synod-bench"))
        .args(["peers", "--duration", "0.3", "--rounds", "1", "--dir", env!("CARGO_TARGET_TMPDIR")])
        .args(arguments)
        .output()
        .expect("the program runs")
}

#[test]
fn every_peer_that_is_here_gives_something() {
    let output = peers(&["--format", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let rows = report["rows"].as_array().expect("rows");
    let absent = report["absent"].as_array().expect("what isn't here").iter().filter_map(Value::as_str);
    let absent: Vec<&str> = absent.collect();
    let expected = [
        ("OmniPaxos", 6),
        ("openraft", 2),
        ("etcd", if absent.iter().any(|one| one.starts_with("etcd")) { 0 } else { 3 }),
        ("ZooKeeper", if absent.iter().any(|one| one.starts_with("ZooKeeper")) { 0 } else { 4 }),
        ("raft-engine", 4),
    ];
    for (name, count) in expected {
        let of_it = |row: &&Value| row["name"].as_str().is_some_and(|text| text.starts_with(name));
        assert_eq!(rows.iter().filter(of_it).count(), count, "{name}: {report}");
    }
    for row in rows {
        assert!(row["commits_per_second"].as_f64() > Some(0.0) && row["p50_us"].as_u64() > Some(0), "{row}");
        assert!(row["version"].as_str().is_some_and(|version| version.contains('.')), "{row}");
    }
}

#[test]
fn what_is_not_installed_is_skipped_with_a_line() {
    let output = Command::new(env!("CARGO_BIN_EXE_synod-bench"))
        .args(["peers", "--only", "etcd,zookeeper", "--rounds", "1", "--dir", env!("CARGO_TARGET_TMPDIR")])
        .env("PATH", "")
        .output()
        .expect("the program runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("Not measured: etcd") && text.contains("Not measured: ZooKeeper"), "{text}");
}
