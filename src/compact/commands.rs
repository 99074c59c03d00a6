//! Downlink: the records of the topic `commands` whose key is the device id, one at a time, each until the device says that it
//! is carried out. All partitions are read: not every producer puts a key where Kafka's default partitioner would. The cursor is stored behind the device's row, so that commands sent while a device sleeps are delivered when
//! it is back: at least once, in order, as long as they are retained. It is stored within a second of the CommandAck or with
//! the device's next records, so a crash may deliver a command again, never skip one.
//!
//! A command's id is its offset and 16 bits of where that offset is (`id_of`): a device takes an id that it knows for a repeat,
//! and offsets begin anew when the topic is made anew.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;

use super::broker::Broker;
use super::row::{Cursor, cursor_key};
use crate::log::{Expect, ReadBatches, ReadRequest, StateChange, Submission, Table, Ticket, Watch};
use crate::model::batch::Batch;
use crate::model::{Now, Offset, Partition, Record};

/// The topic that commands come from.
pub(super) const TOPIC: &str = "commands";
/// Bytes read at a time, and the bound on what one batch of them decodes to.
const READ_BYTES: usize = 64 << 10;
const BATCH_BYTES_MAX: usize = 4 << 20;
/// A command without an answer is sent again after this.
const RESEND_MS: u64 = 5000;
/// How often to look for a topic that is not there, or read again after a failure.
const LOOK_MS: u64 = 10_000;
/// A moved cursor is stored after this at the latest.
const STORE_MS: u64 = 1000;

/// A command to be sent.
pub(super) struct Sending<'a> {
    pub(super) id: u64,
    pub(super) name: &'a str,
    pub(super) payload: &'a [u8],
}

/// One partition of the topic.
struct Lane {
    /// Where the next read begins; the cursor stays behind it until the queue is done.
    read_next: u64,
    watch: Option<(u64, Watch)>,
}

struct Pending {
    id: u64,
    offset: u64,
    name: String,
    payload: Bytes,
}

pub(super) struct Commands {
    broker: Arc<Broker>,
    device: Arc<str>,
    cursor: Option<Cursor>,
    lanes: Vec<Lane>,
    /// The partition read last: all that is in the queue is from there.
    reading: usize,
    queue: VecDeque<Pending>,
    ticket: Option<Ticket<ReadBatches>>,
    /// The front of the queue was sent then.
    sent_us: Option<u64>,
    /// Not to look before this.
    look_us: u64,
    store_us: Option<u64>,
}

impl Commands {
    /// After a Hello; `cursor` is what the log has.
    pub(super) fn new(broker: Arc<Broker>, device: Arc<str>, cursor: Option<Vec<u8>>) -> Self {
        Self {
            broker,
            device,
            cursor: cursor.as_deref().and_then(Cursor::decode),
            lanes: Vec::new(),
            reading: 0,
            queue: VecDeque::new(),
            ticket: None,
            sent_us: None,
            look_us: 0,
            store_us: None,
        }
    }

    pub(super) fn deadline_us(&self) -> Option<u64> {
        let resend = self.sent_us.map(|at| at.saturating_add(RESEND_MS.saturating_mul(1000)));
        let watched = !self.lanes.is_empty() && self.lanes.iter().all(|lane| lane.watch.is_some());
        let look = (self.queue.is_empty() && self.ticket.is_none() && !watched).then_some(self.look_us);
        [resend, look, self.store_us].into_iter().flatten().min()
    }

    /// What is to be sent now, if anything.
    pub(super) fn poll(&mut self, waker: &Waker, now: Now) -> Option<Sending<'_>> {
        if self.store_us.is_some_and(|at| at <= now.mono_us) {
            self.store(waker);
        }
        self.look(waker, now);
        let due = match self.sent_us {
            Some(at) => at.saturating_add(RESEND_MS.saturating_mul(1000)) <= now.mono_us,
            None => true,
        };
        let pending = self.queue.front().filter(|_| due)?;
        self.sent_us = Some(now.mono_us);
        Some(Sending {
            id: pending.id,
            name: &pending.name,
            payload: &pending.payload,
        })
    }

    /// The device carried a command out.
    pub(super) fn acked(&mut self, id: u64, now: Now) {
        if self.queue.front().is_some_and(|pending| pending.id == id) {
            self.broker.metrics().commands_acked.inc();
            self.done(now);
        }
    }

    /// The front cannot be sent to this device.
    pub(super) fn too_large(&mut self, now: Now) {
        self.broker.metrics().commands_too_large.inc();
        if let Some(pending) = self.queue.front() {
            tracing::warn!(device = %self.device, command = pending.id, bytes = pending.payload.len(),
                "a command is larger than the device can receive; it is skipped");
        }
        self.done(now);
    }

    /// Whether the cursor is ahead of the stored one.
    pub(super) fn moved(&self) -> bool {
        self.store_us.is_some()
    }

    /// Stores the cursor.
    pub(super) fn store(&mut self, waker: &Waker) {
        self.store_us = None;
        let Some(cursor) = &self.cursor else { return };
        let change = StateChange {
            table: Table::Devices,
            key: cursor_key(&self.device),
            expect: Expect::Any,
            value: Some(cursor.encode()),
        };
        // Nobody waits for it: without it a command is delivered again.
        drop(self.broker.log.submit(
            Submission {
                appends: Vec::new(),
                state: vec![change],
            },
            waker,
        ));
    }

    fn done(&mut self, now: Now) {
        self.sent_us = None;
        let Some(done) = self.queue.pop_front() else { return };
        let read_next = self.lanes.get(self.reading).map(|lane| lane.read_next);
        let offset = match read_next.filter(|_| self.queue.is_empty()) {
            Some(read_next) => read_next,
            None => done.offset.saturating_add(1),
        };
        if let Some(place) = self.cursor.as_mut().and_then(|c| c.offsets.get_mut(self.reading)) {
            *place = offset;
        }
        self.store_us = self.store_us.or(Some(now.after_ms(STORE_MS)));
    }

    /// Reads on when the queue is empty.
    fn look(&mut self, waker: &Waker, now: Now) {
        // A few steps at most: each read either brings commands, moves on, or waits.
        for _ in 0..8 {
            if !self.queue.is_empty() || now.mono_us < self.look_us {
                return;
            }
            if let Some(ticket) = &mut self.ticket {
                let Some(result) = ticket.take() else { return };
                self.ticket = None;
                match result {
                    Ok(read) => self.take(&read),
                    Err(_) => self.look_us = now.after_ms(LOOK_MS),
                }
                continue;
            }
            if !self.follow(waker, now) {
                return;
            }
        }
        // There is more: again with the next turn.
        self.look_us = now.mono_us;
    }

    /// Starts a read, or watches every partition; whether there may be something at once.
    fn follow(&mut self, waker: &Waker, now: Now) -> bool {
        let log = self.broker.log.clone();
        let Some(topic) = log.topic(TOPIC) else {
            self.lanes.clear();
            self.look_us = now.after_ms(LOOK_MS);
            return false;
        };
        let partitions = usize::try_from(topic.partitions).unwrap_or(usize::MAX);
        // A device that was never here, another topic of that name, or more partitions: from the first that is there.
        let cursor = match self.cursor.take().filter(|c| c.topic_id == topic.id) {
            Some(cursor) => cursor,
            None => {
                self.lanes.clear();
                Cursor {
                    topic_id: topic.id,
                    offsets: Vec::new(),
                }
            }
        };
        let cursor = self.cursor.insert(cursor);
        cursor.offsets.resize(partitions, 0);
        let known = self.lanes.len();
        self.lanes.extend(cursor.offsets.iter().skip(known).map(|offset| Lane {
            read_next: *offset,
            watch: None,
        }));
        let after = self.reading.saturating_add(1);
        for step in 0..partitions {
            let index = after.saturating_add(step).checked_rem(partitions).unwrap_or(0);
            let partition = Partition(u32::try_from(index).unwrap_or(u32::MAX));
            let (Some(lane), Some(place)) = (self.lanes.get_mut(index), cursor.offsets.get_mut(index)) else {
                continue;
            };
            let Some(bounds) = log.bounds(TOPIC, partition) else {
                lane.watch = None;
                self.look_us = now.after_ms(LOOK_MS);
                continue;
            };
            lane.read_next = lane.read_next.clamp(bounds.log_start.0, bounds.high_watermark.0);
            *place = lane.read_next;
            if lane.read_next == bounds.high_watermark.0 {
                if lane.watch.as_ref().is_none_or(|(at, _)| *at != lane.read_next) {
                    let watch = log.watch_partition(&topic.name, partition, Offset(lane.read_next), waker);
                    lane.watch = Some((lane.read_next, watch));
                }
                continue;
            }
            lane.watch = None;
            self.reading = index;
            let request = ReadRequest {
                topic: topic.name.clone(),
                partition,
                from: Offset(lane.read_next),
                bytes_max: READ_BYTES,
            };
            self.ticket = Some(log.read(request, waker));
            return true;
        }
        false
    }

    fn take(&mut self, read: &ReadBatches) {
        let Some(lane) = self.lanes.get_mut(self.reading) else {
            return;
        };
        let from = lane.read_next;
        // A read that brings nothing must not be asked again and again.
        lane.read_next = read.offset_next.0.max(from.saturating_add(1));
        let salt = self.cursor.as_ref().map_or(0, |c| salt_of(&c.topic_id, self.reading));
        for piece in &read.batches {
            for (offset, record) in records(piece) {
                let ours = record.key.as_deref() == Some(self.device.as_bytes());
                if let (true, Some(payload)) = (ours && offset.0 >= from, record.value) {
                    let name = record.headers.iter().find(|h| h.name == "name");
                    let name = name.and_then(|h| h.value.as_deref()).unwrap_or_default();
                    self.queue.push_back(Pending {
                        id: id_of(offset.0, salt),
                        offset: offset.0,
                        name: String::from_utf8_lossy(name).into_owned(),
                        payload,
                    });
                }
            }
        }
    }
}

/// What a command is called towards its device.
fn id_of(offset: u64, salt: u16) -> u64 {
    offset.wrapping_shl(16) | u64::from(salt)
}

/// FNV-1a over topic id and partition, folded.
fn salt_of(topic_id: &[u8; 16], partition: usize) -> u16 {
    let partition = u32::try_from(partition).unwrap_or(u32::MAX).to_le_bytes();
    let bytes = topic_id.iter().copied().chain(partition);
    let hash = bytes.fold(0x811c_9dc5u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let [a, b, c, d] = hash.to_le_bytes();
    u16::from_le_bytes([a ^ c, b ^ d])
}

/// The records of a piece that may hold several batches. What does not parse is passed over: the log has checked it already.
pub(super) fn records(piece: &Bytes) -> Vec<(Offset, Record)> {
    let mut found = Vec::new();
    let mut rest = piece.clone();
    while let Some(length) = rest.get(8..12).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes) {
        let total = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(12);
        if total > rest.len() {
            break;
        }
        let batch = rest.split_to(total);
        if let Ok(records) = Batch::parse(batch).and_then(|b| b.records(BATCH_BYTES_MAX)) {
            found.extend(records);
        }
    }
    found
}
