//! `synod-bench floor`: what this machine can do without a protocol.
//!
//! Three floors, each under more of what a commit is: the raw disk, a round trip over loopback, and the bare pipeline
//! ([`pipeline`]), which does all that a replicated log does to bytes and nothing else.

pub(crate) mod disk;
mod loopback;
pub(crate) mod pipeline;
pub(crate) mod ring;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::environment::Environment;
use crate::line::Line;
use crate::options::{ClusterOptions, FloorOptions, Sync};
use crate::place;
use crate::report::{ms, thousands};

use disk::{Files, Way};
use pipeline::{Pipeline, Shape, Turn};

const BLOCKS: [usize; 4] = [4 << 10, 16 << 10, 64 << 10, 256 << 10];
const DEPTHS: [usize; 3] = [1, 4, 16];
const MESSAGES: [usize; 3] = [64, 4 << 10, 64 << 10];
/// Frames and frames in flight of the bare pipeline, beside those of the run.
const PIPELINES: [(usize, usize); 5] = [(4 << 10, 1), (4 << 10, 16), (16 << 10, 16), (64 << 10, 8), (128 << 10, 8)];
/// Each replica's file under the bare pipeline.
pub(crate) const PIPELINE_FILE_BYTES: u64 = 256 << 20;

/// What one durable 4 KiB write costs, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Floor {
    pub(crate) write_fdatasync_p50_us: u64,
    pub(crate) write_fdatasync_p99_us: u64,
    pub(crate) dsync_p50_us: u64,
    pub(crate) dsync_p99_us: u64,
}

/// Measures both ways of making a block durable, for `each` of them.
///
/// # Errors
/// If the disk refuses direct writes, or fails.
pub(crate) fn one_block(directory: &Path, each: Duration) -> Result<Floor> {
    let files = Files::prepare(directory, 1).context("measuring the raw disk")?;
    let way = |sync| Way { writers: 1, sync, block_bytes: 4096, depth: 1 };
    let synced = files.measure(way(Sync::Fdatasync), each).context("measuring the raw disk")?;
    let dsync = files.measure(way(Sync::Dsync), each).context("measuring the raw disk")?;
    Ok(Floor {
        write_fdatasync_p50_us: synced.p50_us,
        write_fdatasync_p99_us: synced.p99_us,
        dsync_p50_us: dsync.p50_us,
        dsync_p99_us: dsync.p99_us,
    })
}

/// What came of all of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    environment: Environment,
    directory: String,
    /// How long each row was measured.
    seconds_each: f64,
    disk: Vec<disk::Row>,
    loopback: Vec<loopback::Row>,
    pipeline: Vec<PipelineRow>,
}

/// What one shape of the bare pipeline gave.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PipelineRow {
    pub(crate) replicas: u32,
    pub(crate) sync: &'static str,
    pub(crate) frame_bytes: usize,
    pub(crate) window_frames: usize,
    pub(crate) command_bytes: usize,
    pub(crate) commands_per_second: f64,
    /// Frames' bytes, on each replica.
    pub(crate) log_mb_per_second: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

impl PipelineRow {
    pub(crate) fn of(shape: &Shape, turn: &Turn) -> PipelineRow {
        let frames_per_second = turn.commands_per_second() / shape.commands_per_frame() as f64;
        PipelineRow {
            replicas: shape.replicas,
            sync: shape.sync.name(),
            frame_bytes: shape.frame_bytes,
            window_frames: shape.window,
            command_bytes: shape.command_bytes,
            commands_per_second: turn.commands_per_second(),
            log_mb_per_second: frames_per_second * shape.frame_bytes as f64 / 1e6,
            p50_us: turn.latency_us.value_at_quantile(0.5),
            p99_us: turn.latency_us.value_at_quantile(0.99),
        }
    }
}

/// The bare pipeline with the bodies, the window and the commands of a run.
pub(crate) fn shape_of(options: &ClusterOptions) -> Shape {
    Shape {
        replicas: options.replicas,
        frame_bytes: options.body as usize,
        window: options.window as usize,
        command_bytes: options.payload.mean() as usize,
        sync: options.sync,
        file_bytes: PIPELINE_FILE_BYTES,
    }
}

/// Measures all floors.
///
/// # Errors
/// If the disk, loopback or io_uring can't be had.
pub(crate) fn run(options: &ClusterOptions, floor: &FloorOptions, interrupted: &AtomicBool) -> Result<Report> {
    let needed = u64::from(options.replicas) * (PIPELINE_FILE_BYTES + (64 << 20));
    let parent = place::choose(options.dir.as_deref(), needed)?;
    let root = tempfile::Builder::new()
        .prefix("synod-bench-")
        .tempdir_in(&parent)
        .with_context(|| format!("making a directory in {}", parent.display()))?;
    let mut line = Line::default();
    let mut report = Report {
        environment: Environment::look(root.path()),
        directory: parent.display().to_string(),
        seconds_each: floor.each.as_secs_f64(),
        disk: Vec::new(),
        loopback: Vec::new(),
        pipeline: Vec::new(),
    };
    line.show("writing files once");
    let files = Files::prepare(root.path(), options.replicas).context("preparing files")?;
    let mut writers = vec![1, options.replicas];
    writers.dedup();
    for way in ways(&writers) {
        ensure!(!interrupted.load(Ordering::Relaxed), "interrupted");
        line.show(&format!(
            "raw disk: {} writer(s), {} KiB, {} in flight",
            way.writers,
            way.block_bytes >> 10,
            way.depth
        ));
        report.disk.push(files.measure(way, floor.each).context("measuring the raw disk")?);
    }
    drop(files);
    for message_bytes in MESSAGES {
        line.show(&format!("loopback: {message_bytes} bytes"));
        report.loopback.push(loopback::measure(message_bytes, floor.each).context("measuring loopback")?);
    }
    let own = (options.body as usize, options.window as usize);
    let shapes = PIPELINES.into_iter().chain((!PIPELINES.contains(&own)).then_some(own));
    for (frame_bytes, window) in shapes {
        ensure!(!interrupted.load(Ordering::Relaxed), "interrupted");
        line.show(&format!("bare pipeline: {} KiB, {window} in flight", frame_bytes >> 10));
        let shape = Shape { frame_bytes, window, ..shape_of(options) };
        let pipeline = Pipeline::prepare(root.path(), shape).context("preparing the bare pipeline")?;
        let turn = pipeline.turn(floor.each * 3).context("running the bare pipeline")?;
        report.pipeline.push(PipelineRow::of(&shape, &turn));
    }
    line.clear();
    Ok(report)
}

fn ways(writers: &[u32]) -> Vec<Way> {
    let mut ways = Vec::new();
    for writers in writers.iter().copied() {
        for block_bytes in BLOCKS {
            for depth in DEPTHS {
                for sync in [Sync::Fdatasync, Sync::Dsync] {
                    ways.push(Way { writers, sync, block_bytes, depth });
                }
            }
        }
    }
    ways
}

impl Report {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a string can't fail");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "raw disk          O_DIRECT on files written once; latency until a write is durable")?;
        writeln!(
            text,
            "{:>8} {:>9} {:>9} {:>10} {:>11} {:>10} {:>11} {:>11}",
            "writers", "sync", "block", "in flight", "writes/s", "MB/s", "p50", "p99"
        )?;
        for row in &self.disk {
            writeln!(
                text,
                "{:>8} {:>9} {:>5} KiB {:>10} {:>11} {:>10.0} {:>11} {:>11}",
                row.writers,
                row.sync,
                row.block_bytes >> 10,
                row.depth,
                thousands(row.writes_per_second as u64),
                row.mb_per_second,
                ms(row.p50_us),
                ms(row.p99_us)
            )?;
        }
        writeln!(text)?;
        writeln!(text, "loopback          a message over TCP to another thread, and back")?;
        for row in &self.loopback {
            writeln!(
                text,
                "{:>16} B {:>11} /s {:>34} {:>11}",
                row.message_bytes,
                thousands(row.round_trips_per_second as u64),
                ms(row.p50_us),
                ms(row.p99_us)
            )?;
        }
        writeln!(text)?;
        writeln!(
            text,
            "bare pipeline     frames copied, checksummed, sent to the followers, written and synced by all, durable at a majority"
        )?;
        for row in &self.pipeline {
            writeln!(
                text,
                "{:>8} {:>9} {:>5} KiB {:>10} {:>11} {:>10.0} {:>11} {:>11}   commands of {} bytes /s",
                row.replicas,
                row.sync,
                row.frame_bytes >> 10,
                row.window_frames,
                thousands(row.commands_per_second as u64),
                row.log_mb_per_second,
                ms(row.p50_us),
                ms(row.p99_us),
                row.command_bytes
            )?;
        }
        writeln!(text)?;
        write!(text, "{}", self.environment.text(&self.directory))
    }
}
