//! What happens, in words: for traces that somebody reads. Nothing here goes into the hash of a trace.

use synod_protocol::{AcceptedBody, Ballot, BodyHandle, BodyId, BodyKind, Doubt, Mark, Message, RejectReason};
use synod_wal::{RecordKind, ReplicaStatus};

use crate::durability::Record;
use crate::faults::partitions::Cut;
use crate::network::node_id;

/// The name of a kind of message, as scenarios use it.
pub fn kind(message: &Message) -> &'static str {
    match message {
        Message::PreVote { .. } => "pre-vote",
        Message::PreVoteGranted { .. } => "pre-vote-granted",
        Message::Prepare { .. } => "prepare",
        Message::Promise { .. } => "promise",
        Message::Accept { .. } => "accept",
        Message::Accepted { .. } => "accepted",
        Message::Reject { .. } => "reject",
        Message::Heartbeat { .. } => "heartbeat",
        Message::HeartbeatReply { .. } => "heartbeat-reply",
        Message::Fetch { .. } => "fetch",
        Message::Chosen { .. } => "chosen",
        Message::FetchBody { .. } => "fetch-body",
        Message::Supply { .. } => "supply",
        Message::Unavailable { .. } => "unavailable",
        Message::Base { .. } => "base",
        Message::Resigned { .. } => "resigned",
        Message::HandOver { .. } => "hand-over",
        Message::AskReadPoint { .. } => "ask-read-point",
        Message::ReadPoint { .. } => "read-point",
    }
}

/// A message in words.
pub fn message(message: &Message) -> String {
    match message {
        Message::PreVote { ballot, .. } => format!("pre-vote: would {} be welcome?", short(*ballot)),
        Message::PreVoteGranted { ballot } => format!("pre-vote granted: {} would be welcome", short(*ballot)),
        Message::Prepare { ballot, from } => format!("prepare {} for slots from {from} on", short(*ballot)),
        Message::Promise { ballot, from: _, mark, part, parts, accepted, doubts } => {
            let reports: Vec<String> = accepted.iter().map(accepted_body).collect();
            let reports = if reports.is_empty() { "nothing".into() } else { reports.join(", ") };
            let part = if *parts > 1 { format!(", part {} of {parts}", part + 1) } else { String::new() };
            let doubts: String = doubts.iter().map(doubt).collect();
            format!("promise {}, {}; accepted: {reports}{doubts}{part}", short(*ballot), chosen_to(*mark))
        }
        Message::Accept { ballot, body: handle, mark } => {
            format!("accept {} at {}; {}", body(handle), short(*ballot), chosen_to(*mark))
        }
        Message::Accepted { ballot, first, id } => {
            format!("accepted slot {first} ({}) at {}", short_id(*id), short(*ballot))
        }
        Message::Reject { ballot, reason } => format!("refuses {}: {}", short(*ballot), refusal(reason)),
        Message::Heartbeat { ballot, mark, .. } => format!("heartbeat of {}; {}", short(*ballot), chosen_to(*mark)),
        Message::HeartbeatReply { ballot, mark, stable, .. } => {
            format!("heartbeat reply to {}; {}, stable below {stable}", short(*ballot), chosen_to(*mark))
        }
        Message::Fetch { from, bytes } => format!("fetch what is chosen from slot {from} on, {bytes} bytes at most"),
        Message::Chosen { body: handle, mark, last } => {
            let last = if *last { ", the last of the answer" } else { "" };
            format!("chosen {}; {}{last}", body(handle), chosen_to(*mark))
        }
        Message::FetchBody { first, id } => format!("fetch body {} at slot {first}", short_id(*id)),
        Message::Supply { body: handle } => format!("supply {}", body(handle)),
        Message::Unavailable { first, available } => {
            format!("slot {first} isn't there, the log begins at {available}")
        }
        Message::Base { base, trim, chosen_at, .. } => {
            let state = trim.map_or("no delivery state".into(), |(first, _)| format!("the trim at slot {first}"));
            format!("the log begins at {}, with {state} and the configuration of slot {chosen_at}", base.slot)
        }
        Message::Resigned { ballot } => format!("resigned: {} leads no longer", short(*ballot)),
        Message::HandOver { ballot, beat } => {
            format!("hand-over: take over from {}, if heartbeat {beat} is the last", short(*ballot))
        }
        Message::AskReadPoint { ballot, number, .. } => {
            format!("ask {} for a read point, for barriers up to {number}", short(*ballot))
        }
        Message::ReadPoint { number, slot, .. } => {
            format!("read point {slot}, for barriers up to {number}")
        }
    }
}

fn refusal(reason: &RejectReason) -> String {
    match reason {
        RejectReason::HigherBallot { promised } => format!("{} is promised", short(*promised)),
        RejectReason::AlreadyChosen { mark } => format!("already chosen, {}", chosen_to(*mark)),
        RejectReason::BeyondAlpha { limit } => format!("slots from {limit} on are beyond alpha"),
        RejectReason::LeaderAlive { leader } => format!("{leader} leads and is alive"),
        RejectReason::BallotConflict { first } => format!("another body was accepted at slot {first} in this ballot"),
        RejectReason::DiskFull => "the disk is full".into(),
        RejectReason::WrongConfiguration { slot, chosen_at } => {
            format!("by the configuration of slot {chosen_at}, the sender isn't a member from {slot} on")
        }
        RejectReason::UnknownIdentity => "the sender's store is unknown".into(),
        RejectReason::NotLeader => "doesn't lead".into(),
        RejectReason::Doubtful => "may have lost a promise".into(),
        RejectReason::Overloaded { retry_after } => format!("overloaded, again in {retry_after:?}"),
    }
}

/// A doubt in words.
pub fn doubt(doubt: &Doubt) -> String {
    let slots = match doubt.end {
        Doubt::OPEN => format!("{} and later", doubt.first),
        end => format!("{}..{end}", doubt.first),
    };
    format!(", in doubt: {slots}, up to {}", short(doubt.bound))
}

fn accepted_body(report: &AcceptedBody) -> String {
    format!("{} at {}", body(&report.body), short(report.ballot))
}

/// A body in words.
pub fn body(handle: &BodyHandle) -> String {
    let kind = match handle.kind {
        BodyKind::Commands => "commands".to_string(),
        BodyKind::NoOp => "no-op".into(),
        BodyKind::Trim { upto } => format!("trim below {upto}"),
        BodyKind::Configuration { .. } => "configuration".into(),
        BodyKind::Session => "session command".into(),
        BodyKind::Ticket => "ticket command".into(),
    };
    format!("{}..{} {kind} ({})", handle.first, handle.end(), short_id(handle.id))
}

/// A ballot with the first digits of its boot number, which are enough to tell the lives of one node apart.
pub fn short(ballot: Ballot) -> String {
    format!("{}.{}.{:04x}", ballot.round, ballot.node, ballot.boot >> 48)
}

/// The first digits of a body's identity.
fn short_id(id: BodyId) -> String {
    format!("{:06x}", id.0 >> 104)
}

fn chosen_to(mark: Mark) -> String {
    format!("chosen below {}", mark.slot)
}

/// A record that is written, in words.
pub fn record(record: &Record) -> String {
    let meta = &record.meta;
    let what = record.body.as_ref().map(body).unwrap_or_default();
    let head = match meta.kind {
        RecordKind::Accepted => format!("accepted {what} at {}", short(meta.ballot)),
        RecordKind::Copied => format!("copied {what}"),
        RecordKind::Promise => "promise".to_string(),
        RecordKind::Mark => "mark".to_string(),
        kind => format!("{kind:?} {what}"),
    };
    format!("{head}; promised {}, {}", short(meta.promised), chosen_to(meta.mark))
}

/// What a node thinks, in words.
pub fn status(status: &ReplicaStatus, log_open: bool) -> String {
    let protocol = &status.protocol;
    let leader = protocol.leader.map_or("nobody".to_string(), short);
    let peers: Vec<String> = protocol
        .peers
        .iter()
        .map(|peer| {
            let sent = peer.outstanding_bytes;
            format!("{} chosen below {}, stable below {}, {sent} bytes on their way", peer.node, peer.mark, peer.stable)
        })
        .collect();
    let mut words = format!(
        "is {:?} under {leader}, promised {}, {}, stable below {}, kept from {}, {} open bodies",
        protocol.role,
        short(protocol.promised),
        chosen_to(protocol.mark),
        protocol.stable,
        protocol.trimmed,
        protocol.open_bodies
    );
    if !peers.is_empty() {
        words += &format!(" ({})", peers.join("; "));
    }
    for (holds, what) in
        [(protocol.halted, "it has halted"), (status.fenced, "it is fenced"), (!log_open, "its log isn't open yet")]
    {
        if holds {
            words += &format!(", {what}");
        }
    }
    words
}

/// Links that are cut, in words.
pub fn cut(cut: Cut, nodes: usize) -> String {
    let name = |set: u32| -> Vec<String> {
        (0..nodes).filter(|node| set >> node & 1 == 1).map(|node| node_id(node).to_string()).collect()
    };
    match cut {
        Cut::Nothing => "all links are whole".into(),
        Cut::Everything => "no node reaches another".into(),
        Cut::Groups(set) => format!("{} | {}", name(set).join(" "), name(!set).join(" ")),
        Cut::Deaf(node) => format!("{} hears nobody", node_id(node)),
        Cut::Mute(node) => format!("nobody hears {}", node_id(node)),
        Cut::Pair(one, other) => format!("{} and {} don't reach each other", node_id(one), node_id(other)),
        Cut::OneWay(sender, receiver) => format!("{} doesn't reach {}", node_id(sender), node_id(receiver)),
        Cut::Hub(hub) => format!("only {} is reached, and reaches others", node_id(hub)),
        Cut::Chain => "only neighbours reach each other".into(),
        Cut::Links(links) => {
            let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
            let cut: Vec<String> = pairs
                .filter(|(from, to)| links.contains(*from, *to))
                .map(|(from, to)| format!("{} -> {}", node_id(from), node_id(to)))
                .collect();
            if cut.is_empty() { "all links are whole".into() } else { format!("cut off: {}", cut.join(", ")) }
        }
    }
}
