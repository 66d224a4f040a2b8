//! The status as the shard publishes it, and those who wait for it to change.
//!
//! The shard writes, anybody reads. Watchers are woken when something changed that they can see: a role, a ballot, a
//! position. What merely counts up doesn't wake them.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use futures_lite::Stream;
use futures_lite::future::{block_on, poll_fn};

use synod_protocol::{NodeId, Slot};

use crate::log::Shared;
use crate::status::Status;

/// The status, shared between a shard and everybody else.
#[derive(Debug)]
pub(crate) struct Board {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    status: Status,
    /// As it was when watchers were last woken.
    told: Status,
    /// Goes up whenever watchers are woken.
    version: u64,
    /// Nothing will change any more.
    closed: bool,
    /// Names waiters, since their wakers needn't compare as equal.
    tickets: u64,
    /// At most one for each watcher.
    waiting: Vec<(u64, Waker)>,
}

impl Board {
    /// A board that shows `status`.
    pub(crate) fn new(status: Status) -> Board {
        let told = status.clone();
        let waiting = Vec::new();
        Board { state: Mutex::new(State { status, told, version: 0, closed: false, tickets: 0, waiting }) }
    }

    /// What it shows.
    pub(crate) fn read(&self) -> Status {
        self.lock().status.clone()
    }

    /// Whose status it is, and who leads.
    pub(crate) fn leader(&self) -> (NodeId, Option<NodeId>) {
        let state = self.lock();
        (state.status.node, state.status.leader)
    }

    /// The first slot of the log.
    pub(crate) fn base(&self) -> Slot {
        self.lock().status.base
    }

    /// Changes it without waking anybody: [`Board::publish`] follows soon.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.lock().status);
    }

    /// Changes it, and wakes the watchers if they can tell the difference.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut Status)) {
        let mut state = self.lock();
        change(&mut state.status);
        if !differs(&state.told, &state.status) {
            return;
        }
        state.version += 1;
        state.told = state.status.clone();
        wake(state);
    }

    /// Nothing changes any more.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        wake(state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code that holds this lock panics")
    }
}

/// Without the lock, because a waker may come back for it.
fn wake(mut state: MutexGuard<'_, State>) {
    let waiting = std::mem::take(&mut state.waiting);
    drop(state);
    for (_, waker) in waiting {
        waker.wake();
    }
}

fn differs(old: &Status, new: &Status) -> bool {
    let positions = |status: &Status| (status.mark, status.stable, status.base, status.judged);
    let part = |status: &Status| {
        (status.role, status.leader, status.ballot, status.full, status.behind, status.open_bodies == 0)
    };
    part(old) != part(new)
        || positions(old) != positions(new)
        || old.stopped != new.stopped
        || old.peers.len() != new.peers.len()
        || old.peers.iter().zip(&new.peers).any(|(old, new)| {
            (old.node, old.mark, old.stable, old.full, old.behind)
                != (new.node, new.mark, new.stable, new.full, new.behind)
        })
}

/// Follows a node's status: its role, the leader, ballots, positions, and how far its peers are. See
/// [`crate::Log::watch`].
///
/// A watch misses no state for good, but it may skip some: it gives the newest one each time. Under load it gives
/// something new about once in a millisecond.
///
/// ```no_run
/// # async fn example(log: synod::Log) {
/// let mut watch = log.watch();
/// while let Some(status) = watch.changed().await {
///     println!("{:?}, led by {:?}, at slot {}", status.role, status.leader, status.mark.slot);
///     for (peer, lag) in status.lags() {
///         println!("  {peer} lacks {lag} slots");
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    /// The version that was given out last; none yet at first.
    seen: Option<u64>,
    ticket: u64,
}

impl Watch {
    pub(crate) fn new(shared: Arc<Shared>) -> Watch {
        let ticket = {
            let mut state = shared.board.lock();
            state.tickets += 1;
            state.tickets
        };
        Watch { shared, seen: None, ticket }
    }

    /// The status, at once the first time, then each time when it has changed; `None` when the node has shut down and
    /// nothing changes any more. The last state is given once before that.
    ///
    /// Dropping the future loses nothing: what it would have given is given by the next call.
    pub async fn changed(&mut self) -> Option<Status> {
        poll_fn(|context| self.poll_changed(context)).await
    }

    /// [`Watch::changed`] for threads without an executor.
    pub fn changed_blocking(&mut self) -> Option<Status> {
        block_on(self.changed())
    }

    /// The first status that `is_wanted`, now or later; `None` if the node shuts down before.
    ///
    /// Dropping the future loses nothing but what it has passed over.
    pub async fn wait_for(&mut self, mut is_wanted: impl FnMut(&Status) -> bool) -> Option<Status> {
        loop {
            let status = self.changed().await?;
            if is_wanted(&status) {
                return Some(status);
            }
        }
    }

    /// [`Watch::wait_for`] for threads without an executor.
    pub fn wait_for_blocking(&mut self, is_wanted: impl FnMut(&Status) -> bool) -> Option<Status> {
        block_on(self.wait_for(is_wanted))
    }

    fn poll_changed(&mut self, context: &Context<'_>) -> Poll<Option<Status>> {
        let mut state = self.shared.board.lock();
        if self.seen != Some(state.version) {
            self.seen = Some(state.version);
            return Poll::Ready(Some(state.status.clone()));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        match state.waiting.iter_mut().find(|(ticket, _)| *ticket == self.ticket) {
            Some((_, waker)) => waker.clone_from(context.waker()),
            None => state.waiting.push((self.ticket, context.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.board.lock().waiting.retain(|(ticket, _)| *ticket != self.ticket);
    }
}

impl Stream for Watch {
    type Item = Status;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Status>> {
        self.get_mut().poll_changed(context)
    }
}
