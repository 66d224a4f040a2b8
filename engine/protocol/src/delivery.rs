//! What becomes of chosen submissions: sessions, tickets and conditions, judged at delivery.
//!
//! A body that is chosen is in the log for ever; whether its submissions *count* is decided here. [`DeliveryState`] takes
//! the bodies in slot order and answers each submission: delivered, a duplicate of an earlier one of its session, or
//! refused. It is a function of the log alone: no clock, no chance, nothing of this node. So all replicas give the same
//! answers, and a replica that starts again comes to the same state from the same bodies.
//!
//! - A *session* makes retries harmless. It is opened by a command of the log and named by the slot of that command, so
//!   no two ever share a name. Its submissions are numbered from 1; the answers to the last `results_max` numbers are
//!   kept, so that a client may have that many under way. When there is no room for another session, the one that was
//!   used longest ago (in the order of slots) makes way; so does one that was idle for too long. Whoever uses it then is
//!   told so, and nothing takes effect.
//! - A *ticket* is the right to append, until a deadline or a newer ticket. It is named by the slot of the command that
//!   issued it. A submission under another than the newest ticket is refused: a deposed writer is fenced. Submissions
//!   without a ticket are as free as ever.
//! - A submission may name the slot that it *expects* for its first command.
//!
//! Time is the log's own: the highest leader time of the bodies so far, reckoned from the body that brings the first
//! session or ticket. While there are neither, nothing is kept, not even the time: the *empty* state is the same wherever
//! the log begins, so a log that never saw a session carries nothing.
//!
//! Left out: who may open what. Whoever may append may do all of this.

mod codec;
mod session;

use std::collections::BTreeMap;

use thiserror::Error;

use crate::slot::Slot;

pub use codec::StateError;
use session::Session;

/// Names a session: the slot of the command that opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub Slot);

/// Names a ticket: the slot of the command that issued it. A newer ticket has a larger name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TicketId(pub Slot);

/// How much is kept. All replicas of a cluster must use the same limits: they decide what is evicted when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryLimits {
    /// Sessions open at the same time; one at least.
    pub sessions_max: u32,
    /// Answers kept for each session, and so submissions that it may have under way; one at least.
    pub results_max: u32,
    /// A session that isn't used for longer than this, in microseconds of the log's time, is evicted.
    pub session_idle_us: u64,
}

impl DeliveryLimits {
    /// What every cluster uses: 1,024 sessions with 64 answers each, evicted after a day. In memory about 1.7 MiB at
    /// most, and 630 KiB as bytes: a trim carries them in one body.
    pub const CLUSTER: DeliveryLimits =
        DeliveryLimits { sessions_max: 1024, results_max: 64, session_idle_us: 24 * 3600 * 1_000_000 };
}

/// On what terms a submission is to be delivered. Without any, it always is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Terms {
    /// Once only: its session, and its number there, from 1 on.
    pub session: Option<(SessionId, u64)>,
    /// Only while this is the newest ticket, and good.
    pub ticket: Option<TicketId>,
    /// Only if its first command comes to stand at this slot.
    pub expected_slot: Option<Slot>,
}

impl Terms {
    /// None at all.
    pub const NONE: Terms = Terms { session: None, ticket: None, expected_slot: None };

    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        *self == Terms::NONE
    }
}

/// A submission as it stands in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// Its terms.
    pub terms: Terms,
    /// How many slots it fills; one at least.
    pub count: u32,
}

/// A command about sessions; fills one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionCommand {
    /// Opens a session, which is named by the slot of this command.
    Open,
    /// Closes one.
    Close(SessionId),
}

/// A command about tickets; fills one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TicketCommand {
    /// Issues a ticket, which is named by the slot of this command and supersedes every other.
    Issue {
        /// How long it is good, in microseconds of the log's time, counted from this command.
        lasts_us: u64,
    },
    /// Takes one back.
    Revoke(TicketId),
}

/// What became of a submission, or of a command about sessions and tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// It counts.
    Delivered {
        /// Its first slot.
        first: Slot,
    },
    /// It was delivered before; this copy counts for nothing.
    Duplicate {
        /// Where it was delivered.
        first: Slot,
    },
    /// It counts for nothing; whether a copy of it does or will, see [`Refusal::is_final`].
    Refused(Refusal),
}

impl Answer {
    /// Whether it counts.
    pub fn is_delivered(&self) -> bool {
        matches!(self, Answer::Delivered { .. })
    }
}

/// Why a submission was refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// Its session is over: evicted to make room or for being idle, or closed. Whether an earlier copy of the submission
    /// was delivered isn't known any more. Open another session.
    #[error("the session is over: it was evicted or closed")]
    SessionEvicted,
    /// No session has this name yet. A bug of the caller.
    #[error("there was never such a session")]
    SessionUnknown,
    /// Its number is so old that its answer isn't kept any more: it may have been delivered or not.
    #[error("the submission's number is too old: answers are kept from {oldest} on")]
    SequenceTooOld {
        /// The oldest number that would be answered.
        oldest: u64,
    },
    /// Its number is too far ahead: more submissions are under way than answers are kept. Wait for some of them.
    #[error("the submission's number is too far ahead of {highest}")]
    SequenceAhead {
        /// The highest number seen.
        highest: u64,
    },
    /// A newer ticket was issued: whoever has this one is deposed.
    #[error("the ticket is superseded by that of slot {}", newest.0)]
    TicketSuperseded {
        /// The newest ticket.
        newest: TicketId,
    },
    /// The ticket's time is over, or it was taken back.
    #[error("the ticket has expired or was revoked")]
    TicketExpired,
    /// No ticket has this name yet. A bug of the caller.
    #[error("there was never such a ticket")]
    TicketUnknown,
    /// Its first command came to stand at another slot than it expected.
    #[error("the submission came to stand at slot {actual}, which isn't the one that it expected")]
    UnexpectedSlot {
        /// Where it stands.
        actual: Slot,
    },
}

impl Refusal {
    /// Whether no copy of the submission was or ever will be delivered: a session keeps such a refusal like a position. The
    /// others say that nothing is known of earlier copies, or that this one came too early.
    pub fn is_final(self) -> bool {
        match self {
            Refusal::TicketSuperseded { .. }
            | Refusal::TicketExpired
            | Refusal::TicketUnknown
            | Refusal::UnexpectedSlot { .. } => true,
            Refusal::SessionEvicted
            | Refusal::SessionUnknown
            | Refusal::SequenceTooOld { .. }
            | Refusal::SequenceAhead { .. } => false,
        }
    }
}

/// The newest ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticket {
    id: TicketId,
    /// Not good any more once the log's time is past this.
    deadline_us: u64,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryState {
    limits: DeliveryLimits,
    /// The first slot that isn't judged yet.
    next: Slot,
    /// The log's time; zero while there are neither sessions nor a ticket.
    time_us: u64,
    sessions: BTreeMap<SessionId, Session>,
    /// The sessions by the slot of their last use, which no two share.
    by_use: BTreeMap<Slot, SessionId>,
    ticket: Option<Ticket>,
}

impl DeliveryState {
    /// The empty state before `next`.
    ///
    /// # Panics
    /// If a limit is zero: a bug of the caller.
    pub fn empty(limits: DeliveryLimits, next: Slot) -> DeliveryState {
        assert!(limits.sessions_max > 0 && limits.results_max > 0, "{limits:?} leave no room for any session");
        DeliveryState { limits, next, time_us: 0, sessions: BTreeMap::new(), by_use: BTreeMap::new(), ticket: None }
    }

    /// The first slot that isn't judged yet.
    pub fn next(&self) -> Slot {
        self.next
    }

    /// Whether there are neither sessions nor a ticket.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.ticket.is_none()
    }

    /// The log's time in microseconds since 1970, or zero while the state is empty.
    pub fn time_us(&self) -> u64 {
        self.time_us
    }

    /// How many sessions are open.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The ticket that counts, if there is one.
    pub fn ticket(&self) -> Option<TicketId> {
        self.ticket.map(|ticket| ticket.id)
    }

    /// The limits that it is held within.
    pub fn limits(&self) -> &DeliveryLimits {
        &self.limits
    }

    /// Delivers a body of commands that begins at `first` and was made at `leader_time_us`: adds the answer to each
    /// submission, in order, to `answers`.
    ///
    /// # Panics
    /// If the body isn't the next one: bodies are delivered in slot order, without a gap.
    pub fn deliver_commands(
        &mut self,
        first: Slot,
        leader_time_us: u64,
        submissions: impl IntoIterator<Item = Submitted>,
        answers: &mut Vec<Answer>,
    ) {
        self.begin(first, leader_time_us);
        for submission in submissions {
            let at = self.next;
            self.next = at.plus(u64::from(submission.count));
            answers.push(self.judge(at, &submission.terms));
        }
    }

    /// Delivers a command about sessions.
    ///
    /// # Panics
    /// As [`DeliveryState::deliver_commands`].
    pub fn deliver_session(&mut self, first: Slot, leader_time_us: u64, command: SessionCommand) -> Answer {
        self.begin(first, leader_time_us);
        self.next = first.plus(1);
        match command {
            SessionCommand::Open => {
                if self.sessions.len() >= self.limits.sessions_max as usize {
                    self.evict_oldest();
                }
                self.begin_time(leader_time_us);
                self.sessions.insert(SessionId(first), Session::opened(first, self.time_us));
                self.by_use.insert(first, SessionId(first));
            }
            SessionCommand::Close(id) => {
                let Some(session) = self.sessions.remove(&id) else {
                    return Answer::Refused(missing_session(id, first));
                };
                self.by_use.remove(&session.used);
                self.forget_time();
            }
        }
        Answer::Delivered { first }
    }

    /// Delivers a command about tickets.
    ///
    /// # Panics
    /// As [`DeliveryState::deliver_commands`].
    pub fn deliver_ticket(&mut self, first: Slot, leader_time_us: u64, command: TicketCommand) -> Answer {
        self.begin(first, leader_time_us);
        self.next = first.plus(1);
        match command {
            TicketCommand::Issue { lasts_us } => {
                self.begin_time(leader_time_us);
                let deadline_us = self.time_us.saturating_add(lasts_us);
                self.ticket = Some(Ticket { id: TicketId(first), deadline_us });
            }
            TicketCommand::Revoke(id) => {
                if let Err(refusal) = self.check_ticket(id, first) {
                    return Answer::Refused(refusal);
                }
                self.ticket = None;
                self.forget_time();
            }
        }
        Answer::Delivered { first }
    }

    /// Delivers a body of `count` slots that holds none of these.
    ///
    /// # Panics
    /// As [`DeliveryState::deliver_commands`].
    pub fn deliver_other(&mut self, first: Slot, count: u32, leader_time_us: u64) {
        self.begin(first, leader_time_us);
        self.next = first.plus(u64::from(count));
    }

    fn begin(&mut self, first: Slot, leader_time_us: u64) {
        assert_eq!(first, self.next, "bodies are delivered in slot order, without a gap");
        if self.is_empty() {
            return;
        }
        self.time_us = self.time_us.max(leader_time_us);
        while let Some((_, id)) = self.by_use.first_key_value() {
            // Who was used later was used at a later time: the first that isn't idle for too long ends the search.
            if self.time_us.saturating_sub(self.sessions[id].used_us) <= self.limits.session_idle_us {
                break;
            }
            self.evict_oldest();
        }
        self.ticket = self.ticket.filter(|ticket| self.time_us <= ticket.deadline_us);
        self.forget_time();
    }

    fn judge(&mut self, at: Slot, terms: &Terms) -> Answer {
        let Some((id, sequence)) = terms.session else {
            return self.check_conditions(at, terms);
        };
        let Some(session) = self.sessions.get_mut(&id) else {
            return Answer::Refused(missing_session(id, at));
        };
        self.by_use.remove(&session.used);
        self.by_use.insert(at, id);
        (session.used, session.used_us) = (at, self.time_us);
        match session.recall(sequence, self.limits.results_max) {
            Ok(None) => {}
            Ok(Some(kept)) => return kept,
            Err(refusal) => return Answer::Refused(refusal),
        }
        // A refusal is kept like a position: a copy that comes later mustn't be delivered after the client was told.
        let answer = self.check_conditions(at, terms);
        let session = self.sessions.get_mut(&id).expect("it was there a moment ago");
        session.keep(sequence, answer, self.limits.results_max);
        answer
    }

    fn check_conditions(&self, at: Slot, terms: &Terms) -> Answer {
        if let Some(id) = terms.ticket
            && let Err(refusal) = self.check_ticket(id, at)
        {
            return Answer::Refused(refusal);
        }
        if terms.expected_slot.is_some_and(|expected| expected != at) {
            return Answer::Refused(Refusal::UnexpectedSlot { actual: at });
        }
        Answer::Delivered { first: at }
    }

    fn check_ticket(&self, id: TicketId, at: Slot) -> Result<(), Refusal> {
        match self.ticket {
            Some(newest) if newest.id == id => Ok(()),
            _ if id.0 >= at => Err(Refusal::TicketUnknown),
            Some(newest) if newest.id > id => Err(Refusal::TicketSuperseded { newest: newest.id }),
            // A name of a slot that issued nothing, too: nobody remembers what lies so far back.
            _ => Err(Refusal::TicketExpired),
        }
    }

    fn evict_oldest(&mut self) {
        if let Some((_, id)) = self.by_use.pop_first() {
            self.sessions.remove(&id);
        }
    }

    /// Time begins with the first session or ticket.
    fn begin_time(&mut self, leader_time_us: u64) {
        if self.is_empty() {
            self.time_us = leader_time_us;
        }
    }

    /// The empty state knows no time.
    fn forget_time(&mut self) {
        if self.is_empty() {
            self.time_us = 0;
        }
    }
}

fn missing_session(id: SessionId, at: Slot) -> Refusal {
    if id.0 < at { Refusal::SessionEvicted } else { Refusal::SessionUnknown }
}

#[cfg(test)]
mod tests;
