//! Servers of other projects in processes of their own, each with its directory, ended with their handle.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long servers may take until they have a leader. A virtual machine of Java on busy processors takes its time.
const START: Duration = Duration::from_secs(60);
const PACE: Duration = Duration::from_millis(50);
/// What is shown of the log of a server that ended.
const TOLD_BYTES: usize = 600;

/// A server.
#[derive(Debug)]
struct Server {
    child: Child,
    log: PathBuf,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Servers(Vec<Server>);

impl Servers {
    /// Starts one more. What it says goes to a file in its directory.
    ///
    /// # Errors
    /// If the program can't be started.
    pub(super) fn start(&mut self, command: &mut Command, directory: &Path) -> Result<()> {
        let log = directory.join("server.log");
        let output = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let errors = output.try_clone().context("a second handle of a log")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        self.0.push(Server { child, log });
        Ok(())
    }

    /// Asks until there is an answer.
    ///
    /// # Errors
    /// If a server ends before, or there is none for long: with the last lines that a server wrote.
    pub(super) fn wait_for<T>(&mut self, what: &str, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
        let begun = Instant::now();
        loop {
            if let Some(answer) = ask() {
                return Ok(answer);
            }
            for server in &mut self.0 {
                if let Some(status) = server.child.try_wait().context("looking after a server")? {
                    bail!("a server ended with {status} before {what}: {}", server.last_words());
                }
            }
            if begun.elapsed() > START {
                let words: Vec<String> = self.0.iter().map(Server::last_words).collect();
                bail!("not {what} within {START:?}: {}", words.join(" | "));
            }
            thread::sleep(PACE);
        }
    }
}

impl Server {
    fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let tail = &text[text.len().saturating_sub(TOLD_BYTES)..];
        String::from_utf8_lossy(tail).trim().to_owned()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // What they hold is removed with their directories: an orderly end would only take time.
        for server in &mut self.0 {
            if let Err(error) = server.child.kill().and_then(|()| server.child.wait()) {
                tracing::warn!(%error, "a server is left behind");
            }
        }
    }
}

/// A connection of ours to a server on this machine.
///
/// # Errors
/// If nobody listens there.
pub(super) fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Where a program is, by the search path.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file())
}
