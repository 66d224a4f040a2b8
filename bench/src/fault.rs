//! Faults on schedule, on replicas in processes of their own, and what came of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::options::parse::{Blow, Fault, Target};
use crate::recorder::{Recorder, Span, now_us};
use crate::replica::Replica;

const PACE: Duration = Duration::from_millis(2);

/// A fault that was done.
#[derive(Clone, Debug)]
pub(crate) struct Struck {
    fault: Fault,
    node: u32,
    from_us: u64,
    to_us: u64,
}

/// What came of a fault.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    /// As it was asked for.
    pub(crate) fault: String,
    pub(crate) node: u32,
    /// When it was done, in seconds after the measurement began.
    pub(crate) at_seconds: f64,
    /// When it was undone.
    pub(crate) until_seconds: f64,
    /// The longest time between two acknowledgements, if it was longer than 20 ms.
    pub(crate) outage_ms: f64,
    /// Before the first fault.
    pub(crate) before: Option<Span>,
    /// While it lasted, after the outage.
    pub(crate) during: Option<Span>,
}

/// Does what is scheduled, from now on, and undoes it; ends when all is done, or when told to.
///
/// # Errors
/// If a replica can't be struck, or doesn't start again.
pub(crate) fn strike(faults: &[Fault], replicas: &[Arc<Replica>], stop: &AtomicBool) -> Result<Vec<Struck>> {
    let begun = Instant::now();
    let mut due: Vec<Fault> = faults.to_vec();
    due.sort_by_key(|fault| fault.at);
    due.reverse();
    let mut lasting: Vec<(Arc<Replica>, Struck)> = Vec::new();
    let mut struck = Vec::new();
    loop {
        let is_done = due.is_empty() && lasting.is_empty();
        if is_done || stop.load(Ordering::Relaxed) {
            break;
        }
        if let Some(fault) = due.pop_if(|fault| begun.elapsed() >= fault.at) {
            // While one that was struck is being elected anew there may be no leader; the next turn looks again.
            match find(fault.target, replicas) {
                Some(replica) => lasting.push(hit(fault, &replica)?),
                None => due.push(fault),
            }
        }
        while let Some(place) = lasting.iter().position(|(_, one)| is_over(one)) {
            let (replica, one) = lasting.swap_remove(place);
            struck.push(mended(&replica, one)?);
        }
        thread::sleep(PACE);
    }
    for (replica, one) in lasting {
        struck.push(mended(&replica, one)?);
    }
    struck.sort_by_key(|one| one.from_us);
    Ok(struck)
}

fn find(target: Target, replicas: &[Arc<Replica>]) -> Option<Arc<Replica>> {
    let standing: Vec<_> = replicas.iter().filter_map(|replica| Some((replica, replica.state()?.leads))).collect();
    let has_leader = standing.iter().any(|(_, leads)| *leads);
    let wanted = standing.into_iter().find(|(_, leads)| *leads == (target == Target::Leader));
    wanted.filter(|_| has_leader).map(|(replica, _)| Arc::clone(replica))
}

fn hit(fault: Fault, replica: &Arc<Replica>) -> Result<(Arc<Replica>, Struck)> {
    let from_us = now_us();
    match fault.blow {
        Blow::Kill => replica.kill()?,
        Blow::Pause => replica.pause()?,
        Blow::Partition => replica.cut_off(),
        Blow::SlowDisk => replica.slow_down()?,
    }
    Ok((Arc::clone(replica), Struck { fault, node: replica.node.0, from_us, to_us: u64::MAX }))
}

fn is_over(one: &Struck) -> bool {
    one.fault.lasts.is_some_and(|lasts| now_us() >= one.from_us + lasts.as_micros() as u64)
}

fn mended(replica: &Replica, one: Struck) -> Result<Struck> {
    let to_us = now_us();
    replica.mend().with_context(|| format!("after {}", one.fault))?;
    Ok(Struck { to_us, ..one })
}

/// What came of faults, with `start_us` as the beginning of the measurement.
pub(crate) fn outcomes(struck: &[Struck], recorder: &Recorder, start_us: u64) -> Vec<Outcome> {
    let seen = recorder.seen();
    let end_us = seen.windows.last().map_or(u64::MAX, |window| window.end_us);
    let before = struck.first().and_then(|first| recorder.span(start_us, first.from_us));
    let outcome = |(place, one): (usize, &Struck)| {
        let next_us = struck.get(place + 1).map_or(end_us, |next| next.from_us);
        let pause = seen.longest_pause(one.from_us, next_us);
        let resumed_us = pause.map_or(one.from_us, |(_, to)| to);
        Outcome {
            fault: one.fault.to_string(),
            node: one.node,
            at_seconds: one.from_us.saturating_sub(start_us) as f64 / 1e6,
            until_seconds: one.to_us.min(end_us).saturating_sub(start_us) as f64 / 1e6,
            outage_ms: pause.map_or(0.0, |(from, to)| (to - from.max(one.from_us)) as f64 / 1e3),
            before,
            during: recorder.span(resumed_us, one.to_us.min(next_us).min(end_us)),
        }
    };
    struck.iter().enumerate().map(outcome).collect()
}
