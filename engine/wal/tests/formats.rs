//! Formats: what a log says of the format that it needs, and who refuses it.

mod support;

use support::*;
use synod_frame::{BLOCK_BYTES, RECORD_HEADER_BYTES, stamp};
use synod_protocol::{Mark, Slot};
use synod_wal::{
    FileId, MemoryStore, RecordKind, RecoverError, RecoverOptions, SegmentStore, SyncMode, recover, recover_with,
    salvage,
};

/// A log of two bodies, of which the second says what rules it, and how its segments' headers begin.
fn stamped(further: u64) -> MemoryStore {
    let mut machine = Machine::fresh(SyncMode::Dsync, 6);
    machine.settle();
    let mut mark = Mark::START;
    for number in 0..2 + further {
        let mut body = commands(mark.slot.0, 1, 9000, number);
        if number > 0 {
            body.handle = stamp(body.record.as_mut(), Slot(0)).expect("a body of the first format");
            machine.wal.require_format(2);
        }
        machine.append_now(&meta(RecordKind::Accepted, ballot(1), ballot(1), mark), Some(&body));
        machine.settle();
        mark = mark.after(&body.handle);
    }
    machine.disk.durable.clone()
}

fn as_older_build(store: &MemoryStore) -> Result<u16, RecoverError> {
    let options = RecoverOptions { format_max: Some(1), ..RecoverOptions::default() };
    recover_with(store, &identity(9).expected(), SEGMENT_BYTES, options).map(|log| log.format)
}

fn format_of(store: &MemoryStore) -> u16 {
    recover(store, &identity(9).expected(), SEGMENT_BYTES).expect("a sound log").format
}

#[test]
fn a_log_says_what_a_build_must_read() {
    let store = stamped(0);
    assert_eq!(format_of(&store), 2);
    let refusal = as_older_build(&store).expect_err("an older build can't read it");
    assert!(matches!(refusal, RecoverError::Newer { needed: 2, reads: 1, .. }), "{refusal}");
    assert!(refusal.to_string().contains("needs a build that reads format 2"), "{refusal}");
    let headers = headers(&store);
    assert_eq!(headers.values().next().map(|(_, header)| header.readable_by), Some(1), "begun before the raise");
}

#[test]
fn segments_begun_after_a_raise_say_so_in_their_headers() {
    let store = stamped(12);
    let readable: Vec<u16> = headers(&store).values().map(|(_, header)| header.readable_by).collect();
    assert_eq!((readable.first(), readable.last()), (Some(&1), Some(&2)), "{readable:?}");
    assert!(readable.is_sorted());
    // The next process knows it from the log.
    let log = recover(&store, &identity(9).expected(), SEGMENT_BYTES).expect("a sound log");
    let disk = Disk { live: store.clone(), durable: store, ..Disk::default() };
    let mut machine = Machine::start(disk, SyncMode::Dsync, log, 2);
    machine.settle();
    assert_eq!(machine.wal.format(), 2);
    assert_eq!(headers(&machine.disk.durable).values().last().map(|(_, header)| header.readable_by), Some(2));
}

#[test]
fn a_log_of_the_first_format_suits_every_build() {
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    machine.settle();
    machine.append_now(&meta(RecordKind::Accepted, ballot(1), ballot(1), Mark::START), Some(&commands(1, 1, 9000, 1)));
    machine.settle();
    assert_eq!(as_older_build(&machine.disk.durable).expect("an older build reads it"), 1);
}

/// Changes a byte of a block, and makes its checksums right again, as if a later build had written it.
fn written_by_another(
    store: &mut MemoryStore,
    (file, offset): (FileId, u64),
    (at, value): (usize, u8),
    is_sound: bool,
) {
    let mut block = [0; BLOCK_BYTES];
    store.read_at(file, offset, &mut block).expect("it is there");
    block[at] = value;
    if is_sound {
        seal_again(&mut block);
    }
    store.write_at(file, offset, &block);
}

/// A format that isn't known here at all is no damage, as long as its checksums are right: nothing may be cut or healed.
#[test]
fn a_body_of_an_unknown_format_is_no_damage() {
    let mut store = stamped(0);
    let log = recover(&store, &identity(9).expected(), SEGMENT_BYTES).expect("a sound log");
    let last = log.index.iter_from(Slot(2)).next().expect("the second body").location;
    let mut damaged = store.clone();
    let (place, version) = ((last.file, last.offset), RECORD_HEADER_BYTES + 4);
    written_by_another(&mut store, place, (version, 7), true);
    let refusal = recover(&store, &identity(9).expected(), SEGMENT_BYTES).expect_err("nobody here reads it");
    assert!(matches!(refusal, RecoverError::Newer { needed: 7, reads: 2, .. }), "{refusal}");
    let salvaged = salvage(&store, &identity(9).expected(), SEGMENT_BYTES).expect("it can be looked at");
    assert_eq!(salvaged.format, 7, "so that nobody repairs it");
    // The same number where a checksum says that it was never written is damage like any other.
    written_by_another(&mut damaged, place, (version, 7), false);
    let log = recover(&damaged, &identity(9).expected(), SEGMENT_BYTES).expect("a damaged log opens");
    assert!(!log.damages.is_empty());
}

#[test]
fn a_header_of_an_unknown_format_is_refused_as_it_is() {
    let mut store = stamped(12);
    let file = headers(&store).values().last().map(|(file, _)| *file).expect("a segment");
    written_by_another(&mut store, (file, 0), (6, 9), true);
    let refusal = recover(&store, &identity(9).expected(), SEGMENT_BYTES).expect_err("nobody here reads it");
    assert!(matches!(refusal, RecoverError::Newer { needed: 9, .. }), "{refusal}");
}
