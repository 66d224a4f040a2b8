//! `synod-bench run`: a cluster under load, measured, and audited.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::environment::Environment;
use crate::fault::{self, Struck};
use crate::floor::pipeline::{Pipeline, Shape, Turn};
use crate::floor::{self, PIPELINE_FILE_BYTES};
use crate::hgrm;
use crate::line::Line;
use crate::load::Demand;
use crate::meter::{Counted, Meter};
use crate::options::parse::Blow;
use crate::options::{ClusterOptions, Over, RunOptions};
use crate::recorder::{Recorder, Window};
use crate::report::{Latency, Load, PerWrite, Report, Rotations, Schedule, Share, Single, Stages};
use crate::schedule::Rate;
use crate::session::{Root, Session, settings, watch};
use crate::throttle::Throttle;

/// A load that begins again isn't counted at once.
const RAMP: Duration = Duration::from_millis(200);
/// Longest turn of a run and of the bare pipeline.
const TURN: Duration = Duration::from_secs(1);
/// Turns of each, at least.
const TURNS_MIN: u32 = 3;
/// A frame of the bare pipeline beside single commands: the smallest durable write.
const SINGLE_FRAME_BYTES: usize = 4096;

/// Measures one cluster under one load.
///
/// # Errors
/// If the machine lacks something, or a node doesn't do what it should.
pub(crate) fn run(options: &ClusterOptions, run: &RunOptions, interrupted: &AtomicBool) -> Result<Report> {
    let floor_bytes = if run.floor { u64::from(options.replicas) * PIPELINE_FILE_BYTES } else { 0 };
    let needed = crate::cluster::bytes_needed(options, run.load.retention) + floor_bytes;
    let root = Root::make(options, needed)?;
    measure(options, run, root.path(), interrupted)
}

/// What is asked of the cluster.
pub(crate) fn demand(options: &ClusterOptions, run: &RunOptions) -> Demand {
    let calls_per_second = run.rate.map(|rate| rate / f64::from(options.batch));
    Demand {
        in_flight: run.load.clients.saturating_mul(options.in_flight).min(1 << 20),
        batch: options.batch,
        rate: calls_per_second.map(|calls_per_second| Rate { calls_per_second, arrival: run.arrival }),
        threads: run.load.threads,
    }
}

fn measure(options: &ClusterOptions, run: &RunOptions, root: &Path, interrupted: &AtomicBool) -> Result<Report> {
    if run.faults.iter().any(|fault| fault.blow == Blow::SlowDisk) {
        Throttle::probe(root)?;
    }
    let mut line = Line::default();
    let floor = floor::one_block(root, Duration::from_millis(500).min(run.duration))?;
    let demand = demand(options, run);
    // As much as the logs, at most: small disks have room for small runs.
    let file_bytes = PIPELINE_FILE_BYTES.min(run.load.retention).max(8 * options.body);
    let shape = Shape { file_bytes, ..floor::shape_of(options) };
    let pipeline = run.floor.then(|| prepare(root, shape)).transpose()?;
    let session = Session::open(options, &run.load, demand.in_flight, root, &mut line)?;
    let measured = under_load(&session, run, demand, pipeline.as_ref(), interrupted, &mut line)?;
    drop(pipeline);
    let single = if run.latency.is_zero() || interrupted.load(Ordering::Relaxed) {
        None
    } else {
        line.show("single commands, one at a time");
        let frame = Shape { frame_bytes: SINGLE_FRAME_BYTES, window: 1, ..shape };
        let pipeline = run.floor.then(|| prepare(root, frame)).transpose()?;
        Some(single_commands(&session, run, pipeline.as_ref(), interrupted, &mut line)?)
    };
    let audit = session.close(&mut line)?;
    if let Some(path) = &run.hgrm {
        let table = hgrm::table(&measured.recorder.seen().latency_us);
        std::fs::write(path, table).with_context(|| format!("writing {}", path.display()))?;
    }
    let mut settings = settings(options, &run.load, root);
    (settings.commands_per_second, settings.arrival) = (run.rate, run.rate.map(|_| run.arrival));
    Ok(measured.report(settings, Environment::look(root), single, floor, audit, demand))
}

fn prepare(root: &Path, shape: Shape) -> Result<Pipeline> {
    Pipeline::prepare(root, shape).context("preparing the bare pipeline")
}

/// A measurement without its report.
struct Measured {
    recorder: Arc<Recorder>,
    counted: Counted,
    struck: Vec<Struck>,
    share: Option<Share>,
}

fn under_load(
    session: &Session,
    run: &RunOptions,
    demand: Demand,
    pipeline: Option<&Pipeline>,
    interrupted: &AtomicBool,
    line: &mut Line,
) -> Result<Measured> {
    let recorder = Arc::new(Recorder::new(run.load.warm_up + run.duration * if run.floor { 2 } else { 1 }));
    let stop = Arc::new(AtomicBool::new(false));
    let rotations = {
        let (recorder, members, stop) = (Arc::clone(&recorder), session.members.clone(), Arc::clone(&stop));
        (!run.load.processes).then(|| thread::spawn(move || recorder.watch_rotations(&members, &stop)))
    };
    let mut load = session.load(demand, &recorder)?;
    let mut meter = Meter::new(session.members.clone());
    let mut turns = Vec::new();
    watch(run.load.warm_up, &recorder, interrupted, line, "warm-up", || {});
    let count = if pipeline.is_some() { (run.duration.div_duration_f64(TURN).ceil() as u32).max(TURNS_MIN) } else { 1 };
    let striking = {
        let (faults, replicas, stop) = (run.faults.clone(), session.cluster.replicas(), Arc::clone(&stop));
        (!faults.is_empty()).then(|| thread::spawn(move || fault::strike(&faults, &replicas, &stop)))
    };
    for turn in 0..count {
        if turn > 0 {
            load.resume()?;
            watch(RAMP.min(run.duration / count), &recorder, interrupted, line, "turn", || {});
        }
        meter.begin(&load);
        recorder.open_window();
        watch(run.duration / count, &recorder, interrupted, line, "measuring", || meter.look());
        let window = recorder.close_window();
        if pipeline.is_some() || demand.rate.is_some() || run.load.over == Over::Tcp {
            // Those that are still under way aren't counted; what they cost is little beside the rest.
            load.pause()?;
        }
        meter.end(&load);
        if let Some(pipeline) = pipeline {
            let bare = pipeline.turn(run.duration / count + RAMP).context("running the bare pipeline")?;
            turns.push((window, bare));
        }
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
    }
    stop.store(true, Ordering::Relaxed);
    // Faults end with the load, so that all replicas hear of its last commits.
    let struck = striking.map_or(Ok(Ok(Vec::new())), thread::JoinHandle::join);
    let struck = struck.map_err(|_| anyhow!("the thread that strikes replicas panicked"))??;
    load.stop()?;
    if let Some(rotations) = rotations {
        rotations.join().map_err(|_| anyhow!("the thread that watches for rotations panicked"))?;
    }
    line.clear();
    let share = pipeline.map(|pipeline| Share::of(pipeline.shape(), &turns));
    Ok(Measured { recorder, counted: meter.total(), struck, share })
}

/// Single commands, one at a time, taking turns with single frames of the bare pipeline if there is one.
fn single_commands(
    session: &Session,
    run: &RunOptions,
    pipeline: Option<&Pipeline>,
    interrupted: &AtomicBool,
    line: &mut Line,
) -> Result<Single> {
    let recorder = Arc::new(Recorder::new(run.latency));
    let mut load = session.load(Demand { in_flight: 1, batch: 1, rate: None, threads: 1 }, &recorder)?;
    let turns = if pipeline.is_some() { TURNS_MIN } else { 1 };
    let mut bare: Vec<Turn> = Vec::new();
    for _ in 0..turns {
        load.resume()?;
        recorder.open_window();
        watch(run.latency / turns, &recorder, interrupted, line, "single commands", || {});
        recorder.close_window();
        if let Some(pipeline) = pipeline {
            load.pause()?;
            bare.push(pipeline.turn(run.latency / turns).context("running the bare pipeline")?);
        }
    }
    load.stop()?;
    line.clear();
    let seen = recorder.seen();
    let frame = bare.into_iter().reduce(|mut whole, turn| {
        whole.latency_us.add(&turn.latency_us).expect("equal bounds");
        whole
    });
    Ok(Single {
        commands: seen.windows.iter().map(|window| window.commands).sum(),
        latency: Latency::of(&seen.latency_us),
        bare_frame: frame.map(|frame| Latency::of(&frame.latency_us)),
    })
}

impl Measured {
    fn report(
        self,
        settings: crate::report::Settings,
        environment: Environment,
        single: Option<Single>,
        floor: floor::Floor,
        audit: crate::audit::Audit,
        demand: Demand,
    ) -> Report {
        let seen = self.recorder.seen();
        let start_us = seen.windows.first().map_or(0, |window| window.start_us);
        let seconds: f64 = seen.windows.iter().map(Window::seconds).sum::<f64>().max(1e-9);
        let commands: u64 = seen.windows.iter().map(|window| window.commands).sum();
        let calls: u64 = seen.windows.iter().map(|window| window.calls).sum();
        let per = |whole: f64, parts: f64| if parts > 0.0 { whole / parts } else { 0.0 };
        let counted = self.counted;
        let replicas = f64::from(settings.replicas);
        let load = Load {
            seconds,
            commands,
            commits_per_second: commands as f64 / seconds,
            payload_mb_per_second: commands as f64 * settings.payload_bytes / seconds / 1e6,
            append_latency: Latency::of(&seen.latency_us),
            rotations: Rotations {
                count: self.recorder.rotations(),
                calls: seen.at_rotation_us.len(),
                latency: Latency::of(&seen.at_rotation_us),
                latency_between: Latency::of(&seen.between_us),
            },
            schedule: demand.rate.map(|rate| Schedule {
                calls_per_second: rate.calls_per_second,
                calls_per_second_made: calls as f64 / seconds,
                service: Latency::of(&seen.service_us),
            }),
            commands_per_body: per(commands as f64, counted.bodies as f64),
            durable_writes_per_second: counted.durable_writes as f64 / seconds,
            commits_per_durable_write: per(commands as f64, counted.durable_writes as f64),
            commits_per_durable_write_spread: PerWrite::of(&counted.commits_per_write),
            log_mb_per_second_per_replica: counted.bytes_appended as f64 / replicas / seconds / 1e6,
            cpu_us_per_commit: per(counted.cpu.as_secs_f64() * 1e6, commands as f64),
            cpu_cores: counted.cpu.as_secs_f64() / seconds,
            calls_refused: self.recorder.refused.load(Ordering::Relaxed),
            calls_unknown: self.recorder.unknown.load(Ordering::Relaxed),
        };
        let stages = Stages::of(&counted, &seen, seconds, replicas);
        Report {
            environment,
            settings,
            load,
            single,
            floor,
            pipeline: self.share,
            stages,
            faults: fault::outcomes(&self.struck, &self.recorder, start_us),
            timeline: self.recorder.timeline(start_us),
            spectrum: hgrm::spectrum(&seen.latency_us),
            audit,
        }
    }
}
