//! The format of the log, and who reads it: nothing goes into the log that this build can't read, and nothing to a node that
//! couldn't read what comes with it.

use synod_frame::{BodyHeader, stamp};
use synod_protocol::{BodyHandle, NodeId, Slot};

use super::{Buffers, LoggedReplica};

impl<P: Buffers> LoggedReplica<P> {
    /// Takes what a node said of itself when it connected: the newest format that it reads. To be told before anything is
    /// sent to it, or taken from it.
    pub fn handle_reader(&mut self, node: NodeId, format_max: u16) {
        self.replica.handle_reader(node, format_max);
    }

    /// Whether a node may be sent anything: it reads the format of this log, or hasn't said what it reads. Whoever has a raise
    /// in its log, chosen or not, speaks only with those who read what may follow.
    pub(super) fn is_understood_by(&self, node: NodeId) -> bool {
        self.replica.reads(node).is_none_or(|reads| reads >= self.wal.format())
    }

    /// Whether a body that was received may go into the log.
    pub(super) fn admits(&mut self, body: &BodyHandle, header: &BodyHeader) -> bool {
        if header.format > self.replica.format_max() || self.replica.is_misruled(body, header.ruling) {
            self.refused_bodies += 1;
            return false;
        }
        self.wal.require_format(header.format);
        true
    }

    /// A body that was just made, in the format that rules its slots.
    pub(super) fn stamped(&self, first: Slot, body: BodyHandle, record: &mut [u8]) -> BodyHandle {
        let ruling = self.replica.ruling_said(first);
        ruling.map_or(body, |ruling| stamp(record, ruling).expect("the body was just made"))
    }
}
