//! The segment header: one block that says whose segment this is, what it follows, and what holds so far, so that the
//! segments before it may be dropped and a missing one is noticed.

use crc32fast::Hasher;
use synod_frame::{BLOCK_BYTES, GroupId};
use synod_protocol::{Ballot, FORMAT_FIRST, FORMAT_MAX, Mark, NodeId, Slot};

use super::field::{BallotField, Field, MarkField, first_nonzero};
use super::{Block, SegmentHeaderError, magic};
use crate::identity::{ExpectedIdentity, LogIdentity};
use crate::lsn::{FileId, Lsn};
use crate::segment::Geometry;

const MAGIC: u32 = magic(b"SYNS");

/// Groups whose state a header holds. This build writes one; more than these would need checkpoint records.
pub const GROUPS_MAX: usize = 8;

/// Longest body of a configuration that a header holds.
pub const CONFIGURATION_BYTES_MAX: usize = synod_protocol::limits::CONFIGURATION_BYTES_MAX;

/// Bytes of one entry of the group table.
const GROUP_BYTES: usize = 80;

mod field {
    use super::{BLOCK_BYTES, CONFIGURATION_BYTES_MAX, Field, GROUP_BYTES, GROUPS_MAX};

    pub(super) const MAGIC: Field = Field::first(4);
    pub(super) const VERSION: Field = MAGIC.then(2);
    pub(super) const READABLE_BY: Field = VERSION.then(2);
    pub(super) const CHECKSUM: Field = READABLE_BY.then(4);
    pub(super) const BLOCK_SIZE: Field = CHECKSUM.then(4);
    pub(super) const FEATURES: Field = BLOCK_SIZE.then(8);
    pub(super) const SEGMENT_BYTES: Field = FEATURES.then(8);
    pub(super) const CLUSTER: Field = SEGMENT_BYTES.then(16);
    pub(super) const INCARNATION: Field = CLUSTER.then(16);
    pub(super) const LINEAGE: Field = INCARNATION.then(8);
    pub(super) const NODE: Field = LINEAGE.then(4);
    pub(super) const LOG: Field = NODE.then(4);
    pub(super) const BOOT_COUNTER: Field = LOG.then(8);
    pub(super) const EPOCH: Field = BOOT_COUNTER.then(8);
    pub(super) const PREVIOUS_EPOCH: Field = EPOCH.then(8);
    pub(super) const BEFORE_EPOCH: Field = PREVIOUS_EPOCH.then(8);
    pub(super) const BEFORE_END: Field = BEFORE_EPOCH.then(8);
    pub(super) const BEFORE_CHECKSUM: Field = BEFORE_END.then(4);
    pub(super) const GROUPS: Field = BEFORE_CHECKSUM.then(4);
    pub(super) const DURABLE: Field = GROUPS.then(8);
    pub(super) const FIRST_NEEDED: Field = DURABLE.then(8);
    pub(super) const CHECKPOINT: Field = FIRST_NEEDED.then(8);
    pub(super) const LOG_TIME: Field = CHECKPOINT.then(8);
    pub(super) const CONFIGURATION_SLOT: Field = LOG_TIME.then(8);
    pub(super) const CONFIGURATION_BYTES: Field = CONFIGURATION_SLOT.then(4);
    pub(super) const FLAGS: Field = CONFIGURATION_BYTES.then(4);
    pub(super) const GROUP_TABLE: Field = FLAGS.then(GROUPS_MAX * GROUP_BYTES);
    pub(super) const FILE: Field = GROUP_TABLE.then(4);
    pub(super) const MISSING: Field = FILE.then(4);
    pub(super) const RESERVED_MIDDLE: Field = MISSING.then(CONFIGURATION.offset - MISSING.end());
    pub(super) const CONFIGURATION: Field =
        Field { offset: BLOCK_BYTES - CONFIGURATION_BYTES_MAX, bytes: CONFIGURATION_BYTES_MAX };
}

mod group_field {
    use super::{BallotField, Field, MarkField};

    pub(super) const GROUP: Field = Field::first(4);
    pub(super) const RESERVED: Field = GROUP.then(4);
    pub(super) const PROMISED: BallotField = BallotField::after(RESERVED);
    pub(super) const MARK: MarkField = MarkField::after(PROMISED.last());
    pub(super) const BASE: MarkField = MarkField::after(MARK.last());
}

// The byte map of engine/docs/wal-format.md; a change here is a new format version.
const _: () = {
    assert!(field::FEATURES.offset == 16);
    assert!(field::CLUSTER.offset == 32);
    assert!(field::BOOT_COUNTER.offset == 80);
    assert!(field::BEFORE_EPOCH.offset == 104);
    assert!(field::DURABLE.offset == 128);
    assert!(field::CONFIGURATION_SLOT.offset == 160);
    assert!(field::GROUP_TABLE.offset == 176);
    assert!(field::FILE.offset == 816);
    assert!(field::RESERVED_MIDDLE.offset == 824);
    assert!(field::CONFIGURATION.end() == BLOCK_BYTES);
    assert!(group_field::BASE.last().end() == GROUP_BYTES);
};

/// What holds for one group: the table of a segment header has one entry a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupState {
    /// The group.
    pub group: GroupId,
    /// Its highest promise.
    pub promised: Ballot,
    /// Its chosen prefix.
    pub mark: Mark,
    /// Everything below is trimmed.
    pub base: Mark,
}

/// Records may be missing in front of the segment.
const FLAG_BEFORE_LOST: u32 = 1;

/// The writer may have lost a promise.
const FLAG_UNSURE: u32 = 2;

/// A ruling configuration, kept as the exact bytes of its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredConfiguration {
    /// The slot at which it was chosen; zero for genesis.
    pub slot: Slot,
    /// The body's bytes; verified by whoever reads them. At most [`CONFIGURATION_BYTES_MAX`].
    pub body: Vec<u8>,
}

/// The first block of a segment.
///
/// Headers are written and durable before the first record of their segment is, so that a record of an epoch proves
/// its header, and an epoch once seen is never used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The file that it was written to; zero if that isn't said.
    pub file: FileId,
    /// The format that a build must read to read the segment, as far as that was known when the header was laid out: what
    /// came later says so itself.
    pub readable_by: u16,
    /// Whose log this is, and the boot in which the header was written.
    pub identity: LogIdentity,
    /// The number of this life of the file.
    pub epoch: u64,
    /// The epoch whose records the file held before and whose table still describes its blocks; zero if the file held
    /// zeros.
    pub previous_epoch: u64,
    /// The segment before this one in the log; zero for the first.
    pub before_epoch: u64,
    /// Where the records of the segment before end, if that segment was cut or left open by a crash. Zero if this header was
    /// written ahead of the rotation: then the segment before says so itself, by being sealed.
    pub before_end: Lsn,
    /// The checksum of the last record before, if `before_end` is given.
    pub before_checksum: u32,
    /// Everything before this position was durable when the header was laid out.
    pub durable: Lsn,
    /// Segments of a lower epoch aren't needed any more.
    pub first_needed: u64,
    /// Where the last checkpoint record lies; always zero in version 1.
    pub checkpoint: Lsn,
    /// The log's own time, in microseconds.
    pub log_time_us: u64,
    /// The ruling configuration; none before bootstrap.
    pub configuration: Option<StoredConfiguration>,
    /// Whether records may be missing between the segment before and this one: its end was damaged when it was cut.
    pub before_lost: bool,
    /// Whether a higher promise may have been lost when the header was laid out.
    pub unsure: bool,
    /// How many segments were missing when the log was opened: files lost since then were others.
    pub missing: u32,
    /// At most [`GROUPS_MAX`].
    pub groups: Vec<GroupState>,
}

impl SegmentHeader {
    /// Lays the header out as a block.
    ///
    /// # Panics
    /// If there are too many groups or the configuration is too long; both are checked where they enter the log.
    pub(crate) fn encode(&self, geometry: Geometry) -> Vec<u8> {
        assert!(self.groups.len() <= GROUPS_MAX, "a log has at most {GROUPS_MAX} groups");
        let mut block = vec![0; BLOCK_BYTES];
        let identity = &self.identity;
        field::MAGIC.put(&mut block, &MAGIC.to_le_bytes());
        field::VERSION.put(&mut block, &self.readable_by.to_le_bytes());
        field::READABLE_BY.put(&mut block, &self.readable_by.to_le_bytes());
        field::BLOCK_SIZE.put(&mut block, &(BLOCK_BYTES as u32).to_le_bytes());
        field::SEGMENT_BYTES.put(&mut block, &geometry.segment_bytes().to_le_bytes());
        field::CLUSTER.put(&mut block, &identity.cluster);
        field::INCARNATION.put(&mut block, &identity.incarnation);
        field::LINEAGE.put(&mut block, &identity.lineage.to_le_bytes());
        field::NODE.put(&mut block, &identity.node.0.to_le_bytes());
        field::LOG.put(&mut block, &identity.log.to_le_bytes());
        field::BOOT_COUNTER.put(&mut block, &identity.boot_counter.to_le_bytes());
        field::EPOCH.put(&mut block, &self.epoch.to_le_bytes());
        field::PREVIOUS_EPOCH.put(&mut block, &self.previous_epoch.to_le_bytes());
        field::BEFORE_EPOCH.put(&mut block, &self.before_epoch.to_le_bytes());
        field::BEFORE_END.put(&mut block, &self.before_end.0.to_le_bytes());
        field::BEFORE_CHECKSUM.put(&mut block, &self.before_checksum.to_le_bytes());
        field::GROUPS.put(&mut block, &(self.groups.len() as u32).to_le_bytes());
        field::DURABLE.put(&mut block, &self.durable.0.to_le_bytes());
        field::FIRST_NEEDED.put(&mut block, &self.first_needed.to_le_bytes());
        field::CHECKPOINT.put(&mut block, &self.checkpoint.0.to_le_bytes());
        field::LOG_TIME.put(&mut block, &self.log_time_us.to_le_bytes());
        let flags = (u32::from(self.before_lost) * FLAG_BEFORE_LOST) | (u32::from(self.unsure) * FLAG_UNSURE);
        field::FLAGS.put(&mut block, &flags.to_le_bytes());
        field::FILE.put(&mut block, &self.file.0.to_le_bytes());
        field::MISSING.put(&mut block, &self.missing.to_le_bytes());
        if let Some(configuration) = &self.configuration {
            let bytes = configuration.body.len();
            field::CONFIGURATION_SLOT.put(&mut block, &configuration.slot.0.to_le_bytes());
            field::CONFIGURATION_BYTES.put(&mut block, &(bytes as u32).to_le_bytes());
            block[field::CONFIGURATION.offset..][..bytes].copy_from_slice(&configuration.body);
        }
        for (index, state) in self.groups.iter().enumerate() {
            let entry = &mut block[field::GROUP_TABLE.offset + index * GROUP_BYTES..][..GROUP_BYTES];
            group_field::GROUP.put(entry, &state.group.0.to_le_bytes());
            group_field::PROMISED.put(entry, state.promised);
            group_field::MARK.put(entry, state.mark);
            group_field::BASE.put(entry, state.base);
        }
        let checksum = checksum(&block);
        field::CHECKSUM.put(&mut block, &checksum.to_le_bytes());
        block
    }

    /// What is known of a segment whose header is lost but whose records aren't.
    pub(crate) fn rebuilt(expected: &ExpectedIdentity, file: FileId, epoch: u64, previous_epoch: u64) -> SegmentHeader {
        let ExpectedIdentity { cluster, lineage, node, incarnation, log } = *expected;
        SegmentHeader {
            file,
            readable_by: FORMAT_FIRST,
            identity: LogIdentity { cluster, lineage, node, incarnation, boot_counter: 0, log },
            epoch,
            previous_epoch,
            before_epoch: 0,
            before_end: Lsn::ZERO,
            before_checksum: 0,
            durable: Lsn::ZERO,
            first_needed: 0,
            checkpoint: Lsn::ZERO,
            log_time_us: 0,
            configuration: None,
            before_lost: false,
            unsure: false,
            missing: 0,
            groups: Vec::new(),
        }
    }

    /// Reads and verifies the first block of a segment.
    ///
    /// # Errors
    /// The first thing that is wrong. Identity isn't looked at: whoever reads knows what to expect.
    pub fn decode(block: &Block, geometry: Geometry) -> Result<SegmentHeader, SegmentHeaderError> {
        let found = field::MAGIC.u32(block);
        if found != MAGIC {
            let fresh = first_nonzero(block).is_none();
            return Err(if fresh { SegmentHeaderError::Fresh } else { SegmentHeaderError::Magic { found } });
        }
        let expected = field::CHECKSUM.u32(block);
        let actual = checksum(block);
        if expected != actual {
            return Err(SegmentHeaderError::Checksum { expected, actual });
        }
        // Another format may lay everything else out differently.
        let needed = field::READABLE_BY.u16(block);
        if !(FORMAT_FIRST..=FORMAT_MAX).contains(&needed) {
            return Err(SegmentHeaderError::Version { needed });
        }
        let found = field::FEATURES.u64(block);
        if found != 0 {
            return Err(SegmentHeaderError::Features { found });
        }
        check_geometry(block, geometry)?;
        let epoch = field::EPOCH.u64(block);
        let flags = field::FLAGS.u32(block);
        if flags & !(FLAG_BEFORE_LOST | FLAG_UNSURE) != 0 {
            return Err(SegmentHeaderError::Bounds { field: "flags" });
        }
        let header = SegmentHeader {
            file: FileId(field::FILE.u32(block)),
            readable_by: needed,
            identity: LogIdentity {
                cluster: field::CLUSTER.array(block),
                lineage: field::LINEAGE.u64(block),
                node: NodeId(field::NODE.u32(block)),
                incarnation: field::INCARNATION.array(block),
                boot_counter: field::BOOT_COUNTER.u64(block),
                log: field::LOG.u32(block),
            },
            epoch,
            previous_epoch: field::PREVIOUS_EPOCH.u64(block),
            before_epoch: field::BEFORE_EPOCH.u64(block),
            before_end: Lsn(field::BEFORE_END.u64(block)),
            before_checksum: field::BEFORE_CHECKSUM.u32(block),
            durable: Lsn(field::DURABLE.u64(block)),
            first_needed: field::FIRST_NEEDED.u64(block),
            checkpoint: Lsn(field::CHECKPOINT.u64(block)),
            log_time_us: field::LOG_TIME.u64(block),
            configuration: read_configuration(block)?,
            before_lost: flags & FLAG_BEFORE_LOST != 0,
            unsure: flags & FLAG_UNSURE != 0,
            missing: field::MISSING.u32(block),
            groups: read_groups(block)?,
        };
        header.check_bounds(geometry)?;
        Ok(header)
    }

    fn check_bounds(&self, geometry: Geometry) -> Result<(), SegmentHeaderError> {
        let last_epoch = u64::MAX / geometry.segment_bytes();
        let end_agrees = self.before_end == Lsn::ZERO
            || (self.before_epoch != 0 && self.before_end.epoch(geometry.segment_bytes()) == self.before_epoch);
        for (field, valid) in [
            ("epoch", self.epoch != 0 && self.epoch < last_epoch),
            ("previous_epoch", self.previous_epoch < self.epoch),
            ("before_epoch", self.before_epoch < self.epoch),
            ("before_end", end_agrees),
            ("durable", self.durable.epoch(geometry.segment_bytes()) < self.epoch),
            ("first_needed", self.first_needed <= self.epoch),
        ] {
            if !valid {
                return Err(SegmentHeaderError::Bounds { field });
            }
        }
        Ok(())
    }
}

fn check_geometry(block: &Block, geometry: Geometry) -> Result<(), SegmentHeaderError> {
    let (segment_bytes, block_bytes) = (field::SEGMENT_BYTES.u64(block), field::BLOCK_SIZE.u32(block));
    let expected_bytes = geometry.segment_bytes();
    if segment_bytes != expected_bytes || block_bytes as usize != BLOCK_BYTES {
        return Err(SegmentHeaderError::Geometry { segment_bytes, block_bytes, expected_bytes });
    }
    Ok(())
}

fn read_configuration(block: &Block) -> Result<Option<StoredConfiguration>, SegmentHeaderError> {
    let bytes = field::CONFIGURATION_BYTES.u32(block) as usize;
    if bytes == 0 {
        return Ok(None);
    }
    let body = block[field::CONFIGURATION.offset..]
        .get(..bytes)
        .ok_or(SegmentHeaderError::Bounds { field: "configuration_bytes" })?;
    Ok(Some(StoredConfiguration { slot: Slot(field::CONFIGURATION_SLOT.u64(block)), body: body.to_vec() }))
}

fn read_groups(block: &Block) -> Result<Vec<GroupState>, SegmentHeaderError> {
    let count = field::GROUPS.u32(block) as usize;
    if count > GROUPS_MAX {
        return Err(SegmentHeaderError::Bounds { field: "groups" });
    }
    let (entries, _) = block[field::GROUP_TABLE.offset..field::GROUP_TABLE.end()].as_chunks::<GROUP_BYTES>();
    let groups = entries[..count].iter().map(|entry| GroupState {
        group: GroupId(group_field::GROUP.u32(entry)),
        promised: group_field::PROMISED.read(entry),
        mark: group_field::MARK.read(entry),
        base: group_field::BASE.read(entry),
    });
    Ok(groups.collect())
}

/// Over the block without the field that holds it. Not salted: it must be readable without knowing whose it is.
fn checksum(block: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&block[..field::CHECKSUM.offset]);
    hasher.update(&block[field::CHECKSUM.end()..]);
    hasher.finalize()
}
