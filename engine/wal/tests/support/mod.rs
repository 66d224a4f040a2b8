//! A simulated disk, a driver for one log, and a model of what the log must say after a crash.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part of this")]

pub mod bounded;
pub mod logs;

use std::collections::BTreeMap;

use synod_frame::{
    Batch, GroupId, Origin, RECORD_HEADER_BYTES, RecordBuffer, Submission, encode_commands, encode_noop,
};
use synod_protocol::{Ballot, BodyHandle, Mark, NodeId, Slot};
use synod_wal::scan::read_segment_header;
use synod_wal::verify::{Conclusion, Finding, check_fresh, check_segment, check_unneeded, conclude};
use synod_wal::{
    Action, FileId, Geometry, LogIdentity, LogSettings, Lsn, MemoryStore, Planned, RecordKind, RecordMeta,
    RecoveredLog, SegmentStore, SyncId, SyncMode, Wal, WriteId, record_bytes,
};

pub const SEGMENT_BYTES: u64 = 64 << 10;
pub const BLOCK: u64 = 4096;
pub const GROUP: GroupId = GroupId(5);

pub fn identity(boot_counter: u64) -> LogIdentity {
    LogIdentity { cluster: [1; 16], lineage: 0, node: NodeId(1), incarnation: [2; 16], boot_counter, log: 0 }
}

pub fn settings(sync: SyncMode) -> LogSettings {
    LogSettings {
        segment_bytes: SEGMENT_BYTES,
        sync,
        pool_free_min: 1,
        pool_spares: 0,
        pool_files_max: 8,
        ..LogSettings::default()
    }
}

pub fn ballot(round: u64) -> Ballot {
    Ballot { round, node: NodeId(1), boot: 77 }
}

/// Whether tests do all of what they can do, and not only what fits every run: `SYNOD_WAL_FULL=1`, see `scripts/damage`.
pub fn is_full() -> bool {
    std::env::var_os("SYNOD_WAL_FULL").is_some_and(|value| value == "1")
}

/// Numbers from one seed: splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// One block of a write that may or may not survive a crash.
#[derive(Clone)]
pub struct PendingBlock {
    file: FileId,
    offset: u64,
    bytes: Vec<u8>,
    /// The write has completed, so a sync that begins now covers it.
    completed: bool,
    /// None once the process that issued it is gone.
    write: Option<WriteId>,
    serial: u64,
}

/// What programs see, and what survives.
#[derive(Default, Clone)]
pub struct Disk {
    pub live: MemoryStore,
    pub durable: MemoryStore,
    /// In the order of issue.
    pub pending: Vec<PendingBlock>,
    pub serial: u64,
}

/// A log that was never used, on the files of [`Disk::fresh`].
pub fn fresh_log(files: u32) -> RecoveredLog {
    RecoveredLog::fresh(SEGMENT_BYTES, (1..=files).map(FileId))
}

impl Disk {
    pub fn fresh(files: u32) -> Disk {
        let mut disk = Disk::default();
        for file in 1..=files {
            disk.create(FileId(file));
        }
        disk
    }

    pub fn create(&mut self, file: FileId) {
        self.live.create(file, SEGMENT_BYTES);
        self.durable.create(file, SEGMENT_BYTES);
    }

    pub fn issue(&mut self, write: WriteId, file: FileId, offset: u64, bytes: &[u8]) {
        assert!(offset.is_multiple_of(BLOCK) && (bytes.len() as u64).is_multiple_of(BLOCK));
        assert!(offset + bytes.len() as u64 <= SEGMENT_BYTES);
        assert!(self.live.content(file).is_some(), "{file} doesn't exist");
        for (number, block) in bytes.chunks(BLOCK as usize).enumerate() {
            let offset = offset + number as u64 * BLOCK;
            self.serial += 1;
            self.pending.push(PendingBlock {
                file,
                offset,
                bytes: block.to_vec(),
                completed: false,
                write: Some(write),
                serial: self.serial,
            });
        }
        self.live.write_at(file, offset, bytes);
    }

    pub fn complete(&mut self, write: WriteId, durable: bool) {
        let mut serials = Vec::new();
        for block in self.pending.iter_mut().filter(|block| block.write == Some(write)) {
            block.completed = true;
            serials.push(block.serial);
        }
        if durable {
            self.make_durable(&serials);
        }
    }

    /// The blocks that a sync which begins now covers.
    pub fn covered(&self, file: FileId) -> Vec<u64> {
        let covered = self.pending.iter().filter(|block| block.file == file && block.completed);
        covered.map(|block| block.serial).collect()
    }

    pub fn make_durable(&mut self, serials: &[u64]) {
        for serial in serials {
            let Some(index) = self.pending.iter().position(|block| block.serial == *serial) else { continue };
            let block = self.pending.remove(index);
            self.durable.write_at(block.file, block.offset, &block.bytes);
            // What was written to the same place before can't come back.
            let (file, offset) = (block.file, block.offset);
            self.pending.retain(|other| other.serial > *serial || (other.file, other.offset) != (file, offset));
        }
    }

    /// Zeroing that is interrupted: any subset of the blocks.
    fn zero_in_part(&mut self, random: &mut Random, file: FileId, offset: u64, percent: u64) {
        let mut at = offset;
        while at < SEGMENT_BYTES {
            if random.chance(percent) {
                self.durable.write_at(file, at, &[0; BLOCK as usize]);
            }
            at += BLOCK;
        }
    }

    /// The machine stops: of what wasn't durable any subset of blocks survives.
    pub fn crash(&mut self, random: &mut Random) {
        let percent = [0, 10, 50, 90, 100][random.below(5) as usize];
        for block in std::mem::take(&mut self.pending) {
            if random.chance(percent) {
                self.durable.write_at(block.file, block.offset, &block.bytes);
            }
        }
        self.live = self.durable.clone();
    }

    /// The machine stops while these files are being created, or zeroed from an offset on.
    fn after_crash(mut self, files: &[(FileId, Option<u64>)], random: &mut Random) -> Disk {
        for (file, zero_from) in files {
            let percent = [0, 30, 100][random.below(3) as usize];
            match zero_from {
                // Not there, in part there, or there.
                None => match random.below(3) {
                    0 => {}
                    1 => self.durable.create(*file, random.below(17) * BLOCK),
                    _ => self.durable.create(*file, SEGMENT_BYTES),
                },
                Some(offset) => self.zero_in_part(random, *file, *offset, percent),
            }
        }
        self.crash(random);
        self
    }

    /// The process stops and the machine doesn't: what was written can be read, but isn't durable.
    pub fn kill(&mut self, random: &mut Random) {
        // Writes in flight may still arrive in any part, as far as programs can see.
        let percent = [0, 50, 100][random.below(3) as usize];
        for index in 0..self.pending.len() {
            if !self.pending[index].completed && !random.chance(percent) {
                let block = &self.pending[index];
                let (file, offset) = (block.file, block.offset);
                let start = offset as usize;
                let before = self.durable.content(file).expect("exists")[start..][..BLOCK as usize].to_vec();
                self.live.write_at(file, offset, &before);
                self.pending[index].bytes = before;
            }
            self.pending[index].completed = true;
            self.pending[index].write = None;
        }
    }
}

/// A record as the model remembers it.
#[derive(Clone, Debug)]
pub struct Appended {
    pub end: Lsn,
    pub kind: RecordKind,
    pub body: Option<BodyHandle>,
    pub bytes: Vec<u8>,
    pub ballot: Ballot,
    pub promised: Ballot,
    pub base: Option<Mark>,
}

/// One life of a log on a simulated disk.
pub struct Machine {
    pub wal: Wal,
    pub disk: Disk,
    pub sync: SyncMode,
    pub writes: Vec<WriteId>,
    pub syncs: Vec<(SyncId, Vec<u64>)>,
    /// Files being created, or zeroed from an offset on.
    pub files: Vec<(FileId, Option<u64>)>,
    pub hold_files: bool,
    /// The file system is full: no file can be made, but zeroed.
    pub refuse_creation: bool,
}

impl Machine {
    pub fn start(disk: Disk, sync: SyncMode, recovered: RecoveredLog, boot: u64) -> Machine {
        Machine::start_with(disk, settings(sync), recovered, boot)
    }

    pub fn start_with(disk: Disk, settings: LogSettings, recovered: RecoveredLog, boot: u64) -> Machine {
        Machine::start_wal(disk, settings, Wal::new(identity(boot), settings, recovered))
    }

    pub fn start_as(identity: LogIdentity, disk: Disk, sync: SyncMode, recovered: RecoveredLog) -> Machine {
        let settings = settings(sync);
        Machine::start_wal(disk, settings, Wal::new(identity, settings, recovered))
    }

    fn start_wal(disk: Disk, settings: LogSettings, wal: Wal) -> Machine {
        let mut machine = Machine {
            wal,
            disk,
            sync: settings.sync,
            writes: Vec::new(),
            syncs: Vec::new(),
            files: Vec::new(),
            hold_files: false,
            refuse_creation: false,
        };
        machine.poll();
        machine
    }

    /// A new log on `files` files of zeros.
    pub fn fresh(sync: SyncMode, files: u32) -> Machine {
        Machine::start(Disk::fresh(files), sync, fresh_log(files), 1)
    }

    /// Takes up everything that the log asks for, without completing anything.
    pub fn poll(&mut self) {
        while let Some(action) = self.wal.poll_action() {
            match action {
                Action::Write { write, file, offset, bytes } => {
                    assert!(bytes.len() <= 1 << 20);
                    self.disk.issue(write, file, offset, &bytes);
                    self.writes.push(write);
                }
                Action::Sync { sync, file } => self.syncs.push((sync, self.disk.covered(file))),
                Action::CreateFile { file } => self.files.push((file, None)),
                Action::ZeroFile { file, offset, bytes } => {
                    assert_eq!(offset + bytes, SEGMENT_BYTES);
                    self.files.push((file, Some(offset)));
                }
            }
        }
    }

    pub fn complete_write(&mut self, index: usize) {
        let write = self.writes.swap_remove(index);
        self.disk.complete(write, self.sync == SyncMode::Dsync);
        self.wal.handle_written(write);
        self.poll();
    }

    pub fn complete_sync(&mut self, index: usize) {
        let (sync, covered) = self.syncs.swap_remove(index);
        self.disk.make_durable(&covered);
        self.wal.handle_synced(sync);
        self.poll();
    }

    pub fn complete_file(&mut self, index: usize) {
        let (file, zero_from) = self.files.swap_remove(index);
        match zero_from {
            None if self.refuse_creation => {
                self.wal.handle_file_failed(file);
                return self.poll();
            }
            None => self.disk.create(file),
            Some(offset) => {
                let zeros = vec![0; (SEGMENT_BYTES - offset) as usize];
                self.disk.pending.retain(|block| block.file != file || block.offset < offset);
                self.disk.live.write_at(file, offset, &zeros);
                self.disk.durable.write_at(file, offset, &zeros);
            }
        }
        self.wal.handle_file_ready(file);
        self.poll();
    }

    /// Completes one thing, whichever; whether there was one.
    pub fn step(&mut self, random: &mut Random) -> bool {
        let files = if self.hold_files { 0 } else { self.files.len() };
        let count = self.writes.len() + self.syncs.len() + files;
        if count == 0 {
            return false;
        }
        let pick = random.below(count as u64) as usize;
        if pick < self.writes.len() {
            self.complete_write(pick);
        } else if pick < self.writes.len() + self.syncs.len() {
            self.complete_sync(pick - self.writes.len());
        } else {
            self.complete_file(pick - self.writes.len() - self.syncs.len());
        }
        true
    }

    /// Completes everything.
    pub fn settle(&mut self) {
        let mut random = Random(1);
        self.poll();
        while self.step(&mut random) {}
        if self.refuse_creation {
            // As a node does every now and then.
            self.wal.retry();
            self.poll();
            while self.step(&mut random) {}
        }
    }

    fn submit(&mut self, planned: Planned, record: &[u8]) {
        let bytes = &record[..planned.record_bytes as usize];
        self.disk.issue(planned.write, planned.file, planned.offset, bytes);
        self.writes.push(planned.write);
        self.poll();
    }

    /// Appends a record; none if there is no room at the moment.
    pub fn append(&mut self, meta: &RecordMeta, body: Option<&Body>) -> Option<Appended> {
        let mut record = match body {
            Some(body) => body.record.clone(),
            None => RecordBuffer::zeroed(BLOCK as usize),
        };
        let handle = body.map(|body| body.handle);
        let planned = match self.wal.append(meta, handle.as_ref(), record.as_mut()) {
            Ok(planned) => planned,
            Err(synod_wal::AppendError::NoSegment) => {
                self.poll();
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        self.submit(planned, record.as_ref());
        Some(Appended {
            end: planned.end,
            kind: meta.kind,
            body: handle,
            bytes: body.map_or_else(Vec::new, |body| body.bytes().to_vec()),
            ballot: meta.ballot,
            promised: meta.promised.max(meta.ballot),
            base: None,
        })
    }

    /// Appends the pack of chosen bodies that follow each other, and completes everything.
    pub fn append_pack_now(&mut self, promised: Ballot, mark: Mark, bodies: &[Body]) -> Planned {
        let geometry = synod_wal::Geometry::new(SEGMENT_BYTES).unwrap();
        let mut builder = synod_wal::PackBuilder::new(geometry.record_bytes_max());
        for body in bodies {
            assert!(builder.try_push(&body.handle, body.bytes()));
        }
        let mut pack = builder.finish().unwrap();
        let meta = meta(RecordKind::Pack, Ballot::ZERO, promised, mark);
        for _ in 0..4 {
            self.settle();
            match self.wal.append_pack(&meta, &mut pack) {
                Ok(planned) => {
                    self.submit(planned, pack.record());
                    self.settle();
                    return planned;
                }
                Err(synod_wal::AppendError::NoSegment) => {}
                Err(error) => panic!("{error}"),
            }
        }
        panic!("no room: {:?}", self.wal.stats());
    }

    pub fn trim(&mut self, base: Mark, promised: Ballot) -> Option<Appended> {
        let mut record = RecordBuffer::zeroed(BLOCK as usize);
        match self.wal.trim(base, record.as_mut(), promised, base) {
            Ok(planned) => {
                self.submit(planned, record.as_ref());
                let end = planned.end;
                let (kind, ballot) = (RecordKind::Trim, Ballot::ZERO);
                Some(Appended { end, kind, body: None, bytes: Vec::new(), ballot, promised, base: Some(base) })
            }
            Err(synod_wal::AppendError::NoSegment) => {
                self.poll();
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Appends and completes everything; for tests in which nothing goes wrong.
    pub fn append_now(&mut self, meta: &RecordMeta, body: Option<&Body>) -> Appended {
        for _ in 0..4 {
            self.settle();
            if let Some(appended) = self.append(meta, body) {
                self.settle();
                return appended;
            }
        }
        panic!("no room: {:?}", self.wal.stats());
    }

    /// The machine stops.
    pub fn crash(mut self, random: &mut Random) -> Disk {
        let files = std::mem::take(&mut self.files);
        std::mem::take(&mut self.disk).after_crash(&files, random)
    }

    /// What would be left if the machine stopped now.
    pub fn crash_image(&self, random: &mut Random) -> Disk {
        self.disk.clone().after_crash(&self.files, random)
    }

    /// The process stops, the machine goes on.
    pub fn kill(mut self, random: &mut Random) -> Disk {
        for (file, zero_from) in std::mem::take(&mut self.files) {
            match zero_from {
                None => self.disk.create(file),
                Some(offset) => self.disk.zero_in_part(random, file, offset, 50),
            }
            let content = self.disk.durable.content(file).expect("exists").clone();
            self.disk.live.write_at(file, 0, &content);
        }
        self.disk.kill(random);
        self.disk
    }
}

/// A body in a record buffer.
#[derive(Clone)]
pub struct Body {
    pub handle: BodyHandle,
    pub record: RecordBuffer,
}

impl Body {
    pub fn bytes(&self) -> &[u8] {
        &self.record.as_ref()[RECORD_HEADER_BYTES..][..self.handle.bytes as usize]
    }
}

/// A body of no-ops: one block.
pub fn noop(first: u64, count: u32, origin: u64) -> Body {
    let mut record = RecordBuffer::zeroed(BLOCK as usize);
    let origin = Origin { group: GROUP, first: Slot(first), ballot: ballot(origin), leader_time_us: 0 };
    let handle = encode_noop(record.as_mut(), &origin, count).unwrap();
    Body { handle, record }
}

/// A body of `count` commands that takes about `bytes`, with content that depends on `seed`.
pub fn commands(first: u64, count: u32, bytes: usize, seed: u64) -> Body {
    let mut random = Random(seed);
    let mut batch = Batch::new();
    for _ in 0..count {
        let command: Vec<u8> = (0..bytes / count as usize).map(|_| random.next() as u8).collect();
        batch.push(&command);
    }
    let submissions = [Submission { session: 1, sequence: seed, ticket: 0, expected_slot: 0, batch: &batch }];
    let mut record = RecordBuffer::zeroed(bytes + 8 * BLOCK as usize);
    let origin = Origin { group: GROUP, first: Slot(first), ballot: ballot(1), leader_time_us: seed };
    let handle = encode_commands(record.as_mut(), &origin, &submissions).unwrap();
    let used = record_bytes(handle.bytes) as usize;
    let mut exact = RecordBuffer::zeroed(used);
    exact.as_mut().copy_from_slice(&record.as_ref()[..used]);
    Body { handle, record: exact }
}

pub fn meta(kind: RecordKind, at: Ballot, promised: Ballot, mark: Mark) -> RecordMeta {
    RecordMeta { kind, group: GROUP, source: NodeId(0), ballot: at, promised, mark, log_time_us: 0, unsure: false }
}

/// The bytes of a body at its place in the index.
pub fn stored_body(store: &dyn SegmentStore, location: synod_wal::Location, body: &BodyHandle) -> Vec<u8> {
    let record = synod_wal::scan::read_body(store, &location, body).unwrap().unwrap();
    record.as_ref()[RECORD_HEADER_BYTES..][..body.bytes as usize].to_vec()
}

/// What the records of the model say together, by the slow and obvious way.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Join {
    pub promised: Ballot,
    /// By first slot: identity and ballot.
    pub bodies: BTreeMap<Slot, (BodyHandle, Ballot)>,
}

pub fn join(records: &[Appended], base: Slot) -> Join {
    let mut joined = Join::default();
    let bodies: Vec<_> = records
        .iter()
        .filter_map(|record| record.body.map(|body| (body, record.ballot, record.kind.is_chosen())))
        .filter(|(body, _, _)| body.first >= base)
        .collect();
    for record in records {
        joined.promised = joined.promised.max(record.promised);
    }
    for (body, ballot, chosen) in &bodies {
        let beaten = bodies.iter().any(|(other, higher, other_chosen)| {
            other.id != body.id && other.overlaps(body) && !chosen && (*other_chosen || higher > ballot)
        });
        if !beaten {
            let highest = bodies.iter().filter(|(other, _, other_chosen)| other.id == body.id && !other_chosen);
            let highest = highest.map(|(_, ballot, _)| *ballot).max().unwrap_or(Ballot::ZERO);
            joined.bodies.insert(body.first, (*body, highest));
        }
    }
    joined
}

pub fn geometry() -> Geometry {
    Geometry::new(SEGMENT_BYTES).unwrap()
}

pub fn headers(store: &MemoryStore) -> BTreeMap<u64, (FileId, synod_wal::format::SegmentHeader)> {
    let files = store.files().unwrap().into_iter();
    let headers = files.filter_map(|file| Some((file, read_segment_header(store, file, geometry()).ok()?.ok()?)));
    headers.map(|(file, header)| (header.epoch, (file, header))).collect()
}

/// Everything that is wrong with a log, as a tool finds it.
pub fn verified_as(store: &MemoryStore, live: bool) -> Conclusion {
    let headers = headers(store);
    let first_needed = headers.values().map(|(_, header)| header.first_needed).max().unwrap_or(0);
    let (mut checks, mut missing, mut stop) = (Vec::new(), Vec::new(), None);
    let mut next = headers.last_key_value().map_or(0, |(epoch, _)| *epoch);
    while next != 0 && next >= first_needed {
        let Some((file, header)) = headers.get(&next) else {
            missing.push(next);
            next = headers.range(..next).next_back().map_or(0, |(epoch, _)| *epoch);
            stop = None;
            continue;
        };
        checks.push(check_segment(store, *file, geometry(), header, stop, live));
        stop = (header.before_end != Lsn::ZERO).then(|| header.before_end.offset(SEGMENT_BYTES));
        next = header.before_epoch;
    }
    checks.reverse();
    conclude(geometry(), checks, &missing, live)
}

pub fn verified(store: &MemoryStore) -> Conclusion {
    verified_as(store, false)
}

/// What is wrong with the files that no segment of the log lies in.
pub fn verified_pool(store: &MemoryStore) -> Vec<Finding> {
    let headers = headers(store);
    let first_needed = headers.values().map(|(_, header)| header.first_needed).max().unwrap_or(0);
    let mut chain = Vec::new();
    let mut next = headers.last_key_value().map_or(0, |(epoch, _)| *epoch);
    while let Some((file, header)) = headers.get(&next).filter(|(_, header)| header.epoch >= first_needed) {
        chain.push(*file);
        next = header.before_epoch;
    }
    let mut findings = Vec::new();
    for file in store.files().unwrap().into_iter().filter(|file| !chain.contains(file)) {
        match headers.values().find(|(known, _)| *known == file) {
            Some((_, header)) => findings.extend(check_unneeded(store, file, geometry(), header, first_needed)),
            None if store.len(file).unwrap() == SEGMENT_BYTES => {
                findings.extend(check_fresh(store, file, geometry(), &identity(1).expected(), first_needed));
            }
            None => {}
        }
    }
    findings
}

/// Where the checksums of the log begin, as `engine/docs/wal-format.md` says.
fn salt() -> u32 {
    let identity = identity(1);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&identity.cluster);
    hasher.update(&identity.lineage.to_le_bytes());
    hasher.update(&identity.node.0.to_le_bytes());
    hasher.update(&identity.incarnation);
    hasher.update(&identity.log.to_le_bytes());
    hasher.finalize()
}

fn put_checksum(structure: &mut [u8], from: u32) {
    let mut hasher = crc32fast::Hasher::new_with_initial(from);
    hasher.update(&structure[..8]);
    hasher.update(&structure[12..]);
    structure[8..12].copy_from_slice(&hasher.finalize().to_le_bytes());
}

/// Makes all checksums of a block's structure right again.
pub fn seal_again(block: &mut [u8]) {
    match &block[..4] {
        b"SYNS" => put_checksum(block, 0),
        b"SYNG" | b"SYNI" | b"SYNT" | b"SYNF" => put_checksum(block, salt()),
        b"SYNR" => {
            let head = u32::from_le_bytes(block[268..272].try_into().unwrap()) as usize;
            let pack_head = u32::from_le_bytes(block[260..264].try_into().unwrap()) as usize;
            let head = match &block[256..260] {
                b"SYNB" => head.clamp(128, 3840),
                b"SYNP" => pack_head.clamp(32, 3840),
                _ => 0,
            };
            if &block[256..260] == b"SYNB" {
                put_checksum(&mut block[256..256 + head], 0);
            }
            put_checksum(&mut block[..256 + head], salt());
        }
        _ => {}
    }
}
