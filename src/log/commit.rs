//! From a draft to the operations of one store commit, and to what memory learns once that commit is durable.

use bytes::Bytes;

use crate::model::batch::{self, Batch};
use crate::model::{Now, Offset};

use super::draft::{Growth, Run};
use super::layout::{BatchEntry, Directory, PartitionKey, encode_segment, journal_key};
use super::partition::Home;
use super::state::{Row, State};
use super::store::{Map, Op};

/// An append of so many bytes, a producer's batch or a single record, gets a segment row of its own. What is packed of smaller ones
/// stays in the commit's journal row whatever its size: one row a commit costs half of what a row a batch does.
pub(super) const SEGMENT_BYTES: usize = 16 << 10;

/// A batch on its way to the store.
#[derive(Debug)]
pub(super) struct Stored {
    entry: BatchEntry,
    home: Home,
    at: u32,
    bytes: Bytes,
}

/// The batches of a commit.
#[derive(Debug, Default)]
pub(super) struct Commit {
    stored: Vec<Stored>,
    row: Option<Row>,
    /// Records in it.
    pub(super) records: u64,
    /// Bytes of its batches.
    pub(super) bytes: u64,
}

impl Commit {
    /// Packs and stamps what partitions gain, and adds the operations that store it. `row` is the number that a journal row gets.
    pub(super) fn new(
        growth: impl Iterator<Item = (PartitionKey, Growth)>,
        row: u64,
        now: Now,
        ops: &mut Vec<Op>,
    ) -> Self {
        let mut commit = Self::default();
        let mut small = Vec::new();
        for (partition, growth) in growth {
            let append_time = growth.topic.settings.log_append_time.then_some(now.wall_ms);
            for run in growth.runs {
                let alone = !matches!(&run, Run::Records(_, packer) if packer.records() > 1);
                let (entry, bytes) = stamped(partition, run, growth.leader_epoch, append_time, now);
                commit.records += u64::from(entry.records);
                commit.bytes += u64::from(entry.bytes);
                if alone && bytes.len() >= SEGMENT_BYTES {
                    commit.add_segment(entry, bytes, ops);
                } else {
                    small.push((entry, bytes));
                }
            }
        }
        if !small.is_empty() {
            commit.add_row(small, row, now, ops);
        }
        // Segment rows were added before the journal row; a partition takes its batches in the order of their offsets.
        let place = |stored: &Stored| (stored.entry.partition, stored.entry.base_offset);
        commit.stored.sort_unstable_by_key(place);
        commit
    }

    fn add_segment(&mut self, entry: BatchEntry, bytes: Bytes, ops: &mut Vec<Op>) {
        let key = entry.partition.segment(entry.base_offset);
        let body = vec![bytes.clone()];
        ops.push(Op::put_long(Map::Segments, key, encode_segment(&[entry]), body));
        self.stored.push(Stored {
            entry,
            home: Home::Segment {
                base_offset: entry.base_offset,
                last: true,
            },
            at: 0,
            bytes,
        });
    }

    fn add_row(&mut self, small: Vec<(BatchEntry, Bytes)>, number: u64, now: Now, ops: &mut Vec<Op>) {
        let entries: Vec<BatchEntry> = small.iter().map(|(entry, _)| *entry).collect();
        let live = entries.len() as u32;
        let body = small.iter().map(|(_, bytes)| bytes.clone()).collect();
        let directory = Directory::encode(&entries, now.wall_ms);
        ops.push(Op::put_long(Map::Journal, journal_key(number), directory, body));
        let mut at = 0;
        for (entry, bytes) in small {
            let begins = at as u32;
            at += bytes.len();
            self.stored.push(Stored {
                entry,
                home: Home::Journal(number),
                at: begins,
                bytes,
            });
        }
        self.row = Some(Row { number, live });
    }

    /// It is durable: memory learns of it.
    pub(super) fn apply(self, state: &mut State) {
        state.rows.extend(self.row);
        for stored in self.stored {
            state.append(&stored.entry, stored.home, stored.at, Some(stored.bytes));
        }
    }

    /// How many journal rows and segments it adds.
    pub(super) fn rows(&self) -> usize {
        let segments = self
            .stored
            .iter()
            .filter(|stored| matches!(stored.home, Home::Segment { .. }));
        segments.count() + usize::from(self.has_row())
    }

    /// Whether it has a journal row.
    pub(super) fn has_row(&self) -> bool {
        self.row.is_some()
    }
}

fn stamped(
    partition: PartitionKey,
    run: Run,
    leader_epoch: i32,
    append_time: Option<i64>,
    now: Now,
) -> (BatchEntry, Bytes) {
    let packed = matches!(run, Run::Records(..));
    let (base_offset, records, mut max_timestamp, mut bytes) = match run {
        Run::Records(base_offset, packer) => {
            let (records, newest) = (packer.records(), packer.max_timestamp());
            let mut bytes = packer.finish();
            // The tail cache counts what is used of it.
            bytes.shrink_to_fit();
            (base_offset, records, newest, bytes)
        }
        Run::Batch(base_offset, batch) => {
            let header = *batch.header();
            let records = header.last_offset_delta as u32 + 1;
            (base_offset, records, header.max_timestamp, owned(batch))
        }
    };
    batch::stamp(&mut bytes, Offset(base_offset), leader_epoch);
    if let Some(time_ms) = append_time {
        batch::stamp_append_time(&mut bytes, time_ms);
        max_timestamp = time_ms;
    }
    let entry = BatchEntry {
        partition,
        base_offset,
        records,
        bytes: bytes.len() as u32,
        packed,
        max_timestamp,
        append_ms: now.wall_ms,
        leader_epoch,
    };
    (entry, bytes.into())
}

/// The batch's bytes to write into. They are copied where they are a part of something larger: the tail cache would else keep the
/// whole of a request for a small batch of it.
fn owned(batch: Batch) -> Vec<u8> {
    batch.bytes().to_vec()
}
