//! `synod-bench run` for moments, in each of its ways: the audit passes, and the figures fit each other.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A run of some tenths of a second on small logs.
fn run(name: &str, arguments: &[&str]) -> Value {
    let directory = directory(name);
    let file = directory.join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_synod-bench"))
        .args(["run", "--segment", "2MiB", "--retention", "16MiB", "--warm-up", "0.2", "--batch", "20"])
        .args(["--dir".as_ref(), directory.as_os_str(), "--json".as_ref(), file.as_os_str()])
        .args(arguments)
        .output()
        .expect("the program runs");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}\n{text}\n{errors}");
    assert!(text.contains("audit             passed"), "{text}");
    let report: Value = serde_json::from_slice(&std::fs::read(&file).expect("a report")).expect("one JSON object");
    assert_eq!(report["audit"]["failures"].as_array().map(Vec::len), Some(0), "{report}");
    assert!(number(&report, "/load/commits_per_second") > 0.0, "{report}");
    assert!(number(&report, "/audit/calls_acknowledged") * 20.0 >= number(&report, "/load/commands"), "{report}");
    let logs = std::fs::read_dir(&directory).expect("a directory").flatten();
    let logs = logs.filter(|entry| entry.file_name().to_string_lossy().starts_with("synod-bench-")).count();
    assert_eq!(logs, 0, "the logs are gone");
    report
}

fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&directory).expect("a directory");
    directory
}

fn number(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer} in {report}"))
}

/// Whether the parts of a call's time are its whole.
fn stages_add_up(report: &Value) -> bool {
    let parts = ["clients", "queue", "encode", "net", "disk", "quorum", "delivery"];
    let part = |name: &&str| number(report, &format!("/stages/{name}_us"));
    let (whole, sum) = (number(report, "/stages/whole_us"), parts.iter().map(part).sum::<f64>());
    whole > 0.0 && parts.iter().map(part).all(|part| part >= 0.0) && (whole - sum).abs() < 0.001 * whole
}

#[test]
fn a_closed_loop_takes_turns_with_the_bare_pipeline() {
    let hgrm = directory("closed").join("latency.hgrm");
    let report = run(
        "closed",
        &[
            "--duration",
            "0.6",
            "--latency",
            "0.3",
            "--floor",
            "--size",
            "zipf:16-512",
            "--hgrm",
            hgrm.to_str().unwrap(),
        ],
    );
    let shares = report["pipeline"]["shares"].as_array().expect("shares");
    // On a busy machine a turn of a moment may see nothing.
    assert!(shares.len() >= 3 && shares.iter().any(|share| share.as_f64() > Some(0.0)), "{shares:?}");
    let spread = |name: &str| number(&report, &format!("/load/commits_per_durable_write_spread/{name}"));
    assert!(spread("p10") > 0.0 && spread("p10") <= spread("p50") && spread("p90") <= spread("max"), "{report}");
    assert!(number(&report, "/pipeline/share") > 0.0 && number(&report, "/single/bare_frame/p50_us") > 0.0);
    assert!(stages_add_up(&report) && number(&report, "/load/cpu_cores") > 0.0);
    let spectrum = report["spectrum"].as_array().expect("points");
    assert!(spectrum.is_sorted_by_key(|point| point["us"].as_u64()), "{spectrum:?}");
    let table = std::fs::read_to_string(hgrm).expect("a table");
    assert!(table.contains("1/(1-Percentile)") && table.contains("#[Max"), "{table}");
}

#[test]
fn an_open_loop_counts_from_when_a_call_was_due() {
    let report =
        run("open", &["--duration", "1", "--latency", "0", "--rate", "4000", "--arrival", "poisson", "--threads", "2"]);
    let (due, made) =
        (number(&report, "/load/schedule/calls_per_second"), number(&report, "/load/schedule/calls_per_second_made"));
    assert_eq!(due, 200.0);
    // A loaded machine may lag behind; nothing ever gets ahead of its schedule by much.
    assert!(made > 0.0 && made < 2.0 * due, "{made}");
    assert!(number(&report, "/load/append_latency/p50_us") >= number(&report, "/load/schedule/service/p50_us"));
}

#[test]
fn clients_over_tcp_are_a_process_of_their_own() {
    let report =
        run("tcp", &["--duration", "0.5", "--latency", "0.2", "--over", "tcp", "--threads", "2", "--clients", "4"]);
    assert_eq!((&report["settings"]["over"], &report["settings"]["processes"]), (&"tcp".into(), &false.into()));
    assert!(number(&report, "/single/commands") > 0.0);
}

#[test]
fn a_leader_that_is_killed_and_a_follower_that_is_paused_lose_nothing() {
    let faults = ["--fault", "kill-leader@0.3s+0.3s", "--fault", "pause-follower@2.2s+0.3s"];
    let report = run("faults", &[&["--duration", "3", "--latency", "0", "--in-flight", "8"], &faults[..]].concat());
    let outcomes = report["faults"].as_array().expect("faults");
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
    assert_eq!((&outcomes[0]["fault"], &outcomes[1]["fault"]), (&faults[1].into(), &faults[3].into()));
    assert!(outcomes[0]["outage_ms"].as_f64() > Some(20.0), "without a leader nobody is answered: {outcomes:?}");
    assert!(report["settings"]["processes"] == true && number(&report, "/load/calls_unknown") >= 0.0);
}

#[test]
fn a_leader_that_is_cut_off_is_replaced_and_joins_again() {
    let fault = ["--fault", "partition@0.3s+2s"];
    let report = run("partition", &[&["--duration", "5", "--latency", "0", "--in-flight", "8"], &fault[..]].concat());
    let outcomes = report["faults"].as_array().expect("faults");
    assert_eq!((outcomes.len(), &outcomes[0]["fault"]), (1, &"partition-leader@0.3s+2s".into()));
    assert!(outcomes[0]["outage_ms"].as_f64() > Some(20.0), "without a majority nobody is answered: {outcomes:?}");
    assert!(report["settings"]["processes"] == true && number(&report, "/load/calls_unknown") >= 0.0);
}

#[test]
fn a_slow_disk_of_a_follower_loses_nothing_or_says_what_it_needs() {
    let directory = directory("slow");
    let output = Command::new(env!("CARGO_BIN_EXE_synod-bench"))
        .args(["run", "--segment", "2MiB", "--retention", "16MiB", "--warm-up", "0.2", "--batch", "20"])
        .args(["--duration", "1", "--latency", "0", "--in-flight", "8", "--fault", "slow-disk@0.2s+0.5s"])
        .args(["--dir".as_ref(), directory.as_os_str()])
        .output()
        .expect("the program runs");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        assert!(
            text.contains("slow-disk-follower@0.2s+0.5s hit node") && text.contains("audit             passed"),
            "{text}"
        );
    } else {
        // Without root or control groups it is refused before anything is measured.
        assert!(output.status.code() == Some(3) && errors.contains("slow-disk needs"), "{errors}");
    }
}

#[test]
fn bad_flags_are_named() {
    for (arguments, told) in [
        (["--fault", "stop-leader@1s"], "kill-leader@5s"),
        (["--rate", "fast"], "400k"),
        (["--size", "4"], "16 to 65536"),
        (["--arrival", "bursts"], "poisson"),
    ] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_synod-bench")).args(["run"]).args(arguments).output().expect("it runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && errors.contains(told), "{arguments:?}: {errors}");
    }
}

#[test]
fn groups_are_led_in_turn_and_audited_one_by_one() {
    let report =
        run("groups", &["--groups", "3", "--shards", "2", "--duration", "1", "--latency", "0.3", "--in-flight", "16"]);
    assert_eq!(number(&report, "/settings/groups"), 3.0);
    assert!(number(&report, "/load/commands") > 0.0);
    assert_eq!(report["audit"]["failures"].as_array().map(Vec::len), Some(0), "{report:#}");
    assert!(number(&report, "/audit/commands_read") > 0.0);
}
