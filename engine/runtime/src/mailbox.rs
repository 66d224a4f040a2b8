//! How other threads ask a shard for something that is not an append.
//!
//! Each waiting call has at most one request here, and the shard empties the box at every turn, so the box is bounded
//! by the number of callers. A shard that ends closes it, which answers everything that is left with nothing.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_channel::oneshot;
use synod_frame::client::{MemberChange, MembersReport};
use synod_protocol::snapshot::SnapshotMessage;
use synod_protocol::{Mark, NodeId, Slot};

use crate::error::{BarrierError, MembershipError, ReadError, TransferError, TrimError};
use crate::reader::SharedBody;

/// What is asked.
#[derive(Debug)]
pub(crate) enum Request {
    /// Delivered bodies from a slot on; waits at the tail.
    Read {
        /// A body's first slot, or a slot within it.
        from: Slot,
        /// Where the bodies go.
        reply: oneshot::Sender<Result<ReadReply, ReadError>>,
    },
    /// Agree on a trim.
    Trim {
        /// First slot to keep.
        upto: Slot,
        /// Where the new base goes.
        reply: oneshot::Sender<Result<Slot, TrimError>>,
    },
    /// A read that is never stale may begin.
    Barrier {
        /// Where the end of the delivered prefix goes.
        reply: oneshot::Sender<Result<Slot, BarrierError>>,
    },
    /// Hand the leadership over.
    Transfer {
        /// Who is to lead.
        target: NodeId,
        /// Where the outcome goes.
        reply: oneshot::Sender<Result<(), TransferError>>,
    },
    /// The chain at a slot, for audits.
    MarkAt {
        /// The slot.
        slot: Slot,
        /// Where the mark goes.
        reply: oneshot::Sender<Option<Mark>>,
    },
    /// Wait until somebody leads.
    WaitForLeader {
        /// For how long.
        timeout: Duration,
        /// Where the leader's name goes.
        reply: oneshot::Sender<Option<NodeId>>,
    },
    /// Which configurations are known.
    Members {
        /// Where they go.
        reply: oneshot::Sender<MembersReport>,
    },
    /// Change the membership.
    Change {
        /// Who comes and goes.
        change: MemberChange,
        /// Where the slot of the configuration goes.
        reply: oneshot::Sender<Result<Slot, MembershipError>>,
    },
    /// Tell a peer something about snapshots, or all of them.
    SendSnapshot {
        /// Whom.
        to: Option<NodeId>,
        /// What.
        message: SnapshotMessage,
    },
    /// End the shard.
    Stop,
}

/// What a read gives.
#[derive(Debug)]
pub(crate) enum ReadReply {
    /// Consecutive bodies, at least one.
    Bodies(Vec<SharedBody>),
    /// The slot asked for is trimmed.
    Trimmed {
        /// The first slot that is left.
        first: Slot,
    },
}

/// The box; see the module.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    requests: VecDeque<Request>,
    shard: Option<Waker>,
}

impl Mailbox {
    /// Asks. A closed box drops the request, and with it the reply's sender.
    pub(crate) fn ask(&self, request: Request) {
        let mut state = self.lock();
        if state.closed {
            drop(state);
            drop(request);
            return;
        }
        state.requests.push_back(request);
        if let Some(shard) = state.shard.take() {
            shard.wake();
        }
    }

    /// The oldest request. One task, the shard's, may wait here.
    pub(crate) fn poll_request(&self, context: &Context<'_>) -> Poll<Request> {
        let mut state = self.lock();
        if let Some(request) = state.requests.pop_front() {
            return Poll::Ready(request);
        }
        if !state.shard.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            state.shard = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Drops every request, now and from now on.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.shard = None;
        let left = std::mem::take(&mut state.requests);
        drop(state);
        drop(left);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code that holds this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;

    #[test]
    fn a_closed_box_answers_with_nothing() {
        let mailbox = Mailbox::default();
        let ask = |mailbox: &Mailbox| {
            let (reply, answer) = oneshot::channel();
            mailbox.ask(Request::MarkAt { slot: Slot(1), reply });
            answer
        };
        let before = ask(&mailbox);
        mailbox.close();
        let after = ask(&mailbox);
        assert!(block_on(before).is_err() && block_on(after).is_err());
    }

    #[test]
    fn requests_come_out_in_order() {
        let mailbox = Mailbox::default();
        for slot in 1..4 {
            let (reply, _) = oneshot::channel();
            mailbox.ask(Request::MarkAt { slot: Slot(slot), reply });
        }
        let context = Context::from_waker(Waker::noop());
        for expected in 1..4 {
            match mailbox.poll_request(&context) {
                Poll::Ready(Request::MarkAt { slot, .. }) => assert_eq!(slot, Slot(expected)),
                other => panic!("{other:?}"),
            }
        }
        assert!(mailbox.poll_request(&context).is_pending());
    }
}
