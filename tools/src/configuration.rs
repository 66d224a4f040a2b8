//! Configurations as rows: who rules from which slot on, in which format, and where they listen.

use std::fmt;

use anyhow::{Context, Result};
use serde::Serialize;
use synod_frame::{BodyHeader, ConfigurationBody, Member, RECORD_HEADER_BYTES, RecordBuffer};
use synod_protocol::NodeId;
use uuid::Uuid;

/// A configuration as data.
#[derive(Clone, Serialize)]
pub(crate) struct ConfigurationRow {
    /// Where it was chosen, if it was; zero for genesis.
    pub(crate) slot: u64,
    /// The first slot that it rules.
    pub(crate) rules_from: u64,
    /// Where the one was chosen that it succeeds; it is void if another one came between.
    pub(crate) after: u64,
    pub(crate) lineage: u64,
    pub(crate) format: u16,
    pub(crate) members: Vec<NodeRow>,
    pub(crate) learners: Vec<NodeRow>,
    /// The members that go when the learners become members.
    pub(crate) leaving: Vec<u32>,
    pub(crate) prepare_quorum: u32,
    pub(crate) accept_quorum: u32,
    pub(crate) alpha: u32,
}

/// A node as a configuration names it.
#[derive(Clone, Serialize)]
pub(crate) struct NodeRow {
    pub(crate) node: u32,
    pub(crate) incarnation: String,
    pub(crate) address: Option<String>,
}

impl ConfigurationRow {
    /// What a body says, whose bytes are at hand.
    pub(crate) fn read(header: &BodyHeader, record: &RecordBuffer) -> Result<ConfigurationRow> {
        let bytes = record.as_ref().get(RECORD_HEADER_BYTES..).unwrap_or_default();
        let content = ConfigurationBody::decode(header, bytes)
            .with_context(|| format!("the configuration at slot {}", header.first))?;
        let rule = content.to_configuration(header.first)?;
        let nodes = |members: &[Member]| {
            let row = |member: &Member| NodeRow {
                node: member.node.0,
                incarnation: Uuid::from_bytes(member.incarnation).to_string(),
                address: content.address_of(member.node).map(|address| address.to_string()),
            };
            members.iter().map(row).collect()
        };
        Ok(ConfigurationRow {
            slot: header.first.0,
            rules_from: rule.rules_from().0,
            after: content.after.0,
            lineage: content.lineage,
            format: content.format,
            members: nodes(&content.members),
            learners: nodes(&content.learners),
            leaving: content.leaving.iter().map(|NodeId(node)| *node).collect(),
            prepare_quorum: content.prepare_quorum,
            accept_quorum: content.accept_quorum,
            alpha: content.alpha,
        })
    }
}

impl fmt::Display for ConfigurationRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "configuration of slot {}, after that of slot {}: rules from slot {}, format {}, {} of {} to lead, {} to choose",
            self.slot,
            self.after,
            self.rules_from,
            self.format,
            self.prepare_quorum,
            self.members.len(),
            self.accept_quorum
        )?;
        for (name, nodes) in [("member", &self.members), ("learner", &self.learners)] {
            for NodeRow { node, incarnation, address } in nodes {
                let leaves = if self.leaving.contains(node) { ", leaves when the learners are members" } else { "" };
                write!(f, "\n  {name:<8} {node} {incarnation} {}{leaves}", address.as_deref().unwrap_or("-"))?;
            }
        }
        Ok(())
    }
}
