//! What a medium gives back instead of what was written: a layer over the true content of a disk, block by block.
//!
//! The truth stays underneath, so that checkers still know what the log had asked to be kept, whatever the medium has
//! done to it. What is written to a block replaces its damage, as a new write does on a real medium.
//!
//! A *lost* write is reported as done and durable, and the old content stays. If nothing durable behind it proves that
//! it was there, no reader can tell it from a write that was never made: then it is no fault that a log without a second
//! copy could survive, and the run lets it come true after all ([`Damage::unprovable_lost`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use synod_frame::BLOCK_BYTES;
use synod_wal::{FileId, Lsn};

use crate::random::{Chance, Random};

/// What a disk writes as one, however large a write is.
pub const SECTOR_BYTES: usize = 512;

/// What happened to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Harm {
    /// Its bytes changed by themselves.
    Rotten,
    /// A power failure left some sectors of the old content and some of the new.
    Torn,
    /// The block of this position in the log was never written, although the disk said so.
    Lost {
        /// Where the write belongs in the log.
        lsn: Lsn,
    },
    /// It was overwritten by something that belongs elsewhere.
    Overwritten,
    /// It can't be read.
    Unreadable {
        /// By how many more attempts; none if it stays so.
        attempts: Option<u32>,
    },
}

#[derive(Clone, Debug)]
struct HarmedBlock {
    harm: Harm,
    /// What is there; nothing if it can't be read.
    bytes: Vec<u8>,
}

/// How much changes by itself at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grain {
    /// One bit.
    Bit,
    /// 512 bytes.
    Sector,
    /// 4096 bytes.
    Block,
}

/// See the module documentation.
#[derive(Clone, Debug, Default)]
pub struct Damage {
    blocks: BTreeMap<(FileId, usize), HarmedBlock>,
    /// What was there before a write that a power failure may still take back.
    mended: BTreeMap<(FileId, usize), HarmedBlock>,
    /// Files that end early.
    lengths: BTreeMap<FileId, usize>,
    /// Files that somebody removed.
    removed: BTreeSet<FileId>,
}

impl Damage {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.lengths.is_empty() && self.removed.is_empty()
    }

    /// The files that it is in.
    pub fn files(&self) -> BTreeSet<FileId> {
        let blocks = self.blocks.keys().map(|(file, _)| *file);
        blocks.chain(self.lengths.keys().copied()).chain(self.removed.iter().copied()).collect()
    }

    /// Whether no block of the range is damaged.
    pub fn spares(&self, file: FileId, range: &Range<usize>) -> bool {
        let blocks = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
        !self.removed.contains(&file)
            && self.lengths.get(&file).is_none_or(|length| range.end <= *length)
            && self.blocks.range((file, blocks.start)..(file, blocks.end)).next().is_none()
    }

    /// Blocks from here to there hold what was just written.
    pub(super) fn written(&mut self, file: FileId, range: &Range<usize>) {
        if !self.blocks.is_empty() {
            let blocks = range.start / BLOCK_BYTES..range.end / BLOCK_BYTES;
            let covered = |(other, block): &(FileId, usize)| *other == file && blocks.contains(block);
            self.mended.extend(self.blocks.extract_if(.., |place, _| covered(place)));
        }
    }

    /// What was written to these blocks stays.
    pub(super) fn hardened(&mut self, file: FileId, is_durable: impl Fn(&Range<usize>) -> bool) {
        self.mended.retain(|(other, block), _| {
            *other != file || !is_durable(&(block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES))
        });
    }

    /// The blocks of a file that are as they were written because of writes that may be taken back.
    pub(super) fn mended(&self, file: FileId) -> Vec<usize> {
        self.mended.range((file, 0)..(file, usize::MAX)).map(|((_, block), _)| *block).collect()
    }

    /// A power failure took back the write that had mended the block.
    pub(super) fn relapse(&mut self, file: FileId, block: usize) {
        if let Some(harmed) = self.mended.remove(&(file, block)) {
            self.blocks.insert((file, block), harmed);
        }
    }

    /// Nothing can be taken back any more.
    pub(super) fn settle(&mut self) {
        self.mended.clear();
    }

    /// The file is new.
    pub(super) fn created(&mut self, file: FileId) {
        self.blocks.retain(|(other, _), _| *other != file);
        self.mended.retain(|(other, _), _| *other != file);
        self.lengths.remove(&file);
        self.removed.remove(&file);
    }

    /// A block has other content from now on.
    pub(super) fn put(&mut self, file: FileId, block: usize, harm: Harm, bytes: Vec<u8>) {
        self.blocks.insert((file, block), HarmedBlock { harm, bytes });
    }

    pub(super) fn shorten(&mut self, file: FileId, bytes: usize) {
        self.lengths.insert(file, bytes);
    }

    pub(super) fn remove(&mut self, file: FileId) {
        self.removed.insert(file);
    }

    pub(super) fn is_removed(&self, file: FileId) -> bool {
        self.removed.contains(&file)
    }

    pub(super) fn length(&self, file: FileId) -> Option<usize> {
        self.lengths.get(&file).copied()
    }

    /// What a block holds, if it isn't what was written.
    pub(super) fn block(&self, file: FileId, block: usize) -> Option<&[u8]> {
        let found = self.blocks.get(&(file, block))?;
        (!matches!(found.harm, Harm::Unreadable { .. })).then_some(&*found.bytes)
    }

    /// Lays the damage of a file over its content.
    pub(super) fn overlay(&self, file: FileId, content: &mut Vec<u8>) {
        for ((_, block), harmed) in self.blocks.range((file, 0)..(file, usize::MAX)) {
            let start = block * BLOCK_BYTES;
            if !matches!(harmed.harm, Harm::Unreadable { .. })
                && let Some(place) = content.get_mut(start..start + BLOCK_BYTES)
            {
                place.copy_from_slice(&harmed.bytes);
            }
        }
        if let Some(length) = self.lengths.get(&file) {
            content.truncate(*length);
        }
    }

    /// Whether a file shows anything else than what was written.
    pub(super) fn is_in(&self, file: FileId) -> bool {
        self.lengths.contains_key(&file) || self.blocks.range((file, 0)..(file, usize::MAX)).next().is_some()
    }

    /// The blocks that can't be read.
    pub(super) fn unreadable(&self) -> impl Iterator<Item = (FileId, usize)> {
        let unreadable =
            |(_, harmed): &(&(FileId, usize), &HarmedBlock)| matches!(harmed.harm, Harm::Unreadable { .. });
        self.blocks.iter().filter(unreadable).map(|(place, _)| *place)
    }

    /// Somebody tried to read the range and failed; what fails a few times only may work the next time.
    pub(super) fn tried(&mut self, file: FileId, range: &Range<usize>) {
        let blocks = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
        self.blocks.retain(|(other, block), harmed| match &mut harmed.harm {
            Harm::Unreadable { attempts: Some(left) } if *other == file && blocks.contains(block) => {
                *left -= 1;
                *left > 0
            }
            _ => true,
        });
    }

    /// What can be read again after a few attempts can be read at once.
    pub fn forget_passing(&mut self) {
        self.blocks.retain(|_, harmed| !matches!(harmed.harm, Harm::Unreadable { attempts: Some(_) }));
    }

    /// Whether every error that it makes goes away by itself.
    pub fn is_passing(&self) -> bool {
        let passing = |harmed: &HarmedBlock| matches!(harmed.harm, Harm::Unreadable { attempts: Some(_) });
        self.lengths.is_empty() && self.removed.is_empty() && self.blocks.values().all(passing)
    }

    /// Whether a write was lost at or above this position, so that nothing proves that it was there.
    pub fn unprovable_lost(&self, proof: Lsn) -> bool {
        let mut lost = self.blocks.values().filter_map(|harmed| match harmed.harm {
            Harm::Lost { lsn } => Some(lsn),
            _ => None,
        });
        lost.any(|lsn| lsn >= proof)
    }

    /// Whether any write was lost.
    pub fn has_lost(&self) -> bool {
        self.blocks.values().any(|harmed| matches!(harmed.harm, Harm::Lost { .. }))
    }

    /// Takes out the blocks whose write was lost.
    pub(super) fn take_lost(&mut self) -> Vec<(FileId, usize, Vec<u8>)> {
        let lost = self.blocks.extract_if(.., |_, harmed| matches!(harmed.harm, Harm::Lost { .. }));
        lost.map(|((file, block), harmed)| (file, block, harmed.bytes)).collect()
    }
}

/// Changes some of a block's bytes. Never to zeros: a block of zeros may be what was there before anything was written,
/// and then nobody could tell.
pub(super) fn rot(block: &mut [u8], grain: Grain, random: &mut Random) {
    match grain {
        Grain::Bit => {
            let bit = random.index(block.len() * 8);
            block[bit / 8] ^= 1 << (bit % 8);
        }
        Grain::Sector => {
            let sector = random.index(block.len() / SECTOR_BYTES) * SECTOR_BYTES;
            scramble(&mut block[sector..sector + SECTOR_BYTES], random);
        }
        Grain::Block => scramble(block, random),
    }
}

fn scramble(bytes: &mut [u8], random: &mut Random) {
    for byte in bytes {
        *byte ^= random.number() as u8 | 1;
    }
}

/// Some sectors of one content, and the others of another.
pub(super) fn mix(old: &[u8], new: &[u8], random: &mut Random) -> Vec<u8> {
    let mut mixed = old.to_vec();
    for start in (0..mixed.len()).step_by(SECTOR_BYTES) {
        if random.chance(Chance::of(1, 2)) {
            mixed[start..start + SECTOR_BYTES].copy_from_slice(&new[start..start + SECTOR_BYTES]);
        }
    }
    mixed
}
