//! The model of single-decree Paxos ([`synod_protocol::decree`]): three servers, two clients with a command each.
//!
//! A message may come at any time or never, and a bounded number of them twice. A client may start over whenever it
//! likes, up to a bound; that is also all that its random waits could do.

use std::collections::BTreeSet;

use stateright::{Model, Property};
use synod_protocol::NodeId;
use synod_protocol::decree::{Acceptor, Answer, Client, Request, Step};

use crate::check::{Checked, Stop};

const SERVERS: [NodeId; 3] = [NodeId(11), NodeId(12), NodeId(13)];
const CLIENTS: [NodeId; 2] = [NodeId(1), NodeId(2)];

/// The model; see the module documentation.
#[derive(Clone, Debug)]
pub struct Decree {
    tickets: [u64; 2],
    duplicates: u8,
    stop: Stop,
}

impl Decree {
    /// Clients that take at most so many tickets each; and so many messages that come twice.
    pub fn new(tickets: [u64; 2], duplicates: u8) -> Decree {
        Decree { tickets, duplicates, stop: Stop::default() }
    }
}

/// A command: the name of the client that wants it.
type Command = u32;

/// What was sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Packet {
    /// Of a client.
    Request {
        /// The client.
        from: NodeId,
        /// The server.
        to: NodeId,
        /// What it says.
        request: Request<Command>,
    },
    /// Of a server.
    Answer {
        /// The server.
        from: NodeId,
        /// The client.
        to: NodeId,
        /// What it says.
        answer: Answer<Command>,
    },
}

/// One state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    servers: [Acceptor<Command>; 3],
    clients: [Client<Command>; 2],
    tries: [u64; 2],
    duplicated: u8,
    network: BTreeSet<Packet>,
}

/// What may happen next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A client takes a new ticket.
    Start(NodeId),
    /// A message arrives.
    Deliver(Packet),
    /// A message arrives, and will do so once more.
    Duplicate(Packet),
}

impl State {
    fn follow(&mut self, client: NodeId, step: Step<Command>) {
        let (to, request) = match step {
            Step::Wait | Step::BackOff => return,
            Step::Send(to, request) => (to, request),
            Step::Execute(command) => (SERVERS.to_vec(), Request::Execute { command }),
        };
        self.network.extend(to.into_iter().map(|to| Packet::Request { from: client, to, request: request.clone() }));
    }

    fn deliver(&mut self, packet: Packet) {
        match packet {
            Packet::Request { from, to, request } => {
                if let Some(answer) = self.servers[server(to)].handle(request) {
                    self.network.insert(Packet::Answer { from: to, to: from, answer });
                }
            }
            Packet::Answer { from, to, answer } => {
                let step = self.clients[client(to)].handle(from, answer);
                self.follow(to, step);
            }
        }
        // What nobody listens to any more is forgotten: announcements where one has come, answers to who has done.
        let State { servers, clients, network, .. } = self;
        network.retain(|packet| match packet {
            Packet::Request { to, request: Request::Execute { command }, .. } => {
                servers[server(*to)].chosen() != Some(command)
            }
            Packet::Request { .. } => true,
            Packet::Answer { to, answer: Answer::Ignore { chosen }, .. } => {
                clients[client(*to)].chosen() != Some(chosen)
            }
            Packet::Answer { to, .. } => clients[client(*to)].chosen().is_none(),
        });
    }

    fn executed(&self) -> impl Iterator<Item = Command> + '_ {
        let servers = self.servers.iter().filter_map(Acceptor::chosen);
        servers.chain(self.clients.iter().filter_map(Client::chosen)).copied()
    }
}

fn server(name: NodeId) -> usize {
    name.0 as usize - 11
}

fn client(name: NodeId) -> usize {
    name.0 as usize - 1
}

impl Model for Decree {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            servers: SERVERS.map(|_| Acceptor::new()),
            clients: CLIENTS.map(|name| Client::new(name, SERVERS.to_vec(), name.0)),
            tries: [0; 2],
            duplicated: 0,
            network: BTreeSet::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if self.stop.is_set() {
            return;
        }
        let may_start = CLIENTS.into_iter().filter(|name| state.tries[client(*name)] < self.tickets[client(*name)]);
        actions.extend(may_start.map(Action::Start));
        actions.extend(state.network.iter().cloned().map(Action::Deliver));
        if state.duplicated < self.duplicates {
            actions.extend(state.network.iter().cloned().map(Action::Duplicate));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Start(name) => {
                state.tries[client(name)] += 1;
                let step = state.clients[client(name)].start();
                state.follow(name, step);
            }
            Action::Deliver(packet) => {
                state.network.remove(&packet);
                state.deliver(packet);
            }
            Action::Duplicate(packet) => {
                state.duplicated += 1;
                state.deliver(packet);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Decree>> {
        vec![
            Property::always("agreement", |_, state: &State| {
                state.executed().all(|command| Some(command) == state.executed().next())
            }),
            Property::sometimes("a command is chosen", |_, state: &State| state.executed().next().is_some()),
            Property::sometimes("a client gets another's command chosen", |_, state: &State| {
                let mut clients = state.clients.iter().zip(CLIENTS);
                clients.any(|(client, name)| client.proposing().is_some_and(|command| *command != name.0))
            }),
            Property::sometimes("every server executes", |_, state: &State| {
                state.servers.iter().all(|server| server.chosen().is_some())
            }),
        ]
    }
}

impl Checked for Decree {
    fn stop(&self) -> &Stop {
        &self.stop
    }

    fn breach(&self, state: &State, _property: &str) -> String {
        let executed: BTreeSet<Command> = state.executed().collect();
        format!("the commands of {executed:?} are executed")
    }

    fn tell(&self, _before: &State, action: &Action, _after: &State) -> String {
        match action {
            Action::Start(name) => format!("client {name} takes a new ticket"),
            Action::Deliver(packet) => tell_packet(packet),
            Action::Duplicate(packet) => format!("{} (and will arrive again)", tell_packet(packet)),
        }
    }
}

fn tell_packet(packet: &Packet) -> String {
    match packet {
        Packet::Request { from, to, request } => format!("client {from} -> server {to}: {request:?}"),
        Packet::Answer { from, to, answer } => format!("server {from} -> client {to}: {answer:?}"),
    }
}
