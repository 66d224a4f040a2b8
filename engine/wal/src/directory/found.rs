//! Making a store a member of a cluster that begins with content: what import does with the log of a lost cluster.
//!
//! Like `bootstrap`, but the log isn't empty: it holds bodies that count as chosen, the same on every member. That is
//! as if the new cluster had chosen them all before any member stopped, so nothing has to be agreed upon. The log is
//! written first, on every member; only then does [`Founding::commit`] write the cluster into each identity. Before
//! that the node has no say, so an interruption leaves stores that must be made anew, never a cluster of which some
//! members lack the content.

use std::path::{Path, PathBuf};

use synod_frame::{EncodeError, RECORD_HEADER_BYTES};
use synod_protocol::{Configuration, ConfigurationError, Mark, Slot};
use thiserror::Error;

use super::bootstrap::{Genesis, check_member};
use super::disk::FileDisk;
use super::init::{InitError, check_segments};
use super::lock::DirectoryLock;
use super::{BootstrapError, FileError, NodeIdentity, OpenError, log_path, read_identity, write_identity};
use crate::builder::{BuildError, BuiltLog, LogBuilder, LogStart};
use crate::format::StoredConfiguration;
use crate::recovery::{RecoverError, recover};
use crate::segment::Geometry;

/// What holds before the first body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundingStart {
    /// Everything below isn't there: the log begins as if it had been trimmed. [`Mark::START`] if it begins at the
    /// beginning.
    pub base: Mark,
    /// Highest leader time of all bodies: the log's time goes on from there. In microseconds.
    pub log_time_us: u64,
}

/// Why a store can't join a cluster that begins with content.
#[derive(Debug, Error)]
pub enum FoundError {
    /// The store can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It belongs to a cluster.
    #[error("{} belongs to a cluster already; nothing was changed. Make a new store with `synod init`", .0.display())]
    Bootstrapped(PathBuf),
    /// Its segments can't be used.
    #[error("{error}; make a new store with `synod init`")]
    Segments {
        /// What is wrong with them.
        error: Box<InitError>,
    },
    /// The genesis doesn't suit the store.
    #[error(transparent)]
    Genesis(Box<BootstrapError>),
    /// The log can't be written.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The log can't be read back.
    #[error("the new log can't be read back: {0}")]
    ReadBack(Box<RecoverError>),
    /// The log doesn't say what was written.
    #[error("the new log ends at slot {}, not at {}: the disk doesn't keep what is written", .found.slot, .expected.slot)]
    Mark {
        /// What was written.
        expected: Mark,
        /// What was read back.
        found: Mark,
    },
    /// The file system refused something.
    #[error(transparent)]
    File(#[from] FileError),
}

impl From<ConfigurationError> for FoundError {
    fn from(error: ConfigurationError) -> FoundError {
        FoundError::Genesis(Box::new(error.into()))
    }
}

impl From<EncodeError> for FoundError {
    fn from(error: EncodeError) -> FoundError {
        FoundError::Genesis(Box::new(error.into()))
    }
}

/// A store whose log is written, durable, and not yet a member of the cluster.
#[derive(Debug)]
pub struct Founding {
    directory: PathBuf,
    joined: NodeIdentity,
    built: BuiltLog,
    _lock: DirectoryLock,
}

impl Founding {
    /// What was written.
    pub fn built(&self) -> &BuiltLog {
        &self.built
    }

    /// Makes the store a member.
    ///
    /// # Errors
    /// If the identity can't be written: this store, and every one that isn't committed, must be made anew.
    pub fn commit(self) -> Result<NodeIdentity, FileError> {
        write_identity(&self.directory, &self.joined)?;
        Ok(self.joined)
    }
}

/// Writes the log of a store that was never used: `write` gives the builder every body, in slot order, all as chosen.
///
/// # Errors
/// See [`FoundError`], and whatever `write` returns.
pub fn found<E: From<FoundError>>(
    directory: &Path,
    genesis: &Genesis,
    start: &FoundingStart,
    write: &mut dyn FnMut(&mut LogBuilder<'_>) -> Result<(), E>,
) -> Result<Founding, E> {
    let prepared = prepare(directory, genesis)?;
    let Prepared { lock, identity, joined, configuration } = prepared;
    let log_identity = joined.log_identity(0).expect("a joined store has a cluster");
    let log = log_path(directory, 0);
    let mut disk = FileDisk::new(log.clone(), identity.segment_bytes);
    let log_start = LogStart {
        segment_bytes: identity.segment_bytes,
        group: genesis.group,
        format: genesis.configuration.format,
        base: start.base,
        configuration: Some(configuration),
        log_time_us: start.log_time_us,
        epoch: 1,
    };
    let mut builder = LogBuilder::new(log_identity, log_start, &mut disk).map_err(FoundError::from)?;
    write(&mut builder)?;
    let expected = builder.mark();
    let built = builder.finish().map_err(FoundError::from)?;
    let store = super::DirectoryStore::new(log);
    let read = recover(&store, &log_identity.expected(), identity.segment_bytes);
    let read = read.map_err(|error| FoundError::ReadBack(Box::new(error)))?;
    if read.mark != expected {
        return Err(FoundError::Mark { expected, found: read.mark }.into());
    }
    Ok(Founding { directory: directory.to_path_buf(), joined, built, _lock: lock })
}

/// A store that may be written.
struct Prepared {
    lock: DirectoryLock,
    identity: NodeIdentity,
    joined: NodeIdentity,
    configuration: StoredConfiguration,
}

fn prepare(directory: &Path, genesis: &Genesis) -> Result<Prepared, FoundError> {
    read_identity(directory)?;
    let lock = DirectoryLock::take(directory)?;
    let identity = read_identity(directory)?;
    if identity.cluster.is_some() {
        return Err(FoundError::Bootstrapped(directory.to_path_buf()));
    }
    genesis.configuration.to_configuration(Slot(0)).and_then(|configuration| Configuration::check(&configuration))?;
    check_member(&identity, genesis).map_err(|error| FoundError::Genesis(Box::new(error)))?;
    let geometry = Geometry::new(identity.segment_bytes).expect("an identity names a size that logs have");
    let unused = check_segments(directory, &log_path(directory, 0), geometry);
    unused.map_err(|error| FoundError::Segments { error: Box::new(error) })?;
    let (cluster, lineage) = (genesis.configuration.cluster, genesis.configuration.lineage);
    let joined = NodeIdentity { cluster: Some(cluster), lineage, ..identity.clone() };
    if identity.logs != 1 {
        let groups = BootstrapError::Groups { logs: identity.logs, groups: 1 };
        return Err(FoundError::Genesis(Box::new(groups)));
    }
    let (record, body) = genesis.encode()?;
    let bytes = record.as_ref()[RECORD_HEADER_BYTES..][..body.bytes as usize].to_vec();
    Ok(Prepared { lock, identity, joined, configuration: StoredConfiguration { slot: Slot(0), body: bytes } })
}

/// Whether a store was never used: it belongs to no cluster, and no segment of it holds anything.
///
/// # Errors
/// Why it was used, or can't be read.
pub fn check_unused(directory: &Path) -> Result<NodeIdentity, FoundError> {
    let identity = read_identity(directory)?;
    if identity.cluster.is_some() {
        return Err(FoundError::Bootstrapped(directory.to_path_buf()));
    }
    let geometry = Geometry::new(identity.segment_bytes).expect("an identity names a size that logs have");
    let unused = check_segments(directory, &log_path(directory, 0), geometry);
    unused.map_err(|error| FoundError::Segments { error: Box::new(error) })?;
    Ok(identity)
}
