//! Clients that want reads which are never stale, and operators who move the leadership.

use synod_protocol::{BarrierError, BarrierId, BarrierOutcome, NodeId, TransferError, TransferOutcome};

use super::Cluster;
use crate::invariants::Property;
use crate::network::node_id;

impl Cluster {
    /// Now and then somebody begins a barrier, or moves the leadership.
    pub(super) fn disturb_leader(&mut self) {
        let reads = self.plan.reads;
        if self.read_random.chance(reads.barrier) {
            let index = self.read_random.index(self.nodes.len());
            if self.nodes[index].paused_until.is_none() {
                let _ = self.begin_barrier(index);
            }
        }
        // Once faults stop, nobody has a reason for another leader.
        if self.convergence.is_none() && self.read_random.chance(reads.transfer) {
            let leaders: Vec<usize> = (0..self.nodes.len()).filter(|index| self.leads(*index)).collect();
            if !leaders.is_empty() {
                let (leader, target) = (self.read_random.pick(&leaders), self.read_random.index(self.nodes.len()));
                let _ = self.begin_transfer(leader, node_id(target));
            }
        }
    }

    /// Somebody begins a barrier at a node.
    ///
    /// # Errors
    /// If the node doesn't, with the reason; one that is down gives none.
    pub fn begin_barrier(&mut self, index: usize) -> Result<(), BarrierError> {
        let (now, timer, needed) = (self.now(), self.timer(index), self.oracle.chosen_end());
        let Some(running) = &mut self.nodes[index].running else { return Ok(()) };
        let begun = running.replica.barrier(timer);
        match &begun {
            Ok(id) => {
                running.barriers.insert(*id, needed);
                self.trace.note(now, "barrier", &[index as u64, id.0], || format!("{} {id:?}", node_id(index)));
            }
            Err(_) => self.stats.coverage.note("refused a barrier"),
        }
        self.drain(index);
        begun.map(drop)
    }

    pub(super) fn barrier_ended(&mut self, index: usize, id: BarrierId, outcome: BarrierOutcome) {
        let now = self.now();
        self.trace
            .note(now, "barrier ended", &[index as u64, id.0], || format!("{} {id:?} {outcome:?}", node_id(index)));
        let Some(running) = &mut self.nodes[index].running else { return };
        let Some(needed) = running.barriers.remove(&id) else {
            let detail = format!("{} ends {id:?}, which isn't under way", node_id(index));
            return self.invariants.report(Property::LinearizableReads, detail);
        };
        running.barrier_ended = Some(outcome);
        match outcome {
            BarrierOutcome::Reached(slot) => {
                self.stats.coverage.note("a barrier was reached");
                let delivered = running.delivered.slot;
                self.invariants.read_at_barrier(index, needed, slot, delivered);
            }
            // Whoever was thrown behind the trim goes on with what it had begun, to no avail.
            BarrierOutcome::Lost if self.is_calm() && self.core().contains(&index) => {
                let detail = format!("{} loses {id:?} while nothing goes wrong", node_id(index));
                self.invariants.report(Property::Liveness, detail);
            }
            BarrierOutcome::Lost => self.stats.coverage.note("a barrier was lost"),
        }
    }

    /// Somebody asks a node to hand its leadership over.
    ///
    /// # Errors
    /// If the node doesn't, with the reason; one that is down gives none.
    pub fn begin_transfer(&mut self, index: usize, target: NodeId) -> Result<(), TransferError> {
        let (now, timer) = (self.now(), self.timer(index));
        let Some(running) = &mut self.nodes[index].running else { return Ok(()) };
        let begun = running.replica.transfer(timer, target);
        self.stats.coverage.note(match &begun {
            Ok(()) => "began a transfer",
            Err(TransferError::Lagging { .. }) => "refused a transfer: lagging",
            Err(TransferError::Silent(_)) => "refused a transfer: silent",
            Err(_) => "refused a transfer",
        });
        self.trace.note(now, "transfer", &[index as u64, u64::from(target.0)], || {
            format!("{} to {target}: {begun:?}", node_id(index))
        });
        self.drain(index);
        begun
    }

    pub(super) fn transfer_ended(&mut self, index: usize, target: NodeId, outcome: TransferOutcome) {
        let now = self.now();
        self.stats.coverage.note(match outcome {
            TransferOutcome::Gone => "a transfer moved the leadership",
            TransferOutcome::RolledBack => "a transfer was rolled back",
        });
        self.trace.note(now, "transfer ended", &[index as u64, u64::from(target.0)], || {
            format!("{} to {target}: {outcome:?}", node_id(index))
        });
    }
}
