//! The pool: files that no segment uses at the moment.
//!
//! A *clean* file is ready for its next life: it holds zeros behind block 0, or a sealed segment whose table describes
//! every block. Anything else is *dirty*, for after a crash nobody could tell its old blocks from torn new ones, and
//! is zeroed first. Block 0 of a used file is never zeroed: it keeps naming a dead epoch until a new header replaces
//! it, so that a crash in the middle of zeroing is noticed.
//!
//! The last clean files (two, in a node) are *spares*: rotation leaves them alone. A log that was full when its node stopped begins
//! a new segment when it is opened, and where the file system is full as well there would be no file for that. Two
//! are enough for any number of starts in a row: the segment of one start is given up when the next has its own.

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
    /// Clean files to have besides the spares.
    free_min: usize,
    /// Clean files that are kept for the next openings of the log.
    spares: usize,
    files_max: usize,
    /// Oldest first: a file rests as long as possible before it is written again, which gives readers of trimmed
    /// bodies the most time.
    clean: VecDeque<CleanFile>,
    dirty: VecDeque<PoolWork>,
    /// Handed out as work and not yet answered.
    working: Vec<PoolWork>,
    /// The last work that was tried failed: until some succeeds, no more files are counted on.
    failed: bool,
    /// No work is handed out before a retry.
    paused: bool,
    /// Every file there is, in use or not, being created or not.
    files: usize,
    file_next: u32,
}

impl Pool {
    pub(crate) fn new((free_min, spares): (u32, u32), files_max: u32, files: usize, file_next: u32) -> Pool {
        Pool {
            free_min: free_min as usize,
            spares: spares as usize,
            files_max: files_max as usize,
            clean: VecDeque::new(),
            dirty: VecDeque::new(),
            working: Vec::new(),
            failed: false,
            paused: false,
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

    /// A file for the next segment; the spares only if the log is being opened.
    pub(crate) fn take(&mut self, opening: bool) -> Option<CleanFile> {
        if opening || self.clean.len() > self.spares { self.clean.pop_front() } else { None }
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

    /// Whether no other file than the spares can be had.
    pub(crate) fn is_exhausted(&self) -> bool {
        let can_make = !self.working.is_empty() || !self.dirty.is_empty() || self.files < self.files_max;
        self.clean.len() <= self.spares && (self.failed || !can_make)
    }

    /// One piece of work if too few files are clean, one file at a time: zeroing competes with the log for the disk.
    ///
    /// A log that can't open for want of a file may have one above the bound: it couldn't be trimmed otherwise.
    pub(crate) fn poll(&mut self, opening: bool) -> Option<PoolWork> {
        if self.paused || !self.working.is_empty() || self.clean.len() >= self.free_min + self.spares {
            return None;
        }
        // What only has to be zeroed comes first: a full disk has room for that.
        let easiest = self.dirty.iter().position(|work| matches!(work, PoolWork::Zero(_))).unwrap_or(0);
        let work = if let Some(work) = self.dirty.remove(easiest) {
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
            self.failed = false;
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
            self.paused = true;
        }
        work.is_some()
    }

    fn finish(&mut self, file: FileId) -> Option<PoolWork> {
        let index = self.working.iter().position(|work| work.file() == file)?;
        Some(self.working.swap_remove(index))
    }

    pub(crate) fn retry(&mut self) {
        self.paused = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_before_it_creates_and_one_at_a_time() {
        let mut pool = Pool::new((1, 2), 5, 2, 7);
        pool.add_dirty(FileId(3));
        assert_eq!(pool.poll(false), Some(PoolWork::Zero(FileId(3))));
        assert_eq!(pool.poll(false), None);
        assert!(pool.ready(FileId(3)));
        assert!(!pool.ready(FileId(3)));
        for file in [7, 8] {
            assert_eq!(pool.poll(false), Some(PoolWork::Create(FileId(file))));
            assert!(pool.ready(FileId(file)));
        }
        assert_eq!(pool.poll(false), None);
        assert_eq!(pool.take(false), Some(CleanFile { file: FileId(3), previous_epoch: 0 }));
        assert!(!pool.is_exhausted());
        assert_eq!(pool.poll(false), Some(PoolWork::Create(FileId(9))));
        assert!(pool.ready(FileId(9)) && pool.take(false).is_some());
        assert_eq!(pool.poll(false), None, "all five files exist");
        assert!(pool.is_exhausted());
        assert_eq!(pool.take(false), None, "what is left are the spares");
        assert!(pool.take(true).is_some() && pool.take(true).is_some());
        assert_eq!(pool.poll(false), None);
        assert_eq!(pool.poll(true), Some(PoolWork::Create(FileId(10))), "one above the bound, or it couldn't open");
    }

    #[test]
    fn a_failure_waits_for_a_retry_and_does_not_use_up_numbers() {
        let mut pool = Pool::new((1, 2), 9, 0, 1);
        assert_eq!(pool.poll(false), Some(PoolWork::Create(FileId(1))));
        assert!(pool.failed(FileId(1)));
        assert_eq!(pool.poll(false), None);
        assert!(pool.is_exhausted());
        pool.retry();
        assert_eq!(pool.poll(false), Some(PoolWork::Create(FileId(1))));
        assert!(pool.is_exhausted(), "trying is not having");
        assert!(pool.ready(FileId(1)));
        assert!(!pool.is_exhausted());
        assert!(pool.poll(false).is_some(), "and on it goes");
    }
}
