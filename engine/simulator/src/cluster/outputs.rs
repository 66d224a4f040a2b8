//! Carrying out what a node asks for, with the checkers looking on.

use std::rc::Rc;

use synod_frame::{BLOCK_BYTES, EMPTY_BODY, Origin, RECORD_HEADER_BYTES, RecordBuffer, encode_noop};
use synod_protocol::{Ballot, BodyHandle, BodyKind, Mark, Message, NodeId, Slot};
use synod_wal::{Frame, Hearing, MarkAnswer, Output, ReadAnswer, ReadId};

use crate::disk::{Data, Ending};
use crate::invariants::{Invariants, Property};
use crate::network::{Packet, node_id, undefined_buffer};
use crate::node::{Finish, GROUP, Reader};
use crate::plant::Plant;
use crate::random::Chance;
use crate::story;

use super::{Cluster, Event};

/// Planted bugs that need some history wait for this slot.
const PLANTED_FROM: Slot = Slot(20);

impl Cluster {
    /// Carries out everything that a node asks for, unless it crashes on the way.
    pub(super) fn drain(&mut self, index: usize) {
        loop {
            let Some(running) = &mut self.nodes[index].running else { return };
            let Some(output) = running.replica.poll_output() else {
                if self.propose(index) {
                    continue;
                }
                break;
            };
            if let Some((left, ending)) = &mut running.crash_in {
                if *left == 0 {
                    let ending = *ending;
                    return self.crash(index, ending);
                }
                *left -= 1;
            }
            if self.nodes[index].amnesic {
                self.carry_out_unseen(index, output);
            } else {
                self.carry_out(index, output);
            }
        }
        self.nodes[index].keep_links();
        self.schedule_wake(index);
    }

    fn carry_out(&mut self, index: usize, output: Output<RecordBuffer>) {
        if matches!(output, Output::WriteFrame { .. } | Output::WriteBytes { .. }) {
            let node = &self.nodes[index];
            let log_format = node.running.as_ref().map_or(0, |running| running.replica.wal().format());
            self.invariants.log_written(index, node.format_max, log_format);
        }
        match output {
            Output::Send { to, message, body } => self.send(index, to, message, body),
            Output::WriteFrame { write, file, offset, buffer } => {
                let bytes = (*buffer).as_ref();
                if !self.nodes[index].durability.is_verified() {
                    // Later a record of the same body at a higher ballot may hide one that was recovered.
                    self.verify_disk(index);
                }
                let record = self.nodes[index].durability.write_record(file, offset, bytes);
                if let Some(body) = &record.body {
                    let body_bytes = &bytes[RECORD_HEADER_BYTES..][..body.bytes as usize];
                    self.invariants.body_written(index, self.nodes[index].format_max, body_bytes);
                }
                if let Some(body) = &record.body {
                    self.invariants.rulings_mut().note_written(body, bytes);
                }
                if let Some(body) = record.body
                    && self.oracle.note_body(body)
                {
                    self.stats.coverage.note("wrote a rival body");
                }
                self.invariants.record_written(index, &record);
                self.stats.coverage.note_written(record.meta.kind);
                let now = self.now();
                self.trace.note(now, "write", &[index as u64, u64::from(file.0), offset, bytes.len() as u64], || {
                    format!("{} {} ({file} {offset})", node_id(index), story::record(&record))
                });
                self.stats.writes += 1;
                let lost = self.options.plant == Some(Plant::LosesWrite) && self.stats.writes.is_multiple_of(100);
                let data = if lost { Data::Zeros(bytes.len()) } else { Data::Record(buffer) };
                let operation = self.nodes[index].disk.begin_write(file, offset, data);
                self.begin(index, operation, Finish::Written(write));
            }
            Output::WriteBytes { write, file, offset, bytes } => {
                let now = self.now();
                self.trace.note(now, "write", &[index as u64, u64::from(file.0), offset, bytes.len() as u64], || {
                    format!("{} {} bytes at {file} {offset}", node_id(index), bytes.len())
                });
                self.stats.writes += 1;
                let node = &mut self.nodes[index];
                node.durability.write_bytes(file, offset, &bytes);
                if offset > 0 {
                    self.stats.coverage.note("wrote a seal");
                }
                let operation = node.disk.begin_write(file, offset, Data::Bytes(Rc::new(bytes)));
                self.begin(index, operation, Finish::Written(write));
            }
            Output::Sync { sync, file } => {
                self.stats.syncs += 1;
                let operation = self.nodes[index].disk.begin_sync(file);
                self.begin(index, operation, Finish::Synced(sync));
            }
            Output::CreateFile { file } => {
                self.stats.coverage.note("created a file");
                let operation = self.nodes[index].disk.begin_create(file, self.plan.log.segment_bytes);
                self.begin(index, operation, Finish::FileReady(file));
            }
            Output::ZeroFile { file, offset, bytes } => {
                self.stats.coverage.note("zeroed a file");
                let operation = self.nodes[index].disk.begin_zero(file, offset..offset + bytes);
                self.begin(index, operation, Finish::FileReady(file));
            }
            Output::Read { read, file, offset, bytes } => {
                self.stats.coverage.note("read a record back");
                let operation = self.nodes[index].disk.begin_read(file, offset, bytes);
                self.begin(index, operation, Finish::Read(read));
            }
            Output::ReadDone { read, frame } => self.read_done(index, read, frame),
            Output::MarkDone { read, mark } => self.mark_done(index, read, mark),
            Output::Deliver { body, mark, frame } => self.deliver(index, body, mark, frame),
            Output::Judged { body, answers } => self.judged(index, &body, answers),
            Output::Damaged { body, file, offset } => self.found_damage(index, body, file, offset),
            Output::Installed { base, from } => self.installed(index, base, from),
            Output::Healed { body, from } => self.healed(index, body, from),
            Output::Barrier { id, outcome } => self.barrier_ended(index, id, outcome),
            Output::TransferEnded { target, outcome } => self.transfer_ended(index, target, outcome),
            Output::Halt(reason) => {
                self.invariants.report(Property::NoHalt, format!("{} halts: {reason}", node_id(index)));
            }
        }
    }

    pub(super) fn begin(&mut self, index: usize, operation: crate::disk::OperationId, finish: Finish) {
        let latency = self.disks.draw_latency(&mut self.disk_random, index, self.nodes.len());
        let life = self.nodes[index].life;
        self.schedule.after(latency, Event::Disk { node: index, life, operation, finish });
    }

    fn send(&mut self, index: usize, to: NodeId, mut message: Message, body: Option<Frame<RecordBuffer>>) {
        let to = to.0 as usize - 1;
        if !self.is_connected(index, to) {
            return;
        }
        if self.plan.faults.upgrades.is_on() {
            let bytes = match (&body, &message) {
                (Some(frame), _) => frame.body(),
                (None, Message::Base { configuration, .. }) => configuration,
                _ => &[],
            };
            self.invariants.body_sent(to, self.nodes[to].format_max, bytes);
        }
        if let Some(plant) = self.options.plant {
            plant.alter_sent(&mut message);
            if self.plant_in_sending(plant, index, to, &message) {
                return;
            }
        }
        self.check_sent(index, &message);
        self.dispatch(Packet::encode(index, to, GROUP, &message, body), &message);
    }

    fn check_sent(&mut self, index: usize, message: &Message) {
        let is_claim = Invariants::is_claim(message);
        let mut unbacked = None;
        if is_claim {
            unbacked = self.unbacked_claim(index, message);
            if unbacked.is_some() && !self.nodes[index].durability.is_verified() {
                self.verify_disk(index);
                unbacked = self.unbacked_claim(index, message);
            }
            // What a scarred disk holds can't be told by recovering it again: it may no longer let itself be recovered.
            unbacked = unbacked.filter(|_| !self.nodes[index].scarred && !self.nodes[index].marred);
        }
        self.stats.coverage.note_sent(message);
        self.note_leader(index, message);
        // A leader whose log is full hands over, calm or not.
        self.handed_over |= matches!(message, Message::HandOver { .. });
        if let Message::Prepare { ballot, .. } = message
            && self.is_calm()
            && !self.handed_over
            // Whoever leads asks new members for the promise of its ballot.
            && !self.led.contains(ballot)
            // Members of old that nobody has told yet may elect each other: it disturbs nobody who is needed.
            && self.invariants.rulings().newest().nodes().any(|node| node == node_id(index))
        {
            let detail = format!("{} prepares {ballot} although all is well and another leads", node_id(index));
            self.invariants.report(Property::Stability, detail);
        }
        let life = self.nodes[index].life;
        self.invariants.sent(index, life, message, unbacked, &self.oracle);
        if is_claim && self.inspect_random.chance(self.plan.inspect) {
            self.inspect_disk(index);
        }
    }

    fn unbacked_claim(&self, index: usize, message: &Message) -> Option<String> {
        self.invariants.unbacked_claim(index, message, &self.nodes[index].durability, &self.oracle)
    }

    pub(super) fn dispatch(&mut self, mut packet: Packet, message: &Message) {
        let now = self.now();
        packet.speaker = Some(self.nodes[packet.from].speaker());
        let (from, to) = (packet.from, packet.to);
        self.trace.note(now, "send", &[from as u64, to as u64, packet.fingerprint()], || {
            format!("{} -> {} {}", node_id(from), node_id(to), story::message(message))
        });
        if !self.losing.is_empty() && self.is_to_be_lost(from, to, message) {
            return self
                .trace
                .tell(now, "lose", || format!("{} -> {} {}", node_id(from), node_id(to), story::message(message)));
        }
        let mut arrivals = Vec::with_capacity(2);
        let cut_off = self.network.cut().blocks(from, to);
        self.network.send(now, packet, &mut arrivals);
        if arrivals.is_empty() {
            self.trace.tell(now, if cut_off { "cut off" } else { "lost" }, || {
                format!("{} -> {} {}", node_id(from), node_id(to), story::message(message))
            });
        }
        for (at, packet) in arrivals {
            self.schedule.at(at, Event::Arrive(packet));
        }
    }

    /// Whether a planted bug keeps the message from being sent as it is.
    fn plant_in_sending(&mut self, plant: Plant, index: usize, to: usize, message: &Message) -> bool {
        match (plant, message) {
            (Plant::NeverServes, Message::Chosen { .. }) => true,
            (Plant::SkimpsPhaseOne, Message::Prepare { ballot, from: asked }) => {
                let vote = empty_promise(*ballot, *asked);
                let now = self.now();
                self.schedule.at(now, Event::Arrive(Rc::new(Packet::encode(to, index, GROUP, &vote, None))));
                true
            }
            (Plant::FallsSilent, Message::Heartbeat { .. }) => self.is_calm(),
            (Plant::CountsUnsentVotes, Message::Accept { ballot, body, .. }) => {
                let vote = Message::Accepted { ballot: *ballot, first: body.first, id: body.id };
                let now = self.now();
                self.schedule.at(now, Event::Arrive(Rc::new(Packet::encode(to, index, GROUP, &vote, None))));
                false
            }
            (Plant::TwoValues, Message::Accept { ballot, body, mark }) if to + 1 == self.nodes.len() => {
                let mut record = undefined_buffer(BLOCK_BYTES);
                let origin = Origin { group: GROUP, first: body.first, ballot: *ballot, leader_time_us: 1 };
                let other = encode_noop(record.as_mut(), &origin, body.count).expect("the slots are valid");
                let bytes = &record.as_ref()[RECORD_HEADER_BYTES..][..other.bytes as usize];
                let message = Message::Accept { ballot: *ballot, body: other, mark: *mark };
                self.check_sent(index, &message);
                self.dispatch(Packet::forge(index, to, GROUP, &message, bytes), &message);
                true
            }
            _ => false,
        }
    }

    /// Hands a packet to its receiver.
    pub(super) fn receive(&mut self, packet: &Packet) {
        let (index, now) = (packet.to, self.now());
        let Some(hearing) = self.hears(packet) else {
            return self.trace.tell(now, "unheard", || format!("{} by {}", node_id(packet.from), node_id(index)));
        };
        let timer = self.timer(index);
        let (mut message, body) = packet.decode(undefined_buffer);
        if hearing == Hearing::News && message.is_vote() {
            return self
                .trace
                .tell(now, "unheard", || format!("a vote of {} by {}", node_id(packet.from), node_id(index)));
        }
        self.trace.note(now, "receive", &[packet.from as u64, index as u64, packet.fingerprint()], || {
            format!("{} <- {} {}", node_id(index), node_id(packet.from), story::message(&message))
        });
        if let Some(plant) = self.options.plant {
            plant.alter_received(&mut message);
            self.plant_in_receiving(plant, packet.from, index, &message);
        }
        if let Some(speaker) = packet.speaker {
            let node = &self.nodes[index];
            let delivered = node.running.as_ref().map_or(Slot(0), |running| running.delivered.slot);
            self.invariants.heard((index, delivered.max(node.joined)), (packet.from, &speaker), &message);
            if let Message::HeartbeatReply { stable, .. } = message {
                self.nodes[index].links.has_shown(node_id(packet.from), stable);
            }
        }
        if let Some(running) = &mut self.nodes[index].running {
            running.replica.handle_message(timer, node_id(packet.from), message, body);
        }
    }

    fn plant_in_receiving(&mut self, plant: Plant, from: usize, index: usize, message: &Message) {
        match (plant, message) {
            (Plant::AnswersEarly, Message::Accept { ballot, body, .. }) => {
                let answer = Message::Accepted { ballot: *ballot, first: body.first, id: body.id };
                self.send(index, node_id(from), answer, None);
            }
            (Plant::ClonedVoter, Message::Prepare { ballot, from: asked }) => {
                let vote = empty_promise(*ballot, *asked);
                self.send(index, node_id(from), vote, None);
            }
            (Plant::SpeaksForAnother, Message::Heartbeat { .. }) => {
                let others = (0..self.nodes.len()).filter(|other| *other != index);
                for other in others.collect::<Vec<_>>() {
                    self.send(index, node_id(other), message.clone(), None);
                }
            }
            _ => {}
        }
    }

    fn deliver(&mut self, index: usize, mut body: BodyHandle, mut mark: Mark, frame: Option<Frame<RecordBuffer>>) {
        let now = self.now();
        self.trace.note(now, "deliver", &[index as u64, body.first.0, body.id.0 as u64, mark.chain.0 as u64], || {
            format!("{} {}", node_id(index), story::body(&body))
        });
        self.stats.bodies_delivered += 1;
        if let Some(running) = &mut self.nodes[index].running {
            running.delivered = mark;
        }
        let planted = self.options.plant.filter(|_| index == 0 && body.first >= PLANTED_FROM);
        match planted {
            Some(Plant::DeliversAnother) => body.id = Plant::other_id(body.id),
            Some(Plant::SkipsDelivery) if body.first.0.is_multiple_of(3) => return,
            Some(Plant::WrongChain) => mark.chain.0 ^= 1,
            Some(Plant::Panics) => panic!("planted"),
            _ => {}
        }
        match body.kind {
            BodyKind::NoOp => self.stats.coverage.note("delivered a no-op"),
            BodyKind::Trim { .. } if body.bytes > EMPTY_BODY.body_bytes => {
                self.stats.coverage.note("delivered a trim with a delivery state");
            }
            BodyKind::Trim { .. } => self.stats.coverage.note("delivered a trim"),
            BodyKind::Session => self.stats.coverage.note("delivered a session command"),
            BodyKind::Ticket => self.stats.coverage.note("delivered a ticket command"),
            BodyKind::Commands | BodyKind::Configuration { .. } => {}
        }
        self.invariants.delivered(index, &body, mark, &mut self.oracle);
        self.note_rule(&body);
        match frame {
            Some(frame) if planted == Some(Plant::FlipsBit) => {
                let mut bytes = frame.body().to_vec();
                *bytes.last_mut().expect("bodies have headers") ^= 1;
                self.invariants.gave_bytes(index, &body, &bytes, &mut self.oracle);
            }
            Some(frame) => self.invariants.gave_bytes(index, &body, frame.body(), &mut self.oracle),
            None => {
                self.stats.coverage.note("delivered without bytes");
                self.read(index, body.first, Reader::Delivery);
            }
        }
        self.ack(index, &body);
    }

    /// A node begins its log where that of a peer begins.
    fn installed(&mut self, index: usize, base: Mark, from: NodeId) {
        let now = self.now();
        self.trace.note(now, "install", &[index as u64, base.slot.0, base.chain.0 as u64], || {
            format!("{} begins at {} as {from} does", node_id(index), base.slot)
        });
        self.stats.installs += 1;
        self.stats.coverage.note("installed a base");
        let Some(running) = &mut self.nodes[index].running else { return };
        let before = std::mem::replace(&mut running.delivered, base);
        running.installed = Some(running.replica.wal().appended());
        self.invariants.installed(index, before.slot, base, &self.oracle);
        if let Some((_, left)) = self.interrupted.as_mut().filter(|(node, left)| *node == index && *left > 0) {
            *left -= 1;
            return self.crash(index, Ending::PowerFailure);
        }
        if self.options.plant == Some(Plant::InstallsUnsynced)
            && let Some(ballot) = self.nodes[index].status().and_then(|status| status.leader)
        {
            let claim = Message::HeartbeatReply { ballot, mark: base, stable: base.slot, beat: 1, full: false };
            self.send(index, ballot.node, claim, None);
        }
    }

    /// A reader asks a node for a slot.
    pub(super) fn read(&mut self, index: usize, slot: Slot, reader: Reader) {
        if self.nodes[index].amnesic {
            return;
        }
        let Some(running) = &mut self.nodes[index].running else { return };
        let must_be_there = slot < running.delivered.slot;
        match running.replica.read(slot) {
            ReadAnswer::Frame(frame) => self.read_answered(index, slot, reader, &frame),
            ReadAnswer::Pending(read) => {
                running.readers.insert(read, (slot, reader));
            }
            ReadAnswer::NotYet if must_be_there => self.invariants.read_nothing(index, slot),
            ReadAnswer::NotYet => self.stats.coverage.note("answered a reader: not yet"),
            ReadAnswer::Trimmed { first } => {
                self.stats.coverage.note("answered a reader: trimmed");
                self.invariants.read_trimmed(index, slot, first);
            }
            ReadAnswer::Fenced => {
                let fenced = running.replica.status().fenced;
                assert!(fenced, "a node that nothing failed for answers readers");
                self.stats.coverage.note("answered a reader: fenced");
            }
        }
    }

    fn read_done(&mut self, index: usize, read: ReadId, frame: Option<Frame<RecordBuffer>>) {
        let Some(running) = &mut self.nodes[index].running else { return };
        let Some((slot, reader)) = running.readers.remove(&read) else { return };
        let base = running.replica.wal().index().base().slot;
        match frame {
            Some(frame) => self.read_answered(index, slot, reader, &frame),
            // It was trimmed while it was being read.
            None if slot < base => {}
            None if !self.reads_all(index) => self.stats.coverage.note("answered a reader: damaged"),
            None => self.invariants.read_nothing(index, slot),
        }
    }

    /// Somebody asks a node for the mark at a slot where a body begins.
    pub(super) fn ask_mark(&mut self, index: usize, slot: Slot) {
        let Some(running) = &mut self.nodes[index].running else { return };
        match running.replica.mark_at(slot) {
            MarkAnswer::Known(mark) => self.mark_told(index, slot, mark),
            MarkAnswer::Pending(read) => drop(running.marks.insert(read, slot)),
        }
    }

    fn mark_done(&mut self, index: usize, read: ReadId, mark: Option<Mark>) {
        let Some(running) = &mut self.nodes[index].running else { return };
        let Some(slot) = running.marks.remove(&read) else { return };
        self.mark_told(index, slot, mark);
    }

    fn mark_told(&mut self, index: usize, slot: Slot, mark: Option<Mark>) {
        let Some(running) = &self.nodes[index].running else { return };
        let is_kept = slot >= running.replica.wal().index().base().slot && slot <= running.delivered.slot;
        match mark {
            Some(mark) => self.invariants.told_mark(index, mark),
            None if is_kept && self.reads_all(index) => self.invariants.read_nothing(index, slot),
            None => {}
        }
    }

    fn read_answered(&mut self, index: usize, slot: Slot, reader: Reader, frame: &Frame<RecordBuffer>) {
        self.stats.reads += 1;
        let body = frame.handle();
        match (self.options.plant, reader) {
            (Some(Plant::CallsTrimmed), Reader::Client(_)) => {
                self.invariants.read_trimmed(index, slot, self.oracle.chosen_end());
            }
            (Some(Plant::ReadsBeside), Reader::Client(_)) if slot.0 > u64::from(body.count) => {
                self.invariants.read(index, Slot(slot.0 - u64::from(body.count)), body, &self.oracle);
            }
            _ => self.invariants.read(index, slot, body, &self.oracle),
        }
        self.invariants.gave_bytes(index, body, frame.body(), &mut self.oracle);
    }

    /// Looks up what of a restarted node's log is durable by now. What the medium has done to it is left aside: this is
    /// about what the log asked to be kept.
    fn verify_disk(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        // Without what the medium has done to a marred disk, another log might be read from it.
        let image = if node.marred { node.disk.seen() } else { node.disk.durable() };
        match node.recover(&image, &self.plan) {
            Ok(recovered) => {
                for (id, ballot) in node.durability.verify(&recovered) {
                    self.invariants.accept_durable(index, id, ballot, &self.oracle);
                }
            }
            Err(_) if self.nodes[index].scarred || self.nodes[index].marred => {}
            Err(error) => self
                .invariants
                .report(Property::Recovers, format!("{} could not start if power failed now: {error}", node_id(index))),
        }
    }

    /// Recovers a copy of a node's disk as a power failure at this moment might leave it.
    fn inspect_disk(&mut self, index: usize) {
        let node = &self.nodes[index];
        if node.marred {
            // Without what the medium has done to it, another log might be read; with that, the end may be gone unnoticed.
            return;
        }
        self.stats.inspections += 1;
        let recovered = if self.inspect_random.chance(Chance::of(1, 2)) {
            node.recover(&node.disk.durable(), &self.plan)
        } else {
            let image = node.disk.after_power_failure(&mut self.inspect_random);
            node.recover(&image, &self.plan)
        };
        match recovered {
            Ok(recovered) => self.invariants.recovered(index, &node.durability, &recovered, &self.oracle),
            Err(_) if self.nodes[index].scarred || self.nodes[index].marred => {}
            Err(error) => self
                .invariants
                .report(Property::Recovers, format!("{} could not start if power failed now: {error}", node_id(index))),
        }
    }
}

/// The promise of an acceptor that has accepted nothing: what planted bugs say for others.
fn empty_promise(ballot: Ballot, from: Slot) -> Message {
    Message::Promise { ballot, from, mark: Mark::START, part: 0, parts: 1, accepted: Vec::new(), doubts: Vec::new() }
}
