//! `dump --follow` beside a node that writes.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;
use support::*;

/// The program while it follows; killed when dropped.
struct Follower {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Follower {
    fn start(arguments: &[&str], path: &std::path::Path) -> Follower {
        let mut child = Command::new(env!("CARGO_BIN_EXE_synod-tools"))
            .args(["dump", "--follow", "--decode", "utf8", "--format", "jsonl"])
            .args(arguments)
            .arg(path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Follower { child, lines }
    }

    /// Waits for the next record.
    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("text");
        (!line.is_empty()).then(|| serde_json::from_str(&line).expect("an object"))
    }

    fn next_command(&mut self) -> String {
        let row = self.next().expect("a record");
        row["commands"][0]["text"].as_str().unwrap_or_else(|| panic!("a command: {row}")).to_owned()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn records_come_when_they_are_durable_across_segments_restarts_and_trims() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let path = cluster(root.path(), 1).remove(0);
    let mut node = Node::open(&path);
    node.accept(&["0"]);
    let mut follower = Follower::start(&["--kind", "accepted"], &path);
    // Each record proves the one before it; far more than one segment.
    for number in 1..60 {
        node.accept(&[number.to_string()]);
        assert_eq!(follower.next_command(), (number - 1).to_string());
    }
    node.mark_all();
    assert_eq!(follower.next_command(), "59", "the mark of an idle log proves the last one");

    // The last record of a node that ended is shown, and so is what the next process adds.
    node.accept(&["60"]);
    drop(node);
    assert_eq!(follower.next_command(), "60");
    let mut node = Node::open(&path);
    node.accept(&["61"]);
    node.mark_all();
    assert_eq!(follower.next_command(), "61");

    // What nobody waits for any more is skipped with its segments.
    node.trim();
    for number in 62..160 {
        node.accept(&[number.to_string()]);
    }
    node.mark_all();
    let mut last = follower.next_command();
    while last != "159" {
        let next = follower.next_command();
        assert!(next.parse::<u32>().expect("a number") > last.parse().expect("a number"), "{last} then {next}");
        last = next;
    }
}

#[test]
fn a_limit_ends_it_and_so_does_damage() {
    let (_root, path, _) = filled();
    let mut follower = Follower::start(&["--limit", "3"], &path);
    let mut shown = 0;
    while follower.next().is_some() {
        shown += 1;
    }
    assert_eq!((shown, follower.child.wait().expect("ends").code()), (3, Some(0)));

    let (file, offset) = place(&path, 20);
    flip(&file, offset + 20);
    let mut follower = Follower::start(&["--kind", "accepted"], &path);
    for number in 0..19 {
        assert_eq!(follower.next_command(), format!("command {number}\x1b"));
    }
    assert!(follower.next().is_none());
    assert_eq!(follower.child.wait().expect("ends").code(), Some(1));
}
