//! The clients that embed the cluster: append calls from some threads, following the leader.
//!
//! A thread keeps the calls of its clients under way. In a *closed loop* an answer begins the next call. In an *open loop*
//! calls are due on schedule, whatever becomes of the others, and latency counts from when a call was due: a call that had to
//! wait for its turn has waited (no coordinated omission).

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use anyhow::{Result, anyhow};
use futures_util::Stream as _;
use futures_util::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use synod::Log;
use synod_protocol::NodeId;

use crate::clients::RemoteLoad;
use crate::content::Content;
use crate::ledger::{Ledger, Outcome};
use crate::recorder::{Answered, Recorder, now_us};
use crate::schedule::{Rate, Schedule};

/// How often a thread that waits looks whether it shall stop.
const LOOK: Duration = Duration::from_millis(10);

/// Most lines of the ledger that a thread opens at once.
const LINES_MAX: u32 = 64;

/// How much is asked of the cluster.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Demand {
    /// Append calls under way, at most.
    pub(crate) in_flight: u32,
    /// Commands of a call.
    pub(crate) batch: u32,
    /// None is a closed loop.
    pub(crate) rate: Option<Rate>,
    pub(crate) threads: u32,
}

impl Demand {
    /// The part of one thread.
    pub(crate) fn part(&self, thread: u32) -> Demand {
        let threads = self.threads.min(self.in_flight).max(1);
        let in_flight = self.in_flight / threads + u32::from(thread < self.in_flight % threads);
        let part = |rate: Rate| Rate { calls_per_second: rate.calls_per_second / f64::from(threads), ..rate };
        Demand { in_flight, rate: self.rate.map(part), threads: 1, ..*self }
    }

    /// The part of one of so many groups.
    pub(crate) fn of_group(&self, group: u32, groups: u32) -> Demand {
        let in_flight = (self.in_flight / groups + u32::from(group < self.in_flight % groups)).max(1);
        let part = |rate: Rate| Rate { calls_per_second: rate.calls_per_second / f64::from(groups), ..rate };
        Demand { in_flight, rate: self.rate.map(part), threads: self.threads.div_ceil(groups), ..*self }
    }

    /// Threads that have anything to do.
    pub(crate) fn threads(&self) -> u32 {
        self.threads.min(self.in_flight).max(1)
    }
}

/// What threads of a load are told, and what they tell.
#[derive(Debug, Default)]
pub(crate) struct Control {
    pub(crate) stop: AtomicBool,
    pub(crate) pause: AtomicBool,
    /// Threads that have calls under way, or are free to begin some.
    pub(crate) busy: AtomicU64,
}

/// A load on a cluster.
pub(crate) enum Load {
    /// One for each group.
    Embedded(Vec<EmbeddedLoad>),
    Remote(RemoteLoad),
}

impl Load {
    /// Lets no more calls begin, and waits for those under way.
    ///
    /// # Errors
    /// If the clients have failed.
    pub(crate) fn pause(&mut self) -> Result<()> {
        match self {
            Load::Embedded(loads) => loads.iter().try_for_each(EmbeddedLoad::pause),
            Load::Remote(load) => load.pause(),
        }
    }

    /// # Errors
    /// If the clients have failed.
    pub(crate) fn resume(&mut self) -> Result<()> {
        match self {
            Load::Embedded(loads) => {
                loads.iter().for_each(|load| load.control.pause.store(false, Ordering::Release));
            }
            Load::Remote(load) => load.resume()?,
        }
        Ok(())
    }

    /// Ends the load, and waits for the last answers.
    ///
    /// # Errors
    /// If the clients have failed.
    pub(crate) fn stop(self) -> Result<()> {
        match self {
            Load::Embedded(loads) => {
                loads.iter().for_each(|load| load.control.stop.store(true, Ordering::Release));
                loads.into_iter().try_for_each(EmbeddedLoad::stop)
            }
            Load::Remote(load) => load.stop(),
        }
    }

    /// CPU of the clients, if they have a process of their own.
    pub(crate) fn cpu_us(&self) -> u64 {
        match self {
            Load::Embedded(_) => 0,
            Load::Remote(load) => load.cpu_us(),
        }
    }
}

/// Whom to ask, and what with.
#[derive(Clone)]
pub(crate) struct Clients {
    /// By node.
    pub(crate) logs: Vec<(NodeId, Log)>,
    pub(crate) content: Content,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) recorder: Arc<Recorder>,
}

/// See [`Clients::start`].
pub(crate) struct EmbeddedLoad {
    control: Arc<Control>,
    threads: Vec<JoinHandle<()>>,
}

impl EmbeddedLoad {
    fn pause(&self) -> Result<()> {
        self.control.pause.store(true, Ordering::Release);
        while self.control.busy.load(Ordering::Acquire) > 0 {
            if self.threads.iter().any(JoinHandle::is_finished) {
                return Err(anyhow!("a client thread panicked"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn stop(self) -> Result<()> {
        self.control.stop.store(true, Ordering::Release);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a client thread panicked"))?;
        }
        Ok(())
    }
}

impl Clients {
    /// Begins a load.
    pub(crate) fn start(&self, demand: Demand) -> EmbeddedLoad {
        let control = Arc::new(Control::default());
        control.busy.store(demand.threads().into(), Ordering::Release);
        let start = |number| {
            let (clients, control) = (self.clone(), Arc::clone(&control));
            thread::spawn(move || clients.run(demand.part(number), u64::from(number), &control))
        };
        let threads = (0..demand.threads()).map(start).collect();
        EmbeddedLoad { control, threads }
    }

    /// A thread's life.
    fn run(&self, demand: Demand, seed: u64, control: &Control) {
        let parked = Arc::new(Parked { thread: thread::current(), is_woken: AtomicBool::new(false) });
        let waker = Waker::from(Arc::clone(&parked));
        let mut context = Context::from_waker(&waker);
        let mut schedule = demand.rate.map(|rate| Schedule::new(rate, seed, now_us()));
        let desk = Desk::new(self, &demand);
        let mut calls = pin!(FuturesUnordered::new());
        let mut is_idle = false;
        loop {
            while let Poll::Ready(Some(())) = calls.as_mut().poll_next(&mut context) {}
            desk.tell();
            let is_over = control.stop.load(Ordering::Acquire);
            let may_begin = !is_over && !control.pause.load(Ordering::Acquire);
            desk.may_begin.set(may_begin);
            if is_over && calls.is_empty() {
                return;
            }
            if is_idle && may_begin {
                control.busy.fetch_add(1, Ordering::AcqRel);
                is_idle = false;
                if let Some(schedule) = &mut schedule {
                    schedule.resume(now_us());
                }
            }
            if !is_idle && !may_begin && calls.is_empty() {
                control.busy.fetch_sub(1, Ordering::AcqRel);
                is_idle = true;
            }
            let mut patience = LOOK;
            let mut has_begun = false;
            while may_begin && calls.len() < demand.in_flight as usize {
                let now_us = now_us();
                let due_us = match &mut schedule {
                    None => now_us,
                    Some(schedule) => match schedule.take(now_us) {
                        Ok(due_us) => due_us,
                        Err(due_us) => {
                            patience = patience.min(Duration::from_micros(due_us - now_us));
                            break;
                        }
                    },
                };
                calls.push(self.client(&desk, schedule.is_none(), due_us));
                has_begun = true;
            }
            if !has_begun && !parked.is_woken.swap(false, Ordering::AcqRel) {
                thread::park_timeout(patience);
                parked.is_woken.store(false, Ordering::Release);
            }
        }
    }

    /// One append call; in a closed loop one after the other, for as long as any may begin.
    async fn client(&self, desk: &Desk<'_>, is_closed_loop: bool, mut due_us: u64) {
        loop {
            // The end of a call is the beginning of the next one: the clock is read once.
            due_us = self.call(desk, due_us, is_closed_loop).await;
            if !is_closed_loop || !desk.may_begin.get() {
                return;
            }
        }
    }

    /// One append call; when it was answered.
    async fn call(&self, desk: &Desk<'_>, due_us: u64, begins_now: bool) -> u64 {
        let (call, batch) = (desk.open(), desk.batch);
        let commands = self.content.batch(call, batch);
        let begun_us = if begins_now { due_us } else { now_us() };
        match self.logs[desk.target.get()].1.append_batch(commands).await {
            Ok(slots) => {
                let done_us = now_us();
                assert_eq!(slots.end.since(slots.start), u64::from(batch), "a batch is acknowledged whole");
                desk.answered.borrow_mut().push(Answered { commands: batch, due_us, begun_us, done_us });
                desk.close(call, Outcome::Acknowledged(slots.start));
                return done_us;
            }
            Err(error) if error.is_certain() => {
                self.recorder.refused.fetch_add(1, Ordering::Relaxed);
                desk.close(call, Outcome::Refused);
            }
            Err(_) => {
                self.recorder.unknown.fetch_add(1, Ordering::Relaxed);
                desk.close(call, Outcome::Unknown);
            }
        }
        desk.target.set(self.leader(desk.target.get()).await);
        now_us()
    }

    /// The place of the node that leads, as soon as one does.
    async fn leader(&self, asked: usize) -> usize {
        let patience = Duration::from_millis(500);
        let Some(leader) = self.logs[asked].1.wait_for_leader(patience).await else {
            return (asked + 1) % self.logs.len();
        };
        self.logs.iter().position(|(node, _)| *node == leader).unwrap_or(asked)
    }
}

/// What the calls of one thread share. What became of them is told many at a time: a lock for each would cost as much as the
/// call.
struct Desk<'a> {
    clients: &'a Clients,
    batch: u32,
    /// The place of the node that is asked.
    target: Cell<usize>,
    may_begin: Cell<bool>,
    /// Lines of the ledger that are this thread's, and not used yet.
    free: RefCell<Range<u64>>,
    /// Lines that are opened together; never more than can be under way.
    opened_at_once: u32,
    answered: RefCell<Vec<Answered>>,
    closed: RefCell<Vec<(u64, Outcome)>>,
}

impl<'a> Desk<'a> {
    fn new(clients: &'a Clients, demand: &Demand) -> Desk<'a> {
        Desk {
            clients,
            batch: demand.batch,
            target: Cell::new(0),
            may_begin: Cell::new(false),
            free: RefCell::new(0..0),
            opened_at_once: demand.in_flight.clamp(1, LINES_MAX),
            answered: RefCell::default(),
            closed: RefCell::default(),
        }
    }

    /// The number of a new call.
    fn open(&self) -> u64 {
        let mut free = self.free.borrow_mut();
        free.next().unwrap_or_else(|| {
            *free = self.clients.ledger.open(self.batch, self.opened_at_once);
            free.next().expect("one at least was opened")
        })
    }

    fn close(&self, call: u64, outcome: Outcome) {
        self.closed.borrow_mut().push((call, outcome));
    }

    /// Tells what became of the calls that have ended.
    fn tell(&self) {
        let (mut answered, mut closed) = (self.answered.borrow_mut(), self.closed.borrow_mut());
        if !closed.is_empty() {
            self.clients.recorder.note(answered.drain(..));
            self.clients.ledger.close(closed.drain(..));
        }
    }
}

/// Lines that weren't used: nothing of them may stand in a log.
impl Drop for Desk<'_> {
    fn drop(&mut self) {
        self.tell();
        let unused = self.free.take();
        self.clients.ledger.close(unused.map(|call| (call, Outcome::Refused)));
    }
}

/// A thread that sleeps until something is ready.
struct Parked {
    thread: Thread,
    is_woken: AtomicBool,
}

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            self.thread.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Arrival;

    #[test]
    fn threads_share_what_is_asked() {
        let rate = Rate { calls_per_second: 300.0, arrival: Arrival::Uniform };
        let demand = Demand { in_flight: 10, batch: 5, rate: Some(rate), threads: 3 };
        let parts: Vec<Demand> = (0..demand.threads()).map(|thread| demand.part(thread)).collect();
        assert_eq!(parts.iter().map(|part| part.in_flight).collect::<Vec<_>>(), [4, 3, 3]);
        assert!(parts.iter().all(|part| part.rate.is_some_and(|rate| rate.calls_per_second == 100.0)));
        assert_eq!(Demand { in_flight: 2, threads: 8, ..demand }.threads(), 2);
        let groups: Vec<Demand> = (0..4).map(|group| demand.of_group(group, 4)).collect();
        assert_eq!(groups.iter().map(|part| part.in_flight).collect::<Vec<_>>(), [3, 3, 2, 2]);
        assert!(
            groups.iter().all(|part| part.threads == 1 && part.rate.is_some_and(|rate| rate.calls_per_second == 75.0))
        );
    }
}
