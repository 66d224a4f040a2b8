//! One append call: what it brings, and the place where its outcome waits.
//!
//! Both ends share one allocation, so that an append costs one and the queue holds pointers. Whoever called for it frees
//! it as a rule: the shard gives up its share before it wakes the caller, and memory that goes back on the thread it came
//! from costs a fraction of memory that has to find its way to another thread's heap.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::{Outcome, Work};
use crate::error::AppendError;

#[derive(Debug)]
struct Call {
    work: Work,
    /// When it was called for.
    arrived: Instant,
    stage: Mutex<Stage>,
}

#[derive(Debug)]
enum Stage {
    /// Not answered yet; who waits for it.
    Open(Option<Waker>),
    Answered(Outcome),
    /// The caller has the answer.
    Taken,
}

impl Call {
    /// Puts the outcome down, unless there is one; who is to be woken.
    fn settle(&self, outcome: Outcome) -> Option<Waker> {
        let mut stage = self.lock();
        match &mut *stage {
            Stage::Open(waker) => {
                let waker = waker.take();
                *stage = Stage::Answered(outcome);
                waker
            }
            Stage::Answered(_) | Stage::Taken => None,
        }
    }

    /// A waker is anybody's code, and may panic while it is cloned; the stage is whole at any time.
    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end that the log has. Dropped without an answer, the outcome is unknown.
#[derive(Debug)]
pub(crate) struct Submission {
    /// None only while it is dropped.
    call: Option<Arc<Call>>,
    /// Not to be proposed after this.
    pub(crate) deadline: Option<Instant>,
}

impl Submission {
    /// A submission, and where its outcome comes out.
    pub(crate) fn new(work: Work, deadline: Option<Instant>) -> (Submission, Awaited) {
        let call = Arc::new(Call { work, arrived: Instant::now(), stage: Mutex::new(Stage::Open(None)) });
        (Submission { call: Some(Arc::clone(&call)), deadline }, Awaited(call))
    }

    /// What is to be appended.
    pub(crate) fn work(&self) -> &Work {
        &self.call().work
    }

    /// When it was called for.
    pub(crate) fn arrived(&self) -> Instant {
        self.call().arrived
    }

    /// Whether its time is over.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Tells the outcome. A caller that is gone doesn't want to know; one that was told already isn't told again.
    pub(crate) fn answer(mut self, outcome: Outcome) {
        self.end(outcome);
    }

    /// Tells the outcome while the submission keeps its place among others.
    pub(crate) fn answer_in_place(&mut self, outcome: Outcome) {
        if let Some(waker) = self.call().settle(outcome) {
            waker.wake();
        }
    }

    fn call(&self) -> &Call {
        self.call.as_deref().expect("only its end takes the call away")
    }

    fn end(&mut self, outcome: Outcome) {
        let Some(call) = self.call.take() else { return };
        let waker = call.settle(outcome);
        drop(call);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Submission {
    fn drop(&mut self) {
        self.end(Err(AppendError::Unknown));
    }
}

/// The caller's end. Dropped, nobody hears of the outcome.
#[derive(Debug)]
pub(crate) struct Awaited(Arc<Call>);

impl Awaited {
    /// The outcome, if it is there.
    pub(crate) fn try_take(&mut self) -> Option<Outcome> {
        let mut stage = self.0.lock();
        match std::mem::replace(&mut *stage, Stage::Taken) {
            Stage::Answered(outcome) => Some(outcome),
            other => {
                *stage = other;
                None
            }
        }
    }
}

impl Future for Awaited {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut stage = self.0.lock();
        match &mut *stage {
            Stage::Open(waker) if waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) => Poll::Pending,
            Stage::Open(waker) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            Stage::Taken => panic!("an append is polled after its end"),
            Stage::Answered(_) => match std::mem::replace(&mut *stage, Stage::Taken) {
                Stage::Answered(outcome) => Poll::Ready(outcome),
                Stage::Open(_) | Stage::Taken => unreachable!("seen just now"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};
    use synod_protocol::Slot;
    use synod_protocol::delivery::SessionCommand;

    use super::*;

    fn new() -> (Submission, Awaited) {
        Submission::new(Work::Session(SessionCommand::Open), None)
    }

    #[test]
    fn an_answer_is_heard_once_and_the_first_counts() {
        let (mut submission, mut awaited) = new();
        assert_eq!((block_on(poll_once(&mut awaited)), awaited.try_take()), (None, None));
        submission.answer_in_place(Err(AppendError::DeadlinePassed));
        submission.answer(Ok(Slot(1)..Slot(2)));
        assert_eq!(block_on(&mut awaited), Err(AppendError::DeadlinePassed));
        assert_eq!(awaited.try_take(), None);
    }

    #[test]
    fn whoever_waits_is_woken_from_another_thread() {
        let (submission, awaited) = new();
        let answering = std::thread::spawn(move || submission.answer(Ok(Slot(3)..Slot(4))));
        assert_eq!(block_on(awaited), Ok(Slot(3)..Slot(4)));
        answering.join().expect("no panic");
    }

    #[test]
    fn a_submission_that_is_lost_has_an_unknown_outcome() {
        let (submission, awaited) = new();
        drop(submission);
        assert_eq!(block_on(awaited), Err(AppendError::Unknown));
        let (submission, awaited) = new();
        drop(awaited);
        submission.answer(Ok(Slot(1)..Slot(2)));
    }
}
