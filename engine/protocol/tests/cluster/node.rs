//! A node of the test cluster: a replica and what survives it.

use std::collections::{BTreeMap, BTreeSet};

use synod_protocol::{
    AcceptedBody, Append, Ballot, BarrierId, BarrierOutcome, BodyHandle, BodyId, BodyKind, HaltReason, LogEntry, Mark,
    Message, NodeId, Recovered, Replica, Slot, TransferOutcome,
};

use super::recovery::{Loss, Losses, body_of, recover};

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
    /// What of it is lost.
    pub(crate) losses: Losses,
    /// The bodies it delivered, and the mark behind each.
    pub(crate) delivered: Vec<(BodyHandle, Mark)>,
    /// Whether it may vote though its log says that a promise may be lost: only where a test plants that.
    pub(crate) forgives_losses: bool,
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
    /// What no append of this life takes back: the promise and the mark.
    floor: (Ballot, Slot),
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
        let mut bodies = self.bodies(self.log.len()).rev();
        bodies.find(|body| body.first == first && body.id == id && body.end() > self.trimmed).copied()
    }

    /// The bodies that can be read of the first `count` appends.
    fn bodies(&self, count: usize) -> impl DoubleEndedIterator<Item = &BodyHandle> {
        let appends = self.log[..count].iter().enumerate();
        appends.filter(|(index, _)| !self.losses.contains_key(index)).filter_map(|(_, append)| body_of(append))
    }

    /// Whether the node still has `body` on its disk, for anybody who needs it.
    pub(super) fn has_durable(&self, body: &BodyHandle) -> bool {
        body.end() > self.trimmed && self.bodies(self.durable).any(|known| known == body)
    }

    /// The highest promise that was ever durable here, lost or not.
    pub(super) fn promised_ever(&self) -> Ballot {
        self.log[..self.durable].iter().map(|append| append.promised).max().unwrap_or_default()
    }

    /// What a restart would know if it came now.
    fn known(&self) -> Recovered {
        recover(&self.log[..self.durable], &self.losses).0
    }

    /// Loses durable appends while the node is down. The body of a lost append is at hand no more.
    pub(super) fn damage(&mut self, losses: &[(usize, Loss)]) {
        assert!(self.replica.is_none(), "what a running node reads isn't lost to it");
        assert!(losses.iter().all(|(index, _)| *index < self.durable), "only what is durable can be lost");
        self.losses.extend(losses.iter().copied());
    }

    pub(super) fn append(&mut self, append: Append) {
        let expected = self.log.len() - self.earlier + 1;
        assert_eq!(append.id.0, expected as u64, "appends are numbered from one, without gaps");
        let (promised, mark) = self.floor;
        assert!(promised <= append.promised, "a promise is never taken back");
        assert!(mark <= append.mark.slot, "a mark never goes back");
        self.floor = (append.promised, append.mark.slot);
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
        // What is lost at the end stays without a witness, whatever is appended behind it.
        let unread = |loss: &Loss| *loss != Loss::Body;
        for index in (0..self.log.len()).rev() {
            let Some(loss) = self.losses.get_mut(&index).filter(|loss| unread(loss)) else { break };
            *loss = Loss::Tail;
        }
        let (recovered, delivered) = recover(&self.log, &self.losses);
        self.floor = (recovered.promised, recovered.mark.slot);
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
        let durable = || self.log[..self.durable].iter().enumerate();
        let has_promised = |ballot: Ballot| {
            let mut legible = durable().filter(|(index, _)| self.losses.get(index).is_none_or(|l| *l == Loss::Body));
            legible.any(|(_, append)| append.promised >= ballot)
        };
        let has_accepted = |ballot: Ballot, first: Slot, wanted: BodyId| {
            durable().rev().any(|(index, append)| {
                matches!(append.entry, LogEntry::Accepted { ballot: at, body }
                    if at == ballot && body.first == first && body.id == wanted && !self.losses.contains_key(&index))
            })
        };
        let has_prefix = |end: Slot| {
            let below = self.delivered.iter().filter(|(_, mark)| mark.slot <= end);
            let bodies: BTreeSet<BodyId> = self.bodies(self.durable).map(|body| body.id).collect();
            below.into_iter().all(|(body, _)| bodies.contains(&body.id))
        };
        let is_vote = matches!(message, Message::Prepare { .. } | Message::Promise { .. } | Message::Accepted { .. });
        if is_vote && !self.losses.is_empty() && !self.forgives_losses {
            assert!(!self.known().unsure, "{id} votes, and may have forgotten a promise: {message:?}");
        }
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
                let known = self.known().mark.slot;
                assert!(*stable <= known, "{id} calls slot {stable} stable, a restart would know {known}");
            }
            _ => {}
        }
    }
}
