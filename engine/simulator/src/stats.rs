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
        self.add_counts(other);
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = &self.network;
        write!(
            f,
            "{} runs, {:.1} h of virtual time, {} events, {} messages\n\
             commands: {} submitted, {} chosen, {} acknowledged, in {} proposed bodies; {} deliveries, {} reads, {} trims\n\
             faults: {} kills, {} power failures, {} pauses, {} cuts; \
             messages {} lost, {} cut off, {} duplicated, {} replayed\n\
             disks: {} writes, {} syncs, {} starts, {} inspections; longest healing {:.2} s, {:.1} election timeouts",
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
        )
    }
}
