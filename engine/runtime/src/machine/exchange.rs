//! Between a shard and the thread that gives and takes snapshots, and between a driver and its replica.
//!
//! The shard only passes messages on: what it has no room for it drops, and the other side asks again. What the machines of a
//! log still need of it lies here, too; the shard looks at it when it looks at the clock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use synod_protocol::snapshot::{Hold, NoSnapshot, SnapshotId, SnapshotMessage};
use synod_protocol::{NodeId, Slot};

use super::snapshots::Found;

/// Messages of peers that may wait for the thread; a chunk each, so 8 MiB.
const MESSAGES_MAX: usize = 32;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Note {
    /// A peer has said something.
    Message(NodeId, SnapshotMessage),
    /// The machine lacks what lies below this slot.
    Seek(Slot, oneshot::Sender<Found>),
    /// The machine has restored what was found for it.
    Restored,
    /// The machine has written a snapshot, which is durable; or couldn't.
    Made(Option<SnapshotId>),
    /// End.
    Stop,
}

/// See the module. One for each log.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    /// There are no peers to be reached from here.
    is_remote: bool,
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// A thread takes the notes.
    is_attached: bool,
    notes: VecDeque<Note>,
    messages: usize,
    /// What each driver's machine needs.
    holds: BTreeMap<u64, Hold>,
    drivers: u64,
}

impl Exchange {
    /// Of a log that is reached over the network.
    pub(crate) fn remote() -> Exchange {
        Exchange { is_remote: true, ..Exchange::default() }
    }

    pub(super) fn is_remote(&self) -> bool {
        self.is_remote
    }

    /// A peer has said something. If nobody is there to hear it, what to answer.
    pub(crate) fn deliver(&self, from: NodeId, message: SnapshotMessage) -> Option<SnapshotMessage> {
        let mut state = self.lock();
        if !state.is_attached {
            return match message {
                SnapshotMessage::Ask { at_least, .. } => {
                    Some(SnapshotMessage::Refuse { at_least, reason: NoSnapshot::NoMachine })
                }
                SnapshotMessage::Fetch { snapshot, .. } => {
                    Some(SnapshotMessage::Refuse { at_least: snapshot.position, reason: NoSnapshot::Gone })
                }
                _ => None,
            };
        }
        if state.messages < MESSAGES_MAX {
            state.messages += 1;
            state.notes.push_back(Note::Message(from, message));
            drop(state);
            self.arrived.notify_one();
        }
        None
    }

    /// What the replica must not see trimmed, if it can be helped: what the machine needs that has come least far.
    pub(crate) fn hold(&self) -> Option<Hold> {
        self.lock().holds.values().copied().min()
    }

    /// One more driver; its number.
    pub(super) fn add_driver(&self) -> u64 {
        let mut state = self.lock();
        state.drivers += 1;
        state.drivers
    }

    /// What a driver's machine needs; none if it is driven no more.
    pub(super) fn set_hold(&self, driver: u64, hold: Option<Hold>) {
        let mut state = self.lock();
        match hold {
            Some(hold) => drop(state.holds.insert(driver, hold)),
            None => drop(state.holds.remove(&driver)),
        }
    }

    /// Whether the caller is the only one who takes notes from now on.
    pub(super) fn attach(&self) -> bool {
        let mut state = self.lock();
        !std::mem::replace(&mut state.is_attached, true)
    }

    /// Nobody takes notes any more.
    pub(super) fn detach(&self) {
        let mut state = self.lock();
        (state.is_attached, state.messages) = (false, 0);
        let notes = std::mem::take(&mut state.notes);
        drop(state);
        drop(notes);
    }

    /// Tells the thread.
    pub(super) fn note(&self, note: Note) {
        self.lock().notes.push_back(note);
        self.arrived.notify_one();
    }

    /// The next note; none if there is none until then.
    pub(super) fn next(&self, until: Instant) -> Option<Note> {
        let wait = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let is_empty = |state: &mut State| state.notes.is_empty();
        let (mut state, _) =
            self.arrived.wait_timeout_while(self.lock(), wait, is_empty).expect("no code that holds this lock panics");
        let note = state.notes.pop_front()?;
        state.messages -= usize::from(matches!(note, Note::Message(..)));
        Some(note)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code that holds this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_dropped_and_nobody_is_answered_for() {
        let exchange = Exchange::default();
        let ask = || SnapshotMessage::Ask { at_least: Slot(5), wanted: None };
        let answer = exchange.deliver(NodeId(2), ask());
        assert_eq!(answer, Some(SnapshotMessage::Refuse { at_least: Slot(5), reason: NoSnapshot::NoMachine }));
        assert!(exchange.attach() && !exchange.attach());
        for _ in 0..10 * MESSAGES_MAX {
            assert_eq!(exchange.deliver(NodeId(2), ask()), None);
        }
        exchange.note(Note::Restored);
        let now = Instant::now();
        let taken = std::iter::from_fn(|| exchange.next(now)).count();
        assert_eq!(taken, MESSAGES_MAX + 1, "what the own node says isn't dropped");
        exchange.detach();
        assert!(exchange.attach());
    }

    #[test]
    fn the_slowest_machine_holds_the_log() {
        let exchange = Exchange::default();
        let (one, other) = (exchange.add_driver(), exchange.add_driver());
        let hold = |from| Hold { from: Slot(from), progress: 0 };
        exchange.set_hold(one, Some(hold(7)));
        exchange.set_hold(other, Some(hold(5)));
        assert_eq!(exchange.hold(), Some(hold(5)));
        exchange.set_hold(other, None);
        assert_eq!(exchange.hold(), Some(hold(7)));
    }
}
