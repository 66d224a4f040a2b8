//! A node of the test cluster: a replica and what survives it.

use std::collections::{BTreeMap, BTreeSet};

use synod_protocol::{
    AcceptedBody, Append, Ballot, BarrierId, BarrierOutcome, BodyHandle, BodyId, BodyKind, HaltReason, LogEntry, Mark,
    Message, NodeId, Recovered, Replica, Slot, TransferOutcome,
};

/// When appends become durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Disk {
    /// As soon as the effects are carried out.
    #[default]
    AtOnce,
    /// When the test says so.
    WhenTold,
}

/// A replica, its log, and what it handed out.
#[derive(Default)]
pub(crate) struct Node {
    /// None while the node is down.
    pub(crate) replica: Option<Replica>,
    pub(crate) disk: Disk,
    /// Every append that is on this disk, or on its way to it.
    pub(crate) log: Vec<Append>,
    /// The bodies it delivered, and the mark behind each.
    pub(crate) delivered: Vec<(BodyHandle, Mark)>,
    pub(crate) trimmed: Slot,
    pub(crate) halted: Option<HaltReason>,
    /// Whether compositions wait for the test instead of being answered at once.
    pub(crate) hold_compositions: bool,
    pub(crate) compositions: Vec<BodyHandle>,
    /// The barriers under way, and everything that was delivered anywhere when each began.
    pub(crate) reading: BTreeMap<BarrierId, Slot>,
    /// The barriers that ended, and how.
    pub(crate) barriers: Vec<(BarrierId, BarrierOutcome)>,
    /// The transfers that ended, and how.
    pub(crate) transfers: Vec<(NodeId, TransferOutcome)>,
    /// Bodies whose bytes are in memory during the current call.
    pub(crate) at_hand: BTreeSet<BodyId>,
    /// How many appends are durable.
    durable: usize,
    /// How many appends stem from earlier lives.
    earlier: usize,
}

impl Node {
    pub(crate) fn durable_count(&self) -> usize {
        self.durable
    }

    /// Whether the node has the bytes of `body`.
    pub(crate) fn holds(&self, body: &BodyHandle) -> bool {
        self.at_hand.contains(&body.id) || self.body(body.first, body.id).is_some()
    }

    /// The body of this identity in the log.
    pub(crate) fn body(&self, first: Slot, id: BodyId) -> Option<BodyHandle> {
        let bodies = self.log.iter().rev().filter_map(body_of);
        bodies.copied().find(|body| body.first == first && body.id == id && body.end() > self.trimmed)
    }

    pub(super) fn append(&mut self, append: Append) {
        let expected = self.log.len() - self.earlier + 1;
        assert_eq!(append.id.0, expected as u64, "appends are numbered from one, without gaps");
        let last = self.log.last();
        assert!(last.is_none_or(|last| last.promised <= append.promised), "a promise is never taken back");
        assert!(last.is_none_or(|last| last.mark.slot <= append.mark.slot), "a mark never goes back");
        self.log.push(append);
    }

    /// Makes the first `count` appends durable, and returns those that weren't.
    pub(super) fn make_durable(&mut self, count: usize) -> Vec<Append> {
        let count = count.min(self.log.len());
        let fresh = self.log.get(self.durable..count).unwrap_or_default().to_vec();
        self.durable = self.durable.max(count);
        fresh
    }

    /// Ends a life. Returns the lucky appends, which survive without ever having been acknowledged.
    pub(super) fn crash(&mut self, lucky: usize) -> Vec<Append> {
        self.replica = None;
        self.log.truncate(self.durable + lucky);
        self.make_durable(usize::MAX)
    }

    /// Begins a life: what the log proves is what is known.
    pub(super) fn begin_life(&mut self) -> Recovered {
        assert!(self.replica.is_none(), "a node lives once at a time");
        let (recovered, delivered) = recover(&self.log);
        self.earlier = self.log.len();
        self.durable = self.log.len();
        self.trimmed = recovered.trimmed;
        self.delivered = delivered;
        self.halted = None;
        self.compositions.clear();
        self.reading.clear();
        recovered
    }

    /// The end of what it has delivered.
    pub(super) fn delivered_to(&self) -> Slot {
        self.delivered.last().map_or(Slot::FIRST, |(_, mark)| mark.slot)
    }

    pub(super) fn deliver(&mut self, body: BodyHandle, mark: Mark) {
        let before = self.delivered.last().map_or(Mark::START, |(_, mark)| *mark);
        assert_eq!(before.after(&body), mark, "the mark runs over what was delivered");
        if let BodyKind::Trim { upto } = body.kind {
            self.trimmed = self.trimmed.max(upto);
        }
        self.delivered.push((body, mark));
    }

    /// Durability before speech: whatever the message claims of this node's log is durable there.
    pub(super) fn check_speech(&self, id: NodeId, message: &Message) {
        let durable = &self.log[..self.durable];
        let has_promised = |ballot: Ballot| durable.iter().any(|append| append.promised >= ballot);
        let has_accepted = |ballot: Ballot, first: Slot, wanted: BodyId| {
            durable.iter().rev().any(|append| {
                matches!(append.entry, LogEntry::Accepted { ballot: at, body }
                    if at == ballot && body.first == first && body.id == wanted)
            })
        };
        let has_prefix = |end: Slot| {
            let below = self.delivered.iter().filter(|(_, mark)| mark.slot <= end);
            let bodies: BTreeSet<BodyId> = durable.iter().filter_map(body_of).map(|body| body.id).collect();
            below.into_iter().all(|(body, _)| bodies.contains(&body.id))
        };
        match message {
            Message::Prepare { ballot, .. } => assert!(has_promised(*ballot), "{id} prepares before its own promise"),
            Message::Promise { ballot, mark, accepted, .. } => {
                assert!(has_promised(*ballot), "{id} speaks of a promise that isn't durable");
                assert!(has_prefix(mark.slot), "{id} promises with a mark whose bodies aren't durable");
                for AcceptedBody { ballot, body } in accepted {
                    assert!(has_accepted(*ballot, body.first, body.id), "{id} reports {body:?}, which isn't durable");
                }
            }
            Message::Accepted { ballot, first, id: body } => {
                assert!(has_accepted(*ballot, *first, *body), "{id} speaks of an accept that isn't durable");
            }
            Message::HeartbeatReply { stable, .. } => {
                let known = recover(durable).0.mark.slot;
                assert!(*stable <= known, "{id} calls slot {stable} stable, a restart would know {known}");
            }
            _ => {}
        }
    }
}

/// The body that an append brings.
pub(super) fn body_of(append: &Append) -> Option<&BodyHandle> {
    match &append.entry {
        LogEntry::Promise => None,
        LogEntry::Accepted { body, .. } | LogEntry::Copied { body, .. } => Some(body),
    }
}

/// Reads a log from its beginning: the slow, obvious twin of real recovery. Also returns the chosen prefix.
pub(crate) fn recover(log: &[Append]) -> (Recovered, Vec<(BodyHandle, Mark)>) {
    let mut recovered = Recovered { trimmed: Slot(0), ..Recovered::default() };
    let mut accepted: BTreeMap<Slot, AcceptedBody> = BTreeMap::new();
    let mut delivered: Vec<(BodyHandle, Mark)> = Vec::new();
    let choose = |mark: &mut Mark, delivered: &mut Vec<(BodyHandle, Mark)>, body: BodyHandle| {
        *mark = mark.after(&body);
        delivered.push((body, *mark));
    };
    for append in log {
        recovered.promised = recovered.promised.max(append.promised);
        while recovered.mark.slot < append.mark.slot {
            let next =
                accepted.get(&recovered.mark.slot).expect("a mark stands on bodies that are in the log before it");
            choose(&mut recovered.mark, &mut delivered, next.body);
        }
        assert_eq!(recovered.mark, append.mark, "the mark's chain runs over the bodies before it");
        accepted = accepted.split_off(&recovered.mark.slot);
        match append.entry {
            LogEntry::Promise => {}
            LogEntry::Accepted { ballot, body } => {
                assert!(body.first >= recovered.mark.slot, "what is known to be chosen is never accepted again");
                accepted.retain(|_, known| {
                    assert!(
                        !known.body.overlaps(&body) || known.ballot < ballot,
                        "{body:?} at {ballot} can't replace {known:?}"
                    );
                    !known.body.overlaps(&body)
                });
                accepted.insert(body.first, AcceptedBody { ballot, body });
            }
            LogEntry::Copied { body, .. } => {
                choose(&mut recovered.mark, &mut delivered, body);
                accepted = accepted.split_off(&recovered.mark.slot);
            }
        }
    }
    for (body, _) in &delivered {
        if let BodyKind::Trim { upto } = body.kind {
            recovered.trimmed = recovered.trimmed.max(upto);
        }
    }
    recovered.accepted = accepted.into_values().collect();
    (recovered, delivered)
}
