//! The write-ahead log of Synod: records in, aligned writes and syncs out; completions in, durable position out.
//!
//! [`Wal`] appends, [`recover`] reads back what a crash left, [`scan`] is the one reader of segment files, [`verify`] says
//! all that is wrong in them, [`audit`] holds the logs of a cluster against the rules of Paxos, [`compaction`] writes a
//! log anew and [`repair`] from what is left of it, and [`directory`] is the only module that touches a file system.
//! Everything else is plain values, so that the simulator and the runtime drive the same code. The bytes are described
//! in `engine/docs/wal-format.md`.
#![forbid(unsafe_code)]

pub mod audit;
mod builder;
pub mod compaction;
pub mod directory;
pub mod format;
mod identity;
mod index;
pub mod lineage;
mod logged_replica;
mod lsn;
mod peer_stores;
mod pool;
mod recovery;
pub mod repair;
mod salvage;
pub mod scan;
mod segment;
mod store;
pub mod verify;
mod writer;

pub use builder::{BuildError, BuiltLog, LogBuilder, LogDisk, LogStart, NoDisk};
pub use format::{Pack, PackBuilder, RecordKind, RecordMeta, StoredConfiguration};
pub use identity::{ExpectedIdentity, LogIdentity, LogSalt};
pub use index::{Blocks, Index, IndexEntry, Insert, Location};
pub use logged_replica::{
    Buffers, Frame, HEAL_PAUSE, Judgement, LoggedReplica, LoggedSettings, MarkAnswer, Output, ReadAnswer, ReadId,
    ReplicaStatus, Suppressed,
};
pub use lsn::{FileId, Lsn, SyncId, WriteId};
pub use peer_stores::{Hearing, PeerStores, STORES_SEEN_MAX, StoreSeen};
pub use pool::CleanFile;
pub use recovery::{
    Cut, Damage, DamageCause, DamageClass, IdentityField, RecoverError, RecoverOptions, RecoveredLog, RecoveredSegment,
    recover, recover_with,
};
pub use salvage::{Finding, LostBody, Salvaged, salvage};
pub use segment::{Geometry, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_RANGE, record_bytes};
pub use store::{MemoryStore, SegmentStore};
pub use writer::{
    Action, AppendError, LogSettings, LogSettingsError, LogStats, POOL_FILES_MIN, Planned, SealIndex, SyncMode, Wal,
};
