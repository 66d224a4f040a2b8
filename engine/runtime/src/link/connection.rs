//! A connection, in plaintext or inside TLS, whole or in its two directions.
//!
//! In plaintext a read goes from the socket straight into the caller's memory. Inside TLS a record is decrypted where it
//! was received, and what it holds is then copied to the caller: one decrypting pass, one copy. A write is encrypted from
//! the caller's memory, once for each peer.

use std::io;
use std::sync::Arc;

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use futures_util::io::{ReadHalf, WriteHalf};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ServerConfig};

use crate::seam::net::Stream;

/// What one TLS record holds at most.
const RECORD_BYTES: usize = 16 << 10;

/// Both directions.
#[derive(Debug)]
pub(crate) enum Connection {
    Plain(Stream),
    Tls(Box<TlsStream<Stream>>),
}

impl Connection {
    /// The accepting side of TLS; the certificate of the other side is verified.
    pub(crate) async fn accept(stream: Stream, config: Arc<ServerConfig>) -> io::Result<Connection> {
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        Ok(Connection::Tls(Box::new(stream.into())))
    }

    /// The connecting side of TLS; the certificate of the other side is verified.
    pub(crate) async fn connect(
        stream: Stream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Connection> {
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        Ok(Connection::Tls(Box::new(stream.into())))
    }

    /// The certificate of the other side; none in plaintext.
    pub(crate) fn certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Connection::Plain(_) => None,
            Connection::Tls(stream) => stream.get_ref().1.peer_certificates()?.first(),
        }
    }

    /// Reads what is there, at least one byte; zero means that the peer closed.
    pub(crate) async fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Connection::Plain(stream) => stream.read(bytes).await,
            Connection::Tls(stream) => stream.read(bytes).await,
        }
    }

    /// Writes all of `bytes`.
    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Connection::Plain(stream) => stream.write_all(bytes).await,
            Connection::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    /// Only the direction towards this node.
    pub(crate) fn into_reading(self) -> Reading {
        match self {
            Connection::Plain(stream) => Reading::Plain(stream),
            Connection::Tls(stream) => Reading::Tls(futures_util::AsyncReadExt::split(stream).0),
        }
    }

    /// Both directions, so that one task reads while another writes.
    pub(crate) fn split(self) -> io::Result<(Reading, Writing)> {
        match self {
            Connection::Plain(stream) => {
                let second = stream.second()?;
                Ok((Reading::Plain(second), Writing::Plain(stream)))
            }
            Connection::Tls(stream) => {
                let (reading, writing) = futures_util::AsyncReadExt::split(stream);
                Ok((Reading::Tls(reading), Writing::Tls(writing)))
            }
        }
    }
}

/// The direction towards this node.
#[derive(Debug)]
pub(crate) enum Reading {
    Plain(Stream),
    Tls(ReadHalf<Box<TlsStream<Stream>>>),
}

impl Reading {
    /// See [`Connection::read`].
    pub(crate) async fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Reading::Plain(stream) => stream.read(bytes).await,
            Reading::Tls(stream) => stream.read(bytes).await,
        }
    }

    /// Fills `bytes` completely.
    ///
    /// # Errors
    /// `UnexpectedEof` if the peer closed before that.
    pub(crate) async fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Reading::Plain(stream) => stream.read_exact(bytes).await,
            Reading::Tls(stream) => stream.read_exact(bytes).await,
        }
    }
}

/// The direction away from this node.
#[derive(Debug)]
pub(crate) enum Writing {
    Plain(Stream),
    Tls(WriteHalf<Box<TlsStream<Stream>>>),
}

impl Writing {
    /// See [`Connection::write_all`].
    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Writing::Plain(stream) => stream.write_all(bytes).await,
            Writing::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    /// Writes all of `head` and then all of `tail`, together as far as possible: a small head sent on its own would wake
    /// the peer twice.
    pub(crate) async fn write_both(&mut self, head: &[u8], tail: &[u8]) -> io::Result<()> {
        match self {
            Writing::Plain(stream) => stream.write_both(head, tail).await,
            Writing::Tls(stream) => {
                // One record for the head and the beginning of the tail.
                let (first, rest) = tail.split_at(tail.len().min(RECORD_BYTES.saturating_sub(head.len())));
                stream.write_all(&[head, first].concat()).await?;
                stream.write_all(rest).await?;
                stream.flush().await
            }
        }
    }

    /// Tells the peer that nothing more comes.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        match self {
            Writing::Plain(stream) => stream.finish(),
            Writing::Tls(stream) => stream.close().await,
        }
    }
}
