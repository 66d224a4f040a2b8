//! Directories as nodes leave them, and the program that works on them.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part of this")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use synod_frame::{
    BLOCK_BYTES, Batch, CommandsPlan, ConfigurationBody, EncodeError, GroupId, Member, Origin, RecordBuffer,
    Submission, encode_commands, encode_noop, encode_trim,
};
use synod_protocol::{Ballot, BodyHandle, Mark, NodeId, Slot};
use synod_wal::directory::{self, DirectoryStore, Expected, FileDisk, Genesis, InitOptions, NodeIdentity};
use synod_wal::{Action, AppendError, LogSettings, RecordKind, RecordMeta, RecoveredLog, Wal, recover};
use tempfile::TempDir;

pub const GROUP: GroupId = GroupId(1);
pub const SEGMENT_BYTES: u64 = 64 << 10;

pub fn ballot(round: u64) -> Ballot {
    Ballot { round, node: NodeId(1), boot: 5 }
}

pub fn tools<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_synod-tools")).args(arguments).output().expect("the program runs")
}

/// Runs the program and insists on its exit code; what it wrote to stdout.
pub fn run<S: AsRef<std::ffi::OsStr>>(code: i32, arguments: impl IntoIterator<Item = S>) -> String {
    let output = tools(arguments);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// What it wrote to stderr.
pub fn refused<S: AsRef<std::ffi::OsStr>>(code: i32, arguments: impl IntoIterator<Item = S>) -> String {
    let output = tools(arguments);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(!text.contains("panicked"), "{text}");
    text
}

pub struct Stores {
    _root: TempDir,
    pub paths: Vec<PathBuf>,
}

impl Stores {
    /// Stores of nodes 1, 2, ... that were never used.
    pub fn unused(nodes: u32) -> Stores {
        let root = tempfile::tempdir().expect("a temporary directory");
        let paths: Vec<PathBuf> = (1..=nodes).map(|node| root.path().join(format!("n{node}"))).collect();
        let options =
            InitOptions { segment_bytes: SEGMENT_BYTES, files: 4, allow_memory_fs: true, ..InitOptions::default() };
        for (node, path) in (1..).zip(&paths) {
            directory::init(path, NodeId(node), &options, &mut |_| {}).expect("init");
        }
        Stores { _root: root, paths }
    }

    /// Stores of one cluster.
    pub fn cluster(nodes: u32) -> Stores {
        let stores = Stores::unused(nodes);
        let member = |path: &PathBuf| {
            let identity = directory::read_identity(path).expect("an identity");
            Member { node: identity.node, incarnation: identity.incarnation }
        };
        let configuration = ConfigurationBody {
            cluster: [7; 16],
            lineage: 1,
            members: stores.paths.iter().map(member).collect(),
            prepare_quorum: nodes / 2 + 1,
            accept_quorum: nodes / 2 + 1,
            alpha: 1024,
            ..ConfigurationBody::default()
        };
        let genesis = Genesis { group: GROUP, configuration };
        for path in &stores.paths {
            directory::bootstrap(path, &genesis).expect("bootstrap");
        }
        stores
    }

    pub fn filler(&self, number: usize) -> Filler {
        Filler::open(&self.paths[number])
    }
}

pub fn identity(path: &Path) -> NodeIdentity {
    directory::read_identity(path).expect("an identity")
}

pub fn recovered(path: &Path) -> RecoveredLog {
    let expected = identity(path).log_identity(0).expect("bootstrapped").expected();
    recover(&DirectoryStore::new(path.join("log-0000")), &expected, SEGMENT_BYTES).expect("a sound log")
}

/// A body in a record buffer.
#[derive(Clone)]
pub struct Body {
    pub handle: BodyHandle,
    pub record: RecordBuffer,
}

fn origin(first: Slot, seed: u64) -> Origin {
    Origin { group: GROUP, first, ballot: ballot(1 + seed % 3), leader_time_us: 1000 + first.0 }
}

/// One submission a list of commands.
pub fn commands(first: Slot, seed: u64, submissions: &[&[&[u8]]]) -> Body {
    let batches: Vec<Batch> = submissions.iter().map(|commands| commands.iter().collect()).collect();
    let rows: Vec<Submission<'_>> = (0..)
        .zip(&batches)
        .map(|(number, batch)| Submission {
            session: seed % 2,
            sequence: seed + number,
            ticket: 0,
            expected_slot: 0,
            batch,
        })
        .collect();
    commands_of(first, seed, &rows)
}

/// A body of these submissions.
pub fn commands_of(first: Slot, seed: u64, rows: &[Submission<'_>]) -> Body {
    let plan = CommandsPlan::of(rows);
    let mut record = RecordBuffer::zeroed(plan.layout().expect("fits").record_bytes());
    let handle = encode_commands(record.as_mut(), &origin(first, seed), rows).expect("encodes");
    Body { handle, record }
}

pub fn noop(first: Slot, count: u32, seed: u64) -> Body {
    let mut record = RecordBuffer::zeroed(BLOCK_BYTES);
    let handle = encode_noop(record.as_mut(), &origin(first, seed), count).expect("encodes");
    Body { handle, record }
}

pub fn trim(first: Slot, upto: Slot) -> Body {
    let mut record = RecordBuffer::zeroed(BLOCK_BYTES);
    let handle = encode_trim(record.as_mut(), &origin(first, 1), upto).expect("encodes");
    Body { handle, record }
}

/// A body of one block, as `encode` lays it out.
pub fn small(first: Slot, encode: impl FnOnce(&mut [u8], &Origin) -> Result<BodyHandle, EncodeError>) -> Body {
    let mut record = RecordBuffer::zeroed(BLOCK_BYTES);
    let handle = encode(record.as_mut(), &origin(first, 1)).expect("encodes");
    Body { handle, record }
}

/// A log that is being filled, without waiting for the disk.
pub struct Filler {
    pub wal: Wal,
    disk: FileDisk,
    pub mark: Mark,
    _open: directory::OpenDirectory,
}

impl Filler {
    pub fn open(path: &Path) -> Filler {
        let log = recovered(path);
        let open = directory::open(path, &Expected::default()).expect("opens");
        let mark = log.mark;
        let settings = LogSettings { segment_bytes: SEGMENT_BYTES, pool_files_max: 8192, ..LogSettings::default() };
        let wal = Wal::new(open.identity().log_identity(0).expect("bootstrapped"), settings, log);
        let mut filler = Filler { wal, disk: FileDisk::new(open.log_path(0), SEGMENT_BYTES), mark, _open: open };
        filler.settle();
        filler
    }

    pub fn settle(&mut self) {
        while let Some(action) = self.wal.poll_action() {
            match action {
                Action::Write { write, file, offset, bytes } => {
                    self.disk.write(file, offset, &bytes).expect("writes");
                    self.wal.handle_written(write);
                }
                Action::Sync { sync, .. } => self.wal.handle_synced(sync),
                Action::CreateFile { file } => {
                    self.disk.create(file).expect("creates");
                    self.wal.handle_file_ready(file);
                }
                Action::ZeroFile { file, offset, bytes } => {
                    self.disk.zero(file, offset, bytes).expect("zeroes");
                    self.wal.handle_file_ready(file);
                }
            }
        }
    }

    pub fn append(&mut self, kind: RecordKind, at: Ballot, promised: Ballot, body: Option<&Body>) {
        let log_time_us = 1000 + self.mark.slot.0;
        let meta = RecordMeta {
            kind,
            group: GROUP,
            source: NodeId(0),
            ballot: at,
            promised,
            mark: self.mark,
            log_time_us,
            unsure: false,
        };
        let mut record = body.map_or_else(|| RecordBuffer::zeroed(BLOCK_BYTES), |body| body.record.clone());
        let handle = body.map(|body| body.handle);
        for _ in 0..4 {
            match self.wal.append(&meta, handle.as_ref(), record.as_mut()) {
                Ok(planned) => {
                    let bytes = &record.as_ref()[..planned.record_bytes as usize];
                    self.disk.write(planned.file, planned.offset, bytes).expect("writes");
                    return self.wal.handle_written(planned.write);
                }
                Err(AppendError::NoSegment) => self.settle(),
                Err(error) => panic!("{error}"),
            }
        }
        panic!("no room: {:?}", self.wal.stats());
    }

    /// Accepted here, and chosen.
    pub fn choose(&mut self, round: u64, body: &Body) {
        self.append(RecordKind::Accepted, ballot(round), ballot(round), Some(body));
        self.mark = self.mark.after(&body.handle);
        assert!(self.wal.index_mut().mark_chosen(body.handle.first, self.mark.chain));
    }

    /// Drops everything below a mark.
    pub fn trim(&mut self, base: Mark, round: u64) {
        self.settle();
        let mut record = RecordBuffer::zeroed(BLOCK_BYTES);
        let planned = self.wal.trim(base, record.as_mut(), ballot(round), self.mark).expect("room for a trim");
        self.disk.write(planned.file, planned.offset, record.as_ref()).expect("writes");
        self.wal.handle_written(planned.write);
        self.settle();
    }

    /// Says that everything is durable.
    pub fn finish(mut self, promised: u64) -> Mark {
        self.settle();
        self.append(RecordKind::Mark, Ballot::ZERO, ballot(promised), None);
        self.settle();
        self.mark
    }
}

/// Bodies of every kind, one after the other.
pub fn variety(filler: &mut Filler, round: u64, count: u64) {
    for seed in 0..count {
        let first = filler.mark.slot;
        let (long, text) = (vec![seed as u8; 3000], format!("command {seed}"));
        let body = match seed % 6 {
            0 => noop(first, 5, seed),
            1 => commands(first, seed, &[&[b"one", b"two"], &[b"\xff\xfe\x00"]]),
            2 => commands(first, seed, &[&[b"", b"after an empty one"]]),
            3 => commands(first, seed, &[&[&long, &long]]),
            _ => commands(first, seed, &[&[text.as_bytes()]]),
        };
        filler.choose(round, &body);
    }
}
