//! One connection: frames in, handshake, who it is, timers, frames out. Records go to `intake`, commands come from `commands`.
//!
//! ```text
//! waiting ── Hello ──▶ open ── Bye, silence, fault ──▶ ended
//!    │  Challenge ◀── Hello without proof, where the listener asks for one
//!    └── handshake time over ──▶ ended         a Hello when open starts again, once nothing is in flight
//! ```

use std::sync::Arc;
use std::task::Waker;

use bytes::{Bytes, BytesMut};
use headwater_wire::{CRC_BYTES, Code, Hello, HelloAck, Message, NONCE_BYTES, PROOF_BYTES, Time, VERSION, WireError};

use super::broker::{Broker, Held};
use super::commands::Commands;
use super::intake::{Answer, Intake, Reading, WINDOW};
use super::psk::Keys;
use super::row::{Row, cursor_key, device_key};
use crate::log::Table;
use crate::model::{End, Now, Output, Peer, Session};

/// A session that sent nothing for this long is over.
const IDLE_MS: u64 = 90_000;
/// What the clock moves by when it is set.
const CLOCK_SET_MS: u64 = 1000;
/// Damaged frames one after the other, after which it is no line that is noisy but a peer that speaks something else.
const BAD_RUN_OPEN: u32 = 256;
const BAD_RUN_WAITING: u32 = 8;
/// Unsent bytes past which the session stops reading.
const OUTPUT_BYTES_MAX: usize = 64 << 10;

pub(super) struct CompactSession {
    broker: Arc<Broker>,
    peer: Peer,
    /// `Some` when the listener wants a proof.
    keys: Option<Arc<Keys>>,
    waker: Waker,
    seed: u64,
    output: Output,
    end: Option<End>,
    challenge: Option<[u8; NONCE_BYTES]>,
    open: Option<Open>,
    /// A Hello that waits until nothing of the session before it is in flight.
    hello: Option<Greeting>,
    handshake_us: u64,
    heard_us: u64,
    bad_run: u32,
    /// Bytes of the unused input that hold no end of a frame.
    scanned: usize,
    /// A frame was too long: everything up to its end is thrown away.
    skipping: bool,
    stopping: bool,
}

struct Open {
    device: Arc<str>,
    held: Held,
    intake: Intake,
    commands: Commands,
    /// Largest frame that the device can receive.
    frame_bytes_max: usize,
    /// The time that its records' times count from, while the clock is not trusted.
    untrusted_since: Option<Now>,
}

/// A Hello that outlives its frame.
struct Greeting {
    device: Arc<str>,
    epoch: u32,
    next: u64,
    frame_bytes_max: usize,
    proof: Option<[u8; PROOF_BYTES]>,
}

impl CompactSession {
    pub(super) fn new(
        broker: Arc<Broker>,
        peer: Peer,
        keys: Option<Arc<Keys>>,
        waker: Waker,
        seed: u64,
        now: Now,
    ) -> Self {
        let handshake_us = now.after_ms(broker.handshake_ms);
        Self {
            broker,
            peer,
            keys,
            waker,
            seed,
            output: Output::default(),
            end: None,
            challenge: None,
            open: None,
            hello: None,
            handshake_us,
            heard_us: now.mono_us,
            bad_run: 0,
            scanned: 0,
            skipping: false,
            stopping: false,
        }
    }

    fn send(&mut self, message: &Message<'_>) {
        // Everything but a command fits; that one is checked before it comes here.
        let mut buf = [0u8; 128];
        if let Ok(bytes) = headwater_wire::encode(message, &mut buf) {
            self.output.put(buf.get(..bytes).unwrap_or_default());
        }
    }

    /// Says Bye and ends.
    fn bye(&mut self, code: Code, why: impl Into<String>) {
        if self.end.is_some() {
            return;
        }
        self.send(&Message::Bye(code.0));
        self.broker.metrics().end(code.name());
        self.end = Some(match code {
            Code::STOPPING | Code::NORMAL => End::Finished,
            Code::INTERNAL => End::Broker(why.into()),
            _ => End::Peer(self.place(&why.into())),
        });
    }

    fn place(&self, why: &str) -> String {
        match &self.open {
            Some(open) => format!("device {:?}: {why}", &*open.device),
            None => why.to_owned(),
        }
    }

    fn damaged(&mut self, error: WireError) {
        self.broker.metrics().bad_frames.inc();
        self.bad_run = self.bad_run.saturating_add(1);
        let most = if self.open.is_some() {
            BAD_RUN_OPEN
        } else {
            BAD_RUN_WAITING
        };
        if self.bad_run >= most {
            self.bye(
                Code::PROTOCOL,
                format!("{most} damaged frames one after the other, the last: {error}"),
            );
        }
    }

    fn frame(&mut self, stuffed: &[u8], now: Now) {
        let mut buf = BytesMut::zeroed(stuffed.len());
        let message_bytes = match headwater_wire::open(stuffed, &mut buf) {
            Ok(message) => message.len(),
            Err(error) => return self.damaged(error),
        };
        let decoded = message_bytes.saturating_add(CRC_BYTES);
        if decoded > self.broker.frame_bytes_max {
            return self.damaged(WireError::TooLarge(decoded));
        }
        buf.truncate(message_bytes);
        let frame = buf.freeze();
        self.bad_run = 0;
        self.heard_us = now.mono_us;
        match Message::decode(&frame) {
            Ok(message) => self.message(message, &frame, now),
            Err(WireError::Version(version)) => self.bye(
                Code::VERSION,
                format!("protocol version {version} is not served, only {VERSION}"),
            ),
            Err(error) => self.bye(Code::PROTOCOL, error.to_string()),
        }
    }

    fn message(&mut self, message: Message<'_>, frame: &Bytes, now: Now) {
        match message {
            Message::Hello(hello) => self.hello(&hello, now),
            Message::Ping(token) => self.send(&Message::Pong(token)),
            Message::Pong(_) => {}
            Message::TimeRequest(token) => {
                let time_ms = now.wall_ms;
                self.send(&Message::Time(Time { token, time_ms }));
            }
            Message::Bye(_) => self.end = Some(End::Finished),
            _ if self.open.is_none() => self.bye(Code::HELLO_REQUIRED, "a message before Hello"),
            Message::Publish(publish) => {
                let reading = Reading {
                    sequence: publish.sequence,
                    time: publish.time,
                    channel: publish.channel,
                    payload: frame.slice_ref(publish.payload),
                };
                self.accept(reading, now);
            }
            Message::PublishBatch(batch) => {
                let mut sequence = batch.sequence;
                for entry in batch.entries {
                    let Ok(entry) = entry else {
                        return self.bye(Code::PROTOCOL, "an entry of a batch does not decode");
                    };
                    let reading = Reading {
                        sequence,
                        time: entry.time,
                        channel: entry.channel,
                        payload: frame.slice_ref(entry.payload),
                    };
                    if !self.accept(reading, now) {
                        return;
                    }
                    sequence = sequence.saturating_add(1);
                }
            }
            Message::Skip(next) => {
                if let Some(open) = &mut self.open {
                    open.intake.skip(next);
                }
            }
            Message::CommandAck(id) => {
                if let Some(open) = &mut self.open {
                    open.commands.acked(id, now);
                }
            }
            Message::Challenge(_)
            | Message::HelloAck(_)
            | Message::Ack(_)
            | Message::Nack(_)
            | Message::Time(_)
            | Message::Command(_) => self.bye(Code::PROTOCOL, "a message that only a broker sends"),
        }
    }

    fn accept(&mut self, reading: Reading<'_>, now: Now) -> bool {
        if self.clock_was_set(now) {
            self.bye(
                Code::HELLO_REQUIRED,
                "the gateway's clock was set: times count from a new Hello",
            );
            return false;
        }
        let Some(open) = &mut self.open else { return false };
        match open.intake.accept(reading, &self.waker, now) {
            Ok(()) => true,
            Err(code) => {
                self.bye(code, "more records without an Ack than the window allows");
                false
            }
        }
    }

    /// Whether the session's times count from a Hello that came before the clock was trusted, and it is by now.
    fn clock_was_set(&self, now: Now) -> bool {
        let Some(since) = self.open.as_ref().and_then(|open| open.untrusted_since) else {
            return false;
        };
        let mono_ms = now.mono_us.saturating_sub(since.mono_us).wrapping_div(1000);
        let wall_ms = now.wall_ms.saturating_sub(since.wall_ms);
        wall_ms.abs_diff(i64::try_from(mono_ms).unwrap_or(i64::MAX)) > CLOCK_SET_MS
    }

    fn hello(&mut self, hello: &Hello<'_>, now: Now) {
        let greeting = Greeting {
            device: hello.device.into(),
            epoch: hello.epoch,
            next: hello.next,
            frame_bytes_max: usize::try_from(hello.frame_bytes_max).unwrap_or(usize::MAX),
            proof: hello.proof,
        };
        let Some(keys) = &self.keys else {
            self.hello = Some(greeting);
            return self.greet(now);
        };
        let Some(proof) = &greeting.proof else {
            self.seed = self.seed.rotate_left(1);
            let nonce = self.broker.nonce(self.seed);
            self.challenge = Some(nonce);
            return self.send(&Message::Challenge(nonce));
        };
        // A nonce is good for one proof.
        let nonce = self.challenge.take();
        // A device without a key costs the same time as one with a wrong proof.
        let key = keys.key(&greeting.device);
        let matches = headwater_wire::proof_matches(
            proof,
            key.unwrap_or(&[0; 32]),
            &nonce.unwrap_or_default(),
            &greeting.device,
            greeting.epoch,
            greeting.next,
        );
        if !(matches && key.is_some() && nonce.is_some()) {
            let why = format!("the proof of device {:?} is wrong", &*greeting.device);
            return self.bye(Code::NOT_AUTHORIZED, why);
        }
        self.hello = Some(greeting);
        self.greet(now);
    }

    /// Opens the session, once nothing of the one before is in flight.
    fn greet(&mut self, now: Now) {
        if let Some(open) = &mut self.open {
            open.intake.submit(&self.waker, now);
            if open.intake.has_flights() {
                return;
            }
        }
        let Some(greeting) = self.hello.take() else { return };
        self.close();
        let log = &self.broker.log;
        let rows = log
            .state(Table::Devices, &device_key(&greeting.device))
            .and_then(|row| Ok((row, log.state(Table::Devices, &cursor_key(&greeting.device))?)));
        let (stored, cursor) = match rows {
            Ok(rows) => rows,
            Err(refused) => {
                let why = format!("the state of a device cannot be read: {}", refused.why);
                return self.bye(Code::INTERNAL, why);
            }
        };
        let reserved = stored.is_none();
        if reserved && !self.broker.reserve_row(&greeting.device) {
            return self.bye(
                Code::TOO_MANY_DEVICES,
                "one device more than limits.compact_devices allows",
            );
        }
        let last = stored
            .as_deref()
            .and_then(Row::decode)
            .map_or(0, |row| row.last_of(greeting.epoch));
        let held = self.broker.claim(&greeting.device, !reserved, &self.waker);
        let intake = Intake::new(
            Arc::clone(&self.broker),
            Arc::clone(&greeting.device),
            greeting.epoch,
            greeting.next,
            stored,
            reserved,
            now,
        );
        let commands = Commands::new(Arc::clone(&self.broker), Arc::clone(&greeting.device), cursor);
        tracing::debug!(device = %greeting.device, epoch = greeting.epoch, next = greeting.next, last,
            peer = %self.peer.address, "hello");
        self.broker.metrics().hellos.inc();
        self.open = Some(Open {
            device: greeting.device,
            held,
            intake,
            commands,
            frame_bytes_max: greeting.frame_bytes_max,
            untrusted_since: (!self.broker.log.clock_trusted()).then_some(now),
        });
        self.send(&Message::HelloAck(HelloAck {
            time_ms: now.wall_ms,
            last,
            window: WINDOW,
            frame_bytes_max: u32::try_from(self.broker.frame_bytes_max).unwrap_or(u32::MAX),
            idle_ms: IDLE_MS as u32,
        }));
    }

    fn close(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        if open.commands.moved() {
            open.commands.store(&self.waker);
        }
        if open.intake.reserved() {
            self.broker.return_row(&open.device, open.intake.has_flights());
        }
        self.broker.release(&open.device, &open.held);
    }

    /// Whether another session has the device; then this one takes nothing more in, and says so.
    fn is_superseded(&mut self) -> bool {
        let Some(open) = &self.open else { return false };
        if open.held.is_taken() || open.intake.is_superseded() {
            self.bye(Code::TAKEN_OVER, "a newer session of the same device took over");
            return true;
        }
        false
    }

    /// Commits looked at, answers and commands written.
    fn pump(&mut self, now: Now) {
        let Some(open) = &mut self.open else { return };
        open.intake.submit(&self.waker, now);
        if open.intake.has_flights() {
            // Whoever waits for us is not idle.
            self.heard_us = now.mono_us;
        }
        open.intake.poll(now);
        if self.is_superseded() {
            return;
        }
        if let Some(open) = &mut self.open {
            // A refusal may have left something to store.
            open.intake.submit(&self.waker, now);
        }
        while let Some(answer) = self.open.as_mut().and_then(|open| open.intake.answer()) {
            self.send(&match answer {
                Answer::Ack(sequence) => Message::Ack(sequence),
                Answer::Nack(nack) => Message::Nack(nack),
            });
        }
        self.command(now);
    }

    fn command(&mut self, now: Now) {
        let Some(open) = &mut self.open else { return };
        loop {
            let Some(sending) = open.commands.poll(&self.waker, now) else {
                return;
            };
            // Number, id and the two lengths take at most 24 bytes.
            let decoded = sending
                .payload
                .len()
                .saturating_add(sending.name.len())
                .saturating_add(28);
            let message = Message::Command(headwater_wire::Command {
                id: sending.id,
                name: sending.name,
                payload: sending.payload,
            });
            let mut buf = BytesMut::zeroed(headwater_wire::encoded_bytes_max(decoded).saturating_add(8));
            match headwater_wire::encode(&message, &mut buf) {
                Ok(bytes) if decoded <= open.frame_bytes_max.min(headwater_wire::FRAME_BYTES_MAX) => {
                    buf.truncate(bytes);
                    self.broker.metrics().commands_sent.inc();
                    return self.output.put_bytes(buf.freeze());
                }
                _ => open.commands.too_large(now),
            }
        }
    }
}

impl Session for CompactSession {
    fn input(&mut self, bytes: &[u8], now: Now) -> usize {
        if self.is_superseded() {
            return bytes.len();
        }
        let mut used = 0usize;
        while self.end.is_none() && self.hello.is_none() {
            let rest = bytes.get(used..).unwrap_or_default();
            let unseen = rest.get(self.scanned..).unwrap_or_default();
            let Some(end) = unseen.iter().position(|b| *b == 0) else {
                self.scanned = rest.len();
                break;
            };
            let end = end.saturating_add(self.scanned);
            self.scanned = 0;
            used = used.saturating_add(end).saturating_add(1);
            if std::mem::take(&mut self.skipping) || end == 0 {
                continue;
            }
            let limit = headwater_wire::encoded_bytes_max(self.broker.frame_bytes_max);
            match rest.get(..end) {
                Some(stuffed) if end <= limit => self.frame(stuffed, now),
                _ => self.damaged(WireError::TooLarge(end)),
            }
        }
        let limit = headwater_wire::encoded_bytes_max(self.broker.frame_bytes_max);
        if self.scanned > limit || (self.skipping && self.scanned > 0) {
            // No frame is that long: away with it, up to the next end.
            if !self.skipping {
                self.damaged(WireError::TooLarge(self.scanned));
            }
            self.skipping = true;
            used = used.saturating_add(std::mem::take(&mut self.scanned));
        }
        self.pump(now);
        used
    }

    fn poll(&mut self, now: Now) {
        if self.end.is_some() {
            return;
        }
        if self.is_superseded() {
            return;
        }
        self.pump(now);
        if self.hello.is_some() {
            self.greet(now);
            self.pump(now);
        }
        let flights = self.open.as_ref().is_some_and(|open| open.intake.has_flights());
        if self.is_superseded() || self.end.is_some() {
            // It has said so.
        } else if self.stopping && !flights {
            self.bye(Code::STOPPING, "");
        } else if self.open.is_none() && now.mono_us >= self.handshake_us {
            self.bye(Code::TIMEOUT, "no Hello in time");
        } else if now.mono_us >= self.heard_us.saturating_add(IDLE_MS.saturating_mul(1000)) {
            self.bye(Code::TIMEOUT, format!("nothing was heard for {} s", IDLE_MS / 1000));
        }
    }

    fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    fn wants_input(&self) -> bool {
        self.end.is_none()
            && !self.stopping
            && self.hello.is_none()
            && self.output.len() < OUTPUT_BYTES_MAX
            && self.open.as_ref().is_none_or(|open| open.intake.wants_input())
    }

    fn deadline_us(&self) -> Option<u64> {
        if self.end.is_some() {
            return None;
        }
        let idle = self.heard_us.saturating_add(IDLE_MS.saturating_mul(1000));
        let Some(open) = &self.open else {
            return Some(self.handshake_us.min(idle));
        };
        [open.intake.deadline_us(), open.commands.deadline_us(), Some(idle)]
            .into_iter()
            .flatten()
            .min()
    }

    fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    fn stop(&mut self, now: Now) {
        self.stopping = true;
        self.poll(now);
    }

    fn gone(&mut self, now: Now) {
        if let Some(open) = &mut self.open {
            // What is committed already tells whether the device has a row now.
            open.intake.poll(now);
        }
        self.close();
    }
}
