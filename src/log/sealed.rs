//! A commit that is prepared: it goes to the disk, then into memory, and then everybody is told.

use std::sync::Arc;

use crate::model::Partition;

use super::commit::Commit;
use super::desk::storage;
use super::layout::PartitionKey;
use super::shared::Shared;
use super::state::TopicState;
use super::store::{Op, StoreError};
use super::ticket::{Promise, Wakes};
use super::{Committed, Refused, TopicInfo};

/// A prepared commit.
pub(super) struct Sealed {
    pub(super) ops: Vec<Op>,
    pub(super) commit: Commit,
    pub(super) topics: Vec<TopicState>,
    pub(super) large: bool,
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
    /// Whether another thread is to prepare the next one while this one is at the disk. On top of topics that are made, or of what
    /// failed, nothing can be prepared; and a small commit is prepared faster than a thread wakes up for it.
    pub(super) fn lets_another_prepare(&self) -> bool {
        self.large && self.topics.is_empty() && self.failed.is_none()
    }

    /// Makes it durable, then visible.
    pub(super) fn store(self, shared: &Shared) -> (News, Result<(), StoreError>) {
        let stored = match self.failed {
            Some(error) => Err(error),
            None if self.ops.is_empty() => Ok(()),
            None => shared.store(&self.ops, self.commit.records, self.commit.bytes),
        };
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
