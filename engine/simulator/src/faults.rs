//! What goes wrong in a run: one file a family. Each seed draws which families take part and how hard (swarm testing),
//! so that one kind of fault doesn't hide what another would show; some seeds have none at all.
//!
//! Damage to stored bytes strikes only where the [`atlas`] allows it: every other error that a run meets is one of the
//! code.

pub mod atlas;
pub mod clocks;
pub mod crashes;
pub mod disk_damage;
pub mod membership;
pub mod messages;
pub mod operators;
pub mod partitions;
pub mod pauses;
pub mod slow_disks;
pub mod upgrades;

use std::time::Duration;

use clocks::ClockFaults;
use crashes::CrashFaults;
use disk_damage::DiskDamage;
use membership::MembershipChanges;
use messages::MessageFaults;
use operators::OperatorFaults;
use partitions::PartitionFaults;
use pauses::PauseFaults;
use slow_disks::DiskFaults;
use upgrades::Upgrades;

use crate::random::Random;

/// The faults of a run.
#[derive(Clone, Debug)]
pub struct Faults {
    /// What happens to single packets.
    pub messages: MessageFaults,
    /// Links that are cut for a while.
    pub partitions: PartitionFaults,
    /// Processes and machines that end and start again.
    pub crashes: CrashFaults,
    /// Processes that stand still for a while.
    pub pauses: PauseFaults,
    /// Disks that take their time.
    pub disks: DiskFaults,
    /// Clocks that differ.
    pub clocks: ClockFaults,
    /// Disks that do wrong.
    pub damage: DiskDamage,
    /// People who do.
    pub operators: OperatorFaults,
    /// Members that come and go.
    pub membership: MembershipChanges,
    /// Nodes that get other builds.
    pub upgrades: Upgrades,
}

impl Faults {
    /// Nothing goes wrong by itself.
    pub fn none() -> Faults {
        Faults {
            messages: MessageFaults::NONE,
            partitions: PartitionFaults::NONE,
            crashes: CrashFaults::NONE,
            pauses: PauseFaults::NONE,
            disks: DiskFaults::HEALTHY,
            clocks: ClockFaults::EQUAL,
            damage: DiskDamage::none(),
            operators: OperatorFaults::none(),
            membership: MembershipChanges::none(),
            upgrades: Upgrades::none(),
        }
    }

    /// Draws the faults of a run. `pace` is the election timeout: what takes much less or much more time than that is
    /// hardly noticed, or stops everything.
    pub fn draw(random: &mut Random, pace: Duration) -> Faults {
        let pace = pace.as_micros() as u64;
        Faults {
            messages: MessageFaults::draw(random, pace),
            partitions: PartitionFaults::draw(random, pace),
            crashes: CrashFaults::draw(random, pace),
            pauses: PauseFaults::draw(random, pace),
            disks: DiskFaults::draw(random, pace),
            clocks: ClockFaults::draw(random, pace),
            damage: DiskDamage::none(),
            operators: OperatorFaults::none(),
            membership: MembershipChanges::none(),
            upgrades: Upgrades::none(),
        }
    }

    /// Takes back what [`Faults::draw_hard`] has drawn.
    pub fn make_mild(&mut self) {
        self.damage = DiskDamage::none();
        self.operators = OperatorFaults::none();
        self.upgrades = Upgrades::none();
        self.clocks.be_steady();
        self.crashes.storm = None;
    }

    /// Whether anything that is stored may be lost or altered. Otherwise processes and machines end, and operations fail,
    /// but what a log holds is what was written.
    pub fn can_damage(&self) -> bool {
        self.damage.atlas.exposes_any() || self.operators.every.is_some()
    }

    /// Draws what people do to whole directories while the membership changes, in place of damage and other mistakes.
    pub fn draw_strangers(&mut self, seed: u64, pace: Duration) {
        let pace = pace.as_micros() as u64;
        self.damage = DiskDamage::none();
        self.operators = OperatorFaults::draw_whole(&mut Random::stream(seed, "strangers"), pace);
    }

    /// Draws what disks and people get wrong, and clocks that drift, in a cluster of so many nodes, `needed` of which
    /// work without the others. Each has a stream of its own: where nothing is drawn, a seed runs as it would without.
    pub fn draw_hard(&mut self, seed: u64, pace: Duration, nodes: usize, needed: usize) {
        let pace = pace.as_micros() as u64;
        self.damage = DiskDamage::draw(&mut Random::stream(seed, "disk damage"), pace, nodes, needed);
        self.operators = OperatorFaults::draw(&mut Random::stream(seed, "operators"), pace);
        self.clocks.draw_drift(&mut Random::stream(seed, "clock drift"), pace);
        self.crashes.draw_storm(&mut Random::stream(seed, "restart storms"), nodes);
    }
}
