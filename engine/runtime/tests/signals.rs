//! How a node comes up and goes down under a supervisor.

mod common;

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{SYNOD, Served, free_addresses, make_cluster, temporary_directory, wait_for};
use rustix::process::{Pid, Signal};
use synod::client::{Client, NodeRole};

const PATIENCE: Duration = Duration::from_secs(20);

fn leads(node: &Served) -> Option<()> {
    let status = Client::connect(node.client).ok()?.status().ok()?;
    (status.role == NodeRole::Leader).then_some(())
}

fn terminate(node: &Served) {
    rustix::process::kill_process(Pid::from_child(&node.child), Signal::TERM).expect("it runs");
}

#[test]
fn a_leader_that_is_told_to_end_hands_over_and_exits_with_zero() {
    let root = temporary_directory();
    let directories = make_cluster(root.path(), 3, 2 << 20);
    let addresses = free_addresses(6);
    let (listens, clients) = addresses.split_at(3);
    let mut nodes: Vec<Served> = (1..=3)
        .map(|node| {
            let place = node as usize - 1;
            // Who takes over in time hasn't waited for the leader's silence.
            let further = ["--election-timeout", "5s", "--log-format", "json"];
            Served::start_with(&directories[place], node, listens, clients[place], &further)
        })
        .collect();
    let leader = wait_for("a leader", PATIENCE, || nodes.iter().position(|node| leads(node).is_some()));
    // It hands over only to who keeps pace, and learns that from its first heartbeats.
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    let mut old = nodes.remove(leader);
    assert_eq!(old.terminate(), Some(0));
    wait_for("a successor", PATIENCE, || nodes.iter().find_map(leads));
    assert!(begun.elapsed() < Duration::from_secs(4), "it took {:?}", begun.elapsed());
    let log = old.stderr();
    assert!(log.contains("the leadership is handed over"), "{log}");
    for line in log.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event["level"].is_string() && event["message"].is_string(), "{line}");
    }
    for node in &mut nodes {
        assert_eq!(node.terminate(), Some(0));
    }
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let root = temporary_directory();
    let directories = make_cluster(root.path(), 3, 2 << 20);
    let addresses = free_addresses(6);
    let (listens, clients) = addresses.split_at(3);
    let start = |node: u32, further: &[&str]| {
        let place = node as usize - 1;
        Served::start_with(&directories[place], node, listens, clients[place], further)
    };
    // The first one leads, and clings to it: the others take much longer to find out that it is gone.
    let mut leader = start(1, &["--election-timeout", "2s"]);
    let patient = ["--election-timeout", "60s"];
    let others = [start(2, &patient), start(3, &patient)];
    wait_for("a leader", PATIENCE, || leads(&leader));
    std::thread::sleep(Duration::from_millis(300));
    // Nobody is there to take over, so that the orderly end takes its time.
    others.iter().for_each(Served::pause);
    terminate(&leader);
    wait_for("the first signal's line", PATIENCE, || leader.stderr().contains("shutting down").then_some(()));
    terminate(&leader);
    assert_eq!(leader.child.wait().expect("it ends").code(), Some(143));
    others.iter().for_each(Served::resume);
}

#[test]
fn a_supervisor_hears_when_the_node_is_ready_and_when_it_ends() {
    let root = temporary_directory();
    let directories = make_cluster(root.path(), 1, 2 << 20);
    let heard = root.path().join("notify");
    let socket = UnixDatagram::bind(&heard).expect("a free path");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut child = Command::new(SYNOD)
        .args(["serve", "--listen", "127.0.0.1:0", "--dir"])
        .arg(&directories[0])
        .env("NOTIFY_SOCKET", &heard)
        .env("WATCHDOG_USEC", "400000")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let until = |wanted: &str| {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let mut bytes = [0; 256];
            let length = socket.recv(&mut bytes).expect("the node tells how it stands");
            if String::from_utf8_lossy(&bytes[..length]).lines().any(|line| line == wanted) {
                return;
            }
        }
        panic!("{wanted} isn't told");
    };
    until("READY=1");
    until("WATCHDOG=1");
    until("WATCHDOG=1");
    rustix::process::kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    until("STOPPING=1");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}
