//! I5, one leader per ballot: for every ballot at most one node, in one life, ever sends messages of its leader.

use std::collections::BTreeMap;

use synod_protocol::{Ballot, Message};

use super::{Property, Verdict, Violation};
use crate::network::node_id;

/// Who has spoken as the proposer of which ballot.
#[derive(Debug, Default)]
pub(super) struct OneLeaderPerBallot {
    speakers: BTreeMap<Ballot, (usize, u32)>,
}

impl OneLeaderPerBallot {
    pub(super) fn check_sent(&mut self, node: usize, life: u32, message: &Message) -> Verdict {
        let (Message::Prepare { ballot, .. }
        | Message::Accept { ballot, .. }
        | Message::Heartbeat { ballot, .. }
        | Message::Resigned { ballot }
        | Message::HandOver { ballot, .. }) = message
        else {
            return Ok(());
        };
        let (speaker, speaker_life) = *self.speakers.entry(*ballot).or_insert((node, life));
        if (speaker, speaker_life) == (node, life) && ballot.node == node_id(node) {
            return Ok(());
        }
        Err(Violation::new(
            Property::OneLeaderPerBallot,
            format!(
                "{} in life {life} leads ballot {ballot}, in which {} spoke in life {speaker_life}",
                node_id(node),
                node_id(speaker)
            ),
        ))
    }
}
