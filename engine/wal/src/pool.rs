//! The pool: files that no segment uses at the moment.
//!
//! A *clean* file is ready for its next life: it holds zeros behind block 0, or a sealed segment whose table describes
//! every block. Anything else is *dirty*, for after a crash nobody could tell its old blocks from torn new ones, and
//! is zeroed first. Block 0 of a used file is never zeroed: it keeps naming a dead epoch until a new header replaces
//! it, so that a crash in the middle of zeroing is noticed.

use std::collections::VecDeque;

use crate::lsn::FileId;

/// A clean file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CleanFile {
    /// The file.
    pub file: FileId,
    /// The epoch whose table describes its blocks; zero if they are zeros.
    pub previous_epoch: u64,
}

/// What the pool wants done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolWork {
    Create(FileId),
    Zero(FileId),
}

impl PoolWork {
    fn file(self) -> FileId {
        let (PoolWork::Create(file) | PoolWork::Zero(file)) = self;
        file
    }
}

#[derive(Debug)]
pub(crate) struct Pool {
    free_min: usize,
    files_max: usize,
    /// Oldest first: a file rests as long as possible before it is written again, which gives readers of trimmed
    /// bodies the most time.
    clean: VecDeque<CleanFile>,
    dirty: VecDeque<PoolWork>,
    /// Handed out as work and not yet answered.
    working: Vec<PoolWork>,
    /// Work that failed, to be asked for again after a retry.
    failed: bool,
    /// Every file there is, in use or not, being created or not.
    files: usize,
    file_next: u32,
}

impl Pool {
    pub(crate) fn new(free_min: u32, files_max: u32, files: usize, file_next: u32) -> Pool {
        Pool {
            free_min: free_min as usize,
            files_max: files_max as usize,
            clean: VecDeque::new(),
            dirty: VecDeque::new(),
            working: Vec::new(),
            failed: false,
            files,
            file_next,
        }
    }

    pub(crate) fn add_clean(&mut self, file: CleanFile) {
        self.clean.push_back(file);
    }

    pub(crate) fn add_dirty(&mut self, file: FileId) {
        self.dirty.push_back(PoolWork::Zero(file));
    }

    /// A file whose creation a crash interrupted.
    pub(crate) fn add_unfinished(&mut self, file: FileId) {
        self.dirty.push_back(PoolWork::Create(file));
    }

    pub(crate) fn take(&mut self) -> Option<CleanFile> {
        self.clean.pop_front()
    }

    pub(crate) fn clean_count(&self) -> usize {
        self.clean.len()
    }

    pub(crate) fn dirty_count(&self) -> usize {
        self.dirty.len() + self.working.len()
    }

    pub(crate) fn files_count(&self) -> usize {
        self.files
    }

    /// Whether another file can be had.
    pub(crate) fn is_exhausted(&self) -> bool {
        let can_make = !self.failed && (!self.dirty.is_empty() || self.files < self.files_max);
        self.clean.is_empty() && self.working.is_empty() && !can_make
    }

    /// One piece of work if too few files are clean, one file at a time: zeroing competes with the log for the disk.
    ///
    /// A log that can't open for want of a file may have one above the bound: it couldn't be trimmed otherwise.
    pub(crate) fn poll(&mut self, opening: bool) -> Option<PoolWork> {
        if self.failed || !self.working.is_empty() || self.clean.len() >= self.free_min {
            return None;
        }
        let work = if let Some(work) = self.dirty.pop_front() {
            work
        } else if (self.files < self.files_max || opening && self.clean.is_empty()) && self.file_next < u32::MAX {
            let file = FileId(self.file_next);
            self.file_next += 1;
            self.files += 1;
            PoolWork::Create(file)
        } else {
            return None;
        };
        self.working.push(work);
        Some(work)
    }

    /// Whether the file was being worked on; now it is clean.
    pub(crate) fn ready(&mut self, file: FileId) -> bool {
        let work = self.finish(file);
        if work.is_some() {
            self.clean.push_back(CleanFile { file, previous_epoch: 0 });
        }
        work.is_some()
    }

    /// Whether the file was being worked on; what it holds is unknown, and nothing more is asked for until a retry.
    pub(crate) fn failed(&mut self, file: FileId) -> bool {
        let work = self.finish(file);
        if let Some(work) = work {
            self.dirty.push_back(work);
            self.failed = true;
        }
        work.is_some()
    }

    fn finish(&mut self, file: FileId) -> Option<PoolWork> {
        let index = self.working.iter().position(|work| work.file() == file)?;
        Some(self.working.swap_remove(index))
    }

    pub(crate) fn retry(&mut self) {
        self.failed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_before_it_creates_and_one_at_a_time() {
        let mut pool = Pool::new(2, 4, 2, 7);
        pool.add_dirty(FileId(3));
        assert_eq!(pool.poll(false), Some(PoolWork::Zero(FileId(3))));
        assert_eq!(pool.poll(false), None);
        assert!(pool.ready(FileId(3)));
        assert!(!pool.ready(FileId(3)));
        assert_eq!(pool.poll(false), Some(PoolWork::Create(FileId(7))));
        assert!(pool.ready(FileId(7)));
        assert_eq!(pool.poll(false), None);
        assert_eq!(pool.take(), Some(CleanFile { file: FileId(3), previous_epoch: 0 }));
        assert_eq!(pool.poll(false), Some(PoolWork::Create(FileId(8))));
        assert!(pool.ready(FileId(8)));
        assert!(pool.take().is_some() && pool.take().is_some());
        assert_eq!(pool.poll(false), None, "all four files exist");
        assert!(pool.is_exhausted());
        assert_eq!(pool.poll(true), Some(PoolWork::Create(FileId(9))));
        assert!(!pool.is_exhausted());
    }

    #[test]
    fn a_failure_waits_for_a_retry_and_does_not_use_up_numbers() {
        let mut pool = Pool::new(1, 9, 0, 1);
        assert_eq!(pool.poll(false), Some(PoolWork::Create(FileId(1))));
        assert!(pool.failed(FileId(1)));
        assert_eq!(pool.poll(false), None);
        pool.retry();
        assert_eq!(pool.poll(false), Some(PoolWork::Create(FileId(1))));
    }
}
