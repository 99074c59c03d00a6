//! The quota: one bound for everything in the data directory. Shortly before it is reached the oldest batches of the topics with the
//! lowest priority go, whatever their retention says, and a marker says which (`loss`). Topics with `shed = refuse` keep what they
//! have and refuse new records instead, once it is their turn.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use crate::config::{Quota, Shed};
use crate::model::{Code, Now};

use super::desk::Desk;
use super::layout::PartitionKey;
use super::loss::LossReason;
use super::partition::Indexed;
use super::retention::{Due, forwarded};
use super::shared::Shared;
use super::state::State;
use super::usage::Usage;
use super::{Refused, TopicSettings};

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
    /// Of `Due::passes`, at the last look.
    passes: u64,
    /// Measured before this flush, the data files still hold what is past.
    counts_from: u64,
    /// By the newest measurements, each with its flush: bytes that the data files took beyond those of batches.
    beyond: VecDeque<(u64, u64)>,
}

/// Measurements that are remembered.
const BEYOND_KEPT: usize = 8;

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
            passes: 0,
            counts_from: 0,
            beyond: VecDeque::new(),
        }
    }

    pub(super) fn pressure(&self) -> Pressure {
        self.pressure
    }

    /// What is let free below the quota: so much may come between two looks, and deleting needs some.
    fn step(&self) -> u64 {
        (self.limit / 64).clamp(1 << 20, 16 << 20)
    }

    /// A commit adds so many bytes of batches.
    pub(super) fn grow(&mut self, bytes: u64) {
        self.grown += bytes;
    }

    /// Whether so much came since the last look that the next is due.
    pub(super) fn asks(&self) -> bool {
        self.grown >= self.step() / 4
    }

    /// The bytes that count: those of the index as they are, those of batches as they will be once everything past is removed.
    fn used(&mut self, shared: &Shared, due: &Due) -> u64 {
        let (usage, flushes_begun) = shared.usage();
        let held = shared.read_state().held_bytes();
        self.limit = self.quota.bytes(usage.disk_bytes);
        if due.has_garbage() || due.passes() != self.passes {
            self.passes = due.passes();
            // A flush that began before the newest removal was durable does not free its space, nor may the next one.
            self.counts_from = flushes_begun + 2;
        }
        let beyond = self.beyond(&usage, held);
        let bodies = match usage.flush >= self.counts_from {
            true => held.max(usage.body_bytes),
            false => held + beyond,
        };
        let used = usage.index_bytes + bodies;
        let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        shared.metrics.log.used_bytes.set(gauge(used));
        shared.metrics.log.quota_bytes.set(gauge(self.limit));
        used
    }

    /// What the data files take beyond batches whatever is removed: blocks between what is past and what is not. A busy broker has always
    /// something past that is not removed yet, but not always much: so it is the smallest of the newest measurements.
    fn beyond(&mut self, usage: &Usage, held: u64) -> u64 {
        if self.beyond.back().is_none_or(|(flush, _)| *flush != usage.flush) {
            self.beyond
                .push_back((usage.flush, usage.body_bytes.saturating_sub(held)));
        }
        if self.beyond.len() > BEYOND_KEPT {
            self.beyond.pop_front();
        }
        self.beyond.iter().map(|(_, bytes)| *bytes).min().unwrap_or(0)
    }

    fn is_near(&self, used: u64) -> bool {
        used.saturating_add(self.step()) > self.limit
    }
}

impl Desk {
    /// Sheds what the quota asks for.
    pub(super) fn keep_the_quota(&mut self, now: Now) {
        let shared = Arc::clone(&self.shared);
        self.keep.grown = 0;
        let mut used = self.keep.used(&shared, &self.due);
        if self.keep.is_near(used) {
            // Retention first: what is past anyway is no loss.
            self.expire(now);
            used = self.keep.used(&shared, &self.due);
        }
        let (limit, step, before) = (self.keep.limit, self.keep.step(), self.keep.pressure);
        let pressure = if self.keep.is_near(used) {
            let wanted = used.saturating_add(2 * step).saturating_sub(limit);
            let (freed, highest) = self.shed(wanted, now);
            Pressure {
                refuses_below: highest.max(before.refuses_below),
                exhausted: self.keep.is_near(used.saturating_sub(freed)),
                limit,
            }
        } else if used.saturating_add(3 * step) < limit {
            Pressure::default()
        } else {
            Pressure {
                exhausted: false,
                ..before
            }
        };
        self.enter_pressure(&shared, pressure);
    }

    fn enter_pressure(&mut self, shared: &Shared, pressure: Pressure) {
        if pressure == self.keep.pressure {
            return;
        }
        self.keep.pressure = pressure;
        let limit = pressure.limit;
        let what = match pressure {
            none if none == Pressure::default() => {
                tracing::info!("the storage quota has room again");
                return shared.metrics.health.restore("quota");
            }
            Pressure { exhausted: true, .. } => {
                "nothing is left to shed, so records are refused. Try: a larger storage.quota"
            }
            _ => "the oldest records of the lowest priority go. Try: a larger storage.quota, or a shorter retention",
        };
        tracing::warn!(quota = limit, "the storage quota is reached: {what}");
        let line = format!("the storage quota of {limit} bytes is reached: {what}");
        shared.metrics.health.degrade("quota", line);
    }

    /// Gives up batches of so many bytes: by priority, then what need not be held, then by age. Gives how many bytes went, and a priority: refusing topics below
    /// it had nothing beside them that could have gone in their place.
    fn shed(&mut self, wanted: u64, now: Now) -> (u64, u8) {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.write_state();
        let floors = shared.floors();
        let mut heap = BinaryHeap::new();
        for topic in state.topics.values() {
            let settings = &topic.info.settings;
            if settings.shed == Shed::Refuse {
                continue;
            }
            let floor_of = floors.of_topic(&topic.info);
            for (partition, log) in (0..).zip(&topic.partitions) {
                if let Some(first) = log.index.front() {
                    let topic = topic.key;
                    let (key, floor) = (PartitionKey { topic, partition }, floor_of(partition));
                    let is_held = first.offset_next() > floor;
                    heap.push(Reverse((settings.priority, is_held, first.append_ms, key, floor)));
                }
            }
        }
        drop(floors);
        let (mut freed, mut highest, mut gone) = (0, 0, BTreeMap::new());
        while freed < wanted
            && let Some(Reverse((priority, _, _, key, floor))) = heap.pop()
        {
            let first = |state: &State| state.partition(key).and_then(|log| log.index.front().copied());
            let Some(batch) = first(&state) else { continue };
            let log_start = state.partition(key).map_or(0, |log| log.log_start);
            let past = self.due.pass(&mut state, key, batch.offset_next());
            freed += u64::from(batch.bytes);
            highest = priority;
            let (.., batches) = gone.entry(key).or_insert((log_start, floor, Vec::new()));
            batches.extend(past);
            if let Some(next) = first(&state) {
                let is_held = next.offset_next() > floor;
                heap.push(Reverse((priority, is_held, next.append_ms, key, floor)));
            }
        }
        if freed < wanted {
            highest = ALL_PRIORITIES;
        }
        let (mut records, mut bytes) = (0, 0);
        for (key, (log_start, floor, past)) in gone {
            let start = past.last().map_or(log_start, Indexed::offset_next);
            self.due.start(key, start);
            let (free, held) = past.split_at(forwarded(&past, floor));
            for (past, reason) in [(free, LossReason::Quota), (held, LossReason::QuotaUnforwarded)] {
                let lost = self.due.lose(&mut state, (key, log_start), past, now, reason);
                let Some(loss) = lost else { continue };
                records += loss.records();
                bytes += loss.bytes;
                if reason.is_unforwarded() {
                    shared.metrics.log.unforwarded_records.inc_by(loss.records());
                }
            }
        }
        shared.metrics.log.shed(records, bytes);
        (freed, highest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_files_take_beyond_batches_is_the_smallest_of_the_newest_measurements() {
        let mut keep = Keep::new(Quota::Bytes(1 << 30));
        let mut beyond = |flush, body_bytes, held| {
            let usage = Usage {
                flush,
                body_bytes,
                ..Usage::default()
            };
            keep.beyond(&usage, held)
        };
        assert_eq!(beyond(1, 100, 70), 30);
        assert_eq!(beyond(2, 100, 95), 5);
        // Not measured anew: what came or went since says nothing.
        assert_eq!(beyond(2, 100, 100), 5);
        for flush in 3..10 {
            assert_eq!(beyond(flush, 140, 100), 5, "{flush}");
        }
        assert_eq!(
            beyond(10, 140, 100),
            40,
            "it stays: nothing that is removed gives it back"
        );
        assert_eq!(beyond(11, 100, 120), 0);
    }
}
