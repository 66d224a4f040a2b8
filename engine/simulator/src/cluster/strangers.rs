//! Stores that aren't what they were: who hears whom, what becomes of a node that is found out, and how one whose disk was
//! lost comes back.

use synod_frame::HelloRefusal;
use synod_protocol::{Ballot, Message, NodeId, RejectReason};
use synod_wal::{Hearing, Output};

use crate::disk::{Data, Ending};
use crate::invariants::Property;
use crate::network::{Packet, node_id};
use crate::node::{DirectoryCopy, Finish, GROUP, Node, SimulatedBuffers};
use crate::plant::Plant;

use super::Cluster;

type Buffer = <SimulatedBuffers as synod_wal::Buffers>::Buffer;

impl Cluster {
    /// How much a packet's receiver hears of it: all if its sender has introduced itself, or does so now, and was let in.
    pub(super) fn hears(&mut self, packet: &Packet) -> Option<Hearing> {
        let Some(speaker) = packet.speaker else { return Some(Hearing::Full) };
        let (from, to) = (packet.from, packet.to);
        let judges_nobody =
            [Plant::RollsBack, Plant::WelcomesStrangers, Plant::WipedDisk, Plant::RebuildsDamaged].map(Some);
        if judges_nobody.contains(&self.options.plant) {
            return Some(Hearing::Full);
        }
        let hearing = self.nodes[to].links.hears(from, node_id(from), &speaker);
        if let Some(hearing) = hearing {
            if hearing == Hearing::News {
                self.stats.coverage.note("heard news of a store that isn't named");
            }
            return Some(hearing);
        }
        // An introduction takes both.
        if self.nodes[from].speaker() != speaker {
            return None;
        }
        let (hello, answer) = (self.nodes[from].hello(node_id(to))?, self.nodes[to].hello(node_id(from))?);
        let mut judged = self.nodes[to].links.judge(&hello);
        if self.options.plant == Some(Plant::WelcomesTwins) && matches!(judged, Err(HelloRefusal::Twin { .. })) {
            judged = Ok(());
        }
        if let Err(why) = judged {
            self.turn_away(from, to, why);
            return None;
        }
        // What the other side is goes by its own introduction; whoever asked it just leaves.
        if self.nodes[from].links.judge(&answer).is_err() && self.options.plant.is_none() {
            return None;
        }
        self.nodes[to].links.welcome(from, speaker, hello.configuration);
        self.nodes[to].links.hears(from, node_id(from), &speaker)
    }

    /// A node is refused, and told why.
    fn turn_away(&mut self, index: usize, by: usize, why: HelloRefusal) {
        let now = self.now();
        self.trace.note(now, "turn away", &[index as u64, by as u64], || {
            format!("{} by {}: {why}", node_id(index), node_id(by))
        });
        match why {
            HelloRefusal::RolledBack { .. } | HelloRefusal::Twin { .. } => {
                self.stats.coverage.note(match why {
                    HelloRefusal::Twin { .. } => "found out a twin",
                    _ => "found out an old copy",
                });
                if !self.nodes[index].amnesic && self.options.plant.is_none() {
                    let (node, by) = (node_id(index), node_id(by));
                    let detail = format!("{by} refuses {node}, whose directory nobody has touched: {why}");
                    return self.invariants.report(Property::CleanStop, detail);
                }
                // Its process ends, and tells why.
                self.crash(index, Ending::Kill);
                self.nodes[index].stranger = Some(why);
            }
            HelloRefusal::Incarnation { .. } => self.stats.coverage.note("refused a store that isn't named"),
            HelloRefusal::UnknownNode { configuration } => {
                self.stats.coverage.note("refused a node that isn't named");
                let reason = RejectReason::WrongConfiguration { slot: configuration, chosen_at: configuration };
                let timer = self.timer(index);
                if self.nodes[index].paused_until.is_none()
                    && let Some(running) = &mut self.nodes[index].running
                {
                    let told = Message::Reject { ballot: Ballot::ZERO, reason };
                    running.replica.handle_message(timer, node_id(by), told, None);
                    self.drain(index);
                }
            }
            _ => {}
        }
    }

    /// Carries out what a node asks for that runs on an old copy of its directory: no checker looks on, for whoever hears
    /// anything of it violates a property.
    pub(super) fn carry_out_unseen(&mut self, index: usize, output: Output<Buffer>) {
        match output {
            Output::Send { to, message, body } => {
                let to = to.0 as usize - 1;
                self.dispatch(Packet::encode(index, to, GROUP, &message, body), &message);
            }
            Output::WriteFrame { write, file, offset, buffer } => {
                let node = &mut self.nodes[index];
                node.durability.write_record(file, offset, (*buffer).as_ref());
                let operation = node.disk.begin_write(file, offset, Data::Record(buffer));
                self.begin(index, operation, Finish::Written(write));
            }
            Output::WriteBytes { write, file, offset, bytes } => {
                let node = &mut self.nodes[index];
                node.durability.write_bytes(file, offset, &bytes);
                let operation = node.disk.begin_write(file, offset, Data::Bytes(std::rc::Rc::new(bytes)));
                self.begin(index, operation, Finish::Written(write));
            }
            Output::Sync { sync, file } => {
                let operation = self.nodes[index].disk.begin_sync(file);
                self.begin(index, operation, Finish::Synced(sync));
            }
            Output::CreateFile { file } => {
                let operation = self.nodes[index].disk.begin_create(file, self.plan.log.segment_bytes);
                self.begin(index, operation, Finish::FileReady(file));
            }
            Output::ZeroFile { file, offset, bytes } => {
                let operation = self.nodes[index].disk.begin_zero(file, offset..offset + bytes);
                self.begin(index, operation, Finish::FileReady(file));
            }
            Output::Read { read, file, offset, bytes } => {
                let operation = self.nodes[index].disk.begin_read(file, offset, bytes);
                self.begin(index, operation, Finish::Read(read));
            }
            Output::Deliver { mark, .. } => {
                if let Some(running) = &mut self.nodes[index].running {
                    running.delivered = mark;
                }
            }
            _ => {}
        }
    }

    /// Whether every member that may ever be asked for a vote remembers that this copy was in a later state, and the node
    /// itself is no quorum.
    pub(super) fn is_known_to_be_old(&self, index: usize, copy: &DirectoryCopy) -> bool {
        let newest = self.invariants.rulings().newest();
        let boot = Node::next_boot_of(copy);
        let incarnation = self.nodes[index].speaker().incarnation;
        let mut others = newest.members.iter().filter(|member| **member != node_id(index)).peekable();
        let alone =
            others.peek().is_none() || newest.prepare_quorum == 1 || self.plan.configuration.prepare_quorum == 1;
        let remembers = |member: &NodeId| self.nodes[member.0 as usize - 1].links.remembers(incarnation, boot);
        !alone && others.all(remembers) && self.is_membership_settled()
    }

    /// Whether the cluster can spare what is on a node's disk.
    pub(super) fn can_renew(&self, index: usize) -> bool {
        let newest = self.invariants.rulings().newest();
        let named = newest.nodes().any(|node| node == node_id(index));
        let settled = self.any_leader().is_some() && self.is_membership_settled() && newest.learners.is_empty();
        settled && (!named || self.lost_members() < newest.tolerance())
    }

    /// How many members of the newest configuration have lost the store that it names.
    pub(super) fn lost_members(&self) -> usize {
        let rulings = self.invariants.rulings();
        let is_lost = |node: &&NodeId| {
            let member = &self.nodes[node.0 as usize - 1];
            rulings.newest_store_of(**node).is_some_and(|store| store != member.speaker().incarnation)
        };
        rulings.newest().members.iter().filter(is_lost).count()
    }

    /// The disk of a node that is down is lost; somebody makes its directory anew.
    pub(super) fn renew(&mut self, index: usize) {
        let now = self.now();
        self.trace.note(now, "renew", &[index as u64], || node_id(index).to_string());
        self.stats.coverage.note("lost a disk");
        self.nodes[index].renew(self.plan.log.sync);
        self.invariants.renewed(index);
    }

    /// Who was made anew and is named no more joins by what another node knows, as `synod join` does.
    pub(super) fn rejoin(&mut self) {
        for index in 0..self.nodes.len() {
            if self.nodes[index].awaits_join {
                self.join(index);
            }
        }
    }

    /// Lets a node with a new store join, if whoever leads doesn't count on another store of it; whether it does.
    pub(super) fn join(&mut self, index: usize) -> bool {
        let Some(leader) = self.any_leader().filter(|leader| *leader != index) else { return false };
        let Some(running) = &self.nodes[leader].running else { return false };
        let Some(newest) = running.replica.configuration_body() else { return false };
        let Some(stored) = running.replica.configuration_bodies().next_back().cloned() else { return false };
        let own = self.nodes[index].speaker().incarnation;
        let counts_on_another = newest.incarnation_of(node_id(index)).is_some_and(|named| named != own);
        if counts_on_another && self.options.plant != Some(Plant::WelcomesStrangers) {
            return false;
        }
        self.stats.coverage.note("joined with a new store");
        self.nodes[index].join(&self.plan, stored);
        let life = self.nodes[index].life;
        self.start(index, life);
        true
    }

    /// Members whose stores are lost, for somebody to let go, and learners that never come.
    pub(super) fn lost_nodes(&self) -> Vec<NodeId> {
        let rulings = self.invariants.rulings();
        let is_lost = |node: &NodeId| {
            let store = self.nodes[node.0 as usize - 1].speaker().incarnation;
            rulings.newest_store_of(*node).is_some_and(|named| named != store)
        };
        rulings.newest().nodes().filter(is_lost).collect()
    }
}
