//! How a disk goes wrong: operations that fail, writes that go astray, blocks that rot or can't be read, directories that
//! somebody has meddled with.

use std::ops::Range;

use synod_frame::BLOCK_BYTES;
use synod_wal::{FileId, Lsn};

use super::damage::{Grain, Harm, mix, rot};
use super::{Astray, Completion, Disk, Operation, OperationId, Tear, Write, overlap};
use crate::random::{Chance, Random};

/// What part of a log was struck, to see that all of them are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Struck {
    /// The first block of a segment.
    Header,
    /// The last block of a segment.
    Footer,
    /// Zeros: padding, or space that was never used.
    Zeros,
    /// Something else.
    Content,
}

impl Disk {
    /// A range as it is read.
    pub(super) fn read_seen(&mut self, file: FileId, range: Range<usize>) -> Completion {
        if self.damage.is_empty() {
            return Completion::Read(self.files[&file].live[range].to_vec());
        }
        let cut = self.damage.length(file).is_some_and(|length| range.end > length) || self.damage.is_removed(file);
        let unreadable = |place: (FileId, usize)| place.0 == file && overlap(&block_range(place.1), &range);
        if cut || self.damage.unreadable().any(unreadable) {
            self.damage.tried(file, &range);
            return Completion::Failed;
        }
        let mut bytes = self.files[&file].live[range.clone()].to_vec();
        for (place, block) in bytes.chunks_mut(BLOCK_BYTES).zip(range.start / BLOCK_BYTES..) {
            if let Some(other) = self.damage.block(file, block) {
                place.copy_from_slice(other);
            }
        }
        Completion::Read(bytes)
    }

    /// What a block shows; nothing if there is no such block.
    fn seen_block(&self, file: FileId, block: usize) -> Option<Vec<u8>> {
        if let Some(bytes) = self.damage.block(file, block) {
            return Some(bytes.to_vec());
        }
        Some(self.files.get(&file)?.live.get(block_range(block))?.to_vec())
    }

    /// Ends an operation without success. What a write or a sync that failed has done is unknown: any of its blocks may
    /// be there, and what a failed sync should have covered may be gone for good.
    pub fn fail(&mut self, id: OperationId, random: &mut Random) -> Completion {
        match self.in_flight.remove(&id).expect("an operation completes once") {
            Operation::Write { file, write } | Operation::Zero { file, zeros: write } => {
                let content = self.files.get_mut(&file).expect("files aren't removed");
                for block in super::blocks_of(write) {
                    if random.chance(Chance::of(1, 2)) {
                        self.damage.written(file, &block.range());
                        block.apply(&mut content.live);
                        content.unsynced.push(block);
                    }
                }
            }
            Operation::Sync { file, covered } => {
                if let Some(content) = self.files.get_mut(&file) {
                    let super::File { live, durable, unsynced, .. } = content;
                    let gone = unsynced
                        .extract_if(.., |write| covered.contains(&write.number) && random.chance(Chance::of(1, 3)));
                    let gone: Vec<Write> = gone.collect();
                    for write in gone {
                        live[write.range()].copy_from_slice(&durable[write.range()]);
                    }
                    // What is still in the cache lies over what has become of the rest.
                    for write in unsynced.iter() {
                        write.apply(live);
                    }
                }
            }
            Operation::Create { .. } | Operation::Read { .. } => {}
        }
        Completion::Failed
    }

    /// Whether this makes a new file.
    pub fn is_creating(&self, id: OperationId) -> bool {
        matches!(self.in_flight.get(&id), Some(Operation::Create { .. }))
    }

    /// Where a write that is in flight goes.
    pub fn file_of(&self, id: OperationId) -> Option<(FileId, u64)> {
        match self.in_flight.get(&id)? {
            Operation::Write { file, write } => Some((*file, write.offset as u64)),
            _ => None,
        }
    }

    /// Completes a write as if all were well, but its blocks, or one of them, go astray. `lsn` is where the write belongs.
    /// Whether anything went astray: it must be a write, and its file must have content.
    pub fn complete_astray(
        &mut self,
        id: OperationId,
        astray: Astray,
        lsn: Lsn,
        random: &mut Random,
    ) -> (Completion, bool) {
        let Some(Operation::Write { file, write }) = self.in_flight.get(&id).cloned() else {
            return (self.complete(id), false);
        };
        let first = write.offset / BLOCK_BYTES;
        let count = write.data.len() / BLOCK_BYTES;
        // All of it, or one block.
        let blocks = if random.chance(Chance::of(1, 2)) { 0..count } else { single(random.index(count)) };
        let old: Vec<_> = blocks.clone().map(|block| self.seen_block(file, first + block)).collect();
        let new: Vec<Vec<u8>> = blocks.clone().map(|block| block_bytes(&write, block)).collect();
        let completion = self.complete(id);
        let mut astray_any = false;
        for (block, (old, new)) in blocks.clone().zip(old.into_iter().zip(&new)) {
            let Some(old) = old.filter(|old| old != new) else { continue };
            let lsn = Lsn(lsn.0 + (block * BLOCK_BYTES) as u64);
            self.damage.put(file, first + block, Harm::Lost { lsn }, old);
            astray_any = true;
        }
        let target = match astray {
            Astray::Nowhere => None,
            Astray::SameFile => Some(file),
            Astray::OtherFile => {
                let others: Vec<FileId> = self.files.keys().copied().filter(|other| *other != file).collect();
                (!others.is_empty()).then(|| random.pick(&others))
            }
        };
        if let Some(target) = target.filter(|_| astray_any) {
            let length = self.files[&target].live.len() / BLOCK_BYTES;
            if length > 0 {
                let start = random.index(length);
                for (block, new) in (start..length).zip(new) {
                    let home = target == file && (first..first + count).contains(&block);
                    if !home && self.seen_block(target, block).is_some_and(|old| old != new) {
                        self.damage.put(target, block, Harm::Overwritten, new);
                    }
                }
            }
        }
        (completion, astray_any)
    }

    /// Bytes somewhere in the files change by themselves. What was struck, if there is anything.
    pub fn rot(&mut self, grain: Grain, random: &mut Random) -> Option<Struck> {
        let (file, block) = self.draw_block(random)?;
        let mut bytes = self.seen_block(file, block)?;
        let struck = self.name_block(file, block, &bytes);
        rot(&mut bytes, grain, random);
        self.damage.put(file, block, Harm::Rotten, bytes);
        Some(struck)
    }

    /// One bit of a certain byte changes by itself; whether there is such a byte.
    pub fn flip_bit(&mut self, file: FileId, offset: u64) -> bool {
        let (block, byte) = (offset as usize / BLOCK_BYTES, offset as usize % BLOCK_BYTES);
        let Some(mut bytes) = self.seen_block(file, block) else { return false };
        bytes[byte] ^= 1;
        self.damage.put(file, block, Harm::Rotten, bytes);
        true
    }

    /// A block can't be read any more; for some attempts, or until it is written.
    pub fn make_unreadable(&mut self, attempts: Option<u32>, random: &mut Random) -> Option<Struck> {
        let (file, block) = self.draw_block(random)?;
        let bytes = self.seen_block(file, block)?;
        self.damage.put(file, block, Harm::Unreadable { attempts }, bytes.clone());
        Some(self.name_block(file, block, &bytes))
    }

    /// Draws a block; those that hold something, the first and last of a file, and the tail of the log, more often than
    /// others.
    fn draw_block(&self, random: &mut Random) -> Option<(FileId, usize)> {
        if random.chance(Chance::of(1, 4))
            && let Some((file, block)) = self.last_written
            && self.files.get(&file).is_some_and(|content| content.live.len() >= block_range(block).end)
        {
            return Some((file, block));
        }
        let files: Vec<FileId> = self.files.keys().copied().filter(|file| !self.damage.is_removed(*file)).collect();
        let file = (!files.is_empty()).then(|| random.pick(&files))?;
        let length = self.files[&file].live.len() / BLOCK_BYTES;
        if length == 0 {
            return None;
        }
        Some(match random.below(8) {
            0 => (file, 0),
            1 => (file, length - 1),
            2..=5 => {
                let start = random.index(length);
                let used = |block: &usize| self.files[&file].live[block_range(*block)].iter().any(|byte| *byte != 0);
                let block = (0..length).map(|offset| (start + offset) % length).find(used);
                (file, block.unwrap_or(start))
            }
            _ => (file, random.index(length)),
        })
    }

    fn name_block(&self, file: FileId, block: usize, bytes: &[u8]) -> Struck {
        let last = self.files[&file].live.len() / BLOCK_BYTES - 1;
        if bytes.iter().all(|byte| *byte == 0) {
            Struck::Zeros
        } else if block == 0 {
            Struck::Header
        } else if block == last {
            Struck::Footer
        } else {
            Struck::Content
        }
    }

    /// Draws one block that a power failure at this moment might leave half written.
    pub fn draw_tear(&self, random: &mut Random) -> Option<Tear> {
        let unsynced =
            self.files.iter().flat_map(|(file, content)| content.unsynced.iter().map(move |write| (*file, write)));
        let in_flight = self.in_flight.values().filter_map(|operation| match operation {
            Operation::Write { file, write } => Some((*file, write)),
            _ => None,
        });
        let writes: Vec<(FileId, &Write)> = unsynced.chain(in_flight).collect();
        if writes.is_empty() {
            return None;
        }
        let (file, write) = writes[random.index(writes.len())];
        let block = random.index(write.data.len() / BLOCK_BYTES);
        let new = block_bytes(write, block);
        let block = write.offset / BLOCK_BYTES + block;
        let old = self.files[&file].durable.get(block_range(block))?;
        let mixed = mix(old, &new, random);
        (mixed != new && mixed != old).then_some(Tear { file, block, mixed })
    }

    /// Leaves a block half written; whether it is still there.
    pub fn tear(&mut self, tear: Tear) -> bool {
        let there = self.files.get(&tear.file).is_some_and(|file| file.live.len() >= block_range(tear.block).end);
        if there {
            self.damage.put(tear.file, tear.block, Harm::Torn, tear.mixed);
        }
        there
    }

    /// Somebody removes a file; which, if there is another one left. `newest` is never it.
    pub fn remove_file(&mut self, newest: &[FileId], random: &mut Random) -> Option<FileId> {
        let file = self.draw_file(newest, random)?;
        self.damage.remove(file);
        Some(file)
    }

    /// Somebody cuts a file off in the middle; not the `newest`.
    pub fn shorten_file(&mut self, newest: &[FileId], random: &mut Random) -> Option<FileId> {
        let file = self.draw_file(newest, random)?;
        let blocks = self.files[&file].live.len() / BLOCK_BYTES;
        self.damage.shorten(file, random.index(blocks) * BLOCK_BYTES + random.index(BLOCK_BYTES));
        Some(file)
    }

    /// Somebody copies a file beside the others, under a name of its own.
    pub fn copy_file(&mut self, file: FileId) -> Option<FileId> {
        let last = self.files.last_key_value().map(|(file, _)| *file)?;
        let copy = FileId(last.0 + 1);
        let content = self.files.get(&file)?.clone();
        self.files.insert(copy, content);
        Some(copy)
    }

    /// Takes a copied file away again.
    pub fn remove_copy(&mut self, copy: FileId) {
        self.files.remove(&copy);
    }

    fn draw_file(&self, except: &[FileId], random: &mut Random) -> Option<FileId> {
        let whole = |(file, content): &(&FileId, &super::File)| {
            !self.damage.is_removed(**file) && !except.contains(file) && !content.live.is_empty()
        };
        let files: Vec<FileId> = self.files.iter().filter(whole).map(|(file, _)| *file).collect();
        (files.len() > 1).then(|| random.pick(&files))
    }

    /// Everything from here to the end of a file is zeroed: what a recovery does that takes damage for a torn write.
    pub fn cut(&mut self, file: FileId, offset: u64) {
        let Some(content) = self.files.get_mut(&file) else { return };
        let range = offset as usize..content.live.len();
        content.harden(|_| true);
        content.live[range.clone()].fill(0);
        content.durable[range.clone()].fill(0);
        self.damage.written(file, &range);
    }

    /// Writes that were lost come true after all.
    pub fn surface_lost(&mut self) {
        self.damage.take_lost();
    }

    /// Writes that were lost count as never made: the log has gone on without them. Whether there were any.
    pub fn settle_lost(&mut self) -> bool {
        let lost = self.damage.take_lost();
        let any = !lost.is_empty();
        for (file, block, bytes) in lost {
            let Some(content) = self.files.get_mut(&file) else { continue };
            let range = block_range(block);
            if content.live.len() < range.end {
                continue;
            }
            content.harden(|write| overlap(&write.range(), &range));
            content.live[range.clone()].copy_from_slice(&bytes);
            content.durable[range].copy_from_slice(&bytes);
        }
        any
    }

    /// Errors that go away by themselves do.
    pub fn forget_passing_errors(&mut self) {
        self.damage.forget_passing();
    }

    /// Somebody tried to read everything, and failed.
    pub fn tried_everything(&mut self) {
        let files: Vec<FileId> = self.files.keys().copied().collect();
        for file in files {
            self.damage.tried(file, &(0..usize::MAX / 2));
        }
    }
}

fn single(block: usize) -> Range<usize> {
    block..block + 1
}

fn block_range(block: usize) -> Range<usize> {
    block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES
}

fn block_bytes(write: &Write, block: usize) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK_BYTES];
    write.data.copy_to(block_range(block), &mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::disk::damage::SECTOR_BYTES;
    use crate::disk::{Data, Ending};
    use synod_wal::{SegmentStore, SyncMode};

    const FILE: FileId = FileId(1);
    const OTHER: FileId = FileId(2);
    const BLOCK: u64 = BLOCK_BYTES as u64;

    fn disk() -> Disk {
        let mut disk = Disk::new(SyncMode::Dsync);
        for file in [FILE, OTHER] {
            let create = disk.begin_create(file, 4 * BLOCK);
            disk.complete(create);
        }
        disk
    }

    fn write(disk: &mut Disk, block: u64, byte: u8) -> OperationId {
        disk.begin_write(FILE, block * BLOCK, Data::Bytes(Rc::new(vec![byte; BLOCK_BYTES])))
    }

    fn seen(disk: &Disk, file: FileId) -> Vec<u8> {
        let mut bytes = vec![0; 4 * BLOCK_BYTES];
        disk.seen().read_at(file, 0, &mut bytes).unwrap();
        bytes.iter().step_by(BLOCK_BYTES).copied().collect()
    }

    fn random(seed: u64) -> Random {
        Random::stream(seed, "test")
    }

    #[test]
    fn a_lost_write_counts_as_durable_and_shows_the_old_content() {
        let mut disk = disk();
        let lost = write(&mut disk, 1, 7);
        let (_, astray) = disk.complete_astray(lost, Astray::Nowhere, Lsn(BLOCK), &mut random(1));
        assert!(astray && disk.is_durable(FILE, BLOCK..2 * BLOCK));
        assert_eq!(seen(&disk, FILE), [0, 0, 0, 0]);
        assert!(disk.damage().unprovable_lost(Lsn(BLOCK)) && !disk.damage().unprovable_lost(Lsn(BLOCK + 1)));
        let mut late = disk.clone();
        late.surface_lost();
        assert_eq!(seen(&late, FILE), [0, 7, 0, 0]);
        assert!(disk.settle_lost() && disk.damage().is_empty());
        assert_eq!(seen(&disk, FILE), [0, 0, 0, 0]);
        let mut bytes = vec![1; BLOCK_BYTES];
        disk.durable().read_at(FILE, BLOCK, &mut bytes).unwrap();
        assert_eq!(bytes[0], 0);
    }

    #[test]
    fn a_misdirected_write_damages_two_places() {
        for seed in 0..20 {
            let mut disk = disk();
            let astray = write(&mut disk, 1, 7);
            disk.complete_astray(astray, Astray::OtherFile, Lsn(BLOCK), &mut random(seed));
            assert_eq!(seen(&disk, FILE), [0, 0, 0, 0]);
            assert_eq!(seen(&disk, OTHER).iter().filter(|byte| **byte == 7).count(), 1);
            assert_eq!(disk.damage().files().len(), 2);
        }
    }

    #[test]
    fn a_write_mends_what_it_covers() {
        let mut disk = disk();
        for _ in 0..100 {
            disk.rot(Grain::Bit, &mut random(3));
            disk.make_unreadable(None, &mut random(4));
        }
        assert!(!disk.damage().is_empty());
        for file in [FILE, OTHER] {
            let zero = disk.begin_zero(file, 0..4 * BLOCK);
            disk.complete(zero);
        }
        assert!(disk.damage().is_empty());
    }

    #[test]
    fn an_error_that_passes_is_there_for_so_many_reads() {
        let mut disk = disk();
        disk.make_unreadable(Some(2), &mut random(1));
        let (file, _) = disk.damage.unreadable().next().unwrap();
        let mut read = || {
            let read = disk.begin_read(file, 0, 4 * BLOCK_BYTES as u32);
            matches!(disk.complete(read), Completion::Failed)
        };
        assert_eq!([read(), read(), read()], [true, true, false]);
    }

    #[test]
    fn a_torn_block_is_of_two_contents() {
        let mut torn = 0;
        for seed in 0..50 {
            let mut disk = disk();
            write(&mut disk, 1, 7);
            let tear = disk.draw_tear(&mut random(seed));
            disk.crash(Ending::PowerFailure, &mut random(seed));
            torn += u32::from(tear.is_some_and(|tear| disk.tear(tear)));
            let mut bytes = vec![1; BLOCK_BYTES];
            disk.seen().read_at(FILE, BLOCK, &mut bytes).unwrap();
            assert!(bytes.chunks(SECTOR_BYTES).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        }
        assert!(torn > 40, "{torn}");
    }

    #[test]
    fn a_failed_sync_makes_nothing_durable_and_may_lose_what_it_should_have_covered() {
        let mut lost = 0;
        for seed in 0..50 {
            let mut disk = Disk::new(SyncMode::Fdatasync);
            let create = disk.begin_create(FILE, 4 * BLOCK);
            disk.complete(create);
            let written = write(&mut disk, 1, 7);
            disk.complete(written);
            let sync = disk.begin_sync(FILE);
            assert!(matches!(disk.fail(sync, &mut random(seed)), Completion::Failed));
            match seen(&disk, FILE)[1] {
                0 => lost += 1,
                _ => assert!(!disk.is_durable(FILE, BLOCK..2 * BLOCK)),
            }
        }
        assert!((1..50).contains(&lost), "{lost}");
    }
}
