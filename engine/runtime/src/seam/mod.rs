//! The seam: everything that the node asks of its runtime, and the only place that knows glommio.
//!
//! | module | gives |
//! |---|---|
//! | [`executor`] | one thread that runs futures, its task group and its queues |
//! | [`buffer`] | memory that a disk can read and write directly |
//! | [`disk`] | files with O_DIRECT: aligned writes, reads, syncs, zeroed creation |
//! | [`memory_disk`] | files in memory that forget what wasn't synced |
//! | [`net`] | TCP streams and listeners |
//! | [`time`] | sleeping and deadlines |
//! | [`local`] | wake-ups between tasks of one thread; needs no runtime at all |
//!
//! | [`plain`] | another runtime for the same: an ordinary thread, for what must run where glommio can't |
//!
//! There are two runtimes, and the thread decides which: the rings of glommio, with disks and sockets, and a [`plain`]
//! one for [`crate::testing`] and for clients, whose disks are memory. All modules serve both, so that everything above
//! them is the same code on both.
//!
//! Nothing of glommio passes through: its errors become `io::Error`, its streams and files are wrapped, and its panics
//! and `exit(1)` on an unfit host are forestalled by [`crate::probe()`]. What it is known to do wrong is avoided here,
//! each time with the reason, so that another runtime means another seam and nothing else.

pub(crate) mod buffer;
pub(crate) mod disk;
pub(crate) mod executor;
pub(crate) mod local;
pub(crate) mod memory_disk;
#[expect(unsafe_code, reason = "sockets are handed over by their descriptors")]
pub(crate) mod net;
pub(crate) mod plain;
mod pulse;
pub(crate) mod time;
