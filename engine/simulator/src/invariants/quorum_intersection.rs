//! I19, quorums intersect: under each configuration, every set of members whose promises let a leader propose there meets
//! every set of members whose accepts chose a body there, and no such set is smaller than the configuration says.

use std::collections::{BTreeMap, BTreeSet};

use synod_protocol::{Ballot, Configuration, Message, Slot};

use super::{Property, Verdict, Violation};
use crate::network::node_id;
use crate::rulings::Rulings;

/// Sets of nodes, as bits of their index.
type Nodes = u32;

/// Quorums as they were used, by the slot at which their configuration was chosen.
#[derive(Debug, Default)]
pub(super) struct QuorumIntersection {
    /// Who had promised each ballot so far.
    promised: BTreeMap<Ballot, Nodes>,
    /// Ballots that something was proposed in, under each configuration.
    led: BTreeSet<(Slot, Ballot)>,
    prepared: BTreeMap<Slot, BTreeSet<Nodes>>,
    accepted: BTreeMap<Slot, BTreeSet<Nodes>>,
}

impl QuorumIntersection {
    pub(super) fn check_sent(&mut self, node: usize, message: &Message, rulings: &Rulings) -> Verdict {
        match message {
            Message::Promise { ballot, .. } | Message::Prepare { ballot, .. } => {
                *self.promised.entry(*ballot).or_default() |= 1 << node;
                Ok(())
            }
            Message::Accept { ballot, body, .. } => {
                let ruling = rulings.at(body.first);
                if !self.led.insert((ruling.chosen_at, *ballot)) {
                    return Ok(());
                }
                let nodes = self.promised.get(ballot).copied().unwrap_or_default() | 1 << node;
                let nodes = nodes & members_of(ruling);
                if nodes.count_ones() < ruling.prepare_quorum {
                    return Err(Violation::new(
                        Property::QuorumIntersection,
                        format!(
                            "{} proposes {body:?} in ballot {ballot}, which only {} of {:?} had promised, not {}",
                            node_id(node),
                            nodes.count_ones(),
                            ruling.members,
                            ruling.prepare_quorum
                        ),
                    ));
                }
                self.prepared.entry(ruling.chosen_at).or_default().insert(nodes);
                let accepted = self.accepted.entry(ruling.chosen_at).or_default();
                check_all(accepted.iter().map(|accepted| (nodes, *accepted)))
            }
            _ => Ok(()),
        }
    }

    /// These nodes had accepted a body when it was delivered.
    pub(super) fn note_chosen(&mut self, nodes: Nodes, ruling: &Configuration) -> Verdict {
        let nodes = nodes & members_of(ruling);
        if !self.accepted.entry(ruling.chosen_at).or_default().insert(nodes) {
            return Ok(());
        }
        let prepared = self.prepared.entry(ruling.chosen_at).or_default();
        check_all(prepared.iter().map(|prepared| (*prepared, nodes)))
    }
}

fn members_of(configuration: &Configuration) -> Nodes {
    configuration.members.iter().fold(0, |mask, node| mask | 1 << (node.0 - 1))
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
