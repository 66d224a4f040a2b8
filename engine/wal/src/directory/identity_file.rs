//! The identity file: a few lines that a human can read, and a checksum.

use std::path::PathBuf;

use synod_protocol::NodeId;
use thiserror::Error;
use uuid::Uuid;

use crate::identity::LogIdentity;
use crate::segment::Geometry;

/// First line of the file; the number is its version.
const HEADING: &str = "synod identity 1";

/// Most logs of a store, and so most groups of a node.
pub const LOGS_MAX: u32 = 64;

/// Who a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The node.
    pub node: NodeId,
    /// The random uuid of the store.
    pub incarnation: [u8; 16],
    /// The cluster; none before bootstrap.
    pub cluster: Option<[u8; 16]>,
    /// The cluster's lineage.
    pub lineage: u64,
    /// How many times the store was opened for serving.
    pub boot_counter: u64,
    /// How many logs it has, one for each of its groups; at most [`LOGS_MAX`].
    pub logs: u32,
    /// Length of every segment.
    pub segment_bytes: u64,
}

/// An identity file that can't be used. Restore it from a copy; without it the store's votes are lost.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{}: {problem}", path.display())]
pub struct IdentityFileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: IdentityProblem,
}

/// What is wrong with an identity file.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum IdentityProblem {
    /// Another kind of file, or another version.
    #[error("it doesn't begin with `{HEADING}`: not an identity, or one of another version")]
    Heading,
    /// Not the bytes that were written.
    #[error("the checksum doesn't match: the file is damaged, or was edited by hand")]
    Checksum,
    /// A line is missing or says nothing that makes sense.
    #[error("no valid value for `{0}`")]
    Field(&'static str),
}

impl NodeIdentity {
    /// The identity under which one of the store's logs is written; none before bootstrap.
    pub fn log_identity(&self, log: u32) -> Option<LogIdentity> {
        Some(LogIdentity {
            cluster: self.cluster?,
            lineage: self.lineage,
            node: self.node,
            incarnation: self.incarnation,
            boot_counter: self.boot_counter,
            log,
        })
    }

    pub(super) fn to_text(&self) -> String {
        let cluster = self.cluster.map_or_else(|| "none".to_string(), |cluster| Uuid::from_bytes(cluster).to_string());
        let body = format!(
            "{HEADING}\nnode = {}\nincarnation = {}\ncluster = {cluster}\nlineage = {}\nboot_counter = {}\nlogs = {}\n\
             segment_bytes = {}\n",
            self.node.0,
            Uuid::from_bytes(self.incarnation),
            self.lineage,
            self.boot_counter,
            self.logs,
            self.segment_bytes,
        );
        let checksum = crc32fast::hash(body.as_bytes());
        format!("{body}checksum = {checksum:08x}\n")
    }

    pub(super) fn parse(text: &[u8]) -> Result<NodeIdentity, IdentityProblem> {
        let text = std::str::from_utf8(text).map_err(|_| IdentityProblem::Heading)?;
        if text.lines().next() != Some(HEADING) {
            return Err(IdentityProblem::Heading);
        }
        let at = text.rfind("checksum = ").ok_or(IdentityProblem::Checksum)?;
        let (body, last) = text.split_at(at);
        if last != format!("checksum = {:08x}\n", crc32fast::hash(body.as_bytes())) {
            return Err(IdentityProblem::Checksum);
        }
        let value = |name: &'static str| {
            let mut lines = body.lines().filter_map(|line| line.split_once(" = "));
            lines.find(|(key, _)| *key == name).map(|(_, value)| value).ok_or(IdentityProblem::Field(name))
        };
        let uuid =
            |name, text: &str| Uuid::try_parse(text).map(Uuid::into_bytes).map_err(|_| IdentityProblem::Field(name));
        let cluster = match value("cluster")? {
            "none" => None,
            text => Some(uuid("cluster", text)?),
        };
        Ok(NodeIdentity {
            node: NodeId(number(value("node")?).filter(|node| *node > 0).ok_or(IdentityProblem::Field("node"))?),
            incarnation: uuid("incarnation", value("incarnation")?)?,
            cluster,
            lineage: number(value("lineage")?).ok_or(IdentityProblem::Field("lineage"))?,
            boot_counter: number(value("boot_counter")?).ok_or(IdentityProblem::Field("boot_counter"))?,
            logs: number(value("logs")?)
                .filter(|logs| (1..=LOGS_MAX).contains(logs))
                .ok_or(IdentityProblem::Field("logs"))?,
            segment_bytes: number(value("segment_bytes")?)
                .filter(|bytes| Geometry::new(*bytes).is_some())
                .ok_or(IdentityProblem::Field("segment_bytes"))?,
        })
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> NodeIdentity {
        NodeIdentity {
            node: NodeId(3),
            incarnation: [7; 16],
            cluster: Some([9; 16]),
            lineage: 2,
            boot_counter: 41,
            logs: 1,
            segment_bytes: 64 << 10,
        }
    }

    #[test]
    fn round_trip() {
        let identity = identity();
        assert_eq!(NodeIdentity::parse(identity.to_text().as_bytes()), Ok(identity.clone()));
        let alone = NodeIdentity { cluster: None, ..identity };
        assert_eq!(NodeIdentity::parse(alone.to_text().as_bytes()), Ok(alone));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let text = identity().to_text().into_bytes();
        for bit in 0..text.len() * 8 {
            let mut damaged = text.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(NodeIdentity::parse(&damaged).is_err(), "bit {bit}");
        }
        for length in 0..text.len() {
            assert!(NodeIdentity::parse(&text[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_checksum_does_not_excuse_nonsense() {
        let text = identity().to_text().replace("node = 3", "node = 0");
        let body = &text[..text.rfind("checksum").unwrap()];
        let text = format!("{body}checksum = {:08x}\n", crc32fast::hash(body.as_bytes()));
        assert_eq!(NodeIdentity::parse(text.as_bytes()), Err(IdentityProblem::Field("node")));
    }
}
