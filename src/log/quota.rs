//! The quota: one bound for everything in the data directory. Shortly before it is reached the oldest batches of the topics with the
//! lowest priority go, whatever their retention says, and a marker says which (`loss`). Topics with `shed = refuse` keep what they
//! have and refuse new records instead, once it is their turn.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::config::{Quota, Shed};
use crate::model::{Code, Now};

use super::desk::Desk;
use super::layout::PartitionKey;
use super::loss::Loss;
use super::shared::Shared;
use super::usage::Usage;
use super::{Refused, TopicSettings};

/// A share of a smaller file system is at least this: below it the store's own files leave no room for records.
const LEAST_BYTES: u64 = 64 << 20;
/// One above every priority.
const ALL_PRIORITIES: u8 = 10;

/// The bound and what it does.
#[derive(Debug)]
pub(super) struct Keep {
    quota: Quota,
    pressure: Pressure,
    /// Bytes of batches since the last look.
    grown: u64,
    limit: u64,
    /// Something past is not removed yet, or its space is not free yet: the newest flush that had begun when all was removed.
    freeing: Option<Option<u64>>,
}

/// Who is refused while the quota is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pressure {
    /// Topics that refuse and whose priority is lower.
    refuses_below: u8,
    /// Nothing is left to shed.
    exhausted: bool,
    limit: u64,
}

impl Pressure {
    /// Whether a topic takes no records now.
    pub(super) fn check(&self, topic: &str, settings: &TopicSettings) -> Result<(), Refused> {
        let its_turn = settings.shed == Shed::Refuse && settings.priority < self.refuses_below;
        if !self.exhausted && !its_turn {
            return Ok(());
        }
        let why = match settings.shed {
            Shed::Refuse => "it keeps what it has (shed = refuse)",
            Shed::Oldest => "nothing is left to shed",
        };
        let limit = self.limit;
        let why = format!(
            "topic {topic}: the storage quota of {limit} bytes is reached, and {why}. Try: a larger storage.quota, or a shorter retention"
        );
        Err(Refused::new(Code::Quota, why))
    }
}

impl Keep {
    pub(super) fn new(quota: Quota) -> Self {
        Self {
            quota,
            pressure: Pressure::default(),
            grown: 0,
            limit: 0,
            freeing: None,
        }
    }

    pub(super) fn pressure(&self) -> Pressure {
        self.pressure
    }

    /// What is let free below the quota: so much may come between two looks, and deleting needs some.
    fn step(&self) -> u64 {
        (self.limit / 64).clamp(1 << 20, 16 << 20)
    }

    /// A commit adds so many bytes of batches. True when that asks for a look.
    pub(super) fn grow(&mut self, bytes: u64) -> bool {
        self.grown += bytes;
        self.grown >= self.step() / 4
    }

    /// Batches are past: until they are removed and their space is free, the blocks of the data files say too much.
    pub(super) fn frees(&mut self) {
        self.freeing = Some(None);
    }

    /// The bytes that count: those of the index as they are, those of batches as they will be once everything past is removed.
    fn used(&mut self, usage: Usage, held: u64, has_garbage: bool, flushes_begun: u64) -> u64 {
        match self.freeing {
            Some(None) if !has_garbage => self.freeing = Some(Some(flushes_begun)),
            // One that began before the newest removals were durable does not count, nor the one that may have.
            Some(Some(begun)) if usage.flush > begun + 1 => self.freeing = None,
            _ => {}
        }
        let bodies = match self.freeing {
            None => held.max(usage.body_bytes),
            Some(_) => held,
        };
        usage.index_bytes + bodies
    }
}

impl Desk {
    /// Sheds what the quota asks for.
    pub(super) fn keep_the_quota(&mut self, now: Now) {
        let shared = std::sync::Arc::clone(&self.shared);
        let (usage, flushes_begun) = shared.usage();
        let held = shared.read_state().held_bytes();
        let has_garbage = self.due.has_garbage();
        let keep = &mut self.keep;
        keep.grown = 0;
        keep.limit = match keep.quota {
            Quota::Bytes(bytes) => bytes,
            Quota::Share(percent) if usage.disk_bytes > 0 => {
                (usage.disk_bytes / 100 * u64::from(percent)).max(LEAST_BYTES)
            }
            Quota::Share(_) => u64::MAX,
        };
        let (limit, step) = (keep.limit, keep.step());
        let used = keep.used(usage, held, has_garbage, flushes_begun);
        let gauges = &shared.metrics.log;
        gauges.used_bytes.set(i64::try_from(used).unwrap_or(i64::MAX));
        gauges.quota_bytes.set(i64::try_from(limit).unwrap_or(i64::MAX));
        if used.saturating_add(3 * step) < limit {
            if std::mem::take(&mut keep.pressure) != Pressure::default() {
                tracing::info!(used, quota = limit, "the storage quota has room again");
                shared.metrics.health.restore("quota");
            }
            return;
        }
        if used.saturating_add(step) <= limit {
            keep.pressure.exhausted = false;
            return;
        }
        let wanted = used.saturating_add(2 * step).saturating_sub(limit);
        let (freed, highest) = self.shed(wanted, now);
        let pressure = Pressure {
            refuses_below: highest.max(self.keep.pressure.refuses_below),
            exhausted: used.saturating_sub(freed).saturating_add(step) > limit,
            limit,
        };
        self.enter_pressure(&shared, pressure);
    }

    fn enter_pressure(&mut self, shared: &Shared, pressure: Pressure) {
        if pressure == self.keep.pressure {
            return;
        }
        let limit = pressure.limit;
        let what = match pressure {
            Pressure { exhausted: true, .. } => {
                "nothing is left to shed, so records are refused. Try: a larger storage.quota"
            }
            _ => "the oldest records of the lowest priority go. Try: a larger storage.quota, or a shorter retention",
        };
        tracing::warn!(quota = limit, "the storage quota is reached: {what}");
        let line = format!("the storage quota of {limit} bytes is reached: {what}");
        shared.metrics.health.degrade("quota", line);
        self.keep.pressure = pressure;
    }

    /// Gives up batches of so many bytes: by priority, then by age. Gives how many bytes went, and a priority: refusing topics below
    /// it had nothing beside them that could have gone in their place.
    fn shed(&mut self, wanted: u64, now: Now) -> (u64, u8) {
        let shared = std::sync::Arc::clone(&self.shared);
        let mut state = shared.write_state();
        let mut heap = BinaryHeap::new();
        for topic in state.topics.values() {
            let settings = &topic.info.settings;
            if settings.shed == Shed::Refuse {
                continue;
            }
            for (partition, log) in (0..).zip(&topic.partitions) {
                if let Some(first) = log.index.front() {
                    let topic = topic.key;
                    let key = PartitionKey { topic, partition };
                    heap.push(Reverse((settings.priority, first.append_ms, key, 0_usize)));
                }
            }
        }
        let (mut freed, mut highest, mut starts) = (0, 0, std::collections::BTreeMap::new());
        while freed < wanted
            && let Some(Reverse((priority, _, key, at))) = heap.pop()
        {
            let log = state.partition(key);
            let Some(batch) = log.and_then(|log| log.index.get(at)) else {
                continue;
            };
            freed += u64::from(batch.bytes);
            highest = priority;
            starts.insert(key, batch.offset_next());
            if let Some(next) = log.and_then(|log| log.index.get(at + 1)) {
                heap.push(Reverse((priority, next.append_ms, key, at + 1)));
            }
        }
        if freed < wanted {
            highest = ALL_PRIORITIES;
        }
        let (mut records, mut bytes) = (0, 0);
        for (key, start) in starts {
            let Some(log) = state.partition_mut(key) else { continue };
            let log_start = log.log_start;
            let past = log.advance(start);
            if let Some(loss) = Loss::of(&past, log_start, now.wall_ms) {
                records += loss.records();
                bytes += loss.bytes;
                let marker = log.lose(loss);
                self.due.lose(key, marker);
            }
            let garbage: Vec<_> = past.iter().filter_map(|batch| state.release(key, batch)).collect();
            self.due.add(garbage);
            self.due.start(key, start);
        }
        drop(state);
        self.due.count_past(bytes);
        self.keep.frees();
        shared.metrics.log.shed(records, bytes);
        (freed, highest)
    }
}
