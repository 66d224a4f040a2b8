//! Memory for what clients send, shared by all their connections.
//!
//! A request's room is reserved before its payload is read, and kept until an append is answered. When there is no room,
//! nothing more is read from whoever wants it, and TCP makes its client wait. A payload that comes slowly holds its room
//! without need: while others wait, the one that has been read longest makes way, if it had time enough.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_lite::FutureExt as _;

use crate::link::connection::Reading;
use crate::seam::local::{Moment, Signal};
use crate::seam::time::{sleep, within};

/// How long a payload may be read, at least, while others wait for its room.
const READING_MIN: Duration = Duration::from_secs(1);

/// How often to look for one that has been read longer.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A transfer may take this long, and in addition as long as it takes at [`RATE_MIN`].
const TRANSFER_MIN: Duration = Duration::from_secs(10);

/// Bytes a second below which a transfer is too slow.
pub(crate) const RATE_MIN: u64 = 64 << 10;

/// Memory is taken as a payload arrives, in pieces of this many bytes.
const PIECE_BYTES: usize = 64 << 10;

/// How long a transfer of so many bytes may take.
pub(super) fn patience(bytes: usize) -> Duration {
    TRANSFER_MIN + Duration::from_millis(bytes as u64 * 1000 / RATE_MIN)
}

/// Too slow, one way or the other.
pub(super) fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "a transfer was slower than 64 KiB a second")
}

/// See the module.
#[derive(Debug)]
pub(super) struct Budget {
    bytes_max: u64,
    used: Cell<u64>,
    freed: Moment,
    numbers: Cell<u64>,
    /// Payloads that are being read, in the order in which they began.
    reading: RefCell<VecDeque<(u64, Instant, Rc<Signal>)>>,
}

impl Budget {
    /// Nothing is used yet.
    pub(super) fn new(bytes_max: u64) -> Rc<Budget> {
        let (used, freed, numbers, reading) = (Cell::new(0), Moment::default(), Cell::new(0), RefCell::default());
        Rc::new(Budget { bytes_max, used, freed, numbers, reading })
    }

    /// Waits for room. What is larger than all of it is let in when nothing else is there.
    pub(super) async fn reserve(self: &Rc<Self>, bytes: u64) -> Room {
        while self.used.get() > 0 && self.used.get() + bytes > self.bytes_max {
            self.make_way(Instant::now());
            let freed = self.freed.wait();
            freed.or(sleep(LOOK_EVERY)).await;
        }
        self.used.set(self.used.get() + bytes);
        Room { budget: Rc::clone(self), bytes }
    }

    /// Reads the rest of a payload for which there is room.
    ///
    /// # Errors
    /// If the connection fails, or is too slow.
    pub(super) async fn read(&self, stream: &mut Reading, begun: Vec<u8>, bytes: usize) -> io::Result<Vec<u8>> {
        let number = self.numbers.replace(self.numbers.get() + 1);
        let in_the_way = Rc::new(Signal::default());
        self.reading.borrow_mut().push_back((number, Instant::now(), Rc::clone(&in_the_way)));
        let _done = Done { budget: self, number };
        let reading = async {
            let mut payload = begun;
            while payload.len() < bytes {
                let filled = payload.len();
                payload.resize(bytes.min(filled + PIECE_BYTES), 0);
                stream.read_exact(&mut payload[filled..]).await?;
            }
            Ok(payload)
        };
        let making_way = async {
            in_the_way.wait().await;
            Err(too_slow())
        };
        within(patience(bytes), reading.or(making_way)).await.unwrap_or_else(|| Err(too_slow()))
    }

    fn make_way(&self, now: Instant) {
        if let Some((_, since, in_the_way)) = self.reading.borrow().front()
            && now.saturating_duration_since(*since) >= READING_MIN
        {
            in_the_way.raise();
        }
    }
}

/// A payload isn't read any more.
struct Done<'a> {
    budget: &'a Budget,
    number: u64,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.budget.reading.borrow_mut().retain(|(number, _, _)| *number != self.number);
    }
}

/// Room that is reserved, until it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    budget: Rc<Budget>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.used.set(self.budget.used.get() - self.bytes);
        self.budget.freed.announce();
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn room_is_given_back_and_the_oversized_are_let_in_alone() {
        let budget = Budget::new(100);
        let first = block_on(budget.reserve(60));
        let second = block_on(budget.reserve(40));
        drop(first);
        let third = block_on(budget.reserve(60));
        drop((second, third));
        let all = block_on(budget.reserve(5000));
        assert_eq!(budget.used.get(), 5000);
        drop(all);
        assert_eq!(budget.used.get(), 0);
    }

    #[test]
    fn the_payload_that_is_read_longest_makes_way() {
        let budget = Budget::new(100);
        let begun = Instant::now();
        let signals: Vec<Rc<Signal>> = (0..2)
            .map(|number| {
                let signal = Rc::new(Signal::default());
                budget.reading.borrow_mut().push_back((number, begun, Rc::clone(&signal)));
                signal
            })
            .collect();
        let is_raised = |place: usize| block_on(poll_once(signals[place].wait())).is_some();
        budget.make_way(begun);
        assert!(!is_raised(0), "it has had no time yet");
        budget.make_way(begun + READING_MIN);
        assert!(is_raised(0) && !is_raised(1));
    }
}
