//! I9, a prefix without gaps: each node delivers bodies in slot order, each slot once in a life, without a gap from
//! where its log stood when it started.

use synod_protocol::{BodyHandle, Mark, Slot};

use super::{Property, Verdict, Violation};
use crate::network::node_id;

/// Where each node stands.
#[derive(Debug)]
pub(super) struct PrefixWithoutGaps {
    next: Vec<Slot>,
}

impl PrefixWithoutGaps {
    pub(super) fn new(nodes: usize) -> PrefixWithoutGaps {
        PrefixWithoutGaps { next: vec![Slot::FIRST; nodes] }
    }

    pub(super) fn start(&mut self, node: usize, mark: Mark) {
        self.next[node] = mark.slot;
    }

    pub(super) fn check_delivery(&mut self, node: usize, body: &BodyHandle, mark: Mark) -> Verdict {
        let next = std::mem::replace(&mut self.next[node], mark.slot);
        if body.first == next && mark.slot == body.end() && body.count > 0 {
            return Ok(());
        }
        Err(Violation::new(
            Property::PrefixWithoutGaps,
            format!("{} delivered {body:?} with mark {}, but stood at {next}", node_id(node), mark.slot),
        ))
    }
}
