//! The quota: one bound for everything in the data directory. Shortly before it is reached the oldest batches of the topics with the
//! lowest priority go, whatever their retention says, and a marker says which (`loss`). Topics with `shed = refuse` keep what they
//! have and refuse new records instead, once it is their turn.

//!
//! What is to go is told by an *estimate* of what the files will take once everything past is given back, so that nothing goes twice for
//! the same space. What the files take meanwhile has a *bound*: the newest measurement and all that was committed since its flush
//! began. When that is near the quota, flushes do not keep up: the writer waits until everything past is given back, and measures.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use crate::config::{Quota, Shed};
use crate::model::{Code, Now};

use super::desk::Desk;
use super::layout::PartitionKey;
use super::loss::LossReason;
use super::partition::Indexed;
use super::retention::forwarded;
use super::shared::Shared;
use super::state::State;
use super::ticket::Wakes;
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
    /// By the estimate too little is left that could go: it is to be measured.
    doubted: bool,
    measured: VecDeque<Measured>,
}

/// What a measurement of the files told.
#[derive(Clone, Copy, Debug)]
struct Measured {
    /// Number of its flush.
    flush: u64,
    /// Bytes that the data files took beyond those of batches.
    beyond: u64,
    /// Most that had come since that flush began when it was looked at.
    came: u64,
}

/// Measurements that are remembered.
const MEASURED_KEPT: usize = 8;

/// Most times in a row that the writer gives back, measures and sheds.
const ROUNDS: usize = 4;

/// By a quota: a flush is due when the database does not name yet so many bytes of bodies that commits wrote themselves. An opening has
/// to read them all, and the space of what went for them is given back by the flush.
pub(super) fn unnamed_bytes(quota_bytes: u64) -> u64 {
    (quota_bytes / 32).clamp(256 << 10, 16 << 20)
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
            doubted: false,
            measured: VecDeque::new(),
        }
    }

    pub(super) fn pressure(&self) -> Pressure {
        self.pressure
    }

    /// So much may come between two looks.
    fn step(&self) -> u64 {
        (self.limit / 64).clamp(1 << 20, 16 << 20)
    }

    /// What is let free below the quota: deleting needs some, and what goes is given back two flushes later at the latest, as long as
    /// they keep up. How much comes meanwhile, and so has to go, was seen.
    fn headroom(&self) -> u64 {
        let came = self.measured.iter().map(|measured| measured.came).max();
        let most = (self.limit / 8).max(unnamed_bytes(self.limit));
        self.step() + 2 * came.unwrap_or(0).clamp(unnamed_bytes(self.limit), most)
    }

    /// Whether so much came since the last look that the next is due.
    pub(super) fn asks(&self) -> bool {
        self.grown >= self.step() / 4
    }

    /// The estimate: the bytes of the index as they are, those of batches as they will be once everything past is given back.
    fn estimate(&mut self, shared: &Shared) -> u64 {
        let usage = shared.usage();
        let held = shared.read_state().held_bytes();
        self.limit = self.quota.bytes(usage.disk_bytes);
        let bound = shared.usage_bound();
        self.measured(&usage, held, bound);
        let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        shared.metrics.log.used_bytes.set(gauge(bound));
        shared.metrics.log.quota_bytes.set(gauge(self.limit));
        usage.index_bytes + held + self.beyond()
    }

    /// Remembers a measurement.
    fn measured(&mut self, usage: &Usage, held: u64, bound: u64) {
        let flush = usage.flush.number;
        let came = bound.saturating_sub(usage.index_bytes + usage.body_bytes);
        match self.measured.back_mut() {
            Some(newest) if newest.flush == flush => newest.came = newest.came.max(came),
            _ => {
                let beyond = usage.body_bytes.saturating_sub(held);
                self.measured.push_back(Measured { flush, beyond, came });
            }
        }
        if self.measured.len() > MEASURED_KEPT {
            self.measured.pop_front();
        }
    }

    /// The next measurement tells what nothing gives back.
    fn forget_beyond(&mut self) {
        self.measured.iter_mut().for_each(|measured| measured.beyond = u64::MAX);
    }

    /// What the data files take beyond batches whatever is removed: blocks between what is past and what is not. A busy broker has always
    /// something past that is not removed yet, but not always much: so it is the smallest of the newest measurements.
    fn beyond(&self) -> u64 {
        self.measured.iter().map(|measured| measured.beyond).min().unwrap_or(0)
    }

    fn is_near(&self, used: u64) -> bool {
        used.saturating_add(self.headroom()) > self.limit
    }

    /// Bytes that are to go, so that the next look finds nothing near.
    fn wanted(&self, used: u64) -> u64 {
        used.saturating_add(self.headroom() + self.step())
            .saturating_sub(self.limit)
    }
}

impl Desk {
    /// A commit adds so many bytes of batches.
    pub(super) fn comes(&mut self, bytes: u64) {
        self.keep.grown += bytes;
        self.shared.take(bytes);
    }

    /// Sheds what the quota asks for.
    pub(super) fn keep_the_quota(&mut self, now: Now) {
        let shared = Arc::clone(&self.shared);
        self.keep.grown = 0;
        let mut used = self.keep.estimate(&shared);
        if self.keep.is_near(used) {
            // Retention first: what is past anyway is no loss.
            self.expire(now);
            used = self.keep.estimate(&shared);
        }
        let (limit, step, before) = (self.keep.limit, self.keep.step(), self.keep.pressure);
        let pressure = if self.keep.is_near(used) {
            let (freed, highest) = self.shed(self.keep.wanted(used), now);
            self.keep.doubted = self.keep.is_near(used.saturating_sub(freed));
            Pressure {
                refuses_below: highest.max(before.refuses_below),
                exhausted: before.exhausted && self.keep.doubted,
                limit,
            }
        } else if used.saturating_add(self.keep.headroom() + 2 * step) < limit {
            Pressure::default()
        } else {
            Pressure {
                exhausted: false,
                ..before
            }
        };
        self.enter_pressure(&shared, pressure);
    }

    /// Whether what is past must be given back before more is taken.
    pub(super) fn must_give_back(&self) -> bool {
        let keep = &self.keep;
        // Two commits may be on their way, and a third comes.
        let reached = || self.shared.usage_bound().saturating_add(2 * keep.step()) > keep.limit;
        keep.doubted || keep.limit > 0 && reached()
    }

    /// Gives back the space of everything past, and measures what is left; sheds by that if it is still too much. Nothing else is on its
    /// way to the disk.
    pub(super) fn give_back(&mut self, now: Now, wakes: &mut Wakes) {
        let shared = Arc::clone(&self.shared);
        let before_us = shared.clock_us();
        self.give_back_until_less(&shared, now, wakes);
        let took_us = shared.clock_us().saturating_sub(before_us);
        shared.metrics.log.give_back_seconds.observe(took_us as f64 / 1e6);
    }

    fn give_back_until_less(&mut self, shared: &Shared, now: Now, wakes: &mut Wakes) {
        self.keep.doubted = false;
        for _ in 0..ROUNDS {
            while self.due.has_garbage() {
                if !self.commit_alone(Vec::new(), now, wakes) || self.must_recover() {
                    // What the disk does not take is not given back either. The next turn goes on, or refuses.
                    return;
                }
            }
            let flush = shared.flush_begins();
            if shared.lend(|store| store.checkpoint()).is_err() {
                return;
            }
            shared.measure_usage(flush);
            // Of what nothing gives back no older measurement says more.
            self.keep.forget_beyond();
            let used = self.keep.estimate(shared);
            let left = match self.keep.is_near(used) {
                true => self.shed(self.keep.wanted(used), now).0 > 0,
                false => true,
            };
            if left == self.keep.pressure.exhausted {
                let pressure = Pressure {
                    exhausted: !left,
                    limit: self.keep.limit,
                    ..self.keep.pressure
                };
                self.enter_pressure(shared, pressure);
            }
            if !self.due.has_garbage() {
                return;
            }
        }
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
    use super::super::usage::Flush;
    use super::*;

    #[test]
    fn what_files_take_beyond_batches_is_the_smallest_of_the_newest_measurements() {
        let mut keep = Keep::new(Quota::Bytes(1 << 30));
        let mut beyond = |number, body_bytes, held| {
            let usage = Usage {
                flush: Flush { number, taken: 0 },
                body_bytes,
                ..Usage::default()
            };
            keep.measured(&usage, held, body_bytes);
            keep.beyond()
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

    #[test]
    fn the_more_comes_between_measurements_the_more_is_kept_free() {
        let mut keep = Keep::new(Quota::Bytes(64 << 20));
        keep.limit = 64 << 20;
        let mut headroom = |number, came| {
            let usage = Usage {
                flush: Flush { number, taken: 0 },
                ..Usage::default()
            };
            keep.measured(&usage, 0, came);
            keep.headroom() >> 20
        };
        assert_eq!(headroom(1, 1000), 1 + 2 * 2);
        assert_eq!(headroom(1, 3 << 20), 1 + 2 * 3);
        assert_eq!(headroom(1, 0), 1 + 2 * 3, "the most of a measurement counts");
        assert_eq!(headroom(2, 50 << 20), 1 + 2 * 8);
        for flush in 3..10 {
            assert_eq!(headroom(flush, 0), 1 + 2 * 8);
        }
        assert_eq!(headroom(10, 0), 1 + 2 * 2, "what was long ago does not");
    }
}
