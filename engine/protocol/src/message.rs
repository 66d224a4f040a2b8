//! What replicas say to each other, one variant a message. Messages that carry a body name it by its handle; the
//! driver attaches the bytes.

use std::time::Duration;

use crate::ballot::{Ballot, NodeId};
use crate::body::{BodyHandle, BodyId, Mark};
use crate::limits;
use crate::slot::Slot;

/// A body that an acceptor has accepted, with the ballot at which it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AcceptedBody {
    /// The ballot of the accept, not the one in which the body was made.
    pub ballot: Ballot,
    /// The body.
    pub body: BodyHandle,
}

/// Slots at which an acceptor may have accepted something that its disk has lost.
///
/// There its promise is no answer, unless somebody reports an accept at `bound` or above: whatever was lost is then
/// known, or dead (`engine/docs/protocol.md`, the doubt rule).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Doubt {
    /// The first slot in doubt.
    pub first: Slot,
    /// The slot after the last one in doubt; [`Doubt::OPEN`] if there is no telling.
    pub end: Slot,
    /// No ballot of anything lost is higher.
    pub bound: Ballot,
}

impl Doubt {
    /// The end of a doubt whose last slot can't be told.
    pub const OPEN: Slot = Slot(u64::MAX);

    /// Whether `slot` is in doubt.
    pub fn covers(&self, slot: Slot) -> bool {
        (self.first..self.end).contains(&slot)
    }

    /// Whether any slot of `body` is in doubt.
    pub fn overlaps(&self, body: &BodyHandle) -> bool {
        self.first < body.end() && body.first < self.end
    }
}

/// One message of the protocol; see the message table in `engine/docs/protocol.md`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    /// Asks whether a candidacy at `ballot` would be welcome. Changes nothing at the receiver.
    PreVote {
        /// The ballot that would be prepared.
        ballot: Ballot,
        /// The end of the sender's chosen prefix.
        from: Slot,
    },
    /// The receiver has no leader either and has promised nothing as high.
    PreVoteGranted {
        /// As asked.
        ballot: Ballot,
    },
    /// Phase 1a for every slot from `from` on.
    Prepare {
        /// The candidate's ballot; its own promise is durable.
        ballot: Ballot,
        /// Only what reaches beyond matters: the first slot that the candidate didn't know to be chosen when it began, or
        /// where a configuration begins to rule that a leader has to win as well.
        from: Slot,
    },
    /// Phase 1b, in parts of bounded size: everything the acceptor has accepted at or above its `mark`, as far as it
    /// reaches beyond what the candidate knows.
    Promise {
        /// As asked.
        ballot: Ballot,
        /// As asked: parts of answers to different questions don't fit together.
        from: Slot,
        /// The acceptor's chosen prefix; the candidate fetches what it lacks below it.
        mark: Mark,
        /// Number of this part, from zero.
        part: u32,
        /// How many parts there are; at least one.
        parts: u32,
        /// At most [`crate::limits::PROMISE_PART_MAX`] accepted bodies, ascending by slot.
        accepted: Vec<AcceptedBody>,
        /// At most [`crate::limits::DOUBTS_MAX`] ranges for which this promise is no answer; the same in every part.
        doubts: Vec<Doubt>,
    },
    /// Phase 2a for one body. The body's bytes travel with it.
    Accept {
        /// The leader's ballot.
        ballot: Ballot,
        /// The proposed body.
        body: BodyHandle,
        /// The leader's chosen prefix.
        mark: Mark,
    },
    /// Phase 2b: the body and the ballot are durable at the sender.
    Accepted {
        /// As proposed.
        ballot: Ballot,
        /// First slot of the body.
        first: Slot,
        /// Identity of the body.
        id: BodyId,
    },
    /// A refusal with its reason, answered at once.
    Reject {
        /// The ballot of the message that is refused.
        ballot: Ballot,
        /// Why, and what the sender can do about it.
        reason: RejectReason,
    },
    /// The leader lives, and this is its chosen prefix.
    Heartbeat {
        /// The leader's ballot.
        ballot: Ballot,
        /// The leader's chosen prefix.
        mark: Mark,
        /// Number of this heartbeat within the ballot, ascending: its answers confirm what was asked before it was sent.
        beat: u64,
        /// The end of what earlier ballots may have chosen, as phase 1 found out; zero while that isn't known.
        recovered: Slot,
    },
    /// A follower's answer to a heartbeat.
    HeartbeatReply {
        /// As heard.
        ballot: Ballot,
        /// The follower's chosen prefix.
        mark: Mark,
        /// The part of it that the follower would still know after a restart.
        stable: Slot,
        /// As heard.
        beat: u64,
        /// Whether the follower has no room for new commands.
        full: bool,
    },
    /// The leader of `ballot` leads no longer, of its own accord: nobody has to wait for its silence.
    Resigned {
        /// The ballot that is over.
        ballot: Ballot,
    },
    /// The leader of `ballot` wants the receiver to take over, without asking around first.
    HandOver {
        /// The leader's ballot.
        ballot: Ballot,
        /// The newest heartbeat sent: an old message of this kind moves nobody.
        beat: u64,
    },
    /// Asks the leader for a read point: a slot no lower than the end of everything acknowledged by now.
    AskReadPoint {
        /// The ballot in which the receiver was last heard to lead; a refusal names it.
        ballot: Ballot,
        /// The sender's process start: an answer to an earlier life of it proves nothing.
        boot: u64,
        /// The last barrier that the answer will serve.
        number: u64,
    },
    /// A quorum confirmed, after the question came in, that the sender leads: whoever has delivered everything below
    /// `slot` has read nothing stale.
    ReadPoint {
        /// As asked.
        boot: u64,
        /// As asked.
        number: u64,
        /// The read point.
        slot: Slot,
    },
    /// Asks for chosen bodies from `from` on, at most `bytes` of them (but at least one).
    Fetch {
        /// The sender's chosen prefix ends here.
        from: Slot,
        /// Bound of the answer.
        bytes: u32,
    },
    /// A chosen body, in answer to `Fetch`. The body's bytes travel with it.
    Chosen {
        /// The chosen body.
        body: BodyHandle,
        /// The sender's chosen prefix.
        mark: Mark,
        /// Whether this ends the answer.
        last: bool,
    },
    /// Asks for the bytes of a body that the receiver reported in a promise.
    FetchBody {
        /// First slot of the body.
        first: Slot,
        /// Its identity.
        id: BodyId,
    },
    /// A body's bytes, in answer to `FetchBody`; says nothing about its being chosen.
    Supply {
        /// The body.
        body: BodyHandle,
    },
    /// What was asked for in `Fetch` or `FetchBody` isn't there any more.
    Unavailable {
        /// First slot asked for.
        first: Slot,
        /// The first slot that the sender still has.
        available: Slot,
    },
    /// The sender's log begins above what was asked for in `Fetch`, and this is what it begins with: all that a log needs
    /// to begin there too.
    Base {
        /// A mark of the chosen prefix; everything below is trimmed.
        base: Mark,
        /// The trim that carries the delivery state for this base: its first slot, above the base, and its identity. None if the log
        /// never had a state there.
        trim: Option<(Slot, BodyId)>,
        /// Where the first configuration that the sender keeps was chosen; zero for genesis. All that came after it lie
        /// above the base.
        chosen_at: Slot,
        /// The bytes of that configuration's body, at most [`crate::limits::CONFIGURATION_BYTES_MAX`]; none if all know it,
        /// for it is genesis.
        configuration: Vec<u8>,
    },
}

impl Message {
    /// Whether it may count towards a quorum at its receiver: then it matters on which store its sender has made it durable.
    pub fn is_vote(&self) -> bool {
        matches!(
            self,
            Message::PreVoteGranted { .. }
                | Message::Promise { .. }
                | Message::Accepted { .. }
                | Message::HeartbeatReply { .. }
        )
    }

    /// The body whose bytes travel with the message.
    pub fn body(&self) -> Option<&BodyHandle> {
        match self {
            Message::Accept { body, .. } | Message::Chosen { body, .. } | Message::Supply { body } => Some(body),
            _ => None,
        }
    }

    /// Whether every position it names is one that an honest peer may name. Everything behind this check adds to
    /// slots and rounds without fear of overflow.
    pub(crate) fn is_plausible(&self) -> bool {
        let slot = |slot: Slot| slot.0 <= limits::SLOT_MAX;
        let mark = |mark: Mark| slot(mark.slot);
        let round = |ballot: Ballot| ballot.round <= limits::ROUND_MAX;
        let handle = |body: &BodyHandle| body.count > 0 && body.first >= Slot::FIRST && slot(body.first);
        match self {
            Message::PreVoteGranted { ballot } => round(*ballot),
            Message::PreVote { ballot, from } | Message::Prepare { ballot, from } => round(*ballot) && slot(*from),
            Message::Promise { ballot, from, mark: prefix, part, parts, accepted, doubts } => {
                let report = |report: &AcceptedBody| round(report.ballot) && handle(&report.body);
                let doubt = |doubt: &Doubt| doubt.first < doubt.end && slot(doubt.first) && round(doubt.bound);
                let sized = *parts <= limits::PROMISE_PARTS_MAX
                    && accepted.len() <= limits::PROMISE_PART_MAX
                    && doubts.len() <= limits::DOUBTS_MAX;
                let sound = accepted.iter().all(report) && doubts.iter().all(doubt);
                round(*ballot) && slot(*from) && mark(*prefix) && part < parts && sized && sound
            }
            Message::Accept { ballot, body, mark: prefix } => round(*ballot) && handle(body) && mark(*prefix),
            Message::Accepted { ballot, first, id: _ } => round(*ballot) && slot(*first),
            Message::Reject { ballot, reason } => {
                round(*ballot)
                    && match reason {
                        RejectReason::HigherBallot { promised } => round(*promised),
                        RejectReason::AlreadyChosen { mark: prefix } => mark(*prefix),
                        RejectReason::WrongConfiguration { slot: first, chosen_at } => slot(*first) && slot(*chosen_at),
                        _ => true,
                    }
            }
            Message::Heartbeat { ballot, mark: prefix, beat: _, recovered } => {
                round(*ballot) && mark(*prefix) && slot(*recovered)
            }
            Message::HeartbeatReply { ballot, mark: prefix, stable, beat: _, full: _ } => {
                round(*ballot) && mark(*prefix) && slot(*stable)
            }
            Message::Resigned { ballot } | Message::HandOver { ballot, .. } | Message::AskReadPoint { ballot, .. } => {
                round(*ballot)
            }
            Message::ReadPoint { slot: point, .. } => slot(*point),
            Message::Fetch { from, bytes: _ } => slot(*from),
            Message::Chosen { body, mark: prefix, last: _ } => handle(body) && mark(*prefix),
            Message::FetchBody { first, id: _ } => slot(*first),
            Message::Supply { body } => handle(body),
            Message::Unavailable { .. } => true,
            Message::Base { base, trim, chosen_at, configuration } => {
                let trim = trim.is_none_or(|(first, _)| slot(first) && first >= base.slot);
                mark(*base) && trim && slot(*chosen_at) && configuration.len() <= limits::CONFIGURATION_BYTES_MAX
            }
        }
    }
}

/// Why an acceptor refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectReason {
    /// A higher ballot was promised; to go on, prepare above it.
    HigherBallot {
        /// The highest promise.
        promised: Ballot,
    },
    /// The slots are chosen already up to the mark; fetch them.
    AlreadyChosen {
        /// The acceptor's chosen prefix.
        mark: Mark,
    },
    /// The slots lie beyond what alpha allows; wait for the prefix to grow.
    BeyondAlpha {
        /// The first slot that is refused.
        limit: Slot,
    },
    /// A leader is alive; no candidacy is welcome.
    LeaderAlive {
        /// Who leads.
        leader: NodeId,
    },
    /// Another body is accepted here at the same ballot: two processes share one identity. An alarm, never retried.
    BallotConflict {
        /// First slot of the body accepted before.
        first: Slot,
    },
    /// No room for client commands; no-ops, re-proposals, trims and what holds up the prefix are still taken.
    DiskFull,
    /// The sender isn't a member of any configuration that rules from `slot` on: it never was one, or was removed.
    WrongConfiguration {
        /// The first slot that the newest of them rules.
        slot: Slot,
        /// Where that one was chosen; zero for genesis.
        chosen_at: Slot,
    },
    /// The sender's store isn't the one that the configuration names.
    UnknownIdentity,
    /// A read point can only be had from a leader.
    NotLeader,
    /// The acceptor's disk may have lost a promise: it votes again once every other member has told it theirs.
    Doubtful,
    /// The acceptor has too much unwritten; try again after the given time.
    Overloaded {
        /// When to try again.
        retry_after: Duration,
    },
}
