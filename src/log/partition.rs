//! One partition in memory: its bounds, the index of its batches, and the newest of them whole.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;

use crate::model::Offset;

use super::Bounds;
use super::boots::ClockMark;
use super::layout::BatchEntry;
use super::loss::Loss;

/// The row that a batch lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// A journal row.
    Journal(u64),
    /// A segment.
    Segment {
        /// Offset of its first batch.
        base_offset: u64,
        /// Whether this batch is its last one: with it the segment goes.
        last: bool,
    },
}

/// A `Home` in eight bytes. Neither rows nor offsets come near the two topmost bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedHome(u64);

impl PackedHome {
    const SEGMENT: u64 = 1 << 63;
    const LAST: u64 = 1 << 62;
}

impl From<Home> for PackedHome {
    fn from(home: Home) -> Self {
        Self(match home {
            Home::Journal(row) => row & (Self::LAST - 1),
            Home::Segment { base_offset, last } => {
                let last = if last { Self::LAST } else { 0 };
                Self::SEGMENT | last | base_offset & (Self::LAST - 1)
            }
        })
    }
}

impl From<PackedHome> for Home {
    fn from(packed: PackedHome) -> Self {
        let number = packed.0 & (PackedHome::LAST - 1);
        match packed.0 & PackedHome::SEGMENT {
            0 => Self::Journal(number),
            _ => Self::Segment {
                base_offset: number,
                last: packed.0 & PackedHome::LAST != 0,
            },
        }
    }
}

/// One batch in the index: 56 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indexed {
    /// Offset of its first record.
    pub base_offset: u64,
    /// Offsets that it covers.
    pub records: u32,
    /// Its bytes.
    pub bytes: u32,
    /// Largest timestamp of its records.
    pub max_timestamp: i64,
    /// Largest timestamp up to here: it never falls, so that a time is found by halving.
    pub max_so_far: i64,
    /// When it came in.
    pub append_ms: i64,
    /// The row that it lies in.
    pub home: PackedHome,
    /// Where it begins in the row.
    pub at: u32,
}

impl Indexed {
    /// Of a batch that lies there. `max_so_far` is its own until it is in an index.
    pub fn new(entry: &BatchEntry, home: Home, at: u32) -> Self {
        Self {
            base_offset: entry.base_offset,
            records: entry.records,
            bytes: entry.bytes,
            max_timestamp: entry.max_timestamp,
            max_so_far: entry.max_timestamp,
            append_ms: entry.append_ms,
            home: home.into(),
            at,
        }
    }

    /// The offset after its last record.
    pub fn offset_next(&self) -> u64 {
        self.base_offset + u64::from(self.records)
    }
}

/// A batch in the tail cache.
#[derive(Clone, Debug)]
pub struct TailBatch {
    /// Offset of its first record.
    pub base_offset: u64,
    /// The offset after its last record.
    pub offset_next: u64,
    /// As stored.
    pub bytes: Bytes,
}

/// A partition.
#[derive(Debug)]
pub struct PartitionLog {
    /// First offset that can be read.
    pub log_start: u64,
    /// Everything before this lies in segments, with gaps where records were compacted away.
    pub clean_until: u64,
    /// A pass of compaction has seen everything before this.
    pub compacted_until: u64,
    /// The offset of the next record.
    pub offset_next: u64,
    /// Leader epoch.
    pub leader_epoch: i32,
    /// Bytes of all batches from the log start on.
    pub bytes: u64,
    /// Every batch, by offset.
    pub index: VecDeque<Indexed>,
    /// What went before its time, by offset.
    pub losses: Vec<Loss>,
    /// What was appended before the clock was trusted, by offset.
    pub(super) marks: Vec<ClockMark>,
    /// The newest batches, without a gap up to the end.
    pub tail: VecDeque<TailBatch>,
}

impl PartitionLog {
    /// An empty partition that begins at an offset.
    pub fn new(offset_first: u64, leader_epoch: i32) -> Self {
        Self {
            log_start: offset_first,
            clean_until: 0,
            compacted_until: 0,
            offset_next: offset_first,
            leader_epoch,
            bytes: 0,
            index: VecDeque::new(),
            losses: Vec::new(),
            marks: Vec::new(),
            tail: VecDeque::new(),
        }
    }

    /// The bounds, for readers.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            log_start: Offset(self.log_start),
            high_watermark: Offset(self.offset_next),
            leader_epoch: self.leader_epoch,
        }
    }

    /// Adds a batch that is durable, behind all others.
    pub fn append(&mut self, entry: &BatchEntry, home: Home, at: u32) {
        assert!(
            entry.base_offset >= self.offset_next,
            "offset {} after {}",
            entry.base_offset,
            self.offset_next
        );
        let before = self.index.back().map_or(i64::MIN, |last| last.max_so_far);
        let mut indexed = Indexed::new(entry, home, at);
        indexed.max_so_far = before.max(entry.max_timestamp);
        self.index.push_back(indexed);
        self.offset_next = entry.base_offset + u64::from(entry.records);
        self.bytes += u64::from(entry.bytes);
    }

    /// What lay in these journal rows lies elsewhere now, perhaps in fewer batches; `moved` is in the order of offsets.
    pub fn resettle(&mut self, gone: &HashSet<u64>, moved: Vec<Indexed>) {
        let (Some(first), Some(last)) = (moved.first(), moved.last()) else {
            return;
        };
        let (from, until) = (first.base_offset, last.offset_next());
        let begins = self.index.partition_point(|batch| batch.offset_next() <= from);
        let ends = self.index.partition_point(|batch| batch.base_offset < until);
        let behind = self.index.split_off(ends);
        let stays = |batch: &Indexed| !matches!(batch.home.into(), Home::Journal(row) if gone.contains(&row));
        let among = self.index.split_off(begins);
        let before: u64 = among.iter().map(|batch| u64::from(batch.bytes)).sum();
        let mut among: Vec<Indexed> = among.into_iter().filter(stays).chain(moved).collect();
        among.sort_unstable_by_key(|batch| batch.base_offset);
        let after: u64 = among.iter().map(|batch| u64::from(batch.bytes)).sum();
        self.bytes = self.bytes - before + after;
        let mut max_so_far = self.index.back().map_or(i64::MIN, |batch| batch.max_so_far);
        for mut batch in among {
            max_so_far = max_so_far.max(batch.max_timestamp);
            batch.max_so_far = max_so_far;
            self.index.push_back(batch);
        }
        self.index.extend(behind);
    }

    /// Batches from `from` on out of the tail cache, up to `bytes_max` (one at least); `None` when they are not all there.
    pub fn read_tail(&self, from: u64, bytes_max: usize) -> Option<(Vec<Bytes>, u64)> {
        if from == self.offset_next {
            return Some((Vec::new(), from));
        }
        if self.tail.front().is_none_or(|first| first.base_offset > from) {
            return None;
        }
        let first = self.tail.partition_point(|batch| batch.offset_next <= from);
        let (mut batches, mut bytes, mut offset_next) = (Vec::new(), 0, from);
        for batch in self.tail.range(first..) {
            if !batches.is_empty() && bytes + batch.bytes.len() > bytes_max {
                break;
            }
            bytes += batch.bytes.len();
            offset_next = batch.offset_next;
            batches.push(batch.bytes.clone());
        }
        Some((batches, offset_next))
    }

    /// The places of batches from `from` on, up to `bytes_max` (one at least); those that damage took are passed over.
    pub fn places(&self, from: u64, bytes_max: usize) -> Vec<Indexed> {
        let first = self.index.partition_point(|batch| batch.offset_next() <= from);
        let (mut places, mut bytes) = (Vec::new(), 0);
        let readable = |batch: &&Indexed| !self.is_batch_damaged(batch);
        for batch in self.index.range(first..).filter(readable) {
            if !places.is_empty() && bytes + batch.bytes as usize > bytes_max {
                break;
            }
            bytes += batch.bytes as usize;
            places.push(*batch);
        }
        places
    }

    /// The first batch that begins at or after an offset and has a record at or after a time.
    pub fn place_of_time(&self, from: u64, timestamp_ms: i64) -> Option<Indexed> {
        // With corrections the largest so far is not known: every batch is asked.
        let first = match self.marks.is_empty() {
            true => self.index.partition_point(|batch| batch.max_so_far < timestamp_ms),
            false => 0,
        };
        // What retention removed may still be in `max_so_far`: then the batch itself tells.
        self.index
            .range(first..)
            .filter(|batch| batch.base_offset >= from && self.times(batch).0 >= timestamp_ms)
            .find(|batch| !self.is_batch_damaged(batch))
            .copied()
    }
}
