//! What the clients were told: one line an append call. The audit holds the logs against it.

use std::ops::Range;
use std::sync::Mutex;

use synod_protocol::{Slot, SlotRange};

/// What became of an append call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Not answered yet.
    Pending,
    /// Acknowledged; the first command stands here.
    Acknowledged(Slot),
    /// Refused: no command of it may ever stand in a log.
    Refused,
    /// Unknown: each command stands nowhere or once.
    Unknown,
}

/// One append call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) count: u32,
    pub(crate) outcome: Outcome,
}

impl Call {
    pub(crate) fn slots(&self) -> Option<SlotRange> {
        match self.outcome {
            Outcome::Acknowledged(first) => Some(first..first.plus(u64::from(self.count))),
            _ => None,
        }
    }
}

/// All append calls of a run, by number.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    calls: Mutex<Vec<Call>>,
}

impl Ledger {
    /// Opens some lines for calls of `count` commands each; the numbers go into the commands.
    pub(crate) fn open(&self, count: u32, lines: u32) -> Range<u64> {
        let mut calls = self.lock();
        let first = calls.len();
        calls.resize(first + lines as usize, Call { count, outcome: Outcome::Pending });
        first as u64..calls.len() as u64
    }

    /// Notes what became of calls.
    pub(crate) fn close(&self, told: impl Iterator<Item = (u64, Outcome)>) {
        let mut calls = self.lock();
        for (call, outcome) in told {
            let line = &mut calls[call as usize];
            assert_eq!(line.outcome, Outcome::Pending, "an append call is answered once");
            line.outcome = outcome;
        }
    }

    /// Notes calls that clients elsewhere numbered by themselves. Numbers between that nobody has told of yet are calls
    /// under way, of as many commands each.
    pub(crate) fn note(&self, told: impl Iterator<Item = (u64, Call)>) {
        let mut calls = self.lock();
        for (number, call) in told {
            let place = number as usize;
            if calls.len() <= place {
                calls.resize(place + 1, Call { count: call.count, outcome: Outcome::Pending });
            }
            assert_eq!(calls[place].outcome, Outcome::Pending, "an append call is answered once");
            calls[place] = call;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// A copy of some lines, for a look from outside the load.
    pub(crate) fn range(&self, range: Range<usize>) -> Vec<Call> {
        self.lock()[range].to_vec()
    }

    pub(crate) fn snapshot(&self) -> Vec<Call> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Call>> {
        self.calls.lock().expect("no code that holds this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_numbered_elsewhere_may_be_told_in_any_order() {
        let ledger = Ledger::default();
        assert_eq!(ledger.open(1, 1), 0..1);
        ledger.close([(0, Outcome::Acknowledged(Slot(1)))].into_iter());
        let call = |outcome| Call { count: 5, outcome };
        ledger.note([(3, call(Outcome::Refused)), (1, call(Outcome::Acknowledged(Slot(2))))].into_iter());
        let outcomes: Vec<Outcome> = ledger.snapshot().iter().map(|call| call.outcome).collect();
        let first = [Outcome::Acknowledged(Slot(1)), Outcome::Acknowledged(Slot(2))];
        assert_eq!(outcomes, [first[0], first[1], Outcome::Pending, Outcome::Refused]);
        assert_eq!(ledger.snapshot()[2].count, 5);
    }
}
