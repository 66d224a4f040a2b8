//! What a run went through, added up over runs for the summary.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::coverage::Coverage;
use crate::network::NetworkStats;

macro_rules! stats {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// Figures of one run or of many.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Stats {
            /// Virtual time.
            pub time: Duration,
            /// The longest time from the end of faults to a healthy cluster.
            pub healing_longest: Duration,
            /// The same in election timeouts, as thousandths.
            pub healing_longest_timeouts: u64,
            /// What was reached; counted anew by every process.
            #[serde(skip)]
            pub coverage: Coverage,
            /// Packets.
            pub network: NetworkStats,
            /// Restarts in runs in which nothing but crashes, failed operations and full disks can befall a log.
            pub crashed: RestartStats,
            /// Restarts in runs in which what is stored may be damaged.
            pub damaged: RestartStats,
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Stats {
            fn add_counts(&mut self, other: &Stats) {
                $(self.$field += other.$field;)*
            }
        }
    };
}

stats! {
    /// Runs.
    runs,
    /// Events.
    events,
    /// Commands that clients sent.
    commands_submitted,
    /// Commands that clients were told the slot of.
    commands_acked,
    /// Commands that are chosen.
    commands_chosen,
    /// Bodies that leaders proposed.
    bodies_proposed,
    /// Bodies delivered, by all nodes together.
    bodies_delivered,
    /// Trims that were proposed.
    trims,
    /// Logs begun anew where a peer's begins.
    installs,
    /// Answers that readers got.
    reads,
    /// Processes that were killed.
    kills,
    /// Nodes that lost power.
    power_failures,
    /// Starts of nodes, the first of each included.
    starts,
    /// Recoveries of a disk as it would have been after a power failure.
    inspections,
    /// Processes that stood still.
    pauses,
    /// Cuts of links.
    cuts,
    /// Writes.
    writes,
    /// Syncs.
    syncs,
}

/// What nodes found when they opened their logs again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartStats {
    /// Starts on a log that was open before.
    pub restarts: u64,
    /// Those of them that found any damage.
    pub damaged: u64,
    /// Those of them whose damage is only doubtful: nothing says that anything was lost.
    pub only_doubtful: u64,
    /// Those that had to abstain for some slots, whatever the damage.
    pub in_doubt: u64,
    /// Those that may have forgotten a promise.
    pub unsure: u64,
    /// Places found to be damaged, each counted once.
    pub places: u64,
    /// Those of them that were doubtful when they were found.
    pub places_doubtful: u64,
}

impl RestartStats {
    /// Adds those of another run.
    fn add(&mut self, other: &RestartStats) {
        self.restarts += other.restarts;
        self.damaged += other.damaged;
        self.only_doubtful += other.only_doubtful;
        self.in_doubt += other.in_doubt;
        self.unsure += other.unsure;
        self.places += other.places;
        self.places_doubtful += other.places_doubtful;
    }

    /// Whether anything was damaged, in doubt or unsure.
    pub fn found_anything(&self) -> bool {
        RestartStats { restarts: 0, ..*self } != RestartStats::default()
    }
}

impl fmt::Display for RestartStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        write!(
            f,
            "{} restarts: {} found damage, {} of them ({:.2} %) nothing but doubtful damage; {} abstained for some \
             slots, {} were unsure of their promise; {} of {} places ({:.2} %) were doubtful",
            self.restarts,
            self.damaged,
            self.only_doubtful,
            share(self.only_doubtful, self.damaged),
            self.in_doubt,
            self.unsure,
            self.places_doubtful,
            self.places,
            share(self.places_doubtful, self.places),
        )
    }
}

impl Stats {
    /// Ends of processes and machines.
    pub fn crashes(&self) -> u64 {
        self.kills + self.power_failures
    }

    /// Everything that went wrong.
    pub fn faults(&self) -> u64 {
        let network = &self.network;
        let messages = network.lost + network.cut + network.duplicated + network.replayed;
        self.crashes() + self.pauses + self.cuts + messages
    }

    /// Adds the figures of another run.
    pub fn add(&mut self, other: &Stats) {
        self.time += other.time;
        self.healing_longest = self.healing_longest.max(other.healing_longest);
        self.healing_longest_timeouts = self.healing_longest_timeouts.max(other.healing_longest_timeouts);
        self.coverage.add(&other.coverage);
        self.network.sent += other.network.sent;
        self.network.arrived += other.network.arrived;
        self.network.lost += other.network.lost;
        self.network.cut += other.network.cut;
        self.network.duplicated += other.network.duplicated;
        self.network.replayed += other.network.replayed;
        self.crashed.add(&other.crashed);
        self.damaged.add(&other.damaged);
        self.add_counts(other);
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = &self.network;
        write!(
            f,
            "{} runs, {:.1} h of virtual time, {} events, {} messages\n\
             commands: {} submitted, {} chosen, {} acknowledged, in {} proposed bodies; {} deliveries, {} reads, {} trims, {} installs\n\
             faults: {} kills, {} power failures, {} pauses, {} cuts; \
             messages {} lost, {} cut off, {} duplicated, {} replayed\n\
             disks: {} writes, {} syncs, {} starts, {} inspections; longest healing {:.2} s, {:.1} election timeouts\n\
             after crashes alone: {}\n\
             with damage: {}",
            self.runs,
            self.time.as_secs_f64() / 3600.0,
            self.events,
            network.sent,
            self.commands_submitted,
            self.commands_chosen,
            self.commands_acked,
            self.bodies_proposed,
            self.bodies_delivered,
            self.reads,
            self.trims,
            self.installs,
            self.kills,
            self.power_failures,
            self.pauses,
            self.cuts,
            network.lost,
            network.cut,
            network.duplicated,
            network.replayed,
            self.writes,
            self.syncs,
            self.starts,
            self.inspections,
            self.healing_longest.as_secs_f64(),
            self.healing_longest_timeouts as f64 / 1000.0,
            self.crashed,
            self.damaged,
        )
    }
}
