//! Everything of the log that is in memory: topics, partitions, which journal rows are still needed. The writer changes it, under
//! a lock held shortly, only after the change is durable; so whoever reads it sees what is durable.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::model::Topic;

use super::TopicInfo;
use super::layout::{BatchEntry, PartitionKey};
use super::load::Garbage;
use super::partition::{Home, Indexed, PartitionLog, TailBatch};
use super::topic::{TopicRow, first_offset};

/// A topic with its partitions.
#[derive(Debug)]
pub(super) struct TopicState {
    pub(super) key: u32,
    pub(super) info: Arc<TopicInfo>,
    pub(super) row: TopicRow,
    pub(super) partitions: Vec<PartitionLog>,
}

impl TopicState {
    pub(super) fn new(key: u32, info: Arc<TopicInfo>, row: TopicRow) -> Self {
        let new = |_| PartitionLog::new(first_offset(row.generation), row.generation as i32);
        let partitions = (0..row.partitions).map(new).collect();
        Self {
            key,
            info,
            row,
            partitions,
        }
    }
}

/// A journal row that is in the store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) number: u64,
    /// Batches in it that some partition still has.
    pub(super) live: u32,
}

/// The state. Its lock is `Shared::state`.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) topics: BTreeMap<Topic, TopicState>,
    pub(super) names: HashMap<u32, Topic>,
    pub(super) partitions: usize,
    pub(super) rows: VecDeque<Row>,
    pub(super) commit_number: u64,
    tail_order: VecDeque<PartitionKey>,
    tail_bytes: usize,
}

impl State {
    pub(super) fn add_topic(&mut self, topic: TopicState) {
        self.partitions += topic.partitions.len();
        self.names.insert(topic.key, topic.info.name.clone());
        self.topics.insert(topic.info.name.clone(), topic);
    }

    /// Takes a topic out; its rows and segments are for the caller to free.
    pub(super) fn remove_topic(&mut self, name: &Topic) -> Option<TopicState> {
        let topic = self.topics.remove(name)?;
        self.names.remove(&topic.key);
        self.partitions -= topic.partitions.len();
        let tail = topic.partitions.iter().flat_map(|partition| &partition.tail);
        self.tail_bytes -= tail.map(|batch| batch.bytes.len()).sum::<usize>();
        self.tail_order.retain(|key| key.topic != topic.key);
        Some(topic)
    }

    /// Bytes of all batches that are held.
    pub(super) fn held_bytes(&self) -> u64 {
        let logs = self.topics.values().flat_map(|topic| &topic.partitions);
        logs.map(|log| log.bytes).sum()
    }

    pub(super) fn partition(&self, key: PartitionKey) -> Option<&PartitionLog> {
        let topic = self.topics.get(self.names.get(&key.topic)?)?;
        topic.partitions.get(key.partition as usize)
    }

    pub(super) fn partition_mut(&mut self, key: PartitionKey) -> Option<&mut PartitionLog> {
        let topic = self.topics.get_mut(self.names.get(&key.topic)?)?;
        topic.partitions.get_mut(key.partition as usize)
    }

    /// Adds a durable batch to its partition, and to the tail cache where its bytes are given.
    pub(super) fn append(&mut self, entry: &BatchEntry, home: Home, at: u32, bytes: Option<Bytes>) {
        let Some(partition) = self.partition_mut(entry.partition) else {
            return;
        };
        partition.append(entry, home, at);
        if let Some(bytes) = bytes {
            let added = bytes.len();
            partition.tail.push_back(TailBatch {
                base_offset: entry.base_offset,
                offset_next: partition.offset_next,
                bytes,
            });
            self.tail_bytes += added;
            self.tail_order.push_back(entry.partition);
        }
    }

    /// Drops the oldest batches of the tail cache, over all partitions, until it holds at most `bytes_max`.
    pub(super) fn trim_tail(&mut self, bytes_max: usize) {
        while self.tail_bytes > bytes_max
            && let Some(key) = self.tail_order.pop_front()
        {
            let dropped = self.partition_mut(key).and_then(|partition| partition.tail.pop_front());
            self.tail_bytes -= dropped.map_or(0, |batch| batch.bytes.len());
        }
    }

    pub(super) fn tail_bytes(&self) -> usize {
        self.tail_bytes
    }

    /// A batch is past; gives what the store may forget now: its segment or its row when it was the last one in there.
    pub(super) fn release(&mut self, key: PartitionKey, batch: &Indexed) -> Option<Garbage> {
        let number = match batch.home.into() {
            Home::Journal(number) => number,
            Home::Segment { base_offset, last } => return last.then_some(Garbage::Segment(key, base_offset)),
        };
        let at = self.rows.binary_search_by_key(&number, |row| row.number).ok()?;
        let row = self.rows.get_mut(at)?;
        row.live -= 1;
        if row.live > 0 {
            return None;
        }
        self.rows.remove(at).map(|row| Garbage::Row(row.number))
    }
}
