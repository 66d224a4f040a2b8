//! I10, equal chains: for every slot at which a body ends, the running hash over all bodies up to there is the same on
//! every node that delivers it, recovers it, or speaks of it.

use std::collections::BTreeMap;

use synod_protocol::{BodyHandle, Chain, Mark, Message, Slot};

use super::{Property, Verdict, Violation};
use crate::network::node_id;

/// The first chain that anybody claimed at each slot.
#[derive(Debug)]
pub(super) struct ChainEqual {
    chains: BTreeMap<Slot, (Chain, usize)>,
    /// Where each node's deliveries stand, chained by this checker itself.
    computed: Vec<Mark>,
}

impl ChainEqual {
    pub(super) fn new(nodes: usize) -> ChainEqual {
        ChainEqual { chains: BTreeMap::from([(Slot::FIRST, (Chain::EMPTY, 0))]), computed: vec![Mark::START; nodes] }
    }

    pub(super) fn start(&mut self, node: usize, mark: Mark) -> Verdict {
        self.computed[node] = mark;
        self.claim(node, mark)
    }

    pub(super) fn check_delivery(&mut self, node: usize, body: &BodyHandle, mark: Mark) -> Verdict {
        let before = self.computed[node];
        self.computed[node] = mark;
        if before.slot == body.first && before.chain.extend(body) != mark.chain {
            return Err(Violation::new(
                Property::ChainEqual,
                format!("{} delivered {body:?} with a chain that doesn't follow: {mark:?}", node_id(node)),
            ));
        }
        self.claim(node, mark)
    }

    pub(super) fn check_sent(&mut self, node: usize, message: &Message) -> Verdict {
        match message {
            Message::Promise { mark, .. }
            | Message::Accept { mark, .. }
            | Message::Heartbeat { mark, .. }
            | Message::HeartbeatReply { mark, .. }
            | Message::Chosen { mark, .. }
            | Message::Base { base: mark, .. } => self.claim(node, *mark),
            _ => Ok(()),
        }
    }

    pub(super) fn check_told(&mut self, node: usize, mark: Mark) -> Verdict {
        self.claim(node, mark)
    }

    fn claim(&mut self, node: usize, mark: Mark) -> Verdict {
        let (chain, first_node) = *self.chains.entry(mark.slot).or_insert((mark.chain, node));
        if chain == mark.chain {
            return Ok(());
        }
        Err(Violation::new(
            Property::ChainEqual,
            format!(
                "at slot {} the chain of {} is {}, but that of {} was {chain}",
                mark.slot,
                node_id(node),
                mark.chain,
                node_id(first_node)
            ),
        ))
    }
}
