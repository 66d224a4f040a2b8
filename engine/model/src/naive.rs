//! The negative control: the naive ticket protocol (algorithm 2.1 in the ticket form of Paxos), which the checker must
//! catch. Servers issue the tickets, store the command of whoever holds the newest, and are told to execute what they
//! have stored. What is missing is the adoption: a client overtakes another one without asking what is stored already.

use std::collections::BTreeSet;

use stateright::{Model, Property};

use crate::check::{Checked, Stop};

const SERVERS: usize = 3;
const MAJORITY: usize = 2;

/// The model; see the module documentation.
#[derive(Clone, Debug, Default)]
pub struct Naive {
    stop: Stop,
}

/// What is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Word {
    /// A client wants a ticket.
    Ask,
    /// A server issues this ticket.
    Issue(u8),
    /// A client wants its command stored with this ticket.
    Store(u8),
    /// A server has stored it.
    Stored,
    /// A client tells a server to execute what it has stored.
    Execute,
}

/// A message between a client and a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packet {
    client: u8,
    server: u8,
    word: Word,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Server {
    newest: u8,
    stored: Option<u8>,
    executed: Option<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Client {
    started: bool,
    tickets: [Option<u8>; SERVERS],
    stored: [bool; SERVERS],
    announced: bool,
}

/// One state. A command is the number of its client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    servers: [Server; SERVERS],
    clients: [Client; 2],
    network: BTreeSet<Packet>,
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A client asks all servers for a ticket.
    Start(u8),
    /// A message arrives.
    Deliver(Packet),
}

impl State {
    fn send_all(&mut self, client: u8, word: Word) {
        self.network.extend((0..SERVERS as u8).map(|server| Packet { client, server, word }));
    }

    fn deliver(&mut self, packet: Packet) {
        self.network.remove(&packet);
        let Packet { client: name, server: at, word } = packet;
        let (client, server) = (&mut self.clients[name as usize], &mut self.servers[at as usize]);
        match word {
            Word::Ask => {
                server.newest += 1;
                self.network.insert(Packet { word: Word::Issue(server.newest), ..packet });
            }
            Word::Issue(ticket) => {
                let before = client.tickets.iter().flatten().count();
                client.tickets[at as usize] = Some(ticket);
                if before + 1 >= MAJORITY {
                    // At a majority to all who answered, and to later ones as they answer.
                    let late = before >= MAJORITY;
                    for (server, ticket) in client.tickets.iter().enumerate() {
                        if let Some(ticket) = ticket
                            && (!late || server == at as usize)
                        {
                            let word = Word::Store(*ticket);
                            self.network.insert(Packet { client: name, server: server as u8, word });
                        }
                    }
                }
            }
            Word::Store(ticket) => {
                if ticket == server.newest {
                    server.stored = Some(name);
                    self.network.insert(Packet { word: Word::Stored, ..packet });
                }
            }
            Word::Stored => {
                client.stored[at as usize] = true;
                if !client.announced && client.stored.iter().filter(|stored| **stored).count() >= MAJORITY {
                    client.announced = true;
                    self.send_all(name, Word::Execute);
                }
            }
            Word::Execute => server.executed = server.executed.or(server.stored),
        }
    }
}

impl Model for Naive {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if self.stop.is_set() {
            return;
        }
        actions.extend((0..2).filter(|name| !state.clients[*name as usize].started).map(Action::Start));
        actions.extend(state.network.iter().copied().map(Action::Deliver));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Start(name) => {
                state.clients[name as usize].started = true;
                state.send_all(name, Word::Ask);
            }
            Action::Deliver(packet) => state.deliver(packet),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Naive>> {
        vec![Property::always("agreement", |_, state: &State| {
            let mut executed = state.servers.iter().filter_map(|server| server.executed);
            let first = executed.next();
            executed.all(|command| Some(command) == first)
        })]
    }
}

impl Checked for Naive {
    fn stop(&self) -> &Stop {
        &self.stop
    }

    fn breach(&self, state: &State, _property: &str) -> String {
        let executed = state.servers.iter().enumerate().filter_map(|(server, state)| {
            state
                .executed
                .map(|command| format!("server {} executes the command of client {}", server + 1, command + 1))
        });
        executed.collect::<Vec<_>>().join(", ")
    }

    fn tell(&self, _before: &State, action: &Action, _after: &State) -> String {
        match action {
            Action::Start(name) => format!("client {} asks all servers for a ticket", name + 1),
            Action::Deliver(Packet { client, server, word }) => {
                let (client, server) = (client + 1, server + 1);
                match word {
                    Word::Ask => format!("server {server} is asked by client {client}"),
                    Word::Issue(ticket) => format!("client {client} gets ticket {ticket} of server {server}"),
                    Word::Store(ticket) => {
                        format!("server {server} gets the command of client {client}, ticket {ticket}")
                    }
                    Word::Stored => format!("client {client} hears that server {server} has stored its command"),
                    Word::Execute => {
                        format!("server {server} is told by client {client} to execute what it has stored")
                    }
                }
            }
        }
    }
}
