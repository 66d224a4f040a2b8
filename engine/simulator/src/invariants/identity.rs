//! I20, identity: a node never serves from another node's directory. A vote that is heard of a node comes from the store
//! that its receiver's configuration names for it; and what is heard of a store comes from no earlier boot than the receiver
//! has met, and from one process a boot.

use std::collections::BTreeMap;

use synod_protocol::{Message, Slot};

use super::{Property, Verdict, Violation};
use crate::links::Speaker;
use crate::network::node_id;
use crate::rulings::Rulings;

/// A node starts on the directory of `owner`.
pub(super) fn check_started(node: usize, owner: usize) -> Verdict {
    if node == owner {
        return Ok(());
    }
    Err(Violation::new(Property::Identity, format!("{} starts on the directory of {}", node_id(node), node_id(owner))))
}

/// The boots that each node has heard of, with the process that came by each.
#[derive(Debug, Default)]
pub(super) struct Identity {
    heard: BTreeMap<(usize, [u8; 16]), BTreeMap<u64, u64>>,
}

impl Identity {
    /// A node, which has delivered everything below `delivered`, hears a process that speaks for another node.
    pub(super) fn check_heard(
        &mut self,
        (node, delivered): (usize, Slot),
        (from, speaker): (usize, &Speaker),
        message: &Message,
        rulings: &Rulings,
    ) -> Verdict {
        let violation = |what: String| {
            let what = format!("{} hears {} {what}", node_id(node), node_id(from));
            Err(Violation::new(Property::Identity, what))
        };
        let named = rulings.store_that_counts(delivered, node_id(from));
        if let Some(store) = named.filter(|store| *store != speaker.incarnation && message.is_vote()) {
            return violation(format!("vote on store {:?}, while {store:?} counts", speaker.incarnation));
        }
        let boots = self.heard.entry((node, speaker.incarnation)).or_default();
        match boots.get(&speaker.boot_counter) {
            Some(nonce) if *nonce == speaker.boot_nonce => return Ok(()),
            Some(_) => return violation(format!("twice in boot {}", speaker.boot_counter)),
            None => {}
        }
        if let Some((later, _)) = boots.last_key_value().filter(|(later, _)| **later > speaker.boot_counter) {
            return violation(format!("in boot {} for the first time, after boot {later}", speaker.boot_counter));
        }
        boots.insert(speaker.boot_counter, speaker.boot_nonce);
        Ok(())
    }
}
