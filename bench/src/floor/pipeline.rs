//! The bare pipeline: what a replicated log does to bytes, without a protocol.
//!
//! A leader copies commands into a frame, checksums it, writes it to its disk and sends it to its followers; each follower
//! receives it, checks the checksum, writes it, and says so once it is durable; with a majority, the frame counts. There
//! are no ballots, no order of commits, no index, no trims, no clients: whatever a log does beyond that is its own cost.
//! One thread and one io_uring a replica, O_DIRECT, files that were written once before, real TCP on loopback.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::fs::OFlags;
use synod_wal::directory::ReadBuffer;

use super::ring::{Done, Handle, Ring};
use crate::options::Sync;

const BLOCK_BYTES: usize = 4096;
/// Length, checksum and number of a frame.
const HEADER_BYTES: usize = 16;
/// Part of a turn before anything is counted, at most.
const RAMP: Duration = Duration::from_millis(100);
/// Slots of frames beside those that wait for a majority: the slower follower's.
const SPARE_SLOTS: usize = 2;

/// What goes through the pipeline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// How many write every frame; at least one.
    pub(crate) replicas: u32,
    /// Largest frame, header included; a power of two from 4 KiB to 1 MiB.
    pub(crate) frame_bytes: usize,
    /// Frames sent and not yet durable at a majority.
    pub(crate) window: usize,
    /// Bytes of one command.
    pub(crate) command_bytes: usize,
    pub(crate) sync: Sync,
    /// Length of each replica's file, which is written again and again.
    pub(crate) file_bytes: u64,
}

impl Shape {
    pub(crate) fn commands_per_frame(&self) -> usize {
        ((self.frame_bytes - HEADER_BYTES) / self.command_bytes).max(1)
    }

    /// Bytes that go over the wire.
    fn sent_bytes(&self) -> usize {
        (HEADER_BYTES + self.commands_per_frame() * self.command_bytes).min(self.frame_bytes)
    }

    fn written_bytes(&self) -> usize {
        self.sent_bytes().next_multiple_of(BLOCK_BYTES)
    }
}

/// What one turn gave.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) commands: u64,
    pub(crate) seconds: f64,
    /// Microseconds from the copying of a frame to its majority.
    pub(crate) latency_us: Histogram<u64>,
}

impl Turn {
    pub(crate) fn commands_per_second(&self) -> f64 {
        self.commands as f64 / self.seconds.max(1e-9)
    }
}

/// The files of a pipeline; removed when dropped.
pub(crate) struct Pipeline {
    shape: Shape,
    paths: Vec<PathBuf>,
}

impl Pipeline {
    /// Writes each replica's file once.
    ///
    /// # Errors
    /// If the disk is full, or has no O_DIRECT.
    pub(crate) fn prepare(directory: &Path, shape: Shape) -> io::Result<Pipeline> {
        let paths = (0..shape.replicas).map(|replica| directory.join(format!("pipeline-{replica}"))).collect();
        let pipeline = Pipeline { shape, paths };
        for path in &pipeline.paths {
            write_once(path, shape.file_bytes)?;
        }
        Ok(pipeline)
    }

    /// What goes through it.
    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Lets frames through for `duration`.
    ///
    /// # Errors
    /// If a disk or a connection fails, or a frame comes damaged.
    pub(crate) fn turn(&self, duration: Duration) -> io::Result<Turn> {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        thread::scope(|scope| {
            let mut followers = Vec::new();
            let mut streams = Vec::new();
            for path in &self.paths[1..] {
                let near = TcpStream::connect(address)?;
                let (far, _) = listener.accept()?;
                near.set_nodelay(true)?;
                far.set_nodelay(true)?;
                streams.push(near);
                let shape = self.shape;
                followers.push(scope.spawn(move || Follower::new(shape, path, far)?.run()));
            }
            let turn = Leader::new(self.shape, &self.paths[0], streams)?.run(duration);
            // The leader's connections are closed by now, so the followers end, whatever became of it.
            for follower in followers {
                follower.join().map_err(|_| io::Error::other("a follower panicked"))??;
            }
            turn
        })
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Fills a file with bytes, durably, past the page cache. What a recycled segment is.
pub(crate) fn write_once(path: &Path, bytes: u64) -> io::Result<()> {
    let file = open(path, Sync::Fdatasync)?;
    let mut chunk = ReadBuffer::zeroed(1 << 20)?;
    chunk.as_mut().fill(0x5a);
    let mut offset = 0;
    while offset < bytes {
        let part = (bytes - offset).min(1 << 20) as usize;
        file.write_all_at(&chunk.as_ref()[..part], offset)?;
        offset += part as u64;
    }
    file.sync_all()
}

/// Opens a file past the page cache.
pub(crate) fn open(path: &Path, sync: Sync) -> io::Result<File> {
    let flags = match sync {
        Sync::Fdatasync => OFlags::DIRECT,
        Sync::Dsync => OFlags::DIRECT | OFlags::DSYNC,
    };
    OpenOptions::new().read(true).write(true).create(true).custom_flags(flags.bits() as i32).open(path)
}

/// A file that is written in turns, and what of it is durable.
pub(crate) struct Disk {
    file: Handle,
    sync: Sync,
    file_bytes: u64,
    offset: u64,
    /// Written, but not synced.
    written: Vec<usize>,
    /// What the sync under way covers.
    syncing: Vec<usize>,
    sync_tag: u32,
}

impl Disk {
    /// `sync_tag` is what the syncs are called.
    pub(crate) fn new(ring: &mut Ring, file: File, shape: (Sync, u64), sync_tag: u32) -> Disk {
        let (sync, file_bytes) = shape;
        let file = ring.adopt(file);
        Disk { file, sync, file_bytes, offset: 0, written: Vec::new(), syncing: Vec::new(), sync_tag }
    }

    /// Writes the beginning of a slot at the next place.
    pub(crate) fn write(&mut self, ring: &mut Ring, slot: usize, bytes: usize, tag: u32) -> io::Result<()> {
        if self.offset + bytes as u64 > self.file_bytes {
            self.offset = 0;
        }
        ring.write(self.file, slot, 0..bytes, self.offset, tag)?;
        self.offset += bytes as u64;
        Ok(())
    }

    /// A write has ended: those slots that are durable by that.
    pub(crate) fn on_written(&mut self, ring: &mut Ring, slot: usize, durable: &mut Vec<usize>) -> io::Result<()> {
        match self.sync {
            Sync::Dsync => durable.push(slot),
            Sync::Fdatasync => {
                self.written.push(slot);
                self.sync(ring)?;
            }
        }
        Ok(())
    }

    /// A sync has ended: those slots that are durable by that.
    pub(crate) fn on_synced(&mut self, ring: &mut Ring, durable: &mut Vec<usize>) -> io::Result<()> {
        durable.append(&mut self.syncing);
        self.sync(ring)
    }

    /// One sync at a time, for all writes that have ended.
    fn sync(&mut self, ring: &mut Ring) -> io::Result<()> {
        if self.syncing.is_empty() && !self.written.is_empty() {
            std::mem::swap(&mut self.syncing, &mut self.written);
            ring.sync(self.file, self.sync_tag)?;
        }
        Ok(())
    }
}

/// What an operation is called: what it does, and on which slot or connection.
const WRITE: u32 = 1 << 16;
const SYNC: u32 = 2 << 16;
const SEND: u32 = 3 << 16;
const RECEIVE: u32 = 4 << 16;
const KIND: u32 = 0xffff_0000;

/// A connection of the leader's.
struct Peer {
    stream: Handle,
    /// Slots to be sent, in order; the first is under way.
    queue: std::collections::VecDeque<usize>,
    /// Where its acknowledgements are received, and how much of one was there at the last look.
    slot: usize,
    rest: usize,
}

/// A frame of the leader's.
#[derive(Clone, Copy)]
struct Open {
    copied_at: Instant,
    acknowledged: u32,
    /// Sends and the write that have not ended.
    holds: u32,
}

struct Leader {
    shape: Shape,
    ring: Ring,
    disk: Disk,
    peers: Vec<Peer>,
    /// What frames are filled with.
    source: Vec<u8>,
    frames: Vec<Option<Open>>,
    free: Vec<usize>,
    /// Frames without a majority.
    waiting: usize,
}

impl Leader {
    fn new(shape: Shape, path: &Path, streams: Vec<TcpStream>) -> io::Result<Leader> {
        let slots = shape.window * (1 + SPARE_SLOTS);
        let mut ring = Ring::new(slots + streams.len(), shape.frame_bytes)?;
        let disk = Disk::new(&mut ring, open(path, shape.sync)?, (shape.sync, shape.file_bytes), SYNC);
        let peers = streams
            .into_iter()
            .enumerate()
            .map(|(place, stream)| Peer {
                stream: ring.adopt(stream),
                queue: std::collections::VecDeque::new(),
                slot: slots + place,
                rest: 0,
            })
            .collect();
        let payload = shape.sent_bytes() - HEADER_BYTES;
        let source = (0..payload).map(|place| (place * 31 % 253) as u8).collect();
        let frames = vec![None; slots];
        let free = (0..slots).collect();
        Ok(Leader { shape, ring, disk, peers, source, frames, free, waiting: 0 })
    }

    fn run(mut self, duration: Duration) -> io::Result<Turn> {
        let mut latency_us = Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds are sound");
        let (mut frames, mut ended, mut durable) = (0, Vec::new(), Vec::new());
        for place in 0..self.peers.len() {
            self.listen(place)?;
        }
        let begun = Instant::now();
        let ramp = RAMP.min(duration / 4);
        let mut counted_from = begun;
        loop {
            while self.waiting < self.shape.window
                && let Some(slot) = self.free.pop()
            {
                self.begin(slot)?;
            }
            self.ring.wait(&mut ended)?;
            let now = Instant::now();
            if now - begun < ramp {
                counted_from = now;
            }
            for done in ended.drain(..) {
                self.on_done(&done, &mut durable)?;
                for slot in durable.drain(..) {
                    if let Some(copied_at) = self.acknowledge(slot)
                        && counted_from < now
                    {
                        frames += 1;
                        latency_us.saturating_record((now - copied_at).as_micros() as u64);
                    }
                }
            }
            if now - begun >= duration {
                let seconds = (now - counted_from).as_secs_f64();
                let commands = frames * self.shape.commands_per_frame() as u64;
                self.finish()?;
                return Ok(Turn { commands, seconds, latency_us });
            }
        }
    }

    /// Copies, checksums, writes and sends one frame.
    fn begin(&mut self, slot: usize) -> io::Result<()> {
        let copied_at = Instant::now();
        let sent = self.shape.sent_bytes();
        let bytes = self.ring.slot_mut(slot);
        bytes[HEADER_BYTES..sent].copy_from_slice(&self.source);
        seal(&mut bytes[..sent], slot as u32);
        self.disk.write(&mut self.ring, slot, self.shape.written_bytes(), WRITE | slot as u32)?;
        for place in 0..self.peers.len() {
            let peer = &mut self.peers[place];
            peer.queue.push_back(slot);
            if peer.queue.len() == 1 {
                self.ring.send(peer.stream, slot, 0..sent, SEND | place as u32)?;
            }
        }
        let holds = 1 + self.peers.len() as u32;
        self.frames[slot] = Some(Open { copied_at, acknowledged: 0, holds });
        self.waiting += 1;
        Ok(())
    }

    fn listen(&mut self, place: usize) -> io::Result<()> {
        let peer = &self.peers[place];
        let part = peer.rest..self.shape.frame_bytes;
        self.ring.receive(peer.stream, peer.slot, part, false, RECEIVE | place as u32)
    }

    /// What an operation's end makes durable somewhere goes into `durable`, slot by slot.
    fn on_done(&mut self, done: &Done, durable: &mut Vec<usize>) -> io::Result<()> {
        let which = (done.tag & !KIND) as usize;
        let bytes = moved(done)?;
        match done.tag & KIND {
            WRITE => {
                whole(bytes, self.shape.written_bytes())?;
                self.release(which);
                self.disk.on_written(&mut self.ring, which, durable)
            }
            SYNC => self.disk.on_synced(&mut self.ring, durable),
            SEND => {
                whole(bytes, self.shape.sent_bytes())?;
                let peer = &mut self.peers[which];
                let slot = peer.queue.pop_front().expect("what was sent was queued");
                if let Some(next) = peer.queue.front() {
                    self.ring.send(peer.stream, *next, 0..self.shape.sent_bytes(), SEND | which as u32)?;
                }
                self.release(slot);
                Ok(())
            }
            _ => {
                if bytes == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let peer = &mut self.peers[which];
                let there = peer.rest + bytes;
                let answers = self.ring.slot_mut(peer.slot);
                let (numbers, _) = answers[..there].as_chunks::<4>();
                durable.extend(numbers.iter().map(|number| u32::from_le_bytes(*number) as usize));
                peer.rest = there % 4;
                answers.copy_within(there - peer.rest..there, 0);
                self.listen(which)
            }
        }
    }

    /// One more replica has it durably; when it was copied, if that makes the majority.
    fn acknowledge(&mut self, slot: usize) -> Option<Instant> {
        let majority = self.shape.replicas / 2 + 1;
        let frame = self.frames[slot].as_mut()?;
        frame.acknowledged += 1;
        let copied_at = (frame.acknowledged == majority).then_some(frame.copied_at);
        if copied_at.is_some() {
            self.waiting -= 1;
        }
        self.reuse(slot);
        copied_at
    }

    fn release(&mut self, slot: usize) {
        if let Some(frame) = &mut self.frames[slot] {
            frame.holds -= 1;
        }
        self.reuse(slot);
    }

    /// A slot is free when nothing is to come of it: numbers of slots are all that tells frames apart.
    fn reuse(&mut self, slot: usize) {
        if self.frames[slot].is_some_and(|frame| frame.holds == 0 && frame.acknowledged == self.shape.replicas) {
            self.frames[slot] = None;
            self.free.push(slot);
        }
    }

    /// Waits for every frame, then lets the followers go.
    fn finish(&mut self) -> io::Result<()> {
        let (mut ended, mut durable) = (Vec::new(), Vec::new());
        while self.free.len() < self.frames.len() {
            self.ring.wait(&mut ended)?;
            for done in ended.drain(..) {
                self.on_done(&done, &mut durable)?;
                for slot in durable.drain(..) {
                    self.acknowledge(slot);
                }
            }
        }
        // A frame of length zero says good-bye; the followers then close, which ends the receiving.
        for place in 0..self.peers.len() {
            self.ring.slot_mut(0)[..HEADER_BYTES].fill(0);
            let stream = self.peers[place].stream;
            self.ring.send(stream, 0, 0..self.shape.sent_bytes(), SEND | place as u32)?;
            while !self.ring.is_idle(0) {
                self.ring.wait(&mut ended)?;
                ended.clear();
            }
        }
        Ok(())
    }
}

struct Follower {
    shape: Shape,
    ring: Ring,
    disk: Disk,
    leader: Handle,
    free: Vec<usize>,
    /// The leader's name for the frame in each slot.
    names: Vec<u32>,
    receiving: Option<usize>,
    /// Acknowledgements that wait to be sent.
    answers: Vec<u8>,
    /// The slot that answers are sent from.
    answer_slot: usize,
    ended: bool,
}

impl Follower {
    fn new(shape: Shape, path: &Path, stream: TcpStream) -> io::Result<Follower> {
        let slots = shape.window * (1 + SPARE_SLOTS);
        let mut ring = Ring::new(slots + 1, shape.frame_bytes)?;
        let disk = Disk::new(&mut ring, open(path, shape.sync)?, (shape.sync, shape.file_bytes), SYNC);
        Ok(Follower {
            shape,
            disk,
            leader: ring.adopt(stream),
            ring,
            free: (0..slots).collect(),
            names: vec![0; slots],
            receiving: None,
            answers: Vec::new(),
            answer_slot: slots,
            ended: false,
        })
    }

    fn run(mut self) -> io::Result<()> {
        let (mut ended, mut durable) = (Vec::new(), Vec::new());
        while !self.ended {
            if self.receiving.is_none()
                && let Some(slot) = self.free.pop()
            {
                let part = 0..self.shape.sent_bytes();
                self.ring.receive(self.leader, slot, part, true, RECEIVE | slot as u32)?;
                self.receiving = Some(slot);
            }
            self.ring.wait(&mut ended)?;
            for done in ended.drain(..) {
                self.on_done(&done, &mut durable)?;
            }
            for slot in durable.drain(..) {
                self.answers.extend_from_slice(&self.names[slot].to_le_bytes());
                self.free.push(slot);
            }
            self.answer()?;
        }
        Ok(())
    }

    fn on_done(&mut self, done: &Done, durable: &mut Vec<usize>) -> io::Result<()> {
        let which = (done.tag & !KIND) as usize;
        let bytes = moved(done)?;
        match done.tag & KIND {
            RECEIVE => {
                self.receiving = None;
                if bytes == 0 {
                    self.ended = true;
                    return Ok(());
                }
                let sent = self.shape.sent_bytes();
                whole(bytes, sent)?;
                let Some(name) = opened(&self.ring.slot_mut(which)[..sent])? else {
                    self.ended = true;
                    return Ok(());
                };
                self.names[which] = name;
                self.disk.write(&mut self.ring, which, self.shape.written_bytes(), WRITE | which as u32)
            }
            WRITE => {
                whole(bytes, self.shape.written_bytes())?;
                self.disk.on_written(&mut self.ring, which, durable)
            }
            SYNC => self.disk.on_synced(&mut self.ring, durable),
            _ => Ok(()),
        }
    }

    /// Sends what has gathered, one send at a time.
    fn answer(&mut self) -> io::Result<()> {
        if self.answers.is_empty() || !self.ring.is_idle(self.answer_slot) {
            return Ok(());
        }
        let bytes = self.answers.len();
        self.ring.slot_mut(self.answer_slot)[..bytes].copy_from_slice(&self.answers);
        self.answers.clear();
        self.ring.send(self.leader, self.answer_slot, 0..bytes, SEND)
    }
}

/// Writes the header: the length, the checksum over everything behind it, and the name.
fn seal(frame: &mut [u8], name: u32) {
    let length = frame.len() as u32;
    frame[8..12].copy_from_slice(&name.to_le_bytes());
    let checksum = crc32fast::hash(&frame[8..]);
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame[4..8].copy_from_slice(&checksum.to_le_bytes());
}

/// The name of a frame that checks; none if it says good-bye.
fn opened(frame: &[u8]) -> io::Result<Option<u32>> {
    let word = |at: usize| u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    if word(0) == 0 {
        return Ok(None);
    }
    if word(0) as usize != frame.len() || word(4) != crc32fast::hash(&frame[8..]) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame of the bare pipeline came damaged"));
    }
    Ok(Some(word(8)))
}

fn moved(done: &Done) -> io::Result<usize> {
    match &done.result {
        Ok(bytes) => Ok(*bytes),
        Err(error) => Err(io::Error::new(error.kind(), format!("in the bare pipeline: {error}"))),
    }
}

fn whole(moved: usize, wanted: usize) -> io::Result<()> {
    if moved == wanted {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{moved} of {wanted} bytes in the bare pipeline")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(replicas: u32, sync: Sync) -> Shape {
        Shape { replicas, frame_bytes: 16 << 10, window: 4, command_bytes: 128, sync, file_bytes: 1 << 20 }
    }

    #[test]
    fn frames_go_through_with_either_way_to_sync() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory");
        for (replicas, sync) in [(3, Sync::Dsync), (3, Sync::Fdatasync), (1, Sync::Dsync), (5, Sync::Dsync)] {
            let pipeline = Pipeline::prepare(directory.path(), shape(replicas, sync)).expect("files");
            // Long enough for a machine on which others are busy.
            let turn = pipeline.turn(Duration::from_millis(500)).expect("a turn");
            assert!(turn.commands > 0 && turn.commands.is_multiple_of(127), "{} commands", turn.commands);
            assert_eq!(turn.latency_us.len() * 127, turn.commands);
            assert!(turn.seconds > 0.0 && turn.seconds < 60.0);
        }
        let left = std::fs::read_dir(directory.path()).expect("a directory").count();
        assert_eq!(left, 0, "the files are gone");
    }

    #[test]
    fn a_damaged_frame_is_no_frame() {
        let mut frame = vec![7; 4096];
        seal(&mut frame, 3);
        assert_eq!(opened(&frame).expect("sound"), Some(3));
        for place in [0, 5, 9, 100, 4095] {
            let mut other = frame.clone();
            other[place] ^= 1;
            assert!(opened(&other).is_err(), "byte {place}");
        }
        assert_eq!(opened(&[0; 4096]).expect("a good-bye"), None);
    }

    #[test]
    fn a_frame_is_full_of_whole_commands() {
        let shape = Shape { frame_bytes: 4096, ..shape(3, Sync::Dsync) };
        assert_eq!((shape.commands_per_frame(), shape.sent_bytes(), shape.written_bytes()), (31, 3984, 4096));
    }
}
