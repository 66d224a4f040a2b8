//! One load of several on the same cluster.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::line::Line;
use crate::load::Demand;
use crate::meter::Meter;
use crate::recorder::Recorder;
use crate::report::Latency;
use crate::session::{Session, watch};

/// Part of a step that isn't counted, at most.
const RAMP: Duration = Duration::from_millis(300);

/// What one load gave.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Rung {
    /// Append calls under way, at most.
    pub(crate) in_flight_calls: u32,
    pub(crate) batch_commands: u32,
    /// Of an open loop.
    pub(crate) commands_per_second: Option<f64>,
    pub(crate) commits_per_second: f64,
    pub(crate) latency: Latency,
    pub(crate) commits_per_durable_write: f64,
    pub(crate) log_mb_per_second_per_replica: f64,
    pub(crate) cpu_us_per_commit: f64,
}

impl Rung {
    /// Puts one load on the cluster for so long.
    ///
    /// # Errors
    /// If the clients fail.
    pub(crate) fn measure(
        session: &Session,
        demand: Demand,
        step: Duration,
        interrupted: &AtomicBool,
        line: &mut Line,
    ) -> Result<Rung> {
        let recorder = Arc::new(Recorder::new(step));
        let mut meter = Meter::new(session.members.clone());
        let mut load = session.load(demand, &recorder)?;
        watch(RAMP.min(step / 4), &recorder, interrupted, line, "ramp", || {});
        meter.begin(&load);
        recorder.open_window();
        let what = format!("{} calls of {} in flight", demand.in_flight, demand.batch);
        watch(step, &recorder, interrupted, line, &what, || meter.look());
        let window = recorder.close_window();
        load.pause()?;
        meter.end(&load);
        load.stop()?;
        let (seen, counted) = (recorder.seen(), meter.total());
        let commands = window.commands as f64;
        let per = |whole: f64, parts: f64| if parts > 0.0 { whole / parts } else { 0.0 };
        Ok(Rung {
            in_flight_calls: demand.in_flight,
            batch_commands: demand.batch,
            commands_per_second: demand.rate.map(|rate| rate.calls_per_second * f64::from(demand.batch)),
            commits_per_second: window.commands_per_second(),
            latency: Latency::of(&seen.latency_us),
            commits_per_durable_write: per(commands, counted.durable_writes as f64),
            log_mb_per_second_per_replica: counted.bytes_appended as f64
                / session.members.len() as f64
                / window.seconds().max(1e-9)
                / 1e6,
            cpu_us_per_commit: per(counted.cpu.as_secs_f64() * 1e6, commands),
        })
    }
}
