//! What a node tells about itself.

use std::time::Duration;

use synod_protocol::{Ballot, Configuration, FORMAT_FIRST, Mark, NodeId, PeerStatus, Role, Slot};
use synod_wal::LogStats;

use crate::error::StopReason;

/// A view of one node's part in the log, at most some milliseconds old; its mark covers everything that an append or a
/// reader of this node has given out.
#[derive(Clone, Debug)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// Its part; [`Role::Follower`] if it has stopped.
    pub role: Role,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// The leader's ballot, or zero.
    pub ballot: Ballot,
    /// Highest promise.
    pub promised: Ballot,
    /// The delivered prefix: its end, and the chain over its bodies. Equal slots have equal chains on all replicas.
    pub mark: Mark,
    /// The end of the delivered prefix that is durable on this node's own disk.
    pub stable: Slot,
    /// The first slot that is kept.
    pub base: Slot,
    /// The end of what is judged: up to there it is known which delivered commands count. Readers get no further. Behind the
    /// mark while a node that has just started reads its log again.
    pub judged: Slot,
    /// Sessions that are open.
    pub sessions: usize,
    /// Number of this process start of the node.
    pub boot: u64,
    /// Bodies proposed and not yet chosen.
    pub open_bodies: u32,
    /// What a leader knows of its peers; empty elsewhere.
    pub peers: Vec<PeerStatus>,
    /// Whether this node's own log has no room for new commands, until something is trimmed or the disk has room for a
    /// file. A leader refuses them too while too many of its peers are full; see [`PeerStatus::full`].
    pub full: bool,
    /// If this node is behind the trim: the first slot that its peers still have. Its log will begin there, too.
    pub behind: Option<Slot>,
    /// At a leader: the member for whose sake more of the log is kept than the retention settings ask for.
    pub held_by: Option<NodeId>,
    /// Who has a part in the log.
    pub membership: Membership,
    /// What is or was wrong with the log on this node's disk.
    pub damage: Damage,
    /// The write-ahead log. `files_clean` is the depth of the pool.
    pub wal: LogStats,
    /// How the start went.
    pub startup: Startup,
    /// What was done since the start.
    pub counters: Counters,
    /// Why the node no longer serves, if it doesn't: it is fenced, and gives nothing out that rests on its log.
    pub stopped: Option<StopReason>,
}

impl Status {
    /// At a leader: how many slots each peer lacks of what this node has delivered, as last told; empty elsewhere.
    pub fn lags(&self) -> impl Iterator<Item = (NodeId, u64)> + '_ {
        self.peers.iter().map(|peer| (peer.node, self.mark.slot.0.saturating_sub(peer.mark.0)))
    }
}

/// Who has a part in the log, as far as a node knows: by the newest configuration that is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The configuration: members, learners, who leaves when the learners become members, quorums.
    pub configuration: Configuration,
    /// Whether it is chosen but doesn't rule yet.
    pub is_pending: bool,
    /// Members of the configuration before that must not be switched off yet: the new one doesn't hold everything that came
    /// before it.
    pub retiring: Vec<NodeId>,
    /// Whether this node has no part in it, although it had one before or was told that one is chosen without it. It may be
    /// switched off, unless it is among those that retire.
    pub is_removed: bool,
}

impl Membership {
    pub(crate) fn of(
        ruling: Configuration,
        pending: Option<Configuration>,
        retiring: Vec<NodeId>,
        is_removed: bool,
    ) -> Membership {
        let is_pending = pending.is_some();
        Membership { configuration: pending.unwrap_or(ruling), is_pending, retiring, is_removed }
    }

    /// That of somebody who hasn't heard of any.
    pub(crate) fn unknown() -> Membership {
        let configuration = Configuration {
            chosen_at: Slot(0),
            members: Vec::new(),
            prepare_quorum: 0,
            accept_quorum: 0,
            alpha: 0,
            learners: Vec::new(),
            leaving: Vec::new(),
            format: FORMAT_FIRST,
        };
        Membership { configuration, is_pending: false, retiring: Vec::new(), is_removed: false }
    }

    /// Whether another change may begin.
    pub fn is_settled(&self) -> bool {
        !self.is_pending && self.retiring.is_empty() && self.configuration.learners.is_empty()
    }
}

/// What is or was wrong with a node's log, beyond what an interrupted write explains. The node heals by itself what its
/// peers can give it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Places found to be damaged, when the node started and since.
    pub found: u64,
    /// Bodies fetched from peers and written again since the start.
    pub healed: u64,
    /// Chosen bodies whose bytes are lost here and not yet healed.
    pub lost: u64,
    /// The first of them.
    pub lost_first: Option<Slot>,
    /// Ranges of slots for which this node abstains from promises, because damage may hide what it accepted.
    pub doubts: u64,
    /// Whether damage may hide a promise: the node doesn't vote at all until every other member has told it theirs.
    pub unsure: bool,
    /// How often everything stored was read again since the start.
    pub scrub_passes: u64,
}

/// How long a node took to start, and what of its log it read for that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Startup {
    /// Segments of the log that were read back.
    pub segments: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// How long it took to read them back and to find out what they say.
    pub recovery: Duration,
    /// From the call of [`crate::Node::start`] until the log was open for records, so that the node could vote; none
    /// before. A node that is unsure of its promise ([`Damage::unsure`]) doesn't vote yet.
    pub ready: Option<Duration>,
}

/// What a shard has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Submissions proposed.
    pub submissions: u64,
    /// Commands in them.
    pub commands: u64,
    /// Bodies composed of them.
    pub bodies: u64,
    /// Bodies delivered, whoever proposed them.
    pub delivered: u64,
    /// Submissions proposed again because another body was chosen in their place.
    pub retries: u64,
    /// Submissions reported as unknown.
    pub unknown: u64,
    /// Messages handed to links.
    pub sends: u64,
    /// Messages dropped because their link was down or full.
    pub drops: u64,
    /// Messages received.
    pub receives: u64,
    /// Trims proposed to keep the log within its bounds.
    pub trims: u64,
    /// Those of them, beyond the hard limit, that left members behind.
    pub trims_past: u64,
    /// Connections refused or ended because of what came over them.
    pub refusals: u64,
}

/// How appends go through this node: what waits in it now, and how long things took since it started. See
/// [`crate::Log::flow`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flow {
    /// Submissions that wait to be proposed.
    pub waiting: u64,
    /// Peers, and bytes that wait to be sent to each.
    pub outgoing_bytes: Vec<(NodeId, u64)>,
    /// Submissions that were delivered.
    pub delivered: u64,
    /// How long those took from their call to their answer, all together.
    pub delivered_for: Duration,
    /// Bodies that were made of submissions.
    pub composed: u64,
    /// How long that took, from taking the submissions to proposing the body, all together.
    pub composed_for: Duration,
}
