//! What commands brought, kept for those who had them executed.
//!
//! A command is applied as soon as it is delivered, perhaps before its append has told anybody its slot. So whoever wants
//! an output says so before appending, and from then on outputs are kept, up to a bound, until nobody is left who could
//! want them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use synod_protocol::Slot;

/// See the module.
#[derive(Debug)]
pub(super) struct Results<O> {
    outputs_max: usize,
    state: Mutex<State<O>>,
}

#[derive(Debug)]
struct State<O> {
    /// The first slot that isn't applied.
    position: Slot,
    /// Where each of those stood who may want an output.
    interests: BTreeMap<u64, Slot>,
    interests_count: u64,
    outputs: BTreeMap<Slot, O>,
    /// Who waits for which slot; by interest.
    waiting: BTreeMap<(Slot, u64), Waker>,
    has_stopped: bool,
}

/// Why there is no output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoOutput {
    /// The command was applied, and its output isn't kept.
    Gone,
    /// The driver has ended.
    Stopped,
}

impl<O> Results<O> {
    pub(super) fn new(position: Slot, outputs_max: usize) -> Results<O> {
        let state = State {
            position,
            interests: BTreeMap::new(),
            interests_count: 0,
            outputs: BTreeMap::new(),
            waiting: BTreeMap::new(),
            has_stopped: false,
        };
        Results { outputs_max, state: Mutex::new(state) }
    }

    /// The first slot that isn't applied.
    pub(super) fn position(&self) -> Slot {
        self.lock().position
    }

    /// Everything below `position` is applied, and brought this.
    pub(super) fn applied(&self, position: Slot, outputs: impl IntoIterator<Item = (Slot, O)>) {
        let mut state = self.lock();
        state.position = position;
        if !state.interests.is_empty() {
            state.outputs.extend(outputs);
            while state.outputs.len() > self.outputs_max {
                state.outputs.pop_first();
            }
        }
        let still_waiting = state.waiting.split_off(&(position, 0));
        let woken = std::mem::replace(&mut state.waiting, still_waiting);
        drop(state);
        woken.into_values().for_each(Waker::wake);
    }

    /// There will be no more.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.has_stopped = true;
        let woken = std::mem::take(&mut state.waiting);
        drop(state);
        woken.into_values().for_each(Waker::wake);
    }

    /// From now on outputs are kept.
    pub(super) fn interest(&self) -> Interest<'_, O> {
        let mut state = self.lock();
        state.interests_count += 1;
        let (number, position) = (state.interests_count, state.position);
        state.interests.insert(number, position);
        Interest { results: self, number, slot: None }
    }

    fn lock(&self) -> MutexGuard<'_, State<O>> {
        self.state.lock().expect("no code that holds this lock panics")
    }
}

/// Somebody who may want an output; lost interest when dropped.
#[derive(Debug)]
pub(super) struct Interest<'a, O> {
    results: &'a Results<O>,
    number: u64,
    /// What is waited for.
    slot: Option<Slot>,
}

impl<O> Interest<'_, O> {
    /// Waits for the output of the command at `slot`.
    pub(super) async fn take(&mut self, slot: Slot) -> Result<O, NoOutput> {
        self.slot = Some(slot);
        std::future::poll_fn(|context| self.poll_take(slot, context)).await
    }

    fn poll_take(&self, slot: Slot, context: &Context<'_>) -> Poll<Result<O, NoOutput>> {
        let mut state = self.results.lock();
        if let Some(output) = state.outputs.remove(&slot) {
            return Poll::Ready(Ok(output));
        }
        if state.position > slot {
            return Poll::Ready(Err(NoOutput::Gone));
        }
        if state.has_stopped {
            return Poll::Ready(Err(NoOutput::Stopped));
        }
        state.waiting.insert((slot, self.number), context.waker().clone());
        Poll::Pending
    }
}

impl<O> Drop for Interest<'_, O> {
    fn drop(&mut self) {
        let mut state = self.results.lock();
        state.interests.remove(&self.number);
        if let Some(slot) = self.slot {
            state.waiting.remove(&(slot, self.number));
        }
        let wanted_from = state.interests.values().min().copied().unwrap_or(Slot(u64::MAX));
        if state.outputs.first_key_value().is_some_and(|(first, _)| *first < wanted_from) {
            state.outputs = state.outputs.split_off(&wanted_from);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn an_output_waits_for_those_who_came_before_it() {
        let results = Results::new(Slot(1), 10);
        results.applied(Slot(2), [(Slot(1), 'a')]);
        let mut early = results.interest();
        results.applied(Slot(4), [(Slot(2), 'b'), (Slot(3), 'c')]);
        assert_eq!(block_on(early.take(Slot(3))), Ok('c'));
        assert_eq!(block_on(early.take(Slot(1))), Err(NoOutput::Gone), "nobody wanted it");
        drop(early);
        assert!(results.lock().outputs.is_empty(), "nobody is left to want the other");
    }

    #[test]
    fn who_waits_is_woken_by_the_slot_or_the_end() {
        let results = Results::new(Slot(1), 10);
        let mut interest = results.interest();
        {
            let mut taking = pin!(interest.take(Slot(2)));
            assert_eq!(block_on(poll_once(taking.as_mut())), None);
            results.applied(Slot(2), [(Slot(1), 'a')]);
            assert_eq!(block_on(poll_once(taking.as_mut())), None);
            results.stop();
            assert_eq!(block_on(taking), Err(NoOutput::Stopped));
        }
        drop(interest);
        assert!(results.lock().waiting.is_empty());
    }

    #[test]
    fn outputs_are_bounded() {
        let results = Results::new(Slot(1), 2);
        let mut interest = results.interest();
        results.applied(Slot(4), (1..4).map(|slot| (Slot(slot), slot)));
        assert_eq!(block_on(interest.take(Slot(1))), Err(NoOutput::Gone));
        assert_eq!(block_on(interest.take(Slot(3))), Ok(3));
    }
}
