//! The named models of the replicated log: how much may happen in each.

use synod_protocol::NodeId;

/// When appends become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// As soon as they are asked for.
    AtOnce,
    /// One by one, whenever the checker says so; what isn't durable yet is lost by a crash.
    Queued,
}

/// A small cluster of three acceptors, and bounds on what happens to it.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Its name.
    pub name: &'static str,
    /// What it explores, in a line.
    pub about: &'static str,
    /// The bodies that each node may propose, as ranges of slots; a node without any only accepts.
    pub bodies: [&'static [(u64, u64)]; 3],
    /// How often each node may run for leader.
    pub campaigns: [u8; 3],
    /// How many changes of the membership there may be, proposed by node 1, which alone is left then.
    pub changes: u8,
    /// How far proposals may run ahead, if less than the slots of the model.
    pub alpha: Option<u32>,
    /// How many crashes there may be.
    pub crashes: u8,
    /// Which nodes may crash.
    pub crashing: [bool; 3],
    /// How many records of accepts may be lost that have others behind them.
    pub lost_accepts: u8,
    /// How many times the last record of a log may be lost, be it a promise or an accept.
    pub lost_lasts: u8,
    /// Which nodes may lose records.
    pub losing: [bool; 3],
    /// How many disks may be lost: the node comes back with an empty one, as a stranger to the others.
    pub wipes: u8,
    /// Which nodes may lose their disks.
    pub wiping: [bool; 3],
    /// How many messages may arrive twice.
    pub duplicates: u8,
    /// How many messages may be dropped by name. Any number may be lost besides: a message need not ever arrive.
    pub drops: u8,
    /// How many times a node's timers may go off other than for an election: heartbeats, retransmissions, fetches.
    pub ticks: u8,
    /// Whether refusals, resignations, answers to heartbeats, and heartbeats without news are sent at all. They cause
    /// no choice.
    pub chatter: bool,
    /// When appends become durable.
    pub disk: Disk,
    /// Whether bodies that phase 1 revealed, and no-ops, take their time to come to hand.
    pub slow_bodies: bool,
}

impl Setup {
    /// The last slot that anybody proposes.
    pub fn slots(&self) -> u64 {
        self.bodies.iter().flat_map(|bodies| bodies.iter()).map(|(_, end)| end - 1).max().unwrap_or(0)
    }

    /// The members from alpha slots behind a change on, as bits.
    pub const CHANGED: u8 = 1 << 1;

    /// How far proposals may run ahead.
    pub fn alpha(&self) -> u32 {
        self.alpha.unwrap_or(self.slots().max(2) as u32)
    }

    /// The lengths of the bodies that `node` may propose at `first`.
    pub fn lengths(&self, node: NodeId, first: u64) -> impl Iterator<Item = u32> + use<> {
        let bodies = self.bodies[node.0 as usize - 1];
        bodies.iter().filter(move |(start, _)| *start == first).map(|(start, end)| (end - start) as u32)
    }

    /// The model of this name.
    pub fn named(name: &str) -> Option<Setup> {
        Setup::ALL.iter().copied().find(|setup| setup.name == name)
    }

    /// All of them, from small to large.
    pub const ALL: &[Setup] = &[
        Setup {
            name: "duel",
            about: "two proposers, one ballot each, one body of different length each",
            bodies: [&[(1, 2)], &[(1, 3)], &[]],
            campaigns: [1, 1, 0],
            ..QUIET
        },
        Setup {
            name: "overlap",
            about: "three ballots of two proposers, bodies 1..3 against 1..2 and 2..4",
            bodies: [&[(1, 3)], &[(1, 2), (2, 4)], &[]],
            campaigns: [2, 1, 0],
            ..QUIET
        },
        Setup {
            name: "crash",
            about: "two ballots, a slow disk, and a crash of any node",
            bodies: [&[(1, 2)], &[(1, 3)], &[]],
            campaigns: [1, 1, 0],
            crashes: 1,
            crashing: [true; 3],
            disk: Disk::Queued,
            ..QUIET
        },
        Setup {
            name: "lives",
            about: "one proposer that crashes and runs again, with bodies of two lengths",
            bodies: [&[(1, 2), (1, 3)], &[], &[]],
            campaigns: [2, 0, 0],
            crashes: 1,
            crashing: [true; 3],
            disk: Disk::Queued,
            ..QUIET
        },
        Setup {
            name: "fetch",
            about: "one ballot, timers, and whoever misses a body fetches it; a crash of an acceptor",
            bodies: [&[(1, 3)], &[], &[]],
            campaigns: [1, 0, 0],
            crashes: 1,
            crashing: [false, false, true],
            ticks: 1,
            ..QUIET
        },
        Setup {
            name: "doubt",
            about: "two ballots, bodies 1..2 and 2..3 against 1..3, and an acceptor that loses the record of an accept",
            bodies: [&[(1, 2), (2, 3)], &[(1, 3)], &[]],
            campaigns: [1, 1, 0],
            lost_accepts: 1,
            losing: [false, false, true],
            ..QUIET
        },
        Setup {
            name: "unsure",
            about: "two ballots, bodies 1..3 against 1..2, and an acceptor that loses the last record of its log",
            bodies: [&[(1, 3)], &[(1, 2)], &[]],
            campaigns: [1, 1, 0],
            lost_lasts: 1,
            losing: [false, false, true],
            ..QUIET
        },
        Setup {
            name: "losses",
            about: "three ballots, bodies 1..3 against 1..2, and two losses of any acceptor, one of each kind",
            bodies: [&[(1, 3)], &[(1, 2)], &[]],
            campaigns: [2, 1, 0],
            lost_accepts: 1,
            lost_lasts: 1,
            losing: [true; 3],
            ..QUIET
        },
        Setup {
            name: "amnesiac",
            about: "two ballots, bodies 1..2 against 1..3, and an acceptor that loses its disk",
            bodies: [&[(1, 2)], &[(1, 3)], &[]],
            campaigns: [1, 1, 0],
            wipes: 1,
            wiping: [false, false, true],
            ..QUIET
        },
        Setup {
            name: "change",
            about: "two ballots at alpha 2, and a configuration of node 1 alone, which rules two slots after its own",
            bodies: [&[(2, 3), (3, 4)], &[], &[(1, 2), (2, 3), (3, 4)]],
            campaigns: [1, 0, 1],
            changes: 1,
            alpha: Some(2),
            ..QUIET
        },
        Setup {
            name: "overlap-crash",
            about: "two ballots, bodies 1..2 and 2..4 against 1..3, a slow disk, and a crash of any node",
            bodies: [&[(1, 2), (2, 4)], &[(1, 3)], &[]],
            campaigns: [1, 1, 0],
            crashes: 1,
            crashing: [true; 3],
            disk: Disk::Queued,
            ..QUIET
        },
        Setup {
            name: "twice",
            about: "two ballots, bodies 1..2 and 2..4 against 1..3, two messages that arrive twice, timers",
            bodies: [&[(1, 2), (2, 4)], &[(1, 3)], &[]],
            campaigns: [1, 1, 0],
            duplicates: 2,
            ticks: 1,
            ..QUIET
        },
        Setup {
            name: "full",
            about: "four ballots, three slots of overlapping bodies, slow disks, a crash, loss, duplication, timers",
            bodies: [&[(1, 2), (2, 4)], &[(1, 3), (3, 4)], &[]],
            campaigns: [2, 2, 0],
            changes: 0,
            alpha: None,
            crashes: 1,
            crashing: [true; 3],
            lost_accepts: 0,
            lost_lasts: 0,
            losing: [false; 3],
            wipes: 0,
            wiping: [false; 3],
            duplicates: 1,
            drops: 1,
            ticks: 1,
            chatter: true,
            disk: Disk::Queued,
            slow_bodies: true,
        },
    ];
}

/// Nothing goes wrong but delay, loss and elections.
const QUIET: Setup = Setup {
    name: "",
    about: "",
    bodies: [&[], &[], &[]],
    campaigns: [0; 3],
    changes: 0,
    alpha: None,
    crashes: 0,
    crashing: [false; 3],
    lost_accepts: 0,
    lost_lasts: 0,
    losing: [false; 3],
    wipes: 0,
    wiping: [false; 3],
    duplicates: 0,
    drops: 0,
    ticks: 0,
    chatter: false,
    disk: Disk::AtOnce,
    slow_bodies: false,
};
