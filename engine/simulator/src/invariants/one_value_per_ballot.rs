//! I4, one value per ballot: for every slot and ballot at most one body is ever proposed or accepted.

use std::collections::BTreeMap;

use synod_protocol::{Ballot, BodyHandle, Slot};

use super::{Property, Verdict, Violation};

/// The bodies of each ballot, by their first slot.
#[derive(Debug, Default)]
pub(super) struct OneValuePerBallot {
    proposed: BTreeMap<Ballot, BTreeMap<Slot, BodyHandle>>,
}

impl OneValuePerBallot {
    /// A body shows at a ballot, in a message or in a log.
    pub(super) fn note(&mut self, ballot: Ballot, body: &BodyHandle) -> Verdict {
        let bodies = self.proposed.entry(ballot).or_default();
        let rival = bodies.range(..body.end()).next_back().map(|(_, other)| other).filter(|other| other.overlaps(body));
        match rival {
            Some(other) if other != body => Err(Violation::new(
                Property::OneValuePerBallot,
                format!("ballot {ballot} shows both {other:?} and {body:?}"),
            )),
            Some(_) => Ok(()),
            None => {
                bodies.insert(body.first, *body);
                Ok(())
            }
        }
    }
}
