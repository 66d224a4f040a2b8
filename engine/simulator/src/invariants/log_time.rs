//! The log's own time: a leader gives no new body an earlier time than that of the body before it, or of any that it ever
//! gave out, whatever clocks say.
//!
//! Seen from the log, that holds for the bodies that one leadership made. It doesn't hold from one to the next: a body
//! that is proposed again keeps its time and its origin, and may come to stand behind one that a later leader made, or
//! (if an earlier one rises again that no quorum had shown meanwhile) before one whose leader never saw it; and no-op
//! ranges are made before their leader has seen all that it closes the gaps of. So the time of a log at some slot is the
//! highest of all bodies up to there.

use synod_frame::BodyHeader;
use synod_protocol::{BodyKind, Slot};

use super::{Property, Verdict, Violation};
use crate::network::node_id;
use crate::oracle::Oracle;

/// The highest time of the chosen bodies that each node has given out, restarts included.
#[derive(Debug)]
pub(super) struct LogTime {
    highest_us: Vec<u64>,
}

impl LogTime {
    pub(super) fn new(nodes: usize) -> LogTime {
        LogTime { highest_us: vec![0; nodes] }
    }

    /// A node begins with a new store.
    pub(super) fn renew(&mut self, node: usize) {
        self.highest_us[node] = 0;
    }

    /// Whoever leads has had every chosen body in hand, so what it makes is no earlier than any that it ever gave out.
    pub(super) fn check_new(&self, node: usize, time_us: u64) -> Verdict {
        let highest_us = self.highest_us[node];
        if time_us >= highest_us {
            return Ok(());
        }
        let detail = format!("{} makes a body of time {time_us}, after it gave out one of {highest_us}", node_id(node));
        Err(Violation::new(Property::LogTime, detail))
    }

    /// Compares the time of a body with that of the one before, as far as their bytes were seen.
    pub(super) fn check_bytes(&mut self, oracle: &Oracle, node: usize, header: &BodyHeader) -> Verdict {
        self.highest_us[node] = self.highest_us[node].max(header.leader_time_us);
        let before = header.first.0.checked_sub(1).and_then(|slot| oracle.chosen_containing(Slot(slot)));
        let before = before.and_then(|chosen| BodyHeader::parse(chosen.bytes.as_ref()?).ok());
        let Some(before) = before.filter(|before| before.origin == header.origin) else { return Ok(()) };
        if header.kind == BodyKind::NoOp || before.leader_time_us <= header.leader_time_us {
            return Ok(());
        }
        Err(Violation::new(
            Property::LogTime,
            format!(
                "{} gave out {:?} of time {}, after one of time {}",
                node_id(node),
                header.handle(),
                header.leader_time_us,
                before.leader_time_us
            ),
        ))
    }
}
