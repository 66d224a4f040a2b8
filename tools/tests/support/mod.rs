//! Directories as a node could have left them, and the program on them.
#![allow(dead_code, unreachable_pub, reason = "shared by the tests, of which not every one needs all of it")]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use synod_frame::{
    BLOCK_BYTES, Batch, CommandsPlan, ConfigurationBody, GroupId, Member, Origin, RecordBuffer, Submission,
    encode_commands, encode_noop,
};
use synod_protocol::{Ballot, BodyHandle, Mark, NodeId};
use synod_wal::directory::{self, DirectoryStore, Expected, FileDisk, Genesis, InitOptions, OpenDirectory};
use synod_wal::{Action, LogSettings, Planned, RecordKind, RecordMeta, Wal, recover};
use tempfile::TempDir;

pub const GROUP: GroupId = GroupId(1);
pub const SEGMENT_BYTES: u64 = 64 << 10;
pub const CLUSTER: [u8; 16] = [7; 16];

/// A node's directory and its log, open for writing.
pub struct Node {
    pub path: PathBuf,
    wal: Wal,
    disk: FileDisk,
    /// Behind the last body, as if all were chosen.
    pub mark: Mark,
    /// What records say of the chosen prefix.
    pub told: Mark,
    ballot: Ballot,
    _open: OpenDirectory,
}

/// The directories `node-1`, `node-2` and so on, as members of one cluster of which each node hears nothing.
pub fn cluster(root: &Path, nodes: u32) -> Vec<PathBuf> {
    cluster_of(root, nodes, 1)
}

/// As [`cluster`], with so many groups.
pub fn cluster_of(root: &Path, nodes: u32, logs: u32) -> Vec<PathBuf> {
    fs::create_dir_all(root).expect("a directory");
    let paths: Vec<PathBuf> = (1..=nodes).map(|node| root.join(format!("n{node}"))).collect();
    let options = InitOptions { segment_bytes: SEGMENT_BYTES, files: 6, logs, allow_memory_fs: true };
    let identities: Vec<_> = (1..)
        .zip(&paths)
        .map(|(node, path)| directory::init(path, NodeId(node), &options, &mut |_| {}).expect("init"))
        .collect();
    let members: Vec<Member> =
        identities.iter().map(|identity| Member { node: identity.node, incarnation: identity.incarnation }).collect();
    let quorum = nodes / 2 + 1;
    let configuration = ConfigurationBody {
        cluster: CLUSTER,
        lineage: 1,
        members,
        prepare_quorum: quorum,
        accept_quorum: quorum,
        alpha: 64,
        ..ConfigurationBody::default()
    };
    for path in &paths {
        directory::bootstrap(path, &Genesis { group: GROUP, configuration: configuration.clone() }).expect("bootstrap");
    }
    paths
}

pub fn ballot(round: u64) -> Ballot {
    Ballot { round, node: NodeId(1), boot: 5 }
}

impl Node {
    pub fn open(path: &Path) -> Node {
        let open = directory::open(path, &Expected::default()).expect("open");
        let identity = open.identity().log_identity(0).expect("bootstrapped");
        let log = open.log_path(0);
        let recovered = recover(&DirectoryStore::new(&log), &identity.expected(), SEGMENT_BYTES).expect("recover");
        let told = recovered.mark;
        let accepted = recovered.index.iter_from(told.slot);
        let mark = accepted.fold(told, |mark, entry| mark.after(&entry.body));
        let settings = LogSettings { segment_bytes: SEGMENT_BYTES, ..LogSettings::default() };
        let mut wal = Wal::new(identity, settings, recovered);
        let disk = FileDisk::new(log, SEGMENT_BYTES);
        settle(&mut wal, &disk);
        Node { path: path.to_owned(), wal, disk, mark, told, ballot: ballot(1), _open: open }
    }

    pub fn at(mut self, ballot: Ballot) -> Node {
        self.ballot = ballot;
        self
    }

    /// Accepts one body with these commands; the record says that all in front of it is chosen.
    pub fn accept<C: AsRef<[u8]>>(&mut self, commands: &[C]) {
        self.told = self.mark;
        self.accept_only(commands);
    }

    /// Accepts one body and learns nothing.
    pub fn accept_only<C: AsRef<[u8]>>(&mut self, commands: &[C]) {
        let mut batch = Batch::with_capacity(16);
        commands.iter().for_each(|command| batch.push(command.as_ref()));
        let layout = CommandsPlan::new().with(&batch).layout().expect("small");
        let mut record = RecordBuffer::zeroed(layout.record_bytes());
        let submission = Submission::plain(&batch);
        let body = encode_commands(record.as_mut(), &self.origin(), &[submission]).expect("encodes");
        self.take(RecordKind::Accepted, body, record);
    }

    /// Accepts a range of no-ops.
    pub fn accept_noop(&mut self, count: u32) {
        let mut record = RecordBuffer::zeroed(BLOCK_BYTES);
        let body = encode_noop(record.as_mut(), &self.origin(), count).expect("encodes");
        self.take(RecordKind::Accepted, body, record);
    }

    /// Writes down that everything so far is chosen.
    pub fn mark_all(&mut self) {
        self.told = self.mark;
        self.append(RecordKind::Mark, None, RecordBuffer::zeroed(BLOCK_BYTES));
    }

    /// Promises its ballot.
    pub fn promise(&mut self) {
        self.append(RecordKind::Promise, None, RecordBuffer::zeroed(BLOCK_BYTES));
    }

    fn origin(&self) -> Origin {
        Origin { group: GROUP, first: self.mark.slot, ballot: self.ballot, leader_time_us: 1000 + self.mark.slot.0 }
    }

    fn take(&mut self, kind: RecordKind, body: BodyHandle, record: RecordBuffer) {
        self.append(kind, Some(body), record);
        self.mark = self.mark.after(&body);
    }

    fn append(&mut self, kind: RecordKind, body: Option<BodyHandle>, mut record: RecordBuffer) {
        let meta = RecordMeta {
            kind,
            group: GROUP,
            source: NodeId(0),
            ballot: self.ballot,
            promised: self.ballot,
            mark: self.told,
            log_time_us: 1000 + self.mark.slot.0,
            unsure: false,
        };
        let planned = loop {
            match self.wal.append(&meta, body.as_ref(), record.as_mut()) {
                Ok(planned) => break planned,
                Err(synod_wal::AppendError::NoSegment) => settle(&mut self.wal, &self.disk),
                Err(error) => panic!("{error}"),
            }
        };
        self.write(&planned, &record);
    }

    /// Gives up everything below what is chosen.
    pub fn trim(&mut self) {
        self.told = self.mark;
        let mut record = RecordBuffer::zeroed(BLOCK_BYTES);
        let planned = loop {
            match self.wal.trim(self.mark, record.as_mut(), self.ballot, self.mark) {
                Ok(planned) => break planned,
                Err(synod_wal::AppendError::NoSegment) => settle(&mut self.wal, &self.disk),
                Err(error) => panic!("{error}"),
            }
        };
        self.write(&planned, &record);
    }

    fn write(&mut self, planned: &Planned, record: &RecordBuffer) {
        let bytes = &record.as_ref()[..planned.record_bytes as usize];
        self.disk.write(planned.file, planned.offset, bytes).expect("write");
        self.wal.handle_written(planned.write);
        settle(&mut self.wal, &self.disk);
    }
}

fn settle(wal: &mut Wal, disk: &FileDisk) {
    while let Some(action) = wal.poll_action() {
        match action {
            Action::Write { write, file, offset, bytes } => {
                disk.write(file, offset, &bytes).expect("write");
                wal.handle_written(write);
            }
            Action::Sync { sync, file } => {
                disk.sync(file).expect("sync");
                wal.handle_synced(sync);
            }
            Action::CreateFile { file } => {
                disk.create(file).expect("create");
                wal.handle_file_ready(file);
            }
            Action::ZeroFile { file, offset, bytes } => {
                disk.zero(file, offset, bytes).expect("zero");
                wal.handle_file_ready(file);
            }
        }
    }
}

/// A node with `command 0` up to `command 39`, one a body and all chosen, over several segments.
pub fn filled() -> (TempDir, PathBuf, Mark) {
    let root = tempfile::tempdir().expect("a temporary directory");
    let path = cluster(root.path(), 1).remove(0);
    let mut node = Node::open(&path);
    for number in 0..40 {
        node.accept(&[format!("command {number}\x1b")]);
    }
    node.mark_all();
    let mark = node.mark;
    (root, path, mark)
}

/// Runs the program.
pub fn tools(arguments: &[&str], paths: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_synod-tools")).args(arguments).args(paths).output().expect("the program runs")
}

/// Its output, when it ends with this exit code.
pub fn run(code: i32, arguments: &[&str], paths: &[&Path]) -> String {
    let output = tools(arguments, paths);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(!messages.contains("panicked"), "{messages}");
    String::from_utf8(output.stdout).expect("text")
}

/// Its messages, when it ends with this exit code.
pub fn messages(code: i32, arguments: &[&str], paths: &[&Path]) -> String {
    let output = tools(arguments, paths);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).expect("text")
}

/// Its output as JSON, when it ends with this exit code.
pub fn json(code: i32, arguments: &[&str], paths: &[&Path]) -> serde_json::Value {
    let text = run(code, &[arguments, &["--format", "json"]].concat(), paths);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Where the record with the body at `slot` lies.
pub fn place(path: &Path, slot: u64) -> (PathBuf, u64) {
    let (from, to) = (slot.to_string(), (slot + 1).to_string());
    let rows = json(0, &["dump", "--from", &from, "--to", &to], &[path]);
    let file = rows[0]["file"].as_str().expect("a file");
    (segment(path, file), rows[0]["offset"].as_u64().expect("an offset"))
}

pub fn segment(path: &Path, file: &str) -> PathBuf {
    path.join("log-0000").join(file)
}

/// Flips one bit.
pub fn flip(file: &Path, offset: u64) {
    let open = OpenOptions::new().read(true).write(true).open(file).expect("the segment");
    let mut byte = [0];
    open.read_exact_at(&mut byte, offset).expect("read");
    open.write_all_at(&[byte[0] ^ 0x10], offset).expect("write");
}

/// Every file below, with its content.
pub fn snapshot(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            files.extend(snapshot(&entry));
        } else {
            files.push((entry.clone(), fs::read(&entry).expect("a file")));
        }
    }
    files.sort();
    files
}
