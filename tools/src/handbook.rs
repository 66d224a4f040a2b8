//! `completions` and `man`: made from the command line itself, so that they never say anything else.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::exit::Exit;
use crate::output::Output;

/// Which shell.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

/// Where to.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Write one page for the program and one for each verb into this directory, which is made if needed; without it
    /// the program's page goes to stdout
    #[arg(long)]
    dir: Option<PathBuf>,
}

pub(crate) fn completions<C: CommandFactory>(options: &Completions, output: &mut Output) -> Result<Exit> {
    // By way of memory, for the generator panics where a write fails.
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut C::command(), "synod-tools", &mut script);
    output.raw(&script)?;
    Ok(Exit::Well)
}

pub(crate) fn man<C: CommandFactory>(options: &Man, output: &mut Output) -> Result<Exit> {
    match &options.dir {
        Some(directory) => {
            let failed = || format!("can't write man pages into {}", directory.display());
            fs::create_dir_all(directory).with_context(failed)?;
            clap_mangen::generate_to(C::command(), directory).with_context(failed)?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(C::command()).render(&mut page)?;
            output.raw(&page)?;
        }
    }
    Ok(Exit::Well)
}
