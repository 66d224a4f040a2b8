//! Learning what is chosen: from the leader's mark, from a matching chain, or from a copy; and delivering it in order.

use super::{Ballot, BodyHandle, Mark, Message, NodeId, RejectReason, Replica, RoleState, Slot};
use crate::body::BodyKind;
use crate::effect::{AppendId, Effect, HaltReason};
use crate::limits::MARKS_REMEMBERED;
use crate::time::Instant;

use super::catch_up::News;

impl Replica {
    pub(super) fn on_heartbeat(
        &mut self,
        now: Instant,
        from: NodeId,
        ballot: Ballot,
        mark: Mark,
        (beat, recovered): (u64, Slot),
    ) {
        self.note_round(ballot);
        if ballot.node != from {
            return;
        }
        if ballot < self.promised {
            let reason = RejectReason::HigherBallot { promised: self.promised };
            return self.send(from, Message::Reject { ballot, reason });
        }
        if self.leader.is_some_and(|leader| ballot < leader) && self.live_leader(now).is_some() {
            // An old one that comes late: whoever leads at a higher ballot had the promises of a quorum. But if that one is
            // silent, it may have led under a configuration whose slots are all chosen, and this one leads on.
            return;
        }
        self.heard_leader(now, ballot);
        self.leader_beat = self.leader_beat.max(beat);
        self.confine_doubts(ballot, recovered);
        self.on_mark(now, from, ballot, mark);
        if self.unsure.is_some() {
            // An answer would confirm that no higher ballot was promised here: a vote like any other.
            return self.send(from, Message::Reject { ballot, reason: RejectReason::Doubtful });
        }
        if !self.halted {
            // The newest one heard, not the one that is answered: answers come in the order of their numbers then, and an older
            // claim never passes for a newer one.
            let beat = self.leader_beat;
            let (mark, stable, full) = (self.mark, self.proved, self.disk_full);
            self.send(from, Message::HeartbeatReply { ballot, mark, stable, beat, full });
        }
    }

    /// Takes the leader's chosen prefix, spoken in `ballot`.
    pub(super) fn on_mark(&mut self, now: Instant, from: NodeId, ballot: Ballot, mark: Mark) {
        if self.compare_chain(from, mark) {
            self.learn_to(now, News { from, ballot, mark });
        }
    }

    /// Delivers what `news` and the highest news before it prove to be chosen, and remembers what is still missing.
    ///
    /// A body accepted in the very ballot of the leader that speaks is the one that leader proposed, so the leader's
    /// mark proves it. A body accepted in another ballot is proved only if the chain over it comes out as the leader's.
    pub(super) fn learn_to(&mut self, now: Instant, news: News) {
        let before = self.mark;
        let earlier = self.catch_up.news();
        for news in [Some(news), earlier].into_iter().flatten() {
            while self.mark.slot < news.mark.slot {
                let Some(entry) = self.accepted.get(&self.mark.slot) else { break };
                if entry.ballot != news.ballot || entry.body.end() > news.mark.slot {
                    break;
                }
                let (body, append) = (entry.body, entry.append);
                self.deliver(body, append);
            }
            if self.mark.slot < news.mark.slot {
                self.learn_by_chain(news.mark);
            }
            if !self.compare_chain(news.from, news.mark) {
                return;
            }
        }
        let fetch_at = now.plus(self.settings.fetch_delay);
        if self.mark != before {
            self.catch_up.progress(fetch_at);
        }
        self.catch_up.note(news, self.mark, fetch_at);
        self.catch_up.forget_reached(self.mark.slot);
    }

    fn learn_by_chain(&mut self, target: Mark) {
        let mut mark = self.mark;
        let mut proved = Vec::new();
        while mark.slot < target.slot {
            let Some(entry) = self.accepted.get(&mark.slot) else { return };
            if entry.body.end() > target.slot {
                return;
            }
            mark = mark.after(&entry.body);
            proved.push((entry.body, entry.append));
        }
        if mark == target {
            for (body, append) in proved {
                self.deliver(body, append);
            }
        }
    }

    /// Hands out the next chosen body. `append` covers its record in this log.
    pub(super) fn deliver(&mut self, body: BodyHandle, append: AppendId) {
        let before = self.mark.slot;
        self.mark = self.mark.after(&body);
        // Whatever is left below the mark is dead: the chosen body of its slots is another one.
        self.accepted = self.accepted.split_off(&self.mark.slot);
        self.drop_doubts();
        if self.recent.len() == MARKS_REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(self.mark);
        if append <= self.durable && self.unstable.is_empty() {
            self.stable = self.mark.slot;
        } else {
            // Stability is a prefix: an older body may still be on its way to the disk.
            let covering = self.unstable.back().map_or(append, |(last, _)| append.max(*last));
            self.unstable.push_back((covering, self.mark.slot));
        }
        if let BodyKind::Trim { upto } = body.kind {
            self.trimmed = self.trimmed.max(upto.min(self.mark.slot));
        }
        self.learn_configuration(before, &body);
        if let RoleState::Leader(leadership) = &mut self.role {
            leadership.passed(self.mark.slot);
        }
        self.effects.push_back(Effect::Deliver { body, mark: self.mark });
        self.reach_barriers();
    }

    /// Compares a peer's mark with this replica's own history; halts on a difference.
    pub(super) fn compare_chain(&mut self, peer: NodeId, theirs: Mark) -> bool {
        let Ok(index) = self.recent.binary_search_by_key(&theirs.slot, |mark| mark.slot) else { return true };
        let ours = self.recent[index];
        if ours.chain != theirs.chain {
            self.halt(HaltReason::Diverged { ours, theirs, peer });
            return false;
        }
        true
    }
}
