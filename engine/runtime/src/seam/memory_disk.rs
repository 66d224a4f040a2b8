//! A disk in memory that outlives its node, and forgets what wasn't synced when the node crashes.
//!
//! The files are as the node sees them; beside them lies what would undo each write that isn't durable yet, in order. A
//! sync forgets what would undo the file; a crash does all of it, newest first. Slowness and lies are switched from
//! outside while it is in use.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use synod_wal::{FileId, MemoryStore, SegmentStore as _};

use super::time::sleep;

/// See the module. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryDisk {
    /// As of when this handle was made: after a crash, what an earlier life still had under way fails.
    life: u64,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    files: MemoryStore,
    undo: VecDeque<Undo>,
    life: u64,
    faults: DiskFaults,
}

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskFaults {
    /// How long every write and sync takes.
    pub(crate) delay: Duration,
    /// Syncs and durable writes are reported as done and aren't.
    pub(crate) loses_syncs: bool,
    /// Writes and syncs fail.
    pub(crate) fails: bool,
}

#[derive(Debug)]
enum Undo {
    Write { file: FileId, offset: u64, before: Vec<u8> },
    Create { file: FileId },
}

impl MemoryDisk {
    /// A disk that holds these files.
    pub(crate) fn new(files: MemoryStore) -> MemoryDisk {
        MemoryDisk { life: 0, state: Arc::new(Mutex::new(State { files, ..State::default() })) }
    }

    /// Its files as they are now: what recovery reads.
    pub(crate) fn store(&self) -> MemoryStore {
        self.lock().files.clone()
    }

    /// The files there are.
    pub(crate) fn files(&self) -> Vec<FileId> {
        self.lock().files.files().unwrap_or_default()
    }

    /// What is wrong with it from now on.
    pub(crate) fn set_faults(&self, change: impl FnOnce(&mut DiskFaults)) {
        change(&mut self.lock().faults);
    }

    /// The node is gone: what wasn't durable is undone, and what is under way will fail. The handle of the next life.
    pub(crate) fn crash(&self) -> MemoryDisk {
        let mut state = self.lock();
        state.life += 1;
        for undo in std::mem::take(&mut state.undo).into_iter().rev() {
            match undo {
                Undo::Write { file, offset, before } => state.files.write_at(file, offset, &before),
                Undo::Create { file } => drop(state.files.remove(file)),
            }
        }
        MemoryDisk { life: state.life, state: Arc::clone(&self.state) }
    }

    /// Makes a file of zeros, durably.
    pub(crate) async fn create(&self, file: FileId, bytes: u64) -> io::Result<()> {
        self.turn(|state| {
            state.files.create(file, bytes);
            if state.faults.loses_syncs {
                state.undo.push_back(Undo::Create { file });
            }
            Ok(())
        })
        .await
    }

    /// Overwrites a range with zeros, durably.
    pub(crate) async fn zero(&self, file: FileId, range: Range<u64>) -> io::Result<()> {
        let zeros = vec![0; (range.end - range.start) as usize];
        self.write(file, range.start, &zeros).await
    }

    /// Writes durably.
    pub(crate) async fn write(&self, file: FileId, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.turn(|state| {
            if state.faults.loses_syncs {
                let mut before = vec![0; bytes.len()];
                state.files.read_at(file, offset, &mut before)?;
                state.undo.push_back(Undo::Write { file, offset, before });
            }
            state.files.write_at(file, offset, bytes);
            Ok(())
        })
        .await
    }

    /// Makes a file durable.
    pub(crate) async fn sync(&self, file: FileId) -> io::Result<()> {
        self.turn(|state| {
            if !state.faults.loses_syncs {
                state.undo.retain(|undo| match undo {
                    Undo::Write { file: other, .. } | Undo::Create { file: other } => *other != file,
                });
            }
            Ok(())
        })
        .await
    }

    /// Reads exactly as much as `buffer` holds.
    pub(crate) async fn read(&self, file: FileId, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.lock().files.read_at(file, offset, buffer)
    }

    /// Something that takes the disk's time, and that a crash may forestall.
    async fn turn(&self, work: impl FnOnce(&mut State) -> io::Result<()>) -> io::Result<()> {
        let delay = self.lock().faults.delay;
        if delay > Duration::ZERO {
            sleep(delay).await;
        }
        let mut state = self.lock();
        if state.life != self.life || state.faults.fails {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        work(&mut state)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code that holds this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;

    const FILE: FileId = FileId(1);

    fn content(disk: &MemoryDisk) -> [u8; 4] {
        let mut found = [9; 4];
        block_on(disk.read(FILE, 0, &mut found)).expect("it is there");
        found
    }

    #[test]
    fn a_disk_that_lies_forgets_at_a_crash() {
        let disk = MemoryDisk::default();
        block_on(disk.create(FILE, 4)).expect("created");
        block_on(disk.write(FILE, 0, &[1; 4])).expect("written");
        disk.set_faults(|faults| faults.loses_syncs = true);
        block_on(disk.write(FILE, 1, &[2; 2])).expect("written");
        block_on(disk.write(FILE, 2, &[3; 2])).expect("written");
        block_on(disk.sync(FILE)).expect("so it says");
        assert_eq!(content(&disk), [1, 2, 3, 3]);
        let next = disk.crash();
        assert_eq!(content(&next), [1; 4]);
        assert!(block_on(disk.write(FILE, 0, &[7; 4])).is_err(), "the earlier life is over");
        assert_eq!(content(&next), [1; 4]);
    }

    #[test]
    fn an_honest_disk_forgets_nothing() {
        let disk = MemoryDisk::default();
        block_on(disk.create(FILE, 4)).expect("created");
        block_on(disk.write(FILE, 0, &[1; 4])).expect("written");
        let next = disk.crash();
        assert_eq!(content(&next), [1; 4]);
        next.set_faults(|faults| faults.fails = true);
        assert!(block_on(next.sync(FILE)).is_err());
    }
}
