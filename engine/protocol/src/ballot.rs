//! Node names and ballots: who proposes, and in which order proposals count.

use std::fmt;

/// The name of a node in its cluster; zero names nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// A proposal number (*Paxos Made Simple* §2.2), totally ordered by round, then node, then boot.
///
/// `boot` is drawn at random at every process start and is an input of the core. It is part of the order, so that a
/// process never resumes a ballot of an earlier life, even if that life's promise was lost with its disk.
/// The zero ballot is below every ballot that is ever used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// Raised by every candidacy above everything the candidate has seen.
    pub round: u64,
    /// The proposer.
    pub node: NodeId,
    /// The proposer's process start.
    pub boot: u64,
}

impl Ballot {
    /// The ballot below all others: nothing promised, nothing accepted.
    pub const ZERO: Ballot = Ballot { round: 0, node: NodeId(0), boot: 0 };

    /// Whether this is the ballot that nobody ever uses.
    pub fn is_zero(self) -> bool {
        self == Ballot::ZERO
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{:x}", self.round, self.node, self.boot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ballots_are_ordered_by_round_then_node_then_boot() {
        let mut ballots = Vec::new();
        for round in 0..3 {
            for node in (1..4).map(NodeId) {
                ballots.extend((0..3).map(|boot| Ballot { round, node, boot }));
            }
        }
        assert!(ballots.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(ballots.iter().all(|ballot| *ballot > Ballot::ZERO && !ballot.is_zero()));
        assert_eq!(Ballot { round: 3, node: NodeId(2), boot: 77 }.to_string(), "3.n2.4d");
    }
}
