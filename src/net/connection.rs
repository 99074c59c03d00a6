//! Drives one sans-io session over one TCP connection. Everything a connection waits for (bytes, room to write, a commit, a
//! timer, the broker's stop) wakes the same task, which then does all that can be done and sleeps again.
//!
//! A connection at rest holds no buffer: bytes are read into a buffer that all connections of the thread share, and only what
//! a session leaves unused (the beginning of a frame) is kept. Back-pressure is here, once, for every protocol: a session that
//! wants no input, or a log whose queue is past its soft bound, means that the socket is not read.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use smol::future::{Future, FutureExt, poll_fn};
use smol::{Async, Timer};

use super::clock::Clock;
use super::stop::{Registration, Stopping};
use crate::log::{Log, Watch};
use crate::metrics::Metrics;
use crate::model::{End, Now, Session};

/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;
/// Room for the rest of a frame that did not come whole: with less left there is more of it made, but not more than this at once.
const READ_ROOM_BYTES_MIN: usize = 4096;
const READ_ROOM_BYTES_MAX: usize = 1 << 20;
/// Reads in one turn, so that one busy peer does not starve the others.
const READS_A_TURN: usize = 4;
/// Segments in one vectored write.
const SEGMENTS_A_WRITE: usize = 64;
/// A peer that takes nothing of what waits for it during this time is gone.
const WRITE_STALL_MS: u64 = 60_000;

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What the driver shares with all connections.
pub struct Env {
    /// For back-pressure.
    pub log: Log,
    /// For counting.
    pub metrics: std::sync::Arc<Metrics>,
    /// The clock.
    pub clock: Clock,
    /// Set once when the broker stops.
    pub stopping: Rc<Stopping>,
    /// Time a new connection has for its first whole frame, ms.
    pub handshake_ms: u64,
    /// A connection without a byte either way for so long is closed, ms.
    pub idle_ms: u64,
}

/// How a connection ended, for the log and the counters.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As the session said.
    Session(End),
    /// The peer closed or reset it.
    PeerGone,
    /// The peer sent no whole first frame, or nothing at all, or took nothing, for too long.
    TimedOut(&'static str),
    /// The session panicked; the text is the panic's.
    Panicked(String),
}

/// Runs a connection to its end. The session is made inside, because it wants the task's waker.
pub async fn drive(
    stream: Async<TcpStream>,
    env: Rc<Env>,
    session: impl FnOnce(Waker, Now) -> Box<dyn Session>,
) -> Outcome {
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    let registration = env.stopping.register(waker.clone());
    let now = env.clock.now();
    let session = match catch_unwind(AssertUnwindSafe(|| session(waker, now))) {
        Ok(session) => session,
        Err(panic) => return Outcome::Panicked(panic_text(&*panic)),
    };
    let mut connection = Connection {
        stream,
        session,
        unused: Vec::new(),
        unused_bytes: 0,
        timer: Timer::never(),
        timer_at_us: None,
        room: None,
        stop_told: false,
        opened_us: now.mono_us,
        frames_seen: false,
        last_byte_us: now.mono_us,
        write_stuck_since_us: None,
        read_closed: false,
        _registration: registration,
        env,
    };
    let outcome = match AssertUnwindSafe(poll_fn(|cx| connection.turn(cx))).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(panic) => Outcome::Panicked(panic_text(&*panic)),
    };
    let now = connection.env.clock.now();
    let session = &mut connection.session;
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| session.gone(now))) {
        return Outcome::Panicked(panic_text(&*panic));
    }
    // What the peer has not read yet (a last error) still leaves, as far as the kernel can.
    let _ = connection.stream.get_ref().shutdown(Shutdown::Both);
    outcome
}

struct Connection {
    stream: Async<TcpStream>,
    session: Box<dyn Session>,
    /// What the session left unused: the first `unused_bytes` of it. The rest is room for what comes, cleared once and not again
    /// for every read.
    unused: Vec<u8>,
    unused_bytes: usize,
    timer: Timer,
    timer_at_us: Option<u64>,
    room: Option<Watch>,
    stop_told: bool,
    opened_us: u64,
    frames_seen: bool,
    last_byte_us: u64,
    write_stuck_since_us: Option<u64>,
    /// The peer sent its last byte; what it is owed is still sent.
    read_closed: bool,
    _registration: Registration,
    env: Rc<Env>,
}

impl Connection {
    /// Does all that can be done now. `Ready` when the connection is over.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let now = self.env.clock.now();
        self.session.poll(now);
        if self.env.stopping.is_set() && !self.stop_told {
            self.stop_told = true;
            self.session.stop(now);
        }
        if self.read(cx, now).is_break() {
            return Poll::Ready(Outcome::PeerGone);
        }
        let wanted_input = self.session.wants_input();
        if self.write(cx, now).is_err() {
            return Poll::Ready(Outcome::PeerGone);
        }
        if !wanted_input && self.session.wants_input() {
            // What it sent made room for what it has not taken yet, and nothing else would wake us for that.
            cx.waker().wake_by_ref();
        }
        if let Some(end) = self.session.end().cloned() {
            if self.session.output().is_empty() || self.read_closed {
                return Poll::Ready(Outcome::Session(end));
            }
        } else if self.read_closed && self.session.output().is_empty() {
            return Poll::Ready(Outcome::PeerGone);
        }
        self.rest(cx, now)
    }

    /// Offers input to the session until it, the log or the socket says stop.
    fn read(&mut self, cx: &mut Context<'_>, now: Now) -> std::ops::ControlFlow<()> {
        use std::ops::ControlFlow::{Break, Continue};
        let mut reads = 0;
        loop {
            if !self.offer_unused(now) || self.read_closed {
                return Continue(());
            }
            if self.env.log.congested() {
                self.room = Some(self.env.log.watch_room(cx.waker()));
                return Continue(());
            }
            if reads == READS_A_TURN {
                cx.waker().wake_by_ref();
                return Continue(());
            }
            reads += 1;
            match self.read_once(now) {
                Ok(0) => {
                    // The peer closed its side: MQTT and compact peers are gone then, a Kafka client as well.
                    self.read_closed = true;
                    return Break(());
                }
                Ok(n) => {
                    self.env.metrics.net.received_bytes.inc_by(n as u64);
                    self.last_byte_us = now.mono_us;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => match self.stream.poll_readable(cx) {
                    Poll::Ready(Ok(())) => continue,
                    Poll::Ready(Err(_)) => return Break(()),
                    Poll::Pending => return Continue(()),
                },
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Break(()),
            }
        }
    }

    /// Lets the session use what it left; false when it wants no more now.
    fn offer_unused(&mut self, now: Now) -> bool {
        let mut from = 0;
        let mut wants = true;
        while wants && from < self.unused_bytes {
            wants = self.session.end().is_none() && self.session.wants_input();
            if !wants {
                break;
            }
            let used = self.session.input(&self.unused[from..self.unused_bytes], now);
            self.frames_seen |= used > 0;
            if used == 0 {
                break;
            }
            from += used;
        }
        if from > 0 {
            self.unused.copy_within(from..self.unused_bytes, 0);
            self.unused_bytes -= from;
        }
        if self.unused_bytes == 0 && self.unused.capacity() > 0 {
            self.unused = Vec::new();
        }
        wants && self.session.end().is_none() && self.session.wants_input()
    }

    /// One read from the socket. A frame of which much has come is gathered where it is; little goes in front of the shared
    /// buffer again, so that a peer that sends many small frames is read in large pieces.
    fn read_once(&mut self, now: Now) -> io::Result<usize> {
        let mut socket = self.stream.get_ref();
        let have = self.unused_bytes;
        if have > READ_ROOM_BYTES_MIN {
            if self.unused.len() - have < READ_ROOM_BYTES_MIN {
                let wanted = self.session.frame_bytes_wanted().saturating_sub(have);
                // At most as much again as has come: a length alone takes no memory.
                let room = wanted.min(have).clamp(READ_ROOM_BYTES_MIN, READ_ROOM_BYTES_MAX);
                self.unused.resize(have + room, 0);
            }
            let got = socket.read(&mut self.unused[have..])?;
            self.unused_bytes += got;
            return Ok(got);
        }
        READ_BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(READ_BYTES, 0);
            buffer[..have].copy_from_slice(&self.unused[..have]);
            let got = socket.read(&mut buffer[have..])?;
            let mut rest = &buffer[..have + got];
            while !rest.is_empty() && self.session.end().is_none() && self.session.wants_input() {
                let used = self.session.input(rest, now);
                self.frames_seen |= used > 0;
                if used == 0 {
                    break;
                }
                rest = &rest[used..];
            }
            self.unused.clear();
            self.unused.extend_from_slice(rest);
            self.unused_bytes = rest.len();
            Ok(got)
        })
    }

    fn write(&mut self, cx: &mut Context<'_>, now: Now) -> io::Result<()> {
        loop {
            let output = self.session.output();
            if output.is_empty() {
                self.write_stuck_since_us = None;
                return Ok(());
            }
            let slices: Vec<IoSlice<'_>> = output
                .segments()
                .iter()
                .take(SEGMENTS_A_WRITE)
                .map(|s| IoSlice::new(s))
                .collect();
            match self.stream.get_ref().write_vectored(&slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => {
                    self.session.output().advance(sent);
                    self.env.metrics.net.sent_bytes.inc_by(sent as u64);
                    self.write_stuck_since_us = None;
                    self.last_byte_us = now.mono_us;
                    if self.session.output().is_empty() {
                        // Room again: what waited for it (the next answer, a message) can be made.
                        self.session.poll(now);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.write_stuck_since_us.get_or_insert(now.mono_us);
                    match self.stream.poll_writable(cx) {
                        Poll::Ready(ready) => ready?,
                        Poll::Pending => return Ok(()),
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Sets the timer to the earliest deadline, or ends what is overdue.
    fn rest(&mut self, cx: &mut Context<'_>, now: Now) -> Poll<Outcome> {
        let ms = |from: u64, ms: u64| from.saturating_add(ms.saturating_mul(1000));
        let handshake = (!self.frames_seen).then(|| ms(self.opened_us, self.env.handshake_ms));
        let stall = self.write_stuck_since_us.map(|since| ms(since, WRITE_STALL_MS));
        let idle = ms(self.last_byte_us, self.env.idle_ms);
        for (deadline, why) in [
            (handshake, "no first frame within limits.handshake"),
            (stall, "the peer took nothing of what waits for it"),
            (Some(idle), "idle"),
        ] {
            if deadline.is_some_and(|d| d <= now.mono_us) {
                return Poll::Ready(Outcome::TimedOut(why));
            }
        }
        let deadline = [handshake, stall, Some(idle), self.session.deadline_us()]
            .into_iter()
            .flatten()
            .min();
        if deadline != self.timer_at_us {
            self.timer_at_us = deadline;
            match deadline.and_then(|d| self.env.clock.instant(d)) {
                Some(at) => self.timer.set_at(at),
                None => self.timer = Timer::never(),
            }
        }
        if Pin::new(&mut self.timer).poll(cx).is_ready() {
            // Due already: take another turn with a new reading of the clock.
            self.timer_at_us = None;
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// The text of a panic's payload.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".into())
}
