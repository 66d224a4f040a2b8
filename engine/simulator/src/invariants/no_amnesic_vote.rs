//! I21, no amnesic vote: nobody hears a vote of a node whose log is older than what it once claimed.

use std::collections::BTreeMap;

use synod_protocol::Message;

use super::{Property, Verdict, Violation};
use crate::links::Speaker;
use crate::network::node_id;

/// What processes had forgotten when they started, in words.
#[derive(Debug, Default)]
pub(super) struct NoAmnesicVote {
    forgotten: BTreeMap<(usize, Speaker), String>,
}

impl NoAmnesicVote {
    pub(super) fn start(&mut self, node: usize, speaker: Speaker, forgotten: Option<String>) {
        if let Some(forgotten) = forgotten {
            self.forgotten.insert((node, speaker), forgotten);
        }
    }

    pub(super) fn check_heard(&self, node: usize, (from, speaker): (usize, &Speaker), message: &Message) -> Verdict {
        let votes = matches!(message, Message::Promise { .. } | Message::Accepted { .. } | Message::Prepare { .. });
        match self.forgotten.get(&(from, *speaker)) {
            Some(forgotten) if votes => Err(Violation::new(
                Property::NoAmnesicVote,
                format!(
                    "{} hears {message:?} of {}, which has forgotten something: {forgotten}",
                    node_id(node),
                    node_id(from)
                ),
            )),
            _ => Ok(()),
        }
    }
}
