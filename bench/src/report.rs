//! What a run says in the end.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::audit::Audit;
use crate::environment::Environment;
use crate::fault::Outcome;
use crate::floor::pipeline::{Shape, Turn};
use crate::floor::{Floor, PipelineRow};
use crate::hgrm::Quantile;
use crate::meter::Counted;
use crate::options::{Arrival, Over};
use crate::recorder::{AT_ROTATION, Point, Seen, Window};

/// The whole result of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) environment: Environment,
    pub(crate) settings: Settings,
    pub(crate) load: Load,
    pub(crate) single: Option<Single>,
    pub(crate) floor: Floor,
    /// The bare pipeline, if it took turns with the load.
    pub(crate) pipeline: Option<Share>,
    pub(crate) stages: Option<Stages>,
    pub(crate) faults: Vec<Outcome>,
    pub(crate) timeline: Vec<Point>,
    /// The latency by percentile.
    pub(crate) spectrum: Vec<Quantile>,
    pub(crate) audit: Audit,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Settings {
    pub(crate) replicas: u32,
    pub(crate) groups: u32,
    /// Threads of a replica; none is one for each group, as far as there are cores.
    pub(crate) shards: Option<u32>,
    /// As it was given.
    pub(crate) payload: String,
    /// Its mean.
    pub(crate) payload_bytes: f64,
    pub(crate) batch_commands: u32,
    pub(crate) clients: u32,
    /// Of each client.
    pub(crate) in_flight_calls: u32,
    pub(crate) threads: u32,
    pub(crate) over: Over,
    pub(crate) processes: bool,
    /// Of an open loop.
    pub(crate) commands_per_second: Option<f64>,
    pub(crate) arrival: Option<Arrival>,
    pub(crate) window_bodies: u32,
    pub(crate) body_bytes: u64,
    pub(crate) sync: &'static str,
    pub(crate) retention_bytes: u64,
    pub(crate) seed: u64,
    pub(crate) directory: String,
}

/// The measured part of the load.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Load {
    pub(crate) seconds: f64,
    pub(crate) commands: u64,
    pub(crate) commits_per_second: f64,
    pub(crate) payload_mb_per_second: f64,
    pub(crate) append_latency: Latency,
    pub(crate) rotations: Rotations,
    /// Of an open loop.
    pub(crate) schedule: Option<Schedule>,
    pub(crate) commands_per_body: f64,
    /// Syncs (or writes that are durable by themselves) that completed on all replicas together.
    pub(crate) durable_writes_per_second: f64,
    pub(crate) commits_per_durable_write: f64,
    pub(crate) commits_per_durable_write_spread: Option<PerWrite>,
    pub(crate) log_mb_per_second_per_replica: f64,
    pub(crate) cpu_us_per_commit: f64,
    /// Cores that were busy, on average.
    pub(crate) cpu_cores: f64,
    pub(crate) calls_refused: u64,
    pub(crate) calls_unknown: u64,
}

/// An open loop: what was due, and what came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Schedule {
    pub(crate) calls_per_second: f64,
    pub(crate) calls_per_second_made: f64,
    /// From when a call really began; the latency counts from when it was due.
    pub(crate) service: Latency,
}

/// What the change from one segment to the next costs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Rotations {
    /// Segments begun, on all replicas together.
    pub(crate) count: u64,
    /// Append calls acknowledged within 10 ms after that.
    pub(crate) calls: u64,
    /// Of those calls.
    pub(crate) latency: Latency,
    /// Of all others.
    pub(crate) latency_between: Latency,
}

/// Single commands, one at a time.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Single {
    pub(crate) commands: u64,
    pub(crate) latency: Latency,
    /// Of single frames of 4 KiB through the bare pipeline, in turns with them.
    pub(crate) bare_frame: Option<Latency>,
}

/// The bare pipeline in turns with the load, with the same bodies, window and commands.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Share {
    pub(crate) bare: PipelineRow,
    /// Commits of the load as a share of commands through the bare pipeline, over all turns.
    pub(crate) share: f64,
    /// The same for each pair of turns.
    pub(crate) shares: Vec<f64>,
}

impl Share {
    pub(crate) fn of(shape: &Shape, turns: &[(Window, Turn)]) -> Share {
        let mut whole = Turn { commands: 0, seconds: 0.0, latency_us: turns[0].1.latency_us.clone() };
        whole.latency_us.reset();
        let (mut commands, mut seconds) = (0, 0.0);
        for (window, turn) in turns {
            whole.commands += turn.commands;
            whole.seconds += turn.seconds;
            whole.latency_us.add(&turn.latency_us).expect("equal bounds");
            commands += window.commands;
            seconds += window.seconds();
        }
        let of_turn = |(window, turn): &(Window, Turn)| {
            let bare = turn.commands_per_second();
            if bare > 0.0 { window.commands_per_second() / bare } else { 0.0 }
        };
        Share {
            bare: PipelineRow::of(shape, &whole),
            share: commands as f64 / f64::max(seconds, 1e-9) / whole.commands_per_second().max(1e-9),
            shares: turns.iter().map(of_turn).collect(),
        }
    }
}

/// Where the time of an append call goes, on average, in microseconds. The whole, the time in the node and the composing are
/// measured; the other parts follow from how much was found waiting in each when the leader was looked at, and from how fast
/// it went through (Little's law). Sending, the leader's disk and the followers' go on at the same time, so each has only what it
/// adds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Stages {
    pub(crate) whole_us: f64,
    /// From the client to the node, and back.
    pub(crate) clients_us: f64,
    /// In the intake, until a body takes it up.
    pub(crate) queue_us: f64,
    /// Making the body: plan, copy, checksum.
    pub(crate) encode_us: f64,
    /// From a body's proposal until it was handed to the network for a majority.
    pub(crate) net_us: f64,
    /// From there until it was durable at the leader.
    pub(crate) disk_us: f64,
    /// From there until it was chosen.
    pub(crate) quorum_us: f64,
    /// From there until the call was answered.
    pub(crate) delivery_us: f64,
}

impl Stages {
    /// How the stages are called, in their order.
    pub(crate) const NAMES: [&str; 7] =
        ["clients and wake-ups", "queue", "encode", "net", "leader's disk", "quorum", "delivery"];

    pub(crate) fn of(counted: &Counted, seen: &Seen, seconds: f64, replicas: f64) -> Option<Stages> {
        let looks = (counted.looks > 0).then_some(counted.looks as f64)?;
        let per_second = |count: u64| (count > 0).then_some(count as f64 / seconds);
        let waited_us = |sum: u64, per_second: f64| sum as f64 / looks / per_second * 1e6;
        let whole_us = seen.service_us.mean();
        let node_us = (counted.delivered_us as f64 / (counted.delivered.max(1)) as f64).min(whole_us);
        let encode_us = (counted.composed_us as f64 / (counted.composed.max(1)) as f64).min(node_us);
        let queue_us = waited_us(counted.waiting, per_second(counted.delivered)?).min(node_us - encode_us);
        // What is left of the time in the node bounds the rest: a look may find more than there is on average.
        let left_us = node_us - encode_us - queue_us;
        let window_us = waited_us(counted.open_bodies, per_second(counted.bodies)?).min(left_us);
        let own_bytes_per_second = per_second(counted.bytes_appended)? / replicas;
        let sent_us = waited_us(counted.outgoing_bytes, own_bytes_per_second).min(window_us);
        let durable_us = waited_us(counted.unsynced_bytes, own_bytes_per_second).min(window_us);
        Some(Stages {
            whole_us,
            clients_us: whole_us - node_us,
            queue_us,
            encode_us,
            net_us: sent_us,
            disk_us: (durable_us - sent_us).max(0.0),
            quorum_us: window_us - durable_us.max(sent_us),
            delivery_us: left_us - window_us,
        })
    }

    /// The parts, in their order.
    pub(crate) fn parts(&self) -> [f64; 7] {
        let Stages { clients_us, queue_us, encode_us, net_us, disk_us, quorum_us, delivery_us, .. } = *self;
        [clients_us, queue_us, encode_us, net_us, disk_us, quorum_us, delivery_us]
    }
}

/// How many commits a durable write carried, all replicas together: counted from one look at the replicas to the next, some
/// milliseconds each.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PerWrite {
    pub(crate) p10: u64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) max: u64,
    /// By powers of two.
    pub(crate) groups: Vec<Group>,
}

/// Durable writes that carried from so many commits to twice as many, but one.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Group {
    pub(crate) from: u64,
    pub(crate) writes: u64,
}

impl PerWrite {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Option<PerWrite> {
        let last = (!histogram.is_empty()).then(|| histogram.max().ilog2())?;
        let first = histogram.min().max(1).ilog2();
        let group = |power: u32| {
            let from = 1_u64 << power;
            Group { from, writes: histogram.count_between(from, 2 * from - 1) }
        };
        Some(PerWrite {
            p10: histogram.value_at_quantile(0.1),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            max: histogram.max(),
            groups: (first..=last).map(group).collect(),
        })
    }
}

/// From when an append call was due to its acknowledgement, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50_us: u64,
    pub(crate) p90_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) p9999_us: u64,
    pub(crate) max_us: u64,
    pub(crate) mean_us: f64,
}

impl Latency {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Latency {
        Latency {
            p50_us: histogram.value_at_quantile(0.5),
            p90_us: histogram.value_at_quantile(0.9),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            p9999_us: histogram.value_at_quantile(0.9999),
            max_us: histogram.max(),
            mean_us: histogram.mean(),
        }
    }

    fn text(&self) -> String {
        format!(
            "p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
            ms(self.p50_us),
            ms(self.p90_us),
            ms(self.p99_us),
            ms(self.p999_us),
            ms(self.max_us)
        )
    }
}

impl Report {
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a string can't fail");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let Report { settings, audit, .. } = self;
        self.write_load(text)?;
        self.write_floor(text)?;
        for outcome in &self.faults {
            write_fault(text, outcome)?;
        }
        writeln!(text)?;
        audit.write(text)?;
        writeln!(text)?;
        writeln!(text, "{}", self.environment.text(&settings.directory))?;
        writeln!(text)?;
        self.write_warnings(text)?;
        writeln!(
            text,
            "What this number is not: {} replicas and the clients share these cores and this disk, over loopback. It says what",
            settings.replicas
        )?;
        write!(
            text,
            "the engine costs, not what a network of machines would reach: no network latency, but also no second disk or CPU."
        )
    }

    fn write_load(&self, text: &mut String) -> std::fmt::Result {
        let Report { settings, load, single, .. } = self;
        writeln!(
            text,
            "durable commits   {:>12} /s   ({} commands in {:.1} s)",
            thousands(load.commits_per_second as u64),
            thousands(load.commands),
            load.seconds
        )?;
        writeln!(
            text,
            "payload           {:>12.1} MB/s of {}-byte commands, {} an append call, {} calls in flight{}",
            load.payload_mb_per_second,
            settings.payload,
            settings.batch_commands,
            settings.clients.saturating_mul(settings.in_flight_calls),
            match (settings.over, settings.processes) {
                (Over::Embedded, _) => "",
                (Over::Tcp, false) => ", over TCP from a client process",
                (Over::Tcp, true) => ", over TCP from a client process, a process for each replica",
            }
        )?;
        if settings.groups > 1 {
            let shards = settings
                .shards
                .map_or_else(|| "as many shards as cores".to_owned(), |shards| format!("{shards} shards"));
            writeln!(
                text,
                "groups            {:>12}, each led by another replica in turn, on {shards} of each",
                settings.groups
            )?;
        }
        writeln!(text, "append latency    {}", load.append_latency.text())?;
        if let Some(schedule) = &load.schedule {
            writeln!(
                text,
                "open loop         {} of {} calls/s due; latency counts from when a call was due; from its beginning: {}",
                thousands(schedule.calls_per_second_made as u64),
                thousands(schedule.calls_per_second as u64),
                schedule.service.text()
            )?;
        }
        let rotations = &load.rotations;
        if rotations.count > 0 {
            writeln!(
                text,
                "rotations         {} segments begun; calls within {} ms after one ({}): p50 {}  p99 {};  others: p50 {}  p99 {}",
                rotations.count,
                AT_ROTATION.as_millis(),
                thousands(rotations.calls),
                ms(rotations.latency.p50_us),
                ms(rotations.latency.p99_us),
                ms(rotations.latency_between.p50_us),
                ms(rotations.latency_between.p99_us)
            )?;
        }
        writeln!(
            text,
            "durable writes    {:>12.0} /s on {} replicas ({}); {:.0} commits a durable write{}",
            load.durable_writes_per_second,
            settings.replicas,
            settings.sync,
            load.commits_per_durable_write,
            load.commits_per_durable_write_spread.as_ref().map_or_else(String::new, |spread| format!(
                " (p10 {}  p50 {}  p90 {}  max {})",
                spread.p10, spread.p50, spread.p90, spread.max
            ))
        )?;
        writeln!(
            text,
            "log               {:>12.1} MB/s a replica; {:.0} commands a body; {:.2} us of CPU a commit (clients included), {:.1} cores busy",
            load.log_mb_per_second_per_replica, load.commands_per_body, load.cpu_us_per_commit, load.cpu_cores
        )?;
        if let Some(stages) = &self.stages {
            let parts = Stages::NAMES.iter().zip(stages.parts());
            let parts: Vec<String> = parts.map(|(name, us)| format!("{:.2} {name}", us / 1e3)).collect();
            writeln!(text, "time of a call    {:.2} ms on average: {}", stages.whole_us / 1e3, parts.join(", "))?;
        }
        if load.calls_refused + load.calls_unknown > 0 {
            writeln!(
                text,
                "append calls      {} refused, {} with unknown outcome",
                load.calls_refused, load.calls_unknown
            )?;
        }
        if let Some(single) = single {
            writeln!(
                text,
                "single command    p50 {}  p99 {}  (one at a time, {} of them)",
                ms(single.latency.p50_us),
                ms(single.latency.p99_us),
                thousands(single.commands)
            )?;
        }
        Ok(())
    }

    fn write_floor(&self, text: &mut String) -> std::fmt::Result {
        let Report { load, single, floor, pipeline, .. } = self;
        writeln!(
            text,
            "raw disk          p50 {}  p99 {}  one 4 KiB write + fdatasync;  p50 {}  p99 {}  with O_DSYNC",
            ms(floor.write_fdatasync_p50_us),
            ms(floor.write_fdatasync_p99_us),
            ms(floor.dsync_p50_us),
            ms(floor.dsync_p99_us)
        )?;
        let Some(Share { bare, share, shares }) = pipeline else { return Ok(()) };
        let (low, high) = shares.iter().fold((f64::MAX, 0.0_f64), |(low, high), one| (low.min(*one), high.max(*one)));
        writeln!(
            text,
            "bare pipeline     {:>12} /s in frames of {} KiB, {} in flight, p50 {}  p99 {}; commits are {:.0} % of that ({:.0} to {:.0} % in {} turns)",
            thousands(bare.commands_per_second as u64),
            bare.frame_bytes >> 10,
            bare.window_frames,
            ms(bare.p50_us),
            ms(bare.p99_us),
            share * 100.0,
            low * 100.0,
            high * 100.0,
            shares.len()
        )?;
        writeln!(
            text,
            "                  commits and bare pipeline took turns; p99 is {:.1} times its",
            load.append_latency.p99_us as f64 / (bare.p99_us as f64).max(1.0)
        )?;
        if let Some(Single { bare_frame: Some(frame), latency, .. }) = single {
            writeln!(
                text,
                "one frame         p50 {}  p99 {}  of 4 KiB through the bare pipeline; a single command takes {:.2} times as long (p50)",
                ms(frame.p50_us),
                ms(frame.p99_us),
                latency.p50_us as f64 / (frame.p50_us as f64).max(1.0)
            )?;
        }
        Ok(())
    }

    /// What makes the figures worth less.
    fn write_warnings(&self, text: &mut String) -> std::fmt::Result {
        let Report { load, environment, .. } = self;
        if load.seconds < 10.0 {
            writeln!(text, "note: {:.1} s are short; a figure worth keeping takes 10 s or more", load.seconds)?;
        }
        if let Some(schedule) = &load.schedule
            && schedule.calls_per_second_made < 0.98 * schedule.calls_per_second
        {
            writeln!(text, "note: the rate wasn't reached, so latencies are those of a growing queue")?;
        }
        if environment.load_average > environment.cores as f64 {
            writeln!(
                text,
                "note: the load average was {:.1} before the run: other programs took these cores too",
                environment.load_average
            )?;
        }
        Ok(())
    }
}

fn write_fault(text: &mut String, outcome: &Outcome) -> std::fmt::Result {
    write!(
        text,
        "fault             {} hit node {} at {:.2} s: {}",
        outcome.fault,
        outcome.node,
        outcome.at_seconds,
        if outcome.outage_ms > 0.0 {
            format!("{:.0} ms without an acknowledgement", outcome.outage_ms)
        } else {
            "no pause above 20 ms".to_owned()
        }
    )?;
    if let (Some(before), Some(during)) = (&outcome.before, &outcome.during) {
        write!(
            text,
            "; then {:.0} % of the commits before, p99 {} (before: {})",
            during.commits_per_second / before.commits_per_second.max(1e-9) * 100.0,
            ms(during.p99_us),
            ms(before.p99_us)
        )?;
    }
    writeln!(text)
}

/// A number with commas.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).unwrap_or("")).collect();
    groups.join(",")
}

/// A time in milliseconds.
pub(crate) fn ms(us: u64) -> String {
    format!("{:.2} ms", us as f64 / 1000.0)
}
