//! I17, what is installed equals what was delivered: the base that a node takes over from a peer is a mark of the chosen prefix,
//! agreed to be trimmed, and above everything that the node knew. That the delivery state behind it is the one of all others
//! is for [`super::deliveries`] to check, at every body that is judged from there on.

use synod_protocol::{Mark, Slot};

use super::{Property, Verdict, Violation};
use crate::network::node_id;
use crate::oracle::Oracle;

/// A node begins its log at `base`, and had delivered everything below `before`.
pub(super) fn check(node: usize, before: Slot, base: Mark, oracle: &Oracle) -> Verdict {
    let violation = |detail: &str| {
        let detail = format!("{} installs {base:?}, {detail}", node_id(node));
        Err(Violation::new(Property::SnapshotEqual, detail))
    };
    if base.slot <= before {
        return violation(&format!("although it had delivered everything below {before}"));
    }
    if base.slot > oracle.trimmed() {
        return violation(&format!("but only what lies below {} was trimmed", oracle.trimmed()));
    }
    match oracle.chosen_containing(Slot(base.slot.0 - 1)).map(|chosen| chosen.mark) {
        Some(mark) if mark == base => Ok(()),
        Some(mark) => violation(&format!("but the chosen prefix has {mark:?} there")),
        // Whoever delivered it was damaged since, and nobody saw it.
        None => Ok(()),
    }
}
