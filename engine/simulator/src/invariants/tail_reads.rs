//! I23, readers see the log: a reader gets the chosen body that fills its slot, and is told to wait only for slots that
//! the node hasn't delivered.

use synod_protocol::{BodyHandle, Slot};

use super::{Property, Verdict, Violation};
use crate::network::node_id;
use crate::oracle::Oracle;

/// A reader of `slot` got `body`.
pub(super) fn check_answer(node: usize, slot: Slot, body: &BodyHandle, oracle: &Oracle) -> Verdict {
    match oracle.chosen_containing(slot) {
        Some(chosen) if chosen.body == *body => Ok(()),
        // The reader was faster than the first delivery.
        None if slot >= oracle.chosen_end() => Ok(()),
        chosen => Err(Violation::new(
            Property::TailReads,
            format!(
                "a reader of slot {slot} at {} got {body:?}, but chosen is {:?}",
                node_id(node),
                chosen.map(|chosen| chosen.body)
            ),
        )),
    }
}

/// A reader of `slot`, which the node has delivered and not trimmed, got nothing.
pub(super) fn nothing(node: usize, slot: Slot) -> Violation {
    Violation::new(
        Property::TailReads,
        format!("a reader of slot {slot} at {} got nothing, but it was delivered there", node_id(node)),
    )
}
