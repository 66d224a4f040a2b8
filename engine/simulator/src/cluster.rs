//! A cluster in one thread: the event loop that drives every node, and the state around the nodes.
//!
//! A run has two phases. In the first everything goes wrong that the plan has drawn, and only safety is asked for. Then
//! faults stop, for everybody or for a quorum while the others stay broken for ever, and the cluster must come together,
//! or the harness proves that too much was damaged.

mod clients;
mod convergence;
mod damage;
mod faults;
mod membership;
mod operators;
mod outputs;
mod reads;
mod sessions;
mod stage;
mod strangers;
mod upgrades;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use synod_protocol::{Ballot, Instant};

use crate::disk::{Completion, OperationId};
use crate::faults::partitions::Partition;
use crate::faults::slow_disks::DiskFaults;
use crate::invariants::{Invariants, Property, Violation};
use crate::narrowing::Narrowing;
use crate::network::{Network, Packet, node_id};
use crate::node::{DirectoryCopy, Finish, Node, OwnDirectory};
use crate::oracle::Oracle;
use crate::plan::Plan;
use crate::plant::Plant;
use crate::random::Random;
use crate::schedule::Schedule;
use crate::stats::Stats;
use crate::story;
use crate::trace::Trace;

use convergence::Convergence;
pub use stage::Losing;

/// When virtual time begins. Not zero, so that an instant of zero stays "never".
const START: Instant = Instant(1_000_000);

/// A run that is still busy after so many events will never end.
const EVENTS_MAX: u64 = 1_000_000;

/// What to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// The number of nodes, instead of the one that the seed draws.
    pub nodes: Option<usize>,
    /// A bug to plant.
    pub plant: Option<Plant>,
    /// Ignore violations of all other properties.
    pub only: Option<Property>,
    /// Print every event.
    pub trace: bool,
    /// What of the plan is left out, to find a small case.
    pub narrowing: Narrowing,
    /// Majority quorums, sound disks, careful operators and steady clocks, whatever the seed draws.
    pub mild: bool,
}

pub(crate) enum Event {
    /// A packet reaches its receiver.
    Arrive(Rc<Packet>),
    /// A disk is done with something.
    Disk { node: usize, life: u32, operation: OperationId, finish: Finish },
    /// A node's deadline.
    Wake { node: usize, life: u32 },
    /// A client does something.
    Client,
    /// Links are cut.
    Cut,
    /// Links are mended; a flapping partition comes back so many times.
    Mend { partition: Partition, left: u32 },
    /// A node crashes, or all do.
    Crash,
    /// A node starts, unless it did already.
    Start { node: usize, life: u32 },
    /// A node stands still.
    Pause,
    /// A node goes on.
    Resume { node: usize, life: u32 },
    /// Something stored changes by itself.
    Rot,
    /// Somebody restarts a node that reported a failure.
    Restart { node: usize, life: u32 },
    /// A node asks again for the file that it couldn't have.
    RetryFile { node: usize, life: u32 },
    /// Somebody wants other members.
    Change,
    /// Somebody goes on with an upgrade.
    Upgrade,
    /// Somebody makes a mistake with directories.
    Mistake,
    /// Somebody puts right what can be put right.
    PutRight,
    /// Faults stop.
    Heal,
    /// Time to look how far the cluster has come together.
    Probe,
}

/// What reached a node while it stood still.
enum Deferred {
    Packet(Rc<Packet>),
    Finish(Finish, Completion),
}

/// See the module documentation.
pub struct Cluster {
    options: Options,
    plan: Plan,
    schedule: Schedule<Event>,
    nodes: Vec<Node>,
    /// What waits for nodes that stand still.
    deferred: Vec<Vec<Deferred>>,
    network: Network,
    disks: DiskFaults,
    oracle: Oracle,
    invariants: Invariants,
    trace: Trace,
    stats: Stats,
    convergence: Option<Convergence>,
    over: bool,
    /// The node whose next write or sync a scenario lets fail.
    failing: Option<usize>,
    /// A node that loses power in so many installs to come.
    interrupted: Option<(usize, u32)>,
    /// Too much was damaged for the cluster to go on, and that is proven.
    stopped: bool,
    /// Clients have gone, because they were done or logs were full.
    is_loaded: bool,
    /// A leader has handed over in this stage.
    handed_over: bool,
    /// A mistake that nobody has put right yet.
    mistake: Option<operators::Made>,
    /// A copy that a scenario has taken of a node's directory, and the directory in whose place one is.
    saved: Option<(usize, DirectoryCopy)>,
    own: Option<(usize, OwnDirectory)>,
    /// Until when each disk has no room for another file.
    full_until: Vec<Instant>,
    /// The ballots at which somebody has led, and since when the last of them.
    led: Vec<Ballot>,
    led_at: Instant,
    /// Messages that a scenario loses.
    losing: Vec<Losing>,
    sessions: sessions::SessionClients,
    client_random: Random,
    past_random: Random,
    crash_random: Random,
    disk_random: Random,
    inspect_random: Random,
    partition_random: Random,
    pause_random: Random,
    read_random: Random,
    damage_random: Random,
    operator_random: Random,
    core_random: Random,
    member_random: Random,
    upgrade_random: Random,
    /// Who is connected to whom, where nodes run different builds, and the lives of both.
    connected: BTreeMap<(usize, usize), (u32, u32)>,
}

impl Cluster {
    /// A cluster that is about to start.
    pub fn new(options: Options) -> Cluster {
        let draw = if options.mild { Plan::mild } else { Plan::draw };
        let mut plan = draw(options.seed, options.nodes);
        if let Some(plant) = options.plant {
            plant.alter_plan(&mut plan);
        }
        options.narrowing.apply(&mut plan);
        let mut cluster = Cluster::with_plan(options, plan);
        cluster.schedule_beginning();
        cluster
    }

    /// A cluster of nodes that are down; nothing is scheduled.
    fn with_plan(options: Options, plan: Plan) -> Cluster {
        let seed = options.seed;
        let stream = |concern| Random::stream(seed, concern);
        let mut nodes: Vec<Node> = (0..plan.nodes()).map(|index| Node::bootstrapped(index, seed, &plan)).collect();
        if options.plant == Some(Plant::LyingDisk) {
            nodes.iter_mut().for_each(|node| node.disk.lie());
        }
        Cluster {
            options,
            schedule: Schedule::new(START),
            deferred: nodes.iter().map(|_| Vec::new()).collect(),
            network: Network::new(nodes.len(), plan.faults.messages.clone(), stream("network")),
            disks: plan.faults.disks.clone(),
            oracle: Oracle::new(seed),
            invariants: Invariants::new(
                plan.configuration.clone(),
                nodes[..plan.configuration.members.len()].iter().map(Node::as_member).collect(),
                nodes.len(),
                options.only,
            ),
            trace: Trace::new(options.trace),
            stats: Stats { runs: 1, ..Stats::default() },
            convergence: None,
            over: false,
            failing: None,
            interrupted: None,
            stopped: false,
            is_loaded: false,
            handed_over: false,
            mistake: None,
            saved: None,
            own: None,
            full_until: vec![START; nodes.len()],
            led: Vec::new(),
            led_at: START,
            losing: Vec::new(),
            sessions: sessions::SessionClients::new(stream("session clients")),
            client_random: stream("clients"),
            past_random: stream("trims past members"),
            crash_random: stream("crashes"),
            disk_random: stream("disks"),
            inspect_random: stream("inspections"),
            partition_random: stream("partitions"),
            pause_random: stream("pauses"),
            read_random: stream("barriers"),
            damage_random: stream("damage"),
            operator_random: stream("mistakes"),
            core_random: stream("core"),
            member_random: stream("changes"),
            upgrade_random: stream("builds"),
            connected: BTreeMap::new(),
            nodes,
            plan,
        }
    }

    fn schedule_beginning(&mut self) {
        for node in 0..self.nodes.len() {
            let delay = Duration::from_micros(self.crash_random.below(20_000));
            self.schedule.after(delay, Event::Start { node, life: 0 });
        }
        self.schedule.after(self.plan.faulty_time, Event::Heal);
        self.schedule.after(self.plan.protocol.election_timeout, Event::Client);
        self.schedule_cut();
        self.schedule_crash();
        self.schedule_pause();
        self.schedule_rot();
        self.schedule_mistake();
        self.schedule_change();
        self.schedule_upgrade();
        self.note_plan();
    }

    /// Runs to the end, or to the first violation.
    pub fn run(&mut self) {
        while !self.over && self.invariants.violation().is_none() {
            if self.options.narrowing.events.is_some_and(|most| self.stats.events >= most) {
                return;
            }
            let Some(event) = self.schedule.next() else { break };
            self.step(event);
        }
        (0..self.nodes.len()).for_each(|index| self.note_paging(index));
        if self.invariants.violation().is_none() {
            self.invariants.ended(self.stopped, &mut self.oracle);
        }
    }

    /// Notes what a node's log put out of memory and read back, before the node ends.
    fn note_paging(&mut self, index: usize) {
        if let Some(running) = &self.nodes[index].running {
            self.stats.coverage.note_paging(&running.replica.wal().stats());
        }
    }

    fn step(&mut self, event: Event) {
        self.stats.events += 1;
        if self.stats.events > EVENTS_MAX {
            let detail = format!("the run is still busy after {EVENTS_MAX} events; {}", self.describe_nodes());
            self.invariants.report(Property::Liveness, detail);
            self.over = true;
            return;
        }
        self.handle(event);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive(packet) => self.arrive(&packet),
            Event::Disk { node, life, operation, finish } => self.disk_done(node, life, operation, finish),
            Event::Wake { node, life } => self.wake(node, life),
            Event::Client => self.client(),
            Event::Cut => self.cut(),
            Event::Mend { partition, left } => self.mend(partition, left),
            Event::Crash => self.crash_some(),
            Event::Start { node, life } => self.start(node, life),
            Event::Pause => self.pause(),
            Event::Resume { node, life } => self.resume(node, life),
            Event::Rot => self.rot(),
            Event::Restart { node, life } => self.restart(node, life),
            Event::RetryFile { node, life } => self.retry_file(node, life),
            Event::Change => self.change_membership(),
            Event::Upgrade => self.upgrade(),
            Event::Mistake => self.make_mistake(),
            Event::PutRight => self.put_right(),
            Event::Heal => self.heal(),
            Event::Probe => self.probe(),
        }
    }

    fn now(&self) -> Instant {
        self.schedule.now()
    }

    /// What a node's own clock shows: the only time that it is told.
    fn timer(&self, node: usize) -> Instant {
        self.plan.faults.clocks.timer(node, self.now())
    }

    fn arrive(&mut self, packet: &Rc<Packet>) {
        let node = packet.to;
        let has_connection = self.has_connection(packet.from, node);
        if !self.network.arrives(packet) || !has_connection || self.nodes[node].running.is_none() {
            let (now, from) = (self.now(), packet.from);
            return self.trace.tell(now, "missed", || format!("{} misses what {} sent", node_id(node), node_id(from)));
        }
        if self.nodes[node].paused_until.is_some() {
            return self.deferred[node].push(Deferred::Packet(Rc::clone(packet)));
        }
        self.receive(packet);
        self.drain(node);
    }

    fn disk_done(&mut self, node: usize, life: u32, operation: OperationId, finish: Finish) {
        if self.nodes[node].life != life || self.nodes[node].running.is_none() {
            return;
        }
        let completion = self.complete(node, operation, finish);
        self.note_durable(node);
        if self.nodes[node].paused_until.is_some() {
            return self.deferred[node].push(Deferred::Finish(finish, completion));
        }
        self.finish(node, finish, completion);
        self.drain(node);
    }

    fn finish(&mut self, node: usize, finish: Finish, mut completion: Completion) {
        let now = self.now();
        if matches!(completion, Completion::Failed) {
            completion = self.failed(node, finish);
        }
        let timer = self.timer(node);
        self.trace.note(now, "disk", &[node as u64, finish_number(finish)], || format!("{} {finish:?}", node_id(node)));
        if let Some(running) = &mut self.nodes[node].running {
            running.finish(timer, finish, completion);
        }
    }

    fn note_durable(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        while let Some(record) = node.durability.next_durable(&node.disk) {
            if node.amnesic {
                continue;
            }
            let Some(body) = record.body else { continue };
            match record.meta.kind {
                synod_wal::RecordKind::Accepted => {
                    self.invariants.accept_durable(index, body.id, record.meta.ballot, &self.oracle);
                }
                synod_wal::RecordKind::Copied => self.invariants.copy_durable(index, body.id, &self.oracle),
                _ => {}
            }
        }
    }

    fn wake(&mut self, node: usize, life: u32) {
        let (now, timer) = (self.now(), self.timer(node));
        let Node { life: current_life, paused_until, running: Some(running), .. } = &mut self.nodes[node] else {
            return;
        };
        if *current_life != life || now < running.wake_at {
            return;
        }
        running.wake_at = Instant(u64::MAX);
        if paused_until.is_some() {
            // It looks at its deadlines when it goes on.
            return;
        }
        running.replica.handle_timeout(timer);
        self.drain(node);
    }

    fn schedule_wake(&mut self, index: usize) {
        let now = self.now();
        let clocks = &self.plan.faults.clocks;
        let node = &mut self.nodes[index];
        let Some(running) = &mut node.running else { return };
        let deadline = clocks.when(index, running.replica.poll_deadline());
        if deadline < running.wake_at && deadline != Instant(u64::MAX) {
            // A deadline that has passed already still takes a moment: time must go on.
            running.wake_at = deadline.max(now.plus(Duration::from_micros(1)));
            self.schedule.at(running.wake_at, Event::Wake { node: index, life: node.life });
        }
    }

    /// The violation that ended the run, if one did.
    pub fn violation(&self) -> Option<&Violation> {
        self.invariants.violation()
    }

    /// Notes a violation that was found from outside.
    pub fn report(&mut self, property: Property, detail: String) {
        self.invariants.report(property, detail);
    }

    /// The hash over every event.
    pub fn trace_hash(&self) -> u64 {
        self.trace.hash()
    }

    /// The plan that the seed drew.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How much virtual time has passed.
    pub fn elapsed(&self) -> Duration {
        self.now().since(START)
    }

    /// Figures so far.
    pub fn stats(&self) -> Stats {
        let commands = || self.oracle.commands().map(|(_, state)| state);
        Stats {
            time: self.elapsed(),
            network: self.network.stats,
            commands_submitted: commands().count() as u64,
            commands_acked: commands().filter(|state| state.acked.is_some()).count() as u64,
            commands_chosen: commands().filter(|state| state.delivered.is_some()).count() as u64,
            ..self.stats.clone()
        }
    }

    /// What every node thinks, for a report.
    fn describe_nodes(&self) -> String {
        let describe = |node: &Node| match &node.running {
            None => match &node.refused {
                Some(error) => format!("{} doesn't start: {error}", node_id(node.index)),
                None if node.awaits_join => format!("{} has a new store", node_id(node.index)),
                None => match &node.stranger {
                    Some(why) => format!("{} has stopped: {why}", node_id(node.index)),
                    None => format!("{} is down", node_id(node.index)),
                },
            },
            Some(running) => {
                let status = running.replica.status();
                let judged = running.replica.judged();
                let told = story::status(&status, running.replica.wal().is_open());
                format!("{} {told}, judged below {judged}", node_id(node.index))
            }
        };
        self.nodes.iter().map(describe).collect::<Vec<_>>().join("; ")
    }
}

fn finish_number(finish: Finish) -> u64 {
    match finish {
        Finish::Written(write) => write.0 << 2,
        Finish::Synced(sync) => sync.0 << 2 | 1,
        Finish::FileReady(file) => u64::from(file.0) << 2 | 2,
        Finish::Read(read) => read.0 << 2 | 3,
    }
}
