//! Clients with sessions and tickets: they send the same submission again, at any leader, whether it was answered or not;
//! they open sessions and lose them, take tickets from each other, and name slots that they expect.

use std::collections::VecDeque;

use synod_protocol::delivery::{Answer, Refusal, SessionCommand, SessionId, Terms, TicketCommand, TicketId};
use synod_protocol::{BodyHandle, Slot};

use crate::network::node_id;
use crate::plant::Plant;
use crate::random::{Chance, Random};
use crate::workload::{Command, Queued, Sent};

use super::Cluster;

/// Clients of a run that uses sessions; there is not room for all of them in every run.
const CLIENTS: usize = 3;

/// Submissions of a session that its client remembers, to send them again.
const REMEMBERED: usize = 8;

/// See the module documentation.
pub(super) struct SessionClients {
    clients: Vec<SessionClient>,
    random: Random,
}

#[derive(Debug, Default)]
struct SessionClient {
    session: Option<SessionId>,
    sequence: u64,
    ticket: Option<TicketId>,
    sent: VecDeque<Sent>,
}

impl SessionClients {
    pub(super) fn new(random: Random) -> SessionClients {
        SessionClients { clients: (0..CLIENTS).map(|_| SessionClient::default()).collect(), random }
    }
}

impl Cluster {
    /// What a client hands in next.
    pub(super) fn next_submission(&mut self) -> Queued {
        let now = self.now();
        if self.plan.logged.delivery.is_some()
            && self.sessions.random.chance(Chance::of(1, 2))
            && let Some(queued) = self.next_in_session()
        {
            return queued;
        }
        Queued::Commands(self.plan.workload.make_submission(now, &mut self.client_random, &mut self.oracle))
    }

    fn next_in_session(&mut self) -> Option<Queued> {
        let now = self.now();
        let SessionClients { clients, random } = &mut self.sessions;
        let number = random.index(clients.len());
        let client = &mut clients[number];
        let command = |command| Some(Queued::Command { command, client: number });
        let Some(session) = client.session else {
            let open = random.chance(Chance::of(1, 2));
            return if open { command(Command::Session(SessionCommand::Open)) } else { None };
        };
        if random.chance(Chance::of(1, 60)) {
            client.session = None;
            return command(Command::Session(SessionCommand::Close(session)));
        }
        if random.chance(Chance::of(1, 20)) {
            let lasts_us = random.spread(1..=self.plan.faulty_time.as_micros() as u64);
            return command(Command::Ticket(TicketCommand::Issue { lasts_us }));
        }
        if random.chance(Chance::of(1, 60))
            && let Some(ticket) = client.ticket
        {
            return command(Command::Ticket(TicketCommand::Revoke(ticket)));
        }
        if !client.sent.is_empty() && random.chance(Chance::of(1, 3)) {
            self.stats.coverage.note("sent a submission again");
            return Some(Queued::Commands(client.sent[random.index(client.sent.len())].clone()));
        }
        let mut sent = self.plan.workload.make_submission(now, random, &mut self.oracle);
        client.sequence += 1;
        let expected = self.oracle.chosen_end().plus(random.below(3));
        sent.terms = Terms {
            session: Some((session, client.sequence)),
            ticket: client.ticket.filter(|_| random.chance(Chance::of(1, 2))),
            expected_slot: random.chance(Chance::of(1, 8)).then_some(expected),
        };
        sent.client = number;
        client.sent.push_back(sent.clone());
        if client.sent.len() > REMEMBERED {
            client.sent.pop_front();
        }
        Some(Queued::Commands(sent))
    }

    /// A node has judged a body; whoever waits there for an answer is told.
    pub(super) fn judged(&mut self, index: usize, body: &BodyHandle, mut answers: Vec<Answer>) {
        if let Some(plant) = self.options.plant {
            answers.iter_mut().for_each(|answer| plant.alter_answer(body, answer));
        }
        let now = self.now();
        self.trace.note(now, "judge", &[index as u64, body.first.0, answers.len() as u64], || {
            format!("{} slots {}..{} {answers:?}", node_id(index), body.first, body.end())
        });
        for answer in &answers {
            self.stats.coverage.note_answer(answer);
        }
        let Some(running) = &mut self.nodes[index].running else { return };
        // More may have been judged since this was said.
        let state = running.replica.delivery_state().filter(|state| state.next() == body.end());
        let state = state.map(synod_protocol::delivery::DeliveryState::encode);
        self.invariants.judged(index, body, &answers, state.as_deref());
        let waiting = running.desk.judged(body.id);
        for (place, first, queued) in waiting {
            let Some(answer) = answers.get(place).copied() else { continue };
            match queued {
                Queued::Commands(sent) => self.answer(index, &sent, first, answer),
                Queued::Command { command, client } => self.sessions.learn(client, command, answer),
            }
        }
    }

    fn answer(&mut self, index: usize, sent: &Sent, at: Slot, answer: Answer) {
        match answer {
            Answer::Delivered { .. } => self.tell_chosen(index, sent, at),
            Answer::Duplicate { first } => self.tell_chosen(index, sent, first),
            Answer::Refused(refusal) => {
                let client = &mut self.sessions.clients[sent.client];
                let is_current = sent.terms.session.is_some_and(|(session, _)| client.session == Some(session));
                if refusal.is_final() {
                    for id in &sent.commands {
                        self.stats.coverage.note("told a client: refused");
                        self.oracle.refuse(*id);
                    }
                } else if is_current {
                    // Its next submissions would fare no better.
                    *client = SessionClient { ticket: client.ticket, ..SessionClient::default() };
                }
            }
        }
    }
}

impl SessionClients {
    fn learn(&mut self, client: usize, command: Command, answer: Answer) {
        let client = &mut self.clients[client];
        let Answer::Delivered { first } = answer else { return };
        match command {
            Command::Session(SessionCommand::Open) => {
                let ticket = client.ticket;
                *client = SessionClient { session: Some(SessionId(first)), ticket, ..SessionClient::default() };
            }
            Command::Ticket(TicketCommand::Issue { .. }) => client.ticket = Some(TicketId(first)),
            Command::Session(SessionCommand::Close(_)) | Command::Ticket(TicketCommand::Revoke(_)) => {}
        }
    }
}

impl Plant {
    /// What a node makes of a judgement.
    fn alter_answer(self, body: &BodyHandle, answer: &mut Answer) {
        let counts = matches!(
            (self, &answer),
            (Plant::DeliversTwice, Answer::Duplicate { .. })
                | (Plant::HeedsTheDeposed, Answer::Refused(Refusal::TicketSuperseded { .. }))
        );
        if counts {
            *answer = Answer::Delivered { first: body.first };
        }
    }
}
