//! What nodes do when the kernel says no: real errors of real file systems, on loop devices.
//!
//! A scenario that can't be set up here (no root, no loop devices, a tool missing) is skipped, and the last line says how
//! many were. Nothing outside the mounts of the test is touched.

#[path = "../common/mod.rs"]
mod common;
mod disk;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Served, commands, free_addresses, read_all, synod_ok, temporary_directory, wait_for};
use disk::{Backing, Disk, Unable};
use synod::client::{Client, ClientError, ClientRefusal, NodeRole, StatusReport};
use synod::{Batch, Slot};

const PATIENCE: Duration = Duration::from_secs(20);
const SEGMENT_BYTES: u64 = 2 << 20;

/// `synod serve` ends with this if a write or a sync of its log failed.
const DISK_FAILED: Option<i32> = Some(3);

type Scenario = fn() -> Result<(), Unable>;

#[test]
fn nodes_bear_real_errors_of_the_kernel() {
    let scenarios: [(&str, Scenario); 5] = [
        ("a sync fails with EIO", a_failed_sync),
        ("a write fails with ENOSPC below the file system", a_failed_write),
        ("the file system becomes read-only", a_read_only_file_system),
        ("a read fails with EIO", a_failed_read),
        ("the file system is full", a_full_file_system),
    ];
    let mut skipped = 0;
    for (name, scenario) in scenarios {
        // Past the harness, which keeps what passing tests print.
        let mut stderr = std::io::stderr();
        match scenario() {
            Ok(()) => drop(writeln!(stderr, "kernel fault: {name}: as documented")),
            Err(Unable(reason)) => {
                skipped += 1;
                drop(writeln!(stderr, "kernel fault: {name}: SKIPPED, {reason}"));
            }
        }
    }
    let run = scenarios.len() - skipped;
    drop(writeln!(std::io::stderr(), "kernel faults: {run} scenarios run, {skipped} skipped"));
}

/// Three nodes, each with its directory on a disk of its own that can be made to fail.
struct Cluster {
    nodes: Vec<Option<Served>>,
    clients: Vec<SocketAddr>,
    listens: Vec<SocketAddr>,
    disks: Vec<Disk>,
    root: tempfile::TempDir,
}

impl Cluster {
    fn start(size: u32, backing: Backing) -> Result<Cluster, Unable> {
        let root = temporary_directory();
        let disks = (1..=size)
            .map(|node| Disk::make(&root.path().join(format!("disk-{node}")), backing))
            .collect::<Result<Vec<Disk>, Unable>>()?;
        let addresses = free_addresses(2 * size as usize);
        let (listens, clients) = addresses.split_at(size as usize);
        let mut bootstrap = vec!["bootstrap".to_owned()];
        for (node, disk) in (1..).zip(&disks) {
            let (node, directory, bytes): (u32, _, _) = (node, text(&directory(disk)), SEGMENT_BYTES.to_string());
            synod_ok(["init", "--dir", &directory, "--node", &node.to_string(), "--segment-size", &bytes]);
            bootstrap.extend(["--member-dir".to_owned(), directory]);
        }
        synod_ok(bootstrap);
        let nodes = disks.iter().map(|_| None).collect();
        let mut cluster = Cluster { nodes, clients: clients.to_vec(), listens: listens.to_vec(), disks, root };
        for place in 0..size as usize {
            cluster.serve(place);
        }
        Ok(cluster)
    }

    fn serve(&mut self, place: usize) {
        let node = place as u32 + 1;
        let log = self.root.path().join(format!("node-{node}.stderr"));
        let directory = directory(&self.disks[place]);
        // So that there are syncs that can fail.
        let further = ["--sync", "fdatasync"];
        let served = Served::start_told(&directory, node, &self.listens, self.clients[place], log, &further);
        self.nodes[place] = Some(served);
    }

    fn served(&mut self, place: usize) -> &mut Served {
        self.nodes[place].as_mut().expect("it was started")
    }

    /// Whoever leads, and can be asked.
    fn leader(&self) -> usize {
        wait_for("a leader", PATIENCE, || {
            (0..self.clients.len())
                .find(|place| status(self.clients[*place]).is_some_and(|status| status.role == NodeRole::Leader))
        })
    }

    /// Appends until that succeeds, at whoever leads; the commands' first slot.
    fn append(&self, batch: &Batch) -> Slot {
        wait_for("an append", PATIENCE, || {
            let mut client = Client::connect(self.clients[self.leader()]).ok()?;
            client.append_batch(batch).ok().map(|slots| slots.start)
        })
    }
}

fn directory(disk: &Disk) -> PathBuf {
    disk.path().join("node")
}

fn text(path: &Path) -> String {
    path.to_str().expect("a plain path").to_owned()
}

fn status(at: SocketAddr) -> Option<StatusReport> {
    Client::connect(at).ok()?.status().ok()
}

fn kilobytes(count: usize) -> Batch {
    (0..count).map(|_| [7; 1024]).collect()
}

/// Breaks the leader's disk, appends to it, and checks that it fences itself, and that the others go on without it.
fn leader_fences(backing: Backing, break_disk: fn(&Disk), sentence: &[&str]) -> Result<(), Unable> {
    let mut cluster = Cluster::start(3, backing)?;
    let first = cluster.append(&kilobytes(64));
    let leader = cluster.leader();
    break_disk(&cluster.disks[leader]);
    // Whatever becomes of this one, it is never called failed: the others may have chosen it.
    let mut client = Client::connect(cluster.clients[leader]).expect("it still serves");
    let broke = Instant::now();
    let lost = client.append_batch(&kilobytes(64));
    assert!(
        matches!(
            lost,
            Ok(_)
                | Err(
                    ClientError::Refused(ClientRefusal::UnknownOutcome | ClientRefusal::Shutdown) | ClientError::Io(_)
                )
        ),
        "{lost:?}"
    );
    let code = wait_for("the leader to end", PATIENCE, || {
        cluster.served(leader).child.try_wait().expect("it can be waited for")
    });
    let log = cluster.served(leader).stderr();
    assert_eq!(code.code(), DISK_FAILED, "{log}");
    for part in sentence {
        assert!(log.contains(part), "no {part:?} in\n{log}");
    }
    cluster.nodes[leader] = None;
    let next = cluster.append(&kilobytes(1));
    let took = broke.elapsed();
    assert!(next > first);
    for place in (0..3).filter(|place| *place != leader) {
        wait_for("the others to have everything", PATIENCE, || {
            let all = commands(&read_all(cluster.clients[place]));
            (all.iter().any(|(slot, _)| *slot == next) && all.iter().any(|(slot, _)| *slot == first)).then_some(())
        });
    }
    drop(writeln!(std::io::stderr(), "  appended again {took:.2?} after the fault"));
    Ok(())
}

fn a_failed_sync() -> Result<(), Unable> {
    let sentence = ["can't sync", "segment-", "Input/output error (os error 5)", "mend or replace the disk"];
    leader_fences(Backing::Cached, Disk::take_away_room, &sentence)
}

fn a_failed_write() -> Result<(), Unable> {
    let sentence = ["can't write", "segment-", "No space left on device", "make room below the file system"];
    leader_fences(Backing::Direct, Disk::take_away_room, &sentence)
}

fn a_read_only_file_system() -> Result<(), Unable> {
    let sentence = ["can't write", "segment-", "Read-only file system", "mend it"];
    leader_fences(Backing::Direct, Disk::make_read_only, &sentence)
}

fn a_failed_read() -> Result<(), Unable> {
    let mut cluster = Cluster::start(3, Backing::Direct)?;
    let first = cluster.append(&kilobytes(256));
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    let end = status(cluster.clients[leader]).expect("it serves").mark.slot;
    // Started again, it has nothing in memory; then it is left alone until it writes no more.
    assert_eq!(cluster.served(follower).terminate(), Some(0));
    cluster.serve(follower);
    wait_for("the follower to have everything", PATIENCE, || {
        status(cluster.clients[follower]).filter(|status| status.mark.slot >= end)
    });
    std::thread::sleep(Duration::from_millis(500));
    cluster.disks[follower].cut_off();
    let mut client = Client::connect(cluster.clients[follower]).expect("it serves");
    // What it can't read it has from the others, and the reader never knows.
    let read = client.read_from(first, 1 << 20).expect("the body is healed");
    assert!(commands(&read.bodies).iter().any(|(slot, _)| *slot == first), "{read:?}");
    let log = cluster.served(follower).stderr();
    assert!(log.contains("can't read a record of the log") && log.contains("os error 5"), "{log}");
    assert!(log.contains("a damaged record is healed"), "{log}");
    // It goes on.
    assert!(cluster.served(follower).child.try_wait().expect("it can be waited for").is_none());
    let next = cluster.append(&kilobytes(1));
    wait_for("the follower to follow", PATIENCE, || {
        status(cluster.clients[follower]).filter(|status| status.mark.slot > next)
    });
    assert!(commands(&read_all(cluster.clients[leader])).iter().any(|(slot, _)| *slot == first));
    Ok(())
}

fn a_full_file_system() -> Result<(), Unable> {
    let mut cluster = Cluster::start(1, Backing::Direct)?;
    cluster.append(&kilobytes(1));
    cluster.disks[0].fill_up();
    let refuse = |cluster: &Cluster| {
        let at = cluster.clients[0];
        wait_for("a refusal", PATIENCE, || match Client::connect(at).ok()?.append_batch(&kilobytes(64)) {
            Err(ClientError::Refused(ClientRefusal::DiskFull)) => Some(()),
            _ => None,
        });
    };
    refuse(&cluster);
    assert!(cluster.served(0).stderr().contains("the log is full"));
    // A start needs no room; twice, for the first one might have used up a reserve.
    for _ in 0..2 {
        assert_eq!(cluster.served(0).terminate(), Some(0));
        cluster.serve(0);
        refuse(&cluster);
    }
    cluster.disks[0].make_room();
    cluster.append(&kilobytes(64));
    assert!(cluster.served(0).stderr().contains("the log has room again"));
    Ok(())
}
