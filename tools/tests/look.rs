//! The verbs that look: what they show of a sound log, in every format.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use support::*;
use synod_protocol::Slot;

fn numbers(rows: &Value, field: &str) -> Vec<u64> {
    rows.as_array().expect("an array").iter().filter_map(|row| row[field].as_u64()).collect()
}

/// The header and the rows of a csv without quotes in it.
fn csv(text: &str) -> (Vec<&str>, Vec<Vec<&str>>) {
    let mut lines = text.lines().map(|line| line.split(',').collect());
    (lines.next().expect("a header"), lines.collect())
}

#[test]
fn ls_says_the_same_in_every_format() {
    let (_root, path, mark) = filled();
    let object = json(0, &["ls"], &[&path]);
    assert_eq!(object["node"], 1);
    assert_eq!(object["cluster"], "07070707-0707-0707-0707-070707070707");
    assert_eq!(object["running"], false);
    let segments = object["segments"].as_array().expect("segments");
    assert_eq!(object["bytes"].as_u64(), Some(segments.len() as u64 * SEGMENT_BYTES));
    let count = |state: &str| segments.iter().filter(|segment| segment["state"] == state).count();
    assert_eq!((count("open"), count("next"), count("damaged")), (1, 1, 0), "{object:#}");
    assert!(count("sealed") >= 3, "40 records of a block fill segments of 12: {object:#}");
    let epochs = numbers(&object["segments"], "epoch");
    assert!(epochs.is_sorted(), "oldest first");
    assert_eq!(numbers(&object["segments"], "slot_end").into_iter().max(), Some(mark.slot.0));
    assert_eq!(numbers(&object["segments"], "records").iter().sum::<u64>(), 41, "40 bodies and a mark");

    let lines = run(0, &["ls", "--format", "jsonl"], &[&path]);
    let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    assert_eq!(&rows, segments);
    let text = run(0, &["ls", "--format", "csv"], &[&path]);
    let (header, rows) = csv(&text);
    assert_eq!(header, segments[0].as_object().expect("an object").keys().collect::<Vec<_>>());
    assert_eq!(rows.len(), segments.len());
    assert!(rows.iter().all(|row| row.len() == header.len()), "{text}");
    let text = run(0, &["ls"], &[&path]);
    assert!(text.starts_with("node 1  cluster 07070707"), "{text}");
    assert_eq!(text.lines().count(), 3 + segments.len(), "{text}");
}

#[test]
fn a_node_of_several_groups_is_looked_at_log_by_log_and_verified_as_a_whole() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let paths = cluster_of(root.path(), 2, 3);
    let told = messages(3, &["ls"], &[&paths[0]]);
    assert!(
        told.contains("has 3 logs, one for each of its groups: name one of them") && told.contains("log-0002"),
        "{told}"
    );
    let log = |node: usize, number: u32| paths[node].join(format!("log-{number:04}"));
    assert_eq!(json(0, &["ls"], &[&log(0, 2)])["node"], 1);
    let unknown = messages(3, &["ls"], &[&log(0, 3)]);
    assert!(unknown.contains("isn't among the 3 logs of node"), "{unknown}");
    let verified = json(0, &["verify"], &[&paths[0], &paths[1]]);
    assert_eq!(verified["directories"].as_array().map(Vec::len), Some(6), "{verified:#}");
    run(0, &["audit"], &[&log(0, 1), &log(1, 1)]);
    let mixed = messages(3, &["audit"], &[&log(0, 1), &log(1, 2)]);
    assert!(mixed.contains("are logs of different groups: audit each group by itself"), "{mixed}");
}

#[test]
fn dump_filters_by_everything_that_a_record_says() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let path = cluster(root.path(), 1).remove(0);
    let mut node = Node::open(&path);
    node.accept(&["a", "b", "c"]);
    node.accept_noop(5);
    let mut node = node.at(ballot(2));
    node.accept(&["d"]);
    node.mark_all();
    drop(node);
    let kinds = |arguments: &[&str]| -> Vec<String> {
        let rows = json(0, &[&["dump"], arguments].concat(), &[&path]);
        let rows = rows.as_array().expect("an array");
        rows.iter().map(|row| format!("{} {}", row["kind"], row["slot_first"]).replace('"', "")).collect()
    };
    let all = ["accepted 1", "accepted 4", "accepted 9", "mark null"];
    assert_eq!(kinds(&[]), all);
    assert_eq!(kinds(&["--limit", "2"]), all[..2]);
    assert_eq!(kinds(&["--limit", "0"]), [""; 0]);
    assert_eq!(kinds(&["--from", "3", "--to", "9"]), all[..2], "bodies that reach into the range");
    assert_eq!(kinds(&["--kind", "mark,promise"]), all[3..]);
    assert_eq!(kinds(&["--body", "no-op"]), [all[1]]);
    assert_eq!(kinds(&["--body", "commands,no-op", "--from", "5"]), all[1..3]);
    assert_eq!(kinds(&["--ballot", "1"]), all[..2]);
    assert_eq!(kinds(&["--ballot", "2.1"]), all[2..]);
    assert_eq!(kinds(&["--ballot", "2.9"]), [""; 0]);
    assert_eq!(kinds(&["--group", "1"]), all);
    assert_eq!(kinds(&["--group", "2"]), [""; 0]);
    assert_eq!(kinds(&["--from-time", "1004", "--to-time", "1009"]), [all[1]]);
    let positions = numbers(&json(0, &["dump"], &[&path]), "position");
    let (second, fourth) = (format!("{:#x}", positions[1]), positions[3].to_string());
    assert_eq!(kinds(&["--from-position", &second, "--to-position", &fourth]), all[1..3]);
    for nonsense in [["--from", "5", "--to", "5"], ["--from-time", "9", "--to-time", "1"]] {
        assert!(messages(2, &[&["dump"], &nonsense[..]].concat(), &[&path]).contains("check --from"));
    }
    for nonsense in [["--kind", "nonsense"], ["--body", "nonsense"], ["--ballot", "x"], ["--from-position", "1f"]] {
        run(2, &[&["dump"], &nonsense[..]].concat(), &[&path]);
    }
}

#[test]
fn dump_decodes_commands() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let path = cluster(root.path(), 1).remove(0);
    let commands: [&[u8]; 4] = [b"{\"set\": [1, null]}", b"plain\x1b[2J", b"\xff\xfe", b""];
    Node::open(&path).accept(&commands);
    let decoded =
        |how: &str| json(0, &["dump", "--body", "commands", "--decode", how], &[&path])[0]["commands"].clone();
    let json_form = decoded("json");
    assert_eq!(json_form[0]["json"]["set"], serde_json::json!([1, null]));
    assert_eq!((&json_form[1]["text"], &json_form[2]["hex"]), (&"plain\x1b[2J".into(), &"fffe".into()));
    assert_eq!(
        (&json_form[3]["text"], &json_form[3]["slot"], &json_form[3]["bytes"]),
        (&"".into(), &4.into(), &0.into())
    );
    assert_eq!(decoded("hex")[1]["hex"], "706c61696e1b5b324a");
    let text = run(0, &["dump", "--decode", "utf8"], &[&path]);
    assert!(text.contains("\n    2 plain\\u{1b}[2J\n    3 0xfffe\n"), "{text}");
    let csv = run(0, &["dump", "--decode", "utf8", "--body", "commands", "--format", "csv"], &[&path]);
    assert_eq!(csv.lines().count(), 2, "{csv}");
}

#[test]
fn get_says_what_fills_a_slot_and_how_sure_that_is() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let path = cluster(root.path(), 1).remove(0);
    let mut node = Node::open(&path);
    node.accept(&["one", "two"]);
    node.accept_noop(3);
    let raw: &[u8] = b"\x00\xff\n";
    node.accept(&[raw]);
    drop(node);
    let two = json(0, &["get", "--decode", "utf8"], &[&path, Path::new("2")]);
    assert_eq!((&two["state"], &two["text"], &two["slot_first"]), (&"chosen".into(), &"two".into(), &1.into()));
    assert_eq!((&two["ballot_round"], &two["session"]), (&1.into(), &Value::Null));
    let (file, offset) = place(&path, 2);
    assert_eq!(file, segment(&path, two["file"].as_str().expect("a file")));
    assert_eq!(Some(offset), two["offset"].as_u64());
    let last = json(0, &["get", "--decode", "hex"], &[&path, Path::new("6")]);
    assert_eq!(
        (&last["state"], &last["hex"]),
        (&"accepted".into(), &"00ff0a".into()),
        "no record says that it is chosen"
    );
    assert_eq!(tools(&["get", "--raw"], &[&path, Path::new("6")]).stdout, raw);
    assert_eq!(json(5, &["get"], &[&path, Path::new("4")])["body_kind"], "no-op");
    assert_eq!(run(5, &["get", "--raw"], &[&path, Path::new("4")]), "");
    assert!(messages(5, &["get"], &[&path, Path::new("7")]).contains("ends before slot 7"));
    assert!(messages(5, &["get"], &[&path, Path::new("0")]).contains("begin with 1"));
    run(5, &["get"], &[&path, Path::new(&u64::MAX.to_string())]);
}

#[test]
fn hexdump_names_every_byte_of_a_record_once() {
    let (_root, path, _) = filled();
    for slot in [1, 12, 40] {
        let slot = slot.to_string();
        let object = json(0, &["hexdump"], &[&path, Path::new(&slot)]);
        let (offset, bytes) = (object["offset"].as_u64().expect("a number"), object["record_bytes"].as_u64());
        let mut at = offset;
        for line in object["fields"].as_array().expect("fields") {
            assert_eq!(line["offset"].as_u64(), Some(at), "{line}");
            at += line["length"].as_u64().expect("a number");
        }
        assert_eq!(Some(at - offset), bytes);
        let value = |part: &str, field: &str| {
            let lines = object["fields"].as_array().expect("fields");
            let line = lines.iter().find(|line| line["part"] == part && line["field"] == field);
            line.unwrap_or_else(|| panic!("{part} {field}"))["value"].as_str().expect("text").to_owned()
        };
        assert_eq!(value("record", "magic"), "SYNR");
        assert_eq!(value("record", "kind"), "1 accepted");
        assert_eq!(value("body", "first"), slot);
        assert_eq!(value("submission", "0: count"), "1");
        assert!(value("command", &format!("slot {slot}")).starts_with("command."));
    }
    let root = tempfile::tempdir().expect("a temporary directory");
    let fresh = cluster(root.path(), 3).remove(0);
    let genesis = json(0, &["dump", "--kind", "configuration"], &[&fresh])[0]["position"].to_string();
    let object = json(0, &["hexdump", "--position", &genesis], &[&fresh]);
    let fields: BTreeSet<&str> =
        object["fields"].as_array().expect("fields").iter().filter_map(|line| line["field"].as_str()).collect();
    assert!(fields.is_superset(&BTreeSet::from(["cluster", "2: incarnation", "prepare quorum"])), "{fields:?}");
    let mark = json(0, &["dump", "--kind", "mark"], &[&path])[0]["position"].to_string();
    run(0, &["hexdump", "--position", &mark], &[&path]);
    run(5, &["hexdump", "--position", "1"], &[&path]);
    run(2, &["hexdump"], &[&path]);
}

#[test]
fn stat_adds_up() {
    let (_root, path, _) = filled();
    let object = json(0, &["stat"], &[&path]);
    let number = |field: &str| object[field].as_u64().unwrap_or_else(|| panic!("{field}"));
    assert_eq!((number("records"), number("bodies"), number("slots"), number("commands")), (41, 40, 40, 40));
    let command_bytes: usize = (0..40).map(|number| format!("command {number}\x1b").len()).sum();
    assert_eq!(number("command_bytes"), command_bytes as u64);
    assert_eq!(number("record_bytes"), 41 * 4096);
    assert_eq!(number("record_bytes"), number("header_bytes") + number("body_bytes") + number("padding_bytes"));
    assert_eq!(
        (&object["record_kinds"]["accepted"], &object["body_kinds"]["configuration"]),
        (&40.into(), &Value::Null)
    );
    assert_eq!((&object["command_sizes"]["count"], &object["command_sizes"]["max"]), (&40.into(), &11.into()));
    let amplification = object["record_amplification"].as_f64().expect("a number");
    assert!((amplification - 41.0 * 4096.0 / command_bytes as f64).abs() < 0.001);
    assert_eq!((&object["ballots_count"], &object["ballots"][0]["slot_end"]), (&1.into(), &41.into()));
    let quick = json(0, &["stat", "--quick"], &[&path]);
    assert_eq!((&quick["records"], &quick["command_bytes"]), (&41.into(), &Value::Null));
    let text = run(0, &["stat"], &[&path]);
    assert!(text.contains("body sizes: ") && text.contains("########"), "{text}");
}

#[test]
fn diff_tells_what_lags_from_what_contradicts() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let paths = cluster(root.path(), 3);
    let [one, two, three] = [&paths[0], &paths[1], &paths[2]].map(std::path::PathBuf::as_path);
    let mut node = Node::open(one);
    (0..5).for_each(|number| node.accept(&[format!("command {number}")]));
    node.mark_all();
    drop(node);
    let mut node = Node::open(two);
    (0..3).for_each(|number| node.accept(&[format!("command {number}")]));
    node.accept_only(&["another"]);
    node.accept_only(&["command 4"]);
    node.accept_only(&["nobody else has this"]);
    drop(node);
    let lag = json(0, &["diff"], &[one, two]);
    assert_eq!(
        (&lag["diverges"], &lag["first"]["mark_slot"], &lag["second"]["mark_slot"]),
        (&false.into(), &6.into(), &3.into())
    );
    let shown: Vec<String> = lag["differences"]
        .as_array()
        .expect("differences")
        .iter()
        .map(|row| format!("{}..{} {}", row["slot_first"], row["slot_end"], row["difference"]))
        .collect();
    assert_eq!(shown, ["4..5 \"accepted_differs\"", "6..7 \"only_second_accepted\""]);

    let mut node = Node::open(three);
    (0..5).for_each(|number| node.accept(&[format!("command {}", if number == 2 { 99 } else { number })]));
    node.mark_all();
    drop(node);
    let contradiction = json(1, &["diff"], &[one, three]);
    assert_eq!((&contradiction["diverges"], &contradiction["first_divergence"]), (&true.into(), &3.into()));
    assert!(run(1, &["diff"], &[one, three]).contains("WHAT IS CHOSEN DIFFERS, from slot 3 on"));
    let same = run(0, &["diff"], &[one, one]);
    assert!(same.ends_with("what is chosen on both is the same\n"), "{same}");

    let (_other_root, other, _) = filled();
    let identity = other.join("identity");
    let text = fs::read_to_string(&identity).expect("text");
    let body = text[..text.rfind("checksum").expect("a checksum")].replace("07070707", "08080808");
    fs::write(&identity, format!("{body}checksum = {:08x}\n", crc32fast::hash(body.as_bytes()))).expect("written");
    assert!(messages(2, &["diff"], &[one, &other]).contains("nothing in common"));
}

#[test]
fn completions_and_man_pages_know_every_verb() {
    let verbs = ["ls", "dump", "get", "hexdump", "stat", "diff", "verify"];
    for shell in ["bash", "zsh", "fish"] {
        let script = run(0, &["completions", shell], &[]);
        assert!(verbs.iter().all(|verb| script.contains(verb)), "{shell}");
    }
    run(2, &["completions", "nonsense"], &[]);
    let page = run(0, &["man"], &[]);
    assert!(page.contains(".TH synod-tools 1") && page.contains("Exit codes"), "{page}");
    let root = tempfile::tempdir().expect("a temporary directory");
    let directory = root.path().join("man");
    run(0, &["man", "--dir"], &[&directory]);
    for verb in verbs {
        assert!(directory.join(format!("synod-tools-{verb}.1")).is_file(), "{verb}");
    }
}

#[test]
fn slots_are_shown_as_they_are_numbered() {
    // Half-open ranges everywhere: the end of one body is the beginning of the next.
    let (_root, path, mark) = filled();
    let rows = json(0, &["dump", "--kind", "accepted"], &[&path]);
    let (first, end) = (numbers(&rows, "slot_first"), numbers(&rows, "slot_end"));
    assert_eq!(first[1..], end[..end.len() - 1]);
    assert_eq!((Slot(first[0]), end.last().copied().map(Slot)), (Slot::FIRST, Some(mark.slot)));
}
