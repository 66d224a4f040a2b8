//! Three nodes of an older build get the newer one, one after the other, while a writer keeps them busy; then the format of
//! the log is raised, and the older build refuses it. What makes a build an older one is its setting
//! [`synod::Settings::format_max`].

mod common;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use common::{free_addresses, insist_on_invariants, make_cluster, temporary_directory, wait_for};
use futures_lite::future::block_on;
use synod::{
    Config, FORMAT_FIRST, FORMAT_MAX, MembershipError, MembershipRefusal, Node, NodeId, ReadItem, Role, Slot,
    StartError,
};
use synod_wal::RecoverError;

const PATIENCE: Duration = Duration::from_secs(20);

struct Cluster {
    directories: Vec<PathBuf>,
    addresses: Vec<SocketAddr>,
    nodes: Vec<Option<Node>>,
    appended: Vec<Slot>,
}

impl Cluster {
    fn config(&self, place: usize, format_max: u16) -> Config {
        let mut config = Config::new(self.directories[place].clone(), NodeId(place as u32 + 1), self.addresses[place]);
        let peers = (1..).zip(&self.addresses).filter(|(node, _)| *node != place as u32 + 1);
        config.peers = peers.map(|(node, address)| (NodeId(node), *address)).collect();
        config.io_memory_bytes = 8 << 20;
        config.settings.format_max = format_max;
        config
    }

    fn try_start(&mut self, place: usize, format_max: u16) -> Result<(), StartError> {
        if let Some(mut node) = self.nodes[place].take() {
            block_on(node.close()).expect("an orderly end");
        }
        self.nodes[place] = Some(Node::start(self.config(place, format_max))?);
        Ok(())
    }

    fn leader(&self) -> &Node {
        let leads = |node: &&Node| node.status().role == Role::Leader;
        wait_for("a leader", PATIENCE, || self.nodes.iter().flatten().find(leads))
    }

    /// Appends at whoever leads.
    fn work(&mut self) {
        for _ in 0..50 {
            let slot = wait_for("an append", PATIENCE, || self.leader().log().append_blocking(b"work").ok());
            self.appended.push(slot);
        }
    }

    fn raise(&self) -> Result<Slot, MembershipRefusal> {
        wait_for("an answer", PATIENCE, || match self.leader().log().raise_format_blocking(FORMAT_MAX) {
            Ok(slot) => Some(Ok(slot)),
            // It is a leader for moments only, or hasn't heard everybody yet.
            Err(MembershipError::Refused(
                MembershipRefusal::Busy | MembershipRefusal::Unreadable { reads: None, .. },
            )) => None,
            Err(MembershipError::Refused(refusal)) => Some(Err(refusal)),
            Err(_) => None,
        })
    }
}

#[test]
fn node_by_node_and_then_the_format() {
    let root = temporary_directory();
    let mut cluster = Cluster {
        directories: make_cluster(root.path(), 3, 2 << 20),
        addresses: free_addresses(3),
        nodes: vec![None, None, None],
        appended: Vec::new(),
    };
    for place in 0..3 {
        cluster.try_start(place, FORMAT_FIRST).expect("the node starts");
    }
    cluster.work();
    for place in 0..3 {
        let refusal = cluster.raise().expect_err("some can't read it");
        assert!(matches!(refusal, MembershipRefusal::Unreadable { needed: FORMAT_MAX, .. }), "{refusal}");
        cluster.try_start(place, FORMAT_MAX).expect("the newer build reads the older format");
        cluster.work();
    }
    let raised = cluster.raise().expect("all read it");
    let rules = |node: &Node| {
        node.status().membership.configuration.format == FORMAT_MAX && node.status().membership.is_settled()
    };
    wait_for("the new format", PATIENCE, || cluster.nodes.iter().flatten().all(rules).then_some(()));
    cluster.work();

    let last = *cluster.appended.last().expect("there was work");
    let mut reader = cluster.leader().log().reader(last);
    let ReadItem::Body(body) = reader.next_blocking().expect("it is there") else { panic!("nothing is trimmed") };
    assert_eq!((body.header().format, body.header().ruling), (FORMAT_MAX, Some(raised)));
    drop(reader);

    // A follower, so that the others go on.
    let place =
        cluster.nodes.iter().position(|node| node.as_ref().is_some_and(|node| node.status().role != Role::Leader));
    let place = place.expect("there are followers");
    let refusal = cluster.try_start(place, FORMAT_FIRST).expect_err("the older build can't read the log");
    let StartError::Recover(RecoverError::Newer { needed, reads, .. }) = refusal else { panic!("{refusal}") };
    assert_eq!((needed, reads), (FORMAT_MAX, FORMAT_FIRST));
    cluster.work();
    cluster.try_start(place, FORMAT_MAX).expect("the newer one does");
    cluster.work();

    for node in cluster.nodes.iter_mut().filter_map(Option::take) {
        let mut node = node;
        block_on(node.close()).expect("an orderly end");
    }
    insist_on_invariants(&cluster.directories, &[]);
    assert!(cluster.appended.is_sorted(), "each append came behind those before it");
}
