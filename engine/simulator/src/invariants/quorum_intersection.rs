//! I19, quorums intersect: every set of nodes whose promises made a leader meets every set of nodes whose accepts chose a
//! body, and neither is smaller than the configuration says.

use std::collections::{BTreeMap, BTreeSet};

use synod_protocol::{Ballot, Configuration, Message};

use super::{Property, Verdict, Violation};
use crate::network::node_id;

/// Sets of nodes, as bits of their index.
type Nodes = u32;

/// Quorums as they were used.
#[derive(Debug)]
pub(super) struct QuorumIntersection {
    prepare_quorum: u32,
    /// Who had promised each ballot so far.
    promised: BTreeMap<Ballot, Nodes>,
    /// Ballots that something was proposed in.
    led: BTreeSet<Ballot>,
    prepared: BTreeSet<Nodes>,
    accepted: BTreeSet<Nodes>,
}

impl QuorumIntersection {
    pub(super) fn new(configuration: &Configuration) -> QuorumIntersection {
        QuorumIntersection {
            prepare_quorum: configuration.prepare_quorum,
            promised: BTreeMap::new(),
            led: BTreeSet::new(),
            prepared: BTreeSet::new(),
            accepted: BTreeSet::new(),
        }
    }

    pub(super) fn check_sent(&mut self, node: usize, message: &Message) -> Verdict {
        match message {
            Message::Promise { ballot, .. } | Message::Prepare { ballot, .. } => {
                *self.promised.entry(*ballot).or_default() |= 1 << node;
                Ok(())
            }
            Message::Accept { ballot, .. } if self.led.insert(*ballot) => {
                let nodes = self.promised.get(ballot).copied().unwrap_or_default() | 1 << node;
                if nodes.count_ones() < self.prepare_quorum {
                    return Err(Violation::new(
                        Property::QuorumIntersection,
                        format!(
                            "{} proposes in ballot {ballot}, which only {} nodes had promised, not {}",
                            node_id(node),
                            nodes.count_ones(),
                            self.prepare_quorum
                        ),
                    ));
                }
                self.prepared.insert(nodes);
                check_all(self.accepted.iter().map(|accepted| (nodes, *accepted)))
            }
            _ => Ok(()),
        }
    }

    /// These nodes had accepted a body when it was delivered.
    pub(super) fn note_chosen(&mut self, nodes: Nodes) -> Verdict {
        if !self.accepted.insert(nodes) {
            return Ok(());
        }
        check_all(self.prepared.iter().map(|prepared| (*prepared, nodes)))
    }
}

fn check_all(mut pairs: impl Iterator<Item = (Nodes, Nodes)>) -> Verdict {
    match pairs.find(|(prepared, accepted)| prepared & accepted == 0) {
        None => Ok(()),
        Some((prepared, accepted)) => Err(Violation::new(
            Property::QuorumIntersection,
            format!("nodes {prepared:#b} made a leader, nodes {accepted:#b} chose a body, and none is in both"),
        )),
    }
}
