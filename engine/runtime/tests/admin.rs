//! The admin port of nodes that serve: what probes and Prometheus see.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use common::{Served, free_addresses, make_cluster, synod_ok, temporary_directory, wait_for};
use synod::Batch;
use synod::client::Client;

const PATIENCE: Duration = Duration::from_secs(20);

/// The status code and the body.
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status code");
    (code, body.to_owned())
}

/// The value of a series, of which the labels may be named in part.
fn value(metrics: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let is_meant = |line: &&str| {
        let rest = line.strip_prefix(name).and_then(|rest| rest.strip_prefix('{'));
        rest.is_some_and(|rest| labels.iter().all(|label| rest.contains(label)))
    };
    metrics.lines().find(is_meant)?.rsplit_once(' ')?.1.parse().ok()
}

#[test]
fn a_cluster_shows_who_leads_what_is_appended_and_who_is_gone() {
    let root = temporary_directory();
    let directories = make_cluster(root.path(), 3, 2 << 20);
    let addresses = free_addresses(6);
    let (listens, clients) = addresses.split_at(3);
    let start = |node: u32| {
        let place = node as usize - 1;
        Served::start_with(&directories[place], node, listens, clients[place], &["--admin-listen", "127.0.0.1:0"])
    };
    let mut alone = start(1);
    let admin = alone.admin.expect("it was asked for");
    assert_eq!(get(admin, "/health"), (200, "ok\n".to_owned()));
    // One of three has no leader.
    wait_for("an open log", PATIENCE, || {
        (get(admin, "/ready") == (503, "no leader is known\n".to_owned())).then_some(())
    });

    let mut others = [start(2), start(3)];
    wait_for("a leader", PATIENCE, || (get(admin, "/ready").0 == 200).then_some(()));
    let admins: Vec<SocketAddr> = [&alone, &others[0], &others[1]].map(|node| node.admin.expect("asked for")).to_vec();
    let leader = wait_for("a node that leads", PATIENCE, || {
        admins.iter().position(|admin| value(&get(*admin, "/metrics").1, "synod_role", &["\"leader\""]) == Some(1.0))
    });
    let mut client = Client::connect(clients[leader]).expect("the leader listens");
    let mut batch = Batch::new();
    batch.push(b"a payload that is nobody's business");
    for _ in 0..10 {
        client.append_batch(&batch).expect("the leader takes it");
    }
    let metrics = get(admins[leader], "/metrics").1;
    assert_eq!(value(&metrics, "synod_appends_total", &["\"appended\""]), Some(10.0), "{metrics}");
    assert_eq!(value(&metrics, "synod_append_seconds_count", &[]), Some(10.0));
    assert_eq!(value(&metrics, "synod_append_seconds_bucket", &["+Inf"]), Some(10.0));
    assert!(value(&metrics, "synod_log_write_seconds_count", &[]) > Some(0.0), "{metrics}");
    assert!(value(&metrics, "synod_slot", &["delivered"]) > Some(10.0));
    assert_eq!(value(&metrics, "synod_connections", &["client"]), Some(1.0));
    assert_eq!(value(&metrics, "synod_leader", &[]), Some(leader as f64 + 1.0));
    let peer = format!("peer=\"{}\"", (leader + 1) % 3 + 1);
    assert_eq!(value(&metrics, "synod_link_up", &[&peer, "bulk"]), Some(1.0), "{metrics}");
    assert!(value(&metrics, "synod_peer_lag_slots", &[&peer]).is_some());
    assert!(!metrics.contains("payload") && metrics.ends_with("# EOF\n"));
    let (code, limits) = get(admins[leader], "/limits");
    assert_eq!(code, 200);
    assert_eq!(limits.lines().count(), synod_ok(["limits"]).lines().count());

    // A node that has lost the others isn't ready any more, but there is nothing wrong with it.
    let rest = if leader == 0 { &mut others[..] } else { std::slice::from_mut(&mut alone) };
    let rest_admin = rest[0].admin.expect("asked for");
    drop(client);
    if leader == 0 {
        alone.kill();
        others[1].kill();
    } else {
        others.iter_mut().for_each(Served::kill);
    }
    wait_for("no leader", PATIENCE, || (get(rest_admin, "/ready").0 == 503).then_some(()));
    assert_eq!(get(rest_admin, "/health").0, 200);
}
