//! The admin port: health, readiness, metrics and limits over HTTP, for probes and Prometheus.
//!
//! It has a thread of its own, so that it answers while the log is read back, and says so when the shard doesn't move any
//! more. It only reads. One request a connection; a connection has [`EXCHANGE_DEADLINE`] for everything, and when there
//! are [`CONNECTIONS_MAX`] the oldest makes way for the next: whoever holds connections open without a word can't keep
//! a probe out.

mod http;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use async_executor::{LocalExecutor, Task};
use async_io::{Async, Timer};
use futures_channel::oneshot;
use futures_lite::{AsyncRead, AsyncWrite, AsyncWriteExt as _, FutureExt as _};
use futures_rustls::TlsAcceptor;
use synod_frame::GroupId;
use synod_frame::client::ClientRole;

use crate::config::Config;
use crate::limits;
use crate::log::Shared;
use crate::meters::PortMeter;
use crate::metrics;
use crate::tls::{Door, Names, Tls};

use http::{Answer, HttpError, Request};

/// Most connections at a time.
pub(crate) const CONNECTIONS_MAX: usize = 64;

/// How long a connection may take, from its acceptance to the last byte of the answer.
pub(crate) const EXCHANGE_DEADLINE: Duration = Duration::from_secs(5);

/// How long a shard may be silent before it isn't healthy. It says something a hundred times a second.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// How long to wait when the process has no descriptors left.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

const PLAIN: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the shards share with whoever asks, for each group, the first one first.
pub(crate) type Groups = Vec<(GroupId, Arc<Shared>)>;

/// What the port shows; filled in as the node comes up.
pub(crate) struct View {
    facts: metrics::Facts,
    limits: String,
    port: Arc<PortMeter>,
    tls: Option<Arc<Tls>>,
    /// Whether the port itself speaks TLS.
    is_secure: bool,
    /// Of each group.
    groups: OnceLock<Groups>,
    leaving: AtomicBool,
}

impl View {
    /// Of a node that isn't up yet.
    pub(crate) fn new(config: &Config, groups: u32, tls: Option<Arc<Tls>>) -> View {
        // Probes on the same machine have no certificates, and whoever is there can't do more here than look.
        let is_secure = tls.is_some() && config.admin_listen.is_some_and(|address| !address.ip().is_loopback());
        View {
            facts: metrics::Facts {
                node: config.node.0,
                directory: config.directory.clone(),
                insecure_plaintext: config.insecure_plaintext,
            },
            limits: limits::print_for(config, groups),
            port: Arc::default(),
            tls,
            is_secure,
            groups: OnceLock::new(),
            leaving: AtomicBool::new(false),
        }
    }

    /// The log is read back, and the shard runs.
    pub(crate) fn is_up(&self, groups: Groups) {
        self.groups.get_or_init(|| groups);
    }

    /// All groups, once the node is up.
    fn groups(&self) -> Option<&Groups> {
        self.groups.get()
    }

    /// What is said of a group; of the only one without its name.
    fn of(groups: &Groups, group: GroupId, sentence: String) -> String {
        if groups.len() > 1 { format!("{group}: {sentence}") } else { sentence }
    }

    /// The node is about to end: nobody should be sent here any more.
    pub(crate) fn is_leaving(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// See [`metrics::encode`].
    pub(crate) fn metrics(&self) -> String {
        let expires = self.tls.as_ref().map(|tls| tls.expires());
        metrics::encode(&self.facts, self.groups().map_or(&[], Vec::as_slice), &self.port, expires)
    }

    /// The node's certificates, if it has any.
    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_deref()
    }

    /// Whether a restart wouldn't help, or why it would.
    pub(crate) fn health(&self) -> Result<(), String> {
        let Some(groups) = self.groups() else { return Ok(()) };
        for (group, shared) in groups {
            if let Some(reason) = shared.status().stopped {
                return Err(View::of(groups, *group, format!("the node has stopped serving: {reason}")));
            }
            let silent_for = shared.meters.silent_for();
            if silent_for > SILENCE_MAX && !self.leaving.load(Ordering::Acquire) {
                let sentence = format!("the shard hasn't moved for {} s", silent_for.as_secs());
                return Err(View::of(groups, *group, sentence));
            }
        }
        Ok(())
    }

    /// Whether work may be sent here, or why not.
    fn readiness(&self) -> Result<(), String> {
        self.health()?;
        if self.leaving.load(Ordering::Acquire) {
            return Err("the node is shutting down".to_owned());
        }
        let Some(groups) = self.groups() else { return Err("the log is being read back".to_owned()) };
        for (group, shared) in groups {
            let status = shared.status();
            if status.startup.ready.is_none() {
                return Err(View::of(groups, *group, "the log isn't open yet".to_owned()));
            }
            if status.leader.is_none() {
                return Err(View::of(groups, *group, "no leader is known".to_owned()));
            }
        }
        Ok(())
    }

    fn answer(&self, request: &Request) -> Answer {
        let verdict = |verdict: Result<(), String>| match verdict {
            Ok(()) => Answer::new(200, PLAIN, "ok\n".to_owned()),
            // One line, whatever the kernel or a path says.
            Err(reason) => Answer::new(503, PLAIN, format!("{}\n", reason.replace(char::is_control, " "))),
        };
        match request.path.as_str() {
            "/health" => verdict(self.health()),
            "/ready" => verdict(self.readiness()),
            "/metrics" => Answer::new(200, OPEN_METRICS, self.metrics()),
            "/limits" => Answer::new(200, PLAIN, self.limits.clone()),
            _ => Answer::new(404, PLAIN, "there are /health, /ready, /metrics and /limits\n".to_owned()),
        }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// The port; closed when dropped.
#[derive(Debug)]
pub(crate) struct Admin {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Serves `view` over a listener that was bound elsewhere.
    ///
    /// # Errors
    /// If the listener can't be used, or there is no thread to be had.
    pub(crate) fn start(listener: TcpListener, view: Arc<View>) -> io::Result<Admin> {
        let address = listener.local_addr()?;
        let listener = Async::new(listener)?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("synod-admin".to_owned()).spawn(move || {
            let executor = Rc::new(LocalExecutor::new());
            let stopped = async {
                // Sent or dropped, it means the same.
                let _ = stopped.await;
            };
            async_io::block_on(executor.run(serve(Rc::clone(&executor), listener, view).or(stopped)));
        })?;
        Ok(Admin { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens, with the port that was really taken.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the admin port has panicked");
        }
    }
}

/// The connections that are there, oldest first. A task that is dropped closes its connection.
#[derive(Default)]
struct Connections {
    numbers: Cell<u64>,
    open: RefCell<VecDeque<(u64, Task<()>)>>,
}

async fn serve(executor: Rc<LocalExecutor<'static>>, listener: Async<TcpListener>, view: Arc<View>) {
    let connections = Rc::new(Connections::default());
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                view.port.accepted.add(1);
                let number = connections.numbers.replace(connections.numbers.get() + 1);
                let (open, shown) = (Rc::clone(&connections), Arc::clone(&view));
                let task = executor.spawn(async move {
                    if let Err(error) = exchange(stream, &shown).await {
                        shown.port.refused.add(1);
                        tracing::debug!(%address, %error, "a connection to the admin port was closed");
                    }
                    open.open.borrow_mut().retain(|(other, _)| *other != number);
                    shown.port.open.set(open.open.borrow().len() as u64);
                });
                let mut open = connections.open.borrow_mut();
                if open.len() == CONNECTIONS_MAX {
                    view.port.crowded_out.add(1);
                    open.pop_front();
                }
                open.push_back((number, task));
                view.port.open.set(open.len() as u64);
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection to the admin port");
                Timer::after(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn exchange(stream: Async<TcpStream>, view: &View) -> Result<(), HttpError> {
    let answering = async {
        match view.tls() {
            Some(tls) if view.is_secure => {
                let acceptor = TlsAcceptor::from(tls.accepting(Door::Clients));
                let stream = acceptor.accept(stream).await?;
                let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                let names = certificate.map(|certificate| Names::of(certificate, tls.cluster())).unwrap_or_default();
                let is_allowed = names.roles.allow(ClientRole::Read);
                answer(stream, view, is_allowed).await
            }
            _ => answer(stream, view, true).await,
        }
    };
    let deadline = async {
        Timer::after(EXCHANGE_DEADLINE).await;
        Err(HttpError::Late)
    };
    answering.or(deadline).await
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    view: &View,
    is_allowed: bool,
) -> Result<(), HttpError> {
    let (answer, error) = match http::read_request(&mut stream).await {
        Ok(_) if !is_allowed => (
            Answer::new(403, PLAIN, "this takes the role read, which the certificate doesn't grant\n".to_owned()),
            None,
        ),
        Ok(request) => (view.answer(&request).without_body_if(request.is_head), None),
        Err(error) => match error.answer() {
            Some(answer) => (answer, Some(error)),
            None => return Err(error),
        },
    };
    stream.write_all(&answer.encode()).await?;
    stream.close().await?;
    error.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests;
