//! Damage of every kind to a small log: recovery never panics and is never silently wrong.

mod support;

use support::*;
use synod_protocol::{Ballot, Mark, Slot};
use synod_wal::{FileId, MemoryStore, RecordKind, RecoveredLog, SegmentStore, SyncMode, recover};

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
/// accounted for. Whether nothing was found to be damaged.
fn check(store: &MemoryStore, sound: &RecoveredLog, what: std::fmt::Arguments<'_>) -> bool {
    let found = match recover(store, &identity(9).expected(), SEGMENT_BYTES) {
        Ok(found) => found,
        Err(error) => {
            // Every error can be shown.
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    if found.damages.is_empty() {
        assert!(content(&found) == content(sound), "{what}: nothing is damaged, but the log is another one");
        return true;
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
    false
}

#[test]
fn flipped_bits() {
    let mut store = log();
    let sound = recover(&store, &identity(9).expected(), SEGMENT_BYTES).unwrap();
    assert!(sound.segments.len() >= 2);
    let (mut harmless, mut noticed) = (0, 0);
    for file in store.files().unwrap() {
        let used = sound.segments.iter().any(|segment| segment.file == file);
        let mut offset = 0;
        while offset < SEGMENT_BYTES as usize {
            // Every byte of the structures at the start of blocks, samples of the rest.
            let bit = (offset * 5 + offset / 13) % 8;
            store.content_mut(file).unwrap()[offset] ^= 1 << bit;
            match check(&store, &sound, format_args!("{file} byte {offset} bit {bit}")) {
                true => harmless += 1,
                false => noticed += 1,
            }
            store.content_mut(file).unwrap()[offset] ^= 1 << bit;
            offset += if offset % BLOCK as usize >= 384 {
                41
            } else if used {
                1
            } else {
                3
            };
        }
    }
    assert!(noticed > 10_000 && harmless > 1_000, "{noticed} noticed, {harmless} harmless");
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
fn truncated_and_removed_files() {
    let store = log();
    let sound = recover(&store, &identity(9).expected(), SEGMENT_BYTES).unwrap();
    for file in store.files().unwrap() {
        let used = sound.segments.iter().any(|segment| segment.file == file);
        let mut without = store.clone();
        without.remove(file);
        let opened = check(&without, &sound, format_args!("{file} removed"));
        assert!(!used || !opened, "{file} is missed");
        for blocks in 0..SEGMENT_BYTES / BLOCK {
            let mut cut = store.clone();
            cut.content_mut(file).unwrap().truncate((blocks * BLOCK) as usize + 17);
            let opened = check(&cut, &sound, format_args!("{file} cut to {blocks} blocks"));
            assert!(!used || !opened, "{file} is cut");
        }
    }
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
        if let Ok(log) = recover(&store, &identity(9).expected(), SEGMENT_BYTES) {
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
