//! I6, promises are monotonic: the highest ballot that a node has promised or accepted in any message never decreases,
//! restarts included, and no body is accepted below it.

use synod_protocol::{Ballot, Message};

use super::{Property, Verdict, Violation};
use crate::durability::Record;
use crate::network::node_id;
use synod_wal::RecordKind;

/// The highest promise that each node has spoken of, and that it has written.
#[derive(Debug)]
pub(super) struct PromiseMonotonic {
    spoken: Vec<Ballot>,
}

impl PromiseMonotonic {
    pub(super) fn new(nodes: usize) -> PromiseMonotonic {
        PromiseMonotonic { spoken: vec![Ballot::ZERO; nodes] }
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

    /// The highest promise that a node has spoken of.
    pub(super) fn spoken(&self, node: usize) -> Ballot {
        self.spoken[node]
    }
}
