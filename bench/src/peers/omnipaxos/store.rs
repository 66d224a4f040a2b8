//! The log of one OmniPaxos replica: entries in memory until they are trimmed, and bytes that wait to be written.

use std::collections::VecDeque;

use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::storage::{Entry, NoSnapshot, StopSign, Storage, StorageOp, StorageResult};
use serde::{Deserialize, Serialize};

/// A command of `N` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Command<const N: usize>(pub(super) [u8; N]);

impl<const N: usize> Entry for Command<N> {
    type Snapshot = NoSnapshot;
}

// Only messages that are rare carry commands in this form: elections and repairs.
impl<const N: usize> Serialize for Command<N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_slice().serialize(serializer)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Command<N> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Command<N>, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        let length = bytes.len();
        let wrong = |_| serde::de::Error::custom(format!("a command has {N} bytes, not {length}"));
        bytes.try_into().map(Command).map_err(wrong)
    }
}

/// Marks in the log that aren't commands.
const PROMISE: u8 = 1;
const ROUND: u8 = 2;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Store<const N: usize> {
    entries: VecDeque<Command<N>>,
    /// Index of the first entry in memory.
    base: usize,
    compacted: usize,
    decided: usize,
    promise: Option<Ballot>,
    round: Option<Ballot>,
    stop_sign: Option<StopSign>,
    /// What the next write takes.
    unwritten: Vec<u8>,
    /// Bytes ever appended: the position behind `unwritten`.
    appended: u64,
    /// Entries ever appended: the index behind the last one.
    length: usize,
}

impl<const N: usize> Store<N> {
    /// The position behind everything appended.
    pub(super) fn appended(&self) -> u64 {
        self.appended
    }

    /// The index behind everything appended.
    pub(super) fn end(&self) -> usize {
        self.length
    }

    /// Bytes that wait to be written.
    pub(super) fn unwritten(&self) -> usize {
        self.unwritten.len()
    }

    /// Moves what waits into `target`, as much as fits; how much that was.
    pub(super) fn take(&mut self, target: &mut [u8]) -> usize {
        let taken = self.unwritten.len().min(target.len());
        target[..taken].copy_from_slice(&self.unwritten[..taken]);
        // Most often this is everything, and nothing moves.
        self.unwritten.drain(..taken);
        taken
    }

    fn log(&mut self, bytes: &[u8]) {
        self.unwritten.extend_from_slice(bytes);
        self.appended += bytes.len() as u64;
    }

    fn log_ballot(&mut self, kind: u8, ballot: Ballot) {
        let mut record = [0; 32];
        record[0] = kind;
        record[4..8].copy_from_slice(&ballot.config_id.to_le_bytes());
        record[8..12].copy_from_slice(&ballot.n.to_le_bytes());
        record[12..16].copy_from_slice(&ballot.priority.to_le_bytes());
        record[16..24].copy_from_slice(&ballot.pid.to_le_bytes());
        self.log(&record);
    }
}

/// The replica and its storage share it: OmniPaxos takes its storage by value and shows it to nobody.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedStore<const N: usize>(pub(super) std::rc::Rc<std::cell::RefCell<Store<N>>>);

impl<const N: usize> Storage<Command<N>> for SharedStore<N> {
    fn write_atomically(&mut self, ops: Vec<StorageOp<Command<N>>>) -> StorageResult<()> {
        for op in ops {
            match op {
                StorageOp::AppendEntry(entry) => self.append_entry(entry)?,
                StorageOp::AppendEntries(entries) => self.append_entries(entries)?,
                StorageOp::AppendOnPrefix(from, entries) => self.append_on_prefix(from, entries)?,
                StorageOp::SetPromise(ballot) => self.set_promise(ballot)?,
                StorageOp::SetDecidedIndex(index) => self.set_decided_idx(index)?,
                StorageOp::SetAcceptedRound(ballot) => self.set_accepted_round(ballot)?,
                StorageOp::SetCompactedIdx(index) => self.set_compacted_idx(index)?,
                StorageOp::Trim(index) => self.trim(index)?,
                StorageOp::SetStopsign(sign) => self.set_stopsign(sign)?,
                StorageOp::SetSnapshot(snapshot) => self.set_snapshot(snapshot)?,
            }
        }
        Ok(())
    }

    fn append_entry(&mut self, entry: Command<N>) -> StorageResult<()> {
        let mut store = self.0.borrow_mut();
        store.log(&entry.0);
        store.entries.push_back(entry);
        store.length += 1;
        Ok(())
    }

    fn append_entries(&mut self, entries: Vec<Command<N>>) -> StorageResult<()> {
        let mut store = self.0.borrow_mut();
        store.unwritten.reserve(entries.len() * N);
        for entry in &entries {
            store.unwritten.extend_from_slice(&entry.0);
        }
        store.appended += (entries.len() * N) as u64;
        store.length += entries.len();
        store.entries.extend(entries);
        Ok(())
    }

    fn append_on_prefix(&mut self, from: usize, entries: Vec<Command<N>>) -> StorageResult<()> {
        {
            let mut store = self.0.borrow_mut();
            let kept = from.saturating_sub(store.base);
            store.entries.truncate(kept);
            store.length = store.base + store.entries.len();
        }
        self.append_entries(entries)
    }

    fn set_promise(&mut self, ballot: Ballot) -> StorageResult<()> {
        let mut store = self.0.borrow_mut();
        store.promise = Some(ballot);
        store.log_ballot(PROMISE, ballot);
        Ok(())
    }

    fn set_decided_idx(&mut self, index: usize) -> StorageResult<()> {
        self.0.borrow_mut().decided = index;
        Ok(())
    }

    fn get_decided_idx(&self) -> StorageResult<usize> {
        Ok(self.0.borrow().decided)
    }

    fn set_accepted_round(&mut self, ballot: Ballot) -> StorageResult<()> {
        let mut store = self.0.borrow_mut();
        store.round = Some(ballot);
        store.log_ballot(ROUND, ballot);
        Ok(())
    }

    fn get_accepted_round(&self) -> StorageResult<Option<Ballot>> {
        Ok(self.0.borrow().round)
    }

    fn get_entries(&self, from: usize, to: usize) -> StorageResult<Vec<Command<N>>> {
        let store = self.0.borrow();
        let (Some(from), Some(to)) = (from.checked_sub(store.base), to.checked_sub(store.base)) else {
            return Ok(Vec::new());
        };
        let is_there = from <= to && to <= store.entries.len();
        Ok(if is_there { store.entries.range(from..to).copied().collect() } else { Vec::new() })
    }

    fn get_log_len(&self) -> StorageResult<usize> {
        Ok(self.0.borrow().entries.len())
    }

    fn get_suffix(&self, from: usize) -> StorageResult<Vec<Command<N>>> {
        let end = self.0.borrow().length;
        self.get_entries(from, end)
    }

    fn get_promise(&self) -> StorageResult<Option<Ballot>> {
        Ok(self.0.borrow().promise)
    }

    fn set_stopsign(&mut self, sign: Option<StopSign>) -> StorageResult<()> {
        self.0.borrow_mut().stop_sign = sign;
        Ok(())
    }

    fn get_stopsign(&self) -> StorageResult<Option<StopSign>> {
        Ok(self.0.borrow().stop_sign.clone())
    }

    fn trim(&mut self, index: usize) -> StorageResult<()> {
        let mut store = self.0.borrow_mut();
        let dropped = index.saturating_sub(store.base).min(store.entries.len());
        store.entries.drain(..dropped);
        store.base += dropped;
        Ok(())
    }

    fn set_compacted_idx(&mut self, index: usize) -> StorageResult<()> {
        self.0.borrow_mut().compacted = index;
        Ok(())
    }

    fn get_compacted_idx(&self) -> StorageResult<usize> {
        Ok(self.0.borrow().compacted)
    }

    fn set_snapshot(&mut self, _: Option<NoSnapshot>) -> StorageResult<()> {
        Ok(())
    }

    fn get_snapshot(&self) -> StorageResult<Option<NoSnapshot>> {
        Ok(None)
    }
}
