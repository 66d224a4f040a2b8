//! The archive of a configuration body: a cluster's identity, its members with the incarnations of their stores, and
//! the quorum sizes. The body at slot 0 is genesis.

use rkyv::{Archive, Serialize};
use synod_protocol::{BodyKind, Configuration, ConfigurationError, MEMBERS_MAX, NodeId, Slot};
use thiserror::Error;

use crate::archive;
use crate::body::BodyHeader;
use crate::encode::EncodeError;

/// A configuration as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConfigurationBody {
    /// The cluster's uuid.
    pub cluster: [u8; 16],
    /// Raised when a cluster is restored from a copy, so that the copy and the original never mix.
    pub lineage: u64,
    /// The voting members; ascending by node in any configuration that may rule.
    pub members: Vec<Member>,
    /// How many promises phase 1 needs.
    pub prepare_quorum: u32,
    /// How many accepts choose a body.
    pub accept_quorum: u32,
    /// How far proposals may run ahead of the chosen prefix, in slots.
    pub alpha: u32,
}

/// A member of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Identifies the node's store: a wiped directory gets another one.
    pub incarnation: [u8; 16],
}

#[derive(Archive, Serialize)]
struct ConfigurationArchive {
    cluster: [u8; 16],
    lineage: u64,
    prepare_quorum: u32,
    accept_quorum: u32,
    alpha: u32,
    members: Vec<MemberRow>,
}

#[derive(Archive, Serialize)]
struct MemberRow {
    node: u32,
    incarnation: [u8; 16],
}

// The byte map of engine/docs/wal-format.md.
const _: () = assert!(size_of::<ArchivedConfigurationArchive>() == 48 && size_of::<ArchivedMemberRow>() == 20);

/// Why the archive of a configuration body can't be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfigurationBodyError {
    /// The body holds something else.
    #[error("the body holds no configuration")]
    Kind,
    /// Not all of the body is there.
    #[error("the body is cut short: {found} bytes of {needed}")]
    Truncated {
        /// Bytes needed.
        needed: usize,
        /// Bytes there are.
        found: usize,
    },
    /// It isn't an archive of a configuration.
    #[error("the body's archive isn't one of a configuration")]
    Archive,
    /// It is one that can't rule.
    #[error("the configuration can't rule: {0}")]
    Rule(#[from] ConfigurationError),
}

impl ConfigurationBody {
    /// Reads the configuration of a verified body, of which `body` are the exact bytes, and checks that it may rule.
    ///
    /// # Errors
    /// If the body holds something else, or nothing that may rule.
    pub fn decode(header: &BodyHeader, body: &[u8]) -> Result<ConfigurationBody, ConfigurationBodyError> {
        if header.kind != BodyKind::Configuration {
            return Err(ConfigurationBodyError::Kind);
        }
        let range = header.archive_range();
        let truncated = ConfigurationBodyError::Truncated { needed: range.end, found: body.len() };
        let archive = body.get(range).ok_or(truncated)?;
        let configuration = archive::with_aligned(archive, ConfigurationBody::from_archive)?;
        configuration.to_configuration(header.first)?;
        Ok(configuration)
    }

    /// The configuration for the protocol, chosen at `slot`.
    ///
    /// # Errors
    /// If it may not rule.
    pub fn to_configuration(&self, slot: Slot) -> Result<Configuration, ConfigurationError> {
        let configuration = Configuration {
            chosen_at: slot,
            members: self.members.iter().map(|member| member.node).collect(),
            prepare_quorum: self.prepare_quorum,
            accept_quorum: self.accept_quorum,
            alpha: self.alpha,
        };
        configuration.check()?;
        Ok(configuration)
    }

    /// The incarnation that this configuration names for a node.
    pub fn incarnation_of(&self, node: NodeId) -> Option<[u8; 16]> {
        self.members.iter().find(|member| member.node == node).map(|member| member.incarnation)
    }

    pub(crate) fn to_archive(&self) -> Result<Vec<u8>, EncodeError> {
        let members = self.members.len();
        if members > MEMBERS_MAX {
            return Err(EncodeError::Members { members });
        }
        Ok(archive::to_vec(&ConfigurationArchive {
            cluster: self.cluster,
            lineage: self.lineage,
            prepare_quorum: self.prepare_quorum,
            accept_quorum: self.accept_quorum,
            alpha: self.alpha,
            members: self
                .members
                .iter()
                .map(|member| MemberRow { node: member.node.0, incarnation: member.incarnation })
                .collect(),
        }))
    }

    fn from_archive(bytes: &[u8]) -> Result<ConfigurationBody, ConfigurationBodyError> {
        let archive = archive::access::<ArchivedConfigurationArchive>(bytes).ok_or(ConfigurationBodyError::Archive)?;
        let members = archive.members.as_slice();
        if members.len() > MEMBERS_MAX {
            return Err(ConfigurationError::MemberCount(members.len()).into());
        }
        Ok(ConfigurationBody {
            cluster: archive.cluster,
            lineage: archive.lineage.to_native(),
            members: members
                .iter()
                .map(|row| Member { node: NodeId(row.node.to_native()), incarnation: row.incarnation })
                .collect(),
            prepare_quorum: archive.prepare_quorum.to_native(),
            accept_quorum: archive.accept_quorum.to_native(),
            alpha: archive.alpha.to_native(),
        })
    }
}
