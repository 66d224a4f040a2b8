//! A simulated disk: what a process sees of its files, and what would be left of them after a power failure.
//!
//! Every file has two images. The *live* one shows every completed write. The *durable* one shows only what is safe:
//! writes that a sync has covered, or all completed writes if the disk is opened with `O_DSYNC`. In between lie the
//! unsynced writes, oldest first. A power failure keeps any subset of their blocks; the end of a process keeps the
//! completed ones, still unsynced, and any subset of the blocks of those that were in flight.
//!
//! A sync covers what was complete when it was *begun*: what completes while it runs is left out, as a kernel may do.
//!
//! Both images are the truth: what was written. What the medium does to it lies above ([`damage`]), and shows in
//! [`Disk::seen`] and in reads.

pub mod damage;
mod strikes;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::rc::Rc;

use synod_frame::{BLOCK_BYTES, RecordBuffer};
use synod_wal::{FileId, SegmentStore, SyncMode};

use crate::random::{Chance, Random};

use damage::Damage;
pub use strikes::Struck;

/// The number of something that the disk was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperationId(u64);

/// How the machine or the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The process is killed; the kernel and its caches live on.
    Kill,
    /// Power fails: what isn't synced may be gone.
    PowerFailure,
}

/// The bytes of a write.
#[derive(Clone, Debug)]
pub enum Data {
    /// A record, shared with whoever else needs it.
    Record(Rc<RecordBuffer>),
    /// Bytes that are no record.
    Bytes(Rc<Vec<u8>>),
    /// So many zeros.
    Zeros(usize),
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Data::Record(record) => (**record).as_ref().len(),
            Data::Bytes(bytes) => bytes.len(),
            Data::Zeros(length) => *length,
        }
    }

    fn copy_to(&self, range: Range<usize>, target: &mut [u8]) {
        match self {
            Data::Record(record) => target.copy_from_slice(&(**record).as_ref()[range]),
            Data::Bytes(bytes) => target.copy_from_slice(&bytes[range]),
            Data::Zeros(_) => target.fill(0),
        }
    }
}

#[derive(Clone, Debug)]
struct Write {
    number: u64,
    offset: usize,
    data: Data,
}

impl Write {
    fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.data.len()
    }

    fn apply(&self, image: &mut [u8]) {
        self.data.copy_to(0..self.data.len(), &mut image[self.range()]);
    }

    /// Keeps some blocks of the write, as chance has it.
    fn apply_some_blocks(&self, image: &mut [u8], survives: Chance, random: &mut Random) {
        for start in (0..self.data.len()).step_by(BLOCK_BYTES) {
            if random.chance(survives) {
                let end = start + BLOCK_BYTES;
                self.data.copy_to(start..end, &mut image[self.offset + start..self.offset + end]);
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Write>,
    /// Whether the directory is sure to name the file after a power failure.
    named: bool,
    /// Whether it is sure to have its length then.
    sized: bool,
}

impl File {
    fn resize(&mut self, bytes: usize) {
        self.live.resize(bytes, 0);
        self.durable.resize(bytes, 0);
    }

    fn harden(&mut self, covered: impl Fn(&Write) -> bool) {
        let File { durable, unsynced, .. } = self;
        for write in unsynced.extract_if(.., |write| covered(write)) {
            write.apply(durable);
        }
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Write {
        file: FileId,
        write: Write,
    },
    /// Covers the writes with these numbers.
    Sync {
        file: FileId,
        covered: BTreeSet<u64>,
    },
    /// Makes the file, zeros all of it, and syncs it and the directory.
    Create {
        file: FileId,
        bytes: usize,
    },
    /// Zeros a range and syncs the file.
    Zero {
        file: FileId,
        zeros: Write,
    },
    Read {
        file: FileId,
        offset: usize,
        bytes: usize,
    },
}

/// What a completed operation brings.
#[derive(Debug)]
pub enum Completion {
    /// Nothing but the news.
    Done,
    /// The bytes that were read.
    Read(Vec<u8>),
    /// It failed. What a failed write or sync has done is unknown.
    Failed,
}

/// A block that a power failure may leave half written.
#[derive(Clone, Debug)]
pub struct Tear {
    file: FileId,
    block: usize,
    mixed: Vec<u8>,
}

/// Where a write that goes astray ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Astray {
    /// Nowhere: it is lost.
    Nowhere,
    /// At another place of its file.
    SameFile,
    /// In another file.
    OtherFile,
}

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct Disk {
    mode: SyncMode,
    files: BTreeMap<FileId, File>,
    in_flight: BTreeMap<OperationId, Operation>,
    operations: u64,
    writes: u64,
    /// Claims that syncs and `O_DSYNC` writes reached the medium, which they don't: a planted bug.
    lies: bool,
    damage: Damage,
    /// Where the last write that is complete began: the tail of the log, most of the time.
    last_written: Option<(FileId, usize)>,
    /// How many files were ever made, which is noted beside them.
    files_made: u32,
}

impl Disk {
    /// An empty disk.
    pub fn new(mode: SyncMode) -> Disk {
        Disk {
            mode,
            files: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            operations: 0,
            writes: 0,
            lies: false,
            damage: Damage::default(),
            last_written: None,
            files_made: 0,
        }
    }

    /// Whether there is no file at all.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// What the medium has done to it.
    pub fn damage(&self) -> &Damage {
        &self.damage
    }

    /// From now on the disk claims durability without providing it.
    pub fn lie(&mut self) {
        self.lies = true;
    }

    fn begin(&mut self, operation: Operation) -> OperationId {
        self.operations += 1;
        let id = OperationId(self.operations);
        self.in_flight.insert(id, operation);
        id
    }

    fn write(&mut self, offset: u64, data: Data) -> Write {
        self.writes += 1;
        Write { number: self.writes, offset: offset as usize, data }
    }

    /// Begins a write within a file.
    pub fn begin_write(&mut self, file: FileId, offset: u64, data: Data) -> OperationId {
        let length = self.files.get(&file).map_or(0, |file| file.live.len());
        assert!(offset as usize + data.len() <= length, "a write to {file} at {offset} leaves the file");
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64) && data.len().is_multiple_of(BLOCK_BYTES), "O_DIRECT");
        let write = self.write(offset, data);
        self.begin(Operation::Write { file, write })
    }

    /// Begins a sync of what is written to a file by now.
    pub fn begin_sync(&mut self, file: FileId) -> OperationId {
        let unsynced = self.files.get(&file).map(|file| file.unsynced.iter().map(|write| write.number).collect());
        self.begin(Operation::Sync { file, covered: unsynced.unwrap_or_default() })
    }

    /// Begins to create a file of zeros; it may exist in part, left by a crash.
    pub fn begin_create(&mut self, file: FileId, bytes: u64) -> OperationId {
        self.files.entry(file).or_default();
        self.begin(Operation::Create { file, bytes: bytes as usize })
    }

    /// Makes sure of the names of all files that there are, as a process does when it opens their directory.
    pub fn sync_directory(&mut self) {
        if !self.lies {
            self.files.values_mut().for_each(|file| file.named = true);
        }
    }

    /// Begins to zero a range of a file and to sync the file.
    pub fn begin_zero(&mut self, file: FileId, range: Range<u64>) -> OperationId {
        let zeros = self.write(range.start, Data::Zeros((range.end - range.start) as usize));
        self.begin(Operation::Zero { file, zeros })
    }

    /// Begins a read.
    pub fn begin_read(&mut self, file: FileId, offset: u64, bytes: u32) -> OperationId {
        self.begin(Operation::Read { file, offset: offset as usize, bytes: bytes as usize })
    }

    /// Completes an operation that is in flight; the order is the caller's choice.
    ///
    /// # Panics
    /// If it isn't in flight: the caller forgot a crash.
    pub fn complete(&mut self, id: OperationId) -> Completion {
        let hardens = !self.lies;
        match self.in_flight.remove(&id).expect("an operation completes once") {
            Operation::Write { file, write } => {
                let content = self.files.get_mut(&file).expect("files aren't removed");
                self.damage.written(file, &write.range());
                self.last_written = Some((file, write.offset / BLOCK_BYTES));
                write.apply(&mut content.live);
                match self.mode {
                    SyncMode::Dsync if hardens => {
                        // An earlier version of the same block that is still unsynced must not come back over it.
                        content.harden(|earlier| overlap(&earlier.range(), &write.range()));
                        write.apply(&mut content.durable);
                        content.sized = true;
                        self.damage.hardened(file, |block| overlap(block, &write.range()));
                    }
                    _ => content.unsynced.push(write),
                }
            }
            Operation::Sync { file, covered } => {
                if let Some(content) = self.files.get_mut(&file).filter(|_| hardens) {
                    content.harden(|write| covered.contains(&write.number));
                    content.sized = true;
                    let pending =
                        |block: &Range<usize>| content.unsynced.iter().any(|write| overlap(block, &write.range()));
                    self.damage.hardened(file, |block| !pending(block));
                }
            }
            Operation::Zero { file, zeros } => {
                let content = self.files.get_mut(&file).expect("files aren't removed");
                self.damage.written(file, &zeros.range());
                zeros.apply(&mut content.live);
                content.harden(|_| true);
                zeros.apply(&mut content.durable);
                content.sized = true;
                self.damage.hardened(file, |_| true);
            }
            Operation::Create { file, bytes } => {
                let zeros = File { named: true, sized: true, ..File::default() };
                let content = self.files.entry(file).or_default();
                *content = zeros;
                content.resize(bytes);
                self.damage.created(file);
                self.files_made = self.files_made.max(file.0);
            }
            Operation::Read { file, offset, bytes } => {
                return self.read_seen(file, offset..offset + bytes);
            }
        }
        Completion::Done
    }

    /// Ends everything in flight as the process or the machine ends.
    pub fn crash(&mut self, ending: Ending, random: &mut Random) {
        let survives = draw_survival(random);
        for operation in std::mem::take(&mut self.in_flight).into_values() {
            let (file, write) = match operation {
                Operation::Write { file, write } => (file, write),
                Operation::Zero { file, zeros } => (file, zeros),
                Operation::Create { file, bytes } => {
                    // However far it came: the rest of the file isn't there.
                    let blocks = random.index(bytes / BLOCK_BYTES + 1);
                    self.files.insert(file, File::default());
                    self.files.entry(file).or_default().resize(blocks * BLOCK_BYTES);
                    continue;
                }
                Operation::Sync { .. } | Operation::Read { .. } => continue,
            };
            // In flight or unsynced makes no difference to a power failure; a killed process's write lands or doesn't.
            let content = self.files.get_mut(&file).expect("files aren't removed");
            if ending == Ending::Kill {
                for block in blocks_of(write) {
                    if random.chance(survives) {
                        block.apply(&mut content.live);
                        content.unsynced.push(block);
                    }
                }
            } else {
                content.unsynced.push(write);
            }
        }
        if ending == Ending::PowerFailure {
            self.files.retain(|_, content| content.named || random.chance(Chance::of(1, 2)));
            for (file, content) in &mut self.files {
                let File { live, durable, unsynced, .. } = content;
                let block = |bytes: &[u8], block: usize| {
                    bytes.get(block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES).map(<[u8]>::to_vec)
                };
                let mended = self.damage.mended(*file).into_iter().map(|place| (place, block(durable, place)));
                let mended: Vec<_> = mended.collect();
                for write in unsynced.iter() {
                    write.apply_some_blocks(durable, survives, random);
                }
                for (place, before) in mended {
                    if block(durable, place) == before {
                        self.damage.relapse(*file, place);
                    }
                }
                for write in unsynced.drain(..) {
                    let range = write.range();
                    live[range.clone()].copy_from_slice(&durable[range]);
                }
                if !content.sized {
                    let blocks = content.durable.len() / BLOCK_BYTES;
                    content.durable.truncate(random.index(blocks + 1) * BLOCK_BYTES);
                    content.live.truncate(content.durable.len());
                }
                (content.named, content.sized) = (true, true);
            }
            self.damage.settle();
        }
    }

    /// Loses everything, as when somebody wipes the directory: a planted bug.
    pub fn wipe(&mut self) {
        self.files.clear();
        self.in_flight.clear();
        self.damage = Damage::default();
        self.last_written = None;
        self.files_made = 0;
    }

    /// Whether every byte of the range would survive a power failure as the process sees it.
    pub fn is_durable(&self, file: FileId, range: Range<u64>) -> bool {
        let Some(content) = self.files.get(&file) else { return false };
        let range = range.start as usize..range.end as usize;
        let pending = |write: &Write| overlap(&write.range(), &range);
        let in_flight = self.in_flight.values().any(|operation| match operation {
            Operation::Write { file: other, write } | Operation::Zero { file: other, zeros: write } => {
                *other == file && pending(write)
            }
            Operation::Sync { .. } | Operation::Read { .. } | Operation::Create { .. } => false,
        });
        content.named && content.sized && !in_flight && !content.unsynced.iter().any(pending)
    }

    /// What the process sees.
    pub fn live(&self) -> Image<'_> {
        let files = self.files.iter().map(|(file, content)| (*file, Cow::from(&content.live))).collect();
        Image { files, files_made: self.files_made, unreadable: Vec::new() }
    }

    /// What a process finds: what was written, as far as the medium gives it back.
    pub fn seen(&self) -> Image<'_> {
        let mut image = self.live();
        if !self.damage.is_empty() {
            image.files.retain(|file, _| !self.damage.is_removed(*file));
            for (file, content) in image.files.iter_mut().filter(|(file, _)| self.damage.is_in(**file)) {
                self.damage.overlay(*file, content.to_mut());
            }
            image.unreadable = self.damage.unreadable().collect();
        }
        image
    }

    /// What a power failure leaves for certain.
    pub fn durable(&self) -> Image<'_> {
        let certain = self.files.iter().filter(|(_, content)| content.named && content.sized);
        let files = certain.map(|(file, content)| (*file, Cow::from(&content.durable))).collect();
        Image { files, files_made: self.files_made, unreadable: Vec::new() }
    }

    /// What a power failure at this moment might leave: some blocks of what isn't synced or still in flight.
    pub fn after_power_failure(&self, random: &mut Random) -> Image<'_> {
        let survives = draw_survival(random);
        let mut image = self.durable();
        let unsynced =
            self.files.iter().flat_map(|(file, content)| content.unsynced.iter().map(move |write| (file, write)));
        let in_flight = self.in_flight.values().filter_map(|operation| match operation {
            Operation::Write { file, write } | Operation::Zero { file, zeros: write } => Some((file, write)),
            Operation::Sync { .. } | Operation::Create { .. } | Operation::Read { .. } => None,
        });
        for (file, write) in unsynced.chain(in_flight) {
            if let Some(content) = image.files.get_mut(file) {
                write.apply_some_blocks(content.to_mut(), survives, random);
            }
        }
        image
    }
}

/// How many of the blocks in question survive; drawn per crash, so that there are crashes that lose nothing,
/// everything, and something.
fn draw_survival(random: &mut Random) -> Chance {
    random.pick(&[Chance::NEVER, Chance::of(1, 2), Chance::of(9, 10), Chance::of(1, 1)])
}

fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

fn blocks_of(write: Write) -> impl Iterator<Item = Write> {
    (0..write.data.len()).step_by(BLOCK_BYTES).map(move |start| {
        let mut block = vec![0; BLOCK_BYTES];
        write.data.copy_to(start..start + BLOCK_BYTES, &mut block);
        Write { number: write.number, offset: write.offset + start, data: Data::Bytes(Rc::new(block)) }
    })
}

/// The files of a disk as somebody sees them, for recovery to read.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    files: BTreeMap<FileId, Cow<'a, [u8]>>,
    files_made: u32,
    /// Blocks that can't be read.
    unreadable: Vec<(FileId, usize)>,
}

impl Image<'_> {
    fn content(&self, file: FileId) -> io::Result<&[u8]> {
        self.files.get(&file).map(|content| &**content).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl SegmentStore for Image<'_> {
    fn files(&self) -> io::Result<Vec<FileId>> {
        Ok(self.files.keys().copied().collect())
    }

    fn files_made(&self) -> u32 {
        self.files_made
    }

    fn len(&self, file: FileId) -> io::Result<u64> {
        Ok(self.content(file)?.len() as u64)
    }

    fn read_at(&self, file: FileId, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let content = self.content(file)?;
        let start = offset as usize;
        let range = start..start + buffer.len();
        let bad = |(other, block): &(FileId, usize)| {
            *other == file && overlap(&(block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES), &range)
        };
        if self.unreadable.iter().any(bad) {
            return Err(io::Error::other("input/output error"));
        }
        let found = content.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(found);
        Ok(())
    }

    fn lend(&self, file: FileId, offset: u64, bytes: usize) -> Option<&[u8]> {
        // What can't be read says so where it is read.
        let start = offset as usize;
        self.files.get(&file).filter(|_| self.unreadable.is_empty())?.get(start..start + bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileId = FileId(1);
    const BLOCK: u64 = BLOCK_BYTES as u64;

    fn disk(mode: SyncMode) -> Disk {
        let mut disk = Disk::new(mode);
        let create = disk.begin_create(FILE, 4 * BLOCK);
        disk.complete(create);
        disk
    }

    fn block(byte: u8) -> Data {
        Data::Bytes(Rc::new(vec![byte; BLOCK_BYTES]))
    }

    fn first_bytes(image: Image<'_>) -> Vec<u8> {
        let mut bytes = vec![0; 4 * BLOCK_BYTES];
        image.read_at(FILE, 0, &mut bytes).unwrap();
        bytes.iter().step_by(BLOCK_BYTES).copied().collect()
    }

    #[test]
    fn a_write_is_seen_when_complete_and_safe_when_synced() {
        let mut disk = disk(SyncMode::Fdatasync);
        let write = disk.begin_write(FILE, BLOCK, block(7));
        assert_eq!(first_bytes(disk.live()), [0, 0, 0, 0]);
        disk.complete(write);
        assert_eq!(first_bytes(disk.live()), [0, 7, 0, 0]);
        assert_eq!(first_bytes(disk.durable()), [0, 0, 0, 0]);
        assert!(!disk.is_durable(FILE, BLOCK..2 * BLOCK));
        let sync = disk.begin_sync(FILE);
        let late = disk.begin_write(FILE, 2 * BLOCK, block(8));
        disk.complete(late);
        disk.complete(sync);
        assert_eq!(first_bytes(disk.durable()), [0, 7, 0, 0], "what completed during the sync isn't covered");
        assert!(disk.is_durable(FILE, BLOCK..2 * BLOCK));
        assert!(!disk.is_durable(FILE, 2 * BLOCK..3 * BLOCK));
    }

    #[test]
    fn a_dsync_write_is_safe_when_complete() {
        let mut disk = disk(SyncMode::Dsync);
        let write = disk.begin_write(FILE, 0, block(7));
        assert!(!disk.is_durable(FILE, 0..BLOCK));
        disk.complete(write);
        assert!(disk.is_durable(FILE, 0..BLOCK));
        assert_eq!(first_bytes(disk.durable()), [7, 0, 0, 0]);
    }

    #[test]
    fn a_power_failure_keeps_any_subset_of_unsynced_blocks() {
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let mut disk = disk(SyncMode::Fdatasync);
            let complete = disk.begin_write(FILE, 0, block(1));
            disk.complete(complete);
            let bytes = Rc::new(vec![2; 2 * BLOCK_BYTES]);
            disk.begin_write(FILE, BLOCK, Data::Bytes(bytes));
            disk.crash(Ending::PowerFailure, &mut Random::stream(seed, "test"));
            assert_eq!(first_bytes(disk.live()), first_bytes(disk.durable()));
            seen.insert(first_bytes(disk.live()));
        }
        assert_eq!(seen.len(), 8, "{seen:?}");
    }

    #[test]
    fn a_killed_process_leaves_its_completed_writes_unsynced() {
        let mut disk = disk(SyncMode::Fdatasync);
        let write = disk.begin_write(FILE, 0, block(1));
        disk.complete(write);
        disk.crash(Ending::Kill, &mut Random::stream(1, "test"));
        assert_eq!(first_bytes(disk.live())[0], 1);
        assert!(!disk.is_durable(FILE, 0..BLOCK));
        let sync = disk.begin_sync(FILE);
        disk.complete(sync);
        assert!(disk.is_durable(FILE, 0..BLOCK));
    }

    #[test]
    fn a_file_that_was_not_made_for_certain_may_be_gone_or_short() {
        let mut lengths = BTreeSet::new();
        for seed in 0..200 {
            let mut disk = Disk::new(SyncMode::Dsync);
            disk.begin_create(FILE, 2 * BLOCK);
            disk.crash(Ending::PowerFailure, &mut Random::stream(seed, "test"));
            lengths.insert(disk.live().len(FILE).ok());
        }
        assert_eq!(lengths, BTreeSet::from([None, Some(0), Some(BLOCK), Some(2 * BLOCK)]));
    }
}
