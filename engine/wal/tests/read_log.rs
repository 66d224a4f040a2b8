//! The reader of `engine/docs`, which was written from the description of the format alone, reads the same from the golden
//! logs as this crate does.

mod support;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::*;
use synod_frame::{CommandsView, RECORD_HEADER_BYTES, verify_body_in_record};
use synod_protocol::{Ballot, BodyKind};
use synod_wal::scan::{Item, ScanOptions, ScannedRecord, Scanner, read_segment_header};
use synod_wal::{FileId, Geometry, MemoryStore, SegmentStore, recover};

fn reader() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/read_log.py")
}

/// Golden files end where their last byte that isn't zero does.
fn read_golden(directory: &Path) -> MemoryStore {
    let mut store = MemoryStore::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let Some(file) = FileId::from_file_name(entry.file_name().to_str().unwrap()) else { continue };
        store.create(file, SEGMENT_BYTES);
        store.write_at(file, 0, &std::fs::read(entry.path()).unwrap());
    }
    store
}

fn ballot_text(ballot: Ballot) -> String {
    format!("{}.{}.{}", ballot.round, ballot.node.0, ballot.boot)
}

/// What the reader prints of a record.
fn describe(scanner: &mut Scanner<'_>, found: &ScannedRecord) -> String {
    let (header, meta) = (&found.header, &found.header.meta);
    let (at, promised) = (ballot_text(meta.ballot), ballot_text(meta.promised));
    let (kind, mark) = (format!("{:?}", meta.kind).to_lowercase(), meta.mark.slot.0);
    let mut text = format!("{} {kind} {at} promised {promised} mark {mark}\n", header.lsn.0);
    for packed in scanner.bodies(found).unwrap() {
        let record = scanner.body_record(found, &packed).unwrap();
        let body = verify_body_in_record(record.as_ref()).unwrap();
        let handle = body.handle();
        let (first, count) = (handle.first.0, handle.count);
        match handle.kind {
            BodyKind::Commands => {
                let bytes = &record.as_ref()[RECORD_HEADER_BYTES..][..handle.bytes as usize];
                let commands = CommandsView::new(&body, bytes).unwrap();
                for index in 0..count {
                    let command = commands.get(index).unwrap();
                    let hex = command.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
                    writeln!(text, "  {} 1 {hex}", first + u64::from(index)).unwrap();
                }
            }
            BodyKind::NoOp => writeln!(text, "  {first} {count} no-ops").unwrap(),
            BodyKind::Configuration { .. } => writeln!(text, "  {first} {count} configuration").unwrap(),
            BodyKind::Trim { .. } => writeln!(text, "  {first} {count} trim").unwrap(),
            BodyKind::Session => writeln!(text, "  {first} {count} session").unwrap(),
            BodyKind::Ticket => writeln!(text, "  {first} {count} ticket").unwrap(),
        }
    }
    text
}

/// What the reader is to print, by this crate's own reader.
fn expected(store: &MemoryStore) -> String {
    let geometry = Geometry::new(SEGMENT_BYTES).unwrap();
    let log = recover(store, &identity(9).expected(), SEGMENT_BYTES).unwrap();
    let mut text = String::new();
    for segment in &log.segments {
        writeln!(text, "segment {}", segment.epoch).unwrap();
        let header = read_segment_header(store, segment.file, geometry).unwrap().unwrap();
        let mut scanner = Scanner::new(store, segment.file, geometry, &header, ScanOptions::default());
        while let Some(Item::Record(record)) = scanner.next_item().unwrap() {
            text += &describe(&mut scanner, &record);
        }
    }
    text
}

#[test]
fn a_reader_made_from_the_description_reads_the_golden_logs() {
    if !Command::new("python3").arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
        println!("skipped: there is no python3");
        return;
    }
    for name in ["v1", "v1-packed"] {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        let output = Command::new("python3").arg(reader()).arg(&golden).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (found, expected) = (String::from_utf8(output.stdout).unwrap(), expected(&read_golden(&golden)));
        assert!(expected.lines().count() > 50, "{name} holds more than that");
        for (found, expected) in found.lines().zip(expected.lines()) {
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(found.lines().count(), expected.lines().count(), "{name}");
    }
}

/// A changed byte ends what it reads, there and no sooner.
#[test]
fn the_reader_notices_damage() {
    if !Command::new("python3").arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
        println!("skipped: there is no python3");
        return;
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1");
    let directory = tempfile::tempdir().unwrap();
    let store = read_golden(&golden);
    let log = recover(&store, &identity(9).expected(), SEGMENT_BYTES).unwrap();
    let last = log.segments.last().unwrap();
    for file in store.files().unwrap() {
        let mut content = store.content(file).unwrap().clone();
        if file == last.file {
            // The second of its records.
            content[2 * BLOCK as usize + 2000] ^= 4;
        }
        std::fs::write(directory.path().join(file.file_name()), content).unwrap();
    }
    let output = Command::new("python3").arg(reader()).arg(directory.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (found, expected) = (String::from_utf8(output.stdout).unwrap(), expected(&store));
    let missing = expected.strip_prefix(&found).expect("up to the damage it reads the same");
    assert_eq!(
        missing.lines().filter(|line| !line.starts_with(' ')).count(),
        2,
        "the damaged record and one behind it"
    );
}
