//! I22, fencing: after the first failed write or sync of a process, no claim about its log leaves it any more, and no
//! client is told anything, until another process has recovered from the disk.

use synod_protocol::Message;

use super::{Property, Verdict, Violation, persist_before_speak};
use crate::network::node_id;

/// The life of each node in which something failed.
#[derive(Debug)]
pub(super) struct Fencing {
    failed: Vec<Option<u32>>,
}

impl Fencing {
    pub(super) fn new(nodes: usize) -> Fencing {
        Fencing { failed: vec![None; nodes] }
    }

    pub(super) fn note_failed(&mut self, node: usize, life: u32) {
        self.failed[node] = Some(life);
    }

    pub(super) fn check_sent(&self, node: usize, life: u32, message: &Message) -> Verdict {
        if !persist_before_speak::is_claim(message) {
            return Ok(());
        }
        self.check(node, life, || format!("sent {message:?}"))
    }

    pub(super) fn check_told(&self, node: usize, life: u32) -> Verdict {
        self.check(node, life, || "told a client of its command".into())
    }

    fn check(&self, node: usize, life: u32, did: impl FnOnce() -> String) -> Verdict {
        if self.failed[node] != Some(life) {
            return Ok(());
        }
        Err(Violation::new(
            Property::Fencing,
            format!("{} {}, after a write or a sync had failed in life {life}", node_id(node), did()),
        ))
    }
}
