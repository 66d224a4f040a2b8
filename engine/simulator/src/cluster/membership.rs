//! Changes of the membership as they are asked for, and who has a part in the log.

use synod_protocol::{BodyHandle, Change, FORMAT_FIRST, NodeId, Role, Slot};

use crate::network::node_id;
use crate::node::Node;
use crate::random::Chance;

use super::{Cluster, Event};

impl Cluster {
    pub(super) fn schedule_change(&mut self) {
        if let Some(wait) = self.plan.faults.membership.draw_wait(&mut self.member_random) {
            self.schedule.after(wait, Event::Change);
        }
    }

    /// Somebody asks a node that leads, or not, for another membership.
    pub(super) fn change_membership(&mut self) {
        let nodes = self.nodes.len();
        let index = self.any_leader().unwrap_or_else(|| self.member_random.index(nodes));
        let (now, timer) = (self.now(), self.timer(index));
        self.rejoin();
        let lost = self.lost_nodes().first().copied();
        let newcomers: Vec<_> = self.nodes.iter().map(Node::as_member).collect();
        if let Some(running) = &mut self.nodes[index].running {
            let members = running.replica.status().protocol.configuration.members;
            let workload = &self.plan.workload;
            let may_force = workload.trim == Chance::NEVER && workload.trim_past == Chance::NEVER;
            let membership = &self.plan.faults.membership;
            let change = membership.draw_change(&mut self.member_random, &members, nodes, may_force);
            let change = match lost {
                // Whoever has lost its store is let go, and comes in with its new one.
                Some(node) if members.contains(&node) => Change::Replace { add: Vec::new(), remove: vec![node] },
                Some(_) => Change::Cancel,
                None => change,
            };
            let proposed = running.replica.reconfigure(timer, change.clone(), &newcomers);
            self.stats.coverage.note(match &proposed {
                Ok(_) => "proposed a change of the membership",
                Err(_) => "refused a change of the membership",
            });
            self.trace.note(now, "change", &[index as u64, u64::from(proposed.is_ok())], || match &proposed {
                Ok(slot) => format!("{} proposes {change:?} at slot {slot}", node_id(index)),
                Err(error) => format!("{} refuses {change:?}: {error}", node_id(index)),
            });
            self.drain(index);
        }
        self.schedule_change();
    }

    /// A learner whose store is lost never catches up: somebody sends it away.
    pub(super) fn give_lost_learners_up(&mut self) {
        let lost = self.lost_nodes();
        if self.invariants.rulings().newest().learners.iter().any(|learner| lost.contains(learner))
            && let Some(leader) = self.any_leader()
        {
            // There may be another change under way.
            let _ = self.change_members_at(leader, Change::Cancel);
        }
    }

    /// Asks a node for another membership.
    ///
    /// # Errors
    /// If the node is down or refuses, in words.
    pub fn change_members_at(&mut self, index: usize, change: Change) -> Result<Slot, String> {
        let timer = self.timer(index);
        let newcomers: Vec<_> = self.nodes.iter().map(Node::as_member).collect();
        let running = self.nodes[index].running.as_mut().ok_or("it is down")?;
        let proposed = running.replica.reconfigure(timer, change, &newcomers).map_err(|error| error.to_string());
        self.drain(index);
        proposed
    }

    /// Who rules, unless a change is under way.
    pub fn members(&self) -> Option<Vec<NodeId>> {
        let newest = self.invariants.rulings().newest();
        let knows = |node: &Node| node.status().is_some_and(|status| status.configuration.members == newest.members);
        let is_settled = self.is_membership_settled() && newest.learners.is_empty();
        (is_settled && self.any_leader().is_some_and(|leader| knows(&self.nodes[leader])))
            .then(|| newest.members.clone())
    }

    /// Takes note of what is chosen.
    pub(super) fn note_rule(&mut self, body: &BodyHandle) {
        let before = self.invariants.rulings().changes();
        self.invariants.rulings_mut().note_chosen(body);
        if self.invariants.rulings().changes() > before {
            self.stats.coverage.note("chose a configuration");
            if self.invariants.rulings().newest().format > FORMAT_FIRST {
                self.stats.coverage.note("chose a newer format");
            }
        }
    }

    /// How many members can do everything without the others.
    pub(super) fn needed(&self) -> usize {
        let newest = self.invariants.rulings().newest();
        newest.members.len() - newest.tolerance()
    }

    /// Whether a node is a member or a learner by now.
    pub(super) fn has_part(&self, node: &Node) -> bool {
        self.invariants.rulings().newest_store_of(node_id(node.index)) == Some(node.speaker().incarnation)
    }

    /// Whether the membership changes in this run.
    pub(super) fn is_changing(&self) -> bool {
        self.plan.faults.membership.every.is_some()
    }

    /// Whether no change is under way any more, as far as whoever leads knows.
    pub(super) fn is_membership_settled(&self) -> bool {
        let leads = |node: &&Node| node.status().is_some_and(|status| status.role == Role::Leader);
        let settled = |node: &Node| {
            node.status().is_some_and(|status| {
                let configuration = &status.configuration;
                status.pending.is_none()
                    && status.retiring.is_empty()
                    && configuration.learners.is_empty()
                    && configuration.is_member(node_id(node.index))
            })
        };
        self.nodes.iter().filter(leads).all(settled)
    }
}
