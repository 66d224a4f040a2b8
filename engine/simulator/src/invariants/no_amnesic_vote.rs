//! I21, no amnesic vote: a node whose log is older than what it once claimed takes part in no quorum.

use synod_protocol::Message;

use super::{Property, Verdict, Violation};
use crate::network::node_id;

/// What each node had forgotten when it started last, in words.
#[derive(Debug)]
pub(super) struct NoAmnesicVote {
    forgotten: Vec<Option<String>>,
}

impl NoAmnesicVote {
    pub(super) fn new(nodes: usize) -> NoAmnesicVote {
        NoAmnesicVote { forgotten: vec![None; nodes] }
    }

    pub(super) fn start(&mut self, node: usize, forgotten: Option<String>) {
        self.forgotten[node] = forgotten;
    }

    pub(super) fn check_sent(&self, node: usize, message: &Message) -> Verdict {
        let votes = matches!(message, Message::Promise { .. } | Message::Accepted { .. } | Message::Prepare { .. });
        match &self.forgotten[node] {
            Some(forgotten) if votes => Err(Violation::new(
                Property::NoAmnesicVote,
                format!("{} sent {message:?}, although it has forgotten something: {forgotten}", node_id(node)),
            )),
            _ => Ok(()),
        }
    }
}
