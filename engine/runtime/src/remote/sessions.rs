//! The sessions that a client opens for itself, so that it may send again what it isn't sure of.
//!
//! A session remembers the answers to its last 64 numbers, so at most that many lie between the oldest number that isn't
//! answered and the newest one. A number that is given up without an answer would stay in the way for ever: its session is
//! retired then, and used up by what is under way in it.

use std::collections::BTreeSet;

use synod_protocol::delivery::{DeliveryLimits, SessionId};

/// Sessions used at the same time.
const SESSIONS_MAX: usize = 4;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    open: Vec<OwnSession>,
    /// One is asked for and not opened yet.
    pub(super) is_opening: bool,
}

#[derive(Debug)]
struct OwnSession {
    id: SessionId,
    next: u64,
    outstanding: BTreeSet<u64>,
    is_retired: bool,
}

impl OwnSession {
    fn has_room(&self) -> bool {
        let oldest = self.outstanding.first().copied().unwrap_or(self.next);
        !self.is_retired && self.next - oldest < u64::from(DeliveryLimits::CLUSTER.results_max)
    }
}

impl Sessions {
    /// A session was opened.
    pub(super) fn opened(&mut self, id: SessionId) {
        self.is_opening = false;
        self.open.push(OwnSession { id, next: 1, outstanding: BTreeSet::new(), is_retired: false });
    }

    /// A number for another submission.
    pub(super) fn take(&mut self) -> Option<(SessionId, u64)> {
        let session = self.open.iter_mut().find(|session| session.has_room())?;
        let sequence = session.next;
        session.next += 1;
        session.outstanding.insert(sequence);
        Some((session.id, sequence))
    }

    /// Whether [`Sessions::take`] has another number.
    pub(super) fn has_room(&self) -> bool {
        self.open.iter().any(OwnSession::has_room)
    }

    /// Whether another session should be opened.
    pub(super) fn wants_another(&self) -> bool {
        let usable = self.open.iter().filter(|session| !session.is_retired).count();
        !self.is_opening && !self.has_room() && usable < SESSIONS_MAX
    }

    /// A number was answered for good.
    pub(super) fn answered(&mut self, id: SessionId, sequence: u64) {
        for session in self.open.iter_mut().filter(|session| session.id == id) {
            session.outstanding.remove(&sequence);
        }
        self.open.retain(|session| !session.is_retired || !session.outstanding.is_empty());
    }

    /// Nothing new goes into any of them; those with nothing under way, to be closed.
    pub(super) fn end(&mut self) -> Vec<SessionId> {
        self.open.drain(..).filter(|session| session.outstanding.is_empty()).map(|session| session.id).collect()
    }

    /// Nothing new goes into this session: it is over, or a number was given up.
    pub(super) fn retire(&mut self, id: SessionId) {
        for session in self.open.iter_mut().filter(|session| session.id == id) {
            session.is_retired = true;
        }
        self.open.retain(|session| !session.is_retired || !session.outstanding.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use synod_protocol::Slot;

    use super::*;

    const ID: SessionId = SessionId(Slot(7));

    #[test]
    fn no_number_is_further_ahead_than_answers_are_kept() {
        let mut sessions = Sessions::default();
        assert!(sessions.wants_another() && sessions.take().is_none());
        sessions.opened(ID);
        for sequence in 1..=64 {
            assert_eq!(sessions.take(), Some((ID, sequence)));
        }
        assert_eq!(sessions.take(), None);
        assert!(sessions.wants_another());
        sessions.answered(ID, 2);
        assert_eq!(sessions.take(), None, "the oldest one counts");
        sessions.answered(ID, 1);
        assert_eq!(sessions.take(), Some((ID, 65)));
        assert_eq!(sessions.take(), Some((ID, 66)));
        assert_eq!(sessions.take(), None);
    }

    #[test]
    fn a_retired_session_is_used_up_and_forgotten() {
        let mut sessions = Sessions::default();
        sessions.opened(ID);
        sessions.take();
        sessions.take();
        sessions.answered(ID, 1);
        sessions.retire(ID);
        assert_eq!(sessions.take(), None);
        assert_eq!(sessions.open.len(), 1);
        sessions.answered(ID, 2);
        assert!(sessions.open.is_empty() && sessions.wants_another());
    }
}
