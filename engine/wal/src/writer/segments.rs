//! The segments of a log by what may happen to them: next, active, closing, complete.

use std::collections::VecDeque;

use synod_frame::BLOCK_BYTES;
use synod_protocol::Slot;

use super::flush::Flush;
use super::paging::SealIndex;
use crate::format::{
    Footer, INDEX_ENTRIES_PER_BLOCK, SealBlock, SealKind, SealedRecord, TABLE_ENTRIES_PER_BLOCK, put_index, put_table,
};
use crate::identity::LogSalt;
use crate::lsn::{FileId, Lsn, WriteId};
use crate::segment::{BLOCK, Geometry};

/// Longest write that sealing asks for.
const SEAL_WRITE_BYTES: usize = 1 << 20;

/// A segment whose header is being written, ahead of the rotation into it.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) file: FileId,
    pub(super) epoch: u64,
    pub(super) header_checksum: u32,
    pub(super) header_write: WriteId,
    /// Set when the write completed.
    pub(super) header_ticket: Option<u64>,
    pub(super) first_needed: u64,
    /// The segment that this one follows: recovered ones in between are given up.
    pub(super) abandoned_after: u64,
    pub(super) configuration: Option<Slot>,
    pub(super) flush: Flush,
}

impl Next {
    pub(super) fn is_durable(&self) -> bool {
        self.header_ticket.is_some_and(|ticket| self.flush.covers(ticket))
    }
}

/// The segment that takes records.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) file: FileId,
    pub(super) epoch: u64,
    /// Where the next record goes.
    pub(super) offset: u64,
    pub(super) records: Vec<SealedRecord>,
    /// The checksum of every block as it was written, by number.
    pub(super) checksums: Vec<u32>,
    pub(super) slot_first: Slot,
    pub(super) slot_end: Slot,
    pub(super) bodies: u64,
    pub(super) body_bytes: u64,
    /// The slot of the configuration in the header, which is durable.
    pub(super) configuration: Option<Slot>,
    pub(super) flush: Flush,
}

impl Active {
    pub(super) fn new(next: Next, geometry: Geometry) -> Active {
        let mut checksums = vec![0; geometry.blocks()];
        checksums[0] = next.header_checksum;
        Active {
            file: next.file,
            epoch: next.epoch,
            offset: geometry.records_offset(),
            records: Vec::new(),
            checksums,
            slot_first: Slot(0),
            slot_end: Slot(0),
            bodies: 0,
            body_bytes: 0,
            configuration: next.configuration,
            flush: next.flush,
        }
    }

    /// Takes up a record that was laid out at the current offset.
    pub(super) fn push(&mut self, record: SealedRecord, block_checksums: impl Iterator<Item = u32>) {
        let first_block = (self.offset / BLOCK) as usize;
        for (slot, checksum) in self.checksums[first_block..].iter_mut().zip(block_checksums) {
            *slot = checksum;
        }
        let alone = record.body.filter(|_| record.kind.fills_slots());
        let content = alone.map(|body| (body.first, body.end(), 1, body.bytes));
        let packed = record.pack.map(|pack| (pack.first, pack.end, pack.bodies, pack.body_bytes));
        if let Some((first, end, bodies, body_bytes)) = content.or(packed) {
            self.slot_first = if self.bodies == 0 { first } else { self.slot_first.min(first) };
            self.slot_end = self.slot_end.max(end);
            self.bodies += u64::from(bodies);
            self.body_bytes += u64::from(body_bytes);
        }
        self.offset += u64::from(record.record_bytes);
        self.records.push(record);
    }
}

/// A segment that takes no more records and isn't sealed yet.
#[derive(Debug)]
pub(super) struct Closing {
    pub(super) segment: Active,
    pub(super) last_checksum: u32,
    pub(super) stage: ClosingStage,
}

#[derive(Debug)]
pub(super) enum ClosingStage {
    /// Its records aren't all durable: sealing would destroy the old table, which must tell torn blocks until then.
    Draining,
    /// The seal is being written.
    Sealing {
        /// Writes in flight.
        writes: Vec<WriteId>,
        /// Covers all that completed.
        ticket: u64,
    },
}

impl Closing {
    pub(super) fn is_sealed(&self) -> bool {
        match &self.stage {
            ClosingStage::Draining => false,
            ClosingStage::Sealing { writes, ticket } => writes.is_empty() && self.segment.flush.covers(*ticket),
        }
    }

    /// Everything from the last record to the end of the file: the offset, and the bytes in writes of bounded length.
    pub(super) fn lay_seal(&mut self, geometry: Geometry, salt: LogSalt, footer: Footer) -> Vec<(u64, Vec<u8>)> {
        let segment = &mut self.segment;
        let start = segment.offset;
        let index_offset = geometry.index_offset(segment.records.len());
        let mut head = SealBlock {
            kind: SealKind::Gap,
            epoch: segment.epoch,
            lsn: Lsn::ZERO,
            records_end: Lsn::new(segment.epoch, geometry.segment_bytes(), start),
            last_checksum: self.last_checksum,
            entries: 0,
        };
        let mut bytes = vec![0; (geometry.segment_bytes() - start) as usize];
        let (blocks, _) = bytes.as_chunks_mut::<BLOCK_BYTES>();
        let mut index = segment.records.chunks(INDEX_ENTRIES_PER_BLOCK);
        for (number, block) in blocks.iter_mut().enumerate() {
            let offset = start + number as u64 * BLOCK;
            head.lsn = Lsn::new(segment.epoch, geometry.segment_bytes(), offset);
            (head.kind, head.entries) = if offset < index_offset {
                (SealKind::Gap, 0)
            } else if offset < geometry.table_offset() {
                (SealKind::Index, put_index(index.next().unwrap_or(&[]), block))
            } else if offset < geometry.footer_offset() {
                let part = ((offset - geometry.table_offset()) / BLOCK) as usize;
                let entries = segment.checksums.chunks(TABLE_ENTRIES_PER_BLOCK).nth(part).unwrap_or(&[]);
                (SealKind::Table, put_table(entries, block))
            } else {
                footer.encode(block);
                (SealKind::Footer, 0)
            };
            head.encode(salt, block);
            // The table describes what the next life of the file will find: gap and index too.
            if offset < geometry.table_offset() {
                segment.checksums[(offset / BLOCK) as usize] = crc32fast::hash(block);
            }
        }
        let writes = bytes.chunks(SEAL_WRITE_BYTES).enumerate();
        writes.map(|(part, bytes)| (start + (part * SEAL_WRITE_BYTES) as u64, bytes.to_vec())).collect()
    }
}

/// A segment whose content doesn't change any more.
#[derive(Clone, Debug)]
pub(super) struct Complete {
    pub(super) file: FileId,
    pub(super) epoch: u64,
    /// The first slot after all its bodies; zero if it has none.
    pub(super) slot_end: Slot,
    /// Sealed segments may be written again as they are; cut ones must be zeroed first.
    pub(super) sealed: bool,
    /// The log's own time when it was complete, in microseconds: none of its records is younger.
    pub(super) log_time_us: u64,
    /// Whether all its records are there, so that it says what it says for good.
    pub(super) whole: bool,
    /// Of a sealed one: how to find a record in its index.
    pub(super) seal_index: Option<SealIndex>,
}

/// The first epoch at or after `floor` that must be kept: the first whose bodies don't all lie below `base`, or else
/// `open`, the first that isn't complete.
pub(super) fn first_needed(complete: &VecDeque<Complete>, base: Slot, floor: u64, open: u64) -> u64 {
    let kept = complete.iter().find(|segment| segment.slot_end > base);
    kept.map_or(open, |segment| segment.epoch).max(floor)
}
