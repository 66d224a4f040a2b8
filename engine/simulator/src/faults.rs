//! What goes wrong in a run: one file a family. Each seed draws which families take part and how hard (swarm testing),
//! so that one kind of fault doesn't hide what another would show; some seeds have none at all.
//!
//! Damage to stored bytes (rot, lost and misdirected writes, failed syncs, full disks) is no part of this yet: every
//! error that a run meets is therefore one of the code.

pub mod clocks;
pub mod crashes;
pub mod messages;
pub mod partitions;
pub mod pauses;
pub mod slow_disks;

use std::time::Duration;

use clocks::ClockFaults;
use crashes::CrashFaults;
use messages::MessageFaults;
use partitions::PartitionFaults;
use pauses::PauseFaults;
use slow_disks::DiskFaults;

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
    /// Wall clocks that differ.
    pub clocks: ClockFaults,
}

impl Faults {
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
        }
    }
}
