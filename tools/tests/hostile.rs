//! Directories that no node left: damaged, mixed up, or made to hurt whoever opens them.

mod support;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::*;

/// The verbs that look into one directory.
const VERBS: [&[&str]; 6] =
    [&["ls"], &["dump", "--decode", "json"], &["dump", "--all"], &["stat"], &["stat", "--quick"], &["verify"]];

/// Runs every verb; each must end in order. Gives what it printed, messages included.
fn look(path: &Path) -> Vec<(i32, String)> {
    let slot = Path::new("7");
    let with_slot: [&[&str]; 2] = [&["get"], &["hexdump"]];
    let runs =
        VERBS.iter().map(|verb| tools(verb, &[path])).chain(with_slot.iter().map(|verb| tools(verb, &[path, slot])));
    let outputs = runs.chain([tools(&["diff"], &[path, path])]).map(|output| {
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let code = output.status.code().unwrap_or_else(|| panic!("killed by a signal: {text}"));
        assert!(matches!(code, 0 | 1 | 3 | 5), "{code}: {text}");
        assert!(!text.contains("panicked"), "{text}");
        (code, text.into_owned())
    });
    outputs.collect()
}

/// What must be said, and what is done to a file.
type Hurt<'a> = (&'a str, Box<dyn Fn() + 'a>);

fn needed_segments(path: &Path) -> Vec<PathBuf> {
    let rows = json(0, &["ls"], &[path]);
    let rows = rows["segments"].as_array().expect("segments").iter();
    let used = rows.filter(|row| row["records"].as_u64() > Some(0));
    used.map(|row| segment(path, row["file"].as_str().expect("a name"))).collect()
}

#[test]
fn a_file_that_is_no_segment_is_named_and_the_others_are_shown() {
    let (root, path, _) = filled();
    let segments = needed_segments(&path);
    let (victim, name) = (&segments[1], segments[1].file_name().expect("a name").to_string_lossy().into_owned());
    let whole = fs::read(victim).expect("a segment");
    let aside = root.path().join("aside");
    fs::write(&aside, &whole).expect("written");
    let (_other_root, other, _) = filled();
    let foreign = fs::read(&needed_segments(&other)[1]).expect("a segment");
    let fifo = |place: &Path| assert!(Command::new("mkfifo").arg(place).status().expect("mkfifo runs").success());
    let hurts: Vec<Hurt<'_>> = vec![
        ("symbolic link", Box::new(|| symlink(&aside, victim).expect("a link"))),
        ("a directory", Box::new(|| fs::create_dir(victim).expect("a directory"))),
        ("a pipe", Box::new(|| fifo(victim))),
        ("not a segment", Box::new(|| fs::write(victim, vec![0x5a; whole.len()]).expect("written"))),
        (
            "checksum",
            Box::new(|| {
                fs::write(victim, &whole).expect("written");
                flip(victim, 200);
            }),
        ),
        ("another log", Box::new(|| fs::write(victim, &foreign).expect("written"))),
        ("has 16484 bytes", Box::new(|| fs::write(victim, &whole[..16_484]).expect("written"))),
        ("has 65636 bytes", Box::new(|| fs::write(victim, [&whole[..], &[1; 100]].concat()).expect("written"))),
        ("interrupted at 100 bytes", Box::new(|| fs::write(victim, &whole[..100]).expect("written"))),
        ("this file is a copy", Box::new(|| fs::copy(&segments[0], victim).map(drop).expect("copied"))),
    ];
    for (expected, hurt) in hurts {
        if victim.is_dir() {
            fs::remove_dir(victim).expect("removed");
        } else {
            fs::remove_file(victim).expect("removed");
        }
        hurt();
        let runs = look(&path);
        let (code, listing) = &runs[0];
        assert_eq!(*code, 1, "{expected}: {listing}");
        // An unfinished file is nothing by itself; the segment that it should be is missed.
        let missing = listing.contains("is missing");
        assert!(
            listing.contains(expected) || (expected.starts_with("interrupted") && missing),
            "{expected}: {listing}"
        );
        let (code, dumped) = &runs[1];
        assert_eq!(*code, 1, "{expected}: {dumped}");
        assert!(dumped.contains(&name) || missing, "{expected}: {dumped}");
        assert!(dumped.contains(" command 0") && dumped.contains(" command 39"), "{expected}: {dumped}");
        assert!(dumped.contains("synod-tools verify"), "the next command: {dumped}");
    }
}

#[test]
fn what_stands_in_front_of_the_log_is_never_followed() {
    let (root, path, _) = filled();
    let log = path.join("log-0000");
    let aside = root.path().join("elsewhere");
    fs::rename(&log, &aside).expect("moved");
    symlink(&aside, &log).expect("a link");
    assert!(messages(3, &["ls"], &[&path]).contains("symbolic links are never followed"));
    fs::remove_file(&log).expect("removed");
    assert!(messages(3, &["dump"], &[&path]).contains("log-0000"));
    fs::rename(&aside, &log).expect("moved back");
    let identity = path.join("identity");
    let text = fs::read(&identity).expect("text");
    fs::remove_file(&identity).expect("removed");
    assert!(messages(3, &["ls"], &[&path]).contains("isn't initialised"));
    assert!(Command::new("mkfifo").arg(&identity).status().expect("mkfifo runs").success());
    assert!(messages(3, &["ls"], &[&path]).contains("not a regular file"));
    fs::remove_file(&identity).expect("removed");
    let endless = fs::File::create(&identity).expect("created");
    endless.set_len(1 << 40).expect("sparse");
    messages(3, &["stat"], &[&path]);
    fs::write(&identity, text).expect("written");
    run(0, &["ls"], &[&path]);
}

#[test]
fn records_on_both_sides_of_damage_are_shown() {
    let (_root, path, _) = filled();
    let (file, offset) = place(&path, 17);
    flip(&file, offset + 20);
    let output = tools(&["dump", "--decode", "utf8"], &[&path]);
    assert_eq!(output.status.code(), Some(1));
    let (text, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for slot in 1..=40 {
        let shown = text.contains(&format!("\n    {slot} command {}\\u{{1b}}\n", slot - 1));
        assert_eq!(shown, slot != 17, "slot {slot}: {text}");
    }
    let name = file.file_name().expect("a name").to_string_lossy();
    assert!(said.contains(&format!("{name}+{offset:#x}: record for position")), "{said}");
    assert!(said.contains("run `synod-tools verify "), "{said}");
    let rows = json(1, &["dump"], &[&path]);
    let behind = |row: &&serde_json::Value| row["behind_damage"] == true;
    let behind: Vec<_> = rows.as_array().expect("rows").iter().filter(behind).collect();
    assert!(!behind.is_empty() && behind.iter().all(|row| row["file"] == *name), "{behind:?}");

    // What the rest proves to be chosen is still known, on both sides.
    for slot in ["5", "15", "18", "35"] {
        assert_eq!(json(1, &["get"], &[&path, Path::new(slot)])["state"], "chosen", "slot {slot}");
    }
    assert!(messages(1, &["get"], &[&path, Path::new("17")]).contains("ask another replica"));
    assert!(run(1, &["diff"], &[&path, &path]).contains("it once knew all below 41 to be chosen"));
}

#[test]
fn a_damaged_body_is_found_by_those_who_read_it() {
    let (_root, path, _) = filled();
    let (file, offset) = place(&path, 9);
    flip(&file, offset + 1000);
    assert!(messages(1, &["get"], &[&path, Path::new("9")]).contains("checksum"));
    let dumped = json(1, &["hexdump"], &[&path, Path::new("9")]);
    assert_eq!(dumped["sound"], false);
    let wrong = |line: &&serde_json::Value| !line["problem"].is_null();
    let wrong: Vec<_> = dumped["fields"].as_array().expect("fields").iter().filter(wrong).collect();
    assert_eq!(wrong[0]["part"], "checksums", "{wrong:?}");
    assert!(run(1, &["hexdump"], &[&path, Path::new("9")]).contains("!! block 0 of the record has checksum"));
    run(0, &["get"], &[&path, Path::new("10")]);
}

#[test]
fn hexdump_shows_places_where_no_record_can_be_read() {
    let (_root, path, _) = filled();
    let record = json(0, &["dump", "--from", "9", "--to", "10"], &[&path])[0].clone();
    let (file, offset) = place(&path, 9);
    let name = file.file_name().expect("a name").to_string_lossy();
    let (at, position) = (format!("{name}+{offset:#x}"), record["position"].to_string());
    assert_eq!(json(0, &["hexdump", "--at", &at], &[&path])["sound"], true);
    // A claimed length, a magic number: whatever is damaged, the bytes are shown, and why they are no record.
    for (damaged, part) in [(34, "record"), (10, "record"), (0, "block")] {
        flip(&file, offset + damaged);
        for arguments in [["--at", &at], ["--position", &position]] {
            let dumped = json(1, &[&["hexdump"], &arguments[..]].concat(), &[&path]);
            assert_eq!((&dumped["sound"], &dumped["fields"][0]["part"]), (&false.into(), &part.into()));
            assert!(dumped["fields"][0]["problem"].is_string(), "{dumped:#}");
        }
        flip(&file, offset + damaged);
    }
    // A record that claims less than its body has, or more than any.
    let mut node = Node::open(&path);
    node.accept(&[vec![b'x'; 10_000]]);
    drop(node);
    let (file, offset) = place(&path, 41);
    let at = format!("{}+{offset:#x}", file.file_name().expect("a name").to_string_lossy());
    let open = OpenOptions::new().write(true).open(&file).expect("the segment");
    for claimed in [0u32, 4096, 8191, 1 << 20, u32::MAX] {
        open.write_all_at(&claimed.to_le_bytes(), offset + 32).expect("written");
        assert_eq!(json(1, &["hexdump", "--at", &at], &[&path])["sound"], false, "{claimed}");
    }
    run(1, &["hexdump", "--at", &format!("{name}+0")], &[&path]);
    run(3, &["hexdump", "--at", &format!("{name}+{SEGMENT_BYTES}")], &[&path]);
    run(3, &["hexdump", "--at", "segment-000099.wal+0"], &[&path]);
    run(2, &["hexdump", "--at", "../../etc/passwd+0"], &[&path]);
}

#[test]
fn an_unfinished_last_write_is_no_damage() {
    let (_root, path, _) = filled();
    let mut node = Node::open(&path);
    node.accept(&[vec![b'x'; 10_000]]);
    drop(node);
    let (file, offset) = place(&path, 41);
    let open = OpenOptions::new().write(true).open(&file).expect("the segment");
    // As the pool left it: the second block never arrived.
    open.write_all_at(&[0; 4096], offset + 4096).expect("written");
    let output = tools(&["dump"], &[&path]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("an unfinished last write"), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("slots 41..42"), "{output:?}");
    open.write_all_at(&[1; 4096], offset + 4096).expect("written");
    assert_eq!(tools(&["dump"], &[&path]).status.code(), Some(1), "no interrupted write leaves that");
}

#[test]
fn a_missing_segment_is_missed() {
    let (_root, path, _) = filled();
    let segments = needed_segments(&path);
    fs::remove_file(&segments[1]).expect("removed");
    let (code, listing) = &look(&path)[0];
    assert!(*code == 1 && listing.contains("is missing; restore its file"), "{listing}");
    let rows = json(1, &["dump", "--kind", "accepted"], &[&path]);
    assert!(rows.as_array().expect("rows").len() >= 20, "what there is, is shown");
}

#[test]
fn no_flipped_bit_and_no_cut_ends_otherwise_than_in_order() {
    let (_root, path, _) = filled();
    let segments = needed_segments(&path);
    // A spot every few hundred bytes, in headers, bodies and seals alike; a prime, so that all fields get their turn.
    let mut offset = 3;
    for file in segments.iter().take(2) {
        let whole = fs::read(file).expect("a segment");
        while offset < whole.len() as u64 {
            flip(file, offset);
            look(&path);
            let at = format!("{}+{offset}", file.file_name().expect("a name").to_string_lossy());
            let code = tools(&["hexdump", "--at", &at], &[&path]).status.code();
            assert!(matches!(code, Some(0 | 1)), "{at}: {code:?}");
            fs::write(file, &whole).expect("restored");
            offset += 5903;
        }
        offset = 11;
        for length in [0, 1, 4095, 4096, 8191, 20_480, 65_535] {
            fs::write(file, &whole[..length]).expect("cut");
            look(&path);
        }
        fs::write(file, &whole).expect("restored");
    }
    run(0, &["verify"], &[&path]);
}
