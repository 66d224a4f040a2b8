//! I6, promises are monotonic: the highest ballot that a node has promised or accepted in any message never decreases,
//! restarts included, and no body is accepted below it. One that damage made unsure asks all others, and may promise less
//! than a ballot of its own that none of them has heard of: who asked with that lives no more, and it never led.

use synod_protocol::{Ballot, Message};

use super::{Property, Verdict, Violation};
use crate::durability::Record;
use crate::network::node_id;
use synod_wal::RecordKind;

/// What each node has promised in messages.
#[derive(Debug)]
pub(super) struct PromiseMonotonic {
    /// The highest ballot.
    spoken: Vec<Ballot>,
    /// The same without ballots of its own that nobody else has promised.
    known: Vec<Ballot>,
}

impl PromiseMonotonic {
    pub(super) fn new(nodes: usize) -> PromiseMonotonic {
        PromiseMonotonic { spoken: vec![Ballot::ZERO; nodes], known: vec![Ballot::ZERO; nodes] }
    }

    pub(super) fn check_sent(&mut self, node: usize, message: &Message) -> Verdict {
        let ballot = match message {
            Message::Promise { ballot, .. } | Message::Accepted { ballot, .. } => *ballot,
            // A candidate's own promise.
            Message::Prepare { ballot, .. } => *ballot,
            _ => return Ok(()),
        };
        if ballot >= self.spoken[node] {
            self.spoken[node] = ballot;
            if ballot.node != node_id(node) {
                self.known[node] = ballot;
                let candidate = &mut self.known[ballot.node.0 as usize - 1];
                *candidate = ballot.max(*candidate);
            }
            return Ok(());
        }
        Err(Violation::new(
            Property::PromiseMonotonic,
            format!("{} sent {message:?}, but had promised {} before", node_id(node), self.spoken[node]),
        ))
    }

    pub(super) fn check_written(&self, node: usize, record: &Record) -> Verdict {
        let below = record.meta.kind == RecordKind::Accepted && record.meta.ballot < self.spoken[node];
        // Who is unsure of its promise says so, and votes for nothing.
        if !below && (record.meta.promised >= self.spoken[node] || record.meta.unsure) {
            return Ok(());
        }
        Err(Violation::new(
            Property::PromiseMonotonic,
            format!("{} wrote {record:?}, but had promised {} before", node_id(node), self.spoken[node]),
        ))
    }

    /// A node begins a life unsure of its promise.
    pub(super) fn note_unsure(&mut self, node: usize) {
        self.spoken[node] = self.known[node];
    }

    /// A node begins with a new store.
    pub(super) fn renew(&mut self, node: usize) {
        (self.spoken[node], self.known[node]) = (Ballot::ZERO, Ballot::ZERO);
    }

    /// The highest promise that a node has spoken of.
    pub(super) fn spoken(&self, node: usize) -> Ballot {
        self.spoken[node]
    }
}
