//! I11, what is acknowledged is durable: a command stays at the slot that its client was told. After any restart a node
//! still has every chosen body that was durable on its disk, and in the end every node gives every command out there.

use synod_protocol::{Ballot, BodyHandle, BodyId, BodyKind, Slot};
use synod_wal::RecoveredLog;

use super::{Property, Verdict, Violation};
use crate::durability::Durability;
use crate::network::node_id;
use crate::oracle::Oracle;

/// What was durable and chosen must be in what is recovered.
pub(super) fn check_recovered(node: usize, held: &Durability, recovered: &RecoveredLog, oracle: &Oracle) -> Verdict {
    if recovered.unsure {
        return Ok(());
    }
    let base = recovered.index.base();
    let in_doubt = |body: &BodyHandle| {
        let doubted = |slot: u64| recovered.doubts.iter().any(|doubt| doubt.covers(Slot(slot)));
        (body.first.0..body.end().0).all(doubted)
    };
    let lost = oracle.chosen_from(base.slot).find(|chosen| {
        let found = recovered.index.get(chosen.body.first).is_some_and(|entry| entry.body == chosen.body);
        held.holds(chosen.body.id) && !found && !in_doubt(&chosen.body) && !is_displaced(held, &chosen.body, oracle)
    });
    match lost {
        None => Ok(()),
        Some(chosen) => Err(Violation::new(
            Property::AckedDurability,
            format!("{} lost {:?}, which is chosen and was durable there", node_id(node), chosen.body),
        )),
    }
}

/// Whether something is known to be missing: then others must have it, and what this node says of it is looked at.
pub(super) fn is_marred(recovered: &RecoveredLog) -> bool {
    !recovered.damages.is_empty() || !recovered.doubts.is_empty() || recovered.unsure
}

/// Whether the node accepted another body over this one: that was chosen at a ballot that the node never accepted it at,
/// after a quorum had shown it alone.
fn is_displaced(held: &Durability, body: &BodyHandle, oracle: &Oracle) -> bool {
    let highest = held.accepts().filter(|(id, _)| *id == body.id).map(|(_, ballot)| ballot).max();
    let displaces = |(id, ballot): (BodyId, Ballot)| {
        Some(ballot) > highest && id != body.id && oracle.body(id).is_some_and(|other| other.overlaps(body))
    };
    highest.is_some() && held.accepts().any(displaces)
}

/// In the end, every chosen body that isn't trimmed is durable on every node.
pub(super) fn check_held_at_end(node: usize, recovered: &RecoveredLog, oracle: &Oracle) -> Verdict {
    let lost = oracle
        .chosen_from(recovered.index.base().slot)
        .find(|chosen| recovered.index.get(chosen.body.first).is_none_or(|entry| entry.body != chosen.body));
    match lost {
        None => Ok(()),
        Some(chosen) => Err(Violation::new(
            Property::AckedDurability,
            format!("in the end {} doesn't durably hold {:?}, which is chosen", node_id(node), chosen.body),
        )),
    }
}

/// Every acknowledged command is where its client was told; what nobody can read any more after a stop is only known by
/// its body.
pub(super) fn check_at_end(stopped: bool, oracle: &Oracle) -> Verdict {
    for (id, state) in oracle.commands() {
        let Some(acked) = state.acked else { continue };
        let chosen = oracle.chosen_containing(acked).filter(|chosen| chosen.body.kind == BodyKind::Commands);
        // A body may be trimmed before anybody saw its bytes: then they can't be looked at any more.
        let unseen =
            chosen.is_some_and(|chosen| chosen.bytes.is_none() && (stopped || chosen.body.first < oracle.trimmed()));
        if chosen.is_none() || (state.delivered != Some(acked) && !unseen) {
            return Err(Violation::new(
                Property::AckedDurability,
                format!("command {} was acknowledged at slot {acked}, but is at {:?}", id.0, state.delivered),
            ));
        }
    }
    Ok(())
}
