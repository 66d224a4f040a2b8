//! Words for what happens, short enough that a step fits a line.

use synod_protocol::{AcceptedBody, Ballot, BodyHandle, BodyKind, Mark, Message, RejectReason};

/// A ballot: round, node and life.
pub(crate) fn show_ballot(ballot: Ballot) -> String {
    if ballot.is_zero() { "none".into() } else { format!("{}.{}'{}", ballot.round, ballot.node, ballot.boot) }
}

/// A body: its slots, and where it was made.
pub(crate) fn show_body(body: &BodyHandle) -> String {
    let kind = match body.kind {
        BodyKind::Commands => "body",
        BodyKind::NoOp => "no-op",
        BodyKind::Configuration { .. } => "configuration",
        BodyKind::Trim { .. } => "trim",
        BodyKind::Session => "session command",
        BodyKind::Ticket => "ticket command",
    };
    let (round, node, boot) = ((body.id.0 >> 64) as u32, (body.id.0 >> 48) as u16, (body.id.0 >> 32) as u16);
    format!("{kind} {}..{} of {round}.n{node}'{boot}", body.first, body.end())
}

fn show_mark(mark: Mark) -> String {
    if mark == Mark::START { String::new() } else { format!(", chosen up to {}", mark.slot) }
}

/// A message.
pub(crate) fn show_message(message: &Message) -> String {
    match message {
        Message::Prepare { ballot, .. } => format!("prepare {}", show_ballot(*ballot)),
        Message::Promise { ballot, mark, accepted, .. } => {
            let report =
                |report: &AcceptedBody| format!("{} at {}", show_body(&report.body), show_ballot(report.ballot));
            let reports: Vec<String> = accepted.iter().map(report).collect();
            let reports = if reports.is_empty() { "nothing".into() } else { reports.join(" and ") };
            format!("promise {}, accepted {reports}{}", show_ballot(*ballot), show_mark(*mark))
        }
        Message::Accept { ballot, body, mark } => {
            format!("accept {} at {}{}", show_body(body), show_ballot(*ballot), show_mark(*mark))
        }
        Message::Accepted { ballot, first, .. } => format!("accepted slot {first} at {}", show_ballot(*ballot)),
        Message::Chosen { body, .. } => format!("chosen is {}", show_body(body)),
        Message::Heartbeat { ballot, mark, .. } => format!("heartbeat {}{}", show_ballot(*ballot), show_mark(*mark)),
        Message::HeartbeatReply { mark, .. } => format!("heartbeat heard{}", show_mark(*mark)),
        Message::Fetch { from, .. } => format!("fetch from slot {from} on"),
        Message::Reject { ballot, reason: RejectReason::HigherBallot { promised } } => {
            format!("refuse {}, promised {}", show_ballot(*ballot), show_ballot(*promised))
        }
        Message::Reject { ballot, reason } => format!("refuse {}: {reason:?}", show_ballot(*ballot)),
        other => format!("{other:?}"),
    }
}
