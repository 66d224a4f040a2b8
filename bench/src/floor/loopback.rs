//! Loopback: a message to another thread over TCP, and back.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

/// What it costs to ask and to be answered.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// Bytes there, and as many back.
    pub(crate) message_bytes: usize,
    pub(crate) round_trips_per_second: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

/// Asks one question after the other for so long.
///
/// # Errors
/// If there is no loopback.
pub(crate) fn measure(message_bytes: usize, each: Duration) -> io::Result<Row> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let echo = thread::spawn(move || -> io::Result<()> {
        let mut message = vec![0; message_bytes];
        while far.read_exact(&mut message).is_ok() {
            far.write_all(&message)?;
        }
        Ok(())
    });
    let mut latency_ns = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).expect("constant bounds are sound");
    let mut message = vec![0x5a; message_bytes];
    let begun = Instant::now();
    while begun.elapsed() < each {
        let asked_at = Instant::now();
        near.write_all(&message)?;
        near.read_exact(&mut message)?;
        latency_ns.saturating_record(asked_at.elapsed().as_nanos() as u64);
    }
    let seconds = begun.elapsed().as_secs_f64();
    drop(near);
    echo.join().map_err(|_| io::Error::other("the echo panicked"))??;
    Ok(Row {
        message_bytes,
        round_trips_per_second: latency_ns.len() as f64 / seconds,
        p50_us: latency_ns.value_at_quantile(0.5) / 1000,
        p99_us: latency_ns.value_at_quantile(0.99) / 1000,
    })
}
