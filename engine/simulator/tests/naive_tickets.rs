//! The negative control: the naive ticket protocol, which lacks one step of Paxos and so disagrees.
//!
//! The protocol (algorithm 2.1 in the ticket form of Paxos):
//! 1. a client asks all servers for a ticket;
//! 2. with a majority of answers it sends its command, with the ticket, to each; a server whose newest ticket that
//!    still is stores the command and says yes;
//! 3. with a majority of yeses it tells all to execute what they have stored.
//!
//! The story that breaks it: client 1 has its majority but is slow to announce; client 2 overtakes it with newer
//! tickets and stores another command on some servers; client 1's announcement then executes different commands.
//! The cure is the adoption: servers return what they have stored, and a client proposes the newest of that. The same
//! stories and the same schedules are told with it ([`synod_protocol::decree`]), and never disagree.

use std::collections::BTreeMap;

use synod_protocol::NodeId;
use synod_protocol::decree::{Acceptor, Answer, Client, Request, Step};
use synod_simulator::random::Random;
use synod_simulator::{Property, Violation};

const SERVERS: [NodeId; 3] = [NodeId(11), NodeId(12), NodeId(13)];
const MAJORITY: usize = 2;

/// Schedules that are tried.
const SEEDS: u64 = 2000;

/// A command is the name of the client that wants it.
type Command = NodeId;

/// Clients and servers of a protocol that is told what happens next.
trait Protocol {
    type Packet: Clone;

    /// Client 1 or 2 begins, or starts over.
    fn start(&mut self, client: NodeId) -> Vec<Self::Packet>;

    /// A packet arrives.
    fn deliver(&mut self, packet: Self::Packet) -> Vec<Self::Packet>;

    /// What each server has executed.
    fn executed(&self) -> BTreeMap<NodeId, Command>;
}

/// All servers that execute a command execute the same.
fn judge(protocol: &impl Protocol) -> Result<(), Violation> {
    let executed = protocol.executed();
    let mut commands = executed.values();
    let first = commands.next();
    if commands.all(|command| Some(command) == first) {
        return Ok(());
    }
    let detail: Vec<String> =
        executed.iter().map(|(server, command)| format!("{server} executes the command of {command}")).collect();
    Err(Violation::new(Property::Agreement, detail.join(", ")))
}

// The naive protocol.

#[derive(Default)]
struct Naive {
    servers: BTreeMap<NodeId, NaiveServer>,
    clients: BTreeMap<NodeId, NaiveClient>,
}

#[derive(Default)]
struct NaiveServer {
    newest: u32,
    stored: Option<Command>,
    executed: Option<Command>,
}

#[derive(Default)]
struct NaiveClient {
    attempt: u32,
    tickets: BTreeMap<NodeId, u32>,
    stored: Vec<NodeId>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct NaivePacket {
    client: NodeId,
    server: NodeId,
    attempt: u32,
    word: Word,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Word {
    Ask,
    Issue(u32),
    Store(u32),
    Stored,
    Execute,
}

impl Protocol for Naive {
    type Packet = NaivePacket;

    fn start(&mut self, client: NodeId) -> Vec<NaivePacket> {
        let state = self.clients.entry(client).or_default();
        *state = NaiveClient { attempt: state.attempt + 1, ..NaiveClient::default() };
        let attempt = state.attempt;
        SERVERS.map(|server| NaivePacket { client, server, attempt, word: Word::Ask }).to_vec()
    }

    fn deliver(&mut self, packet: NaivePacket) -> Vec<NaivePacket> {
        let server = self.servers.entry(packet.server).or_default();
        let client = self.clients.entry(packet.client).or_default();
        let current = client.attempt == packet.attempt;
        let say = |server: NodeId, word: Word| NaivePacket { server, word, ..packet };
        match packet.word {
            Word::Ask => {
                server.newest += 1;
                vec![say(packet.server, Word::Issue(server.newest))]
            }
            Word::Issue(ticket) if current => {
                client.tickets.insert(packet.server, ticket);
                if client.tickets.len() < MAJORITY {
                    return Vec::new();
                }
                // At a majority to all who answered, later to each who answers.
                let late = client.tickets.len() > MAJORITY;
                let to = client.tickets.iter().filter(|(server, _)| !late || **server == packet.server);
                to.map(|(server, ticket)| say(*server, Word::Store(*ticket))).collect()
            }
            Word::Store(ticket) if ticket == server.newest => {
                server.stored = Some(packet.client);
                vec![say(packet.server, Word::Stored)]
            }
            Word::Stored if current && !client.stored.contains(&packet.server) => {
                client.stored.push(packet.server);
                if client.stored.len() != MAJORITY {
                    return Vec::new();
                }
                SERVERS.map(|server| say(server, Word::Execute)).to_vec()
            }
            Word::Execute => {
                server.executed = server.executed.or(server.stored);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn executed(&self) -> BTreeMap<NodeId, Command> {
        self.servers.iter().filter_map(|(name, server)| Some((*name, server.executed?))).collect()
    }
}

// The same with the adoption: Paxos.

struct Paxos {
    servers: BTreeMap<NodeId, Acceptor<Command>>,
    clients: BTreeMap<NodeId, Client<Command>>,
}

#[derive(Clone, Debug)]
enum PaxosPacket {
    Request(NodeId, NodeId, Request<Command>),
    Answer(NodeId, NodeId, Answer<Command>),
}

impl Default for Paxos {
    fn default() -> Paxos {
        let client = |name| (name, Client::new(name, SERVERS.to_vec(), name));
        Paxos {
            servers: SERVERS.map(|name| (name, Acceptor::new())).into(),
            clients: [NodeId(1), NodeId(2)].map(client).into(),
        }
    }
}

fn follow(client: NodeId, step: Step<Command>) -> Vec<PaxosPacket> {
    match step {
        Step::Wait | Step::BackOff => Vec::new(),
        Step::Send(to, request) => {
            to.into_iter().map(|server| PaxosPacket::Request(client, server, request.clone())).collect()
        }
        Step::Execute(command) => {
            SERVERS.map(|server| PaxosPacket::Request(client, server, Request::Execute { command })).to_vec()
        }
    }
}

impl Protocol for Paxos {
    type Packet = PaxosPacket;

    fn start(&mut self, client: NodeId) -> Vec<PaxosPacket> {
        follow(client, self.clients.get_mut(&client).expect("a client").start())
    }

    fn deliver(&mut self, packet: PaxosPacket) -> Vec<PaxosPacket> {
        match packet {
            PaxosPacket::Request(client, server, request) => {
                let answer = self.servers.get_mut(&server).expect("a server").handle(request);
                answer.map(|answer| PaxosPacket::Answer(server, client, answer)).into_iter().collect()
            }
            PaxosPacket::Answer(server, client, answer) => {
                follow(client, self.clients.get_mut(&client).expect("a client").handle(server, answer))
            }
        }
    }

    fn executed(&self) -> BTreeMap<NodeId, Command> {
        self.servers.iter().filter_map(|(name, server)| Some((*name, *server.chosen()?))).collect()
    }
}

// The story, step by step.

/// Carries packets, and what follows from them, as long as `allowed` lets them through. Returns those held back.
fn carry<P: Protocol>(
    protocol: &mut P,
    packets: Vec<P::Packet>,
    allowed: impl Fn(&P::Packet) -> bool,
) -> Vec<P::Packet> {
    let mut held = Vec::new();
    let mut under_way = packets;
    while !under_way.is_empty() {
        let packet = under_way.remove(0);
        if allowed(&packet) {
            under_way.extend(protocol.deliver(packet));
        } else {
            held.push(packet);
        }
    }
    held
}

#[test]
fn a_slow_announcement_makes_the_naive_protocol_disagree() {
    let (first, second) = (NodeId(1), NodeId(2));
    let mut naive = Naive::default();
    // Client 1 gets tickets of all, stores its command on all, and has its majority. It is slow to say so.
    let asks = naive.start(first);
    let announcements = carry(&mut naive, asks, |packet| packet.word != Word::Execute);
    assert_eq!(announcements.len(), SERVERS.len(), "client 1 announces to all");
    assert!(naive.servers.values().all(|server| server.stored == Some(first)));
    // Client 2 overtakes it: newer tickets, and its command on servers 11 and 12; server 13 gets it too late.
    let asks = naive.start(second);
    let late = |packet: &NaivePacket| packet.server == NodeId(13) && matches!(packet.word, Word::Store(_));
    carry(&mut naive, asks, |packet| !late(packet) && packet.word != Word::Execute);
    assert_eq!(naive.servers[&NodeId(12)].stored, Some(second), "what client 1 counts on is stored no more");
    // Now client 1 announces. Each server executes what it has stored.
    carry(&mut naive, announcements, |_| true);
    let violation = judge(&naive).expect_err("the servers disagree");
    assert_eq!(violation.property, Property::Agreement);
    assert_eq!(
        violation.to_string(),
        "agreement (I1): n11 executes the command of n2, n12 executes the command of n2, n13 executes the command of n1"
    );
}

#[test]
fn the_same_story_with_adoption_ends_well() {
    let (first, second) = (NodeId(1), NodeId(2));
    let mut paxos = Paxos::default();
    let is_announcement = |packet: &PaxosPacket| matches!(packet, PaxosPacket::Request(_, _, Request::Execute { .. }));
    let asks = paxos.start(first);
    let announcements = carry(&mut paxos, asks, |packet| !is_announcement(packet));
    assert_eq!(announcements.len(), SERVERS.len(), "client 1 announces to all");
    let asks = paxos.start(second);
    let late = |packet: &PaxosPacket| {
        matches!(packet, PaxosPacket::Request(_, NodeId(13), Request::Propose { .. })) || is_announcement(packet)
    };
    carry(&mut paxos, asks, |packet| !late(packet));
    let stored = paxos.servers[&NodeId(12)].stored().expect("client 2 has stored");
    assert_eq!((stored.0.client, stored.1), (second, first), "client 2 stores what client 1 wanted");
    carry(&mut paxos, announcements, |_| true);
    assert_eq!(judge(&paxos), Ok(()));
    assert!(paxos.executed().values().all(|command| *command == first) && paxos.executed().len() == 3);
}

// Any story: schedules drawn from seeds.

/// Plays a schedule: which packet comes next, whether it is lost or comes again, when a client starts over.
fn play<P: Protocol + Default>(seed: u64) -> Result<(), Violation> {
    let mut random = Random::stream(seed, "tickets");
    let mut protocol = P::default();
    let mut under_way = Vec::new();
    for client in [NodeId(1), NodeId(2)] {
        under_way.extend(protocol.start(client));
    }
    for _ in 0..120 {
        // The numbers are drawn whether or not they are used, so that both protocols see the same schedule.
        let [place, fate] = [random.number(), random.number()];
        match fate % 40 {
            0 => under_way.extend(protocol.start(NodeId(1 + (fate / 40 % 2) as u32))),
            _ if under_way.is_empty() => {}
            kind => {
                let index = (place % under_way.len() as u64) as usize;
                let packet = if kind == 1 { under_way[index].clone() } else { under_way.swap_remove(index) };
                if kind != 2 {
                    under_way.extend(protocol.deliver(packet));
                }
            }
        }
        judge(&protocol)?;
    }
    Ok(())
}

#[test]
fn random_schedules_find_the_disagreement_and_adoption_cures_it() {
    let disagreeing: Vec<u64> = (0..SEEDS).filter(|seed| play::<Naive>(*seed).is_err()).collect();
    assert!(!disagreeing.is_empty(), "no schedule of {SEEDS} makes the naive protocol disagree");
    let again = play::<Naive>(disagreeing[0]);
    assert_eq!(again, play::<Naive>(disagreeing[0]), "a seed repeats");
    for seed in 0..SEEDS {
        assert_eq!(play::<Paxos>(seed), Ok(()), "seed {seed}");
    }
}

#[test]
fn paxos_gets_something_chosen_in_most_schedules() {
    // Otherwise its agreement above would be worth nothing.
    let mut chosen = 0;
    for seed in 0..200 {
        let mut random = Random::stream(seed, "tickets");
        let mut paxos = Paxos::default();
        let mut under_way = paxos.start(NodeId(1 + (seed % 2) as u32));
        under_way.extend(paxos.start(NodeId(2 - (seed % 2) as u32)));
        while !under_way.is_empty() {
            let index = (random.number() % under_way.len() as u64) as usize;
            let packet = under_way.swap_remove(index);
            under_way.extend(paxos.deliver(packet));
        }
        chosen += u32::from(!paxos.executed().is_empty());
    }
    assert!(chosen > 100, "only {chosen} of 200");
}
