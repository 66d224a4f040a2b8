//! Less of a run: the plan of a seed without some of its faults, or for a shorter time. A violation that is still found
//! is easier to read; each switch is one of the command line, so that the smallest case is one command too.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::faults::clocks::ClockFaults;
use crate::faults::slow_disks::DiskFaults;
use crate::faults::upgrades::Upgrades;
use crate::plan::Plan;
use crate::random::Chance;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident $name:literal,)*) => {
        /// A kind of fault that can be left out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FaultKind {
            $($(#[$doc])* $kind,)*
        }

        impl FaultKind {
            /// All of them.
            pub const ALL: &[FaultKind] = &[$(FaultKind::$kind,)*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(FaultKind::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// Messages that are lost.
    Loss "loss",
    /// Messages that arrive twice.
    Duplication "duplication",
    /// Messages that arrive again much later.
    Replay "replay",
    /// Messages that take much longer than others.
    Late "late",
    /// Messages that overtake others.
    Reordering "reordering",
    /// Links that are cut.
    Cuts "cuts",
    /// Cuts that come and go.
    Flapping "flapping",
    /// Links that are cut for ever.
    LastingCuts "lasting-cuts",
    /// Processes that end.
    Crashes "crashes",
    /// Crashes that lose what isn't synced.
    PowerFailures "power-failures",
    /// Crashes soon after a start.
    CrashesAgain "crashes-again",
    /// Processes that stand still.
    Pauses "pauses",
    /// Disks that stall, or are slower than the others.
    SlowDisks "slow-disks",
    /// Clocks that differ.
    Clocks "clocks",
    /// One node that crashes at every start.
    CrashStorm "crash-storm",
    /// Writes that go astray, torn blocks, and stored bytes that change.
    Damage "damage",
    /// Writes and syncs that fail.
    DiskErrors "disk-errors",
    /// Disks without room.
    FullDisks "full-disks",
    /// Operators who get something wrong.
    Mistakes "mistakes",
    /// Quorums of different sizes.
    Quorums "quorums",
    /// Clients that ask for trims.
    Trims "trims",
    /// Clients that read.
    Reads "reads",
    /// Nodes that get other builds.
    Upgrades "upgrades",
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FaultKind {
    type Err = String;

    fn from_str(name: &str) -> Result<FaultKind, String> {
        FaultKind::ALL.iter().find(|kind| kind.name() == name).copied().ok_or_else(|| {
            let names: Vec<&str> = FaultKind::ALL.iter().map(|kind| kind.name()).collect();
            format!("no such kind of fault; there are {}", names.join(", "))
        })
    }
}

impl FaultKind {
    fn leave_out(self, plan: &mut Plan) {
        let faults = &mut plan.faults;
        match self {
            FaultKind::Loss => faults.messages.loss = Chance::NEVER,
            FaultKind::Duplication => faults.messages.duplication = Chance::NEVER,
            FaultKind::Replay => faults.messages.replay = Chance::NEVER,
            FaultKind::Late => faults.messages.late = Chance::NEVER,
            FaultKind::Reordering => faults.messages.in_order = true,
            FaultKind::Cuts => faults.partitions.every = None,
            FaultKind::Flapping => faults.partitions.flapping = Chance::NEVER,
            FaultKind::LastingCuts => faults.partitions.lasting = false,
            FaultKind::Crashes => faults.crashes.every = None,
            FaultKind::PowerFailures => {
                faults.crashes.power_failure = Chance::NEVER;
                faults.crashes.everybody = Chance::NEVER;
            }
            FaultKind::CrashesAgain => faults.crashes.again = Chance::NEVER,
            FaultKind::Pauses => faults.pauses.every = None,
            FaultKind::SlowDisks => faults.disks = DiskFaults::HEALTHY,
            FaultKind::Clocks => faults.clocks = ClockFaults::EQUAL,
            FaultKind::CrashStorm => faults.crashes.storm = None,
            FaultKind::Damage => {
                faults.damage.astray = Chance::NEVER;
                faults.damage.torn = Chance::NEVER;
                faults.damage.rot_every = None;
            }
            FaultKind::DiskErrors => {
                faults.damage.write_error = Chance::NEVER;
                faults.damage.sync_error = Chance::NEVER;
            }
            FaultKind::FullDisks => {
                faults.damage.full = Chance::NEVER;
                faults.damage.files_max = None;
                plan.log.pool_files_max = crate::plan::POOL_FILES_MAX;
            }
            FaultKind::Mistakes => faults.operators.every = None,
            FaultKind::Quorums => {
                let majority = plan.configuration.members.len() as u32 / 2 + 1;
                (plan.configuration.prepare_quorum, plan.configuration.accept_quorum) = (majority, majority);
            }
            FaultKind::Trims => (plan.workload.trim, plan.workload.trim_past) = (Chance::NEVER, Chance::NEVER),
            FaultKind::Reads => plan.workload.read = Chance::NEVER,
            FaultKind::Upgrades => {
                faults.upgrades = Upgrades::none();
                plan.protocol.raises_format = false;
            }
        }
    }
}

/// A set of kinds of faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultKinds(u32);

/// What is left out of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Narrowing {
    /// Kinds of faults.
    pub kinds: FaultKinds,
    /// How long faults go on, instead of what the seed draws.
    pub faulty_time: Option<Duration>,
    /// The run ends after so many events, whatever it was about to do.
    pub events: Option<u64>,
    /// Commands that clients hand in at least, instead of what every run carries.
    pub commands: Option<u64>,
}

impl Narrowing {
    /// Leaves a kind of fault out.
    #[must_use]
    pub fn without(mut self, kind: FaultKind) -> Narrowing {
        self.kinds.0 |= 1 << kind as u32;
        self
    }

    /// What is left out.
    pub fn left_out(self) -> impl Iterator<Item = FaultKind> {
        FaultKind::ALL.iter().copied().filter(move |kind| self.kinds.0 >> *kind as u32 & 1 == 1)
    }

    /// Changes a plan accordingly.
    pub fn apply(self, plan: &mut Plan) {
        self.left_out().for_each(|kind| kind.leave_out(plan));
        if let Some(faulty_time) = self.faulty_time {
            plan.faulty_time = faulty_time;
        }
        if let Some(commands) = self.commands {
            plan.workload.commands_min = commands;
        }
    }
}

/// As switches of the command line, each with a space before it.
impl fmt::Display for Narrowing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.left_out().try_for_each(|kind| write!(f, " --without {kind}"))?;
        if let Some(faulty_time) = self.faulty_time {
            write!(f, " --faulty-time {}", faulty_time.as_millis())?;
        }
        if let Some(events) = self.events {
            write!(f, " --events {events}")?;
        }
        if let Some(commands) = self.commands {
            write!(f, " --commands {commands}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrowing_is_written_as_switches() {
        let narrowing = Narrowing { faulty_time: Some(Duration::from_millis(1500)), ..Narrowing::default() };
        let narrowing = narrowing.without(FaultKind::Pauses).without(FaultKind::Loss);
        assert_eq!(narrowing.to_string(), " --without loss --without pauses --faulty-time 1500");
        assert_eq!(Narrowing::default().to_string(), "");
    }

    #[test]
    fn every_kind_of_fault_can_be_left_out() {
        let everything = FaultKind::ALL.iter().fold(Narrowing::default(), |narrowing, kind| narrowing.without(*kind));
        for seed in 0..20 {
            let mut plan = Plan::draw(seed, None);
            everything.apply(&mut plan);
            assert!(plan.faults.crashes.every.is_none() && plan.faults.partitions.every.is_none());
            assert!(plan.faults.pauses.every.is_none() && !plan.faults.messages.replays());
        }
        for kind in FaultKind::ALL {
            assert_eq!(kind.name().parse(), Ok(*kind));
        }
    }
}
