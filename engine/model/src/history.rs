//! What has happened so far, as nobody inside the cluster can see it, and the laws that it is held against.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use synod_protocol::{Ballot, BodyHandle, BodyKind, NodeId, Slot};

use crate::setup::Setup;
use crate::story::{show_ballot, show_body};

macro_rules! laws {
    ($($(#[$doc:meta])* $law:ident $name:literal,)*) => {
        /// What must always hold. The names are those of the simulator's properties, where it has the same.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Law {
            $($(#[$doc])* $law,)*
        }

        impl Law {
            /// All of them.
            pub const ALL: &[Law] = &[$(Law::$law,)*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Law::$law => $name,)*
                }
            }
        }

        impl FromStr for Law {
            type Err = String;

            fn from_str(name: &str) -> Result<Law, String> {
                let found = Law::ALL.iter().copied().find(|law| law.name() == name);
                found.ok_or_else(|| format!("no such law; there are {}", [$($name),*].join(", ")))
            }
        }
    };
}

laws! {
    /// All deliveries of a slot, at any node and in any life, are of the same body.
    Agreement "agreement",
    /// What is delivered was accepted, durably, by an accept quorum at one ballot.
    ChosenByQuorum "chosen-by-quorum",
    /// Once a body is chosen at a ballot, every proposal of a higher ballot at one of its slots is of the same body
    /// (P2b of *Paxos Made Simple* §2.2).
    ChosenStaysChosen "chosen-stays-chosen",
    /// No two different bodies are proposed for one slot in one ballot.
    OneValuePerBallot "one-value-per-ballot",
    /// A node never says anything in a ballot below one that it has said anything in, nor forgets that one.
    PromiseMonotonic "promise-monotonic",
    /// What a node says of its log is durable there.
    PersistBeforeSpeak "persist-before-speak",
    /// No replica stops: nobody here shares an identity, and no chain is another's.
    NoHalt "no-halt",
    /// The core doesn't panic.
    NoPanic "no-panic",
}

macro_rules! sights {
    ($($(#[$doc:meta])* $sight:ident $name:literal,)*) => {
        /// What should happen sometimes, or the model shows less than it seems to.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Sight {
            $($(#[$doc])* $sight,)*
        }

        impl Sight {
            /// All of them.
            pub const ALL: &[Sight] = &[$(Sight::$sight,)*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Sight::$sight => $name,)*
                }
            }
        }
    };
}

sights! {
    /// A body is accepted by a quorum.
    Chosen "a body is chosen",
    /// All slots of the model are decided.
    AllDecided "every slot is decided",
    /// Two nodes proposed in their ballots.
    TwoLeaders "two leaders in one history",
    /// One body was proposed in two ballots.
    Adopted "a body is adopted by a later ballot",
    /// A leader that has itself accepted a body fills some of its slots with no-ops: the body is dead.
    DeadFilled "a dead body is filled by no-ops",
    /// A node crashes that has an open accept.
    CrashAfterAccept "a crash after accepting",
    /// A crash loses an append that isn't durable.
    LostAppend "a crash loses an append",
    /// A replica that missed a chosen body gets it from a peer's log.
    Copied "a chosen body is fetched",
    /// A promise names slots for which it is no answer.
    InDoubt "a promise in doubt",
    /// An acceptor that may have lost a promise has heard that of everybody else.
    SureAgain "an unsure acceptor is sure again",
    /// A node has lost its disk that had voted for something.
    Wiped "an acceptor loses its disk",
    /// A body is chosen by those whom another configuration than the first names.
    Changed "a body is chosen under a changed configuration",
}

/// Everything proposed, voted for and delivered so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct History {
    /// Which nodes durably accepted which proposal, as bits.
    votes: BTreeMap<(Ballot, BodyHandle), u8>,
    /// What was delivered, in slot order.
    decided: Vec<BodyHandle>,
    /// From where on another configuration rules, once it is chosen.
    changed_from: Option<Slot>,
    seen: u16,
    broken: BTreeMap<Law, String>,
}

impl History {
    /// Whether nothing has gone wrong.
    pub fn is_lawful(&self) -> bool {
        self.broken.is_empty()
    }

    /// What broke `law`.
    pub fn breach(&self, law: Law) -> Option<&str> {
        self.broken.get(&law).map(String::as_str)
    }

    /// Whether `sight` has been seen.
    pub fn has_seen(&self, sight: Sight) -> bool {
        self.seen & (1 << sight as u16) != 0
    }

    pub(crate) fn see(&mut self, sight: Sight) {
        self.seen |= 1 << sight as u16;
    }

    pub(crate) fn break_law(&mut self, law: Law, what: impl fmt::Display) {
        self.broken.entry(law).or_insert_with(|| what.to_string());
    }

    /// A node writes or sends a proposal.
    pub(crate) fn proposed(&mut self, ballot: Ballot, body: BodyHandle) {
        if self.votes.contains_key(&(ballot, body)) {
            return;
        }
        let mut breaches = Vec::new();
        for ((other_ballot, other), votes) in &self.votes {
            if *other == body {
                if other_ballot.node != ballot.node {
                    self.seen |= 1 << Sight::Adopted as u16;
                }
            } else if other.overlaps(&body) {
                let clash = format!("{} and {}", show(*other_ballot, other), show(ballot, &body));
                if *other_ballot == ballot {
                    breaches.push((Law::OneValuePerBallot, clash));
                } else if *other_ballot < ballot && self.is_quorum(*votes, other.first) {
                    breaches.push((Law::ChosenStaysChosen, format!("the first of {clash} is chosen")));
                }
            }
            if other_ballot.node != ballot.node {
                self.seen |= 1 << Sight::TwoLeaders as u16;
            }
        }
        self.votes.insert((ballot, body), 0);
        for (law, breach) in breaches {
            self.break_law(law, breach);
        }
    }

    /// An accept became durable.
    pub(crate) fn voted(&mut self, node: NodeId, ballot: Ballot, body: BodyHandle, setup: &Setup) {
        let votes = self.votes.entry((ballot, body)).or_default();
        *votes |= 1 << node.0;
        let votes = *votes;
        if !self.is_quorum(votes, body.first) {
            return;
        }
        self.see(Sight::Chosen);
        if body.kind.is_configuration() {
            self.changed_from = Some(body.first.plus(u64::from(setup.alpha())));
        } else if self.changed_from.is_some_and(|from| body.first >= from) {
            self.see(Sight::Changed);
        }
        let later = self
            .votes
            .keys()
            .find(|(other_ballot, other)| *other_ballot > ballot && *other != body && other.overlaps(&body));
        if let Some((other_ballot, other)) = later {
            let clash = format!("{} is chosen after {}", show(ballot, &body), show(*other_ballot, other));
            self.break_law(Law::ChosenStaysChosen, clash);
        }
    }

    /// Two of three, or whoever the configuration names that rules the slot.
    fn is_quorum(&self, votes: u8, slot: Slot) -> bool {
        match self.changed_from.filter(|from| slot >= *from) {
            Some(_) => votes & Setup::CHANGED == Setup::CHANGED,
            None => votes.count_ones() >= 2,
        }
    }

    /// Whether the node has ever durably accepted the body that begins at `first` in `ballot`.
    pub(crate) fn has_voted(&self, node: NodeId, ballot: Ballot, first: Slot) -> bool {
        self.votes.iter().any(|((at, body), votes)| *at == ballot && body.first == first && votes & (1 << node.0) != 0)
    }

    /// A node delivers a body.
    pub(crate) fn delivered(&mut self, node: NodeId, body: BodyHandle, slots: u64) {
        let is_chosen =
            |(voted, votes): (&(Ballot, BodyHandle), &u8)| voted.1 == body && self.is_quorum(*votes, body.first);
        if !self.votes.iter().any(is_chosen) {
            self.break_law(Law::ChosenByQuorum, format!("{node} delivers {}", show_body(&body)));
        }
        let end = self.decided.last().map_or(Slot::FIRST, BodyHandle::end);
        if body.first == end {
            self.decided.push(body);
            if body.end() > Slot(slots) {
                self.see(Sight::AllDecided);
            }
        } else if !self.decided.contains(&body) {
            let others: Vec<String> =
                self.decided.iter().filter(|other| other.overlaps(&body)).map(show_body).collect();
            let breach = format!("{node} delivers {}, others delivered {}", show_body(&body), others.join(", "));
            self.break_law(Law::Agreement, breach);
        }
    }

    /// A leader closes slots with no-ops while it holds `open` bodies of lower ballots.
    pub(crate) fn filled(&mut self, filler: &BodyHandle, open: impl Iterator<Item = BodyHandle>) {
        let dead = open.into_iter().any(|body| body.kind == BodyKind::Commands && body.overlaps(filler));
        if dead && filler.kind == BodyKind::NoOp {
            self.see(Sight::DeadFilled);
        }
    }
}

fn show(ballot: Ballot, body: &BodyHandle) -> String {
    format!("{} at {}", show_body(body), show_ballot(ballot))
}
