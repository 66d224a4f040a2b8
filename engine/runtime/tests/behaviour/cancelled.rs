//! Ten thousand appends at once on tokio, many of them cancelled at random: nothing is lost, and nothing is there twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use synod::testing::Cluster;
use synod::{Log, Slot};

use crate::beds::{Bed, Client, Follower, Nodes};
use crate::{common, read};

const APPENDS: u32 = 10_000;

/// What somebody knows of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Chosen(Slot),
    Refused,
    /// Cancelled, or the outcome is unknown: once or not at all.
    Nothing,
}

#[test]
fn on_a_cluster_for_tests() {
    check(&Cluster::start(3).expect("it starts"), false);
}

#[test]
fn on_an_embedded_log() {
    check(&Nodes::start(), false);
}

#[test]
fn through_a_follower() {
    check(&Follower::start(), false);
}

#[test]
fn over_the_network() {
    check(&Client::start(), false);
}

#[test]
fn over_the_network_while_the_leader_changes() {
    check(&Client::start(), true);
}

#[test]
fn on_a_cluster_for_tests_while_the_leader_crashes() {
    check(&Cluster::start(3).expect("it starts"), true);
}

fn check(bed: &dyn Bed, leader_changes: bool) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().expect("a runtime");
    let log = bed.log();
    let chosen = Arc::new(AtomicU32::new(0));
    let appends: Vec<_> = (0..APPENDS)
        .map(|number| {
            let (appending, chosen) = (append(log.clone(), number), Arc::clone(&chosen));
            runtime.spawn(async move {
                let known = appending.await;
                chosen.fetch_add(u32::from(matches!(known, Known::Chosen(_))), Ordering::Relaxed);
                known
            })
        })
        .collect();
    if leader_changes {
        // In the midst of it, not before.
        common::wait_for("some appends", Duration::from_secs(30), || {
            (chosen.load(Ordering::Relaxed) > 0).then_some(())
        });
        bed.restart_leader();
    }
    let known: Vec<Known> = runtime.block_on(async { outcomes(appends).await.into_iter().collect() });
    drop(runtime);

    let end = loop {
        // Whoever leads after a change may have to be waited for.
        match bed.log().barrier_blocking() {
            Ok(end) => break end,
            Err(error) => eprintln!("{error}"),
        }
    };
    let mut places: BTreeMap<u32, Vec<Slot>> = BTreeMap::new();
    for (slot, command) in read(&bed.log(), Slot::FIRST, end).0 {
        places.entry(command.parse().expect("a number")).or_default().push(slot);
    }
    let mut counts = [0; 3];
    for (number, known) in (0..APPENDS).zip(known) {
        let found = places.get(&number).map_or(&[][..], Vec::as_slice);
        match known {
            Known::Chosen(slot) => assert_eq!(found, [slot], "{number}"),
            Known::Refused => assert_eq!(found, [], "{number}"),
            Known::Nothing => assert!(found.len() <= 1, "{number} stands at {found:?}"),
        }
        counts[match known {
            Known::Chosen(_) => 0,
            Known::Refused => 1,
            Known::Nothing => 2,
        }] += 1;
    }
    eprintln!("chosen, refused, unknown: {counts:?}");
    assert!(counts[0] > 0 && counts[2] > 0, "{counts:?}: some must succeed, and some be cancelled");
}

/// Every other one is cancelled, at any time from at once to some 60 ms later.
async fn append(log: Log, number: u32) -> Known {
    let mixed = number.wrapping_mul(0x9e37_79b9) ^ number.rotate_left(16);
    let appending = async {
        match log.append(number.to_string()).await {
            Ok(slot) => Known::Chosen(slot),
            Err(error) if error.is_certain() => Known::Refused,
            Err(_) => Known::Nothing,
        }
    };
    if number.is_multiple_of(2) {
        return appending.await;
    }
    let patience = Duration::from_micros(u64::from(mixed % 60_000));
    tokio::time::timeout(patience, appending).await.unwrap_or(Known::Nothing)
}

async fn outcomes(tasks: Vec<tokio::task::JoinHandle<Known>>) -> Vec<Known> {
    let mut all = Vec::with_capacity(tasks.len());
    for task in tasks {
        all.push(task.await.expect("no append panics"));
    }
    all
}
