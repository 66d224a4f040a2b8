//! A simulated network: packets of exact bytes, each on its own way, and links that can be cut one direction at a time.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use synod_frame::{
    BLOCK_BYTES, BODY_HEADER_BYTES, BodyLayout, ENVELOPE_BYTES, Envelope, GroupId, RECORD_HEADER_BYTES, RecordBuffer,
    decode_message, encode_message, verify_body_in_record, zero_padding,
};
use synod_protocol::{Ballot, Instant, Message, NodeId, RejectReason, Slot};
use synod_wal::Frame;

use crate::faults::messages::MessageFaults;
use crate::faults::partitions::Cut;
use crate::links::Speaker;
use crate::random::{Chance, Random};

/// Packets kept to be delivered again much later.
const PACKETS_REMEMBERED: usize = 256;

/// How often an old packet comes again while all is well.
const CALM_REPLAYS: Chance = Chance::of(1, 5);

/// One message as it travels.
#[derive(Debug)]
pub struct Packet {
    /// The sender, as an index of nodes.
    pub from: usize,
    /// The receiver, as an index of nodes.
    pub to: usize,
    /// The process that sent it; none if it is forged.
    pub speaker: Option<Speaker>,
    /// Which leaders it may depose, repeated late, and rightly so.
    deposes: Deposes,
    envelope: [u8; ENVELOPE_BYTES],
    payload: Payload,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deposes {
    Nobody,
    /// It asks for a promise.
    Anybody,
    /// It tells this one of a higher promise.
    Leader(Ballot),
}

impl Deposes {
    fn of(message: &Message) -> Deposes {
        match message {
            Message::Prepare { .. } => Deposes::Anybody,
            Message::Reject { ballot, reason: RejectReason::HigherBallot { .. } } => Deposes::Leader(*ballot),
            _ => Deposes::Nobody,
        }
    }
}

#[derive(Debug)]
enum Payload {
    Bytes(Vec<u8>),
    /// Bodies are shared on the way, for nobody changes them, and copied by the receiver.
    Body(Frame<RecordBuffer>),
}

impl Payload {
    fn bytes(&self) -> &[u8] {
        match self {
            Payload::Bytes(bytes) => bytes,
            Payload::Body(frame) => frame.body(),
        }
    }
}

impl Packet {
    /// Lays a message out.
    ///
    /// # Panics
    /// If the message names a body that isn't given, or another one: a bug of the sender.
    pub fn encode(
        from: usize,
        to: usize,
        group: GroupId,
        message: &Message,
        body: Option<Frame<RecordBuffer>>,
    ) -> Packet {
        assert_eq!(message.body(), body.as_ref().map(Frame::handle), "a message travels with its own body");
        let (envelope, archive) = encode_message(group, node_id(from), node_id(to), Slot(0), message);
        let deposes = Deposes::of(message);
        Packet {
            from,
            to,
            speaker: None,
            deposes,
            envelope,
            payload: body.map_or(Payload::Bytes(archive), Payload::Body),
        }
    }

    /// Lays a message out with a body that nobody keeps: for planted bugs.
    pub fn forge(from: usize, to: usize, group: GroupId, message: &Message, body: &[u8]) -> Packet {
        let (envelope, _) = encode_message(group, node_id(from), node_id(to), Slot(0), message);
        Packet { from, to, speaker: None, deposes: Deposes::Nobody, envelope, payload: Payload::Bytes(body.to_vec()) }
    }

    /// Reads the message back from the bytes, and the body into a buffer from `allocate`, all as a receiver must.
    ///
    /// # Panics
    /// If the bytes aren't such a message: nothing damages them here, so encoding or decoding is wrong.
    pub fn decode(&self, allocate: impl FnOnce(usize) -> RecordBuffer) -> (Message, Option<RecordBuffer>) {
        let payload = self.payload.bytes();
        let envelope = Envelope::decode(&self.envelope).expect("an undamaged envelope decodes");
        assert_eq!(envelope.payload_bytes as usize, payload.len(), "the envelope knows its payload");
        if !envelope.kind.carries_body() {
            return (decode_message(&envelope, payload, None).expect("an undamaged message decodes"), None);
        }
        let layout = BodyLayout::peek(&payload[..BODY_HEADER_BYTES]).expect("an undamaged body has lengths");
        let mut record = allocate(layout.record_bytes());
        record.as_mut()[RECORD_HEADER_BYTES..][..payload.len()].copy_from_slice(payload);
        zero_padding(record.as_mut(), &layout);
        let header = verify_body_in_record(record.as_ref()).expect("an undamaged body verifies");
        let message = decode_message(&envelope, &[], Some(&header.handle())).expect("an undamaged message decodes");
        (message, Some(record))
    }

    /// A number that differs between packets of other content, for the trace.
    pub fn fingerprint(&self) -> u64 {
        let checksum = self.envelope[ENVELOPE_BYTES - 4..].try_into().expect("four bytes");
        u64::from(u32::from_le_bytes(checksum)) << 32 | self.payload.bytes().len() as u64
    }
}

/// The name of the node with this index: nodes count from one.
pub fn node_id(index: usize) -> NodeId {
    NodeId(index as u32 + 1)
}

/// What became of the packets of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStats {
    /// Packets that were sent.
    pub sent: u64,
    /// Packets that arrived, copies included.
    pub arrived: u64,
    /// Packets lost on the way.
    pub lost: u64,
    /// Packets lost because their link was cut.
    pub cut: u64,
    /// Packets that were delivered twice.
    pub duplicated: u64,
    /// Packets that were delivered again after a long time.
    pub replayed: u64,
}

/// See the module documentation.
pub struct Network {
    faults: MessageFaults,
    random: Random,
    cut: Cut,
    /// When the last packet of a link arrives, by sender and receiver: nothing overtakes it where order is kept.
    last_arrival: Vec<Vec<Instant>>,
    remembered: VecDeque<Rc<Packet>>,
    /// What has happened so far.
    pub stats: NetworkStats,
}

impl Network {
    /// A network of `nodes` nodes.
    pub fn new(nodes: usize, faults: MessageFaults, random: Random) -> Network {
        Network {
            faults,
            random,
            cut: Cut::Nothing,
            last_arrival: vec![vec![Instant(0); nodes]; nodes],
            remembered: VecDeque::new(),
            stats: NetworkStats::default(),
        }
    }

    /// Cuts these links and mends all others.
    pub fn set_cut(&mut self, cut: Cut) {
        self.cut = cut;
    }

    /// The links that are cut.
    pub fn cut(&self) -> Cut {
        self.cut
    }

    /// From now on nothing is lost, late or repeated, unless its link is cut. What is on its way arrives by `latest`.
    pub fn heal(&mut self, latest: Instant) {
        self.faults = self.faults.healed();
        self.last_arrival.iter_mut().flatten().for_each(|last| *last = latest.min(*last));
    }

    /// From now on nothing goes wrong but that old packets come again, except those that may depose the leader.
    pub fn calm(&mut self, leader: Option<Ballot>) {
        self.faults.replay = CALM_REPLAYS;
        self.remembered.retain(|packet| match packet.deposes {
            Deposes::Nobody => true,
            Deposes::Anybody => false,
            Deposes::Leader(ballot) => Some(ballot) != leader,
        });
    }

    /// Sends a packet: appends when it arrives, if it does, and what else arrives because of it.
    pub fn send(&mut self, now: Instant, packet: Packet, arrivals: &mut Vec<(Instant, Rc<Packet>)>) {
        self.stats.sent += 1;
        let packet = Rc::new(packet);
        if self.random.chance(self.faults.replay)
            && let Some(old) = self.remembered.get(self.random.index(self.remembered.len().max(1))).cloned()
        {
            self.stats.replayed += 1;
            arrivals.push((now.plus(self.faults.draw_delay(&mut self.random)), old));
        }
        if self.faults.replays() {
            if self.remembered.len() == PACKETS_REMEMBERED {
                let place = self.random.index(PACKETS_REMEMBERED);
                self.remembered.swap_remove_back(place);
            }
            self.remembered.push_back(Rc::clone(&packet));
        }
        if self.cut.blocks(packet.from, packet.to) {
            self.stats.cut += 1;
            return;
        }
        if self.random.chance(self.faults.loss) {
            self.stats.lost += 1;
            return;
        }
        if self.random.chance(self.faults.duplication) {
            self.stats.duplicated += 1;
            arrivals.push((self.arrival(now, &packet), Rc::clone(&packet)));
        }
        arrivals.push((self.arrival(now, &packet), packet));
    }

    fn arrival(&mut self, now: Instant, packet: &Packet) -> Instant {
        let mut delay = self.faults.draw_delay(&mut self.random);
        // A byte takes a nanosecond and more: large bodies come later than small messages sent behind them.
        delay += Duration::from_nanos(4 * packet.payload.bytes().len() as u64);
        let arrival = now.plus(delay);
        if !self.faults.in_order {
            return arrival;
        }
        let last = &mut self.last_arrival[packet.from][packet.to];
        *last = arrival.max(*last);
        *last
    }

    /// Whether a packet that has reached its receiver's end of the link gets through.
    pub fn arrives(&mut self, packet: &Packet) -> bool {
        let blocked = self.faults.cut_in_flight && self.cut.blocks(packet.from, packet.to);
        let outcome = if blocked { &mut self.stats.cut } else { &mut self.stats.arrived };
        *outcome += 1;
        !blocked
    }
}

/// A buffer full of what nobody may rely on.
pub fn undefined_buffer(bytes: usize) -> RecordBuffer {
    debug_assert!(bytes.is_multiple_of(BLOCK_BYTES));
    let mut buffer = RecordBuffer::zeroed(bytes);
    buffer.as_mut().fill(0xa5);
    buffer
}
