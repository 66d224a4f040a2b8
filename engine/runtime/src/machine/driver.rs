//! The thread that applies a log to a machine, and the handle to it.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use futures_channel::{mpsc, oneshot};
use futures_lite::future::block_on;
use futures_lite::{FutureExt as _, StreamExt as _};
use synod_frame::Batch;
use synod_protocol::Slot;
use synod_protocol::snapshot::{Hold, SnapshotId};
use thiserror::Error;

use super::exchange::Note;
use super::results::{NoOutput, Results};
use super::snapshots::{Attached, Clerk, Found, Make, Search, SnapshotOptions, SnapshotsError, note_made};
use super::store;
use super::{Commands, Refused, SnapshotSource, StateMachine};
use crate::error::{AppendError, BarrierError, ReadError, Retry};
use crate::log::{AppendOptions, Log, Shared, one};
use crate::reader::{ReadItem, Reader, SharedBody};
use crate::seam::executor::panic_text;

/// Requests that may wait for the driver's thread, besides one for each handle.
const REQUESTS_MAX: usize = 1024;

/// What a driver may be told.
pub struct DriverOptions {
    /// Gives snapshots of this machine to the node's peers, and takes theirs when the log was trimmed past the machine's
    /// position. Default: none are given, and none are taken.
    pub exchange: Option<SnapshotOptions>,
    /// Where a snapshot comes from instead, without an exchange. Default: nowhere; the driver ends with
    /// [`DriveError::Behind`] when it needs one.
    pub snapshots: Option<Box<dyn SnapshotSource>>,
    /// Bytes of bodies that are applied in one transaction, if so many are there already. Default 1 MiB.
    pub transaction_bytes: usize,
    /// Outputs that are kept for those who had commands executed and haven't heard of them yet. Default 65,536.
    pub outputs_max: usize,
}

impl Default for DriverOptions {
    fn default() -> DriverOptions {
        DriverOptions { exchange: None, snapshots: None, transaction_bytes: 1 << 20, outputs_max: 65_536 }
    }
}

impl fmt::Debug for DriverOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DriverOptions")
            .field("exchange", &self.exchange)
            .field("snapshots", &self.snapshots.is_some())
            .field("transaction_bytes", &self.transaction_bytes)
            .field("outputs_max", &self.outputs_max)
            .finish()
    }
}

/// Why a driver has ended by itself. The machine's storage is as the last transaction left it.
#[derive(Clone, Debug, Error)]
pub enum DriveError {
    /// The machine can't go on; after its storage is mended, start another driver.
    #[error("the state machine failed: {0}")]
    Machine(Arc<dyn std::error::Error + Send + Sync>),
    /// The machine has panicked: a bug of it.
    #[error("the state machine has panicked: {0}")]
    Panic(String),
    /// The machine gave another number of outputs than there were commands: a bug of it.
    #[error("the state machine gave {outputs} outputs for {commands} commands")]
    Outputs {
        /// Commands.
        commands: usize,
        /// Outputs.
        outputs: usize,
    },
    /// The log begins behind the machine's position, and there is no snapshot to be had.
    #[error("the log begins at slot {first}, the machine lacks what comes before, and {reason}")]
    Behind {
        /// The first slot that is left.
        first: Slot,
        /// Why there is no snapshot.
        reason: String,
    },
    /// The log begins behind the machine's position, and no peer had a snapshot for as long as
    /// [`SnapshotOptions::patience`] says. Another driver goes on where this one was.
    #[error("the state machine needs a snapshot of slot {at_least} or later, and there is none: {refused}")]
    NoSnapshot {
        /// The lowest slot that is of use.
        at_least: Slot,
        /// Who has none, and why.
        refused: Refused,
    },
    /// Snapshots can't be given or taken.
    #[error(transparent)]
    Snapshots(#[from] SnapshotsError),
    /// A snapshot that was fetched can't be read.
    #[error("a fetched snapshot can't be read: {0}")]
    SnapshotFile(Arc<io::Error>),
    /// The log can't be read.
    #[error("the log can't be read: {0}")]
    Read(#[from] ReadError),
    /// The thread can't be started.
    #[error("the driver's thread can't be started: {0}")]
    Thread(Arc<io::Error>),
}

/// Why a command wasn't executed, or brought nothing.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ExecuteError {
    /// It wasn't appended, or may not have been.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// It was executed, but what it brought isn't kept: the answer was asked for by a retry, or came too late.
    #[error("the command at slot {slot} was executed, but its result isn't kept")]
    ResultGone {
        /// Where it stands.
        slot: Slot,
    },
    /// It stands in the log and will be executed, but not by this driver, which has ended; see [`Driver::stop`].
    #[error("the command at slot {slot} is in the log, but the driver has ended")]
    Stopped {
        /// Where it stands.
        slot: Slot,
    },
}

impl ExecuteError {
    /// Whether to try again, where, and when. A command that stands in the log must not be tried again.
    pub fn retry(&self) -> Retry {
        match self {
            ExecuteError::Append(error) => error.retry(),
            ExecuteError::ResultGone { .. } | ExecuteError::Stopped { .. } => Retry::Never,
        }
    }
}

/// Why a query has no answer. It changes nothing: ask again.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum QueryError {
    /// Nobody could confirm that the answer would be fresh.
    #[error(transparent)]
    Barrier(#[from] BarrierError),
    /// The driver has ended; see [`Driver::stop`].
    #[error("the driver has ended")]
    Stopped,
}

impl QueryError {
    /// Whether to try again, where, and when.
    pub fn retry(&self) -> Retry {
        match self {
            QueryError::Barrier(error) => error.retry(),
            QueryError::Stopped => Retry::Elsewhere,
        }
    }
}

/// A question to the machine, which sends the answer itself.
type Query<M> = Box<dyn FnOnce(&M) + Send>;

/// What the thread is asked for.
enum Request<M> {
    /// Run this once everything below the slot is applied.
    Query { at_least: Slot, run: Query<M> },
    /// End.
    Stop,
}

/// What the thread leaves behind.
type Ended<M> = (M, Result<(), DriveError>);

/// Applies a log to a machine on a thread of its own; see [`StateMachine`]. Dropping it ends the thread and waits for the
/// transaction under way.
///
/// All methods may be called from any thread but the driver's own: a query that executes a command waits for itself.
pub struct Driver<M: StateMachine> {
    log: Log,
    results: Arc<Results<M::Output>>,
    requests: mpsc::Sender<Request<M>>,
    error: Arc<Mutex<Option<DriveError>>>,
    search: Arc<Mutex<Option<Search>>>,
    /// Where snapshots are kept.
    directory: Option<PathBuf>,
    thread: Option<JoinHandle<Ended<M>>>,
    clerk: Option<JoinHandle<()>>,
}

impl<M: StateMachine> Driver<M> {
    /// Starts to apply the log from the machine's position on.
    ///
    /// # Errors
    /// If the machine can't say its position, or there can't be a thread.
    pub fn start(log: Log, machine: M, options: DriverOptions) -> Result<Driver<M>, DriveError> {
        let position = machine.position().map_err(|error| DriveError::Machine(Arc::new(error)))?;
        let results = Arc::new(Results::new(position, options.outputs_max));
        let (requests, requested) = mpsc::channel(REQUESTS_MAX);
        let (error, search) = (Arc::new(Mutex::new(None)), Arc::default());
        let shared = log.shared();
        let number = shared.exchange.add_driver();
        let directory = options.exchange.as_ref().map(|exchange| exchange.directory.clone());
        let clerk = match options.exchange.clone() {
            Some(options) => {
                let store = options.open(&shared.exchange)?;
                let attached = Attached(Arc::clone(shared));
                let make = maker(Arc::clone(shared), requests.clone(), store.directory().to_owned());
                let (shared, search, results) = (Arc::clone(shared), Arc::clone(&search), Arc::clone(&results));
                let position = Box::new(move || results.position());
                let clerk = Clerk { shared, driver: number, options, store, make, position, search };
                Some(spawn("synod-snapshots", move || {
                    let _attached = attached;
                    clerk.run();
                })?)
            }
            None => None,
        };
        let hold = Holding { shared: Arc::clone(shared), number };
        hold.set(position);
        let work = Work {
            machine,
            reader: log.reader(position),
            options,
            hold,
            results: Arc::clone(&results),
            requested,
            queries: VecDeque::new(),
            sought: None,
        };
        let noted = Arc::clone(&error);
        let thread = Some(spawn("synod-apply", move || work.run(&noted))?);
        Ok(Driver { log, results, requests, error, search, directory, thread, clerk })
    }

    /// The log that drives it.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The first slot that isn't applied yet.
    pub fn position(&self) -> Slot {
        self.results.position()
    }

    /// Why the driver has ended by itself, if it has.
    pub fn error(&self) -> Option<DriveError> {
        self.error.lock().expect("no code that holds this lock panics").clone()
    }

    /// How far the search for a snapshot is, while the machine needs one.
    pub fn search(&self) -> Option<Search> {
        self.search.lock().expect("no code that holds this lock panics").clone()
    }

    /// Appends a command, waits until it is applied here, and gives what it brought.
    ///
    /// Dropping the future means what it means in [`Log::append`]: the command may be executed all the same.
    ///
    /// # Errors
    /// See [`ExecuteError`].
    pub async fn execute(&self, command: impl AsRef<[u8]>) -> Result<M::Output, ExecuteError> {
        self.execute_with(command, AppendOptions::default()).await
    }

    /// As [`Driver::execute`], on terms. A retry in a session that finds its first attempt in the log hears
    /// [`ExecuteError::ResultGone`].
    ///
    /// # Errors
    /// See [`ExecuteError`].
    pub async fn execute_with(
        &self,
        command: impl AsRef<[u8]>,
        options: AppendOptions,
    ) -> Result<M::Output, ExecuteError> {
        let mut outputs = self.execute_batch_with(one(command.as_ref()), options).await?;
        Ok(outputs.pop().expect("one output for each command"))
    }

    /// Appends the commands of a batch as one, waits until they are applied here, and gives what each of them brought.
    /// Dropping the future means what it means in [`Driver::execute`].
    ///
    /// # Errors
    /// See [`ExecuteError`].
    pub async fn execute_batch_with(
        &self,
        batch: Batch,
        options: AppendOptions,
    ) -> Result<Vec<M::Output>, ExecuteError> {
        let mut interest = self.results.interest();
        let slots = self.log.append_batch_with(batch, options).await?;
        let mut outputs = Vec::new();
        let mut slot = slots.start;
        while slot < slots.end {
            outputs.push(interest.take(slot).await.map_err(|none| match none {
                NoOutput::Gone => ExecuteError::ResultGone { slot },
                NoOutput::Stopped => ExecuteError::Stopped { slot },
            })?);
            slot = slot.plus(1);
        }
        Ok(outputs)
    }

    /// [`Driver::execute`] for threads without an executor.
    ///
    /// # Errors
    /// See [`ExecuteError`].
    pub fn execute_blocking(&self, command: impl AsRef<[u8]>) -> Result<M::Output, ExecuteError> {
        block_on(self.execute(command))
    }

    /// [`Driver::execute_with`] for threads without an executor.
    ///
    /// # Errors
    /// See [`ExecuteError`].
    pub fn execute_with_blocking(
        &self,
        command: impl AsRef<[u8]>,
        options: AppendOptions,
    ) -> Result<M::Output, ExecuteError> {
        block_on(self.execute_with(command, options))
    }

    /// Asks the machine as it is now: what it answers may be stale, but never wrong. `ask` runs on the driver's thread,
    /// between two transactions.
    ///
    /// If the future is dropped, `ask` may run all the same.
    ///
    /// # Errors
    /// If the driver has ended.
    pub async fn query_local<R: Send + 'static>(
        &self,
        ask: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<R, QueryError> {
        self.query_from(Slot(0), ask).await
    }

    /// Asks the machine once it has applied everything that was acknowledged anywhere before this call: the answer is
    /// linearizable. See [`Log::barrier`]. If the future is dropped, `ask` may run all the same.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn query_fresh<R: Send + 'static>(
        &self,
        ask: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<R, QueryError> {
        let at_least = self.log.barrier().await?;
        self.query_from(at_least, ask).await
    }

    /// [`Driver::query_local`] for threads without an executor.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn query_local_blocking<R: Send + 'static>(
        &self,
        ask: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<R, QueryError> {
        block_on(self.query_local(ask))
    }

    /// [`Driver::query_fresh`] for threads without an executor.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn query_fresh_blocking<R: Send + 'static>(
        &self,
        ask: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<R, QueryError> {
        block_on(self.query_fresh(ask))
    }

    /// Has the machine write a snapshot, between two transactions, and gives the position that it stands for: what a
    /// transport of snapshots calls. What was written is only good if this succeeds. If the future is dropped, the machine
    /// may write it all the same, and `into` is dropped.
    ///
    /// # Errors
    /// If the driver has ended, or the machine refuses; then the reason is in it.
    pub async fn snapshot<W: io::Write + Send + 'static>(&self, mut into: W) -> Result<(Slot, W), SnapshotError> {
        let written = self
            .query_local(move |machine| {
                let position = machine.position()?;
                machine.snapshot(&mut into)?;
                Ok((position, into))
            })
            .await;
        let written: Result<_, M::Error> = written.map_err(|_| SnapshotError::Stopped)?;
        written.map_err(|error| SnapshotError::Machine(Arc::new(error)))
    }

    /// [`Driver::snapshot`] for threads without an executor.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub fn snapshot_blocking<W: io::Write + Send + 'static>(&self, into: W) -> Result<(Slot, W), SnapshotError> {
        block_on(self.snapshot(into))
    }

    /// Has the machine write a snapshot into the directory of [`DriverOptions::exchange`], where peers get it from, and gives
    /// the position that it stands for, once it is durable. Peers that need one when there is none have one written by
    /// themselves. If the future is dropped, it may be written all the same.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub async fn keep_snapshot(&self) -> Result<Slot, SnapshotError> {
        let directory = self.directory.clone().ok_or(SnapshotError::NoDirectory)?;
        let shared = Arc::clone(self.log.shared());
        let kept = self.query_local(move |machine| {
            let made = write_snapshot(machine, &directory);
            if let Ok(Ok(snapshot)) = &made {
                shared.exchange.note(Note::Made(Some(*snapshot)));
            }
            made
        });
        match kept.await.map_err(|_| SnapshotError::Stopped)? {
            Ok(Ok(snapshot)) => Ok(snapshot.position),
            Ok(Err(error)) => Err(SnapshotError::Machine(Arc::new(error))),
            Err(error) => Err(SnapshotError::Disk(Arc::new(error))),
        }
    }

    /// [`Driver::keep_snapshot`] for threads without an executor.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub fn keep_snapshot_blocking(&self) -> Result<Slot, SnapshotError> {
        block_on(self.keep_snapshot())
    }

    /// Ends the driver and gives the machine back.
    ///
    /// # Errors
    /// If it had ended by itself before.
    pub fn stop(mut self) -> Result<M, DriveError> {
        match self.join() {
            Some(Ok((machine, Ok(())))) => Ok(machine),
            Some(Ok((_, Err(error)))) => Err(error),
            Some(Err(panic)) => Err(DriveError::Panic(panic_text(panic.as_ref()))),
            None => unreachable!("the thread is joined only here and by the drop"),
        }
    }

    async fn query_from<R: Send + 'static>(
        &self,
        at_least: Slot,
        ask: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<R, QueryError> {
        let (reply, answer) = oneshot::channel();
        let run = Box::new(move |machine: &M| drop(reply.send(ask(machine))));
        let mut requests = self.requests.clone();
        std::future::poll_fn(|context| requests.poll_ready(context)).await.map_err(|_| QueryError::Stopped)?;
        requests.start_send(Request::Query { at_least, run }).map_err(|_| QueryError::Stopped)?;
        answer.await.map_err(|_| QueryError::Stopped)
    }

    fn join(&mut self) -> Option<Result<Ended<M>, Box<dyn Any + Send>>> {
        let thread = self.thread.take()?;
        let mut requests = self.requests.clone();
        // A clone has a place of its own, so that this never fails for want of room; if the thread is gone, all the better.
        let _ = requests.try_send(Request::Stop);
        let ended = thread.join();
        if let Some(clerk) = self.clerk.take() {
            self.log.shared().exchange.note(Note::Stop);
            // It has told of its panic; nothing here depends on it any more.
            let _ = clerk.join();
        }
        Some(ended)
    }
}

impl<M: StateMachine> Drop for Driver<M> {
    fn drop(&mut self) {
        if let Some(Ok((_, Err(error)))) = self.join() {
            tracing::debug!(%error, "a driver that had ended is dropped");
        }
    }
}

impl<M: StateMachine> fmt::Debug for Driver<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("position", &self.position()).finish_non_exhaustive()
    }
}

/// Why there is no snapshot.
#[derive(Clone, Debug, Error)]
pub enum SnapshotError {
    /// The machine can't write one.
    #[error("the state machine can't write a snapshot: {0}")]
    Machine(Arc<dyn std::error::Error + Send + Sync>),
    /// It can't be stored.
    #[error("the snapshot can't be stored: {0}")]
    Disk(Arc<io::Error>),
    /// The driver keeps none: it has no [`DriverOptions::exchange`].
    #[error("this driver keeps no snapshots: it was started without DriverOptions::exchange")]
    NoDirectory,
    /// The driver has ended; see [`Driver::stop`].
    #[error("the driver has ended")]
    Stopped,
}

/// What the machine still needs of the log; nothing when it is dropped.
struct Holding {
    shared: Arc<Shared>,
    number: u64,
}

impl Holding {
    fn set(&self, from: Slot) {
        self.shared.exchange.set_hold(self.number, Some(Hold { from, progress: 0 }));
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.shared.exchange.set_hold(self.number, None);
    }
}

/// The thread's own.
struct Work<M: StateMachine> {
    machine: M,
    reader: Reader,
    options: DriverOptions,
    hold: Holding,
    results: Arc<Results<M::Output>>,
    requested: mpsc::Receiver<Request<M>>,
    /// Those that wait for a position.
    queries: VecDeque<(Slot, Query<M>)>,
    /// The snapshot that is looked for; nothing is read meanwhile.
    sought: Option<oneshot::Receiver<Found>>,
}

/// What the thread has to do next.
enum Next<M> {
    Found(Result<Found, oneshot::Canceled>),
    Item(Result<ReadItem, ReadError>),
    Request(Option<Request<M>>),
}

impl<M: StateMachine> Work<M> {
    fn run(mut self, noted: &Mutex<Option<DriveError>>) -> Ended<M> {
        let ended = catch_unwind(AssertUnwindSafe(|| self.drive()))
            .unwrap_or_else(|panic| Err(DriveError::Panic(panic_text(panic.as_ref()))));
        if let Err(error) = &ended {
            tracing::error!(%error, position = %self.results.position(), "a state machine is driven no more");
            *noted.lock().expect("no code that holds this lock panics") = Some(error.clone());
        }
        self.results.stop();
        (self.machine, ended)
    }

    fn drive(&mut self) -> Result<(), DriveError> {
        loop {
            let next = block_on(async {
                let item = async {
                    match &mut self.sought {
                        Some(sought) => Next::Found(sought.await),
                        None => Next::Item(self.reader.next().await),
                    }
                };
                // Requests first: while there is always something to apply, they would wait for ever.
                let request = async { Next::Request(self.requested.next().await) };
                request.or(item).await
            });
            match next {
                Next::Request(None | Some(Request::Stop)) => return Ok(()),
                Next::Request(Some(Request::Query { at_least, run })) => self.queries.push_back((at_least, run)),
                Next::Item(Ok(ReadItem::Body(body))) => self.apply(body)?,
                Next::Item(Ok(ReadItem::Trimmed { first })) => self.seek(first)?,
                Next::Found(Ok(found)) => self.restore_found(found)?,
                Next::Found(Err(oneshot::Canceled)) => return Err(DriveError::Panic("synod-snapshots".to_owned())),
                Next::Item(Err(error)) => return Err(error.into()),
            }
            self.answer();
        }
    }

    fn apply(&mut self, body: SharedBody) -> Result<(), DriveError> {
        let mut bytes = body.bytes().len();
        let mut bodies = vec![body];
        while bytes < self.options.transaction_bytes
            && let Some(body) = self.reader.next_buffered()
        {
            bytes += body.bytes().len();
            bodies.push(body);
        }
        let commands = Commands::new(self.results.position(), &bodies);
        let outputs = self.machine.apply(&commands).map_err(machine_error)?;
        let slots: Vec<Slot> = commands.iter().map(|command| command.slot).collect();
        if slots.len() != outputs.len() {
            return Err(DriveError::Outputs { commands: slots.len(), outputs: outputs.len() });
        }
        self.results.applied(commands.end(), slots.into_iter().zip(outputs));
        self.hold.set(commands.end());
        Ok(())
    }

    /// The log begins at `first`: the machine needs a snapshot.
    fn seek(&mut self, first: Slot) -> Result<(), DriveError> {
        if self.options.exchange.is_some() {
            let (reply, sought) = oneshot::channel();
            self.hold.shared.exchange.note(Note::Seek(first, reply));
            self.sought = Some(sought);
            return Ok(());
        }
        let behind = |reason: String| DriveError::Behind { first, reason };
        let source = self.options.snapshots.as_mut().ok_or_else(|| behind("no snapshots are configured".to_owned()))?;
        let (position, mut snapshot) = source.newest(first).map_err(|error| behind(error.to_string()))?;
        if position < first {
            return Err(behind(format!("the newest snapshot stands for slot {position}")));
        }
        self.restore(position, snapshot.as_mut())
    }

    fn restore_found(&mut self, found: Found) -> Result<(), DriveError> {
        self.sought = None;
        let (position, path) = found.map_err(|(at_least, refused)| DriveError::NoSnapshot { at_least, refused })?;
        let file = File::open(path).map_err(|error| DriveError::SnapshotFile(Arc::new(error)))?;
        self.restore(position, &mut BufReader::with_capacity(1 << 20, file))?;
        self.hold.shared.exchange.note(Note::Restored);
        Ok(())
    }

    fn restore(&mut self, position: Slot, snapshot: &mut dyn Read) -> Result<(), DriveError> {
        self.machine.restore(position, snapshot).map_err(machine_error)?;
        tracing::info!(%position, "a state machine goes on from a snapshot");
        self.reader.seek(position);
        self.results.applied(position, []);
        self.hold.set(position);
        Ok(())
    }

    /// Answers the queries whose position is reached.
    fn answer(&mut self) {
        let position = self.results.position();
        for (at_least, run) in std::mem::take(&mut self.queries) {
            if at_least <= position {
                run(&self.machine);
            } else {
                self.queries.push_back((at_least, run));
            }
        }
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, DriveError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map_err(|error| DriveError::Thread(Arc::new(error)))
}

/// Lets the driver's thread write a snapshot between two transactions.
fn maker<M: StateMachine>(shared: Arc<Shared>, requests: mpsc::Sender<Request<M>>, directory: PathBuf) -> Make {
    let mut requests = requests;
    Box::new(move || {
        let (shared, directory) = (Arc::clone(&shared), directory.clone());
        let run = Box::new(move |machine: &M| note_made(&shared, write_snapshot(machine, &directory)));
        requests.try_send(Request::Query { at_least: Slot(0), run }).is_ok()
    })
}

fn write_snapshot<M: StateMachine>(machine: &M, directory: &Path) -> io::Result<Result<SnapshotId, M::Error>> {
    match machine.position() {
        Ok(position) => store::make(directory, position, |into| machine.snapshot(into)),
        Err(error) => Ok(Err(error)),
    }
}

fn machine_error(error: impl std::error::Error + Send + Sync + 'static) -> DriveError {
    DriveError::Machine(Arc::new(error))
}
