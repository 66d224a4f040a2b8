//! One session: the answers to its last numbers.

use std::collections::VecDeque;

use super::{Answer, Refusal};
use crate::slot::Slot;

/// An open session. Its answers belong to the numbers `highest + 1 - results.len() ..= highest`; there are as many as
/// numbers were seen, but for the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    /// The slot at which it was used last; that of its opening at first.
    pub(super) used: Slot,
    /// The log's time then.
    pub(super) used_us: u64,
    /// The highest number seen; zero before the first.
    pub(super) highest: u64,
    /// None for a number that was left out so far.
    pub(super) results: VecDeque<Option<Answer>>,
}

impl Session {
    pub(super) fn opened(at: Slot, time_us: u64) -> Session {
        Session { used: at, used_us: time_us, highest: 0, results: VecDeque::new() }
    }

    /// The oldest number whose answer would be known.
    fn oldest(&self) -> u64 {
        self.highest + 1 - self.results.len() as u64
    }

    /// The answer to a number that was answered before, or none if it may be answered now.
    pub(super) fn recall(&self, sequence: u64, results_max: u32) -> Result<Option<Answer>, Refusal> {
        let (oldest, highest) = (self.oldest(), self.highest);
        if sequence < oldest {
            return Err(Refusal::SequenceTooOld { oldest });
        }
        if sequence.saturating_sub(highest) > u64::from(results_max) {
            return Err(Refusal::SequenceAhead { highest });
        }
        let kept = self.results.get((sequence - oldest) as usize).copied().flatten();
        Ok(kept.map(|kept| match kept {
            Answer::Delivered { first } => Answer::Duplicate { first },
            other => other,
        }))
    }

    /// Keeps the answer to a number that [`Session::recall`] has let pass.
    pub(super) fn keep(&mut self, sequence: u64, answer: Answer, results_max: u32) {
        while self.highest < sequence {
            self.highest += 1;
            self.results.push_back(None);
            if self.results.len() > results_max as usize {
                self.results.pop_front();
            }
        }
        let place = (sequence - self.oldest()) as usize;
        self.results[place] = Some(answer);
    }
}
