//! A switch on the way from each replica to each other one.
//!
//! Replicas in processes of their own are told the addresses of relays in this process, which pass on what they get. A way that
//! is cut passes nothing on and answers nobody, and refuses nothing either: as with a network that has lost it, whoever
//! sends fills buffers and hears nothing, and when it is mended what was under way arrives. The bytes go from socket to socket
//! in the kernel; still, a relay costs a wake-up or two, so there are relays only where they are asked for.

use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::replica::Plan;

/// How soon a relay notices that its way was cut or mended, or that somebody connects.
const PACE: Duration = Duration::from_millis(2);
/// What a relay holds between two sockets, at most.
const HELD_BYTES: usize = 1 << 20;

/// All ways between replicas; they are open, and end with this.
#[derive(Debug)]
pub(crate) struct Links(Vec<Arc<Way>>);

#[derive(Debug)]
struct Way {
    from: u32,
    to: u32,
    target: SocketAddr,
    is_cut: AtomicBool,
    is_over: AtomicBool,
}

impl Links {
    /// Puts a relay on every way, and tells the plans to take it.
    ///
    /// # Errors
    /// If there are no free ports.
    pub(crate) fn lay(plans: &mut [Plan]) -> Result<Links> {
        let mut ways = Vec::new();
        for plan in plans {
            for (peer, address) in &mut plan.peers {
                let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
                    .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
                    .context("a port for a relay between replicas")?;
                let relay = listener.local_addr().context("asking for a relay's port")?;
                let target = std::mem::replace(address, relay);
                let (is_cut, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
                let way = Arc::new(Way { from: plan.node, to: *peer, target, is_cut, is_over });
                ways.push(Arc::clone(&way));
                thread::spawn(move || way.serve(&listener));
            }
        }
        Ok(Links(ways))
    }

    /// Cuts a replica off from all others, or joins it with them again.
    pub(crate) fn cut(&self, node: u32, is_cut: bool) {
        for way in self.0.iter().filter(|way| way.from == node || way.to == node) {
            way.is_cut.store(is_cut, Ordering::Relaxed);
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for way in &self.0 {
            way.is_over.store(true, Ordering::Relaxed);
        }
    }
}

impl Way {
    fn serve(self: &Arc<Way>, listener: &TcpListener) {
        while self.wait_until_open() {
            match listener.accept() {
                // A target that isn't there, or no longer, is found out by whoever connected: the connection ends.
                Ok((near, _)) => drop(self.join(near)),
                Err(_) => thread::sleep(PACE),
            }
        }
    }

    fn join(self: &Arc<Way>, near: TcpStream) -> std::io::Result<()> {
        near.set_nonblocking(false)?;
        let far = TcpStream::connect(self.target)?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        for (source, sink) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
            let way = Arc::clone(self);
            thread::spawn(move || {
                // Whatever ended one direction ends both, as the end of a process does.
                let _ = way.pass(&source, &sink);
                drop(source.shutdown(Shutdown::Both));
                drop(sink.shutdown(Shutdown::Both));
            });
        }
        Ok(())
    }

    /// Passes bytes on until one side ends.
    fn pass(&self, source: &TcpStream, sink: &TcpStream) -> rustix::io::Result<()> {
        let (output, input) = pipe_with(PipeFlags::CLOEXEC)?;
        // A smaller one does as well, only slower.
        let _ = fcntl_setpipe_size(&input, HELD_BYTES);
        loop {
            let mut held = splice(source, None, &input, None, HELD_BYTES, SpliceFlags::MOVE)?;
            if held == 0 {
                return Ok(());
            }
            // What was read before the cut waits too.
            while held > 0 && self.wait_until_open() {
                held -= splice(&output, None, sink, None, held, SpliceFlags::MOVE)?;
            }
            if held > 0 {
                return Ok(());
            }
        }
    }

    /// False if it is over instead.
    fn wait_until_open(&self) -> bool {
        while self.is_cut.load(Ordering::Relaxed) && !self.is_over.load(Ordering::Relaxed) {
            thread::sleep(PACE);
        }
        !self.is_over.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::options::Sync;

    #[test]
    fn a_way_that_is_cut_holds_what_is_under_way_until_it_is_mended() {
        let target = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut plans = [Plan {
            directory: "none".into(),
            node: 1,
            listen: target.local_addr().expect("an address"),
            peers: vec![(2, target.local_addr().expect("an address"))],
            client_listen: None,
            window_bodies: 1,
            body_bytes: 4096,
            sync: Sync::Dsync,
            client_requests: 0,
            shards: None,
        }];
        let links = Links::lay(&mut plans).expect("ports");
        let mut near = TcpStream::connect(plans[0].peers[0].1).expect("the relay");
        let (mut far, _) = target.accept().expect("the relay connects");
        let mut bytes = [0; 5];
        near.write_all(b"first").expect("room");
        far.read_exact(&mut bytes).expect("what was sent");
        assert_eq!(&bytes, b"first");
        links.cut(2, true);
        near.write_all(b"later").expect("room in a buffer");
        far.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        assert!(far.read_exact(&mut bytes).is_err(), "nothing comes through");
        links.cut(2, false);
        far.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        far.read_exact(&mut bytes).expect("what was sent before");
        assert_eq!(&bytes, b"later");
        drop(near);
        assert_eq!(far.read(&mut bytes).expect("an end"), 0);
    }
}
