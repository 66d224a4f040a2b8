//! Giving snapshots to peers whose logs begin behind what they have applied, and taking theirs.
//!
//! A thread beside the driver does both: it carries out what a [`Seeker`] and a [`Holder`] ask for, with files in a
//! [`Store`]. Everything that waits for a disk waits on this thread; only writing a snapshot is the machine's own work, between
//! two transactions.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fmt, io};

use futures_channel::oneshot;
use synod_protocol::limits::SNAPSHOT_CHUNK_BYTES;
use synod_protocol::snapshot::{
    Hold, Holder, HolderEffect, HolderSettings, NoSnapshot, Seeker, SeekerEffect, SnapshotId, SnapshotMessage,
};
use synod_protocol::{Instant as Now, NodeId, Slot};
use thiserror::Error;

use super::exchange::{Exchange, Note};
use super::store::Store;
use crate::log::Shared;
use crate::mailbox::Request;

/// How often to look how far the log has been trimmed meanwhile, and how long it has been in vain.
const PACE: Duration = Duration::from_millis(250);

/// How often to say that there is none.
const TELL: Duration = Duration::from_secs(10);

/// How a driver gives snapshots to its peers and takes theirs.
///
/// Besides the machine itself it takes at most 10 MiB of memory, however long a snapshot is.
#[derive(Clone, Debug)]
pub struct SnapshotOptions {
    /// Where they lie: a directory of their own, on a disk that has room for three. It is made if it isn't there. The newest
    /// two are kept.
    pub directory: PathBuf,
    /// Bytes given away in a second, to all peers together. At least 256 KiB. Default 64 MiB.
    pub bytes_per_second: u64,
    /// Peers that may fetch at once; others wait. At least 1. Default 2.
    pub transfers_max: usize,
    /// How long to look for one, without a single byte of it coming in, before the driver ends with
    /// [`super::DriveError::NoSnapshot`]. `None`, the default, looks for ever: [`super::Driver::search`] tells.
    pub patience: Option<Duration>,
}

impl SnapshotOptions {
    /// With snapshots in this directory, and defaults for everything else.
    pub fn in_directory(directory: impl Into<PathBuf>) -> SnapshotOptions {
        SnapshotOptions { directory: directory.into(), bytes_per_second: 64 << 20, transfers_max: 2, patience: None }
    }
}

/// Why no snapshots can be given or taken.
#[derive(Clone, Debug, Error)]
pub enum SnapshotsError {
    /// The directory can't be used.
    #[error("{}: snapshots can't be kept there: {source}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// Another driver, perhaps of another process, keeps its snapshots there, or gives them away for this log already.
    #[error("{}: another driver keeps its snapshots there, or gives snapshots of this log already", path.display())]
    Taken {
        /// Which directory.
        path: PathBuf,
    },
    /// This log is reached over the network: its node's peers don't know of this program.
    #[error(
        "a log that is reached over the network has no peers to exchange snapshots with: give DriverOptions::snapshots"
    )]
    Remote,
    /// A value outside its range.
    #[error("SnapshotOptions::{field} must be at least {min}, not {value}")]
    Range {
        /// The field.
        field: &'static str,
        /// The value given.
        value: u64,
        /// The smallest that is allowed.
        min: u64,
    },
}

/// Who has no snapshot, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused(pub Vec<(NodeId, NoSnapshot)>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no peer has answered");
        }
        for (index, (node, why)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}node {} {why}", node.0)?;
        }
        Ok(())
    }
}

/// How far the search for a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// It must stand for this slot or a later one.
    pub at_least: Slot,
    /// The one that is on its way: the slot that it stands for.
    pub position: Option<Slot>,
    /// Its length in bytes.
    pub bytes: u64,
    /// How many of them are here.
    pub fetched: u64,
    /// Who has none, as last heard.
    pub refused: Refused,
}

/// What a search has brought: a file, or who has none.
pub(super) type Found = Result<(Slot, PathBuf), (Slot, Refused)>;

/// What the driver's thread is asked for: to write a snapshot into this directory and to tell the exchange. False if it has
/// ended.
pub(super) type Make = Box<dyn FnMut() -> bool + Send>;

/// The thread's own; see the module.
pub(super) struct Clerk {
    pub(super) shared: Arc<Shared>,
    pub(super) driver: u64,
    pub(super) options: SnapshotOptions,
    pub(super) store: Store,
    pub(super) make: Make,
    /// How far the machine has come.
    pub(super) position: Box<dyn Fn() -> Slot + Send>,
    pub(super) search: Arc<Mutex<Option<Search>>>,
}

/// A search under way.
struct Seeking {
    seeker: Seeker,
    reply: Option<oneshot::Sender<Found>>,
    progress: u64,
    progress_at: Instant,
    tell_at: Instant,
}

impl SnapshotOptions {
    /// Opens the directory, for a driver of this log.
    pub(super) fn open(&self, exchange: &Exchange) -> Result<Store, SnapshotsError> {
        let range = |field, value: u64, min: u64| match value < min {
            true => Err(SnapshotsError::Range { field, value, min }),
            false => Ok(()),
        };
        range("bytes_per_second", self.bytes_per_second, SNAPSHOT_CHUNK_BYTES.into())?;
        range("transfers_max", self.transfers_max as u64, 1)?;
        if exchange.is_remote() {
            return Err(SnapshotsError::Remote);
        }
        let path = || self.directory.clone();
        let store = Store::open(&self.directory).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => SnapshotsError::Taken { path: path() },
            _ => SnapshotsError::Directory { path: path(), source: Arc::new(source) },
        })?;
        if exchange.attach() { Ok(store) } else { Err(SnapshotsError::Taken { path: path() }) }
    }
}

impl Clerk {
    /// Gives and takes until it is told to stop.
    pub(super) fn run(mut self) {
        let begun = Instant::now();
        let clock = || Now(begun.elapsed().as_micros() as u64);
        let shared = Arc::clone(&self.shared);
        let exchange = &shared.exchange;
        let stored = self.store.sound().unwrap_or_else(|error| {
            tracing::error!(%error, directory = %self.store.directory().display(), "stored snapshots can't be read");
            Vec::new()
        });
        let SnapshotOptions { transfers_max, bytes_per_second, .. } = self.options;
        let mut holder = Holder::new(clock(), HolderSettings { transfers_max, bytes_per_second }, stored);
        let mut seeking: Option<Seeking> = None;
        loop {
            let deadline = seeking.as_ref().and_then(|seeking| seeking.seeker.poll_deadline());
            let until = deadline.map(|deadline| begun + Duration::from_micros(deadline.0));
            let until = until.unwrap_or(Instant::now() + PACE).min(Instant::now() + PACE);
            let note = exchange.next(until);
            let now = clock();
            match note {
                Some(Note::Stop) => return,
                Some(Note::Message(from, message)) => {
                    holder.handle_message(now, from, &message, (self.position)());
                    if let Some(seeking) = &mut seeking {
                        seeking.seeker.handle_message(now, from, message);
                    }
                }
                Some(Note::Seek(at_least, reply)) => seeking = self.begin(now, at_least, reply, &holder),
                Some(Note::Restored) => seeking = None,
                Some(Note::Made(snapshot)) => holder.made(now, snapshot),
                None => {}
            }
            if let Some(seeking) = &mut seeking {
                self.seek(now, seeking, &mut holder);
            }
            self.publish(seeking.as_ref());
            self.hold_out(now, &mut holder);
        }
    }

    /// Begins a search, which may be over at once: what was fetched before a crash is there.
    fn begin(&self, now: Now, at_least: Slot, reply: oneshot::Sender<Found>, holder: &Holder) -> Option<Seeking> {
        if let Some(stored) = holder.stored().last().filter(|stored| stored.position >= at_least) {
            let hold = Hold { from: stored.position, progress: 0 };
            self.shared.exchange.set_hold(self.driver, Some(hold));
            // A driver that has ended doesn't want to know.
            let _ = reply.send(Ok((stored.position, self.store.path(*stored))));
            return None;
        }
        let partial = self.store.partial().unwrap_or_else(|error| {
            tracing::warn!(%error, "what was being fetched can't be read, and is fetched anew");
            None
        });
        tracing::warn!(%at_least, "the log begins behind what the state machine has applied: it needs a snapshot");
        Some(Seeking {
            seeker: Seeker::new(now, at_least, partial),
            reply: Some(reply),
            progress: 0,
            progress_at: Instant::now(),
            tell_at: Instant::now() + TELL,
        })
    }

    /// Goes on with a search.
    fn seek(&self, now: Now, seeking: &mut Seeking, holder: &mut Holder) {
        let Seeking { seeker, reply, progress, progress_at, tell_at } = seeking;
        if reply.is_none() {
            return;
        }
        seeker.raise(now, self.shared.board.base());
        if seeker.poll_deadline().is_some_and(|deadline| deadline <= now) {
            seeker.handle_timeout(now);
        }
        while let Some(effect) = seeker.poll_effect() {
            if let Err(error) = self.carry_out(now, seeker, effect, holder) {
                let directory = self.store.directory().display();
                tracing::error!(%error, %directory, "a snapshot can't be stored; it is tried again");
                seeker.failed(now);
            }
        }
        let hold = seeker.hold();
        self.shared.exchange.set_hold(self.driver, Some(hold));
        if hold.progress > *progress {
            (*progress, *progress_at) = (hold.progress, Instant::now());
        }
        if let Some(snapshot) = seeker.done() {
            tracing::info!(position = %snapshot.position, bytes = snapshot.bytes, "a snapshot has come from a peer");
            if let Some(reply) = reply.take() {
                let _ = reply.send(Ok((snapshot.position, self.store.path(snapshot))));
            }
            return;
        }
        let refused = || Refused(seeker.refusals().iter().map(|(node, why)| (*node, *why)).collect());
        if self.options.patience.is_some_and(|patience| progress_at.elapsed() >= patience) {
            if let Some(reply) = reply.take() {
                let _ = reply.send(Err((seeker.at_least(), refused())));
            }
        } else if Instant::now() >= *tell_at {
            *tell_at = Instant::now() + TELL;
            let fetched = seeker.partial().map_or(0, |(_, bytes)| bytes);
            tracing::warn!(at_least = %seeker.at_least(), fetched, refused = %refused(), "still looking for a snapshot");
        }
    }

    fn carry_out(&self, now: Now, seeker: &mut Seeker, effect: SeekerEffect, holder: &mut Holder) -> io::Result<()> {
        match effect {
            SeekerEffect::Send { to, message } => self.send(to, message),
            SeekerEffect::Begin { snapshot } => self.store.begin(snapshot)?,
            SeekerEffect::Write { snapshot, offset, data } => self.store.write(snapshot, offset, &data)?,
            SeekerEffect::Finish { snapshot } => {
                let is_sound = self.store.finish(snapshot)?;
                if is_sound {
                    holder.keep(now, snapshot);
                } else {
                    tracing::warn!(position = %snapshot.position, "a snapshot came damaged; it is fetched anew");
                }
                seeker.finished(now, is_sound);
            }
        }
        Ok(())
    }

    /// Carries out what the holder asks for.
    fn hold_out(&mut self, now: Now, holder: &mut Holder) {
        while let Some(effect) = holder.poll_effect() {
            match effect {
                HolderEffect::Send { to, message } => self.send(Some(to), message),
                HolderEffect::Make => {
                    if !(self.make)() {
                        holder.made(now, None);
                    }
                }
                HolderEffect::Read { to, snapshot, offset, bytes } => match self.store.read(snapshot, offset, bytes) {
                    Ok(data) => self.send(Some(to), SnapshotMessage::Chunk { snapshot, offset, data }),
                    Err(error) => {
                        tracing::error!(position = %snapshot.position, %error, "a stored snapshot can't be read");
                        holder.lost(snapshot);
                    }
                },
                HolderEffect::Remove { snapshot } => self.store.remove(snapshot),
            }
        }
    }

    fn send(&self, to: Option<NodeId>, message: SnapshotMessage) {
        self.shared.mailbox.ask(Request::SendSnapshot { to, message });
    }

    fn publish(&self, seeking: Option<&Seeking>) {
        let search = seeking.filter(|seeking| seeking.reply.is_some()).map(|Seeking { seeker, .. }| {
            let partial = seeker.partial();
            Search {
                at_least: seeker.at_least(),
                position: partial.map(|(snapshot, _)| snapshot.position),
                bytes: partial.map_or(0, |(snapshot, _)| snapshot.bytes),
                fetched: partial.map_or(0, |(_, bytes)| bytes),
                refused: Refused(seeker.refusals().iter().map(|(node, why)| (*node, *why)).collect()),
            }
        });
        *self.search.lock().expect("no code that holds this lock panics") = search;
    }
}

/// Ends the exchange when the thread is done, also by a panic.
pub(super) struct Attached(pub(super) Arc<Shared>);

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.exchange.detach();
    }
}

/// What became of an attempt to write one; said once.
pub(super) fn note_made<E: fmt::Display>(shared: &Shared, made: io::Result<Result<SnapshotId, E>>) {
    let snapshot = match made {
        Ok(Ok(snapshot)) => Some(snapshot),
        Ok(Err(error)) => {
            tracing::error!(%error, "the state machine can't write a snapshot");
            None
        }
        Err(error) => {
            tracing::error!(%error, "a snapshot can't be stored");
            None
        }
    };
    shared.exchange.note(Note::Made(snapshot));
}
