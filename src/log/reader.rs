//! Reads: at once from the tail cache on the caller's thread, else by the reader thread from the store. One transaction for each
//! piece and nothing held open, because a held one makes the store's file grow.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;

use crate::model::batch::Batch;
use crate::model::{Code, Offset, Partition, Topic};

use super::boots::shift_ms;
use super::desk::storage;
use super::layout::{PartitionKey, journal_key};
use super::loss::{Loss, LossReason};
use super::partition::{Home, Indexed, PartitionLog};
use super::shared::Shared;
use super::state::State;
use super::store::{Map, Store, StoreError};
use super::ticket::{Promise, Ticket, Wakes, ticket};
use super::{ReadBatches, ReadRequest, Refused, TimePoint};

/// Reads that wait for the disk at most; one more is refused with `Code::Busy`. Every session has few.
const WAITING_MAX: usize = 4096;
/// How often batches are looked for that move while they are read.
const ATTEMPTS: u32 = 8;
/// What a lookup by time unpacks at most of one batch.
const INFLATE_BYTES_MAX: usize = 64 << 20;

/// A batch that the disk does not give for so long is taken for damaged, microseconds.
const FAILING_US: u64 = 10_000_000;
/// So many of them are watched.
const FAILING_MAX: usize = 1024;

/// A lookup by time.
pub(super) struct TimeRequest {
    pub(super) topic: Topic,
    pub(super) partition: Partition,
    pub(super) timestamp_ms: i64,
}

enum Item {
    Read(ReadRequest, Promise<ReadBatches>),
    Time(TimeRequest, Promise<Option<TimePoint>>),
}

/// What waits for the reader thread.
#[derive(Default)]
pub(super) struct ReaderQueue {
    waiting: Mutex<(VecDeque<Item>, bool)>,
    arrived: Condvar,
    /// Batches that the disk did not give, and since when, monotonic microseconds.
    failing: Mutex<HashMap<(PartitionKey, u64), u64>>,
}

/// Serves cold reads; `net` runs it on a thread of its own.
pub struct Reader {
    pub(super) shared: Arc<Shared>,
}

impl Reader {
    /// Serves until `Log::stop`.
    pub fn run(self) {
        while let Some(item) = self.shared.reader.next() {
            self.shared.reader.serve(&self.shared, item);
        }
    }
}

impl ReaderQueue {
    pub(super) fn read(
        &self,
        shared: &Shared,
        request: ReadRequest,
        waker: &Waker,
        inline: bool,
    ) -> Ticket<ReadBatches> {
        let hot = {
            let state = shared.read_state();
            match partition(&state, &request.topic, request.partition) {
                Err(refused) => Some(Err(refused)),
                Ok((_, log)) => read_hot(log, &request).transpose(),
            }
        };
        if let Some(result) = hot {
            if result.as_ref().is_ok_and(|read| !read.batches.is_empty()) {
                shared.metrics.log.tail_hits.inc();
            }
            return Ticket::ready(result);
        }
        shared.metrics.log.tail_misses.inc();
        let (promise, ticket) = ticket(waker);
        self.push(shared, Item::Read(request, promise), inline);
        ticket
    }

    pub(super) fn offset_for_time(
        &self,
        shared: &Shared,
        request: TimeRequest,
        waker: &Waker,
        inline: bool,
    ) -> Ticket<Option<TimePoint>> {
        let (promise, ticket) = ticket(waker);
        self.push(shared, Item::Time(request, promise), inline);
        ticket
    }

    pub(super) fn stop(&self) {
        self.lock().1 = true;
        self.arrived.notify_all();
    }

    fn push(&self, shared: &Shared, item: Item, inline: bool) {
        if inline {
            return self.serve(shared, item);
        }
        let mut waiting = self.lock();
        if waiting.1 {
            // The promise is dropped, and with that refused.
            return;
        }
        if waiting.0.len() >= WAITING_MAX {
            drop(waiting);
            let refused = Refused::new(Code::Busy, "too many reads wait for the disk. Try: again in a moment");
            let mut wakes = Wakes::default();
            match item {
                Item::Read(_, promise) => wakes.add(promise.keep(Err(refused))),
                Item::Time(_, promise) => wakes.add(promise.keep(Err(refused))),
            }
            return;
        }
        waiting.0.push_back(item);
        drop(waiting);
        self.arrived.notify_one();
    }

    fn next(&self) -> Option<Item> {
        let waiting = self.lock();
        let mut waiting = self
            .arrived
            .wait_while(waiting, |(items, stopped)| items.is_empty() && !*stopped)
            .unwrap_or_else(PoisonError::into_inner);
        if waiting.1 {
            waiting.0.clear();
            return None;
        }
        waiting.0.pop_front()
    }

    fn serve(&self, shared: &Shared, item: Item) {
        let mut wakes = Wakes::default();
        match item {
            Item::Read(request, promise) => wakes.add(promise.keep(read_cold(shared, &request))),
            Item::Time(request, promise) => wakes.add(promise.keep(time(shared, &request))),
        }
    }

    /// Whether the disk has not given this batch for so long that it is not waited for any more.
    fn fails_for_long(&self, key: PartitionKey, place: &Indexed, now_us: u64) -> bool {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if failing.len() >= FAILING_MAX {
            failing.clear();
        }
        let since_us = *failing.entry((key, place.base_offset)).or_insert(now_us);
        let long = now_us.saturating_sub(since_us) >= FAILING_US;
        if long {
            failing.remove(&(key, place.base_offset));
        }
        long
    }

    fn was_read(&self, key: PartitionKey, place: &Indexed) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if !failing.is_empty() {
            failing.remove(&(key, place.base_offset));
        }
    }

    fn lock(&self) -> MutexGuard<'_, (VecDeque<Item>, bool)> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn partition<'a>(state: &'a State, topic: &Topic, number: Partition) -> Result<(u32, &'a PartitionLog), Refused> {
    let found = state.topics.get(topic);
    let log = found.and_then(|found| Some((found.key, found.partitions.get(number.0 as usize)?)));
    log.ok_or_else(|| {
        Refused::new(
            Code::UnknownTopic,
            format!("no such topic or partition: {topic} {number}"),
        )
    })
}

/// `Ok(None)` when the tail cache has not all of it.
fn read_hot(log: &PartitionLog, request: &ReadRequest) -> Result<Option<ReadBatches>, Refused> {
    let bounds = log.bounds();
    if request.from < bounds.log_start || request.from > bounds.high_watermark {
        let why = format!(
            "offset {} is not in {} {}: it holds {} to {}",
            request.from, request.topic, request.partition, bounds.log_start, bounds.high_watermark
        );
        return Err(Refused::new(Code::OffsetOutOfRange, why));
    }
    let read = log.read_tail(request.from.0, request.bytes_max);
    Ok(read.map(|(batches, offset_next)| ReadBatches {
        batches,
        offset_next: Offset(offset_next),
        bounds,
    }))
}

/// Reads from the store. What was just found may be removed, or move to another row: then the next look says so.
fn read_cold(shared: &Shared, request: &ReadRequest) -> Result<ReadBatches, Refused> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let (key, bounds, places) = {
            let state = shared.read_state();
            let (topic, log) = partition(&state, &request.topic, request.partition)?;
            if let Some(read) = read_hot(log, request)? {
                return Ok(read);
            }
            let places = log.places(request.from.0, request.bytes_max);
            let partition = request.partition.0;
            (PartitionKey { topic, partition }, log.bounds(), places)
        };
        let read: Result<Vec<Bytes>, Missing> = places.iter().map(|place| stored(shared, key, place)).collect();
        match read {
            Ok(batches) => {
                // Without a place there is nothing but a loss up to the end.
                let offset_next = places
                    .last()
                    .map_or(bounds.high_watermark, |last| Offset(last.offset_next()));
                return Ok(ReadBatches {
                    batches,
                    offset_next,
                    bounds,
                });
            }
            Err(_) if attempts < ATTEMPTS && moved(shared, request, &places) => {}
            Err(missing) => pass(shared, key, missing)?,
        }
    }
}

/// A batch that is not as it was stored is never served, and nobody waits for it: it is entered as lost to damage, and reads go on
/// behind it. The writer stores the marker.
fn give_up(shared: &Shared, key: PartitionKey, place: &Indexed, why: &str) {
    shared.metrics.log.unreadable.inc();
    let now_ms = shared.now().wall_ms;
    let mut state = shared.write_state();
    let Some(log) = state.partition_mut(key) else {
        return;
    };
    let found = log.index.partition_point(|batch| batch.base_offset < place.base_offset);
    if log.index.get(found) != Some(place) {
        // It went meanwhile, or lies elsewhere now.
        return;
    }
    let Some(loss) = Loss::of(&[*place], log.log_start, now_ms, LossReason::Damage) else {
        return;
    };
    tracing::error!(
        topic = key.topic,
        partition = key.partition,
        offset_first = loss.offset_first,
        offset_last = loss.offset_last,
        why,
        "a stored batch is damaged: reads go on behind it, and a marker says which offsets are lost (/api/v1/losses)"
    );
    let marker = log.lose(loss);
    drop(state);
    shared.damaged(key, marker);
}

/// Why the bytes of a batch cannot be had.
#[derive(Debug)]
pub(super) enum Missing {
    /// They are not as they were stored.
    Batch(Indexed, String),
    /// The disk does not give them, now.
    Now(Indexed, String),
    /// The store does not answer.
    Store(StoreError),
}

/// Gives up what is damaged, and what the disk did not give for long; refuses what may be read later.
fn pass(shared: &Shared, key: PartitionKey, missing: Missing) -> Result<(), Refused> {
    match missing {
        Missing::Batch(place, why) => give_up(shared, key, &place, &why),
        Missing::Now(place, why) if shared.reader.fails_for_long(key, &place, shared.clock_us()) => {
            give_up(shared, key, &place, &why);
        }
        Missing::Now(_, why) => return Err(storage(&StoreError::Unreadable(why))),
        Missing::Store(error) => return Err(storage(&error)),
    }
    Ok(())
}

fn moved(shared: &Shared, request: &ReadRequest, places: &[Indexed]) -> bool {
    // Their rows may be gone already, and memory be told in a moment.
    shared.moving.wait_for_all();
    let state = shared.read_state();
    let now = partition(&state, &request.topic, request.partition);
    now.map_or(true, |(_, log)| log.places(request.from.0, request.bytes_max) != places)
}

/// A batch's bytes with their CRC checked: what a flipped bit on the disk made of them is never served.
pub(super) fn stored(shared: &Shared, partition: PartitionKey, place: &Indexed) -> Result<Bytes, Missing> {
    let bytes = shared.lend(|store| match bytes_of(store, partition, place) {
        Err(Missing::Store(error)) => Err(error),
        other => Ok(other),
    });
    let bytes = bytes.map_err(Missing::Store)??;
    match Batch::parse(bytes.clone()) {
        Ok(batch) if batch.base_offset() == Offset(place.base_offset) => {
            shared.reader.was_read(partition, place);
            Ok(bytes)
        }
        Ok(_) => Err(Missing::Batch(*place, "it has another offset".into())),
        Err(error) => Err(Missing::Batch(*place, error.to_string())),
    }
}

/// The bytes of one batch out of its row.
pub(super) fn bytes_of(store: &dyn Store, partition: PartitionKey, place: &Indexed) -> Result<Bytes, Missing> {
    let range = place.at as usize..place.at as usize + place.bytes as usize;
    let read = match place.home.into() {
        Home::Segment { base_offset, .. } => store.body(Map::Segments, &partition.segment(base_offset), range),
        Home::Journal(row) => store.body(Map::Journal, &journal_key(row), range),
    };
    match read {
        Ok(Some(bytes)) => Ok(bytes.into()),
        Ok(None) => Err(Missing::Batch(*place, "it is not there".into())),
        Err(StoreError::Unreadable(why)) => Err(Missing::Now(*place, why)),
        Err(error) => Err(Missing::Store(error)),
    }
}

fn time(shared: &Shared, request: &TimeRequest) -> Result<Option<TimePoint>, Refused> {
    let (mut from, mut attempts) = (0, 0);
    let find = |from| {
        let state = shared.read_state();
        let (topic, log) = partition(&state, &request.topic, request.partition)?;
        let partition = request.partition.0;
        let place = log.place_of_time(from, request.timestamp_ms);
        Ok(place.map(|place| {
            let marks = log.marks_of(&place).to_vec();
            (PartitionKey { topic, partition }, place, log.log_start, marks)
        }))
    };
    while let Some((key, place, log_start, marks)) = find(from)? {
        let bytes = match stored(shared, key, &place) {
            Ok(bytes) => bytes,
            Err(error) => {
                attempts += 1;
                shared.moving.wait_for_all();
                let moved = find(from)?.is_none_or(|(_, now, ..)| now != place);
                if attempts < ATTEMPTS && moved {
                    continue;
                }
                pass(shared, key, error)?;
                continue;
            }
        };
        let records = Batch::parse_trusted(bytes).and_then(|batch| batch.records(INFLATE_BYTES_MAX));
        let records = records.map_err(|error| Refused::new(Code::CorruptBatch, error.to_string()))?;
        let found = records.iter().find_map(|(offset, record)| {
            let timestamp_ms = record.timestamp_ms.saturating_add(shift_ms(&marks, offset.0));
            let is_it = offset.0 >= log_start && timestamp_ms >= request.timestamp_ms;
            is_it.then_some(TimePoint {
                offset: *offset,
                timestamp_ms,
            })
        });
        if found.is_some() {
            return Ok(found);
        }
        // The record that it was found for is before the log start, or was compacted away.
        from = place.offset_next();
    }
    Ok(None)
}
