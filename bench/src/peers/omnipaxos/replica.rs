//! One replica of OmniPaxos: its messages, its writes, and at the leader its clients.

use std::collections::VecDeque;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use hdrhistogram::Histogram;
use omnipaxos::messages::Message;
use omnipaxos::messages::sequence_paxos::PaxosMsg;
use omnipaxos::{ClusterConfig, OmniPaxos, ServerConfig};

use super::Seen;
use super::codec::{decode, encode};
use super::store::{Command, SharedStore};
use crate::floor::pipeline::{Disk, open};
use crate::floor::ring::{Done, Handle, Ring};
use crate::options::Sync;

const SLOT_BYTES: usize = 256 << 10;
const BLOCK_BYTES: usize = 4096;
/// Writes in flight.
const WRITES: usize = 8;
/// Largest write.
const WRITE_BYTES: usize = 128 << 10;
const TICK: Duration = Duration::from_millis(10);
/// Ticks before a leader that isn't heard is replaced: a busy machine must not look like a dead one.
const ELECTION_TICKS: u64 = 60;
/// Decided entries after which the log in memory is trimmed.
const TRIM_ENTRIES: usize = 100_000;
/// The first part of the load, which isn't counted.
const RAMP: Duration = Duration::from_millis(300);
/// How long the first node may take to lead.
const PATIENCE: Duration = Duration::from_secs(20);

const WRITE: u32 = 1 << 16;
const SYNC: u32 = 2 << 16;
const SEND: u32 = 3 << 16;
const RECEIVE: u32 = 4 << 16;
const CLOCK: u32 = 5 << 16;
const KIND: u32 = 0xffff_0000;

/// What a replica is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) node: u64,
    pub(super) nodes: u64,
    /// Commands in flight at the leader.
    pub(super) window: usize,
    pub(super) duration: Duration,
}

struct Peer {
    node: u64,
    stream: Handle,
    /// Bytes received that aren't a whole message yet.
    input: Vec<u8>,
    receive_slot: usize,
    send_slot: usize,
    /// Messages, each with the position that must be durable here before it may leave.
    queue: VecDeque<(u64, Vec<u8>)>,
}

/// A write under way.
#[derive(Clone, Copy)]
struct Pending {
    /// The position behind it, and the index.
    end: u64,
    end_index: usize,
    bytes: usize,
    is_done: bool,
}

/// See the module.
pub(super) struct Replica<const N: usize> {
    plan: Plan,
    paxos: OmniPaxos<Command<N>, SharedStore<N>>,
    store: SharedStore<N>,
    ring: Ring,
    disk: Disk,
    peers: Vec<Peer>,
    clock: Handle,
    clock_slot: usize,
    ticking: JoinHandle<()>,
    writes: VecDeque<(usize, Pending)>,
    free: Vec<usize>,
    durable: u64,
    durable_index: usize,
    /// Bytes that some write has taken, and the index at the last one.
    taken: u64,
    outgoing: Vec<Message<Command<N>>>,
    is_over: bool,
    clients: Clients,
}

/// The leader's clients: groups of commands, with the index behind each and when it was made.
struct Clients {
    groups: VecDeque<(usize, u32, Instant)>,
    in_flight: usize,
    answered: usize,
    trimmed: usize,
    begun: Option<Instant>,
    counted_from: Option<Instant>,
    commands: u64,
    latency_us: Histogram<u64>,
}

impl<const N: usize> Replica<N> {
    pub(super) fn new(plan: Plan, path: &Path, file_bytes: u64, streams: Vec<(u64, TcpStream)>) -> Result<Replica<N>> {
        let slots = WRITES + 2 * streams.len() + 1;
        let mut ring = Ring::new(slots, SLOT_BYTES)?;
        let disk = Disk::new(&mut ring, open(path, Sync::Dsync)?, (Sync::Dsync, file_bytes), SYNC);
        let peers = streams
            .into_iter()
            .enumerate()
            .map(|(place, (node, stream))| Peer {
                node,
                stream: ring.adopt(stream),
                input: Vec::new(),
                receive_slot: WRITES + 2 * place,
                send_slot: WRITES + 2 * place + 1,
                queue: VecDeque::new(),
            })
            .collect();
        let (near, mut far) = UnixStream::pair()?;
        let ticking = thread::spawn(move || {
            while far.write_all(&[0]).is_ok() {
                thread::sleep(TICK);
            }
        });
        let store = SharedStore::default();
        let cluster = ClusterConfig { configuration_id: 1, nodes: (1..=plan.nodes).collect(), flexible_quorum: None };
        let server = ServerConfig {
            pid: plan.node,
            election_tick_timeout: ELECTION_TICKS,
            resend_message_tick_timeout: 10 * ELECTION_TICKS,
            // The first node leads: its thread also carries the clients.
            leader_priority: (plan.nodes - plan.node) as u32,
            ..ServerConfig::default()
        };
        let paxos = cluster
            .build_for_server(server, store.clone())
            .map_err(|error| anyhow!("OmniPaxos's settings: {error}"))?;
        Ok(Replica {
            plan,
            paxos,
            store,
            clock: ring.adopt(near),
            ring,
            disk,
            peers,
            clock_slot: slots - 1,
            ticking,
            writes: VecDeque::new(),
            free: (0..WRITES).collect(),
            durable: 0,
            durable_index: 0,
            taken: 0,
            outgoing: Vec::new(),
            is_over: false,
            clients: Clients {
                groups: VecDeque::new(),
                in_flight: 0,
                answered: 0,
                trimmed: 0,
                begun: None,
                counted_from: None,
                commands: 0,
                latency_us: Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds are sound"),
            },
        })
    }

    /// Takes part until the load is over; what the clients saw, at the first node.
    pub(super) fn run(mut self) -> Result<Option<Seen>> {
        let started = Instant::now();
        for place in 0..self.peers.len() {
            self.listen(place)?;
        }
        self.ring.receive(self.clock, self.clock_slot, 0..64, false, CLOCK)?;
        let mut ended = Vec::new();
        let mut seen = None;
        while !self.is_over {
            self.write()?;
            self.send()?;
            self.ring.wait(&mut ended)?;
            for done in ended.drain(..) {
                self.on_done(&done)?;
            }
            if self.plan.node == 1 {
                seen = self.serve(started)?;
                self.is_over |= seen.is_some();
            }
            self.take_outgoing()?;
        }
        // Closes all connections, which ends the others and the clock.
        let Replica { ring, ticking, .. } = self;
        drop(ring);
        ticking.join().map_err(|_| anyhow!("the clock panicked"))?;
        Ok(seen)
    }

    fn listen(&mut self, place: usize) -> Result<()> {
        let peer = &self.peers[place];
        Ok(self.ring.receive(peer.stream, peer.receive_slot, 0..SLOT_BYTES, false, RECEIVE | place as u32)?)
    }

    fn on_done(&mut self, done: &Done) -> Result<()> {
        let which = (done.tag & !KIND) as usize;
        let bytes = match &done.result {
            Ok(bytes) => *bytes,
            // The others are gone, or going.
            Err(_) if done.tag & KIND == SEND || done.tag & KIND == RECEIVE => 0,
            Err(error) => return Err(anyhow!("OmniPaxos's disk: {error}")),
        };
        match done.tag & KIND {
            WRITE => self.on_written(which, bytes),
            SEND | RECEIVE if bytes == 0 => {
                self.is_over = true;
                Ok(())
            }
            RECEIVE => self.on_received(which, bytes),
            CLOCK => {
                self.paxos.tick();
                Ok(self.ring.receive(self.clock, self.clock_slot, 0..64, false, CLOCK)?)
            }
            _ => Ok(()),
        }
    }

    /// Durable is what was written with everything before it.
    fn on_written(&mut self, slot: usize, bytes: usize) -> Result<()> {
        let pending = self.writes.iter_mut().find(|(one, _)| *one == slot).context("a write that nobody asked for")?;
        ensure!(bytes == pending.1.bytes, "{bytes} of {} bytes were written", pending.1.bytes);
        pending.1.is_done = true;
        while let Some((slot, pending)) = self.writes.pop_front_if(|(_, pending)| pending.is_done) {
            (self.durable, self.durable_index) = (pending.end, pending.end_index);
            self.free.push(slot);
        }
        Ok(())
    }

    fn on_received(&mut self, place: usize, bytes: usize) -> Result<()> {
        let peer = &mut self.peers[place];
        let mut input = std::mem::take(&mut peer.input);
        input.extend_from_slice(&self.ring.slot_mut(peer.receive_slot)[..bytes]);
        let mut rest = input.as_slice();
        while let Some(message) = decode::<N>(&mut rest)? {
            self.paxos.handle_incoming(message);
        }
        let taken = input.len() - rest.len();
        input.drain(..taken);
        self.peers[place].input = input;
        self.listen(place)
    }

    /// Writes what was appended, as much at once as there is.
    fn write(&mut self) -> Result<()> {
        loop {
            let mut store = self.store.0.borrow_mut();
            if store.unwritten() == 0 {
                return Ok(());
            }
            let Some(slot) = self.free.pop() else { return Ok(()) };
            let target = self.ring.slot_mut(slot);
            let taken = store.take(&mut target[BLOCK_BYTES.min(64)..WRITE_BYTES]);
            let whole = 64 + taken;
            let checksum = crc32fast::hash(&target[64..whole]);
            target[..4].copy_from_slice(&checksum.to_le_bytes());
            let bytes = whole.next_multiple_of(BLOCK_BYTES);
            self.taken += taken as u64;
            // An index counts as durable only with a write that took everything before it.
            let end_index = if self.taken == store.appended() { store.end() } else { self.durable_index_after() };
            drop(store);
            self.disk.write(&mut self.ring, slot, bytes, WRITE | slot as u32)?;
            self.writes.push_back((slot, Pending { end: self.taken, end_index, bytes, is_done: false }));
        }
    }

    fn durable_index_after(&self) -> usize {
        self.writes.back().map_or(self.durable_index, |(_, pending)| pending.end_index)
    }

    fn take_outgoing(&mut self) -> Result<()> {
        self.paxos.take_outgoing_messages(&mut self.outgoing);
        let appended = self.store.0.borrow().appended();
        for message in self.outgoing.drain(..) {
            let to = message.get_receiver();
            let Some(peer) = self.peers.iter_mut().find(|peer| peer.node == to) else { continue };
            let needs = match &message {
                Message::SequencePaxos(paxos) => match &paxos.msg {
                    // Promises and acceptances speak of what is on the disk.
                    PaxosMsg::Accepted(_) | PaxosMsg::Promise(_) | PaxosMsg::Prepare(_) => appended,
                    _ => 0,
                },
                Message::BLE(_) => 0,
            };
            match peer.queue.back_mut() {
                Some((last, bytes)) if *last == needs && bytes.len() < SLOT_BYTES / 2 => encode(&message, bytes)?,
                _ => {
                    let mut bytes = Vec::new();
                    encode(&message, &mut bytes)?;
                    peer.queue.push_back((needs, bytes));
                }
            }
        }
        Ok(())
    }

    /// Sends what may leave, one send at a time to each peer.
    fn send(&mut self) -> Result<()> {
        for (place, peer) in self.peers.iter_mut().enumerate() {
            if !self.ring.is_idle(peer.send_slot) {
                continue;
            }
            let target = self.ring.slot_mut(peer.send_slot);
            let mut filled = 0;
            while let Some((needs, bytes)) = peer.queue.front_mut()
                && *needs <= self.durable
                && filled < SLOT_BYTES
            {
                let part = bytes.len().min(SLOT_BYTES - filled);
                target[filled..filled + part].copy_from_slice(&bytes[..part]);
                filled += part;
                if part == bytes.len() {
                    peer.queue.pop_front();
                } else {
                    bytes.drain(..part);
                }
            }
            if filled > 0 {
                self.ring.send(peer.stream, peer.send_slot, 0..filled, SEND | place as u32)?;
            }
        }
        Ok(())
    }

    /// Answers clients and lets them ask again; what they saw, when the time is over.
    fn serve(&mut self, started: Instant) -> Result<Option<Seen>> {
        let leads = self.paxos.get_current_leader() == Some((self.plan.node, true));
        let now = Instant::now();
        let clients = &mut self.clients;
        if !leads {
            ensure!(
                clients.begun.is_none(),
                "OmniPaxos's first node lost the lead: the machine is too busy to measure it"
            );
            ensure!(started.elapsed() < PATIENCE, "OmniPaxos's first node doesn't come to lead within {PATIENCE:?}");
            return Ok(None);
        }
        let begun = *clients.begun.get_or_insert(now);
        if clients.counted_from.is_none() && now - begun >= RAMP {
            clients.counted_from = Some(now);
        }
        let decided = self.paxos.get_decided_idx().min(self.durable_index);
        while let Some((_, commands, made_at)) = clients.groups.pop_front_if(|(end, _, _)| *end <= decided) {
            clients.in_flight -= commands as usize;
            clients.answered += commands as usize;
            if clients.counted_from.is_some_and(|from| from < now) {
                clients.commands += u64::from(commands);
                let took_us = (now - made_at).as_micros() as u64;
                clients.latency_us.saturating_record_n(took_us, commands.into());
            }
        }
        if let Some(from) = clients.counted_from
            && now - from >= self.plan.duration
        {
            let latency_us = clients.latency_us.clone();
            return Ok(Some(Seen { commands: clients.commands, seconds: (now - from).as_secs_f64(), latency_us }));
        }
        if decided >= clients.trimmed + TRIM_ENTRIES {
            // What a follower lacks is kept; the next time it has it.
            if self.paxos.trim(None).is_ok() {
                clients.trimmed = decided;
            }
        }
        let asked = self.plan.window - clients.in_flight;
        for number in 0..asked {
            let mut command = Command([0x5a; N]);
            command.0[..8].copy_from_slice(&((clients.answered + number) as u64).to_le_bytes());
            self.paxos.append(command).map_err(|_| anyhow!("OmniPaxos took no command"))?;
        }
        if asked > 0 {
            clients.in_flight += asked;
            clients.groups.push_back((self.store.0.borrow().end(), asked as u32, now));
        }
        Ok(None)
    }
}
