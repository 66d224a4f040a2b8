//! Clients over TCP, in a process of their own: the child that they live in, and the handle that its parent holds.
//!
//! The child reads its plan as one line of JSON, then a letter at a time: `p` pause, `r` resume, `s` stop. It tells what
//! became of each call in records of equal length, so that the parent keeps ledger and figures as if the clients were its
//! own: both have the same monotonic clock.

mod connection;

use std::io::{self, BufRead as _, Read, Write as _, stdin, stdout};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use synod_protocol::Slot;

use crate::content::Content;
use crate::ledger::{Call, Ledger, Outcome};
use crate::load::{Control, Demand};
use crate::options::parse::Size;
use crate::recorder::{Answered, Recorder};
use crate::replica::process_cpu_us;

use connection::Connection;

/// What clients are told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The client ports, by node.
    pub(crate) nodes: Vec<(u32, SocketAddr)>,
    pub(crate) demand: Demand,
    pub(crate) size: Size,
    pub(crate) seed: u64,
    /// Number of the first call.
    pub(crate) first_call: u64,
}

/// What became of a call, as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    kind: u8,
    count: u32,
    call: u64,
    first: u64,
    due_us: u64,
    begun_us: u64,
    done_us: u64,
}

const ACKNOWLEDGED: u8 = 1;
const REFUSED: u8 = 2;
const UNKNOWN: u8 = 3;
/// No call is under way; `call` is the CPU that was used so far.
const IDLE: u8 = 4;

const RECORD_BYTES: usize = 48;

/// Records are sent on when there are so many bytes of them, or they are so old.
const CHUNK_BYTES: usize = 32 << 10;

impl Record {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&[self.kind, 0, 0, 0]);
        bytes.extend_from_slice(&self.count.to_le_bytes());
        for number in [self.call, self.first, self.due_us, self.begun_us, self.done_us] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn decode(bytes: &[u8; RECORD_BYTES]) -> Record {
        let (words, _) = bytes[8..].as_chunks::<8>();
        let count = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let [call, first, due_us, begun_us, done_us] = [0, 1, 2, 3, 4].map(|at| u64::from_le_bytes(words[at]));
        Record { kind: bytes[0], count, call, first, due_us, begun_us, done_us }
    }
}

/// The child's whole life.
///
/// # Errors
/// If it isn't told what to do, or its parent is gone.
pub(crate) fn serve() -> Result<()> {
    let mut line = String::new();
    stdin().lock().read_line(&mut line)?;
    let plan: Plan = serde_json::from_str(&line).context("reading the plan")?;
    let control = Arc::new(Control::default());
    let threads = plan.demand.threads();
    control.busy.store(threads.into(), Ordering::Release);
    let obeying = {
        let control = Arc::clone(&control);
        thread::spawn(move || obey(&control))
    };
    let numbers = Arc::new(AtomicU64::new(plan.first_call));
    let connections: Vec<_> = (0..threads)
        .map(|number| {
            let connection = Connection::new(&plan, number, Arc::clone(&numbers), Arc::clone(&control));
            thread::spawn(move || connection.run())
        })
        .collect();
    for connection in connections {
        connection.join().map_err(|_| anyhow!("a connection's thread panicked"))??;
    }
    tell(&idle())?;
    obeying.join().map_err(|_| anyhow!("the thread that listens to the parent panicked"))
}

/// Does what the parent says, until it says stop, or is gone.
fn obey(control: &Control) {
    let mut letters = stdin().lock().bytes();
    while let Some(Ok(letter)) = letters.next() {
        match letter {
            b'p' => {
                control.pause.store(true, Ordering::Release);
                while control.busy.load(Ordering::Acquire) > 0 {
                    thread::sleep(Duration::from_millis(1));
                }
                if tell(&idle()).is_err() {
                    break;
                }
            }
            b'r' => control.pause.store(false, Ordering::Release),
            b's' => break,
            _ => {}
        }
    }
    control.stop.store(true, Ordering::Release);
}

fn idle() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RECORD_BYTES);
    let used = process_cpu_us();
    Record { kind: IDLE, count: 0, call: used, first: 0, due_us: 0, begun_us: 0, done_us: 0 }.encode(&mut bytes);
    bytes
}

/// Sends whole records on.
fn tell(records: &[u8]) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(records)?;
    out.flush()
}

/// The parent's handle.
pub(crate) struct RemoteLoad {
    child: Child,
    orders: ChildStdin,
    hearing: Option<JoinHandle<Result<()>>>,
    heard: Arc<Heard>,
}

/// What the child said about itself.
#[derive(Debug, Default)]
struct Heard {
    state: Mutex<HeardState>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct HeardState {
    /// How often it said that no call is under way.
    idle: u64,
    cpu_us: u64,
    has_ended: bool,
}

impl RemoteLoad {
    /// Begins a load from another process.
    ///
    /// # Errors
    /// If it can't be started.
    pub(crate) fn start(plan: &Plan, ledger: Arc<Ledger>, recorder: Arc<Recorder>) -> Result<RemoteLoad> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut child = Command::new(program)
            .arg("clients")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a process for the clients")?;
        let (Some(mut orders), Some(told)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a child without pipes")
        };
        let line = serde_json::to_string(plan).expect("a plan has no odd keys") + "\n";
        orders.write_all(line.as_bytes()).context("telling the clients what to do")?;
        let heard = Arc::new(Heard::default());
        let hearing = {
            let heard = Arc::clone(&heard);
            thread::spawn(move || {
                let outcome = hear(told, &ledger, &recorder, &heard);
                heard.update(|state| state.has_ended = true);
                outcome
            })
        };
        Ok(RemoteLoad { child, orders, hearing: Some(hearing), heard })
    }

    /// Lets no more calls begin, and waits for those under way.
    pub(crate) fn pause(&mut self) -> Result<()> {
        let before = self.heard.state.lock().expect("no code that holds this lock panics").idle;
        self.order(b'p')?;
        let mut state = self.heard.state.lock().expect("no code that holds this lock panics");
        while state.idle == before {
            ensure!(!state.has_ended, "the clients' process has ended");
            state = self.heard.news.wait(state).expect("no code that holds this lock panics");
        }
        Ok(())
    }

    pub(crate) fn resume(&mut self) -> Result<()> {
        self.order(b'r')
    }

    /// CPU used, as far as it was told.
    pub(crate) fn cpu_us(&self) -> u64 {
        self.heard.state.lock().expect("no code that holds this lock panics").cpu_us
    }

    /// Ends the load, and waits for the last answers.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.order(b's')?;
        let hearing = self.hearing.take().expect("a load is stopped once");
        hearing.join().map_err(|_| anyhow!("the thread that listens to the clients panicked"))??;
        let status = self.child.wait().context("waiting for the clients")?;
        ensure!(status.success(), "the clients' process ended with {status}");
        Ok(())
    }

    fn order(&mut self, letter: u8) -> Result<()> {
        self.orders.write_all(&[letter]).context("the clients' process has ended")
    }
}

impl Drop for RemoteLoad {
    fn drop(&mut self) {
        // After an orderly end there is nobody to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Heard {
    fn update(&self, change: impl FnOnce(&mut HeardState)) {
        change(&mut self.state.lock().expect("no code that holds this lock panics"));
        self.news.notify_all();
    }
}

/// Notes all that the clients tell, until they end.
fn hear(mut told: ChildStdout, ledger: &Ledger, recorder: &Recorder, heard: &Heard) -> Result<()> {
    let mut bytes = vec![0; 2 * CHUNK_BYTES];
    let mut there = 0;
    loop {
        let read = told.read(&mut bytes[there..])?;
        if read == 0 {
            ensure!(there == 0, "the clients' last record is cut off");
            return Ok(());
        }
        there += read;
        let (chunks, rest) = bytes[..there].as_chunks::<RECORD_BYTES>();
        let records: Vec<Record> = chunks.iter().map(Record::decode).collect();
        let rest = rest.len();
        note(&records, ledger, recorder);
        for idle in records.iter().filter(|record| record.kind == IDLE) {
            heard.update(|state| {
                state.idle += 1;
                state.cpu_us = idle.call;
            });
        }
        bytes.copy_within(there - rest..there, 0);
        there = rest;
    }
}

fn note(records: &[Record], ledger: &Ledger, recorder: &Recorder) {
    let call = |record: &Record| {
        let outcome = match record.kind {
            ACKNOWLEDGED => Outcome::Acknowledged(Slot(record.first)),
            REFUSED => Outcome::Refused,
            UNKNOWN => Outcome::Unknown,
            _ => return None,
        };
        Some((record.call, Call { count: record.count, outcome }))
    };
    let count = |kind| records.iter().filter(|record| record.kind == kind).count() as u64;
    recorder.refused.fetch_add(count(REFUSED), Ordering::Relaxed);
    recorder.unknown.fetch_add(count(UNKNOWN), Ordering::Relaxed);
    let acknowledged = records.iter().filter(|record| record.kind == ACKNOWLEDGED);
    recorder.note(acknowledged.map(|record| Answered {
        commands: record.count,
        due_us: record.due_us,
        begun_us: record.begun_us,
        done_us: record.done_us,
    }));
    ledger.note(records.iter().filter_map(call));
}

impl Plan {
    /// The commands that the parent recognises.
    fn content(&self) -> Content {
        Content::new(self.size, self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_went() {
        let record = Record {
            kind: ACKNOWLEDGED,
            count: 500,
            call: 1 << 40,
            first: 77,
            due_us: 3,
            begun_us: 4,
            done_us: u64::MAX,
        };
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        assert_eq!(Record::decode(bytes.as_slice().try_into().expect("a whole record")), record);
    }
}
