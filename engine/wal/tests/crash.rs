//! Crashes at every possible point, with any subset of the blocks that weren't durable surviving: whatever was ever
//! reported durable is recovered, and nothing is invented.

mod support;

use support::bounded::recover;
use support::*;
use synod_protocol::{Ballot, Mark, Slot};
use synod_wal::audit::{AuditLog, Rule, audit};
use synod_wal::{AppendError, Lsn, RecordKind, RecoveredLog, SyncMode};

/// A log in use, and what it must say.
#[derive(Clone)]
struct Model {
    /// Everything appended and not known to be lost, in log order.
    records: Vec<Appended>,
    /// The highest position ever reported durable.
    durable: Lsn,
    /// The position reported last in this life; a new life begins with what is proven.
    durable_now: Lsn,
    /// The highest promise ever appended.
    promised_ever: Ballot,
    /// Marks that a body of the chosen prefix ends at.
    marks: Vec<Mark>,
    /// The highest base whose trim was reported durable, and the highest ever asked for.
    base_durable: Slot,
    base_asked: Slot,
    round: u64,
    next_slot: u64,
    seed: u64,
}

impl Model {
    fn new() -> Model {
        Model {
            records: Vec::new(),
            durable: Lsn::ZERO,
            durable_now: Lsn::ZERO,
            promised_ever: Ballot::ZERO,
            marks: vec![Mark::START],
            base_durable: Slot(1),
            base_asked: Slot(1),
            round: 1,
            next_slot: 1,
            seed: 0,
        }
    }

    fn mark(&self) -> Mark {
        *self.marks.last().unwrap()
    }

    fn act(&mut self, machine: &mut Machine, random: &mut Random) {
        let appended = match random.below(20) {
            0 | 1 => {
                self.round += 1;
                let promised = ballot(self.round);
                machine.append(&meta(RecordKind::Promise, Ballot::ZERO, promised, self.mark()), None)
            }
            2 => machine.append(&meta(RecordKind::Mark, Ballot::ZERO, ballot(self.round), self.mark()), None),
            3 => {
                let base = self.marks[self.marks.len().saturating_sub(3)];
                let appended = machine.trim(base, ballot(self.round));
                if appended.is_some() {
                    self.base_asked = self.base_asked.max(base.slot);
                }
                appended
            }
            4..=5 => self.supersede(machine, random),
            6..=7 => {
                // A copied body is chosen, and appended where the chosen prefix ends, whatever was accepted there.
                let body = self.body(random, self.mark().slot.0);
                let appended = machine
                    .append(&meta(RecordKind::Copied, Ballot::ZERO, ballot(self.round), self.mark()), Some(&body));
                if appended.is_some() {
                    let mark = self.mark().after(&body.handle);
                    machine.wal.index_mut().mark_chosen(body.handle.first, mark.chain);
                    self.marks.push(mark);
                    self.next_slot = self.next_slot.max(mark.slot.0);
                }
                appended
            }
            _ => {
                let body = self.body(random, self.next_slot);
                let at = ballot(self.round);
                let appended = machine.append(&meta(RecordKind::Accepted, at, at, self.mark()), Some(&body));
                self.advance(&appended);
                appended
            }
        };
        if let Some(appended) = appended {
            self.promised_ever = self.promised_ever.max(appended.promised);
            self.records.push(appended);
        }
        if random.chance(30) {
            self.choose(machine);
        }
    }

    fn advance(&mut self, appended: &Option<Appended>) {
        if let Some(body) = appended.as_ref().and_then(|appended| appended.body) {
            self.next_slot = body.end().0;
        }
    }

    fn body(&mut self, random: &mut Random, first: u64) -> Body {
        self.seed += 1;
        let count = 1 + random.below(4) as u32;
        match random.below(4) {
            0 | 1 => noop(first, count, self.seed),
            2 => commands(first, count, 3000, self.seed),
            _ => commands(first, count, 4096 * (1 + random.below(5) as usize), self.seed),
        }
    }

    /// A higher ballot proposes other bodies above the chosen prefix.
    fn supersede(&mut self, machine: &mut Machine, random: &mut Random) -> Option<Appended> {
        let first = self.mark().slot.0;
        self.round += 1;
        let body = self.body(random, first);
        let at = ballot(self.round);
        let appended = machine.append(&meta(RecordKind::Accepted, at, at, self.mark()), Some(&body));
        if appended.is_some() {
            self.next_slot = self.next_slot.max(body.handle.end().0);
        }
        appended
    }

    /// The next body of the join is chosen.
    fn choose(&mut self, machine: &mut Machine) {
        let mark = self.mark();
        let joined = join(&self.records, self.base_asked);
        if let Some((body, _)) = joined.bodies.get(&mark.slot) {
            let mark = mark.after(body);
            machine.wal.index_mut().mark_chosen(body.first, mark.chain);
            self.marks.push(mark);
        }
    }

    fn observe(&mut self, machine: &Machine) {
        let durable = machine.wal.durable();
        assert!(durable >= self.durable_now, "the durable position goes back");
        assert!(durable <= machine.wal.appended());
        self.durable_now = durable;
        self.durable = self.durable.max(durable);
        let trims = self.records.iter().filter(|record| record.end <= durable);
        let base = trims.filter_map(|record| record.base).map(|base| base.slot).max();
        self.base_durable = self.base_durable.max(base.unwrap_or(Slot(1)));
    }

    /// Compares what was recovered with what must be, and forgets what was lost.
    fn check(&mut self, recovered: &RecoveredLog, disk: &Disk) {
        assert_eq!(recovered.damages, [], "a crash damages nothing");
        assert!(recovered.doubts.is_empty() && recovered.damaged.is_empty());
        assert!(!recovered.unsure && !recovered.end_lost, "a crash loses nothing");
        assert!(recovered.end >= self.durable, "durable up to {}, recovered up to {}", self.durable, recovered.end);
        assert!(recovered.proven <= recovered.end);
        self.durable_now = Lsn::ZERO;
        self.records.retain(|record| record.end <= recovered.end);
        let base = recovered.index.base().slot;
        assert!((self.base_durable..=self.base_asked).contains(&base), "base {base}");

        let expected = join(&self.records, base);
        assert!(recovered.promised >= expected.promised && recovered.promised <= self.promised_ever);
        let found: Vec<_> = recovered.index.iter_from(Slot(0)).map(|entry| (entry.body, entry.ballot)).collect();
        let wanted: Vec<_> = expected.bodies.values().copied().collect();
        assert_eq!(found, wanted, "base {base}");
        for entry in recovered.index.iter_from(Slot(0)) {
            let bytes = stored_body(&disk.live, entry.location, &entry.body);
            let record = self.records.iter().find(|record| record.body == Some(entry.body)).unwrap();
            assert_eq!(bytes, record.bytes);
            let chosen = entry.chosen.map(|chain| Mark { slot: entry.body.end(), chain });
            assert_eq!(chosen.is_some(), entry.body.end() <= recovered.mark.slot);
            assert!(chosen.is_none_or(|mark| self.marks.contains(&mark)));
        }
        assert!(self.marks.contains(&recovered.mark), "{:?} was never a mark", recovered.mark);
        // What the log forgot to know isn't chosen for this model either.
        let end = self.marks.iter().position(|mark| *mark == recovered.mark).unwrap();
        self.marks.truncate(end + 1);
        self.base_asked = self.base_asked.min(base).max(base);
        self.next_slot = recovered.index.iter_from(Slot(0)).map(|entry| entry.body.end().0).max().unwrap_or(1);
        self.next_slot = self.next_slot.max(self.mark().slot.0);
        self.round = self.round.max(recovered.promised.round);
    }
}

/// A crash is no damage for those who look for it, and what they read is what recovery reads.
fn check_proofs(recovered: &RecoveredLog, disk: &Disk) {
    if recovered.segments.is_empty() {
        return;
    }
    let conclusion = verified(&disk.live);
    let damage: Vec<_> = conclusion.findings.iter().filter(|finding| finding.class.is_damage()).collect();
    assert!(damage.is_empty(), "{damage:#?}");
    let summary = conclusion.summary;
    assert_eq!((summary.base, summary.mark), (recovered.index.base(), recovered.mark));
    assert_eq!((summary.promised, summary.records), (recovered.promised, recovered.records));
    assert_eq!(verified_pool(&disk.live), []);
    let log = AuditLog::from_recovered("log", &disk.live, &identity(1).expected(), recovered).unwrap();
    let report = audit(&[log], &[]).unwrap();
    // This model goes on with its ballots after a restart, as no replica does.
    let broken = report.violations.iter().find(|violation| violation.rule != Rule::OneBodyPerBallot);
    assert_eq!(broken, None);
}

/// Names the seed of a run that fails.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with SYNOD_WAL_SEED={} cargo test -p synod-wal --test crash crashes_with", self.0);
        }
    }
}

/// Seeds from `start` on; how many, and where they begin, can be chosen from outside.
fn seeds(start: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("SYNOD_WAL_SEED") {
        Some(seed) => seed..seed + 1,
        None => start..start + number("SYNOD_WAL_SEEDS").unwrap_or(400),
    }
}

fn run(seed: u64, sync: SyncMode, crashes: usize) {
    let _replay = Replay(seed);
    let mut random = Random(seed);
    let mut model = Model::new();
    let mut machine = Machine::fresh(sync, 4 + random.below(3) as u32);
    for boot in 2..2 + crashes as u64 {
        // Now and then a life ends before the log is open again.
        let steps = if random.chance(25) { random.below(8) } else { random.below(120) };
        let eager = 20 + random.below(70);
        machine.hold_files = random.chance(20);
        for _ in 0..steps {
            if random.chance(eager) {
                machine.step(&mut random);
            } else {
                model.act(&mut machine, &mut random);
            }
            model.observe(&machine);
        }
        if random.chance(10) {
            machine.settle();
            model.observe(&machine);
        }
        let disk = if random.chance(30) { machine.kill(&mut random) } else { machine.crash(&mut random) };
        let recovered = match recover(&disk.live, &identity(boot).expected(), SEGMENT_BYTES) {
            Ok(recovered) => recovered,
            Err(synod_wal::RecoverError::Empty) => {
                assert_eq!(model.durable, Lsn::ZERO);
                let files = synod_wal::SegmentStore::files(&disk.live).unwrap();
                RecoveredLog::fresh(SEGMENT_BYTES, files)
            }
            Err(error) => panic!("{error}"),
        };
        if recovered.epoch_next > 1 {
            let again = recover(&disk.live, &identity(boot).expected(), SEGMENT_BYTES).unwrap();
            assert_eq!(format!("{recovered:?}"), format!("{again:?}"));
        } else {
            model.records.clear();
        }
        model.check(&recovered, &disk);
        check_proofs(&recovered, &disk);
        machine = Machine::start(disk, sync, recovered, boot);
    }
    // Nothing hangs: once everything completes, the log is open and takes records.
    machine.hold_files = false;
    machine.settle();
    model.observe(&machine);
    assert!(machine.wal.is_open());
    let base = model.mark();
    for _ in 0..8 {
        if let Some(appended) = machine.trim(base, ballot(model.round)) {
            machine.settle();
            assert!(machine.wal.durable() >= appended.end);
            return;
        }
        machine.settle();
    }
    panic!("no room for a trim: {:?}", machine.wal.stats());
}

#[test]
fn crashes_with_fdatasync() {
    for seed in seeds(0) {
        run(seed, SyncMode::Fdatasync, 12);
    }
}

#[test]
fn crashes_with_dsync() {
    for seed in seeds(1_000_000) {
        run(seed, SyncMode::Dsync, 12);
    }
}

/// After every single completion of a fixed run: crash with nothing, everything, and random parts surviving.
#[test]
fn crash_after_every_step() {
    for sync in [SyncMode::Dsync, SyncMode::Fdatasync] {
        for stop in 0.. {
            let mut finished = false;
            for survivors in 0..4 {
                let mut random = Random(42);
                let mut model = Model::new();
                let mut machine = Machine::fresh(sync, 5);
                let mut done = 0;
                for _ in 0..120 {
                    if done == stop {
                        break;
                    }
                    model.act(&mut machine, &mut random);
                    while done < stop && machine.step(&mut random) {
                        done += 1;
                        model.observe(&machine);
                    }
                }
                finished = done < stop;
                let mut random = Random(survivors);
                let disk = machine.crash(&mut random);
                match recover(&disk.live, &identity(2).expected(), SEGMENT_BYTES) {
                    Ok(recovered) => {
                        model.check(&recovered, &disk);
                        check_proofs(&recovered, &disk);
                    }
                    Err(synod_wal::RecoverError::Empty) => assert_eq!(model.durable, Lsn::ZERO),
                    Err(error) => panic!("step {stop}, survivors {survivors}: {error}"),
                }
            }
            if finished {
                assert!(stop > 120, "{stop} steps are too few to rotate");
                break;
            }
        }
    }
}

/// Runs are recorded, and stopped again and again at every point: each image has any subset of the blocks that weren't
/// durable at that point, each whole or as before.
#[test]
fn crash_images_of_recorded_runs() {
    let wanted = if is_full() { 50_000 } else { 5_000 };
    let (mut images, mut cut, mut empty, mut most_pending) = (0, 0, 0, 0);
    for seed in 0.. {
        let mut random = Random(2_000_000 + seed);
        let sync = [SyncMode::Dsync, SyncMode::Fdatasync][random.below(2) as usize];
        let mut model = Model::new();
        let mut machine = Machine::fresh(sync, 4 + random.below(3) as u32);
        for _ in 0..250 {
            if random.chance(55) {
                machine.step(&mut random);
            } else {
                model.act(&mut machine, &mut random);
            }
            model.observe(&machine);
            most_pending = most_pending.max(machine.disk.pending.len());
            for _ in 0..2 {
                let disk = machine.crash_image(&mut random);
                images += 1;
                match recover(&disk.live, &identity(2).expected(), SEGMENT_BYTES) {
                    Ok(recovered) => {
                        cut += u64::from(recovered.cut.as_ref().is_some_and(|cut| cut.records_discarded > 0));
                        model.clone().check(&recovered, &disk);
                    }
                    Err(synod_wal::RecoverError::Empty) => {
                        empty += 1;
                        assert_eq!(model.durable, Lsn::ZERO, "seed {seed}");
                    }
                    Err(error) => panic!("seed {seed}, image {images}: {error}"),
                }
            }
        }
        if images >= wanted {
            break;
        }
    }
    println!("{images} crash images, records discarded in {cut}, {empty} before the first header was durable");
    assert!(most_pending > 12 && cut > images / 20, "{most_pending} blocks in flight at most, {cut} cut");
}

#[test]
fn a_poisoned_log_says_nothing_more() {
    let mut machine = Machine::fresh(SyncMode::Fdatasync, 4);
    machine.settle();
    let body = noop(1, 1, 1);
    machine.append(&meta(RecordKind::Accepted, ballot(1), ballot(1), Mark::START), Some(&body)).unwrap();
    machine.wal.poison();
    assert!(machine.wal.is_poisoned());
    assert_eq!(machine.wal.poll_action(), None);
    let durable = machine.wal.durable();
    machine.wal.handle_written(machine.writes[0]);
    assert_eq!(machine.wal.durable(), durable);
    let mut record = body.record.clone();
    let appended = machine.wal.append(
        &meta(RecordKind::Accepted, ballot(1), ballot(1), Mark::START),
        Some(&body.handle),
        record.as_mut(),
    );
    assert_eq!(appended, Err(AppendError::Poisoned));
}
