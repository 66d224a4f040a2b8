//! What a node does when its disk or its own code fails, on a real executor and a real disk.

use std::path::Path;

use synod_frame::Member;
use synod_wal::directory::{Genesis, InitOptions};

use super::groups::{Port, Setup, start_groups};
use super::*;
use crate::error::ReadError;
use crate::link::passage::Passages;
use crate::seam::executor::{self, ExecutorSettings};
use crate::seam::time::sleep;

/// A directory on the disk of the build: the usual temporary directory may live in memory, without O_DIRECT.
fn temporary_directory() -> tempfile::TempDir {
    let executable = std::env::current_exe().expect("tests are files");
    let beside = executable.parent().expect("files lie in directories");
    tempfile::Builder::new().prefix("synod-").tempdir_in(beside).expect("a temporary directory")
}

/// What the thread of the only node of a cluster begins with.
fn setup(root: &Path) -> (Setup, OpenDirectory) {
    let path = root.join("node");
    let options = InitOptions { segment_bytes: 2 << 20, ..InitOptions::default() };
    let node = NodeId(1);
    let made = directory::init(&path, node, &options, &mut |_| {}).expect("an empty directory");
    let configuration = ConfigurationBody {
        cluster: [7; 16],
        lineage: 0,
        members: vec![Member { node, incarnation: made.incarnation }],
        prepare_quorum: 1,
        accept_quorum: 1,
        alpha: 1024,
        ..ConfigurationBody::default()
    };
    directory::bootstrap(&path, &Genesis { group: GROUP, configuration }).expect("a fresh store");
    let config = Config::new(&path, node, "127.0.0.1:0".parse().expect("an address"));
    let directory = directory::open(&path, &Expected::default()).expect("a store");
    let (facts, recovered, startup) =
        recover_log(&directory, LOG, config.sync, config.settings.format_max).expect("a sound log");
    let (group, genesis) = check_members(&config, &recovered).expect("its only member");
    let (listener, listen) = bind(config.listen).expect("a free port");
    let called_at = std::time::Instant::now();
    let groups = vec![GroupSetup { group, recovered, genesis, facts, startup, forward: None }];
    let port = Port::First { listener, client_listener: None, passages: Passages::default(), others: Vec::new() };
    let setup = Setup { config, tls: None, of: (1, 1), groups, called_at, listen, port };
    (setup, directory)
}

/// Starts a node, waits until it leads, runs `test`, and ends it in order.
fn with_leader<F: Future<Output = ()>>(test: impl FnOnce(Rc<Shard>, Log) -> F + 'static) {
    let root = temporary_directory();
    let (setup, _directory) = setup(root.path());
    let settings = ExecutorSettings { name: "test".to_owned(), core: None, io_memory_bytes: 4 << 20 };
    let ended = executor::run(&settings, |tasks| async move {
        let started = start_groups(setup, tasks, &mut Vec::new()).await.expect("it starts");
        let shard = Rc::clone(&started[0].1);
        let log = Log::new(Arc::clone(&shard.shared));
        while log.append(b"before").await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
        test(Rc::clone(&shard), log).await;
        shard.stop.raise();
        shard.run_to_end(DISK_PATIENCE).await
    });
    assert!(ended.expect("this host runs nodes"), "every task has ended");
}

#[test]
fn a_failed_write_ends_the_service() {
    with_leader(|shard, log| async move {
        shard.make_files_read_only().await;
        let mut reader = log.reader(log.status().mark.slot);
        assert_eq!(log.append(b"lost").await, Err(AppendError::Unknown), "it was proposed");
        assert_eq!(log.append(b"late").await, Err(AppendError::Poisoned));
        assert_eq!(reader.next().await.unwrap_err(), ReadError::Poisoned);
        assert_eq!(log.barrier().await, Err(crate::BarrierError::Poisoned));
        assert_eq!(log.trim(Slot(2)).await, Err(crate::TrimError::Poisoned));
        let status = log.status();
        let stopped = status.stopped.expect("the status says why");
        let StopReason::Disk { operation: "write", path, code: Some(code), .. } = &stopped else {
            panic!("{stopped:?}")
        };
        assert!(path.to_string_lossy().contains("segment-") && *code > 0);
        let sentence = stopped.to_string();
        assert!(sentence.starts_with("can't write") && sentence.ends_with("start the node again"), "{sentence}");
        assert_eq!((status.role, status.leader), (synod_protocol::Role::Follower, None), "it leads no more");
    });
}

#[test]
fn a_panic_ends_the_service_and_not_the_process() {
    with_leader(|shard, log| async move {
        shard.tasks.spawn(async { panic!("planted") });
        while log.append(b"more").await != Err(AppendError::Poisoned) {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(log.status().stopped, Some(StopReason::Bug("planted".to_owned())));
    });
}
