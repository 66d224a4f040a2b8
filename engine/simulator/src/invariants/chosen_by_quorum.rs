//! I2, chosen once and by a quorum: a body is delivered only if there is one ballot at which a quorum, of the configuration
//! that rules its slots, had durably accepted it before.

use std::collections::BTreeMap;

use synod_protocol::{Ballot, BodyHandle, BodyId, Configuration, NodeId};

use super::{Property, Verdict, Violation};
use crate::network::node_id;
use crate::rulings::Rulings;

/// Which acceptors have durably accepted what.
#[derive(Debug, Default)]
pub(super) struct ChosenByQuorum {
    accepted: BTreeMap<BodyId, BTreeMap<Ballot, Vec<NodeId>>>,
}

impl ChosenByQuorum {
    /// A node's accept of a body is durable.
    pub(super) fn note_accepted(&mut self, node: usize, id: BodyId, ballot: Ballot) {
        let nodes = self.accepted.entry(id).or_default().entry(ballot).or_default();
        if !nodes.contains(&node_id(node)) {
            nodes.push(node_id(node));
        }
    }

    /// The nodes that have durably accepted a body at a ballot at which they choose it, as bits of their index.
    pub(super) fn quorum_of(&self, id: BodyId, ruling: &Configuration) -> Option<u32> {
        let mut ballots = self.accepted.get(&id)?.values();
        let nodes = ballots.find(|nodes| ruling.is_accept_quorum(nodes))?;
        Some(nodes.iter().fold(0, |mask, node| mask | 1 << (node.0 - 1)))
    }

    pub(super) fn check_delivery(&self, node: usize, body: &BodyHandle, rulings: &Rulings) -> Verdict {
        let votes = self.accepted.get(&body.id);
        let ruling = rulings.at(body.first);
        if votes.is_some_and(|ballots| ballots.values().any(|nodes| ruling.is_accept_quorum(nodes))) {
            return Ok(());
        }
        Err(Violation::new(
            Property::ChosenByQuorum,
            format!(
                "{} delivered {body:?}, which only these had durably accepted, by ballot: {votes:?}; {:?} rules there",
                node_id(node),
                ruling.members
            ),
        ))
    }
}
