//! What a run says in the end.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::audit::Audit;
use crate::environment::Environment;
use crate::floor::Floor;
use crate::load::AT_ROTATION;

/// The whole result of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) environment: Environment,
    pub(crate) settings: Settings,
    pub(crate) load: Load,
    pub(crate) single: Option<Single>,
    pub(crate) floor: Floor,
    pub(crate) audit: Audit,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Settings {
    pub(crate) replicas: u32,
    pub(crate) payload_bytes: u32,
    pub(crate) batch_commands: u32,
    pub(crate) in_flight_calls: u32,
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
    pub(crate) commands_per_body: f64,
    /// Syncs (or writes that are durable by themselves) that completed on all replicas together.
    pub(crate) durable_writes_per_second: f64,
    pub(crate) commits_per_durable_write: f64,
    pub(crate) log_mb_per_second_per_replica: f64,
    pub(crate) cpu_us_per_commit: f64,
    pub(crate) calls_refused: u64,
    pub(crate) calls_unknown: u64,
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
}

/// From handing in an append call to its acknowledgement, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) max_us: u64,
}

impl Latency {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Latency {
        Latency {
            p50_us: histogram.value_at_quantile(0.5),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
        }
    }
}

impl Report {
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a string can't fail");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let Report { environment: host, settings, load, single, floor, audit } = self;
        writeln!(
            text,
            "durable commits   {:>12} /s   ({} commands in {:.1} s)",
            thousands(load.commits_per_second as u64),
            thousands(load.commands),
            load.seconds
        )?;
        writeln!(
            text,
            "payload           {:>12.1} MB/s of {}-byte commands, {} an append call, {} calls in flight",
            load.payload_mb_per_second, settings.payload_bytes, settings.batch_commands, settings.in_flight_calls
        )?;
        let latency = &load.append_latency;
        writeln!(
            text,
            "append latency    p50 {}  p99 {}  p99.9 {}  max {}",
            ms(latency.p50_us),
            ms(latency.p99_us),
            ms(latency.p999_us),
            ms(latency.max_us)
        )?;
        let rotations = &load.rotations;
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
        writeln!(
            text,
            "durable writes    {:>12.0} /s on {} replicas ({}); {:.0} commits a durable write",
            load.durable_writes_per_second, settings.replicas, settings.sync, load.commits_per_durable_write
        )?;
        writeln!(
            text,
            "log               {:>12.1} MB/s a replica; {:.0} commands a body; {:.2} us of CPU a commit (clients included)",
            load.log_mb_per_second_per_replica, load.commands_per_body, load.cpu_us_per_commit
        )?;
        if load.calls_refused + load.calls_unknown > 0 {
            writeln!(
                text,
                "append calls      {} refused, {} with unknown outcome",
                load.calls_refused, load.calls_unknown
            )?;
        }
        if let Some(single) = single {
            let latency = &single.latency;
            writeln!(
                text,
                "single command    p50 {}  p99 {}  (one at a time, {} of them)",
                ms(latency.p50_us),
                ms(latency.p99_us),
                thousands(single.commands)
            )?;
        }
        writeln!(
            text,
            "raw disk          p50 {}  p99 {}  one 4 KiB write + fdatasync;  p50 {}  p99 {}  with O_DSYNC",
            ms(floor.write_fdatasync_p50_us),
            ms(floor.write_fdatasync_p99_us),
            ms(floor.dsync_p50_us),
            ms(floor.dsync_p99_us)
        )?;
        writeln!(text)?;
        writeln!(text, "audit             {}", if audit.failures.is_empty() { "passed" } else { "FAILED" })?;
        writeln!(
            text,
            "  read from the closed logs: {} commands in slots {}..{}, each replica's chain and checksums, every acknowledged command at its slot on a majority",
            thousands(audit.commands_read),
            audit.first_slot,
            audit.end_slot
        )?;
        writeln!(
            text,
            "  invariants of Paxos: {} accepts, {} marks; of {} chosen bodies {} with the quorum that accepted them",
            thousands(audit.invariants.accepts),
            thousands(audit.invariants.marks),
            thousands(audit.invariants.bodies_chosen),
            thousands(audit.invariants.quorums_found)
        )?;
        if audit.trimmed.trims > 0 {
            writeln!(
                text,
                "  before trimming: slots below {} by equal chains on all replicas ({} times), {} append calls read back byte by byte",
                audit.trimmed.upto, audit.trimmed.trims, audit.trimmed.calls_read_back
            )?;
        }
        writeln!(
            text,
            "  {} append calls acknowledged, none overlapping; {} with unknown outcome, of which {} are in the log once",
            thousands(audit.calls_acknowledged),
            audit.calls_unknown,
            audit.unknown_in_log
        )?;
        for failure in &audit.failures {
            writeln!(text, "  FAILED: {failure}")?;
        }
        writeln!(text)?;
        writeln!(text, "{}", host.text(&settings.directory))?;
        writeln!(text)?;
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
