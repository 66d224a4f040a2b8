//! Where submissions of other threads wait until the shard proposes them.
//!
//! One bounded queue per group. The shard never copies it into a queue of its own: it takes submissions at the very
//! moment at which it composes a body, so the bound covers everything that is not yet proposed. While the pipeline is
//! full submissions gather here and cost the shard nothing; only a submission that arrives at an empty queue wakes it.
//!
//! The queue has a gate. A shard that can't propose closes it with the reason, which refuses what waits and what
//! arrives, both at once: there is no moment at which a submission slips in and is forgotten.
//!
//! A submission may have a deadline. One that is still here when it passes is refused; the shard looks at every turn of
//! its clock, because futures on foreign executors have no clock of their own.
//!
//! Bounds: `bytes_max` over the submissions' bytes, `count_max` over their number. A submission larger than all the
//! room is taken when the queue is empty, else nothing could ever bring it in. Who finds no room waits in line.

mod call;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use synod_frame::Batch;
use synod_protocol::SlotRange;
use synod_protocol::delivery::{SessionCommand, Terms, TicketCommand};

use crate::error::AppendError;
use crate::meters::Refusals;

pub(crate) use call::{Awaited, Submission};

/// What a command about sessions or tickets counts for, in bytes.
const COMMAND_BYTES: u64 = 32;

/// What becomes of a submission.
pub(crate) type Outcome = Result<SlotRange, AppendError>;

/// What is to be appended.
#[derive(Debug)]
pub(crate) enum Work {
    /// Commands, and on what terms they are to be delivered.
    Commands { batch: Batch, terms: Terms },
    /// A command about sessions, which has a body to itself.
    Session(SessionCommand),
    /// A command about tickets, which has a body to itself.
    Ticket(TicketCommand),
}

impl Work {
    /// How many slots it fills.
    pub(crate) fn slots(&self) -> u64 {
        match self {
            Work::Commands { batch, .. } => batch.len() as u64,
            Work::Session(_) | Work::Ticket(_) => 1,
        }
    }

    /// Whether it counts as soon as it is delivered, whatever was delivered before.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Work::Commands { terms, .. } if terms.is_none())
    }
}

/// The queue; see the module.
#[derive(Debug)]
pub(crate) struct Intake {
    bytes_max: u64,
    count_max: usize,
    /// Whom the gate, a full queue or a deadline has turned away.
    pub(crate) refusals: Refusals,
    /// Somebody was refused for want of room, and nothing has left since: whoever comes is told without the lock, which
    /// the shard has better use for.
    is_crowded: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` is open.
    closed: Option<AppendError>,
    queue: VecDeque<Submission>,
    bytes: u64,
    /// The shard's task, when it sleeps because the queue is empty.
    shard: Option<Waker>,
    /// Appends that wait for room, in order.
    line: VecDeque<Waiting>,
    tickets: u64,
    /// No deadline of the queue or the line is earlier; `None` if there are none.
    earliest: Option<Instant>,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    bytes: u64,
    deadline: Option<Instant>,
    waker: Waker,
}

impl Intake {
    /// An empty queue whose gate is closed for want of a leader.
    pub(crate) fn new(bytes_max: u64, count_max: usize) -> Intake {
        let state = State {
            closed: Some(AppendError::NoLeader),
            queue: VecDeque::new(),
            bytes: 0,
            shard: None,
            line: VecDeque::new(),
            tickets: 0,
            earliest: None,
        };
        Intake {
            bytes_max,
            count_max,
            refusals: Refusals::default(),
            is_crowded: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    /// Whether there is certainly no room now: to be asked before anything is made that would only be thrown away.
    pub(crate) fn refuses(&self) -> bool {
        let is_crowded = self.is_crowded.load(Ordering::Relaxed);
        if is_crowded {
            self.refusals.note(&AppendError::Overloaded);
        }
        is_crowded
    }

    /// Brings a submission in, waiting for room if there is none.
    pub(crate) fn submit(&self, submission: Submission) -> Submit<'_> {
        Submit { intake: self, submission: Some(submission), ticket: None }
    }

    /// Brings a submission in, or says at once why not.
    pub(crate) fn try_submit(&self, submission: Submission) -> Result<(), AppendError> {
        let mut state = self.lock();
        if let Some(reason) = &state.closed {
            self.refusals.note(reason);
            return Err(reason.clone());
        }
        if !state.line.is_empty() || !self.has_room(&state, bytes_of(&submission)) {
            self.is_crowded.store(true, Ordering::Relaxed);
            self.refusals.note(&AppendError::Overloaded);
            return Err(AppendError::Overloaded);
        }
        state.push(submission);
        Ok(())
    }

    /// Puts submissions that were taken before back in front, in their order; refuses them if the gate is closed.
    pub(crate) fn put_back(&self, submissions: impl DoubleEndedIterator<Item = Submission>) {
        let mut state = self.lock();
        if let Some(reason) = state.closed.clone() {
            drop(state);
            self.refuse(submissions, &reason);
            return;
        }
        for submission in submissions.rev() {
            state.bytes += bytes_of(&submission);
            state.note_deadline(submission.deadline);
            state.queue.push_front(submission);
        }
    }

    /// Refuses what is late, and wakes those in the line whose time is over.
    pub(crate) fn expire(&self) {
        let mut state = self.lock();
        if state.earliest.is_none() {
            return;
        }
        let now = Instant::now();
        if state.earliest.is_none_or(|earliest| earliest > now) {
            return;
        }
        let (late, kept): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut state.queue).into_iter().partition(|submission| submission.is_late(now));
        state.bytes -= late.iter().map(bytes_of).sum::<u64>();
        let deadlines = kept.iter().map(|submission| submission.deadline);
        state.earliest = deadlines.chain(state.line.iter().map(|waiting| waiting.deadline)).flatten().min();
        state.queue = kept;
        let mut woken = Vec::new();
        for waiting in &state.line {
            if waiting.deadline.is_some_and(|deadline| deadline <= now) {
                woken.push(waiting.waker.clone());
            }
        }
        self.admit(&mut state);
        drop(state);
        self.refuse(late.into_iter(), &AppendError::DeadlinePassed);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Whether nothing waits to be proposed.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().queue.is_empty()
    }

    /// Moves submissions from the front into `taken` for as long as `fits` says so; whether that emptied the queue.
    pub(crate) fn take(&self, taken: &mut Vec<Submission>, mut fits: impl FnMut(&Submission) -> bool) -> bool {
        let mut state = self.lock();
        while let Some(submission) = state.queue.front()
            && fits(submission)
        {
            state.bytes -= bytes_of(submission);
            taken.extend(state.queue.pop_front());
        }
        self.admit(&mut state);
        state.queue.is_empty()
    }

    /// Ready when something waits to be proposed. One task, the shard's, may wait here.
    pub(crate) fn poll_arrival(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if !state.queue.is_empty() {
            state.shard = None;
            return Poll::Ready(());
        }
        if !state.shard.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            state.shard = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Opens the gate, unless it is closed for ever.
    pub(crate) fn open(&self) {
        let mut state = self.lock();
        if !state.is_closed_for_ever() {
            state.closed = None;
        }
    }

    /// Closes the gate: what waits and what arrives is refused with `reason`.
    pub(crate) fn close(&self, reason: AppendError) {
        let mut state = self.lock();
        if state.is_closed_for_ever() {
            return;
        }
        let refused = std::mem::take(&mut state.queue);
        state.bytes = 0;
        // The gate's reason is what they are told from now on.
        self.is_crowded.store(false, Ordering::Relaxed);
        state.closed = Some(reason.clone());
        let line = std::mem::take(&mut state.line);
        drop(state);
        self.refuse(refused.into_iter(), &reason);
        for waiting in line {
            waiting.waker.wake();
        }
    }

    /// How many submissions wait, and their bytes.
    pub(crate) fn level(&self) -> (usize, u64) {
        let state = self.lock();
        (state.queue.len(), state.bytes)
    }

    /// Called without the lock, because a reply wakes its receiver.
    fn refuse(&self, submissions: impl Iterator<Item = Submission>, reason: &AppendError) {
        for submission in submissions {
            self.refusals.note(reason);
            submission.answer(Err(reason.clone()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code that holds this lock panics")
    }

    fn has_room(&self, state: &State, bytes: u64) -> bool {
        state.queue.is_empty() || (state.queue.len() < self.count_max && state.bytes + bytes <= self.bytes_max)
    }

    /// Wakes those at the head of the line for whom there is room now.
    fn admit(&self, state: &mut State) {
        self.is_crowded.store(false, Ordering::Relaxed);
        let mut bytes = state.bytes;
        let mut count = state.queue.len();
        while let Some(waiting) = state.line.front() {
            let fits = count == 0 || (count < self.count_max && bytes + waiting.bytes <= self.bytes_max);
            if !fits {
                return;
            }
            bytes += waiting.bytes;
            count += 1;
            if let Some(waiting) = state.line.pop_front() {
                waiting.waker.wake();
            }
        }
    }
}

impl State {
    fn push(&mut self, submission: Submission) {
        self.bytes += bytes_of(&submission);
        self.note_deadline(submission.deadline);
        self.queue.push_back(submission);
        if let Some(shard) = self.shard.take() {
            shard.wake();
        }
    }

    fn note_deadline(&mut self, deadline: Option<Instant>) {
        self.earliest = self.earliest.into_iter().chain(deadline).min();
    }

    fn is_closed_for_ever(&self) -> bool {
        matches!(self.closed, Some(AppendError::Shutdown | AppendError::Poisoned))
    }
}

fn bytes_of(submission: &Submission) -> u64 {
    match submission.work() {
        Work::Commands { batch, .. } => batch.bytes().len() as u64,
        Work::Session(_) | Work::Ticket(_) => COMMAND_BYTES,
    }
}

/// A submission on its way in. Dropped before it is ready, it was not submitted.
#[derive(Debug)]
pub(crate) struct Submit<'a> {
    intake: &'a Intake,
    submission: Option<Submission>,
    /// The place in the line; `None` before the first wait.
    ticket: Option<u64>,
}

impl Future for Submit<'_> {
    type Output = Result<(), AppendError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let intake = this.intake;
        let mut state = intake.lock();
        let submission = this.submission.take().expect("a submission isn't polled again once it is in");
        if let Some(reason) = state.closed.clone() {
            this.leave(&mut state);
            intake.refusals.note(&reason);
            return Poll::Ready(Err(reason));
        }
        if submission.deadline.is_some() && submission.is_late(Instant::now()) {
            this.leave(&mut state);
            // The room that this one may have been let in for is the next one's.
            intake.admit(&mut state);
            intake.refusals.note(&AppendError::DeadlinePassed);
            return Poll::Ready(Err(AppendError::DeadlinePassed));
        }
        // Whoever was let in by `admit` has left the line and goes before those who still stand in it.
        let place = this.ticket.and_then(|ticket| state.line.iter().position(|waiting| waiting.ticket == ticket));
        let is_next = match this.ticket {
            None => state.line.is_empty(),
            Some(_) => place.is_none_or(|place| place == 0),
        };
        let (bytes, deadline) = (bytes_of(&submission), submission.deadline);
        if is_next && intake.has_room(&state, bytes) {
            this.leave(&mut state);
            state.push(submission);
            return Poll::Ready(Ok(()));
        }
        this.submission = Some(submission);
        match place {
            Some(place) => {
                let waiting = &mut state.line[place];
                if !waiting.waker.will_wake(context.waker()) {
                    waiting.waker = context.waker().clone();
                }
            }
            None => {
                state.note_deadline(deadline);
                let waiting = |ticket| Waiting { ticket, bytes, deadline, waker: context.waker().clone() };
                match this.ticket {
                    // Let in, but somebody was faster: back to the head, not to the end.
                    Some(ticket) => state.line.push_front(waiting(ticket)),
                    None => {
                        state.tickets += 1;
                        let ticket = state.tickets;
                        this.ticket = Some(ticket);
                        state.line.push_back(waiting(ticket));
                    }
                }
            }
        }
        Poll::Pending
    }
}

impl Submit<'_> {
    fn leave(&mut self, state: &mut State) {
        if let Some(ticket) = self.ticket.take() {
            state.line.retain(|waiting| waiting.ticket != ticket);
        }
    }
}

impl Drop for Submit<'_> {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            let intake = self.intake;
            let mut state = intake.lock();
            self.leave(&mut state);
            // The room that this one may have been let in for is the next one's.
            intake.admit(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    fn submission(bytes: usize) -> (Submission, Awaited) {
        submission_until(bytes, None)
    }

    fn submission_until(bytes: usize, deadline: Option<Instant>) -> (Submission, Awaited) {
        let mut batch = Batch::new();
        batch.push(&vec![7; bytes]);
        Submission::new(Work::Commands { batch, terms: Terms::NONE }, deadline)
    }

    fn open_intake(bytes_max: u64, count_max: usize) -> Arc<Intake> {
        let intake = Arc::new(Intake::new(bytes_max, count_max));
        intake.open();
        intake
    }

    fn take_all(intake: &Intake) -> Vec<Submission> {
        let mut taken = Vec::new();
        intake.take(&mut taken, |_| true);
        taken
    }

    fn poll_now<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
        block_on(poll_once(future))
    }

    #[test]
    fn a_closed_gate_refuses_what_arrives_and_what_waits() {
        let intake = Arc::new(Intake::new(1 << 20, 16));
        assert_eq!(intake.try_submit(submission(8).0), Err(AppendError::NoLeader));
        intake.open();
        let (first, outcome) = submission(8);
        intake.try_submit(first).unwrap();
        intake.close(AppendError::Poisoned);
        assert_eq!(block_on(outcome), Err(AppendError::Poisoned));
        intake.open();
        assert_eq!(intake.try_submit(submission(8).0), Err(AppendError::Poisoned), "poisoned is for ever");
    }

    #[test]
    fn a_full_intake_makes_appends_wait_in_line() {
        let intake = open_intake(100, 16);
        intake.try_submit(submission(60).0).unwrap();
        assert_eq!(intake.try_submit(submission(60).0), Err(AppendError::Overloaded));
        let mut second = pin!(intake.submit(submission(60).0));
        let mut third = pin!(intake.submit(submission(10).0));
        assert_eq!(poll_now(second.as_mut()), None);
        assert_eq!(poll_now(third.as_mut()), None, "a small one doesn't overtake");
        assert_eq!(take_all(&intake).len(), 1);
        assert_eq!(poll_now(second.as_mut()), Some(Ok(())));
        assert_eq!(poll_now(third.as_mut()), Some(Ok(())));
        assert_eq!(take_all(&intake).len(), 2);
        assert!(intake.is_empty());
    }

    #[test]
    fn a_dropped_append_leaves_its_room_to_the_next() {
        let intake = open_intake(100, 16);
        intake.try_submit(submission(100).0).unwrap();
        let mut first = Box::pin(intake.submit(submission(100).0));
        let mut second = pin!(intake.submit(submission(100).0));
        assert_eq!(poll_now(first.as_mut()), None);
        assert_eq!(poll_now(second.as_mut()), None);
        take_all(&intake);
        drop(first);
        assert_eq!(poll_now(second.as_mut()), Some(Ok(())));
        assert_eq!(take_all(&intake).len(), 1);
    }

    #[test]
    fn an_oversize_submission_gets_into_an_empty_queue() {
        let intake = open_intake(100, 16);
        intake.try_submit(submission(5000).0).unwrap();
        assert_eq!(intake.try_submit(submission(1).0), Err(AppendError::Overloaded));
    }

    #[test]
    fn whoever_comes_after_a_refusal_is_told_at_once_until_something_leaves() {
        let intake = open_intake(100, 16);
        intake.try_submit(submission(100).0).unwrap();
        assert!(!intake.refuses(), "nobody was refused yet");
        assert_eq!(intake.try_submit(submission(1).0), Err(AppendError::Overloaded));
        assert!(intake.refuses());
        take_all(&intake);
        assert!(!intake.refuses());
        intake.try_submit(submission(100).0).unwrap();
        assert_eq!(intake.try_submit(submission(1).0), Err(AppendError::Overloaded));
        intake.close(AppendError::NoLeader);
        assert!(!intake.refuses(), "there is another reason now");
        assert_eq!(intake.try_submit(submission(1).0), Err(AppendError::NoLeader));
        let overloaded = intake.refusals.all().find(|(name, _)| *name == "overloaded");
        assert_eq!(overloaded, Some(("overloaded", 3)), "each of them is counted");
    }

    #[test]
    fn the_count_is_bounded_too() {
        let intake = open_intake(1 << 20, 2);
        intake.try_submit(submission(1).0).unwrap();
        intake.try_submit(submission(1).0).unwrap();
        assert_eq!(intake.try_submit(submission(1).0), Err(AppendError::Overloaded));
    }

    #[test]
    fn what_is_late_is_refused_in_the_queue_and_in_the_line() {
        let intake = open_intake(100, 16);
        let past = Instant::now();
        let (late, outcome) = submission_until(60, Some(past));
        intake.try_submit(late).unwrap();
        let (early, _kept) = submission_until(30, Some(past + std::time::Duration::from_secs(3600)));
        intake.try_submit(early).unwrap();
        let mut in_line = pin!(intake.submit(submission_until(60, None).0));
        assert_eq!(poll_now(in_line.as_mut()), None);
        let mut late_at_once = pin!(intake.submit(submission_until(1, Some(past)).0));
        assert_eq!(poll_now(late_at_once.as_mut()), Some(Err(AppendError::DeadlinePassed)));
        intake.expire();
        assert_eq!(block_on(outcome), Err(AppendError::DeadlinePassed));
        assert_eq!(poll_now(in_line.as_mut()), Some(Ok(())), "the room of the late one is given on");
        let sizes: Vec<u64> = take_all(&intake).iter().map(bytes_of).collect();
        assert_eq!(sizes, [30, 60]);
    }

    #[test]
    fn taking_stops_where_the_caller_says() {
        let intake = open_intake(1 << 20, 16);
        for bytes in [10, 20, 30] {
            intake.try_submit(submission(bytes).0).unwrap();
        }
        let mut taken = Vec::new();
        let mut left = 35;
        intake.take(&mut taken, |submission| {
            let fits = bytes_of(submission) <= left;
            left -= if fits { bytes_of(submission) } else { 0 };
            fits
        });
        assert_eq!(taken.len(), 2);
        intake.put_back(taken.drain(..));
        let sizes: Vec<u64> = take_all(&intake).iter().map(bytes_of).collect();
        assert_eq!(sizes, [10, 20, 30], "put back in front, in order");
    }

    #[test]
    fn only_an_arrival_at_an_empty_queue_wakes_the_shard() {
        use std::sync::atomic::{AtomicUsize, Ordering};

        struct Count(AtomicUsize);
        impl std::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let context = Context::from_waker(&waker);
        let intake = open_intake(1 << 20, 16);
        assert!(intake.poll_arrival(&context).is_pending());
        intake.try_submit(submission(1).0).unwrap();
        intake.try_submit(submission(1).0).unwrap();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(intake.poll_arrival(&context).is_ready());
        take_all(&intake);
        intake.try_submit(submission(1).0).unwrap();
        assert_eq!(count.0.load(Ordering::Relaxed), 1, "the shard isn't asleep before it waits again");
    }
}
