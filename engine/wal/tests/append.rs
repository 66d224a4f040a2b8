//! Appending: where records go, when they are durable, and how files come and go.

mod support;

use support::bounded::recover;
use support::*;
use synod_frame::{GroupId, RecordBuffer};
use synod_protocol::{Ballot, Mark, Slot};
use synod_wal::{
    AppendError, FileId, LogSettings, LogSettingsError, Lsn, POOL_FILES_MIN, RecordKind, RecordMeta, RecoveredLog,
    SyncMode,
};

fn accepted(round: u64, mark: Mark) -> RecordMeta {
    meta(RecordKind::Accepted, ballot(round), ballot(round), mark)
}

fn log_of(machine: &Machine) -> RecoveredLog {
    recover(&machine.disk.durable, &identity(9).expected(), SEGMENT_BYTES).unwrap()
}

#[test]
fn what_is_appended_is_read_back() {
    for sync in [SyncMode::Dsync, SyncMode::Fdatasync] {
        let mut machine = Machine::fresh(sync, 4);
        let mut bodies = Vec::new();
        let (mut slot, mut mark) = (1, Mark::START);
        for seed in 0..40 {
            let body = match seed % 3 {
                0 => noop(slot, 5, seed),
                1 => commands(slot, 3, 600, seed),
                _ => commands(slot, 2, 12_000, seed),
            };
            machine.append_now(&accepted(2, mark), Some(&body));
            mark = mark.after(&body.handle);
            slot = mark.slot.0;
            bodies.push(body);
        }
        machine.append_now(&meta(RecordKind::Promise, Ballot::ZERO, ballot(3), mark), None);
        let log = log_of(&machine);
        assert_eq!((log.promised, log.mark, log.end), (ballot(3), mark, machine.wal.durable()));
        assert_eq!(log.group, Some(GROUP));
        assert_eq!(log.records, 41);
        for (body, entry) in bodies.iter().zip(log.index.iter_from(Slot(0))) {
            assert_eq!(entry.body, body.handle);
            assert_eq!(stored_body(&machine.disk.durable, entry.location, &entry.body), body.bytes());
            assert_eq!(machine.wal.index().get(body.handle.first).unwrap().location, entry.location);
        }
        assert_eq!(log.index.len(), bodies.len());
    }
}

#[test]
fn durable_is_a_prefix_whatever_completes_first() {
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    machine.settle();
    let start = machine.wal.durable();
    let ends: Vec<Lsn> =
        (1..=4).map(|slot| machine.append(&accepted(1, Mark::START), Some(&noop(slot, 1, 1))).unwrap().end).collect();
    let writes = machine.writes.clone();
    let complete = |machine: &mut Machine, number: usize| {
        let index = machine.writes.iter().position(|write| *write == writes[number]).unwrap();
        machine.complete_write(index);
        machine.wal.durable()
    };
    assert_eq!(complete(&mut machine, 3), start);
    assert_eq!(complete(&mut machine, 1), start);
    assert_eq!(machine.wal.unsynced_bytes(), 4 * BLOCK);
    assert_eq!(complete(&mut machine, 0), ends[1]);
    assert_eq!(machine.wal.unsynced_bytes(), 2 * BLOCK);
    assert_eq!(complete(&mut machine, 2), ends[3]);
    assert_eq!(machine.wal.appended(), ends[3]);
}

#[test]
fn one_sync_covers_what_had_completed_when_it_began() {
    let mut machine = Machine::fresh(SyncMode::Fdatasync, 4);
    machine.settle();
    let ends: Vec<Lsn> =
        (1..=3).map(|slot| machine.append(&accepted(1, Mark::START), Some(&noop(slot, 1, 1))).unwrap().end).collect();
    let syncs = machine.wal.stats().syncs;
    machine.complete_write(0);
    assert_eq!(machine.syncs.len(), 1);
    while !machine.writes.is_empty() {
        machine.complete_write(0);
    }
    assert_eq!(machine.syncs.len(), 1, "one sync at a time, and the next one serves all that gathered");
    machine.complete_sync(0);
    assert_eq!(machine.wal.durable(), ends[0]);
    assert_eq!(machine.syncs.len(), 1);
    machine.complete_sync(0);
    assert_eq!(machine.wal.durable(), ends[2]);
    assert_eq!(machine.wal.stats().syncs, syncs + 2);
}

#[test]
fn nothing_is_durable_before_the_segment_in_front_is_sealed() {
    for sync in [SyncMode::Dsync, SyncMode::Fdatasync] {
        let mut machine = Machine::fresh(sync, 4);
        for slot in 1..=12 {
            machine.append_now(&accepted(1, Mark::START), Some(&noop(slot, 1, 1)));
        }
        let before = machine.wal.durable();
        assert_eq!(before, Lsn(SEGMENT_BYTES + 13 * BLOCK));
        let first = machine.append(&accepted(1, Mark::START), Some(&noop(13, 1, 1))).unwrap();
        let record_write = *machine.writes.iter().max().unwrap();
        // The record completes and is synced, but neither is the seal in front of it.
        let index = machine.writes.iter().position(|write| *write == record_write).unwrap();
        machine.complete_write(index);
        while !machine.syncs.is_empty() {
            machine.complete_sync(0);
        }
        assert_eq!(machine.wal.durable(), before);
        machine.settle();
        assert_eq!(machine.wal.durable(), first.end);
        assert_eq!(machine.wal.stats().segments_sealed, 1);
    }
}

#[test]
fn rotation_does_not_wait_for_a_header() {
    let mut machine = Machine::fresh(SyncMode::Fdatasync, 4);
    machine.settle();
    // Nothing completes while a segment fills and the next one begins.
    for slot in 1..=22 {
        assert!(machine.append(&accepted(1, Mark::START), Some(&noop(slot, 1, 1))).is_some(), "slot {slot}");
    }
    // A third segment waits for its header and for the seal of the first; two blocks are kept for promises and trims.
    assert!(machine.append(&accepted(1, Mark::START), Some(&noop(23, 1, 1))).is_none());
    machine.settle();
    assert!(machine.append(&accepted(1, Mark::START), Some(&noop(23, 1, 1))).is_some());
}

#[test]
fn files_are_recycled_over_many_lives() {
    for sync in [SyncMode::Dsync, SyncMode::Fdatasync] {
        let mut machine = Machine::fresh(sync, 4);
        let (mut slot, mut mark) = (1, Mark::START);
        while machine.wal.appended().epoch(SEGMENT_BYTES) < 40 {
            let body = commands(slot, 1, 3000 + (slot as usize * 997) % 30_000, slot);
            machine.append_now(&accepted(1, mark), Some(&body));
            mark = mark.after(&body.handle);
            machine.wal.index_mut().mark_chosen(body.handle.first, mark.chain);
            slot += 1;
            if slot.is_multiple_of(4) {
                machine.trim(mark, ballot(1));
                machine.settle();
            }
        }
        let stats = machine.wal.stats();
        assert!(stats.files <= 6, "{stats:?}");
        assert!(stats.segments_sealed >= 38, "{stats:?}");
        assert!(machine.wal.first_needed() >= 38);
        let log = log_of(&machine);
        assert_eq!(log.index.base(), machine.wal.index().base());
        assert_eq!(log.index.len(), machine.wal.index().len());
    }
}

#[test]
fn cut_segments_are_zeroed_before_they_are_written_again() {
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    let body = noop(1, 1, 1);
    machine.append_now(&accepted(1, Mark::START), Some(&body));
    let log = log_of(&machine);
    let mark = Mark::START.after(&body.handle);
    let mut machine = Machine::start(machine.disk, SyncMode::Dsync, log, 2);
    machine.settle();
    machine.append_now(&accepted(1, mark), Some(&noop(2, 1, 1)));
    machine.trim(mark, ballot(1)).unwrap();
    machine.settle();
    let cut = machine.disk.live.content(FileId(1)).unwrap();
    assert!(cut[..100] != [0; 100], "block 0 still names the dead segment");
    assert!(machine.wal.stats().files_dirty == 1 || cut[BLOCK as usize..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_full_log_takes_what_makes_room() {
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    let settings = LogSettings { pool_files_max: 4, ..settings(SyncMode::Dsync) };
    machine = Machine::start_with(machine.disk, settings, RecoveredLog::fresh(SEGMENT_BYTES, (1..=4).map(FileId)), 1);
    machine.settle();
    assert!(!machine.wal.is_full());
    let (mut slot, mut mark) = (1, Mark::START);
    loop {
        let body = noop(slot, 1, slot);
        let Some(_) = machine.append(&accepted(1, mark), Some(&body)) else { break };
        machine.settle();
        mark = mark.after(&body.handle);
        machine.wal.index_mut().mark_chosen(body.handle.first, mark.chain);
        slot += 1;
    }
    assert!(machine.wal.is_full());
    assert_eq!(slot - 1, 3 * 12 + 10, "all four segments are used, but for two blocks");
    assert!(machine.append(&meta(RecordKind::Promise, Ballot::ZERO, ballot(2), mark), None).is_some());
    machine.settle();
    assert!(machine.append(&meta(RecordKind::Promise, Ballot::ZERO, ballot(3), mark), None).is_none());
    machine.trim(mark, ballot(2)).unwrap();
    machine.settle();
    assert!(!machine.wal.is_full());
    assert!(machine.append(&accepted(2, mark), Some(&noop(slot, 1, slot))).is_some());
}

#[test]
fn restarts_of_a_full_log_still_open() {
    let settings = LogSettings { pool_files_max: 4, ..settings(SyncMode::Dsync) };
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    let mut slot = 1;
    while machine.append(&accepted(1, Mark::START), Some(&noop(slot, 1, slot))).is_some() || slot < 40 {
        machine.settle();
        slot += 1;
        if slot > 90 {
            break;
        }
    }
    for boot in 2..6 {
        let log = log_of(&machine);
        machine = Machine::start_with(machine.disk, settings, log, boot);
        machine.settle();
        assert!(machine.wal.is_open(), "boot {boot}: {:?}", machine.wal.stats());
    }
}

/// Full log, full file system: each start begins a segment on a spare, and the one of the start before, which holds no
/// bodies, becomes a spare again.
#[test]
fn restarts_of_a_full_log_need_no_new_file() {
    let full = LogSettings { pool_files_max: 100, pool_spares: 2, ..settings(SyncMode::Dsync) };
    let log = RecoveredLog::fresh(SEGMENT_BYTES, (1..=5).map(FileId));
    let mut machine = Machine::start_with(Disk::fresh(5), full, log, 1);
    machine.refuse_creation = true;
    machine.settle();
    let mut slot = 1;
    while machine.append(&accepted(1, Mark::START), Some(&noop(slot, 1, slot))).is_some() {
        machine.settle();
        slot += 1;
    }
    assert!(machine.wal.is_full());
    for boot in 2..7 {
        let log = log_of(&machine);
        machine = Machine::start_with(machine.disk, full, log, boot);
        machine.refuse_creation = true;
        machine.settle();
        assert!(machine.wal.is_open() && machine.wal.is_full(), "boot {boot}: {:?}", machine.wal.stats());
        assert!(machine.wal.stats().files_clean >= 1, "boot {boot}: a spare is left for the next");
        let promise = meta(RecordKind::Promise, Ballot::ZERO, ballot(boot), Mark::START);
        assert!(machine.append(&promise, None).is_some(), "boot {boot}");
        machine.settle();
    }
}

#[test]
fn files_are_made_ahead_of_need_up_to_the_bound() {
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    let mut slot = 1;
    while machine.wal.stats().files < 8 {
        machine.append_now(&accepted(1, Mark::START), Some(&noop(slot, 1, slot)));
        assert!(machine.wal.stats().files_clean >= 1 || machine.wal.stats().files == 8);
        slot += 1;
    }
    while machine.append(&accepted(1, Mark::START), Some(&noop(slot, 1, slot))).is_some() {
        machine.settle();
        slot += 1;
    }
    assert_eq!(machine.wal.stats().files, 8);
    assert!(machine.wal.is_full());
}

#[test]
fn a_failed_file_is_asked_for_again_after_a_retry() {
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    machine.hold_files = true;
    let mut slot = 1;
    while machine.files.is_empty() {
        machine.append_now(&accepted(1, Mark::START), Some(&noop(slot, 1, slot)));
        slot += 1;
    }
    let (file, _) = machine.files.pop().unwrap();
    machine.wal.handle_file_failed(file);
    machine.poll();
    assert!(machine.files.is_empty());
    // The log goes on with what it has.
    machine.append_now(&accepted(1, Mark::START), Some(&noop(slot, 1, slot)));
    assert!(machine.files.is_empty());
    machine.wal.retry();
    machine.poll();
    assert_eq!(machine.files, [(file, None)]);
}

#[test]
fn refusals_leave_everything_as_it_was() {
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    let mut record = RecordBuffer::zeroed(4096);
    let promise = meta(RecordKind::Promise, Ballot::ZERO, ballot(1), Mark::START);
    assert_eq!(machine.wal.append(&promise, None, record.as_mut()), Err(AppendError::NoSegment), "not open yet");
    machine.settle();
    let large = commands(1, 1, 50_000, 1);
    let mut record = large.record.clone();
    let refused = machine.wal.append(&accepted(1, Mark::START), Some(&large.handle), record.as_mut());
    assert_eq!(refused, Err(AppendError::TooLarge { record_bytes: 13 * 4096, max: 12 * BLOCK }));

    machine.append_now(&accepted(1, Mark::START), Some(&noop(1, 2, 1)));
    let appended = machine.wal.appended();
    let other = noop(2, 2, 9);
    let mut record = other.record.clone();
    let refused = machine.wal.append(&accepted(1, Mark::START), Some(&other.handle), record.as_mut());
    assert_eq!(refused, Err(AppendError::Conflict(noop(1, 2, 1).handle)));
    let stranger = RecordMeta { group: GroupId(6), ..promise };
    let refused = machine.wal.append(&stranger, None, RecordBuffer::zeroed(4096).as_mut());
    assert_eq!(refused, Err(AppendError::OtherGroup { expected: GROUP, found: GroupId(6) }));
    assert_eq!(machine.wal.appended(), appended);
    machine.append_now(&accepted(1, Mark::START), Some(&noop(3, 1, 1)));
    assert_eq!(log_of(&machine).index.len(), 2);
}

#[test]
fn a_mark_is_due_when_the_log_is_idle() {
    let mut machine = Machine::fresh(SyncMode::Fdatasync, 4);
    machine.settle();
    assert!(!machine.wal.mark_due(), "the header of a new segment says it all");
    machine.append(&accepted(1, Mark::START), Some(&noop(1, 1, 1))).unwrap();
    assert!(!machine.wal.mark_due(), "a record is in flight");
    machine.settle();
    assert!(machine.wal.mark_due());
    machine.append_now(&meta(RecordKind::Mark, Ballot::ZERO, ballot(1), Mark::START), None);
    assert!(!machine.wal.mark_due(), "or marks would go on for ever");
    let log = log_of(&machine);
    assert_eq!(log.proven, Lsn(log.end.0 - BLOCK));
}

#[test]
fn nothing_recovered_counts_before_it_is_synced() {
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    for slot in 1..=3 {
        machine.append_now(&accepted(1, Mark::START), Some(&noop(slot, 1, 1)));
    }
    let log = log_of(&machine);
    let (proven, end) = (log.proven, log.end);
    assert!(proven < end && !log.files_to_sync.is_empty());
    assert!(!log.dirty.is_empty(), "the segment ahead was never used");
    let eager = LogSettings { pool_free_min: 5, ..settings(SyncMode::Dsync) };
    let mut machine = Machine::start_with(machine.disk, eager, log, 2);
    assert!(machine.writes.is_empty(), "no header before the syncs");
    assert!(machine.files.is_empty(), "what says that a file is free may not be durable yet");
    assert_eq!((machine.wal.durable(), machine.wal.appended()), (proven, end));
    while machine.syncs.len() > 1 {
        machine.complete_sync(0);
        assert_eq!(machine.wal.durable(), proven);
    }
    machine.complete_sync(0);
    assert_eq!(machine.wal.durable(), end);
    assert!(!machine.wal.is_open());
    assert!(machine.append(&accepted(1, Mark::START), Some(&noop(4, 1, 1))).is_none());
    machine.settle();
    assert!(machine.wal.is_open());
}

#[test]
fn settings_are_checked() {
    let good = settings(SyncMode::Dsync);
    assert_eq!(good.check(), Ok(()));
    assert_eq!(LogSettings::default().check(), Ok(()));
    assert_eq!(
        LogSettings { segment_bytes: 65_000, ..good }.check(),
        Err(LogSettingsError::SegmentBytes { found: 65_000 })
    );
    assert_eq!(
        LogSettings { pool_files_max: 3, ..good }.check(),
        Err(LogSettingsError::FilesMax { found: 3, min: POOL_FILES_MIN })
    );
    for found in [0, 6] {
        let error = LogSettingsError::FreeMin { found, max: 8 - POOL_FILES_MIN + 1 };
        assert_eq!(LogSettings { pool_free_min: found, ..good }.check(), Err(error));
    }
}
