//! The leader: closing what earlier ballots left open, phase 2 pipelined within window and alpha, retransmission.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::barrier::Question;
use super::peer::Peer;
use super::phase_one::{END, Extension, Promised};
use super::plan::{Planned, recovery_plan};
use super::transfer::Transfer;
use super::{
    AcceptedBody, Ballot, BodyHandle, BodyId, Configuration, Mark, Message, NodeId, Opening, PeerStatus, ProposeError,
    Replica, RoleState, Slot,
};
use crate::body::BodyKind;
use crate::effect::{AppendId, Effect, HaltReason};
use crate::limits;
use crate::time::Instant;

/// What a replica keeps while it leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Leadership {
    pub(super) ballot: Ballot,
    stage: Stage,
    /// What phase 1 left to do, in slot order.
    pub(super) plan: VecDeque<Planned>,
    /// Revealed bodies whose bytes were asked for.
    obtaining: BTreeMap<Slot, Obtaining>,
    /// Compositions asked for and not yet proposed, by first slot. What wasn't asked for in this very leadership is
    /// never proposed: an answer to an earlier one may lie where something else is chosen by now.
    pub(super) composing: BTreeMap<Slot, (u32, BodyKind)>,
    /// Proposed and not yet chosen.
    open: BTreeMap<Slot, Proposal>,
    open_bytes: u64,
    /// Chosen out of order: the prefix before them isn't, yet.
    chosen_ahead: BTreeMap<Slot, BodyHandle>,
    /// The own appends that aren't durable yet, in order.
    own_pending: VecDeque<(AppendId, Slot)>,
    pub(super) next_slot: Slot,
    /// Below it, phase 1 is won for the configuration that rules; [`END`] if it is for all that are known.
    pub(super) prepared_to: Slot,
    /// Phase 1 for the configuration that rules behind.
    pub(super) extension: Option<Extension>,
    /// The configuration that is proposed and not yet chosen.
    pub(super) proposed: Option<Configuration>,
    /// Nothing was or will be chosen below this ballot from `recovered` on.
    pub(super) is_settled: bool,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    /// Whether the peers must be compared with the configurations.
    pub(super) has_new_peers: bool,
    /// How often it tried to hand over, for it has no vote any more.
    pub(super) aside: u32,
    heartbeat_at: Instant,
    /// When to tell of the last choice, unless a body that is proposed before does.
    news_at: Option<Instant>,
    resend_at: Instant,
    /// Number of the last heartbeat.
    pub(super) beat: u64,
    /// The marks that the last heartbeats told of.
    beats: VecDeque<(u64, Slot)>,
    /// Read points asked for and not confirmed yet, at most one of each member a heartbeat.
    pub(super) questions: Vec<Question>,
    pub(super) transfer: Option<Transfer>,
    /// Before this a full leader doesn't try again to hand over.
    pub(super) relieved_at: Instant,
    /// Where recovery stood when it last came a step further, and when that was.
    progress: (Slot, Instant),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// A promise told of a longer chosen prefix: fetch it first.
    CatchingUp { target: Slot, reports: Vec<(AcceptedBody, NodeId)> },
    /// Proposing: first the plan, then new bodies. What earlier ballots chose lies below `recovered`.
    Proposing { recovered: Slot },
}

/// Heartbeats whose marks are remembered: an answer is rarely older.
const BEATS_REMEMBERED: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Obtaining {
    body: BodyHandle,
    holders: Vec<NodeId>,
    attempts: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Proposal {
    body: BodyHandle,
    acks: Vec<NodeId>,
    sent_at: Instant,
}

impl Leadership {
    pub(super) fn is_recovering(&self) -> bool {
        self.is_catching_up() || !self.plan.is_empty() || !self.obtaining.is_empty()
    }

    pub(super) fn is_catching_up(&self) -> bool {
        matches!(self.stage, Stage::CatchingUp { .. })
    }

    /// The end of what earlier ballots may have chosen, once the plan is made.
    pub(super) fn recovered(&self) -> Option<Slot> {
        match &self.stage {
            Stage::CatchingUp { .. } => None,
            Stage::Proposing { recovered } => Some(*recovered),
        }
    }

    /// The same, once that is certain for all time.
    pub(super) fn settled(&self) -> Option<Slot> {
        self.recovered().filter(|_| self.is_settled)
    }

    pub(super) fn confine_recovered(&mut self, end: Slot) {
        if let Stage::Proposing { recovered } = &mut self.stage {
            *recovered = end.min(*recovered);
        }
    }

    pub(super) fn extend_recovered(&mut self, end: Slot) {
        if let Stage::Proposing { recovered } = &mut self.stage {
            *recovered = end.max(*recovered);
        }
    }

    /// Whether the plan, or what came of it, may choose a configuration.
    pub(super) fn may_adopt_configuration(&self) -> bool {
        let planned =
            self.plan.iter().any(|step| matches!(step, Planned::Adopt { body, .. } if body.kind.is_configuration()));
        let open = self.open.values().map(|proposal| proposal.body).chain(self.obtaining.values().map(|o| o.body));
        planned || open.chain(self.chosen_ahead.values().copied()).any(|body| body.kind.is_configuration())
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_recovering() && self.open.is_empty() && self.composing.is_empty() && self.chosen_ahead.is_empty()
    }

    pub(super) fn deadline(&self) -> Instant {
        let first = self.speaks_at().min(self.resend_at);
        self.transfer.map_or(first, |transfer| transfer.deadline.min(first))
    }

    /// When the next heartbeat is due.
    fn speaks_at(&self) -> Instant {
        self.news_at.map_or(self.heartbeat_at, |news_at| news_at.min(self.heartbeat_at))
    }

    pub(super) fn peer(&self, node: NodeId) -> Option<&Peer> {
        self.peers.get(&node)
    }

    /// Who has answered heartbeat `beat` or a later one.
    pub(super) fn answered(&self, beat: u64) -> Vec<NodeId> {
        self.peers.iter().filter(|(_, peer)| peer.beat >= beat).map(|(node, _)| *node).collect()
    }

    /// The last heartbeat that each peer answered.
    pub(super) fn answered_beats(&self) -> impl Iterator<Item = u64> + '_ {
        self.peers.values().map(|peer| peer.beat)
    }

    pub(super) fn open_bodies(&self) -> u32 {
        self.open.len() as u32
    }

    /// What it knows of its peers, in a log that is trimmed up to `trimmed`.
    pub(super) fn peers(&self, trimmed: Slot) -> Vec<PeerStatus> {
        let status = |(node, peer): (&NodeId, &Peer)| PeerStatus {
            node: *node,
            mark: peer.mark,
            stable: peer.stable,
            outstanding_bytes: peer.outstanding_bytes,
            full: peer.full,
            behind: peer.is_behind(trimmed),
            keeps_pace: peer.keeps_pace,
            needs: peer.needs(trimmed),
        };
        self.peers.iter().map(status).collect()
    }

    /// Whether this leader proposed the very same body.
    pub(super) fn proposed(&self, body: &BodyHandle) -> bool {
        self.chosen_ahead.get(&body.first) == Some(body)
            || self.open.get(&body.first).is_some_and(|proposal| proposal.body == *body)
    }

    /// Whether this body is proposed and not yet chosen.
    pub(super) fn has_open(&self, body: &BodyHandle) -> bool {
        self.open.get(&body.first).is_some_and(|proposal| proposal.body == *body)
    }

    /// Forgets what lies below the chosen prefix, however it came to be known.
    pub(super) fn passed(&mut self, mark: Slot) {
        while let Some((first, _)) = self.open.first_key_value()
            && *first < mark
        {
            let first = *first;
            self.close(first);
        }
        while let Some(entry) = self.chosen_ahead.first_entry()
            && *entry.key() < mark
        {
            entry.remove();
        }
        self.obtaining.retain(|first, _| *first >= mark);
        self.composing.retain(|first, _| *first >= mark);
        if self.proposed.as_ref().is_some_and(|proposed| proposed.chosen_at < mark) {
            self.proposed = None;
        }
        // A peer's chain may prove more than this leader has proposed. Were it to propose below its mark, followers
        // would take that body, accepted at the ballot of the leader that speaks, for the chosen one.
        self.next_slot = self.next_slot.max(mark);
    }

    fn close(&mut self, first: Slot) -> Option<BodyHandle> {
        let proposal = self.open.remove(&first)?;
        self.open_bytes -= u64::from(proposal.body.bytes);
        Some(proposal.body)
    }

    fn peer_heard(&mut self, now: Instant, node: NodeId) -> Option<&mut Peer> {
        let peer = self.peers.get_mut(&node)?;
        peer.heard = now;
        Some(peer)
    }
}

impl Replica {
    pub(super) fn become_leader(&mut self, now: Instant, ballot: Ballot, promises: BTreeMap<NodeId, Promised>) {
        let mut reports: Vec<(AcceptedBody, NodeId)> = self.accepted().map(|report| (report, self.node)).collect();
        let mut ahead: Option<(NodeId, Mark)> = None;
        for (node, promised) in &promises {
            reports.extend(promised.accepted().map(|report| (*report, *node)));
            if promised.mark.slot > ahead.map_or(self.mark.slot, |(_, mark)| mark.slot) {
                ahead = Some((*node, promised.mark));
            }
        }
        let target = ahead.map_or(self.mark.slot, |(_, mark)| mark.slot);
        self.leader = Some(ballot);
        self.role = RoleState::Leader(Box::new(Leadership {
            ballot,
            stage: Stage::CatchingUp { target, reports },
            plan: VecDeque::new(),
            obtaining: BTreeMap::new(),
            composing: BTreeMap::new(),
            open: BTreeMap::new(),
            open_bytes: 0,
            chosen_ahead: BTreeMap::new(),
            own_pending: VecDeque::new(),
            next_slot: self.mark.slot,
            prepared_to: END,
            extension: None,
            proposed: None,
            is_settled: false,
            peers: BTreeMap::new(),
            has_new_peers: false,
            aside: 0,
            heartbeat_at: now,
            news_at: None,
            resend_at: now.plus(self.settings.retransmit_interval),
            beat: 0,
            beats: VecDeque::new(),
            questions: Vec::new(),
            transfer: None,
            relieved_at: now,
            progress: (self.mark.slot, now),
        }));
        self.sync_peers(now);
        self.heartbeat(now);
        if let Some((node, mark)) = ahead {
            self.note_ahead(now, node, mark);
        }
        if !self.halted {
            self.leader_progress(now);
        }
    }

    pub(super) fn leadership(&mut self) -> Option<&mut Leadership> {
        match &mut self.role {
            // Whoever has halted leads no more, also in the midst of a call.
            RoleState::Leader(leadership) if !self.halted => Some(leadership),
            _ => None,
        }
    }

    /// Goes on with whatever the grown prefix allows: from catching up to the plan, and along the plan.
    pub(super) fn leader_progress(&mut self, now: Instant) {
        let mark = self.mark.slot;
        let Some(leadership) = self.leadership() else { return };
        if leadership.progress.0 != mark {
            leadership.progress = (mark, now);
        }
        if let Stage::CatchingUp { target, reports } = &mut leadership.stage {
            if mark < *target {
                return;
            }
            let reports = std::mem::take(reports);
            match recovery_plan(mark, reports) {
                Ok((plan, next_slot)) => {
                    leadership.stage = Stage::Proposing { recovered: next_slot };
                    leadership.plan = plan;
                    leadership.next_slot = next_slot;
                    let won = leadership.prepared_to;
                    if won != END {
                        self.confine_leadership(won);
                    }
                }
                Err((slot, ballot)) => return self.halt(HaltReason::BallotConflict { slot, ballot }),
            }
        }
        self.extend_phase_one(now);
        self.follow_plan(now);
        self.settle_recovered();
        self.confirm(now);
    }

    /// Proposes what phase 1 revealed, as far as window and alpha allow.
    pub(super) fn follow_plan(&mut self, now: Instant) {
        let limit = self.limit();
        let (mark, window_bodies) = (self.mark.slot, self.settings.window_bodies as usize);
        let boundary = self.configurations.boundary_after(mark).unwrap_or(END);
        let Some(leadership) = self.leadership() else { return };
        let mut effects = Vec::new();
        while leadership.open.len() + leadership.obtaining.len() + leadership.composing.len() < window_bodies {
            match leadership.plan.front_mut() {
                // The chain, or a peer's answer, may have proved the head of the plan in the meantime.
                Some(Planned::Adopt { body, .. }) if body.end() <= mark => {
                    leadership.plan.pop_front();
                }
                Some(Planned::Fill(gap)) if gap.end <= mark => {
                    leadership.plan.pop_front();
                }
                Some(Planned::Adopt { body, holders }) if body.end() <= limit => {
                    let (body, holders) = (*body, std::mem::take(holders));
                    leadership.plan.pop_front();
                    effects.push(Effect::Obtain { body, holder: holders[0] });
                    leadership.obtaining.insert(body.first, Obtaining { body, holders, attempts: 1 });
                }
                Some(Planned::Fill(gap)) if gap.start < limit => {
                    let end = gap.end.min(limit);
                    let end = if gap.start < boundary { end.min(boundary) } else { end };
                    let (first, count) = (gap.start, end.since(gap.start) as u32);
                    gap.start = end;
                    if gap.is_empty() {
                        leadership.plan.pop_front();
                    }
                    leadership.composing.insert(first, (count, BodyKind::NoOp));
                    effects.push(Effect::Compose { first, count, ballot: leadership.ballot, kind: BodyKind::NoOp });
                }
                _ => break,
            }
        }
        self.effects.extend(effects);
        self.settle(now);
    }

    pub(super) fn adopt_obtained(&mut self, now: Instant, id: BodyId) {
        let mark = self.mark.slot;
        let Some(leadership) = self.leadership() else { return };
        let Some(body) = leadership.obtaining.values().map(|wanted| wanted.body).find(|body| body.id == id) else {
            return;
        };
        if self.is_unknown_configuration(&body) {
            return;
        }
        let (Some(leadership), first) = (self.leadership(), body.first) else { return };
        let wanted = leadership.obtaining.remove(&first).expect("found just now");
        leadership.progress.1 = now;
        if first >= mark {
            self.start_phase_two(now, wanted.body);
        }
        self.follow_plan(now);
    }

    pub(super) fn propose_composed(&mut self, now: Instant, body: BodyHandle) {
        let Some(leadership) = self.leadership() else { return };
        if leadership.composing.get(&body.first) == Some(&(body.count, body.kind)) {
            leadership.composing.remove(&body.first);
            if let Some(configuration) = leadership.proposed.clone().filter(|_| body.kind.is_configuration()) {
                self.handle_configuration(body.id, configuration);
            }
            self.start_phase_two(now, body);
            self.follow_plan(now);
        }
    }

    /// The first slot at which nothing may be proposed: alpha bounds it, and so does what phase 1 has won.
    fn limit(&self) -> Slot {
        let limit = self.mark.slot.plus(self.alpha());
        match &self.role {
            RoleState::Leader(leadership) => limit.min(leadership.prepared_to),
            _ => limit,
        }
    }

    /// Room for a new body, if this replica leads, an accept quorum has room on its disks, and neither window nor alpha is
    /// exhausted.
    pub fn opening(&self) -> Option<Opening> {
        let RoleState::Leader(leadership) = &self.role else { return None };
        let boundary = self.configurations.boundary_after(leadership.next_slot).unwrap_or(END);
        let limit = self.limit().min(boundary);
        let open = leadership.open.len() as u32;
        if self.halted
            || leadership.is_recovering()
            || leadership.transfer.is_some()
            || self.is_full()
            || open >= self.settings.window_bodies
            || leadership.open_bytes >= self.settings.window_bytes
            || leadership.next_slot >= limit
        {
            return None;
        }
        let count_max = limit.since(leadership.next_slot).min(u64::from(limits::BODY_SLOTS_MAX)) as u32;
        let (ballot, first) = (leadership.ballot, leadership.next_slot);
        Some(Opening { ballot, first, count_max, ruling: self.ruling_said(first) })
    }

    /// Starts phase 2 for a new body, which the driver has made for the current [`Replica::opening`].
    ///
    /// # Errors
    /// If there is no opening, or the body doesn't fit it. Nothing has happened then.
    pub fn propose(&mut self, now: Instant, body: BodyHandle) -> Result<(), ProposeError> {
        let opening = self.opening().ok_or(ProposeError::NoOpening)?;
        if body.first != opening.first || body.count == 0 || body.count > opening.count_max {
            return Err(ProposeError::Misfit {
                first: body.first,
                count: body.count,
                next: opening.first,
                count_max: opening.count_max,
            });
        }
        if body.bytes > limits::BODY_BYTES_MAX {
            return Err(ProposeError::TooLarge(body.bytes));
        }
        self.start_phase_two(now, body);
        Ok(())
    }

    fn start_phase_two(&mut self, now: Instant, body: BodyHandle) {
        let Some(leadership) = self.leadership() else { return };
        let ballot = leadership.ballot;
        assert!(!leadership.open.contains_key(&body.first), "slot {} is proposed once a ballot", body.first);
        leadership.news_at = None;
        leadership.next_slot = leadership.next_slot.max(body.end());
        leadership.open_bytes += u64::from(body.bytes);
        leadership.open.insert(body.first, Proposal { body, acks: Vec::new(), sent_at: now });
        // The leader writes its own disk while it replicates; its own vote counts when durable.
        match self.store(ballot, body) {
            Ok(append) => {
                self.leadership().expect("leads").own_pending.push_back((append, body.first));
            }
            Err(_) => return self.halt(HaltReason::BallotConflict { slot: body.first, ballot }),
        }
        for peer in self.peers() {
            self.send_accept(peer, body);
        }
    }

    /// Sends a proposal, unless the peer has too much unanswered already: it will catch up from the log. One body is
    /// always sent, however large: it may take this peer to choose it.
    fn send_accept(&mut self, to: NodeId, body: BodyHandle) {
        let (mark, budget) = (self.mark, self.settings.peer_bytes);
        let Some(leadership) = self.leadership() else { return };
        let ballot = leadership.ballot;
        let Some(peer) = leadership.peers.get_mut(&to).filter(|peer| !peer.is_retiring) else { return };
        let known = peer.outstanding.contains_key(&body.first);
        if !known {
            if !peer.outstanding.is_empty() && peer.outstanding_bytes + u64::from(body.bytes) > budget {
                peer.held_back = true;
                return;
            }
            peer.outstanding.insert(body.first, body.bytes);
            peer.outstanding_bytes += u64::from(body.bytes);
        }
        self.send(to, Message::Accept { ballot, body, mark });
    }

    /// Sends what was held back from a peer, as far as there is room now.
    fn send_held_back(&mut self, to: NodeId) {
        let Some(leadership) = self.leadership() else { return };
        let Some(peer) = leadership.peers.get_mut(&to).filter(|peer| peer.held_back) else { return };
        peer.held_back = false;
        let peer = &leadership.peers[&to];
        let open = leadership.open.values().filter(|proposal| !proposal.acks.contains(&to));
        let unsent = open.map(|proposal| proposal.body).filter(|body| !peer.outstanding.contains_key(&body.first));
        for body in unsent.collect::<Vec<_>>() {
            self.send_accept(to, body);
        }
    }

    pub(super) fn on_accepted(&mut self, now: Instant, from: NodeId, ballot: Ballot, first: Slot, id: BodyId) {
        let Some(leadership) = self.leadership() else { return };
        if leadership.ballot != ballot {
            return;
        }
        let Some(peer) = leadership.peer_heard(now, from) else { return };
        peer.acknowledged(first);
        self.count_vote(from, first, id);
        self.settle(now);
        self.send_held_back(from);
    }

    /// Counts the own votes that became durable.
    pub(super) fn leader_durable(&mut self, now: Instant) {
        let (node, durable) = (self.node, self.durable);
        let Some(leadership) = self.leadership() else { return };
        let mut voted = Vec::new();
        while let Some(&(append, first)) = leadership.own_pending.front()
            && append <= durable
        {
            leadership.own_pending.pop_front();
            voted.extend(leadership.open.get(&first).map(|proposal| (first, proposal.body.id)));
        }
        for (first, id) in voted {
            self.count_vote(node, first, id);
        }
        self.settle(now);
    }

    fn count_vote(&mut self, node: NodeId, first: Slot, id: BodyId) {
        let RoleState::Leader(leadership) = &mut self.role else { return };
        let Some(proposal) = leadership.open.get_mut(&first) else { return };
        if proposal.body.id != id || proposal.acks.contains(&node) {
            return;
        }
        proposal.acks.push(node);
        if self.configurations.configuration_at(first).is_accept_quorum(&proposal.acks) {
            let body = leadership.close(first).expect("open just now");
            leadership.chosen_ahead.insert(first, body);
        }
    }

    /// Delivers the chosen bodies that are next in order, and goes on with what the grown prefix allows.
    fn settle(&mut self, now: Instant) {
        let before = self.mark;
        while let RoleState::Leader(leadership) = &mut self.role
            && let Some(body) = leadership.chosen_ahead.remove(&self.mark.slot)
        {
            let append = self.accepted.get(&body.first).map_or(self.appended, |entry| entry.append);
            self.deliver(body, append);
        }
        if self.mark == before {
            return;
        }
        self.catch_up.forget_reached(self.mark.slot);
        self.extend_phase_one(now);
        self.follow_plan(now);
        self.settle_recovered();
        self.confirm(now);
        // While the pipeline is full, news of the choice rides on the next accepts; an idle one says so soon.
        let news_at = now.plus(self.settings.news_delay);
        if let Some(leadership) = self.leadership().filter(|leadership| leadership.open.is_empty()) {
            if news_at > now {
                leadership.news_at = Some(news_at);
            } else {
                self.heartbeat(now);
            }
        }
    }

    pub(super) fn heartbeat(&mut self, now: Instant) {
        let (mark, next) = (self.mark, now.plus(self.settings.heartbeat_interval));
        if self.leadership().is_some_and(|leadership| leadership.has_new_peers) {
            self.sync_peers(now);
        }
        let Some(leadership) = self.leadership() else { return };
        leadership.heartbeat_at = next;
        leadership.news_at = None;
        leadership.beat += 1;
        if leadership.beats.len() == BEATS_REMEMBERED {
            leadership.beats.pop_front();
        }
        leadership.beats.push_back((leadership.beat, mark.slot));
        let (ballot, beat) = (leadership.ballot, leadership.beat);
        let recovered = leadership.settled().unwrap_or(Slot(0));
        self.broadcast(&Message::Heartbeat { ballot, mark, beat, recovered });
    }

    pub(super) fn on_heartbeat_reply(
        &mut self,
        now: Instant,
        from: NodeId,
        ballot: Ballot,
        mark: Mark,
        (stable, beat, full): (Slot, u64, bool),
    ) {
        if !self.compare_chain(from, mark) {
            return;
        }
        let Some(leadership) = self.leadership() else { return };
        if leadership.ballot != ballot {
            return;
        }
        let told = leadership.beats.iter().find(|(number, _)| *number == beat).map(|(_, slot)| *slot);
        let away = leadership.peers.get(&from).map_or(Duration::ZERO, |peer| now.since(peer.heard));
        let Some(peer) = leadership.peer_heard(now, from) else { return };
        peer.mark = peer.mark.max(mark.slot);
        if beat > peer.beat {
            peer.beat = beat;
            peer.claims_stable(now, stable.min(mark.slot), away);
            peer.full = full;
            peer.keeps_pace = told.is_some_and(|slot| peer.mark >= slot);
        }
        peer.reached(mark.slot);
        self.send_held_back(from);
        self.note_ahead(now, from, mark);
        self.confirm(now);
        self.relieve(now);
        self.hand_over();
        self.retire(now);
        self.promote_if_ready(now);
    }

    /// A peer has lost a part of its log, nobody knows yet how much: it holds the log until it tells.
    pub(super) fn on_doubtful(&mut self, from: NodeId) {
        if let Some(peer) = self.leadership().and_then(|leadership| leadership.peers.get_mut(&from)) {
            peer.stable = Slot::FIRST;
        }
    }

    pub(super) fn leader_timeout(&mut self, now: Instant) {
        self.forget_silent_holds(now);
        let patience = self.settings.election_timeout.saturating_mul(2);
        let Some(leadership) = self.leadership() else { return };
        // What phase 1 revealed may have died with the only node that has it: another prepare quorum will tell.
        let stuck = leadership.is_recovering() && now.since(leadership.progress.1) >= patience;
        if stuck || !self.hears_quorum(now) || self.is_outpaced(now) {
            return self.resign(now);
        }
        self.transfer_timeout(now);
        let Some(leadership) = self.leadership() else { return };
        let (heartbeat_due, resend_due) = (now >= leadership.speaks_at(), now >= leadership.resend_at);
        if heartbeat_due {
            self.heartbeat(now);
        }
        if resend_due {
            self.resend(now);
            self.ask_extension();
            self.tend_membership(now);
        }
    }

    /// A leader that hears no quorum steps down: its clients must learn that nothing will be chosen here, and others
    /// may reach one.
    fn hears_quorum(&self, now: Instant) -> bool {
        let RoleState::Leader(leadership) = &self.role else { return false };
        let patience = self.settings.election_timeout.saturating_mul(3) / 2;
        let heard = leadership.peers.iter().filter(|(_, peer)| now.since(peer.heard) < patience);
        let mut votes: Vec<NodeId> = heard.map(|(node, _)| *node).collect();
        votes.push(self.node);
        self.is_prepare_quorum(&votes) && self.is_accept_quorum(&votes)
    }

    /// Whether the own disk stalls while a quorum of others goes on without it: one of them leads better.
    fn is_outpaced(&self, now: Instant) -> bool {
        let RoleState::Leader(leadership) = &self.role else { return false };
        let chosen_without = leadership.own_pending.front().is_some_and(|(_, first)| *first < self.mark.slot);
        chosen_without && self.disk_stalls(now)
    }

    /// Sends again what went unanswered for a while: a lost message costs a resend, never a stall.
    fn resend(&mut self, now: Instant) {
        let interval = self.settings.retransmit_interval;
        let Some(leadership) = self.leadership() else { return };
        leadership.resend_at = now.plus(interval);
        let mut overdue = Vec::new();
        for proposal in leadership.open.values_mut().filter(|proposal| now.since(proposal.sent_at) >= interval) {
            proposal.sent_at = now;
            let silent = leadership.peers.keys().filter(|node| !proposal.acks.contains(node));
            overdue.extend(silent.map(|node| (*node, proposal.body)));
        }
        let mut again = Vec::new();
        for wanted in leadership.obtaining.values_mut() {
            let holder = wanted.holders[wanted.attempts % wanted.holders.len()];
            wanted.attempts += 1;
            again.push(Effect::Obtain { body: wanted.body, holder });
        }
        self.effects.extend(again);
        for (node, body) in overdue {
            self.send_accept(node, body);
        }
    }
}
