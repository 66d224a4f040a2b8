//! `verify`: every byte of a log, by the reader that the node itself uses when it starts.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use synod_protocol::Mark;
use synod_wal::{RecoverOptions, recover_with, scan};

use crate::exit::Exit;
use crate::output::Output;
use crate::source::Source;

/// Which directories.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Directories of nodes
    #[arg(required = true)]
    directories: Vec<PathBuf>,
}

/// Whether all directories are sound, and their chains don't contradict each other.
pub(crate) fn run(options: &Options, output: &mut Output) -> Result<Exit> {
    let directories = &options.directories;
    let mut sound = true;
    let mut logs: Vec<(&Path, synod_wal::RecoveredLog)> = Vec::new();
    for path in directories {
        let source = Source::open(path)?;
        let Some(expected) = source.identity.log_identity(0).map(|identity| identity.expected()) else {
            output.line(format_args!("{}: not bootstrapped, nothing to verify", path.display()))?;
            continue;
        };
        let options = RecoverOptions { depth: scan::Depth::Full, live: source.live };
        match recover_with(&source.store, &expected, source.identity.segment_bytes, options) {
            Ok(log) => {
                let tail = match &log.cut {
                    None => String::new(),
                    Some(_) if source.live => "; being written".to_owned(),
                    Some(cut) if cut.records_discarded == 0 => String::new(),
                    Some(cut) => format!(
                        "; an unfinished end is cut at {} of {}, with {} records behind it that were never durable",
                        cut.offset, cut.file, cut.records_discarded
                    ),
                };
                output.line(format_args!(
                    "{}: sound: {} records in {} segments, slots {}..{} chosen with chain {}, promised {}{tail}",
                    path.display(),
                    log.records,
                    log.segments.len(),
                    log.index.base().slot,
                    log.mark.slot,
                    log.mark.chain,
                    log.promised,
                ))?;
                logs.push((path, log));
            }
            Err(error) => {
                sound = false;
                output.line(format_args!("{}: DAMAGED: {error}", path.display()))?;
            }
        }
    }
    Ok(Exit::sound(compare(&logs, output)? && sound))
}

/// Compares the chains of each two logs at the highest mark that both know.
fn compare(logs: &[(&Path, synod_wal::RecoveredLog)], output: &mut Output) -> Result<bool> {
    let mut sound = true;
    for pair in logs.windows(2) {
        let [(first_path, first), (second_path, second)] = pair else { continue };
        let (short, long) = if first.mark.slot <= second.mark.slot { (first, second) } else { (second, first) };
        let theirs: Option<Mark> = long.index.mark_at(short.mark.slot);
        if let Some(theirs) = theirs.filter(|theirs| theirs.chain != short.mark.chain) {
            sound = false;
            output.line(format_args!(
                "{} and {} DIFFER: at slot {} one has chain {}, the other {}",
                first_path.display(),
                second_path.display(),
                theirs.slot,
                short.mark.chain,
                theirs.chain
            ))?;
        }
    }
    Ok(sound)
}
