//! I7, persist before speak: whatever a message claims of its sender's log is durable on the sender's disk when the
//! message leaves, and would be recovered if power failed at that moment.

use synod_protocol::{Ballot, Message, Slot};
use synod_wal::RecoveredLog;

use super::{Property, Verdict, Violation};
use crate::durability::Durability;
use crate::network::node_id;
use crate::oracle::Oracle;

/// What a message claims that isn't durable, in words; none if all of it is. Below `stable` its sender has claimed
/// everything before, and was held to it then: what is durable stays so.
pub(super) fn unbacked_claim(message: &Message, stable: Slot, disk: &Durability, oracle: &Oracle) -> Option<String> {
    let checked = stable.max(oracle.trimmed());
    let promise = |ballot: Ballot| {
        (disk.promised() < ballot).then(|| format!("the highest durable promise is {}", disk.promised()))
    };
    match message {
        Message::Prepare { ballot, .. } => promise(*ballot),
        Message::Promise { ballot, accepted, .. } => promise(*ballot).or_else(|| {
            let lacking = accepted.iter().find(|report| !disk.has_accepted(report.body.id, report.ballot))?;
            Some(format!("the accept of {:?} at {} isn't durable", lacking.body, lacking.ballot))
        }),
        Message::Accepted { ballot, first, id } => (!disk.has_accepted(*id, *ballot))
            .then(|| format!("the accept at slot {first} isn't durable"))
            .or_else(|| promise(*ballot)),
        Message::HeartbeatReply { stable, .. } => {
            let claimed = oracle.chosen_from(checked).take_while(|chosen| chosen.body.end() <= *stable);
            let lacking = claimed.into_iter().find(|chosen| !disk.holds(chosen.body.id))?;
            Some(format!("{:?}, below the stable slot, isn't durable", lacking.body))
        }
        _ => None,
    }
}

/// Whether a message claims anything of its sender's log.
pub(super) fn is_claim(message: &Message) -> bool {
    matches!(
        message,
        Message::Prepare { .. } | Message::Promise { .. } | Message::Accepted { .. } | Message::HeartbeatReply { .. }
    )
}

pub(super) fn violation(node: usize, message: &Message, lacking: &str) -> Violation {
    Violation::new(Property::PersistBeforeSpeak, format!("{} sent {message:?}, but {lacking}", node_id(node)))
}

/// What a node has claimed must be in what is recovered from its disk.
pub(super) fn check_recovered(node: usize, spoken: Ballot, recovered: &RecoveredLog) -> Verdict {
    if recovered.promised >= spoken || recovered.unsure {
        return Ok(());
    }
    Err(Violation::new(
        Property::PersistBeforeSpeak,
        format!("{} recovers promise {}, but it had spoken of {spoken}", node_id(node), recovered.promised),
    ))
}

/// What a node claimed to hold durably must be in what is recovered from its disk.
pub(super) fn check_stable(node: usize, stable: Slot, recovered: &RecoveredLog, oracle: &Oracle) -> Verdict {
    if super::acked_durability::is_marred(recovered) {
        return Ok(());
    }
    let base = recovered.index.base().slot;
    let lacking = oracle
        .chosen_from(base)
        .take_while(|chosen| chosen.body.end() <= stable)
        .find(|chosen| recovered.index.get(chosen.body.first).is_none_or(|entry| entry.body != chosen.body));
    match lacking {
        None => Ok(()),
        Some(chosen) => Err(Violation::new(
            Property::PersistBeforeSpeak,
            format!("{} recovers without {:?}, but it had called slot {stable} stable", node_id(node), chosen.body),
        )),
    }
}
