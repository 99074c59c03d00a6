//! Records of one open session, on their way to the log: dedup and order by sequence, one submission a burst, Ack after the
//! commit, Nack when the log refuses.
//!
//! A device sends in order and, after a Nack that asks to go back, again from its sequence. So there is one number that may come
//! next. Below it is a duplicate; above it something was lost on the line. When the log refuses a submission, those behind it
//! are refused as well, because each expects the row that the one before writes: the intake drops what arrives, waits until
//! nothing is in flight, reads the row again and tells the device where to go on.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use headwater_wire::{Code as WireCode, Nack};

use super::broker::Broker;
use super::row::{Row, device_key};
use crate::log::{Append, Committed, Expect, Refused, StateChange, Submission, Table, Ticket};
use crate::model::{Code, Now};
use crate::route::{Message, Source, device_name, is_topic_name};

/// How far a sequence may be ahead of the last one acknowledged.
pub(super) const WINDOW: u32 = 8192;
/// Bytes of records in flight past which the session stops reading.
const INFLIGHT_BYTES_MAX: usize = 1 << 20;
/// A burst is submitted at this size at the latest.
const BURST_BYTES_MAX: usize = 256 << 10;
/// A missing record is asked for again after this.
const ASK_AGAIN_MS: u64 = 2000;
/// A store that failed is given so long, and its rows are looked at again after that.
const STORAGE_RETRY_MS: u32 = 2000;
const READ_AGAIN_MS: u64 = 1000;
/// Names remembered for channels, so that a record's costs no formatting.
const NAMES_MAX: usize = 256;

/// One record as it came.
pub(super) struct Reading<'a> {
    pub(super) sequence: u64,
    pub(super) time: Option<i64>,
    pub(super) channel: &'a str,
    pub(super) payload: Bytes,
}

/// What a session tells its device.
pub(super) enum Answer {
    Ack(u64),
    Nack(Nack),
}

pub(super) struct Intake {
    broker: Arc<Broker>,
    device: Arc<str>,
    key: Vec<u8>,
    epoch: u32,
    base_ms: i64,
    /// The row after everything submitted, and its bytes as the log has them then.
    row: Row,
    present: Option<Vec<u8>>,
    /// The epoch of the row that the log had last: another than this and ours is a newer queue's.
    found_epoch: Option<u32>,
    superseded: bool,
    /// A row was reserved and is not stored yet.
    reserved: bool,
    /// The sequence that may come next.
    next: u64,
    acked: u64,
    /// The device has nothing before this: what Hello said.
    floor: u64,
    burst: Burst,
    flights: VecDeque<Flight>,
    inflight_bytes: usize,
    failed: Option<Failed>,
    /// Until this sequence every record is submitted alone, to find the one that the log refuses for good.
    alone_until: u64,
    /// The sequence last asked for and when it may be asked for again.
    asked: Option<(u64, u64)>,
    reack: bool,
    names: HashMap<Box<str>, Bytes>,
    answers: VecDeque<Answer>,
}

#[derive(Default)]
struct Burst {
    appends: Vec<Append>,
    bytes: usize,
    /// The row moved, with or without records.
    moved: bool,
    lost: u64,
    first: u64,
}

struct Flight {
    ticket: Ticket<Committed>,
    first: u64,
    last: u64,
    records: u64,
    bytes: usize,
    lost: u64,
    since_us: u64,
}

struct Failed {
    refused: Refused,
    first: u64,
    last: u64,
    /// The row could not be read: try again then.
    retry_us: u64,
    /// The device knows, and what it sends until the row can be read is passed over.
    told: bool,
}

impl Intake {
    /// After a Hello: `stored` is the device's row as it is in the log, `next` what Hello said.
    pub(super) fn new(
        broker: Arc<Broker>,
        device: Arc<str>,
        epoch: u32,
        next: u64,
        stored: Option<Vec<u8>>,
        reserved: bool,
        now: Now,
    ) -> Self {
        let key = device_key(&device);
        let mut intake = Self {
            broker,
            device,
            key,
            epoch,
            base_ms: now.wall_ms,
            row: Row::default(),
            present: None,
            found_epoch: stored.as_deref().and_then(Row::decode).map(|row| row.epoch),
            superseded: false,
            reserved,
            next: 1,
            acked: 0,
            floor: next.saturating_sub(1),
            burst: Burst::default(),
            flights: VecDeque::new(),
            inflight_bytes: 0,
            failed: None,
            alone_until: 0,
            asked: None,
            reack: false,
            names: HashMap::new(),
            answers: VecDeque::new(),
        };
        intake.rebase(stored);
        intake
    }

    pub(super) fn has_flights(&self) -> bool {
        !self.flights.is_empty()
    }

    pub(super) fn wants_input(&self) -> bool {
        self.inflight_bytes < INFLIGHT_BYTES_MAX && self.failed.as_ref().is_none_or(|failed| failed.told)
    }

    /// Whether the device is known to go on in another session, with a queue in another epoch.
    pub(super) fn is_superseded(&self) -> bool {
        self.superseded
    }

    pub(super) fn answer(&mut self) -> Option<Answer> {
        self.answers.pop_front()
    }

    pub(super) fn deadline_us(&self) -> Option<u64> {
        self.failed
            .as_ref()
            .filter(|_| self.flights.is_empty())
            .map(|f| f.retry_us)
    }

    /// Whether a row was reserved for a device that never stored anything.
    pub(super) fn reserved(&self) -> bool {
        self.reserved
    }

    /// Takes one record. `Err` when it is past the window.
    pub(super) fn accept(&mut self, reading: Reading<'_>, waker: &Waker, now: Now) -> Result<(), WireCode> {
        let metrics = self.broker.metrics();
        metrics.received.inc();
        if reading.sequence > self.acked.saturating_add(u64::from(WINDOW)) {
            return Err(WireCode::WINDOW);
        }
        if reading.sequence < self.next {
            metrics.duplicates.inc();
            self.reack = true;
            return Ok(());
        }
        if self.failed.is_some() || reading.sequence > self.next {
            metrics.out_of_order.inc();
            if self.failed.is_none() {
                self.ask(now);
            }
            return Ok(());
        }
        if self.burst.first == 0 {
            self.burst.first = reading.sequence;
        }
        match self.append(&reading, now) {
            Ok(append) => {
                self.burst.bytes = self
                    .burst
                    .bytes
                    .saturating_add(reading.payload.len())
                    .saturating_add(64);
                self.burst.appends.push(append);
            }
            Err(code) => self.settle(reading.sequence, code),
        }
        self.row.last = reading.sequence;
        self.next = reading.sequence.saturating_add(1);
        self.burst.moved = true;
        if self.burst.bytes >= BURST_BYTES_MAX || reading.sequence <= self.alone_until {
            self.submit(waker, now);
        }
        Ok(())
    }

    /// The device has nothing before `next` that it has not sent.
    pub(super) fn skip(&mut self, next: u64) {
        if self.failed.is_some() || next <= self.next {
            self.reack = true;
            return;
        }
        if self.burst.first == 0 {
            self.burst.first = self.next;
        }
        self.lose(next.saturating_sub(1));
    }

    /// Submits the burst.
    pub(super) fn submit(&mut self, waker: &Waker, now: Now) {
        if !self.burst.moved {
            return;
        }
        let burst = std::mem::take(&mut self.burst);
        self.row.epoch = self.epoch;
        self.row.seen_ms = now.wall_ms;
        let value = self.row.encode();
        let change = StateChange {
            table: Table::Devices,
            key: self.key.clone(),
            expect: self.present.take().map_or(Expect::Absent, Expect::Value),
            value: Some(value.clone()),
        };
        self.present = Some(value);
        let records = u64::try_from(burst.appends.len()).unwrap_or(u64::MAX);
        let submission = Submission {
            appends: burst.appends,
            state: vec![change],
        };
        let ticket = self.broker.log.submit(submission, waker);
        self.inflight_bytes = self.inflight_bytes.saturating_add(burst.bytes);
        self.flights.push_back(Flight {
            ticket,
            first: burst.first,
            last: self.row.last,
            records,
            bytes: burst.bytes,
            lost: burst.lost,
            since_us: now.mono_us,
        });
    }

    /// Looks at what is in flight; answers are ready after it.
    pub(super) fn poll(&mut self, now: Now) {
        let before = self.acked;
        while let Some(flight) = self.flights.front_mut() {
            let Some(result) = flight.ticket.take() else { break };
            let Some(flight) = self.flights.pop_front() else { break };
            self.inflight_bytes = self.inflight_bytes.saturating_sub(flight.bytes);
            match result {
                Ok(_) => self.committed(&flight, now),
                Err(refused) if self.failed.is_none() => {
                    self.burst = Burst::default();
                    self.failed = Some(Failed {
                        refused,
                        first: flight.first,
                        last: flight.last,
                        retry_us: now.mono_us,
                        told: false,
                    });
                }
                // Refused because the one before it was.
                Err(_) => {}
            }
        }
        if self.flights.is_empty() && self.failed.as_ref().is_some_and(|f| f.retry_us <= now.mono_us) {
            self.recover(now);
        }
        if self.acked > before || self.reack {
            self.reack = false;
            self.answers.push_back(Answer::Ack(self.acked));
        }
    }

    fn committed(&mut self, flight: &Flight, now: Now) {
        let metrics = self.broker.metrics();
        metrics.stored.inc_by(flight.records);
        self.reserved = false;
        self.found_epoch = Some(self.epoch);
        if flight.lost > 0 {
            metrics.gaps.inc();
            metrics.lost.inc_by(flight.lost);
            tracing::warn!(device = %self.device, epoch = self.epoch, before = flight.last, lost = flight.lost,
                "the device lost records before it could send them");
        }
        if flight.records > 0 {
            let waited_us = now.mono_us.saturating_sub(flight.since_us);
            metrics.ack_seconds.observe(waited_us as f64 / 1e6);
        }
        self.acked = self.acked.max(flight.last);
    }

    /// After a refusal, once nothing is in flight: what the log has, and where the device goes on.
    fn recover(&mut self, now: Now) {
        let Some(failed) = self.failed.take() else { return };
        let stored = match self.broker.log.state(Table::Devices, &self.key) {
            Ok(stored) => stored,
            Err(refused) => {
                let retry_us = now.after_ms(READ_AGAIN_MS);
                if !failed.told {
                    self.next = self.acked.saturating_add(1);
                    tracing::debug!(device = %self.device, why = %refused.why, "the state of a device cannot be read for now");
                    self.nack(self.next, WireCode::STORAGE, STORAGE_RETRY_MS, now);
                }
                let told = true;
                self.failed = Some(Failed {
                    retry_us,
                    told,
                    ..failed
                });
                return;
            }
        };
        let epoch = stored.as_deref().and_then(Row::decode).map(|row| row.epoch);
        if epoch.is_some_and(|epoch| epoch != self.epoch && Some(epoch) != self.found_epoch) {
            // To write ours over it would let the newer queue's records in a second time.
            self.superseded = true;
            return;
        }
        self.rebase(stored);
        let code = failed.refused.code;
        match code {
            Code::Conflict => {
                self.broker.metrics().conflicts.inc();
                self.nack(self.next, WireCode::OUT_OF_ORDER, 0, now);
            }
            Code::Quota => self.refuse(WireCode::QUOTA, 10_000, &failed, now),
            Code::Storage => self.refuse(WireCode::STORAGE, STORAGE_RETRY_MS, &failed, now),
            Code::Busy | Code::Stopping => self.refuse(WireCode::BUSY, 250, &failed, now),
            _ if failed.first == failed.last && failed.first == self.next => {
                self.settle(failed.first, wire_code(code));
                tracing::warn!(device = %self.device, sequence = failed.first, %code, why = %failed.refused.why,
                    "a record is refused for good");
                self.burst.first = failed.first;
                self.burst.moved = true;
                self.row.last = failed.first;
                self.next = failed.first.saturating_add(1);
                self.nack(self.next, WireCode::OUT_OF_ORDER, 0, now);
            }
            // One of several is refused for good: they come again, one by one.
            _ => {
                self.alone_until = failed.last;
                self.nack(self.next, WireCode::OUT_OF_ORDER, 0, now);
            }
        }
    }

    /// Builds on what the log has.
    fn rebase(&mut self, stored: Option<Vec<u8>>) {
        self.row = stored.as_deref().and_then(Row::decode).unwrap_or_default();
        self.present = stored;
        let last = self.row.last_of(self.epoch);
        (self.row.epoch, self.row.last) = (self.epoch, last);
        self.next = last.saturating_add(1);
        self.acked = self.acked.max(last);
        self.burst = Burst::default();
        if last < self.floor {
            self.burst.first = self.next;
            self.lose(self.floor);
            // Nothing of it will come: the window begins behind it.
            self.acked = self.acked.max(self.floor);
        }
    }

    fn lose(&mut self, last: u64) {
        let lost = last.saturating_sub(self.next).saturating_add(1);
        self.burst.lost = self.burst.lost.saturating_add(lost);
        self.burst.moved = true;
        self.row.lost = self.row.lost.saturating_add(lost);
        self.row.last = last;
        self.next = last.saturating_add(1);
    }

    fn settle(&mut self, sequence: u64, code: WireCode) {
        self.row.refused = self.row.refused.saturating_add(1);
        self.push_nack(sequence, code, 0);
    }

    fn refuse(&mut self, code: WireCode, retry_after_ms: u32, failed: &Failed, now: Now) {
        tracing::debug!(device = %self.device, code = code.name(), why = %failed.refused.why, "records are refused for now");
        self.nack(self.next, code, retry_after_ms, now);
    }

    fn ask(&mut self, now: Now) {
        match self.asked {
            Some((sequence, again_us)) if sequence == self.next && now.mono_us < again_us => {}
            _ => self.nack(self.next, WireCode::OUT_OF_ORDER, 0, now),
        }
    }

    fn nack(&mut self, sequence: u64, code: WireCode, retry_after_ms: u32, now: Now) {
        let wait_ms = ASK_AGAIN_MS.saturating_add(u64::from(retry_after_ms));
        self.asked = Some((sequence, now.after_ms(wait_ms)));
        self.push_nack(sequence, code, retry_after_ms);
    }

    fn push_nack(&mut self, sequence: u64, code: WireCode, retry_after_ms: u32) {
        self.broker.metrics().nack(code.name());
        self.answers.push_back(Answer::Nack(Nack {
            sequence,
            code: code.0,
            retry_after_ms,
        }));
    }

    fn append(&mut self, reading: &Reading<'_>, now: Now) -> Result<Append, WireCode> {
        let name = match self.names.get(reading.channel) {
            Some(name) => name.clone(),
            None => self.name(reading.channel)?,
        };
        let source = Source {
            name: &name,
            client: &self.device,
            user: "",
        };
        let message = Message {
            payload: reading.payload.clone(),
            qos: 1,
            ..Message::default()
        };
        let timestamp_ms = match reading.time {
            Some(delta) => self.base_ms.saturating_add(delta),
            None => now.wall_ms,
        };
        let routed = self.broker.router.record(&source, message, timestamp_ms);
        let (topic, record) = routed.map_err(wire_code)?;
        Ok(Append::Record { topic, record })
    }

    fn name(&mut self, channel: &str) -> Result<Bytes, WireCode> {
        if !is_topic_name(channel) {
            return Err(WireCode::INVALID_CHANNEL);
        }
        let name = device_name(&self.device, channel);
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
        }
        self.names.insert(channel.into(), name.clone());
        Ok(name)
    }
}

fn wire_code(code: Code) -> WireCode {
    match code {
        Code::InvalidTopic => WireCode::INVALID_CHANNEL,
        Code::TooLarge => WireCode::RECORD_TOO_LARGE,
        Code::UnknownTopic => WireCode::UNKNOWN_TOPIC,
        Code::TooManyTopics => WireCode::TOO_MANY_TOPICS,
        _ => WireCode::REFUSED,
    }
}
