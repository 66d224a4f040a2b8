//! Leaving without a gap: the leadership goes to somebody else before the node ends.

use std::sync::Arc;

use synod_protocol::{NodeId, Role};

use super::Node;
use crate::error::ShutdownError;
use crate::log::Log;
use crate::status::Status;

/// How many peers are asked to take over. Each attempt may take an election timeout.
const ATTEMPTS: usize = 2;

impl Node {
    /// Ends the node for good reasons of its own: if it leads, it hands the leadership over first, to the peer that is
    /// furthest, so that the others needn't elect anybody. Takes up to two election timeouts longer than
    /// [`Node::shutdown`], if no peer takes over. `/ready` says no from the beginning.
    ///
    /// # Errors
    /// As [`Node::shutdown`]. A leadership that nobody took is no error: the node resigns when it ends.
    pub fn retire(&mut self) -> Result<(), ShutdownError> {
        self.view.is_leaving();
        if !self.threads.is_empty() {
            for (_, shared) in &self.groups {
                hand_over(&Log::new(Arc::clone(shared)));
            }
        }
        self.shutdown()
    }
}

fn hand_over(log: &Log) {
    for target in heirs(&log.status()) {
        match log.transfer_leadership_blocking(target) {
            Ok(()) => return tracing::info!(%target, "the leadership is handed over"),
            Err(error) => tracing::info!(%target, %error, "a peer doesn't take the leadership over"),
        }
    }
}

/// Who may take over, best first; nobody unless this node leads.
fn heirs(status: &Status) -> Vec<NodeId> {
    if status.role != Role::Leader || status.stopped.is_some() {
        return Vec::new();
    }
    let mut peers: Vec<_> = status.peers.iter().filter(|peer| !peer.behind && !peer.full).collect();
    peers.sort_by_key(|peer| std::cmp::Reverse((peer.mark, peer.stable)));
    peers.into_iter().take(ATTEMPTS).map(|peer| peer.node).collect()
}
