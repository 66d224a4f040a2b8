//! Random schedules: loss, duplication, reordering, cut links, slow disks, and crashes that lose what was not durable.
//! The test cluster checks safety at every step. Then the faults stop, and a leader must commit everywhere. Other
//! schedules also damage disks: durable appends are lost, of one node or of all, though never the last copy of a body
//! that is chosen.

use std::time::Duration;

use super::cluster::{Cluster, Dice, Disk, Loss, Packet, Plant};
use crate::ballot::NodeId;
use crate::body::BodyKind;
use crate::config::{Configuration, Settings};
use crate::effect::{BarrierOutcome, LogEntry, TransferOutcome};
use crate::slot::Slot;

/// What happened over all schedules: where nothing happens, nothing is proved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Coverage {
    promises: u64,
    delivered: u64,
    noops: u64,
    trims: u64,
    copies: u64,
    adopted: u64,
    lost_appends: u64,
    refusals: u64,
    supplies: u64,
    reads: u64,
    reads_lost: u64,
    moves: u64,
    rollbacks: u64,
}

fn settings(dice: &mut Dice) -> Settings {
    let window_bytes = 100 + dice.below(2_000);
    Settings {
        window_bodies: 1 + dice.below(6) as u32,
        window_bytes,
        peer_bytes: window_bytes + dice.below(2_000),
        fetch_bytes: 1 + dice.below(2_000) as u32,
        ..Settings::default()
    }
}

fn configuration(dice: &mut Dice) -> Configuration {
    let size = 3 + dice.below(3) as u32;
    let alpha = dice.pick(&[2, 3, 8, 64]);
    let majority = Configuration::genesis((1..=size).map(NodeId).collect(), alpha).expect("a sound genesis");
    if dice.percent(70) {
        return majority;
    }
    let accept_quorum = 1 + dice.below(u64::from(size)) as u32;
    Configuration { accept_quorum, prepare_quorum: size + 1 - accept_quorum, ..majority }
}

/// What may happen in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Deliver,
    Lose,
    Double,
    PassTime,
    Sync,
    Propose,
    Trim,
    Barrier,
    Transfer,
    Compose,
    Crash,
    Restart,
    Cut,
    Heal,
    ChangeDisk,
    Damage,
    Hold,
    Release,
}

/// How often each step is taken. Every schedule draws its own shares, some of them zero, so that one kind of fault
/// doesn't hide another.
fn shares(dice: &mut Dice) -> Vec<(Step, u64)> {
    let mut shares = vec![
        (Step::Deliver, 600),
        (Step::PassTime, dice.pick(&[10, 20, 40, 80])),
        (Step::Sync, dice.pick(&[30, 100])),
        (Step::Propose, dice.pick(&[40, 150])),
        (Step::Compose, 30),
        (Step::Restart, dice.pick(&[5, 20])),
        (Step::Heal, dice.pick(&[1, 5])),
    ];
    let faults = [
        (Step::Lose, [5, 50, 150]),
        (Step::Double, [5, 40, 150]),
        (Step::Crash, [1, 4, 12]),
        (Step::Cut, [1, 4, 10]),
        (Step::ChangeDisk, [1, 4, 10]),
        (Step::Trim, [2, 10, 30]),
        (Step::Barrier, [5, 30, 100]),
        (Step::Transfer, [1, 3, 10]),
    ];
    for (step, choices) in faults {
        if dice.percent(75) {
            shares.push((step, dice.pick(&choices)));
        }
    }
    shares
}

struct Schedule {
    cluster: Cluster,
    dice: Dice,
    shares: Vec<(Step, u64)>,
    /// How often a message overtakes others, in percent.
    disorder: u64,
    lost_appends: u64,
    /// The nodes whose disks may be damaged.
    victims: Vec<NodeId>,
    damages: u64,
    unsure_lives: u64,
    /// Messages that take long.
    delayed: Vec<Packet>,
}

impl Schedule {
    fn new(seed: u64) -> Schedule {
        let mut dice = Dice(seed);
        let (configuration, settings) = (configuration(&mut dice), settings(&mut dice));
        let mut cluster = Cluster::ruled_by(configuration, settings, seed);
        let slow_disks = dice.pick(&[0, 30, 100]);
        for id in cluster.ids() {
            cluster.node_mut(id).disk = if dice.percent(slow_disks) { Disk::WhenTold } else { Disk::AtOnce };
            cluster.node_mut(id).hold_compositions = dice.percent(30);
        }
        let (shares, disorder) = (shares(&mut dice), dice.pick(&[0, 5, 40]));
        Schedule {
            cluster,
            dice,
            shares,
            disorder,
            lost_appends: 0,
            victims: Vec::new(),
            damages: 0,
            unsure_lives: 0,
            delayed: Vec::new(),
        }
    }

    /// A schedule that damages disks: that of one node, or of all.
    fn with_damage(seed: u64) -> Schedule {
        let mut schedule = Schedule::new(seed);
        let ids = schedule.cluster.ids();
        schedule.victims = if schedule.dice.percent(70) { vec![schedule.dice.pick(&ids)] } else { ids };
        // What is lost below a trim that was agreed on before can't be fetched any more.
        schedule.shares.retain(|(step, _)| !matches!(step, Step::Trim | Step::Cut | Step::Heal));
        let often = schedule.dice.pick(&[2, 6, 15]);
        schedule.shares.extend([(Step::Damage, often), (Step::Cut, often), (Step::Heal, often)]);
        // Whoever forgets a promise does harm only with what was sent before.
        schedule.shares.extend([(Step::Hold, schedule.dice.pick(&[5, 40])), (Step::Release, 10)]);
        schedule
    }

    fn draw_step(&mut self) -> Step {
        let total = self.shares.iter().map(|(_, share)| share).sum();
        let mut drawn = self.dice.below(total);
        for (step, share) in &self.shares {
            match drawn.checked_sub(*share) {
                Some(left) => drawn = left,
                None => return *step,
            }
        }
        unreachable!("the draw is below the total")
    }

    fn step(&mut self) {
        let ids = self.cluster.ids();
        let id = self.dice.pick(&ids);
        let up = self.cluster.is_up(id);
        match self.draw_step() {
            Step::Deliver => {
                if let Some(packet) = self.draw() {
                    self.cluster.deliver(packet);
                }
            }
            Step::Lose => drop(self.draw()),
            Step::Double => {
                if let Some(packet) = self.draw() {
                    self.cluster.network.push_back(packet.clone());
                    self.cluster.deliver(packet);
                }
            }
            Step::PassTime => self.pass_time(id),
            Step::Sync => {
                let count = self.dice.below(self.cluster.node(id).log.len() as u64 + 1);
                self.cluster.sync_to(id, count as usize);
            }
            Step::Propose => self.propose(),
            Step::Trim if up => {
                let upto = Slot(self.dice.below(self.cluster.mark(id).slot.0 + 2));
                // Most of them don't lead, or have nothing to trim.
                let _ = self.cluster.replica_mut(id).trim(upto);
                self.cluster.drive(id);
            }
            Step::Barrier if up => drop(self.cluster.barrier(id)),
            Step::Transfer if up => {
                let target = self.dice.pick(&ids);
                drop(self.cluster.transfer(id, target));
            }
            Step::Compose if up && !self.cluster.node(id).compositions.is_empty() => {
                let index = self.dice.below(self.cluster.node(id).compositions.len() as u64);
                let composed = self.cluster.node_mut(id).compositions.swap_remove(index as usize);
                self.cluster.compose(id, composed);
            }
            Step::Crash if up => self.crash(id),
            Step::Restart if !up => self.restart(id),
            Step::Damage => self.damage(),
            Step::Hold => {
                let packet = self.draw();
                self.delayed.extend(packet);
            }
            Step::Release if !self.delayed.is_empty() => {
                let index = self.dice.below(self.delayed.len() as u64);
                let packet = self.delayed.swap_remove(index as usize);
                self.cluster.deliver(packet);
            }
            Step::Cut => {
                let other = self.dice.pick(&ids);
                self.cluster.cut(id, other);
            }
            Step::Heal => self.cluster.heal(),
            Step::ChangeDisk => self.cluster.node_mut(id).disk = self.dice.pick(&[Disk::AtOnce, Disk::WhenTold]),
            Step::Trim
            | Step::Barrier
            | Step::Transfer
            | Step::Compose
            | Step::Crash
            | Step::Restart
            | Step::Release => {}
        }
        while self.cluster.network.len() > 200 {
            self.cluster.network.pop_front();
        }
    }

    fn crash(&mut self, id: NodeId) {
        let node = self.cluster.node(id);
        let undurable = (node.log.len() - node.durable_count()) as u64;
        let lucky = self.dice.below(undurable + 1);
        self.lost_appends += undurable - lucky;
        self.cluster.crash(id, lucky as usize);
    }

    fn restart(&mut self, id: NodeId) {
        self.cluster.restart(id);
        self.unsure_lives += u64::from(self.cluster.replica(id).is_unsure());
    }

    /// A victim crashes and loses the end of its log, or records in the midst of it.
    fn damage(&mut self) {
        let id = self.dice.pick(&self.victims);
        if self.cluster.is_up(id) {
            self.crash(id);
        }
        let count = self.cluster.node(id).log.len();
        let wanted = self.dice.pick(&[1, 1, 2, 3]);
        let losses: Vec<(usize, Loss)> = if self.dice.percent(50) {
            (count.saturating_sub(wanted)..count).map(|index| (index, Loss::Record)).collect()
        } else {
            let kind = self.dice.pick(&[Loss::Record, Loss::Body]);
            (0..wanted.min(count)).map(|_| (self.dice.below(count as u64) as usize, kind)).collect()
        };
        let known = |index: &usize| self.cluster.node(id).losses.contains_key(index);
        let losses: Vec<(usize, Loss)> =
            losses.into_iter().filter(|(index, _)| !known(index) && self.cluster.may_lose(id, *index)).collect();
        self.damages += losses.len() as u64;
        self.cluster.damage(id, &losses);
        if self.dice.percent(70) {
            // What was under way when it forgot still is.
            self.restart(id);
        }
    }

    fn draw(&mut self) -> Option<Packet> {
        let count = self.cluster.network.len() as u64;
        let index = if self.dice.percent(self.disorder) { self.dice.below(count) } else { 0 };
        self.cluster.network.remove(index as usize)
    }

    /// A little time for all, or just up to the deadline of one.
    fn pass_time(&mut self, id: NodeId) {
        let by = Duration::from_millis(self.dice.below(100));
        self.cluster.now = self.cluster.now.plus(by);
        if self.dice.percent(5) && self.cluster.is_up(id) {
            self.cluster.now = self.cluster.now.max(self.cluster.replica(id).poll_deadline());
            return self.cluster.time_out(id);
        }
        self.cluster.time_out_due();
    }

    /// Whoever has an opening proposes; there may be several who think they lead.
    fn propose(&mut self) {
        for id in self.cluster.ids() {
            if self.cluster.is_up(id)
                && let Some(opening) = self.cluster.opening(id)
            {
                let count = 1 + self.dice.below(u64::from(opening.count_max.min(4)));
                self.cluster.propose(id, count as u32);
            }
        }
    }

    /// All faults stop; what is still under way arrives, however old it is.
    fn stop_faults(&mut self) {
        self.cluster.heal();
        self.cluster.network.extend(self.delayed.drain(..));
        for id in self.cluster.ids() {
            self.cluster.node_mut(id).hold_compositions = false;
            self.cluster.node_mut(id).disk = Disk::AtOnce;
            if !self.cluster.is_up(id) {
                self.restart(id);
            }
            for composed in std::mem::take(&mut self.cluster.node_mut(id).compositions) {
                self.cluster.compose(id, composed);
            }
            self.cluster.sync(id);
        }
    }

    /// A leader emerges, commits, and everybody has the same log.
    fn check_liveness(&mut self) {
        self.cluster.run(Duration::from_secs(15));
        let leader = self.cluster.leader().expect("a leader emerges once the faults stop");
        let body = self.cluster.propose(leader, 1);
        self.cluster.run(Duration::from_secs(2));
        let log = self.cluster.delivered(leader);
        assert!(log.contains(&body), "what it proposed is chosen");
        for id in self.cluster.ids() {
            assert_eq!(self.cluster.node(id).halted, None, "{id} halted");
            assert!(self.cluster.node(id).reading.is_empty(), "{id} has barriers that never end");
            assert_eq!(self.cluster.delivered(id), log, "{id} has the log of {leader}");
        }
        for body in self.cluster.oracle.chosen().values() {
            assert!(log.contains(body), "{body:?} was chosen, and is lost");
        }
    }

    /// Whether the damage must be healed: the nodes without any are a prepare quorum, and one alone is none.
    fn must_heal(&self) -> bool {
        let ids = self.cluster.ids();
        let whole = ids.iter().filter(|id| self.cluster.node(**id).losses.is_empty()).count();
        let quorum = self.cluster.configuration().prepare_quorum as usize;
        whole == ids.len() || (whole + 1 == ids.len() && (2..=whole).contains(&quorum))
    }

    fn run(seed: u64) -> Schedule {
        let mut schedule = Schedule::new(seed);
        schedule.play();
        schedule.check_liveness();
        schedule
    }

    fn play(&mut self) {
        let steps = 300 + self.dice.below(2000);
        for _ in 0..steps {
            self.step();
        }
        self.stop_faults();
    }

    /// Whether a leader emerged in the end.
    fn run_damaged(seed: u64, plant: Option<Plant>) -> (Schedule, bool) {
        let mut schedule = Schedule::with_damage(seed);
        if let Some(plant) = plant {
            schedule.cluster.plant(plant);
        }
        schedule.play();
        if schedule.must_heal() {
            schedule.check_liveness();
            return (schedule, true);
        }
        // Nobody may be able to tell what was chosen. Then nothing more is.
        schedule.cluster.run(Duration::from_secs(15));
        for id in schedule.cluster.ids() {
            assert_eq!(schedule.cluster.node(id).halted, None, "{id} halted");
        }
        let leads = schedule.cluster.leader().is_some();
        (schedule, leads)
    }

    fn add_to(&self, coverage: &mut Coverage) {
        coverage.lost_appends += self.lost_appends;
        coverage.refusals += self.cluster.sent("Reject");
        coverage.supplies += self.cluster.sent("Supply");
        let nodes = || self.cluster.ids().into_iter().map(|id| self.cluster.node(id));
        for (_, outcome) in nodes().flat_map(|node| &node.barriers) {
            match outcome {
                BarrierOutcome::Reached(_) => coverage.reads += 1,
                BarrierOutcome::Lost => coverage.reads_lost += 1,
            }
        }
        for (_, outcome) in nodes().flat_map(|node| &node.transfers) {
            match outcome {
                TransferOutcome::Gone => coverage.moves += 1,
                TransferOutcome::RolledBack => coverage.rollbacks += 1,
            }
        }
        let log = self.cluster.delivered(self.cluster.ids()[0]);
        coverage.delivered += log.len() as u64;
        coverage.noops += log.iter().filter(|body| body.kind == BodyKind::NoOp).count() as u64;
        coverage.trims += log.iter().filter(|body| matches!(body.kind, BodyKind::Trim { .. })).count() as u64;
        for id in self.cluster.ids() {
            let mut accepted = std::collections::BTreeSet::new();
            for append in &self.cluster.node(id).log {
                match append.entry {
                    LogEntry::Installed { .. } => {}
                    LogEntry::Promise => coverage.promises += 1,
                    LogEntry::Copied { .. } => coverage.copies += 1,
                    LogEntry::Accepted { body, .. } if !accepted.insert(body.id) => coverage.adopted += 1,
                    LogEntry::Accepted { .. } => {}
                }
            }
        }
    }
}

/// Names the seed when a schedule fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the schedule of seed {} failed: replay it with Schedule::run or run_damaged", self.0);
        }
    }
}

fn run_all(seeds: std::ops::Range<u64>) -> Coverage {
    let mut coverage = Coverage::default();
    for seed in seeds {
        let _named = Named(seed);
        Schedule::run(seed).add_to(&mut coverage);
    }
    coverage
}

/// Seeds of a run; `SYNOD_SEEDS=100000 cargo test --release -p synod-protocol random` makes a soak of it.
fn seeds() -> u64 {
    std::env::var("SYNOD_SEEDS").map_or(2000, |count| count.parse().expect("SYNOD_SEEDS is a number"))
}

#[test]
fn random_schedules_keep_agreement_and_end_with_progress() {
    let coverage = run_all(0..seeds());
    let Coverage { promises, delivered, noops, trims, copies, adopted, lost_appends, refusals, supplies, .. } =
        coverage;
    let Coverage { reads, reads_lost, moves, rollbacks, .. } = coverage;
    let seen = [promises, delivered, trims, copies, adopted, lost_appends, refusals, supplies];
    let seen = seen.into_iter().chain([reads, reads_lost, moves, rollbacks]);
    // Gaps are rare: it takes bodies that overlap, and a leader lost among them.
    assert!(seen.min() >= Some(20) && noops >= 10, "the schedules are too tame: {coverage:?}");
}

#[test]
fn schedules_that_damage_disks_keep_agreement_and_heal() {
    let mut seen = [0; 6];
    for seed in 0..seeds() {
        let _named = Named(seed);
        let (schedule, leads) = Schedule::run_damaged(seed, None);
        let sent = |kind| schedule.cluster.sent(kind);
        let healed = u64::from(schedule.damages > 0 && leads);
        let stopped = u64::from(!leads);
        let counts = [schedule.damages, schedule.unsure_lives, sent("Promise, in doubt"), sent("Reject, unsure")];
        for (total, count) in seen.iter_mut().zip(counts.into_iter().chain([healed, stopped])) {
            *total += count;
        }
    }
    println!("lost, unsure lives, promises in doubt, refusals of the unsure, healed, stopped: {seen:?}");
    assert!(seen.iter().all(|count| *count >= 20), "the schedules are too tame: {seen:?}");
}

/// Damage that isn't told of ends in disagreement: the checks see it.
fn find_disagreement(plant: Plant) {
    let found = (0..20 * seeds()).find_map(|seed| {
        let run = std::panic::catch_unwind(|| Schedule::run_damaged(seed, Some(plant)));
        run.err().map(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default())
    });
    let found = found.expect("no schedule shows it");
    let disagreement = ["two bodies are chosen for one slot", "delivers what isn't chosen", "halted"];
    assert!(disagreement.iter().any(|text| found.contains(text)), "{found}");
}

#[test]
fn schedules_show_a_node_that_hides_its_doubts() {
    find_disagreement(Plant::HidesDoubts);
}

#[test]
fn schedules_show_a_node_that_is_sure_too_soon() {
    find_disagreement(Plant::SureTooSoon);
}

#[test]
fn a_seed_repeats_its_schedule() {
    for seed in 0..5 {
        let (one, other) = (Schedule::run(seed), Schedule::run(seed));
        assert_eq!(one.cluster.sent, other.cluster.sent);
        for id in one.cluster.ids() {
            assert_eq!(one.cluster.node(id).log, other.cluster.node(id).log);
        }
    }
}
