//! How the program ends, as scripts see it. The numbers are documented in `--help` and in `engine/docs/tools.md`.

use std::fmt;
use std::process::ExitCode;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// All is well.
    Well = 0,
    /// Something is damaged, replicas differ, a rule doesn't hold, or the host doesn't suit.
    Damaged = 1,
    /// The flags make no sense; the number that clap uses.
    Usage = 2,
    /// A directory can't be read, or something can't be written.
    Unreadable = 3,
    /// A running node has the directory, and the verb would write to it.
    Busy = 4,
    /// There is no command at that slot.
    NothingThere = 5,
}

/// What `--help` says of them.
pub(crate) const HELP: &str = "Data goes to stdout, messages and progress to stderr. Exit codes: 0 all is well; 1 \
damage was found, replicas differ, a rule of Paxos doesn't hold, or no node can run here; 2 bad flags; 3 a directory can't be read, or something can't be written; 4 a \
running node has the directory that should be changed; 5 there is no command at that slot. A reader that stops early \
(`| head`) is no error.";

impl Exit {
    /// [`Exit::Well`] or [`Exit::Damaged`].
    pub(crate) fn sound(sound: bool) -> Exit {
        if sound { Exit::Well } else { Exit::Damaged }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// An error that ends the program otherwise than as [`Exit::Unreadable`].
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

/// A [`Failure`] as an error to return.
pub(crate) fn failure(exit: Exit, message: impl Into<String>) -> anyhow::Error {
    Failure { exit, message: message.into() }.into()
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
