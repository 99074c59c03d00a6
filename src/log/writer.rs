//! The writer: takes what waits, makes one durable commit of it, and only then tells. `net` runs it on a thread of its own.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{Code, Now, Partition};

use super::commit::Commit;
use super::draft::{Draft, Rules, Trouble};
use super::layout::PartitionKey;
use super::producers::Producers;
use super::queue::Item;
use super::shared::{Clock, Shared};
use super::store::{Map, Op, StoreError};
use super::ticket::{Promise, Wakes};
use super::{Committed, Refused, TopicInfo};

/// How long the writer sleeps without work before it looks at what is due.
const TICK: Duration = Duration::from_millis(500);

/// The one that changes the log.
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) rules: Rules,
    pub(super) producers: Producers,
    pub(super) topic_key_next: u32,
    pub(super) row_next: u64,
    pub(super) due: super::retention::Due,
    /// The store takes no commits: why, and the monotonic time at which the next attempt is due.
    pub(super) closed: Option<(StoreError, u64)>,
    /// The store was checked because of damage that was not found.
    pub(super) doubted: bool,
}

/// Answers that go out once their commit is durable.
enum Answer {
    Submit(Promise<Committed>, Result<Committed, Refused>, u64),
    Topic(Promise<Arc<TopicInfo>>, Result<Arc<TopicInfo>, Refused>),
}

/// Why the writer gave up. The process cannot go on without it.
#[derive(Debug)]
pub struct WriterError(pub String);

impl std::fmt::Display for WriterError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the log's writer cannot go on: {}", self.0)
    }
}

impl std::error::Error for WriterError {}

impl Writer {
    /// Commits until `Log::stop` was called and everything queued before is durable.
    pub fn run(mut self, clock: impl Fn() -> Now + Send + Sync + 'static) -> Result<(), WriterError> {
        let clock: Clock = Arc::new(clock);
        self.shared.set_clock(Arc::clone(&clock));
        loop {
            // Without a fixed linger it never waits: what comes while it commits is the next commit.
            self.shared.queue.wait(TICK, self.shared.linger);
            let gathered = self.shared.queue.gather(self.shared.commit_bytes_max);
            if gathered.finished {
                return Ok(());
            }
            let mut wakes = Wakes::default();
            if gathered.room {
                self.shared.watches.room(&mut wakes);
            }
            self.turn(gathered.items, clock(), &mut wakes);
            wakes.fire();
        }
    }

    /// One commit of these items, and of what is due.
    pub(super) fn turn(&mut self, items: Vec<Item>, now: Now, wakes: &mut Wakes) {
        if !self.takes_commits(now, wakes) {
            let why = self.closed.as_ref().map_or(&StoreError::Closed, |(why, _)| why);
            return self.refuse(items, &storage(why), wakes);
        }
        let mut topics_gone = Vec::new();
        let mut work = Vec::new();
        for item in items {
            match item {
                Item::DeleteTopic(name, promise) => topics_gone.push((name, promise)),
                other => work.push(other),
            }
        }
        for (name, promise) in topics_gone {
            let result = self.delete_topic(&name, wakes);
            wakes.add(promise.keep(result));
        }
        self.look_at_what_is_due(now);
        if !work.is_empty() || self.due.has_garbage() {
            self.commit(work, now, wakes);
        }
    }

    /// Nothing of it is committed.
    pub(super) fn refuse(&self, items: Vec<Item>, refused: &Refused, wakes: &mut Wakes) {
        for item in items {
            self.shared.metrics.log.refused(refused.code);
            let refused = refused.clone();
            wakes.add(match item {
                Item::Submit { promise, .. } => promise.keep(Err(refused)),
                Item::CreateTopic(_, promise) => promise.keep(Err(refused)),
                Item::DeleteTopic(_, promise) => promise.keep(Err(refused)),
            });
        }
    }

    pub(super) fn commit(&mut self, items: Vec<Item>, now: Now, wakes: &mut Wakes) {
        let shared = Arc::clone(&self.shared);
        let mut answers = Vec::with_capacity(items.len());
        let mut ops = Vec::new();
        let mut failed = None;
        let state = shared.read_state();
        let mut draft = Draft::new(
            &state,
            &shared.keeper,
            &self.producers,
            &self.rules,
            self.topic_key_next,
            now,
        );
        for item in items {
            match item {
                Item::Submit {
                    submission,
                    promise,
                    since_us,
                } => {
                    let result = match draft.submit(submission) {
                        Ok(committed) => Ok(committed),
                        Err(Trouble::Refused(refused)) => Err(refused),
                        Err(Trouble::Store(error)) => {
                            let refused = storage(&error);
                            failed.get_or_insert(error);
                            Err(refused)
                        }
                    };
                    answers.push(Answer::Submit(promise, result, since_us));
                }
                Item::CreateTopic(spec, promise) => {
                    let result = draft.create_topic(&spec);
                    answers.push(Answer::Topic(promise, result));
                }
                Item::DeleteTopic(_, promise) => {
                    wakes.add(promise.keep(Err(Refused::new(Code::InvalidRequest, "a deletion comes alone"))));
                }
            }
        }
        let changed = !draft.is_empty();
        let topic_key_next = draft.topic_key_next;
        let Draft {
            topics,
            growth,
            producers,
            values,
            ..
        } = draft;
        drop(state);
        let topics_changed = !topics.is_empty();
        for topic in topics.values() {
            ops.push(super::load::topic_op(topic.key, &topic.row));
        }
        if topics_changed {
            ops.push(super::load::topic_key_op(topic_key_next));
        }
        let touched: Vec<PartitionKey> = growth.keys().copied().collect();
        let commit = Commit::new(growth.into_iter(), self.row_next, now, &mut ops);
        for ((partition, id), producer) in &producers {
            ops.push(Op::put(Map::Producers, partition.producer(*id), producer.encode()));
        }
        for ((table, key), value) in values {
            ops.push(match value {
                Some(value) => Op::put(Map::State(table), key, value),
                None => Op::delete(Map::State(table), key),
            });
        }
        self.due.bite(&mut ops);
        let stored = match failed {
            Some(error) => Err(error),
            None if ops.is_empty() => Ok(()),
            None => self.store(&ops, commit.records, commit.bytes),
        };
        match stored {
            Ok(()) => {
                self.due.bitten();
                if changed {
                    self.row_next += u64::from(commit.has_row());
                    self.topic_key_next = topic_key_next;
                    self.producers.extend(producers);
                    let mut state = shared.write_state();
                    for topic in topics.into_values() {
                        state.add_topic(topic);
                    }
                    commit.apply(&mut state);
                    state.trim_tail(shared.tail_bytes_max);
                    if topics_changed || !touched.is_empty() {
                        state.commit_number += 1;
                    }
                    drop(state);
                    self.announce(&touched, wakes);
                }
                self.answer(answers, None, wakes);
            }
            Err(error) => {
                self.due.unbite();
                let refused = storage(&error);
                self.answer(answers, Some(&refused), wakes);
                self.recover(&error, now, wakes);
            }
        }
    }

    /// Tells those who wait for new records.
    fn announce(&self, touched: &[PartitionKey], wakes: &mut Wakes) {
        let state = self.shared.read_state();
        for key in touched {
            let Some(name) = state.names.get(&key.topic) else {
                continue;
            };
            let next = state.partition(*key).map(|partition| partition.bounds().high_watermark);
            let watches = &self.shared.watches;
            watches.partition_moved(name, Partition(key.partition), next, wakes);
        }
        self.shared.watches.committed(state.commit_number, wakes);
    }

    fn answer(&self, answers: Vec<Answer>, instead: Option<&Refused>, wakes: &mut Wakes) {
        let metrics = &self.shared.metrics.log;
        let now_us = self.shared.clock_us();
        for answer in answers {
            match answer {
                Answer::Submit(promise, result, since_us) => {
                    let result = instead.cloned().map_or(result, Err);
                    match &result {
                        Ok(_) => metrics.ack(now_us.saturating_sub(since_us)),
                        Err(refused) => metrics.refused(refused.code),
                    }
                    wakes.add(promise.keep(result));
                }
                Answer::Topic(promise, result) => {
                    let result = instead.cloned().map_or(result, Err);
                    wakes.add(promise.keep(result));
                }
            }
        }
    }

    /// One store commit with its measurements.
    pub(super) fn store(&self, ops: &[Op], records: u64, bytes: u64) -> Result<(), StoreError> {
        let before_us = self.shared.clock_us();
        let checkpoint_due = self.shared.keeper.with(|store| {
            store.commit(ops)?;
            Ok(store.checkpoint_due())
        })?;
        if checkpoint_due {
            self.shared.bell.ring();
        }
        let took_us = self.shared.clock_us().saturating_sub(before_us);
        self.shared.metrics.log.committed(records, bytes, took_us);
        Ok(())
    }
}

/// What a peer is told when the store failed.
pub(super) fn storage(error: &StoreError) -> Refused {
    Refused::new(Code::Storage, error.to_string())
}
