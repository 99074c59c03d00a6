//! A commit that is prepared: it goes to the disk, then into memory, and then everybody is told.

use std::sync::Arc;

use crate::model::Partition;

use super::commit::Commit;
use super::desk::storage;
use super::layout::PartitionKey;
use super::shared::Shared;
use super::state::TopicState;
use super::store::{Begun, Op, StoreError};
use super::ticket::{Promise, Wakes};
use super::{Committed, Refused, TopicInfo};

/// A prepared commit.
pub(super) struct Sealed {
    pub(super) ops: Vec<Op>,
    pub(super) commit: Commit,
    pub(super) topics: Vec<TopicState>,
    pub(super) large: bool,
    /// It has its place in the order of the store.
    pub(super) begun: Option<Begun>,
    /// Something failed while it was prepared: nothing of it is stored.
    pub(super) failed: Option<StoreError>,
    pub(super) news: News,
}

/// Who is to be told, and of what.
pub(super) struct News {
    pub(super) touched: Vec<PartitionKey>,
    pub(super) changed: bool,
    pub(super) answers: Vec<Answer>,
}

/// Answers that go out once their commit is durable.
pub(super) enum Answer {
    Submit(Promise<Committed>, Result<Committed, Refused>, u64),
    Topic(Promise<Arc<TopicInfo>>, Result<Arc<TopicInfo>, Refused>),
}

impl Sealed {
    /// Gives it its place in the order of the store's commits, while no other can be prepared. The next one may go to the disk beside
    /// it then.
    pub(super) fn begin(&mut self, shared: &Shared) {
        if self.failed.is_some() || self.ops.is_empty() {
            return;
        }
        match shared.keeper.with(|store| store.begin(&self.ops)) {
            Ok(begun) => self.begun = begun,
            Err(error) => self.failed = Some(error),
        }
    }

    /// Whether another thread is to prepare the next one while this one is at the disk. On top of topics that are made, or of what
    /// failed, nothing can be prepared; and a small commit is prepared faster than a thread wakes up for it.
    pub(super) fn lets_another_prepare(&self, shared: &Shared) -> bool {
        let has_place = self.begun.is_some() || !shared.takes_two();
        self.large && self.topics.is_empty() && self.failed.is_none() && has_place
    }

    /// Makes it durable, then visible. `turn` waits until every commit before it has ended, and says whether they were all made.
    pub(super) fn store(self, shared: &Shared, turn: impl FnOnce() -> bool) -> (News, Result<(), StoreError>) {
        match self.ops.is_empty() {
            true => self.store_now(shared, turn),
            false => shared.at_disk(|| self.store_now(shared, turn)),
        }
    }

    fn store_now(self, shared: &Shared, turn: impl FnOnce() -> bool) -> (News, Result<(), StoreError>) {
        let before_us = shared.clock_us();
        let written = match (&self.failed, &self.begun) {
            (Some(error), _) => Err(error.clone()),
            (None, Some(begun)) => shared.write(begun),
            (None, None) => Ok(()),
        };
        let stored = match (turn(), self.begun) {
            (false, _) => Err(written.err().unwrap_or(StoreError::Closed)),
            _ if written.is_err() => written,
            _ if self.ops.is_empty() => Ok(()),
            (true, Some(begun)) => shared.keeper.with(|store| store.settle(begun, &self.ops)),
            (true, None) => shared.keeper.with(|store| store.commit(&self.ops)),
        };
        if stored.is_ok() && !self.ops.is_empty() {
            shared.stored(self.commit.records, self.commit.bytes, before_us);
        }
        if stored.is_ok() && self.news.changed {
            let moved = !self.topics.is_empty() || !self.news.touched.is_empty();
            let mut state = shared.write_state();
            for topic in self.topics {
                state.add_topic(topic);
            }
            self.commit.apply(&mut state);
            state.trim_tail(shared.tail_bytes_max);
            state.commit_number += u64::from(moved);
        }
        (self.news, stored)
    }
}

impl News {
    /// Tells everybody: that it is durable, or why it is not.
    pub(super) fn tell(self, shared: &Shared, error: Option<&StoreError>, wakes: &mut Wakes) {
        if error.is_none() && self.changed {
            announce(&self.touched, shared, wakes);
        }
        let instead = error.map(storage);
        let metrics = &shared.metrics.log;
        let now_us = shared.clock_us();
        for answer in self.answers {
            match answer {
                Answer::Submit(promise, result, since_us) => {
                    let result = instead.clone().map_or(result, Err);
                    match &result {
                        Ok(_) => metrics.ack(now_us.saturating_sub(since_us)),
                        Err(refused) => metrics.refused(refused.code),
                    }
                    wakes.add(promise.keep(result));
                }
                Answer::Topic(promise, result) => {
                    let result = instead.clone().map_or(result, Err);
                    wakes.add(promise.keep(result));
                }
            }
        }
    }
}

/// Wakes those who wait for new records.
fn announce(touched: &[PartitionKey], shared: &Shared, wakes: &mut Wakes) {
    let state = shared.read_state();
    for key in touched {
        let Some(name) = state.names.get(&key.topic) else {
            continue;
        };
        let next = state.partition(*key).map(|partition| partition.bounds().high_watermark);
        shared
            .watches
            .partition_moved(name, Partition(key.partition), next, wakes);
    }
    shared.watches.committed(state.commit_number, wakes);
}
