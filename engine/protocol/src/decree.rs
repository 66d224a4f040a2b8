//! Single-decree Paxos with tickets and refusals: the plain case, one instance, one command.
//!
//! This is Paxos as Wattenhofer teaches it (algorithm 2.2 of his chapter on tickets), which is *Paxos Made Simple* §2
//! in other words: a **ticket** is a proposal number, to *ask* is phase 1, to *propose* is phase 2.
//!
//! | client | server (acceptor) |
//! |---|---|
//! | `c`: its command; `t`: the ticket it tries | `t_max`: newest ticket issued; `C`: stored command; `t_store`: the ticket it came with |
//! | 1. take a larger `t`, ask(t) of all | if t > t_max: t_max = t, answer ok(t_store, C) |
//! | 2. at a majority of ok: adopt the `C` of the largest t_store, if any; propose(t, c) | if t = t_max: C = c, t_store = t, answer stored |
//! | 3. at a majority of stored: c is chosen; execute(c) to all | execute c |
//!
//! The step that makes it right is the adoption. Without it (algorithm 2.1, the naive ticket protocol) a client that is
//! slow to announce is overtaken, and servers execute different commands.
//!
//! Two things are added to the table, both to save waiting and neither needed for safety:
//! - **Refusals.** A server never stays silent: [`Answer`] says what it does and why. After as many refusals as make a
//!   majority impossible, the client gives up the ticket at once instead of waiting for its time-out.
//! - **Random waits** ([`BackOff`]). Two clients that overtake each other may go on for ever (*Paxos Made Simple*
//!   §2.4); a wait of random length lets one of them through.
//!
//! Nothing here reads a clock or is random by itself. What survives a crash is the driver's business: all of
//! [`Acceptor`] must be durable before an answer leaves, and a client that restarts must use tickets above its earlier
//! ones, or another name. [`crate::Replica`] is the same algorithm for a whole log, and takes care of both.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use crate::ballot::NodeId;

/// What is chosen: any value that can be compared.
pub trait Command: Clone + Eq + Hash + Debug {}

impl<C: Clone + Eq + Hash + Debug> Command for C {}

/// A weak lock: it can be issued again though the last one was not returned, and only the newest is honoured.
///
/// Clients choose the numbers themselves. The client's name is part of a ticket, so that two clients never hold the
/// same one: the disjoint sets of numbers that *Paxos Made Simple* §2.5 asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// Raised at every try above all that the client has seen.
    pub number: u64,
    /// Who chose it.
    pub client: NodeId,
}

impl Ticket {
    /// Older than every ticket that is ever used.
    pub const NONE: Ticket = Ticket { number: 0, client: NodeId(0) };
}

/// What a client says to a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Request<C> {
    /// Phase 1a, ask(t): a ticket, please.
    Ask {
        /// The wanted ticket.
        ticket: Ticket,
    },
    /// Phase 2a, propose(t, c): store this command.
    Propose {
        /// The ticket that was granted.
        ticket: Ticket,
        /// The command to store.
        command: C,
    },
    /// Phase 3, execute(c): this command is chosen. It names the command: what the server has stored may be another.
    Execute {
        /// The chosen command.
        command: C,
    },
}

/// What a server answers, at once and in any case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer<C> {
    /// Phase 1b, ok(0, nothing): the ticket is granted, and nothing is stored here.
    Agree {
        /// As asked.
        ticket: Ticket,
    },
    /// Phase 1b, ok(t_store, C): the ticket is granted, and this command may have been chosen: adopt it.
    Suggest {
        /// As asked.
        ticket: Ticket,
        /// The ticket with which the command was stored.
        stored_with: Ticket,
        /// The stored command.
        command: C,
    },
    /// Phase 2b, success: the command is stored.
    Stored {
        /// As proposed.
        ticket: Ticket,
    },
    /// Refused: a newer ticket is out, so this one counts no more. Go on with a larger one.
    Abort {
        /// As asked or proposed.
        ticket: Ticket,
        /// The newest ticket that was issued here.
        newest: Ticket,
    },
    /// Refused: the ticket was never granted here, so no command is stored with it.
    Unasked {
        /// As proposed.
        ticket: Ticket,
    },
    /// Refused, for there is nothing left to decide: this command was chosen.
    Ignore {
        /// The chosen command.
        chosen: C,
    },
}

/// A server: issues tickets, and stores a command.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Acceptor<C> {
    /// `t_max`, the newest ticket issued. Never goes back.
    newest: Ticket,
    /// `(t_store, C)`. Its ticket is at most `newest`.
    stored: Option<(Ticket, C)>,
    chosen: Option<C>,
}

impl<C> Default for Acceptor<C> {
    fn default() -> Acceptor<C> {
        Acceptor { newest: Ticket::NONE, stored: None, chosen: None }
    }
}

impl<C: Command> Acceptor<C> {
    /// A server that has issued nothing and stored nothing.
    pub fn new() -> Acceptor<C> {
        Acceptor::default()
    }

    /// Takes a request. The answer may leave once this acceptor's state is durable. Only an announcement has none.
    pub fn handle(&mut self, request: Request<C>) -> Option<Answer<C>> {
        match request {
            Request::Ask { ticket } => Some(self.ask(ticket)),
            Request::Propose { ticket, command } => Some(self.propose(ticket, command)),
            Request::Execute { command } => {
                self.execute(command);
                None
            }
        }
    }

    /// Phase 1: issues `ticket` if it is newer than all before it.
    ///
    /// The very ticket that is the newest is granted again: no other client has it, so the request was doubled on its
    /// way, or its answer was lost. Check and grant are one atomic act, as this is `&mut self`.
    fn ask(&mut self, ticket: Ticket) -> Answer<C> {
        if let Some(chosen) = self.chosen.clone() {
            return Answer::Ignore { chosen };
        }
        if ticket < self.newest {
            return Answer::Abort { ticket, newest: self.newest };
        }
        self.newest = ticket;
        match self.stored.clone() {
            Some((stored_with, command)) => Answer::Suggest { ticket, stored_with, command },
            None => Answer::Agree { ticket },
        }
    }

    /// Phase 2: stores `command` if `ticket` is still the newest.
    fn propose(&mut self, ticket: Ticket, command: C) -> Answer<C> {
        if let Some(chosen) = self.chosen.clone() {
            return Answer::Ignore { chosen };
        }
        if ticket < self.newest {
            return Answer::Abort { ticket, newest: self.newest };
        }
        if ticket > self.newest {
            return Answer::Unasked { ticket };
        }
        self.stored = Some((ticket, command));
        Answer::Stored { ticket }
    }

    /// Phase 3. However late it comes, the command is the chosen one.
    fn execute(&mut self, command: C) {
        self.chosen.get_or_insert(command);
    }

    /// The newest ticket issued: `t_max`.
    pub fn newest(&self) -> Ticket {
        self.newest
    }

    /// The stored command and its ticket: `t_store` and `C`.
    pub fn stored(&self) -> Option<&(Ticket, C)> {
        self.stored.as_ref()
    }

    /// The command that it was told to execute.
    pub fn chosen(&self) -> Option<&C> {
        self.chosen.as_ref()
    }
}

/// What a client does next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step<C> {
    /// Nothing until more answers come.
    Wait,
    /// Send this request to these servers.
    Send(Vec<NodeId>, Request<C>),
    /// The ticket can't win any more. Wait for a random while ([`BackOff`]), then [`Client::start`] over.
    BackOff,
    /// This command is chosen, be it the client's own or another's: send `Execute` to all servers.
    Execute(C),
}

/// A client: has a command, and tries to get it chosen. It may succeed with another's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client<C> {
    name: NodeId,
    servers: Vec<NodeId>,
    own: C,
    /// The highest number seen in any ticket.
    number: u64,
    /// The servers that have refused the current ticket.
    refused: BTreeSet<NodeId>,
    phase: Phase<C>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase<C> {
    Idle,
    Asking { ticket: Ticket, granted: BTreeMap<NodeId, Option<(Ticket, C)>> },
    Proposing { ticket: Ticket, command: C, asked: Vec<NodeId>, stored: BTreeSet<NodeId> },
    Done(C),
}

impl<C: Command> Client<C> {
    /// A client that wants `command`. No other client has its name.
    pub fn new(name: NodeId, servers: Vec<NodeId>, command: C) -> Client<C> {
        Client { name, servers, own: command, number: 0, refused: BTreeSet::new(), phase: Phase::Idle }
    }

    /// Takes a larger ticket and begins with phase 1, whatever was under way: a client may give up and start over at
    /// any point, because a ticket that nobody uses binds nobody. Once a command is chosen, announces it again.
    pub fn start(&mut self) -> Step<C> {
        if let Phase::Done(chosen) = &self.phase {
            return Step::Execute(chosen.clone());
        }
        self.number += 1;
        let ticket = Ticket { number: self.number, client: self.name };
        self.refused.clear();
        self.phase = Phase::Asking { ticket, granted: BTreeMap::new() };
        Step::Send(self.servers.clone(), Request::Ask { ticket })
    }

    /// Takes a server's answer. Answers to earlier tickets change nothing, nor do doubled ones.
    pub fn handle(&mut self, from: NodeId, answer: Answer<C>) -> Step<C> {
        match answer {
            Answer::Agree { ticket } => self.on_granted(from, ticket, None),
            Answer::Suggest { ticket, stored_with, command } => {
                self.on_granted(from, ticket, Some((stored_with, command)))
            }
            Answer::Stored { ticket } => self.on_stored(from, ticket),
            Answer::Abort { ticket, newest } => {
                self.number = self.number.max(newest.number);
                self.on_refused(from, ticket)
            }
            Answer::Unasked { ticket } => self.on_refused(from, ticket),
            Answer::Ignore { chosen } => self.on_chosen(chosen),
        }
    }

    fn on_granted(&mut self, from: NodeId, ticket: Ticket, stored: Option<(Ticket, C)>) -> Step<C> {
        let majority = self.majority();
        let Phase::Asking { ticket: current, granted } = &mut self.phase else { return Step::Wait };
        if *current != ticket {
            return Step::Wait;
        }
        granted.insert(from, stored);
        if granted.len() < majority {
            return Step::Wait;
        }
        // The adoption. Whatever a majority has stored with an earlier ticket shows up in this majority, and nothing
        // was stored with a newer one (P2c of *Paxos Made Simple* §2.2).
        let newest = granted.values().flatten().max_by_key(|(stored_with, _)| *stored_with);
        let command = newest.map_or_else(|| self.own.clone(), |(_, command)| command.clone());
        let asked: Vec<NodeId> = granted.keys().copied().collect();
        let request = Request::Propose { ticket, command: command.clone() };
        // Refusals of phase 1 came from others than those who granted, so they don't count in phase 2.
        self.refused.clear();
        self.phase = Phase::Proposing { ticket, command, asked: asked.clone(), stored: BTreeSet::new() };
        Step::Send(asked, request)
    }

    fn on_stored(&mut self, from: NodeId, ticket: Ticket) -> Step<C> {
        let majority = self.majority();
        let Phase::Proposing { ticket: current, command, stored, .. } = &mut self.phase else { return Step::Wait };
        if *current != ticket {
            return Step::Wait;
        }
        stored.insert(from);
        if stored.len() < majority {
            return Step::Wait;
        }
        let chosen = command.clone();
        self.on_chosen(chosen)
    }

    fn on_refused(&mut self, from: NodeId, ticket: Ticket) -> Step<C> {
        let (current, asked) = match &self.phase {
            Phase::Asking { ticket, .. } => (*ticket, self.servers.len()),
            Phase::Proposing { ticket, asked, .. } => (*ticket, asked.len()),
            Phase::Idle | Phase::Done(_) => return Step::Wait,
        };
        if current != ticket || !self.refused.insert(from) || asked - self.refused.len() >= self.majority() {
            return Step::Wait;
        }
        self.phase = Phase::Idle;
        Step::BackOff
    }

    fn on_chosen(&mut self, chosen: C) -> Step<C> {
        if let Phase::Done(known) = &self.phase {
            debug_assert_eq!(*known, chosen, "two commands are chosen");
            return Step::Wait;
        }
        self.phase = Phase::Done(chosen.clone());
        Step::Execute(chosen)
    }

    fn majority(&self) -> usize {
        self.servers.len() / 2 + 1
    }

    /// The command it knows to be chosen.
    pub fn chosen(&self) -> Option<&C> {
        match &self.phase {
            Phase::Done(chosen) => Some(chosen),
            _ => None,
        }
    }

    /// The command that it proposes now, its own or an adopted one.
    pub fn proposing(&self) -> Option<&C> {
        match &self.phase {
            Phase::Proposing { command, .. } => Some(command),
            _ => None,
        }
    }

    /// How many tickets it may have used: the number of the newest that it knows of.
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// Random waits between tries (SplitMix64): the seed is an input, so that a run can be repeated.
///
/// Each wait is drawn from a span that doubles with every try, up to a bound: sooner or later one client's wait is
/// longer than another's whole attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackOff {
    state: u64,
    shortest: Duration,
    longest: Duration,
    tries: u32,
}

impl BackOff {
    /// Waits of at least `shortest`, and at most `longest`.
    pub fn new(seed: u64, shortest: Duration, longest: Duration) -> BackOff {
        BackOff { state: seed, shortest, longest, tries: 0 }
    }

    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        self.tries = self.tries.saturating_add(1);
        let bound = self.shortest.saturating_mul(1 << self.tries.min(20)).min(self.longest).max(self.shortest);
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let span = (bound - self.shortest).as_micros() as u64 + 1;
        self.shortest + Duration::from_micros(mixed % span)
    }
}
