//! Fetch: whole batches as they lie in the log, up to the high watermark, from several partitions, waiting for `min_bytes` until
//! `max_wait`. Sessionless: every request names all its partitions (KIP-227 allows a broker to keep none).
//!
//! What was read stays while it waits for more, and reading goes on behind it, so nothing is read twice. Records take room in a
//! budget that all fetches share; when it is used up, an answer carries a few batches only, so that everybody still goes on.

use bytes::Bytes;

use super::broker::Lease;
use super::call::{Call, Context, Step, error};
use crate::kafka_wire::messages::{FetchRequest, TopicName};
use crate::kafka_wire::{FetchAnswer, FetchedPartition, FetchedTopic};
use crate::log::{Bounds, ReadBatches, ReadRequest, Refused, Ticket, Watch};
use crate::model::batch::HEADER_BYTES;
use crate::model::{Code, Offset, Output, Partition, Topic};

/// What an answer may carry when the budget of all fetches is used up.
const SCARCE_BYTES: usize = 64 << 10;
/// Longest wait, whatever is asked.
const WAIT_MS_MAX: u64 = 300_000;

/// FETCH_SESSION_ID_NOT_FOUND
const SESSION_NOT_FOUND: i16 = 70;
/// INVALID_FETCH_SESSION_EPOCH
const SESSION_EPOCH: i16 = 71;
/// FENCED_LEADER_EPOCH
const EPOCH_FENCED: i16 = 74;
/// UNKNOWN_LEADER_EPOCH
const EPOCH_UNKNOWN: i16 = 75;

struct Fetch {
    error_code: i16,
    topics: Vec<(TopicName, usize)>,
    parts: Vec<Part>,
    /// Bytes read so far.
    bytes: usize,
    bytes_min: usize,
    bytes_max: usize,
    deadline_us: u64,
    reading: Option<(usize, Ticket<ReadBatches>)>,
    /// The partition to look at next.
    cursor: usize,
    watches: Vec<Watch>,
    lease: Option<Lease>,
    /// Read once with a budget.
    leased: bool,
    long_poll: bool,
}

struct Part {
    topic: Option<Topic>,
    index: i32,
    partition: Partition,
    next: Offset,
    bytes_max: usize,
    epoch: i32,
    error_code: i16,
    batches: Vec<Bytes>,
    bytes: usize,
    /// Nothing more is wanted of it.
    done: bool,
}

pub(super) fn begin(request: FetchRequest, cx: &Context<'_>) -> Box<dyn Call> {
    let size = |n: i32| usize::try_from(n).unwrap_or(0);
    let bytes_max = size(request.max_bytes).min(cx.broker.config.limits.kafka_fetch_bytes);
    let error_code = match (request.session_id, request.session_epoch) {
        (0, 0 | -1) => 0,
        (0, _) => SESSION_EPOCH,
        _ => SESSION_NOT_FOUND,
    };
    let mut topics = Vec::new();
    let mut parts = Vec::new();
    for topic in request.topics.into_iter().filter(|_| error_code == 0) {
        topics.push((topic.topic.clone(), topic.partitions.len()));
        let name = Topic::parse(topic.topic.0.as_str()).ok();
        parts.extend(topic.partitions.into_iter().map(|asked| {
            let mut part = Part {
                topic: name.clone(),
                index: asked.partition,
                partition: Partition(u32::try_from(asked.partition).unwrap_or(u32::MAX)),
                next: Offset::default(),
                bytes_max: size(asked.partition_max_bytes),
                epoch: asked.current_leader_epoch,
                error_code: 0,
                batches: Vec::new(),
                bytes: 0,
                done: false,
            };
            match Offset::from_kafka(asked.fetch_offset) {
                Some(offset) => part.next = offset,
                None => part.fail(Code::OffsetOutOfRange.kafka()),
            }
            part
        }));
    }
    let wait_ms = u64::try_from(request.max_wait_ms).unwrap_or(0).min(WAIT_MS_MAX);
    Box::new(Fetch {
        error_code,
        topics,
        parts,
        bytes: 0,
        bytes_min: size(request.min_bytes).min(bytes_max),
        bytes_max,
        deadline_us: cx.now.after_ms(wait_ms),
        reading: None,
        cursor: 0,
        watches: Vec::new(),
        lease: None,
        leased: false,
        long_poll: false,
    })
}

impl Part {
    fn fail(&mut self, code: i16) {
        self.error_code = code;
        self.done = true;
    }

    fn bounds(&self, cx: &Context<'_>) -> Option<Bounds> {
        cx.broker.log.bounds(self.topic.as_ref()?.as_str(), self.partition)
    }

    /// Whether there is something to read; marks what is wrong.
    fn readable(&mut self, cx: &Context<'_>) -> bool {
        if self.done {
            return false;
        }
        let Some(bounds) = self.bounds(cx) else {
            self.fail(Code::UnknownTopic.kafka());
            return false;
        };
        match self.epoch {
            -1 => {}
            epoch if epoch < bounds.leader_epoch => self.fail(EPOCH_FENCED),
            epoch if epoch > bounds.leader_epoch => self.fail(EPOCH_UNKNOWN),
            _ => {}
        }
        // Once something was read the log start may pass it: what is in hand still counts.
        if self.bytes == 0 && self.next < bounds.log_start || self.next > bounds.high_watermark {
            self.fail(Code::OffsetOutOfRange.kafka());
        }
        !self.done && self.next < bounds.high_watermark
    }
}

impl Fetch {
    /// Takes what a read gave. A batch that is past the limits is given up, unless it is the answer's first.
    fn absorb(&mut self, index: usize, read: Result<ReadBatches, Refused>) {
        let (room, empty) = (self.room(index), self.bytes == 0);
        let Some(part) = self.parts.get_mut(index) else { return };
        let read = match read {
            Ok(read) => read,
            // Retention passed by while it waited: what is in hand is answered, the next request is told.
            Err(_) if part.bytes > 0 => {
                part.done = true;
                return;
            }
            Err(refused) => return part.fail(refused.code.kafka()),
        };
        let bytes = read.batches.iter().map(Bytes::len).fold(0, usize::saturating_add);
        if bytes == 0 && read.offset_next > part.next {
            // Nothing is left of what was there: it waits for what comes behind that.
            part.next = read.offset_next;
            return;
        }
        if bytes == 0 || (bytes > room && !empty) {
            part.done = true;
            return;
        }
        part.next = read.offset_next;
        part.bytes = part.bytes.saturating_add(bytes);
        part.batches.extend(read.batches);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Bytes that a partition may still give.
    fn room(&self, index: usize) -> usize {
        let left = self.bytes_max.saturating_sub(self.bytes);
        let part = self.parts.get(index);
        part.map_or(0, |part| part.bytes_max.saturating_sub(part.bytes))
            .min(left)
    }

    /// Begins the next read, if one is due; `false` when all partitions were looked at.
    fn read_next(&mut self, cx: &Context<'_>) -> bool {
        while self.cursor < self.parts.len() {
            let index = self.cursor;
            self.cursor = self.cursor.saturating_add(1);
            let room = self.room(index);
            let Some(part) = self.parts.get_mut(index) else {
                continue;
            };
            if !part.readable(cx) {
                continue;
            }
            if self.bytes > 0 && room < HEADER_BYTES {
                part.done = true;
                continue;
            }
            let Some(topic) = part.topic.clone() else { continue };
            let (partition, from) = (part.partition, part.next);
            if !self.leased {
                self.leased = true;
                self.lease = cx.broker.lease(self.bytes_max);
                if self.lease.is_none() {
                    cx.broker.metrics().fetches_shortened.inc();
                    self.bytes_max = self.bytes_max.min(SCARCE_BYTES);
                    self.bytes_min = self.bytes_min.min(self.bytes_max);
                }
            }
            let request = ReadRequest {
                topic,
                partition,
                from,
                bytes_max: self.room(index),
            };
            self.reading = Some((index, cx.broker.log.read(request, cx.waker)));
            return true;
        }
        false
    }

    /// Whether to answer now that all partitions were looked at.
    fn enough(&self, cx: &Context<'_>) -> bool {
        cx.stopping
            || self.bytes >= self.bytes_min
            || cx.now.mono_us >= self.deadline_us
            || self.parts.iter().all(|part| part.done)
            || self.parts.iter().any(|part| part.error_code != 0)
    }

    fn watch(&mut self, cx: &Context<'_>) {
        let parts = self.parts.iter().filter(|part| !part.done);
        let watch = |part: &Part| {
            let topic = part.topic.as_ref()?;
            // The log wakes when the watermark passes an offset: one that is equal to it is waited for.
            Some(
                cx.broker
                    .log
                    .watch_partition(topic, part.partition, part.next, cx.waker),
            )
        };
        self.watches = parts.filter_map(watch).collect();
    }

    fn answer(&mut self, cx: &Context<'_>, out: &mut Output) -> Step {
        let parts = std::mem::take(&mut self.parts);
        let mut parts = parts.into_iter();
        let mut topics = Vec::with_capacity(self.topics.len());
        for (name, count) in std::mem::take(&mut self.topics) {
            let partitions = parts.by_ref().take(count).map(|part| fetched(part, cx));
            topics.push(FetchedTopic {
                name: name.0,
                partitions: partitions.collect(),
            });
        }
        if self.error_code != 0 {
            error(cx, self.error_code);
        }
        let answer = FetchAnswer {
            error_code: self.error_code,
            topics,
        };
        cx.broker.metrics().fetched_bytes.inc_by(self.bytes as u64);
        match answer.put(out, cx.version, cx.correlation) {
            Ok(()) => Step::Done(self.lease.take()),
            Err(e) => Step::Close(format!("a Fetch answer could not be encoded: {e}")),
        }
    }
}

fn fetched(part: Part, cx: &Context<'_>) -> FetchedPartition {
    let bounds = part.bounds(cx).filter(|_| part.error_code == 0);
    if part.error_code != 0 {
        error(cx, part.error_code);
    }
    FetchedPartition {
        index: part.index,
        error_code: part.error_code,
        high_watermark: bounds.map_or(-1, |b| b.high_watermark.kafka()),
        log_start: bounds.map_or(-1, |b| b.log_start.kafka()),
        batches: part.batches,
    }
}

impl Call for Fetch {
    fn poll(&mut self, cx: &Context<'_>, out: &mut Output) -> Step {
        loop {
            if let Some((index, ticket)) = &mut self.reading {
                let index = *index;
                let Some(read) = ticket.take() else {
                    return Step::Waiting;
                };
                self.reading = None;
                self.absorb(index, read);
            }
            if self.read_next(cx) {
                continue;
            }
            if self.enough(cx) {
                if self.long_poll {
                    cx.broker.metrics().long_polls.dec();
                    self.long_poll = false;
                }
                return self.answer(cx, out);
            }
            if !self.long_poll {
                cx.broker.metrics().long_polls.inc();
                self.long_poll = true;
            }
            // All are looked at again when one of them moves; until then a poll costs no registration.
            self.cursor = 0;
            let moved = self.watches.is_empty() || self.parts.iter_mut().any(|part| part.readable(cx));
            if moved {
                self.watch(cx);
            }
            return Step::Waiting;
        }
    }

    fn deadline_us(&self) -> Option<u64> {
        Some(self.deadline_us)
    }
}
