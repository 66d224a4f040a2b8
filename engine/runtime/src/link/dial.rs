//! Keeping one connection to a peer up, and feeding it.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::FutureExt as _;
use synod_frame::{Channel, GroupId, HelloRefusal};
use synod_protocol::NodeId;

use super::Link;
use super::connection::{Connection, Reading, Writing};
use super::handshake::{HELLO_DEADLINE, HandshakeError, Identity, greet, of_tls};
use super::outbox::Outbox;
use super::passage;
use crate::error::StopReason;
use crate::seam::executor::yield_if_needed;
use crate::seam::net::Stream;
use crate::seam::time::{sleep, within};
use crate::shard::Shard;
use crate::tls::{Names, Tls};

/// First and longest wait before connecting again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Small messages are gathered into writes of about this size.
const GATHER_BYTES: usize = 64 << 10;

/// Connects again and again, until the link ends.
pub(crate) async fn dial(
    shard: Rc<Shard>,
    identity: Rc<Identity>,
    link: Rc<Link>,
    channel: Channel,
    tls: Option<Arc<Tls>>,
) {
    let mut back_off = BACK_OFF.0;
    let mut told = None;
    while !link.outbox(channel).is_ended() {
        match connect(&shard, &identity, &link, channel, tls.as_deref()).await {
            Ok(stream) => {
                back_off = BACK_OFF.0;
                told = None;
                tracing::debug!(peer = %link.peer, ?channel, "connected");
                let outbox = link.outbox(channel);
                outbox.open();
                let end = feed(stream, outbox).await;
                outbox.close();
                match end {
                    Ok(()) => tracing::debug!(peer = %link.peer, ?channel, "connection ended"),
                    Err(reason) => tracing::debug!(peer = %link.peer, ?channel, %reason, "connection lost"),
                }
            }
            Err(error) => {
                match error {
                    // Two connections are made at a time, and each hello tells how far the log was when it was written: a
                    // peer may hear the later one first. Whoever still has what it showed in this boot has lost nothing.
                    HandshakeError::Refused(HelloRefusal::RolledBack { boot_counter, stable })
                        if boot_counter == identity.boot_counter && stable <= shard.position().1 =>
                    {
                        tracing::debug!(peer = %link.peer, ?channel, "a later hello was heard first");
                        sleep(jittered(BACK_OFF.0)).await;
                        continue;
                    }
                    HandshakeError::Refused(HelloRefusal::UnknownNode { configuration }) => {
                        shard.is_unknown(link.peer, configuration);
                    }
                    // Whatever this node has promised since may be forgotten: it must not vote.
                    HandshakeError::Refused(why @ (HelloRefusal::RolledBack { .. } | HelloRefusal::Twin { .. })) => {
                        shard.end_service(StopReason::Stranger { peer: link.peer, why });
                    }
                    _ => {}
                }
                let text = error.to_string();
                // Once for each reason: a peer that is down for a day isn't worth a line every two seconds.
                if told.as_ref() != Some(&text) {
                    if error.is_absence() {
                        tracing::info!(peer = %link.peer, address = %link.address, %error, "can't connect");
                    } else {
                        tracing::warn!(peer = %link.peer, address = %link.address, %error, "can't talk");
                    }
                    told = Some(text);
                }
            }
        }
        if link.outbox(channel).is_ended() {
            return;
        }
        sleep(jittered(back_off)).or(link.alive.wait()).await;
        back_off = (back_off * 2).min(BACK_OFF.1);
    }
}

async fn connect(
    shard: &Shard,
    identity: &Identity,
    link: &Link,
    channel: Channel,
    tls: Option<&Tls>,
) -> Result<Connection, HandshakeError> {
    let stream = Stream::connect(link.address, HELLO_DEADLINE).await?;
    stream.set_nodelay()?;
    stream.set_user_timeout()?;
    let mut connection = match tls {
        Some(tls) => secure(stream, link.peer, identity.group(), tls).await?,
        None => Connection::Plain(stream),
    };
    let hello = identity.hello(channel, link.peer, shard.position());
    let peer = greet(&mut connection, &hello, identity).await?;
    shard.hear_reader(peer.from, peer.format_max);
    Ok(connection)
}

/// Shakes hands, and looks whether it is the right node that answers.
async fn secure(stream: Stream, expected: NodeId, group: GroupId, tls: &Tls) -> Result<Connection, HandshakeError> {
    // Verified by what the certificate names, not by what was asked for.
    let handshake = Connection::connect(stream, tls.dialling(), passage::name_of(group, expected));
    let connection = within(HELLO_DEADLINE, handshake).await.ok_or(HandshakeError::Timeout)?.map_err(of_tls)?;
    let names = connection.certificate().map(|certificate| Names::of(certificate, tls.cluster()));
    let found = names.unwrap_or_default().nodes;
    if !found.contains(&expected) {
        return Err(HandshakeError::Name { expected, found });
    }
    Ok(connection)
}

/// Writes what is in the outbox until that ends, or the connection fails.
async fn feed(connection: Connection, outbox: &Outbox) -> io::Result<()> {
    // The peer never writes here: whatever a read gives is the end of the connection, and it is known at once instead
    // of at some later write.
    let (watch, mut writing) = connection.split()?;
    let feeding = async {
        while write_next(&mut writing, outbox).await? {
            yield_if_needed().await;
        }
        writing.finish().await
    };
    feeding.or(wait_for_end(watch)).await
}

async fn wait_for_end(mut watch: Reading) -> io::Result<()> {
    match watch.read(&mut [0; 1]).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the peer writes where it should only read")),
    }
}

/// Whether there may be more to write.
async fn write_next(stream: &mut Writing, outbox: &Outbox) -> io::Result<bool> {
    let Some(parcel) = outbox.next().await else { return Ok(false) };
    if let Some(frame) = &parcel.body {
        stream.write_both(&parcel.envelope, frame.body()).await?;
        return Ok(true);
    }
    let mut gathered = Vec::with_capacity(1024);
    gathered.extend_from_slice(&parcel.envelope);
    gathered.extend_from_slice(&parcel.payload);
    while gathered.len() < GATHER_BYTES
        && let Some(parcel) = outbox.pop_if(|parcel| parcel.body.is_none())
    {
        gathered.extend_from_slice(&parcel.envelope);
        gathered.extend_from_slice(&parcel.payload);
    }
    stream.write_all(&gathered).await?;
    Ok(true)
}

/// Half to one and a half times as long, so that nodes that lost each other don't meet in lockstep.
fn jittered(duration: Duration) -> Duration {
    let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
    let part = (random % 1024) as u32;
    duration / 2 + duration * part / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_around_its_mean() {
        for _ in 0..100 {
            let wait = jittered(Duration::from_millis(100));
            assert!(wait >= Duration::from_millis(50) && wait < Duration::from_millis(150), "{wait:?}");
        }
    }
}
