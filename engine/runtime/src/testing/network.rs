//! The network of a cluster in one process: an inbox for each node, and a list of who can't reach whom.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use synod_protocol::snapshot::SnapshotMessage;
use synod_protocol::{Message, NodeId};

use crate::link::Carrier;

/// Bytes of bodies that wait for one node; beyond that, messages are dropped and later sent again by the protocol.
const INBOX_BYTES_MAX: usize = 64 << 20;

/// What a message without a body counts for.
const MESSAGE_BYTES: usize = 256;

/// See the module. Clones are the same network.
#[derive(Clone, Debug, Default)]
pub(super) struct Network(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    ports: BTreeMap<NodeId, Port>,
    /// From whom to whom nothing comes through.
    cut: BTreeSet<(NodeId, NodeId)>,
}

#[derive(Debug, Default)]
struct Port {
    is_open: bool,
    inbox: VecDeque<Mail>,
    bytes: usize,
    receiver: Option<Waker>,
}

/// A message that has arrived.
#[derive(Debug)]
pub(super) struct Mail {
    pub(super) from: NodeId,
    pub(super) letter: Letter,
}

/// What it says.
#[derive(Debug)]
pub(super) enum Letter {
    /// Something of the log, with the exact bytes of its body.
    Log(Message, Option<Vec<u8>>),
    /// Something about snapshots.
    Snapshot(SnapshotMessage),
}

impl Mail {
    fn bytes(&self) -> usize {
        let more = match &self.letter {
            Letter::Log(_, body) => body.as_ref().map_or(0, Vec::len),
            Letter::Snapshot(SnapshotMessage::Chunk { data, .. }) => data.len(),
            Letter::Snapshot(_) => 0,
        };
        MESSAGE_BYTES + more
    }
}

impl Network {
    /// A node comes up, with an empty inbox.
    pub(super) fn open(&self, node: NodeId) {
        self.lock().ports.insert(node, Port { is_open: true, ..Port::default() });
    }

    /// A node is gone: nothing comes from it or to it any more.
    pub(super) fn close(&self, node: NodeId) {
        self.lock().ports.insert(node, Port::default());
    }

    /// Lets nothing through from one node to another; what has arrived already stays.
    pub(super) fn cut(&self, from: NodeId, to: NodeId) {
        self.lock().cut.insert((from, to));
    }

    /// Lets everything through again.
    pub(super) fn heal(&self) {
        self.lock().cut.clear();
    }

    /// What has arrived at `node`, at least one message. One task may wait here.
    pub(super) fn poll_mail(&self, node: NodeId, context: &Context<'_>) -> Poll<VecDeque<Mail>> {
        let mut state = self.lock();
        let port = state.ports.entry(node).or_default();
        if !port.inbox.is_empty() {
            port.bytes = 0;
            return Poll::Ready(std::mem::take(&mut port.inbox));
        }
        if !port.receiver.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            port.receiver = Some(context.waker().clone());
        }
        Poll::Pending
    }

    fn deliver(&self, to: NodeId, mail: Mail) -> bool {
        let mut state = self.lock();
        let is_cut = state.cut.contains(&(mail.from, to));
        let is_up = |node| state.ports.get(&node).is_some_and(|port: &Port| port.is_open);
        if is_cut || !is_up(mail.from) || !is_up(to) {
            return false;
        }
        let port = state.ports.entry(to).or_default();
        if port.bytes + mail.bytes() > INBOX_BYTES_MAX {
            return false;
        }
        port.bytes += mail.bytes();
        port.inbox.push_back(mail);
        let receiver = port.receiver.take();
        drop(state);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no code that holds this lock panics")
    }
}

/// A node's way out.
pub(super) struct Sender {
    pub(super) network: Network,
    pub(super) node: NodeId,
}

impl Carrier for Sender {
    fn carry(&self, to: NodeId, message: &Message, body: Option<&[u8]>) -> bool {
        let letter = Letter::Log(message.clone(), body.map(<[u8]>::to_vec));
        self.network.deliver(to, Mail { from: self.node, letter })
    }

    fn carry_snapshot(&self, to: NodeId, message: &SnapshotMessage) -> bool {
        self.network.deliver(to, Mail { from: self.node, letter: Letter::Snapshot(message.clone()) })
    }
}
