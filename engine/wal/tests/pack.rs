//! Packs: several chosen bodies in one record, appended, recovered, read one by one, and damaged.

mod support;

use support::bounded::recover;
use support::*;
use synod_frame::RECORD_HEADER_BYTES;
use synod_protocol::{Ballot, Mark, Slot};
use synod_wal::scan::{
    Depth, HoleCause, Item, ScanOptions, Scanner, read_body, read_index, read_seal, read_segment_header,
};
use synod_wal::{
    DamageClass, FileId, Geometry, MemoryStore, Planned, RecordKind, RecoverError, RecoverOptions, RecoveredLog,
    SyncMode, recover_with,
};

const PACKS: usize = 5;

/// Small bodies in slot order, and the mark behind them.
fn bodies(count: u64, mark: Mark) -> (Vec<Body>, Mark) {
    let (mut bodies, mut mark) = (Vec::new(), mark);
    for number in 0..count {
        let first = mark.slot.0;
        let body = match number % 5 {
            0 => noop(first, 3, number + 1),
            1 => commands(first, 2, 900, number),
            _ => commands(first, 1, 100, number),
        };
        mark = mark.after(&body.handle);
        bodies.push(body);
    }
    (bodies, mark)
}

struct Packed {
    disk: Disk,
    bodies: Vec<Body>,
    planned: Vec<Planned>,
    mark: Mark,
    /// An accepted body behind the packs, not chosen.
    open: Body,
}

/// Packs over several segments, then an accepted body, and a mark record if the proof is to reach the end.
fn packed_log(with_mark: bool) -> Packed {
    let mut machine = Machine::fresh(SyncMode::Dsync, 6);
    let (mut mark, mut all, mut planned) = (Mark::START, Vec::new(), Vec::new());
    for _ in 0..PACKS {
        let (bodies, after) = bodies(60, mark);
        planned.push(machine.append_pack_now(Ballot::ZERO, mark, &bodies));
        for body in &bodies {
            mark = mark.after(&body.handle);
            assert!(machine.wal.index_mut().mark_chosen(body.handle.first, mark.chain));
        }
        assert_eq!(mark, after);
        all.extend(bodies);
    }
    let open = noop(mark.slot.0, 2, 9);
    if with_mark {
        machine.append_now(&meta(RecordKind::Accepted, ballot(4), ballot(4), mark), Some(&open));
        machine.append_now(&meta(RecordKind::Mark, Ballot::ZERO, ballot(4), mark), None);
    }
    Packed { disk: machine.disk, bodies: all, planned, mark, open }
}

fn recovered(store: &MemoryStore) -> Result<RecoveredLog, RecoverError> {
    recover(store, &identity(9).expected(), SEGMENT_BYTES)
}

#[test]
fn every_body_of_a_pack_is_recovered_as_chosen_and_read_alone() {
    let packed = packed_log(true);
    let store = &packed.disk.durable;
    let log = recovered(store).unwrap();
    assert_eq!((log.mark, log.promised), (packed.mark, ballot(4)));
    assert!(log.segments.len() >= 2, "{:?}", log.segments);
    let entries: Vec<_> = log.index.iter_from(Slot(0)).collect();
    assert_eq!(entries.len(), packed.bodies.len() + 1);
    for (entry, body) in entries.iter().zip(&packed.bodies) {
        assert_eq!(entry.body, body.handle);
        assert!(entry.recorded_chosen && entry.chosen.is_some() && entry.location.is_packed());
        assert!(entry.location.blocks(&entry.body).bytes <= 8192, "only the blocks of the body are read");
        assert_eq!(stored_body(store, entry.location, &entry.body), body.bytes());
    }
    let last = entries.last().unwrap();
    assert_eq!((last.body, last.ballot, last.chosen), (packed.open.handle, ballot(4), None));
    assert!(!last.location.is_packed());

    let heads = RecoverOptions { depth: Depth::Heads, ..RecoverOptions::default() };
    let again = recover_with(store, &identity(9).expected(), SEGMENT_BYTES, heads).unwrap();
    assert_eq!(format!("{:?}", again.index), format!("{:?}", log.index));
}

#[test]
fn a_node_goes_on_behind_packs() {
    let packed = packed_log(true);
    let log = recovered(&packed.disk.durable).unwrap();
    let mut machine = Machine::start(packed.disk, SyncMode::Dsync, log, 2);
    let next = noop(packed.mark.slot.0, 2, 9);
    machine.append_now(&meta(RecordKind::Accepted, ballot(5), ballot(5), packed.mark), Some(&next));
    let half = packed.bodies.len() / 2;
    let base = packed.bodies[..half].iter().fold(Mark::START, |mark, body| mark.after(&body.handle));
    machine.trim(base, ballot(5)).unwrap();
    machine.settle();
    let log = recovered(&machine.disk.durable).unwrap();
    assert_eq!((log.mark, log.index.base()), (packed.mark, base));
    assert_eq!(log.index.len(), packed.bodies.len() - half + 1);
}

#[test]
fn scan_and_seal_tell_what_is_in_a_pack() {
    let packed = packed_log(true);
    let store = &packed.disk.durable;
    let geometry = Geometry::new(SEGMENT_BYTES).unwrap();
    let planned = packed.planned[0];
    let header = read_segment_header(store, planned.file, geometry).unwrap().unwrap();
    let mut scanner = Scanner::new(store, planned.file, geometry, &header, ScanOptions::default());
    let Some(Item::Record(record)) = scanner.next_item().unwrap() else { panic!("the pack is first") };
    let content = record.pack.unwrap();
    assert_eq!(record.slots(), Some(content.first..content.end));
    assert_eq!((content.first, content.bodies), (Slot(1), 60));
    let found: Vec<_> = scanner.bodies(&record).unwrap().iter().map(|body| body.header.handle()).collect();
    assert_eq!(found, packed.bodies[..60].iter().map(|body| body.handle).collect::<Vec<_>>());

    let mut end = record.offset + u64::from(record.header.record_bytes);
    while let Some(Item::Record(record)) = scanner.next_item().unwrap() {
        end = record.offset + u64::from(record.header.record_bytes);
    }
    let footer = read_seal(store, planned.file, geometry, &header, end).unwrap().footer.unwrap();
    let index = read_index(store, planned.file, geometry, &header, &footer).unwrap().unwrap();
    assert_eq!(index[0].pack, Some(content));
    assert_eq!(index[0].kind, RecordKind::Pack);
    let bodies: u32 = index.iter().filter_map(|entry| entry.pack).map(|pack| pack.bodies).sum();
    assert_eq!(footer.bodies, u64::from(bodies));
    let slot_end = index.iter().filter_map(|entry| entry.pack).map(|pack| pack.end).max();
    assert_eq!((footer.slot_first, Some(footer.slot_end)), (Slot(1), slot_end));
}

/// Every bit of a pack's first block, and a sample of the others: damage is always found, and as what it is.
#[test]
fn no_flipped_bit_in_a_pack_goes_unnoticed() {
    let mut packed = packed_log(true);
    let planned = packed.planned[1];
    let range = planned.offset as usize..planned.offset as usize + planned.record_bytes as usize;
    let mut noticed = 0;
    for at in range.clone().filter(|at| *at < range.start + 4096 || at % 31 == 0) {
        for bit in 0..8 {
            if at >= range.start + 4096 && bit != at % 8 {
                continue;
            }
            let store = &mut packed.disk.durable;
            store.content_mut(planned.file).unwrap()[at] ^= 1 << bit;
            let log = recovered(store).unwrap();
            let classes: Vec<_> = log.damages.iter().map(|damage| damage.class).collect();
            assert_eq!(classes, [DamageClass::Corrupt], "byte {at} bit {bit}: {:?}", log.damages);
            assert_nothing_forgotten(&log, &packed.bodies);
            let store = &mut packed.disk.durable;
            store.content_mut(planned.file).unwrap()[at] ^= 1 << bit;
            noticed += 1;
        }
    }
    assert!(noticed > 32_768, "{noticed}");
    recovered(&packed.disk.durable).unwrap();
}

#[test]
fn damage_of_a_pack_names_its_slots() {
    let mut packed = packed_log(true);
    let planned = packed.planned[2];
    packed.disk.durable.content_mut(planned.file).unwrap()[planned.offset as usize + 9000] ^= 1;
    let log = recovered(&packed.disk.durable).unwrap();
    let slots = packed.bodies[120].handle.first..packed.bodies[179].handle.end();
    assert_eq!(log.damages.len(), 1, "{:?}", log.damages);
    assert_eq!(log.damages[0].slots, Some(slots));
}

/// Whatever was lost of a pack is fetched by its identity, or in doubt: never taken for slots without a vote.
fn assert_nothing_forgotten(log: &RecoveredLog, bodies: &[Body]) {
    for body in bodies.iter().map(|body| body.handle) {
        let known = log.index.get(body.first).is_some_and(|entry| entry.body == body);
        let doubted = log.doubts.iter().any(|doubt| doubt.first <= body.first && body.end() <= doubt.end);
        assert!(known || doubted, "{body:?} is neither known nor in doubt: {:?}", log.doubts);
        assert!(known || !log.damaged.contains(&body), "{body:?} is asked for, but unknown");
    }
}

/// One bad block of a pack: bodies in other blocks can still be read, those whose header is elsewhere are asked for, and
/// those that begin in it are in doubt.
#[test]
fn damage_of_a_pack_touches_no_body_in_another_block() {
    let mut packed = packed_log(true);
    let planned = packed.planned[2];
    packed.disk.durable.content_mut(planned.file).unwrap()[planned.offset as usize + 9000] ^= 1;
    let log = recovered(&packed.disk.durable).unwrap();
    assert_nothing_forgotten(&log, &packed.bodies);
    let bad = 8192..12288;
    let sound = recovered(&packed_log(true).disk.durable).unwrap();
    let (mut readable, mut asked, mut doubted) = (0, 0, 0);
    for body in packed.bodies[120..180].iter().map(|body| body.handle) {
        let start = sound.index.get(body.first).unwrap().location.body_offset;
        let touched = start < bad.end && start + body.bytes > bad.start;
        match log.index.get(body.first) {
            Some(_) if log.damaged.contains(&body) => asked += 1,
            Some(entry) => {
                assert!(!touched, "{body:?}");
                read_body(&packed.disk.durable, &entry.location, &body).unwrap().unwrap();
                readable += 1;
            }
            None => {
                assert!(touched, "{body:?}");
                doubted += 1;
            }
        }
    }
    assert!(readable > 30 && doubted > 5, "{readable} readable, {asked} asked for, {doubted} in doubt");
    // The mark goes back to where the first of them is missing.
    assert!(log.mark.slot < packed.mark.slot);
    assert!(log.pinned.is_some(), "a restart must find the doubts again");
}

/// A pack as the last record, of which only some blocks arrived: torn if the others are as the pool left them.
#[test]
fn a_torn_pack_is_cut() {
    let packed = packed_log(false);
    let planned = packed.planned[PACKS - 1];
    let blocks = planned.record_bytes as u64 / BLOCK;
    assert!(blocks > 2);
    for lost in 0..blocks {
        let mut store = packed.disk.durable.clone();
        let offset = planned.offset + lost * BLOCK;
        store.write_at(planned.file, offset, &[0; BLOCK as usize]);
        let log = recovered(&store).unwrap();
        let cut = log.cut.expect("cut");
        assert_eq!((cut.file, cut.offset), (planned.file, planned.offset));
        assert!(cut.cause.is_torn(), "block {lost}: {:?}", cut.cause);
        assert_eq!(log.index.len(), packed.bodies.len() / PACKS * (PACKS - 1));
        store.write_at(planned.file, offset + 100, &[1]);
        let log = recovered(&store).unwrap();
        let classes: Vec<_> = log.damages.iter().map(|damage| damage.class).collect();
        assert_eq!(classes, [DamageClass::Doubtful], "block {lost}: {:?}", log.damages);
        assert_nothing_forgotten(&log, &packed.bodies);
    }
}

/// Right checksums don't excuse a pack that lies: a typed hole, never a panic.
#[test]
fn hostile_packs_are_refused() {
    let packed = packed_log(false);
    let planned = packed.planned[0];
    let geometry = Geometry::new(SEGMENT_BYTES).unwrap();
    let mut random = Random(7);
    let (mut refused, mut accepted) = (0, 0);
    for _ in 0..4000 {
        let mut store = packed.disk.durable.clone();
        let content = store.content_mut(planned.file).unwrap();
        let block = &mut content[planned.offset as usize..][..BLOCK as usize];
        // Most of a pack's lies are in its head: lengths, order, places.
        let reach = if random.chance(80) { 300 } else { 3000 };
        let at = RECORD_HEADER_BYTES + random.below(reach) as usize;
        let value = match random.below(3) {
            0 => random.next() as u8,
            1 => 0,
            _ => 0xff,
        };
        if block[at] == value {
            continue;
        }
        block[at] = value;
        seal_again(block);
        let header = read_segment_header(&store, planned.file, geometry).unwrap().unwrap();
        for depth in [Depth::Heads, Depth::Full] {
            let options = ScanOptions { depth, ..ScanOptions::default() };
            let mut scanner = Scanner::new(&store, planned.file, geometry, &header, options);
            match scanner.next_item().unwrap().unwrap() {
                Item::Record(record) => {
                    assert_eq!(depth, Depth::Heads, "byte {at}");
                    scanner.bodies(&record).unwrap();
                    accepted += 1;
                }
                Item::Hole(hole) => {
                    assert!(matches!(hole.cause, HoleCause::Head(_) | HoleCause::Blocks { .. }), "{:?}", hole.cause);
                    refused += 1;
                }
                Item::Stray(_) | Item::BadStray { .. } => panic!("the first record isn't a stray"),
            }
        }
    }
    assert!(refused > 3000, "{refused} refused, {accepted} accepted by their heads");
}

#[test]
fn a_body_that_is_not_where_the_index_says_is_an_error() {
    let mut packed = packed_log(true);
    let log = recovered(&packed.disk.durable).unwrap();
    let entry = *log.index.get(packed.bodies[7].handle.first).unwrap();
    let other = *log.index.get(packed.bodies[8].handle.first).unwrap();
    let store = &mut packed.disk.durable;
    assert!(read_body(store, &other.location, &entry.body).unwrap().is_err());
    let at = entry.location.offset as usize + entry.location.body_offset as usize + 200;
    store.content_mut(entry.location.file).unwrap()[at] ^= 1;
    assert!(read_body(store, &entry.location, &entry.body).unwrap().is_err());
    let nowhere = synod_wal::Location { file: FileId(99), ..entry.location };
    assert!(read_body(store, &nowhere, &entry.body).is_err());
}

#[test]
fn packs_conflict_like_other_chosen_bodies() {
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    let (bodies, _) = bodies(3, Mark::START);
    let other = noop(1, 3, 77);
    machine.append_now(&meta(RecordKind::Chosen, Ballot::ZERO, Ballot::ZERO, Mark::START), Some(&other));
    let mut builder = synod_wal::PackBuilder::new(1 << 20);
    for body in &bodies {
        assert!(builder.try_push(&body.handle, body.bytes()));
    }
    let mut pack = builder.finish().unwrap();
    let meta = meta(RecordKind::Pack, Ballot::ZERO, Ballot::ZERO, Mark::START);
    let refused = machine.wal.append_pack(&meta, &mut pack);
    assert!(matches!(refused, Err(synod_wal::AppendError::Conflict(body)) if body == other.handle), "{refused:?}");
}
