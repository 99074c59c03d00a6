//! Batches of a partition that take the place of others: the same offsets with fewer records. One commit puts their segment,
//! removes what they were in and moves the mark up to which the partition is clean; memory learns of it once it is durable.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::model::batch::Batch;

use super::Refused;
use super::compaction::{entry, segment_of};
use super::desk::{Desk, storage};
use super::layout::{BatchEntry, Mark, PartitionKey, encode_segment};
use super::load::segment;
use super::moving::Mover;
use super::partition::{Indexed, PartitionLog};
use super::state::State;
use super::store::{Map, Op};
use super::ticket::Wakes;

/// What the item costs in the queue beside its batches.
const ITEM_BYTES: usize = 1024;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Swapped {
    /// It is in place.
    Done,
    /// The partition is not as it was.
    Changed,
    /// A flush moves batches just now.
    Later,
}

/// Neighbours and what takes their place.
#[derive(Debug)]
pub(super) struct Swap {
    key: PartitionKey,
    /// As they are in the index; of each segment all.
    pub(super) old: Vec<Indexed>,
    new: Vec<(BatchEntry, Bytes)>,
    /// The offset after them.
    offset_next: u64,
    /// There is something to be written.
    pub(super) changes: bool,
    /// A pass is done: it has seen everything before this offset.
    compacted_until: Option<u64>,
    records_gone: u64,
    bytes_gone: u64,
}

impl Swap {
    /// Of batches up to an offset.
    pub(super) fn new(key: PartitionKey, offset_next: u64) -> Self {
        Self {
            key,
            old: Vec::new(),
            new: Vec::new(),
            offset_next,
            changes: false,
            compacted_until: None,
            records_gone: 0,
            bytes_gone: 0,
        }
    }

    /// Of nothing: a pass is done.
    pub(super) fn done(key: PartitionKey, compacted_until: u64) -> Self {
        Self {
            compacted_until: Some(compacted_until),
            ..Self::new(key, 0)
        }
    }

    /// This takes the place of a batch.
    pub(super) fn keep(&mut self, place: &Indexed, batch: Batch) {
        self.new.push((entry(self.key, place, &batch), batch.into_bytes()));
    }

    /// Records and bytes of a batch take no place any more.
    pub(super) fn drop(&mut self, records: u32, bytes: u32) {
        self.changes = true;
        self.records_gone += u64::from(records);
        self.bytes_gone += u64::from(bytes);
    }

    /// The offset after the batches.
    pub(super) fn offset_next(&self) -> u64 {
        self.offset_next
    }

    /// What it holds while it waits.
    pub(super) fn bytes(&self) -> usize {
        self.new.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() + ITEM_BYTES
    }

    /// Where its batches are in the index, if they are all there still and the topic is compacted.
    fn place(&self, state: &State) -> Option<usize> {
        let name = state.names.get(&self.key.topic)?;
        let topic = state
            .topics
            .get(name)
            .filter(|topic| topic.info.settings.is_compacted())?;
        let log = topic.partitions.get(self.key.partition as usize)?;
        let first = self.old.first().map_or(0, |first| first.base_offset);
        let at = log.index.partition_point(|batch| batch.base_offset < first);
        let there = log.index.range(at..).take(self.old.len());
        // Of a segment that others have made longer meanwhile, these are a part only.
        let row = |at: Option<usize>| at.and_then(|at| log.index.get(at)).and_then(segment_of);
        let goes_on = |inside: Option<&Indexed>, outside| {
            let inside = inside.and_then(segment_of);
            inside.is_some() && inside == row(outside)
        };
        let is_part =
            goes_on(self.old.first(), at.checked_sub(1)) || goes_on(self.old.last(), Some(at + self.old.len()));
        (!is_part && there.eq(&self.old)).then_some(at)
    }

    fn ops(&self, log: &PartitionLog) -> Vec<Op> {
        let mut ops = Vec::new();
        let entries: Vec<BatchEntry> = self.new.iter().map(|(entry, _)| *entry).collect();
        let base_offset = entries.first().map(|entry| entry.base_offset);
        let rows: BTreeSet<u64> = self.old.iter().filter_map(segment_of).collect();
        for row in rows.into_iter().filter(|row| Some(*row) != base_offset) {
            ops.push(Op::delete(Map::Segments, self.key.segment(row)));
        }
        if let Some(base_offset) = base_offset {
            let body = self.new.iter().map(|(_, bytes)| bytes.clone()).collect();
            let head = encode_segment(&entries);
            ops.push(Op::put_long(Map::Segments, self.key.segment(base_offset), head, body));
        }
        if self.offset_next > log.clean_until {
            ops.push(Mark::CleanUntil(self.key, self.offset_next).op());
        }
        if let Some(until) = self.compacted_until {
            ops.push(Mark::CompactedUntil(self.key, until).op());
        }
        ops
    }
}

impl PartitionLog {
    /// Puts batches in the place of others, whose times stay what lookups see up to there.
    fn replace(&mut self, at: usize, swap: &Swap) {
        let entries: Vec<BatchEntry> = swap.new.iter().map(|(entry, _)| *entry).collect();
        let mut old = swap.old.iter();
        let mut end = at;
        for (entry, home, begins) in segment(&entries) {
            let before = old.find(|before| before.base_offset == entry.base_offset);
            let before = before.expect("each batch takes the place of one");
            let place = self.index.get_mut(end).expect("no more than there were");
            *place = Indexed {
                bytes: entry.bytes,
                max_timestamp: entry.max_timestamp,
                home: home.into(),
                at: begins,
                ..*before
            };
            end += 1;
        }
        self.index.drain(end..at + swap.old.len());
        let bytes = |batches: &mut dyn Iterator<Item = u32>| batches.map(u64::from).sum::<u64>();
        self.bytes -= bytes(&mut swap.old.iter().map(|batch| batch.bytes));
        self.bytes += bytes(&mut entries.iter().map(|entry| entry.bytes));
        self.clean_until = self.clean_until.max(swap.offset_next);
        self.compacted_until = swap.compacted_until.unwrap_or(self.compacted_until);
    }
}

impl Desk {
    /// Puts it in place, durably, if nothing is in the way.
    pub(super) fn swap(&mut self, swap: &Swap, wakes: &mut Wakes) -> Result<Swapped, Refused> {
        if !self.shared.moving.begin(Mover::Swap) {
            return Ok(Swapped::Later);
        }
        let swapped = self.put_in_place(swap, wakes);
        self.shared.moving.end(Mover::Swap);
        swapped
    }

    fn put_in_place(&mut self, swap: &Swap, wakes: &mut Wakes) -> Result<Swapped, Refused> {
        let ops = {
            let state = self.shared.read_state();
            match (swap.place(&state), state.partition(swap.key)) {
                (Some(_), Some(log)) => swap.ops(log),
                _ => return Ok(Swapped::Changed),
            }
        };
        self.comes(swap.bytes() as u64);
        if let Err(error) = self.shared.store(&ops, 0, 0) {
            // It may have reached the disk all the same. What is there then is taken over as it is.
            self.recover(&error, self.shared.now(), wakes);
            return Err(storage(&error));
        }
        let mut state = self.shared.write_state();
        let at = swap.place(&state).expect("nobody else changes it");
        if let Some(log) = state.partition_mut(swap.key) {
            log.replace(at, swap);
        }
        if swap.records_gone > 0 {
            state.forget_tail(swap.key, swap.offset_next);
        }
        self.due.supersede(&mut state, swap.key, &swap.old);
        let metrics = &self.shared.metrics.log;
        metrics.compacted_records.inc_by(swap.records_gone);
        metrics.compacted_bytes.inc_by(swap.bytes_gone);
        Ok(Swapped::Done)
    }
}
