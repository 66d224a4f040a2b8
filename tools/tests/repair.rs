//! `repair`: what is sound is kept, what others have is fetched, and no vote is forgotten unless the operator says so.

mod stores;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use stores::{Filler, Stores, ballot, identity, noop, recovered, refused, run, variety};
use synod_protocol::{Ballot, Mark, Slot};
use synod_wal::directory::{self, Expected};
use synod_wal::{IndexEntry, RecordKind, RecoveredLog};

/// Three logs with the same chosen bodies over several segments; then node 1 and node 2 accept two more, of which no
/// log knows that they are chosen, and node 1 promises more.
fn cluster(bodies: u64) -> (Stores, Mark) {
    let stores = Stores::cluster(3);
    let mut mark = Mark::START;
    for number in 0..3 {
        let mut filler = stores.filler(number);
        variety(&mut filler, 2, bodies);
        mark = filler.mark;
        if number < 2 {
            filler.append(RecordKind::Accepted, ballot(3), ballot(3), Some(&noop(mark.slot, 3, 9)));
            filler.append(RecordKind::Accepted, ballot(3), ballot(3), Some(&noop(mark.slot.plus(3), 2, 9)));
        }
        if number == 0 {
            filler.append(RecordKind::Promise, Ballot::ZERO, ballot(7), None);
        }
        filler.finish(if number == 0 { 7 } else { 3 });
    }
    (stores, mark)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn arguments<'a>(stores: &'a Stores, copy: &'a Path, from: &[usize], more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["repair", text(&stores.paths[0]), "--to", text(copy)];
    for number in from {
        arguments.extend(["--from", text(&stores.paths[*number])]);
    }
    arguments.extend(more);
    arguments
}

fn copy_of(stores: &Stores, name: &str) -> PathBuf {
    stores.paths[0].with_file_name(name)
}

/// Changes a byte of a record on the disk of node 1.
fn damage(stores: &Stores, entry: &IndexEntry, at: u64) {
    let file = stores.paths[0].join("log-0000").join(entry.location.file.file_name());
    let mut bytes = fs::read(&file).expect("a segment");
    bytes[(entry.location.offset + at) as usize] ^= 0x40;
    fs::write(&file, bytes).expect("writes");
}

fn chosen(entry: &IndexEntry) -> bool {
    entry.recorded_chosen || entry.chosen.is_some()
}

/// A log may stand in for another if it has forgotten nothing that it said to others: its promise, and every accept of
/// which it doesn't know what was chosen.
fn assert_remembers(log: &RecoveredLog, before: &RecoveredLog, what: &str) {
    assert!(log.promised >= before.promised, "{what}: promised {} before {}", log.promised, before.promised);
    for entry in before.index.iter_from(Slot(0)) {
        let covered = log.index.base().slot >= entry.body.end();
        let now = log.index.containing(entry.body.first);
        let known = now.is_some_and(|now| chosen(now) || (now.body == entry.body && now.ballot >= entry.ballot));
        assert!(covered || known, "{what}: the body at slot {} is forgotten", entry.body.first);
    }
}

#[test]
fn a_damaged_chosen_body_is_fetched() {
    let (stores, mark) = cluster(40);
    let before = recovered(&stores.paths[0]);
    let entry = *before.index.iter_from(Slot(30)).next().expect("a body");
    damage(&stores, &entry, 400);
    let files = fs::read(stores.paths[0].join("log-0000").join(entry.location.file.file_name())).expect("a segment");
    run(1, ["verify", text(&stores.paths[0])]);
    let copy = copy_of(&stores, "copy");
    let dry = run(0, arguments(&stores, &copy, &[1], &["--dry-run"]));
    assert!(dry.contains("could be mended") && !copy.exists(), "{dry}");
    let report: Value =
        serde_json::from_str(&run(0, arguments(&stores, &copy, &[1], &["--format", "json"]))).expect("json");
    assert_eq!((&report["fetched"], &report["slot_end"]), (&1.into(), &mark.slot.0.into()), "{report}");
    assert_eq!(report["findings"].as_array().expect("rows").len(), 1, "{report}");
    let log = recovered(&copy);
    assert_eq!((log.mark, log.promised, log.index.len()), (before.mark, before.promised, before.index.len()));
    assert_remembers(&log, &before, "one body");
    assert_eq!(identity(&copy), identity(&stores.paths[0]));
    let content = |path: &Path| {
        let all = run(0, ["export", text(path)]);
        let lines: Vec<String> = all.lines().skip(1).map(str::to_owned).collect();
        lines[..lines.len() - 1].to_vec()
    };
    assert!(content(&copy) == content(&stores.paths[1]), "the same commands as in another replica");
    run(0, ["verify", text(&copy)]);
    // The damaged directory is as it was, and nothing is written over.
    let now = fs::read(stores.paths[0].join("log-0000").join(entry.location.file.file_name())).expect("a segment");
    assert_eq!(files, now);
    assert!(refused(3, arguments(&stores, &copy, &[1], &[])).contains("isn't empty"));
    // The node goes on from it, at higher positions.
    assert!(log.segments[0].epoch > before.segments.last().expect("a segment").epoch);
    let mut filler = Filler::open(&copy);
    filler.choose(8, &noop(filler.mark.slot, 1, 1));
    filler.finish(8);
}

#[test]
fn a_lost_vote_is_restored_by_its_identity_or_refused() {
    let (stores, mark) = cluster(10);
    let before = recovered(&stores.paths[0]);
    let entry = *before.index.get(mark.slot).expect("accepted");
    // Its header can be read: so it is known what is lost.
    damage(&stores, &entry, 600);
    let copy = copy_of(&stores, "copy");
    // Nobody else was asked, or one who hasn't got it.
    for from in [&[][..], &[2]] {
        let message = refused(1, arguments(&stores, &copy, from, &[]));
        assert!(message.contains("acknowledged command is lost"), "{message}");
        let typed = message.trim().rsplit(' ').next().expect("a word").to_owned();
        assert_eq!(typed, format!("{}..{}", mark.slot, mark.slot.plus(3)));
        assert!(!copy.exists());
        for wrong in ["1..2", "9..", "1..9999999"] {
            assert!(refused(1, arguments(&stores, &copy, from, &["--accept-loss", wrong])).contains(&typed));
        }
        refused(2, arguments(&stores, &copy, from, &["--accept-loss", "soon"]));
        let report = run(0, arguments(&stores, &copy, from, &["--accept-loss", &typed]));
        assert!(report.contains("may be lost, as you accepted"), "{report}");
        assert_eq!(recovered(&copy).mark, mark);
        fs::remove_dir_all(&copy).expect("removes");
    }
    let report: Value =
        serde_json::from_str(&run(0, arguments(&stores, &copy, &[1], &["--format", "json"]))).expect("json");
    assert_eq!((&report["restored"], &report["covered"]), (&1.into(), &false.into()), "{report}");
    assert_remembers(&recovered(&copy), &before, "a vote");
    let needless = refused(2, arguments(&stores, &copy_of(&stores, "other"), &[1], &["--accept-loss", "1..2"]));
    assert!(needless.contains("nothing would be lost"), "{needless}");
}

#[test]
fn an_end_that_is_gone_needs_all_other_members_at_rest() {
    let (stores, mark) = cluster(10);
    let before = recovered(&stores.paths[0]);
    // The last segment with records is cut to its header.
    let last = before.segments.last().expect("a segment").file;
    let file = stores.paths[0].join("log-0000").join(last.file_name());
    let open = fs::OpenOptions::new().write(true).open(&file).expect("a segment");
    open.set_len(2 * 4096 + 17).expect("cuts");
    let copy = copy_of(&stores, "copy");
    assert!(refused(1, arguments(&stores, &copy, &[], &[])).contains(".."));
    assert!(refused(1, arguments(&stores, &copy, &[1], &[])).contains("Stop all other members"));
    let running = directory::open(&stores.paths[1], &Expected::default()).expect("opens");
    refused(1, arguments(&stores, &copy, &[1, 2], &[]));
    drop(running);
    let report: Value =
        serde_json::from_str(&run(0, arguments(&stores, &copy, &[1, 2], &["--format", "json"]))).expect("json");
    assert_eq!(report["covered"], true, "{report}");
    let log = recovered(&copy);
    assert_eq!(log.mark, mark);
    // What node 2 accepted is accepted now, and no promise is lower than what the others know.
    assert!(log.index.get(mark.slot).is_some() && log.promised >= ballot(3));

    let own = directory::open(&stores.paths[0], &Expected::default()).expect("opens");
    assert!(refused(4, arguments(&stores, &copy_of(&stores, "other"), &[1, 2], &[])).contains("stop it first"));
    drop(own);
}

/// Every block of the damaged node in turn, zeroed or with a flipped bit: a copy that is written without the others has
/// forgotten nothing, and one that is written with them neither.
#[test]
fn no_damage_makes_a_copy_forget() {
    let (stores, mark) = cluster(24);
    let before = recovered(&stores.paths[0]);
    let log = stores.paths[0].join("log-0000");
    let (mut alone, mut refusals, mut unsound) = (0, 0, 0);
    let files: Vec<PathBuf> = fs::read_dir(&log).expect("a log").map(|entry| entry.expect("a file").path()).collect();
    for file in &files {
        let sound = fs::read(file).expect("a segment");
        for block in 0..sound.len() / 4096 {
            let mut bytes = sound.clone();
            let range = block * 4096..(block + 1) * 4096;
            match block % 3 {
                0 => bytes[range.start + 700] ^= 1,
                1 => bytes[range.start + 20] ^= 1,
                _ => bytes[range].fill(0),
            }
            if bytes == sound {
                continue;
            }
            fs::write(file, &bytes).expect("writes");
            let what = format!("{} block {block}", file.display());
            let copy = copy_of(&stores, "copy");
            let output = stores::tools(arguments(&stores, &copy, &[], &[]));
            match output.status.code() {
                Some(0) => {
                    alone += 1;
                    assert_remembers(&recovered(&copy), &before, &what);
                    fs::remove_dir_all(&copy).expect("removes");
                }
                Some(1) => refusals += 1,
                other => panic!("{what}: {other:?} {}", String::from_utf8_lossy(&output.stderr)),
            }
            let output = stores::tools(arguments(&stores, &copy, &[1, 2], &[]));
            assert_eq!(output.status.code(), Some(0), "{what}: {}", String::from_utf8_lossy(&output.stderr));
            let log = recovered(&copy);
            assert!(log.mark.slot >= mark.slot, "{what}: {:?}", log.mark);
            // A promise that only the damaged node knew of was made to nobody who could use it.
            let known = if log.promised < before.promised { ballot(3) } else { before.promised };
            assert!(log.promised >= known, "{what}");
            for slot in [mark.slot, mark.slot.plus(3)] {
                assert!(log.index.containing(slot).is_some(), "{what}: the vote at slot {slot} is forgotten");
            }
            unsound += 1;
            fs::remove_dir_all(&copy).expect("removes");
        }
        fs::write(file, &sound).expect("writes");
    }
    assert!(alone > 10 && refusals > 10 && unsound > 40, "{alone} alone, {refusals} refused, {unsound} in all");
}

#[test]
fn strangers_and_nonsense_are_refused() {
    let (stores, _) = cluster(5);
    let other = Stores::cluster(1);
    let copy = copy_of(&stores, "copy");
    let with = |more: &[&str]| refused(3, arguments(&stores, &copy, &[], more));
    assert!(with(&["--from", text(&stores.paths[0])]).contains("name each member once") || !copy.exists());
    let message = with(&["--from", text(&other.paths[0])]);
    assert!(
        message.contains("too") || message.contains("another cluster") || message.contains("isn't the store"),
        "{message}"
    );
    assert!(with(&["--from", text(copy.parent().expect("a parent"))]).contains("isn't initialised"));
    assert!(!copy.exists());
}
