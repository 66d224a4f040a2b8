//! Answering what other threads ask through the mailbox.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use futures_channel::oneshot;
use synod_protocol::{BarrierId, BarrierOutcome, Instant, Mark, NodeId, Slot, TransferOutcome};
use synod_wal::{MarkAnswer, ReadId};

use super::Shard;
use crate::error::{BarrierError, MembershipError, TransferError, TrimError};
use crate::mailbox::Request;

/// Those who wait for something that no single turn brings. A receiver that is gone doesn't want to know, so that
/// every failed send here is ignored.
#[derive(Default)]
pub(super) struct Waiting {
    trims: Vec<PendingTrim>,
    barriers: BTreeMap<BarrierId, oneshot::Sender<Result<Slot, BarrierError>>>,
    transfer: Option<oneshot::Sender<Result<(), TransferError>>>,
    marks: BTreeMap<ReadId, oneshot::Sender<Option<Mark>>>,
    changes: Vec<PendingChange>,
    leaders: Vec<(Instant, oneshot::Sender<Option<NodeId>>)>,
    leader: Option<NodeId>,
}

struct PendingTrim {
    upto: Slot,
    deadline: Instant,
    reply: oneshot::Sender<Result<Slot, TrimError>>,
}

struct PendingChange {
    slot: Slot,
    deadline: Instant,
    reply: oneshot::Sender<Result<Slot, MembershipError>>,
}

impl Waiting {
    /// A change of the membership was proposed.
    pub(super) fn await_change(
        &mut self,
        slot: Slot,
        deadline: Instant,
        reply: oneshot::Sender<Result<Slot, MembershipError>>,
    ) {
        self.changes.push(PendingChange { slot, deadline, reply });
    }

    /// A configuration was delivered at `slot`, and is the one that rules, or void.
    pub(super) fn changed(&mut self, slot: Slot, rules: bool) {
        for change in self.changes.extract_if(.., |change| change.slot == slot) {
            let _ = change.reply.send(if rules { Ok(slot) } else { Err(MembershipError::Superseded) });
        }
    }

    /// Who leads, as far as this node knows.
    pub(super) fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// A trim was delivered.
    pub(super) fn trimmed(&mut self, upto: Slot) {
        for trim in self.trims.extract_if(.., |trim| trim.upto <= upto) {
            let _ = trim.reply.send(Ok(upto));
        }
    }

    /// A barrier is over.
    pub(super) fn barrier_ended(&mut self, id: BarrierId, outcome: BarrierOutcome) {
        if let Some(reply) = self.barriers.remove(&id) {
            let _ = reply.send(match outcome {
                BarrierOutcome::Reached(slot) => Ok(slot),
                BarrierOutcome::Lost => Err(BarrierError::NoLeader),
            });
        }
    }

    /// The mark that somebody asked for is read from the disk.
    pub(super) fn mark_done(&mut self, read: ReadId, mark: Option<Mark>) {
        if let Some(reply) = self.marks.remove(&read) {
            let _ = reply.send(mark);
        }
    }

    /// The transfer is over.
    pub(super) fn transfer_ended(&mut self, target: NodeId, outcome: TransferOutcome) {
        if let Some(reply) = self.transfer.take() {
            let _ = reply.send(match outcome {
                TransferOutcome::Gone => Ok(()),
                TransferOutcome::RolledBack => Err(TransferError::RolledBack(target)),
            });
        }
    }

    /// Who takes appends now.
    pub(super) fn leader_is(&mut self, leader: Option<NodeId>) {
        self.leader = leader;
        if leader.is_some() {
            for (_, reply) in self.leaders.drain(..) {
                let _ = reply.send(leader);
            }
        }
    }

    /// Whether this node leads; a trim that it proposed may be lost with its leadership.
    pub(super) fn leading_is(&mut self, leads: bool) {
        if !leads {
            for trim in self.trims.drain(..) {
                let _ = trim.reply.send(Err(TrimError::Unknown));
            }
            for change in self.changes.drain(..) {
                let _ = change.reply.send(Err(MembershipError::Unknown));
            }
        }
    }

    /// Answers those whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        for (_, reply) in self.leaders.extract_if(.., |(deadline, reply)| *deadline <= now || reply.is_canceled()) {
            let _ = reply.send(None);
        }
        for trim in self.trims.extract_if(.., |trim| trim.deadline <= now) {
            let _ = trim.reply.send(Err(TrimError::Unknown));
        }
        for change in self.changes.extract_if(.., |change| change.deadline <= now) {
            let _ = change.reply.send(Err(MembershipError::Unknown));
        }
    }

    /// Nobody gets anything more.
    pub(super) fn refuse(&mut self, error: &TrimError) {
        let poisoned = matches!(error, TrimError::Poisoned);
        for reply in std::mem::take(&mut self.barriers).into_values() {
            let _ = reply.send(Err(if poisoned { BarrierError::Poisoned } else { BarrierError::Shutdown }));
        }
        if let Some(reply) = self.transfer.take() {
            let _ = reply.send(Err(if poisoned { TransferError::Poisoned } else { TransferError::Shutdown }));
        }
        // A trim that waits here was proposed: others may yet agree on it.
        for trim in self.trims.drain(..) {
            let _ = trim.reply.send(Err(TrimError::Unknown));
        }
        for change in self.changes.drain(..) {
            let _ = change.reply.send(Err(MembershipError::Unknown));
        }
        for reply in std::mem::take(&mut self.marks).into_values() {
            let _ = reply.send(None);
        }
        for (_, reply) in self.leaders.drain(..) {
            let _ = reply.send(None);
        }
    }

    fn wait_for_leader(&mut self, now: Instant, timeout: Duration, reply: oneshot::Sender<Option<NodeId>>) {
        match self.leader {
            Some(leader) => drop(reply.send(Some(leader))),
            None => self.leaders.push((now.plus(timeout), reply)),
        }
    }
}

impl Shard {
    /// Takes requests out of the mailbox, for ever.
    pub(super) async fn answer_requests(self: Rc<Self>) {
        loop {
            let request = poll_fn(|context| self.shared.mailbox.poll_request(context)).await;
            self.answer(request);
        }
    }

    fn answer(self: &Rc<Self>, request: Request) {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let now = self.clock.now();
        match request {
            Request::Read { from, reply } => self.read_from(core, from, reply),
            Request::Trim { upto, reply } => match self.trim(core, now, upto) {
                Ok(upto) => {
                    let deadline = now.plus(self.settings.unknown_after);
                    core.waiting.trims.push(PendingTrim { upto, deadline, reply });
                }
                Err(error) => {
                    let leader = core.waiting.leader;
                    let _ = reply.send(Err(match error {
                        _ if core.stopped.is_some() => TrimError::Poisoned,
                        synod_protocol::TrimError::NotLeader => TrimError::NotLeader { leader },
                        synod_protocol::TrimError::NothingToTrim { held, trimmed } => {
                            TrimError::NothingToTrim { held, trimmed }
                        }
                        synod_protocol::TrimError::NoDeliveryState { point } => TrimError::NoDeliveryState { point },
                    }));
                }
            },
            Request::Barrier { reply } => match core.replica.barrier(now) {
                Ok(id) => drop(core.waiting.barriers.insert(id, reply)),
                Err(error) => {
                    let _ = reply.send(Err(match error {
                        _ if core.stopped.is_some() => BarrierError::Poisoned,
                        synod_protocol::BarrierError::NoLeader => BarrierError::NoLeader,
                        synod_protocol::BarrierError::Overloaded => BarrierError::Overloaded,
                    }));
                }
            },
            Request::Transfer { target, reply } => match core.replica.transfer(now, target) {
                Ok(()) => core.waiting.transfer = Some(reply),
                Err(_) if core.stopped.is_some() => drop(reply.send(Err(TransferError::Poisoned))),
                Err(error) => drop(reply.send(Err(TransferError::Refused(error)))),
            },
            Request::MarkAt { slot, reply } => match core.replica.mark_at(slot) {
                MarkAnswer::Known(mark) => drop(reply.send(mark)),
                MarkAnswer::Pending(read) => drop(core.waiting.marks.insert(read, reply)),
            },
            Request::WaitForLeader { timeout, reply } => core.waiting.wait_for_leader(now, timeout, reply),
            Request::Members { reply } => drop(reply.send(self.members_report(core))),
            Request::Change { change, reply } => self.change_members(core, now, change, reply),
            Request::SendSnapshot { .. } if core.stopped.is_some() => {}
            Request::SendSnapshot { to, message } => self.send_snapshot(to, &message),
            Request::Stop => self.stop.raise(),
        }
        self.follow_up(core, now);
    }
}
