//! The client: bytes in and out around `session`, with or without embedded-io.

use embedded_io::{ErrorKind, Read, ReadReady, Write};
use headwater_wire::{BatchWriter, Command, Entry, Hello, Message, Receiver, VERSION, encode};

use crate::queue::{Full, Queue, Stored};
use crate::session::{Event, Phase, State, Timing};

const INPUT_BYTES: usize = 256;

/// A device with its queue. `FRAME` is the size of the buffers for one frame, sent and received: at least 128.
#[derive(Debug)]
pub struct Client<'k, Q: Queue, const FRAME: usize> {
    queue: Q,
    device: &'k str,
    epoch: u32,
    #[cfg(feature = "psk")]
    key: Option<&'k [u8]>,
    state: State,
    receiver: Receiver<FRAME>,
    tx: [u8; FRAME],
    tx_at: usize,
    tx_end: usize,
    input: [u8; INPUT_BYTES],
    input_at: usize,
    input_end: usize,
    dropped: u64,
}

impl<'k, Q: Queue, const FRAME: usize> Client<'k, Q, FRAME> {
    /// Largest frame after COBS decoding that fits the buffers.
    pub const DECODED_BYTES_MAX: usize = {
        assert!(FRAME >= 128, "a frame buffer needs 128 bytes");
        FRAME - FRAME / 254 - 2
    };

    /// A client that is not connected. `device` has 1 to 64 bytes.
    pub fn new(device: &'k str, epoch: u32, queue: Q) -> Self {
        Self {
            queue,
            device,
            epoch,
            #[cfg(feature = "psk")]
            key: None,
            state: State::new(Timing {
                hello_ms: 3000,
                ack_ms: 5000,
                ping_ms: 20_000,
                silence_ms: 60_000,
            }),
            receiver: Receiver::new(),
            tx: [0; FRAME],
            tx_at: 0,
            tx_end: 0,
            input: [0; INPUT_BYTES],
            input_at: 0,
            input_end: 0,
            dropped: 0,
        }
    }

    /// With the pre-shared key for listeners that ask for a proof.
    #[cfg(feature = "psk")]
    pub fn with_key(mut self, key: &'k [u8]) -> Self {
        self.key = Some(key);
        self.state.has_key = true;
        self
    }

    /// With other waiting times.
    pub fn with_timing(mut self, timing: Timing) -> Self {
        self.state.timing = timing;
        self
    }

    /// The transport is (again) there: begins with Hello and forgets what was half sent or received.
    pub fn connected(&mut self, now_ms: i64) {
        self.receiver.reset();
        (self.tx_at, self.tx_end) = (0, 0);
        (self.input_at, self.input_end) = (0, 0);
        self.state.connected(now_ms);
    }

    /// A new epoch after `Event::EpochUsed`: what the queue holds is numbered from 1 and sent in it.
    pub fn renew(&mut self, epoch: u32, now_ms: i64) {
        self.epoch = epoch;
        self.queue.renumber();
        (self.state.acked, self.state.sent) = (0, 0);
        self.connected(now_ms);
    }

    /// Queues a record; its sequence.
    pub fn push(&mut self, taken_ms: Option<i64>, channel: &str, payload: &[u8]) -> Result<u64, Full> {
        self.queue.push(Stored {
            taken_ms,
            channel,
            payload,
        })
    }

    /// The queue.
    pub fn queue(&self) -> &Q {
        &self.queue
    }

    /// The queue, for what the client does not do itself.
    pub fn queue_mut(&mut self) -> &mut Q {
        &mut self.queue
    }

    /// Where the session is.
    pub fn phase(&self) -> Phase {
        self.state.phase
    }

    /// Last sequence acknowledged.
    pub fn acked(&self) -> u64 {
        self.state.acked
    }

    /// Records sent again so far.
    pub fn resent(&self) -> u64 {
        self.state.resent
    }

    /// Records that were too large for any frame the broker takes; it was told that they are lost.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Damaged frames received so far.
    pub fn bad_frames(&self) -> u32 {
        self.receiver.bad()
    }

    /// The broker's clock, milliseconds since 1970; known once the session was open.
    pub fn broker_time(&self, now_ms: i64) -> Option<i64> {
        self.state.broker_time(now_ms)
    }

    /// Asks for the broker's clock again: worthwhile every few hours on a clock that drifts.
    pub fn ask_time(&mut self) {
        self.state.time_wanted = true;
    }

    /// The command of the last `Event::Command`, until the next poll.
    pub fn command(&self) -> Option<Command<'_>> {
        match self.receiver.last() {
            Some(Message::Command(command)) => Some(command),
            _ => None,
        }
    }

    /// A command is carried out; the broker will not send it again.
    pub fn command_done(&mut self, id: u64) {
        self.state.command_done = Some(id);
        self.state.command_ack = Some(id);
    }

    /// Takes bytes from the peer up to the first that mean something to the caller. Returns how many it used.
    pub fn receive(&mut self, bytes: &[u8], now_ms: i64) -> (usize, Option<Event>) {
        let mut used = 0usize;
        while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
            let (took, result) = self.receiver.feed(rest);
            used = used.saturating_add(took);
            if let Some(Ok(message)) = result
                && let Some(event) = self.state.message(message, &mut self.queue, now_ms)
            {
                return (used, Some(event));
            }
        }
        (used, None)
    }

    /// What is to be sent now; `sent` says how much of it is out. Empty when there is nothing to say.
    pub fn transmit(&mut self, now_ms: i64) -> &[u8] {
        if self.tx_at == self.tx_end {
            (self.tx_at, self.tx_end) = (0, self.next_frame(now_ms).unwrap_or(0));
            if self.tx_end > 0 {
                self.state.spoke_ms = now_ms;
            }
        }
        self.tx.get(self.tx_at..self.tx_end).unwrap_or_default()
    }

    /// So many bytes of what `transmit` gave are out.
    pub fn sent(&mut self, bytes: usize) {
        self.tx_at = self.tx_at.saturating_add(bytes).min(self.tx_end);
    }

    /// One round over a transport whose reads return soon: those that wait a bounded time, or not at all, and then say
    /// `TimedOut` or `Interrupted` when nothing is there. Writes what is to be sent, reads once, and returns the first event;
    /// call it again at once while it returns one. An `Err` is the transport's: open it again and call `connected`.
    pub fn poll<T: Read + Write>(&mut self, io: &mut T, now_ms: i64) -> Result<Option<Event>, T::Error> {
        self.round(io, now_ms, |_| Ok(true))
    }

    /// As `poll`, for transports that know whether something is there to be read.
    pub fn poll_ready<T: Read + Write + ReadReady>(
        &mut self,
        io: &mut T,
        now_ms: i64,
    ) -> Result<Option<Event>, T::Error> {
        self.round(io, now_ms, T::read_ready)
    }

    fn round<T: Read + Write>(
        &mut self,
        io: &mut T,
        now_ms: i64,
        ready: impl Fn(&mut T) -> Result<bool, T::Error>,
    ) -> Result<Option<Event>, T::Error> {
        if let Some(event) = self.state.tick(now_ms) {
            return Ok(Some(event));
        }
        if self.input_at == self.input_end {
            self.write(io, now_ms)?;
            if !ready(io)? {
                return Ok(None);
            }
            let read = soon(io.read(&mut self.input))?;
            (self.input_at, self.input_end) = (0, read.unwrap_or(0).min(INPUT_BYTES));
            if read == Some(0) {
                self.state.phase = Phase::Closed;
                return Ok(Some(Event::HungUp));
            }
        }
        let input = self.input;
        let rest = input.get(self.input_at..self.input_end).unwrap_or_default();
        let (used, event) = self.receive(rest, now_ms);
        self.input_at = self.input_at.saturating_add(used);
        if event.is_none() {
            self.write(io, now_ms)?;
        }
        Ok(event)
    }

    fn write<T: Read + Write>(&mut self, io: &mut T, now_ms: i64) -> Result<(), T::Error> {
        loop {
            let bytes = self.transmit(now_ms);
            if bytes.is_empty() {
                return soon(io.flush()).map(|_| ());
            }
            match soon(io.write(bytes))? {
                Some(written) if written > 0 => self.sent(written),
                _ => return Ok(()),
            }
        }
    }

    fn next_frame(&mut self, now_ms: i64) -> Option<usize> {
        let state = &mut self.state;
        let waited = now_ms.saturating_sub(state.spoke_ms) >= i64::from(state.timing.ping_ms);
        match state.phase {
            Phase::Closed | Phase::NeedsEpoch => return None,
            Phase::Greeting if now_ms >= state.hello_due_ms => return self.hello(now_ms),
            Phase::Greeting => return None,
            Phase::Open => {}
        }
        let message = if let Some(token) = state.pong.take() {
            Message::Pong(token)
        } else if let Some(id) = state.command_ack.take() {
            Message::CommandAck(id)
        } else if core::mem::take(&mut state.time_wanted) {
            state.time_asked_ms = Some(now_ms);
            Message::TimeRequest(0)
        } else if let Some(bytes) = self.records(now_ms) {
            return Some(bytes);
        } else if waited {
            Message::Ping(0)
        } else {
            return None;
        };
        encode(&message, &mut self.tx).ok()
    }

    fn hello(&mut self, now_ms: i64) -> Option<usize> {
        self.state.hello_due_ms = now_ms.saturating_add(i64::from(self.state.timing.hello_ms));
        let next = self.queue.first();
        // A nonce is good for one Hello; if that is lost, the next asks for another.
        let nonce = self.state.nonce.take();
        #[cfg(feature = "psk")]
        let proof = match (self.key, nonce) {
            (Some(key), Some(nonce)) => Some(headwater_wire::proof(key, &nonce, self.device, self.epoch, next)),
            _ => None,
        };
        #[cfg(not(feature = "psk"))]
        let proof = nonce.and(None);
        let hello = Message::Hello(Hello {
            version: VERSION,
            device: self.device,
            epoch: self.epoch,
            next,
            frame_bytes_max: u32::try_from(Self::DECODED_BYTES_MAX).unwrap_or(u32::MAX),
            proof,
        });
        // An empty frame first ends whatever the line had before.
        let (first, rest) = self.tx.split_first_mut()?;
        *first = 0;
        Some(encode(&hello, rest).ok()?.saturating_add(1))
    }

    /// A batch of what may be sent, or Skip where the queue has a hole.
    fn records(&mut self, now_ms: i64) -> Option<usize> {
        let (state, queue) = (&mut self.state, &mut self.queue);
        let next = state.sent.saturating_add(1);
        if now_ms < state.hold_until_ms || next >= queue.next() {
            return None;
        }
        if queue.first() > next {
            state.sent = queue.first().saturating_sub(1);
            return encode(&Message::Skip(queue.first()), &mut self.tx).ok();
        }
        let until = queue
            .next()
            .min(state.acked.saturating_add(u64::from(state.window)).saturating_add(1));
        if next >= until {
            return None;
        }
        if state.sent == state.acked {
            // The first that waits for an Ack: the time to wait begins.
            state.progress_ms = now_ms;
        }
        let limit = state.frame_bytes_max.min(Self::DECODED_BYTES_MAX);
        let mut batch = BatchWriter::new(&mut self.tx, next, limit).ok()?;
        let mut channel = Repeat::new();
        let mut sequence = next;
        while sequence < until {
            let Some(stored) = queue.read(sequence) else { break };
            let entry = Entry {
                time: state.time(stored.taken_ms),
                channel: if channel.is(stored.channel) { "" } else { stored.channel },
                payload: stored.payload,
            };
            if !batch.push(&entry) {
                break;
            }
            channel.set(stored.channel);
            sequence = sequence.saturating_add(1);
        }
        if batch.count() > 0 {
            state.sent = sequence.saturating_sub(1);
            return batch.finish().ok();
        }
        // One record alone is too large for the frames that the broker takes, or damaged in the queue: it is lost.
        self.dropped = self.dropped.saturating_add(1);
        state.sent = next;
        encode(&Message::Skip(next.saturating_add(1)), &mut self.tx).ok()
    }
}

/// The channel of the entry before, kept apart from the queue, which lends one record at a time.
struct Repeat {
    bytes: [u8; headwater_wire::CHANNEL_BYTES_MAX],
    len: usize,
}

impl Repeat {
    const fn new() -> Self {
        Self {
            bytes: [0; headwater_wire::CHANNEL_BYTES_MAX],
            len: 0,
        }
    }

    fn is(&self, channel: &str) -> bool {
        self.len > 0 && self.bytes.get(..self.len) == Some(channel.as_bytes())
    }

    fn set(&mut self, channel: &str) {
        if self.is(channel) {
            return;
        }
        self.len = 0;
        if let Some(place) = self.bytes.get_mut(..channel.len()) {
            place.copy_from_slice(channel.as_bytes());
            self.len = channel.len();
        }
    }
}

/// `None` for a transport that has nothing now.
fn soon<T, E: embedded_io::Error>(result: Result<T, E>) -> Result<Option<T>, E> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}
