//! The model of the replicated log: three real replicas, a network without order, disks, and a bounded number of
//! elections, crashes, duplicates and so on ([`Setup`]).
//!
//! What is explored is the core as it is: every call that a driver may make, in every order. What is left out, and why
//! that hides nothing of what the laws are about:
//! - **Time.** Retransmissions and elections happen whenever the checker likes, bounded in number.
//! - **Loss.** A message may stay under way for ever, so any number is lost in every model. Dropping one by name only
//!   shows that a set of messages without it makes no difference.
//! - **Pre-votes** are welcome at once. A refused one is an election that doesn't happen.
//! - **Bytes.** Bodies have none; the bytes of a revealed body come to hand in one step, if they come.
//! - **Chatter**, in the quiet models: refusals, resignations, answers to heartbeats, heartbeats without news are lost.
//!   They stop a proposer early, but choose nothing.
//! - **Messages that are ignored for ever** leave the network: states that differ only by them are the same. In debug
//!   builds each is handed to its receiver to see that it is.
//! - **Damage**, but for what some models say: the record of an accept, or the last record of a log, is lost while the
//!   node is down. It knows that something is lost there, and what the next record tells of it.
//! - **Strangers.** A node whose disk is lost comes back with another store, which its peers refuse: nothing of it arrives,
//!   and nothing arrives at it. How it is let in again is a change of the membership.
//! - **A down node.** It starts again at once: until somebody hears of it, that is the same.

use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

use stateright::{Model, Property};
use synod_protocol::{BodyHandle, Mark, Message, NodeId, RejectReason};

use crate::check::{Checked, Stop};
use crate::history::{History, Law, Sight};
use crate::node::{Event, NODES, Node, Outcome, Rules};
use crate::plant::Plant;
use crate::setup::{Disk, Setup};
use crate::shared::Shared;
use crate::story::{show_body, show_message};

/// A message under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    from: NodeId,
    to: NodeId,
    message: Message,
}

/// One state of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    nodes: [Shared<Node>; 3],
    /// A set, ordered by fingerprint: a message that is under way already isn't sent again.
    network: Vec<Shared<Packet>>,
    history: Shared<History>,
    spent: Spent,
}

/// How much of what the setup allows has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Spent {
    campaigns: [u8; 3],
    crashes: u8,
    duplicates: u8,
    drops: u8,
    ticks: u8,
    lost_accepts: u8,
    lost_lasts: u8,
    wipes: u8,
    changes: u8,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nodes.hash(state);
        self.network.hash(state);
        self.history.hash(state);
        self.spent.hash(state);
    }
}

/// What may happen next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A message arrives.
    Deliver(Shared<Packet>),
    /// A message arrives, and will do so once more.
    Duplicate(Shared<Packet>),
    /// A message is lost.
    Drop(Shared<Packet>),
    /// The next append of a node is durable.
    Durable(NodeId),
    /// A node runs for leader.
    Campaign(NodeId),
    /// A node's other timers go off.
    Tick(NodeId),
    /// A leader proposes a body of so many slots.
    Propose(NodeId, u32),
    /// A leader proposes the configuration in which it is alone.
    Change(NodeId),
    /// A leader has the bytes of a body that phase 1 revealed.
    Obtain(NodeId, BodyHandle),
    /// A leader has made no-ops.
    Compose(NodeId, BodyHandle),
    /// A node crashes, and starts again.
    Crash(NodeId),
    /// A node crashes, loses the record of an accept, which has others behind it, and starts again.
    LoseAccept(NodeId, usize),
    /// A node crashes, loses the last record of its log, and starts again.
    LoseLast(NodeId),
    /// A node loses its disk, and starts with an empty one.
    Wipe(NodeId),
}

/// The model; see the module documentation.
#[derive(Clone, Debug)]
pub struct Cluster {
    rules: Rules,
    only: Option<Law>,
    stop: Stop,
}

impl Cluster {
    /// The cluster of `setup`, with a bug or without.
    pub fn new(setup: Setup, plant: Option<Plant>) -> Cluster {
        Cluster { rules: Rules { setup, plant }, only: None, stop: Stop::default() }
    }

    /// Looks for breaches of `law` alone, to see what else a bug leads to.
    #[must_use]
    pub fn only(mut self, law: Law) -> Cluster {
        self.only = Some(law);
        self
    }

    fn is_over(&self, state: &State) -> bool {
        match self.only {
            Some(law) => state.history.breach(law).is_some(),
            None => !state.history.is_lawful(),
        }
    }

    fn setup(&self) -> &Setup {
        &self.rules.setup
    }

    /// What `state` becomes when `call` is made on a node.
    fn call(&self, state: &mut State, id: NodeId, call: impl FnOnce(&mut Node, &Rules) -> Outcome) {
        let index = id.0 as usize - 1;
        let before = &state.nodes[index];
        let stepped = catch_unwind(AssertUnwindSafe(|| before.changed(|node| call(node, &self.rules))));
        match stepped {
            Ok((node, outcome)) => {
                state.nodes[index] = node;
                self.take(state, id, outcome);
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("panic").to_owned();
                let event = Event::Broken(Law::NoPanic, format!("{id} panics: {text}"));
                self.take(state, id, Outcome { sent: Vec::new(), events: vec![event] });
            }
        }
    }

    fn take(&self, state: &mut State, id: NodeId, outcome: Outcome) {
        let setup = self.setup();
        if !outcome.events.is_empty() {
            state.history = state.history.changed(|history| note(history, id, outcome.events, setup)).0;
        }
        let is_shut_out = state.nodes[id.0 as usize - 1].is_shut_out(&self.rules);
        for (to, message) in outcome.sent {
            if self.is_sent(&message) && !is_shut_out {
                let packet = Shared::new(Packet { from: id, to, message });
                if let Err(place) = position(&state.network, &packet) {
                    state.network.insert(place, packet);
                }
            }
        }
        let State { nodes, network, .. } = state;
        network.retain(|packet| {
            let node = &nodes[packet.to.0 as usize - 1];
            if node.is_shut_out(&self.rules) {
                return false;
            }
            let ignored = node.ignores(&self.rules, &packet.message);
            debug_assert!(!ignored || node.is_deaf_to(packet.from, &packet.message), "{packet:?} isn't ignored");
            !ignored
        });
    }

    fn is_sent(&self, message: &Message) -> bool {
        self.setup().chatter
            || match message {
                Message::Heartbeat { mark, .. } => *mark != Mark::START,
                // What an unsure acceptor has asked for.
                Message::Reject { ballot, reason } if ballot.round == 0 => *reason != RejectReason::Doubtful,
                Message::HeartbeatReply { .. } | Message::Reject { .. } | Message::Resigned { .. } => false,
                _ => true,
            }
    }
}

fn note(history: &mut History, node: NodeId, events: Vec<Event>, setup: &Setup) {
    for event in events {
        match event {
            Event::Proposed(ballot, body) => history.proposed(ballot, body),
            Event::Voted(ballot, body) => history.voted(node, ballot, body, setup),
            Event::Claimed(ballot, first) => {
                if !history.has_voted(node, ballot, first) {
                    let breach = format!("{node} claims an accept of slot {first} that isn't durable");
                    history.break_law(Law::PersistBeforeSpeak, breach);
                }
            }
            Event::Delivered(body) => history.delivered(node, body, setup.slots()),
            Event::Filled(filler, open) => history.filled(&filler, open.into_iter()),
            Event::Seen(sight) => history.see(sight),
            Event::Broken(law, breach) => history.break_law(law, breach),
        }
    }
}

fn position(network: &[Shared<Packet>], packet: &Shared<Packet>) -> Result<usize, usize> {
    network.binary_search_by_key(&packet.fingerprint(), Shared::fingerprint)
}

fn remove(network: &mut Vec<Shared<Packet>>, packet: &Shared<Packet>) {
    if let Ok(place) = position(network, packet) {
        network.remove(place);
    }
}

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let nodes = NODES.map(|id| Shared::new(Node::new(&self.rules, id)));
        let history = Shared::new(History::default());
        vec![State { nodes, network: Vec::new(), history, spent: Spent::default() }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if self.stop.is_set() || self.is_over(state) {
            return;
        }
        let (setup, spent) = (self.setup(), &state.spent);
        for packet in &state.network {
            actions.push(Action::Deliver(packet.clone()));
            if spent.duplicates < setup.duplicates {
                actions.push(Action::Duplicate(packet.clone()));
            }
            if spent.drops < setup.drops {
                actions.push(Action::Drop(packet.clone()));
            }
        }
        for (index, (id, node)) in NODES.into_iter().zip(&state.nodes).enumerate() {
            if setup.disk == Disk::Queued && node.has_pending() {
                actions.push(Action::Durable(id));
            }
            if spent.campaigns[index] < setup.campaigns[index] && node.may_campaign() {
                actions.push(Action::Campaign(id));
            }
            if spent.ticks < setup.ticks && node.has_timer() {
                actions.push(Action::Tick(id));
            }
            if let Some((first, count_max)) = node.opening() {
                let lengths = setup.lengths(id, first.0).filter(|count| *count <= count_max);
                actions.extend(lengths.map(|count| Action::Propose(id, count)));
            }
            if id == NODES[0] && spent.changes < setup.changes && node.opening().is_some() {
                actions.push(Action::Change(id));
            }
            actions.extend(node.obtaining().iter().map(|body| Action::Obtain(id, *body)));
            actions.extend(node.composing().iter().map(|body| Action::Compose(id, *body)));
            if spent.crashes < setup.crashes && setup.crashing[index] {
                actions.push(Action::Crash(id));
            }
            if setup.losing[index] && spent.lost_accepts < setup.lost_accepts {
                actions.extend(node.log().accepts_between().into_iter().map(|place| Action::LoseAccept(id, place)));
            }
            if setup.wiping[index] && spent.wipes < setup.wipes {
                actions.push(Action::Wipe(id));
            }
            if setup.losing[index] && spent.lost_lasts < setup.lost_lasts && node.log().has_last() {
                actions.push(Action::LoseLast(id));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Deliver(packet) => {
                remove(&mut state.network, &packet);
                self.call(&mut state, packet.to, |node, rules| {
                    node.receive(rules, packet.from, packet.message.clone())
                });
            }
            Action::Duplicate(packet) => {
                state.spent.duplicates += 1;
                self.call(&mut state, packet.to, |node, rules| {
                    node.receive(rules, packet.from, packet.message.clone())
                });
            }
            Action::Drop(packet) => {
                state.spent.drops += 1;
                remove(&mut state.network, &packet);
            }
            Action::Durable(id) => self.call(&mut state, id, Node::next_durable),
            Action::Campaign(id) => {
                state.spent.campaigns[id.0 as usize - 1] += 1;
                self.call(&mut state, id, Node::campaign);
            }
            Action::Tick(id) => {
                state.spent.ticks += 1;
                self.call(&mut state, id, Node::tick);
            }
            Action::Propose(id, count) => self.call(&mut state, id, |node, rules| node.propose(rules, count)),
            Action::Change(id) => {
                state.spent.changes += 1;
                self.call(&mut state, id, Node::change);
            }
            Action::Obtain(id, body) => self.call(&mut state, id, |node, rules| node.obtain(rules, &body)),
            Action::Compose(id, body) => self.call(&mut state, id, |node, rules| node.compose(rules, &body)),
            Action::Crash(id) => {
                state.spent.crashes += 1;
                self.call(&mut state, id, Node::crash);
            }
            Action::LoseAccept(id, place) => {
                state.spent.lost_accepts += 1;
                self.call(&mut state, id, |node, rules| node.lose(rules, Some(place)));
            }
            Action::Wipe(id) => {
                state.spent.wipes += 1;
                self.call(&mut state, id, Node::wipe);
            }
            Action::LoseLast(id) => {
                state.spent.lost_lasts += 1;
                self.call(&mut state, id, |node, rules| node.lose(rules, None));
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Cluster>> {
        macro_rules! always {
            ($($law:ident)*) => {
                [$(Property::always(Law::$law.name(), |_, state: &State| state.history.breach(Law::$law).is_none()),)*]
            };
        }
        macro_rules! sometimes {
            ($($sight:ident)*) => {
                [$(Property::sometimes(Sight::$sight.name(), |_, state: &State| state.history.has_seen(Sight::$sight)),)*]
            };
        }
        let mut properties = Vec::from(always![
            Agreement ChosenByQuorum ChosenStaysChosen OneValuePerBallot PromiseMonotonic PersistBeforeSpeak NoHalt
            NoPanic
        ]);
        if let Some(only) = self.only {
            properties.retain(|property| property.name == only.name());
        }
        properties.extend(sometimes![
            Chosen AllDecided TwoLeaders Adopted DeadFilled CrashAfterAccept LostAppend Copied InDoubt SureAgain Wiped Changed
        ]);
        properties
    }
}

impl Checked for Cluster {
    fn stop(&self) -> &Stop {
        &self.stop
    }

    fn breach(&self, state: &State, property: &str) -> String {
        let law = Law::ALL.iter().find(|law| law.name() == property);
        law.and_then(|law| state.history.breach(*law)).unwrap_or_default().to_owned()
    }

    fn tell(&self, before: &State, action: &Action, after: &State) -> String {
        let travels = |packet: &Packet| format!("{} -> {}: {}", packet.from, packet.to, show_message(&packet.message));
        let mut line = match action {
            Action::Deliver(packet) => travels(packet),
            Action::Duplicate(packet) => format!("{} (and will arrive again)", travels(packet)),
            Action::Drop(packet) => format!("{} is lost", travels(packet)),
            Action::Durable(id) => format!("{id}: {} is durable", before.nodes[id.0 as usize - 1].next_append()),
            Action::Campaign(id) => format!("{id} runs for leader"),
            Action::Tick(id) => format!("{id}: timers go off"),
            Action::Propose(id, count) => format!("{id} proposes a body of {count}"),
            Action::Change(id) => format!("{id} proposes to go on alone"),
            Action::Obtain(id, body) => format!("{id} has the bytes of {}", show_body(body)),
            Action::Compose(id, body) => format!("{id} has made {}", show_body(body)),
            Action::Crash(id) => format!("{id} crashes and starts again"),
            Action::LoseAccept(id, place) => format!("{id} crashes, loses record {place} of its log, and starts again"),
            Action::Wipe(id) => format!("{id} loses its disk, and starts with an empty one"),
            Action::LoseLast(id) => format!("{id} crashes, loses the last record of its log, and starts again"),
        };
        for (id, (before, after)) in NODES.into_iter().zip(before.nodes.iter().zip(&after.nodes)) {
            for body in after.delivered().iter().filter(|body| !before.delivered().contains(body)) {
                line += &format!("; {id} delivers {}", show_body(body));
            }
        }
        line
    }
}
