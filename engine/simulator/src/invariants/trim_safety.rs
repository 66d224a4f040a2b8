//! I16, trims are safe: nothing is dropped above the slot that was agreed through the log, every node has durably what
//! it may drop, and a dropped slot is answered "trimmed", never "empty".

use synod_protocol::Slot;

use super::{Property, Verdict, Violation};
use crate::network::node_id;
use crate::oracle::Oracle;

/// Where the logs of nodes were seen to begin.
#[derive(Debug)]
pub(super) struct TrimSafety {
    bases: Vec<Slot>,
}

impl TrimSafety {
    pub(super) fn new(nodes: usize) -> TrimSafety {
        TrimSafety { bases: vec![Slot::FIRST; nodes] }
    }

    /// A node's log begins at `base`. A node drops what it may before it tells of the trim, so whether that was agreed
    /// shows later.
    pub(super) fn note_base(&mut self, node: usize, base: Slot) {
        self.bases[node] = self.bases[node].max(base);
    }

    /// A reader was told that `slot` is trimmed and that the log begins at `first`.
    pub(super) fn check_answer(&mut self, node: usize, slot: Slot, first: Slot) -> Verdict {
        self.note_base(node, first);
        if slot < first {
            return Ok(());
        }
        Err(Violation::new(
            Property::TrimSafety,
            format!("{} calls slot {slot} trimmed, but begins at {first}", node_id(node)),
        ))
    }

    pub(super) fn check_at_end(&self, oracle: &Oracle) -> Verdict {
        let Some(node) = self.bases.iter().position(|base| *base > oracle.trimmed()) else { return Ok(()) };
        Err(Violation::new(
            Property::TrimSafety,
            format!(
                "{} was trimmed up to {}, but only {} was agreed",
                node_id(node),
                self.bases[node],
                oracle.trimmed()
            ),
        ))
    }
}
