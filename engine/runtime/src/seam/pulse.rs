//! A pulse from outside, so that an executor can't sleep through its own timers.
//!
//! Once in a long while, at start-up on a machine with more runnable threads than cores, executors of glommio 0.9 were
//! seen asleep in their rings for minutes although their timers had expired: completions were there, and nobody woke
//! the thread that waited for them. Any signal to the thread set it going again. So does a wake-up from another thread,
//! which arrives by the eventfd that every sleeping executor reads. A few of them a second bound such a sleep, and cost
//! an idle executor a few microseconds each.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

/// The longest that a lost wake-up can last: below any election timeout that makes sense.
const PERIOD: Duration = Duration::from_millis(200);

/// A thread that wakes one task again and again, until this is dropped.
#[derive(Debug)]
pub(super) struct Pulse {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    ended: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Shared {
    fn take(&self) -> Option<Waker> {
        self.task.lock().expect("no code that holds this lock panics").take()
    }
}

impl Pulse {
    /// Starts the thread.
    pub(super) fn start(name: &str) -> io::Result<Pulse> {
        let shared = Arc::<Shared>::default();
        let beating = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(format!("{name}-pulse")).spawn(move || {
            while !beating.ended.load(Ordering::Acquire) {
                std::thread::park_timeout(PERIOD);
                if let Some(task) = beating.take() {
                    task.wake();
                }
            }
        })?;
        Ok(Pulse { shared, thread: Some(thread) })
    }

    /// What the executor that is to be woken must run: never ends, and does nothing each time it is woken.
    pub(super) fn feel(&self) -> impl Future<Output = ()> + use<> {
        let shared = Arc::clone(&self.shared);
        poll_fn(move |context| {
            *shared.task.lock().expect("no code that holds this lock panics") = Some(context.waker().clone());
            Poll::Pending
        })
    }
}

/// Ends the thread. Happens on the executor's own thread, where its wakers may be dropped.
impl Drop for Pulse {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It holds no lock while it wakes, and ends at once.
            let _ = thread.join();
        }
        drop(self.shared.take());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    struct Beats(AtomicU32);

    impl std::task::Wake for Beats {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::AcqRel);
        }
    }

    #[test]
    fn a_task_that_waits_is_woken_until_the_pulse_stops() {
        let pulse = Pulse::start("test").expect("a thread");
        let beats = Arc::new(Beats(AtomicU32::new(0)));
        let waker = Waker::from(Arc::clone(&beats));
        let mut feel = Box::pin(pulse.feel());
        for expected in 1..=2 {
            let polled = feel.as_mut().poll(&mut std::task::Context::from_waker(&waker));
            assert!(polled.is_pending());
            while beats.0.load(Ordering::Acquire) < expected {
                std::thread::yield_now();
            }
        }
        drop(pulse);
        assert_eq!(beats.0.load(Ordering::Acquire), 2, "one beat a poll");
    }
}
