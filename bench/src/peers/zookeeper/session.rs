//! A session with a ZooKeeper server: its protocol as far as writes need it, integers big-endian, everything prefixed by its
//! length.
//!
//! ```text
//! connect   u32 length | i32 protocol 0 | i64 last zxid seen | i32 timeout ms | i64 session | buffer password | u8 read only
//! request   u32 length | i32 xid | i32 type | body
//! reply     u32 length | i32 xid | i64 zxid | i32 error | body
//! buffer    u32 length | bytes
//! ```

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::super::COMMAND_BYTES;
use super::super::servers::connect;
use super::super::tally::{Phase, Tally};

const CREATE: i32 = 1;
const SET_DATA: i32 = 5;
const MULTI: i32 = 14;
const CLOSE: i32 = -11;

const EPHEMERAL: i32 = 1;
const ALL_PERMISSIONS: i32 = 31;
const ANY_VERSION: i32 = -1;

const SESSION_MS: i32 = 30_000;
const PATIENCE: Duration = Duration::from_secs(30);
/// Of a reply: xid, zxid, error.
const REPLY_HEADER_BYTES: usize = 16;
/// More than any reply to a write of ours.
const REPLY_BYTES_MAX: usize = 1 << 20;
const READ_BYTES: usize = 64 << 10;

/// See the module.
pub(super) struct Session {
    stream: TcpStream,
    /// The only request of this session, but for its xid.
    request: Vec<u8>,
    batch: u32,
    xid: i32,
    /// When those that aren't answered were sent. Replies come in the order of requests.
    sent: VecDeque<Instant>,
    received: Vec<u8>,
}

impl Session {
    /// A session with a node of its own, to which each request writes `batch` times.
    pub(super) fn open(port: u16, number: u32, batch: u32) -> Result<Session> {
        let stream = connect(port).context("connecting to ZooKeeper")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let path = format!("/bench-{number}");
        let request = if batch == 1 { set_data(&path) } else { multi(&path, batch) };
        let mut session = Session { stream, request, batch, xid: 0, sent: VecDeque::new(), received: Vec::new() };
        session.stream.write_all(&framed(&connect_body()))?;
        session.reply().context("a session with ZooKeeper")?;
        let xid = session.next_xid();
        session.stream.write_all(&framed(&create(xid, &path)))?;
        let reply = session.reply()?;
        ensure!(error_of(&reply)? == 0, "ZooKeeper doesn't create {path}: error {}", error_of(&reply)?);
        Ok(session)
    }

    /// Keeps so many requests in flight until it is over; what was counted meanwhile.
    pub(super) fn run(mut self, in_flight: u32, phase: &Phase) -> Result<Tally> {
        let mut tally = Tally::default();
        let mut requests = Vec::new();
        self.send(in_flight as usize, &mut requests)?;
        while !self.sent.is_empty() {
            let answered = self.receive(&mut tally, phase)?;
            if !phase.is_over() {
                self.send(answered, &mut requests)?;
            }
        }
        // Ends the node with the session, for the next load.
        let xid = self.next_xid();
        self.stream.write_all(&framed(&header(xid, CLOSE)))?;
        self.reply()?;
        Ok(tally)
    }

    /// Sends so many requests, in one write.
    fn send(&mut self, count: usize, buffer: &mut Vec<u8>) -> Result<()> {
        buffer.clear();
        for _ in 0..count {
            let xid = self.next_xid();
            self.request[..4].copy_from_slice(&xid.to_be_bytes());
            put(buffer, self.request.len() as i32);
            buffer.extend_from_slice(&self.request);
        }
        self.stream.write_all(buffer).context("ZooKeeper ended a session")?;
        self.sent.extend(std::iter::repeat_n(Instant::now(), count));
        Ok(())
    }

    /// Takes the replies that have come, at least one read; how many they were.
    fn receive(&mut self, tally: &mut Tally, phase: &Phase) -> Result<usize> {
        self.fill()?;
        let mut answered = 0;
        let mut from = 0;
        while let Some(reply) = whole(&self.received[from..])? {
            check(reply, self.batch > 1)?;
            let begun = self.sent.pop_front().context("a reply from ZooKeeper to nothing")?;
            tally.note(phase, self.batch, begun);
            answered += 1;
            from += 4 + reply.len();
        }
        self.received.drain(..from);
        Ok(answered)
    }

    /// The next reply, of requests that are sent one at a time.
    fn reply(&mut self) -> Result<Vec<u8>> {
        loop {
            if let Some(reply) = whole(&self.received)? {
                let reply = reply.to_vec();
                self.received.drain(..4 + reply.len());
                return Ok(reply);
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<()> {
        let before = self.received.len();
        self.received.resize(before + READ_BYTES, 0);
        let bytes = self.stream.read(&mut self.received[before..]).context("waiting for ZooKeeper")?;
        self.received.truncate(before + bytes);
        ensure!(bytes > 0, "ZooKeeper ended a session");
        Ok(())
    }

    fn next_xid(&mut self) -> i32 {
        self.xid = self.xid.wrapping_add(1) & i32::MAX;
        self.xid
    }
}

/// The first reply in `bytes`, without its length, if all of it is there.
fn whole(bytes: &[u8]) -> Result<Option<&[u8]>> {
    let Some((length, rest)) = bytes.split_first_chunk() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    ensure!(length <= REPLY_BYTES_MAX, "ZooKeeper replies with {length} bytes");
    Ok(rest.get(..length))
}

fn error_of(reply: &[u8]) -> Result<i32> {
    let error = reply.get(12..).and_then(<[u8]>::first_chunk).context("a short reply from ZooKeeper")?;
    Ok(i32::from_be_bytes(*error))
}

/// Whether a write was done. A multi that failed says so only in its results.
fn check(reply: &[u8], is_multi: bool) -> Result<()> {
    let error = error_of(reply)?;
    ensure!(error == 0, "ZooKeeper refuses a write: error {error}");
    if is_multi {
        let kind = reply.get(REPLY_HEADER_BYTES..).and_then(<[u8]>::first_chunk).context("a multi without results")?;
        let kind = i32::from_be_bytes(*kind);
        ensure!(kind == SET_DATA, "ZooKeeper refuses a multi: result of type {kind}");
    }
    Ok(())
}

fn put(bytes: &mut Vec<u8>, number: i32) {
    bytes.extend_from_slice(&number.to_be_bytes());
}

fn put_buffer(bytes: &mut Vec<u8>, buffer: &[u8]) {
    put(bytes, buffer.len() as i32);
    bytes.extend_from_slice(buffer);
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + body.len());
    put_buffer(&mut bytes, body);
    bytes
}

fn header(xid: i32, kind: i32) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, xid);
    put(&mut bytes, kind);
    bytes
}

fn connect_body() -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, 0);
    bytes.extend_from_slice(&[0; 8]);
    put(&mut bytes, SESSION_MS);
    bytes.extend_from_slice(&[0; 8]);
    put_buffer(&mut bytes, &[0; 16]);
    bytes.push(0);
    bytes
}

fn create(xid: i32, path: &str) -> Vec<u8> {
    let mut bytes = header(xid, CREATE);
    put_buffer(&mut bytes, path.as_bytes());
    put_buffer(&mut bytes, &[]);
    put(&mut bytes, 1);
    put(&mut bytes, ALL_PERMISSIONS);
    put_buffer(&mut bytes, b"world");
    put_buffer(&mut bytes, b"anyone");
    put(&mut bytes, EPHEMERAL);
    bytes
}

fn put_set_data(bytes: &mut Vec<u8>, path: &str) {
    put_buffer(bytes, path.as_bytes());
    put_buffer(bytes, &[0x5a; COMMAND_BYTES as usize]);
    put(bytes, ANY_VERSION);
}

fn set_data(path: &str) -> Vec<u8> {
    let mut bytes = header(0, SET_DATA);
    put_set_data(&mut bytes, path);
    bytes
}

fn multi(path: &str, batch: u32) -> Vec<u8> {
    let mut bytes = header(0, MULTI);
    let put_header = |bytes: &mut Vec<u8>, kind: i32, is_last: bool| {
        put(bytes, kind);
        bytes.push(u8::from(is_last));
        put(bytes, -1);
    };
    for _ in 0..batch {
        put_header(&mut bytes, SET_DATA, false);
        put_set_data(&mut bytes, path);
    }
    put_header(&mut bytes, -1, true);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_cut_at_their_length_and_checked() {
        let reply = |error: i32, body: &[i32]| {
            let mut bytes = vec![0; 12];
            put(&mut bytes, error);
            body.iter().for_each(|number| put(&mut bytes, *number));
            bytes
        };
        let fine = framed(&reply(0, &[]));
        assert_eq!(whole(&fine[..fine.len() - 1]).expect("a length"), None);
        assert_eq!(whole(&[fine.clone(), vec![1, 2, 3]].concat()).expect("a length"), Some(&fine[4..]));
        assert!(whole(&[0xff; 8]).is_err(), "a reply of gigabytes");
        assert!(check(&reply(0, &[]), false).is_ok() && check(&reply(-101, &[]), false).is_err());
        assert!(check(&reply(0, &[SET_DATA]), true).is_ok() && check(&reply(0, &[-1]), true).is_err());
        assert!(check(&[0; 3], false).is_err() && check(&reply(0, &[]), true).is_err());
    }
}
