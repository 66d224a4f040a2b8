//! The program as an operator meets it, on a directory that a node could have left.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use synod_frame::{
    BLOCK_BYTES, Batch, CommandsPlan, ConfigurationBody, GroupId, Member, Origin, RecordBuffer, Submission,
    encode_commands,
};
use synod_protocol::{Ballot, Chain, Mark, NodeId};
use synod_wal::directory::{self, DirectoryStore, Expected, FileDisk, Genesis, InitOptions};
use synod_wal::{Action, LogSettings, RecordKind, RecordMeta, Wal, recover};
use tempfile::TempDir;

const GROUP: GroupId = GroupId(1);
const SEGMENT_BYTES: u64 = 64 << 10;
const COMMANDS: u64 = 40;

/// A node's directory with [`COMMANDS`] single-command bodies, and the chain over them.
fn directory() -> (TempDir, PathBuf, Chain) {
    let root = tempfile::tempdir().expect("a temporary directory");
    let path = root.path().join("node");
    let options = InitOptions { segment_bytes: SEGMENT_BYTES, files: 6, allow_memory_fs: true };
    let identity = directory::init(&path, NodeId(1), &options, &mut |_| {}).expect("init");
    let configuration = ConfigurationBody {
        cluster: [7; 16],
        lineage: 1,
        members: vec![Member { node: NodeId(1), incarnation: identity.incarnation }],
        prepare_quorum: 1,
        accept_quorum: 1,
        alpha: 64,
    };
    directory::bootstrap(&path, &Genesis { group: GROUP, configuration }).expect("bootstrap");
    let chain = fill(&path);
    (root, path, chain)
}

fn fill(path: &Path) -> Chain {
    let open = directory::open(path, &Expected::default()).expect("open");
    let identity = open.identity().log_identity(0).expect("bootstrapped");
    let log = open.log_path(0);
    let recovered = recover(&DirectoryStore::new(&log), &identity.expected(), SEGMENT_BYTES).expect("recover");
    let settings = LogSettings { segment_bytes: SEGMENT_BYTES, ..LogSettings::default() };
    let mut wal = Wal::new(identity, settings, recovered);
    let disk = FileDisk::new(log, SEGMENT_BYTES);
    settle(&mut wal, &disk);
    let ballot = Ballot { round: 1, node: NodeId(1), boot: 5 };
    let mut mark = Mark::START;
    for number in 0..COMMANDS {
        let mut batch = Batch::with_capacity(16);
        batch.push(format!("command {number}\x1b").as_bytes());
        let layout = CommandsPlan::new().with(&batch).layout().expect("small");
        let mut record = RecordBuffer::zeroed(layout.record_bytes());
        let origin = Origin { group: GROUP, first: mark.slot, ballot, leader_time_us: 1 + number };
        let submission = Submission { session: 0, sequence: 0, ticket: 0, batch: &batch };
        let body = encode_commands(record.as_mut(), &origin, &[submission]).expect("encodes");
        let after = mark.after(&body);
        append(&mut wal, &disk, RecordKind::Accepted, mark, Some(body), record);
        mark = after;
    }
    append(&mut wal, &disk, RecordKind::Mark, mark, None, RecordBuffer::zeroed(BLOCK_BYTES));
    mark.chain
}

fn append(
    wal: &mut Wal,
    disk: &FileDisk,
    kind: RecordKind,
    mark: Mark,
    body: Option<synod_protocol::BodyHandle>,
    mut record: RecordBuffer,
) {
    let ballot = Ballot { round: 1, node: NodeId(1), boot: 5 };
    let meta = RecordMeta {
        kind,
        group: GROUP,
        source: NodeId(0),
        ballot,
        promised: ballot,
        mark,
        log_time_us: mark.slot.0,
        unsure: false,
    };
    let planned = loop {
        match wal.append(&meta, body.as_ref(), record.as_mut()) {
            Ok(planned) => break planned,
            Err(synod_wal::AppendError::NoSegment) => settle(wal, disk),
            Err(error) => panic!("{error}"),
        }
    };
    disk.write(planned.file, planned.offset, &record.as_ref()[..planned.record_bytes as usize]).expect("write");
    wal.handle_written(planned.write);
    settle(wal, disk);
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

fn tools(arguments: &[&str], path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_synod-tools")).args(arguments).arg(path).output().expect("the program runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// Every file below, with its content.
fn snapshot(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
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

#[test]
fn ls_shows_the_node_and_its_segments_in_log_order() {
    let (_root, path, _) = directory();
    let output = tools(&["ls"], &path);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = stdout(&output);
    assert!(text.starts_with("node 1  cluster 07070707-0707-0707-0707-070707070707"), "{text}");
    let states: Vec<&str> = text.lines().skip(3).filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(states.iter().filter(|state| **state == "open").count(), 1, "{text}");
    assert!(states.contains(&"sealed"), "40 records of one block fill more than one segment of 16: {text}");
}

#[test]
fn dump_shows_records_and_commands_and_escapes_them() {
    let (_root, path, _) = directory();
    let output = tools(&["dump", "--decode", "utf8", "--from", "3", "--to", "5"], &path);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = stdout(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "two bodies of one command each: {text}");
    assert!(lines[0].contains("accepted") && lines[0].contains("slots 3..4 commands 1"), "{text}");
    assert_eq!(lines[1].trim(), "3 command 2\\u{1b}", "{text}");
    let limited = tools(&["dump", "--limit", "7"], &path);
    assert_eq!(stdout(&limited).lines().count(), 7);
    let kind = tools(&["dump", "--kind", "mark"], &path);
    assert_eq!(stdout(&kind).lines().count(), 1);
    assert_eq!(tools(&["dump", "--kind", "nonsense"], &path).status.code(), Some(2));
}

#[test]
fn verify_recomputes_the_chain_and_changes_nothing() {
    let (_root, path, chain) = directory();
    let before = snapshot(&path);
    let output = tools(&["verify"], &path);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = stdout(&output);
    assert!(text.contains(": sound: ") && text.contains(&format!("slots 1..41 chosen with chain {chain}")), "{text}");
    tools(&["ls"], &path);
    tools(&["dump"], &path);
    assert_eq!(before, snapshot(&path), "the tools only read");
}

#[test]
fn verify_finds_one_flipped_bit() {
    let (_root, path, _) = directory();
    let listing = stdout(&tools(&["dump", "--from", "10", "--to", "11"], &path));
    let place = listing.split_whitespace().nth(1).expect("file and offset");
    let (file, offset) = place.split_once("+0x").expect("file+offset");
    let offset = u64::from_str_radix(offset, 16).expect("hexadecimal") + 700;
    let file = path.join("log-0000").join(file);
    let open = OpenOptions::new().read(true).write(true).open(file).expect("the segment");
    let mut byte = [0];
    open.read_exact_at(&mut byte, offset).expect("read");
    open.write_all_at(&[byte[0] ^ 0x10], offset).expect("write");
    let output = tools(&["verify"], &path);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = stdout(&output);
    assert!(text.contains("DAMAGED") && text.contains("segment-"), "{text}");
}

#[test]
fn what_is_no_directory_of_a_node_is_said_in_a_sentence() {
    let root = tempfile::tempdir().expect("a temporary directory");
    for verb in ["ls", "dump", "verify"] {
        let output = tools(&[verb], root.path());
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.starts_with("synod-tools: ") && !text.contains("panicked"), "{text}");
    }
    assert_eq!(tools(&["nonsense"], root.path()).status.code(), Some(2));
}

#[test]
fn a_reader_that_stops_early_is_no_error() {
    let (_root, path, _) = directory();
    let mut child = Command::new(env!("CARGO_BIN_EXE_synod-tools"))
        .args(["dump", "--decode", "hex"])
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    drop(child.stdout.take());
    let mut messages = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut messages).expect("text");
    assert_eq!(child.wait().expect("ends").code(), Some(0), "{messages}");
    assert_eq!(messages, "");
}
