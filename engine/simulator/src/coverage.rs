//! What runs reach: every kind of message, refusal, record and recovery, counted. A test asks that all of them happen,
//! for a simulation that never gets somewhere proves nothing about it.

use std::collections::BTreeMap;
use std::fmt;

use synod_protocol::{Message, RejectReason};
use synod_wal::{RecordKind, RecoveredLog};

/// Names of what can be reached, each with a count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: BTreeMap<&'static str, u64>,
}

impl Coverage {
    /// What every thousand seeds reach.
    pub const EXPECTED: &[&str] = &[
        "sent pre-vote",
        "sent pre-vote granted",
        "sent prepare",
        "sent promise",
        "sent promise with accepts",
        "sent accept",
        "sent accepted",
        "sent heartbeat",
        "sent heartbeat reply",
        "sent fetch",
        "sent chosen",
        "sent fetch body",
        "sent supply",
        "refused: higher ballot",
        "refused: already chosen",
        "refused: leader alive",
        "wrote accepted",
        "wrote copied",
        "wrote promise",
        "wrote mark",
        "wrote trim",
        "wrote a seal",
        "wrote a rival body",
        "created a file",
        "zeroed a file",
        "read a record back",
        "delivered without bytes",
        "delivered a no-op",
        "delivered a trim",
        "several leaders at once",
        "recovered open bodies",
        "recovered a trimmed log",
        "recovered a cut",
        "recovered and discarded records",
        "crashed while opening",
        "went on with links cut",
        "answered a reader: trimmed",
        "answered a reader: not yet",
        "a barrier was reached",
        "a barrier was lost",
        "refused a barrier",
        "began a transfer",
        "refused a transfer",
        "refused a transfer: lagging",
        "refused a transfer: silent",
        "a transfer moved the leadership",
        "a transfer was rolled back",
        "sent resigned",
        "sent hand-over",
        "sent ask read point",
        "sent read point",
        "refused: not leader",
    ];

    /// Notes that something was reached.
    pub fn note(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Notes a message.
    pub fn note_sent(&mut self, message: &Message) {
        self.note(match message {
            Message::PreVote { .. } => "sent pre-vote",
            Message::PreVoteGranted { .. } => "sent pre-vote granted",
            Message::Prepare { .. } => "sent prepare",
            Message::Promise { accepted, .. } if accepted.is_empty() => "sent promise",
            Message::Promise { .. } => "sent promise with accepts",
            Message::Accept { .. } => "sent accept",
            Message::Accepted { .. } => "sent accepted",
            Message::Heartbeat { .. } => "sent heartbeat",
            Message::HeartbeatReply { .. } => "sent heartbeat reply",
            Message::Fetch { .. } => "sent fetch",
            Message::Chosen { .. } => "sent chosen",
            Message::FetchBody { .. } => "sent fetch body",
            Message::Supply { .. } => "sent supply",
            Message::Unavailable { .. } => "sent unavailable",
            Message::Resigned { .. } => "sent resigned",
            Message::HandOver { .. } => "sent hand-over",
            Message::AskReadPoint { .. } => "sent ask read point",
            Message::ReadPoint { .. } => "sent read point",
            Message::Reject { reason, .. } => match reason {
                RejectReason::HigherBallot { .. } => "refused: higher ballot",
                RejectReason::AlreadyChosen { .. } => "refused: already chosen",
                RejectReason::BeyondAlpha { .. } => "refused: beyond alpha",
                RejectReason::LeaderAlive { .. } => "refused: leader alive",
                RejectReason::BallotConflict { .. } => "refused: ballot conflict",
                RejectReason::DiskFull => "refused: disk full",
                RejectReason::WrongConfiguration { .. } => "refused: wrong configuration",
                RejectReason::NotLeader => "refused: not leader",
                RejectReason::UnknownIdentity => "refused: unknown identity",
                RejectReason::Overloaded { .. } => "refused: overloaded",
            },
        });
    }

    /// Notes a record.
    pub fn note_written(&mut self, kind: RecordKind) {
        self.note(match kind {
            RecordKind::Accepted => "wrote accepted",
            RecordKind::Chosen => "wrote chosen",
            RecordKind::Copied => "wrote copied",
            RecordKind::Healed => "wrote healed",
            RecordKind::Promise => "wrote promise",
            RecordKind::Configuration => "wrote configuration",
            RecordKind::Mark => "wrote mark",
            RecordKind::Trim => "wrote trim",
        });
    }

    /// Notes a recovery.
    pub fn note_recovered(&mut self, recovered: &RecoveredLog) {
        if recovered.index.iter_from(recovered.mark.slot).next().is_some() {
            self.note("recovered open bodies");
        }
        if recovered.index.base().slot > synod_protocol::Slot::FIRST {
            self.note("recovered a trimmed log");
        }
        if let Some(cut) = &recovered.cut {
            self.note(if cut.records_discarded > 0 { "recovered and discarded records" } else { "recovered a cut" });
        }
    }

    /// How often something was reached.
    pub fn count(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    /// Adds what another run reached.
    pub fn add(&mut self, other: &Coverage) {
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unreached = Coverage::EXPECTED.iter().filter(|what| self.count(what) == 0).map(|what| (*what, 0));
        for (what, count) in self.counts.iter().map(|(what, count)| (*what, *count)).chain(unreached) {
            writeln!(f, "{count:12} {what}")?;
        }
        Ok(())
    }
}
