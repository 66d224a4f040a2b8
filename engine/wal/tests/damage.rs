//! Damage of every kind to a small log: recovery never panics and is never silently wrong.

mod support;

use std::collections::BTreeMap;

use support::bounded::recover;
use support::*;
use synod_protocol::{Ballot, Mark, Slot};
use synod_wal::scan::{Item, ScanOptions, Scanner, read_segment_header};
use synod_wal::{
    FileId, Geometry, MemoryStore, RecordKind, RecoverOptions, RecoveredLog, SegmentStore, SyncMode, recover_with,
};

/// What a log says, apart from which files it uses how.
fn content(log: &RecoveredLog) -> String {
    let said = (log.group, log.promised, log.mark, &log.index, &log.configuration, log.end, log.records);
    format!("{said:?}")
}

/// Three segments on recycled files, the last record a mark: everything before it is proven durable.
fn log() -> MemoryStore {
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    let (mut slot, mut mark) = (1, Mark::START);
    while machine.wal.appended().epoch(SEGMENT_BYTES) < 9 {
        let body = match slot % 4 {
            0 => commands(slot, 2, 9000, slot),
            _ => noop(slot, 2, slot),
        };
        machine.append_now(&meta(RecordKind::Accepted, ballot(1), ballot(1), mark), Some(&body));
        mark = mark.after(&body.handle);
        machine.wal.index_mut().mark_chosen(body.handle.first, mark.chain);
        slot = mark.slot.0;
        if slot.is_multiple_of(5) && machine.wal.appended().epoch(SEGMENT_BYTES) < 8 {
            machine.trim(mark, ballot(1));
            machine.settle();
        }
    }
    machine.append_now(&meta(RecordKind::Promise, Ballot::ZERO, ballot(4), mark), None);
    machine.append_now(&meta(RecordKind::Mark, Ballot::ZERO, ballot(4), mark), None);
    machine.disk.durable
}

/// Holds what is recovered of a damaged store against the sound log: nothing is invented, and whatever is missing is
/// accounted for.
fn check(store: &MemoryStore, sound: &RecoveredLog, what: std::fmt::Arguments<'_>) -> Answer {
    let found = match recover(store, &identity(9).expected(), SEGMENT_BYTES) {
        Ok(found) => found,
        Err(error) => {
            // Every error can be shown.
            assert!(!error.to_string().is_empty());
            return Answer::Refused;
        }
    };
    if found.damages.is_empty() {
        assert!(content(&found) == content(sound), "{what}: nothing is damaged, but the log is another one");
        return Answer::Harmless;
    }
    found.damages.iter().for_each(|damage| assert!(!damage.to_string().is_empty()));
    assert!(found.unsure || found.promised >= sound.promised, "{what}: a promise is forgotten");
    assert!(found.promised <= sound.promised && found.mark.slot <= sound.mark.slot, "{what}: invented");
    for entry in found.index.iter_from(Slot(0)).filter(|entry| entry.body.end() > sound.index.base().slot) {
        let known = sound.index.get(entry.body.first).filter(|known| known.body == entry.body);
        assert!(known.is_some(), "{what}: {:?} is invented", entry.body);
        assert!(entry.ballot <= known.unwrap().ballot, "{what}: a ballot is invented");
        if entry.chosen.is_some() {
            assert_eq!(entry.chosen, known.unwrap().chosen, "{what}");
        }
    }
    for entry in sound.index.iter_from(found.mark.slot).filter(|entry| !entry.ballot.is_zero()) {
        let kept = found.index.get(entry.body.first);
        let doubted =
            |slot: u64| found.doubts.iter().any(|doubt| doubt.covers(Slot(slot)) && doubt.bound >= entry.ballot);
        let accounted = kept.is_some_and(|kept| kept.body == entry.body && kept.ballot == entry.ballot)
            || (entry.body.first.0..entry.body.end().0).all(doubted);
        assert!(accounted, "{what}: the accept of {:?} is forgotten; in doubt: {:?}", entry.body, found.doubts);
    }
    if found.unsure { Answer::Unsure } else { Answer::Told }
}

/// What damage came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    /// The log says what it said before, and nothing is found to be damaged.
    Harmless,
    /// The log opens, and says what is damaged.
    Told,
    /// The same, and a promise may be lost: the node doesn't vote until it has asked its peers.
    Unsure,
    /// The log doesn't open.
    Refused,
}

/// What a block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Header,
    Record,
    Seal,
    /// Behind the end of a segment that isn't sealed.
    Unwritten,
    /// In a file of the pool, or of the segment ahead.
    Spare,
}

fn place(sound: &RecoveredLog, file: FileId, offset: u64) -> Place {
    let Some(segment) = sound.segments.iter().find(|segment| segment.file == file) else { return Place::Spare };
    match offset {
        0..BLOCK => Place::Header,
        _ if offset < segment.end.offset(SEGMENT_BYTES) => Place::Record,
        _ if segment.sealed => Place::Seal,
        _ => Place::Unwritten,
    }
}

/// The records of a sound log: file, offset, bytes.
fn records(store: &MemoryStore, sound: &RecoveredLog) -> Vec<(FileId, u64, u64)> {
    let geometry = Geometry::new(SEGMENT_BYTES).unwrap();
    let mut records = Vec::new();
    for segment in &sound.segments {
        let header = read_segment_header(store, segment.file, geometry).unwrap().unwrap();
        let mut scanner = Scanner::new(store, segment.file, geometry, &header, ScanOptions::default());
        while let Some(Item::Record(record)) = scanner.next_item().unwrap() {
            records.push((segment.file, record.offset, u64::from(record.header.record_bytes)));
        }
    }
    assert_eq!(records.len() as u64, sound.records);
    records
}

/// Every bit of every live block with `SYNOD_WAL_FULL=1`, and one of each byte of the others; otherwise a sample.
#[test]
fn flipped_bits() {
    let mut store = log();
    let sound = recover(&store, &identity(9).expected(), SEGMENT_BYTES).unwrap();
    assert!(sound.segments.len() >= 2);
    let records = records(&store, &sound);
    let mut figures: BTreeMap<(Place, Answer), u64> = BTreeMap::new();
    for file in store.files().unwrap() {
        for offset in 0..SEGMENT_BYTES {
            let place = place(&sound, file, offset);
            // Of the structures at the start of blocks more than of the rest.
            let sampled = offset % BLOCK < 384 || offset.is_multiple_of(41);
            let live = !matches!(place, Place::Spare | Place::Unwritten);
            let bits = match is_full() {
                true if live => 0..8,
                false if !sampled || !live && !offset.is_multiple_of(3) => continue,
                _ => (offset * 5 + offset / 13) % 8..(offset * 5 + offset / 13) % 8 + 1,
            };
            for bit in bits {
                let what = format_args!("{file} byte {offset} bit {bit}").to_string();
                store.content_mut(file).unwrap()[offset as usize] ^= 1 << bit;
                let answer = check(&store, &sound, format_args!("{what}"));
                let record = records
                    .iter()
                    .find(|(other, start, bytes)| *other == file && (*start..start + bytes).contains(&offset));
                if let Some((_, start, _)) = record {
                    check_flipped_record(&store, &sound, (file, *start), &what);
                }
                *figures.entry((place, answer)).or_default() += 1;
                store.content_mut(file).unwrap()[offset as usize] ^= 1 << bit;
            }
        }
    }
    println!("flipped bits: {figures:?}");
    let count = |place, answer| figures.get(&(place, answer)).copied().unwrap_or(0);
    for answer in [Answer::Told, Answer::Unsure] {
        assert!(count(Place::Record, answer) > 50, "{figures:?}");
    }
    for place in [Place::Header, Place::Record, Place::Seal] {
        assert_eq!(count(place, Answer::Harmless), 0, "a flipped bit of a live {place:?} isn't told");
    }
    assert!(figures.keys().all(|(_, answer)| *answer != Answer::Refused), "{figures:?}");
}

/// One flipped bit in a record is told, with the record's place, and costs no other record.
fn check_flipped_record(store: &MemoryStore, sound: &RecoveredLog, (file, start): (FileId, u64), what: &str) {
    let found = recover(store, &identity(9).expected(), SEGMENT_BYTES).unwrap();
    let named = found.damages.iter().any(|damage| (damage.file, damage.offset) == (file, start));
    assert!(named, "{what}: the record at {start} isn't named: {:?}", found.damages);
    assert_eq!(found.records, sound.records - 1, "{what}: other records are lost");
    for entry in sound.index.iter_from(Slot(0)) {
        let here = (entry.location.file, entry.location.offset) == (file, start);
        assert!(here || found.index.get(entry.body.first).is_some(), "{what}: {:?} is lost", entry.body);
    }
}

#[test]
fn lost_misdirected_and_zeroed_blocks() {
    let sound_store = log();
    let sound = recover(&sound_store, &identity(9).expected(), SEGMENT_BYTES).unwrap();
    let files = sound_store.files().unwrap();
    let mut random = Random(3);
    let last = sound.segments.last().unwrap();
    let mark_record = (last.file, last.end.offset(SEGMENT_BYTES) - BLOCK);
    for _ in 0..6_000 {
        let mut store = sound_store.clone();
        let pick = |random: &mut Random| -> (FileId, u64) {
            (files[random.below(files.len() as u64) as usize], random.below(SEGMENT_BYTES / BLOCK) * BLOCK)
        };
        let (from, from_offset) = pick(&mut random);
        let (to, to_offset) = pick(&mut random);
        let block = match random.below(3) {
            0 => vec![0; BLOCK as usize],
            1 => (0..BLOCK).map(|_| random.next() as u8).collect(),
            _ => store.content(from).unwrap()[from_offset as usize..][..BLOCK as usize].to_vec(),
        };
        store.write_at(to, to_offset, &block);
        // Nothing proves the mark record itself, which says nothing new.
        if (to, to_offset) != mark_record {
            let moved = format_args!("{from} {from_offset} to {to} {to_offset}").to_string();
            check(&store, &sound, format_args!("{moved}"));
        }
    }
}

#[test]
fn removed_files() {
    let store = log();
    let sound = recover(&store, &identity(9).expected(), SEGMENT_BYTES).unwrap();
    for file in store.files().unwrap() {
        let used = sound.segments.iter().any(|segment| segment.file == file);
        let mut without = store.clone();
        without.remove(file);
        let answer = check(&without, &sound, format_args!("{file} removed"));
        assert!(!used || answer != Answer::Harmless, "{file} is missed");
    }
}

/// Every length in bytes with `SYNOD_WAL_FULL=1`; otherwise a sample.
#[test]
fn truncated_files() {
    let mut store = log();
    let sound = recover(&store, &identity(9).expected(), SEGMENT_BYTES).unwrap();
    let mut figures: BTreeMap<(Place, Answer), u64> = BTreeMap::new();
    for file in store.files().unwrap() {
        let used = sound.segments.iter().any(|segment| segment.file == file);
        let whole = store.content(file).unwrap().clone();
        for bytes in (0..SEGMENT_BYTES).rev() {
            let sampled = bytes % BLOCK <= 1 || bytes % BLOCK == BLOCK - 1 || bytes.is_multiple_of(397);
            if is_full() || sampled {
                store.content_mut(file).unwrap().truncate(bytes as usize);
                let answer = check(&store, &sound, format_args!("{file} cut to {bytes} bytes"));
                assert!(!used || answer != Answer::Harmless, "{file} is cut to {bytes} bytes, and nobody says so");
                assert!(answer != Answer::Refused, "{file} is cut to {bytes} bytes, and the log doesn't open");
                *figures.entry((place(&sound, file, bytes), answer)).or_default() += 1;
            }
        }
        *store.content_mut(file).unwrap() = whole;
    }
    println!("truncated files: {figures:?}");
}

/// Nothing is believed for its checksum: any field of any structure holds anything.
#[test]
fn nonsense_with_right_checksums() {
    let sound = log();
    let mut random = Random(17);
    let mut opened = 0;
    for round in 0..20_000 {
        let mut store = sound.clone();
        for _ in 0..=random.below(2) {
            let file = FileId(1 + random.below(4) as u32);
            let content = store.content_mut(file).unwrap();
            let number = random.below(SEGMENT_BYTES / BLOCK) as usize;
            let block = &mut content[number * BLOCK as usize..][..BLOCK as usize];
            for _ in 0..=random.below(3) {
                let width = [1, 2, 4, 8][random.below(4) as usize];
                let at =
                    (8 + random.below(if block.starts_with(b"SYNS") { 4000 } else { 480 }) as usize) / width * width;
                let value = match random.below(4) {
                    0 => 0,
                    1 => u64::MAX,
                    2 => random.below(40),
                    _ => random.next(),
                };
                block[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
            }
            seal_again(block);
        }
        // What a forged seal says of places differs from what the records say: which of the two is believed is nobody's
        // promise, so the two ways to recover aren't compared.
        let options = RecoverOptions { index_bodies_max: Some(2), ..RecoverOptions::default() };
        let _ = recover_with(&store, &identity(9).expected(), SEGMENT_BYTES, options);
        if let Ok(log) = synod_wal::recover(&store, &identity(9).expected(), SEGMENT_BYTES) {
            opened += 1;
            let disk = Disk { live: store.clone(), durable: store, ..Disk::default() };
            // A log that opens can be used, as long as it isn't full.
            if round % 8 == 0 && log.epoch_next < 1 << 40 {
                let mut machine = Machine::start(disk, SyncMode::Dsync, log, 9);
                machine.settle();
                machine.append(&meta(RecordKind::Promise, Ballot::ZERO, ballot(9), Mark::START), None);
                machine.settle();
            }
        }
    }
    assert!(opened > 1_000, "{opened}");
}

#[test]
fn noise_is_no_log() {
    let mut random = Random(11);
    for round in 0..200 {
        let mut store = log();
        let file = FileId(1 + random.below(4) as u32);
        let length = random.below(SEGMENT_BYTES * 2);
        let noise: Vec<u8> = (0..length).map(|_| if round % 2 == 0 { random.next() as u8 } else { 0xff }).collect();
        *store.content_mut(file).unwrap() = noise;
        let _ = recover(&store, &identity(9).expected(), SEGMENT_BYTES);
    }
}
