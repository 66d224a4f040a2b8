//! The peer port: who may connect, and what becomes of a connection.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::FutureExt as _;
use synod_frame::{Channel, Hello, HelloRefusal, HelloReply};
use synod_protocol::NodeId;

use super::handshake::{HandshakeError, Identity, read_hello};
use super::receive::{self, ReceiveError};
use crate::meters::{Meters, PortMeter};
use crate::seam::net::{Listener, Stream};
use crate::seam::time::sleep;
use crate::shard::Shard;

/// How long to wait when the process has no descriptors left.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Counts connections.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    open: Rc<Cell<usize>>,
    max: usize,
    meters: Arc<Meters>,
    port: fn(&Meters) -> &PortMeter,
}

/// One of them; gone when dropped.
#[derive(Debug)]
pub(crate) struct Admission(Connections);

impl Connections {
    /// None yet, of at most `max`.
    pub(crate) fn new(max: usize, meters: Arc<Meters>, port: fn(&Meters) -> &PortMeter) -> Connections {
        Connections { open: Rc::default(), max, meters, port }
    }

    /// Their figures.
    pub(crate) fn meter(&self) -> &PortMeter {
        (self.port)(&self.meters)
    }

    /// One more, unless there are too many.
    pub(crate) fn admit(&self) -> Option<Admission> {
        self.meter().accepted.add(1);
        if self.open.get() >= self.max {
            self.meter().refused.add(1);
            return None;
        }
        self.set_open(self.open.get() + 1);
        Some(Admission(self.clone()))
    }

    fn set_open(&self, open: usize) {
        self.open.set(open);
        self.meter().open.set(open as u64);
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.set_open(self.0.open.get() - 1);
    }
}

/// Accepts connections for ever and gives each to `serve`.
pub(crate) async fn accept_all(
    listener: Listener,
    connections: Connections,
    mut serve: impl FnMut(Stream, SocketAddr, Admission),
) {
    let mut told_full = false;
    loop {
        match listener.accept().await {
            Ok((stream, Some(peer))) => match connections.admit() {
                Some(admission) => {
                    told_full = false;
                    serve(stream, peer, admission);
                }
                None if told_full => {}
                None => {
                    told_full = true;
                    tracing::warn!(%peer, max = connections.max, "too many connections; closing new ones");
                }
            },
            Ok((_, None)) => {}
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Serves the peer port.
pub(crate) async fn serve_peers(
    shard: Rc<Shard>,
    identity: Rc<Identity>,
    listener: Listener,
    connections: Connections,
) {
    let tasks = Rc::clone(&shard.tasks);
    accept_all(listener, connections, move |stream, address, admission| {
        let (shard, identity) = (Rc::clone(&shard), Rc::clone(&identity));
        tasks.spawn(async move {
            serve_peer(&shard, &identity, stream, address).await;
            drop(admission);
        });
    })
    .await;
}

async fn serve_peer(shard: &Rc<Shard>, identity: &Identity, mut stream: Stream, address: SocketAddr) {
    let (peer, channel, port) = match welcome(shard, identity, &mut stream).await {
        Ok(peer) => peer,
        Err(error) => {
            if error.is_absence() {
                tracing::debug!(%address, %error, "a connection ended before its hello");
            } else {
                shard.count(|counters| counters.refusals += 1);
                tracing::warn!(%address, %error, "a connection to the peer port was closed");
            }
            return;
        }
    };
    match shard.link_to(peer) {
        Some(link) => link.peer_is_alive(),
        // Nobody has told yet where it listens: it has.
        None if port != 0 => shard.meet(peer, SocketAddr::new(address.ip(), port)),
        None => {}
    }
    let receiving = async {
        match channel {
            Channel::Bulk => receive::receive_bulk(shard, peer, stream).await,
            _ => receive::receive_control(shard, peer, stream).await,
        }
    };
    let silence = async {
        shard.wait_until_stopped().await;
        ReceiveError::Io(io::ErrorKind::ConnectionAborted.into())
    };
    let end = receiving.or(silence).await;
    if end.is_end_of_stream() {
        tracing::debug!(%peer, %address, ?channel, "the peer closed its connection");
    } else {
        shard.count(|counters| counters.refusals += 1);
        tracing::warn!(%peer, %address, ?channel, error = %end, "a peer's connection was closed");
    }
}

/// Hears a peer's hello and answers it.
async fn welcome(
    shard: &Shard,
    identity: &Identity,
    stream: &mut Stream,
) -> Result<(NodeId, Channel, u16), HandshakeError> {
    stream.set_nodelay()?;
    let hello = read_hello(stream, Hello::decode).await?;
    let channel = if hello.channel == Channel::Client { Channel::Control } else { hello.channel };
    let own = identity.hello(channel, hello.from, shard.position());
    let outcome = if shard.is_stopped() {
        Err(HelloRefusal::Shutdown)
    } else {
        hello.check(&own).and_then(|format| identity.judge(&hello).map(|()| format))
    };
    stream.write_all(&HelloReply { hello: own, outcome }.encode()).await?;
    outcome.map_err(HandshakeError::Refused)?;
    Ok((hello.from, channel, hello.port))
}
