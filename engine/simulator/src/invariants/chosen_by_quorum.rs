//! I2, chosen once and by a quorum: a body is delivered only if there is one ballot at which a quorum of acceptors had
//! durably accepted it before.

use std::collections::BTreeMap;

use synod_protocol::{Ballot, BodyHandle, BodyId, Configuration, NodeId};

use super::{Property, Verdict, Violation};
use crate::network::node_id;

/// Which acceptors have durably accepted what.
#[derive(Debug)]
pub(super) struct ChosenByQuorum {
    configuration: Configuration,
    accepted: BTreeMap<BodyId, BTreeMap<Ballot, Vec<NodeId>>>,
}

impl ChosenByQuorum {
    pub(super) fn new(configuration: Configuration) -> ChosenByQuorum {
        ChosenByQuorum { configuration, accepted: BTreeMap::new() }
    }

    /// A node's accept of a body is durable.
    pub(super) fn note_accepted(&mut self, node: usize, id: BodyId, ballot: Ballot) {
        let nodes = self.accepted.entry(id).or_default().entry(ballot).or_default();
        if !nodes.contains(&node_id(node)) {
            nodes.push(node_id(node));
        }
    }

    /// The nodes that have durably accepted a body at a ballot at which they choose it, as bits of their index.
    pub(super) fn quorum_of(&self, id: BodyId) -> Option<u32> {
        let mut ballots = self.accepted.get(&id)?.values();
        let nodes = ballots.find(|nodes| self.configuration.is_accept_quorum(nodes))?;
        Some(nodes.iter().fold(0, |mask, node| mask | 1 << (node.0 - 1)))
    }

    pub(super) fn check_delivery(&self, node: usize, body: &BodyHandle) -> Verdict {
        let votes = self.accepted.get(&body.id);
        if votes.is_some_and(|ballots| ballots.values().any(|nodes| self.configuration.is_accept_quorum(nodes))) {
            return Ok(());
        }
        Err(Violation::new(
            Property::ChosenByQuorum,
            format!(
                "{} delivered {body:?}, which only these had durably accepted, by ballot: {votes:?}",
                node_id(node)
            ),
        ))
    }
}
