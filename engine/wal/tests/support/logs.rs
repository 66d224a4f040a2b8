//! Logs to damage, and what recovery says of them.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part of this")]

use synod_protocol::{Mark, Slot};
use synod_wal::{FileId, Lsn, MemoryStore, RecordKind, RecoveredLog, SyncMode};

use super::bounded::recover;
use super::*;

pub const FIRST: FileId = FileId(1);
pub const SECOND: FileId = FileId(2);

/// The end of a doubt that has none.
pub const OPEN: u64 = u64::MAX;

pub fn accepted(round: u64, mark: Mark) -> synod_wal::RecordMeta {
    meta(RecordKind::Accepted, ballot(round), ballot(round), mark)
}

pub fn recovered(store: &MemoryStore) -> RecoveredLog {
    recover(store, &identity(2).expected(), SEGMENT_BYTES).unwrap_or_else(|error| panic!("{error}"))
}

/// The slots in doubt, and up to which round.
pub fn doubts(log: &RecoveredLog) -> Vec<(u64, u64, u64)> {
    log.doubts.iter().map(|doubt| (doubt.first.0, doubt.end.0, doubt.bound.round)).collect()
}

pub fn slots(log: &RecoveredLog) -> Vec<u64> {
    log.index.iter_from(Slot(0)).map(|entry| entry.body.first.0).collect()
}

/// A log with `count` bodies of one block each, all durable, the last of which no later record proves.
pub fn with_bodies(count: u64) -> Machine {
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    for slot in 1..=count {
        machine.append_now(&accepted(1, Mark::START), Some(&noop(slot, 1, 1)));
    }
    machine
}

pub fn flip(store: &mut MemoryStore, file: FileId, offset: u64) {
    store.content_mut(file).unwrap()[offset as usize] ^= 1;
}

pub fn reopened(store: MemoryStore, boot: u64) -> Machine {
    let recovered = recovered(&store);
    let disk = Disk { live: store.clone(), durable: store, ..Disk::default() };
    let mut machine = Machine::start(disk, SyncMode::Dsync, recovered, boot);
    machine.settle();
    machine
}

/// Fills segments and trims them away until a file is written again, and three blocks of it are.
pub fn recycled() -> (Machine, Mark) {
    recycled_until(3, |_| {})
}

/// The same until `blocks` of it are, looking on after each record.
pub fn recycled_until(blocks: u64, mut look: impl FnMut(&Machine)) -> (Machine, Mark) {
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    let mut mark = Mark::START;
    for slot in 1.. {
        let body = noop(slot, 1, slot);
        machine.append_now(&accepted(1, mark), Some(&body));
        mark = mark.after(&body.handle);
        machine.wal.index_mut().mark_chosen(body.handle.first, mark.chain);
        if slot.is_multiple_of(7) {
            machine.trim(mark, ballot(1));
            machine.settle();
        }
        look(&machine);
        let end = machine.wal.appended();
        let header = segment_header(&machine.disk.live, file_of(&machine.disk.live, end));
        if header.previous_epoch != 0 && end.0 % SEGMENT_BYTES == (1 + blocks) * BLOCK {
            return (machine, mark);
        }
        assert!(slot < 1000, "files are recycled");
    }
    unreachable!()
}

pub fn segment_header(store: &MemoryStore, file: FileId) -> synod_wal::format::SegmentHeader {
    let geometry = synod_wal::Geometry::new(SEGMENT_BYTES).unwrap();
    synod_wal::scan::read_segment_header(store, file, geometry).unwrap().unwrap()
}

pub fn file_of(store: &MemoryStore, lsn: Lsn) -> FileId {
    let files = synod_wal::SegmentStore::files(store).unwrap();
    let geometry = synod_wal::Geometry::new(SEGMENT_BYTES).unwrap();
    let epoch = |file: &FileId| {
        synod_wal::scan::read_segment_header(store, *file, geometry).unwrap().map_or(0, |header| header.epoch)
    };
    files.into_iter().find(|file| epoch(file) == lsn.epoch(SEGMENT_BYTES)).unwrap()
}

/// A log whose first segment is full and being sealed: records up to the rotation are durable.
pub fn rotating(complete_seal: bool) -> Machine {
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    let mut slot = 1;
    while machine.wal.stats().segments_sealed == 0 && machine.wal.appended().epoch(SEGMENT_BYTES) < 2 {
        machine.append_now(&accepted(1, Mark::START), Some(&noop(slot, 1, 1)));
        slot += 1;
        if machine.wal.appended().0 % SEGMENT_BYTES == 12 * BLOCK {
            break;
        }
    }
    // Both of these are in flight while the segment behind them is closed.
    machine.append(&accepted(1, Mark::START), Some(&noop(slot, 1, 1))).unwrap();
    machine.append(&accepted(1, Mark::START), Some(&noop(slot + 1, 1, 1))).unwrap();
    assert_eq!(machine.wal.appended().epoch(SEGMENT_BYTES), 2);
    if complete_seal {
        machine.settle();
    } else {
        machine.complete_write(0);
    }
    machine
}
