//! What is asked of the log and what it answers: batches by offset, offsets by time, bounds.

use bytes::Bytes;

use crate::model::{Offset, Partition, Topic};

/// What to read.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// Which topic.
    pub topic: Topic,
    /// Which partition.
    pub partition: Partition,
    /// The first offset wanted; the first batch may begin before it.
    pub from: Offset,
    /// Stop before the batch that would pass this; the first batch is given whole whatever its size.
    pub bytes_max: usize,
}

/// Whole batches, in order, only what is durable. Empty when `from` is the end.
#[derive(Clone, Debug)]
pub struct ReadBatches {
    /// The bytes as stored, a piece a batch or several batches a piece.
    pub batches: Vec<Bytes>,
    /// The offset after the last one given.
    pub offset_next: Offset,
    /// The partition's bounds at the time of the read.
    pub bounds: Bounds,
}

/// What a partition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// First offset still there.
    pub log_start: Offset,
    /// The offset the next record gets; everything before it is durable and readable.
    pub high_watermark: Offset,
    /// Leader epoch.
    pub leader_epoch: i32,
}

/// Answer to a lookup by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimePoint {
    /// First offset whose record is at or after the time asked for.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp_ms: i64,
}
