//! The program as an operator meets it, on a directory that a node could have left.

mod support;

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use support::*;

#[test]
fn ls_shows_the_node_and_its_segments_in_log_order() {
    let (_root, path, _) = filled();
    let text = run(0, &["ls"], &[&path]);
    assert!(text.starts_with("node 1  cluster 07070707-0707-0707-0707-070707070707"), "{text}");
    let states: Vec<&str> = text.lines().skip(3).filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(states.iter().filter(|state| **state == "open").count(), 1, "{text}");
    assert!(states.contains(&"sealed"), "40 records of one block fill more than one segment of 16: {text}");
}

#[test]
fn dump_shows_records_and_commands_and_escapes_them() {
    let (_root, path, _) = filled();
    let text = run(0, &["dump", "--decode", "utf8", "--from", "3", "--to", "5"], &[&path]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "two bodies of one command each: {text}");
    assert!(lines[0].contains("accepted") && lines[0].contains("slots 3..4 commands 1"), "{text}");
    assert_eq!(lines[1].trim(), "3 command 2\\u{1b}", "{text}");
    assert_eq!(run(0, &["dump", "--limit", "7"], &[&path]).lines().count(), 7);
    assert_eq!(run(0, &["dump", "--kind", "mark"], &[&path]).lines().count(), 1);
    run(2, &["dump", "--kind", "nonsense"], &[&path]);
}

#[test]
fn verify_recomputes_the_chain_and_changes_nothing() {
    let (_root, path, mark) = filled();
    let before = snapshot(&path);
    let text = run(0, &["verify"], &[&path]);
    assert!(
        text.contains(": sound: ") && text.contains(&format!("slots 1..41 chosen with chain {}", mark.chain)),
        "{text}"
    );
    for verb in [&["ls"][..], &["dump", "--all"], &["stat"], &["diff", path.to_str().expect("text")]] {
        run(0, verb, &[&path]);
    }
    for verb in ["get", "hexdump"] {
        run(0, &[verb], &[&path, Path::new("1")]);
    }
    assert_eq!(before, snapshot(&path), "the tools only read");
}

#[test]
fn verify_finds_one_flipped_bit() {
    let (_root, path, _) = filled();
    let (file, offset) = place(&path, 10);
    flip(&file, offset + 700);
    let text = run(1, &["verify"], &[&path]);
    assert!(text.contains("DAMAGED") && text.contains("segment-"), "{text}");
}

#[test]
fn what_is_no_directory_of_a_node_is_said_in_a_sentence() {
    let root = tempfile::tempdir().expect("a temporary directory");
    for verb in ["ls", "dump", "stat", "verify"] {
        let text = messages(3, &[verb], &[root.path()]);
        assert!(text.starts_with("synod-tools: ") && text.contains("isn't initialised"), "{text}");
    }
    run(2, &["nonsense"], &[root.path()]);
}

#[test]
fn a_reader_that_stops_early_is_no_error() {
    let (_root, path, _) = filled();
    let mut child = Command::new(env!("CARGO_BIN_EXE_synod-tools"))
        .args(["dump", "--decode", "hex"])
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    drop(child.stdout.take());
    let mut messages = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut messages).expect("text");
    assert_eq!(child.wait().expect("ends").code(), Some(0), "{messages}");
    assert_eq!(messages, "");
}
