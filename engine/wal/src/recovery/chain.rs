//! The segments that make up the log, and what becomes of all other files.

use std::collections::BTreeMap;

use synod_frame::{GroupId, RECORD_HEADER_BYTES};
use synod_protocol::{Ballot, BodyHandle, Mark, Slot};

use super::join::Joined;
use super::verdict::Verdict;
use super::{Cut, IdentityField, RecoverError, RecoverOptions, RecoveredLog, RecoveredSegment};
use crate::format::{CONFIGURATION_BYTES_MAX, RecordKind, SegmentHeader, SegmentHeaderError, StoredConfiguration};
use crate::identity::{ExpectedIdentity, LogIdentity};
use crate::lsn::{FileId, Lsn};
use crate::pool::CleanFile;
use crate::scan::{
    Hole, Item, ScanOptions, ScannedRecord, Scanner, Seal, is_sealed, later_life, read_seal, read_segment_header,
};
use crate::segment::{BLOCK, Geometry};
use crate::store::SegmentStore;

/// All files of a log, by what their first block says.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// By epoch.
    pub(super) headers: BTreeMap<u64, (FileId, SegmentHeader)>,
    pub(super) fresh: Vec<FileId>,
    pub(super) unfinished: Vec<FileId>,
    pub(super) file_next: u32,
}

impl Files {
    pub(super) fn all_headers(&self) -> impl Iterator<Item = &SegmentHeader> {
        self.headers.values().map(|(_, header)| header)
    }
}

/// Reads the first block of every file.
pub(super) fn read_headers(
    store: &dyn SegmentStore,
    expected: &ExpectedIdentity,
    geometry: Geometry,
) -> Result<Files, RecoverError> {
    let mut ids = store.files().map_err(RecoverError::List)?;
    ids.sort_unstable();
    let mut files = Files { file_next: ids.last().map_or(1, |file| file.0.saturating_add(1)), ..Files::default() };
    for file in ids {
        let bytes = store.len(file).map_err(RecoverError::List)?;
        let whole = bytes == geometry.segment_bytes();
        if bytes < BLOCK {
            // No header yet: it was being created. A used file that was cut to nothing is missed by its epoch.
            files.unfinished.push(file);
            continue;
        }
        match read_segment_header(store, file, geometry)? {
            Ok(header) => {
                check_identity(file, &header.identity, expected)?;
                if !whole {
                    return Err(RecoverError::FileBytes { file, bytes, expected: geometry.segment_bytes() });
                }
                let epoch = header.epoch;
                if let Some((first, _)) = files.headers.insert(epoch, (file, header)) {
                    return Err(RecoverError::Duplicate { first, second: file, epoch });
                }
            }
            Err(SegmentHeaderError::Fresh) if whole => files.fresh.push(file),
            Err(SegmentHeaderError::Fresh) => files.unfinished.push(file),
            Err(error) => return Err(RecoverError::Header { file, error }),
        }
    }
    Ok(files)
}

fn check_identity(file: FileId, found: &LogIdentity, expected: &ExpectedIdentity) -> Result<(), RecoverError> {
    for (field, same) in [
        (IdentityField::Cluster, found.cluster == expected.cluster),
        (IdentityField::Lineage, found.lineage == expected.lineage),
        (IdentityField::Node, found.node == expected.node),
        (IdentityField::Incarnation, found.incarnation == expected.incarnation),
        (IdentityField::Log, found.log == expected.log),
    ] {
        if !same {
            return Err(RecoverError::Identity { file, field });
        }
    }
    Ok(())
}

/// The segments that follow from each other, oldest first, as far down as they are there.
#[derive(Debug)]
pub(super) struct Chain<'files> {
    pub(super) links: Vec<(FileId, &'files SegmentHeader)>,
    /// The segment before the first link, if that one names one; it isn't there, or not needed by any header.
    pub(super) missing: Option<u64>,
    /// The highest of all headers.
    pub(super) first_needed: u64,
}

impl<'files> Chain<'files> {
    pub(super) fn build(files: &'files Files) -> Result<Chain<'files>, RecoverError> {
        let first_needed = files.all_headers().map(|header| header.first_needed).max().unwrap_or(0);
        let Some((mut epoch, _)) = files.headers.last_key_value().map(|(epoch, found)| (*epoch, found)) else {
            return Err(RecoverError::Empty);
        };
        let mut links = Vec::new();
        let mut missing = None;
        while epoch != 0 && epoch >= first_needed {
            let Some((file, header)) = files.headers.get(&epoch) else {
                missing = Some(epoch);
                break;
            };
            links.push((*file, header));
            epoch = header.before_epoch;
        }
        links.reverse();
        Ok(Chain { links, missing, first_needed })
    }
}

/// What recovery keeps of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordSummary {
    pub(super) offset: u64,
    pub(super) record_bytes: u32,
    pub(super) kind: RecordKind,
    pub(super) group: GroupId,
    pub(super) ballot: Ballot,
    pub(super) promised: Ballot,
    pub(super) mark: Mark,
    pub(super) base: Mark,
    pub(super) first_needed: u64,
    pub(super) log_time_us: u64,
    pub(super) body: Option<BodyHandle>,
}

/// What recovery keeps of a segment.
#[derive(Debug)]
pub(super) struct SegmentScan {
    pub(super) file: FileId,
    pub(super) header: SegmentHeader,
    pub(super) records: Vec<RecordSummary>,
    /// What the first record says that it follows.
    pub(super) first_previous: Option<u32>,
    pub(super) last_checksum: Option<u32>,
    pub(super) hole: Hole,
    pub(super) strays: u64,
    /// The highest position that anything valid in this segment says was durable.
    pub(super) proof: Lsn,
    pub(super) seal: Seal,
    /// The end that the next segment names, if it names one, and the checksum of the last record.
    pub(super) named_end: Option<(Lsn, u32)>,
    pub(super) configuration: Option<StoredConfiguration>,
}

impl SegmentScan {
    pub(super) fn slot_end(&self) -> Slot {
        let bodies = self.records.iter().filter(|record| record.kind.fills_slots());
        bodies.filter_map(|record| record.body).map(|body| body.end()).max().unwrap_or(Slot(0))
    }
}

/// Scans every segment of the chain.
pub(super) fn scan(
    store: &dyn SegmentStore,
    geometry: Geometry,
    chain: &Chain<'_>,
    options: RecoverOptions,
) -> Result<Vec<SegmentScan>, RecoverError> {
    let mut scans = Vec::with_capacity(chain.links.len());
    for (index, (file, header)) in chain.links.iter().enumerate() {
        let next = chain.links.get(index + 1).map(|(_, next)| *next);
        let named_end =
            next.filter(|next| next.before_end != Lsn::ZERO).map(|next| (next.before_end, next.before_checksum));
        scans.push(scan_segment(store, geometry, *file, header, named_end, options)?);
    }
    Ok(scans)
}

fn scan_segment(
    store: &dyn SegmentStore,
    geometry: Geometry,
    file: FileId,
    header: &SegmentHeader,
    named_end: Option<(Lsn, u32)>,
    options: RecoverOptions,
) -> Result<SegmentScan, RecoverError> {
    let stop = named_end.map(|(end, _)| end.offset(geometry.segment_bytes()));
    let scan_options = ScanOptions { depth: options.depth, live: options.live, stop };
    let mut scanner = Scanner::new(store, file, geometry, header, scan_options);
    let mut records = Vec::new();
    let (mut first_previous, mut last_checksum) = (None, None);
    let mut proof = header.durable.max(header.before_end);
    let mut hole = None;
    let mut strays = 0;
    let mut configuration = None;
    while let Some(item) = scanner.next_item()? {
        match item {
            Item::Record(record) => {
                proof = proof.max(record.header.durable);
                first_previous.get_or_insert(record.header.previous_checksum);
                last_checksum = Some(record.header.checksum);
                if record.header.meta.kind == RecordKind::Configuration {
                    configuration = read_configuration(&mut scanner, &record)?.or(configuration);
                }
                records.push(summary(&record));
            }
            Item::Hole(found) => hole = Some(found),
            Item::Stray(record) => {
                proof = proof.max(record.header.durable);
                strays += 1;
            }
        }
    }
    let hole = hole.expect("every scan meets a hole");
    let seal = read_seal(store, file, geometry, header, hole.offset)?;
    if let Some(witness) = &seal.witness {
        proof = proof.max(witness.records_end);
    }
    Ok(SegmentScan {
        file,
        header: header.clone(),
        records,
        first_previous,
        last_checksum,
        hole,
        strays,
        proof,
        seal,
        named_end,
        configuration,
    })
}

fn summary(record: &ScannedRecord) -> RecordSummary {
    let header = &record.header;
    RecordSummary {
        offset: record.offset,
        record_bytes: header.record_bytes,
        kind: header.meta.kind,
        group: header.meta.group,
        ballot: header.meta.ballot,
        promised: header.meta.promised,
        mark: header.meta.mark,
        base: header.base,
        first_needed: header.first_needed,
        log_time_us: header.meta.log_time_us,
        body: record.body.map(|body| body.handle()),
    }
}

fn read_configuration(
    scanner: &mut Scanner<'_>,
    record: &ScannedRecord,
) -> Result<Option<StoredConfiguration>, RecoverError> {
    let Some(body) = record.body.filter(|body| body.layout.body_bytes as usize <= CONFIGURATION_BYTES_MAX) else {
        return Ok(None);
    };
    let bytes = scanner.record_bytes(record)?;
    let body_bytes = bytes[RECORD_HEADER_BYTES..][..body.layout.body_bytes as usize].to_vec();
    Ok(Some(StoredConfiguration { slot: body.first, body: body_bytes }))
}

/// Puts the recovered log together, and sorts the files that it doesn't need.
pub(super) fn assemble(
    store: &dyn SegmentStore,
    expected: &ExpectedIdentity,
    geometry: Geometry,
    files: Files,
    scans: &[SegmentScan],
    verdict: &Verdict,
    joined: Joined,
) -> Result<RecoveredLog, RecoverError> {
    let kept = &scans[verdict.start..=verdict.last];
    let mut segments = Vec::with_capacity(kept.len());
    let mut last_checksum = kept[0].header.before_checksum;
    for scan in kept {
        last_checksum = scan.last_checksum.unwrap_or(last_checksum);
        segments.push(RecoveredSegment {
            file: scan.file,
            epoch: scan.header.epoch,
            end: scan.hole.lsn,
            last_checksum,
            records: scan.records.len() as u64,
            slot_end: scan.slot_end(),
            sealed: scan.seal.complete,
        });
    }
    let end = segments.last().map_or(Lsn::ZERO, |segment| segment.end);
    let proven = verdict.proof.min(end);
    // From the segment that holds the proof on. It may end there: then its records are durable, but its seal is only if
    // something behind it is. And headers behind it count even if their segments are discarded: what they say about
    // promises, the base and segments given up is acted upon, so it must not be forgotten again.
    let from = proven.epoch(geometry.segment_bytes());
    let written = files.headers.range(from..).map(|(_, (file, _))| *file);
    // A file that was never used may have been made just before its maker was killed: its length must be durable before
    // a header is, or a power failure leaves a segment that is too short.
    let files_to_sync = written.chain(files.fresh.iter().copied()).collect();
    let cut = verdict.cut.then(|| {
        let last = &scans[verdict.last];
        let behind = scans[verdict.last + 1..].iter().map(|scan| scan.records.len() as u64 + scan.strays);
        Cut {
            file: last.file,
            offset: last.hole.offset,
            lsn: last.hole.lsn,
            cause: last.hole.cause.clone(),
            records_discarded: last.strays + behind.sum::<u64>(),
        }
    });

    let (mut clean, mut dirty) = (Vec::new(), Vec::new());
    for file in &files.fresh {
        check_later_life(store, *file, geometry, expected, 0, verdict.first_needed)?;
        clean.push(CleanFile { file: *file, previous_epoch: 0 });
    }
    for (epoch, (file, header)) in &files.headers {
        if segments.iter().any(|segment| segment.epoch == *epoch) {
            continue;
        }
        check_later_life(store, *file, geometry, expected, *epoch, verdict.first_needed)?;
        if is_sealed(store, *file, geometry, header)? {
            clean.push(CleanFile { file: *file, previous_epoch: *epoch });
        } else {
            dirty.push(*file);
        }
    }
    Ok(RecoveredLog {
        segment_bytes: geometry.segment_bytes(),
        group: joined.group,
        promised: joined.promised,
        mark: joined.mark,
        index: joined.index,
        configuration: joined.configuration,
        configuration_trimmed: joined.configuration_trimmed,
        log_time_us: joined.log_time_us,
        boot_counter: files.all_headers().map(|header| header.identity.boot_counter).max().unwrap_or(0),
        proven,
        end,
        records: segments.iter().map(|segment| segment.records).sum(),
        segments,
        clean,
        dirty,
        file_next: files.file_next,
        epoch_next: files.headers.last_key_value().map_or(1, |(epoch, _)| epoch + 1),
        unfinished: files.unfinished,
        first_needed: verdict.first_needed,
        files_to_sync,
        cut,
        damages: Vec::new(),
        doubts: Vec::new(),
        unsure: false,
    })
}

/// A file that the log doesn't need must not hold records of a life that it would need.
fn check_later_life(
    store: &dyn SegmentStore,
    file: FileId,
    geometry: Geometry,
    expected: &ExpectedIdentity,
    epoch: u64,
    first_needed: u64,
) -> Result<(), RecoverError> {
    match later_life(store, file, geometry, expected.salt(), epoch)? {
        Some(epoch) if epoch >= first_needed => Err(RecoverError::HeaderLost { file, epoch }),
        _ => Ok(()),
    }
}
