//! I1, agreement: for every slot, all bodies that any node ever delivers there, before or after any number of restarts,
//! are the same one.

use synod_protocol::BodyHandle;

use super::{Property, Verdict, Violation};
use crate::network::node_id;
use crate::oracle::Oracle;

/// Compares a delivery with what was delivered at the same slots before.
pub(super) fn check_delivery(oracle: &Oracle, node: usize, body: &BodyHandle) -> Verdict {
    let last = body.end().0 - 1;
    let rival = [body.first.0, last].into_iter().find_map(|slot| {
        let chosen = oracle.chosen_containing(synod_protocol::Slot(slot))?;
        (chosen.body != *body).then_some(chosen)
    });
    let Some(chosen) = rival.or_else(|| oracle.chosen_from(body.first).next().filter(|next| next.body.first < body.end() && next.body != *body)) else { return Ok(()) };
    Err(Violation::new(
        Property::Agreement,
        format!("{} delivered {body:?}, but {} delivered {:?}", node_id(node), node_id(chosen.node), chosen.body),
    ))
}
