//! `verify` and `audit` as an operator meets them: sound, damaged, contradictory and hostile directories.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::*;
use synod_protocol::Mark;
use tempfile::TempDir;

const BLOCK: u64 = 4096;

/// The directories of three nodes.
struct Cluster {
    root: TempDir,
    paths: Vec<PathBuf>,
}

impl Cluster {
    fn new() -> Cluster {
        let root = tempfile::tempdir().expect("a temporary directory");
        let paths = cluster(root.path(), 3);
        Cluster { root, paths }
    }

    /// With so many commands, accepted and known to be chosen everywhere.
    fn with(commands: u64) -> (Cluster, Mark) {
        let cluster = Cluster::new();
        let mut mark = Mark::START;
        for path in &cluster.paths {
            let mut node = Node::open(path);
            (0..commands).for_each(|number| node.accept(&[command(number)]));
            node.mark_all();
            mark = node.mark;
        }
        (cluster, mark)
    }

    fn path(&self, node: usize) -> &Path {
        &self.paths[node - 1]
    }

    fn all(&self) -> Vec<&Path> {
        self.paths.iter().map(PathBuf::as_path).collect()
    }

    /// A node's sealed segments, oldest first.
    fn sealed(&self, node: usize) -> Vec<PathBuf> {
        let value = json(0, &["ls"], &[self.path(node)]);
        let sealed = rows(&value, "segments").iter().filter(|file| file["state"] == "sealed");
        sealed.map(|file| segment(self.path(node), file["file"].as_str().expect("a name"))).collect()
    }
}

/// Number `number` of the commands; it stands at slot `number + 1`.
fn command(number: u64) -> String {
    format!("command {number}")
}

/// What a verb says, on whatever stream, and how it ends.
fn said(arguments: &[&str], paths: &[&Path]) -> (i32, String) {
    let output = tools(arguments, paths);
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(!text.contains("panicked"), "{text}");
    (output.status.code().expect("it ended by itself"), text)
}

fn rows<'a>(value: &'a Value, name: &str) -> &'a Vec<Value> {
    value[name].as_array().expect("rows")
}

#[test]
fn verify_says_of_each_directory_that_it_is_sound() {
    let (cluster, mark) = Cluster::with(40);
    for extra in [&["verify"][..], &["verify", "--plain", "--jobs", "1"], &["verify", "--measure", "--jobs", "3"]] {
        let (code, text) = said(extra, &cluster.all());
        assert_eq!(code, 0, "{text}");
        assert_eq!(text.matches(": sound: ").count(), 3, "{text}");
        assert_eq!(text.matches(&format!("slots 1..41 chosen with chain {}", mark.chain)).count(), 3, "{text}");
        assert_eq!(text.contains("read at"), extra.contains(&"--measure"), "{text}");
    }
    let value = json(0, &["verify"], &cluster.all());
    assert_eq!(rows(&value, "findings").len(), 0);
    assert_eq!((&value["directories"][2]["node"], &value["directories"][2]["sound"]), (&3.into(), &true.into()));
}

#[test]
fn verify_finds_all_damage_of_all_segments_and_says_what_to_do() {
    let (cluster, _) = Cluster::with(40);
    // Two records of one segment, one of the next.
    let sealed = cluster.sealed(2);
    flip(&sealed[0], 3 * BLOCK + 400);
    flip(&sealed[0], 6 * BLOCK + 20);
    flip(&sealed[1], 4 * BLOCK + 300);
    for reading in [&["verify"][..], &["verify", "--plain"]] {
        let value = json(1, reading, &cluster.all());
        let findings = rows(&value, "findings");
        assert_eq!(findings.len(), 3, "{value:#}");
        for finding in findings {
            assert_eq!((&finding["node"], &finding["class"]), (&2.into(), &"corrupt".into()));
            let (first, end) = (finding["slots_first"].as_u64().unwrap(), finding["slots_end"].as_u64().unwrap());
            assert_eq!(end, first + 1, "one body is lost: {finding}");
            assert!(finding["expected"].is_string() && finding["actual"].is_string());
            let next = finding["next"].as_str().unwrap();
            assert!(next.contains("repair") && next.contains(cluster.path(2).to_str().unwrap()), "{next}");
        }
        let name = sealed[0].file_name().unwrap().to_str().unwrap();
        assert_eq!((&findings[0]["file"], &findings[0]["offset"]), (&name.into(), &(3 * BLOCK).into()));
        assert_eq!(findings[1]["offset"], 6 * BLOCK);
        let sound: Vec<bool> =
            rows(&value, "directories").iter().map(|directory| directory["sound"].as_bool().unwrap()).collect();
        assert_eq!(sound, [true, false, true]);
    }
    let (_, text) = said(&["verify"], &cluster.all());
    assert!(text.contains("DAMAGED (3 corrupt, 0 doubtful, 0 latent)"), "{text}");
    assert_eq!(run(1, &["verify", "--format", "jsonl"], &cluster.all()).lines().count(), 3);
    assert_eq!(run(1, &["verify", "--format", "csv"], &cluster.all()).lines().count(), 4);
}

#[test]
fn verify_tells_a_damaged_seal_from_damaged_records() {
    let (cluster, _) = Cluster::with(40);
    flip(&cluster.sealed(1)[0], SEGMENT_BYTES - 100);
    let value = json(1, &["verify"], &[cluster.path(1)]);
    let findings = rows(&value, "findings");
    assert!(findings.iter().all(|finding| finding["class"] == "latent"), "{value:#}");
    assert!(findings[0]["next"].as_str().unwrap().contains("compact"), "{value:#}");
}

#[test]
fn verify_names_hostile_and_missing_files_and_goes_on() {
    let (cluster, _) = Cluster::with(40);
    let second = cluster.sealed(1).remove(1);
    let elsewhere = cluster.root.path().join("elsewhere");
    fs::rename(&second, &elsewhere).unwrap();
    symlink(&elsewhere, &second).unwrap();
    fs::OpenOptions::new().write(true).open(&cluster.sealed(2)[0]).unwrap().set_len(5 * BLOCK + 17).unwrap();
    fs::copy(&cluster.sealed(3)[0], segment(cluster.path(3), "segment-000009.wal")).unwrap();
    let value = json(1, &["verify"], &cluster.all());
    let findings = rows(&value, "findings");
    let of = |node: u64, part: &str| {
        let found = |finding: &&Value| finding["node"] == node && finding["what"].as_str().unwrap().contains(part);
        assert!(findings.iter().any(|finding| found(&finding)), "{node} {part}: {value:#}");
    };
    of(1, "symbolic link");
    of(1, "is missing");
    fs::remove_file(segment(cluster.path(2), "segment-000008.wal")).unwrap();
    let value = json(1, &["verify"], &[cluster.path(2)]);
    let gone = |finding: &&Value| finding["what"].as_str().unwrap().contains("although the pool had it");
    assert_eq!(rows(&value, "findings").iter().filter(gone).count(), 1, "{value:#}");
    of(2, "cut or copied in part");
    of(2, "can't read");
    of(3, "this file is a copy");
    let root = tempfile::tempdir().unwrap();
    let (code, text) = said(&["verify"], &[root.path()]);
    assert!(code == 3 && text.contains("isn't initialised"), "{code} {text}");
    let (code, text) = said(&["verify"], &[root.path(), cluster.path(1)]);
    assert!(code == 3 && text.contains("DAMAGED"), "the others are looked at nevertheless: {code} {text}");
}

#[test]
fn audit_passes_a_sound_cluster_and_says_how_much_it_saw() {
    let (cluster, _) = Cluster::with(40);
    let value = json(0, &["audit"], &cluster.all());
    assert_eq!(value["holds"], true);
    let checked = &value["checked"];
    assert_eq!((&checked["accepts"], &checked["bodies_chosen"]), (&120.into(), &40.into()));
    assert_eq!((&checked["quorums_found"], &checked["quorums_without_log"]), (&40.into(), &0.into()));
    let (code, text) = said(&["audit"], &cluster.all()[..1]);
    assert!(code == 0 && text.contains("40 can't be seen, whose members' directories weren't all given"), "{text}");
}

#[test]
fn audit_names_the_first_divergence() {
    let (cluster, _) = Cluster::with(5);
    // The third node has another command at slot 6 and says that it is chosen.
    for (path, round, command) in [(0, 2, "right"), (1, 2, "right"), (2, 3, "wrong")] {
        let mut node = Node::open(&cluster.paths[path]).at(ballot(round));
        node.accept(&[command]);
        node.mark_all();
    }
    let value = json(1, &["audit"], &cluster.all());
    assert_eq!(value["holds"], false);
    let first = &rows(&value, "violations")[0];
    assert_eq!((&first["slots_first"], &first["slots_end"]), (&6.into(), &7.into()), "{value:#}");
    let rules: Vec<&str> = rows(&value, "violations").iter().map(|row| row["rule"].as_str().unwrap()).collect();
    for rule in ["one-chosen-body", "chosen-is-adopted", "equal-chains", "chosen-by-quorum"] {
        assert!(rules.contains(&rule), "{rule}: {rules:?}");
    }
    let witness = &first["witnesses"][0];
    assert!(witness["file"].is_string() && witness["offset"].is_u64() && witness["directory"].is_string(), "{first}");
    let (code, text) = said(&["audit"], &cluster.all());
    assert!(code == 1 && text.contains("audit FAILED") && text.contains("one-chosen-body"), "{text}");
}

#[test]
fn audit_finds_an_accept_below_a_promise() {
    let (cluster, _) = Cluster::with(3);
    let mut node = Node::open(cluster.path(2)).at(ballot(9));
    node.promise();
    node.at(ballot(2)).accept(&["late"]);
    let value = json(1, &["audit"], &cluster.all());
    let violations = rows(&value, "violations");
    assert_eq!(violations.len(), 1, "{value:#}");
    assert_eq!((&violations[0]["rule"], &violations[0]["slots_first"]), (&"no-accept-below-promise".into(), &4.into()));
    assert_eq!(violations[0]["witnesses"][0]["node"], 2);
}

#[test]
fn audit_holds_what_clients_were_told_against_the_log() {
    let (cluster, _) = Cluster::with(5);
    let list = cluster.root.path().join("acknowledged.jsonl");
    let line = |slot: u64, command: &str| {
        let hex: String = command.bytes().map(|byte| format!("{byte:02x}")).collect();
        format!("{{\"slot\":{slot},\"hex\":\"{hex}\"}}\n")
    };
    let crc32 = crc32fast::hash(command(4).as_bytes());
    let right = line(1, &command(0)) + &format!("{{\"slot\":5,\"bytes\":9,\"crc32\":\"{crc32:08x}\"}}\n\n");
    fs::write(&list, &right).unwrap();
    let arguments = ["audit", "--acknowledged", list.to_str().unwrap()];
    let value = json(0, &arguments, &cluster.all());
    assert_eq!(value["checked"]["acknowledged_found"], 2, "{value:#}");

    fs::write(&list, right + &line(2, "something else") + &line(9, "beyond")).unwrap();
    let value = json(1, &arguments, &cluster.all());
    let violations = rows(&value, "violations");
    assert_eq!(violations.len(), 2, "{value:#}");
    assert!(violations.iter().all(|violation| violation["rule"] == "acknowledged-is-chosen"));
    assert_eq!((&violations[0]["slots_first"], &violations[1]["slots_first"]), (&2.into(), &9.into()));

    fs::write(&list, "{\"slot\":1}\n").unwrap();
    let (code, text) = said(&arguments, &cluster.all());
    assert!(code == 2 && text.contains("acknowledged.jsonl line 1"), "{text}");
}

#[test]
fn audit_goes_on_without_what_cannot_be_read_and_says_so() {
    let (cluster, _) = Cluster::with(40);
    let nowhere = cluster.root.path().join("nowhere");
    let (code, text) = said(&["audit"], &[cluster.path(1), cluster.path(2), &nowhere]);
    assert!(code == 3 && text.contains("NOT AUDITED") && text.contains("audit passed"), "{code} {text}");
    let (code, text) = said(&["audit"], &[cluster.path(1), cluster.path(1)]);
    assert!(code == 3 && text.contains("are the same store of node"), "{code} {text}");
    let (other, _) = Cluster::with(1);
    let (code, text) = said(&["audit"], &[cluster.path(1), other.path(2)]);
    assert_eq!(code, 0, "the same cluster as far as its identity goes: {text}");
}

#[test]
fn a_mark_alone_is_what_an_idle_log_has() {
    let cluster = Cluster::new();
    Node::open(&cluster.paths[0]).mark_all();
    let (code, text) = said(&["audit"], &cluster.all());
    assert_eq!(code, 0, "{text}");
    let (code, text) = said(&["verify"], &cluster.all());
    assert_eq!(code, 0, "{text}");
}
