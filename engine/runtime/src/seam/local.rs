//! Wake-ups between tasks of one thread.
//!
//! Every waiter stores its waker once and replaces it only when it changed: a glommio task counts its wakers in an i16
//! and panics beyond that, so nothing here may pile up clones.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// A flag that one task waits for; raising it while nobody waits is remembered.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    raised: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Signal {
    /// Wakes the waiter, or the next one to come.
    pub(crate) fn raise(&self) {
        self.raised.set(true);
        if let Some(waker) = self.waiter.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Waits until the signal is raised, and lowers it.
    pub(crate) async fn wait(&self) {
        poll_fn(|context| {
            if self.raised.replace(false) {
                return Poll::Ready(());
            }
            let mut waiter = self.waiter.borrow_mut();
            if !waiter.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                *waiter = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

/// A moment that many tasks may wait for. A task that comes later waits for the next moment.
#[derive(Debug, Default)]
pub(crate) struct Moment {
    count: Cell<u64>,
    tickets: Cell<u64>,
    waiters: RefCell<Vec<(u64, Waker)>>,
}

impl Moment {
    /// Wakes all who wait.
    pub(crate) fn announce(&self) {
        self.count.set(self.count.get() + 1);
        for (_, waker) in self.waiters.borrow_mut().drain(..) {
            waker.wake();
        }
    }

    /// Waits for the next announcement.
    pub(crate) async fn wait(&self) {
        let before = self.count.get();
        // A number of its own, because wakers of one task needn't compare as equal.
        let ticket = self.tickets.get();
        self.tickets.set(ticket + 1);
        poll_fn(|context| {
            if self.count.get() != before {
                return Poll::Ready(());
            }
            let mut waiters = self.waiters.borrow_mut();
            match waiters.iter_mut().find(|(other, _)| *other == ticket) {
                Some((_, waker)) => waker.clone_from(context.waker()),
                None => waiters.push((ticket, context.waker().clone())),
            }
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    #[test]
    fn a_signal_raised_early_is_remembered_once() {
        let signal = Signal::default();
        signal.raise();
        let mut context = Context::from_waker(Waker::noop());
        assert!(pin!(signal.wait()).poll(&mut context).is_ready());
        assert!(pin!(signal.wait()).poll(&mut context).is_pending());
    }

    #[test]
    fn a_moment_wakes_only_those_who_wait() {
        let moment = Moment::default();
        moment.announce();
        let mut context = Context::from_waker(Waker::noop());
        let mut waiting = pin!(moment.wait());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        assert_eq!(moment.waiters.borrow().len(), 1, "one waker a task, however often it is polled");
        moment.announce();
        assert!(waiting.as_mut().poll(&mut context).is_ready());
    }
}
