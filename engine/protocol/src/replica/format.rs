//! The format of the log: which one its bodies have is a part of the configuration that rules them, so it is raised through
//! the log, by a change of the configuration like any other.
//!
//! Nobody may be sent what it can't read. So a leader raises the format only while every node of the cluster answers and
//! has said, to this process, that it reads the new one. Who comes later without being able to is not spoken with: that
//! is the driver's part, which sees hellos.

use std::collections::BTreeSet;

use super::membership::{Change, ReconfigureError};
use super::{BodyHandle, Configuration, NodeId, Replica, RoleState, Slot};
use crate::config::FORMAT_FIRST;
use crate::time::Instant;

/// Nodes of which it is remembered what they read: more than two configurations name.
const READERS_MAX: usize = 64;

impl Replica {
    /// Takes what a node has said of itself when it connected: the newest format that it reads.
    pub fn handle_reader(&mut self, node: NodeId, format_max: u16) {
        if self.readers.len() < READERS_MAX || self.readers.contains_key(&node) {
            self.readers.insert(node, format_max);
        }
    }

    /// The newest format that a node reads, if it has told this process.
    pub fn reads(&self, node: NodeId) -> Option<u16> {
        let own = (node == self.node).then_some(self.settings.format_max);
        own.or_else(|| self.readers.get(&node).copied())
    }

    /// The newest format that this node reads.
    pub fn format_max(&self) -> u16 {
        self.settings.format_max
    }

    /// Where the configuration was chosen that rules `slot`, if a body there has to say so; only of slots that this replica may
    /// propose for.
    pub fn ruling_said(&self, slot: Slot) -> Option<Slot> {
        let ruling = self.configurations.configuration_at(slot);
        (ruling.format > FORMAT_FIRST).then_some(ruling.chosen_at)
    }

    /// Whether a body can't be what it seems: it says of its slots that another configuration rules them than does, or has a
    /// format that isn't the one of that. Its maker didn't know what was chosen, and had no right to propose it.
    pub fn is_misruled(&self, body: &BodyHandle, ruling: Option<Slot>) -> bool {
        let known = self.configurations.configuration_at(body.first);
        let is_certain = known.rules_from() <= body.first && body.first < self.mark.slot.plus(self.alpha());
        is_certain && body.first > Slot(0) && ruling != self.ruling_said(body.first)
    }

    /// The configuration in which the format is another one, if all can read that.
    pub(super) fn raised(&self, now: Instant, to: u16) -> Result<Configuration, ReconfigureError> {
        let current = self.configurations.newest();
        if to <= current.format {
            return Err(ReconfigureError::NotRaised { active: current.format, to });
        }
        let RoleState::Leader(leadership) = &self.role else { return Err(ReconfigureError::NotLeader) };
        // A leader that was removed may lead for a while yet, and it would be the first to write what it can't read.
        let named = self.configurations.iter().flat_map(Configuration::nodes);
        for node in named.chain([self.node]).collect::<BTreeSet<_>>() {
            let answers = node == self.node || leadership.peer(node).is_some_and(|peer| self.answers(now, peer));
            let reads = self.reads(node).filter(|_| answers);
            if reads.is_none_or(|reads| reads < to) {
                return Err(ReconfigureError::Unreadable { node, reads, needed: to });
            }
        }
        Ok(Configuration { format: to, ..current.clone() })
    }

    /// Whoever comes in must read what there is; some have not said yet, and are refused when they connect.
    pub(super) fn check_readers(&self, next: &Configuration) -> Result<(), ReconfigureError> {
        let current = self.configurations.newest();
        for node in next.nodes().filter(|node| !current.is_member(*node)) {
            if let Some(reads) = self.reads(node).filter(|reads| *reads < next.format) {
                return Err(ReconfigureError::Unreadable { node, reads: Some(reads), needed: next.format });
            }
        }
        Ok(())
    }

    /// Raises the format as far as all can read it, if the settings say so.
    pub(super) fn raise_format_if_due(&mut self, now: Instant) {
        let active = self.configurations.newest().format;
        if !self.settings.raises_format || active >= self.settings.format_max {
            return;
        }
        let nodes = self.configurations.iter().flat_map(Configuration::nodes);
        let all_read = nodes.chain([self.node]).map(|node| self.reads(node).unwrap_or(active)).min();
        if let Some(to) = all_read.map(|read| read.min(self.settings.format_max)).filter(|to| *to > active) {
            // Whatever is in the way now, there is a next time.
            let _ = self.reconfigure(now, Change::RaiseFormat { to });
        }
    }
}
