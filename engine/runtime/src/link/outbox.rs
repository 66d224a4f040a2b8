//! What waits to be written to one connection.
//!
//! An outbox that is *ended* takes nothing more; its connection is closed when what it holds is written.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;

use synod_frame::ENVELOPE_BYTES;
use synod_wal::Frame;

use crate::meters::LinkMeter;
use crate::seam::buffer::Buffer;
use crate::seam::local::{Moment, Signal};

/// A message ready to be written.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) envelope: [u8; ENVELOPE_BYTES],
    /// Empty, or an archive.
    pub(super) payload: Vec<u8>,
    /// A body, shared with the disk and the other links.
    pub(super) body: Option<Frame<Buffer>>,
}

impl Parcel {
    fn bytes(&self) -> u64 {
        let body = self.body.as_ref().map_or(0, |frame| frame.handle().bytes as usize);
        (self.envelope.len() + self.payload.len() + body) as u64
    }
}

/// Bounded in bytes; open only while there is a connection.
#[derive(Debug)]
pub(super) struct Outbox {
    bytes_max: u64,
    meter: Arc<LinkMeter>,
    open: Cell<bool>,
    bytes: Cell<u64>,
    parcels: RefCell<VecDeque<Parcel>>,
    filled: Signal,
    ended: Cell<bool>,
    /// Announced when the connection is gone.
    closed: Moment,
}

impl Outbox {
    pub(super) fn new(bytes_max: u64, meter: Arc<LinkMeter>) -> Outbox {
        Outbox {
            bytes_max,
            meter,
            open: Cell::new(false),
            bytes: Cell::new(0),
            parcels: RefCell::default(),
            filled: Signal::default(),
            ended: Cell::new(false),
            closed: Moment::default(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.get()
    }

    /// The connection is up.
    pub(super) fn open(&self) {
        self.open.set(true);
        self.meter.up.set(1);
        self.meter.connects.add(1);
    }

    /// The connection is down: what waits is stale.
    pub(super) fn close(&self) {
        self.open.set(false);
        self.meter.up.set(0);
        self.drop_waiting();
        self.closed.announce();
    }

    /// Forgets what waits.
    pub(super) fn drop_waiting(&self) {
        self.set_bytes(0);
        self.parcels.borrow_mut().clear();
    }

    /// Takes nothing more, for ever.
    pub(super) fn end(&self) {
        self.ended.set(true);
        self.filled.raise();
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended.get()
    }

    /// Waits until there is no connection.
    pub(super) async fn wait_closed(&self) {
        while self.is_open() {
            self.closed.wait().await;
        }
    }

    /// Takes a message unless there is no room for it.
    pub(super) fn push(&self, parcel: Parcel) -> bool {
        let bytes = self.bytes.get() + parcel.bytes();
        if bytes > self.bytes_max || self.is_ended() {
            return false;
        }
        self.set_bytes(bytes);
        self.parcels.borrow_mut().push_back(parcel);
        self.filled.raise();
        true
    }

    /// The next message; waits for one. None if there will be no other.
    pub(super) async fn next(&self) -> Option<Parcel> {
        loop {
            if let Some(parcel) = self.pop_if(|_| true) {
                return Some(parcel);
            }
            if self.is_ended() {
                return None;
            }
            self.filled.wait().await;
        }
    }

    /// The next message if there is one and it is wanted.
    pub(super) fn pop_if(&self, wanted: impl FnOnce(&Parcel) -> bool) -> Option<Parcel> {
        let parcel = self.parcels.borrow_mut().pop_front_if(|parcel| wanted(parcel))?;
        self.set_bytes(self.bytes.get().saturating_sub(parcel.bytes()));
        Some(parcel)
    }

    fn set_bytes(&self, bytes: u64) {
        self.bytes.set(bytes);
        self.meter.waiting_bytes.set(bytes);
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;

    fn parcel(payload_bytes: usize) -> Parcel {
        Parcel { envelope: [1; ENVELOPE_BYTES], payload: vec![0; payload_bytes], body: None }
    }

    #[test]
    fn a_full_outbox_drops_and_recovers() {
        let outbox = Outbox::new(1000, Arc::default());
        outbox.open();
        assert!(outbox.push(parcel(700)));
        assert!(!outbox.push(parcel(700)));
        assert_eq!(block_on(outbox.next()).expect("pushed").payload.len(), 700);
        assert!(outbox.push(parcel(700)));
    }

    #[test]
    fn a_connection_that_is_lost_takes_what_waits_with_it() {
        let outbox = Outbox::new(1000, Arc::default());
        outbox.open();
        assert!(outbox.push(parcel(1)));
        outbox.close();
        assert!(!outbox.is_open() && outbox.pop_if(|_| true).is_none());
        assert!(outbox.push(parcel(800)), "its bytes are free again");
    }

    #[test]
    fn an_ended_outbox_gives_out_what_it_has_and_no_more() {
        let outbox = Outbox::new(1000, Arc::default());
        outbox.open();
        assert!(outbox.push(parcel(1)));
        outbox.end();
        assert!(!outbox.push(parcel(1)));
        assert!(block_on(outbox.next()).is_some());
        assert!(block_on(outbox.next()).is_none());
    }
}
