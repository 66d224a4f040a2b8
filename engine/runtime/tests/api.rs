//! What the embedding API promises beside appends that succeed: deadlines, refusals by choice, watches, an end that can be
//! awaited, and memory within the formula.

mod common;

use std::time::{Duration, Instant};

use common::{free_addresses, make_cluster, temporary_directory, wait_for};
use futures_lite::StreamExt as _;
use futures_lite::future::block_on;
use synod::{AppendError, AppendOptions, Batch, Config, Node, NodeId, Role, WhenFull};

const PATIENCE: Duration = Duration::from_secs(20);

/// A node of a cluster of `members`, of which only the first is ever started.
fn first_of(root: &std::path::Path, members: u32) -> Config {
    make_cluster(root, members, 2 << 20);
    let addresses = free_addresses(members as usize);
    let mut config = Config::new(root.join("node-1"), NodeId(1), addresses[0]);
    config.peers = (2..).zip(&addresses[1..]).map(|(node, address)| (NodeId(node), *address)).collect();
    config.io_memory_bytes = 8 << 20;
    config
}

fn until(deadline: Instant) -> AppendOptions {
    AppendOptions { deadline: Some(deadline), ..AppendOptions::default() }
}

#[test]
fn a_watch_gives_the_newest_state_and_then_the_end() {
    let root = temporary_directory();
    let mut node = Node::start(first_of(root.path(), 1)).expect("the node starts");
    let log = node.log();
    let mut watch = log.watch();
    let leading = watch.wait_for_blocking(|status| status.role == Role::Leader).expect("it runs");
    let slot = log.append_blocking(b"seen").expect("chosen");
    let seen = watch.wait_for_blocking(|status| status.mark.slot > slot).expect("it runs");
    assert!(seen.mark.slot > leading.mark.slot);
    assert_eq!(seen.lags().count(), 0, "it has no peers");
    let follower = std::thread::spawn(move || block_on(watch.count()));
    block_on(node.close()).expect("an orderly end");
    // Ends only because the node has.
    follower.join().expect("it ends");
    assert_eq!(log.append_blocking(b"late"), Err(AppendError::Shutdown));
}

#[test]
fn a_deadline_that_has_passed_proposes_nothing() {
    let root = temporary_directory();
    let node = Node::start(first_of(root.path(), 1)).expect("the node starts");
    let log = node.log();
    log.watch().wait_for_blocking(|status| status.role == Role::Leader).expect("it runs");
    let before = log.append_blocking(b"one").expect("chosen");
    let late = log.append_with_blocking(b"late", until(Instant::now()));
    assert_eq!(late, Err(AppendError::DeadlinePassed));
    assert_eq!(log.append_with_blocking(b"two", until(Instant::now() + PATIENCE)), Ok(before.plus(1)));
}

#[test]
fn full_means_what_the_caller_chose_and_memory_stays_within_the_formula() {
    let root = temporary_directory();
    let mut config = first_of(root.path(), 1);
    config.intake_bytes = 1 << 20;
    config.intake_count = 64;
    let bound = config.memory_bound(65_536);
    let node = Node::start(config).expect("the node starts");
    let log = node.log();
    log.watch().wait_for_blocking(|status| status.role == Role::Leader).expect("it runs");
    let batch: Batch = (0..64).map(|_| [7; 1024]).collect();
    let end = Instant::now() + Duration::from_secs(3);
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (log, batch) = (log.clone(), batch.clone());
            std::thread::spawn(move || {
                let options = AppendOptions { when_full: WhenFull::Refuse, ..AppendOptions::default() };
                let mut outcomes = Vec::new();
                let (mut chosen, mut refused) = (0u64, 0u64);
                while Instant::now() < end {
                    // Far more than there is room for, all at once.
                    outcomes.extend((0..32).map(|_| Box::pin(log.append_batch_with(batch.clone(), options))));
                    for outcome in futures_drive(&mut outcomes) {
                        match outcome {
                            Ok(_) => chosen += 1,
                            Err(AppendError::Overloaded) => refused += 1,
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
                (chosen, refused)
            })
        })
        .collect();
    let (chosen, refused) = callers
        .into_iter()
        .map(|caller| caller.join().expect("it ends"))
        .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    assert!(chosen > 0 && refused > 0, "{chosen} chosen, {refused} refused");
    let resident = highest_resident_bytes();
    // The tests of this file share a process, so there are some more nodes in it, and the callers' own batches.
    assert!(resident < bound.total() + (256 << 20), "{resident} bytes, bound {bound:?}");
    let patient = AppendOptions { when_full: WhenFull::Wait, ..AppendOptions::default() };
    wait_for("room", PATIENCE, || log.append_with_blocking(b"x", patient).ok());
}

/// Polls all of them to their ends.
fn futures_drive<F: Future + Unpin>(futures: &mut Vec<F>) -> Vec<F::Output> {
    block_on(async {
        let mut outputs = Vec::new();
        // Each is polled once before the first is waited for, so that all are in the intake together.
        let mut waiting = Vec::new();
        for mut future in futures.drain(..) {
            match futures_lite::future::poll_once(&mut future).await {
                Some(output) => outputs.push(output),
                None => waiting.push(future),
            }
        }
        for future in waiting {
            outputs.push(future.await);
        }
        outputs
    })
}

fn highest_resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[test]
fn client_peers_are_peers_and_without_a_quorum_nobody_leads() {
    let root = temporary_directory();
    let mut config = first_of(root.path(), 3);
    config.client_peers = vec![(NodeId(4), "127.0.0.1:9".parse().expect("an address"))];
    assert!(config.validate().is_err(), "node 4 is no peer");
    config.client_peers = vec![(NodeId(3), "127.0.0.1:9".parse().expect("an address"))];
    let node = Node::start(config).expect("the node starts");
    // Alone it is no quorum, so nobody leads, and nothing waits for that.
    assert_eq!(node.log().append_blocking(b"x"), Err(AppendError::NoLeader));
}
