//! Handles of bodies, and the chain over the chosen ones.
//!
//! A *body* is a batch: a contiguous range of instances and their bytes. It is the atom of the protocol: accepted,
//! re-proposed, chosen, chained and delivered whole, never split or merged. The core never sees its bytes, only this
//! handle; the driver keeps the bytes under [`BodyHandle::id`].

use std::fmt;

use crate::slot::{Slot, SlotRange};

/// The identity of a body: a 128-bit hash of its header and block checksums, computed by whoever holds the bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BodyId(pub u128);

impl fmt::Debug for BodyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for BodyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", (self.0 >> 64) as u64)
    }
}

/// What a body holds, as far as the protocol has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BodyKind {
    /// Client commands, one a slot.
    Commands,
    /// A range of no-ops that closes a gap (*Paxos Made Simple* §3).
    NoOp,
    /// A configuration, one slot long; it rules from its slot + alpha on, unless it is void.
    Configuration {
        /// Where the configuration was chosen that it succeeds; zero for genesis. If another one was chosen in between,
        /// it is void: whoever proposed it didn't know of that one.
        after: Slot,
    },
    /// An agreed trim, one slot long: everything below `upto` may be dropped once this is delivered.
    Trim {
        /// The first slot that is kept.
        upto: Slot,
    },
    /// A command about sessions, one slot long; see [`crate::delivery`].
    Session,
    /// A command about tickets, one slot long; see [`crate::delivery`].
    Ticket,
}

impl BodyKind {
    /// Whether clients asked for it, so that it waits while disks are full.
    pub fn is_from_clients(self) -> bool {
        matches!(self, BodyKind::Commands | BodyKind::Session | BodyKind::Ticket)
    }
}

impl BodyKind {
    /// Whether it is a configuration.
    pub fn is_configuration(&self) -> bool {
        matches!(self, BodyKind::Configuration { .. })
    }
}

/// An opaque, cheaply copied name of a body: its identity, range and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BodyHandle {
    /// First slot of the range.
    pub first: Slot,
    /// How many slots the body fills; at least one.
    pub count: u32,
    /// Exact length of the body's bytes.
    pub bytes: u32,
    /// What it holds.
    pub kind: BodyKind,
    /// Its identity: equal identities mean equal bytes.
    pub id: BodyId,
}

impl BodyHandle {
    /// The first slot after the body.
    pub fn end(&self) -> Slot {
        self.first.plus(u64::from(self.count))
    }

    /// The slots it fills.
    pub fn slots(&self) -> SlotRange {
        self.first..self.end()
    }

    /// Whether the two bodies share a slot.
    pub fn overlaps(&self, other: &BodyHandle) -> bool {
        self.first < other.end() && other.first < self.end()
    }
}

/// The running hash over the identities of all chosen bodies in slot order. Safety rests on its 128 bits: a follower
/// may learn from it that its own bodies are the chosen ones.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain(pub u128);

impl Chain {
    /// The chain of the empty log.
    pub const EMPTY: Chain = Chain(0);

    /// The chain after one more chosen body.
    #[must_use]
    pub fn extend(self, body: &BodyHandle) -> Chain {
        let mut input = [0u8; 44];
        input[..16].copy_from_slice(&self.0.to_le_bytes());
        input[16..32].copy_from_slice(&body.id.0.to_le_bytes());
        input[32..40].copy_from_slice(&body.first.0.to_le_bytes());
        input[40..44].copy_from_slice(&body.count.to_le_bytes());
        Chain(xxhash_rust::xxh3::xxh3_128(&input))
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", (self.0 >> 64) as u64)
    }
}

/// A chosen prefix: every slot below `slot` is chosen, and `chain` runs over all their bodies. A mark always stands at
/// the end of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// The first slot that is not covered.
    pub slot: Slot,
    /// The chain over everything below.
    pub chain: Chain,
}

impl Mark {
    /// The mark of a log in which nothing is known to be chosen.
    pub const START: Mark = Mark { slot: Slot::FIRST, chain: Chain::EMPTY };

    /// The mark after `body`, which must begin at this mark.
    ///
    /// # Panics
    /// If the body doesn't begin where this mark stands: a hole in the chosen prefix is a bug.
    #[must_use]
    pub fn after(self, body: &BodyHandle) -> Mark {
        assert_eq!(self.slot, body.first, "a mark advances body by body");
        Mark { slot: body.end(), chain: self.chain.extend(body) }
    }
}

impl Default for Mark {
    fn default() -> Mark {
        Mark::START
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(first: u64, count: u32, id: u128) -> BodyHandle {
        BodyHandle { first: Slot(first), count, bytes: 1, kind: BodyKind::NoOp, id: BodyId(id) }
    }

    #[test]
    fn bodies_overlap_if_a_slot_lies_in_both() {
        for first in 1..6 {
            for count in 1..6 {
                for (other_first, other_count) in (1..6).flat_map(|first| (1..6).map(move |count| (first, count))) {
                    let (one, other) = (body(first, count, 1), body(other_first, other_count, 2));
                    let shared =
                        (1..12).map(Slot).any(|slot| one.slots().contains(&slot) && other.slots().contains(&slot));
                    assert_eq!(one.overlaps(&other), shared, "{one:?} {other:?}");
                }
            }
        }
    }

    #[test]
    fn a_chain_tells_apart_identities_ranges_and_orders() {
        let start = Chain::EMPTY;
        let chains = [
            start,
            start.extend(&body(1, 1, 1)),
            start.extend(&body(1, 1, 2)),
            start.extend(&body(2, 1, 1)),
            start.extend(&body(1, 2, 1)),
            start.extend(&body(1, 1, 1)).extend(&body(2, 1, 2)),
            start.extend(&body(2, 1, 2)).extend(&body(1, 1, 1)),
        ];
        for (index, chain) in chains.iter().enumerate() {
            assert!(chains[index + 1..].iter().all(|other| other != chain));
        }
        assert_eq!(start.extend(&body(1, 1, 1)), start.extend(&body(1, 1, 1)));
    }

    #[test]
    fn a_mark_advances_body_by_body() {
        let (one, two) = (body(1, 3, 1), body(4, 1, 2));
        let mark = Mark::START.after(&one).after(&two);
        assert_eq!(mark, Mark { slot: Slot(5), chain: Chain::EMPTY.extend(&one).extend(&two) });
    }

    #[test]
    #[should_panic(expected = "a mark advances body by body")]
    fn a_mark_never_steps_over_a_hole() {
        let _ = Mark::START.after(&body(2, 1, 1));
    }
}
