//! The state of the log from a store, at start and after a failure; and the rows of topics and meta.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::model::Topic;

use super::boots::{self, ClockMark};
use super::draft::Rules;
use super::layout::{BatchEntry, Directory, Fields, Mark, PartitionKey, damaged, decode_segment, journal_key};
use super::loss::Loss;
use super::partition::{Home, Indexed};
use super::producers::{Producer, Producers};
use super::state::{Row, State, TopicState};
use super::store::{Map, Op, Store, StoreError};
use super::topic::TopicRow;

/// Key in `Map::Meta`: the number that the next topic gets.
const TOPIC_KEY_NEXT: &[u8] = b"topic_key_next";

/// What was found in a store.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) state: State,
    pub(super) producers: Producers,
    pub(super) topic_key_next: u32,
    pub(super) row_next: u64,
    /// Rows and segments that no topic needs any more.
    pub(super) garbage: Vec<Garbage>,
    /// Where something is missing that has no marker yet.
    pub(super) holes: Vec<(PartitionKey, Loss)>,
}

/// Something to be removed from the store.
#[derive(Clone, Debug)]
pub(super) enum Garbage {
    /// A journal row.
    Row(u64),
    /// A segment.
    Segment(PartitionKey, u64),
    /// Partition rows and producers of a topic that is gone.
    Topic(u32),
    /// A mark, by its first offset.
    ClockMark(PartitionKey, u64),
}

pub(super) fn topic_op(key: u32, row: &TopicRow) -> Op {
    let value = serde_json::to_vec(row).expect("a topic's row is plain data");
    Op::put(Map::Topics, key.to_be_bytes(), value)
}

pub(super) fn topic_key_op(next: u32) -> Op {
    Op::put(Map::Meta, TOPIC_KEY_NEXT, next.to_be_bytes().to_vec())
}

/// The number that the next topic gets, where one was made before.
pub(super) fn topic_key_next(store: &dyn Store) -> Result<Option<u32>, StoreError> {
    let next = store.point(Map::Meta, TOPIC_KEY_NEXT)?;
    next.map(|next| Fields(&next).u32()).transpose()
}

/// Reads everything that memory holds.
pub(super) fn load(store: &dyn Store, rules: &Rules) -> Result<Loaded, StoreError> {
    let mut loaded = Loaded {
        topic_key_next: topic_key_next(store)?.unwrap_or(0),
        ..Loaded::default()
    };
    load_topics(store, rules, &mut loaded)?;
    let mut starts = Vec::new();
    for mark in marks(store)? {
        match mark {
            Mark::LogStart(key, log_start) => starts.push((key, log_start)),
            Mark::CleanUntil(key, clean_until) => {
                if let Some(partition) = loaded.state.partition_mut(key) {
                    partition.clean_until = clean_until;
                }
            }
            Mark::CompactedUntil(key, compacted_until) => {
                if let Some(partition) = loaded.state.partition_mut(key) {
                    partition.compacted_until = compacted_until;
                }
            }
        }
    }
    let mut batches = Vec::new();
    load_journal(store, &mut loaded, &mut batches)?;
    load_segments(store, &mut loaded, &mut batches)?;
    place(batches, &mut loaded)?;
    advance(&starts, &mut loaded);
    store.scan(Map::Losses, &[], None, &mut |key, value| {
        let (key, loss) = Loss::decode(key, value)?;
        if let Some(partition) = loaded.state.partition_mut(key) {
            partition.lose(loss);
        }
        Ok(true)
    })?;
    loaded.state.boots = boots::boots(store)?;
    store.scan(Map::Untrusted, &[], None, &mut |key, value| {
        let (key, mark) = ClockMark::decode(key, value)?;
        match loaded.state.partition_mut(key) {
            Some(log) if log.log_start < mark.next => log.mark(mark),
            _ => loaded.garbage.push(Garbage::ClockMark(key, mark.first)),
        }
        Ok(true)
    })?;
    loaded.state.correct();
    store.scan(Map::Producers, &[], None, &mut |key, value| {
        let partition = PartitionKey::parse(key)?;
        let id = Fields(key.get(8..).unwrap_or_default()).i64()?;
        if loaded.state.partition(partition).is_some() {
            let mut producer = Producer::decode(value)?;
            producer.last_ms = loaded.state.corrected(producer.last_ms);
            loaded.producers.insert((partition, id), producer);
        }
        Ok(true)
    })?;
    find_holes(store, rules.generation, &mut loaded)?;
    Ok(loaded)
}

/// The topics alone, without what is in them.
pub(super) fn topic_rows(store: &dyn Store) -> Result<BTreeMap<u32, TopicRow>, StoreError> {
    let mut rows = BTreeMap::new();
    store.scan(Map::Topics, &[], None, &mut |key, value| {
        let row: TopicRow = serde_json::from_slice(value).map_err(|e| damaged(format!("a topic's row: {e}")))?;
        rows.insert(Fields(key).u32()?, row);
        Ok(true)
    })?;
    Ok(rows)
}

fn load_topics(store: &dyn Store, rules: &Rules, loaded: &mut Loaded) -> Result<(), StoreError> {
    for (key, row) in topic_rows(store)? {
        let name = Topic::parse(&row.name).map_err(|e| damaged(e.to_string()))?;
        let entry = rules.entry(&row.name);
        let info = row
            .info(name, &rules.defaults, entry)
            .map_err(|refused| damaged(refused.why))?;
        loaded.topic_key_next = loaded.topic_key_next.max(key + 1);
        loaded.state.add_topic(TopicState::new(key, Arc::new(info), row));
    }
    Ok(())
}

/// A batch, its row and where it begins in there.
type Placed = (BatchEntry, Home, u32);

/// Calls `each` with the number and directory of every journal row.
pub(super) fn directories(
    store: &dyn Store,
    each: &mut dyn FnMut(u64, Result<Directory, StoreError>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    store.scan(Map::Journal, &[], None, &mut |key, head| {
        each(Fields(key).u64()?, Directory::decode(head))?;
        Ok(true)
    })
}

fn load_journal(store: &dyn Store, loaded: &mut Loaded, batches: &mut Vec<Placed>) -> Result<(), StoreError> {
    directories(store, &mut |number, directory| {
        let (mut at, mut live) = (0, 0);
        for entry in directory?.entries {
            let partition = loaded.state.partition(entry.partition);
            if partition.is_some_and(|partition| entry.base_offset >= partition.clean_until) {
                batches.push((entry, Home::Journal(number), at));
                live += 1;
            }
            at += entry.bytes;
        }
        loaded.row_next = number + 1;
        if live == 0 {
            loaded.garbage.push(Garbage::Row(number));
            return Ok(());
        }
        loaded.state.rows.push_back(Row { number, live });
        Ok(())
    })
}

fn load_segments(store: &dyn Store, loaded: &mut Loaded, batches: &mut Vec<Placed>) -> Result<(), StoreError> {
    store.scan(Map::Segments, &[], None, &mut |key, value| {
        let placed = segment(&decode_segment(key, value)?);
        match placed.first() {
            Some((entry, ..)) if loaded.state.partition(entry.partition).is_none() => {
                let (partition, base_offset) = (entry.partition, entry.base_offset);
                loaded.garbage.push(Garbage::Segment(partition, base_offset));
            }
            _ => batches.extend(placed),
        }
        Ok(true)
    })
}

/// The batches of a segment, each with its place.
pub(super) fn segment(entries: &[BatchEntry]) -> Vec<Placed> {
    let base_offset = entries.first().map_or(0, |entry| entry.base_offset);
    let (mut at, mut left) = (0u32, entries.len());
    let placed = entries.iter().map(|entry| {
        left -= 1;
        let begins = at;
        at = at.saturating_add(entry.bytes);
        let last = left == 0;
        (*entry, Home::Segment { base_offset, last }, begins)
    });
    placed.collect()
}

fn place(mut batches: Vec<Placed>, loaded: &mut Loaded) -> Result<(), StoreError> {
    batches.sort_unstable_by_key(|(entry, ..)| (entry.partition, entry.base_offset));
    for (entry, home, at) in batches {
        let log = loaded.state.partition(entry.partition);
        if log.is_some_and(|log| entry.base_offset < log.offset_next) {
            return Err(damaged(format!("offset {} is there twice", entry.base_offset)));
        }
        loaded.state.append(&entry, home, at, None);
    }
    Ok(())
}

/// Finds what is missing, and lets offsets go on behind it. It is called again until the markers are stored.
fn find_holes(store: &dyn Store, generation: u32, loaded: &mut Loaded) -> Result<(), StoreError> {
    let mut gone = HashSet::new();
    store.each_gone(&mut |map, key| {
        gone.insert((map, key.to_vec()));
    })?;
    for topic in loaded.state.topics.values_mut() {
        for (partition, log) in (0..).zip(&mut topic.partitions) {
            let topic = topic.key;
            let place = PartitionKey { topic, partition };
            let is_gone = |batch: &Indexed| {
                let key = match batch.home.into() {
                    Home::Segment { base_offset, .. } => (Map::Segments, place.segment(base_offset)),
                    Home::Journal(row) => (Map::Journal, journal_key(row).to_vec()),
                };
                gone.contains(&key)
            };
            for hole in log.holes(generation, is_gone) {
                loaded.holes.push((place, log.lose(hole)));
            }
        }
    }
    Ok(())
}

/// Where partitions begin, and how far they are clean.
pub(super) fn marks(store: &dyn Store) -> Result<Vec<Mark>, StoreError> {
    let mut marks = Vec::new();
    store.scan(Map::Partitions, &[], None, &mut |key, value| {
        marks.push(Mark::decode(key, value)?);
        Ok(true)
    })?;
    Ok(marks)
}

/// Log start offsets last: batches before them are past, though their row is still there for others.
fn advance(starts: &[(PartitionKey, u64)], loaded: &mut Loaded) {
    for (key, log_start) in starts {
        let Some(partition) = loaded.state.partition_mut(*key) else {
            continue;
        };
        for batch in partition.advance(*log_start) {
            loaded.garbage.extend(loaded.state.release(*key, &batch));
        }
    }
}
