//! One connection that carries the calls of some clients: many requests under way, answers in any order.
//!
//! Requests that are ready together leave in one write, as answers that came together are taken in one read. The connection
//! follows the leader; what was under way on one that failed is unknown.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use synod::client::Client;
use synod_frame::ENVELOPE_BYTES;
use synod_frame::client::{ClientEnvelope, ClientRefusal, ClientReply, decode_reply, encode_append};
use synod_protocol::Slot;
use synod_protocol::delivery::Terms;

use super::{ACKNOWLEDGED, CHUNK_BYTES, Plan, RECORD_BYTES, REFUSED, Record, UNKNOWN, tell};
use crate::content::Content;
use crate::load::{Control, Demand};
use crate::recorder::now_us;
use crate::schedule::Schedule;

/// How long a node may take to say hello.
const HELLO: Duration = Duration::from_millis(500);
/// A node that has calls under way and answers none of them for so long is left.
const SILENCE_US: u64 = 1_000_000;
/// Before the next node is asked.
const PACE: Duration = Duration::from_millis(5);
/// Longest wait without a look at what the parent wants.
const LOOK_US: u64 = 10_000;
/// Bytes that wait to be sent, above which no more calls begin.
const OUT_MAX: usize = 4 << 20;
/// Read at once.
const IN_BYTES: usize = 256 << 10;

/// A call under way.
#[derive(Clone, Copy, Debug)]
struct Sent {
    request: u64,
    call: u64,
    due_us: u64,
    begun_us: u64,
}

/// See the module.
pub(super) struct Connection {
    nodes: Vec<(u32, SocketAddr)>,
    demand: Demand,
    content: Content,
    schedule: Option<Schedule>,
    numbers: Arc<AtomicU64>,
    control: Arc<Control>,
    /// The node that is asked, by its place.
    place: usize,
    /// The place to go to when nothing is under way any more.
    moving: Option<usize>,
    link: Option<Link>,
    request: u64,
    sent: VecDeque<Sent>,
    records: Vec<u8>,
    told_us: u64,
    heard_us: u64,
    is_idle: bool,
}

/// The socket and its buffers.
struct Link {
    stream: TcpStream,
    out: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    filled: usize,
}

impl Connection {
    pub(super) fn new(plan: &Plan, number: u32, numbers: Arc<AtomicU64>, control: Arc<Control>) -> Connection {
        let demand = plan.demand.part(number);
        Connection {
            nodes: plan.nodes.clone(),
            demand,
            content: plan.content(),
            schedule: demand.rate.map(|rate| Schedule::new(rate, number.into(), now_us())),
            numbers,
            control,
            place: 0,
            moving: None,
            link: None,
            request: 0,
            sent: VecDeque::new(),
            records: Vec::new(),
            told_us: 0,
            heard_us: 0,
            is_idle: false,
        }
    }

    /// Carries calls until told to stop.
    ///
    /// # Errors
    /// If the parent is gone.
    pub(super) fn run(mut self) -> Result<()> {
        loop {
            let is_over = self.control.stop.load(Ordering::Acquire);
            let may_begin = !is_over && !self.control.pause.load(Ordering::Acquire);
            self.note_idle(may_begin)?;
            if is_over && self.sent.is_empty() {
                self.tell()?;
                return Ok(());
            }
            if (may_begin || !self.sent.is_empty()) && !self.is_connected() {
                thread::sleep(PACE);
                self.tell_old()?;
                continue;
            }
            let due_us = if may_begin { self.begin() } else { None };
            if let Err(error) = self.exchange(due_us) {
                tracing::debug!(%error, "a connection to the cluster failed");
                self.leave((self.place + 1) % self.nodes.len());
            }
            self.tell_old()?;
        }
    }

    fn note_idle(&mut self, may_begin: bool) -> Result<()> {
        if self.is_idle && may_begin {
            self.control.busy.fetch_add(1, Ordering::AcqRel);
            self.is_idle = false;
            if let Some(schedule) = &mut self.schedule {
                schedule.resume(now_us());
            }
        }
        if !self.is_idle && !may_begin && self.sent.is_empty() {
            // The parent hears of the last calls before it hears that there are none.
            self.tell()?;
            self.control.busy.fetch_sub(1, Ordering::AcqRel);
            self.is_idle = true;
        }
        Ok(())
    }

    /// Connects if need be; false if it didn't work yet.
    fn is_connected(&mut self) -> bool {
        if let Some(place) = self.moving
            && self.sent.is_empty()
        {
            self.leave(place);
        }
        if self.link.is_none() {
            match Link::open(self.nodes[self.place].1) {
                Ok(link) => self.link = Some(link),
                Err(_) => self.place = (self.place + 1) % self.nodes.len(),
            }
            self.heard_us = now_us();
        }
        self.link.is_some()
    }

    /// Gives the connection up; what was under way on it is unknown.
    fn leave(&mut self, place: usize) {
        self.link = None;
        self.moving = None;
        self.place = place;
        while let Some(sent) = self.sent.pop_front() {
            self.record(UNKNOWN, &sent, Slot(0));
        }
    }

    /// Begins all calls that may; when the next one is due, if that is what the rest waits for.
    fn begin(&mut self) -> Option<u64> {
        let now_us = now_us();
        while self.moving.is_none() && self.sent.len() < self.demand.in_flight as usize {
            let link = self.link.as_mut()?;
            if link.out.len() - link.written > OUT_MAX {
                return None;
            }
            let due_us = match &mut self.schedule {
                None => now_us,
                Some(schedule) => match schedule.take(now_us) {
                    Ok(due_us) => due_us,
                    Err(due_us) => return Some(due_us),
                },
            };
            if self.sent.is_empty() {
                self.heard_us = now_us;
            }
            let call = self.numbers.fetch_add(1, Ordering::Relaxed);
            self.request += 1;
            let batch = self.content.batch(call, self.demand.batch);
            let (envelope, payload) = encode_append(self.request, synod::GROUP, &batch, &Terms::NONE, Duration::ZERO);
            link.out.extend_from_slice(&envelope);
            link.out.extend_from_slice(&payload);
            self.sent.push_back(Sent { request: self.request, call, due_us, begun_us: now_us });
        }
        None
    }

    /// Sends and receives what can be; waits if neither can.
    fn exchange(&mut self, due_us: Option<u64>) -> io::Result<()> {
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        let has_sent = link.send()?;
        let has_received = link.receive()?;
        if has_received {
            self.heard_us = now_us();
            self.take_answers()?;
        } else if !has_sent {
            let now_us = now_us();
            if !self.sent.is_empty() && now_us > self.heard_us + SILENCE_US {
                return Err(ErrorKind::TimedOut.into());
            }
            let wait_us = due_us.map_or(LOOK_US, |due_us| due_us.saturating_sub(now_us)).min(LOOK_US);
            if let Some(link) = &self.link {
                link.wait(wait_us)?;
            }
        }
        Ok(())
    }

    fn take_answers(&mut self) -> io::Result<()> {
        let bad = |error: &dyn std::error::Error| io::Error::new(ErrorKind::InvalidData, error.to_string());
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        let (mut input, filled) = (std::mem::take(&mut link.input), link.filled);
        let mut taken = 0;
        while let Some((head, rest)) = input[taken..filled].split_at_checked(ENVELOPE_BYTES) {
            let envelope = ClientEnvelope::decode(head).map_err(|error| bad(&error))?;
            let Some(payload) = rest.get(..envelope.payload_bytes as usize) else { break };
            let reply = decode_reply(&envelope, payload, None).map_err(|error| bad(&error))?;
            taken += ENVELOPE_BYTES + payload.len();
            self.on_reply(&reply)?;
        }
        input.copy_within(taken..filled, 0);
        if let Some(link) = self.link.as_mut() {
            (link.input, link.filled) = (input, filled - taken);
        }
        Ok(())
    }

    fn on_reply(&mut self, reply: &ClientReply) -> io::Result<()> {
        let place = self.sent.iter().position(|sent| sent.request == reply.request());
        let Some(sent) = place.and_then(|place| self.sent.remove(place)) else {
            return Err(io::Error::new(ErrorKind::InvalidData, "an answer to no question"));
        };
        match reply {
            ClientReply::Appended { first, .. } => self.record(ACKNOWLEDGED, &sent, *first),
            ClientReply::Refused { reason, .. } => {
                let is_unknown = matches!(reason, ClientRefusal::UnknownOutcome);
                self.record(if is_unknown { UNKNOWN } else { REFUSED }, &sent, Slot(0));
                self.on_refusal(reason);
            }
            _ => return Err(io::Error::new(ErrorKind::InvalidData, "an answer to another question")),
        }
        Ok(())
    }

    fn on_refusal(&mut self, reason: &ClientRefusal) {
        let next = (self.place + 1) % self.nodes.len();
        match reason {
            ClientRefusal::NotLeader { leader: Some(leader), .. } => {
                let place = self.nodes.iter().position(|(node, _)| *node == leader.0);
                self.moving = Some(place.unwrap_or(next));
            }
            ClientRefusal::Overloaded { .. } | ClientRefusal::DiskFull => thread::sleep(PACE),
            _ => {
                if self.moving.is_none() {
                    // Nobody leads yet: asking at once would only be refused again.
                    thread::sleep(PACE);
                }
                self.moving.get_or_insert(next);
            }
        }
    }

    fn record(&mut self, kind: u8, sent: &Sent, first: Slot) {
        Record {
            kind,
            count: self.demand.batch,
            call: sent.call,
            first: first.0,
            due_us: sent.due_us,
            begun_us: sent.begun_us,
            done_us: now_us(),
        }
        .encode(&mut self.records);
    }

    fn tell_old(&mut self) -> Result<()> {
        let is_due = self.records.len() >= CHUNK_BYTES - RECORD_BYTES || now_us() > self.told_us + LOOK_US;
        if is_due && !self.records.is_empty() {
            self.tell()?;
        }
        Ok(())
    }

    fn tell(&mut self) -> Result<()> {
        tell(&self.records)?;
        self.records.clear();
        self.told_us = now_us();
        Ok(())
    }
}

impl Link {
    fn open(address: SocketAddr) -> Result<Link> {
        let stream = Client::connect_within(address, HELLO)?.into_stream().context("a plain connection")?;
        stream.set_nonblocking(true)?;
        Ok(Link { stream, out: Vec::new(), written: 0, input: vec![0; IN_BYTES], filled: 0 })
    }

    fn send(&mut self) -> io::Result<bool> {
        let mut has_sent = false;
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.written > OUT_MAX / 4 {
                        self.out.drain(..self.written);
                        self.written = 0;
                    }
                    return Ok(has_sent);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            has_sent = true;
        }
        self.out.clear();
        self.written = 0;
        Ok(has_sent)
    }

    fn receive(&mut self) -> io::Result<bool> {
        match self.stream.read(&mut self.input[self.filled..]) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => {
                self.filled += bytes;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn wait(&self, wait_us: u64) -> io::Result<()> {
        let mut flags = PollFlags::IN;
        if self.written < self.out.len() {
            flags |= PollFlags::OUT;
        }
        let timeout = Timespec { tv_sec: 0, tv_nsec: (wait_us * 1000) as i64 };
        match poll(&mut [PollFd::new(&self.stream, flags)], Some(&timeout)) {
            Err(error) if error != rustix::io::Errno::INTR => Err(error.into()),
            _ => Ok(()),
        }
    }
}
