//! Whose log this is: checked in every segment header, and mixed into every checksum.

use crc32fast::Hasher;
use synod_protocol::NodeId;

/// The identity under which a log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// The cluster's uuid.
    pub cluster: [u8; 16],
    /// Raised when a cluster is restored under its old uuid; members of different lineages never talk.
    pub lineage: u64,
    /// The node.
    pub node: NodeId,
    /// The random uuid of this store, made when the directory was initialised.
    pub incarnation: [u8; 16],
    /// How many times the store was opened for serving.
    pub boot_counter: u64,
    /// Which of the node's logs this is, from zero.
    pub log: u32,
}

/// What every segment must name to belong to a log: a [`LogIdentity`] without its boot counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedIdentity {
    /// The cluster's uuid.
    pub cluster: [u8; 16],
    /// The cluster's lineage.
    pub lineage: u64,
    /// The node.
    pub node: NodeId,
    /// The store's uuid.
    pub incarnation: [u8; 16],
    /// Which of the node's logs this is, from zero.
    pub log: u32,
}

impl LogIdentity {
    /// What segments written under this identity name, in this boot or another.
    pub fn expected(&self) -> ExpectedIdentity {
        ExpectedIdentity {
            cluster: self.cluster,
            lineage: self.lineage,
            node: self.node,
            incarnation: self.incarnation,
            log: self.log,
        }
    }
}

impl ExpectedIdentity {
    /// The salt of this log's checksums.
    pub fn salt(&self) -> LogSalt {
        let mut hasher = Hasher::new();
        hasher.update(&self.cluster);
        hasher.update(&self.lineage.to_le_bytes());
        hasher.update(&self.node.0.to_le_bytes());
        hasher.update(&self.incarnation);
        hasher.update(&self.log.to_le_bytes());
        LogSalt(hasher.finalize())
    }
}

/// Where the checksums of a log's records and seals begin, instead of at zero.
///
/// So a record that was misdirected from another log, copied from another store, or laid out by a client inside its
/// command (the incarnation is random and clients never see it) doesn't pass for one of this log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSalt(u32);

impl LogSalt {
    pub(crate) fn hasher(self) -> Hasher {
        Hasher::new_with_initial(self.0)
    }
}
