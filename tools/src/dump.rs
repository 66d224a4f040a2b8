//! `dump`: every record, in log order, and on request as they come.

mod filter;
mod follow;

use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use synod_protocol::BodyKind;
use synod_wal::scan::Depth;

use crate::configuration::ConfigurationRow;
use crate::exit::Exit;
use crate::output::Output;
use crate::record::{self, Decode, RecordRow};
use crate::source::Source;
use crate::walk::{Found, WalkOptions, walk};

use filter::Filter;
pub(crate) use filter::parse_position;

/// What to dump, and how.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Directory of a node
    directory: PathBuf,
    #[command(flatten)]
    filter: Filter,
    /// At most this many records
    #[arg(long)]
    limit: Option<u64>,
    /// Show the commands of each body
    #[arg(long, value_enum)]
    decode: Option<Decode>,
    /// Also segments that the log doesn't need any more
    #[arg(long, conflicts_with = "follow")]
    all: bool,
    /// Don't end: show what a running node adds, as soon as it is durable
    #[arg(long)]
    follow: bool,
}

/// Prints what passes the filter, up to the limit.
struct Printer<'run> {
    options: &'run Options,
    output: &'run mut Output,
    left: u64,
    troubles: u64,
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<Exit> {
    options.filter.check()?;
    let source = Source::open(&options.directory)?;
    output.begin_rows();
    let mut printer = Printer { options, output, left: options.limit.unwrap_or(u64::MAX), troubles: 0 };
    if options.follow {
        return follow::run(&source, &mut printer);
    }
    let walk_options = WalkOptions { all: options.all, streams: true, ..WalkOptions::new(Depth::Full) };
    let walked = match printer.left {
        0 => return Ok(Exit::Well),
        _ => walk(&source, walk_options, &mut |found| printer.print(found))?,
    };
    Ok(Exit::sound(walked.is_sound() && printer.troubles == 0))
}

impl Printer<'_> {
    /// Breaks at the limit.
    fn print(&mut self, found: Found<'_, '_>) -> Result<ControlFlow<()>> {
        if !self.options.filter.passes(&found.record) {
            return Ok(ControlFlow::Continue(()));
        }
        let mut row = RecordRow::new(found.file, &found.record, found.behind_damage);
        if let Some(how) = self.options.decode {
            // All rows have the same fields.
            row.commands = Some(Vec::new());
            row.configuration = Some(None);
            let bodies = found.scanner.bodies(&found.record)?;
            for body in bodies.iter().filter(|body| body.header.kind == BodyKind::Commands) {
                let buffer = found.scanner.body_record(&found.record, body)?;
                match record::commands(&body.header, buffer.as_ref(), how) {
                    Ok(commands) => row.commands.get_or_insert_default().extend(commands),
                    Err(error) => {
                        self.troubles += 1;
                        eprintln!("synod-tools: {}+{:#x}: {error:#}", found.file, found.record.offset);
                    }
                }
            }
        }
        if let Some(shown) = &mut row.configuration
            && let Some(body) = found.record.body.filter(|body| body.kind.is_configuration())
        {
            let bodies = found.scanner.bodies(&found.record)?;
            let stored = bodies.first().map(|stored| found.scanner.body_record(&found.record, stored)).transpose()?;
            match stored.map(|record| ConfigurationRow::read(&body, &record)) {
                Some(Ok(configuration)) => *shown = Some(configuration),
                Some(Err(error)) => {
                    self.troubles += 1;
                    eprintln!("synod-tools: {}+{:#x}: {error:#}", found.file, found.record.offset);
                }
                None => {}
            }
        }
        self.output.row(&row)?;
        self.left -= 1;
        Ok(if self.left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}
