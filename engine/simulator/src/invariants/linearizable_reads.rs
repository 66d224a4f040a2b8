//! I13, linearizable reads: a barrier that is reached covers everything that anybody had delivered when it began (so
//! everything acknowledged by then, and everything read by then), and is delivered where it was asked for.

use synod_protocol::Slot;

use super::{Property, Verdict, Violation};
use crate::network::node_id;

pub(super) fn check(node: usize, needed: Slot, reached: Slot, delivered: Slot) -> Verdict {
    if needed <= reached && reached <= delivered {
        return Ok(());
    }
    Err(Violation::new(
        Property::LinearizableReads,
        format!(
            "{} may read up to slot {reached}, has delivered up to {delivered}, and {needed} was delivered before the \
             barrier began",
            node_id(node)
        ),
    ))
}
