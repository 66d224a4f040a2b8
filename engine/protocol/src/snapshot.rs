//! Snapshots of what embedders make of the log: who has one, and how its bytes get to whoever lacks it.
//!
//! None of this is a matter of safety for the log. A snapshot stands for a position: whoever restores it has applied
//! everything below, and goes on there. The [`Seeker`] is the side whose log begins behind what it has applied; the
//! [`Holder`] is every other side. Both are plain values, like the core: the driver carries out what they ask for.
//!
//! The seeker pulls. It asks everybody, takes one offer, and then asks for chunk after chunk, a few at a time; so a holder
//! keeps nothing for it, and a slow seeker costs nobody any memory. A transfer that breaks off goes on where it was: the
//! [`SnapshotId`] tells whether another holder has the very same bytes.

mod holder;
mod seeker;

use std::time::Duration;

use crate::slot::Slot;

pub use holder::{Holder, HolderEffect, HolderSettings};
pub use seeker::{Refusals, Seeker, SeekerEffect};

/// Which snapshot. Two that agree in all of this have the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId {
    /// The first slot that isn't applied in it.
    pub position: Slot,
    /// Its length.
    pub bytes: u64,
    /// Checksum of all its bytes: XXH3, 128 bits.
    pub checksum: u128,
}

/// Names a snapshot while its bytes go by.
#[derive(Clone, Default)]
pub struct SnapshotDigest {
    hash: xxhash_rust::xxh3::Xxh3Default,
    bytes: u64,
}

impl SnapshotDigest {
    /// Of no bytes yet.
    pub fn new() -> SnapshotDigest {
        SnapshotDigest::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// The name of what went by, if it stands for `position`.
    pub fn finish(&self, position: Slot) -> SnapshotId {
        SnapshotId { position, bytes: self.bytes, checksum: self.hash.digest128() }
    }
}

impl std::fmt::Debug for SnapshotDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotDigest").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// What nodes say to each other about snapshots.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SnapshotMessage {
    /// Who has a snapshot that stands for this position or a later one?
    Ask {
        /// The lowest position that is of any use.
        at_least: Slot,
        /// Part of this one is there already: the rest of it is wanted most.
        wanted: Option<SnapshotId>,
    },
    /// This one can be had from the sender.
    Offer {
        /// Which.
        snapshot: SnapshotId,
    },
    /// The sender has none, or not that one, or not now.
    Refuse {
        /// As asked; of a snapshot that was to be fetched, its position.
        at_least: Slot,
        /// Why.
        reason: NoSnapshot,
    },
    /// Asks for some bytes of a snapshot.
    Fetch {
        /// Of which.
        snapshot: SnapshotId,
        /// The first one.
        offset: u64,
        /// How many: at least one, at most [`crate::limits::SNAPSHOT_CHUNK_BYTES`], none beyond the end.
        bytes: u32,
    },
    /// What the sender's state machine needs of the log: said to the leader, again and again.
    Need {
        /// What.
        hold: Hold,
    },
    /// Some bytes of a snapshot.
    Chunk {
        /// Of which.
        snapshot: SnapshotId,
        /// Where the first one belongs.
        offset: u64,
        /// As many as asked for.
        data: Vec<u8>,
    },
}

/// Why there is no snapshot to be had from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NoSnapshot {
    /// One is being written; ask again.
    Making,
    /// It gives as much as it may at the moment; ask again.
    Busy {
        /// When.
        retry_after: Duration,
    },
    /// Its own state machine hasn't come so far.
    Behind {
        /// How far it has.
        position: Slot,
    },
    /// No state machine runs there that would write snapshots.
    NoMachine,
    /// Its state machine, or its disk, failed to write one.
    Failed,
    /// It has that snapshot no more.
    Gone,
}

impl std::fmt::Display for NoSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NoSnapshot::Making => f.write_str("is writing one"),
            NoSnapshot::Busy { retry_after } => write!(f, "gives as much as it may, ask again in {retry_after:?}"),
            NoSnapshot::Behind { position } => write!(f, "has itself applied no more than what lies below {position}"),
            NoSnapshot::NoMachine => f.write_str("runs no state machine that writes snapshots"),
            NoSnapshot::Failed => f.write_str("failed to write one"),
            NoSnapshot::Gone => f.write_str("has that snapshot no more"),
        }
    }
}

/// What a state machine beside a replica still needs of the log, as its driver tells the replica, and the replica its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hold {
    /// The first slot that isn't applied; while a snapshot is on its way, the position that it stands for.
    pub from: Slot,
    /// Grows while a snapshot is on its way; otherwise stays.
    pub progress: u64,
}

#[cfg(test)]
mod tests;
