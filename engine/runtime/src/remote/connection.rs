//! One connection to a node's client port: its hello, and replies as they come.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use async_io::Async;
use futures_lite::io::{BufReader, ReadHalf, WriteHalf, split};
use futures_lite::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use futures_rustls::TlsConnector;
use rustls::pki_types::ServerName;
use synod_frame::client::{ClientEnvelope, ClientKind, ClientReply, decode_reply};
use synod_frame::{ENVELOPE_BYTES, HELLO_BYTES, HelloReply, RECORD_HEADER_BYTES, RecordBuffer};

use crate::client::{ClientError, check_body, client_hello};
use crate::reader::SharedBody;
use crate::seam::time::within;
use crate::tls::ClientTls;

/// What carries bytes to a node and back.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire for T {}

/// The side that replies come from.
pub(super) type Reading = BufReader<ReadHalf<Box<dyn Wire>>>;

/// The side that requests go to.
pub(super) type Writing = WriteHalf<Box<dyn Wire>>;

/// A connection whose hello is done.
pub(super) struct Connection {
    pub(super) reading: Reading,
    pub(super) writing: Writing,
}

/// Connects to a node within that time.
pub(super) async fn connect(
    address: SocketAddr,
    tls: Option<&ClientTls>,
    deadline: Duration,
) -> Result<Connection, ClientError> {
    let timeout = || ClientError::Io(io::ErrorKind::TimedOut.into());
    within(deadline, greet(address, tls)).await.unwrap_or_else(|| Err(timeout()))
}

async fn greet(address: SocketAddr, tls: Option<&ClientTls>) -> Result<Connection, ClientError> {
    let stream = Async::<TcpStream>::connect(address).await?;
    stream.get_ref().set_nodelay(true)?;
    let wire: Box<dyn Wire> = match tls {
        Some(tls) => {
            let name = ServerName::IpAddress(address.ip().into());
            Box::new(TlsConnector::from(tls.config()).connect(name, stream).await?)
        }
        None => Box::new(stream),
    };
    let (reading, mut writing) = split(wire);
    let mut reading = BufReader::with_capacity(64 << 10, reading);
    writing.write_all(&client_hello().encode()).await?;
    writing.flush().await?;
    let mut reply = [0; HELLO_BYTES];
    reading.read_exact(&mut reply).await?;
    HelloReply::decode(&reply)?.outcome.map_err(ClientError::Unwelcome)?;
    Ok(Connection { reading, writing })
}

/// The next reply, with its body. Not to be dropped halfway: the connection is of no use then.
pub(super) async fn read_reply(reading: &mut Reading) -> Result<(ClientReply, Option<SharedBody>), ClientError> {
    let mut head = [0; ENVELOPE_BYTES];
    reading.read_exact(&mut head).await?;
    let envelope = ClientEnvelope::decode(&head)?;
    // Bounded by the envelope's own check.
    let payload_bytes = envelope.payload_bytes as usize;
    if envelope.kind != ClientKind::Body {
        let mut payload = vec![0; payload_bytes];
        reading.read_exact(&mut payload).await?;
        return Ok((decode_reply(&envelope, &payload, None)?, None));
    }
    let mut record = RecordBuffer::zeroed(RECORD_HEADER_BYTES + payload_bytes);
    reading.read_exact(&mut record.as_mut()[RECORD_HEADER_BYTES..][..payload_bytes]).await?;
    let body = check_body(&record, payload_bytes)?;
    Ok((decode_reply(&envelope, &[], Some(&body.handle()))?, Some(body)))
}
