//! One test per row of the recovery table, and per reason not to open a log at all.

mod support;

use support::bounded::recover;
use support::logs::*;
use support::*;
use synod_protocol::{Ballot, Mark, NodeId, Slot};
use synod_wal::format::{RecordError, SegmentHeaderError};
use synod_wal::scan::HoleCause;
use synod_wal::{
    Damage, DamageCause, DamageClass, FileId, IdentityField, LogIdentity, Lsn, MemoryStore, RecordKind, RecoverError,
    RecoverOptions, RecoveredLog, SyncMode, recover_with,
};

fn refused(store: &MemoryStore) -> RecoverError {
    recover(store, &identity(2).expected(), SEGMENT_BYTES).expect_err("the log can't be opened")
}

/// A log that can be opened although something in it is damaged.
fn damaged(store: &MemoryStore) -> RecoveredLog {
    let log = recovered(store);
    assert!(!log.damages.is_empty(), "nothing is found to be damaged");
    log
}

/// The first damage that is found, and its class.
fn class(store: &MemoryStore) -> (DamageClass, Damage) {
    let damage = damaged(store).damages[0].clone();
    (damage.class, damage)
}

/// Appends without completing anything, and lets the machine stop. Only what `keep` says survives.
fn crash_with(mut machine: Machine, keep: impl Fn(FileId, u64) -> bool) -> MemoryStore {
    let live = machine.disk.live.clone();
    machine.disk.live = machine.disk.durable.clone();
    for file in synod_wal::SegmentStore::files(&live).unwrap() {
        let content = live.content(file).unwrap();
        for (number, block) in content.chunks(BLOCK as usize).enumerate() {
            let offset = number as u64 * BLOCK;
            if keep(file, offset) {
                machine.disk.live.write_at(file, offset, block);
            }
        }
    }
    machine.disk.live
}

#[test]
fn clean_end_at_an_old_block() {
    let machine = with_bodies(3);
    let log = recovered(&machine.disk.durable);
    assert_eq!(slots(&log), [1, 2, 3]);
    assert_eq!(log.end, Lsn(SEGMENT_BYTES + 4 * BLOCK));
    let cut = log.cut.unwrap();
    assert_eq!((cut.file, cut.offset, cut.cause, cut.records_discarded), (FIRST, 4 * BLOCK, HoleCause::Old, 0));
}

#[test]
fn first_block_of_a_record_lost_is_cut_with_what_follows() {
    let mut machine = with_bodies(2);
    machine.append(&accepted(1, Mark::START), Some(&noop(3, 1, 1))).unwrap();
    machine.append(&accepted(1, Mark::START), Some(&noop(4, 1, 1))).unwrap();
    let store = crash_with(machine, |_, offset| offset != 3 * BLOCK);
    let log = recovered(&store);
    assert_eq!(slots(&log), [1, 2]);
    assert_eq!(log.cut.unwrap().records_discarded, 1);
}

#[test]
fn torn_record_on_a_fresh_file_is_cut() {
    let mut machine = with_bodies(2);
    machine.append(&accepted(1, Mark::START), Some(&commands(3, 4, 20_000, 7))).unwrap();
    let store = crash_with(machine, |_, offset| offset != 5 * BLOCK);
    let log = recovered(&store);
    assert_eq!(slots(&log), [1, 2]);
    assert!(matches!(log.cut.unwrap().cause, HoleCause::Blocks { all_old: true, .. }));
}

#[test]
fn torn_record_on_a_recycled_file_is_told_by_the_old_table() {
    let (mut machine, mark) = recycled();
    let file = file_of(&machine.disk.live, machine.wal.appended());
    let body = commands(1000, 1, 20_000, 99);
    machine.append(&accepted(1, mark), Some(&body)).unwrap();
    let before = machine.wal.durable();
    let store = crash_with(machine, |other, offset| other != file || ![5 * BLOCK, 7 * BLOCK].contains(&offset));
    let log = recovered(&store);
    assert_eq!(log.end, before);
    assert!(matches!(log.cut.unwrap().cause, HoleCause::Blocks { all_old: true, .. }));

    // The same blocks, but not as the pool left them.
    let mut damaged = store;
    flip(&mut damaged, file, 5 * BLOCK + 100);
    assert_eq!(class(&damaged).0, DamageClass::Doubtful);
}

#[test]
fn clean_end_on_a_recycled_file_is_told_by_the_old_table() {
    let (machine, _) = recycled();
    let file = file_of(&machine.disk.live, machine.wal.appended());
    let mut store = machine.disk.durable;
    assert_eq!(recovered(&store).end, machine.wal.durable());
    flip(&mut store, file, 4 * BLOCK + 7);
    assert_eq!(class(&store).0, DamageClass::Doubtful);
}

#[test]
fn damage_below_the_proof_is_corrupt_and_names_the_slots() {
    let mut machine = with_bodies(2);
    machine.append_now(&accepted(1, Mark::START), Some(&commands(3, 4, 9000, 7)));
    machine.append_now(&accepted(1, Mark::START), Some(&noop(7, 1, 1)));
    let mut store = machine.disk.durable;
    flip(&mut store, FIRST, 4 * BLOCK + 9);
    let (found, damage) = class(&store);
    assert_eq!(found, DamageClass::Corrupt);
    assert_eq!((damage.file, damage.offset), (FIRST, 3 * BLOCK));
    assert_eq!(damage.slots, Some(Slot(3)..Slot(7)));

    // Also if the damage looks exactly like a write that didn't arrive.
    let mut store = with_bodies(4).disk.durable;
    store.write_at(FIRST, 2 * BLOCK, &[0; BLOCK as usize]);
    let (found, damage) = class(&store);
    assert_eq!(found, DamageClass::Corrupt);
    assert_eq!(damage.cause, DamageCause::Hole(HoleCause::Old));
}

#[test]
fn a_mark_record_turns_doubt_into_certainty() {
    let mut machine = with_bodies(3);
    assert!(machine.wal.mark_due());
    let mut without = machine.disk.durable.clone();
    machine.append_now(&meta(RecordKind::Mark, Ballot::ZERO, ballot(1), Mark::START), None);
    assert!(!machine.wal.mark_due());
    let mut with = machine.disk.durable;
    for store in [&mut without, &mut with] {
        flip(store, FIRST, 3 * BLOCK + 300);
    }
    assert_eq!(class(&without).0, DamageClass::Doubtful);
    assert_eq!(class(&with).0, DamageClass::Corrupt);
}

#[test]
fn doubtful_tail_of_a_running_log_is_being_written() {
    let mut store = with_bodies(3).disk.durable;
    flip(&mut store, FIRST, 3 * BLOCK + 300);
    let live = RecoverOptions { live: true, ..RecoverOptions::default() };
    let log = recover_with(&store, &identity(2).expected(), SEGMENT_BYTES, live).unwrap();
    assert_eq!(slots(&log), [1, 2]);
    flip(&mut store, FIRST, BLOCK + 300);
    let log = recover_with(&store, &identity(2).expected(), SEGMENT_BYTES, live).unwrap();
    assert_eq!(log.damages[0].class, DamageClass::Corrupt);
}

#[test]
fn sealed_segment_leads_on_to_the_next() {
    let machine = rotating(true);
    let log = recovered(&machine.disk.durable);
    assert_eq!(slots(&log).len(), 13);
    assert!(log.segments[0].sealed && !log.segments[1].sealed);
}

#[test]
fn incomplete_seal_cuts_off_the_next_segment_whole() {
    let machine = rotating(false);
    assert_eq!(machine.wal.durable(), Lsn(SEGMENT_BYTES + 13 * BLOCK));
    for lost in [13, 14, 15] {
        // Everything arrives but one block of the seal: index, table or footer.
        let machine = rotating(false);
        let store = crash_with(machine, |file, offset| file != FIRST || offset != lost * BLOCK);
        let log = recovered(&store);
        assert_eq!(slots(&log).len(), 12, "lost {lost}");
        assert_eq!(log.end, Lsn(SEGMENT_BYTES + 13 * BLOCK));
        assert_eq!(log.proven, log.end, "a seal block proves that the records were durable");
        assert_eq!(log.cut.unwrap().records_discarded, 1);
    }
}

#[test]
fn damaged_seal_under_records_without_proof_is_doubtful() {
    // The seal was complete and the records behind it may have been acknowledged, but nothing behind them says so.
    let machine = rotating(true);
    for block in [13, 14, 15] {
        let mut store = machine.disk.durable.clone();
        flip(&mut store, FIRST, block * BLOCK + 70);
        let (found, damage) = class(&store);
        assert_eq!(found, DamageClass::Doubtful);
        assert_eq!((damage.file, damage.cause), (FIRST, DamageCause::Seal), "block {block}");
    }
}

#[test]
fn damaged_seal_under_durable_records_is_corrupt() {
    let mut machine = rotating(true);
    machine.append_now(&accepted(1, Mark::START), Some(&noop(50, 1, 1)));
    for block in [13, 14, 15] {
        let mut store = machine.disk.durable.clone();
        flip(&mut store, FIRST, block * BLOCK + 70);
        let (found, damage) = class(&store);
        assert_eq!(found, DamageClass::Corrupt);
        assert_eq!((damage.file, damage.cause), (FIRST, DamageCause::Seal), "block {block}");
    }
}

#[test]
fn named_end_leads_on_to_the_next() {
    let mut machine = reopened(with_bodies(2).disk.durable, 2);
    machine.append_now(&accepted(1, Mark::START), Some(&noop(3, 1, 1)));
    let log = recovered(&machine.disk.durable);
    assert_eq!(slots(&log), [1, 2, 3]);
    assert_eq!(log.segments.len(), 2);
    assert_eq!(log.segments[0].end, Lsn(SEGMENT_BYTES + 3 * BLOCK));
}

#[test]
fn end_before_the_named_one_is_corrupt() {
    let machine = reopened(with_bodies(2).disk.durable, 2);
    let mut store = machine.disk.durable;
    store.write_at(FIRST, 2 * BLOCK, &[0; BLOCK as usize]);
    let (found, damage) = class(&store);
    assert_eq!(found, DamageClass::Corrupt);
    assert_eq!((damage.file, damage.offset), (FIRST, 2 * BLOCK));
}

#[test]
fn what_follows_a_gap_is_no_damage_of_its_own() {
    let mut machine = reopened(with_bodies(3).disk.durable, 2);
    machine.append_now(&accepted(1, Mark::START), Some(&noop(4, 1, 1)));
    let mut store = machine.disk.durable;
    store.write_at(FIRST, 3 * BLOCK, &[0; BLOCK as usize]);
    let log = damaged(&store);
    let places: Vec<_> = log.damages.iter().map(|damage| (damage.file, damage.offset)).collect();
    assert_eq!((places, slots(&log)), (vec![(FIRST, 3 * BLOCK)], vec![1, 2, 4]));
}

#[test]
fn records_behind_a_named_end_stay_discarded() {
    let mut machine = with_bodies(2);
    machine.append(&accepted(1, Mark::START), Some(&noop(3, 1, 1))).unwrap();
    machine.append(&accepted(1, Mark::START), Some(&noop(4, 1, 1))).unwrap();
    let store = crash_with(machine, |_, offset| offset != 3 * BLOCK);
    let machine = reopened(store, 2);
    assert_eq!(slots(&recovered(&machine.disk.durable)), [1, 2]);
}

#[test]
fn first_record_that_follows_another_log_is_refused() {
    let mut machine = reopened(with_bodies(2).disk.durable, 2);
    let other = reopened(with_bodies(2).disk.durable, 2);
    // The same position in another history of the same store: a promise came between.
    let mut history = with_bodies(2);
    history.append_now(&meta(RecordKind::Promise, Ballot::ZERO, ballot(9), Mark::START), None);
    let mut history = reopened(history.disk.durable, 2);
    for machine in [&mut machine, &mut history] {
        machine.append_now(&accepted(1, Mark::START), Some(&noop(3, 1, 1)));
    }
    let file = file_of(&machine.disk.durable, machine.wal.appended());
    let mut store = other.disk.durable;
    let block = history.disk.durable.content(file).unwrap()[BLOCK as usize..][..BLOCK as usize].to_vec();
    store.write_at(file, BLOCK, &block);
    assert!(matches!(class(&store).1.cause, DamageCause::Previous { .. }));
}

#[test]
fn a_record_that_was_replaced_breaks_the_chain() {
    let mut store = with_bodies(4).disk.durable;
    // The source in the header of the second record, with all its checksums made right again.
    let block = &mut store.content_mut(FIRST).unwrap()[2 * BLOCK as usize..][..BLOCK as usize];
    block[44] = 9;
    seal_again(block);
    let (found, damage) = class(&store);
    assert_eq!(found, DamageClass::Corrupt);
    assert_eq!(damage.offset, 3 * BLOCK);
    assert!(matches!(damage.cause, DamageCause::Hole(HoleCause::Head(RecordError::Previous { .. }))));
}

#[test]
fn a_record_of_another_log_is_none_of_this() {
    let mut store = with_bodies(2).disk.durable;
    let other = LogIdentity { incarnation: [9; 16], ..identity(1) };
    let mut stranger = Machine::start_as(other, Disk::fresh(4), SyncMode::Dsync, fresh_log(4));
    for slot in 1..=3 {
        stranger.append_now(&accepted(1, Mark::START), Some(&noop(slot, 1, 1)));
    }
    // It claims the right epoch and position, and would be the next record.
    let block = stranger.disk.durable.content(FIRST).unwrap()[3 * BLOCK as usize..][..BLOCK as usize].to_vec();
    store.write_at(FIRST, 3 * BLOCK, &block);
    let (found, damage) = class(&store);
    assert_eq!(found, DamageClass::Doubtful);
    assert!(matches!(damage.cause, DamageCause::Hole(HoleCause::Head(RecordError::Checksum { .. }))));
}

#[test]
fn segments_that_a_trim_gave_up_may_be_in_the_middle_of_zeroing() {
    let mut machine = reopened(with_bodies(2).disk.durable, 2);
    let mut mark = Mark::START;
    for slot in 1..=2 {
        mark = mark.after(&noop(slot, 1, 1).handle);
    }
    machine.append_now(&accepted(1, mark), Some(&noop(3, 1, 1)));
    machine.hold_files = true;
    machine.trim(mark, ballot(1)).unwrap();
    machine.settle();
    let mut store = machine.disk.durable;
    store.write_at(FIRST, 2 * BLOCK, &[0; BLOCK as usize]);
    let log = recovered(&store);
    assert_eq!(slots(&log), [3]);
    assert_eq!(log.index.base(), mark);
    assert!(log.dirty.contains(&FIRST));
}

#[test]
fn missing_segment_is_named() {
    let mut machine = reopened(with_bodies(2).disk.durable, 2);
    machine.append_now(&accepted(1, Mark::START), Some(&noop(3, 1, 1)));
    let mut store = machine.disk.durable.clone();
    store.remove(FIRST);
    let log = damaged(&store);
    assert_eq!(log.damages[0].cause, DamageCause::SegmentMissing { epoch: 1 });
    assert_eq!((slots(&log), doubts(&log), log.unsure), (vec![3], vec![(1, OPEN, 1)], false));

    // Behind the segment that takes records there is one ahead, which misses it.
    let mut store = machine.disk.durable;
    store.remove(file_of(&store, machine.wal.appended()));
    let log = damaged(&store);
    assert!(matches!(log.damages[0].cause, DamageCause::SegmentMissing { .. }));
    assert_eq!((slots(&log), log.unsure, log.end_lost), (vec![1, 2], true, true));
}

#[test]
fn sealed_segment_without_successor_is_noticed() {
    let machine = rotating(true);
    let mut store = machine.disk.durable;
    for file in synod_wal::SegmentStore::files(&store).unwrap() {
        if file != FIRST {
            store.remove(file);
        }
    }
    let log = damaged(&store);
    assert_eq!((log.damages[0].file, &log.damages[0].cause), (FIRST, &DamageCause::SuccessorMissing));
    assert!(log.unsure && log.end_lost);
}

#[test]
fn empty_log_is_not_a_new_one() {
    let mut store = MemoryStore::new();
    assert!(matches!(refused(&store), RecoverError::Empty));
    store.create(FIRST, SEGMENT_BYTES);
    store.create(SECOND, 0);
    assert!(matches!(refused(&store), RecoverError::Empty));
}

#[test]
fn another_identity_is_refused() {
    let store = with_bodies(1).disk.durable;
    let ours = identity(2);
    for (other, field) in [
        (LogIdentity { cluster: [9; 16], ..ours }, IdentityField::Cluster),
        (LogIdentity { lineage: 1, ..ours }, IdentityField::Lineage),
        (LogIdentity { node: NodeId(2), ..ours }, IdentityField::Node),
        (LogIdentity { incarnation: [9; 16], ..ours }, IdentityField::Incarnation),
        (LogIdentity { log: 1, ..ours }, IdentityField::Log),
    ] {
        let error = recover(&store, &other.expected(), SEGMENT_BYTES).unwrap_err();
        assert!(matches!(error, RecoverError::Identity { field: found, .. } if found == field), "{error}");
    }
}

#[test]
fn unreadable_header_is_made_up_for_by_its_records() {
    let mut store = with_bodies(1).disk.durable;
    flip(&mut store, FIRST, 500);
    let log = damaged(&store);
    assert!(matches!(log.damages[0].cause, DamageCause::Header(SegmentHeaderError::Checksum { .. })));
    assert_eq!(slots(&log), [1], "what lies behind it is found");
    let store = with_bodies(1).disk.durable;
    let error = recover(&store, &identity(2).expected(), 2 * SEGMENT_BYTES).unwrap_err();
    assert!(matches!(error, RecoverError::Header { error: SegmentHeaderError::Geometry { .. }, .. }), "{error}");
    let error = recover(&store, &identity(2).expected(), 5000).unwrap_err();
    assert!(matches!(error, RecoverError::SegmentBytes(5000)));
}

#[test]
fn a_file_cut_short_may_have_held_anything() {
    let mut store = with_bodies(1).disk.durable;
    store.content_mut(FIRST).unwrap().truncate(40_000);
    let log = damaged(&store);
    assert!(matches!(log.damages[0].cause, DamageCause::FileBytes { bytes: 40_000, .. }));
    assert_eq!((slots(&log), log.unsure), (vec![1], false), "the records end before the file does");

    let mut store = with_bodies(9).disk.durable;
    store.content_mut(FIRST).unwrap().truncate(5 * BLOCK as usize + 1000);
    let log = damaged(&store);
    assert_eq!((slots(&log), log.unsure), (vec![1, 2, 3, 4], true), "nobody knows what the rest held");
    assert_eq!(doubts(&log)[0].1, OPEN);
}

#[test]
fn interrupted_creation_is_taken_up_again() {
    let mut store = with_bodies(1).disk.durable;
    store.create(FileId(9), 5 * BLOCK);
    let log = recovered(&store);
    assert_eq!(log.unfinished, [FileId(9)]);
    assert_eq!(log.file_next, 10);
}

#[test]
fn copied_segment_is_refused() {
    let mut store = with_bodies(1).disk.durable;
    let copy = store.content(FIRST).unwrap().clone();
    store.write_at(FileId(9), 0, &copy);
    assert!(matches!(refused(&store), RecoverError::Duplicate { epoch: 1, .. }));
}

#[test]
fn lost_header_of_a_used_segment_is_noticed() {
    let mut machine = reopened(with_bodies(2).disk.durable, 2);
    machine.append_now(&accepted(1, Mark::START), Some(&noop(3, 1, 1)));
    let file = file_of(&machine.disk.durable, machine.wal.appended());
    let mut store = machine.disk.durable;
    store.write_at(file, 0, &[0; BLOCK as usize]);
    // The segment ahead was never written, in this fault.
    for other in synod_wal::SegmentStore::files(&store).unwrap() {
        if other != FIRST && other != file {
            store.create(other, SEGMENT_BYTES);
        }
    }
    let log = damaged(&store);
    assert!(matches!(log.damages[0].cause, DamageCause::Header(SegmentHeaderError::Fresh)));
    assert_eq!((log.damages[0].file, slots(&log)), (file, vec![1, 2, 3]));
}

#[test]
fn what_cannot_be_read_is_damaged() {
    struct Broken(MemoryStore);
    impl synod_wal::SegmentStore for Broken {
        fn files(&self) -> std::io::Result<Vec<FileId>> {
            self.0.files()
        }
        fn len(&self, file: FileId) -> std::io::Result<u64> {
            self.0.len(file)
        }
        fn read_at(&self, file: FileId, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
            if offset + buffer.len() as u64 > 3 * BLOCK {
                return Err(std::io::Error::other("input/output error"));
            }
            self.0.read_at(file, offset, buffer)
        }
    }
    let store = Broken(with_bodies(4).disk.durable);
    let log = recover(&store, &identity(2).expected(), SEGMENT_BYTES).unwrap();
    assert!(matches!(log.damages[0].cause, DamageCause::Hole(HoleCause::Head(RecordError::Unreadable))));
    assert_eq!((slots(&log), log.unsure), (vec![1, 2], true));
}

#[test]
fn promise_and_base_survive_in_headers_alone() {
    let mut machine = with_bodies(3);
    let mut mark = Mark::START;
    for slot in 1..=3 {
        mark = mark.after(&noop(slot, 1, 1).handle);
    }
    machine.append_now(&meta(RecordKind::Promise, Ballot::ZERO, ballot(8), mark), None);
    machine.trim(mark, ballot(8)).unwrap();
    machine.settle();
    // Everything is trimmed: each restart begins a new segment and gives up all before it.
    let mut store = machine.disk.durable;
    for boot in 2..6 {
        let machine = reopened(store, boot);
        let log = recovered(&machine.disk.durable);
        assert_eq!((log.promised, log.index.base(), log.mark), (ballot(8), mark, mark));
        assert!(machine.wal.stats().files <= 4, "restarts use up no files");
        store = machine.disk.durable;
    }
}

#[test]
fn restarts_with_nothing_but_promises_use_up_no_files() {
    // The bodies of the first segment are needed; what each boot adds behind it is said again by the next header.
    let mut store = with_bodies(2).disk.durable;
    for boot in 2..9 {
        let mut machine = reopened(store, boot);
        let promised = ballot(boot);
        machine.append_now(&meta(RecordKind::Promise, Ballot::ZERO, promised, Mark::START), None);
        let log = recovered(&machine.disk.durable);
        assert_eq!((log.promised, slots(&log)), (promised, vec![1, 2]));
        assert_eq!(log.segments.len(), 2);
        assert!(machine.wal.stats().files <= 5, "boot {boot}: {:?}", machine.wal.stats());
        assert_eq!(machine.wal.stats().segments_live, 3, "the first, the one in use and the one ahead");
        store = machine.disk.durable;
    }
}
