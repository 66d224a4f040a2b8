//! What a node may choose for a log.

use thiserror::Error;

use super::flush::SyncMode;
use crate::segment::{Geometry, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_RANGE};

/// Fewest files a log can run on, besides its spares: one that takes records, one ahead, one being sealed, one to be trimmed.
pub const POOL_FILES_MIN: u32 = 4;

/// What a node may choose for a log, except the segment size, which is fixed when the directory is initialised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Length of every file; a power of two, 64 KiB to 1 GiB. Default 64 MiB.
    pub segment_bytes: u64,
    /// How writes become durable. Default fdatasync.
    pub sync: SyncMode,
    /// A file is created or zeroed when fewer than this many are ready, besides the spares. Default 2.
    pub pool_free_min: u32,
    /// Files that are kept ready for the next openings of the log, so that a full log on a full disk can be opened. One is
    /// enough for one opening, two for any number in a row. Default 2.
    pub pool_spares: u32,
    /// The log makes no more files than this, but for one each time that it couldn't be opened otherwise; at least
    /// [`POOL_FILES_MIN`] and the spares. Default 1,024.
    pub pool_files_max: u32,
    /// Bodies whose place is kept in memory, some 150 bytes each, besides those in segments that aren't sealed yet. Where
    /// older ones lie is read back from the seals of their segments when somebody wants them. Default 65,536.
    pub index_bodies_max: usize,
}

impl Default for LogSettings {
    fn default() -> LogSettings {
        LogSettings {
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            sync: SyncMode::default(),
            pool_free_min: 2,
            pool_spares: 2,
            pool_files_max: 1024,
            index_bodies_max: 64 << 10,
        }
    }
}

/// Why settings are refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum LogSettingsError {
    /// A segment size that no log has.
    #[error(
        "segment_bytes must be a power of two from {} to {}, not {found}",
        SEGMENT_BYTES_RANGE.start(),
        SEGMENT_BYTES_RANGE.end()
    )]
    SegmentBytes {
        /// As given.
        found: u64,
    },
    /// Too few files to go on after a trim.
    #[error("pool_files_max must be at least {min}, not {found}")]
    FilesMax {
        /// As given.
        found: u32,
        /// [`POOL_FILES_MIN`] and the spares.
        min: u32,
    },
    /// Without a file ahead the log would stop at every rotation.
    #[error("pool_free_min must be 1 to {max}, not {found}")]
    FreeMin {
        /// As given.
        found: u32,
        /// `pool_files_max` without the spares and the files that are always in use.
        max: u32,
    },
}

impl LogSettings {
    /// Checks every field.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), LogSettingsError> {
        if Geometry::new(self.segment_bytes).is_none() {
            return Err(LogSettingsError::SegmentBytes { found: self.segment_bytes });
        }
        let min = POOL_FILES_MIN.saturating_add(self.pool_spares);
        if self.pool_files_max < min {
            return Err(LogSettingsError::FilesMax { found: self.pool_files_max, min });
        }
        let max = self.pool_files_max - min + 1;
        if !(1..=max).contains(&self.pool_free_min) {
            return Err(LogSettingsError::FreeMin { found: self.pool_free_min, max });
        }
        Ok(())
    }
}
