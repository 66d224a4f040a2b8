//! I20, identity: a node never serves from another node's directory.

use super::{Property, Verdict, Violation};
use crate::network::node_id;

/// A node starts on the directory of `owner`.
pub(super) fn check_started(node: usize, owner: usize) -> Verdict {
    if node == owner {
        return Ok(());
    }
    Err(Violation::new(Property::Identity, format!("{} starts on the directory of {}", node_id(node), node_id(owner))))
}
