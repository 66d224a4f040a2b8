//! `synod serve`.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::Resource;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use synod::directory::LOGS_MAX;
use synod::{Node, StopReason};

use crate::arguments::SettingsArguments;
use crate::{StdoutError, start_logging};

/// What shells add to the number of the signal that ended a process.
const KILLED: i32 = 128;

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
    /// Groups of the node.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(LOGS_MAX)))]
    groups: u32,
    #[command(flatten)]
    settings: SettingsArguments,
}

impl Limits {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let text = synod::limits::print_for(&self.settings.bounds()?.config, self.groups);
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
        let signals = Signals::watch().context("can't watch for signals")?;
        tell_supervisor(&[NotifyState::Status("reading the log back")]);
        let mut node = Node::start(loaded.options.config)?;
        signals.node_is_up();
        announce(&node)?;
        tell_supervisor(&[NotifyState::Ready, NotifyState::Status("serving")]);
        let reason = watch(&node, &signals)?;
        tell_supervisor(&[NotifyState::Stopping, NotifyState::Status("shutting down")]);
        let ended = node.retire();
        if let Some(reason) = reason.or_else(|| node.stopped()) {
            return Err(StoppedError(reason).into());
        }
        ended.context("the node did not end in order")
    }
}

/// Waits for a signal, or until the node stops serving of its own accord; then says why.
fn watch(node: &Node, signals: &Signals) -> anyhow::Result<Option<StopReason>> {
    let watchdog = sd_notify::watchdog_enabled();
    let mut fed_at = Instant::now();
    loop {
        match signals.received.recv_timeout(WATCH_INTERVAL) {
            Ok(SIGHUP) => {
                if let Err(error) = node.reload_certificates() {
                    tracing::error!(%error, "the new certificates can't be used; the old ones stay");
                }
                continue;
            }
            Ok(signal) => {
                tracing::info!(signal, "shutting down");
                return Ok(None);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the thread that watches for signals has ended"),
        }
        // Also where only one of several groups has: it is the process that has to be started again.
        if let Some(reason) = node.stopped() {
            return Ok(Some(reason));
        }
        // A shard that doesn't move any more is what the watchdog is for.
        if watchdog.is_some_and(|period| fed_at.elapsed() >= period / 4) && node.health().is_ok() {
            fed_at = Instant::now();
            tell_supervisor(&[NotifyState::Watchdog]);
        }
    }
}

/// Tells systemd, if it is there.
fn tell_supervisor(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "can't tell the service manager how this node stands");
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
    let groups = node.groups().len();
    if groups > 1 {
        line.push_str(&format!(" groups={groups}"));
    }
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(StdoutError)?;
    Ok(())
}

/// What the process is asked to do from outside.
struct Signals {
    received: mpsc::Receiver<i32>,
    is_up: Arc<AtomicBool>,
}

impl Signals {
    /// Takes over SIGHUP, which asks for the certificates to be read again, and SIGINT and SIGTERM. Of those the first one is handed on, for an orderly end; before the node is up there is
    /// nothing to put in order, and it ends the process. The second one ends it at once: the log needs no orderly end.
    fn watch() -> io::Result<Signals> {
        let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])?;
        let (sender, received) = mpsc::channel();
        let is_up = Arc::new(AtomicBool::new(false));
        let up = Arc::clone(&is_up);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut asked = false;
            for signal in signals.forever() {
                if signal == SIGHUP {
                    // Of no use to a node that isn't up yet, or not any more.
                    let _ = sender.send(signal);
                    continue;
                }
                if !up.load(Ordering::Acquire) {
                    tracing::info!(signal, "ending before the log is read back");
                    signal_hook::low_level::exit(0);
                }
                if std::mem::replace(&mut asked, true) || sender.send(signal).is_err() {
                    tracing::warn!(signal, "ending at once");
                    signal_hook::low_level::exit(KILLED + signal);
                }
            }
        })?;
        Ok(Signals { received, is_up })
    }

    fn node_is_up(&self) {
        self.is_up.store(true, Ordering::Release);
    }
}
