//! Driving a state machine by a log: commands are applied in order, each exactly once, across crashes and restarts.
//!
//! Exactly once is a bargain. The log gives the same commands in the same order to every replica, as often as it is asked;
//! the machine stores how far it has come *in the same transaction* as what it changes ([`StateMachine::position`]).
//! After a crash the driver asks for that position and goes on there: nothing is applied twice, and nothing is left out.
//!
//! A machine must be a function of the commands: no clock, no chance, no map whose order differs from run to run. The
//! time of a command, the same on every replica, is in [`Command::time_us`].
//!
//! What the log has trimmed away, a machine that lacks it gets by a snapshot of another replica's machine. Writing and
//! reading one is the machine's part. Its bytes come from a peer, if the driver is given a directory for them
//! ([`SnapshotOptions`]): in chunks, going on where a transfer broke off, and checked as a whole and made durable before the
//! machine sees them. A crash in the middle does no harm. From elsewhere they come by a [`SnapshotSource`].

mod driver;
pub(crate) mod exchange;
mod results;
mod snapshots;
mod store;

use std::io::{self, Read, Write};

use synod_protocol::{BodyKind, Slot};

use crate::reader::{Entry, SharedBody};

pub use driver::{DriveError, Driver, DriverOptions, ExecuteError, QueryError, SnapshotError};
pub use snapshots::{Refused, Search, SnapshotOptions, SnapshotsError};
pub use synod_protocol::snapshot::NoSnapshot;

/// What a log drives; see the module [`machine`](crate::machine).
///
/// ```
/// use std::io::{Read, Write};
/// use synod::machine::{Commands, Driver, DriverOptions, StateMachine};
/// use synod::{Slot, testing::Cluster};
///
/// /// A sum, in memory: so it begins anew with its process, and the whole log is applied again.
/// struct Sum {
///     position: Slot,
///     sum: u64,
/// }
///
/// impl StateMachine for Sum {
///     type Output = u64;
///     type Error = std::io::Error;
///
///     fn position(&self) -> Result<Slot, Self::Error> {
///         Ok(self.position)
///     }
///
///     fn apply(&mut self, commands: &Commands<'_>) -> Result<Vec<u64>, Self::Error> {
///         let mut outputs = Vec::new();
///         for command in commands.iter() {
///             self.sum += command.bytes.len() as u64;
///             outputs.push(self.sum);
///         }
///         self.position = commands.end();
///         Ok(outputs)
///     }
///
///     fn snapshot(&self, into: &mut dyn Write) -> Result<(), Self::Error> {
///         into.write_all(&self.sum.to_le_bytes())
///     }
///
///     fn restore(&mut self, position: Slot, from: &mut dyn Read) -> Result<(), Self::Error> {
///         let mut sum = [0; 8];
///         from.read_exact(&mut sum)?;
///         (self.position, self.sum) = (position, u64::from_le_bytes(sum));
///         Ok(())
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cluster = Cluster::start(3)?;
/// let log = cluster.log(cluster.wait_for_leader());
/// let sum = Driver::start(log, Sum { position: Slot::FIRST, sum: 0 }, DriverOptions::default())?;
/// assert_eq!(sum.execute_blocking(b"three")?, 5);
/// assert_eq!(sum.query_fresh_blocking(|machine| machine.sum)?, 5);
/// # Ok(())
/// # }
/// ```
pub trait StateMachine: Send + 'static {
    /// What a command brings to whoever has it executed.
    type Output: Send + 'static;
    /// Why the machine can't go on.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The first slot that isn't applied yet, as the machine's own storage has it: [`Slot::FIRST`] in an empty one.
    ///
    /// # Errors
    /// If the storage can't be read.
    fn position(&self) -> Result<Slot, Self::Error>;

    /// Applies commands, and stores [`Commands::end`] as the position, both in one transaction. One output for each
    /// command, in order. A command that the machine doesn't understand must be an output like any other: it is in the
    /// log, and every replica meets it.
    ///
    /// # Errors
    /// If the storage fails. The driver ends, and the transaction must have changed nothing: the commands come again
    /// after a restart.
    fn apply(&mut self, commands: &Commands<'_>) -> Result<Vec<Self::Output>, Self::Error>;

    /// Writes all of its state down as it is now, at [`StateMachine::position`].
    ///
    /// # Errors
    /// If the storage or `into` fails.
    fn snapshot(&self, into: &mut dyn Write) -> Result<(), Self::Error>;

    /// Replaces all of its state by a snapshot, and stores the position that it stands for, both in one transaction.
    ///
    /// # Errors
    /// If the storage or `from` fails, or the snapshot isn't one. The driver ends, and nothing must have changed.
    fn restore(&mut self, position: Slot, from: &mut dyn Read) -> Result<(), Self::Error>;
}

/// Where a snapshot of another replica's machine comes from, when the log no longer has what this one lacks.
pub trait SnapshotSource: Send + 'static {
    /// A snapshot that stands for `at_least` that position or a later one; the newest that can be had. Called on the
    /// driver's thread, which waits for it.
    ///
    /// # Errors
    /// If there is none; the driver ends with [`DriveError::Behind`].
    fn newest(&mut self, at_least: Slot) -> io::Result<(Slot, Box<dyn Read + Send>)>;
}

/// A command that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// Where it stands.
    pub slot: Slot,
    /// The log's time when its leader took it, in microseconds since 1970: the same on every replica, and never earlier
    /// than that of the command before.
    pub time_us: u64,
    /// The command.
    pub bytes: &'a [u8],
}

/// Consecutive delivered bodies, to be applied in one transaction. There may be no command in them at all, but the
/// position moves on.
#[derive(Debug)]
pub struct Commands<'a> {
    /// The machine's position.
    from: Slot,
    bodies: &'a [SharedBody],
}

impl<'a> Commands<'a> {
    /// What some bodies, at least one, hold from a position on.
    pub(crate) fn new(from: Slot, bodies: &'a [SharedBody]) -> Commands<'a> {
        Commands { from, bodies }
    }

    /// The position behind them.
    pub fn end(&self) -> Slot {
        self.bodies.last().map_or(Slot::FIRST, |body| body.slots().end)
    }

    /// The commands that count, in order: no duplicates, nothing that was refused, nothing whose maker didn't keep to the
    /// format. That is the same on every replica.
    pub fn iter(&self) -> impl Iterator<Item = Command<'a>> + use<'a> {
        let (from, bodies) = (self.from, self.bodies);
        bodies.iter().filter(|body| body.handle().kind == BodyKind::Commands).flat_map(move |body| {
            let time_us = body.header().leader_time_us;
            let entries = body.entries().into_iter().flatten().flatten();
            entries.filter_map(move |entry| match entry {
                // A position within a body is nobody's but a program's that wrote one by hand.
                Entry::Command { slot, .. } if slot < from => None,
                Entry::Command { slot, command } => Some(Command { slot, time_us, bytes: command }),
                Entry::Suppressed(_) => None,
            })
        })
    }
}
