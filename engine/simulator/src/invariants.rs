//! The properties that every run is held against: one file each, named after the property, with its number in the list
//! of invariants. Checkers look at what leaves a node (messages, writes, deliveries, answers) and at what its disk
//! holds, and know nothing of what the code believes.

mod accepted_is_reported;
mod acked_durability;
mod agreement;
mod alpha_window;
mod append_order;
mod chain_equal;
mod chosen_by_quorum;
mod deliveries;
mod fencing;
mod identity;
mod linearizable_reads;
mod log_time;
mod no_amnesic_vote;
mod one_leader_per_ballot;
mod one_value_per_ballot;
mod outcome_honesty;
mod persist_before_speak;
mod prefix_without_gaps;
mod promise_monotonic;
mod quorum_intersection;
mod readable;
mod snapshot_equal;
mod tail_reads;
mod trim_safety;
mod validity;

use std::fmt;
use std::str::FromStr;

use synod_frame::Member;
use synod_protocol::delivery::Answer;
use synod_protocol::{Ballot, BodyHandle, BodyId, BodyKind, Configuration, Mark, Message, Slot};
use synod_wal::{RecordKind, RecoveredLog};

use crate::durability::{Durability, Record};
use crate::links::Speaker;
use crate::oracle::{CommandId, Oracle};
use crate::rulings::Rulings;

use accepted_is_reported::AcceptedIsReported;
use chain_equal::ChainEqual;
use chosen_by_quorum::ChosenByQuorum;
use deliveries::Deliveries;
use fencing::Fencing;
use identity::Identity;
use log_time::LogTime;
use no_amnesic_vote::NoAmnesicVote;
use one_leader_per_ballot::OneLeaderPerBallot;
use one_value_per_ballot::OneValuePerBallot;
use prefix_without_gaps::PrefixWithoutGaps;
use promise_monotonic::PromiseMonotonic;
use quorum_intersection::QuorumIntersection;
use trim_safety::TrimSafety;

macro_rules! properties {
    ($($property:ident $name:literal $number:literal,)*) => {
        /// What a run can violate.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "each is described by its checker")]
        pub enum Property {
            $($property,)*
        }

        impl Property {
            /// All of them.
            pub const ALL: &[Property] = &[$(Property::$property,)*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Property::$property => $name,)*
                }
            }

            /// Its number in the list of invariants.
            pub fn number(self) -> &'static str {
                match self {
                    $(Property::$property => $number,)*
                }
            }
        }
    };
}

properties! {
    Agreement "agreement" "I1",
    ChosenByQuorum "chosen-by-quorum" "I2",
    Validity "validity" "I3",
    OneValuePerBallot "one-value-per-ballot" "I4",
    OneLeaderPerBallot "one-leader-per-ballot" "I5",
    PromiseMonotonic "promise-monotonic" "I6",
    PersistBeforeSpeak "persist-before-speak" "I7",
    AcceptedIsReported "accepted-is-reported" "I8",
    PrefixWithoutGaps "prefix-without-gaps" "I9",
    ChainEqual "chain-equal" "I10",
    AckedDurability "acked-durability" "I11",
    AppendOrder "append-order" "I12",
    LinearizableReads "linearizable-reads" "I13",
    LogTime "log-time" "time",
    ExactlyOnce "exactly-once" "I14",
    TicketFencing "ticket-fencing" "tickets",
    DeliveryEqual "delivery-equal" "delivery",
    OutcomeHonesty "outcome-honesty" "I15",
    TrimSafety "trim-safety" "I16",
    SnapshotEqual "snapshot-equal" "I17",
    AlphaWindow "alpha-window" "I18",
    QuorumIntersection "quorum-intersection" "I19",
    Identity "identity" "I20",
    NoAmnesicVote "no-amnesic-vote" "I21",
    Fencing "fencing" "I22",
    TailReads "tail-reads" "I23",
    NoPanic "no-panic" "I25",
    Liveness "liveness" "I26",
    Stability "stability" "I27",
    Determinism "determinism" "I30",
    Readable "readable" "formats",
    Recovers "recovers" "L1",
    CleanStop "clean-stop" "stop",
    NoHalt "no-halt" "halt",
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.number())
    }
}

impl FromStr for Property {
    type Err = String;

    fn from_str(name: &str) -> Result<Property, String> {
        let found = Property::ALL.iter().find(|property| property.name() == name || property.number() == name);
        found.copied().ok_or_else(|| {
            let names: Vec<&str> = Property::ALL.iter().map(|property| property.name()).collect();
            format!("no such property; there are {}", names.join(", "))
        })
    }
}

/// A property that doesn't hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The property.
    pub property: Property,
    /// What was seen.
    pub detail: String,
}

impl Violation {
    /// A violation of `property`.
    pub fn new(property: Property, detail: String) -> Violation {
        Violation { property, detail }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.property, self.detail)
    }
}

/// What a checker says.
pub type Verdict = Result<(), Violation>;

/// All checkers of a run. They go on after a violation; the first one is kept.
#[derive(Debug)]
pub struct Invariants {
    /// If given, violations of other properties are ignored: to see that one checker fires by itself.
    only: Option<Property>,
    violation: Option<Violation>,
    chosen_by_quorum: ChosenByQuorum,
    one_value_per_ballot: OneValuePerBallot,
    one_leader_per_ballot: OneLeaderPerBallot,
    promise_monotonic: PromiseMonotonic,
    accepted_is_reported: AcceptedIsReported,
    prefix_without_gaps: PrefixWithoutGaps,
    chain_equal: ChainEqual,
    trim_safety: TrimSafety,
    quorum_intersection: QuorumIntersection,
    no_amnesic_vote: NoAmnesicVote,
    identity: Identity,
    fencing: Fencing,
    log_time: LogTime,
    deliveries: Deliveries,
    alpha: u32,
    rulings: Rulings,
    /// The highest slot that each node has called stable.
    stable: Vec<Slot>,
}

impl Invariants {
    /// Checkers for a run that begins under this configuration, which names these stores.
    pub fn new(genesis: Configuration, first: Vec<Member>, nodes: usize, only: Option<Property>) -> Invariants {
        Invariants {
            quorum_intersection: QuorumIntersection::default(),
            no_amnesic_vote: NoAmnesicVote::default(),
            identity: Identity::default(),
            fencing: Fencing::new(nodes),
            log_time: LogTime::new(nodes),
            deliveries: Deliveries::default(),
            alpha: genesis.alpha,
            rulings: Rulings::new(genesis, first),
            only,
            violation: None,
            chosen_by_quorum: ChosenByQuorum::default(),
            one_value_per_ballot: OneValuePerBallot::default(),
            one_leader_per_ballot: OneLeaderPerBallot::default(),
            promise_monotonic: PromiseMonotonic::new(nodes),
            accepted_is_reported: AcceptedIsReported::new(nodes),
            prefix_without_gaps: PrefixWithoutGaps::new(nodes),
            chain_equal: ChainEqual::new(nodes),
            trim_safety: TrimSafety::new(nodes),
            stable: vec![Slot::FIRST; nodes],
        }
    }

    /// Which configuration rules which slot.
    pub fn rulings(&self) -> &Rulings {
        &self.rulings
    }

    /// The same, to tell them what is written and chosen.
    pub fn rulings_mut(&mut self) -> &mut Rulings {
        &mut self.rulings
    }

    /// The first violation, if there was one.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Takes a verdict.
    pub fn judge(&mut self, verdict: Verdict) {
        if let Err(violation) = verdict
            && self.violation.is_none()
            && self.only.is_none_or(|only| only == violation.property)
        {
            self.violation = Some(violation);
        }
    }

    /// Takes a violation that a run found by itself.
    pub fn report(&mut self, property: Property, detail: String) {
        self.judge(Err(Violation::new(property, detail)));
    }

    /// A node writes a record.
    pub fn record_written(&mut self, node: usize, record: &Record) {
        let verdict = self.promise_monotonic.check_written(node, record);
        self.judge(verdict);
        if let Some(body) = record.body.filter(|_| record.meta.kind == RecordKind::Accepted) {
            let verdict = self.one_value_per_ballot.note(record.meta.ballot, &body);
            self.judge(verdict);
        }
    }

    /// A node whose build reads formats up to `format_max` writes these bytes of a body.
    pub fn body_written(&mut self, node: usize, format_max: u16, bytes: &[u8]) {
        self.judge(readable::check_written(node, format_max, bytes));
    }

    /// A node whose build reads formats up to `format_max` writes anything to a log of this format.
    pub fn log_written(&mut self, node: usize, format_max: u16, log_format: u16) {
        self.judge(readable::check_log(node, format_max, log_format));
    }

    /// A node whose build reads formats up to `format_max` is sent these bytes of a body, or nothing.
    pub fn body_sent(&mut self, to: usize, format_max: u16, bytes: &[u8]) {
        self.judge(readable::check_sent(to, format_max, bytes));
    }

    /// A node's accept became durable.
    pub fn accept_durable(&mut self, node: usize, id: BodyId, ballot: Ballot, oracle: &Oracle) {
        self.accepted_is_reported.note_durable(node, id, ballot, oracle);
        self.chosen_by_quorum.note_accepted(node, id, ballot);
    }

    /// A node's copy of a chosen body became durable.
    pub fn copy_durable(&mut self, node: usize, id: BodyId, oracle: &Oracle) {
        self.accepted_is_reported.note_copied(node, id, oracle);
    }

    /// A node sends a message. `unbacked` is what of it isn't durable, see [`Invariants::unbacked_claim`].
    pub fn sent(&mut self, node: usize, life: u32, message: &Message, unbacked: Option<String>, oracle: &Oracle) {
        if let Some(lacking) = unbacked {
            self.judge(Err(persist_before_speak::violation(node, message, &lacking)));
        }
        if let Message::Accept { ballot, body, .. } = message {
            let verdict = self.one_value_per_ballot.note(*ballot, body);
            self.judge(verdict);
        }
        if let Message::HeartbeatReply { stable, .. } = message {
            self.stable[node] = self.stable[node].max(*stable);
        }
        for verdict in [
            self.one_leader_per_ballot.check_sent(node, life, message),
            self.promise_monotonic.check_sent(node, message),
            self.accepted_is_reported.check_sent(node, message, oracle),
            self.chain_equal.check_sent(node, message),
            alpha_window::check_sent(node, message, self.alpha, &self.rulings),
            self.quorum_intersection.check_sent(node, message, &self.rulings),
            self.fencing.check_sent(node, life, message),
        ] {
            self.judge(verdict);
        }
    }

    /// A node, which has delivered everything below `delivered`, hears what a process says for another node.
    pub fn heard(&mut self, (node, delivered): (usize, Slot), from: (usize, &Speaker), message: &Message) {
        for verdict in [
            self.identity.check_heard((node, delivered), from, message, &self.rulings),
            self.no_amnesic_vote.check_heard(node, from, message),
        ] {
            self.judge(verdict);
        }
    }

    /// A process begins on a log that lacks something.
    pub fn begins(&mut self, node: usize, speaker: Speaker, forgotten: Option<String>) {
        self.no_amnesic_vote.start(node, speaker, forgotten);
    }

    /// A node's directory was made anew: what its old store claimed is nothing to the new one.
    pub fn renewed(&mut self, node: usize) {
        self.promise_monotonic.renew(node);
        self.accepted_is_reported.renew(node);
        self.log_time.renew(node);
        self.stable[node] = Slot::FIRST;
    }

    /// What a message claims of its sender's log that isn't durable, in words.
    pub fn unbacked_claim(&self, node: usize, message: &Message, held: &Durability, oracle: &Oracle) -> Option<String> {
        persist_before_speak::unbacked_claim(message, self.stable[node], held, oracle)
    }

    /// Whether a message claims anything of its sender's log.
    pub fn is_claim(message: &Message) -> bool {
        persist_before_speak::is_claim(message)
    }

    /// What recovery makes of a node's disk: after a crash, or as it would be if power failed now.
    pub fn recovered(&mut self, node: usize, held: &Durability, recovered: &RecoveredLog, oracle: &Oracle) {
        self.trim_safety.note_base(node, recovered.index.base().slot);
        for verdict in self.check_recovered(node, held, recovered, oracle) {
            self.judge(verdict);
        }
    }

    fn check_recovered(
        &self,
        node: usize,
        held: &Durability,
        recovered: &RecoveredLog,
        oracle: &Oracle,
    ) -> [Verdict; 4] {
        let spoken = self.promise_monotonic.spoken(node);
        [
            persist_before_speak::check_recovered(node, spoken, recovered),
            persist_before_speak::check_stable(node, self.stable[node], recovered, oracle),
            self.accepted_is_reported.check_recovered(node, recovered, oracle),
            acked_durability::check_recovered(node, held, recovered, oracle),
        ]
    }

    /// What a node once claimed and this log doesn't have, in words; none if it has everything.
    pub fn forgotten(
        &self,
        node: usize,
        held: &Durability,
        recovered: &RecoveredLog,
        oracle: &Oracle,
    ) -> Option<String> {
        let verdicts = self.check_recovered(node, held, recovered, oracle);
        verdicts.into_iter().find_map(Result::err).map(|violation| violation.detail)
    }

    /// A node opens a damaged log, and may be unsure of its promise.
    pub fn opened_damaged(&mut self, node: usize, unsure: bool) {
        self.accepted_is_reported.note_damaged(node);
        if unsure {
            self.promise_monotonic.note_unsure(node);
        }
    }

    /// A write or a sync of a node failed.
    pub fn failed(&mut self, node: usize, life: u32) {
        self.fencing.note_failed(node, life);
    }

    /// A node starts on the directory of `owner`.
    pub fn opened(&mut self, node: usize, owner: usize) {
        self.judge(identity::check_started(node, owner));
    }

    /// A node starts with this log. What of it is marked as chosen counts as delivered by it: it may have crashed right
    /// before it told anybody.
    pub fn started(&mut self, node: usize, recovered: &RecoveredLog, oracle: &mut Oracle) {
        for entry in recovered.index.iter_from(recovered.index.base().slot) {
            let (body, Some(chain)) = (entry.body, entry.chosen) else { break };
            self.judge(agreement::check_delivery(oracle, node, &body));
            let verdict = self.chosen_by_quorum.check_delivery(node, &body, &self.rulings);
            self.judge(verdict);
            self.rulings.note_chosen(&body);
            self.note_chosen(node, &body, Mark { slot: body.end(), chain }, oracle);
        }
        self.prefix_without_gaps.start(node, recovered.mark);
        let verdict = self.chain_equal.start(node, recovered.mark);
        self.judge(verdict);
    }

    fn note_chosen(&mut self, node: usize, body: &BodyHandle, mark: Mark, oracle: &mut Oracle) {
        oracle.note_chosen(node, *body, mark);
        if let BodyKind::Trim { upto } = body.kind {
            oracle.note_trimmed(upto.min(mark.slot));
        }
    }

    /// A node delivers a body.
    pub fn delivered(&mut self, node: usize, body: &BodyHandle, mark: Mark, oracle: &mut Oracle) {
        for verdict in [
            agreement::check_delivery(oracle, node, body),
            self.chosen_by_quorum.check_delivery(node, body, &self.rulings),
            self.prefix_without_gaps.check_delivery(node, body, mark),
            self.chain_equal.check_delivery(node, body, mark),
        ] {
            self.judge(verdict);
        }
        let ruling = self.rulings.at(body.first);
        if let Some(nodes) = self.chosen_by_quorum.quorum_of(body.id, ruling) {
            let verdict = self.quorum_intersection.note_chosen(nodes, ruling);
            self.judge(verdict);
        }
        self.note_chosen(node, body, mark, oracle);
    }

    /// A node begins its log at `base`, and had delivered everything below `before`.
    pub fn installed(&mut self, node: usize, before: Slot, base: Mark, oracle: &Oracle) {
        self.judge(snapshot_equal::check(node, before, base, oracle));
        self.trim_safety.note_base(node, base.slot);
        self.prefix_without_gaps.start(node, base);
        let verdict = self.chain_equal.start(node, base);
        self.judge(verdict);
    }

    /// A node gives out the bytes of a chosen body.
    pub fn gave_bytes(&mut self, node: usize, body: &BodyHandle, bytes: &[u8], oracle: &mut Oracle) {
        if let Ok(header) = synod_frame::BodyHeader::parse(bytes) {
            let verdict = self.log_time.check_bytes(oracle, node, &header);
            self.judge(verdict);
            self.judge(readable::check_ruling(node, &header, &self.rulings));
        }
        let verdict = validity::check_bytes(oracle, node, body, bytes);
        self.judge(verdict);
    }

    /// A leader makes a new body of this time.
    pub fn makes_body(&mut self, node: usize, time_us: u64) {
        let verdict = self.log_time.check_new(node, time_us);
        self.judge(verdict);
    }

    /// A node has judged a body; `state` is its delivery state right behind it, as bytes, if nothing more is judged yet.
    pub fn judged(&mut self, node: usize, body: &BodyHandle, answers: &[Answer], state: Option<&[u8]>) {
        let verdict = self.deliveries.check(node, body, answers, state);
        self.judge(verdict);
    }

    /// A barrier of `node` is reached at a slot; everything below `needed` was delivered somewhere when it began.
    pub fn read_at_barrier(&mut self, node: usize, needed: Slot, reached: Slot, delivered: Slot) {
        self.judge(linearizable_reads::check(node, needed, reached, delivered));
    }

    /// A reader of `slot` gets a body.
    pub fn read(&mut self, node: usize, slot: Slot, body: &BodyHandle, oracle: &Oracle) {
        self.judge(tail_reads::check_answer(node, slot, body, oracle));
    }

    /// Somebody is told the mark of a slot.
    pub fn told_mark(&mut self, node: usize, mark: Mark) {
        let verdict = self.chain_equal.check_told(node, mark);
        self.judge(verdict);
    }

    /// A reader of `slot` is told that it is trimmed.
    pub fn read_trimmed(&mut self, node: usize, slot: Slot, first: Slot) {
        let verdict = self.trim_safety.check_answer(node, slot, first);
        self.judge(verdict);
    }

    /// A reader of a slot that must be there gets nothing.
    pub fn read_nothing(&mut self, node: usize, slot: Slot) {
        self.judge(Err(tail_reads::nothing(node, slot)));
    }

    /// A client is told by a node where its command is.
    pub fn acked(&mut self, node: usize, life: u32, id: CommandId, slot: Slot, oracle: &mut Oracle) {
        self.judge(self.fencing.check_told(node, life));
        self.judge(append_order::check_ack(oracle, id, slot));
        oracle.ack(id, slot);
    }

    /// The run is over, every node has caught up, and this is what its disk durably holds.
    pub fn held_at_end(&mut self, node: usize, recovered: &RecoveredLog, oracle: &Oracle) {
        self.judge(acked_durability::check_held_at_end(node, recovered, oracle));
    }

    /// The run is over. If it `stopped` because too much was damaged, not everything could be read any more.
    pub fn ended(&mut self, stopped: bool, oracle: &mut Oracle) {
        for verdict in self.deliveries.check_at_end(oracle) {
            self.judge(verdict);
        }
        self.judge(acked_durability::check_at_end(stopped, oracle));
        self.judge(outcome_honesty::check_at_end(oracle));
        if !stopped {
            self.judge(self.trim_safety.check_at_end(oracle));
        }
    }
}
