//! What runs reach: every kind of message, refusal, record and recovery, counted. A test asks that all of them happen,
//! for a simulation that never gets somewhere proves nothing about it.

use std::collections::BTreeMap;
use std::fmt;

use synod_protocol::delivery::{Answer, Refusal};
use synod_protocol::{Doubt, Message, RejectReason};
use synod_wal::scan::HoleCause;
use synod_wal::{DamageCause, DamageClass, LogStats, RecordKind, RecoverError, RecoveredLog};

use crate::disk::Astray;
use crate::faults::partitions::Cut;

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
        "sent base",
        "installed a base",
        "crashed in an install",
        "trimmed past a member",
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
        "index page out",
        "index page in",
        "index page read failed",
        "delivered without bytes",
        "delivered a no-op",
        "delivered a trim",
        "upgraded a node",
        "downgraded a node",
        "proposed a format",
        "refused a format",
        "refused a hello for the format",
        "an older build refused its log",
        "chose a newer format",
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
        "a bit rotted",
        "a block can't be read",
        "a block can't be read for a while",
        "a block rotted",
        "a block was torn",
        "a file couldn't be had",
        "a log was full",
        "a node found its log damaged",
        "a node that crashes at every start",
        "a sector rotted",
        "a sync failed",
        "a wall clock that jumps",
        "a write failed",
        "a write was lost",
        "a write went to another file",
        "a write went to another place",
        "an old copy lacked something",
        "an old copy was put back",
        "answered a reader: fenced",
        "came together without some nodes",
        "copied a segment",
        "crashed a leader",
        "cut a segment short",
        "cut: chain",
        "cut: deaf",
        "cut: everything",
        "cut: flapping",
        "cut: groups",
        "cut: hub",
        "cut: mute",
        "cut: one way",
        "cut: pair",
        "damage: a block",
        "damage: a file cut short",
        "damage: a file is missing",
        "damage: a header",
        "damage: a segment is missing",
        "damage: an old block",
        "damage: corrupt",
        "damage: doubtful",
        "damage: in a record",
        "damage: no slots known",
        "damage: slots named",
        "everybody exposed to damage",
        "healed a body",
        "opened a damaged log",
        "recovered a doubt",
        "recovered an open doubt",
        "recovered chosen bodies without their bytes",
        "recovered unsure of the promise",
        "refused: doubtful",
        "everybody lost power",
        "left a node down for ever",
        "left clients without an answer",
        "logs of few files",
        "no start: duplicate",
        "no start: empty",
        "no start: identity",
        "paused a leader",
        "quorums: alike",
        "quorums: many accept",
        "quorums: many promise",
        "refused: disk full",
        "removed a segment",
        "restarted a fenced node",
        "saved a directory",
        "sent unavailable",
        "some exposed to damage",
        "started on a damaged disk",
        "stopped: no quorum of intact promises",
        "struck a footer",
        "struck a header",
        "struck a record or a seal",
        "struck zeros",
        "swapped directories",
        "lost a disk",
        "joined with a new store",
        "refused a node that isn't named",
        "an old copy ran",
        "timers that drift",
        "told a client: chosen",
        "sent a submission again",
        "delivered a session command",
        "delivered a ticket command",
        "delivered a trim with a delivery state",
        "refused a trim: no delivery state",
        "judged: delivered",
        "judged: duplicate",
        "judged: session evicted",
        "judged: number too old",
        "judged: number too far ahead",
        "judged: ticket superseded",
        "judged: ticket expired",
        "judged: unexpected slot",
        "told a client: refused",
        "wiped a directory",
    ];

    /// What takes ten thousand seeds to be reached for certain. Recovery can say a few things more, which no fault has
    /// brought about so far: that a segment's successor is missing, or that an end or a predecessor isn't as named.
    pub const RARE: &[&str] = &[
        "found out an old copy",
        "found out a twin",
        "heard news of a store that isn't named",
        "refused a store that isn't named",
        "a lost write that nobody could notice came true",
        "a read failed",
        "answered a reader: damaged",
        "damage: a lost header",
        "damage: a seal",
        "stopped: in doubt",
        "stopped: a chosen body has no intact copy",
    ];

    /// Notes that something was reached.
    pub fn note(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Notes what became of a log's index while the node ran.
    pub fn note_paging(&mut self, log: &LogStats) {
        for (what, count) in [
            ("index page out", log.pages_out),
            ("index page in", log.pages_in),
            ("index page read failed", log.page_reads_failed),
        ] {
            if count > 0 {
                *self.counts.entry(what).or_default() += count;
            }
        }
    }

    /// Notes what became of a submission, or of a command about sessions and tickets.
    pub fn note_answer(&mut self, answer: &Answer) {
        self.note(match answer {
            Answer::Delivered { .. } => "judged: delivered",
            Answer::Duplicate { .. } => "judged: duplicate",
            Answer::Refused(refusal) => match refusal {
                Refusal::SessionEvicted => "judged: session evicted",
                Refusal::SessionUnknown => "judged: session unknown",
                Refusal::SequenceTooOld { .. } => "judged: number too old",
                Refusal::SequenceAhead { .. } => "judged: number too far ahead",
                Refusal::TicketSuperseded { .. } => "judged: ticket superseded",
                Refusal::TicketExpired => "judged: ticket expired",
                Refusal::TicketUnknown => "judged: ticket unknown",
                Refusal::UnexpectedSlot { .. } => "judged: unexpected slot",
            },
        });
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
            Message::Base { .. } => "sent base",
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
                RejectReason::Doubtful => "refused: doubtful",
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
            RecordKind::Pack => "wrote pack",
            RecordKind::Trim => "wrote trim",
        });
    }

    /// Notes a cut.
    pub fn note_cut(&mut self, cut: Cut) {
        self.note(match cut {
            Cut::Nothing => "cut: nothing",
            Cut::Everything => "cut: everything",
            Cut::Groups(_) => "cut: groups",
            Cut::Deaf(_) => "cut: deaf",
            Cut::Mute(_) => "cut: mute",
            Cut::Pair(..) => "cut: pair",
            Cut::OneWay(..) => "cut: one way",
            Cut::Hub(_) => "cut: hub",
            Cut::Chain => "cut: chain",
            Cut::Links(_) => "cut: as a scenario says",
        });
    }

    /// Notes a write that went astray.
    pub fn note_astray(&mut self, astray: Astray) {
        self.note(match astray {
            Astray::Nowhere => "a write was lost",
            Astray::SameFile => "a write went to another place",
            Astray::OtherFile => "a write went to another file",
        });
    }

    /// Notes why a node doesn't start.
    pub fn note_refused(&mut self, error: &RecoverError) {
        self.note(match error {
            RecoverError::SegmentBytes(_) => "no start: segment size",
            RecoverError::List(_) => "no start: can't list",
            RecoverError::Read(_) => "no start: can't read",
            RecoverError::Empty => "no start: empty",
            RecoverError::Identity { .. } => "no start: identity",
            RecoverError::Header { .. } => "no start: header",
            RecoverError::Newer { .. } => "no start: newer format",
            RecoverError::Duplicate { .. } => "no start: duplicate",
            RecoverError::Missing { .. } => "no start: segment missing",
            RecoverError::Conflict { .. } => "no start: conflict",
            RecoverError::OtherGroup { .. } => "no start: other group",
        });
    }

    /// Notes a recovery.
    pub fn note_recovered(&mut self, recovered: &RecoveredLog) {
        for damage in &recovered.damages {
            self.note(match damage.class {
                DamageClass::Corrupt => "damage: corrupt",
                DamageClass::Doubtful => "damage: doubtful",
            });
            self.note(match &damage.cause {
                DamageCause::Hole(HoleCause::Head(_)) => "damage: a block",
                DamageCause::Hole(HoleCause::Blocks { .. }) => "damage: in a record",
                DamageCause::Hole(HoleCause::Old) => "damage: an old block",
                DamageCause::Hole(_) => "damage: an early end",
                DamageCause::Seal => "damage: a seal",
                DamageCause::End { .. } => "damage: another end",
                DamageCause::Previous { .. } => "damage: another predecessor",
                DamageCause::SegmentMissing { .. } => "damage: a segment is missing",
                DamageCause::SuccessorMissing => "damage: the last segment is missing",
                DamageCause::Header(_) => "damage: a header",
                DamageCause::HeaderLost { .. } => "damage: a lost header",
                DamageCause::FileBytes { .. } => "damage: a file cut short",
                DamageCause::FileMissing => "damage: a file is missing",
            });
            self.note(if damage.slots.is_some() { "damage: slots named" } else { "damage: no slots known" });
        }
        for doubt in &recovered.doubts {
            self.note(if doubt.end == Doubt::OPEN { "recovered an open doubt" } else { "recovered a doubt" });
        }
        if recovered.unsure {
            self.note("recovered unsure of the promise");
        }
        if !recovered.damaged.is_empty() {
            self.note("recovered chosen bodies without their bytes");
        }
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
        let unreached =
            Coverage::EXPECTED.iter().chain(Coverage::RARE).filter(|what| self.count(what) == 0).map(|what| (*what, 0));
        for (what, count) in self.counts.iter().map(|(what, count)| (*what, *count)).chain(unreached) {
            writeln!(f, "{count:12} {what}")?;
        }
        Ok(())
    }
}
