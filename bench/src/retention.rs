//! Keeping the logs within bounds while the load runs: audit a prefix, then trim it by agreement.
//!
//! What is trimmed can't be read afterwards, so this is where its part of the audit is done. Equal chains at one slot
//! mean equal bodies at every slot below, on all replicas that gave the chain; a sample of acknowledged append calls
//! is read back and compared byte by byte.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use synod_protocol::{Mark, Slot, SlotRange};

use crate::cluster::Member;
use crate::content::Content;
use crate::ledger::{Call, Ledger, Outcome};

const PACE: Duration = Duration::from_millis(50);
/// Append calls read back before each trim.
const SAMPLES: usize = 8;

/// What was proven before it was trimmed.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Trimmed {
    /// How often a prefix was audited and trimmed.
    pub(crate) trims: u64,
    /// Everything below this slot was compared by chain.
    pub(crate) upto: u64,
    /// Append calls below it that were read back and compared byte by byte.
    pub(crate) calls_read_back: u64,
}

/// Watches the logs' sizes and trims.
pub(crate) struct Retention {
    pub(crate) members: Vec<Member>,
    pub(crate) content: Content,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) retention_bytes: u64,
}

impl Retention {
    /// Runs until told to stop.
    ///
    /// # Errors
    /// If the audit of a prefix fails: then nothing more is trimmed.
    pub(crate) fn run(&self, stop: &AtomicBool) -> Result<Trimmed> {
        let mut done = Trimmed::default();
        // Prefixes that a trim may take, each with the bytes that were ever appended when it ended.
        let mut prefixes: VecDeque<(u64, Mark)> = VecDeque::new();
        let mut sampled_calls = 0;
        let mut last_leader = None;
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(PACE);
            let states = self.members.iter().map(|member| Some((member, member.state()?)));
            let Some((leader, state)) = states.flatten().find(|(_, state)| state.leads) else { continue };
            // Each log counts its own bytes, from its last start on.
            let counts_anew = prefixes.back().is_some_and(|(appended, _)| *appended > state.bytes_appended);
            if last_leader.replace(leader.node()) != Some(leader.node()) || counts_anew {
                prefixes.clear();
            }
            if prefixes.back().is_none_or(|(_, mark)| mark.slot < state.mark().slot) {
                prefixes.push_back((state.bytes_appended, state.mark()));
            }
            if state.live_bytes < self.retention_bytes / 4 * 3 {
                continue;
            }
            let keep_from = state.bytes_appended.saturating_sub(self.retention_bytes / 2);
            let mut prefix = None;
            while let Some((appended, mark)) = prefixes.front()
                && *appended <= keep_from
            {
                prefix = Some(*mark);
                prefixes.pop_front();
            }
            let Some(mark) = prefix else { continue };
            if !self.chains_agree(mark)? {
                // A replica is behind: the trim couldn't take effect either.
                prefixes.push_front((keep_from, mark));
                continue;
            }
            match self.read_back(leader, Slot(state.base), &mut sampled_calls, mark.slot)? {
                Some(calls) => done.calls_read_back += calls,
                None => continue,
            }
            // A refusal (leadership moved, a member is behind) is no failure: the next turn asks again.
            if let Some(upto) = leader.trim(mark.slot) {
                done.trims += 1;
                done.upto = done.upto.max(upto.0);
            }
        }
        Ok(done)
    }

    /// Whether every replica holds the prefix; an error if one holds another one.
    fn chains_agree(&self, mark: Mark) -> Result<bool> {
        for member in &self.members {
            match member.mark_at(mark.slot) {
                Some(theirs) if theirs.chain == mark.chain => {}
                Some(theirs) => bail!(
                    "at slot {} node {} has chain {}, another replica has {}",
                    mark.slot,
                    member.node(),
                    theirs.chain,
                    mark.chain
                ),
                None => return self.lacks(member, mark),
            }
        }
        Ok(true)
    }

    /// A replica that is behind, or can't be asked, holds the trim; one that has other bodies there is an error.
    fn lacks(&self, member: &Member, mark: Mark) -> Result<bool> {
        // Asked in this order: what is delivered later can't be taken for what was lacking before.
        match member.state() {
            Some(state) if state.base <= mark.slot.0 && state.mark().slot > mark.slot => {
                ensure!(
                    member.mark_at(mark.slot).is_some(),
                    "node {} has no body that ends at slot {}, another replica has",
                    member.node(),
                    mark.slot
                );
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    /// Reads some calls back; none if the leader doesn't answer.
    fn read_back(&self, leader: &Member, base: Slot, sampled_calls: &mut usize, below: Slot) -> Result<Option<u64>> {
        // Calls are made in about the order of their slots, so what lies above the prefix is left for the next turn.
        let first_call = *sampled_calls;
        let calls = self.ledger.range(first_call..self.ledger.len());
        let above = |call: &Call| match call.outcome {
            Outcome::Acknowledged(_) => call.slots().is_some_and(|slots| slots.end > below),
            Outcome::Pending => true,
            Outcome::Refused | Outcome::Unknown => false,
        };
        let done = calls.iter().position(above).unwrap_or(calls.len());
        *sampled_calls += done;
        let readable: Vec<(u64, SlotRange)> = calls[..done]
            .iter()
            .enumerate()
            .filter_map(|(place, call)| Some(((first_call + place) as u64, call.slots()?)))
            .filter(|(_, slots)| slots.start >= base)
            .collect();
        let step = (readable.len() / SAMPLES).max(1);
        let mut read = 0;
        for (call, slots) in readable.iter().step_by(step).take(SAMPLES) {
            let Some(body) = leader.body_at(slots.start).context("reading back before a trim")? else {
                return Ok(None);
            };
            let commands = body.commands()?;
            for index in 0..slots.end.since(slots.start) {
                let place = slots.start.plus(index).since(body.slots().start);
                let command = commands.get(place as u32)?;
                ensure!(
                    self.content.recognise(command) == Some((*call, index as u32)),
                    "slot {} doesn't hold command {index} of append call {call}, which was acknowledged there",
                    slots.start.plus(index)
                );
            }
            read += 1;
        }
        Ok(Some(read))
    }
}
