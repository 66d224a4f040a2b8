//! The plain runtime: one ordinary thread that runs futures, without rings, pinning or a slab.
//!
//! It has one queue and fair turns, and its timers and wake-ups from other threads are those of `async-io`. Whoever runs
//! on it meets the same tasks, guards and stops as on the rings ([`super::executor`]).

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;

use async_executor::LocalExecutor;

use super::executor::{self, Tasks};

thread_local! {
    static IS_HERE: Cell<bool> = const { Cell::new(false) };
}

/// Whether the current thread is in [`run`].
pub(super) fn is_here() -> bool {
    IS_HERE.get()
}

/// Where tasks go.
#[derive(Debug)]
pub(super) struct Spawner(Rc<LocalExecutor<'static>>);

impl Spawner {
    /// Another handle of the same.
    pub(super) fn second(&self) -> Spawner {
        Spawner(Rc::clone(&self.0))
    }

    pub(super) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.0.spawn(future).detach();
    }
}

/// Runs `main` to its end on the calling thread, and the tasks that it starts as long. What it leaves behind is dropped.
pub(crate) fn run<F: Future>(main: impl FnOnce(Rc<Tasks>) -> F) -> F::Output {
    /// Ends with the run, also when that panics.
    struct Here;
    impl Drop for Here {
        fn drop(&mut self) {
            IS_HERE.set(false);
        }
    }
    IS_HERE.set(true);
    let _here = Here;
    let executor = Rc::new(LocalExecutor::new());
    let tasks = Rc::new(Tasks::new(executor::Spawner::Plain(Spawner(Rc::clone(&executor)))));
    async_io::block_on(executor.run(main(tasks)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::executor::Queue;
    use super::super::local::Signal;
    use super::super::time::{sleep, within};
    use super::*;

    #[test]
    fn tasks_run_and_are_stopped() {
        let ended = run(|tasks| async move {
            let done = Rc::new(Signal::default());
            let raised = Rc::clone(&done);
            tasks.spawn(async move {
                sleep(Duration::from_millis(1)).await;
                raised.raise();
                std::future::pending::<()>().await;
            });
            tasks.spawn_io(Queue::Background, async { panic!("seen") });
            done.wait().await;
            assert_eq!(tasks.panicked().await, "seen");
            assert_eq!(within(Duration::from_millis(1), std::future::pending::<()>()).await, None);
            tasks.stop(Duration::from_secs(10)).await
        });
        assert!(ended);
        assert!(!is_here());
    }
}
