//! The durable log of a node, as the join that recovery makes of it.

use std::collections::BTreeMap;

use synod_protocol::{AcceptedBody, Append, Ballot, BodyHandle, LogEntry, Mark, Recovered, Slot};

/// What the durable appends prove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Log {
    promised: Ballot,
    mark: Mark,
    accepted: BTreeMap<Slot, AcceptedBody>,
    chosen: Vec<BodyHandle>,
}

impl Log {
    /// Takes one more append. As everywhere: the highest promise, and the highest ballot per slot.
    pub(crate) fn write(&mut self, append: &Append) {
        self.promised = self.promised.max(append.promised);
        while self.mark.slot < append.mark.slot {
            let next =
                self.accepted.get(&self.mark.slot).expect("a mark stands on bodies that are in the log before it");
            let body = next.body;
            self.choose(body);
        }
        match append.entry {
            LogEntry::Promise => {}
            LogEntry::Accepted { ballot, body } => {
                self.accepted.retain(|_, known| !known.body.overlaps(&body));
                self.accepted.insert(body.first, AcceptedBody { ballot, body });
            }
            LogEntry::Copied { body, .. } => self.choose(body),
        }
    }

    fn choose(&mut self, body: BodyHandle) {
        self.mark = self.mark.after(&body);
        self.chosen.push(body);
        self.accepted = self.accepted.split_off(&self.mark.slot);
    }

    pub(crate) fn promised(&self) -> Ballot {
        self.promised
    }

    /// The chosen prefix that it proves.
    pub(crate) fn chosen(&self) -> &[BodyHandle] {
        &self.chosen
    }

    /// Whether it holds an accept of a body that it doesn't know to be chosen.
    pub(crate) fn has_open(&self) -> bool {
        !self.accepted.is_empty()
    }

    pub(crate) fn recovered(&self) -> Recovered {
        Recovered {
            promised: self.promised,
            mark: self.mark,
            trimmed: Slot(0),
            accepted: self.accepted.values().copied().collect(),
            ..Recovered::default()
        }
    }

    pub(crate) fn forget_promise(&mut self) {
        self.promised = self.accepted.values().map(|known| known.ballot).max().unwrap_or(Ballot::ZERO);
    }

    pub(crate) fn forget_accepted(&mut self) {
        self.accepted.clear();
    }
}
