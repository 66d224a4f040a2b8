//! From the door to the right shard: connections between nodes arrive at one port and belong to one group each.
//!
//! The first shard listens for all. Where a node has several, it looks at what a connection says first without taking it
//! (the hello, or inside TLS the name that the other side asks for) and hands the socket, unread, to the shard of the group
//! that is named. There it is received as if it had arrived there: lobby, handshake, hello, all checks. What can't be
//! understood stays with the first shard, which answers it as ever.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use futures_channel::mpsc;
use rustls::pki_types::{DnsName, ServerName};
use rustls::server::Acceptor;
use synod_frame::{GroupId, HELLO_BYTES, Hello, HelloError};
use synod_protocol::NodeId;

use super::handshake::HandshakeError;
use crate::seam::net::Stream;
use crate::seam::time::sleep;

/// Sockets on their way to one shard; of more, the newest is closed, and its node connects again.
const UNDER_WAY_MAX: usize = 64;

/// The first message inside TLS is one record, which is no longer than this, headers included.
const CLIENT_HELLO_BYTES_MAX: usize = (16 << 10) + 512;

/// First and longest wait for the rest of what has arrived in part.
const REST_WAIT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// A socket that was handed over, and who is at its other end.
pub(crate) type HandedOver = (TcpStream, SocketAddr);

/// A shard's end of the passage.
pub(crate) type Arrivals = mpsc::Receiver<HandedOver>;

/// The first shard's side: which groups live on other shards, and the way there.
#[derive(Debug, Default)]
pub(crate) struct Passages {
    ways: Vec<(Vec<GroupId>, mpsc::Sender<HandedOver>)>,
}

impl Passages {
    /// A way to the shard that has these groups.
    pub(crate) fn open(&mut self, groups: Vec<GroupId>) -> Arrivals {
        let (way, arrivals) = mpsc::channel(UNDER_WAY_MAX);
        self.ways.push((groups, way));
        arrivals
    }

    /// Whether all groups are here.
    pub(crate) fn is_empty(&self) -> bool {
        self.ways.is_empty()
    }

    /// Hands a connection to the shard of its group; gives it back if that is this one.
    ///
    /// # Errors
    /// If the socket fails. A shard that is too busy, or has ended, closes it.
    pub(crate) async fn hand_over(
        &self,
        stream: Stream,
        from: SocketAddr,
        is_tls: bool,
    ) -> Result<Option<Stream>, HandshakeError> {
        let group = if is_tls { group_in_tls(&stream).await? } else { group_in_plaintext(&stream).await? };
        let Some((_, way)) = self.ways.iter().find(|(groups, _)| groups.contains(&group)) else {
            return Ok(Some(stream));
        };
        let socket = stream.into_std()?;
        if way.clone().try_send((socket, from)).is_err() {
            tracing::warn!(address = %from, %group, "a connection was closed: its shard has ended, or has too many to take");
        }
        Ok(None)
    }
}

/// The group of the hello; zero if there is none, or the connection ends.
async fn group_in_plaintext(stream: &Stream) -> Result<GroupId, HandshakeError> {
    peek(stream, HELLO_BYTES, |bytes| {
        let mut hello = [0; HELLO_BYTES];
        hello[..bytes.len()].copy_from_slice(bytes);
        match Hello::decode(&hello) {
            Ok(hello) if bytes.len() == HELLO_BYTES => Some(hello.group),
            Err(HelloError::Magic { .. }) if bytes.len() >= size_of::<u32>() => Some(GroupId(0)),
            _ => None,
        }
    })
    .await
}

/// The group that a handshake asks for; zero if it asks for none.
async fn group_in_tls(stream: &Stream) -> Result<GroupId, HandshakeError> {
    peek(stream, CLIENT_HELLO_BYTES_MAX, |mut bytes| {
        let mut acceptor = Acceptor::default();
        let read = acceptor.read_tls(&mut bytes);
        match (read, acceptor.accept()) {
            (Ok(_), Ok(None)) => None,
            (Ok(_), Ok(Some(accepted))) => Some(accepted.client_hello().server_name().map_or(GroupId(0), group_named)),
            // The handshake proper will say what is wrong.
            _ => Some(GroupId(0)),
        }
    })
    .await
}

/// Looks at what has arrived until `read` can tell the group, or no more will come.
async fn peek(
    stream: &Stream,
    bytes_max: usize,
    mut read: impl FnMut(&[u8]) -> Option<GroupId>,
) -> Result<GroupId, HandshakeError> {
    let mut bytes = vec![0; bytes_max];
    let mut wait = REST_WAIT.0;
    loop {
        let arrived = stream.peek(&mut bytes).await?;
        if let Some(group) = read(&bytes[..arrived]) {
            return Ok(group);
        }
        if arrived == 0 || arrived == bytes_max {
            return Ok(GroupId(0));
        }
        // What has arrived doesn't go away, so that the socket can't tell when there is more.
        sleep(wait).await;
        wait = (wait * 2).min(REST_WAIT.1);
    }
}

/// What a node asks for inside TLS: its peer in a group. Only for finding the shard; nothing is proved by it.
pub(crate) fn name_of(group: GroupId, peer: NodeId) -> ServerName<'static> {
    let name = format!("group-{}.node-{}.synod", group.0, peer.0);
    ServerName::DnsName(DnsName::try_from(name).expect("letters, digits and hyphens, and not too many"))
}

fn group_named(name: &str) -> GroupId {
    let group = name.strip_prefix("group-").and_then(|rest| rest.split_once(".node-"));
    GroupId(group.and_then(|(group, _)| group.parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_group_and_others_tell_none() {
        for group in [0, 1, 17, u32::MAX] {
            assert_eq!(group_named(&name_of(GroupId(group), NodeId(3)).to_str()), GroupId(group));
        }
        for other in ["", "localhost", "group-", "group-x.node-1.synod", "group-4294967296.node-1.synod", "group-1"] {
            assert_eq!(group_named(other), GroupId(0), "{other}");
        }
    }
}
