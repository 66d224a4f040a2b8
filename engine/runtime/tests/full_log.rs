//! A log that may not grow: client commands are refused with the reason, a trim still gets through and makes room.

mod common;

use std::time::Duration;

use common::{free_addresses, make_cluster, temporary_directory, wait_for};
use synod::{AppendError, Batch, Config, Node, NodeId, Slot};

const PATIENCE: Duration = Duration::from_secs(10);
const SEGMENT_BYTES: u64 = 2 << 20;

/// As many files as `init` makes: none may be added.
const FILES: u32 = 8;

#[test]
fn a_full_log_refuses_commands_and_takes_a_trim() {
    let root = temporary_directory();
    let directories = make_cluster(root.path(), 1, SEGMENT_BYTES);
    let mut config = Config::new(&directories[0], NodeId(1), free_addresses(1)[0]);
    config.pool_files_max = FILES;
    config.io_memory_bytes = 16 << 20;
    let mut node = Node::start(config).expect("the node starts");
    let log = node.log();
    log.wait_for_leader_blocking(PATIENCE).expect("a leader");

    let batch: Batch = (0..64).map(|_| [7; 1024]).collect();
    let bytes_max = SEGMENT_BYTES * u64::from(FILES);
    let (mut appended, mut last) = (0, Slot::FIRST);
    let refusal = loop {
        match log.append_batch_blocking(batch.clone()) {
            Ok(slots) => (appended, last) = (appended + batch.bytes().len() as u64, slots.end),
            Err(refusal) => break refusal,
        }
        assert!(appended < bytes_max, "more than the files can hold");
    };
    assert_eq!(refusal, AppendError::DiskFull);
    assert!(appended > bytes_max / 2, "only {appended} bytes went into files of {bytes_max}");
    assert_eq!(log.append_blocking(b"still full"), Err(AppendError::DiskFull));

    let trimmed = wait_for("a trim", PATIENCE, || log.trim_blocking(last).ok());
    assert!(trimmed > Slot::FIRST && trimmed <= last);
    let slot = wait_for("room again", PATIENCE, || log.append_blocking(b"room again").ok());
    assert!(slot >= last, "slots go on behind what was there");
    node.shutdown().expect("an orderly end");
}
