//! An io_uring with memory of its own: reads, writes and sends of slots of one pool, safe to use.
//!
//! The kernel reads and writes the memory of an operation until it completes. So the ring owns the memory, counts the
//! operations on each slot, gives a slot out for writing only while there are none, and doesn't end before all have
//! completed. That is the whole reason for this module: everything that is unsafe in `synod-bench` is here.
#![expect(unsafe_code, reason = "operations are submitted to the kernel with pointers; see the module")]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};
use synod_wal::directory::ReadBuffer;

/// Stands for the operation that has no memory, a sync.
const NO_SLOT: u16 = u16::MAX;

/// Waits for everything that was asked for, as send and receive don't do by themselves.
const WAIT_ALL: i32 = 0x100;

/// A file or a connection that a ring owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle(usize);

/// An operation that has ended.
#[derive(Debug)]
pub(crate) struct Done {
    /// What the operation was called.
    pub(crate) tag: u32,
    /// Bytes moved.
    pub(crate) result: io::Result<usize>,
}

/// See the module.
pub(crate) struct Ring {
    ring: IoUring,
    memory: ReadBuffer,
    slot_bytes: usize,
    /// Operations under way, by slot.
    busy: Vec<u32>,
    under_way: usize,
    handles: Vec<OwnedFd>,
}

impl Ring {
    /// A ring with `slots` slots of `slot_bytes` each, at multiples of `slot_bytes` in memory that is mapped already.
    ///
    /// # Errors
    /// If the kernel has no io_uring for us, or no memory.
    pub(crate) fn new(slots: usize, slot_bytes: usize) -> io::Result<Ring> {
        assert!(slots < usize::from(NO_SLOT), "slots have 16-bit numbers");
        let entries = (4 * slots as u32).next_power_of_two().clamp(64, 4096);
        // One thread submits and waits: the kernel may then put off its work until it is asked for. Older kernels can't.
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(entries)
            .or_else(|_| IoUring::new(entries))?;
        let mut memory = ReadBuffer::zeroed(slots * slot_bytes)?;
        memory.as_mut().fill(0x5a);
        Ok(Ring { ring, memory, slot_bytes, busy: vec![0; slots], under_way: 0, handles: Vec::new() })
    }

    /// Takes a file or a connection over.
    pub(crate) fn adopt(&mut self, owned: impl Into<OwnedFd>) -> Handle {
        self.handles.push(owned.into());
        Handle(self.handles.len() - 1)
    }

    /// The bytes of a slot that no operation reads or writes.
    ///
    /// # Panics
    /// If one does: that is a bug of the caller.
    pub(crate) fn slot_mut(&mut self, slot: usize) -> &mut [u8] {
        assert_eq!(self.busy[slot], 0, "slot {slot} is under way");
        &mut self.memory.as_mut()[slot * self.slot_bytes..][..self.slot_bytes]
    }

    /// Whether no operation reads or writes a slot.
    pub(crate) fn is_idle(&self, slot: usize) -> bool {
        self.busy[slot] == 0
    }

    /// Writes a part of a slot to a file.
    ///
    /// # Errors
    /// If the kernel takes no operations.
    pub(crate) fn write(
        &mut self,
        file: Handle,
        slot: usize,
        part: Range<usize>,
        offset: u64,
        tag: u32,
    ) -> io::Result<()> {
        let (start, bytes) = self.part(slot, part);
        let entry = opcode::Write::new(self.fd(file), start, bytes).offset(offset).build();
        self.push(entry, slot as u16, tag)
    }

    /// Makes what was written to a file durable; concerns writes that have ended.
    ///
    /// # Errors
    /// If the kernel takes no operations.
    pub(crate) fn sync(&mut self, file: Handle, tag: u32) -> io::Result<()> {
        let entry = opcode::Fsync::new(self.fd(file)).flags(FsyncFlags::DATASYNC).build();
        self.push(entry, NO_SLOT, tag)
    }

    /// Sends a part of a slot, the whole of it unless the connection ends.
    ///
    /// # Errors
    /// If the kernel takes no operations.
    pub(crate) fn send(&mut self, stream: Handle, slot: usize, part: Range<usize>, tag: u32) -> io::Result<()> {
        let (start, bytes) = self.part(slot, part);
        let entry = opcode::Send::new(self.fd(stream), start, bytes).flags(WAIT_ALL).build();
        self.push(entry, slot as u16, tag)
    }

    /// Fills a part of a slot from a connection; with `whole`, it ends only when all of it is there.
    ///
    /// # Errors
    /// If the kernel takes no operations.
    pub(crate) fn receive(
        &mut self,
        stream: Handle,
        slot: usize,
        part: Range<usize>,
        whole: bool,
        tag: u32,
    ) -> io::Result<()> {
        assert_eq!(self.busy[slot], 0, "slot {slot} is under way");
        let (start, bytes) = self.part(slot, part);
        let flags = if whole { WAIT_ALL } else { 0 };
        let entry = opcode::Recv::new(self.fd(stream), start, bytes).flags(flags).build();
        self.push(entry, slot as u16, tag)
    }

    /// Hands over what was asked for, waits until an operation has ended, and gives all that have.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn wait(&mut self, ended: &mut Vec<Done>) -> io::Result<()> {
        let wanted = usize::from(self.under_way > 0);
        loop {
            match self.ring.submit_and_wait(wanted) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) => break,
            }
        }
        for completion in self.ring.completion() {
            let data = completion.user_data();
            let (tag, slot) = ((data >> 16) as u32, data as u16);
            if slot != NO_SLOT {
                self.busy[usize::from(slot)] -= 1;
            }
            self.under_way -= 1;
            let result = completion.result();
            let result = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as usize) };
            ended.push(Done { tag, result });
        }
        Ok(())
    }

    fn fd(&self, handle: Handle) -> Fd {
        Fd(self.handles[handle.0].as_raw_fd())
    }

    fn part(&mut self, slot: usize, part: Range<usize>) -> (*mut u8, u32) {
        let whole = &mut self.memory.as_mut()[slot * self.slot_bytes..][..self.slot_bytes];
        let bytes = &mut whole[part];
        (bytes.as_mut_ptr(), bytes.len() as u32)
    }

    fn push(&mut self, entry: squeue::Entry, slot: u16, tag: u32) -> io::Result<()> {
        let entry = entry.user_data(u64::from(tag) << 16 | u64::from(slot));
        loop {
            // SAFETY: the descriptor is owned by `handles` and the memory, if any, by `memory`; neither is dropped or moved
            // to another place before the ring, whose end waits for all operations (`Drop`). Nobody else reads a slot
            // while an operation writes it, nor writes it while one reads it: `busy` counts the operation from here to its
            // completion, and `slot_mut` and `receive` refuse a slot that is counted.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            if pushed.is_ok() {
                break;
            }
            self.ring.submit()?;
        }
        if slot != NO_SLOT {
            self.busy[usize::from(slot)] += 1;
        }
        self.under_way += 1;
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Whoever still receives would wait for ever; a file doesn't mind.
        for handle in &self.handles {
            let _ = rustix::net::shutdown(handle, rustix::net::Shutdown::Both);
        }
        let mut ended = Vec::new();
        while self.under_way > 0 {
            ended.clear();
            if self.wait(&mut ended).is_err() {
                // The kernel may still hold the memory; without an answer it must never be used again.
                let memory = std::mem::replace(&mut self.memory, ReadBuffer::zeroed(1).expect("one byte"));
                std::mem::forget(memory);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_slot_comes_whole_over_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (far, _) = listener.accept().expect("a connection");
        let mut ring = Ring::new(2, 1 << 20).expect("a ring");
        let (near, far) = (ring.adopt(near), ring.adopt(far));
        ring.slot_mut(0).iter_mut().enumerate().for_each(|(place, byte)| *byte = (place % 251) as u8);
        ring.receive(far, 1, 0..1 << 20, true, 7).expect("pushed");
        ring.send(near, 0, 0..1 << 20, 8).expect("pushed");
        assert!(!ring.is_idle(0) && !ring.is_idle(1));
        let mut ended = Vec::new();
        while !(ring.is_idle(0) && ring.is_idle(1)) {
            ring.wait(&mut ended).expect("waited");
        }
        ended.sort_by_key(|done| done.tag);
        let told: Vec<_> = ended.iter().map(|done| (done.tag, *done.result.as_ref().expect("no error"))).collect();
        assert_eq!(told, [(7, 1 << 20), (8, 1 << 20)]);
        let sent = ring.slot_mut(0).to_vec();
        assert!(ring.slot_mut(1) == sent.as_slice());
    }

    #[test]
    #[should_panic(expected = "slot 0 is under way")]
    fn a_slot_under_way_is_not_given_out() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let _far = listener.accept().expect("a connection");
        let mut ring = Ring::new(1, 4096).expect("a ring");
        let near = ring.adopt(near);
        ring.receive(near, 0, 0..64, true, 1).expect("pushed");
        ring.slot_mut(0);
    }
}
