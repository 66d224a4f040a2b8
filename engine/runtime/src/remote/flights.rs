//! Appends that left the intake and aren't answered yet: which are to be sent, which are on their way, and what is known
//! of those that were on their way when a connection was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use synod_frame::GroupId;
use synod_frame::client::{ClientRefusal, ClientRequest, encode_append, encode_request};
use synod_protocol::delivery::{Refusal, SessionId, Terms};
use synod_protocol::{Slot, SlotRange};

use super::answers::{Verdict, verdict};
use super::sessions::Sessions;
use crate::error::AppendError;
use crate::intake::{Outcome, Submission, Work};

/// Most submissions under way: what four sessions take.
const FLIGHTS_MAX: usize = 256;

/// An append's number here; older ones have lower numbers.
pub(super) type FlightId = u64;

/// See the module.
#[derive(Debug)]
pub(super) struct Flights {
    exactly_once: bool,
    bytes_max: u64,
    retry_within: Duration,
    all: BTreeMap<FlightId, Flight>,
    count: u64,
    bytes: u64,
    /// Not on their way; sent in this order.
    unsent: BTreeSet<FlightId>,
    pub(super) sessions: Sessions,
}

#[derive(Debug)]
struct Flight {
    submission: Submission,
    /// Its number in a session of this client's own.
    own: Option<(SessionId, u64)>,
    until: Instant,
    /// An earlier attempt may stand in the log, or may yet.
    is_doubtful: bool,
    /// Why it wasn't taken, when it was last refused.
    refused: AppendError,
}

impl Flight {
    /// Whether it may be sent again although it may stand in the log.
    fn is_repeatable(&self) -> bool {
        let has_session = matches!(self.submission.work(), Work::Commands { terms, .. } if terms.session.is_some());
        self.own.is_some() || has_session
    }

    /// Whether it is to be given a number of this client's own.
    fn wants_session(&self, exactly_once: bool) -> bool {
        let is_plain = matches!(self.submission.work(), Work::Commands { terms, .. } if terms.session.is_none());
        exactly_once && is_plain && self.own.is_none()
    }
}

/// What a refusal means for the connection that it came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consequence {
    /// None.
    Stay,
    /// Wait before sending more.
    Pause(Duration),
    /// Another node leads, there if it is known.
    Leave(Option<std::net::SocketAddr>),
}

impl Flights {
    pub(super) fn new(exactly_once: bool, bytes_max: u64, retry_within: Duration) -> Flights {
        Flights {
            exactly_once,
            bytes_max,
            retry_within,
            all: BTreeMap::new(),
            count: 0,
            bytes: 0,
            unsent: BTreeSet::new(),
            sessions: Sessions::default(),
        }
    }

    /// Whether another submission may leave the intake.
    pub(super) fn has_room(&self) -> bool {
        let has_session = !self.exactly_once || self.sessions.has_room();
        self.unsent.is_empty() && self.all.len() < FLIGHTS_MAX && self.bytes < self.bytes_max && has_session
    }

    /// Whether something waits for a session to be opened.
    pub(super) fn wants_session(&self, intake_is_empty: bool) -> bool {
        let waits = !intake_is_empty || !self.unsent.is_empty();
        self.exactly_once && waits && self.all.len() < FLIGHTS_MAX && self.sessions.wants_another()
    }

    /// A submission has left the intake.
    pub(super) fn add(&mut self, submission: Submission) {
        self.count += 1;
        self.bytes += bytes_of(&submission);
        let until = Instant::now() + self.retry_within;
        let refused = AppendError::NoLeader;
        self.all.insert(self.count, Flight { submission, own: None, until, is_doubtful: false, refused });
        self.unsent.insert(self.count);
    }

    /// Whether nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether something is there to be sent.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Lays out the next one under a request's number; none if there is none, or it lacks a session.
    pub(super) fn send_next(&mut self, group: GroupId, request: u64, into: &mut Vec<u8>) -> Option<FlightId> {
        let id = *self.unsent.first()?;
        let flight = self.all.get_mut(&id).expect("what is unsent is under way");
        if flight.wants_session(self.exactly_once) {
            flight.own = Some(self.sessions.take()?);
        }
        self.unsent.remove(&id);
        let (envelope, payload) = match flight.submission.work() {
            Work::Commands { batch, terms } => {
                let terms = Terms { session: terms.session.or(flight.own), ..*terms };
                let within = flight.submission.deadline.map_or(Duration::ZERO, |deadline| {
                    deadline.saturating_duration_since(Instant::now()).max(Duration::from_micros(1))
                });
                encode_append(request, group, batch, &terms, within)
            }
            Work::Session(command) => encode_request(&ClientRequest::Session { request, group, command: *command }),
            Work::Ticket(command) => encode_request(&ClientRequest::Ticket { request, group, command: *command }),
        };
        into.extend_from_slice(&envelope);
        into.extend_from_slice(&payload);
        Some(id)
    }

    /// It is chosen and counts.
    pub(super) fn appended(&mut self, id: FlightId, slots: SlotRange) {
        self.finish(id, Ok(slots));
    }

    /// A command about sessions or tickets was carried out.
    pub(super) fn done(&mut self, id: FlightId, slot: Slot) {
        self.finish(id, Ok(slot..slot.plus(1)));
    }

    /// It was refused.
    pub(super) fn refused(&mut self, id: FlightId, refusal: ClientRefusal) -> Consequence {
        let Some(flight) = self.all.get_mut(&id) else { return Consequence::Stay };
        match verdict(refusal, flight.submission.work()) {
            Verdict::Elsewhere(address, error) => {
                flight.refused = error;
                self.unsent.insert(id);
                Consequence::Leave(address)
            }
            Verdict::Later(after) => {
                flight.refused = AppendError::Overloaded;
                self.unsent.insert(id);
                Consequence::Pause(after)
            }
            Verdict::Doubtful => {
                self.doubt(id);
                Consequence::Stay
            }
            Verdict::Final(AppendError::Refused(refusal)) if flight.own.is_some() && !refusal.is_final() => {
                self.session_is_over(id, refusal);
                Consequence::Stay
            }
            // Of this attempt. An earlier one may stand in the log all the same, unless a session says otherwise.
            Verdict::Final(error) => {
                let is_known = !flight.is_doubtful || matches!(&error, AppendError::Refused(_));
                self.finish(id, Err(if is_known { error } else { AppendError::Unknown }));
                Consequence::Stay
            }
        }
    }

    /// The connection is lost that these were sent over.
    pub(super) fn lost(&mut self, ids: impl IntoIterator<Item = FlightId>) {
        for id in ids {
            self.doubt(id);
        }
    }

    /// It may stand in the log: it is sent again if a session takes care of that.
    fn doubt(&mut self, id: FlightId) {
        let Some(flight) = self.all.get_mut(&id) else { return };
        flight.is_doubtful = true;
        if flight.is_repeatable() {
            self.unsent.insert(id);
        } else {
            self.finish(id, Err(AppendError::Unknown));
        }
    }

    /// The client's own session doesn't know this submission, or doesn't know any more.
    fn session_is_over(&mut self, id: FlightId, refusal: Refusal) {
        let Some(flight) = self.all.get_mut(&id) else { return };
        let Some((session, sequence)) = flight.own.take() else { return };
        self.sessions.retire(session);
        self.sessions.answered(session, sequence);
        if flight.is_doubtful {
            self.finish(id, Err(AppendError::Unknown));
        } else {
            tracing::debug!(%refusal, "a session of this client is over");
            // Sent only once, and that copy doesn't count: another session may have it.
            self.unsent.insert(id);
        }
    }

    /// Answers those whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        let is_late = |flight: &Flight| flight.submission.is_late(now) || flight.until <= now;
        let late: Vec<FlightId> = self.all.iter().filter(|(_, flight)| is_late(flight)).map(|(id, _)| *id).collect();
        for id in late {
            let error = match &self.all[&id] {
                flight if flight.is_doubtful || !self.unsent.contains(&id) => AppendError::Unknown,
                flight if flight.submission.is_late(now) => AppendError::DeadlinePassed,
                flight => flight.refused.clone(),
            };
            self.finish(id, Err(error));
        }
    }

    /// Answers all of them: nobody will find out what becomes of them.
    pub(super) fn abandon(&mut self) {
        for id in self.all.keys().copied().collect::<Vec<_>>() {
            let is_doubtful = self.all[&id].is_doubtful || !self.unsent.contains(&id);
            self.finish(id, Err(if is_doubtful { AppendError::Unknown } else { AppendError::Shutdown }));
        }
    }

    fn finish(&mut self, id: FlightId, outcome: Outcome) {
        let Some(flight) = self.all.remove(&id) else { return };
        self.bytes -= bytes_of(&flight.submission);
        self.unsent.remove(&id);
        if let Some((session, sequence)) = flight.own {
            // A number that nobody waits for any more would be in the way of later ones.
            if matches!(outcome, Err(AppendError::Unknown)) {
                self.sessions.retire(session);
            }
            self.sessions.answered(session, sequence);
        }
        flight.submission.answer(outcome);
    }
}

fn bytes_of(submission: &Submission) -> u64 {
    match submission.work() {
        Work::Commands { batch, .. } => batch.bytes().len() as u64,
        Work::Session(_) | Work::Ticket(_) => 0,
    }
}
