//! What each node's log durably holds, as the simulated disk knows it: the truth that claims are held against.
//!
//! Records are read off the writes that a node asks for, and count once the disk would keep them, all before them, and
//! the seals of all segments before theirs through a power failure: a recovery may cut an unsealed segment, and then
//! drops what follows. Nothing here asks the log what it believes to be durable.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use synod_frame::{BLOCK_BYTES, BodyHeader};
use synod_protocol::{Ballot, BodyHandle, BodyId};
use synod_wal::format::{Block, RecordHeader, SegmentHeader};
use synod_wal::{FileId, Geometry, LogSalt, Lsn, RecordKind, RecordMeta, RecoveredLog};

use crate::disk::Disk;

/// Durable records that are remembered for what they prove; none but the last ones matter.
const PROOFS_MAX: usize = 64;

/// A record of some log, with its body.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// What its header says.
    pub meta: RecordMeta,
    /// Its body.
    pub body: Option<BodyHandle>,
}

#[derive(Debug)]
struct Pending {
    file: FileId,
    offset: u64,
    bytes: u64,
    epoch: u64,
    record: Record,
    /// What the record says was durable before it.
    says_durable: Lsn,
}

/// See the module documentation; one per node.
#[derive(Debug)]
pub struct Durability {
    salt: LogSalt,
    geometry: Geometry,
    /// The epoch that the header of each file names, as last written in this life.
    epochs: BTreeMap<FileId, u64>,
    /// Written in this life and not yet durable, in log order.
    pending: VecDeque<Pending>,
    /// The segment of the last record that became durable in this life, and its file.
    reached: Option<(u64, FileId)>,
    /// Files whose footer was written in this life, with its epoch.
    footers: BTreeMap<FileId, u64>,
    promised: Ballot,
    accepted: BTreeSet<(BodyId, Ballot)>,
    held: BTreeSet<BodyId>,
    /// The last durable records, and what each says was durable before it.
    proofs: VecDeque<(FileId, Range<usize>, Lsn)>,
    /// A write or a sync of this life failed: from here on nothing is known.
    failed: bool,
    /// Whether what this life recovered was looked up on the disk since.
    verified: bool,
}

impl Durability {
    /// Nothing is durable.
    pub fn new(salt: LogSalt, geometry: Geometry) -> Durability {
        Durability {
            salt,
            geometry,
            epochs: BTreeMap::new(),
            pending: VecDeque::new(),
            reached: None,
            footers: BTreeMap::new(),
            promised: Ballot::ZERO,
            accepted: BTreeSet::new(),
            held: BTreeSet::new(),
            proofs: VecDeque::new(),
            failed: false,
            verified: false,
        }
    }

    /// Notes that a segment header or a footer is being written, if these bytes are one.
    pub fn write_bytes(&mut self, file: FileId, offset: u64, bytes: &[u8]) {
        if offset + bytes.len() as u64 == self.geometry.segment_bytes()
            && let Some(epoch) = self.epochs.get(&file)
        {
            self.footers.insert(file, *epoch);
        }
        if offset == 0
            && let Some(block) = first_block(bytes)
            && let Ok(header) = SegmentHeader::decode(block, self.geometry)
        {
            self.epochs.insert(file, header.epoch);
        }
    }

    /// Notes that a record is being written.
    ///
    /// # Panics
    /// If it isn't a valid record of this log at its place, or its body isn't the one that its bytes hash to.
    pub fn write_record(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> Record {
        let epoch = *self.epochs.get(&file).expect("a segment's header is written before its records");
        let at = Lsn::new(epoch, self.geometry.segment_bytes(), offset);
        let block = first_block(bytes).expect("a record is a block at least");
        let (header, body) =
            RecordHeader::decode(block, self.salt, at, epoch).expect("a log writes valid records only");
        assert_eq!(header.record_bytes as usize, bytes.len(), "a record is written whole");
        let record = Record { meta: header.meta, body: body.as_ref().map(BodyHeader::handle) };
        let says_durable = header.durable;
        self.pending.push_back(Pending { file, offset, bytes: bytes.len() as u64, epoch, record, says_durable });
        record
    }

    /// The oldest record that has become durable since the last call, if there is one.
    pub fn next_durable(&mut self, disk: &Disk) -> Option<Record> {
        let pending = self.pending.front().filter(|_| !self.failed)?;
        if !disk.is_durable(pending.file, pending.offset..pending.offset + pending.bytes) {
            return None;
        }
        let here = (pending.epoch, pending.file);
        if let Some((epoch, file)) = self.reached.filter(|before| *before != here) {
            let sealed = self.footers.get(&file) == Some(&epoch);
            if !sealed || !disk.is_durable(file, 0..self.geometry.segment_bytes()) {
                return None;
            }
        }
        self.reached = Some(here);
        let pending = self.pending.pop_front().expect("seen just now");
        let range = pending.offset as usize..(pending.offset + pending.bytes) as usize;
        if self.proofs.len() == PROOFS_MAX {
            self.proofs.pop_front();
        }
        self.proofs.push_back((pending.file, range, pending.says_durable));
        let record = pending.record;
        self.promised = self.promised.max(record.meta.promised);
        if let Some(body) = record.body.filter(|_| record.meta.kind.fills_slots()) {
            self.held.insert(body.id);
            if record.meta.kind == RecordKind::Accepted {
                self.accepted.insert((body.id, record.meta.ballot));
            }
        }
        Some(record)
    }

    /// A write or a sync failed: whatever isn't durable by now may never be.
    pub fn fail(&mut self) {
        self.failed = true;
    }

    /// The process ends: what isn't durable is in doubt until it is found again.
    pub fn crash(&mut self) {
        self.pending.clear();
        self.epochs.clear();
        self.reached = None;
        self.footers.clear();
        self.failed = false;
        self.verified = false;
    }

    /// Whether [`Durability::verify`] was called in this life.
    pub fn is_verified(&self) -> bool {
        self.verified
    }

    /// Takes up what a power failure would leave at this moment, as recovery reads it. Returns the accepts among it
    /// that weren't known to be durable.
    pub fn verify(&mut self, recovered: &RecoveredLog) -> Vec<(BodyId, Ballot)> {
        self.verified = true;
        self.promised = self.promised.max(recovered.promised);
        let mut news = Vec::new();
        for entry in recovered.index.iter_from(recovered.index.base().slot) {
            self.held.insert(entry.body.id);
            if !entry.ballot.is_zero() && self.accepted.insert((entry.body.id, entry.ballot)) {
                news.push((entry.body.id, entry.ballot));
            }
        }
        news
    }

    /// Where in the log a place of a file lies, if its segment was begun in this life.
    pub fn position(&self, file: FileId, offset: u64) -> Option<Lsn> {
        let epoch = *self.epochs.get(&file)?;
        Some(Lsn::new(epoch, self.geometry.segment_bytes(), offset))
    }

    /// Everything before this position is proven to have been durable, by records that are intact on the disk.
    pub fn proof(&self, disk: &Disk) -> Lsn {
        let intact = self.proofs.iter().filter(|(file, range, _)| disk.damage().spares(*file, range));
        intact.map(|(.., says_durable)| *says_durable).max().unwrap_or(Lsn::ZERO)
    }

    /// The log goes on from this, without what came later, which was never claimed: an old copy was put back, or writes
    /// were lost and nobody could notice.
    pub fn go_back_to(&mut self, recovered: &RecoveredLog) {
        self.crash();
        self.promised = self.promised.min(recovered.promised);
        self.proofs.retain(|(.., says_durable)| *says_durable <= recovered.proven);
        let entries = || recovered.index.iter_from(recovered.index.base().slot);
        let accepted: BTreeSet<_> = entries().map(|entry| (entry.body.id, entry.ballot)).collect();
        let held: BTreeSet<_> = entries().map(|entry| entry.body.id).collect();
        self.accepted.retain(|accept| accepted.contains(accept));
        self.held.retain(|id| held.contains(id));
    }

    /// The highest promise that is durable.
    pub fn promised(&self) -> Ballot {
        self.promised
    }

    /// Whether it is durable that the body was accepted at the ballot.
    pub fn has_accepted(&self, id: BodyId, ballot: Ballot) -> bool {
        self.accepted.contains(&(id, ballot))
    }

    /// Every durable accept there ever was.
    pub fn accepts(&self) -> impl Iterator<Item = (BodyId, Ballot)> {
        self.accepted.iter().copied()
    }

    /// Whether the body is durable, accepted or copied.
    pub fn holds(&self, id: BodyId) -> bool {
        self.held.contains(&id)
    }
}

fn first_block(bytes: &[u8]) -> Option<&Block> {
    bytes.get(..BLOCK_BYTES)?.try_into().ok()
}
