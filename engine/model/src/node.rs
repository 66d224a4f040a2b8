//! A node of the model: the real replica, and the only place that carries out its effects.
//!
//! There is no time. Every call is made at [`NOW`], where retransmissions, heartbeats and fetches are always due and
//! elections hardly ever; only [`Node::campaign`] is made later: at [`SOON`], where a follower has waited long enough,
//! and no disk is taken for stalled, or at [`FAR`], where everybody has long been silent, so that leaders and
//! candidates give up. The settings make all spans so short that nothing is drawn, so states don't differ by times.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use synod_protocol::{
    AcceptedBody, Append, Ballot, BodyHandle, BodyId, BodyKind, Change, Configuration, Configurations, Effect, Instant,
    LogEntry, Message, NodeId, Recovered, Replica, Role, Settings, Slot,
};

use crate::history::{Law, Sight};
use crate::log::Log;
use crate::plant::Plant;
use crate::setup::{Disk, Setup};
use crate::story::{show_ballot, show_body, show_message};

/// When everything happens.
const NOW: Instant = Instant(0);

/// When a follower runs for leader. Less than [`ELECTION_TIMEOUT`] after [`NOW`].
const SOON: Instant = Instant(1);

/// Waits of this length end at [`SOON`], for instants are whole microseconds, and a stalled disk shows after it.
const ELECTION_TIMEOUT: Duration = Duration::from_nanos(1500);

/// When nobody has been heard for longer than anybody waits.
const FAR: Instant = Instant(u64::MAX);

/// All nodes.
pub(crate) const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

/// A replica, its disk, and what it waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    id: NodeId,
    boot: u64,
    replica: Replica,
    /// What survives a crash.
    log: Log,
    /// Appends that aren't durable.
    pending: VecDeque<Append>,
    /// Bodies that phase 1 revealed and whose bytes aren't at hand.
    obtaining: BTreeSet<BodyHandle>,
    /// Bodies that are being made.
    composing: BTreeSet<BodyHandle>,
    /// The chosen prefix, as delivered.
    delivered: Vec<BodyHandle>,
    /// The highest ballot in which it has said anything, in any life of its store.
    spoken: Ballot,
    /// It has lost its disk: its store isn't the one that the configuration names.
    wiped: bool,
}

/// What a call brings about outside of the node.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) sent: Vec<(NodeId, Message)>,
    pub(crate) events: Vec<Event>,
}

/// What the history takes note of.
#[derive(Debug)]
pub(crate) enum Event {
    Proposed(Ballot, BodyHandle),
    Voted(Ballot, BodyHandle),
    Claimed(Ballot, Slot),
    Delivered(BodyHandle),
    Filled(BodyHandle, Vec<BodyHandle>),
    Seen(Sight),
    Broken(Law, String),
}

/// The rules of the game for every node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) setup: Setup,
    pub(crate) plant: Option<Plant>,
}

impl Rules {
    fn has(&self, plant: Plant) -> bool {
        self.plant == Some(plant)
    }

    fn genesis(&self) -> Configuration {
        let mut genesis = Configuration::genesis(NODES.to_vec(), self.setup.alpha()).expect("a sound genesis");
        if self.has(Plant::LoneQuorum) {
            genesis.accept_quorum = 1;
        }
        genesis
    }

    /// What the configuration bodies of this model hold.
    fn changed(&self, slot: Slot) -> Configuration {
        let alone = Configuration { chosen_at: slot, ..self.genesis().with_members(vec![NODES[0]]) };
        Configuration { alpha: if self.has(Plant::RulesAtOnce) { 1 } else { alone.alpha }, ..alone }
    }

    fn replica(&self, node: NodeId, boot: u64, mut recovered: Recovered, chosen: &[BodyHandle]) -> Replica {
        let mut configurations = Configurations::new(self.genesis());
        for body in chosen {
            if let BodyKind::Configuration { after } = body.kind {
                configurations.choose(after, self.changed(body.first));
            }
        }
        let open = recovered.accepted.iter().map(|report| report.body).filter(|body| body.kind.is_configuration());
        recovered.configurations = open.map(|body| (body.id, self.changed(body.first))).collect();
        let settings = Settings {
            heartbeat_interval: Duration::ZERO,
            election_timeout: ELECTION_TIMEOUT,
            retransmit_interval: Duration::ZERO,
            fetch_delay: Duration::ZERO,
            ..Settings::default()
        };
        // A fresh replica hardly waits, but it too shall run for leader only when told.
        Replica::new(node, boot, 0, settings, configurations, recovered, SOON)
    }
}

impl Node {
    pub(crate) fn new(rules: &Rules, id: NodeId) -> Node {
        let boot = 1;
        Node {
            id,
            boot,
            replica: rules.replica(id, boot, Recovered::default(), &[]),
            log: if rules.setup.losing[id.0 as usize - 1] { Log::perishable() } else { Log::default() },
            pending: VecDeque::new(),
            obtaining: BTreeSet::new(),
            composing: BTreeSet::new(),
            delivered: Vec::new(),
            spoken: Ballot::ZERO,
            wiped: false,
        }
    }

    /// The disk is lost, and the node begins again with another one.
    pub(crate) fn wipe(&mut self, rules: &Rules) -> Outcome {
        let mut outcome = Outcome::default();
        if self.log.has_open() {
            outcome.events.push(Event::Seen(Sight::Wiped));
        }
        *self = Node { boot: self.boot + 1, wiped: true, ..Node::new(rules, self.id) };
        self.begin_life(rules, &mut outcome);
        outcome
    }

    /// Whether nobody talks to it: its peers refuse a store that the configuration doesn't name.
    pub(crate) fn is_shut_out(&self, rules: &Rules) -> bool {
        self.wiped && !rules.has(Plant::HearsStrangers)
    }

    /// A message arrives.
    pub(crate) fn receive(&mut self, rules: &Rules, from: NodeId, mut message: Message) -> Outcome {
        if let Message::Promise { accepted, .. } = &mut message {
            if rules.has(Plant::IgnoresAccepted) {
                accepted.clear();
            }
            if rules.has(Plant::AdoptsDead) {
                let own: Vec<AcceptedBody> = self.replica.accepted().collect();
                let hidden = |report: &AcceptedBody| {
                    own.iter().any(|own| own.body.overlaps(&report.body) && own.ballot < report.ballot)
                };
                accepted.retain(|report| !hidden(report));
            }
        }
        let was_unsure = self.replica.is_unsure();
        if let Some(body) = message.body() {
            tell(&mut self.replica, rules, body);
        }
        self.replica.handle_message(NOW, from, message);
        let mut outcome = self.carry_out(rules);
        if was_unsure && !self.replica.is_unsure() {
            outcome.events.push(Event::Seen(Sight::SureAgain));
        }
        outcome
    }

    /// Whether it may run for leader. Whoever has to give up something else first has waited so long that an append
    /// on its way would mean a stalled disk, with which nobody runs.
    pub(crate) fn may_campaign(&self) -> bool {
        !self.replica.is_unsure() && (self.role() == Role::Follower || self.pending.is_empty())
    }

    /// Timers go off, but no election: heartbeats, retransmissions, fetches.
    pub(crate) fn tick(&mut self, rules: &Rules) -> Outcome {
        self.replica.handle_timeout(NOW);
        self.carry_out(rules)
    }

    /// The node runs for leader, whatever it is now. Its peers welcome that at once: a pre-vote binds nobody, so
    /// nothing else can come of it than a candidacy or none.
    pub(crate) fn campaign(&mut self, rules: &Rules) -> Outcome {
        let mut outcome = Outcome::default();
        let when = if self.role() == Role::Follower { SOON } else { FAR };
        // A leader or candidate gives up first, then it asks around.
        for _ in 0..4 {
            self.replica.handle_timeout(when);
            let mut step = self.carry_out(rules);
            let asks = step.sent.iter().filter_map(|(peer, message)| match message {
                Message::PreVote { ballot, .. } => Some((*peer, *ballot)),
                _ => None,
            });
            let asks: Vec<(NodeId, Ballot)> = asks.collect();
            step.sent.retain(|(_, message)| !matches!(message, Message::PreVote { .. }));
            outcome.extend(step);
            if !asks.is_empty() {
                for (peer, ballot) in asks {
                    self.replica.handle_message(NOW, peer, Message::PreVoteGranted { ballot });
                }
                outcome.extend(self.carry_out(rules));
                break;
            }
        }
        outcome
    }

    /// The next append becomes durable.
    pub(crate) fn next_durable(&mut self, rules: &Rules) -> Outcome {
        let mut outcome = Outcome::default();
        self.write(&mut outcome);
        outcome.extend(self.carry_out(rules));
        outcome
    }

    fn write(&mut self, outcome: &mut Outcome) {
        let Some(append) = self.pending.pop_front() else { return };
        self.log.write(&append);
        if let LogEntry::Accepted { ballot, body } = append.entry {
            outcome.events.push(Event::Voted(ballot, body));
        }
        self.replica.handle_durable(NOW, append.id);
    }

    /// A client's body is proposed.
    pub(crate) fn propose(&mut self, rules: &Rules, count: u32) -> Outcome {
        if let Some(opening) = self.replica.opening() {
            let body = make_body(opening.ballot, opening.first, count, BodyKind::Commands);
            self.replica.propose(NOW, body).expect("the body was made for the opening");
        }
        self.carry_out(rules)
    }

    /// The membership is changed.
    pub(crate) fn change(&mut self, rules: &Rules) -> Outcome {
        let remove = NODES[1..].to_vec();
        // Refused while something else is open.
        let _ = self.replica.reconfigure(NOW, Change::Replace { add: Vec::new(), remove });
        self.carry_out(rules)
    }

    /// The bytes of a revealed body come to hand.
    pub(crate) fn obtain(&mut self, rules: &Rules, body: &BodyHandle) -> Outcome {
        self.obtaining.remove(body);
        tell(&mut self.replica, rules, body);
        self.replica.handle_obtained(NOW, body.id);
        self.carry_out(rules)
    }

    /// A composition is ready.
    pub(crate) fn compose(&mut self, rules: &Rules, body: &BodyHandle) -> Outcome {
        self.composing.remove(body);
        let mut outcome = Outcome::default();
        self.composed(body, &mut outcome);
        outcome.extend(self.carry_out(rules));
        outcome
    }

    fn composed(&mut self, body: &BodyHandle, outcome: &mut Outcome) {
        outcome.events.push(Event::Filled(*body, self.replica.accepted().map(|open| open.body).collect()));
        self.replica.handle_composed(NOW, *body);
    }

    /// The process ends, and another one begins with what is durable.
    pub(crate) fn crash(&mut self, rules: &Rules) -> Outcome {
        let mut outcome = Outcome::default();
        if !self.pending.is_empty() {
            outcome.events.push(Event::Seen(Sight::LostAppend));
        }
        if self.log.has_open() {
            outcome.events.push(Event::Seen(Sight::CrashAfterAccept));
        }
        self.pending.clear();
        self.obtaining.clear();
        self.composing.clear();
        if !rules.has(Plant::ReusesBallots) {
            self.boot += 1;
        }
        if rules.has(Plant::ForgetsAccepted) {
            self.log.forget_accepted();
        }
        if rules.has(Plant::ForgetsPromise) || rules.has(Plant::ReusesBallots) {
            self.log.forget_promise();
        }
        self.begin_life(rules, &mut outcome);
        outcome
    }

    fn begin_life(&mut self, rules: &Rules, outcome: &mut Outcome) {
        self.delivered = self.log.chosen().to_vec();
        outcome.events.extend(self.delivered.iter().copied().map(Event::Delivered));
        self.replica = rules.replica(self.id, self.boot, self.log.recovered(), self.log.chosen());
        if self.replica.is_unsure() {
            // It asks the others for their promises at once: until then it does nothing.
            self.replica.handle_timeout(NOW);
        }
        outcome.extend(self.carry_out(rules));
    }

    /// The process ends, its log loses the record at `place` or the last one, and another process begins with the rest.
    pub(crate) fn lose(&mut self, rules: &Rules, place: Option<usize>) -> Outcome {
        let mut outcome = Outcome::default();
        self.pending.clear();
        self.obtaining.clear();
        self.composing.clear();
        self.boot += 1;
        self.log.lose(place);
        if rules.has(Plant::HidesDoubt) {
            self.log.forget_doubts();
        }
        if rules.has(Plant::SureTooEarly) {
            self.log.pretend_sure();
        }
        if self.spoken.node == self.id {
            // A ballot of its own that it doesn't lead any more: what it has promised to itself binds nobody.
            self.spoken = self.spoken.min(self.log.promised());
        }
        self.begin_life(rules, &mut outcome);
        outcome
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// Carries out every effect, in order, until there are none.
    fn carry_out(&mut self, rules: &Rules) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            while let Some(effect) = self.replica.poll_effect() {
                self.carry_out_one(rules, effect, &mut outcome);
            }
            if rules.setup.disk == Disk::Queued || self.pending.is_empty() {
                break;
            }
            self.write(&mut outcome);
        }
        // Whoever is unsure may have forgotten what it said, and knows.
        if self.replica.promised() < self.spoken && !self.replica.is_unsure() {
            let (now, before) = (show_ballot(self.replica.promised()), show_ballot(self.spoken));
            let breach = format!("{} has promised {now}, and spoken in {before}", self.id);
            outcome.events.push(Event::Broken(Law::PromiseMonotonic, breach));
        }
        outcome
    }

    fn carry_out_one(&mut self, rules: &Rules, effect: Effect, outcome: &mut Outcome) {
        match effect {
            Effect::Send { to, message } => {
                self.judge_speech(&message, outcome);
                outcome.sent.push((to, message));
            }
            Effect::Append(append) => {
                match append.entry {
                    LogEntry::Promise | LogEntry::Installed { .. } => {}
                    LogEntry::Accepted { ballot, body } => outcome.events.push(Event::Proposed(ballot, body)),
                    LogEntry::Copied { .. } => outcome.events.push(Event::Seen(Sight::Copied)),
                }
                self.pending.push_back(append);
                if rules.has(Plant::VotesEarly) {
                    self.replica.handle_durable(NOW, append.id);
                }
            }
            Effect::Deliver { body, .. } => {
                self.delivered.push(body);
                outcome.events.push(Event::Delivered(body));
            }
            Effect::Obtain { body, .. } if rules.setup.slow_bodies => {
                self.obtaining.insert(body);
            }
            Effect::Obtain { body, .. } => {
                tell(&mut self.replica, rules, &body);
                self.replica.handle_obtained(NOW, body.id);
            }
            Effect::ComposeConfiguration { configuration, after, ballot } => {
                let body = make_body(ballot, configuration.chosen_at, 1, BodyKind::Configuration { after });
                self.replica.handle_composed(NOW, body);
                // What it proposed itself, unless a bug tells it otherwise.
                tell(&mut self.replica, rules, &body);
            }
            Effect::Compose { first, count, ballot, kind } => {
                let body = make_body(ballot, first, count, kind);
                if rules.setup.slow_bodies {
                    self.composing.insert(body);
                } else {
                    self.composed(&body, outcome);
                }
            }
            Effect::Serve { to, from, mark, .. } => {
                let bodies: Vec<BodyHandle> =
                    self.delivered.iter().filter(|body| body.first >= from).copied().collect();
                let count = bodies.len();
                for (index, body) in bodies.into_iter().enumerate() {
                    outcome.sent.push((to, Message::Chosen { body, mark, last: index + 1 == count }));
                }
            }
            Effect::Halt(reason) => {
                outcome.events.push(Event::Broken(Law::NoHalt, format!("{} stops: {reason}", self.id)));
            }
            // Bytes are never sent for: what phase 1 reveals is obtained in one step.
            _ => {}
        }
    }

    /// Whatever a message claims of this node's log must be durable there.
    fn judge_speech(&mut self, message: &Message, outcome: &mut Outcome) {
        let ballot = match message {
            Message::Prepare { ballot, .. } => *ballot,
            Message::Promise { ballot, accepted, doubts, .. } => {
                outcome.events.extend((!doubts.is_empty()).then_some(Event::Seen(Sight::InDoubt)));
                outcome.events.extend(accepted.iter().map(|report| Event::Claimed(report.ballot, report.body.first)));
                *ballot
            }
            Message::Accepted { ballot, first, .. } => {
                outcome.events.push(Event::Claimed(*ballot, *first));
                *ballot
            }
            Message::Accept { ballot, body, .. } => {
                outcome.events.push(Event::Proposed(*ballot, *body));
                return;
            }
            _ => return,
        };
        if self.log.promised() < ballot {
            let breach = format!("{} says \"{}\" before that is durable", self.id, show_message(message));
            outcome.events.push(Event::Broken(Law::PersistBeforeSpeak, breach));
        }
        if ballot < self.spoken {
            let breach = format!("{} spoke in {}, now in {}", self.id, show_ballot(self.spoken), show_ballot(ballot));
            outcome.events.push(Event::Broken(Law::PromiseMonotonic, breach));
        }
        self.spoken = self.spoken.max(ballot);
    }

    /// Whether a message changes nothing here, now and for ever, so that the network may forget it.
    ///
    /// Answers to a ballot that isn't led or sought any more, for no ballot comes back; and, where refusals aren't
    /// sent, requests in a ballot below the promise.
    pub(crate) fn ignores(&self, rules: &Rules, message: &Message) -> bool {
        let promised = self.replica.promised();
        match message {
            Message::Promise { ballot, .. } => {
                let may_extend = rules.setup.changes > 0 && self.role() != Role::Follower;
                *ballot != promised || self.role() != Role::Candidate && !may_extend
            }
            Message::Accepted { ballot, .. } => {
                *ballot != promised || !matches!(self.role(), Role::Leader | Role::Recovering)
            }
            Message::Prepare { ballot, .. } | Message::Accept { ballot, .. } | Message::Heartbeat { ballot, .. } => {
                // Whoever may lose a promise may come to heed what it would refuse now.
                let may_forget = rules.setup.losing[self.id.0 as usize - 1];
                !rules.setup.chatter && !may_forget && *ballot < promised
            }
            // Who changes the membership learns from refusals who lags, and whether it is removed.
            Message::Reject { .. } if rules.setup.changes > 0 => false,
            Message::PreVoteGranted { ballot } | Message::Reject { ballot, .. } if ballot.round == 0 => {
                !self.replica.is_unsure() || ballot.boot != self.boot
            }
            _ => false,
        }
    }

    /// Whether the replica is the same after a message, and says nothing but a refusal.
    pub(crate) fn is_deaf_to(&self, from: NodeId, message: &Message) -> bool {
        // Any event at all is a look at the disk's progress: let there be one before, that means nothing else.
        let stray = make_body(Ballot::ZERO, Slot::FIRST, 1, BodyKind::Commands);
        let mut before = self.replica.clone();
        before.handle_message(NOW, from, Message::Supply { body: stray });
        let mut after = before.clone();
        after.handle_message(NOW, from, message.clone());
        while let Some(effect) = after.poll_effect() {
            if !matches!(effect, Effect::Send { message: Message::Reject { .. }, .. }) {
                return false;
            }
        }
        after == before
    }

    fn role(&self) -> Role {
        self.replica.status().role
    }

    /// Whether a timer is due.
    pub(crate) fn has_timer(&self) -> bool {
        self.replica.poll_deadline() <= NOW
    }

    /// Whether an append isn't durable.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The append that is durable next, in words.
    pub(crate) fn next_append(&self) -> String {
        match self.pending.front() {
            None => "nothing".into(),
            Some(append) => match append.entry {
                LogEntry::Installed { .. } => format!("begin at {}", append.mark.slot),
                LogEntry::Promise => format!("promise {}", show_ballot(append.promised)),
                LogEntry::Accepted { ballot, body } => format!("{} at {}", show_body(&body), show_ballot(ballot)),
                LogEntry::Copied { body, .. } => format!("copy of {}", show_body(&body)),
            },
        }
    }

    /// The slot at which it may propose, and how many slots there are.
    pub(crate) fn opening(&self) -> Option<(Slot, u32)> {
        self.replica.opening().map(|opening| (opening.first, opening.count_max))
    }

    pub(crate) fn obtaining(&self) -> &BTreeSet<BodyHandle> {
        &self.obtaining
    }

    pub(crate) fn composing(&self) -> &BTreeSet<BodyHandle> {
        &self.composing
    }

    /// What it has delivered in this life, or recovered as chosen.
    pub(crate) fn delivered(&self) -> &[BodyHandle] {
        &self.delivered
    }
}

impl Outcome {
    fn extend(&mut self, other: Outcome) {
        self.sent.extend(other.sent);
        self.events.extend(other.events);
    }
}

/// Tells a replica what a body holds, if that is a configuration.
fn tell(replica: &mut Replica, rules: &Rules, body: &BodyHandle) {
    if body.kind.is_configuration() {
        replica.handle_configuration(body.id, rules.changed(body.first));
    }
}

/// A body without bytes. Its identity tells who made it.
fn make_body(ballot: Ballot, first: Slot, count: u32, kind: BodyKind) -> BodyHandle {
    let tag = u128::from(kind != BodyKind::Commands);
    let origin = u128::from(ballot.round) << 64 | u128::from(ballot.node.0) << 48 | u128::from(ballot.boot) << 32;
    let id = BodyId(origin | u128::from(first.0) << 16 | u128::from(count) << 8 | tag);
    BodyHandle { first, count, bytes: 1, kind, id }
}
