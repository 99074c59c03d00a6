//! A batch on its way: made of one stored batch as it is, or of several small ones packed together, so that one request carries
//! more than one record's worth over a long way. The broker takes one batch a partition and request.

use bytes::Bytes;

use super::links::LinkId;
use crate::model::batch::{self, Batch, BatchError};
use crate::model::compression::Codec;
use crate::model::{Offset, Partition, Record, Topic};

/// Bytes that a stored batch decompresses to at most when it must be opened; beyond it, it cannot be forwarded but as it is.
pub(super) const OPENED_BYTES_MAX: usize = 64 << 20;
/// A stored batch of this size goes as it is; smaller neighbours are packed together.
const ALONE_BYTES: usize = 32 << 10;
/// Smaller batches are not worth compressing.
const COMPRESS_BYTES: usize = 1 << 10;

/// A partition of the local log.
pub(super) type LaneKey = (Topic, Partition);

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// To be sent, or sent again.
    Waiting,
    /// Sent over this link, with this correlation id, not answered.
    InFlight(LinkId, i32),
    /// In the centre; waits for the ones before it.
    Acked,
    /// Refused for good and kept aside; waits for the ones before it.
    Refused,
}

impl Standing {
    /// Nothing more is to be done for it.
    pub(super) fn is_settled(self) -> bool {
        matches!(self, Self::Acked | Self::Refused)
    }
}

/// A batch on its way to one upstream partition.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) lane: LaneKey,
    /// Local offset of its first record.
    pub(super) first: Offset,
    /// Local offset after its last record: where the lane stands once this is acked.
    pub(super) next: Offset,
    /// Local offsets one by one, where they have gaps.
    gaps: Option<Box<[Offset]>>,
    pub(super) count: u32,
    /// Base offset 0, offsets without gaps, no producer until stamped.
    pub(super) bytes: Bytes,
    /// First sequence number, once it has one. It keeps it for as long as the centre may have it.
    pub(super) sequence: Option<i32>,
    pub(super) standing: Standing,
    /// It was sent and the outcome is unknown: the centre may hold it already.
    pub(super) maybe_there: bool,
    /// Times it was sent.
    pub(super) tries: u32,
    /// The centre found it corrupt this often.
    pub(super) corrupt: u32,
}

/// What `Entry::make` took off the front of the batches.
pub(super) enum Made {
    /// An entry.
    Entry(Entry),
    /// Nothing that is to be forwarded: control batches, or only records before `from`.
    Nothing {
        /// The offset after what was passed over.
        next: Offset,
    },
    /// A stored batch that does not decode: kept as refused by ourselves.
    Damaged {
        /// Whose it is.
        lane: LaneKey,
        /// What it is.
        batch: Batch,
        /// Why.
        why: BatchError,
    },
}

impl Entry {
    /// Takes batches off the front of `raw`, one or as many small ones as make about `bytes_target`, beginning at `from`.
    pub(super) fn make(
        id: u64,
        lane: &LaneKey,
        raw: &mut std::collections::VecDeque<Batch>,
        from: Offset,
        bytes_target: usize,
    ) -> Option<Made> {
        let front = raw.pop_front()?;
        let next = front.offset_next();
        if front.header().is_control() || next <= from {
            return Some(Made::Nothing { next });
        }
        let alone = front.bytes().len() >= ALONE_BYTES.min(bytes_target) || raw.is_empty();
        if alone && passes_through(&front, from) {
            return Some(Made::Entry(Self::through(id, lane, &front)));
        }
        let mut packing = Packing::default();
        if let Err(why) = packing.add(&front, from) {
            return Some(Made::Damaged {
                lane: lane.clone(),
                batch: front,
                why,
            });
        }
        let codec = front.header().codec().unwrap_or(Codec::None);
        while let Some(batch) = raw.front() {
            let fits = batch.bytes().len() < ALONE_BYTES && packing.bytes < bytes_target;
            // One that does not open is the front of the next entry, and is dealt with there.
            if alone || !fits || batch.header().is_control() || packing.add(batch, from).is_err() {
                break;
            }
            raw.pop_front();
        }
        if packing.records.is_empty() {
            return Some(Made::Nothing { next });
        }
        let codec = if codec == Codec::None && packing.bytes >= COMPRESS_BYTES && !alone {
            Codec::Zstd
        } else {
            codec
        };
        Some(Made::Entry(Self::packed(
            id,
            lane,
            &packing.records,
            packing.next,
            codec,
        )))
    }

    fn through(id: u64, lane: &LaneKey, batch: &Batch) -> Self {
        let count = batch.header().records_count.unsigned_abs();
        Self {
            id,
            lane: lane.clone(),
            first: batch.base_offset(),
            next: batch.offset_next(),
            gaps: None,
            count,
            bytes: batch.bytes().clone(),
            sequence: None,
            standing: Standing::Waiting,
            maybe_there: false,
            tries: 0,
            corrupt: 0,
        }
    }

    fn packed(id: u64, lane: &LaneKey, records: &[(Offset, Record)], next: Offset, codec: Codec) -> Self {
        let first = records.first().map_or(next, |(offset, _)| *offset);
        let count = u32::try_from(records.len()).unwrap_or(u32::MAX);
        let gapless = next.0.checked_sub(first.0) == Some(u64::from(count));
        let plain: Vec<Record> = records.iter().map(|(_, record)| record.clone()).collect();
        Self {
            id,
            lane: lane.clone(),
            first,
            next,
            gaps: (!gapless).then(|| records.iter().map(|(offset, _)| *offset).collect()),
            count,
            bytes: Bytes::from(batch::pack_compressed(&plain, codec)),
            sequence: None,
            standing: Standing::Waiting,
            maybe_there: false,
            tries: 0,
            corrupt: 0,
        }
    }

    /// Writes the producer and the sequence in, the base offset to 0, as producers send it.
    pub(super) fn stamp(&mut self, producer_id: i64, producer_epoch: i16, sequence: i32) {
        let mut bytes = self.bytes.to_vec();
        batch::stamp(&mut bytes, Offset(0), -1);
        batch::stamp_producer(&mut bytes, producer_id, producer_epoch, sequence, false);
        self.bytes = Bytes::from(bytes);
        self.sequence = Some(sequence);
    }

    /// The same records in two entries, in order; the second takes `id`. `None` when there is one record only, or when the
    /// bytes do not open any more.
    pub(super) fn split(&self, id: u64) -> Option<(Self, Self)> {
        let records = self.local_records()?;
        let half = records.len() / 2;
        if half == 0 {
            return None;
        }
        let (left, right) = records.split_at_checked(half)?;
        let boundary = right.first()?.0;
        let codec = self.codec();
        Some((
            Self::packed(self.id, &self.lane, left, boundary, codec),
            Self::packed(id, &self.lane, right, self.next, codec),
        ))
    }

    /// The same records without compression.
    pub(super) fn uncompressed(&self) -> Option<Self> {
        let records = self.local_records()?;
        Some(Self::packed(self.id, &self.lane, &records, self.next, Codec::None))
    }

    pub(super) fn codec(&self) -> Codec {
        batch::Header::parse(&self.bytes)
            .and_then(|h| h.codec())
            .unwrap_or(Codec::None)
    }

    fn local_records(&self) -> Option<Vec<(Offset, Record)>> {
        let records = Batch::parse_trusted(self.bytes.clone())
            .and_then(|b| b.records(OPENED_BYTES_MAX))
            .ok()?;
        let local = |i: usize| match &self.gaps {
            Some(offsets) => offsets.get(i).copied(),
            None => Some(self.first.plus(i as u64)),
        };
        records
            .into_iter()
            .enumerate()
            .map(|(i, (_, record))| Some((local(i)?, record)))
            .collect()
    }
}

/// Whether the stored bytes can go as they are: nothing before `from`, no gaps, no append time, no transaction, no delete horizon,
/// which is the local compaction's and would have tombstones go from the centre by the gateway's time.
fn passes_through(batch: &Batch, from: Offset) -> bool {
    let header = batch.header();
    batch.base_offset() >= from
        && header.records_count.checked_sub(1) == Some(header.last_offset_delta)
        && !header.is_append_time()
        && !header.is_transactional()
        && header.delete_horizon_ms().is_none()
}

/// Records of several batches, to be packed into one.
#[derive(Default)]
struct Packing {
    records: Vec<(Offset, Record)>,
    bytes: usize,
    next: Offset,
}

impl Packing {
    fn add(&mut self, batch: &Batch, from: Offset) -> Result<(), BatchError> {
        for (offset, record) in batch.records(OPENED_BYTES_MAX)? {
            if offset >= from {
                self.bytes = self.bytes.saturating_add(record.size_bytes());
                self.records.push((offset, record));
            }
        }
        self.next = batch.offset_next();
        Ok(())
    }
}
