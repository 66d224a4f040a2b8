//! Bounds of everything that a peer or a client can make grow.

use std::time::Duration;

/// Accepted bodies in one part of a promise.
pub const PROMISE_PART_MAX: usize = 512;

/// Parts of a promise: enough for all that an acceptor keeps, and for all that a leader may have open besides.
pub const PROMISE_PARTS_MAX: u32 = 4096;

const _: () =
    assert!(PROMISE_PARTS_MAX as usize * PROMISE_PART_MAX > ACCEPTED_MAX + *crate::config::ALPHA_RANGE.end() as usize);

/// The last slot, and the last round, that any node uses; what a peer names beyond is no honest number, and arithmetic
/// on it might overflow. At a thousand million slots a second they last for a hundred years.
pub const SLOT_MAX: u64 = 1 << 62;

/// See [`SLOT_MAX`].
pub const ROUND_MAX: u64 = 1 << 62;

/// Doubts in a promise. An acceptor with more widens them until they are so few: doubting too much is safe.
pub const DOUBTS_MAX: usize = 64;

/// Largest body, header included, in bytes.
pub const BODY_BYTES_MAX: u32 = 1 << 20;

/// Most slots a body may fill; a no-op range may fill as many as alpha allows.
pub const BODY_SLOTS_MAX: u32 = 1 << 20;

/// Longest body of a configuration, in bytes: what segment headers have room for.
pub const CONFIGURATION_BYTES_MAX: usize = 2048;

/// How many recent marks a replica remembers, to compare its chain with peers that are a little behind or ahead.
pub const MARKS_REMEMBERED: usize = 256;

/// Accepted bodies above the chosen prefix that an acceptor keeps in memory.
pub const ACCEPTED_MAX: usize = 1 << 16;

/// Barriers that a replica keeps waiting; one more is refused.
pub const BARRIERS_MAX: usize = 1 << 14;

/// Most bytes of a snapshot in one message.
pub const SNAPSHOT_CHUNK_BYTES: u32 = 256 << 10;

/// Chunks of a snapshot that are asked for and haven't come: enough for a link with some delay, little enough for memory.
pub const SNAPSHOT_FETCHES_MAX: u64 = 4;

/// Longest snapshot, in bytes: what a peer names beyond is no honest number.
pub const SNAPSHOT_BYTES_MAX: u64 = 1 << 50;

/// How long a member that needs what is to be trimmed may stay where it is, before nobody waits for it any more.
pub const HOLD_PATIENCE: Duration = Duration::from_secs(10);
