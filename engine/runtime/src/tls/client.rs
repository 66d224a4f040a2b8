//! The client's side: its certificates, and a blocking stream with or without them.

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::verify::Hosts;
use super::{Own, Tls, TlsError, TlsFiles, provider};

/// A client's certificates: what it shows to nodes, and whom it takes for one. Cheap to clone.
///
/// A node is whoever has a certificate of one of the authorities that names a node, `synod://<cluster>/node/<id>`; the
/// address that it was reached at plays no part.
#[derive(Clone)]
pub struct ClientTls(Source);

#[derive(Clone)]
enum Source {
    Files(Arc<ClientConfig>),
    /// A node's own, which may be replaced while it runs.
    Node(Arc<Tls>),
}

impl ClientTls {
    /// Reads a client's files. The certificate says what the client may do, by names such as
    /// `synod://<cluster>/role/append`.
    ///
    /// # Errors
    /// If they can't be used.
    pub fn load(files: &TlsFiles) -> Result<ClientTls, TlsError> {
        let own = Own::load(files)?;
        let provider = provider();
        let hosts = Hosts::new(Arc::clone(&own.roots), &provider, None);
        Ok(ClientTls(Source::Files(Arc::new(own.dialling(files, &provider, hosts)?))))
    }

    /// Those of a node that passes on what its clients sent.
    pub(crate) fn of_node(tls: Arc<Tls>) -> ClientTls {
        ClientTls(Source::Node(tls))
    }

    /// What rustls needs.
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        match &self.0 {
            Source::Files(config) => Arc::clone(config),
            Source::Node(tls) => tls.dialling(),
        }
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}

/// A connected stream that blocks. Reads are buffered.
#[derive(Debug)]
pub(crate) enum Wire {
    Plain { reading: BufReader<TcpStream>, writing: TcpStream },
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    /// Over a connected socket; the handshake is done by the first read or write.
    pub(crate) fn new(stream: TcpStream, tls: Option<&ClientTls>) -> io::Result<Wire> {
        match tls {
            Some(tls) => {
                let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
                let session = ClientConnection::new(tls.config(), name).map_err(io::Error::other)?;
                Ok(Wire::Tls(Box::new(StreamOwned::new(session, stream))))
            }
            None => {
                let writing = stream.try_clone()?;
                Ok(Wire::Plain { reading: BufReader::with_capacity(64 << 10, stream), writing })
            }
        }
    }

    /// Lets a read take at most this long.
    pub(crate) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Wire::Plain { writing, .. } => writing.set_read_timeout(timeout),
            Wire::Tls(stream) => stream.sock.set_read_timeout(timeout),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain { reading, .. } => reading.read(bytes),
            Wire::Tls(stream) => stream.read(bytes),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain { writing, .. } => writing.write(bytes),
            Wire::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Wire::Plain { writing, .. } => writing.flush(),
            Wire::Tls(stream) => stream.flush(),
        }
    }
}
