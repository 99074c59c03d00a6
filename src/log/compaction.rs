//! Log compaction: in a topic with `cleanup.policy=compact` only the last record of each key stays. One thread, beside the writer,
//! takes the dirtiest partition that is due, reads what is new in it into a map of keys, and goes over the partition from its log
//! start. What changes is written anew in pieces of bounded size, each one commit of the writer (`swap`), so that no ack waits
//! longer than for one commit; a crash between two pieces costs the work of a pass, never a record. Source:
//! `org.apache.kafka.storage.internals.log.LogCleaner` and `LogCleanerManager`, with a batch in the place of a segment.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;

use crate::model::Now;
use crate::model::batch::{Batch, BatchError, Retained};
use crate::model::compression::Inflater;

use super::admin::Admin;
use super::clean::{KeyMap, Moment, clean};
use super::layout::{BatchEntry, PartitionKey};
use super::moving::Mover;
use super::partition::{Home, Indexed, PartitionLog};
use super::queue::Item;
use super::reader::{Missing, stored};
use super::swap::{Swap, Swapped};
use super::ticket::ticket;
use super::topic::CompactionSettings;
use super::{Log, Refused};

/// Between two looks at all partitions.
const LOOK: Duration = Duration::from_secs(5);
/// Bytes of batches that one commit writes anew, one batch at least: it fits the ring, and other commits wait for no more.
const PIECE_BYTES: usize = 256 << 10;
/// So many segments that lie side by side in a piece are made one, also where nothing of them goes.
const SEGMENTS_MANY: usize = 8;
/// Keys that one pass remembers: about 3 MiB. With more of them a pass takes a part of what is new, and the next one goes on.
const KEYS_MAX: usize = 7 << 14;
/// How often batches are looked for that move while they are read.
const ATTEMPTS: u32 = 8;
/// How often a piece that met a flush comes again.
const SWAP_ATTEMPTS: u32 = 64;
/// Memory for decompressed records that is kept between passes.
const INFLATER_BYTES_KEPT: usize = 1 << 20;
/// How much lower the priority of the thread is.
const NICE: i32 = 10;

/// Cleans; `net` runs it on a thread of its own.
pub struct Cleaner {
    log: Log,
    inflater: Inflater,
    keys_max: usize,
    piece_bytes: usize,
    /// Partitions with a batch that does not open: they are left alone until it is past.
    uncleanable: BTreeMap<PartitionKey, u64>,
}

/// Where the cleaner rests.
#[derive(Default)]
pub(super) struct Rest {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Rest {
    pub(super) fn stop(&self) {
        *self.lock() = true;
        self.changed.notify_all();
    }

    fn is_over(&self) -> bool {
        *self.lock()
    }

    /// False once it was stopped.
    fn rest(&self) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), LOOK, |stopped| !*stopped);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What there is to clean of a partition.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Dirt {
    /// Offset of the first batch that no pass has seen.
    from: u64,
    /// Offset of the first batch that is to stay as it is.
    pub(super) until: u64,
    /// The part that no pass has seen of all that one may, by bytes.
    pub(super) ratio: f64,
    /// It waits for longer than it may.
    overdue: bool,
}

impl Dirt {
    fn is_due(&self, settings: &CompactionSettings) -> bool {
        self.until > self.from && (self.overdue || self.ratio > settings.dirty_ratio_min)
    }
}

impl PartitionLog {
    /// What there is to clean. The newest batch stays as it is, so that the end of the log is known by it.
    pub(super) fn dirt(&self, settings: &CompactionSettings, now: Now) -> Dirt {
        let first = self
            .index
            .partition_point(|batch| batch.offset_next() <= self.compacted_until);
        let age_ms = |batch: &Indexed| now.wall_ms.saturating_sub(self.dated_ms(batch, now)).max(0) as u64;
        let all_but_newest = self.index.len().saturating_sub(1);
        let mut dirt = Dirt {
            from: self.compacted_until.max(self.log_start),
            until: self.compacted_until,
            ratio: 0.0,
            overdue: false,
        };
        let (mut new, mut bytes) = (0, 0);
        for batch in self.index.range(first.min(all_but_newest)..all_but_newest) {
            if settings.lag_ms_min > 0 && age_ms(batch) < settings.lag_ms_min {
                break;
            }
            dirt.overdue |= age_ms(batch) > settings.lag_ms_max;
            dirt.until = batch.offset_next();
            new += u64::from(batch.bytes);
        }
        for batch in self.index.range(first..) {
            bytes += u64::from(batch.bytes);
        }
        let seen = self.bytes - bytes;
        if new > 0 {
            dirt.ratio = new as f64 / (seen + new) as f64;
        }
        dirt
    }

    /// The batches from an offset on that are to be looked at together: up to `bytes_max`, one at least, and of each segment all.
    /// From `until` on none leaves the journal.
    fn neighbours(&self, from: u64, until: u64, bytes_max: usize) -> Vec<Indexed> {
        let first = self.index.partition_point(|batch| batch.offset_next() <= from);
        let (mut found, mut bytes): (Vec<Indexed>, usize) = (Vec::new(), 0);
        for batch in self.index.range(first..) {
            if batch.base_offset >= until && segment_of(batch).is_none() {
                break;
            }
            bytes += batch.bytes as usize;
            if let Some(last) = found.last() {
                let one_row = segment_of(last).is_some_and(|row| segment_of(batch) == Some(row));
                let base_offset = found.first().map_or(0, |first| first.base_offset);
                // The head of a segment has room for such a distance.
                let near = batch.base_offset - base_offset <= u64::from(u32::MAX);
                if !one_row && (bytes > bytes_max || !near) {
                    break;
                }
            }
            found.push(*batch);
        }
        found
    }
}

/// The key of the segment that a batch lies in.
pub(super) fn segment_of(batch: &Indexed) -> Option<u64> {
    match batch.home.into() {
        Home::Segment { base_offset, .. } => Some(base_offset),
        Home::Journal(_) => None,
    }
}

/// Why a pass ends before its time.
enum Halt {
    /// Somebody else changed the partition, or the writer takes no commit now. The next look begins anew.
    Elsewhere(String),
    /// This batch does not open.
    Unreadable(u64, String),
}

impl From<Refused> for Halt {
    fn from(refused: Refused) -> Self {
        Self::Elsewhere(refused.why)
    }
}

/// A pass over a partition.
struct Pass {
    key: PartitionKey,
    moment: Moment,
    keys: KeyMap,
}

impl Cleaner {
    pub(super) fn new(log: Log) -> Self {
        Self {
            log,
            inflater: Inflater::default(),
            keys_max: KEYS_MAX,
            piece_bytes: PIECE_BYTES,
            uncleanable: BTreeMap::new(),
        }
    }

    /// Remembers fewer keys, and writes smaller pieces.
    #[cfg(test)]
    pub(super) fn within(log: Log, keys_max: usize, piece_bytes: usize) -> Self {
        Self {
            keys_max,
            piece_bytes,
            ..Self::new(log)
        }
    }

    /// Cleans the first piece of what is due, but another is quicker with what it does; whether the piece was put in place.
    #[cfg(test)]
    pub(super) fn clean_but(&mut self, now: Now, quicker: impl FnOnce()) -> bool {
        let (Some((key, dirt, settings)), _) = self.dirtiest(&[], now) else {
            panic!("nothing is due");
        };
        let mut pass = self.begin(key, &dirt, &settings, now);
        assert!(self.learn(&mut pass, &dirt).is_ok());
        let Ok(Some(swap)) = self.piece(&pass, 0) else {
            panic!("there is a piece");
        };
        assert!(swap.changes);
        quicker();
        self.swap(swap).is_ok()
    }

    /// Runs until `Log::stop`.
    pub fn run(mut self) {
        // Of this thread alone, as of the one that flushes.
        if let Err(error) = rustix::process::nice(NICE) {
            tracing::debug!(%error, "the cleaner keeps its priority");
        }
        let shared = Arc::clone(&self.log.shared);
        while shared.rest.rest() {
            self.clean_what_is_due(shared.now());
        }
    }

    /// Cleans each partition that is due, the dirtiest first, in one pass or, where its keys do not fit, in several.
    pub(super) fn clean_what_is_due(&mut self, now: Now) {
        let metrics = Arc::clone(&self.log.shared.metrics);
        let mut left_alone = Vec::new();
        loop {
            let (next, ratio) = self.dirtiest(&left_alone, now);
            metrics.log.dirty_ratio.set(ratio);
            metrics.log.uncleanable.set(self.uncleanable.len() as i64);
            let Some((key, dirt, settings)) = next else { break };
            match self.pass(key, &dirt, &settings, now) {
                Ok(()) => metrics.log.compacted(now.wall_ms),
                Err(Halt::Elsewhere(why)) => {
                    tracing::debug!(why, "a pass of compaction ends early");
                    left_alone.push(key);
                }
                Err(Halt::Unreadable(offset, why)) => {
                    let topic = self.log.shared.read_state().names.get(&key.topic).cloned();
                    let topic = topic.map_or_else(String::new, |topic| topic.to_string());
                    let partition = key.partition;
                    tracing::error!(
                        topic,
                        partition,
                        offset,
                        why,
                        "a batch does not open, so its partition is compacted no further until it is past"
                    );
                    self.uncleanable.insert(key, offset);
                }
            }
            self.inflater.trim(INFLATER_BYTES_KEPT);
            if self.log.shared.rest.is_over() {
                break;
            }
        }
    }

    /// The partition to clean next, and the largest dirty ratio of all.
    fn dirtiest(
        &mut self,
        left_alone: &[PartitionKey],
        now: Now,
    ) -> (Option<(PartitionKey, Dirt, CompactionSettings)>, f64) {
        let state = self.log.shared.read_state();
        let still_there = |log: &PartitionLog, offset| log.log_start <= offset;
        self.uncleanable
            .retain(|key, offset| state.partition(*key).is_some_and(|log| still_there(log, *offset)));
        let mut most = 0.0_f64;
        let mut next: Option<(PartitionKey, Dirt, &CompactionSettings)> = None;
        for topic in state.topics.values().filter(|topic| topic.info.settings.is_compacted()) {
            let settings = &topic.info.settings.compaction;
            for (partition, log) in (0..).zip(&topic.partitions) {
                let topic = topic.key;
                let key = PartitionKey { topic, partition };
                let dirt = log.dirt(settings, now);
                most = most.max(dirt.ratio);
                if !dirt.is_due(settings) || left_alone.contains(&key) || self.uncleanable.contains_key(&key) {
                    continue;
                }
                let rank = |dirt: &Dirt| (dirt.overdue, dirt.ratio);
                if next.as_ref().is_none_or(|(_, other, _)| rank(&dirt) > rank(other)) {
                    next = Some((key, dirt, settings));
                }
            }
        }
        (next.map(|(key, dirt, settings)| (key, dirt, settings.clone())), most)
    }

    fn begin(&self, key: PartitionKey, dirt: &Dirt, settings: &CompactionSettings, now: Now) -> Pass {
        Pass {
            key,
            moment: Moment {
                now_ms: now.wall_ms,
                delete_retention_ms: settings.delete_retention_ms,
            },
            keys: KeyMap::new(dirt.from, self.keys_max),
        }
    }

    fn pass(&mut self, key: PartitionKey, dirt: &Dirt, settings: &CompactionSettings, now: Now) -> Result<(), Halt> {
        let mut pass = self.begin(key, dirt, settings, now);
        self.learn(&mut pass, dirt)?;
        let mut from = 0;
        while from < pass.keys.until() {
            if self.log.shared.rest.is_over() {
                return Err(Halt::Elsewhere("the log is stopping".into()));
            }
            let Some(swap) = self.piece(&pass, from)? else { break };
            from = swap.offset_next();
            if swap.changes {
                self.swap(swap)?;
            }
        }
        // Nothing of it is lost without: a pass that began anew would find nothing to do.
        self.swap(Swap::done(key, pass.keys.until()))
    }

    /// Reads the keys of what no pass has seen.
    fn learn(&mut self, pass: &mut Pass, dirt: &Dirt) -> Result<(), Halt> {
        let mut from = dirt.from;
        while from < dirt.until {
            let found = self.read(pass.key, |log| log.places(from, self.piece_bytes))?;
            let Some((last, _)) = found.last() else { break };
            from = last.offset_next();
            for (place, batch) in found {
                if place.base_offset >= dirt.until {
                    return Ok(());
                }
                let added = pass.keys.add(&batch, &mut self.inflater);
                if !added.map_err(unreadable(place.base_offset))? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// What becomes of the next batches; `None` when there are no more.
    fn piece(&mut self, pass: &Pass, from: u64) -> Result<Option<Swap>, Halt> {
        let until = pass.keys.until();
        let found = self.read(pass.key, |log| log.neighbours(from, until, self.piece_bytes))?;
        let Some((last, _)) = found.last() else {
            return Ok(None);
        };
        let mut swap = Swap::new(pass.key, last.offset_next());
        let mut segments = 0;
        let mut row = None;
        for (place, batch) in found {
            let is_segment = segment_of(&place);
            segments += usize::from(is_segment.is_some() && is_segment != row);
            row = is_segment;
            let beyond = place.base_offset >= until;
            let retained = match beyond {
                true => Ok(Retained::Whole),
                false => clean(&batch, &pass.keys, pass.moment, &mut self.inflater),
            };
            let records = batch.header().records_count.unsigned_abs();
            // What lies in the journal moves, so that its rows can go and what is clean is known by an offset.
            swap.changes |= is_segment.is_none();
            match retained.map_err(unreadable(place.base_offset))? {
                Retained::Whole => swap.keep(&place, batch),
                Retained::Nothing => swap.drop(records, place.bytes),
                Retained::Part(bytes, kept) => {
                    let parsed = Batch::parse_trusted(Bytes::from(bytes));
                    let less = place
                        .bytes
                        .saturating_sub(parsed.as_ref().map_or(0, |b| b.bytes().len() as u32));
                    swap.drop(records - kept, less);
                    swap.keep(&place, parsed.map_err(unreadable(place.base_offset))?);
                }
            }
            swap.old.push(place);
        }
        swap.changes |= segments >= SEGMENTS_MANY;
        Ok(Some(swap))
    }

    /// Reads batches, which others may move meanwhile.
    fn read(
        &self,
        key: PartitionKey,
        places: impl Fn(&PartitionLog) -> Vec<Indexed>,
    ) -> Result<Vec<(Indexed, Batch)>, Halt> {
        let shared = &self.log.shared;
        let look = || shared.read_state().partition(key).map(&places);
        let mut attempts = 0;
        loop {
            attempts += 1;
            let Some(found) = look() else {
                return Err(Halt::Elsewhere("the topic is gone".into()));
            };
            let mut trouble = None;
            let read = found.iter().map(|place| match stored(shared, key, place) {
                Ok(bytes) => Batch::parse_trusted(bytes)
                    .map(|batch| (*place, batch))
                    .map_err(|e| Halt::Unreadable(place.base_offset, e.to_string())),
                Err(Missing::Batch(_, why)) => Err(Halt::Unreadable(place.base_offset, why)),
                Err(Missing::Now(_, why)) => Err(Halt::Elsewhere(why)),
                Err(Missing::Store(error)) => Err(Halt::Elsewhere(error.to_string())),
            });
            let read: Vec<_> = read
                .map_while(|batch| match batch {
                    Ok(batch) => Some(batch),
                    Err(halt) => {
                        trouble = Some(halt);
                        None
                    }
                })
                .collect();
            match trouble {
                None => return Ok(read),
                Some(Halt::Unreadable(..)) if attempts < ATTEMPTS && look().as_ref() != Some(&found) => {}
                Some(halt) => return Err(halt),
            }
        }
    }

    /// Has the writer put it in place.
    fn swap(&self, swap: Swap) -> Result<(), Halt> {
        let swap = Arc::new(swap);
        for _ in 0..SWAP_ATTEMPTS {
            let (promise, ticket) = ticket(Waker::noop());
            let item = Admin::Swap(Arc::clone(&swap), promise);
            self.log.push(Item::Admin(item));
            match ticket.wait()? {
                Swapped::Done => return Ok(()),
                Swapped::Changed => return Err(Halt::Elsewhere("the partition changed".into())),
                Swapped::Later => self.log.shared.moving.wait_for(Mover::Seal),
            }
        }
        Err(Halt::Elsewhere("flushes leave no room between them".into()))
    }
}

fn unreadable(offset: u64) -> impl Fn(BatchError) -> Halt {
    move |error| Halt::Unreadable(offset, error.to_string())
}

/// What the index says of a batch, for a row that it moves to. Whatever it was, it is not packed anew.
pub(super) fn entry(partition: PartitionKey, place: &Indexed, batch: &Batch) -> BatchEntry {
    let header = batch.header();
    BatchEntry {
        partition,
        base_offset: place.base_offset,
        records: place.records,
        bytes: batch.bytes().len() as u32,
        packed: false,
        max_timestamp: header.max_timestamp,
        append_ms: place.append_ms,
        leader_epoch: header.partition_leader_epoch,
    }
}
