//! The log of one replica (entries in memory until they are purged, and a file that is written before they count), and a state
//! machine that only knows how far it has come.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use futures_util::{Stream, TryStreamExt as _};
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, IOFlushed, LogState, RaftLogStorage, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftLogReader, RaftSnapshotBuilder};
use synod_wal::directory::ReadBuffer;

use super::super::COMMAND_BYTES;
use crate::floor::pipeline::open;
use crate::options::Sync;

openraft::declare_raft_types!(
    /// openraft as it is measured.
    pub(super) Types:
        D = Command,
        R = (),
        NodeId = u64,
        Node = (),
);

/// A command.
#[derive(Clone, Copy)]
pub(super) struct Command([u8; COMMAND_BYTES as usize]);

impl Default for Command {
    fn default() -> Command {
        Command([0x5a; COMMAND_BYTES as usize])
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

const BLOCK_BYTES: usize = 4096;
/// Largest write.
const WRITE_BYTES: usize = 1 << 20;
/// In the file, an entry has its term and index before it.
const ENTRY_HEADER_BYTES: usize = 16;

/// Something to write, and whom to tell.
struct Append {
    bytes: Vec<u8>,
    flushed: Flushed,
}

enum Flushed {
    Entries(IOFlushed<Types>),
    Vote(futures_channel::oneshot::Sender<io::Result<()>>),
}

impl Flushed {
    fn tell(self, result: io::Result<()>) {
        match self {
            Flushed::Entries(callback) => callback.io_completed(result),
            // Whoever no longer waits needs no answer.
            Flushed::Vote(answer) => drop(answer.send(result)),
        }
    }
}

#[derive(Default)]
struct Memory {
    vote: Option<VoteOf<Types>>,
    purged: Option<LogIdOf<Types>>,
    /// Index of the first entry in memory.
    base: u64,
    entries: VecDeque<EntryOf<Types>>,
}

/// See the module.
#[derive(Clone)]
pub(super) struct LogStore {
    memory: Arc<Mutex<Memory>>,
    appends: Sender<Append>,
}

impl LogStore {
    /// A log that is empty, whatever the file holds: its blocks only have been written before.
    pub(super) fn open(path: &Path, file_bytes: u64) -> io::Result<LogStore> {
        let file = open(path, Sync::Dsync)?;
        let buffer = ReadBuffer::zeroed(WRITE_BYTES)?;
        let (appends, queue) = channel();
        // Ends when the last handle of this log is gone.
        thread::Builder::new()
            .name("openraft-log".to_owned())
            .spawn(move || write(&file, file_bytes, buffer, &queue))?;
        Ok(LogStore { memory: Arc::default(), appends })
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("no code that holds this lock panics")
    }

    fn write(&self, bytes: Vec<u8>, flushed: Flushed) -> io::Result<()> {
        self.appends.send(Append { bytes, flushed }).map_err(|_| io::Error::other("the log's thread has ended"))
    }
}

/// Writes all that has come since the last write, in one write as far as it fits, and tells of it.
fn write(file: &File, file_bytes: u64, mut buffer: ReadBuffer, queue: &Receiver<Append>) {
    let mut offset = 0;
    let mut next = None;
    while let Some(first) = next.take().or_else(|| queue.recv().ok()) {
        let mut waiting = vec![first.flushed];
        let mut result = Ok(());
        let mut rest = first.bytes;
        while let Some(more) = queue.try_iter().next() {
            if rest.len() + more.bytes.len() > WRITE_BYTES {
                next = Some(more);
                break;
            }
            rest.extend_from_slice(&more.bytes);
            waiting.push(more.flushed);
        }
        for part in rest.chunks(WRITE_BYTES) {
            let whole = part.len().next_multiple_of(BLOCK_BYTES);
            if offset + whole as u64 > file_bytes {
                offset = 0;
            }
            buffer.as_mut()[..part.len()].copy_from_slice(part);
            buffer.as_mut()[part.len()..whole].fill(0);
            result = result.and_then(|()| file.write_all_at(&buffer.as_ref()[..whole], offset));
            offset += whole as u64;
        }
        for flushed in waiting {
            let told = match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            flushed.tell(told);
        }
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<EntryOf<Types>>> {
        let memory = self.lock();
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let place = |index: u64| (index.saturating_sub(memory.base)).min(memory.entries.len() as u64) as usize;
        let (from, to) = (place(from), place(to));
        Ok(memory.entries.range(from..to.max(from)).cloned().collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<Types>>> {
        Ok(self.lock().vote)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let memory = self.lock();
        let last = memory.entries.back().map(RaftEntry::log_id).or(memory.purged);
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> io::Result<()> {
        let (answer, answered) = futures_channel::oneshot::channel();
        self.write(format!("{vote:?}").into_bytes(), Flushed::Vote(answer))?;
        answered.await.map_err(|_| io::Error::other("the log's thread has ended"))??;
        self.lock().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = EntryOf<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut bytes = Vec::new();
        {
            let mut memory = self.lock();
            for entry in entries {
                let index = entry.index();
                bytes.reserve(ENTRY_HEADER_BYTES + COMMAND_BYTES as usize);
                bytes.extend_from_slice(&entry.log_id.leader_id.term.to_le_bytes());
                bytes.extend_from_slice(&index.to_le_bytes());
                match &entry.payload {
                    EntryPayload::Normal(command) => bytes.extend_from_slice(&command.0),
                    EntryPayload::Membership(members) => bytes.extend_from_slice(format!("{members:?}").as_bytes()),
                    EntryPayload::Blank => {}
                }
                if memory.entries.is_empty() {
                    memory.base = index;
                }
                let kept = index - memory.base;
                memory.entries.truncate(kept as usize);
                memory.entries.push_back(entry);
            }
        }
        self.write(bytes, Flushed::Entries(callback))
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> io::Result<()> {
        let mut memory = self.lock();
        let end = last.map_or(0, |last| last.index + 1);
        let kept = end.saturating_sub(memory.base);
        memory.entries.truncate(kept as usize);
        Ok(())
    }

    async fn purge(&mut self, upto: LogIdOf<Types>) -> io::Result<()> {
        let mut memory = self.lock();
        let gone = (upto.index + 1).saturating_sub(memory.base).min(memory.entries.len() as u64);
        memory.entries.drain(..gone as usize);
        memory.base += gone;
        memory.purged = Some(upto);
        Ok(())
    }
}

/// The last entry applied, and the last one that named the members.
type Applied = (Option<LogIdOf<Types>>, StoredMembershipOf<Types>);

/// How far a replica has come.
#[derive(Clone, Default)]
pub(super) struct Machine(Arc<Mutex<Applied>>);

impl Machine {
    fn lock(&self) -> MutexGuard<'_, Applied> {
        self.0.lock().expect("no code that holds this lock panics")
    }

    fn snapshot(&self) -> SnapshotOf<Types, ()> {
        let (last_log_id, last_membership) = self.lock().clone();
        SnapshotOf::<Types, ()> { meta: SnapshotMetaOf::<Types> { last_log_id, last_membership }, snapshot: () }
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types, ()>> {
        Ok(self.snapshot())
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> io::Result<Applied> {
        Ok(self.lock().clone())
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let mut applied = self.lock();
            applied.0 = Some(entry.log_id);
            if let EntryPayload::Membership(members) = entry.payload {
                applied.1 = StoredMembershipOf::<Types>::new(Some(entry.log_id), members);
            }
            drop(applied);
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<Types>, (): ()) -> io::Result<()> {
        *self.lock() = (meta.last_log_id, meta.last_membership.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types, ()>>> {
        Ok(self.lock().0.is_some().then(|| self.snapshot()))
    }
}
