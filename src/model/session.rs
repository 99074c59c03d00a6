//! The shape of a sans-io session: bytes and time in, bytes and an ending out. `net` drives one per connection and is the
//! only room that knows sockets. A session at rest holds no buffer: unused input stays with the driver.
//!
//! The driver's loop: `input` with what was read (only while `wants_input` and the log is not congested), `poll` whenever the
//! session's waker fired or `deadline_us` passed, and after either it writes what is in `output`. When `end` says so it flushes
//! and closes. Waking goes through a `std::task::Waker` that the session gets when it is made and hands to `log`.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};

use super::Now;

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Theirs.
    pub address: SocketAddr,
    /// Ours, the address that they reached.
    pub local: SocketAddr,
}

/// Why a session is over. The driver flushes the output, closes the socket, logs and counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer said goodbye, or the broker is stopping and everything in flight is done.
    Finished,
    /// The peer broke the protocol or a limit; the text says how, for the log.
    Peer(String),
    /// We failed (storage, a bug); the text says how, for the log.
    Broker(String),
}

/// A sans-io session of any protocol.
pub trait Session: Send {
    /// Takes bytes from the peer and returns how many it used; the rest is offered again with more behind it. Using 0 means
    /// that a whole frame is not there yet, or that the session has ended.
    fn input(&mut self, bytes: &[u8], now: Now) -> usize;

    /// The bytes of the frame that `input` waits for, counted from the start of what it left unused: a hint for the driver's
    /// buffer. 0 when unknown. A session refuses a frame beyond its limit from its first bytes, so this is bounded.
    fn frame_bytes_wanted(&self) -> usize {
        0
    }

    /// Looks at everything it waits for: commits, reads, new records, timers.
    fn poll(&mut self, now: Now);

    /// What is to be sent.
    fn output(&mut self) -> &mut Output;

    /// False while the session cannot take more (too much in flight, too much unsent): the driver stops reading.
    fn wants_input(&self) -> bool;

    /// Monotonic microseconds at which `poll` must be called at the latest.
    fn deadline_us(&self) -> Option<u64>;

    /// Set once the session is over; no `input` after that, but the output is still flushed.
    fn end(&self) -> Option<&End>;

    /// The broker is stopping: take no more requests, finish what is in flight, then set `end`.
    fn stop(&mut self, now: Now);

    /// The connection is gone (closed or reset by the peer, or ended by us): release what is registered elsewhere. Called once.
    fn gone(&mut self, now: Now);
}

/// Bytes to be sent, in order, as segments so that large stored batches are never copied.
#[derive(Debug, Default)]
pub struct Output {
    segments: VecDeque<Bytes>,
    small: BytesMut,
    bytes: usize,
}

impl Output {
    /// Copies a few bytes in.
    pub fn put(&mut self, bytes: &[u8]) {
        self.small.extend_from_slice(bytes);
        self.bytes += bytes.len();
    }

    /// Lets `write` append to a buffer, for encoders that want one.
    pub fn put_with<R>(&mut self, write: impl FnOnce(&mut BytesMut) -> R) -> R {
        let before = self.small.len();
        let result = write(&mut self.small);
        self.bytes += self.small.len() - before;
        result
    }

    /// Adds a segment without copying it.
    pub fn put_bytes(&mut self, bytes: Bytes) {
        self.seal();
        self.bytes += bytes.len();
        if !bytes.is_empty() {
            self.segments.push_back(bytes);
        }
    }

    /// Bytes waiting to be sent.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The segments that wait, in order, for a vectored write.
    pub fn segments(&mut self) -> &VecDeque<Bytes> {
        self.seal();
        &self.segments
    }

    /// Removes the first `sent` bytes: they are out.
    pub fn advance(&mut self, mut sent: usize) {
        self.seal();
        assert!(sent <= self.bytes, "more was sent than was waiting");
        self.bytes -= sent;
        while let Some(front) = self.segments.front_mut() {
            if sent < front.len() {
                let _ = front.split_to(sent);
                return;
            }
            sent -= front.len();
            self.segments.pop_front();
        }
        if self.segments.is_empty() {
            // A connection at rest holds no buffer.
            self.segments = VecDeque::new();
        }
    }

    /// All that waits as one piece; for tests and blocking clients.
    pub fn take(&mut self) -> Vec<u8> {
        self.seal();
        self.bytes = 0;
        std::mem::take(&mut self.segments).into_iter().flatten().collect()
    }

    fn seal(&mut self) {
        if !self.small.is_empty() {
            self.segments.push_back(std::mem::take(&mut self.small).freeze());
        }
    }
}
