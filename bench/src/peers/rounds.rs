//! All peers, in rounds, so that each meets the same noise.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::{Peer, etcd, omnipaxos, openraft, raft_engine, zookeeper};
use crate::environment::Environment;
use crate::line::Line;
use crate::options::{ClusterOptions, PeersOptions, System};

/// How often a measurement is begun, at most.
const ATTEMPTS: u32 = 4;

/// What came of all peers.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    environment: Environment,
    directory: String,
    seconds_each: f64,
    rounds: u32,
    /// The median round of each.
    rows: Vec<Row>,
    /// What isn't installed here, and how it is.
    absent: Vec<String>,
}

/// One setting of a peer.
#[derive(Clone, Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    median: Peer,
    /// Of all rounds, in their order.
    commits_per_second_by_round: Vec<f64>,
}

impl System {
    const ALL: [System; 5] = [System::OmniPaxos, System::Openraft, System::Etcd, System::ZooKeeper, System::RaftEngine];

    /// Why it can't be measured here.
    fn absent(self) -> Option<String> {
        match self {
            System::Etcd => etcd::absent(),
            System::ZooKeeper => zookeeper::absent(),
            System::OmniPaxos | System::Openraft | System::RaftEngine => None,
        }
    }

    /// One round: a row for each setting.
    fn measure(self, options: &ClusterOptions, duration: Duration) -> Result<Vec<Peer>> {
        match self {
            System::OmniPaxos => omnipaxos::measure_all(options, duration),
            System::Openraft => openraft::measure(options, duration),
            System::Etcd => etcd::measure(options, duration),
            System::ZooKeeper => zookeeper::measure(options, duration),
            System::RaftEngine => raft_engine::measure_all(options, duration),
        }
    }
}

/// Measures all peers that are here.
///
/// # Errors
/// If the machine lacks something, or a peer fails.
pub(crate) fn run(options: &ClusterOptions, peers: &PeersOptions, interrupted: &AtomicBool) -> Result<Report> {
    let wanted = System::ALL.into_iter().filter(|system| peers.only.is_empty() || peers.only.contains(system));
    let (present, absent): (Vec<_>, Vec<_>) =
        wanted.map(|system| (system, system.absent())).partition(|(_, absent)| absent.is_none());
    let mut rounds: Vec<Vec<Peer>> = Vec::new();
    let mut line = Line::default();
    for round in 1..=peers.rounds {
        let mut seen: Vec<Peer> = Vec::new();
        for (system, _) in &present {
            ensure!(!interrupted.load(Ordering::Relaxed), "interrupted");
            line.show(&format!("round {round} of {}: {system:?}", peers.rounds));
            seen.extend(again(*system, interrupted, || system.measure(options, peers.duration))?);
        }
        rounds.push(seen);
    }
    line.clear();
    let count = rounds.first().map_or(0, Vec::len);
    let directory = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    Ok(Report {
        environment: Environment::look(&directory),
        directory: directory.display().to_string(),
        seconds_each: peers.duration.as_secs_f64(),
        rounds: peers.rounds,
        rows: (0..count).map(|place| Row::of(rounds.iter().map(|round| round[place].clone()).collect())).collect(),
        absent: absent.into_iter().filter_map(|(_, absent)| absent).collect(),
    })
}

/// Measures one system. On a busy machine a leader may lose its office meanwhile, which some peers don't survive: then it is
/// measured again, and that it was is told.
pub(super) fn again<T>(system: System, interrupted: &AtomicBool, mut measure: impl FnMut() -> Result<T>) -> Result<T> {
    let mut attempts = 1;
    loop {
        match measure() {
            Err(error) if attempts < ATTEMPTS && !interrupted.load(Ordering::Relaxed) => {
                tracing::warn!(?system, error = format!("{error:#}"), "a measurement failed, and is begun again");
                attempts += 1;
            }
            done => return done.with_context(|| format!("measuring {system:?}")),
        }
    }
}

impl Row {
    /// Of at least one round.
    fn of(mut seen: Vec<Peer>) -> Row {
        let commits_per_second_by_round = seen.iter().map(|peer| peer.commits_per_second).collect();
        seen.sort_by(|one, other| one.commits_per_second.total_cmp(&other.commits_per_second));
        Row { median: seen.swap_remove(seen.len() / 2), commits_per_second_by_round }
    }
}

impl Report {
    /// As Markdown, for the docs.
    pub(crate) fn text(&self) -> String {
        let mut text =
            "| peer | setting | commits/s | lowest, highest | p50 | p99 |\n|---|---|---|---|---|---|\n".to_owned();
        let ms = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), crate::report::ms);
        let rate = |rate: f64| crate::report::thousands(rate as u64);
        for Row { median, commits_per_second_by_round: all } in &self.rows {
            let (lowest, highest) =
                all.iter().fold((f64::MAX, 0.0_f64), |(low, high), one| (low.min(*one), high.max(*one)));
            text += &format!(
                "| {} {} | {} | {} | {}, {} | {} | {} |\n",
                median.name,
                median.version,
                median.settings,
                rate(median.commits_per_second),
                rate(lowest),
                rate(highest),
                ms(median.p50_us),
                ms(median.p99_us)
            );
        }
        let Report { rounds, seconds_each, environment, .. } = self;
        text += &format!("\nMedians of {rounds} round(s), {seconds_each} s each; `{}`.\n", environment.command);
        text += "Three replicas on this machine, each with its own directory on one disk; an answer after a majority has synced.\n";
        for absent in &self.absent {
            text += &format!("Not measured: {absent}.\n");
        }
        if environment.load_average > environment.cores as f64 {
            let load = environment.load_average;
            text += &format!(
                "The load average is {load:.1}: what is measured here, and perhaps other programs, take these cores.\n"
            );
        }
        text + &format!("\n```\n{}\n```", environment.text(&self.directory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_that_fails_is_begun_again_but_not_for_ever() {
        let interrupted = AtomicBool::new(false);
        let mut attempts = 0;
        let mut fails = |times: u32| {
            again(System::Openraft, &interrupted, || {
                attempts += 1;
                if attempts <= times { Err(anyhow::anyhow!("too busy")) } else { Ok(()) }
            })
            .is_ok()
        };
        assert!(fails(3) && !fails(100));
    }

    #[test]
    fn a_row_is_the_median_and_keeps_all_rounds() {
        let peer = |commits_per_second| Peer {
            name: "a",
            version: "1".to_owned(),
            settings: String::new(),
            commits_per_second,
            p50_us: None,
            p99_us: None,
            is_measured: true,
        };
        let row = Row::of(vec![peer(3.0), peer(1.0), peer(2.0)]);
        assert_eq!((row.median.commits_per_second, row.commits_per_second_by_round), (2.0, vec![3.0, 1.0, 2.0]));
    }
}
