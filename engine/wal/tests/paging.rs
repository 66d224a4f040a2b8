//! The index of a long log: most entries are put out of memory, and every one can be had back.

mod support;

use support::logs::{flip, segment_header};
use support::*;
use synod_protocol::{Ballot, Mark, Slot};
use synod_wal::scan::read_seal;
use synod_wal::{FileId, IndexEntry, LogSettings, MemoryStore, RecordKind, SyncMode};

/// Bodies whose entries may be in memory besides those that can't leave it.
const BODIES_MAX: usize = 16;

/// Records that a segment of the tests has room for.
const SEGMENT_RECORDS: usize = 12;

/// The most that may be in memory: a page more than the limit begins one, and two segments aren't sealed.
const IN_MEMORY_MAX: usize = BODIES_MAX + 8 + 2 * SEGMENT_RECORDS;

fn few() -> LogSettings {
    LogSettings { pool_files_max: 1000, index_bodies_max: BODIES_MAX, ..settings(SyncMode::Dsync) }
}

/// A log under test, with all that was chosen.
struct Long {
    machine: Machine,
    bodies: Vec<Body>,
    /// In front of the first body, and behind each.
    marks: Vec<Mark>,
}

impl Long {
    fn new() -> Long {
        let machine = Machine::start_with(Disk::fresh(4), few(), fresh_log(4), 1);
        Long { machine, bodies: Vec::new(), marks: vec![Mark::START] }
    }

    fn with_bodies(count: usize) -> Long {
        let mut long = Long::new();
        (0..count).for_each(|_| long.choose(RecordKind::Accepted));
        long
    }

    fn mark(&self) -> Mark {
        self.marks[self.bodies.len()]
    }

    fn next_body(&self) -> Body {
        let number = self.bodies.len() as u64;
        noop(self.mark().slot.0, 1 + (number % 3) as u32, number)
    }

    /// Writes the next body down and learns that it is chosen.
    fn choose(&mut self, kind: RecordKind) {
        let body = self.next_body();
        let at = if kind == RecordKind::Accepted { ballot(2) } else { Ballot::ZERO };
        self.machine.append_now(&meta(kind, at, ballot(2), self.mark()), Some(&body));
        self.chosen(body);
    }

    fn chosen(&mut self, body: Body) {
        let mark = self.mark().after(&body.handle);
        assert!(self.machine.wal.index_mut().mark_chosen(body.handle.first, mark.chain));
        self.marks.push(mark);
        self.bodies.push(body);
    }

    fn store(&self) -> &MemoryStore {
        &self.machine.disk.live
    }

    fn find(&self, slot: Slot) -> Option<IndexEntry> {
        self.machine.wal.find_in(self.store(), slot)
    }

    /// Every body from a number on is found from each of its slots, where it can be read.
    fn assert_all_from(&self, number: usize) {
        for (body, mark) in self.bodies.iter().zip(&self.marks[1..]).skip(number) {
            for slot in body.handle.first.0..body.handle.end().0 {
                let entry = self.find(Slot(slot)).unwrap_or_else(|| panic!("slot {slot}"));
                assert_eq!((entry.body, entry.chosen), (body.handle, Some(mark.chain)));
                assert_eq!(stored_body(self.store(), entry.location, &entry.body), body.bytes());
            }
        }
    }

    fn in_memory(&self) -> usize {
        self.machine.wal.stats().index_entries
    }

    /// The process ends, and another opens the log.
    fn reopen(mut self) -> Long {
        self.machine.append_now(&meta(RecordKind::Mark, Ballot::ZERO, ballot(3), self.mark()), None);
        let disk = Disk { live: self.machine.disk.live.clone(), durable: self.machine.disk.live, ..Disk::default() };
        let recovered = support::logs::recovered(&disk.live);
        assert_eq!(recovered.mark, self.marks[self.bodies.len()]);
        let mut machine = Machine::start_with(disk, few(), recovered, 2);
        machine.settle();
        Long { machine, ..self }
    }

    /// Damages the seal's index in the file that holds a body.
    fn damage_index_of(&mut self, number: usize) -> FileId {
        let file = self.find(self.bodies[number].handle.first).expect("it is there").location.file;
        let header = segment_header(self.store(), file);
        let seal = read_seal(self.store(), file, geometry(), &header, geometry().table_offset()).unwrap();
        let offset = seal.footer.expect("it is sealed").index_offset;
        flip(&mut self.machine.disk.live, file, offset + 500);
        file
    }
}

#[test]
fn a_log_of_any_length_keeps_a_bounded_number_of_entries_in_memory_and_gives_all_of_them_back() {
    let mut long = Long::new();
    for _ in 0..600 {
        long.choose(RecordKind::Accepted);
        assert!(long.in_memory() <= IN_MEMORY_MAX, "{:?}", long.machine.wal.stats());
        assert_eq!(long.machine.wal.stats().bodies, long.bodies.len());
    }
    let stats = long.machine.wal.stats();
    assert!(stats.index_pages >= 60 && stats.pages_out >= 60, "{stats:?}");
    long.assert_all_from(0);
    assert_eq!(long.find(Slot(0)), None);
    assert_eq!(long.find(long.mark().slot), None);
    let long = long.reopen();
    assert!(long.in_memory() <= IN_MEMORY_MAX, "{:?}", long.machine.wal.stats());
    assert_eq!(long.machine.wal.stats().bodies, long.bodies.len());
    long.assert_all_from(0);
}

#[test]
fn what_was_superseded_stays_so_when_a_page_is_read_back() {
    let mut long = Long::new();
    for number in 0..200 {
        if number % 5 == 0 {
            // Two bodies of lower ballots stand where the chosen one will be, or reach into it.
            let first = long.mark().slot;
            for (round, count, origin) in [(1, 2, 1000 + number), (2, 1, 2000 + number)] {
                let rival = noop(first.0, count, origin);
                let at = meta(RecordKind::Accepted, ballot(round), ballot(2), long.mark());
                long.machine.append_now(&at, Some(&rival));
            }
            let body = noop(first.0, 1, number);
            long.machine.append_now(&meta(RecordKind::Accepted, ballot(3), ballot(3), long.mark()), Some(&body));
            long.chosen(body);
        } else {
            long.choose(if number % 2 == 0 { RecordKind::Copied } else { RecordKind::Accepted });
        }
    }
    assert!(long.machine.wal.stats().index_pages >= 15);
    long.assert_all_from(0);
    long.reopen().assert_all_from(0);
}

#[test]
fn a_body_that_is_written_again_lies_where_it_was_written_last() {
    let mut long = Long::with_bodies(100);
    let body = long.bodies[20].clone();
    let before = long.find(body.handle.first).unwrap();
    long.machine.append_now(&meta(RecordKind::Healed, Ballot::ZERO, ballot(2), long.mark()), Some(&body));
    // Until somebody says so, or its page is read back, it isn't known that it is chosen.
    assert_eq!(long.machine.wal.index().get(body.handle.first).map(|entry| entry.chosen), Some(None));
    assert_eq!(long.find(body.handle.first).map(|entry| entry.chosen), Some(before.chosen));
    assert!(long.machine.wal.index_mut().mark_chosen(body.handle.first, before.chosen.unwrap()));
    let healed = long.find(body.handle.first).unwrap();
    assert_ne!(healed.location, before.location);
    assert_eq!(long.machine.wal.stats().bodies, long.bodies.len());
    long.assert_all_from(0);
    // Later it leaves memory again, with the place that it has now.
    while long.machine.wal.index().get(body.handle.first).is_some() {
        long.choose(RecordKind::Accepted);
    }
    assert_eq!(long.find(body.handle.first).unwrap().location, healed.location);
    assert_eq!(long.machine.wal.stats().bodies, long.bodies.len());
    long.assert_all_from(0);
}

#[test]
fn an_accept_where_a_page_says_what_is_chosen_changes_nothing() {
    let mut long = Long::with_bodies(100);
    let first = long.bodies[20].handle.first;
    let before = long.find(first);
    let late = noop(first.0, 1, 777);
    long.machine.append_now(&meta(RecordKind::Accepted, ballot(2), ballot(2), long.mark()), Some(&late));
    assert_eq!(long.find(first), before);
    assert_eq!(long.machine.wal.stats().bodies, long.bodies.len());
}

#[test]
fn a_trim_inside_a_page_keeps_the_rest_of_it() {
    for number in 30..50 {
        let mut long = Long::with_bodies(120);
        let base = long.marks[number];
        long.machine.trim(base, ballot(2)).expect("there is room");
        long.machine.settle();
        assert_eq!(long.machine.wal.index().base(), base);
        assert_eq!(long.machine.wal.index().mark_at(base.slot), Some(base));
        assert_eq!(long.find(Slot(base.slot.0 - 1)), None);
        long.assert_all_from(number);
        // The segments that held only what is trimmed are used again, and what they held is asked for no more.
        for _ in 0..60 {
            long.choose(RecordKind::Accepted);
        }
        long.assert_all_from(number);
        let end = long.mark();
        long.machine.trim(end, ballot(2)).expect("there is room");
        assert_eq!((long.machine.wal.stats().bodies, long.machine.wal.stats().index_pages), (0, 0));
    }
}

#[test]
fn a_damaged_seal_is_made_up_for_by_the_records() {
    let mut long = Long::with_bodies(120);
    for number in [5, 30, 55] {
        long.damage_index_of(number);
    }
    long.assert_all_from(0);
}

#[test]
fn a_page_of_which_seal_and_record_are_damaged_is_lost_and_no_other() {
    let mut long = Long::with_bodies(120);
    let entry = long.find(long.bodies[30].handle.first).unwrap();
    let file = long.damage_index_of(30);
    flip(&mut long.machine.disk.live, file, entry.location.offset + 20);
    let lost: Vec<usize> = (0..120).filter(|number| long.find(long.bodies[*number].handle.first).is_none()).collect();
    assert!(lost.contains(&30) && lost.len() <= 8, "{lost:?}");
    // A disk that doesn't read at all makes no difference.
    let nothing = MemoryStore::new();
    assert_eq!(long.machine.wal.find_in(&nothing, long.bodies[0].handle.first), None);
}

#[test]
fn entries_of_segments_that_a_crash_cut_short_leave_memory_too() {
    let mut long = Long::new();
    for _ in 0..20 {
        for _ in 0..7 {
            long.choose(RecordKind::Accepted);
        }
        long = long.reopen();
        assert!(long.in_memory() <= IN_MEMORY_MAX, "{:?}", long.machine.wal.stats());
    }
    assert!(long.machine.wal.stats().index_pages >= 10);
    long.assert_all_from(0);
}

#[test]
fn bodies_in_packs_leave_memory_and_come_back() {
    let mut long = Long::new();
    for _ in 0..12 {
        let mut pack = Vec::new();
        let mut mark = long.mark();
        for number in 0..40 {
            let body = commands(mark.slot.0, 1 + (number % 3) as u32, 100, number);
            mark = mark.after(&body.handle);
            pack.push(body);
        }
        let before = long.mark();
        long.machine.append_pack_now(ballot(2), before, &pack);
        pack.into_iter().for_each(|body| long.chosen(body));
        long.choose(RecordKind::Accepted);
    }
    let stats = long.machine.wal.stats();
    assert_eq!(stats.bodies, 12 * 41);
    assert!(stats.index_entries < 12 * 41 / 2 && stats.index_pages >= 20, "{stats:?}");
    long.assert_all_from(0);
    // Without the seals the packs are found by their records.
    let packed: Vec<usize> = (0..stats.bodies - 250).step_by(40).collect();
    let mut damaged = std::collections::BTreeSet::new();
    for number in packed {
        let file = long.find(long.bodies[number].handle.first).unwrap().location.file;
        if damaged.insert(file) {
            long.damage_index_of(number);
        }
    }
    assert!(damaged.len() > 1);
    long.assert_all_from(0);
    let long = long.reopen();
    assert!(long.in_memory() < 12 * 41 / 2, "{:?}", long.machine.wal.stats());
    long.assert_all_from(0);
}
