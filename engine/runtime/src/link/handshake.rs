//! Who talks to whom: making and judging hellos.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use rustls::CertificateError;
use synod_frame::{
    Channel, ConfigurationBody, FORMAT_RANGE, FORMAT_VERSION, GroupId, HELLO_BYTES, Hello, HelloError, HelloRefusal,
    HelloReply,
};
use synod_protocol::{Ballot, NodeId, Slot};
use synod_wal::directory::StoreSeen;
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
    roster: RefCell<Roster>,
    /// The most that was ever seen of each store.
    seen: RefCell<BTreeMap<[u8; 16], StoreSeen>>,
    /// What was seen has changed since it was last kept.
    has_news: Cell<bool>,
}

/// Who belongs to the cluster, as far as this node knows.
#[derive(Debug, Default)]
struct Roster {
    /// Where the newest configuration was chosen that is delivered.
    configuration: Slot,
    /// Everybody whom a configuration names that may still be needed, with the store that counts.
    stores: BTreeMap<NodeId, [u8; 16]>,
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
        seen: Vec<StoreSeen>,
    ) -> Identity {
        let seen = RefCell::new(seen.into_iter().map(|store| (store.incarnation, store)).collect());
        let (roster, has_news) = (RefCell::default(), Cell::new(false));
        let formats = Cell::new((FORMAT_VERSION, *FORMAT_RANGE.end()));
        let group = GroupId(0);
        Identity { node, incarnation, boot_counter, boot_nonce, cluster, port, formats, group, roster, seen, has_news }
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
        let roster = self.roster.borrow();
        let mut seen = self.seen.borrow_mut();
        if let Some(store) = roster.stores.get(&peer).and_then(|store| seen.get_mut(store))
            && store.stable < stable
        {
            store.stable = stable;
            self.has_news.set(true);
        }
    }

    /// What should be kept of the stores that have a part in the log, if it has changed since this was last asked.
    pub(crate) fn take_news(&self) -> Option<Vec<StoreSeen>> {
        let (roster, seen) = (self.roster.borrow(), self.seen.borrow());
        self.has_news
            .replace(false)
            .then(|| roster.stores.values().filter_map(|store| seen.get(store)).copied().collect())
    }

    /// Takes note of the configurations that may still be needed: of several stores of a node, the last one counts. `newest`
    /// is where the last configuration was chosen that is delivered.
    pub(crate) fn know<'a>(&self, newest: Slot, configurations: impl Iterator<Item = &'a ConfigurationBody>) {
        let members = configurations.flat_map(ConfigurationBody::nodes);
        let stores = members.map(|member| (member.node, member.incarnation)).collect();
        *self.roster.borrow_mut() = Roster { configuration: newest, stores };
    }

    /// Where the newest configuration was chosen that this node knows.
    pub(crate) fn configuration(&self) -> Slot {
        self.roster.borrow().configuration
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
        if hello.from == self.node {
            // Another process with this node's name, or this very process.
            return Err(HelloRefusal::Node { node: self.node });
        }
        let roster = self.roster.borrow();
        match roster.stores.get(&hello.from) {
            Some(expected) if *expected != hello.incarnation => {
                return Err(HelloRefusal::Incarnation { expected: *expected });
            }
            Some(_) => {}
            // It may have come in by a configuration that this node is about to learn, from it perhaps. What it says is
            // judged by the protocol, which heeds only those who know more.
            None if hello.configuration > roster.configuration => {}
            None => return Err(HelloRefusal::UnknownNode { configuration: roster.configuration }),
        }
        self.judge_store(hello)
    }

    /// Whether a store has all that it ever showed.
    fn judge_store(&self, hello: &Hello) -> Result<(), HelloRefusal> {
        let Hello { incarnation, boot_counter, boot_nonce, stable, .. } = *hello;
        let mut seen = self.seen.borrow_mut();
        let first = StoreSeen { incarnation, boot_counter: 0, boot_nonce: 0, stable: Slot(0) };
        let known = seen.entry(incarnation).or_insert(first);
        // A log that is damaged doesn't tell how far it was.
        if boot_counter < known.boot_counter || stable < known.stable && stable != Slot(0) {
            return Err(HelloRefusal::RolledBack { boot_counter: known.boot_counter, stable: known.stable });
        }
        if boot_counter == known.boot_counter && boot_nonce != known.boot_nonce {
            return Err(HelloRefusal::Twin { boot_counter });
        }
        let now = StoreSeen { boot_counter, boot_nonce, stable: stable.max(known.stable), ..*known };
        self.has_news.set(self.has_news.get() || *known != now);
        *known = now;
        Ok(())
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
    use synod_frame::Member;

    use super::*;

    fn identity() -> Identity {
        let member = |node| Member { node: NodeId(node), incarnation: [node as u8; 16] };
        let genesis = ConfigurationBody {
            cluster: [9; 16],
            lineage: 1,
            members: vec![member(1), member(2), member(3)],
            prepare_quorum: 2,
            accept_quorum: 2,
            alpha: 1024,
            ..ConfigurationBody::default()
        };
        let identity = Identity::new(NodeId(1), [1; 16], 4, 77, (genesis.cluster, genesis.lineage), 7001, Vec::new());
        identity.know(Slot(0), std::iter::once(&genesis));
        identity
    }

    fn hello_of(node: u32) -> Hello {
        let own = identity().hello(Channel::Control, NodeId(1), (0, Slot(0)));
        Hello { from: NodeId(node), incarnation: [node as u8; 16], ..own }
    }

    #[test]
    fn members_are_welcome_with_their_own_store_only() {
        let identity = identity();
        assert_eq!(identity.judge(&hello_of(2)), Ok(()));
        assert_eq!(identity.judge(&hello_of(4)), Err(HelloRefusal::UnknownNode { configuration: Slot(0) }));
        assert_eq!(identity.judge(&Hello { configuration: Slot(9), ..hello_of(4) }), Ok(()), "it knows more");
        let wiped = Hello { incarnation: [8; 16], ..hello_of(2) };
        assert_eq!(identity.judge(&wiped), Err(HelloRefusal::Incarnation { expected: [2; 16] }));
        assert_eq!(identity.judge(&hello_of(1)), Err(HelloRefusal::Node { node: NodeId(1) }));
    }

    #[test]
    fn whoever_cant_read_the_log_is_refused() {
        let identity = identity();
        let own = |identity: &Identity| identity.hello(Channel::Control, NodeId(2), (0, Slot(0)));
        let old = Hello { format_max: 1, to: NodeId(1), ..hello_of(2) };
        assert_eq!(old.check(&own(&identity)), Ok(1), "builds of two ages get along in the older format");
        identity.speak(2, 2);
        let refusal = Err(HelloRefusal::Format { minimum: 2, maximum: 2 });
        assert_eq!(old.check(&own(&identity)), refusal);
        assert_eq!(
            own(&identity).check(&Hello { to: NodeId(1), ..old }),
            Err(HelloRefusal::Format { minimum: 1, maximum: 1 })
        );
        assert_eq!(Hello { format_max: 3, ..old }.check(&own(&identity)), Ok(2));
    }

    #[test]
    fn a_store_that_went_back_in_time_is_refused() {
        let identity = identity();
        let hello = |boot_counter, stable| Hello { boot_counter, stable: Slot(stable), ..hello_of(2) };
        let refusal = Err(HelloRefusal::RolledBack { boot_counter: 7, stable: Slot(50) });
        assert_eq!(identity.judge(&hello(7, 50)), Ok(()));
        assert_eq!(identity.judge(&hello(7, 50)), Ok(()));
        assert_eq!(identity.judge(&hello(6, 50)), refusal, "an earlier boot");
        assert_eq!(identity.judge(&hello(8, 49)), refusal, "a later boot of an earlier state");
        assert_eq!(identity.judge(&hello(8, 0)), Ok(()), "it doesn't tell");
        identity.has_shown(NodeId(2), Slot(60));
        let kept = identity.take_news().expect("it has shown more");
        assert_eq!(kept, [StoreSeen { incarnation: [2; 16], boot_counter: 8, boot_nonce: 77, stable: Slot(60) }]);
        assert_eq!(identity.take_news(), None);
        // The next process remembers.
        let next = Identity::new(NodeId(1), [1; 16], 5, 78, ([9; 16], 1), 7001, kept);
        next.know(Slot(0), std::iter::empty());
        let late = Hello { configuration: Slot(1), ..hello(9, 59) };
        assert_eq!(next.judge(&late), Err(HelloRefusal::RolledBack { boot_counter: 8, stable: Slot(60) }));
    }

    #[test]
    fn of_two_processes_on_copies_of_a_store_the_second_is_refused() {
        let identity = identity();
        assert_eq!(identity.judge(&Hello { boot_counter: 7, boot_nonce: 1, ..hello_of(2) }), Ok(()));
        let twin = Hello { boot_counter: 7, boot_nonce: 2, ..hello_of(2) };
        assert_eq!(identity.judge(&twin), Err(HelloRefusal::Twin { boot_counter: 7 }));
        assert_eq!(identity.judge(&Hello { boot_counter: 7, boot_nonce: 1, ..hello_of(2) }), Ok(()));
    }
}
