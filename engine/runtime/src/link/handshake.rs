//! Who talks to whom: making and judging hellos.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_channel::oneshot;
use rustls::CertificateError;
use synod_frame::{
    Channel, ConfigurationBody, FORMAT_RANGE, FORMAT_VERSION, GroupId, HELLO_BYTES, Hello, HelloError, HelloRefusal,
    HelloReply,
};
use synod_protocol::{Ballot, NodeId, Slot};
use synod_wal::directory::{read_stores_seen, write_stores_seen};
use synod_wal::{Hearing, PeerStores, StoreSeen};
use thiserror::Error;

use crate::seam::time::within;

use super::connection::Connection;

/// How long the other side may take for its hello.
pub(crate) const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// Who this node is, and what it knows of its peers.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) node: NodeId,
    pub(crate) incarnation: [u8; 16],
    pub(crate) boot_counter: u64,
    pub(crate) boot_nonce: u64,
    /// The cluster's uuid and lineage.
    cluster: ([u8; 16], u64),
    /// The port at which this node listens for its peers.
    port: u16,
    /// The format that peers must read to be spoken with, and the newest that this node reads.
    formats: Cell<(u16, u16)>,
    /// Whose connections these are; zero for the first group.
    group: GroupId,
    /// What it knows of their stores.
    peers: RefCell<PeerStores>,
    /// Where that is kept.
    keeper: Arc<Keeper>,
}

/// Keeps what was seen of peers' stores, one version after the other.
#[derive(Debug)]
struct Keeper {
    directory: PathBuf,
    /// The number of the log there.
    log: u32,
    /// How many versions were made, and up to which of them they are kept.
    made: AtomicU64,
    kept: Mutex<u64>,
    /// How many boots are in what is kept.
    boots: AtomicU64,
}

impl Keeper {
    /// Keeps a version, unless a later one is kept already.
    fn keep(&self, version: u64, boots: u64, seen: &[StoreSeen]) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if *kept < version {
            // Whoever can't keep it goes on all the same: as long as this process lives, it remembers.
            if let Err(error) = write_stores_seen(&self.directory, self.log, seen) {
                tracing::warn!(%error, "what was seen of the peers can't be kept");
            }
            *kept = version;
            self.boots.fetch_max(boots, Ordering::Relaxed);
        }
    }
}

/// Why there is no connection, or no longer.
#[derive(Debug, Error)]
pub(crate) enum HandshakeError {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Nothing came in time.
    #[error("no hello within {HELLO_DEADLINE:?}")]
    Timeout,
    /// Others wanted in, and this one had waited longest without a hello.
    #[error("made way for others before its hello")]
    Crowded,
    /// The other side closed before its hello was complete.
    #[error("closed after {received} bytes of its hello")]
    Closed {
        /// Bytes that came.
        received: usize,
    },
    /// Something came that is no hello.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// The other side refused.
    #[error("refused: {0}")]
    Refused(HelloRefusal),
    /// The other side, which answered, isn't whom its answer should come from.
    #[error("unfit answer: {0}")]
    Unfit(HelloRefusal),
    /// The other side's certificate is sound, but not for this port.
    #[error("its certificate names nothing of this cluster that would let it in here")]
    Stranger,
    /// The other side's certificate is another node's.
    #[error("node {expected} was asked for, but the certificate there names {}", told(.found))]
    Name {
        /// Who was asked for.
        expected: NodeId,
        /// Whom it names.
        found: Vec<NodeId>,
    },
}

fn told(nodes: &[NodeId]) -> String {
    nodes.iter().map(|node| format!("node {}", node.0)).collect::<Vec<_>>().join(" and ")
}

impl HandshakeError {
    /// Whether this only says that the other side isn't there, or went away.
    pub(crate) fn is_absence(&self) -> bool {
        match self {
            // What TLS complains of comes as invalid data.
            HandshakeError::Io(error) => error.kind() != io::ErrorKind::InvalidData,
            HandshakeError::Closed { received } => *received == 0,
            HandshakeError::Crowded => true,
            HandshakeError::Timeout
            | HandshakeError::Hello(_)
            | HandshakeError::Refused(_)
            | HandshakeError::Unfit(_)
            | HandshakeError::Stranger
            | HandshakeError::Name { .. } => false,
        }
    }
}

impl Identity {
    pub(crate) fn new(
        node: NodeId,
        incarnation: [u8; 16],
        boot_counter: u64,
        boot_nonce: u64,
        cluster: ([u8; 16], u64),
        port: u16,
        directory: (PathBuf, u32),
    ) -> Identity {
        let (directory, log) = directory;
        let peers = RefCell::new(PeerStores::new(node, read_stores_seen(&directory, log)));
        let keeper = Arc::new(Keeper { directory, log, made: 0.into(), kept: 0.into(), boots: 0.into() });
        let formats = Cell::new((FORMAT_VERSION, *FORMAT_RANGE.end()));
        let group = GroupId(0);
        Identity { node, incarnation, boot_counter, boot_nonce, cluster, port, formats, group, peers, keeper }
    }

    /// Whoever can't read this format is refused from now on; this node itself reads up to `newest`.
    pub(crate) fn speak(&self, needed: u16, newest: u16) {
        self.formats.set((needed, newest));
    }

    /// The same for another than the first group.
    pub(crate) fn of_group(self, group: GroupId) -> Identity {
        Identity { group, ..self }
    }

    /// Whose connections these are; zero for the first group.
    pub(crate) fn group(&self) -> GroupId {
        self.group
    }

    /// A peer has shown that it durably has the chosen prefix up to `stable`.
    pub(crate) fn has_shown(&self, peer: NodeId, stable: Slot) {
        self.peers.borrow_mut().has_shown(peer, stable);
    }

    /// Keeps what was seen of the peers, if it has changed. What this is late for, a rolled-back peer is not caught by.
    /// Whether there was anything to keep.
    pub(crate) fn keep_news(&self) -> bool {
        let Some(seen) = self.peers.borrow_mut().take_news() else { return false };
        drop(self.keep(seen));
        true
    }

    /// Waits until every boot that was welcomed is kept: a store that comes back as of before is then known for it, also
    /// by the next process.
    pub(crate) async fn keep_boots(&self) {
        if self.keeper.boots.load(Ordering::Relaxed) < self.peers.borrow().boots() {
            let seen = self.peers.borrow().seen();
            // It ends with its thread at the latest.
            let _ = self.keep(seen).await;
        }
    }

    /// In a thread of its own, for it waits for the disk.
    fn keep(&self, seen: Vec<StoreSeen>) -> oneshot::Receiver<()> {
        let (done, kept) = oneshot::channel();
        let (keeper, boots) = (Arc::clone(&self.keeper), self.peers.borrow().boots());
        let version = keeper.made.fetch_add(1, Ordering::Relaxed) + 1;
        let keeping = std::thread::Builder::new().name("synod-peers".to_owned()).spawn(move || {
            keeper.keep(version, boots, &seen);
            let _ = done.send(());
        });
        if let Err(error) = keeping {
            tracing::warn!(%error, "what was seen of the peers can't be kept");
        }
        kept
    }

    /// Takes note of the configurations that may still be needed; see [`PeerStores::know`].
    pub(crate) fn know<'a>(
        &self,
        newest: Slot,
        configurations: impl Iterator<Item = &'a ConfigurationBody>,
    ) -> Vec<NodeId> {
        self.peers.borrow_mut().know(newest, configurations)
    }

    /// Where the newest configuration was chosen that this node knows.
    pub(crate) fn configuration(&self) -> Slot {
        self.peers.borrow().configuration()
    }

    /// How much is heard of whoever is connected; see [`PeerStores::hears`].
    pub(crate) fn hears(&self, node: NodeId, store: [u8; 16], configuration: Slot) -> Option<Hearing> {
        self.peers.borrow().hears(node, store, configuration)
    }

    /// This node's hello to `to`. The promise stays out of it: what is promised may not be durable yet, and a peer that
    /// remembers too much would take this node for one that was rolled back.
    pub(crate) fn hello(&self, channel: Channel, to: NodeId, (durable, stable): (u64, Slot)) -> Hello {
        Hello {
            channel,
            format_min: self.formats.get().0,
            format_max: self.formats.get().1,
            features: 0,
            cluster: self.cluster.0,
            lineage: self.cluster.1,
            from: self.node,
            to,
            incarnation: self.incarnation,
            boot_counter: self.boot_counter,
            boot_nonce: self.boot_nonce,
            promise: Ballot::ZERO,
            durable,
            configuration: self.configuration(),
            port: self.port,
            stable,
            group: if channel == Channel::Client { GroupId(0) } else { self.group },
        }
    }

    /// Judges a peer's hello, beyond what [`Hello::check`] can.
    pub(crate) fn judge(&self, hello: &Hello) -> Result<(), HelloRefusal> {
        self.peers.borrow_mut().judge(hello)
    }
}

/// What went wrong in a handshake of TLS.
pub(crate) fn of_tls(error: io::Error) -> HandshakeError {
    let not_named = rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(error) if *error == not_named => HandshakeError::Stranger,
        _ => error.into(),
    }
}

/// Reads a hello or a reply; gives up at the first bytes that can't be one.
pub(crate) async fn read_hello<T>(
    stream: &mut Connection,
    decode: impl Fn(&[u8]) -> Result<T, HelloError>,
) -> Result<T, HandshakeError> {
    let reading = async {
        let mut bytes = [0; HELLO_BYTES];
        let mut received = 0;
        while received < HELLO_BYTES {
            match stream.read(&mut bytes[received..]).await? {
                0 => return Err(HandshakeError::Closed { received }),
                more => received += more,
            }
            if received >= size_of::<u32>()
                && let Err(error @ (HelloError::Magic { .. } | HelloError::Version { .. })) = decode(&bytes)
                && (received >= 2 * size_of::<u32>() || matches!(error, HelloError::Magic { .. }))
            {
                return Err(error.into());
            }
        }
        Ok(decode(&bytes)?)
    };
    within(HELLO_DEADLINE, reading).await.unwrap_or(Err(HandshakeError::Timeout))
}

/// Says hello as the side that connected, and hears the answer: the other side's hello.
pub(crate) async fn greet(stream: &mut Connection, own: &Hello, identity: &Identity) -> Result<Hello, HandshakeError> {
    stream.write_all(&own.encode()).await?;
    let reply = read_hello(stream, HelloReply::decode).await?;
    reply.outcome.map_err(HandshakeError::Refused)?;
    // The one who answers must be the one who was asked for, under its right store.
    let asked = Hello { to: reply.hello.from, ..*own };
    if reply.hello.from != own.to {
        return Err(HandshakeError::Unfit(HelloRefusal::Node { node: reply.hello.from }));
    }
    asked.check(&reply.hello).map_err(HandshakeError::Unfit)?;
    identity.judge(&reply.hello).map_err(HandshakeError::Unfit)?;
    Ok(reply.hello)
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;
    use synod_frame::Member;

    use super::*;

    fn identity(directory: &std::path::Path, boot_counter: u64) -> Identity {
        let member = |node| Member { node: NodeId(node), incarnation: [node as u8; 16] };
        let members = vec![member(1), member(2), member(3)];
        let genesis = ConfigurationBody { cluster: [9; 16], lineage: 1, members, ..ConfigurationBody::default() };
        let identity =
            Identity::new(NodeId(1), [1; 16], boot_counter, 77, ([9; 16], 1), 7001, (directory.to_path_buf(), 0));
        identity.know(Slot(0), std::iter::once(&genesis));
        identity
    }

    #[test]
    fn what_was_welcomed_is_known_to_the_next_process() {
        let directory = tempfile::tempdir().expect("a directory");
        let before = identity(directory.path(), 4);
        let own = before.hello(Channel::Control, NodeId(1), (0, Slot(0)));
        let hello = |boot_counter| Hello { from: NodeId(2), incarnation: [2; 16], boot_counter, ..own };
        assert_eq!(before.judge(&hello(7)), Ok(()));
        block_on(before.keep_boots());
        let after = identity(directory.path(), 5);
        assert_eq!(after.judge(&hello(6)), Err(HelloRefusal::RolledBack { boot_counter: 7, stable: Slot(0) }));
        assert!(!after.keep_news() || after.judge(&hello(7)).is_ok());
    }

    #[test]
    fn whoever_cant_read_the_log_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let identity = identity(directory.path(), 4);
        let own = |identity: &Identity| identity.hello(Channel::Control, NodeId(2), (0, Slot(0)));
        let peer = Hello { from: NodeId(2), to: NodeId(1), incarnation: [2; 16], ..own(&identity) };
        let old = Hello { format_max: 1, ..peer };
        assert_eq!(old.check(&own(&identity)), Ok(1), "builds of two ages get along in the older format");
        identity.speak(2, 2);
        assert_eq!(old.check(&own(&identity)), Err(HelloRefusal::Format { minimum: 2, maximum: 2 }));
        assert_eq!(own(&identity).check(&old), Err(HelloRefusal::Format { minimum: 1, maximum: 1 }));
        assert_eq!(Hello { format_max: 3, ..old }.check(&own(&identity)), Ok(2));
    }

    #[test]
    fn an_older_version_is_not_kept_after_a_newer_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let identity = identity(directory.path(), 4);
        let seen = |boot_counter| StoreSeen { incarnation: [2; 16], boot_counter, boot_nonce: 1, stable: Slot(0) };
        identity.keeper.keep(2, 2, &[seen(8)]);
        identity.keeper.keep(1, 1, &[seen(7)]);
        assert_eq!(read_stores_seen(directory.path(), 0), [seen(8)]);
    }
}
