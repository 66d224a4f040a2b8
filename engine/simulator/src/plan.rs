//! What a seed decides before anything happens: the cluster, its settings, its clients and its faults.

use std::time::Duration;

use synod_protocol::delivery::DeliveryLimits;
use synod_protocol::{Configuration, Settings};
use synod_wal::{Geometry, LogSettings, LoggedSettings, SyncMode};

use crate::faults::Faults;
use crate::faults::disk_damage::DiskDamage;
use crate::faults::membership::MembershipChanges;
use crate::faults::operators::OperatorFaults;
use crate::faults::upgrades::Upgrades;
use crate::network::node_id;
use crate::random::{Chance, Random};
use crate::workload::WorkloadPlan;

/// Files that a log may have unless full disks are drawn, or faults have stopped: never as many as a run fills.
pub const POOL_FILES_MAX: u32 = 10_000;

/// The plan of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The members, and how far proposals may run ahead.
    pub configuration: Configuration,
    /// Settings of the protocol, the same on every node.
    pub protocol: Settings,
    /// Bounds of what nodes keep in memory.
    pub logged: LoggedSettings,
    /// Settings of the log.
    pub log: LogSettings,
    /// How long faults go on.
    pub faulty_time: Duration,
    /// What goes wrong meanwhile.
    pub faults: Faults,
    /// What clients do.
    pub workload: WorkloadPlan,
    /// Reads that are never stale, and moves of the leadership.
    pub reads: ReadsPlan,
    /// Each time a node claims something, this is the chance that its disk is recovered as if power failed right then.
    pub inspect: Chance,
}

/// How often clients want a barrier, and operators another leader, each time that a client acts.
#[derive(Clone, Copy, Debug)]
pub struct ReadsPlan {
    /// Somebody begins a barrier.
    pub barrier: Chance,
    /// A leader is asked to hand over.
    pub transfer: Chance,
}

impl ReadsPlan {
    /// Nobody does.
    pub const NONE: ReadsPlan = ReadsPlan { barrier: Chance::NEVER, transfer: Chance::NEVER };

    fn draw(random: &mut Random) -> ReadsPlan {
        ReadsPlan {
            barrier: random.pick(&[Chance::NEVER, Chance::of(1, 10), Chance::of(1, 2)]),
            transfer: random.pick(&[Chance::NEVER, Chance::NEVER, Chance::of(1, 200), Chance::of(1, 30)]),
        }
    }
}

impl Plan {
    /// Draws the plan of a seed; `nodes` overrules the number of nodes drawn.
    pub fn draw(seed: u64, nodes: Option<usize>) -> Plan {
        let mut random = Random::stream(seed, "plan");
        let random = &mut random;
        let drawn = random.pick(&[1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 5, 5]);
        let members = (0..nodes.unwrap_or(drawn)).map(node_id).collect();
        let alpha = random.pick(&[2, 3, 8, 16, 64, 1024, Configuration::ALPHA_DEFAULT]);
        let configuration = Configuration::genesis(members, alpha).expect("drawn within bounds");
        let log = draw_log(random);
        let geometry = Geometry::new(log.segment_bytes).expect("drawn from valid sizes");
        let election_timeout = Duration::from_millis(random.pick(&[30, 100, 300, 600, 600, 1000, 2000]));
        let faulty_time = election_timeout * random.within(15..=50) as u32;
        let workload = WorkloadPlan::draw(random, alpha, geometry, faulty_time);
        let mut plan = Plan {
            protocol: draw_protocol(random, election_timeout, workload.record_bytes_max),
            logged: LoggedSettings {
                cache_bytes: random.pick(&[0, 16 << 10, 256 << 10, 16 << 20]),
                backlog_bytes: random.pick(&[1, 64 << 10, 16 << 20]),
                scrub_bytes_per_second: Random::stream(seed, "scrub").pick(&[0, 0, 64 << 10, 1 << 20]),
                delivery: draw_delivery(&mut Random::stream(seed, "sessions"), election_timeout),
            },
            configuration,
            log,
            faulty_time,
            faults: Faults::draw(random, election_timeout),
            workload,
            reads: ReadsPlan::draw(&mut Random::stream(seed, "reads")),
            inspect: Chance::of(1, 150),
        };
        // Mostly so few that what is old is read back from the disk again and again.
        plan.log.index_bodies_max = Random::stream(seed, "paging").pick(&[4, 4, 8, 16, 64, 64 << 10]);
        plan.draw_quorums(&mut Random::stream(seed, "quorums"));
        if nodes.is_none() {
            plan.faults.membership = MembershipChanges::draw(&mut Random::stream(seed, "membership"), election_timeout);
        }
        plan.faults.upgrades = Upgrades::draw(&mut Random::stream(seed, "upgrades"), election_timeout);
        plan.protocol.raises_format = plan.faults.upgrades.by_itself;
        plan.workload.trim_past =
            Random::stream(seed, "trim past").pick(&[Chance::NEVER, Chance::of(1, 60), Chance::of(1, 15)]);
        let (nodes, needed) = (plan.nodes(), plan.needed());
        plan.faults.draw_hard(seed, election_timeout, nodes, needed);
        if plan.faults.membership.every.is_some() {
            plan.faults.draw_strangers(seed, election_timeout);
        }
        if let Some(files_max) = plan.faults.damage.files_max {
            plan.log.pool_files_max = files_max;
        }
        plan
    }

    /// The same plan with majority quorums, sound disks, one build, careful operators and steady clocks.
    #[must_use]
    pub fn mild(seed: u64, nodes: Option<usize>) -> Plan {
        let mut plan = Plan::draw(seed, nodes);
        let majority = plan.configuration.members.len() as u32 / 2 + 1;
        (plan.configuration.prepare_quorum, plan.configuration.accept_quorum) = (majority, majority);
        plan.faults.make_mild();
        plan.protocol.raises_format = false;
        plan.log.pool_files_max = POOL_FILES_MAX;
        plan
    }

    /// Which nodes may be damaged follows from who is a member: where the membership changes, disks and operators do right.
    pub fn spare_changes(&mut self) {
        if self.faults.membership.every.is_some() {
            self.faults.damage = DiskDamage::none();
            self.faults.operators = OperatorFaults::none();
        }
    }

    /// Draws quorums of different sizes.
    fn draw_quorums(&mut self, random: &mut Random) {
        let nodes = self.configuration.members.len() as u64;
        if nodes == 1 || !random.chance(Chance::of(1, 4)) {
            return;
        }
        let accept = random.within(1..=nodes);
        // Most are as small as they may be; a few meet in more nodes than they must.
        let least = nodes + 1 - accept;
        let prepare = if random.chance(Chance::of(1, 4)) { random.within(least..=nodes) } else { least };
        let configuration = &mut self.configuration;
        (configuration.prepare_quorum, configuration.accept_quorum) = (prepare as u32, accept as u32);
        configuration.check().expect("drawn to intersect");
    }

    /// How many nodes can do everything without the others.
    pub fn needed(&self) -> usize {
        self.configuration.prepare_quorum.max(self.configuration.accept_quorum) as usize
    }

    /// How many nodes there are, members or not.
    pub fn nodes(&self) -> usize {
        self.configuration.members.len() + self.faults.membership.spare
    }

    /// How long a cluster may take to deliver a new command everywhere once nothing goes wrong any more.
    pub fn patience(&self) -> Duration {
        // Somebody may have to find out that it lost its quorum, somebody else to canvass and be refused a few times.
        self.protocol.election_timeout * 10 + self.protocol.retransmit_interval * 20 + Duration::from_secs(1)
    }
}

/// Clients of a third of the runs use sessions. There isn't always room for all of them.
fn draw_delivery(random: &mut Random, election_timeout: Duration) -> Option<DeliveryLimits> {
    let pace_us = election_timeout.as_micros() as u64;
    random.chance(Chance::of(1, 3)).then(|| DeliveryLimits {
        sessions_max: random.pick(&[1, 2, 4, 8]),
        results_max: random.pick(&[1, 4, 16]),
        session_idle_us: random.pick(&[pace_us * 3, u64::MAX, u64::MAX]),
    })
}

fn draw_log(random: &mut Random) -> LogSettings {
    let pool_free_min = random.within(1..=3) as u32;
    LogSettings {
        segment_bytes: random.pick(&[64 << 10, 64 << 10, 64 << 10, 128 << 10, 512 << 10]),
        sync: random.pick(&[SyncMode::Dsync, SyncMode::Fdatasync]),
        pool_free_min,
        pool_spares: 0,
        pool_files_max: POOL_FILES_MAX,
        ..LogSettings::default()
    }
}

fn draw_protocol(random: &mut Random, election_timeout: Duration, record_bytes_max: usize) -> Settings {
    let pace = election_timeout.as_micros() as u64;
    let window_bytes = random.pick(&[1, 64 << 10, 16 << 20]);
    let heartbeat_interval = election_timeout / random.pick(&[3, 6, 10]);
    let retransmit_us = random.spread(pace / 20..=pace);
    let settings = Settings {
        heartbeat_interval,
        // Every other plan tells at once; no draw of its own, or all plans after it would be others.
        news_delay: heartbeat_interval / 16 * (retransmit_us % 2) as u32,
        election_timeout,
        retransmit_interval: Duration::from_micros(retransmit_us),
        fetch_delay: Duration::from_micros(random.spread(pace / 100..=pace / 4)),
        window_bodies: random.pick(&[1, 2, 4, 16, 64]),
        window_bytes,
        // One body must always fit, or a peer would never be sent any.
        peer_bytes: window_bytes + random.pick(&[1, 2, 100]) * record_bytes_max as u64,
        fetch_bytes: random.pick(&[1, 8 << 10, 256 << 10, 8 << 20]),
        ..Settings::default()
    };
    settings.check().expect("drawn to fit together");
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_valid_and_differ() {
        let plans: Vec<String> = (0..100).map(|seed| format!("{:?}", Plan::draw(seed, None))).collect();
        assert_eq!(plans[7], format!("{:?}", Plan::draw(7, None)));
        assert_ne!(plans[7], plans[8]);
        assert_eq!(Plan::draw(7, Some(2)).nodes(), 2);
    }
}
