//! The hello: the first thing on every connection, in both directions, before any envelope.
//!
//! Whoever connects sends a [`Hello`], whoever accepts answers with a [`HelloReply`]: its own hello, and whether they
//! can talk. Both have one fixed layout whose head will not change with the format, so that builds of any two versions
//! can tell each other why they don't understand each other.
//!
//! A hello carries what a peer should remember of a node durably: the highest boot counter, promise and durable
//! position. A node that comes back with less was rolled back.

use synod_protocol::{Ballot, NodeId, Slot};
use thiserror::Error;

use crate::GroupId;
use crate::layout::{FORMAT_VERSION, Field, HELLO_BYTES, first_nonzero, magic};

/// First bytes of every hello and every reply.
const MAGIC: u32 = magic(b"SYNH");

/// The formats that this build reads.
pub const FORMAT_RANGE: std::ops::RangeInclusive<u16> = FORMAT_VERSION..=synod_protocol::FORMAT_MAX;

/// Version of the hello's own layout.
const HELLO_VERSION: u16 = 1;

const KIND_HELLO: u8 = 1;
const KIND_REPLY: u8 = 2;

mod field {
    use crate::layout::{Field, HELLO_BYTES};

    pub(super) const MAGIC: Field = Field::first(4);
    pub(super) const VERSION: Field = MAGIC.then(2);
    pub(super) const KIND: Field = VERSION.then(1);
    pub(super) const CHANNEL: Field = KIND.then(1);
    pub(super) const CHECKSUM: Field = CHANNEL.then(4);
    pub(super) const FORMAT_MIN: Field = CHECKSUM.then(2);
    pub(super) const FORMAT_MAX: Field = FORMAT_MIN.then(2);
    pub(super) const FEATURES: Field = FORMAT_MAX.then(8);
    pub(super) const CLUSTER: Field = FEATURES.then(16);
    pub(super) const LINEAGE: Field = CLUSTER.then(8);
    pub(super) const FROM: Field = LINEAGE.then(4);
    pub(super) const TO: Field = FROM.then(4);
    pub(super) const INCARNATION: Field = TO.then(16);
    pub(super) const BOOT_COUNTER: Field = INCARNATION.then(8);
    pub(super) const BOOT_NONCE: Field = BOOT_COUNTER.then(8);
    pub(super) const PROMISE_ROUND: Field = BOOT_NONCE.then(8);
    pub(super) const PROMISE_BOOT: Field = PROMISE_ROUND.then(8);
    pub(super) const PROMISE_NODE: Field = PROMISE_BOOT.then(4);
    pub(super) const FORMAT: Field = PROMISE_NODE.then(2);
    pub(super) const REFUSAL: Field = FORMAT.then(2);
    pub(super) const DURABLE: Field = REFUSAL.then(8);
    pub(super) const DETAIL: Field = DURABLE.then(16);
    pub(super) const CONFIGURATION: Field = DETAIL.then(8);
    pub(super) const PORT: Field = CONFIGURATION.then(8);
    pub(super) const STABLE: Field = PORT.then(8);
    pub(super) const GROUP: Field = STABLE.then(4);
    pub(super) const RESERVED: Field = GROUP.then(HELLO_BYTES - GROUP.end());
}

// The byte map of engine/docs/wal-format.md. What lies before the cluster never moves, in any version.
const _: () = {
    assert!(field::CHECKSUM.offset == 8);
    assert!(field::FEATURES.offset == 16);
    assert!(field::CLUSTER.offset == 24);
    assert!(field::FROM.offset == 48);
    assert!(field::BOOT_COUNTER.offset == 72);
    assert!(field::PROMISE_ROUND.offset == 88);
    assert!(field::DURABLE.offset == 112);
    assert!(field::CONFIGURATION.offset == 136);
    assert!(field::GROUP.offset == 160);
    assert!(field::RESERVED.offset == 164);
    assert!(field::RESERVED.end() == HELLO_BYTES);
};

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Heartbeats and small messages between two nodes.
    Control,
    /// Bodies between two nodes.
    Bulk,
    /// A client's requests and their replies.
    Client,
}

impl Channel {
    fn number(self) -> u8 {
        match self {
            Channel::Control => 1,
            Channel::Bulk => 2,
            Channel::Client => 3,
        }
    }

    fn from_number(number: u8) -> Option<Channel> {
        match number {
            1 => Some(Channel::Control),
            2 => Some(Channel::Bulk),
            3 => Some(Channel::Client),
            _ => None,
        }
    }
}

/// Who is speaking, and from which state. A client leaves all fields that it doesn't have at zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the connection is for.
    pub channel: Channel,
    /// The format that others must read to be spoken with: that of the sender's log, or the oldest one.
    pub format_min: u16,
    /// The newest format that the sender reads.
    pub format_max: u16,
    /// Optional features of the format that the sender knows, one a bit.
    pub features: u64,
    /// The cluster's uuid; a client that doesn't know it sends zero.
    pub cluster: [u8; 16],
    /// The cluster's lineage.
    pub lineage: u64,
    /// The sender; zero for a client.
    pub from: NodeId,
    /// Whom the sender believes to speak with; zero if it doesn't mind.
    pub to: NodeId,
    /// The sender's store.
    pub incarnation: [u8; 16],
    /// How often the sender's store was opened for serving.
    pub boot_counter: u64,
    /// Random per process start, as in ballots.
    pub boot_nonce: u64,
    /// The sender's highest durable promise.
    pub promise: Ballot,
    /// The sender's durable position in its log, as a log sequence number.
    pub durable: u64,
    /// Where the newest configuration was chosen that the sender knows; zero for genesis.
    pub configuration: Slot,
    /// The port at which the sender listens for its peers; zero if it doesn't tell.
    pub port: u16,
    /// The end of the chosen prefix that the sender will still know after any restart; zero if it doesn't tell, for its log
    /// is damaged.
    pub stable: Slot,
    /// The group that the connection is for, as every other node has it. Zero for the first one, which is the only one of
    /// most nodes, and for a client, whose requests name their group.
    pub group: GroupId,
}

/// The answer to a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloReply {
    /// The answering node's own hello.
    pub hello: Hello,
    /// The format version to speak, or why not to speak at all.
    pub outcome: Result<u16, HelloRefusal>,
}

/// Why a node won't talk; the sentences address the side that connected.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum HelloRefusal {
    /// No format version in common.
    #[error(
        "no format in common: the node there speaks formats {minimum} to {maximum}; update the build of the two that is behind"
    )]
    Format {
        /// The oldest one there: that of its log.
        minimum: u16,
        /// The newest one there.
        maximum: u16,
    },
    /// The cluster uses features that the connecting side doesn't know.
    #[error("the node there needs format features {missing:#x} that this build doesn't know; update this build")]
    Features {
        /// What is missing.
        missing: u64,
    },
    /// Another cluster.
    #[error("the node there belongs to cluster {}, not to this one; check the addresses", uuid(cluster))]
    Cluster {
        /// The cluster there.
        cluster: [u8; 16],
    },
    /// The same cluster, restored from a copy.
    #[error(
        "the node there belongs to lineage {lineage} of this cluster; a restored copy and its original can't be mixed"
    )]
    Lineage {
        /// The lineage there.
        lineage: u64,
    },
    /// Another node than expected listens there.
    #[error("node {node} listens there, which isn't the node that was asked for; check the addresses")]
    Node {
        /// The node there.
        node: NodeId,
    },
    /// A node that no configuration names.
    #[error(
        "the newest configuration known there, of slot {configuration}, doesn't name this node: it was removed, or isn't added yet"
    )]
    UnknownNode {
        /// Where the newest configuration was chosen that is known there; zero for genesis.
        configuration: Slot,
    },
    /// The store isn't the one that the configuration names: the directory was wiped or swapped.
    #[error(
        "the configuration names store {} for this node, which has another one; re-admit the node by a replacement",
        uuid(expected)
    )]
    Incarnation {
        /// The store that is expected.
        expected: [u8; 16],
    },
    /// The store was in a later state before: it was restored from an old copy.
    #[error(
        "this node's store went back in time: boot {boot_counter}, with everything below slot {stable}, was seen there before; what it promised since is forgotten: remove the node, and add it again with a new directory"
    )]
    RolledBack {
        /// Highest boot counter seen.
        boot_counter: u64,
        /// Highest end of a durable chosen prefix seen.
        stable: Slot,
    },
    /// Another process has said the same of itself.
    #[error(
        "another process runs on a copy of this node's store: its boot {boot_counter} was seen there before; stop one of them, and never start a copy"
    )]
    Twin {
        /// The boot counter of both.
        boot_counter: u64,
    },
    /// The listener doesn't serve this channel.
    #[error("the listener there doesn't serve this kind of connection; check the port")]
    Channel,
    /// As many connections as are allowed.
    #[error("the node there has too many connections; try again later")]
    TooManyConnections,
    /// The node has no cluster yet.
    #[error("the node there isn't part of a cluster yet; bootstrap it first")]
    NotBootstrapped,
    /// The node is going down.
    #[error("the node there is shutting down; try another one")]
    Shutdown,
    /// A group that the node doesn't have.
    #[error("the node there has no {group}: its directory was made with fewer groups than this one")]
    Group {
        /// The group that was asked for.
        group: GroupId,
    },
}

/// Why bytes aren't a hello. Close the connection.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum HelloError {
    /// Fewer bytes than a hello.
    #[error("the hello is cut short: {found} bytes of {HELLO_BYTES}")]
    Truncated {
        /// Bytes there are.
        found: usize,
    },
    /// It doesn't begin like a hello: the other side isn't Synod, or speaks TLS.
    #[error("not a hello: it begins with {found:#010x}; does something else listen there, or is TLS expected?")]
    Magic {
        /// The first four bytes.
        found: u32,
    },
    /// A hello of another layout.
    #[error("hello of version {found}, this build reads version {HELLO_VERSION}")]
    Version {
        /// Version found.
        found: u16,
    },
    /// A reply where a hello is due, or the other way round.
    #[error("hello of kind {found} where kind {expected} is due")]
    Kind {
        /// Kind due.
        expected: u8,
        /// Kind found.
        found: u8,
    },
    /// It is damaged.
    #[error("hello checksum is {expected:#010x} but its bytes give {actual:#010x}")]
    Checksum {
        /// As written.
        expected: u32,
        /// As computed.
        actual: u32,
    },
    /// A channel that this build doesn't know.
    #[error("hello for unknown channel {found}")]
    Channel {
        /// Channel found.
        found: u8,
    },
    /// A range of versions that is empty or begins at zero.
    #[error("hello with format versions {minimum} to {maximum}")]
    Format {
        /// Oldest version.
        minimum: u16,
        /// Newest version.
        maximum: u16,
    },
    /// A node's hello without a node.
    #[error("hello on a channel between nodes that names no node")]
    Nobody,
    /// A port beyond all that there are.
    #[error("hello with a port that doesn't exist")]
    Port,
    /// A refusal that this build doesn't know, or one that contradicts itself.
    #[error("refused for a reason that this build doesn't know ({found}); update it")]
    Refusal {
        /// Reason found.
        found: u16,
    },
    /// A byte that must be zero isn't.
    #[error("byte {offset} of the hello is reserved and must be zero")]
    Reserved {
        /// Its offset.
        offset: usize,
    },
}

impl Hello {
    /// The hello's bytes.
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = self.lay(KIND_HELLO);
        seal(&mut bytes);
        bytes
    }

    /// Reads a hello from exactly or at least [`HELLO_BYTES`].
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Hello, HelloError> {
        let bytes = check(bytes, KIND_HELLO)?;
        check_zero(bytes, field::FORMAT.offset..field::DURABLE.offset)?;
        check_zero(bytes, field::DETAIL.offset..field::DETAIL.end())?;
        check_zero(bytes, field::RESERVED.offset..field::RESERVED.end())?;
        parse(bytes)
    }

    /// Judges a hello by the one of the node that received it: what can be judged without knowledge of the past or of
    /// the configuration. Gives the newest format version in common.
    ///
    /// # Errors
    /// The refusal to answer with.
    pub fn check(&self, own: &Hello) -> Result<u16, HelloRefusal> {
        let format = self.format_max.min(own.format_max);
        if format < self.format_min.max(own.format_min) {
            return Err(HelloRefusal::Format { minimum: own.format_min, maximum: own.format_max });
        }
        let missing = own.features & !self.features;
        if missing != 0 {
            return Err(HelloRefusal::Features { missing });
        }
        let anonymous = self.channel == Channel::Client && self.cluster == [0; 16];
        if !anonymous {
            if self.cluster != own.cluster {
                return Err(HelloRefusal::Cluster { cluster: own.cluster });
            }
            if self.lineage != own.lineage {
                return Err(HelloRefusal::Lineage { lineage: own.lineage });
            }
        }
        if self.to != NodeId(0) && self.to != own.from {
            return Err(HelloRefusal::Node { node: own.from });
        }
        if self.channel != own.channel {
            return Err(HelloRefusal::Channel);
        }
        Ok(format)
    }

    fn lay(&self, kind: u8) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        field::MAGIC.put(&mut bytes, &MAGIC.to_le_bytes());
        field::VERSION.put(&mut bytes, &HELLO_VERSION.to_le_bytes());
        field::KIND.put(&mut bytes, &[kind]);
        field::CHANNEL.put(&mut bytes, &[self.channel.number()]);
        field::FORMAT_MIN.put(&mut bytes, &self.format_min.to_le_bytes());
        field::FORMAT_MAX.put(&mut bytes, &self.format_max.to_le_bytes());
        field::FEATURES.put(&mut bytes, &self.features.to_le_bytes());
        field::CLUSTER.put(&mut bytes, &self.cluster);
        field::LINEAGE.put(&mut bytes, &self.lineage.to_le_bytes());
        field::FROM.put(&mut bytes, &self.from.0.to_le_bytes());
        field::TO.put(&mut bytes, &self.to.0.to_le_bytes());
        field::INCARNATION.put(&mut bytes, &self.incarnation);
        field::BOOT_COUNTER.put(&mut bytes, &self.boot_counter.to_le_bytes());
        field::BOOT_NONCE.put(&mut bytes, &self.boot_nonce.to_le_bytes());
        field::PROMISE_ROUND.put(&mut bytes, &self.promise.round.to_le_bytes());
        field::PROMISE_BOOT.put(&mut bytes, &self.promise.boot.to_le_bytes());
        field::PROMISE_NODE.put(&mut bytes, &self.promise.node.0.to_le_bytes());
        field::DURABLE.put(&mut bytes, &self.durable.to_le_bytes());
        field::CONFIGURATION.put(&mut bytes, &self.configuration.0.to_le_bytes());
        field::PORT.put(&mut bytes, &u64::from(self.port).to_le_bytes());
        field::STABLE.put(&mut bytes, &self.stable.0.to_le_bytes());
        field::GROUP.put(&mut bytes, &self.group.0.to_le_bytes());
        bytes
    }
}

impl HelloReply {
    /// The reply's bytes.
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = self.hello.lay(KIND_REPLY);
        match &self.outcome {
            Ok(format) => field::FORMAT.put(&mut bytes, &format.to_le_bytes()),
            Err(refusal) => {
                let (number, detail) = refusal.to_parts();
                field::REFUSAL.put(&mut bytes, &number.to_le_bytes());
                field::DETAIL.put(&mut bytes, &detail);
            }
        }
        seal(&mut bytes);
        bytes
    }

    /// Reads a reply from exactly or at least [`HELLO_BYTES`].
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<HelloReply, HelloError> {
        let bytes = check(bytes, KIND_REPLY)?;
        check_zero(bytes, field::RESERVED.offset..field::RESERVED.end())?;
        let hello = parse(bytes)?;
        let format = field::FORMAT.u16(bytes);
        let outcome = match field::REFUSAL.u16(bytes) {
            0 => {
                check_zero(bytes, field::DETAIL.offset..field::DETAIL.end())?;
                if format < hello.format_min || format > hello.format_max {
                    return Err(HelloError::Format { minimum: format, maximum: format });
                }
                Ok(format)
            }
            found => {
                check_zero(bytes, field::FORMAT.offset..field::FORMAT.end())?;
                let refusal = HelloRefusal::from_parts(found, field::DETAIL.array(bytes));
                Err(refusal.ok_or(HelloError::Refusal { found })?)
            }
        };
        Ok(HelloReply { hello, outcome })
    }
}

mod refusal {
    pub(super) const FORMAT: u16 = 1;
    pub(super) const FEATURES: u16 = 2;
    pub(super) const CLUSTER: u16 = 3;
    pub(super) const LINEAGE: u16 = 4;
    pub(super) const NODE: u16 = 5;
    pub(super) const UNKNOWN_NODE: u16 = 6;
    pub(super) const INCARNATION: u16 = 7;
    pub(super) const ROLLED_BACK: u16 = 8;
    pub(super) const CHANNEL: u16 = 9;
    pub(super) const TOO_MANY_CONNECTIONS: u16 = 10;
    pub(super) const NOT_BOOTSTRAPPED: u16 = 11;
    pub(super) const SHUTDOWN: u16 = 12;
    pub(super) const TWIN: u16 = 13;
    pub(super) const GROUP: u16 = 14;
}

/// The two numbers of a refusal's detail; a refusal with one number has the other at zero.
const DETAIL_LOW: Field = Field::first(8);
const DETAIL_HIGH: Field = DETAIL_LOW.then(8);

impl HelloRefusal {
    fn to_parts(self) -> (u16, [u8; 16]) {
        let numbers = |low: u64, high: u64| (u128::from(high) << 64 | u128::from(low)).to_le_bytes();
        match self {
            HelloRefusal::Format { minimum, maximum } => {
                (refusal::FORMAT, numbers(u64::from(minimum), u64::from(maximum)))
            }
            HelloRefusal::Features { missing } => (refusal::FEATURES, numbers(missing, 0)),
            HelloRefusal::Cluster { cluster } => (refusal::CLUSTER, cluster),
            HelloRefusal::Lineage { lineage } => (refusal::LINEAGE, numbers(lineage, 0)),
            HelloRefusal::Node { node } => (refusal::NODE, numbers(u64::from(node.0), 0)),
            HelloRefusal::UnknownNode { configuration } => (refusal::UNKNOWN_NODE, numbers(configuration.0, 0)),
            HelloRefusal::Incarnation { expected } => (refusal::INCARNATION, expected),
            HelloRefusal::RolledBack { boot_counter, stable } => {
                (refusal::ROLLED_BACK, numbers(boot_counter, stable.0))
            }
            HelloRefusal::Twin { boot_counter } => (refusal::TWIN, numbers(boot_counter, 0)),
            HelloRefusal::Channel => (refusal::CHANNEL, [0; 16]),
            HelloRefusal::TooManyConnections => (refusal::TOO_MANY_CONNECTIONS, [0; 16]),
            HelloRefusal::NotBootstrapped => (refusal::NOT_BOOTSTRAPPED, [0; 16]),
            HelloRefusal::Shutdown => (refusal::SHUTDOWN, [0; 16]),
            HelloRefusal::Group { group } => (refusal::GROUP, numbers(u64::from(group.0), 0)),
        }
    }

    fn from_parts(number: u16, detail: [u8; 16]) -> Option<HelloRefusal> {
        let (low, high) = (DETAIL_LOW.u64(&detail), DETAIL_HIGH.u64(&detail));
        let refusal = match number {
            refusal::FORMAT => {
                HelloRefusal::Format { minimum: u16::try_from(low).ok()?, maximum: u16::try_from(high).ok()? }
            }
            refusal::FEATURES => HelloRefusal::Features { missing: low },
            refusal::CLUSTER => HelloRefusal::Cluster { cluster: detail },
            refusal::LINEAGE => HelloRefusal::Lineage { lineage: low },
            refusal::NODE => HelloRefusal::Node { node: NodeId(u32::try_from(low).ok()?) },
            refusal::UNKNOWN_NODE => HelloRefusal::UnknownNode { configuration: Slot(low) },
            refusal::INCARNATION => HelloRefusal::Incarnation { expected: detail },
            refusal::ROLLED_BACK => HelloRefusal::RolledBack { boot_counter: low, stable: Slot(high) },
            refusal::TWIN => HelloRefusal::Twin { boot_counter: low },
            refusal::CHANNEL => HelloRefusal::Channel,
            refusal::TOO_MANY_CONNECTIONS => HelloRefusal::TooManyConnections,
            refusal::NOT_BOOTSTRAPPED => HelloRefusal::NotBootstrapped,
            refusal::SHUTDOWN => HelloRefusal::Shutdown,
            refusal::GROUP => HelloRefusal::Group { group: GroupId(u32::try_from(low).ok()?) },
            _ => return None,
        };
        // A detail that the reason doesn't have contradicts it.
        (refusal.to_parts() == (number, detail)).then_some(refusal)
    }
}

fn seal(bytes: &mut [u8; HELLO_BYTES]) {
    let checksum = checksum(bytes);
    field::CHECKSUM.put(bytes, &checksum.to_le_bytes());
}

/// Over everything but the field that holds it.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..field::CHECKSUM.offset]);
    hasher.update(&bytes[field::CHECKSUM.end()..]);
    hasher.finalize()
}

fn check(bytes: &[u8], expected_kind: u8) -> Result<&[u8], HelloError> {
    let Some(bytes) = bytes.get(..HELLO_BYTES) else {
        return Err(HelloError::Truncated { found: bytes.len() });
    };
    let found = field::MAGIC.u32(bytes);
    if found != MAGIC {
        return Err(HelloError::Magic { found });
    }
    let found = field::VERSION.u16(bytes);
    if found != HELLO_VERSION {
        return Err(HelloError::Version { found });
    }
    let expected = field::CHECKSUM.u32(bytes);
    let actual = checksum(bytes);
    if expected != actual {
        return Err(HelloError::Checksum { expected, actual });
    }
    let found = field::KIND.u8(bytes);
    if found != expected_kind {
        return Err(HelloError::Kind { expected: expected_kind, found });
    }
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Result<Hello, HelloError> {
    let found = field::CHANNEL.u8(bytes);
    let hello = Hello {
        channel: Channel::from_number(found).ok_or(HelloError::Channel { found })?,
        format_min: field::FORMAT_MIN.u16(bytes),
        format_max: field::FORMAT_MAX.u16(bytes),
        features: field::FEATURES.u64(bytes),
        cluster: field::CLUSTER.array(bytes),
        lineage: field::LINEAGE.u64(bytes),
        from: NodeId(field::FROM.u32(bytes)),
        to: NodeId(field::TO.u32(bytes)),
        incarnation: field::INCARNATION.array(bytes),
        boot_counter: field::BOOT_COUNTER.u64(bytes),
        boot_nonce: field::BOOT_NONCE.u64(bytes),
        promise: Ballot {
            round: field::PROMISE_ROUND.u64(bytes),
            node: NodeId(field::PROMISE_NODE.u32(bytes)),
            boot: field::PROMISE_BOOT.u64(bytes),
        },
        durable: field::DURABLE.u64(bytes),
        configuration: Slot(field::CONFIGURATION.u64(bytes)),
        port: u16::try_from(field::PORT.u64(bytes)).map_err(|_| HelloError::Port)?,
        stable: Slot(field::STABLE.u64(bytes)),
        group: GroupId(field::GROUP.u32(bytes)),
    };
    let (minimum, maximum) = (hello.format_min, hello.format_max);
    if minimum == 0 || minimum > maximum {
        return Err(HelloError::Format { minimum, maximum });
    }
    if hello.from == NodeId(0) && hello.channel != Channel::Client {
        return Err(HelloError::Nobody);
    }
    Ok(hello)
}

fn check_zero(bytes: &[u8], range: std::ops::Range<usize>) -> Result<(), HelloError> {
    match first_nonzero(&bytes[range.clone()]) {
        Some(index) => Err(HelloError::Reserved { offset: range.start + index }),
        None => Ok(()),
    }
}

/// As uuids are written.
fn uuid(bytes: &[u8; 16]) -> impl std::fmt::Display {
    let number = u128::from_be_bytes(*bytes);
    std::fmt::from_fn(move |f| {
        let groups = [number >> 96, number >> 80 & 0xffff, number >> 64 & 0xffff, number >> 48 & 0xffff];
        write!(f, "{:08x}-{:04x}-{:04x}-{:04x}", groups[0], groups[1], groups[2], groups[3])?;
        write!(f, "-{:012x}", number & 0xffff_ffff_ffff)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            channel: Channel::Bulk,
            format_min: 1,
            format_max: 3,
            features: 0b11,
            cluster: [7; 16],
            lineage: 1,
            from: NodeId(1),
            to: NodeId(2),
            incarnation: [9; 16],
            boot_counter: 4,
            boot_nonce: 5,
            promise: Ballot { round: 6, node: NodeId(1), boot: 7 },
            durable: 8,
            configuration: Slot(9),
            port: 7001,
            stable: Slot(10),
            group: GroupId(0),
        }
    }

    #[test]
    fn a_hello_is_judged() {
        let own = Hello { from: NodeId(2), to: NodeId(0), format_max: 2, features: 1, ..hello() };
        let check = |theirs: Hello| theirs.check(&own);
        assert_eq!(check(hello()), Ok(2));
        assert_eq!(check(Hello { format_min: 3, ..hello() }), Err(HelloRefusal::Format { minimum: 1, maximum: 2 }));
        assert_eq!(check(Hello { features: 0b10, ..hello() }), Err(HelloRefusal::Features { missing: 1 }));
        assert_eq!(check(Hello { cluster: [8; 16], ..hello() }), Err(HelloRefusal::Cluster { cluster: [7; 16] }));
        assert_eq!(check(Hello { cluster: [0; 16], ..hello() }), Err(HelloRefusal::Cluster { cluster: [7; 16] }));
        assert_eq!(check(Hello { lineage: 2, ..hello() }), Err(HelloRefusal::Lineage { lineage: 1 }));
        assert_eq!(check(Hello { to: NodeId(3), ..hello() }), Err(HelloRefusal::Node { node: NodeId(2) }));
        assert_eq!(check(Hello { channel: Channel::Client, ..hello() }), Err(HelloRefusal::Channel));
        let client = Hello { channel: Channel::Client, cluster: [0; 16], lineage: 0, from: NodeId(0), ..hello() };
        assert_eq!(client.check(&Hello { channel: Channel::Client, ..own }), Ok(2));
    }

    #[test]
    fn refusals_are_sentences() {
        let refusal = HelloRefusal::Cluster { cluster: 0x0123_4567_89ab_cdef_0011_2233_4455_6677_u128.to_be_bytes() };
        assert_eq!(
            refusal.to_string(),
            "the node there belongs to cluster 01234567-89ab-cdef-0011-223344556677, not to this one; check the addresses"
        );
    }
}
