//! Virtual time: what happens next, and when. Time stands still while an event is handled and jumps to the next one.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use synod_protocol::Instant;

/// Events in order of time; those of one instant in the order in which they were scheduled.
#[derive(Debug)]
pub struct Schedule<E> {
    now: Instant,
    count: u64,
    queue: BinaryHeap<Entry<E>>,
}

#[derive(Debug)]
struct Entry<E> {
    at: Instant,
    number: u64,
    event: E,
}

impl<E> Entry<E> {
    fn order(&self) -> (Instant, u64) {
        (self.at, self.number)
    }
}

// The heap gives out its greatest entry first: the earliest is to be that one.
impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Entry<E>) -> Ordering {
        other.order().cmp(&self.order())
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Entry<E>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Entry<E>) -> bool {
        self.order() == other.order()
    }
}

impl<E> Eq for Entry<E> {}

impl<E> Schedule<E> {
    /// Nothing is scheduled, and time begins at `start`.
    pub fn new(start: Instant) -> Schedule<E> {
        Schedule { now: start, count: 0, queue: BinaryHeap::new() }
    }

    /// The time of the event that is being handled.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Schedules an event; one that is due already happens now.
    pub fn at(&mut self, at: Instant, event: E) {
        self.count += 1;
        self.queue.push(Entry { at: at.max(self.now), number: self.count, event });
    }

    /// Schedules an event `delay` from now.
    pub fn after(&mut self, delay: Duration, event: E) {
        self.at(self.now.plus(delay), event);
    }

    /// Goes on to the next event.
    #[expect(clippy::should_implement_trait, reason = "handling an event schedules others: this is no iteration")]
    pub fn next(&mut self) -> Option<E> {
        let entry = self.queue.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }

    /// When the next event is.
    pub fn next_at(&self) -> Option<Instant> {
        self.queue.peek().map(|entry| entry.at)
    }

    /// Lets time go on to `until`, where nothing is scheduled before.
    pub fn pass(&mut self, until: Instant) {
        debug_assert!(self.next_at().is_none_or(|at| at >= until), "events are never passed over");
        self.now = self.now.max(until);
    }

    /// Gives every scheduled event another time, or forgets it. Those of one instant stay in order.
    pub fn reschedule(&mut self, time: impl Fn(Instant, &E) -> Option<Instant>) {
        let entries = std::mem::take(&mut self.queue).into_iter();
        self.queue = entries.filter_map(|entry| Some(Entry { at: time(entry.at, &entry.event)?, ..entry })).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_of_time_then_of_scheduling() {
        let mut schedule = Schedule::new(Instant(100));
        schedule.at(Instant(300), "third");
        schedule.at(Instant(200), "first");
        schedule.after(Duration::from_micros(100), "second");
        schedule.at(Instant(5), "overdue");
        let order: Vec<_> = std::iter::from_fn(|| schedule.next().map(|event| (schedule.now().0, event))).collect();
        assert_eq!(order, [(100, "overdue"), (200, "first"), (200, "second"), (300, "third")]);
    }
}
