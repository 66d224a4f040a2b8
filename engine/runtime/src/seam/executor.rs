//! One thread that runs futures: a glommio executor with two queues and a task group.
//!
//! Rules that glommio's known defects dictate, all kept here:
//! - A task that panics would take its executor, and in a queue of its own the process, down. So every future runs
//!   inside a guard that catches the panic, drops the future and reports it; the node then stops with a clear error.
//! - An executor that is dropped leaks its tasks, with their sockets and files. So it isn't left before every task has
//!   ended: those that wait for the world are stopped, those that wait for the disk are waited for, because the kernel
//!   may still read their buffers.
//! - A wake-up from another thread reaches a busy executor only if the task's queue says that latency matters.
//! - An executor may sleep through its own timers, so it is woken from outside now and then ([`super::pulse`]).

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use glommio::{Latency, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle};

use super::local::{Moment, Signal};
use super::plain;
use super::pulse::Pulse;

/// How the thread is set up.
#[derive(Clone, Debug)]
pub(crate) struct ExecutorSettings {
    /// Thread name.
    pub(crate) name: String,
    /// The core to stay on, if any.
    pub(crate) core: Option<usize>,
    /// Bytes of the buffer slab.
    pub(crate) io_memory_bytes: usize,
}

/// How long a busy queue may run before the rings are looked at again.
const SERVE_LATENCY: Duration = Duration::from_micros(500);

/// Runs `main` to its end on the calling thread. `main` says whether all its tasks have ended; if not, the executor is
/// left in memory for ever, because the kernel may still write into its buffers.
///
/// # Errors
/// If the rings can't be set up; `main` has not run then.
pub(crate) fn run<F>(settings: &ExecutorSettings, main: impl FnOnce(Rc<Tasks>) -> F + 'static) -> std::io::Result<bool>
where
    F: Future<Output = bool> + 'static,
{
    let placement = settings.core.map_or(Placement::Unbound, Placement::Fixed);
    let executor = LocalExecutorBuilder::new(placement)
        .name(&settings.name)
        .io_memory(settings.io_memory_bytes)
        .make()
        .map_err(std::io::Error::from)?;
    let pulse = Pulse::start(&settings.name)?;
    let ended = executor.run(async move {
        let feeling = glommio::spawn_local(pulse.feel());
        let tasks = Rc::new(Tasks::new(Spawner::on_rings()));
        // The first sleep of a process takes tens of milliseconds in glommio 0.9; better now than at an election.
        super::time::sleep(Duration::ZERO).await;
        let ended = main(tasks).await;
        feeling.cancel().await;
        drop(pulse);
        ended
    });
    if !ended {
        std::mem::forget(executor);
    }
    Ok(ended)
}

/// Which work a task does; decides how much of a busy thread it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    /// Consensus, disk, links and clients.
    Serve,
    /// Work that may wait: zeroing files.
    Background,
}

/// Whether a task ends when the group is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnStop {
    /// Drop the future: it waits for the world.
    Drop,
    /// Let it end by itself: the kernel holds its buffers.
    Finish,
}

/// All tasks of one executor.
#[derive(Debug)]
pub(crate) struct Tasks {
    spawner: Spawner,
    group: Rc<Group>,
}

/// Who runs them.
#[derive(Debug)]
pub(super) enum Spawner {
    /// Glommio.
    Rings { serve: TaskQueueHandle, background: TaskQueueHandle },
    /// A plain thread, which has only one queue.
    Plain(plain::Spawner),
}

impl Spawner {
    fn on_rings() -> Spawner {
        let executor = glommio::executor();
        let serve = executor.create_task_queue(Shares::Static(1000), Latency::Matters(SERVE_LATENCY), "serve");
        let background = executor.create_task_queue(Shares::Static(100), Latency::NotImportant, "background");
        Spawner::Rings { serve, background }
    }

    /// Schedules a task; it isn't run at once, for the caller may hold what it is about to borrow.
    fn spawn(&self, queue: Queue, future: impl Future<Output = ()> + 'static) {
        match (self, queue) {
            (Spawner::Rings { serve: handle, .. }, Queue::Serve)
            | (Spawner::Rings { background: handle, .. }, Queue::Background) => {
                glommio::spawn_local_into(future, *handle).expect("both queues live as long as the executor").detach();
            }
            (Spawner::Plain(spawner), _) => spawner.spawn(future),
        }
    }
}

#[derive(Debug, Default)]
struct Group {
    stopping: Cell<bool>,
    live: Cell<usize>,
    /// One waker for each task that has to be woken to be stopped; free places are `None`.
    wakers: RefCell<Vec<Option<Waker>>>,
    ended: Moment,
    panicked: Signal,
    panic: RefCell<Option<String>>,
}

impl Tasks {
    pub(super) fn new(spawner: Spawner) -> Tasks {
        Tasks { spawner, group: Rc::default() }
    }

    /// Another group on the same executor, with queues of its own: both get an equal part of a busy thread, and each stops,
    /// or panics, without the other.
    pub(crate) fn beside(&self) -> Rc<Tasks> {
        let spawner = match &self.spawner {
            Spawner::Rings { .. } => Spawner::on_rings(),
            Spawner::Plain(spawner) => Spawner::Plain(spawner.second()),
        };
        Rc::new(Tasks::new(spawner))
    }

    /// Starts a task that is dropped when the group stops.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.start(Queue::Serve, OnStop::Drop, future);
    }

    /// Starts a task that the group waits for when it stops: one whose buffers the kernel may hold.
    pub(crate) fn spawn_io(&self, queue: Queue, future: impl Future<Output = ()> + 'static) {
        self.start(queue, OnStop::Finish, future);
    }

    fn start(&self, queue: Queue, on_stop: OnStop, future: impl Future<Output = ()> + 'static) {
        if on_stop == OnStop::Drop && self.group.stopping.get() {
            return;
        }
        let place = (on_stop == OnStop::Drop).then(|| {
            let mut wakers = self.group.wakers.borrow_mut();
            let place = wakers.iter().position(Option::is_none).unwrap_or(wakers.len());
            if place == wakers.len() {
                wakers.push(None);
            }
            wakers[place] = Some(Waker::noop().clone());
            place
        });
        self.group.live.set(self.group.live.get() + 1);
        let guarded = Guarded { future: Some(Box::pin(future)), place, group: Rc::clone(&self.group) };
        self.spawner.spawn(queue, guarded);
    }

    /// Whether [`Tasks::stop`] was called: long work that ends by itself should end soon.
    pub(crate) fn are_stopping(&self) -> bool {
        self.group.stopping.get()
    }

    /// Waits until a task has panicked, and says how.
    pub(crate) async fn panicked(&self) -> String {
        self.group.panicked.wait().await;
        self.group.panic.borrow_mut().take().unwrap_or_default()
    }

    /// Stops the tasks that can be stopped and waits for the others, at most `deadline` long. False if some still run.
    pub(crate) async fn stop(&self, deadline: Duration) -> bool {
        self.group.stopping.set(true);
        let wakers = self.group.wakers.borrow().clone();
        for waker in wakers.into_iter().flatten() {
            waker.wake();
        }
        let all_ended = async {
            while self.group.live.get() > 0 {
                self.group.ended.wait().await;
            }
        };
        super::time::within(deadline, all_ended).await.is_some()
    }
}

/// A future in its guard; see the module's rules.
struct Guarded<F> {
    future: Option<Pin<Box<F>>>,
    place: Option<usize>,
    group: Rc<Group>,
}

impl<F: Future<Output = ()>> Future for Guarded<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Some(future) = this.future.as_mut() else { return Poll::Ready(()) };
        if let Some(place) = this.place {
            if this.group.stopping.get() {
                this.end();
                return Poll::Ready(());
            }
            let waker = &mut this.group.wakers.borrow_mut()[place];
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                *waker = Some(context.waker().clone());
            }
        }
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(())) => {}
            Err(panic) => {
                let text = panic_text(panic.as_ref());
                this.group.panic.borrow_mut().get_or_insert(text);
                this.group.panicked.raise();
            }
        }
        this.end();
        Poll::Ready(())
    }
}

impl<F> Guarded<F> {
    fn end(&mut self) {
        if let Some(future) = self.future.take() {
            let dropped = catch_unwind(AssertUnwindSafe(|| drop(future)));
            if dropped.is_err() {
                tracing::error!("a task panicked while it was dropped");
            }
            if let Some(place) = self.place {
                self.group.wakers.borrow_mut()[place] = None;
            }
            self.group.live.set(self.group.live.get() - 1);
            self.group.ended.announce();
        }
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}

/// Lets other tasks run if this one has used up its time. Every loop that may always have work must ask.
pub(crate) async fn yield_if_needed() {
    if plain::is_here() {
        futures_lite::future::yield_now().await;
    } else {
        glommio::yield_if_needed().await;
    }
}
