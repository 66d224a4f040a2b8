//! Random schedules: loss, duplication, reordering, cut links, slow disks, and crashes that lose what was not durable.
//! The test cluster checks safety at every step. Then the faults stop, and a leader must commit everywhere.

use std::time::Duration;

use super::cluster::{Cluster, Dice, Disk, Packet};
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
        Schedule { cluster, dice, shares, disorder, lost_appends: 0 }
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
            Step::Crash if up => {
                let node = self.cluster.node(id);
                let undurable = (node.log.len() - node.durable_count()) as u64;
                let lucky = self.dice.below(undurable + 1);
                self.lost_appends += undurable - lucky;
                self.cluster.crash(id, lucky as usize);
            }
            Step::Restart if !up => self.cluster.restart(id),
            Step::Cut => {
                let other = self.dice.pick(&ids);
                self.cluster.cut(id, other);
            }
            Step::Heal => self.cluster.heal(),
            Step::ChangeDisk => self.cluster.node_mut(id).disk = self.dice.pick(&[Disk::AtOnce, Disk::WhenTold]),
            Step::Trim | Step::Barrier | Step::Transfer | Step::Compose | Step::Crash | Step::Restart => {}
        }
        while self.cluster.network.len() > 200 {
            self.cluster.network.pop_front();
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
        for id in self.cluster.ids() {
            self.cluster.node_mut(id).hold_compositions = false;
            self.cluster.node_mut(id).disk = Disk::AtOnce;
            if !self.cluster.is_up(id) {
                self.cluster.restart(id);
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
    }

    fn run(seed: u64) -> Schedule {
        let mut schedule = Schedule::new(seed);
        let steps = 300 + schedule.dice.below(2000);
        for _ in 0..steps {
            schedule.step();
        }
        schedule.stop_faults();
        schedule.check_liveness();
        schedule
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
            eprintln!("the schedule of seed {} failed: replay it with Schedule::run({})", self.0, self.0);
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
fn a_seed_repeats_its_schedule() {
    for seed in 0..5 {
        let (one, other) = (Schedule::run(seed), Schedule::run(seed));
        assert_eq!(one.cluster.sent, other.cluster.sent);
        for id in one.cluster.ids() {
            assert_eq!(one.cluster.node(id).log, other.cluster.node(id).log);
        }
    }
}
