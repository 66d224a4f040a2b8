//! A small deterministic cluster for tests: replicas, a network and disks, under virtual time.
//!
//! The test decides which message arrives when (or never, or twice), what becomes durable, and who crashes. Whatever
//! it does, the cluster checks at every step what must always hold:
//! - durability before speech: a `Prepare`, `Promise`, `Accepted` or stable position leaves only when the log proves it;
//! - one body per ballot and slot, and one chosen body per slot, judged by the durable accepts of all nodes;
//! - a body is delivered only if it is chosen, in slot order, and the marks run over exactly what was delivered;
//! - a barrier that is reached covers everything that anybody had delivered when it began, and ends once;
//! - the bytes of a body are at hand when it is appended or sent;
//! - a log can be recovered from any durable prefix, and a halted replica says nothing more;
//! - whoever may have lost a promise to its disk doesn't vote.
//!
//! Bodies have no bytes here: a synthetic identity stands for them.
#![allow(dead_code, reason = "every test crate uses its own part of the harness")]

mod node;
mod oracle;
mod recovery;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use synod_protocol::{
    Append, Ballot, BarrierError, BarrierId, BarrierOutcome, BodyHandle, BodyId, BodyKind, Change, Configuration,
    Configurations, Effect, Instant, Mark, Message, NodeId, Opening, ReconfigureError, Recovered, RejectReason,
    Replica, Role, Settings, Slot, TransferError,
};

pub(crate) use node::{Disk, Node};
pub(crate) use oracle::Oracle;
pub(crate) use recovery::Loss;

/// More deliveries than this without time passing are an endless conversation.
const CONVERSATION_MAX: usize = 200_000;

/// A message under way.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Packet {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) message: Message,
}

/// See the module documentation.
pub(crate) struct Cluster {
    pub(crate) now: Instant,
    /// Messages under way, in the order in which they were sent.
    pub(crate) network: VecDeque<Packet>,
    /// Messages sent so far, by kind.
    pub(crate) sent: BTreeMap<&'static str, u64>,
    pub(crate) oracle: Oracle,
    nodes: BTreeMap<NodeId, Node>,
    /// Genesis.
    configuration: Configuration,
    /// What configuration bodies hold.
    contents: BTreeMap<BodyId, Configuration>,
    settings: Settings,
    cut: BTreeSet<(NodeId, NodeId)>,
    bodies_made: u128,
    boots: u64,
    seed: u64,
    /// The end of the longest prefix that anybody has delivered.
    delivered_anywhere: Slot,
    plant: Option<Plant>,
}

/// A bug of damaged nodes, planted to see that the checks catch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plant {
    /// A node that has lost accepts says nothing of it.
    HidesDoubts,
    /// A node that may have lost a promise votes at once.
    SureTooSoon,
}

/// The node of this number.
pub(crate) fn n(number: u32) -> NodeId {
    NodeId(number)
}

/// The slot of this number.
pub(crate) fn s(number: u64) -> Slot {
    Slot(number)
}

/// A ballot of `node`, made by hand.
pub(crate) fn ballot(round: u64, node: u32) -> Ballot {
    Ballot { round, node: n(node), boot: 77 }
}

/// A body of commands, made by hand.
pub(crate) fn body(first: u64, count: u32, id: u128) -> BodyHandle {
    BodyHandle { first: s(first), count, bytes: 100 * count, kind: BodyKind::Commands, id: BodyId(id) }
}

impl Cluster {
    /// A cluster of `size` nodes with majority quorums and default settings.
    pub(crate) fn new(size: u32) -> Cluster {
        Cluster::with(size, Configuration::ALPHA_DEFAULT, Settings::default(), 1)
    }

    /// A cluster with another alpha or other settings; `seed` feeds the back-off of its nodes.
    pub(crate) fn with(size: u32, alpha: u32, settings: Settings, seed: u64) -> Cluster {
        let genesis = Configuration::genesis((1..=size).map(NodeId).collect(), alpha).expect("a sound genesis");
        Cluster::ruled_by(genesis, settings, seed)
    }

    /// A cluster with quorums of its own.
    pub(crate) fn ruled_by(configuration: Configuration, settings: Settings, seed: u64) -> Cluster {
        configuration.check().expect("a sound configuration");
        settings.check().expect("sound settings");
        let members = configuration.members.clone();
        let mut cluster = Cluster {
            now: Instant(1_000_000),
            network: VecDeque::new(),
            sent: BTreeMap::new(),
            oracle: Oracle::new(configuration.clone()),
            nodes: BTreeMap::new(),
            configuration,
            contents: BTreeMap::new(),
            settings,
            cut: BTreeSet::new(),
            bodies_made: 1_000_000,
            boots: 0,
            seed,
            delivered_anywhere: Slot::FIRST,
            plant: None,
        };
        for id in members {
            cluster.nodes.insert(id, Node::default());
            cluster.restart(id);
        }
        cluster
    }

    /// Adds a node that knows genesis and isn't in it.
    pub(crate) fn add_node(&mut self, id: NodeId) {
        assert!(self.nodes.insert(id, Node::default()).is_none(), "{id} is there already");
        self.restart(id);
    }

    /// Proposes a change of the membership at `id`.
    pub(crate) fn reconfigure(&mut self, id: NodeId, change: Change) -> Result<Slot, ReconfigureError> {
        let now = self.now;
        let proposed = self.replica_mut(id).reconfigure(now, change);
        self.drive(id);
        proposed
    }

    /// From now on, damaged nodes have this bug.
    pub(crate) fn plant(&mut self, plant: Plant) {
        self.plant = Some(plant);
        for node in self.nodes.values_mut() {
            node.forgives_losses = plant == Plant::SureTooSoon;
        }
    }

    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[&id]
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("a member")
    }

    pub(crate) fn replica(&self, id: NodeId) -> &Replica {
        self.nodes[&id].replica.as_ref().expect("the node is up")
    }

    pub(crate) fn replica_mut(&mut self, id: NodeId) -> &mut Replica {
        self.node_mut(id).replica.as_mut().expect("the node is up")
    }

    pub(crate) fn is_up(&self, id: NodeId) -> bool {
        self.nodes[&id].replica.is_some()
    }

    pub(crate) fn role(&self, id: NodeId) -> Role {
        self.replica(id).status().role
    }

    pub(crate) fn mark(&self, id: NodeId) -> Mark {
        self.replica(id).mark()
    }

    pub(crate) fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The bodies that `id` has delivered, in order.
    pub(crate) fn delivered(&self, id: NodeId) -> Vec<BodyHandle> {
        self.nodes[&id].delivered.iter().map(|(body, _)| *body).collect()
    }

    /// Who leads, finished with recovery; the one of the highest ballot if several think so.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let leads = |id: &NodeId| self.is_up(*id) && self.role(*id) == Role::Leader;
        self.ids().into_iter().filter(leads).max_by_key(|id| self.replica(*id).promised())
    }

    /// How many messages of this kind were sent so far.
    pub(crate) fn sent(&self, kind: &str) -> u64 {
        self.sent.get(kind).copied().unwrap_or(0)
    }

    // --- the network -------------------------------------------------------------------------------------------------

    pub(crate) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cut.insert((from, to));
    }

    pub(crate) fn isolate(&mut self, id: NodeId) {
        for peer in self.ids() {
            self.cut.insert((id, peer));
            self.cut.insert((peer, id));
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    /// Takes the messages out of the network that the test wants to lose, hold or replay.
    pub(crate) fn take(&mut self, wanted: impl Fn(&Packet) -> bool) -> Vec<Packet> {
        let (taken, kept) = std::mem::take(&mut self.network).into_iter().partition(wanted);
        self.network = kept;
        Vec::from_iter::<VecDeque<Packet>>(taken)
    }

    /// Hands a message over, unless the link is cut or the receiver is down.
    pub(crate) fn deliver(&mut self, packet: Packet) {
        let Packet { from, to, message } = packet;
        if self.cut.contains(&(from, to)) || self.nodes.get(&to).is_none_or(|node| node.replica.is_none()) {
            return;
        }
        self.inject(from, to, message);
    }

    /// Hands over a message that was never sent, as a faulty or forgotten sender might.
    pub(crate) fn inject(&mut self, from: NodeId, to: NodeId, message: Message) {
        let now = self.now;
        let content = message.body().and_then(|body| Some((body.id, self.contents.get(&body.id)?.clone())));
        let node = self.node_mut(to);
        node.at_hand.extend(message.body().map(|body| body.id));
        if let (Some((id, content)), Some(replica)) = (content, &mut node.replica) {
            replica.handle_configuration(id, content);
        }
        node.replica.as_mut().expect("the node is up").handle_message(now, from, message);
        self.drive(to);
    }

    /// Delivers messages in the order in which they were sent until there are none.
    pub(crate) fn deliver_all(&mut self) {
        for _ in 0..CONVERSATION_MAX {
            let Some(packet) = self.network.pop_front() else { return };
            self.deliver(packet);
        }
        panic!("the nodes talk for ever: {:?}", self.network.front());
    }

    // --- time --------------------------------------------------------------------------------------------------------

    /// Lets a time pass; messages take none of it.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now.plus(duration);
        let mut turns_at_once = 0;
        loop {
            self.deliver_all();
            let up = self.nodes.values().filter_map(|node| node.replica.as_ref());
            let next = up.map(Replica::poll_deadline).min().unwrap_or(Instant(u64::MAX));
            if next > end {
                self.now = self.now.max(end);
                return;
            }
            turns_at_once = if next > self.now { 0 } else { turns_at_once + 1 };
            assert!(turns_at_once < 100, "a deadline that never moves is a busy loop");
            self.now = self.now.max(next);
            self.time_out_due();
        }
    }

    /// Calls every node whose deadline has come.
    pub(crate) fn time_out_due(&mut self) {
        for id in self.ids() {
            if self.is_up(id) && self.replica(id).poll_deadline() <= self.now {
                self.time_out(id);
            }
        }
    }

    pub(crate) fn time_out(&mut self, id: NodeId) {
        let now = self.now;
        self.replica_mut(id).handle_timeout(now);
        self.drive(id);
    }

    /// Lets only the clock of `id` run until it leads; messages flow, nobody else's time-outs fire.
    pub(crate) fn elect(&mut self, id: NodeId) -> Ballot {
        for _ in 0..30 {
            self.now = self.now.max(self.replica(id).poll_deadline());
            self.time_out(id);
            self.deliver_all();
            if matches!(self.role(id), Role::Leader) {
                return self.replica(id).promised();
            }
        }
        panic!("{id} was not elected: {:?}", self.replica(id).status());
    }

    // --- disks and lives ---------------------------------------------------------------------------------------------

    /// Makes everything durable that `id` has appended.
    pub(crate) fn sync(&mut self, id: NodeId) {
        self.sync_to(id, self.nodes[&id].log.len());
    }

    /// Makes the first `count` appends of `id` durable.
    pub(crate) fn sync_to(&mut self, id: NodeId, count: usize) {
        if self.acknowledge(id, count) {
            self.drive(id);
        }
    }

    fn acknowledge(&mut self, id: NodeId, count: usize) -> bool {
        let (now, oracle) = (self.now, &mut self.oracle);
        let node = self.nodes.get_mut(&id).expect("a member");
        let fresh = node.make_durable(count);
        for append in &fresh {
            oracle.note_durable(id, append, &self.contents);
        }
        if let (Some(last), Some(replica)) = (fresh.last(), &mut node.replica) {
            replica.handle_durable(now, last.id);
        }
        !fresh.is_empty()
    }

    /// Ends a life of `id`; of what wasn't durable yet, the first `lucky` appends survive all the same.
    pub(crate) fn crash(&mut self, id: NodeId, lucky: usize) {
        let node = self.nodes.get_mut(&id).expect("a member");
        for append in node.crash(lucky) {
            self.oracle.note_durable(id, &append, &self.contents);
        }
    }

    /// Ends a life of `id`, and loses some of what was durable.
    pub(crate) fn damage(&mut self, id: NodeId, losses: &[(usize, Loss)]) {
        if self.is_up(id) {
            self.crash(id, 0);
        }
        self.node_mut(id).damage(losses);
    }

    /// Whether somebody other than `id` has what `id` would lose with the append at `index`, if that is chosen.
    pub(crate) fn may_lose(&self, id: NodeId, index: usize) -> bool {
        let lost = recovery::body_of(&self.nodes[&id].log[index]);
        let chosen = lost.filter(|body| self.oracle.chosen().get(&body.first) == Some(body));
        chosen.is_none_or(|body| {
            let mut others = self.nodes.iter().filter(|(other, _)| **other != id);
            others.any(|(_, node)| node.has_durable(body))
        })
    }

    /// Begins a life of `id` with what its log proves.
    pub(crate) fn restart(&mut self, id: NodeId) {
        self.boots += 1;
        let boot = self.boots.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut configurations = Configurations::new(self.configuration.clone());
        let (seed, settings, now, planted) = (self.seed, self.settings.clone(), self.now, self.plant);
        let node = self.nodes.get_mut(&id).expect("a member");
        let mut recovered = node.begin_life();
        for (body, _) in &node.delivered {
            match body.kind {
                BodyKind::Configuration { after } => {
                    configurations.choose(after, self.contents[&body.id].clone());
                }
                BodyKind::Trim { upto } => drop(configurations.retire_before(upto)),
                BodyKind::Commands | BodyKind::NoOp | BodyKind::Session | BodyKind::Ticket => {}
            }
        }
        let open = recovered.accepted.iter().map(|report| report.body.id);
        recovered.configurations = open.filter_map(|id| Some((id, self.contents.get(&id)?.clone()))).collect();
        match planted {
            Some(Plant::HidesDoubts) => recovered.doubts.clear(),
            Some(Plant::SureTooSoon) if recovered.unsure => {
                recovered.unsure = false;
                // It tells of its doubts as if it knew all of them, and only its promise is forgotten.
                for doubt in &mut recovered.doubts {
                    doubt.bound = node.promised_ever();
                }
            }
            Some(Plant::SureTooSoon) => {}
            None => {}
        }
        node.replica = Some(Replica::new(id, boot, seed, settings, configurations, recovered, now));
        self.drive(id);
    }

    // --- clients -----------------------------------------------------------------------------------------------------

    /// Begins a barrier at `id`.
    pub(crate) fn barrier(&mut self, id: NodeId) -> Result<BarrierId, BarrierError> {
        let (now, needed) = (self.now, self.delivered_anywhere);
        let begun = self.replica_mut(id).barrier(now)?;
        self.node_mut(id).reading.insert(begun, needed);
        self.drive(id);
        Ok(begun)
    }

    /// Begins to hand the leadership of `id` over.
    pub(crate) fn transfer(&mut self, id: NodeId, target: NodeId) -> Result<(), TransferError> {
        let now = self.now;
        let begun = self.replica_mut(id).transfer(now, target);
        self.drive(id);
        begun
    }

    pub(crate) fn opening(&self, id: NodeId) -> Option<Opening> {
        self.replica(id).opening()
    }

    /// A new body of commands with an identity of its own.
    pub(crate) fn make_body(&mut self, first: Slot, count: u32) -> BodyHandle {
        self.make(first, count, BodyKind::Commands)
    }

    fn make(&mut self, first: Slot, count: u32, kind: BodyKind) -> BodyHandle {
        self.bodies_made += 1;
        BodyHandle { first, count, bytes: 100 * count.min(1000), kind, id: BodyId(self.bodies_made) }
    }

    /// Proposes a body of `count` commands at `id`, which must have an opening for it.
    pub(crate) fn propose(&mut self, id: NodeId, count: u32) -> BodyHandle {
        let opening =
            self.opening(id).unwrap_or_else(|| panic!("{id} has no opening: {:?}", self.replica(id).status()));
        let body = self.make_body(opening.first, count);
        self.propose_body(id, body);
        body
    }

    /// As [`Cluster::propose`] of one command, if there is room.
    pub(crate) fn propose_if_open(&mut self, id: NodeId) {
        if self.is_up(id) && self.opening(id).is_some() {
            self.propose(id, 1);
        }
    }

    pub(crate) fn propose_body(&mut self, id: NodeId, body: BodyHandle) {
        let now = self.now;
        self.node_mut(id).at_hand.insert(body.id);
        self.replica_mut(id).propose(now, body).expect("the body fits the opening");
        self.drive(id);
    }

    /// Proposes a body and waits until every node that is up and connected has it.
    pub(crate) fn commit(&mut self, id: NodeId, count: u32) -> BodyHandle {
        let body = self.propose(id, count);
        self.deliver_all();
        assert_eq!(self.mark(id).slot, body.end(), "{body:?} is chosen");
        body
    }

    /// Brings a held composition to the core.
    pub(crate) fn compose(&mut self, id: NodeId, composed: BodyHandle) {
        let now = self.now;
        self.node_mut(id).at_hand.insert(composed.id);
        self.replica_mut(id).handle_composed(now, composed);
        self.drive(id);
    }

    // --- the driver --------------------------------------------------------------------------------------------------

    /// Carries out what `id` asks for, until it asks for nothing more.
    pub(crate) fn drive(&mut self, id: NodeId) {
        loop {
            while let Some(effect) = self.replica_mut(id).poll_effect() {
                assert!(self.nodes[&id].halted.is_none(), "{id} has halted and still wants {effect:?}");
                self.carry_out(id, effect);
            }
            if self.nodes[&id].disk != Disk::AtOnce || !self.acknowledge(id, self.nodes[&id].log.len()) {
                break;
            }
        }
        self.node_mut(id).at_hand.clear();
        let accepted: Vec<_> = self.replica(id).accepted().collect();
        let (mark, promised) = (self.mark(id), self.replica(id).promised());
        assert!(
            accepted.first().is_none_or(|entry| entry.body.first >= mark.slot),
            "accepted bodies lie above the mark"
        );
        assert!(
            accepted.windows(2).all(|pair| pair[0].body.end() <= pair[1].body.first),
            "accepted bodies are disjoint"
        );
        assert!(accepted.iter().all(|entry| entry.ballot <= promised), "no accept above the promise");
    }

    fn carry_out(&mut self, id: NodeId, effect: Effect) {
        let now = self.now;
        match effect {
            Effect::Send { to, message } => self.send(id, to, message),
            Effect::Append(append) => self.append(id, append),
            Effect::Deliver { body, mark } => {
                self.oracle.check_delivery(id, &body);
                self.delivered_anywhere = self.delivered_anywhere.max(mark.slot);
                self.node_mut(id).deliver(body, mark);
            }
            Effect::Obtain { body, holder } => {
                let content = self.contents.get(&body.id).cloned();
                let node = self.node_mut(id);
                if node.holds(&body) {
                    let replica = node.replica.as_mut().expect("the node is up");
                    if let Some(content) = content {
                        replica.handle_configuration(body.id, content);
                    }
                    replica.handle_obtained(now, body.id);
                } else {
                    self.send(id, holder, Message::FetchBody { first: body.first, id: body.id });
                }
            }
            Effect::Compose { first, count, ballot: _, kind } => {
                let composed = self.make(first, count, kind);
                self.composed(id, composed);
            }
            Effect::ComposeConfiguration { configuration, after, ballot: _ } => {
                let composed = self.make(configuration.chosen_at, 1, BodyKind::Configuration { after });
                self.contents.insert(composed.id, *configuration);
                self.composed(id, composed);
            }
            Effect::Serve { to, from, bytes, mark } => self.serve(id, to, from, bytes, mark),
            Effect::SupplyBody { to, first, id: wanted } => {
                let found = self.nodes[&id].body(first, wanted);
                let available = self.nodes[&id].trimmed;
                let message = found.map_or(Message::Unavailable { first, available }, |body| Message::Supply { body });
                self.send(id, to, message);
            }
            Effect::Barrier { id: barrier, outcome } => self.end_barrier(id, barrier, outcome),
            Effect::TransferEnded { target, outcome } => self.node_mut(id).transfers.push((target, outcome)),
            Effect::Halt(reason) => {
                assert_eq!(self.node_mut(id).halted.replace(reason), None, "a replica halts once");
            }
        }
    }

    fn composed(&mut self, id: NodeId, composed: BodyHandle) {
        let now = self.now;
        let node = self.node_mut(id);
        if node.hold_compositions {
            return node.compositions.push(composed);
        }
        node.at_hand.insert(composed.id);
        node.replica.as_mut().expect("the node is up").handle_composed(now, composed);
    }

    /// A barrier that is reached covers everything that anybody had delivered when it began, and it is delivered here.
    fn end_barrier(&mut self, id: NodeId, barrier: BarrierId, outcome: BarrierOutcome) {
        let delivered = self.nodes[&id].delivered_to();
        let node = self.node_mut(id);
        let needed = node.reading.remove(&barrier).expect("a barrier ends once, in the life in which it began");
        if let BarrierOutcome::Reached(slot) = outcome {
            assert!(slot >= needed, "{id} reads up to {slot}, but {needed} was delivered before");
            assert!(slot <= delivered, "{id} has delivered up to {delivered}, not {slot}");
        }
        node.barriers.push((barrier, outcome));
    }

    fn append(&mut self, id: NodeId, append: Append) {
        let node = self.node_mut(id);
        if let Some(body) = recovery::body_of(&append) {
            assert!(node.holds(body), "{id} appends {body:?} without its bytes");
        }
        node.append(append);
    }

    fn send(&mut self, id: NodeId, to: NodeId, message: Message) {
        let node = &self.nodes[&id];
        node.check_speech(id, &message);
        let votes = !matches!(kind_of(&message), "PreVote" | "Reject" | "Fetch" | "Chosen" | "FetchBody")
            && !matches!(
                kind_of(&message),
                "Supply" | "Unavailable" | "Base" | "AskReadPoint" | "ReadPoint" | "Resigned"
            );
        assert!(!votes || !self.replica(id).is_unsure(), "{id} is unsure, and says {message:?}");
        if let Some(body) = message.body() {
            assert!(node.holds(body), "{id} sends {body:?} without its bytes");
        }
        *self.sent.entry(kind_of(&message)).or_default() += 1;
        let more = match &message {
            Message::Promise { doubts, .. } if !doubts.is_empty() => Some("Promise, in doubt"),
            Message::Reject { reason: RejectReason::Doubtful, .. } => Some("Reject, unsure"),
            _ => None,
        };
        if let Some(kind) = more {
            *self.sent.entry(kind).or_default() += 1;
        }
        self.network.push_back(Packet { from: id, to, message });
    }

    fn serve(&mut self, id: NodeId, to: NodeId, from: Slot, bytes: u32, mark: Mark) {
        let node = &self.nodes[&id];
        if from < node.trimmed {
            let available = node.trimmed;
            return self.send(id, to, Message::Unavailable { first: from, available });
        }
        let mut left = u64::from(bytes);
        let mut answer = Vec::new();
        for (body, after) in &node.delivered {
            let size = u64::from(body.bytes);
            if body.first < from || after.slot > mark.slot {
                continue;
            }
            if size > left && !answer.is_empty() {
                break;
            }
            left = left.saturating_sub(size);
            answer.push(*body);
        }
        let count = answer.len();
        for (index, body) in answer.into_iter().enumerate() {
            self.send(id, to, Message::Chosen { body, mark, last: index + 1 == count });
        }
    }
}

/// The name of a message's kind.
pub(crate) fn kind_of(message: &Message) -> &'static str {
    match message {
        Message::PreVote { .. } => "PreVote",
        Message::PreVoteGranted { .. } => "PreVoteGranted",
        Message::Prepare { .. } => "Prepare",
        Message::Promise { .. } => "Promise",
        Message::Accept { .. } => "Accept",
        Message::Accepted { .. } => "Accepted",
        Message::Reject { .. } => "Reject",
        Message::Heartbeat { .. } => "Heartbeat",
        Message::HeartbeatReply { .. } => "HeartbeatReply",
        Message::Fetch { .. } => "Fetch",
        Message::Chosen { .. } => "Chosen",
        Message::FetchBody { .. } => "FetchBody",
        Message::Supply { .. } => "Supply",
        Message::Unavailable { .. } => "Unavailable",
        Message::Base { .. } => "Base",
        Message::Resigned { .. } => "Resigned",
        Message::HandOver { .. } => "HandOver",
        Message::AskReadPoint { .. } => "AskReadPoint",
        Message::ReadPoint { .. } => "ReadPoint",
    }
}

/// A predicate for [`Cluster::take`]: messages of this kind.
pub(crate) fn is(kind: &'static str) -> impl Fn(&Packet) -> bool {
    move |packet| kind_of(&packet.message) == kind
}

/// A predicate for [`Cluster::take`]: messages of this kind to this node.
pub(crate) fn is_to(kind: &'static str, to: NodeId) -> impl Fn(&Packet) -> bool {
    move |packet| kind_of(&packet.message) == kind && packet.to == to
}

/// The reasons of the refusals among these messages.
pub(crate) fn refusals(packets: &[Packet]) -> Vec<RejectReason> {
    let reason = |packet: &Packet| match packet.message {
        Message::Reject { reason, .. } => Some(reason),
        _ => None,
    };
    packets.iter().filter_map(reason).collect()
}

/// What a fresh log proves.
pub(crate) fn nothing() -> Recovered {
    Recovered::default()
}

/// A seeded source of decisions (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    /// One of `choices`.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// True `share` times out of a hundred.
    pub(crate) fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }
}
