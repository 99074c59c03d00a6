//! The state of a device's session: what was sent, what is acknowledged, what to say next. No bytes here; see `client`.

use headwater_wire::{Code, HelloAck, Message, Nack, Time};

use crate::queue::Queue;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The session is open; the last sequence that the broker had stored.
    Open(u64),
    /// Everything up to and including this sequence is stored, settled or known as lost.
    Acked(u64),
    /// The broker refused this record for good.
    Refused(u64, Code),
    /// The broker wants everything from this sequence on again, after so many milliseconds.
    GoBack(u64, Code, u32),
    /// A command came; `Client::command` has it, `Client::command_done` acknowledges it. Until then it comes again every few
    /// seconds.
    Command(u64),
    /// The broker's clock was read; `Client::broker_time` has it.
    Time,
    /// The broker knows a later sequence of this epoch than the queue ever gave: the queue is not what the epoch says. Nothing
    /// is sent until `Client::renew` gives a new epoch.
    EpochUsed,
    /// The session is over, with the broker's reason, or with `NOT_AUTHORIZED` because it asks for a proof and this client has no
    /// key. `Client::connected` begins the next one.
    Ended(Code),
    /// The transport came to its end. `Client::connected` begins the next session.
    HungUp,
    /// The broker has been silent for too long: the link hangs. `Client::connected` begins the next session.
    Silent,
}

/// Where the session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No transport, or the session is over.
    Closed,
    /// Hello was sent, or is to be sent.
    Greeting,
    /// Records flow.
    Open,
    /// Waiting for a new epoch.
    NeedsEpoch,
}

/// Milliseconds that the client waits before it helps itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Hello is sent again after this.
    pub hello_ms: u32,
    /// Records are sent again when no Ack moved for this long.
    pub ack_ms: u32,
    /// Ping after nothing was sent for this long.
    pub ping_ms: u32,
    /// The link hangs when nothing came for this long.
    pub silence_ms: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            hello_ms: 3000,
            ack_ms: 5000,
            ping_ms: 20_000,
            silence_ms: 60_000,
        }
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    pub(crate) timing: Timing,
    pub(crate) acked: u64,
    pub(crate) sent: u64,
    pub(crate) window: u32,
    pub(crate) frame_bytes_max: usize,
    /// Whether there is a key to answer a challenge with.
    pub(crate) has_key: bool,
    pub(crate) nonce: Option<[u8; headwater_wire::NONCE_BYTES]>,
    pub(crate) pong: Option<u32>,
    pub(crate) command_ack: Option<u64>,
    pub(crate) command_done: Option<u64>,
    pub(crate) hello_due_ms: i64,
    pub(crate) hold_until_ms: i64,
    pub(crate) progress_ms: i64,
    pub(crate) heard_ms: i64,
    pub(crate) spoke_ms: i64,
    pub(crate) time_asked_ms: Option<i64>,
    pub(crate) time_wanted: bool,
    /// HelloAck's time, and the device's clock when it came.
    base: Option<(i64, i64)>,
    /// How far the device's clock was found off since.
    correction_ms: i64,
    pub(crate) resent: u64,
}

impl State {
    pub(crate) const fn new(timing: Timing) -> Self {
        Self {
            phase: Phase::Closed,
            timing,
            acked: 0,
            sent: 0,
            window: 1,
            frame_bytes_max: headwater_wire::FRAME_BYTES_MIN,
            has_key: false,
            nonce: None,
            pong: None,
            command_ack: None,
            command_done: None,
            hello_due_ms: 0,
            hold_until_ms: 0,
            progress_ms: 0,
            heard_ms: 0,
            spoke_ms: 0,
            time_asked_ms: None,
            time_wanted: false,
            base: None,
            correction_ms: 0,
            resent: 0,
        }
    }

    pub(crate) fn connected(&mut self, now_ms: i64) {
        self.phase = Phase::Greeting;
        self.nonce = None;
        self.pong = None;
        self.command_ack = None;
        self.time_asked_ms = None;
        self.hello_due_ms = now_ms;
        self.hold_until_ms = now_ms;
        self.heard_ms = now_ms;
        self.spoke_ms = now_ms;
    }

    /// What is sent as a record's time.
    pub(crate) fn time(&self, taken_ms: Option<i64>) -> Option<i64> {
        let (_, at) = self.base?;
        Some(taken_ms?.saturating_sub(at).saturating_add(self.correction_ms))
    }

    pub(crate) fn broker_time(&self, now_ms: i64) -> Option<i64> {
        let (base, _) = self.base?;
        Some(base.saturating_add(self.time(Some(now_ms))?))
    }

    /// What helps itself after a while; before anything is sent.
    pub(crate) fn tick(&mut self, now_ms: i64) -> Option<Event> {
        let waited = |since: i64, ms: u32| now_ms.saturating_sub(since) >= i64::from(ms);
        if self.phase == Phase::Closed {
            return None;
        }
        if waited(self.heard_ms, self.timing.silence_ms) {
            self.phase = Phase::Closed;
            return Some(Event::Silent);
        }
        if self.phase == Phase::Open && self.sent > self.acked && waited(self.progress_ms, self.timing.ack_ms) {
            self.go_back(self.acked);
            self.progress_ms = now_ms;
        }
        None
    }

    pub(crate) fn message<Q: Queue>(&mut self, message: Message<'_>, queue: &mut Q, now_ms: i64) -> Option<Event> {
        self.heard_ms = now_ms;
        match message {
            Message::Challenge(_) if self.phase == Phase::Greeting && !self.has_key => {
                // Hello again would only bring the next challenge.
                self.phase = Phase::Closed;
                Some(Event::Ended(Code::NOT_AUTHORIZED))
            }
            Message::Challenge(nonce) if self.phase == Phase::Greeting => {
                self.nonce = Some(nonce);
                self.hello_due_ms = now_ms;
                None
            }
            Message::HelloAck(ack) if matches!(self.phase, Phase::Greeting | Phase::Open) => {
                Some(self.opened(&ack, queue, now_ms))
            }
            Message::Bye(code) => {
                self.phase = Phase::Closed;
                Some(Event::Ended(Code(code)))
            }
            Message::Ping(token) => {
                self.pong = Some(token);
                None
            }
            _ if self.phase != Phase::Open => None,
            Message::Ack(sequence) => self.acknowledged(sequence, queue, now_ms),
            Message::Nack(nack) => self.refused(&nack, queue, now_ms),
            Message::Time(time) => self.timed(&time, now_ms),
            Message::Command(command) if self.command_done == Some(command.id) => {
                // It came again because the answer was lost.
                self.command_ack = self.command_done;
                None
            }
            Message::Command(command) => Some(Event::Command(command.id)),
            _ => None,
        }
    }

    fn opened<Q: Queue>(&mut self, ack: &HelloAck, queue: &mut Q, now_ms: i64) -> Event {
        if ack.last >= queue.next() {
            self.phase = Phase::NeedsEpoch;
            return Event::EpochUsed;
        }
        queue.release(ack.last);
        self.phase = Phase::Open;
        self.acked = ack.last.max(queue.first().saturating_sub(1));
        self.go_back(self.acked);
        self.window = ack.window.max(1);
        self.frame_bytes_max = usize::try_from(ack.frame_bytes_max).unwrap_or(usize::MAX);
        self.base = Some((ack.time_ms, now_ms));
        self.correction_ms = 0;
        self.progress_ms = now_ms;
        self.hold_until_ms = now_ms;
        Event::Open(ack.last)
    }

    fn acknowledged<Q: Queue>(&mut self, sequence: u64, queue: &mut Q, now_ms: i64) -> Option<Event> {
        if sequence <= self.acked || sequence >= queue.next() {
            return None;
        }
        self.acked = sequence;
        self.sent = self.sent.max(sequence);
        self.progress_ms = now_ms;
        queue.release(sequence);
        Some(Event::Acked(sequence))
    }

    fn refused<Q: Queue>(&mut self, nack: &Nack, queue: &Q, now_ms: i64) -> Option<Event> {
        if nack.sequence <= self.acked || nack.sequence > queue.next() {
            return None;
        }
        let code = nack.code();
        if code.is_settled() {
            return Some(Event::Refused(nack.sequence, code));
        }
        if !code.is_go_back() {
            return None;
        }
        self.go_back(nack.sequence.saturating_sub(1));
        self.hold_until_ms = now_ms.saturating_add(i64::from(nack.retry_after_ms));
        self.progress_ms = self.hold_until_ms;
        Some(Event::GoBack(nack.sequence, code, nack.retry_after_ms))
    }

    fn timed(&mut self, time: &Time, now_ms: i64) -> Option<Event> {
        let asked = self.time_asked_ms.take()?;
        let (base, at) = self.base?;
        // The answer was on its way for about half of the time that it took.
        let half = now_ms.saturating_sub(asked).checked_div(2).unwrap_or(0);
        let theirs = time.time_ms.saturating_add(half).saturating_sub(base);
        self.correction_ms = theirs.saturating_sub(now_ms.saturating_sub(at));
        Some(Event::Time)
    }

    fn go_back(&mut self, sent: u64) {
        if self.sent > sent {
            self.resent = self.resent.saturating_add(self.sent.saturating_sub(sent));
        }
        self.sent = sent;
    }
}
