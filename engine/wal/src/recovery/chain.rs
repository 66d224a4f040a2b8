//! The segments that make up the log, and what becomes of all other files.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use synod_frame::{BLOCK_BYTES, GroupId, RECORD_HEADER_BYTES};
use synod_protocol::{Ballot, BodyHandle, Doubt, Mark, Slot};

use super::join::Joined;
use super::losses::Losses;
use super::thin::Thinned;
use super::verdict::Verdict;
use super::{
    Cut, Damage, DamageCause, DamageClass, IdentityField, RecoverError, RecoverOptions, RecoveredLog, RecoveredSegment,
};
use crate::format::{
    Block, CONFIGURATION_BYTES_MAX, PackContent, RecordKind, SealBlock, SealKind, SealedRecord, SegmentHeader,
    SegmentHeaderError, Settled, StoredConfiguration, first_nonzero,
};
use crate::identity::{ExpectedIdentity, LogIdentity, LogSalt};
use crate::lsn::{FileId, Lsn};
use crate::pool::CleanFile;
use crate::scan::{
    Hole, HoleCause, Item, ScanOptions, ScannedRecord, Scanner, Seal, is_sealed, later_life, latest_life, read_index,
    read_seal, read_segment_header,
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
    /// Files that are gone, or hold nothing that can be told.
    pub(super) lost: Vec<FileId>,
    /// How many of the lost may have held a segment.
    pub(super) unexplained: usize,
    /// Headers found in files that they weren't meant for: what they say was acted upon all the same.
    pub(super) astray: Vec<SegmentHeader>,
    /// Files that claim to be a segment which a later life of the log began anew: their header couldn't be read then, and was
    /// counted among what is lost.
    pub(super) outlived: Vec<FileId>,
    /// Epochs whose header was put together from the segment's records.
    pub(super) rebuilt: BTreeSet<u64>,
    pub(super) damages: Vec<Damage>,
    pub(super) file_next: u32,
}

impl Files {
    pub(super) fn all_headers(&self) -> impl Iterator<Item = &SegmentHeader> {
        self.headers.values().map(|(_, header)| header).chain(&self.astray)
    }

    fn damaged(&mut self, file: FileId, cause: DamageCause) {
        let class = DamageClass::Corrupt;
        self.damages.push(Damage { file, offset: 0, lsn: Lsn::ZERO, cause, slots: None, class });
    }

    fn insert(&mut self, file: FileId, header: SegmentHeader) -> Result<(), RecoverError> {
        let (epoch, boot) = (header.epoch, header.identity.boot_counter);
        let Some((first, known)) = self.headers.insert(epoch, (file, header)) else { return Ok(()) };
        let outlived = match known.identity.boot_counter.cmp(&boot) {
            Ordering::Equal => return Err(RecoverError::Duplicate { first, second: file, epoch }),
            Ordering::Less => (first, known),
            Ordering::Greater => self.headers.insert(epoch, (first, known)).expect("it was inserted just now"),
        };
        self.outlived.push(outlived.0);
        self.astray.push(outlived.1);
        Ok(())
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
    let made = store.files_made();
    let highest = ids.last().map_or(0, |file| file.0).max(made);
    let mut files = Files { file_next: highest.saturating_add(1), ..Files::default() };
    let mut headless = Vec::new();
    for file in &ids {
        let file = *file;
        let bytes = store.len(file).map_err(RecoverError::List)?;
        let whole = bytes == geometry.segment_bytes();
        let short = DamageCause::FileBytes { bytes, expected: geometry.segment_bytes() };
        match read_segment_header(store, file, geometry)? {
            Ok(header) => {
                check_identity(file, &header.identity, expected)?;
                if !whole {
                    files.damaged(file, short);
                }
                files.insert(file, header)?;
            }
            Err(SegmentHeaderError::Fresh) if !whole && file.0 > made => files.unfinished.push(file),
            Err(_) if bytes < BLOCK && file.0 > made => files.unfinished.push(file),
            Err(error) => headless.push((file, error, whole)),
        }
    }
    find_lost_headers(store, expected, geometry, &mut files, !headless.is_empty())?;
    for (file, error, whole) in headless {
        if let SegmentHeaderError::Astray { .. } = error
            && let Some(block) = read_block(store, file, 0)?
            && let Ok(header) = SegmentHeader::decode(&block, geometry)
            && header.identity.expected() == *expected
        {
            if let Some((first, known)) = files.headers.get(&header.epoch)
                && *known == header
            {
                return Err(RecoverError::Duplicate { first: *first, second: file, epoch: header.epoch });
            }
            files.astray.push(header);
        }
        rebuild(store, expected, geometry, &mut files, (file, error), whole)?;
    }
    for file in (1..=made).map(FileId).filter(|file| ids.binary_search(file).is_err()) {
        files.damaged(file, DamageCause::FileMissing);
        files.lost.push(file);
        files.unexplained += 1;
    }
    Ok(files)
}

/// Finds files whose records are of a later life than their header: headers are durable before records are planned, so the
/// disk has lost the later one. Where other headers are lost too, all blocks of every file are looked at: the first
/// record may have gone astray as well.
fn find_lost_headers(
    store: &dyn SegmentStore,
    expected: &ExpectedIdentity,
    geometry: Geometry,
    files: &mut Files,
    closely: bool,
) -> Result<(), RecoverError> {
    let salt = expected.salt();
    let mut claims: BTreeMap<u64, Vec<(u64, FileId, u64)>> = BTreeMap::new();
    for (epoch, (file, _)) in &files.headers {
        let later = match closely {
            true => latest_life(store, *file, geometry, salt)?,
            false => later_life(store, *file, geometry, salt, *epoch)?.map(|later| (later, 1)),
        };
        let sealed = sealed_epoch(store, *file, geometry, salt)?.map(|sealed| (sealed, 1));
        let later = [later, sealed].into_iter().flatten().filter(|(later, _)| later > epoch).max();
        if let Some((later, records)) = later.filter(|(later, _)| !files.headers.contains_key(later)) {
            claims.entry(later).or_default().push((records, *file, *epoch));
        }
    }
    for (later, mut claims) in claims {
        // Of several files that hold records of the segment all but one hold what went astray.
        claims.sort_unstable();
        let Some((_, file, epoch)) = claims.pop() else { continue };
        files.unexplained += claims.len();
        files.damaged(file, DamageCause::HeaderLost { epoch: later });
        files.rebuilt.insert(later);
        files.headers.remove(&epoch);
        files.insert(file, SegmentHeader::rebuilt(expected, file, later, epoch))?;
    }
    Ok(())
}

/// What the rest of a file says if its header doesn't: records name their epoch, and so does a seal.
fn rebuild(
    store: &dyn SegmentStore,
    expected: &ExpectedIdentity,
    geometry: Geometry,
    files: &mut Files,
    (file, error): (FileId, SegmentHeaderError),
    whole: bool,
) -> Result<(), RecoverError> {
    let salt = expected.salt();
    let records = latest_life(store, file, geometry, salt)?.map(|(epoch, _)| epoch);
    let sealed = sealed_epoch(store, file, geometry, salt)?;
    if let Some(epoch) = records.max(sealed).filter(|epoch| !files.headers.contains_key(epoch)) {
        files.damaged(file, DamageCause::Header(error));
        files.rebuilt.insert(epoch);
        let previous_epoch = sealed.filter(|sealed| *sealed < epoch).unwrap_or(0);
        return files.insert(file, SegmentHeader::rebuilt(expected, file, epoch, previous_epoch));
    }
    let untouched = is_zero(store, file, geometry.records_offset())?;
    match error {
        SegmentHeaderError::Fresh if whole && untouched => files.fresh.push(file),
        // Nobody can tell what a later version would make of it.
        SegmentHeaderError::Version { .. } if whole && !untouched => {
            return Err(RecoverError::Header { file, error });
        }
        // Their checksum is right, so that is what was written.
        SegmentHeaderError::Features { .. } | SegmentHeaderError::Geometry { .. } => {
            return Err(RecoverError::Header { file, error });
        }
        error => {
            files.damaged(file, DamageCause::Header(error));
            files.lost.push(file);
            // Also without a record it may have been the newest segment, whose header alone says what was promised.
            files.unexplained += 1;
        }
    }
    Ok(())
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
    /// The segments that should lie in front of a link and aren't there: by the epoch of the link.
    missing: BTreeMap<u64, u64>,
    /// The highest of all headers.
    pub(super) first_needed: u64,
    rebuilt: &'files BTreeSet<u64>,
}

impl<'files> Chain<'files> {
    pub(super) fn build(files: &'files Files) -> Result<Chain<'files>, RecoverError> {
        let first_needed = files.all_headers().map(|header| header.first_needed).max().unwrap_or(0);
        let newest = files.headers.last_key_value().map(|(epoch, _)| *epoch);
        let mut next = Some(newest.ok_or(RecoverError::Empty)?);
        let (mut links, mut missing) = (Vec::new(), BTreeMap::new());
        while let Some(epoch) = next.filter(|epoch| *epoch >= first_needed) {
            let (file, header) = &files.headers[&epoch];
            links.push((*file, header));
            let below = || files.headers.range(..epoch).next_back().map(|(epoch, _)| *epoch);
            let before = header.before_epoch;
            next = if files.rebuilt.contains(&epoch) {
                below()
            } else if before == 0 {
                None
            } else if files.headers.contains_key(&before) {
                Some(before)
            } else {
                missing.insert(epoch, before);
                // Whatever lies further down: knowing too much does no harm.
                files.headers.range(..before).next_back().map(|(epoch, _)| *epoch)
            };
        }
        links.reverse();
        Ok(Chain { links, missing, first_needed, rebuilt: &files.rebuilt })
    }

    pub(super) fn is_rebuilt(&self, header: &SegmentHeader) -> bool {
        self.rebuilt.contains(&header.epoch)
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
    pub(super) checksum: u32,
    /// None if only the segment's index knows of the record.
    pub(super) previous_checksum: Option<u32>,
    pub(super) slot_end: Slot,
    pub(super) settled: Settled,
    pub(super) unsure: bool,
    /// Whether its header was read, and not only an entry of the segment's index.
    pub(super) is_read: bool,
    /// Whether its bytes are those that were written.
    pub(super) is_sound: bool,
    /// Whether an interrupted write explains that they aren't.
    pub(super) is_torn: bool,
    /// What is in a pack.
    pub(super) pack: Option<PackContent>,
    /// Of a pack: where its bodies lie in [`SegmentScan::packed`].
    pub(super) packed: (u32, u32),
}

/// A body in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FoundBody {
    pub(super) body: BodyHandle,
    /// Where it begins in the record.
    pub(super) offset: u32,
    /// Whether its bytes are those that were written.
    pub(super) is_sound: bool,
}

/// What recovery keeps of a segment.
#[derive(Debug)]
pub(super) struct SegmentScan {
    pub(super) file: FileId,
    pub(super) header: SegmentHeader,
    pub(super) segment_bytes: u64,
    /// The records in front of the hole.
    pub(super) records: Vec<RecordSummary>,
    /// Records at the hole and behind it, sound or not, as far as anything tells of them.
    pub(super) later: Vec<RecordSummary>,
    /// The bodies of all packs.
    pub(super) packed: Vec<FoundBody>,
    pub(super) hole: Hole,
    /// The last block behind the hole that nothing explains.
    pub(super) unexplained: Option<u64>,
    /// The highest position that anything valid in this segment says was durable.
    pub(super) proof: Lsn,
    pub(super) seal: Seal,
    /// The end that the next segment names, if it names one, and the checksum of the last record.
    pub(super) named_end: Option<(Lsn, u32)>,
    /// The segment that should lie in front of it, if that isn't there.
    pub(super) missing_before: Option<u64>,
    pub(super) configuration: Option<StoredConfiguration>,
    /// Set if only those records are kept that decide anything.
    pub(super) thinned: Option<Thinned>,
}

impl SegmentScan {
    /// All records that anything tells of, in order.
    pub(super) fn known(&self) -> impl Iterator<Item = &RecordSummary> {
        self.records.iter().chain(&self.later)
    }

    /// Those of them that count; what lies behind a cut doesn't.
    pub(super) fn kept(&self, cut: bool) -> impl Iterator<Item = &RecordSummary> {
        self.records.iter().chain(self.later.iter().filter(move |_| !cut))
    }

    /// What the first record says that it follows.
    pub(super) fn first_previous(&self) -> Option<u32> {
        self.known().next().and_then(|record| record.previous_checksum)
    }

    pub(super) fn last_checksum(&self) -> Option<u32> {
        self.known().last().map(|record| record.checksum)
    }

    /// Where the last of them ends.
    pub(super) fn known_end(&self) -> Lsn {
        let end = self.known().last().map(|record| record.offset + u64::from(record.record_bytes));
        Lsn::new(self.header.epoch, self.segment_bytes, end.unwrap_or(BLOCK))
    }

    /// The bodies of a record, in slot order.
    pub(super) fn bodies(&self, record: &RecordSummary) -> impl DoubleEndedIterator<Item = FoundBody> {
        super::thin::bodies(record, &self.packed)
    }
}

/// Scans every segment of the chain. Those in which nothing is wrong are thinned, if memory is bounded, but for those to
/// `keep`.
pub(super) fn scan(
    store: &dyn SegmentStore,
    geometry: Geometry,
    chain: &Chain<'_>,
    options: RecoverOptions,
    keep: &BTreeSet<u64>,
) -> Result<Vec<SegmentScan>, RecoverError> {
    let mut scans = Vec::with_capacity(chain.links.len());
    store.announce(&chain.links.iter().map(|(file, _)| *file).collect::<Vec<_>>());
    for (index, (file, header)) in chain.links.iter().enumerate() {
        let next = chain.links.get(index + 1).map(|(_, next)| *next);
        let next = next.filter(|next| next.before_epoch == header.epoch && next.before_end != Lsn::ZERO);
        let named_end = next.map(|next| (next.before_end, next.before_checksum));
        let mut scan = scan_segment(store, geometry, *file, header, named_end, options)?;
        scan.missing_before = chain.missing.get(&header.epoch).copied();
        if options.index_bodies_max.is_some() && !keep.contains(&header.epoch) {
            scan.thin(geometry);
        }
        scans.push(scan);
    }
    let proof = scans.iter().map(|scan| scan.proof).max().unwrap_or(Lsn::ZERO);
    for scan in &mut scans {
        scan.drop_torn(proof);
    }
    Ok(scans)
}

pub(super) fn scan_segment(
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
    let (mut records, mut later, mut packed) = (Vec::new(), Vec::new(), Vec::new());
    let mut proof = header.durable.max(header.before_end);
    let mut hole = None;
    let mut configuration = None;
    while let Some(item) = scanner.next_item()? {
        match item {
            Item::Record(record) | Item::Stray(record) => {
                proof = proof.max(record.header.durable);
                if record.header.meta.kind == RecordKind::Configuration {
                    configuration = read_configuration(&mut scanner, &record)?.or(configuration);
                }
                let found = if hole.is_none() { &mut records } else { &mut later };
                found.push(RecordSummary {
                    packed: unpack(&mut scanner, &record, &mut packed)?,
                    ..summary(&record, true)
                });
            }
            Item::Hole(found) => {
                if let HoleCause::Blocks { record, all_old, .. } = &found.cause {
                    proof = proof.max(record.header.durable);
                    let packed = unpack(&mut scanner, record, &mut packed)?;
                    later.push(RecordSummary { is_torn: *all_old, packed, ..summary(record, false) });
                }
                hole = Some(found);
            }
            Item::BadStray { record, all_old } => {
                proof = proof.max(record.header.durable);
                let packed = unpack(&mut scanner, &record, &mut packed)?;
                later.push(RecordSummary { is_torn: all_old, packed, ..summary(&record, false) });
            }
        }
    }
    let hole = hole.expect("every scan meets a hole");
    let seal = read_seal(store, file, geometry, header, hole.offset)?;
    if let Some(witness) = &seal.witness {
        proof = proof.max(witness.records_end);
    }
    if let Some(footer) = seal.footer.filter(|_| !matches!(hole.cause, HoleCause::Seal(_) | HoleCause::Stop))
        && let Some(index) = read_index(store, file, geometry, header, &footer)?
    {
        add_sealed(&mut later, &records, &index);
    }
    let (file_bytes, unexplained) = (geometry.segment_bytes(), scanner.unexplained_behind());
    Ok(SegmentScan {
        file,
        header: header.clone(),
        segment_bytes: file_bytes,
        records,
        later,
        packed,
        hole,
        unexplained,
        proof,
        seal,
        named_end,
        missing_before: None,
        configuration,
        thinned: None,
    })
}

impl SegmentScan {
    /// Forgets the records at the very end that an interrupted write explains.
    fn drop_torn(&mut self, proof: Lsn) {
        let start = Lsn::new(self.header.epoch, self.segment_bytes, 0);
        while self.later.pop_if(|last| last.is_torn && Lsn(start.0 + last.offset) >= proof).is_some() {}
    }
}

/// Adds what only the index of a sealed segment tells of.
fn add_sealed(later: &mut Vec<RecordSummary>, records: &[RecordSummary], index: &[SealedRecord]) {
    let known: BTreeSet<u64> = records.iter().chain(later.iter()).map(|record| record.offset).collect();
    let unknown = index.iter().filter(|sealed| !known.contains(&u64::from(sealed.offset)));
    later.extend(unknown.map(|sealed| sealed_summary(sealed, false)));
    later.sort_unstable_by_key(|record| record.offset);
}

/// What the index of a segment tells of a record.
pub(super) fn sealed_summary(sealed: &SealedRecord, is_sound: bool) -> RecordSummary {
    RecordSummary {
        offset: u64::from(sealed.offset),
        record_bytes: sealed.record_bytes,
        kind: sealed.kind,
        group: sealed.group,
        ballot: sealed.ballot,
        promised: Ballot::ZERO,
        mark: Mark::START,
        base: Mark::START,
        first_needed: 0,
        log_time_us: 0,
        body: sealed.body,
        checksum: sealed.checksum,
        previous_checksum: None,
        pack: sealed.pack,
        packed: (0, 0),
        slot_end: sealed.pack.map_or(Slot(0), |pack| pack.end),
        settled: Settled::default(),
        unsure: true,
        is_read: false,
        is_sound,
        is_torn: false,
    }
}

/// Takes note of what is known of the bodies of a pack: those whose header is sound.
fn unpack(
    scanner: &mut Scanner<'_>,
    record: &ScannedRecord,
    packed: &mut Vec<FoundBody>,
) -> Result<(u32, u32), RecoverError> {
    let before = packed.len() as u32;
    if record.header.meta.kind == RecordKind::Pack {
        let bodies = scanner.known_bodies(record)?;
        packed.extend(bodies.iter().map(|known| FoundBody {
            body: known.body.header.handle(),
            offset: known.body.offset,
            is_sound: known.is_sound,
        }));
    }
    Ok((before, packed.len() as u32))
}

fn summary(record: &ScannedRecord, is_sound: bool) -> RecordSummary {
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
        pack: record.pack,
        packed: (0, 0),
        checksum: header.checksum,
        previous_checksum: Some(header.previous_checksum),
        slot_end: header.slot_end,
        settled: header.settled,
        unsure: header.meta.unsure,
        is_read: true,
        is_sound,
        is_torn: false,
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
    geometry: Geometry,
    files: Files,
    scans: &[SegmentScan],
    (verdict, losses): (&Verdict, Losses),
    joined: Joined,
) -> Result<RecoveredLog, RecoverError> {
    let damages: Vec<Damage> = files.damages.iter().chain(&verdict.damages).cloned().collect();
    let doubts = losses.doubts.into_iter().chain(joined.doubts).filter(|doubt| doubt.end > joined.mark.slot);
    let doubts: Vec<Doubt> = doubts.collect();
    let kept = &scans[verdict.start..=verdict.last];
    let mut segments = Vec::with_capacity(kept.len());
    let mut last_checksum = verdict.previous.unwrap_or(0);
    for (index, scan) in kept.iter().enumerate() {
        let cut = verdict.cut && index + 1 == kept.len();
        last_checksum = scan.kept(cut).last().map_or(last_checksum, |record| record.checksum);
        // What is damaged doesn't hold what its table says.
        let sealed = scan.seal.complete && scan.kept(cut).all(|record| record.is_sound);
        segments.push(RecoveredSegment {
            file: scan.file,
            epoch: scan.header.epoch,
            end: if cut { scan.hole.lsn } else { scan.hole.lsn.max(scan.known_end()) },
            last_checksum,
            records: scan.records_sound(cut),
            slot_end: scan.slot_end(cut),
            sealed,
            log_time_us: scan.kept(cut).last().map_or(scan.header.log_time_us, |record| record.log_time_us),
            whole: scan.is_whole(cut),
            seal_index: scan.seal_index(geometry, cut),
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
        let behind = scans[verdict.last + 1..].iter().map(SegmentScan::records_known);
        Cut {
            file: last.file,
            offset: last.hole.offset,
            lsn: last.hole.lsn,
            cause: last.hole.cause.clone(),
            records_discarded: last.later.len() as u64 + behind.sum::<u64>(),
        }
    });

    let (mut clean, mut dirty) = (Vec::new(), files.outlived.clone());
    clean.extend(files.fresh.iter().map(|file| CleanFile { file: *file, previous_epoch: 0 }));
    for (epoch, (file, header)) in &files.headers {
        if segments.iter().any(|segment| segment.epoch == *epoch) {
            continue;
        }
        let whole = store.len(*file).map_err(RecoverError::List)? == geometry.segment_bytes();
        if whole && !files.rebuilt.contains(epoch) && is_sealed(store, *file, geometry, header)? {
            clean.push(CleanFile { file: *file, previous_epoch: *epoch });
        } else {
            dirty.push(*file);
        }
    }
    Ok(RecoveredLog {
        configurations: Vec::new(),
        configuration_lost: None,
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
        // A header that can't be read now may come back: its epoch was used.
        epoch_next: files
            .all_headers()
            .map(|header| header.epoch)
            .max()
            .map_or(1, |epoch| epoch + 1 + (files.lost.len() + files.rebuilt.len()) as u64),
        unfinished: files.unfinished,
        first_needed: verdict.first_needed,
        files_to_sync,
        cut,
        damages,
        damaged: joined.damaged,
        doubts,
        unsure: losses.unsure,
        end_lost: losses.end_lost,
        end_open: losses.end_open,
        pinned: losses.pinned.or(joined.pinned),
        settled: losses.settled,
        settles_at: losses.settles_at,
        slot_end: joined.slot_end,
        missing: super::losses::missing_segments(scans, verdict) as u32,
        lost_files: files.lost,
    })
}

/// The life whose seal stands at the end of a file.
fn sealed_epoch(
    store: &dyn SegmentStore,
    file: FileId,
    geometry: Geometry,
    salt: LogSalt,
) -> Result<Option<u64>, RecoverError> {
    let Some(block) = read_block(store, file, geometry.footer_offset())? else { return Ok(None) };
    let footer = SealBlock::decode(&block, salt, geometry.footer_offset(), geometry.segment_bytes());
    Ok(footer.ok().filter(|footer| footer.kind == SealKind::Footer).map(|footer| footer.epoch))
}

fn is_zero(store: &dyn SegmentStore, file: FileId, offset: u64) -> Result<bool, RecoverError> {
    Ok(read_block(store, file, offset)?.is_some_and(|block| first_nonzero(&block).is_none()))
}

/// A block, if it can be read.
fn read_block(store: &dyn SegmentStore, file: FileId, offset: u64) -> Result<Option<Block>, RecoverError> {
    let mut block = [0; BLOCK_BYTES];
    Ok(store.read_at(file, offset, &mut block).is_ok().then_some(block))
}

#[cfg(test)]
mod tests {
    use synod_protocol::NodeId;

    use super::*;

    #[test]
    fn of_two_headers_of_one_epoch_the_later_life_counts_and_twins_are_refused() {
        let expected = ExpectedIdentity { cluster: [1; 16], lineage: 1, node: NodeId(1), incarnation: [2; 16], log: 0 };
        let header = |file, boot_counter| {
            let mut header = SegmentHeader::rebuilt(&expected, FileId(file), 66, 0);
            header.identity.boot_counter = boot_counter;
            (FileId(file), header)
        };
        for order in [[(20, 26), (21, 27)], [(21, 27), (20, 26)]] {
            let mut files = Files::default();
            for (file, boot_counter) in order {
                let (file, header) = header(file, boot_counter);
                files.insert(file, header).expect("their lives differ");
            }
            assert_eq!((files.headers[&66].0, &*files.outlived), (FileId(21), &[FileId(20)][..]));
        }
        let mut files = Files::default();
        files.insert(FileId(20), header(20, 26).1).expect("it is the first");
        let twin = files.insert(FileId(21), header(21, 26).1);
        assert!(matches!(twin, Err(RecoverError::Duplicate { epoch: 66, .. })));
    }
}
