//! The directories of a cluster of three, written by the log's own writer and bent by hand where a test wants that.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part of this")]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use synod_frame::{
    BLOCK_BYTES, Batch, CommandsPlan, ConfigurationBody, GroupId, Member, Origin, RecordBuffer, Submission,
    encode_commands,
};
use synod_protocol::{Ballot, BodyHandle, Mark, NodeId};
use synod_wal::directory::{self, DirectoryStore, Expected, FileDisk, Genesis, InitOptions, OpenDirectory};
use synod_wal::{Action, LogSettings, RecordKind, RecordMeta, Wal, recover};
use tempfile::TempDir;

pub const GROUP: GroupId = GroupId(1);
pub const SEGMENT_BYTES: u64 = 64 << 10;

pub fn ballot(round: u64) -> Ballot {
    Ballot { round, node: NodeId(1), boot: 5 }
}

/// A body of one command, laid out for a log.
pub fn body(mark: Mark, command: &[u8], round: u64) -> (BodyHandle, RecordBuffer) {
    let mut batch = Batch::with_capacity(command.len());
    batch.push(command);
    let layout = CommandsPlan::new().with(&batch).layout().expect("small");
    let mut record = RecordBuffer::zeroed(layout.record_bytes());
    let origin = Origin { group: GROUP, first: mark.slot, ballot: ballot(round), leader_time_us: mark.slot.0 };
    let submission = Submission { session: 0, sequence: 0, ticket: 0, batch: &batch };
    let body = encode_commands(record.as_mut(), &origin, &[submission]).expect("encodes");
    (body, record)
}

/// One node, open for writing.
pub struct Node {
    _open: OpenDirectory,
    wal: Wal,
    disk: FileDisk,
    pub promised: Ballot,
}

impl Node {
    pub fn open(path: &Path) -> Node {
        let open = directory::open(path, &Expected::default()).expect("open");
        let identity = open.identity().log_identity(0).expect("bootstrapped");
        let log = open.log_path(0);
        let recovered = recover(&DirectoryStore::new(&log), &identity.expected(), SEGMENT_BYTES).expect("recover");
        let settings = LogSettings { segment_bytes: SEGMENT_BYTES, ..LogSettings::default() };
        let wal = Wal::new(identity, settings, recovered);
        let mut node = Node { _open: open, wal, disk: FileDisk::new(log, SEGMENT_BYTES), promised: Ballot::ZERO };
        node.settle();
        node
    }

    pub fn accept(&mut self, round: u64, mark: Mark, body: &(BodyHandle, RecordBuffer)) {
        self.promised = self.promised.max(ballot(round));
        self.append(RecordKind::Accepted, ballot(round), mark, Some(body));
    }

    pub fn promise(&mut self, round: u64, mark: Mark) {
        self.promised = ballot(round);
        self.append(RecordKind::Promise, ballot(round), mark, None);
    }

    pub fn note(&mut self, mark: Mark) {
        self.append(RecordKind::Mark, self.promised, mark, None);
    }

    fn append(&mut self, kind: RecordKind, at: Ballot, mark: Mark, body: Option<&(BodyHandle, RecordBuffer)>) {
        let mut record = body.map_or_else(|| RecordBuffer::zeroed(BLOCK_BYTES), |(_, record)| record.clone());
        let handle = body.map(|(handle, _)| *handle);
        let (promised, log_time_us) = (self.promised, mark.slot.0);
        let meta = RecordMeta { kind, group: GROUP, source: NodeId(0), ballot: at, promised, mark, log_time_us };
        let planned = loop {
            match self.wal.append(&meta, handle.as_ref(), record.as_mut()) {
                Ok(planned) => break planned,
                Err(synod_wal::AppendError::NoSegment) => self.settle(),
                Err(error) => panic!("{error}"),
            }
        };
        let bytes = &record.as_ref()[..planned.record_bytes as usize];
        self.disk.write(planned.file, planned.offset, bytes).expect("write");
        self.wal.handle_written(planned.write);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(action) = self.wal.poll_action() {
            match action {
                Action::Write { write, file, offset, bytes } => {
                    self.disk.write(file, offset, &bytes).expect("write");
                    self.wal.handle_written(write);
                }
                Action::Sync { sync, file } => {
                    self.disk.sync(file).expect("sync");
                    self.wal.handle_synced(sync);
                }
                Action::CreateFile { file } => {
                    self.disk.create(file).expect("create");
                    self.wal.handle_file_ready(file);
                }
                Action::ZeroFile { file, offset, bytes } => {
                    self.disk.zero(file, offset, bytes).expect("zero");
                    self.wal.handle_file_ready(file);
                }
            }
        }
    }
}

/// Three bootstrapped directories.
pub struct Cluster {
    pub root: TempDir,
    pub paths: Vec<PathBuf>,
}

impl Cluster {
    pub fn new() -> Cluster {
        let root = tempfile::tempdir().expect("a temporary directory");
        let paths: Vec<PathBuf> = (1..=3).map(|node| root.path().join(format!("n{node}"))).collect();
        let options = InitOptions { segment_bytes: SEGMENT_BYTES, files: 6, allow_memory_fs: true };
        let members = (1..).zip(&paths).map(|(node, path)| {
            let identity = directory::init(path, NodeId(node), &options, &mut |_| {}).expect("init");
            Member { node: NodeId(node), incarnation: identity.incarnation }
        });
        let members: Vec<Member> = members.collect();
        let configuration =
            ConfigurationBody { cluster: [7; 16], lineage: 1, members, prepare_quorum: 2, accept_quorum: 2, alpha: 64 };
        for path in &paths {
            let genesis = Genesis { group: GROUP, configuration: configuration.clone() };
            directory::bootstrap(path, &genesis).expect("bootstrap");
        }
        Cluster { root, paths }
    }

    /// With so many commands, accepted and known to be chosen everywhere.
    pub fn with(commands: u64) -> (Cluster, Mark) {
        let cluster = Cluster::new();
        let mut nodes: Vec<Node> = cluster.paths.iter().map(|path| Node::open(path)).collect();
        let mut mark = Mark::START;
        for number in 0..commands {
            let body = body(mark, command(number).as_bytes(), 1);
            for node in &mut nodes {
                node.accept(1, mark, &body);
            }
            mark = mark.after(&body.0);
        }
        for node in &mut nodes {
            node.note(mark);
        }
        (cluster, mark)
    }

    pub fn path(&self, node: usize) -> &str {
        self.paths[node - 1].to_str().expect("a plain path")
    }

    pub fn all(&self) -> Vec<&str> {
        (1..=self.paths.len()).map(|node| self.path(node)).collect()
    }

    pub fn file(&self, node: usize, name: &str) -> PathBuf {
        self.paths[node - 1].join("log-0000").join(name)
    }

    /// The names of a node's sealed segments, oldest first.
    pub fn sealed(&self, node: usize) -> Vec<String> {
        let (_, value) = json(&["ls"], &[self.path(node)]);
        let files = value["segments"].as_array().expect("files").iter();
        let sealed = files.filter(|file| file["state"] == "sealed");
        sealed.map(|file| file["file"].as_str().expect("a name").to_owned()).collect()
    }
}

/// Number `number` of the commands; it stands at slot `number + 1`.
pub fn command(number: u64) -> String {
    format!("command {number}")
}

pub fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    file.write_all_at(&[byte[0] ^ 0x10], offset).expect("write");
}

pub fn tools(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_synod-tools")).args(arguments).output().expect("the program runs")
}

/// Runs a verb over directories; its exit code and what it says as text.
pub fn said(arguments: &[&str], directories: &[&str]) -> (i32, String) {
    let output = tools(&[arguments, directories].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    (output.status.code().expect("it ended by itself"), String::from_utf8(output.stdout).expect("text") + &stderr)
}

/// Runs a verb with `--format json`.
pub fn json(arguments: &[&str], directories: &[&str]) -> (i32, Value) {
    let output = tools(&[arguments, directories, &["--format", "json"]].concat());
    let text = String::from_utf8(output.stdout).expect("text");
    let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (output.status.code().expect("it ended by itself"), value)
}
