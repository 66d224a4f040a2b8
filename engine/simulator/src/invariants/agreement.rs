//! I1, agreement: for every slot, all bodies that any node ever delivers there, before or after any number of restarts,
//! are the same one.

use synod_protocol::BodyHandle;

use super::{Property, Verdict, Violation};
use crate::network::node_id;
use crate::oracle::Oracle;

/// Compares a delivery with what was delivered at the same slots before.
pub(super) fn check_delivery(oracle: &Oracle, node: usize, body: &BodyHandle) -> Verdict {
    let Some(rival) = oracle.chosen_overlapping(body).find(|chosen| chosen.body != *body) else { return Ok(()) };
    Err(Violation::new(
        Property::Agreement,
        format!("{} delivered {body:?}, but {} delivered {:?}", node_id(node), node_id(rival.node), rival.body),
    ))
}
