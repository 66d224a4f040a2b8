//! One node's part in one group: proposer, acceptor and learner of *Paxos Made Simple*, for a whole log.
//!
//! Invariants that hold between any two calls:
//! - every slot below `mark.slot` is chosen and was delivered, in order, exactly once in this life;
//! - `accepted` holds, for slots from the mark on, the body accepted at the highest ballot, and no two entries overlap;
//! - no entry of `accepted` has a ballot above `promised`;
//! - a message that claims something of this node's log is in `held` until an append that proves it is durable.

mod acceptor;
mod barrier;
mod catch_up;
mod disk_watch;
mod doubt;
mod election;
mod format;
mod install;
mod learner;
mod membership;
mod peer;
mod phase_one;
mod plan;
mod proposer;
mod room;
#[cfg(test)]
mod tests;
mod transfer;
mod trim;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use thiserror::Error;

use crate::ballot::{Ballot, NodeId};
use crate::body::{BodyHandle, BodyId, Mark};
use crate::config::{Configuration, Configurations, Settings};
use crate::effect::{Append, AppendId, Effect, HaltReason, LogEntry};
use crate::limits;
use crate::message::{AcceptedBody, Doubt, Message, RejectReason};
use crate::slot::Slot;
use crate::snapshot::Hold;
use crate::time::Instant;

pub use barrier::BarrierError;
use barrier::Barriers;
use catch_up::CatchUp;
use disk_watch::DiskWatch;
use doubt::Inquiry;
use election::{Candidacy, Canvass};
pub use membership::{Change, ReconfigureError};
use proposer::Leadership;
pub use transfer::TransferError;
pub use trim::TrimError;

/// What recovery found in the log: the state that an acceptor must not forget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The highest promise.
    pub promised: Ballot,
    /// The chosen prefix that the log proves.
    pub mark: Mark,
    /// Everything below is trimmed.
    pub trimmed: Slot,
    /// Bodies accepted from the mark on, ascending: the highest ballot per slot, none overlapping.
    pub accepted: Vec<AcceptedBody>,
    /// What those of them hold that are configurations.
    pub configurations: Vec<(BodyId, Configuration)>,
    /// Slots at which damage to the log may hide an accept. While the replica is unsure, their bounds mean nothing.
    pub doubts: Vec<Doubt>,
    /// Damage may hide a promise higher than `promised`.
    pub unsure: bool,
}

/// One node's part in one group, as a value that its driver drains.
///
/// After every call of a `handle_*` method, or of [`Replica::propose`], [`Replica::trim`], [`Replica::barrier`] and
/// [`Replica::transfer`], the driver takes effects from [`Replica::poll_effect`] until there are none, carrying each out in order, and then asks
/// [`Replica::poll_deadline`] when to call [`Replica::handle_timeout`]. Nothing is asked twice, and nothing has to be
/// held back by the driver: what must wait for the disk waits inside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replica {
    node: NodeId,
    boot: u64,
    settings: Settings,
    configurations: Configurations,
    /// What the configuration bodies hold that are accepted above the mark, or on their way into the log.
    contents: BTreeMap<BodyId, Configuration>,
    /// Where the newest configuration was chosen that a peer says this node isn't part of.
    removed_at: Slot,
    /// Whether this node has had a part in the log, as far as this life knows.
    had_part: bool,
    /// The newest format that each node reads, as it told this process.
    readers: BTreeMap<NodeId, u16>,
    jitter: Jitter,

    /// Highest ballot promised or accepted; what a candidate may rely on is durable before it is told.
    promised: Ballot,
    /// The append that made `promised` durable.
    promise_append: AppendId,
    accepted: BTreeMap<Slot, Accepted>,
    /// Where this acceptor may have accepted what it doesn't know any more.
    doubts: Vec<Doubt>,
    /// Set while a higher promise may have been lost: no vote until it is known to be below `promised`.
    unsure: Option<Inquiry>,

    mark: Mark,
    trimmed: Slot,
    /// Recent marks, ascending, the current one last: what a peer's chain is compared with.
    recent: VecDeque<Mark>,
    /// Every slot below is chosen, delivered and durable here.
    stable: Slot,
    /// Delivered bodies not yet durable here: the append that covers each, and the slot after it.
    unstable: VecDeque<(AppendId, Slot)>,
    /// Every slot below is chosen, and durable records say so: the prefix that this replica would still know after a
    /// restart. At most `stable`, for the last bodies may be durable before any record says that they are chosen.
    proved: Slot,
    /// Records not yet durable that prove more: each append, and the end of the prefix that it proves.
    proving: VecDeque<(AppendId, Slot)>,
    catch_up: CatchUp,
    /// Where a peer's log begins that was asked for more than it has; of no meaning below the mark.
    available: Slot,
    /// What the state machine beside this replica needs, and since when it hasn't got on.
    hold: Option<(Hold, Instant)>,

    appended: AppendId,
    durable: AppendId,
    /// Messages that wait for an append; the counter keeps their order.
    held: BTreeMap<(AppendId, u64), (NodeId, Message)>,
    held_count: u64,
    disk: DiskWatch,
    effects: VecDeque<Effect>,

    /// Highest round seen in any ballot that was really used.
    round_max: u64,
    /// The ballot of the leader that was last heard.
    leader: Option<Ballot>,
    leader_heard: Instant,
    /// The newest heartbeat of that ballot.
    leader_beat: u64,
    barriers: Barriers,
    role: RoleState,
    disk_full: bool,
    disk_reserved: bool,
    halted: bool,
}

/// A body in the acceptor's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Accepted {
    ballot: Ballot,
    body: BodyHandle,
    append: AppendId,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum RoleState {
    /// Follows, or waits for a leader until the deadline.
    Follower { deadline: Instant },
    /// Asks whether a candidacy would be welcome; has promised nothing yet.
    Canvassing(Canvass),
    /// Runs phase 1.
    Candidate(Candidacy),
    /// Has won phase 1.
    Leader(Box<Leadership>),
}

/// The part a replica plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Accepts and learns.
    Follower,
    /// Looks for support, or runs phase 1.
    Candidate,
    /// Won phase 1, and closes what earlier ballots left open.
    Recovering,
    /// Proposes.
    Leader,
}

/// Room for a new body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The leader's ballot: the origin ballot of the body to be made.
    pub ballot: Ballot,
    /// First slot of the body to be made.
    pub first: Slot,
    /// Most slots it may fill.
    pub count_max: u32,
    /// Where the configuration was chosen that rules them, if its format wants bodies to say so.
    pub ruling: Option<Slot>,
}

/// Why a body can't be proposed. The caller asks [`Replica::opening`] first, so that each of these is rare.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ProposeError {
    /// This replica doesn't lead, or the window is full.
    #[error("no body may be proposed now: not leading, or the window is full")]
    NoOpening,
    /// The body doesn't begin at the next slot, holds nothing, or is larger than the opening.
    #[error("the body fills {count} slots from {first}, but the opening is at most {count_max} from {next}")]
    Misfit {
        /// First slot of the body.
        first: Slot,
        /// Its slots.
        count: u32,
        /// Where it should begin.
        next: Slot,
        /// How many it may fill.
        count_max: u32,
    },
    /// The body's bytes exceed [`limits::BODY_BYTES_MAX`].
    #[error("the body has {0} bytes, more than {max}", max = limits::BODY_BYTES_MAX)]
    TooLarge(u32),
}

/// What a leader knows of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub node: NodeId,
    /// The end of its chosen prefix, as last told.
    pub mark: Slot,
    /// The end of the chosen prefix that it would still know after a restart, as last told.
    pub stable: Slot,
    /// Bytes sent and not acknowledged.
    pub outstanding_bytes: u64,
    /// Whether it has no room for new commands, as last told.
    pub full: bool,
    /// Whether it is behind the trim: what it lacks is gone everywhere, and its log will begin where others do. It
    /// holds no trims until then.
    pub behind: bool,
    /// Whether it had, at its last answer, everything that it had been told of.
    pub keeps_pace: bool,
    /// The first slot that it, or a state machine that is driven there, may still need.
    pub needs: Slot,
}

/// A view of the replica for operators and tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// Its part.
    pub role: Role,
    /// The ballot of the leader it follows, or its own.
    pub leader: Option<Ballot>,
    /// Highest promise.
    pub promised: Ballot,
    /// Chosen prefix.
    pub mark: Mark,
    /// End of the durable chosen prefix.
    pub stable: Slot,
    /// Everything below is trimmed.
    pub trimmed: Slot,
    /// If this replica is behind the trim: where the log begins that its peers still have. Until it has installed what
    /// that begins with, it doesn't seek to lead.
    pub behind: Option<Slot>,
    /// Bodies proposed and not yet chosen.
    pub open_bodies: u32,
    /// Slots for which this acceptor's promise is no answer, because damage may hide an accept.
    pub doubts: Vec<Doubt>,
    /// Whether damage may hide a promise, so that this acceptor doesn't vote at all.
    pub unsure: bool,
    /// To whom the leadership is being transferred.
    pub transfer: Option<NodeId>,
    /// The configuration that rules the first slot of the open range.
    pub configuration: Configuration,
    /// The one that was chosen and doesn't rule yet, if there is one.
    pub pending: Option<Configuration>,
    /// Members of the configuration before, which must not be switched off yet: the new one doesn't hold everything that
    /// came before it. Ascending; nobody else forgets them before a leader has found out that they have retired.
    pub retiring: Vec<NodeId>,
    /// Whether this node was a member or a learner, and is neither any more, as far as it knows.
    pub removed: bool,
    /// What the leader knows of its peers; empty elsewhere.
    pub peers: Vec<PeerStatus>,
    /// Whether the replica has stopped for good.
    pub halted: bool,
}

impl Replica {
    /// A replica as it stands after a start.
    ///
    /// `boot` must be drawn at random for each process start; `seed` feeds the back-off. `recovered` is what the log
    /// proves, and every bit of it must be durable.
    ///
    /// # Panics
    /// If `recovered` isn't what its documentation says: recovery has a bug, and this acceptor must not vote.
    pub fn new(
        node: NodeId,
        boot: u64,
        seed: u64,
        settings: Settings,
        configurations: Configurations,
        recovered: Recovered,
        now: Instant,
    ) -> Replica {
        let mut jitter = Jitter(seed ^ boot.rotate_left(17) ^ u64::from(node.0));
        // Nobody has promised this process anything yet: a short first wait can't disturb a leader, since PreVote
        // asks first.
        let deadline = now.plus(jitter.between(settings.election_timeout / 8, settings.election_timeout));
        let mut accepted: BTreeMap<Slot, Accepted> = BTreeMap::new();
        for AcceptedBody { ballot, body } in recovered.accepted.iter().copied() {
            assert!(body.first >= recovered.mark.slot, "recovery hands over open slots only, not {body:?}");
            assert!(ballot <= recovered.promised, "an accept at {ballot} implies the promise of it");
            let before = accepted.last_key_value().map_or(recovered.mark.slot, |(_, known)| known.body.end());
            assert!(body.first >= before, "recovered bodies are ascending and disjoint, {body:?} is not");
            accepted.insert(body.first, Accepted { ballot, body, append: AppendId(0) });
        }
        let had_part = configurations.iter().any(|configuration| configuration.nodes().any(|other| other == node));
        Replica {
            node,
            boot,
            settings,
            configurations,
            contents: recovered.configurations.into_iter().collect(),
            removed_at: Slot(0),
            had_part,
            readers: BTreeMap::new(),
            jitter,
            promised: recovered.promised,
            promise_append: AppendId(0),
            accepted,
            doubts: doubt::bounded(recovered.doubts),
            unsure: recovered.unsure.then(Inquiry::default),
            mark: recovered.mark,
            trimmed: recovered.trimmed,
            recent: VecDeque::from([recovered.mark]),
            stable: recovered.mark.slot,
            unstable: VecDeque::new(),
            proved: recovered.mark.slot,
            proving: VecDeque::new(),
            catch_up: CatchUp::default(),
            available: Slot(0),
            hold: None,
            appended: AppendId(0),
            durable: AppendId(0),
            held: BTreeMap::new(),
            held_count: 0,
            disk: DiskWatch::default(),
            effects: VecDeque::new(),
            round_max: recovered.promised.round,
            leader: None,
            leader_heard: Instant(0),
            leader_beat: 0,
            barriers: Barriers::default(),
            role: RoleState::Follower { deadline },
            disk_full: false,
            disk_reserved: false,
            halted: false,
        }
    }

    /// Takes a message from a peer. The bytes of its body, if it has one, must be at hand before.
    pub fn handle_message(&mut self, now: Instant, from: NodeId, message: Message) {
        if self.halted || from == self.node || !message.is_plausible() {
            return;
        }
        self.disk.look(now, self.appended, self.durable);
        if message.body().is_some_and(|body| self.is_unknown_configuration(body)) {
            return;
        }
        if !self.heeds(from, &message) {
            return self.refuse_stranger(from);
        }
        match message {
            Message::PreVote { ballot, from: slot } => self.on_pre_vote(now, from, ballot, slot),
            Message::PreVoteGranted { ballot } => self.on_pre_vote_granted(now, from, ballot),
            Message::Prepare { ballot, from: slot } => self.on_prepare(now, from, ballot, slot),
            Message::Promise { ballot, from: slot, mark, part, parts, accepted, doubts } => {
                self.on_promise(now, from, (ballot, slot), mark, (part, parts), (accepted, doubts));
            }
            Message::Accept { ballot, body, mark } => self.on_accept(now, from, ballot, body, mark),
            Message::Accepted { ballot, first, id } => self.on_accepted(now, from, ballot, first, id),
            Message::Reject { ballot, reason } => self.on_reject(now, from, ballot, reason),
            Message::Heartbeat { ballot, mark, beat, recovered } => {
                self.on_heartbeat(now, from, ballot, mark, (beat, recovered));
            }
            Message::HeartbeatReply { ballot, mark, stable, beat, full } => {
                self.on_heartbeat_reply(now, from, ballot, mark, (stable, beat, full));
            }
            Message::Resigned { ballot } => self.on_resigned(now, from, ballot),
            Message::HandOver { ballot, beat } => self.on_hand_over(now, from, ballot, beat),
            Message::AskReadPoint { ballot, boot, number } => self.on_ask_read_point(now, from, ballot, (boot, number)),
            Message::ReadPoint { boot, number, slot } => self.on_read_point(now, boot, number, slot),
            Message::Fetch { from: slot, bytes } => self.on_fetch(from, slot, bytes),
            Message::Chosen { body, mark, last } => self.on_chosen(now, from, body, mark, last),
            Message::FetchBody { first, id } => self.effects.push_back(Effect::SupplyBody { to: from, first, id }),
            Message::Supply { body } => self.handle_obtained(now, body.id),
            Message::Unavailable { available, .. } => self.on_unavailable(now, available),
            // The driver gets together what it stands for, and calls `install`.
            Message::Base { .. } => {}
        }
    }

    /// Takes the news that append `id` and all before it are durable.
    pub fn handle_durable(&mut self, now: Instant, id: AppendId) {
        if id <= self.durable || self.halted {
            return;
        }
        assert!(id <= self.appended, "durable {id:?} was never asked for, the last is {:?}", self.appended);
        self.durable = id;
        self.disk.look(now, self.appended, self.durable);
        while let Some(&(append, end)) = self.unstable.front()
            && append <= id
        {
            self.stable = end;
            self.unstable.pop_front();
        }
        while let Some(&(append, end)) = self.proving.front()
            && append <= id
        {
            self.proved = end;
            self.proving.pop_front();
        }
        while let Some(entry) = self.held.first_entry()
            && entry.key().0 <= id
        {
            let (to, message) = entry.remove();
            self.effects.push_back(Effect::Send { to, message });
        }
        self.candidate_durable(now);
        self.leader_durable(now);
    }

    /// Takes the news that time has come to a deadline; harmless at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.halted {
            return;
        }
        self.disk.look(now, self.appended, self.durable);
        match &self.role {
            RoleState::Leader(_) => self.leader_timeout(now),
            _ if self.unsure.is_some() => self.inquire(now),
            _ => self.election_timeout(now),
        }
        self.catch_up_timeout(now);
        self.barriers_timeout(now);
    }

    /// Takes what a configuration body holds. Whoever brings such a body, by a message or by
    /// [`Replica::handle_obtained`], says this right before; other bodies stay opaque.
    pub fn handle_configuration(&mut self, id: BodyId, configuration: Configuration) {
        self.contents.retain(|known, _| self.accepted.values().any(|entry| entry.body.id == *known));
        self.contents.insert(id, configuration);
    }

    /// Takes the news that the bytes of a body asked for by [`Effect::Obtain`] are at hand.
    pub fn handle_obtained(&mut self, now: Instant, id: BodyId) {
        self.adopt_obtained(now, id);
    }

    /// Takes the news that the bytes of an accepted body, not known to be chosen, are lost here: it can't be vouched for.
    pub fn handle_damaged(&mut self, now: Instant, body: &BodyHandle) {
        self.doubt_accepted(body);
        if self.leadership().is_some_and(|leadership| leadership.has_open(body)) {
            // It can't be sent to anybody any more. If others have it, the next leader will find it there.
            self.resign(now);
        }
    }

    /// Takes a body made for [`Effect::Compose`].
    pub fn handle_composed(&mut self, now: Instant, body: BodyHandle) {
        self.propose_composed(now, body);
    }

    /// The next effect to carry out.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Replica::handle_timeout`] has something to do.
    pub fn poll_deadline(&self) -> Instant {
        if self.halted {
            return Instant(u64::MAX);
        }
        let role = match &self.role {
            RoleState::Follower { deadline } => self.unsure.as_ref().map_or(*deadline, Inquiry::deadline),
            RoleState::Canvassing(canvass) => canvass.deadline.min(canvass.resend_at),
            RoleState::Candidate(candidacy) => candidacy.deadline.min(candidacy.resend_at),
            RoleState::Leader(leadership) => leadership.deadline(),
        };
        [self.catch_up.deadline(), self.barriers.deadline()].into_iter().flatten().fold(role, Instant::min)
    }

    /// A view of the replica.
    pub fn status(&self) -> Status {
        let (role, open_bodies, peers, transfer) = match &self.role {
            RoleState::Follower { .. } => (Role::Follower, 0, Vec::new(), None),
            RoleState::Canvassing(_) | RoleState::Candidate(_) => (Role::Candidate, 0, Vec::new(), None),
            RoleState::Leader(leadership) => {
                let role = if leadership.is_recovering() { Role::Recovering } else { Role::Leader };
                let transfer = leadership.transfer.map(|transfer| transfer.target);
                (role, leadership.open_bodies(), leadership.peers(self.trimmed), transfer)
            }
        };
        Status {
            node: self.node,
            role,
            leader: self.leader,
            promised: self.promised,
            mark: self.mark,
            stable: self.stable,
            trimmed: self.trimmed,
            behind: self.behind(),
            open_bodies,
            doubts: self.doubts.clone(),
            unsure: self.unsure.is_some(),
            transfer,
            configuration: self.configurations.configuration_at(self.mark.slot).clone(),
            pending: self.configurations.boundary_after(self.mark.slot).map(|_| self.configurations.newest().clone()),
            retiring: self.retiring(),
            removed: self.is_removed(),
            peers,
            halted: self.halted,
        }
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Whether an accept may have been lost, so that this acceptor's promise is no answer for some slots.
    pub fn has_doubts(&self) -> bool {
        !self.doubts.is_empty()
    }

    /// Whether a promise may have been lost, so that this acceptor doesn't vote.
    pub fn is_unsure(&self) -> bool {
        self.unsure.is_some()
    }

    /// The end of the chosen prefix that this replica would still know after a restart.
    pub fn proved(&self) -> Slot {
        self.proved
    }

    /// The chosen prefix.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Everything below is trimmed, as the members have agreed.
    pub fn trimmed(&self) -> Slot {
        self.trimmed
    }

    /// The highest promise.
    pub fn promised(&self) -> Ballot {
        self.promised
    }

    /// Which configuration rules which slot.
    pub fn configurations(&self) -> &Configurations {
        &self.configurations
    }

    /// The accepted bodies above the mark, ascending: what phase 1 would reveal of this acceptor.
    pub fn accepted(&self) -> impl Iterator<Item = AcceptedBody> + '_ {
        self.accepted.values().map(|entry| AcceptedBody { ballot: entry.ballot, body: entry.body })
    }

    fn alpha(&self) -> u64 {
        u64::from(self.configurations.configuration_at(self.mark.slot).alpha)
    }

    /// Whether `votes` is a prepare quorum of every configuration that may rule an open slot.
    fn is_prepare_quorum(&self, votes: &[NodeId]) -> bool {
        self.configurations.active_from(self.mark.slot).all(|configuration| configuration.is_prepare_quorum(votes))
    }

    /// Whether `votes` is an accept quorum of every configuration that may rule an open slot.
    fn is_accept_quorum(&self, votes: &[NodeId]) -> bool {
        self.configurations.active_from(self.mark.slot).all(|configuration| configuration.is_accept_quorum(votes))
    }

    /// Whether an append has been waiting for the disk for an election timeout: whoever writes so slowly mustn't lead.
    fn disk_stalls(&self, now: Instant) -> bool {
        self.disk.stalled(now, self.durable) >= self.settings.election_timeout
    }

    fn note_round(&mut self, ballot: Ballot) {
        self.round_max = self.round_max.max(ballot.round);
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.effects.push_back(Effect::Send { to, message });
    }

    fn broadcast(&mut self, message: &Message) {
        for peer in self.peers() {
            self.send(peer, message.clone());
        }
    }

    /// Sends to all others that have a say in the open slots.
    fn ask_voters(&mut self, message: &Message) {
        for peer in self.voters() {
            self.send(peer, message.clone());
        }
    }

    /// Sends once `append` is durable: durability before speech.
    fn send_after(&mut self, append: AppendId, to: NodeId, message: Message) {
        if append <= self.durable {
            return self.send(to, message);
        }
        self.held_count += 1;
        self.held.insert((append, self.held_count), (to, message));
    }

    fn append(&mut self, entry: LogEntry) -> AppendId {
        self.appended = AppendId(self.appended.0 + 1);
        let unsure = self.unsure.is_some();
        let append = Append { id: self.appended, entry, promised: self.promised, mark: self.mark, unsure };
        let proves = match entry {
            LogEntry::Copied { body, .. } => body.end(),
            LogEntry::Promise | LogEntry::Accepted { .. } | LogEntry::Installed { .. } => self.mark.slot,
        };
        if proves > self.proving.back().map_or(self.proved, |(_, end)| *end) {
            self.proving.push_back((self.appended, proves));
        }
        self.effects.push_back(Effect::Append(append));
        self.appended
    }

    fn halt(&mut self, reason: HaltReason) {
        self.halted = true;
        self.held.clear();
        self.effects.push_back(Effect::Halt(reason));
    }

    /// A wait for the next election, drawn from one to two election timeouts.
    fn election_wait(&mut self) -> Duration {
        let shortest = self.settings.election_timeout;
        self.jitter.between(shortest, shortest.saturating_mul(2))
    }
}

/// A seeded source of back-off times (SplitMix64): randomness is an input, so that a run can be repeated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Jitter(u64);

impl Jitter {
    fn between(&mut self, shortest: Duration, longest: Duration) -> Duration {
        let span = longest.saturating_sub(shortest).as_micros() as u64;
        if span <= 1 {
            // Nothing to draw: a model checker without time finds equal states equal.
            return shortest;
        }
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        shortest + Duration::from_micros(mixed % span)
    }
}
