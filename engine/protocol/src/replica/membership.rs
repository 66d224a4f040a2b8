//! Membership: changing it through the log, whom to heed, and what becomes of those who go.
//!
//! A configuration chosen at slot i rules from i + alpha on (*Paxos Made Simple* §3), and the log never stops for it. A
//! node comes in as a *learner*: it gets the log and has no vote. When all learners have caught up, the leader proposes
//! the configuration in which they are members, and those who were to leave for them are not. There is one change at a
//! time: the next one waits until the last one rules, and the members before it have *retired*, for an accept quorum of
//! the new one durably holds everything that was chosen without it.

use std::collections::BTreeSet;

use thiserror::Error;

use super::peer::Peer;
use super::phase_one::END;
use super::proposer::Leadership;
use super::{Ballot, BodyHandle, Configuration, Message, NodeId, RejectReason, Replica, RoleState, Slot};
use crate::body::BodyKind;
use crate::config::ConfigurationError;
use crate::effect::Effect;
use crate::time::Instant;

/// How often a leader that was removed tries to hand over before it resigns.
const HAND_OVER_ATTEMPTS: u32 = 10;

/// A change of the membership.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// Brings nodes in, as learners first, and lets members go when all of them have caught up; at once if nobody comes in.
    Replace {
        /// Who comes in.
        add: Vec<NodeId>,
        /// Who goes.
        remove: Vec<NodeId>,
    },
    /// Makes the learners members now, which happens by itself once they have caught up.
    Promote {
        /// Even if they haven't: until they have, they are members that can't help to choose what they lack.
        force: bool,
    },
    /// Sends the learners away again, and keeps who was to leave for them.
    Cancel,
    /// Raises the format of what the next configuration rules; everybody stays. There is no way back.
    RaiseFormat {
        /// The new format.
        to: u16,
    },
}

/// Why the membership isn't changed. Nothing has happened.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ReconfigureError {
    /// Only a leader changes the membership.
    #[error("this replica does not lead")]
    NotLeader,
    /// The leader is recovering or handing over, or alpha is exhausted.
    #[error("the leader is busy: try again")]
    Busy,
    /// Another change comes first.
    #[error("the change at slot {0} is under way: it must rule, and those before it retire, before the next one")]
    Pending(Slot),
    /// Learners are still catching up.
    #[error("still learning: {}; wait until they are members, or cancel that", names(.0))]
    Learning(Vec<NodeId>),
    /// Nobody would come in or go.
    #[error("this changes nothing")]
    Nothing,
    /// There is no learner to promote or to send away.
    #[error("there are no learners")]
    NoLearners,
    /// It can't come in.
    #[error("{0} is a member already")]
    AlreadyMember(NodeId),
    /// It can't go.
    #[error("{0} is no member")]
    UnknownMember(NodeId),
    /// The new configuration couldn't rule: too many members, or none.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// The new configuration would have no quorum.
    #[error(
        "of the {members} members that there would be, {needed} must be up, so {tolerance} may be down; but no answer from {}",
        names(silent)
    )]
    NoQuorum {
        /// How many members there would be.
        members: usize,
        /// How many of them must be up.
        needed: usize,
        /// How many of them may be down.
        tolerance: usize,
        /// Which of them don't answer.
        silent: Vec<NodeId>,
    },
    /// A learner hasn't caught up.
    #[error("{node} lags by {slots} slots or more: it becomes a member once it has caught up")]
    Lagging {
        /// The learner.
        node: NodeId,
        /// How far it is behind, as far as the leader knows.
        slots: u64,
    },
    /// A format is never lowered: bodies of the higher one may be anywhere in the log.
    #[error("the log is in format {active} already, and no way leads back to an older one")]
    NotRaised {
        /// The format of the newest configuration.
        active: u16,
        /// The one that was asked for.
        to: u16,
    },
    /// A node couldn't read what would be in the log, or hasn't said that it can.
    #[error("{node} {}; format {needed} is needed there: start a build that reads it, or remove the node", reading(*reads))]
    Unreadable {
        /// The node.
        node: NodeId,
        /// The newest format that it reads; none if it doesn't answer, or hasn't told this leader.
        reads: Option<u16>,
        /// The format that it must read.
        needed: u16,
    },
}

fn reading(reads: Option<u16>) -> String {
    reads.map_or_else(|| "hasn't said what it reads".to_owned(), |reads| format!("reads formats up to {reads} only"))
}

fn names(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ")
}

impl Replica {
    /// Proposes a change of the membership. Returns the slot of the configuration: once that is chosen it rules from alpha
    /// slots later on, which takes care of itself.
    ///
    /// # Errors
    /// If this replica doesn't lead, another change is under way, or the change makes no sense or would leave no quorum.
    pub fn reconfigure(&mut self, now: Instant, change: Change) -> Result<Slot, ReconfigureError> {
        let Some(leadership) = self.leadership() else { return Err(ReconfigureError::NotLeader) };
        if leadership.is_recovering() || leadership.transfer.is_some() {
            return Err(ReconfigureError::Busy);
        }
        if let Some(slot) = self.change_under_way() {
            return Err(ReconfigureError::Pending(slot));
        }
        let current = self.configurations.newest();
        let next = match change {
            Change::Replace { add, remove } => replaced(current, add, remove)?,
            Change::RaiseFormat { to } => self.raised(now, to)?,
            _ if current.learners.is_empty() => return Err(ReconfigureError::NoLearners),
            Change::Cancel => Configuration { learners: Vec::new(), leaving: Vec::new(), ..current.clone() },
            Change::Promote { force } => {
                self.check_caught_up(now, &current.learners, force)?;
                current.promoted()
            }
        };
        // What becomes of the learners must be sound as well.
        next.check()?;
        next.promoted().check()?;
        self.check_readers(&next)?;
        self.check_quorum(now, &next)?;
        self.propose_configuration(now, next)
    }

    /// The slot of the change that must be over before another one may begin.
    fn change_under_way(&self) -> Option<Slot> {
        let newest = self.configurations.newest();
        let mark = self.mark.slot;
        let proposed = match &self.role {
            RoleState::Leader(leadership) => leadership.proposed.as_ref().map(|proposed| proposed.chosen_at),
            _ => None,
        };
        let is_new = mark < newest.rules_from() || self.configurations.retiring_at(mark).is_some();
        proposed.or(is_new.then_some(newest.chosen_at))
    }

    /// Whether the learners have what the leader has, as far as it has told them.
    fn check_caught_up(&self, now: Instant, learners: &[NodeId], force: bool) -> Result<(), ReconfigureError> {
        let RoleState::Leader(leadership) = &self.role else { return Err(ReconfigureError::NotLeader) };
        for node in learners {
            let peer = leadership.peer(*node);
            let slots = self.mark.slot.since(peer.map_or(Slot::FIRST, |peer| peer.mark));
            if !force && !peer.is_some_and(|peer| peer.keeps_pace && self.answers(now, peer)) {
                return Err(ReconfigureError::Lagging { node: *node, slots });
            }
        }
        Ok(())
    }

    pub(super) fn answers(&self, now: Instant, peer: &Peer) -> bool {
        peer.has_answered() && now.since(peer.heard) < self.settings.election_timeout
    }

    /// Whether enough members of a new configuration answer for it to go on. Whoever keeps all its members may as well
    /// keep them when some are down.
    fn check_quorum(&self, now: Instant, next: &Configuration) -> Result<(), ReconfigureError> {
        let RoleState::Leader(leadership) = &self.role else { return Err(ReconfigureError::NotLeader) };
        let answers =
            |node: &NodeId| *node == self.node || leadership.peer(*node).is_some_and(|peer| self.answers(now, peer));
        let (up, silent): (Vec<NodeId>, Vec<NodeId>) = next.members.iter().copied().partition(answers);
        if next.has_voters_of(self.configurations.newest()) || next.is_prepare_quorum(&up) && next.is_accept_quorum(&up)
        {
            return Ok(());
        }
        let (members, tolerance) = (next.members.len(), next.tolerance());
        Err(ReconfigureError::NoQuorum { members, needed: members - tolerance, tolerance, silent })
    }

    fn propose_configuration(&mut self, now: Instant, mut next: Configuration) -> Result<Slot, ReconfigureError> {
        let limit = self.mark.slot.plus(self.alpha());
        let current = self.configurations.newest().clone();
        let after = current.chosen_at;
        let Some(leadership) = self.leadership() else { return Err(ReconfigureError::NotLeader) };
        let (first, ballot) = (leadership.next_slot, leadership.ballot);
        if first >= limit.min(leadership.prepared_to) {
            return Err(ReconfigureError::Busy);
        }
        next.chosen_at = first;
        leadership.next_slot = first.plus(1);
        leadership.composing.insert(first, (1, BodyKind::Configuration { after }));
        leadership.proposed = Some(next.clone());
        self.sync_peers(now);
        self.effects.push_back(Effect::ComposeConfiguration { configuration: Box::new(next.clone()), after, ballot });
        if !next.has_voters_of(&current) {
            // So that nothing has to wait when it rules.
            self.begin_extension(next);
        }
        Ok(first)
    }

    /// Takes note of a delivered body: a configuration that was chosen, a trim that shows that one has retired, or the
    /// last one before the next configuration rules.
    pub(super) fn learn_configuration(&mut self, before: Slot, body: &BodyHandle) {
        let ruled = self.configurations.configuration_at(before).chosen_at;
        match body.kind {
            BodyKind::Configuration { after } => {
                let configuration =
                    self.contents.remove(&body.id).expect("what a configuration body holds is told with it");
                let from = configuration.rules_from();
                let is_same = configuration.has_voters_of(self.configurations.newest());
                let has_part = configuration.nodes().any(|node| node == self.node);
                let is_void = !self.configurations.choose(after, configuration);
                self.had_part |= has_part && !is_void;
                if !is_same && !is_void {
                    self.confine_leadership(from);
                }
            }
            // A quorum has proved everything below.
            BodyKind::Trim { upto } => {
                self.configurations.retire_before(upto.min(self.mark.slot));
            }
            BodyKind::Commands | BodyKind::NoOp | BodyKind::Session | BodyKind::Ticket => {}
        }
        let rules = self.configurations.configuration_at(self.mark.slot).chosen_at;
        if let RoleState::Leader(leadership) = &mut self.role {
            leadership.has_new_peers |= body.kind.is_configuration() || rules != ruled;
        }
    }

    /// Whether this is a configuration of which nobody has told what it holds.
    pub(super) fn is_unknown_configuration(&self, body: &BodyHandle) -> bool {
        body.kind.is_configuration() && body.first >= self.mark.slot && !self.contents.contains_key(&body.id)
    }

    /// Everybody else who is known to have a part in the log: members, learners, those who retire, those who may come in.
    pub(super) fn peers(&self) -> Vec<NodeId> {
        let proposed = match &self.role {
            RoleState::Leader(leadership) => leadership.proposed.as_ref(),
            _ => None,
        };
        let nodes = self.configurations.iter().chain(proposed).flat_map(Configuration::nodes);
        let nodes: BTreeSet<NodeId> = nodes.filter(|node| *node != self.node).collect();
        nodes.into_iter().collect()
    }

    /// The other members that have a say in the open slots.
    pub(super) fn voters(&self) -> Vec<NodeId> {
        let active = self.configurations.active_from(self.mark.slot);
        let voters: BTreeSet<NodeId> = active.flat_map(|configuration| configuration.members.iter().copied()).collect();
        voters.into_iter().filter(|node| *node != self.node).collect()
    }

    /// Whether `node` has a say in an open slot.
    pub(super) fn is_voter(&self, node: NodeId) -> bool {
        self.configurations.active_from(self.mark.slot).any(|configuration| configuration.is_member(node))
    }

    /// Keeps the leader's peers those of the configurations.
    pub(super) fn sync_peers(&mut self, now: Instant) {
        let wanted = self.peers();
        let mark = self.mark.slot;
        let active = self.configurations.active_from(mark).flat_map(Configuration::nodes).collect::<BTreeSet<_>>();
        let Some(leadership) = self.leadership() else { return };
        leadership.has_new_peers = false;
        leadership.peers.retain(|node, _| wanted.contains(node));
        let proposed: Vec<NodeId> = leadership.proposed.iter().flat_map(Configuration::nodes).collect();
        for node in wanted {
            let peer = leadership.peers.entry(node).or_insert_with(|| Peer::new(now));
            peer.is_retiring = !active.contains(&node) && !proposed.contains(&node);
        }
    }

    /// Whether what `from` says is to be heeded. Whoever was removed mustn't disturb; but whoever knows of a longer prefix
    /// may know of a configuration in which it is a member. Those who fetch, and those who answer, never disturb.
    pub(super) fn heeds(&self, from: NodeId, message: &Message) -> bool {
        if self.is_voter(from) || self.leader.is_some_and(|leader| leader.node == from) {
            return true;
        }
        match message {
            Message::Fetch { .. } | Message::FetchBody { .. } | Message::Reject { .. } => true,
            Message::Chosen { .. } | Message::Supply { .. } => true,
            Message::Unavailable { .. } | Message::Base { .. } => true,
            Message::PreVote { from: slot, .. } | Message::Prepare { from: slot, .. } => *slot > self.mark.slot,
            Message::Accept { mark, .. } | Message::Heartbeat { mark, .. } => mark.slot > self.mark.slot,
            _ => self.peers().contains(&from),
        }
    }

    /// Refuses a message of somebody who has no part in the log, and says so.
    pub(super) fn refuse_stranger(&mut self, from: NodeId) {
        let newest = self.configurations.newest();
        let reason = RejectReason::WrongConfiguration { slot: newest.rules_from(), chosen_at: newest.chosen_at };
        self.send(from, Message::Reject { ballot: Ballot::ZERO, reason });
    }

    /// A peer says that a configuration doesn't name this node.
    pub(super) fn note_removed(&mut self, chosen_at: Slot) {
        if chosen_at > self.configurations.newest().chosen_at {
            self.removed_at = self.removed_at.max(chosen_at);
        }
    }

    /// Whether this node has no part in the newest configuration that it knows of, or was told of, and had one before.
    pub(super) fn is_removed(&self) -> bool {
        let newest = self.configurations.newest();
        let has_part = |configuration: &Configuration| configuration.nodes().any(|node| node == self.node);
        let is_outside = !self.configurations.active_from(self.mark.slot).any(has_part);
        self.removed_at > newest.chosen_at || self.had_part && is_outside
    }

    /// Whether a configuration may have been chosen at `slot` or behind, as far as this replica knows.
    pub(super) fn may_rule_beyond(&self, slot: Slot) -> bool {
        let open = self.accepted.values().map(|entry| entry.body);
        let mut open = open.filter(|body| body.kind.is_configuration());
        self.configurations.newest().chosen_at >= slot || open.any(|body| body.first >= slot)
    }

    /// The members of the configuration before that must still be there.
    pub(super) fn retiring(&self) -> Vec<NodeId> {
        let active = |node: &NodeId| self.is_voter(*node);
        let before = self.configurations.retiring_at(self.mark.slot);
        let members = before.map_or_else(Vec::new, |configuration| configuration.members.clone());
        members.into_iter().filter(|node| !active(node)).collect()
    }

    /// Tells those who rule how much is chosen, as somebody whom they don't name and who may still be needed. It may be that
    /// none of them knows of its part, and nobody else is left who may lead.
    pub(super) fn tell_voters(&mut self) {
        if self.configurations.retiring_at(self.mark.slot).is_some() {
            let reason = RejectReason::AlreadyChosen { mark: self.mark };
            self.ask_voters(&Message::Reject { ballot: Ballot::ZERO, reason });
        }
    }

    /// What a leader does for the membership now and then. Not with its heartbeats: under load, those go out by themselves.
    pub(super) fn tend_membership(&mut self, now: Instant) {
        self.retire(now);
        self.promote_if_ready(now);
        self.raise_format_if_due(now);
        self.move_along();
        self.step_aside(now);
    }

    /// Lets the members before go, once an accept quorum of those who rule now durably holds everything that was chosen
    /// without them, and knows it to be chosen.
    pub(super) fn retire(&mut self, now: Instant) {
        let (mark, node, proved) = (self.mark.slot, self.node, self.proved);
        let Some(before) = self.configurations.retiring_at(mark).cloned() else { return };
        let ruling = self.configurations.configuration_at(mark).clone();
        let from = ruling.rules_from();
        let Some(leadership) = self.leadership() else { return };
        let mut holders: Vec<NodeId> = leadership.peers_holding(from).collect();
        holders.extend((proved >= from).then_some(node));
        if !ruling.has_voters_of(&before) && !ruling.is_accept_quorum(&holders) {
            return;
        }
        self.configurations.retire_before(mark);
        let known = self.peers();
        for gone in before.nodes().filter(|gone| *gone != node && !known.contains(gone)) {
            self.refuse_stranger(gone);
        }
        self.sync_peers(now);
    }

    /// The second step of a change: the learners have caught up.
    pub(super) fn promote_if_ready(&mut self, now: Instant) {
        if self.configurations.newest().learners.is_empty() {
            return;
        }
        // Whatever is in the way now, there is a next time.
        let _ = self.reconfigure(now, Change::Promote { force: false });
    }

    /// Fills the slots up to where a new configuration rules, or has those who rule now prove what lies before.
    fn move_along(&mut self) {
        let mark = self.mark.slot;
        let limit = mark.plus(self.alpha());
        let from = self.configurations.newest().rules_from();
        let before = self.configurations.retiring_at(mark);
        let must_prove = before.is_some_and(|before| !self.configurations.newest().has_voters_of(before));
        let Some(leadership) = self.leadership() else { return };
        let next = leadership.next_slot;
        if leadership.is_recovering() || leadership.transfer.is_some() || leadership.prepared_to != END || next >= limit
        {
            return;
        }
        let end = match next < from {
            true => from.min(limit),
            // Records behind it carry the mark: then a restart knows it.
            false if must_prove && leadership.is_idle() => next.plus(1),
            false => return,
        };
        let (count, ballot) = (end.since(next) as u32, leadership.ballot);
        leadership.next_slot = end;
        leadership.composing.insert(next, (count, BodyKind::NoOp));
        self.effects.push_back(Effect::Compose { first: next, count, ballot, kind: BodyKind::NoOp });
    }

    /// A leader that has no vote any more hands over, or resigns if nobody takes over.
    fn step_aside(&mut self, now: Instant) {
        let ruling = self.configurations.configuration_at(self.mark.slot);
        let (node, timeout) = (self.node, self.settings.election_timeout);
        if ruling.is_member(node) || self.configurations.newest().is_member(node) {
            return;
        }
        // As long as it is needed, it leads: the others may not even know that they are members.
        if self.configurations.retiring_at(self.mark.slot).is_some() {
            return;
        }
        let members = ruling.members.clone();
        let Some(leadership) = self.leadership() else { return };
        if leadership.transfer.is_some() {
            return;
        }
        leadership.aside += 1;
        if leadership.aside > HAND_OVER_ATTEMPTS {
            return self.resign(now);
        }
        let fit = leadership.peers.iter().filter(|(node, peer)| {
            let answers = peer.has_answered() && now.since(peer.heard) < timeout;
            members.contains(node) && answers && !peer.full && peer.keeps_pace
        });
        let Some(target) = fit.max_by_key(|(_, peer)| peer.mark).map(|(node, _)| *node) else { return };
        // Refused or not, there are other attempts.
        let _ = self.transfer(now, target);
    }
}

impl Leadership {
    /// The peers that have proved everything below `slot`.
    fn peers_holding(&self, slot: Slot) -> impl Iterator<Item = NodeId> + '_ {
        self.peers.iter().filter(move |(_, peer)| peer.stable >= slot).map(|(node, _)| *node)
    }
}

/// The first step of a change: who comes in learns; who goes leaves when they have, or at once if nobody comes in.
fn replaced(current: &Configuration, add: Vec<NodeId>, remove: Vec<NodeId>) -> Result<Configuration, ReconfigureError> {
    if !current.learners.is_empty() {
        return Err(ReconfigureError::Learning(current.learners.clone()));
    }
    let (learners, leaving): (BTreeSet<NodeId>, BTreeSet<NodeId>) =
        (add.into_iter().collect(), remove.into_iter().collect());
    if let Some(node) = learners.iter().find(|node| current.is_member(**node)) {
        return Err(ReconfigureError::AlreadyMember(*node));
    }
    if let Some(node) = leaving.iter().find(|node| !current.is_member(**node)) {
        return Err(ReconfigureError::UnknownMember(*node));
    }
    if learners.is_empty() && leaving.is_empty() {
        return Err(ReconfigureError::Nothing);
    }
    if learners.is_empty() {
        let staying = current.members.iter().copied().filter(|node| !leaving.contains(node));
        return Ok(current.with_members(staying.collect()));
    }
    Ok(Configuration {
        learners: learners.into_iter().collect(),
        leaving: leaving.into_iter().collect(),
        ..current.clone()
    })
}
