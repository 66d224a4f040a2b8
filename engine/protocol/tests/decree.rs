//! Single-decree Paxos, step by step as the paper tells it: tickets, adoption, refusals, random waits.

use std::collections::BTreeMap;
use std::time::Duration;

use synod_protocol::NodeId;
use synod_protocol::decree::{Acceptor, Answer, BackOff, Client, Request, Step, Ticket};

type Word = &'static str;

fn ticket(number: u64, client: u32) -> Ticket {
    Ticket { number, client: NodeId(client) }
}

fn servers() -> Vec<NodeId> {
    (11..=13).map(NodeId).collect()
}

/// Three servers, and whoever talks to them without loss or delay.
struct Island {
    servers: BTreeMap<NodeId, Acceptor<Word>>,
}

impl Island {
    fn new() -> Island {
        Island { servers: servers().into_iter().map(|name| (name, Acceptor::new())).collect() }
    }

    fn ask(&mut self, server: u32, ticket: Ticket) -> Answer<Word> {
        self.say(NodeId(server), Request::Ask { ticket }).expect("a question is always answered")
    }

    fn propose(&mut self, server: u32, ticket: Ticket, command: Word) -> Answer<Word> {
        self.say(NodeId(server), Request::Propose { ticket, command }).expect("a proposal is always answered")
    }

    fn say(&mut self, server: NodeId, request: Request<Word>) -> Option<Answer<Word>> {
        self.servers.get_mut(&server).expect("a server").handle(request)
    }

    /// Carries a request of `client` to those of its receivers that are in `reachable`, and the answers back. Returns
    /// the first step that isn't to wait.
    fn carry(&mut self, client: &mut Client<Word>, step: Step<Word>, reachable: &[u32]) -> Step<Word> {
        let Step::Send(to, request) = step else { panic!("nothing to carry in {step:?}") };
        let mut next = Step::Wait;
        for server in to.into_iter().filter(|server| reachable.contains(&server.0)) {
            if let Some(answer) = self.say(server, request.clone()) {
                let step = client.handle(server, answer);
                if next == Step::Wait {
                    next = step;
                }
            }
        }
        next
    }

    fn announce(&mut self, command: Word) {
        for server in servers() {
            assert_eq!(self.say(server, Request::Execute { command }), None);
        }
    }

    fn executed(&self) -> Vec<Option<Word>> {
        self.servers.values().map(|server| server.chosen().copied()).collect()
    }
}

const ALL: &[u32] = &[11, 12, 13];

#[test]
fn a_ticket_is_issued_if_it_is_larger_than_all_before_it() {
    let mut island = Island::new();
    assert_eq!(island.ask(11, ticket(2, 1)), Answer::Agree { ticket: ticket(2, 1) });
    assert_eq!(island.ask(11, ticket(1, 2)), Answer::Abort { ticket: ticket(1, 2), newest: ticket(2, 1) });
    assert_eq!(island.ask(11, ticket(3, 2)), Answer::Agree { ticket: ticket(3, 2) });
    assert_eq!(island.servers[&NodeId(11)].newest(), ticket(3, 2));
}

#[test]
fn two_clients_never_hold_the_same_ticket() {
    // Both choose number 1. One of the two is the larger one, so that no server ever has to tell equal ones apart.
    let mut island = Island::new();
    assert_eq!(island.ask(11, ticket(1, 2)), Answer::Agree { ticket: ticket(1, 2) });
    assert_eq!(island.ask(11, ticket(1, 1)), Answer::Abort { ticket: ticket(1, 1), newest: ticket(1, 2) });
}

#[test]
fn a_command_is_stored_only_while_its_ticket_is_the_newest() {
    let mut island = Island::new();
    island.ask(11, ticket(1, 1));
    assert_eq!(island.propose(11, ticket(1, 1), "wine"), Answer::Stored { ticket: ticket(1, 1) });
    island.ask(11, ticket(2, 2));
    assert_eq!(
        island.propose(11, ticket(1, 1), "oil"),
        Answer::Abort { ticket: ticket(1, 1), newest: ticket(2, 2) },
        "a newer ticket is out"
    );
    assert_eq!(island.servers[&NodeId(11)].stored(), Some(&(ticket(1, 1), "wine")));
}

#[test]
fn a_command_needs_a_ticket_that_was_asked_for() {
    let mut island = Island::new();
    assert_eq!(island.propose(11, ticket(1, 1), "wine"), Answer::Unasked { ticket: ticket(1, 1) });
    assert_eq!(island.servers[&NodeId(11)].stored(), None);
}

#[test]
fn a_server_suggests_what_it_has_stored() {
    let mut island = Island::new();
    island.ask(11, ticket(1, 1));
    island.propose(11, ticket(1, 1), "wine");
    let suggestion = Answer::Suggest { ticket: ticket(2, 2), stored_with: ticket(1, 1), command: "wine" };
    assert_eq!(island.ask(11, ticket(2, 2)), suggestion);
}

#[test]
fn once_it_is_chosen_there_is_nothing_left_to_ask() {
    let mut island = Island::new();
    island.announce("wine");
    assert_eq!(island.ask(11, ticket(9, 1)), Answer::Ignore { chosen: "wine" });
    assert_eq!(island.propose(11, ticket(9, 1), "oil"), Answer::Ignore { chosen: "wine" });
    let mut client = Client::new(NodeId(1), servers(), "oil");
    let step = client.start();
    assert_eq!(island.carry(&mut client, step, ALL), Step::Execute("wine"));
    assert_eq!(client.chosen(), Some(&"wine"));
}

#[test]
fn doubled_requests_and_answers_change_nothing() {
    let mut island = Island::new();
    let first = island.ask(11, ticket(1, 1));
    assert_eq!(island.ask(11, ticket(1, 1)), first, "the same ticket of the same client");
    island.propose(11, ticket(1, 1), "wine");
    let before = island.servers[&NodeId(11)].clone();
    assert_eq!(island.propose(11, ticket(1, 1), "wine"), Answer::Stored { ticket: ticket(1, 1) });
    assert_eq!(island.servers[&NodeId(11)], before);

    let mut client = Client::new(NodeId(1), servers(), "wine");
    client.start();
    for _ in 0..5 {
        let step = client.handle(NodeId(11), Answer::Agree { ticket: ticket(1, 1) });
        assert_eq!(step, Step::Wait, "one server is no majority, however often it answers");
    }
}

#[test]
fn alone_a_client_gets_its_own_command_chosen() {
    let mut island = Island::new();
    let mut client = Client::new(NodeId(1), servers(), "wine");
    let ask = client.start();
    let propose = island.carry(&mut client, ask, &[11, 12]);
    let request = Request::Propose { ticket: ticket(1, 1), command: "wine" };
    assert_eq!(propose, Step::Send(vec![NodeId(11), NodeId(12)], request), "to those who granted the ticket");
    assert_eq!(island.carry(&mut client, propose, ALL), Step::Execute("wine"));
    island.announce("wine");
    assert_eq!(island.executed(), [Some("wine"); 3]);
}

#[test]
fn a_client_adopts_the_command_with_the_newest_ticket() {
    let mut island = Island::new();
    for (server, with, command) in [(11, ticket(1, 1), "wine"), (12, ticket(2, 2), "oil")] {
        island.ask(server, with);
        island.propose(server, with, command);
    }
    let mut client = Client::new(NodeId(3), servers(), "salt");
    let ask = client.start();
    assert_eq!(island.carry(&mut client, ask, &[12, 13]), Step::Wait, "ticket 1 is too old for server 12");
    let ask = client.start();
    let propose = island.carry(&mut client, ask, &[11, 12]);
    let request = Request::Propose { ticket: ticket(3, 3), command: "oil" };
    assert_eq!(propose, Step::Send(vec![NodeId(11), NodeId(12)], request));
    assert_eq!(client.proposing(), Some(&"oil"));
}

#[test]
fn a_refusal_saves_the_wait_and_names_the_ticket_to_beat() {
    let mut island = Island::new();
    for server in [11, 12] {
        island.ask(server, ticket(7, 2));
    }
    let mut client = Client::new(NodeId(1), servers(), "wine");
    let ask = client.start();
    assert_eq!(island.carry(&mut client, ask, ALL), Step::BackOff, "two of three refuse");
    let Step::Send(_, request) = client.start() else { panic!("a client may always start over") };
    assert_eq!(request, Request::Ask { ticket: ticket(8, 1) }, "the next ticket is large enough at once");
}

#[test]
fn one_refusal_is_no_reason_to_give_up() {
    let mut island = Island::new();
    island.ask(11, ticket(1, 2));
    let mut client = Client::new(NodeId(1), servers(), "wine");
    let ask = client.start();
    let propose = island.carry(&mut client, ask, ALL);
    assert!(matches!(propose, Step::Send(..)), "a majority is left: {propose:?}");
    assert_eq!(island.carry(&mut client, propose, ALL), Step::Execute("wine"));
}

#[test]
fn a_client_may_give_up_at_any_point_and_start_over_with_a_larger_ticket() {
    let mut island = Island::new();
    let mut client = Client::new(NodeId(1), servers(), "wine");
    let ask = client.start();
    let propose = island.carry(&mut client, ask, ALL);
    assert_eq!(island.carry(&mut client, propose, &[11]), Step::Wait, "stored once, then nobody answers");
    let ask = client.start();
    assert_eq!(ask, Step::Send(servers(), Request::Ask { ticket: ticket(2, 1) }));
    assert_eq!(client.handle(NodeId(12), Answer::Stored { ticket: ticket(1, 1) }), Step::Wait, "a late answer");
    let propose = island.carry(&mut client, ask, ALL);
    assert_eq!(island.carry(&mut client, propose, ALL), Step::Execute("wine"));
    assert_eq!(client.start(), Step::Execute("wine"), "what is chosen is only announced again");
}

#[test]
fn a_slow_announcement_is_harmless() {
    // The story that breaks the naive ticket protocol: client 1 has its majority but is slow to say so, client 2
    // overtakes it with newer tickets. Here client 2 finds the command and stores it again.
    let mut island = Island::new();
    let (mut first, mut second) = (Client::new(NodeId(1), servers(), "wine"), Client::new(NodeId(2), servers(), "oil"));
    let ask = first.start();
    let propose = island.carry(&mut first, ask, &[11, 12]);
    assert_eq!(island.carry(&mut first, propose, &[11, 12]), Step::Execute("wine"), "chosen, and not yet announced");

    let ask = second.start();
    let propose = island.carry(&mut second, ask, &[12, 13]);
    let request = Request::Propose { ticket: ticket(1, 2), command: "wine" };
    assert_eq!(propose, Step::Send(vec![NodeId(12), NodeId(13)], request), "client 2 adopts");
    assert_eq!(island.carry(&mut second, propose, &[13]), Step::Wait);
    assert_eq!(island.servers[&NodeId(13)].stored(), Some(&(ticket(1, 2), "wine")));

    island.announce("wine");
    assert_eq!(island.executed(), [Some("wine"); 3]);
}

/// Two clients take turns, and each pauses for so many turns after a refusal: none means to start over at once. Returns
/// the turn in which a command is chosen.
fn duel(mut pause: impl FnMut(u32) -> u64, turns: u64) -> Option<u64> {
    let mut island = Island::new();
    let mut clients = [(1, "wine"), (2, "oil")].map(|(name, word)| Client::new(NodeId(name), servers(), word));
    let mut pending: [Option<Step<Word>>; 2] = [None, None];
    let mut resume = [0, 1];
    for turn in 0..turns {
        for (index, client) in clients.iter_mut().enumerate() {
            if turn < resume[index] {
                continue;
            }
            resume[index] = turn + 2;
            let step = pending[index].take().unwrap_or_else(|| client.start());
            match island.carry(client, step, ALL) {
                Step::Execute(_) => return Some(turn),
                Step::BackOff => match pause(index as u32) {
                    0 => {
                        let ask = client.start();
                        pending[index] = Some(island.carry(client, ask, ALL));
                    }
                    pause => resume[index] = turn + pause,
                },
                next => pending[index] = Some(next),
            }
        }
    }
    None
}

#[test]
fn two_clients_in_lockstep_overtake_each_other_for_ever() {
    assert_eq!(duel(|_| 0, 10_000), None, "Paxos Made Simple §2.4");
}

#[test]
fn random_waits_let_one_of_two_duelling_clients_through() {
    for seed in 0..500 {
        let mut waits =
            [1, 2].map(|name| BackOff::new(seed * 2 + name, Duration::from_micros(1), Duration::from_micros(64)));
        let chosen = duel(|client| waits[client as usize].wait().as_micros() as u64, 1000);
        assert!(chosen.is_some(), "seed {seed}: no progress in a thousand turns");
    }
}

#[test]
fn waits_stay_within_their_bounds_and_repeat_with_their_seed() {
    let (shortest, longest) = (Duration::from_millis(2), Duration::from_millis(50));
    let mut waits = BackOff::new(7, shortest, longest);
    let mut twin = waits.clone();
    let drawn: Vec<Duration> = (0..200).map(|_| waits.wait()).collect();
    assert!(drawn.iter().all(|wait| (shortest..=longest).contains(wait)));
    assert!(drawn[0] <= 2 * shortest && drawn.iter().any(|wait| *wait > longest / 2), "the span grows");
    assert!((0..200).all(|index| twin.wait() == drawn[index]));
}
