//! Making a store a part of a cluster: genesis, durable on every first member before any of them has a say; or, for a
//! store that comes later, the configuration that rules by then, in which it has no part yet.

use std::path::{Path, PathBuf};

use synod_frame::{
    BLOCK_BYTES, BodyHeader, ConfigurationBody, ConfigurationBodyError, EncodeError, GroupId, Origin,
    RECORD_HEADER_BYTES, RecordBuffer, encode_configuration,
};
use synod_protocol::{Ballot, BodyHandle, Configuration, ConfigurationError, Mark, NodeId, Slot};
use thiserror::Error;

use super::disk::FileDisk;
use super::lock::DirectoryLock;
use super::store::DirectoryStore;
use super::{FileError, NodeIdentity, OpenError, log_path, read_identity, write_identity};
use crate::format::{CONFIGURATION_BYTES_MAX, RecordKind, RecordMeta, StoredConfiguration};
use crate::lsn::FileId;
use crate::recovery::{RecoverError, RecoveredLog, decode_configuration, recover};
use crate::segment::record_bytes;
use crate::store::SegmentStore;
use crate::writer::{Action, AppendError, LogSettings, SyncMode, Wal};

/// The beginning of a cluster: the same on every first member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// The group that the cluster replicates; of a store with several logs the first one, which the others follow in the
    /// order of their numbers.
    pub group: GroupId,
    /// Cluster, lineage, members with the incarnations of their stores, quorums, alpha.
    pub configuration: ConfigurationBody,
}

impl Genesis {
    /// The body of genesis, the same bytes on every node, laid out in a record buffer.
    pub(super) fn encode(&self) -> Result<(RecordBuffer, BodyHandle), EncodeError> {
        self.encode_for(self.group)
    }

    fn encode_for(&self, group: GroupId) -> Result<(RecordBuffer, BodyHandle), EncodeError> {
        let mut record = RecordBuffer::zeroed(CONFIGURATION_BYTES_MAX + RECORD_HEADER_BYTES);
        let origin = Origin { group, first: Slot(0), ballot: Ballot::ZERO, leader_time_us: 0 };
        let body = encode_configuration(record.as_mut(), &origin, &self.configuration)?;
        Ok((record, body))
    }
}

/// What `bootstrap` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bootstrapped {
    /// Genesis is durable, and the store belongs to the cluster.
    Now(NodeIdentity),
    /// It was done before, with the same genesis.
    Before(NodeIdentity),
}

/// Why a store can't join a cluster that begins.
#[derive(Debug, Error)]
pub enum BootstrapError {
    /// The store can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The configuration can't rule.
    #[error("this genesis can't rule: {0}")]
    Configuration(#[from] ConfigurationError),
    /// The configuration can't be written down.
    #[error("this genesis can't be written: {0}")]
    Encode(#[from] EncodeError),
    /// The node isn't among the members.
    #[error("node {} isn't a member of this genesis; check the list of members", .0.0)]
    NotAMember(NodeId),
    /// Its member entry names another store.
    #[error(
        "the configuration names store {} for node {}, but this is store {}: the directory was made anew, or is another node's. A member whose directory is lost is removed first (`synod member remove`), then joins and is added like a new one",
        uuid::Uuid::from_bytes(*.named), .node.0, uuid::Uuid::from_bytes(*.found)
    )]
    Incarnation {
        /// The node.
        node: NodeId,
        /// The incarnation in the list of members.
        named: [u8; 16],
        /// The incarnation of this store.
        found: [u8; 16],
    },
    /// The configuration names it already.
    #[error("node {} is a member of this cluster already, with this store; if it has lost its log, remove it and make a new directory", .0.0)]
    Member(NodeId),
    /// It was bootstrapped with something else. That is for ever: make a new store to begin again.
    #[error("{} was bootstrapped before with another genesis (cluster {}); nothing was changed", .path.display(), .cluster.map_or_else(|| "unknown".to_string(), |cluster| uuid::Uuid::from_bytes(cluster).to_string()))]
    Different {
        /// The directory.
        path: PathBuf,
        /// The cluster that it belongs to, if that is known.
        cluster: Option<[u8; 16]>,
    },
    /// The store has more or fewer logs than the cluster has groups.
    #[error(
        "the directory was made for {logs} groups, and the cluster has {groups}; make a new one with `synod init --groups {groups}`"
    )]
    Groups {
        /// Logs of the store.
        logs: u32,
        /// Groups of the cluster.
        groups: usize,
    },
    /// The stored genesis can't be read.
    #[error("the stored genesis is damaged: {0}")]
    Stored(#[from] ConfigurationBodyError),
    /// The log can't be read.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The log has no room for genesis.
    #[error("genesis can't be appended: {0}; the pool has no file of zeros left")]
    Append(#[from] AppendError),
    /// The file system refused something.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Writes genesis durably and makes the store a member. Doing it again with the same genesis changes nothing, so it
/// can be repeated after a crash.
///
/// # Errors
/// See [`BootstrapError`].
pub fn bootstrap(directory: &Path, genesis: &Genesis) -> Result<Bootstrapped, BootstrapError> {
    read_identity(directory)?;
    let _lock = DirectoryLock::take(directory)?;
    let identity = read_identity(directory)?;
    genesis.configuration.to_configuration(Slot(0)).and_then(|configuration| Configuration::check(&configuration))?;
    check_member(&identity, genesis)?;

    let mut foundings = Vec::new();
    for log in 0..identity.logs {
        let group = GroupId(genesis.group.0 + log);
        let (record, body) = genesis.encode_for(group)?;
        let stored = StoredConfiguration {
            slot: Slot(0),
            body: record.as_ref()[RECORD_HEADER_BYTES..][..body.bytes as usize].to_vec(),
        };
        foundings.push(Founding { group, stored, record: Some((record, body)) });
    }
    let cluster = (genesis.configuration.cluster, genesis.configuration.lineage);
    admit(directory, &identity, cluster, foundings)
}

/// As [`join_groups`], for a store with one log.
///
/// # Errors
/// See [`BootstrapError`].
pub fn join(
    directory: &Path,
    group: GroupId,
    configuration: &StoredConfiguration,
) -> Result<Bootstrapped, BootstrapError> {
    join_groups(directory, &[(group, configuration.clone())])
}

/// Makes a store a part of a cluster that exists, by the newest configuration of each group that a member has told. It isn't
/// named by that, or as a learner, so it has no vote: it waits to be added through the log. Doing it again with the same
/// configurations changes nothing.
///
/// # Errors
/// See [`BootstrapError`].
pub fn join_groups(
    directory: &Path,
    configurations: &[(GroupId, StoredConfiguration)],
) -> Result<Bootstrapped, BootstrapError> {
    read_identity(directory)?;
    let _lock = DirectoryLock::take(directory)?;
    let identity = read_identity(directory)?;
    let node = identity.node;
    let mut cluster = None;
    let mut foundings = Vec::new();
    for (group, configuration) in configurations {
        let (_, content, _) = decode_configuration(configuration)?;
        if let Some(named) = content.incarnation_of(node).filter(|named| *named != identity.incarnation) {
            return Err(BootstrapError::Incarnation { node, named, found: identity.incarnation });
        }
        if content.members.iter().any(|member| member.node == node) {
            // Nothing tells a store that was never used from one that has lost what it promised.
            return Err(BootstrapError::Member(node));
        }
        let told = (content.cluster, content.lineage);
        if *cluster.get_or_insert(told) != told {
            return Err(BootstrapError::Different { path: directory.to_path_buf(), cluster: Some(told.0) });
        }
        foundings.push(Founding { group: *group, stored: configuration.clone(), record: None });
    }
    let groups = configurations.len();
    let cluster = cluster.ok_or(BootstrapError::Groups { logs: identity.logs, groups })?;
    admit(directory, &identity, cluster, foundings)
}

/// What a log begins with.
struct Founding {
    group: GroupId,
    stored: StoredConfiguration,
    /// Genesis, which has a record besides.
    record: Option<(RecordBuffer, BodyHandle)>,
}

fn admit(
    directory: &Path,
    identity: &NodeIdentity,
    (cluster, lineage): ([u8; 16], u64),
    foundings: Vec<Founding>,
) -> Result<Bootstrapped, BootstrapError> {
    if foundings.len() != identity.logs as usize {
        return Err(BootstrapError::Groups { logs: identity.logs, groups: foundings.len() });
    }
    let different = |cluster| BootstrapError::Different { path: directory.to_path_buf(), cluster };
    let joined = NodeIdentity { cluster: Some(cluster), lineage, ..identity.clone() };
    if identity.cluster.is_some() && *identity != joined {
        return Err(different(identity.cluster));
    }
    for (log, founding) in (0..).zip(foundings) {
        begin_log(directory, identity, &joined, log, founding)?;
    }
    if identity.cluster.is_some() {
        return Ok(Bootstrapped::Before(identity.clone()));
    }
    // Last: with the cluster in the identity, the node may vote.
    write_identity(directory, &joined)?;
    Ok(Bootstrapped::Now(joined))
}

/// Writes what a log begins with, if it isn't there.
fn begin_log(
    directory: &Path,
    identity: &NodeIdentity,
    joined: &NodeIdentity,
    number: u32,
    founding: Founding,
) -> Result<(), BootstrapError> {
    let Founding { group, stored, record } = founding;
    let different = |cluster| BootstrapError::Different { path: directory.to_path_buf(), cluster };
    let log = log_path(directory, number);
    let store = DirectoryStore::new(&log);
    let log_identity = joined.log_identity(number).expect("a joined store has a cluster");
    let found = match recover(&store, &log_identity.expected(), identity.segment_bytes) {
        Ok(found) => Some(found),
        // A crash before the first header; but a member whose log is gone must not begin again.
        Err(RecoverError::Empty) if identity.cluster.is_none() => None,
        Err(RecoverError::Identity { .. }) => return Err(different(identity.cluster)),
        Err(error) => return Err(error.into()),
    };
    if let Some(found) = &found
        && !is_same(found, &stored)?
    {
        return Err(different(identity.cluster));
    }
    if identity.cluster.is_some() {
        return Ok(());
    }
    let recovered = match found {
        Some(found) => found,
        None => {
            let files = store.files().map_err(FileError::new("list", &log))?;
            RecoveredLog::fresh(identity.segment_bytes, files)
        }
    };
    let settings = LogSettings {
        segment_bytes: identity.segment_bytes,
        sync: SyncMode::Fdatasync,
        pool_free_min: 1,
        pool_spares: 0,
        ..LogSettings::default()
    };
    let mut wal = Wal::new(log_identity, settings, recovered);
    wal.set_configuration(stored);
    let disk = FileDisk::new(log, identity.segment_bytes);
    append_first(&mut wal, &disk, group, record)
}

pub(super) fn check_member(identity: &NodeIdentity, genesis: &Genesis) -> Result<(), BootstrapError> {
    let node = identity.node;
    let named = genesis.configuration.incarnation_of(node).ok_or(BootstrapError::NotAMember(node))?;
    if named != identity.incarnation {
        return Err(BootstrapError::Incarnation { node, named, found: identity.incarnation });
    }
    Ok(())
}

/// Whether a log that is there began with this configuration. A later configuration can't tell, but names the same cluster.
fn is_same(found: &RecoveredLog, genesis: &StoredConfiguration) -> Result<bool, BootstrapError> {
    let Some(configuration) = &found.configuration else { return Ok(true) };
    if configuration.slot == genesis.slot {
        return Ok(configuration == genesis);
    }
    let header = BodyHeader::parse(&configuration.body).map_err(|_| ConfigurationBodyError::Archive)?;
    ConfigurationBody::decode(&header, &configuration.body)?;
    Ok(true)
}

/// The first record: genesis, or nothing but the header's configuration and a mark.
fn append_first(
    wal: &mut Wal,
    disk: &FileDisk,
    group: GroupId,
    genesis: Option<(RecordBuffer, BodyHandle)>,
) -> Result<(), BootstrapError> {
    carry_out(wal, disk)?;
    let (kind, mut record, body) = match genesis {
        Some((record, body)) => (RecordKind::Configuration, record, Some(body)),
        None => (RecordKind::Mark, RecordBuffer::zeroed(BLOCK_BYTES), None),
    };
    let meta = RecordMeta {
        kind,
        group,
        source: NodeId(0),
        ballot: Ballot::ZERO,
        promised: Ballot::ZERO,
        mark: Mark::START,
        log_time_us: 0,
        unsure: false,
    };
    let planned = wal.append(&meta, body.as_ref(), record.as_mut())?;
    debug_assert_eq!(planned.record_bytes, body.map_or(BLOCK_BYTES as u32, |body| record_bytes(body.bytes)));
    disk.write(planned.file, planned.offset, &record.as_ref()[..planned.record_bytes as usize])?;
    wal.handle_written(planned.write);
    carry_out(wal, disk)?;
    assert_eq!(wal.durable(), planned.end, "all writes and syncs are done");
    Ok(())
}

fn carry_out(wal: &mut Wal, disk: &FileDisk) -> Result<(), FileError> {
    while let Some(action) = wal.poll_action() {
        match action {
            Action::Write { write, file, offset, bytes } => {
                disk.write(file, offset, &bytes)?;
                wal.handle_written(write);
            }
            Action::Sync { sync, file } => {
                disk.sync(file)?;
                wal.handle_synced(sync);
            }
            Action::CreateFile { file } => give(wal, file, &disk.create(file)),
            Action::ZeroFile { file, offset, bytes } => give(wal, file, &disk.zero(file, offset, bytes)),
        }
    }
    Ok(())
}

fn give(wal: &mut Wal, file: FileId, result: &Result<(), FileError>) {
    match result {
        Ok(()) => wal.handle_file_ready(file),
        // Genesis needs one file, and those made by `init` are there.
        Err(_) => wal.handle_file_failed(file),
    }
}
