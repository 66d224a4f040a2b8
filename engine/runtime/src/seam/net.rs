//! TCP streams and listeners.
//!
//! Listeners are bound by the standard library, in the thread that starts the node: an address in use is an error
//! there, whereas glommio binds with SO_REUSEPORT, so that two servers started by mistake would silently share one
//! port. Addresses are never resolved here: glommio panics on a bad host name.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use rustix::net::{SendAncillaryBuffer, SendFlags};

/// How long sent bytes may go unacknowledged.
const USER_TIMEOUT_MS: u32 = 10_000;

/// How long a peer may be silent before the kernel asks for a sign of life.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// A listener that belongs to the executor's thread.
#[derive(Debug)]
pub(crate) struct Listener(glommio::net::TcpListener);

impl Listener {
    /// Takes over a listener that was bound elsewhere.
    pub(crate) fn adopt(listener: std::net::TcpListener) -> Listener {
        let fd = listener.into_raw_fd();
        // SAFETY: `into_raw_fd` gave up the only owner of an open, listening socket, and the new owner closes it.
        Listener(unsafe { glommio::net::TcpListener::from_raw_fd(fd) })
    }

    /// Waits for a connection; its peer's address may be gone already.
    pub(crate) async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        let stream = self.0.accept().await.map_err(io::Error::from)?;
        let peer = stream.peer_addr().ok();
        Ok((Stream(stream), peer))
    }
}

/// A connected stream. Reads go straight into the caller's memory; writes are tried at once and wait only when the
/// socket is full.
#[derive(Debug)]
pub(crate) struct Stream(glommio::net::TcpStream);

impl Stream {
    /// Connects within `deadline`.
    pub(crate) async fn connect(address: SocketAddr, deadline: Duration) -> io::Result<Stream> {
        let stream = glommio::net::TcpStream::connect_timeout(address, deadline).await.map_err(io::Error::from)?;
        Ok(Stream(stream))
    }

    /// Sends small messages at once instead of waiting for more.
    pub(crate) fn set_nodelay(&self) -> io::Result<()> {
        self.0.set_nodelay(true).map_err(io::Error::from)
    }

    /// Gives up on a peer whose machine has vanished after ten seconds without an acknowledgement, instead of after
    /// many minutes.
    pub(crate) fn set_user_timeout(&self) -> io::Result<()> {
        Ok(rustix::net::sockopt::set_tcp_user_timeout(self.borrow(), USER_TIMEOUT_MS)?)
    }

    /// Has the kernel ask a silent peer for a sign of life, so that one whose machine has vanished is found out.
    pub(crate) fn set_keepalive(&self) -> io::Result<()> {
        rustix::net::sockopt::set_socket_keepalive(self.borrow(), true)?;
        rustix::net::sockopt::set_tcp_keepidle(self.borrow(), KEEPALIVE)?;
        Ok(rustix::net::sockopt::set_tcp_keepintvl(self.borrow(), KEEPALIVE)?)
    }

    /// A second handle of the same socket, so that one task reads while another writes.
    pub(crate) fn second(&self) -> io::Result<Stream> {
        let fd = rustix::io::fcntl_dupfd_cloexec(self.borrow(), 0)?.into_raw_fd();
        // SAFETY: the duplicate was made above, nobody else owns it, and the new owner closes it.
        Ok(Stream(unsafe { glommio::net::TcpStream::from_raw_fd(fd) }))
    }

    /// Takes over a stream that another executor has given up.
    pub(crate) fn adopt(stream: std::net::TcpStream) -> Stream {
        let fd = stream.into_raw_fd();
        // SAFETY: `into_raw_fd` gave up the only owner of an open, connected socket, and the new owner closes it.
        Stream(unsafe { glommio::net::TcpStream::from_raw_fd(fd) })
    }

    /// Gives the stream up, so that another executor can take it over. Nothing may be under way on it.
    pub(crate) fn into_std(self) -> io::Result<std::net::TcpStream> {
        Ok(rustix::io::fcntl_dupfd_cloexec(self.borrow(), 0)?.into())
    }

    /// Waits until something is there, and copies it without taking it; zero means that the peer closed.
    pub(crate) async fn peek(&self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.peek(bytes).await.map_err(io::Error::from)
    }

    /// Fills `bytes` completely.
    ///
    /// # Errors
    /// `UnexpectedEof` if the peer closed before that.
    pub(crate) async fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_exact(bytes).await
    }

    /// Reads what is there, at least one byte; zero means that the peer closed.
    pub(crate) async fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes).await
    }

    /// Writes all of `bytes`.
    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    /// Writes all of `head` and then all of `tail`, in one system call when the socket has room: a small head sent on
    /// its own would wake the peer twice.
    pub(crate) async fn write_both(&mut self, head: &[u8], tail: &[u8]) -> io::Result<()> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let parts = [IoSlice::new(head), IoSlice::new(tail)];
        let sent = match rustix::net::sendmsg(self.borrow(), &parts, &mut SendAncillaryBuffer::default(), flags) {
            Ok(sent) => sent,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        if sent < head.len() {
            self.0.write_all(&head[sent..]).await?;
        }
        let sent_of_tail = sent.saturating_sub(head.len());
        if sent_of_tail < tail.len() {
            self.0.write_all(&tail[sent_of_tail..]).await?;
        }
        Ok(())
    }

    /// Tells the peer at once that nothing more comes. A handle that is only dropped would do so no sooner than a read
    /// that is still under way on its twin has been cancelled.
    pub(crate) fn finish(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self.borrow(), rustix::net::Shutdown::Write)?)
    }

    fn borrow(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream owns the descriptor and keeps it open for as long as it is borrowed here.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

/// For what is layered on top: TLS.
impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_read(context, bytes)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_close(context)
    }
}
