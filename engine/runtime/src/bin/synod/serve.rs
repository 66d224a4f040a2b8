//! `synod serve`.

use std::io::{self, Write as _};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::Resource;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use synod::{Node, StopReason};

use crate::arguments::SettingsArguments;
use crate::{StdoutError, start_logging};

/// How often a node that serves is asked whether it still does.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    settings: SettingsArguments,
    /// Print the settings as a file, each with its origin, and end.
    #[arg(long)]
    print_config: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Limits {
    #[command(flatten)]
    settings: SettingsArguments,
}

impl Limits {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let text = synod::limits::print(&self.settings.bounds()?.config);
        io::stdout().lock().write_all(text.as_bytes()).map_err(|error| StdoutError(error).into())
    }
}

/// The node serves no more, of its own accord.
#[derive(Debug, thiserror::Error)]
#[error("the node has stopped serving: {0}")]
pub(crate) struct StoppedError(pub(crate) StopReason);

impl Serve {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let loaded = self.settings.load()?;
        if self.print_config {
            return io::stdout().lock().write_all(loaded.print().as_bytes()).map_err(|error| StdoutError(error).into());
        }
        start_logging(loaded.options.log_format);
        raise_open_files();
        // Before the node exists, so that a signal during recovery isn't lost.
        let signals = watch_signals().context("can't watch for signals")?;
        let mut node = Node::start(loaded.options.config)?;
        announce(&node)?;
        let reason = loop {
            match signals.recv_timeout(WATCH_INTERVAL) {
                Ok(signal) => {
                    tracing::info!(signal, "shutting down");
                    break None;
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the thread that watches for signals has ended"),
            }
            if let Some(reason) = node.status().stopped {
                break Some(reason);
            }
        };
        let ended = node.shutdown();
        if let Some(reason) = reason.or_else(|| node.status().stopped) {
            return Err(StoppedError(reason).into());
        }
        ended.context("the node did not end in order")
    }
}

/// Every segment is kept open: takes as many descriptors as the administrator allows.
fn raise_open_files() {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "can't raise the limit of open files");
    }
}

/// One line that says that the node is up, and where: what a script waits for.
fn announce(node: &Node) -> anyhow::Result<()> {
    let mut line = format!("ready node={} listen={}", node.status().node.0, node.listen_address());
    if let Some(address) = node.client_address() {
        line.push_str(&format!(" client={address}"));
    }
    if let Some(address) = node.admin_address() {
        line.push_str(&format!(" admin={address}"));
    }
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(StdoutError)?;
    Ok(())
}

fn watch_signals() -> io::Result<mpsc::Receiver<i32>> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if sender.send(signal).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}
