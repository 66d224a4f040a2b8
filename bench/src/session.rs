//! A cluster that is measured and then audited: what every measurement under load begins and ends with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use synod::{GROUP, GroupId};

use crate::audit::{self, Audit};
use crate::clients::{Plan, RemoteLoad};
use crate::cluster::{self, Cluster, Member};
use crate::content::Content;
use crate::ledger::Ledger;
use crate::line::Line;
use crate::load::{Clients, Demand, Load};
use crate::options::{ClusterOptions, LoadOptions, Over};
use crate::place;
use crate::recorder::Recorder;
use crate::report::Settings;
use crate::retention::{Retention, Trimmed};

/// A directory for the replicas, removed in the end unless it is to be kept.
pub(crate) struct Root {
    directory: tempfile::TempDir,
    keep: bool,
}

impl Root {
    /// # Errors
    /// If no directory suits.
    pub(crate) fn make(options: &ClusterOptions, bytes_needed: u64) -> Result<Root> {
        let parent = place::choose(options.dir.as_deref(), bytes_needed)?;
        let mut directory = tempfile::Builder::new()
            .prefix("synod-bench-")
            .tempdir_in(&parent)
            .with_context(|| format!("making a directory in {}", parent.display()))?;
        directory.disable_cleanup(options.keep);
        Ok(Root { directory, keep: options.keep })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("directories kept in {}", self.directory.path().display());
        }
    }
}

/// See the module.
pub(crate) struct Session {
    pub(crate) cluster: Cluster,
    pub(crate) members: Vec<Member>,
    options: ClusterOptions,
    over: Over,
    groups: Vec<Group>,
}

/// What belongs to one group.
struct Group {
    id: GroupId,
    members: Vec<Member>,
    content: Content,
    ledger: Arc<Ledger>,
    stop_retention: Arc<AtomicBool>,
    retention: JoinHandle<Result<Trimmed>>,
}

impl Group {
    fn open(cluster: &Cluster, options: &ClusterOptions, number: u32, retention_bytes: u64) -> Result<Group> {
        let id = GroupId(GROUP.0 + number);
        let members = cluster.members_of(id)?;
        let content = Content::new(options.payload, options.seed.wrapping_add(number.into()));
        let ledger = Arc::new(Ledger::default());
        let stop_retention = Arc::new(AtomicBool::new(false));
        let retention = {
            let (members, content, ledger) = (members.clone(), content.clone(), Arc::clone(&ledger));
            let retention = Retention { members, content, ledger, retention_bytes };
            let stop = Arc::clone(&stop_retention);
            thread::spawn(move || retention.run(&stop))
        };
        Ok(Group { id, members, content, ledger, stop_retention, retention })
    }
}

impl Session {
    /// Makes the logs, starts the nodes and waits for a leader.
    ///
    /// # Errors
    /// If the machine lacks something.
    pub(crate) fn open(
        options: &ClusterOptions,
        load: &LoadOptions,
        in_flight_max: u32,
        root: &Path,
        line: &mut Line,
    ) -> Result<Session> {
        ensure!(
            options.groups == 1 || (load.over == Over::Embedded && !load.processes),
            "--groups are measured with clients that embed the replicas: leave out --over, --processes and --fault"
        );
        let directories = cluster::create(root, options, load.retention, &mut |share| {
            line.show(&format!("preparing logs {:3.0} %", share * 100.0));
        })?;
        line.clear();
        let requests = (load.over == Over::Tcp).then_some(in_flight_max as usize);
        let plans = cluster::plans(&directories, options, requests)?;
        let cluster = if load.switches {
            cluster::start_with_switches(directories, plans)?
        } else {
            cluster::start(directories, &plans, load.processes)?
        };
        cluster.wait_for_leader()?;
        if options.groups > 1 {
            cluster.spread_leaders(options.groups)?;
        }
        let retention = load.retention / u64::from(options.groups);
        let groups: Vec<Group> = (0..options.groups)
            .map(|number| Group::open(&cluster, options, number, retention))
            .collect::<Result<_>>()?;
        let members = groups.iter().flat_map(|group| group.members.clone()).collect();
        let (options, over) = (options.clone(), load.over);
        Ok(Session { cluster, members, options, over, groups })
    }

    /// Begins a load.
    ///
    /// # Errors
    /// If the clients' process can't be started.
    pub(crate) fn load(&self, demand: Demand, recorder: &Arc<Recorder>) -> Result<Load> {
        match self.over {
            Over::Embedded => {
                let mut loads = Vec::new();
                let count = self.options.groups;
                // Fewer calls than groups go to the first of them.
                for (number, group) in (0..demand.in_flight.min(count)).zip(&self.groups) {
                    let clients = Clients {
                        logs: self.cluster.logs_of(group.id)?,
                        content: group.content.clone(),
                        ledger: Arc::clone(&group.ledger),
                        recorder: Arc::clone(recorder),
                    };
                    loads.push(clients.start(demand.of_group(number, demand.in_flight.min(count))));
                }
                Ok(Load::Embedded(loads))
            }
            Over::Tcp => {
                let ledger = &self.groups[0].ledger;
                let plan = Plan {
                    nodes: self.cluster.client_addresses(),
                    demand,
                    size: self.options.payload,
                    seed: self.options.seed,
                    first_call: ledger.len() as u64,
                };
                Ok(Load::Remote(RemoteLoad::start(&plan, Arc::clone(ledger), Arc::clone(recorder))?))
            }
        }
    }

    /// Waits until the replicas hold the same, stops them, and audits their logs.
    ///
    /// # Errors
    /// If they don't, or can't be read; what is wrong with what they hold is in the result.
    pub(crate) fn close(self, line: &mut Line) -> Result<Audit> {
        line.show("waiting for equal logs");
        drop(self.members);
        let mut settled = Ok(());
        let mut closed = Vec::new();
        for group in self.groups {
            settled = settled.and(cluster::quiesce(&group.members));
            group.stop_retention.store(true, Ordering::Relaxed);
            let trimmed = group.retention.join().map_err(|_| anyhow!("the retention thread panicked"))?;
            closed.push((group.content, group.ledger, trimmed));
        }
        settled?;
        let directories: Vec<(_, PathBuf)> = self.cluster.stop()?;
        line.show("auditing the closed logs");
        let audited: Result<Vec<Audit>> = (0..)
            .zip(closed)
            .map(|(log, (content, ledger, trimmed))| {
                audit::audit(&directories, log, &content, &ledger.snapshot(), trimmed)
            })
            .collect();
        line.clear();
        audited.map(Audit::sum)
    }
}

/// What was asked for, for the report.
pub(crate) fn settings(options: &ClusterOptions, load: &LoadOptions, root: &Path) -> Settings {
    Settings {
        replicas: options.replicas,
        groups: options.groups,
        shards: options.shards,
        payload: options.payload.to_string(),
        payload_bytes: options.payload.mean(),
        batch_commands: options.batch,
        clients: load.clients,
        in_flight_calls: options.in_flight,
        threads: load.threads,
        over: load.over,
        processes: load.processes,
        commands_per_second: None,
        arrival: None,
        window_bodies: options.window,
        body_bytes: options.body,
        sync: options.sync.name(),
        retention_bytes: load.retention,
        seed: options.seed,
        directory: root.display().to_string(),
    }
}

/// Lets the load run for `duration`, or until it is interrupted, with a live line; `look` is called now and then.
pub(crate) fn watch(
    duration: Duration,
    recorder: &Recorder,
    interrupted: &AtomicBool,
    line: &mut Line,
    what: &str,
    mut look: impl FnMut(),
) {
    const PACE: Duration = Duration::from_millis(5);
    const SHOWN: Duration = Duration::from_millis(500);
    let begun = Instant::now();
    let mut last = (begun, recorder.commands());
    while begun.elapsed() < duration && !interrupted.load(Ordering::Relaxed) {
        thread::sleep(PACE.min(duration.saturating_sub(begun.elapsed())));
        look();
        if last.0.elapsed() >= SHOWN {
            let now = (Instant::now(), recorder.commands());
            let rate = (now.1 - last.1) as f64 / (now.0 - last.0).as_secs_f64();
            line.show(&format!(
                "{what} {:4.1} of {:.0} s   {:6.2} M commits/s",
                begun.elapsed().as_secs_f64(),
                duration.as_secs_f64(),
                rate / 1e6
            ));
            last = now;
        }
    }
}
