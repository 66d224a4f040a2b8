//! `compact` as an operator meets it: it says what it does, refuses what it can't do, and may be killed at any moment.

mod stores;

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use stores::{Stores, ballot, commands, noop, recovered, refused, run, variety};
use synod_protocol::Ballot;
use synod_wal::RecordKind;
use synod_wal::compaction::compare;
use synod_wal::directory::{self, Expected};

fn path(stores: &Stores) -> &str {
    stores.paths[0].to_str().expect("a plain path")
}

/// Bodies of every kind, some superseded, and an accepted one at the end.
fn filled(bodies: u64) -> Stores {
    let stores = Stores::cluster(1);
    let mut filler = stores.filler(0);
    filler.append(RecordKind::Accepted, ballot(1), ballot(1), Some(&noop(filler.mark.slot, 9, 77)));
    variety(&mut filler, 2, bodies);
    filler.append(RecordKind::Accepted, ballot(2), ballot(2), Some(&noop(filler.mark.slot, 3, 9)));
    filler.append(RecordKind::Promise, Ballot::ZERO, ballot(6), None);
    filler.finish(6);
    stores
}

#[test]
fn it_says_what_it_would_do_and_what_it_did() {
    let stores = filled(200);
    let (before, export) = (recovered(&stores.paths[0]), run(0, ["export", path(&stores)]));
    let json = |arguments: &[&str]| -> Value {
        let all = ["compact", path(&stores), "--format", "json"];
        serde_json::from_str(&run(0, all.iter().chain(arguments))).expect("json")
    };
    let mut dry = json(&["--dry-run"]);
    assert_eq!((&dry["replaced"], &dry["dry_run"]), (&false.into(), &true.into()));
    assert_eq!(format!("{before:?}"), format!("{:?}", recovered(&stores.paths[0])));
    let done = json(&[]);
    dry["replaced"] = true.into();
    dry["dry_run"] = false.into();
    assert_eq!(dry, done);
    assert!(done["bytes_after"].as_u64() < done["bytes_before"].as_u64());
    compare(&before, &recovered(&stores.paths[0])).expect("all that the log said");
    assert_eq!(export, run(0, ["export", path(&stores)]));
    let text = run(0, ["compact", path(&stores)]);
    assert!(text.contains("is left as it is"), "{text}");
}

/// Every verb that reads knows packs.
#[test]
fn what_was_packed_is_shown_as_before() {
    let stores = filled(60);
    let slots = [6, 8, 10, 13];
    let get = |slot: u64| run(0, ["get", path(&stores), &slot.to_string(), "--raw"]);
    let before = slots.map(|slot| if slot == 8 { String::new() } else { get(slot) });
    run(0, ["compact", path(&stores)]);
    let after = slots.map(|slot| if slot == 8 { String::new() } else { get(slot) });
    assert_eq!(before, after);
    let shown = run(0, ["get", path(&stores), "8", "--decode", "hex"]);
    assert!(shown.contains("chosen") && shown.contains("fffe00"), "{shown}");
    run(0, ["verify", path(&stores)]);
    let dump = run(0, ["dump", path(&stores), "--kind", "pack", "--decode", "utf8"]);
    assert!(dump.contains("pack") && dump.contains("command 4"), "{dump}");
    let ls: Value = serde_json::from_str(&run(0, ["ls", path(&stores), "--format", "json"])).expect("json");
    let segments = ls["segments"].as_array().expect("rows");
    assert_eq!(segments.iter().filter_map(|row| row["bodies"].as_u64()).sum::<u64>(), 61, "{ls}");
    let stat: Value = serde_json::from_str(&run(0, ["stat", path(&stores), "--format", "json"])).expect("json");
    assert_eq!(stat["bodies"], 61, "{stat}");
    let bytes = run(0, ["hexdump", path(&stores), "10"]);
    assert!(bytes.contains("SYNP") && bytes.contains("SYNB") && !bytes.contains("DAMAGED"), "{bytes}");
}

#[test]
fn a_running_node_and_a_damaged_log_are_refused() {
    let stores = filled(60);
    let open = directory::open(&stores.paths[0], &Expected::default()).expect("opens");
    let text = refused(4, ["compact", path(&stores)]);
    assert!(text.contains("stop the node first"), "{text}");
    drop(open);
    let entry = *recovered(&stores.paths[0]).index.iter_from(synod_protocol::Slot(0)).next().expect("a body");
    let file = stores.paths[0].join("log-0000").join(entry.location.file.file_name());
    let mut bytes = fs::read(&file).expect("a segment");
    bytes[entry.location.offset as usize + 300] ^= 1;
    fs::write(&file, bytes).expect("writes");
    let text = refused(1, ["compact", path(&stores)]);
    assert!(text.contains("before it is mended"), "{text}");
    assert!(
        refused(3, ["compact", stores.paths[0].parent().expect("a parent").to_str().expect("plain")]).contains("init")
    );
}

/// Killed without warning, at moments that no step names: the log is whole, and says what it said.
#[test]
fn a_killed_run_leaves_a_whole_log() {
    let (mut killed, mut done) = (0, 0);
    let stores = filled(400);
    let (before, export) = (recovered(&stores.paths[0]), run(0, ["export", path(&stores)]));
    for round in 0..40u64 {
        let copy = stores.paths[0].with_extension("copy");
        let _ = fs::remove_dir_all(&copy);
        fs::create_dir_all(copy.join("log-0000")).expect("a directory");
        for name in ["identity", "LOCK"] {
            fs::copy(stores.paths[0].join(name), copy.join(name)).expect("copies");
        }
        for entry in fs::read_dir(stores.paths[0].join("log-0000")).expect("a log") {
            let entry = entry.expect("a file");
            fs::copy(entry.path(), copy.join("log-0000").join(entry.file_name())).expect("copies");
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_synod-tools"))
            .arg("compact")
            .arg(&copy)
            .stdout(Stdio::null())
            .spawn()
            .expect("the program runs");
        std::thread::sleep(Duration::from_millis(round * 7 % 260));
        let _ = child.kill();
        match child.wait().expect("ends").code() {
            None => killed += 1,
            Some(code) => done += u32::from(code == 0),
        }
        let after = recovered(&copy);
        if format!("{after:?}") != format!("{before:?}") {
            compare(&before, &after).expect("the new log says what the old one said");
        }
        let copy_path = copy.to_str().expect("a plain path");
        assert_eq!(export.lines().count(), run(0, ["export", copy_path]).lines().count());
        run(0, ["compact", copy_path]);
        compare(&before, &recovered(&copy)).expect("the new log says what the old one said");
        let names = fs::read_dir(&copy).expect("a directory").count();
        assert_eq!(names, 3, "nothing is left over");
    }
    assert!(killed > 3, "{killed} killed, {done} done");
}

#[test]
fn commands_written_one_by_one_take_a_tenth() {
    let stores = Stores::cluster(1);
    let mut filler = stores.filler(0);
    for seed in 0..15_000u64 {
        let command = [seed as u8; 128];
        filler.choose(2, &commands(filler.mark.slot, seed, &[&[&command]]));
    }
    filler.finish(2);
    let text = run(0, ["compact", path(&stores), "--format", "json"]);
    let report: Value = serde_json::from_str(&text).expect("json");
    let bytes = |name: &str| report[name].as_u64().expect("a number");
    assert!(bytes("bytes_after") * 10 <= bytes("bytes_before"), "{report}");
    run(0, ["verify", path(&stores)]);
    assert!(File::open(stores.paths[0].join("log-0000/segment-000001.wal")).is_ok());
}

/// Three replicas of one log: the audit holds before, when one of them is compacted, and when all are.
#[test]
fn the_audit_holds_before_and_after() {
    let stores = Stores::cluster(3);
    for number in 0..3 {
        let mut filler = stores.filler(number);
        variety(&mut filler, 2, 100);
        filler.append(RecordKind::Accepted, ballot(2), ballot(2), Some(&noop(filler.mark.slot, 3, 9)));
        filler.append(RecordKind::Promise, Ballot::ZERO, ballot(6), None);
        filler.finish(6);
    }
    let all: Vec<&str> = stores.paths.iter().map(|path| path.to_str().expect("a plain path")).collect();
    let holds = || {
        run(0, ["audit"].iter().chain(&all));
        run(0, ["verify"].iter().chain(&all));
    };
    holds();
    for path in &all {
        run(0, ["compact", path]);
        holds();
    }
    // What was packed is read by the audit too: an acknowledged command that isn't there is noticed.
    let said = stores.paths[0].with_extension("acknowledged");
    let audit = |line: &str, code: i32| {
        fs::write(&said, line).expect("writes");
        let flags = ["audit", "--acknowledged", said.to_str().expect("a plain path")];
        run(code, flags.iter().chain(&all));
    };
    audit("{\"slot\":6,\"hex\":\"6f6e65\"}\n", 0);
    audit("{\"slot\":6,\"hex\":\"6f6e66\"}\n", 1);
}
