//! Reading: a connection for each reader that waits, to any node that has what it wants.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use futures_lite::AsyncWriteExt as _;
use synod_frame::client::{ClientReply, ClientRequest, encode_request};
use synod_protocol::Slot;

use super::answers::of_read;
use super::connection::{Connection, connect, read_reply};
use super::desk::Desk;
use crate::client::{ClientError, with_gaps};
use crate::error::ReadError;
use crate::mailbox::ReadReply;
use crate::reader::SharedBody;
use crate::seam::time::{sleep, within};

/// How much one answer holds; it ends with the body that passes this.
const ANSWER_BYTES: u32 = 1 << 20;

/// How long a node lets a reader wait at the tail before it answers with nothing.
const TAIL_WAIT: Duration = Duration::from_millis(500);

/// Connections that are kept for the next readers.
const IDLE_MAX: usize = 8;

/// How long to wait when no node answered.
const PAUSE: Duration = Duration::from_millis(50);

/// The connections of readers.
#[derive(Default)]
pub(super) struct Lanes {
    idle: RefCell<Vec<Connection>>,
    next_server: Cell<usize>,
    requests: Cell<u64>,
}

/// What a node answered.
enum Answer {
    Bodies(Vec<SharedBody>),
    Trimmed(Slot),
    /// This node doesn't have it; why, if the reader is to know should nobody have it.
    Elsewhere(Option<ReadError>),
}

impl Desk {
    /// Asks one node after another until one has something, the reader is gone, or the time for it is over.
    pub(super) async fn read(self: Rc<Self>, from: Slot, reply: oneshot::Sender<Result<ReadReply, ReadError>>) {
        let mut until = Instant::now() + self.config.retry_within;
        let mut last = ReadError::Unreachable;
        while !reply.is_canceled() {
            let answer = match self.lane().await {
                Ok(connection) => self.read_over(connection, from).await,
                Err(error) => Err(error),
            };
            match answer {
                // The tail: a node answers, so there is no hurry to give up.
                Ok(Answer::Bodies(bodies)) if bodies.is_empty() => until = Instant::now() + self.config.retry_within,
                Ok(Answer::Bodies(bodies)) => return drop(reply.send(Ok(ReadReply::Bodies(bodies)))),
                Ok(Answer::Trimmed(first)) => return drop(reply.send(Ok(ReadReply::Trimmed { first }))),
                Ok(Answer::Elsewhere(error)) => {
                    last = error.unwrap_or(last);
                    self.try_another().await;
                }
                Err(error) => {
                    tracing::debug!(%error, "a reader looks for another node");
                    self.try_another().await;
                }
            }
            if Instant::now() >= until {
                return drop(reply.send(Err(last)));
            }
        }
    }

    async fn try_another(&self) {
        let lanes = &self.lanes;
        lanes.idle.borrow_mut().clear();
        let next = lanes.next_server.get() + 1;
        lanes.next_server.set(next);
        if next.is_multiple_of(self.config.servers.len()) {
            sleep(PAUSE).await;
        }
    }

    async fn lane(&self) -> Result<Connection, ClientError> {
        if let Some(idle) = self.lanes.idle.borrow_mut().pop() {
            return Ok(idle);
        }
        let servers = &self.config.servers;
        let address = servers[self.lanes.next_server.get() % servers.len()];
        connect(address, self.config.tls.as_ref(), self.config.connect_within).await
    }

    async fn read_over(&self, mut connection: Connection, from: Slot) -> Result<Answer, ClientError> {
        let request = self.lanes.requests.get() + 1;
        self.lanes.requests.set(request);
        let (envelope, _) = encode_request(&ClientRequest::Read {
            request,
            group: self.config.group,
            from,
            bytes_max: ANSWER_BYTES,
            wait_ms: TAIL_WAIT.as_millis() as u32,
        });
        connection.writing.write_all(&envelope).await?;
        connection.writing.flush().await?;
        let (mut bodies, mut gaps, mut next) = (Vec::new(), Vec::new(), from);
        loop {
            let reply = within(TAIL_WAIT + self.config.answer_within, read_reply(&mut connection.reading)).await;
            let (reply, body) = reply.ok_or_else(|| ClientError::Io(io::ErrorKind::TimedOut.into()))??;
            if reply.request() != request {
                return Err(ClientError::Order { expected: request, found: reply.request() });
            }
            match (reply, body) {
                (ClientReply::Gaps { gaps: told, .. }, _) => gaps = told,
                (ClientReply::Body { body: handle, .. }, Some(body)) => {
                    // The first one may begin before the slot asked for; each other follows the one before.
                    let follows = if bodies.is_empty() { handle.slots().contains(&from) } else { handle.first == next };
                    if !follows {
                        return Err(ClientError::Io(io::ErrorKind::InvalidData.into()));
                    }
                    next = handle.end();
                    bodies.push(with_gaps(body, &std::mem::take(&mut gaps)));
                }
                (ClientReply::ReadEnd { .. }, _) => {
                    let mut idle = self.lanes.idle.borrow_mut();
                    if idle.len() < IDLE_MAX {
                        idle.push(connection);
                    }
                    return Ok(Answer::Bodies(bodies));
                }
                (ClientReply::Refused { reason, .. }, _) => {
                    return Ok(match of_read(&reason) {
                        _ if !bodies.is_empty() => Answer::Bodies(bodies),
                        Ok(first) => Answer::Trimmed(first),
                        Err(error) => Answer::Elsewhere(error),
                    });
                }
                (other, _) => return Err(ClientError::Order { expected: request, found: other.request() }),
            }
        }
    }
}
