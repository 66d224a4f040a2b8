//! `synod serve`.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::Resource;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use synod::{Config, Node, NodeId, Retention, StopReason, SyncMode};

use crate::StdoutError;

/// How often a node that serves is asked whether it still does.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// The node's directory.
    #[arg(long)]
    dir: PathBuf,
    /// The node's id.
    #[arg(long)]
    node: u32,
    /// Where peers connect, as IP:PORT; port 0 takes a free one.
    #[arg(long)]
    listen: SocketAddr,
    /// Another member and where it listens; once for each.
    #[arg(long = "peer", value_name = "ID=IP:PORT", value_parser = parse_peer)]
    peers: Vec<(NodeId, SocketAddr)>,
    /// Where clients connect, as IP:PORT; port 0 takes a free one.
    #[arg(long)]
    client_listen: Option<SocketAddr>,
    /// Allow addresses beyond the loopback interface, though nothing is encrypted or authenticated yet.
    #[arg(long)]
    insecure_plaintext: bool,
    /// How writes become durable.
    #[arg(long, value_enum, default_value = "fdatasync")]
    sync: Sync,
    /// Most bodies that a leader keeps proposed and not chosen.
    #[arg(long)]
    window_bodies: Option<u32>,
    /// Largest record that several submissions share, in bytes; a power of two.
    #[arg(long)]
    body_bytes_max: Option<u32>,
    /// Trim while the log is longer than this, such as 8GiB; nothing is dropped that a member lacks.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    retention_bytes: Option<u64>,
    /// Trim what is older than this by the log's own time, such as 36h or 7d; nothing is dropped that a member lacks.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    retention_age: Option<Duration>,
    /// Above this length trim also what some members lack, as long as a quorum has it: they can't catch up any more.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    retention_hard_bytes: Option<u64>,
    /// Never have more segment files than this.
    #[arg(long)]
    pool_files_max: Option<u32>,
    /// Stay on this core.
    #[arg(long)]
    pin_to_core: Option<usize>,
}

/// The node serves no more, of its own accord.
#[derive(Debug, thiserror::Error)]
#[error("the node has stopped serving: {0}")]
pub(crate) struct StoppedError(pub(crate) StopReason);

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Sync {
    /// Several writes, then one sync.
    Fdatasync,
    /// Each write by itself (O_DSYNC).
    Dsync,
}

impl Serve {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        raise_open_files();
        // Before the node exists, so that a signal during recovery isn't lost.
        let signals = watch_signals().context("can't watch for signals")?;
        let mut node = Node::start(self.config())?;
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

    fn config(self) -> Config {
        let mut config = Config::new(self.dir, NodeId(self.node), self.listen);
        config.peers = self.peers;
        config.client_listen = self.client_listen;
        config.insecure_plaintext = self.insecure_plaintext;
        config.pin_to_core = self.pin_to_core;
        config.retention =
            Retention { bytes: self.retention_bytes, age: self.retention_age, hard_bytes: self.retention_hard_bytes };
        if let Some(files) = self.pool_files_max {
            config.pool_files_max = files;
        }
        config.sync = match self.sync {
            Sync::Fdatasync => SyncMode::Fdatasync,
            Sync::Dsync => SyncMode::Dsync,
        };
        if let Some(bodies) = self.window_bodies {
            config.settings.window_bodies = bodies;
        }
        if let Some(bytes) = self.body_bytes_max {
            config.body_bytes_max = bytes;
        }
        config
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

fn parse_bytes(text: &str) -> Result<u64, String> {
    let units = [("", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
    with_unit(text, &units).ok_or_else(|| format!("{text:?} is no size: write 1073741824, 512MiB or 8GiB"))
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
    let seconds = with_unit(text, &units).ok_or_else(|| format!("{text:?} is no time: write 90s, 30m, 36h or 7d"))?;
    Ok(Duration::from_secs(seconds))
}

/// A whole number and one of the units, each with its factor.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn parse_peer(text: &str) -> Result<(NodeId, SocketAddr), String> {
    let (id, address) = text.split_once('=').ok_or("expected ID=IP:PORT, like 2=127.0.0.1:7002")?;
    let id = id.parse().map_err(|_| format!("{id:?} is not a node id"))?;
    let address = address.parse().map_err(|_| format!("{address:?} is not IP:PORT; names are not resolved"))?;
    Ok((NodeId(id), address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(parse_bytes("8GiB"), Ok(8 << 30));
        assert_eq!(parse_time("36h"), Ok(Duration::from_secs(36 * 3600)));
        for bad in ["", "GiB", "8GB", "-1", "99999999999TiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert!(parse_time("7").is_err() && parse_time("1w").is_err());
    }
}
