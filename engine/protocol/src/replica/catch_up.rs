//! Fetching chosen bodies that were missed, and answering those who fetch.

use super::{Ballot, BodyHandle, LogEntry, Mark, Message, NodeId, Replica, RoleState, Slot};
use crate::effect::Effect;
use crate::time::Instant;

/// The highest mark heard from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct News {
    pub(super) from: NodeId,
    /// The leader's ballot, or zero if the speaker doesn't lead: then only the chain can prove anything.
    pub(super) ballot: Ballot,
    pub(super) mark: Mark,
}

/// What this replica knows to be chosen and doesn't have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct CatchUp {
    news: Option<News>,
    /// When to fetch, unless the missing bodies arrive by themselves.
    fetch_at: Option<Instant>,
    /// Who answered last. Whoever spoke of the missing bodies may be out of reach by now.
    source: Option<NodeId>,
    /// How often a fetch went unanswered; each turn asks another peer.
    attempts: u32,
    /// Where the last fetch began: bodies below belong to older answers.
    asked: Slot,
}

impl CatchUp {
    pub(super) fn news(&self) -> Option<News> {
        self.news
    }

    /// Whether there is news of a longer prefix.
    pub(super) fn is_wanting(&self) -> bool {
        self.news.is_some()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.fetch_at
    }

    /// Remembers news of a longer prefix than `own`; what it promises is fetched at `fetch_at`, unless it arrives.
    pub(super) fn note(&mut self, news: News, own: Mark, fetch_at: Instant) {
        if news.mark.slot <= own.slot {
            return;
        }
        // A leader's word proves more than another's, so at equal marks the higher ballot stays.
        if self.news.is_none_or(|known| (known.mark.slot, known.ballot) < (news.mark.slot, news.ballot)) {
            self.news = Some(news);
        }
        self.fetch_at.get_or_insert(fetch_at);
    }

    /// The prefix grew: give what is on its way time until `fetch_at`.
    pub(super) fn progress(&mut self, fetch_at: Instant) {
        self.attempts = 0;
        if self.fetch_at.is_some() {
            self.fetch_at = Some(fetch_at);
        }
    }

    pub(super) fn forget_reached(&mut self, slot: Slot) {
        if self.news.is_some_and(|news| news.mark.slot <= slot) {
            *self = CatchUp::default();
        }
    }
}

impl Replica {
    pub(super) fn catch_up_timeout(&mut self, now: Instant) {
        if self.catch_up.fetch_at.is_some_and(|at| now >= at) {
            self.fetch(now);
        }
    }

    /// Asks for the missing bodies: first whoever answered last or spoke of them, then the other peers in turn.
    fn fetch(&mut self, now: Instant) {
        let Some(news) = self.catch_up.news else { return };
        if self.disk_reserved {
            // What came would take the room that votes need; there may be some later.
            self.catch_up.fetch_at = Some(now.plus(self.settings.election_timeout));
            return;
        }
        let mut peers = self.peers();
        if !peers.contains(&news.from) {
            // It leads by a configuration that isn't known here yet.
            peers.push(news.from);
        }
        let start = peers.iter().position(|peer| *peer == self.catch_up.source.unwrap_or(news.from)).unwrap_or(0);
        let Some(peer) = peers.get((start + self.catch_up.attempts as usize) % peers.len().max(1)) else { return };
        self.catch_up.attempts += 1;
        self.catch_up.asked = self.mark.slot;
        self.catch_up.fetch_at = Some(now.plus(self.settings.retransmit_interval.saturating_mul(2)));
        self.send(*peer, Message::Fetch { from: self.mark.slot, bytes: self.settings.fetch_bytes });
    }

    /// Asks on where the last answer came from.
    pub(super) fn fetch_from(&mut self, now: Instant, source: NodeId) {
        self.catch_up.source = Some(source);
        self.catch_up.attempts = 0;
        self.fetch(now);
    }

    /// A peer that doesn't lead (or leads without proof) is ahead: fetch from it.
    pub(super) fn note_ahead(&mut self, now: Instant, from: NodeId, mark: Mark) {
        if self.compare_chain(from, mark) {
            self.learn_to(now, News { from, ballot: Ballot::ZERO, mark });
            self.leader_progress(now);
        }
    }

    pub(super) fn on_fetch(&mut self, to: NodeId, from: Slot, bytes: u32) {
        if from < self.mark.slot {
            self.effects.push_back(Effect::Serve { to, from, bytes, mark: self.mark });
        }
    }

    pub(super) fn on_chosen(&mut self, now: Instant, from: NodeId, body: BodyHandle, mark: Mark, last: bool) {
        if last && self.catch_up.asked < body.end() && body.end() <= self.mark.slot && self.catch_up.news.is_some() {
            // The last body of the newest answer was proved by an accept of this replica already. Ask on at once
            // nevertheless, or each answer that ends so would cost a wait.
            self.catch_up.source = Some(from);
            return self.fetch(now);
        }
        if body.first != self.mark.slot || body.end() > mark.slot || !self.compare_chain(from, mark) {
            return;
        }
        self.check_leadership(now, &body);
        let append = match self.accepted.get(&body.first) {
            // The body is in this log already, only the news was missing.
            Some(known) if known.body == body && !self.may_vanish(known) => known.append,
            _ => self.append(LogEntry::Copied { body, from }),
        };
        self.deliver(body, append);
        self.learn_to(now, News { from, ballot: Ballot::ZERO, mark });
        if self.halted {
            return;
        }
        if self.catch_up.news.is_some() {
            self.catch_up.source = Some(from);
            // The rest of the answer is on its way; after its end, ask on.
            self.catch_up.progress(now.plus(self.settings.retransmit_interval.saturating_mul(2)));
            if last {
                self.fetch(now);
            }
        }
        self.leader_progress(now);
    }

    /// A leader may learn from others only what it would have chosen itself.
    ///
    /// If another body than its own is chosen at a slot that it proposes, a higher ballot was at work. It must not
    /// speak as leader again: a follower takes a body accepted in the leader's ballot for the one below its mark.
    fn check_leadership(&mut self, now: Instant, body: &BodyHandle) {
        if let RoleState::Leader(leadership) = &self.role
            && !leadership.is_catching_up()
            && !leadership.proposed(body)
        {
            self.become_follower(now);
        }
    }

    /// The peer has trimmed what was asked for; the next turn asks another one.
    pub(super) fn on_unavailable(&mut self, now: Instant, available: Slot) {
        self.available = self.available.max(available);
        if self.catch_up.fetch_at.is_some() {
            self.catch_up.fetch_at = Some(now.plus(self.settings.retransmit_interval));
        }
    }
}
