//! The files of a log for whoever opens it: read ahead past the page cache, and watched.
//!
//! Recovery looks at every byte of the log, one after the other, and so much at once that looking takes about as long as
//! reading. Here threads of their own read what comes next while it looks: *parts* of the announced files, in order, some
//! of them in flight at any time, so that the disk never waits for the processor. What was read so is only looked at
//! once, so it goes past the page cache, which others need.
//!
//! Nothing depends on it: a part that can't be read, whatever the reason, is read again in the plain way by whoever wants
//! it, and who looks elsewhere than at what comes next reads there in the plain way too.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use super::{DirectoryStore, ReadBuffer, disk};
use crate::lsn::FileId;
use crate::segment::BLOCK;
use crate::store::SegmentStore;

/// Bytes of a part, a multiple of a block.
const PART_BYTES: u64 = 2 << 20;

/// Parts that may be in flight, wait to be looked at, or are being looked at.
const PARTS_MAX: u64 = 8;

/// Threads that read.
const THREADS: usize = 3;

/// How far a recovery is with reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadProgress {
    /// Segments that were read to their end.
    pub segments_read: u64,
    /// Segments to be read.
    pub segments: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Bytes to be read: all those of the segments.
    pub bytes: u64,
}

/// The files of one log that nobody writes to, for a recovery. Changes nothing.
pub struct ReadAheadStore<'watcher> {
    plain: DirectoryStore,
    state: RefCell<State<'watcher>>,
}

struct State<'watcher> {
    /// What was announced, in order.
    files: Vec<Announced>,
    by_name: BTreeMap<FileId, usize>,
    /// The number of the first part that is still wanted.
    first: u64,
    readers: Option<Readers>,
    progress: ReadProgress,
    watcher: Box<dyn FnMut(&ReadProgress) + 'watcher>,
}

/// A file that will be read.
#[derive(Clone, Copy)]
struct Announced {
    file: FileId,
    bytes: u64,
    /// Bytes of all files before it.
    before: u64,
    /// The number of its first part.
    first: u64,
    /// How many it has. What lies behind the last whole block can't be read past the page cache.
    parts: u64,
}

impl<'watcher> ReadAheadStore<'watcher> {
    /// The files in the directory of a log ([`super::log_path`]). `watcher` is told how far the reading of what was
    /// announced is, about once a MiB.
    pub fn new(directory: impl Into<PathBuf>, watcher: impl FnMut(&ReadProgress) + 'watcher) -> Self {
        let state = State {
            files: Vec::new(),
            by_name: BTreeMap::new(),
            first: 0,
            readers: None,
            progress: ReadProgress::default(),
            watcher: Box::new(watcher),
        };
        ReadAheadStore { plain: DirectoryStore::new(directory), state: RefCell::new(state) }
    }

    /// How far the reading of what was announced is.
    pub fn progress(&self) -> ReadProgress {
        self.state.borrow().progress
    }
}

impl SegmentStore for ReadAheadStore<'_> {
    fn files(&self) -> io::Result<Vec<FileId>> {
        self.plain.files()
    }

    fn files_made(&self) -> u32 {
        self.plain.files_made()
    }

    fn len(&self, file: FileId) -> io::Result<u64> {
        self.plain.len(file)
    }

    fn read_at(&self, file: FileId, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        if !state.take(file, offset, buffer) {
            self.plain.read_at(file, offset, buffer)?;
        }
        state.note(file, offset + buffer.len() as u64);
        Ok(())
    }

    fn announce(&self, files: &[FileId]) {
        let lengths = files.iter().map(|file| (*file, self.plain.len(*file).unwrap_or(0)));
        let mut state = self.state.borrow_mut();
        state.announce(lengths.collect());
        state.readers = Readers::start(self.plain.directory()).ok();
        state.ask();
    }
}

impl State<'_> {
    fn announce(&mut self, lengths: Vec<(FileId, u64)>) {
        (self.files, self.by_name) = (Vec::with_capacity(lengths.len()), BTreeMap::new());
        let (mut before, mut first) = (0, 0);
        for (file, bytes) in lengths {
            let parts = (bytes / BLOCK * BLOCK).div_ceil(PART_BYTES);
            self.by_name.insert(file, self.files.len());
            self.files.push(Announced { file, bytes, before, first, parts });
            (before, first) = (before + bytes, first + parts);
        }
        self.first = 0;
        self.progress = ReadProgress { segments: self.files.len() as u64, bytes: before, ..ReadProgress::default() };
    }

    /// Has all parts read that may be read by now.
    fn ask(&mut self) {
        let Some(readers) = &mut self.readers else { return };
        let mut parts = Vec::new();
        let end = self.first + PARTS_MAX;
        let from = self.files.partition_point(|announced| announced.first + announced.parts <= self.first);
        for announced in self.files[from..].iter().take_while(|announced| announced.first < end) {
            let wanted = self.first.max(announced.first)..end.min(announced.first + announced.parts);
            parts.extend(wanted.map(|number| announced.part(number)));
        }
        readers.ask(self.first, parts);
    }

    /// Fills `buffer` from parts, if it lies in what comes next.
    fn take(&mut self, file: FileId, offset: u64, buffer: &mut [u8]) -> bool {
        let Some(announced) = self.by_name.get(&file).map(|place| self.files[*place]) else { return false };
        let end = offset + buffer.len() as u64;
        if buffer.is_empty() || end > announced.bytes / BLOCK * BLOCK {
            return false;
        }
        let part = announced.first + offset / PART_BYTES;
        // A look at the end of a file, and back, mustn't give up what comes next. Where a file begins, the one before is
        // done with.
        let is_next = part == self.first || part == self.first + 1 || (part > self.first && offset < PART_BYTES);
        if !is_next || self.readers.is_none() {
            return false;
        }
        if part > self.first {
            self.first = part;
            self.ask();
        }
        let last = announced.first + (end - 1) / PART_BYTES;
        let Some(readers) = self.readers.as_mut().filter(|_| last < self.first + PARTS_MAX) else { return false };
        (part..=last).all(|number| {
            let place = announced.part(number);
            let (from, to) = (offset.max(place.offset), end.min(place.offset + place.bytes as u64));
            let target = &mut buffer[(from - offset) as usize..(to - offset) as usize];
            let Some(read) = readers.part(number) else { return false };
            target.copy_from_slice(&read.as_ref()[(from - place.offset) as usize..][..target.len()]);
            true
        })
    }

    /// So far has a file been read.
    fn note(&mut self, file: FileId, end: u64) {
        let Some(place) = self.by_name.get(&file).copied() else { return };
        let announced = self.files[place];
        let bytes_read = announced.before + end.min(announced.bytes);
        if bytes_read > self.progress.bytes_read {
            let is_whole = u64::from(end >= announced.bytes);
            self.progress.bytes_read = bytes_read;
            self.progress.segments_read = place as u64 + is_whole;
            (self.watcher)(&self.progress);
        }
    }
}

impl Announced {
    fn part(&self, number: u64) -> Part {
        let offset = (number - self.first) * PART_BYTES;
        let bytes = PART_BYTES.min(self.bytes / BLOCK * BLOCK - offset) as usize;
        Part { number, file: self.file, offset, bytes }
    }
}

/// A part of a file that is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    number: u64,
    file: FileId,
    offset: u64,
    bytes: usize,
}

/// The threads that read, until the value is dropped.
struct Readers {
    desk: Arc<Desk>,
    threads: Vec<JoinHandle<()>>,
    /// What is being looked at, by number; none where it couldn't be read.
    held: BTreeMap<u64, Option<ReadBuffer>>,
}

/// Where parts are asked for and handed over.
#[derive(Default)]
struct Desk {
    work: Mutex<Work>,
    /// There is something to read, or nothing ever again.
    asked: Condvar,
    /// A part was read.
    read: Condvar,
}

#[derive(Default)]
struct Work {
    waiting: VecDeque<Part>,
    /// Parts below are no longer wanted.
    first: u64,
    /// Parts below were asked for.
    next: u64,
    /// What was read, by number; none where that failed.
    done: BTreeMap<u64, Option<ReadBuffer>>,
    spare: Vec<ReadBuffer>,
    is_over: bool,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().expect("no thread panics with the lock")
    }

    /// Reads parts until there is nothing to read ever again.
    fn serve(&self, directory: PathBuf) {
        let mut open: Option<(FileId, File)> = None;
        while let Some((part, spare)) = self.next() {
            if open.as_ref().is_none_or(|(file, _)| *file != part.file) {
                let opened = disk::open_for_direct_reading(&directory.join(part.file.file_name()));
                open = opened.ok().map(|opened| (part.file, opened));
            }
            let read = || -> Option<ReadBuffer> {
                let mut buffer = spare.map_or_else(|| ReadBuffer::zeroed(PART_BYTES as usize), Ok).ok()?;
                let (_, file) = open.as_ref()?;
                file.read_exact_at(&mut buffer.as_mut()[..part.bytes], part.offset).ok()?;
                Some(buffer)
            };
            // Not while the lock is held.
            let read = read();
            self.lock().hand_over(part.number, read);
            self.read.notify_one();
        }
    }

    fn next(&self) -> Option<(Part, Option<ReadBuffer>)> {
        let mut work = self.lock();
        loop {
            if work.is_over {
                return None;
            }
            if let Some(part) = work.waiting.pop_front() {
                let spare = work.spare.pop();
                return Some((part, spare));
            }
            work = self.asked.wait(work).expect("no thread panics with the lock");
        }
    }
}

impl Work {
    fn hand_over(&mut self, number: u64, read: Option<ReadBuffer>) {
        if number >= self.first {
            self.done.insert(number, read);
        } else {
            self.spare.extend(read);
        }
    }
}

impl Readers {
    fn start(directory: &std::path::Path) -> io::Result<Readers> {
        let mut readers = Readers { desk: Arc::default(), threads: Vec::new(), held: BTreeMap::new() };
        for number in 0..THREADS {
            let (desk, directory) = (Arc::clone(&readers.desk), directory.to_owned());
            let name = format!("read-ahead-{number}");
            readers.threads.push(std::thread::Builder::new().name(name).spawn(move || desk.serve(directory))?);
        }
        Ok(readers)
    }

    /// Gives up all parts below `first` and has these read, as far as they weren't asked for before.
    fn ask(&mut self, first: u64, parts: Vec<Part>) {
        let given_up = [take_below(&mut self.held, first), take_below(&mut self.desk.lock().done, first)];
        let mut work = self.desk.lock();
        work.first = first;
        work.waiting.retain(|part| part.number >= first);
        work.spare.extend(given_up.into_iter().flat_map(BTreeMap::into_values).flatten());
        for part in parts {
            if part.number >= work.next {
                work.next = part.number + 1;
                work.waiting.push_back(part);
            }
        }
        drop(work);
        self.desk.asked.notify_all();
    }

    /// A part that was asked for and not given up, once it is there; none if it couldn't be read.
    fn part(&mut self, number: u64) -> Option<&ReadBuffer> {
        if !self.held.contains_key(&number) {
            let mut work = self.desk.lock();
            let read = loop {
                match work.done.remove(&number) {
                    Some(read) => break read,
                    None => work = self.desk.read.wait(work).expect("no thread panics with the lock"),
                }
            };
            drop(work);
            self.held.insert(number, read);
        }
        self.held.get(&number)?.as_ref()
    }
}

fn take_below<T>(parts: &mut BTreeMap<u64, T>, first: u64) -> BTreeMap<u64, T> {
    let kept = parts.split_off(&first);
    std::mem::replace(parts, kept)
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.desk.lock().is_over = true;
        self.desk.asked.notify_all();
        for thread in self.threads.drain(..) {
            // It can't have panicked, and if it had, what it read would have been read in the plain way.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [(u32, u64); 4] =
        [(7, 3 * PART_BYTES), (2, BLOCK), (5, 40 * PART_BYTES + 3 * BLOCK), (9, 4 * BLOCK + 100)];

    fn content(file: u32, bytes: u64) -> Vec<u8> {
        (0..bytes / 4).flat_map(|word| (word as u32 ^ file << 24).to_le_bytes()).collect()
    }

    /// Beside the program: the usual temporary directory may live in memory, and there nothing is read ahead.
    fn made() -> (tempfile::TempDir, Vec<FileId>) {
        let executable = std::env::current_exe().expect("tests are files");
        let root = tempfile::tempdir_in(executable.parent().expect("files lie in directories")).expect("a directory");
        for (file, bytes) in FILES {
            std::fs::write(root.path().join(FileId(file).file_name()), content(file, bytes)).expect("written");
        }
        (root, FILES.iter().map(|(file, _)| FileId(*file)).collect())
    }

    fn read(store: &ReadAheadStore<'_>, file: u32, offset: u64, bytes: usize) -> Vec<u8> {
        let mut buffer = vec![0xaa; bytes];
        store.read_at(FileId(file), offset, &mut buffer).expect("it can be read");
        buffer
    }

    #[test]
    fn what_is_read_in_order_is_what_is_there_and_is_counted() {
        let (root, files) = made();
        let mut told = Vec::new();
        let store = ReadAheadStore::new(root.path(), |progress| told.push(*progress));
        store.announce(&files);
        for (file, bytes) in FILES {
            let expected = content(file, bytes);
            // As a walk from record to record reads: windows that begin where the last record ended that fitted.
            let mut offset = 0;
            while offset < bytes {
                let window = (PART_BYTES + 5 * BLOCK).min(bytes - offset) as usize;
                assert!(read(&store, file, offset, window) == expected[offset as usize..][..window], "{file} {offset}");
                offset += (window as u64 - 3 * BLOCK.min(window as u64 / 4)).max(BLOCK);
            }
        }
        let bytes: u64 = FILES.iter().map(|(_, bytes)| bytes).sum();
        let end = store.progress();
        assert_eq!((end.segments_read, end.segments, end.bytes_read, end.bytes), (4, 4, bytes, bytes));
        drop(store);
        assert_eq!(told.last(), Some(&end));
        assert!(told.len() > 40 && told.is_sorted_by_key(|told| (told.bytes_read, told.segments_read)));
    }

    #[test]
    fn looks_elsewhere_give_what_is_there_too() {
        let (root, files) = made();
        let store = ReadAheadStore::new(root.path(), |_| ());
        let expected = content(5, FILES[2].1);
        assert!(read(&store, 5, 0, 8192) == expected[..8192], "before anything was announced");
        store.announce(&files);
        let mut offset = 0;
        for step in 0_u64..2000 {
            // There and back, within what is read ahead, far behind it and across its end.
            let place = [offset, offset + 30 * PART_BYTES, offset / 2, offset + PART_BYTES / 2][step as usize % 4];
            let place = place.min(FILES[2].1 - 4096);
            let bytes = [4096, PART_BYTES + 4096, 20 * PART_BYTES][step as usize % 3].min(FILES[2].1 - place) as usize;
            if step % 97 < 12 {
                assert!(read(&store, 5, place, bytes) == expected[place as usize..][..bytes], "{step} {place} {bytes}");
            }
            offset = (offset + 5 * BLOCK).min(FILES[2].1);
        }
    }

    #[test]
    fn what_is_gone_or_cut_off_is_an_error_for_who_reads_it_and_only_there() {
        let (root, files) = made();
        std::fs::remove_file(root.path().join(FileId(2).file_name())).expect("it was there");
        let store = ReadAheadStore::new(root.path(), |_| ());
        store.announce(&files);
        let cut =
            std::fs::OpenOptions::new().write(true).open(root.path().join(FileId(5).file_name())).expect("a file");
        cut.set_len(2 * PART_BYTES + BLOCK).expect("cut off");
        assert!(read(&store, 7, 0, 4096) == content(7, 4096));
        let error = |file, offset| store.read_at(FileId(file), offset, &mut [0; 4096]).expect_err("nothing is there");
        assert_eq!(error(2, 0).kind(), io::ErrorKind::NotFound);
        assert_eq!(error(5, 2 * PART_BYTES + BLOCK).kind(), io::ErrorKind::UnexpectedEof);
        assert!(read(&store, 5, 2 * PART_BYTES, 4096) == content(5, FILES[2].1)[2 * PART_BYTES as usize..][..4096]);
        assert!(read(&store, 9, 4 * BLOCK, 100) == content(9, FILES[3].1)[4 * BLOCK as usize..], "an odd end");
    }
}
