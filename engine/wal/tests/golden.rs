//! A log of format version 1 as it was first written: every later build must read it, and this one writes the same
//! bytes. `SYNOD_WAL_BLESS=1` writes it anew; that is right only for a new format version, in a directory of its own.

mod support;

use std::fmt::Write;
use std::path::PathBuf;

use support::*;
use synod_frame::{ConfigurationBody, Member, Origin, RecordBuffer, encode_configuration};
use synod_protocol::{Ballot, Mark, NodeId, Slot};
use synod_wal::scan::{Item, ScanOptions, Scanner, read_index, read_seal, read_segment_header};
use synod_wal::{
    Geometry, MemoryStore, RecordKind, RecoveredLog, RecoveredSegment, SegmentStore, StoredConfiguration, SyncMode,
    recover,
};

fn directory(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn genesis() -> Body {
    let mut record = RecordBuffer::zeroed(4096);
    let member = |node: u32| Member { node: NodeId(node), incarnation: [node as u8; 16] };
    let configuration = ConfigurationBody {
        cluster: [1; 16],
        lineage: 0,
        members: (1..=3).map(member).collect(),
        prepare_quorum: 2,
        accept_quorum: 2,
        alpha: 1024,
        ..ConfigurationBody::default()
    };
    let origin = Origin { group: GROUP, first: Slot(0), ballot: Ballot::ZERO, leader_time_us: 0 };
    let handle = encode_configuration(record.as_mut(), &origin, &configuration).unwrap();
    Body { handle, record }
}

/// Every kind of record that a node writes, a sealed segment, a recycled file, a named end, a trimmed prefix and a torn tail.
fn write_log() -> MemoryStore {
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    let genesis = genesis();
    machine.wal.set_configuration(StoredConfiguration { slot: Slot(0), body: genesis.bytes().to_vec() });
    let mut mark = Mark::START;
    machine.append_now(&meta(RecordKind::Configuration, Ballot::ZERO, Ballot::ZERO, mark), Some(&genesis));
    machine.append_now(&meta(RecordKind::Promise, Ballot::ZERO, ballot(3), mark), None);
    for seed in 1..=30 {
        let kind = [RecordKind::Accepted, RecordKind::Copied, RecordKind::Chosen, RecordKind::Healed][seed % 4];
        let at = if kind == RecordKind::Accepted { ballot(3) } else { Ballot::ZERO };
        let body = match seed % 5 {
            0 => commands(mark.slot.0, 3, 9000, seed as u64),
            _ => noop(mark.slot.0, 4, seed as u64),
        };
        let mut meta = meta(kind, at, ballot(3), mark);
        meta.log_time_us = 1_000_000 + seed as u64;
        meta.source = NodeId(if at.is_zero() { 2 } else { 0 });
        machine.append_now(&meta, Some(&body));
        mark = mark.after(&body.handle);
        machine.wal.index_mut().mark_chosen(body.handle.first, mark.chain);
        if seed == 14 {
            machine.trim(mark, ballot(3)).unwrap();
            machine.settle();
        }
    }
    machine.append_now(&meta(RecordKind::Configuration, Ballot::ZERO, ballot(3), mark), Some(&genesis));
    machine.append_now(&meta(RecordKind::Promise, Ballot::ZERO, ballot(6), mark), None);
    let log = recover(&machine.disk.durable, &identity(2).expected(), SEGMENT_BYTES).unwrap();
    let mut machine = Machine::start(machine.disk, SyncMode::Dsync, log, 2);
    machine.settle();
    let gap = mark.slot.0 + 5;
    for slot in [gap, gap + 4] {
        let body = noop(slot, 4, slot);
        machine.append_now(&meta(RecordKind::Accepted, ballot(7), ballot(7), mark), Some(&body));
    }
    machine.append_now(&meta(RecordKind::Mark, Ballot::ZERO, ballot(8), mark), None);
    let torn = commands(gap + 8, 2, 9000, 77);
    machine.append(&meta(RecordKind::Accepted, ballot(8), ballot(8), mark), Some(&torn)).unwrap();
    // Only its first block arrives.
    let location = machine.wal.index().get(torn.handle.first).unwrap().location;
    let content = machine.disk.live.content(location.file).unwrap()[location.offset as usize..].to_vec();
    machine.disk.durable.write_at(location.file, location.offset, &content[..BLOCK as usize]);
    machine.disk.durable
}

/// Packs over two segments with a body of their own size between them, and an accepted body behind them: what compaction
/// leaves.
fn write_packed_log() -> MemoryStore {
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    let genesis = genesis();
    machine.wal.set_configuration(StoredConfiguration { slot: Slot(0), body: genesis.bytes().to_vec() });
    let mut mark = Mark::START;
    machine.append_now(&meta(RecordKind::Configuration, Ballot::ZERO, Ballot::ZERO, mark), Some(&genesis));
    for pack in 0..4 {
        let mut bodies = Vec::new();
        let mut after = mark;
        for seed in 0..20 {
            let body = match seed % 3 {
                0 => noop(after.slot.0, 4, seed + 1),
                1 => commands(after.slot.0, 1, 128, seed),
                _ => commands(after.slot.0, 3, 2000, seed),
            };
            after = after.after(&body.handle);
            bodies.push(body);
        }
        machine.append_pack_now(Ballot::ZERO, mark, &bodies);
        mark = after;
        if pack == 1 {
            let large = commands(mark.slot.0, 2, 9000, 7);
            machine.append_now(&meta(RecordKind::Chosen, Ballot::ZERO, Ballot::ZERO, mark), Some(&large));
            mark = mark.after(&large.handle);
        }
    }
    let open = noop(mark.slot.0, 2, 9);
    machine.append_now(&meta(RecordKind::Accepted, ballot(4), ballot(4), mark), Some(&open));
    machine.append_now(&meta(RecordKind::Promise, Ballot::ZERO, ballot(6), mark), None);
    machine.append_now(&meta(RecordKind::Mark, Ballot::ZERO, ballot(6), mark), None);
    machine.disk.durable
}

/// Everything that the log says, as text.
fn describe(store: &MemoryStore) -> String {
    let geometry = Geometry::new(SEGMENT_BYTES).unwrap();
    let mut text = String::new();
    for file in store.files().unwrap() {
        let header = read_segment_header(store, file, geometry).unwrap();
        writeln!(text, "== {file}").unwrap();
        let Ok(header) = header else {
            writeln!(text, "{}", header.unwrap_err()).unwrap();
            continue;
        };
        writeln!(text, "{header:?}").unwrap();
        let mut scanner = Scanner::new(store, file, geometry, &header, ScanOptions::default());
        let mut end = 0;
        while let Some(item) = scanner.next_item().unwrap() {
            match item {
                Item::Record(record) => {
                    writeln!(text, "record {record:?}").unwrap();
                    for body in scanner.bodies(&record).unwrap().iter().filter(|_| record.pack.is_some()) {
                        writeln!(text, "packed {body:?}").unwrap();
                    }
                }
                Item::Hole(hole) => {
                    end = hole.offset;
                    writeln!(text, "hole {hole:?}").unwrap();
                }
                Item::Stray(record) => writeln!(text, "stray {record:?}").unwrap(),
                Item::BadStray { record, .. } => writeln!(text, "bad stray {record:?}").unwrap(),
            }
        }
        let seal = read_seal(store, file, geometry, &header, end).unwrap();
        writeln!(text, "seal {seal:?}").unwrap();
        if let Some(footer) = seal.footer {
            writeln!(text, "index {:?}", read_index(store, file, geometry, &header, &footer).unwrap()).unwrap();
        }
    }
    let log: RecoveredLog = recover(store, &identity(9).expected(), SEGMENT_BYTES).unwrap();
    writeln!(text, "== recovered").unwrap();
    writeln!(text, "{:?} promised {} mark {:?}", log.group, log.promised, log.mark).unwrap();
    writeln!(text, "end {} proven {} first needed {}", log.end, log.proven, log.first_needed).unwrap();
    writeln!(text, "clean {:?} dirty {:?}", log.clean, log.dirty).unwrap();
    for segment in &log.segments {
        let RecoveredSegment { file, epoch, end, last_checksum, records, slot_end, sealed, log_time_us, .. } = segment;
        write!(text, "RecoveredSegment {{ file: {file:?}, epoch: {epoch}, end: {end:?}, ").unwrap();
        write!(text, "last_checksum: {last_checksum}, records: {records}, slot_end: {slot_end:?}, ").unwrap();
        writeln!(text, "sealed: {sealed}, log_time_us: {log_time_us} }}").unwrap();
    }
    for entry in log.index.iter_from(Slot(0)) {
        writeln!(text, "{entry:?}").unwrap();
        assert_eq!(stored_body(store, entry.location, &entry.body).len(), entry.body.bytes as usize);
    }
    text
}

/// Golden files end where their last byte that isn't zero does.
fn read_golden(name: &str) -> MemoryStore {
    let mut store = MemoryStore::new();
    for entry in std::fs::read_dir(directory(name)).unwrap() {
        let entry = entry.unwrap();
        let Some(file) = synod_wal::FileId::from_file_name(entry.file_name().to_str().unwrap()) else { continue };
        store.create(file, SEGMENT_BYTES);
        store.write_at(file, 0, &std::fs::read(entry.path()).unwrap());
    }
    store
}

/// Reads the golden log, compares it with what is written now, and gives its description.
fn check(name: &str, written: &MemoryStore) -> String {
    let directory = directory(name);
    if std::env::var_os("SYNOD_WAL_BLESS").is_some() {
        std::fs::create_dir_all(&directory).unwrap();
        for file in written.files().unwrap() {
            let content = written.content(file).unwrap();
            let used = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            std::fs::write(directory.join(file.file_name()), &content[..used]).unwrap();
        }
        std::fs::write(directory.join("content.txt"), describe(written)).unwrap();
    }
    let golden = read_golden(name);
    let expected = std::fs::read_to_string(directory.join("content.txt")).unwrap();
    assert!(describe(&golden) == expected, "the golden log reads differently; compare with SYNOD_WAL_BLESS=1");
    for file in written.files().unwrap() {
        let (now, then) = (written.content(file).unwrap(), golden.content(file).unwrap());
        let differs = now.iter().zip(then).position(|(now, then)| now != then);
        assert_eq!(differs, None, "{file} is written differently");
    }
    expected
}

#[test]
fn version_1_is_read_and_written_as_ever() {
    let text = check("v1", &write_log());
    assert!(text_covers(&text), "the golden log holds every kind of record and seal block");
}

#[test]
fn packs_of_version_1_are_read_and_written_as_ever() {
    let text = check("v1-packed", &write_packed_log());
    assert!(has_kind(&text, RecordKind::Pack) && text.matches("packed ").count() == 80, "{text}");
}

fn has_kind(text: &str, kind: RecordKind) -> bool {
    text.contains(&format!("kind: {kind:?},"))
}

fn text_covers(text: &str) -> bool {
    let mut kinds = RecordKind::ALL.into_iter().filter(|kind| *kind != RecordKind::Pack);
    let kinds = kinds.all(|kind| has_kind(text, kind));
    let holes = ["Seal(", "Blocks {"].iter().all(|hole| text.contains(hole));
    kinds && holes && text.contains("index Some(") && text.contains("never used")
}
