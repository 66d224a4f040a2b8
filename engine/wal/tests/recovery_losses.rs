//! One test per way to lose something of a log: what is kept, what is doubted and up to which ballot, whether promises may be
//! lost, and what is said to be damaged.

mod support;

use std::collections::BTreeMap;

use support::bounded::recover;
use support::logs::*;
use support::*;
use synod_protocol::{Ballot, Mark, Slot};
use synod_wal::scan::{HoleCause, read_segment_header};
use synod_wal::{
    DamageCause, DamageClass, FileId, Geometry, Lsn, MemoryStore, RecordKind, RecordMeta, RecoveredLog, SegmentStore,
    SyncMode,
};

const THIRD: FileId = FileId(3);

fn cause(cause: &DamageCause) -> &'static str {
    match cause {
        DamageCause::Hole(HoleCause::Old) => "nothing was written",
        DamageCause::Hole(HoleCause::Head(_)) => "no record",
        DamageCause::Hole(HoleCause::Blocks { .. }) => "bad blocks",
        DamageCause::Hole(HoleCause::Stop | HoleCause::Full | HoleCause::Seal(_)) => "records are missing",
        DamageCause::Seal => "seal",
        DamageCause::End { .. } => "another end is named",
        DamageCause::SegmentMissing { .. } => "segment missing",
        DamageCause::SuccessorMissing => "successor missing",
        DamageCause::Header(_) => "header",
        DamageCause::HeaderLost { .. } => "header lost",
        DamageCause::FileBytes { .. } => "length",
        DamageCause::FileMissing => "file missing",
        DamageCause::Previous { .. } => "follows another record",
    }
}

/// All that recovery says of a log: bodies that are kept, by first slot; doubts, with the round that bounds them; lost bytes of
/// chosen bodies; whether promises, and records at the end, may be missing; and every damage.
fn say(log: &RecoveredLog) -> String {
    let mut said = vec![format!("keeps {:?}", slots(log))];
    for (first, end, round) in doubts(log) {
        let end = if end == OPEN { "..".into() } else { format!("..{end}") };
        let round = if round == OPEN { "any round".into() } else { format!("round {round}") };
        said.push(format!("doubts {first}{end} up to {round}"));
    }
    if !log.damaged.is_empty() {
        said.push(format!("heals {:?}", log.damaged.iter().map(|body| body.first.0).collect::<Vec<_>>()));
    }
    said.extend(log.unsure.then(|| "unsure".into()));
    said.extend(log.end_lost.then(|| "the end is lost".into()));
    for damage in &log.damages {
        let class = match damage.class {
            DamageClass::Corrupt => "corrupt",
            DamageClass::Doubtful => "doubtful",
        };
        said.push(format!("file {} at {}: {class}, {}", damage.file.0, damage.offset / BLOCK, cause(&damage.cause)));
    }
    said.join("; ")
}

fn said(store: &dyn SegmentStore) -> String {
    say(&recover(store, &identity(2).expected(), SEGMENT_BYTES).unwrap_or_else(|error| panic!("{error}")))
}

fn block_of(store: &MemoryStore, file: FileId, block: u64) -> Vec<u8> {
    store.content(file).unwrap()[(block * BLOCK) as usize..][..BLOCK as usize].to_vec()
}

fn zero(store: &mut MemoryStore, file: FileId, block: u64) {
    store.write_at(file, block * BLOCK, &[0; BLOCK as usize]);
}

/// Bodies at slots 1.. of one block each, the round of each its slot's, then a mark: slot `s` lies in block `s`.
fn rising(count: u64) -> Machine {
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    for slot in 1..=count {
        machine.append_now(&accepted(slot, Mark::START), Some(&noop(slot, 1, 1)));
    }
    machine.append_now(&meta(RecordKind::Mark, Ballot::ZERO, ballot(count), Mark::START), None);
    machine
}

/// The same, and the first `chosen` are known to be chosen.
fn chosen(count: u64, chosen: u64) -> Machine {
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    let mut mark = Mark::START;
    for slot in 1..=count {
        let body = commands(slot, 1, 5000, slot);
        machine.append_now(&accepted(1, mark), Some(&body));
        if slot <= chosen {
            mark = mark.after(&body.handle);
            machine.wal.index_mut().mark_chosen(body.handle.first, mark.chain);
        }
    }
    machine.append_now(&meta(RecordKind::Mark, Ballot::ZERO, ballot(1), mark), None);
    machine
}

#[test]
fn sound_logs_say_nothing() {
    assert_eq!(said(&rising(5).disk.durable), "keeps [1, 2, 3, 4, 5]");
    assert_eq!(said(&rotating(true).disk.durable), "keeps [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]");
    let (machine, _) = recycled();
    let log = recovered(&machine.disk.durable);
    assert_eq!((log.damages.len(), log.doubts.len(), log.unsure, log.end_lost), (0, 0, false, false));
}

#[test]
fn a_torn_tail_says_nothing() {
    let mut machine = rising(2);
    machine.append(&accepted(3, Mark::START), Some(&commands(3, 1, 9000, 7))).unwrap();
    let mut store = machine.disk.live;
    zero(&mut store, FIRST, 5);
    assert_eq!(said(&store), "keeps [1, 2]");
}

/// The record behind says how far the lost slots, and how high the lost ballots, can have been.
#[test]
fn a_hole_with_records_behind_it_is_a_doubt_with_an_end() {
    let mut store = rising(5).disk.durable;
    flip(&mut store, FIRST, 3 * BLOCK + 9);
    assert_eq!(said(&store), "keeps [1, 2, 4, 5]; doubts 1..5 up to round 4; file 1 at 3: corrupt, no record");
    // Two holes: the doubts are as narrow as what lies behind each.
    flip(&mut store, FIRST, BLOCK + 9);
    let both = "keeps [2, 4, 5]; doubts 1..3 up to round 2; doubts 1..5 up to round 4; file 1 at 1: corrupt, no record";
    assert_eq!(said(&store), both);
}

#[test]
fn a_hole_in_front_of_the_last_record_is_no_doubt_about_promises() {
    let mut store = rising(3).disk.durable;
    flip(&mut store, FIRST, 3 * BLOCK + 9);
    assert_eq!(said(&store), "keeps [1, 2]; doubts 1..4 up to round 3; file 1 at 3: corrupt, no record");
}

#[test]
fn a_lost_write_in_the_middle_leaves_the_old_block() {
    let mut store = rising(5).disk.durable;
    zero(&mut store, FIRST, 3);
    assert_eq!(
        said(&store),
        "keeps [1, 2, 4, 5]; doubts 1..5 up to round 4; file 1 at 3: corrupt, nothing was written"
    );
}

/// Nothing tells a last write that the disk lost from one that was never made.
#[test]
fn a_lost_write_at_the_tail_can_not_be_told() {
    let mut store = rising(3).disk.durable;
    zero(&mut store, FIRST, 4);
    assert_eq!(said(&store), "keeps [1, 2, 3]");
    // With the one in front of it, it can't be either; one alone is told by what lies behind.
    zero(&mut store, FIRST, 3);
    assert_eq!(said(&store), "keeps [1, 2]");
}

#[test]
fn a_misdirected_write_is_told_at_both_places() {
    let mut store = rising(6).disk.durable;
    let block = block_of(&store, FIRST, 2);
    store.write_at(FIRST, 5 * BLOCK, &block);
    zero(&mut store, FIRST, 2);
    let both = "keeps [1, 3, 4, 6]; doubts 1..4 up to round 3; doubts 1..7 up to round 6; file 1 at 2: corrupt, nothing was \
                written";
    assert_eq!(said(&store), both);

    // Into a block of another file that was never used.
    let mut store = rising(6).disk.durable;
    let block = block_of(&store, FIRST, 2);
    store.write_at(THIRD, 5 * BLOCK, &block);
    zero(&mut store, FIRST, 2);
    assert_eq!(
        said(&store),
        "keeps [1, 3, 4, 5, 6]; doubts 1..4 up to round 3; file 1 at 2: corrupt, nothing was written"
    );
}

#[test]
fn a_zeroed_block_of_a_used_file_is_not_old() {
    let (machine, mark) = recycled();
    let file = file_of(&machine.disk.live, machine.wal.appended());
    let mut store = machine.disk.durable;
    let sound = recovered(&store);
    zero(&mut store, file, 2);
    let log = recovered(&store);
    assert_eq!(log.records, sound.records - 1);
    assert_eq!((log.damages[0].file, log.damages[0].offset), (file, 2 * BLOCK));
    assert_eq!((log.damages[0].class, cause(&log.damages[0].cause)), (DamageClass::Corrupt, "no record"));
    assert!(log.mark.slot < mark.slot && !log.unsure && !log.end_lost);
    assert_eq!(log.doubts.len(), 1);
    assert!(log.doubts[0].end < Slot(OPEN) && log.doubts[0].bound == ballot(1));
}

/// A log whose newest file holds five blocks of its second life, that file, and what it held in its first.
fn second_life() -> (MemoryStore, FileId, Vec<u8>) {
    let mut lives = BTreeMap::new();
    let geometry = Geometry::new(SEGMENT_BYTES).unwrap();
    let (machine, _) = recycled_until(5, |machine| {
        let store = &machine.disk.durable;
        for file in store.files().unwrap() {
            if let Ok(header) = read_segment_header(store, file, geometry).unwrap() {
                lives.insert(header.epoch, store.content(file).unwrap().clone());
            }
        }
    });
    let file = file_of(&machine.disk.durable, machine.wal.appended());
    let previous = segment_header(&machine.disk.durable, file).previous_epoch;
    (machine.disk.durable, file, lives.remove(&previous).unwrap())
}

/// A block of the segment that the file held before, in the place of a record that was lost.
#[test]
fn stale_content_of_a_used_file_is_old_and_never_taken_for_a_record() {
    let (mut store, file, before) = second_life();
    let sound = recovered(&store);
    let old = &before[(3 * BLOCK) as usize..][..BLOCK as usize];
    assert_eq!(&old[..4], b"SYNR", "a record of the life before");
    store.write_at(file, 3 * BLOCK, old);
    let log = recovered(&store);
    assert_eq!((log.damages.len(), log.records), (1, sound.records - 1));
    assert_eq!((log.damages[0].file, log.damages[0].offset), (file, 3 * BLOCK));
    assert_eq!((log.damages[0].class, cause(&log.damages[0].cause)), (DamageClass::Corrupt, "nothing was written"));
    assert_eq!((log.doubts.len(), log.unsure, log.end_lost), (1, false, false));
}

/// The disk lost the write of a header: the file has that of its life before, with the records of the next one behind it.
#[test]
fn a_lost_write_of_a_header_is_told_by_the_records() {
    let (mut store, file, before) = second_life();
    let sound = recovered(&store);
    store.write_at(file, 0, &before[..BLOCK as usize]);
    let log = recovered(&store);
    let damages: Vec<_> = log.damages.iter().map(|damage| (damage.file, cause(&damage.cause), damage.class)).collect();
    assert_eq!(damages, [(file, "header lost", DamageClass::Corrupt)]);
    assert_eq!((log.records, log.mark, slots(&log)), (sound.records, sound.mark, slots(&sound)));
    assert!(!log.unsure && !log.end_lost);
}

#[test]
fn a_file_cut_short_loses_what_lay_behind() {
    let all = recovered(&three_segments());
    let mut store = three_segments();
    store.content_mut(FIRST).unwrap().truncate(7 * BLOCK as usize + 1000);
    let log = recovered(&store);
    let kept: Vec<u64> = slots(&all).into_iter().filter(|slot| !(7..=12).contains(slot)).collect();
    assert_eq!(slots(&log), kept);
    let said = say(&log);
    let told = said.split("; ").filter(|part| !part.starts_with("keeps")).collect::<Vec<_>>();
    assert_eq!(
        told,
        ["doubts 1..14 up to round 13", "file 1 at 0: corrupt, length", "file 1 at 7: corrupt, no record"]
    );
}

/// Three segments: the first two sealed, with 12 slots each, and two slots in the third.
fn three_segments() -> MemoryStore {
    let mut machine = Machine::fresh(SyncMode::Dsync, 5);
    let mut slot = 0;
    while machine.wal.appended() < Lsn(3 * SEGMENT_BYTES + 3 * BLOCK) {
        slot += 1;
        machine.append_now(&accepted(slot, Mark::START), Some(&noop(slot, 1, 1)));
    }
    machine.append_now(&meta(RecordKind::Mark, Ballot::ZERO, ballot(slot), Mark::START), None);
    machine.disk.durable
}

#[test]
fn a_zeroed_file_is_a_missing_segment() {
    let sound = recovered(&three_segments());
    assert_eq!(sound.segments.iter().map(|segment| segment.records).collect::<Vec<_>>(), [12, 12, 3]);
    let mut store = three_segments();
    store.create(SECOND, SEGMENT_BYTES);
    let removed = {
        let mut store = three_segments();
        store.remove(SECOND);
        said(&store)
    };
    assert_eq!(said(&store), removed);
}

#[test]
fn a_missing_segment_in_the_middle_is_bounded_by_what_lies_behind() {
    let mut store = three_segments();
    store.remove(SECOND);
    assert_eq!(
        said(&store),
        "keeps [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 25, 26]; doubts 1.. up to round 25; file 3 at 0: corrupt, segment \
         missing"
    );
}

#[test]
fn a_missing_live_prefix_is_bounded_by_what_lies_behind() {
    let mut store = three_segments();
    store.remove(FIRST);
    let said = said(&store);
    assert!(said.starts_with("keeps [13, 14, "), "{said}");
    assert!(said.ends_with("doubts 1.. up to round 13; file 2 at 0: corrupt, segment missing"), "{said}");
}

#[test]
fn a_missing_newest_segment_may_have_held_a_promise() {
    let mut store = three_segments();
    store.remove(THIRD);
    let said = said(&store);
    assert!(
        said.starts_with("keeps [1, 2, ")
            && said.contains("23, 24]; doubts 1.. up to any round; unsure; the end is lost")
    );
    assert!(said.ends_with("corrupt, segment missing"), "{said}");
}

/// A store whose pool was counted.
struct Counted(MemoryStore, u32);

impl SegmentStore for Counted {
    fn files(&self) -> std::io::Result<Vec<FileId>> {
        self.0.files()
    }
    fn len(&self, file: FileId) -> std::io::Result<u64> {
        self.0.len(file)
    }
    fn read_at(&self, file: FileId, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        self.0.read_at(file, offset, buffer)
    }
    fn files_made(&self) -> u32 {
        self.1
    }
}

#[test]
fn files_that_nothing_names_are_missed_by_their_number() {
    let sound = rising(3).disk.durable;
    let count = sound.files().unwrap().len() as u32;
    assert_eq!(said(&Counted(sound.clone(), count)), "keeps [1, 2, 3]");
    let mut store = sound;
    store.remove(FileId(count));
    let log = recover(&Counted(store, count), &identity(2).expected(), SEGMENT_BYTES).unwrap();
    assert_eq!(log.lost_files, [FileId(count)]);
    assert_eq!(
        say(&log),
        "keeps [1, 2, 3]; doubts 1.. up to any round; unsure; the end is lost; file 4 at 0: corrupt, file missing"
    );
}

#[test]
fn an_extra_file_of_noise_is_named_and_given_up() {
    let mut store = rising(3).disk.durable;
    let mut random = Random(3);
    let noise: Vec<u8> = (0..SEGMENT_BYTES).map(|_| random.next() as u8).collect();
    store.write_at(FileId(9), 0, &noise);
    let log = recovered(&store);
    assert_eq!((log.lost_files.as_slice(), log.file_next), (&[FileId(9)][..], 10));
    // It may have been a segment.
    assert_eq!(
        say(&log),
        "keeps [1, 2, 3]; doubts 1.. up to any round; unsure; the end is lost; file 9 at 0: corrupt, header"
    );
}

#[test]
fn a_damaged_header_costs_no_record() {
    let all = "keeps [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26]";
    for (file, bound) in [(FIRST, 1), (SECOND, 13), (THIRD, 25)] {
        let mut store = three_segments();
        flip(&mut store, file, 500);
        // It may have said that records in front of it were lost.
        let expected = format!("{all}; doubts 1.. up to round {bound}; file {} at 0: corrupt, header", file.0);
        assert_eq!(said(&store), expected);
    }
}

/// Starts that write nothing but headers hand the promise on in these alone: the segment with its record is given up.
#[test]
fn a_damaged_header_without_records_may_have_held_the_promise() {
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    machine.append_now(&meta(RecordKind::Promise, Ballot::ZERO, ballot(1), Mark::START), None);
    machine = reopened(machine.disk.durable, 2);
    let spare = machine.disk.durable.content(FIRST).unwrap().to_vec();
    machine.append_now(&meta(RecordKind::Promise, Ballot::ZERO, ballot(9), Mark::START), None);
    for boot in 3..6 {
        machine = reopened(machine.disk.durable, boot);
    }
    assert_eq!(recovered(&machine.disk.durable).promised, ballot(9));
    // As if the pool had come by without the first file.
    let mut store = machine.disk.durable;
    store.write_at(FIRST, 0, &spare);
    for file in [SECOND, THIRD, FileId(4)] {
        flip(&mut store, file, 500);
    }
    let log = recovered(&store);
    assert_eq!(log.promised, ballot(1));
    assert!(log.unsure && log.end_lost, "{}", say(&log));
}

/// What it says was acted upon, wherever it lies; and both files are known by their records.
#[test]
fn a_header_that_went_astray_is_told_from_the_one_that_it_hit() {
    let sound = three_segments();
    let mut store = sound.clone();
    store.write_at(FIRST, 0, &block_of(&sound, THIRD, 0));
    zero(&mut store, THIRD, 0);
    let log = recovered(&store);
    assert_eq!(slots(&log), slots(&recovered(&sound)));
    let causes: Vec<_> = log.damages.iter().map(|damage| (damage.file, cause(&damage.cause))).collect();
    assert_eq!(causes, [(FIRST, "header"), (THIRD, "header")], "{}", say(&log));

    // Of a segment without records nothing else is left.
    let mut machine = rising(3);
    machine.append_now(&meta(RecordKind::Promise, Ballot::ZERO, ballot(9), Mark::START), None);
    let sound = reopened(machine.disk.durable, 2).disk.durable;
    let epoch_of = |file| read_segment_header(&sound, file, Geometry::new(SEGMENT_BYTES).unwrap()).unwrap();
    let mut files = sound.files().unwrap();
    files.retain(|file| epoch_of(*file).is_ok_and(|header| header.identity.boot_counter == 2));
    let [active, next] = files[..] else { panic!("a start begins a segment and prepares one: {files:?}") };
    let mut store = sound.clone();
    store.write_at(FIRST, 0, &block_of(&sound, active, 0));
    zero(&mut store, active, 0);
    zero(&mut store, next, 0);
    zero(&mut store, FIRST, 4);
    assert_eq!(recovered(&store).promised, ballot(9));
}

#[test]
fn a_damaged_seal_costs_no_record() {
    let all = said(&three_segments());
    // Gap, index, table, footer.
    for block in [13, 14, 15] {
        for (file, class) in [(FIRST, "corrupt"), (SECOND, "corrupt")] {
            let mut store = three_segments();
            flip(&mut store, file, block * BLOCK + 70);
            assert_eq!(said(&store), format!("{all}; file {} at 13: {class}, seal", file.0), "block {block}");
        }
    }
}

/// The index of the seal still tells which body it was, and that no record is missing beside it.
#[test]
fn a_damaged_record_of_a_sealed_segment_is_known_by_the_index() {
    let mut store = three_segments();
    flip(&mut store, FIRST, 3 * BLOCK + 9);
    let log = recovered(&store);
    assert!(!slots(&log).contains(&3));
    let said = say(&log);
    let told = said.split("; ").filter(|part| !part.starts_with("keeps")).collect::<Vec<_>>();
    assert_eq!(told, ["doubts 3..4 up to round 3", "file 1 at 3: corrupt, no record"]);
}

#[test]
fn a_segment_that_was_cut_ends_where_the_next_one_says() {
    let mut machine = reopened(with_bodies(3).disk.durable, 2);
    machine.append_now(&accepted(4, Mark::START), Some(&noop(4, 1, 1)));
    let sound = machine.disk.durable;
    assert_eq!(said(&sound), "keeps [1, 2, 3, 4]");
    let mut store = sound.clone();
    zero(&mut store, FIRST, 3);
    let next = file_of(&sound, machine.wal.appended());
    assert_ne!(next, FIRST);
    assert_eq!(said(&store), "keeps [1, 2, 4]; doubts 1..5 up to round 4; file 1 at 3: corrupt, nothing was written");
    // Behind the end that is named anything may lie.
    let mut store = sound;
    store.write_at(FIRST, 4 * BLOCK, &[7; BLOCK as usize]);
    assert_eq!(said(&store), "keeps [1, 2, 3, 4]");
}

/// The header of the record tells which body it was: accepted, nobody could be given it; chosen, others have it.
#[test]
fn bad_blocks_under_a_good_header_are_one_body() {
    // Two blocks each: slot 2 in blocks 3 and 4, slot 4 in blocks 7 and 8.
    let mut store = chosen(5, 2).disk.durable;
    flip(&mut store, FIRST, 8 * BLOCK + 9);
    assert_eq!(said(&store), "keeps [1, 2, 3, 5]; doubts 4..5 up to round 1; file 1 at 7: corrupt, bad blocks");
    let mut store = chosen(5, 2).disk.durable;
    flip(&mut store, FIRST, 4 * BLOCK + 9);
    assert_eq!(said(&store), "keeps [1, 2, 3, 4, 5]; heals [2]; file 1 at 3: corrupt, bad blocks");
}

/// The last record is damaged, and nothing proves it: the log can't tell what it was.
fn tail_lost() -> MemoryStore {
    let mut store = with_bodies(3).disk.durable;
    flip(&mut store, FIRST, 3 * BLOCK + 9);
    store
}

fn unsure_record(mut meta: RecordMeta) -> RecordMeta {
    meta.unsure = true;
    meta
}

#[test]
fn a_damaged_tail_makes_unsure_until_a_sure_record_bounds_it() {
    let lost = "keeps [1, 2]; doubts 1.. up to any round; unsure; the end is lost; file 1 at 3: doubtful, no record";
    let mut store = tail_lost();
    assert_eq!(said(&store), lost);

    // The next life says so in its header, and so it stays over restarts, whatever an unsure process writes.
    for boot in 2..5 {
        let mut machine = reopened(store, boot);
        machine.append_now(&unsure_record(meta(RecordKind::Mark, Ballot::ZERO, ballot(1), Mark::START)), None);
        let file = file_of(&machine.disk.durable, machine.wal.appended());
        let header = segment_header(&machine.disk.durable, file);
        assert!(header.before_lost && header.unsure, "boot {boot}");
        store = machine.disk.durable;
        let log = recovered(&store);
        assert_eq!((slots(&log), doubts(&log)), (vec![1, 2], vec![(1, OPEN, OPEN)]), "boot {boot}");
        assert!(log.unsure && log.end_open);
    }

    // Once the process is sure of its promise again, its first record bounds what was lost.
    let mut machine = reopened(store, 5);
    machine.append_now(&meta(RecordKind::Promise, Ballot::ZERO, ballot(6), Mark::START), None);
    let log = recovered(&machine.disk.durable);
    assert_eq!((slots(&log), doubts(&log), log.promised), (vec![1, 2], vec![(1, OPEN, 6)], ballot(6)));
    assert!(!log.unsure && !log.end_lost && !log.end_open);
    // What it accepts later is no part of it.
    machine.append_now(&accepted(9, Mark::START), Some(&noop(3, 1, 1)));
    assert_eq!(doubts(&recovered(&machine.disk.durable)), [(1, OPEN, 6)]);
}

#[test]
fn settled_doubts_stay_settled_over_restarts() {
    let mut machine = reopened(tail_lost(), 2);
    machine.append_now(&meta(RecordKind::Promise, Ballot::ZERO, ballot(6), Mark::START), None);
    let mut machine = reopened(machine.disk.durable, 3);
    assert!(machine.wal.has_doubts() && !machine.wal.is_unsure());
    let mut mark = Mark::START;
    for slot in 1..=2 {
        mark = mark.after(&noop(slot, 1, 1).handle);
        machine.wal.index_mut().mark_chosen(Slot(slot), mark.chain);
    }
    let unsettled = machine.disk.durable.clone();
    machine.wal.settle_doubts(mark.slot);
    assert!(!machine.wal.has_doubts() && machine.wal.mark_due(), "a record is due that says so");
    machine.append_now(&meta(RecordKind::Mark, Ballot::ZERO, ballot(6), mark), None);
    let log = recovered(&machine.disk.durable);
    assert_eq!(doubts(&recovered(&unsettled)), [(1, OPEN, 6)]);
    assert_eq!((slots(&log), doubts(&log), log.unsure), (vec![1, 2], vec![], false));
    assert_eq!((log.settled.slot, log.mark), (Slot(3), mark));
    assert!(!log.damages.is_empty(), "it is damaged as before");

    // Where the chosen prefix isn't known any more, what was lost below it matters again, and no further.
    let mut store = machine.disk.durable;
    flip(&mut store, FIRST, BLOCK + 9);
    let log = recovered(&store);
    assert_eq!(slots(&log), [2]);
    assert_eq!(doubts(&log).iter().map(|(_, end, _)| *end).max(), Some(3));
}
