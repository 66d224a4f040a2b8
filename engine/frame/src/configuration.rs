//! The archive of a configuration body: a cluster's identity, its members with the incarnations of their stores, and
//! the quorum sizes. The body at slot 0 is genesis.

mod addresses;
mod format;

use std::net::SocketAddr;

use rkyv::{Archive, Serialize};
use synod_protocol::{
    BodyKind, Configuration, ConfigurationError, FORMAT_FIRST, FORMAT_MAX, MEMBERS_MAX, NodeId, Slot,
};
use thiserror::Error;

use crate::archive;
use crate::body::BodyHeader;
use crate::encode::EncodeError;

/// A configuration as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConfigurationBody {
    /// Where the configuration was chosen that it succeeds; zero for genesis and its successor. Part of the body's header.
    pub after: Slot,
    /// The cluster's uuid.
    pub cluster: [u8; 16],
    /// Raised when a cluster is restored from a copy, so that the copy and the original never mix.
    pub lineage: u64,
    /// The voting members; ascending by node in any configuration that may rule.
    pub members: Vec<Member>,
    /// Nodes that get the log and don't vote yet; ascending, none a member.
    pub learners: Vec<Member>,
    /// The members that go when the learners become members; ascending.
    pub leaving: Vec<NodeId>,
    /// How many promises phase 1 needs.
    pub prepare_quorum: u32,
    /// How many accepts choose a body.
    pub accept_quorum: u32,
    /// How far proposals may run ahead of the chosen prefix, in slots.
    pub alpha: u32,
    /// Where members and learners listen for their peers, as far as that is known; ascending by node. A node may be told
    /// otherwise.
    pub addresses: Vec<(NodeId, SocketAddr)>,
    /// The format of the bodies that it rules.
    pub format: u16,
}

impl Default for ConfigurationBody {
    fn default() -> ConfigurationBody {
        ConfigurationBody {
            after: Slot(0),
            cluster: [0; 16],
            lineage: 0,
            members: Vec::new(),
            learners: Vec::new(),
            leaving: Vec::new(),
            prepare_quorum: 0,
            accept_quorum: 0,
            alpha: 0,
            addresses: Vec::new(),
            format: FORMAT_FIRST,
        }
    }
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
    /// The members, and behind them the learners.
    members: Vec<MemberRow>,
    /// How many of the rows are learners.
    learners: u16,
    /// Bit i: the member in row i leaves.
    leaving: u16,
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
    /// The log is in a format that this build doesn't read.
    #[error("the log needs a build that reads format {needed}, this one reads formats up to {FORMAT_MAX}: update it")]
    Format {
        /// The format.
        needed: u16,
    },
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
        let BodyKind::Configuration { after } = header.kind else { return Err(ConfigurationBodyError::Kind) };
        let range = header.archive_range();
        let truncated = ConfigurationBodyError::Truncated { needed: range.end, found: body.len() };
        let archive = body.get(range).ok_or(truncated)?;
        let configuration = archive::with_aligned(archive, ConfigurationBody::from_archive)?;
        let configuration = ConfigurationBody { after, ..configuration };
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
            learners: self.learners.iter().map(|learner| learner.node).collect(),
            leaving: self.leaving.clone(),
            format: self.format,
        };
        configuration.check()?;
        Ok(configuration)
    }

    /// The members and the learners.
    pub fn nodes(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().chain(&self.learners)
    }

    /// The body of `configuration`, in the same cluster. `known` tells the incarnations of its nodes, besides this
    /// configuration; whoever neither tells gets one of zeros, which is nobody's.
    #[must_use]
    pub fn succeeded_by(&self, after: Slot, configuration: &Configuration, known: &[Member]) -> ConfigurationBody {
        let member = |node: &NodeId| {
            let told = known.iter().chain(self.nodes()).find(|member| member.node == *node);
            Member { node: *node, incarnation: told.map_or([0; 16], |member| member.incarnation) }
        };
        let has_part = |node: NodeId| configuration.nodes().any(|other| other == node);
        ConfigurationBody {
            after,
            cluster: self.cluster,
            lineage: self.lineage,
            members: configuration.members.iter().map(member).collect(),
            learners: configuration.learners.iter().map(member).collect(),
            leaving: configuration.leaving.clone(),
            prepare_quorum: configuration.prepare_quorum,
            accept_quorum: configuration.accept_quorum,
            alpha: configuration.alpha,
            addresses: self.addresses.iter().copied().filter(|(node, _)| has_part(*node)).collect(),
            format: configuration.format,
        }
    }

    /// Where a node listens for its peers, if this configuration tells.
    pub fn address_of(&self, node: NodeId) -> Option<SocketAddr> {
        self.addresses.iter().find(|(named, _)| *named == node).map(|(_, address)| *address)
    }

    /// The incarnation that this configuration names for a node.
    pub fn incarnation_of(&self, node: NodeId) -> Option<[u8; 16]> {
        self.nodes().find(|member| member.node == node).map(|member| member.incarnation)
    }

    pub(crate) fn to_archive(&self) -> Result<Vec<u8>, EncodeError> {
        for members in [self.members.len(), self.learners.len()] {
            if members > MEMBERS_MAX {
                return Err(EncodeError::Members { members });
            }
        }
        let leaves = |(row, member): (usize, &Member)| u16::from(self.leaving.contains(&member.node)) << row;
        let mut bytes = format::to_bytes(self.format);
        bytes.extend(addresses::to_bytes(&self.addresses)?);
        // Offsets in the archive are relative, and what lies in front is a multiple of its alignment.
        bytes.extend(archive::to_vec(&ConfigurationArchive {
            cluster: self.cluster,
            lineage: self.lineage,
            prepare_quorum: self.prepare_quorum,
            accept_quorum: self.accept_quorum,
            alpha: self.alpha,
            members: self
                .nodes()
                .map(|member| MemberRow { node: member.node.0, incarnation: member.incarnation })
                .collect(),
            learners: self.learners.len() as u16,
            leaving: self.members.iter().enumerate().map(leaves).fold(0, |mask, bit| mask | bit),
        }));
        Ok(bytes)
    }

    fn from_archive(bytes: &[u8]) -> Result<ConfigurationBody, ConfigurationBodyError> {
        // Before anything else: whoever wrote it may have laid out everything else otherwise.
        let (format, bytes) = format::split(bytes).ok_or(ConfigurationBodyError::Archive)?;
        if format > FORMAT_MAX {
            return Err(ConfigurationBodyError::Format { needed: format });
        }
        let archive = archive::access::<ArchivedConfigurationArchive>(bytes).ok_or(ConfigurationBodyError::Archive)?;
        let rows = archive.members.as_slice();
        let rows_bytes = size_of_val(rows).next_multiple_of(align_of::<ArchivedConfigurationArchive>());
        let front = bytes.len().saturating_sub(rows_bytes + size_of::<ArchivedConfigurationArchive>());
        let learners = usize::from(archive.learners.to_native());
        let members = rows.len().checked_sub(learners).ok_or(ConfigurationBodyError::Archive)?;
        if members > MEMBERS_MAX || learners > MEMBERS_MAX {
            return Err(ConfigurationError::MemberCount(rows.len()).into());
        }
        let leaving = archive.leaving.to_native();
        if u32::from(leaving) >> members != 0 {
            return Err(ConfigurationBodyError::Archive);
        }
        let member =
            |row: &ArchivedMemberRow| Member { node: NodeId(row.node.to_native()), incarnation: row.incarnation };
        if members == 0 {
            return Err(ConfigurationError::MemberCount(0).into());
        }
        let (members, learners) = rows.split_at(members);
        let leaves = |(row, member): (usize, &ArchivedMemberRow)| {
            (leaving >> row & 1 == 1).then(|| NodeId(member.node.to_native()))
        };
        Ok(ConfigurationBody {
            after: Slot(0),
            cluster: archive.cluster,
            lineage: archive.lineage.to_native(),
            members: members.iter().map(member).collect(),
            learners: learners.iter().map(member).collect(),
            leaving: members.iter().enumerate().filter_map(leaves).collect(),
            prepare_quorum: archive.prepare_quorum.to_native(),
            accept_quorum: archive.accept_quorum.to_native(),
            alpha: archive.alpha.to_native(),
            addresses: addresses::from_bytes(&bytes[..front]).ok_or(ConfigurationBodyError::Archive)?,
            format,
        })
    }
}
