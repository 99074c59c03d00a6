//! What is past goes: the log start offset of a partition moves batch by batch, by time and by size, and what no partition needs any
//! more is removed from the store, in bites that ride in commits of their own or of others, so that no ack waits long for them.

use std::collections::{HashMap, VecDeque};
use std::sync::PoisonError;

use crate::model::{Code, Now, Partition, Topic};

use super::Refused;
use super::TopicSettings;
use super::desk::{Desk, storage};
use super::layout::{Mark, PartitionKey, journal_key};
use super::load::Garbage;
use super::loss::{Loss, LossReason};
use super::partition::{Home, Indexed, PartitionLog};
use super::producers::{EXPIRY_MS, Producer};
use super::state::State;
use super::store::{Change, Map, Op, prefix_until};
use super::ticket::Wakes;

/// Between two looks at all partitions, microseconds.
const LOOK_US: u64 = 1_000_000;
/// Rows and segments that are removed with a commit that has nothing else to do.
const BITE: usize = 256;

/// The space of so many bytes is given back at once, also by a broker that has nothing else to write.
const FLUSH_BYTES: u64 = 4 << 20;

/// What is to be removed, and when to look again.
#[derive(Debug, Default)]
pub(super) struct Due {
    garbage: VecDeque<Garbage>,
    /// Log starts that moved since the last commit.
    starts: Vec<(PartitionKey, u64)>,
    /// Markers of what went with them before its time.
    losses: Vec<(PartitionKey, Loss)>,
    producers_gone: Vec<(PartitionKey, i64)>,
    /// Bytes of batches that became past since the space of such was last given back.
    past_bytes: u64,
    look_us: u64,
}

impl Due {
    pub(super) fn add(&mut self, garbage: impl IntoIterator<Item = Garbage>) {
        self.garbage.extend(garbage);
    }

    /// A log start moved.
    pub(super) fn start(&mut self, key: PartitionKey, log_start: u64) {
        self.starts.push((key, log_start));
    }

    /// A marker that is to be stored.
    pub(super) fn mark(&mut self, key: PartitionKey, marker: Loss) {
        self.losses.push((key, marker));
    }

    /// Batches went before their time: the marker is stored in the commit of their log start. Offsets before `log_start` had gone already.
    pub(super) fn lose(
        &mut self,
        state: &mut State,
        (key, log_start): (PartitionKey, u64),
        past: &[Indexed],
        now: Now,
        reason: LossReason,
    ) -> Option<Loss> {
        let loss = Loss::of(past, log_start, now.wall_ms, reason)?;
        let marker = state.partition_mut(key)?.lose(loss);
        self.losses.push((key, marker));
        Some(loss)
    }

    /// Moves a log start in memory. The batches that are past now go with commits to come; gives them.
    pub(super) fn pass(&mut self, state: &mut State, key: PartitionKey, log_start: u64) -> Vec<Indexed> {
        let past = state.partition_mut(key).map(|log| log.advance(log_start));
        let past = past.unwrap_or_default();
        let unmarked = state.partition_mut(key).map(PartitionLog::drop_marks);
        let unmarked = unmarked.into_iter().flatten();
        self.garbage
            .extend(unmarked.map(|first| Garbage::ClockMark(key, first)));
        self.take(state, key, &past);
        past
    }

    /// Batches that no partition has any more.
    fn take<'a>(&mut self, state: &mut State, key: PartitionKey, past: impl IntoIterator<Item = &'a Indexed>) {
        for batch in past {
            self.past_bytes += u64::from(batch.bytes);
            self.garbage.extend(state.release(key, batch));
        }
    }

    /// Others took the place of these batches: their segments are gone, and their journal rows go with the last batch in them.
    pub(super) fn supersede(&mut self, state: &mut State, key: PartitionKey, old: &[Indexed]) {
        for batch in old {
            self.past_bytes += u64::from(batch.bytes);
            if let Home::Journal(_) = batch.home.into() {
                self.garbage.extend(state.release(key, batch));
            }
        }
    }

    /// The next turn looks at everything.
    pub(super) fn look_now(&mut self) {
        self.look_us = 0;
    }

    /// A log start was moved durably already: an earlier one is not to be written over it.
    pub(super) fn was_cut(&mut self, partition: PartitionKey) {
        self.starts.retain(|(moved, _)| *moved != partition);
    }

    /// A producer that is in a commit is not gone, however long it was away.
    pub(super) fn are_back(&mut self, producers: &HashMap<(PartitionKey, i64), Producer>) {
        self.producers_gone.retain(|place| !producers.contains_key(place));
    }

    pub(super) fn has_garbage(&self) -> bool {
        !self.garbage.is_empty()
            || !self.starts.is_empty()
            || !self.losses.is_empty()
            || !self.producers_gone.is_empty()
    }

    /// Whether everything past is removed, and so much of it that its space is not to wait for a flush that has another reason.
    pub(super) fn pays_a_flush(&mut self) -> bool {
        let pays = self.garbage.is_empty() && self.past_bytes >= FLUSH_BYTES;
        if pays {
            self.past_bytes = 0;
        }
        pays
    }

    /// Moves the removal of a few things into a commit that adds so many rows and segments: of twice as many, so that what is past
    /// goes as quickly as it comes, and no commit grows by much. If it fails, the store is opened anew and tells again what is garbage.
    pub(super) fn bite(&mut self, added: usize, ops: &mut Vec<Op>) {
        let most = if ops.is_empty() { BITE } else { 2 * added.max(1) };
        for (key, log_start) in self.starts.drain(..) {
            ops.push(Mark::LogStart(key, log_start).op());
        }
        ops.extend(self.losses.drain(..).map(|(key, loss)| loss.op(key)));
        for (key, id) in self.producers_gone.drain(..) {
            ops.push(Op::delete(Map::Producers, key.producer(id)));
        }
        let bite = self.garbage.len().min(most);
        for garbage in self.garbage.drain(..bite) {
            remove(&garbage, ops);
        }
    }
}

/// How many of these batches are whole before a floor.
pub(super) fn forwarded(batches: &[Indexed], floor: u64) -> usize {
    batches.partition_point(|batch| batch.offset_next() <= floor)
}

fn remove(garbage: &Garbage, ops: &mut Vec<Op>) {
    match garbage {
        Garbage::Row(number) => ops.push(Op::delete(Map::Journal, journal_key(*number))),
        Garbage::Segment(partition, base_offset) => {
            ops.push(Op::delete(Map::Segments, partition.segment(*base_offset)));
        }
        Garbage::ClockMark(partition, first) => ops.push(Op::delete(Map::Untrusted, partition.segment(*first))),
        Garbage::Topic(topic) => {
            let key = topic.to_be_bytes().to_vec();
            // A topic key never reaches the last possible one.
            let until = prefix_until(&key).expect("a prefix with a number below its largest");
            for map in [Map::Partitions, Map::Producers, Map::Losses, Map::Untrusted] {
                let (key, change) = (key.clone(), Change::DeleteUntil(until.clone()));
                ops.push(Op { map, key, change });
            }
        }
    }
}

impl PartitionLog {
    /// Moves the log start; gives the batches that are past now.
    pub(super) fn advance(&mut self, log_start: u64) -> Vec<Indexed> {
        self.log_start = self.log_start.max(log_start);
        self.offset_next = self.offset_next.max(log_start);
        let past = self.index.partition_point(|batch| batch.offset_next() <= log_start);
        let past: Vec<Indexed> = self.index.drain(..past).collect();
        self.bytes -= past.iter().map(|batch| u64::from(batch.bytes)).sum::<u64>();
        past
    }

    /// Where the log start should be by the topic's settings; without a trusted clock by its size alone. Source:
    /// `UnifiedLog.deleteRetentionMsBreachedSegments` and `deleteRetentionSizeBreachedSegments`, with a batch in the place of a
    /// segment. What is not whole before `floor` is held for as long, and up to as much, as the topic says.
    fn start_due(&self, settings: &TopicSettings, floor: u64, trusted: bool, now: Now) -> u64 {
        let mut start = self.log_start;
        if !settings.is_deleted() {
            return start;
        }
        let retention_ms = settings.retention_ms.filter(|_| trusted);
        let mut bytes = self.bytes;
        for batch in &self.index {
            let too_old = retention_ms.is_some_and(|retention_ms| {
                now.wall_ms.saturating_sub(self.dated_ms(batch, now)) > retention_ms.min(i64::MAX as u64) as i64
            });
            let rest = bytes - u64::from(batch.bytes);
            let too_much = settings
                .retention_bytes
                .is_some_and(|retention_bytes| rest >= retention_bytes);
            let past_hold = || {
                let (_, append_ms) = self.times(batch);
                let too_long =
                    |most: u64| trusted && now.wall_ms.saturating_sub(append_ms) > most.min(i64::MAX as u64) as i64;
                settings.hold_ms_max.is_some_and(too_long) || settings.hold_bytes_max.is_some_and(|most| rest >= most)
            };
            let goes = too_old || too_much;
            if !goes || (batch.offset_next() > floor && !past_hold()) {
                break;
            }
            bytes = rest;
            start = batch.offset_next();
        }
        start
    }
}

impl Desk {
    /// Keeps the quota as often as it asks; moves log starts and forgets silent producers at most once in a while.
    pub(super) fn look_at_what_is_due(&mut self, now: Now) {
        let past = std::mem::take(&mut *self.shared.past.lock().unwrap_or_else(PoisonError::into_inner));
        self.due.add(past);
        if self.wear.is_due(now.mono_us) {
            self.look_at_wear(now);
        }
        self.mark_damage();
        if now.mono_us < self.due.look_us {
            if self.keep.asks() {
                self.keep_the_quota(now);
            }
            return;
        }
        self.due.look_us = now.mono_us.saturating_add(LOOK_US);
        self.forget_damage(now);
        self.look_for_room();
        self.shared.measure_index();
        self.expire(now);
        self.keep_the_quota(now);
        if !self.clock.is_trusted() {
            return;
        }
        let old = |last_ms: i64| now.wall_ms.saturating_sub(last_ms) > EXPIRY_MS;
        let due = &mut self.due;
        self.producers.retain(|place, producer| {
            let keep = !old(producer.last_ms);
            if !keep {
                due.producers_gone.push(*place);
            }
            keep
        });
    }

    pub(super) fn expire(&mut self, now: Now) {
        let mut moves = Vec::new();
        {
            let state = self.shared.read_state();
            let trusted = self.clock.is_trusted();
            let floors = self.shared.floors();
            for topic in state.topics.values() {
                let floor_of = floors.of_topic(&topic.info);
                for (partition, log) in (0..).zip(&topic.partitions) {
                    let floor = floor_of(partition);
                    let start = log.start_due(&topic.info.settings, floor, trusted, now);
                    if start > log.log_start {
                        let topic = topic.key;
                        moves.push((PartitionKey { topic, partition }, log.log_start, start, floor));
                    }
                }
            }
        }
        if moves.is_empty() {
            return;
        }
        let mut state = self.shared.write_state();
        let (mut records, mut bytes) = (0, 0);
        for (key, log_start, start, floor) in moves {
            let past = self.due.pass(&mut state, key, start);
            for batch in &past {
                records += u64::from(batch.records);
                bytes += u64::from(batch.bytes);
            }
            self.due.start(key, start);
            let held = &past[forwarded(&past, floor)..];
            if let Some(loss) = (self.due).lose(&mut state, (key, log_start), held, now, LossReason::HoldMax) {
                self.shared.metrics.log.unforwarded_records.inc_by(loss.records());
            }
        }
        self.shared.metrics.log.expired(records, bytes);
    }

    /// Removes a topic durably; its rows and segments go afterwards, a bite with each commit.
    pub(super) fn delete_topic(&mut self, name: &Topic, wakes: &mut Wakes) -> Result<(), Refused> {
        let (key, partitions) = {
            let state = self.shared.read_state();
            let Some(topic) = state.topics.get(name) else {
                let why = format!("no such topic: {name}");
                return Err(Refused::new(Code::UnknownTopic, why));
            };
            (topic.key, topic.row.partitions)
        };
        let ops = [Op::delete(Map::Topics, key.to_be_bytes())];
        if let Err(error) = self.shared.store(&ops, 0, 0) {
            let refused = storage(&error);
            // It may have reached the disk all the same. What is there then is taken over as it is, with the topic or without.
            self.shared.write_state().remove_topic(name);
            self.forget(name, key, partitions, wakes);
            self.recover(&error, self.shared.now(), wakes);
            return Err(refused);
        }
        let mut state = self.shared.write_state();
        let gone = state.remove_topic(name);
        for (partition, log) in (0..).zip(gone.into_iter().flat_map(|topic| topic.partitions)) {
            let place = PartitionKey { topic: key, partition };
            self.due.take(&mut state, place, &log.index);
        }
        self.due.garbage.push_back(Garbage::Topic(key));
        drop(state);
        self.forget(name, key, partitions, wakes);
        Ok(())
    }

    /// A topic is gone from memory: so are its producers, and who waits for its partitions is told.
    fn forget(&mut self, name: &Topic, key: u32, partitions: u32, wakes: &mut Wakes) {
        let mut state = self.shared.write_state();
        state.commit_number += 1;
        let number = state.commit_number;
        drop(state);
        self.producers.retain(|(partition, _), _| partition.topic != key);
        for partition in 0..partitions {
            let watches = &self.shared.watches;
            watches.partition_moved(name, Partition(partition), None, wakes);
        }
        self.shared.watches.committed(number, wakes);
    }
}
