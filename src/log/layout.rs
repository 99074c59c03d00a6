//! Keys and rows of the store, byte by byte; `src/manual/format.md` says the same in words. All numbers are big-endian, so that
//! keys sort as numbers do.
//!
//! ```text
//! journal key      row u64
//! journal head     crc-32c u32 of the rest | entries u32 | append time ms i64 | bytes of head and body u32 |
//!                  entries x (topic key u32, partition u32, base offset u64, records u32, bytes u32, max timestamp i64,
//!                             leader epoch i32)
//! journal body     the batches, in the same order
//! segment key      topic key u32 | partition u32 | base offset u64 of its first batch
//! segment head     crc-32c u32 of the rest | batches x (offset - base offset u32, records u32, bytes u32, max timestamp i64,
//!                             append time ms i64, leader epoch i32)
//! segment body     the batches, in the same order
//! partition key    topic key u32 | partition u32                              value: log start offset u64
//!                  topic key u32 | partition u32 | 1 u8                       value: clean until offset u64
//!                  topic key u32 | partition u32 | 2 u8                       value: compacted until offset u64
//! ```
//!
//! The top bit of a batch's bytes says that headwater packed it. What format 2 wrote is read for ever: its heads of segments, of one
//! batch, have no offset.
//!
//! ```text
//! segment head 2   crc-32c u32 of the rest | records u32 | bytes u32 | max timestamp i64 | append time ms i64 | leader epoch i32
//! ```

use bytes::Bytes;

use super::store::{Map, Op, StoreError};

/// The format written here; a store of a newer one is refused.
pub const FORMAT: u32 = 3;
/// The oldest one that is read here, and brought to `FORMAT` when it is opened to be served.
pub const FORMAT_OLDEST: u32 = 2;

/// Bytes of a directory before its entries.
pub const HEAD_BYTES: usize = 20;
/// Bytes of one entry.
pub const ENTRY_BYTES: usize = 36;
/// Bytes of the head of a segment before its batches.
const SEGMENT_HEAD_BYTES: usize = 4;
/// Bytes of one batch in the head of a segment.
const SEGMENT_ENTRY_BYTES: usize = 32;
/// Bytes of the head of a segment in format 2.
const SEGMENT_2_BYTES: usize = 32;
/// The bit of a batch's bytes that says that headwater packed it. No batch has so many bytes.
const PACKED: u32 = 1 << 31;

/// A partition, by numbers that are never given twice in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionKey {
    /// Topic key: counts creations of topics.
    pub topic: u32,
    /// Partition.
    pub partition: u32,
}

impl PartitionKey {
    /// Key in `Map::Partitions`.
    pub fn bytes(self) -> [u8; 8] {
        let mut key = [0; 8];
        key[..4].copy_from_slice(&self.topic.to_be_bytes());
        key[4..].copy_from_slice(&self.partition.to_be_bytes());
        key
    }

    /// Key in `Map::Segments`.
    pub fn segment(self, base_offset: u64) -> Vec<u8> {
        [&self.bytes()[..], &base_offset.to_be_bytes()].concat()
    }

    /// Key in `Map::Producers`.
    pub fn producer(self, producer_id: i64) -> Vec<u8> {
        [&self.bytes()[..], &producer_id.to_be_bytes()].concat()
    }

    /// Reads any key that begins with a partition.
    pub fn parse(key: &[u8]) -> Result<Self, StoreError> {
        let mut fields = Fields(key);
        let (topic, partition) = (fields.u32()?, fields.u32()?);
        Ok(Self { topic, partition })
    }
}

/// A row of `Map::Partitions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// First offset that can be read.
    LogStart(PartitionKey, u64),
    /// Everything before this offset lies in segments: what journal rows still name of it was superseded, and offsets that no
    /// segment names were compacted away.
    CleanUntil(PartitionKey, u64),
    /// A pass of compaction has seen everything before this offset: no key is there twice.
    CompactedUntil(PartitionKey, u64),
}

impl Mark {
    /// Behind the partition in the key of `CleanUntil`.
    const CLEAN: u8 = 1;
    /// The same of `CompactedUntil`.
    const COMPACTED: u8 = 2;

    /// The operation that stores it.
    pub fn op(self) -> Op {
        let (partition, offset) = match self {
            Self::LogStart(partition, offset)
            | Self::CleanUntil(partition, offset)
            | Self::CompactedUntil(partition, offset) => (partition, offset),
        };
        let mut key = partition.bytes().to_vec();
        match self {
            Self::LogStart(..) => {}
            Self::CleanUntil(..) => key.push(Self::CLEAN),
            Self::CompactedUntil(..) => key.push(Self::COMPACTED),
        }
        Op::put(Map::Partitions, key, offset.to_be_bytes().to_vec())
    }

    /// Reads a row.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Self, StoreError> {
        let (partition, offset) = (PartitionKey::parse(key)?, Fields(value).u64()?);
        match key.get(8..) {
            Some([]) => Ok(Self::LogStart(partition, offset)),
            Some([Self::CLEAN]) => Ok(Self::CleanUntil(partition, offset)),
            Some([Self::COMPACTED]) => Ok(Self::CompactedUntil(partition, offset)),
            _ => Err(damaged("a row of a partition has no key that one can have")),
        }
    }
}

/// Key in `Map::Journal`.
pub fn journal_key(row: u64) -> [u8; 8] {
    row.to_be_bytes()
}

/// What a journal's directory or a segment's row says of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchEntry {
    /// Where it belongs.
    pub partition: PartitionKey,
    /// Offset of its first record.
    pub base_offset: u64,
    /// Offsets that it covers.
    pub records: u32,
    /// Its bytes.
    pub bytes: u32,
    /// Whether headwater packed it, out of records that came one by one.
    pub packed: bool,
    /// Largest timestamp of its records.
    pub max_timestamp: i64,
    /// When it came in.
    pub append_ms: i64,
    /// Leader epoch that it was stamped with.
    pub leader_epoch: i32,
}

/// The directory of a journal row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Its batches, in the order of their bytes.
    pub entries: Vec<BatchEntry>,
}

impl Directory {
    /// Writes the directory of a row.
    pub fn encode(entries: &[BatchEntry], append_ms: i64) -> Bytes {
        let mut out = Vec::with_capacity(HEAD_BYTES + entries.len() * ENTRY_BYTES);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(entries.len() as u32).to_be_bytes());
        out.extend_from_slice(&append_ms.to_be_bytes());
        out.extend_from_slice(&(row_bytes(entries) as u32).to_be_bytes());
        for entry in entries {
            out.extend_from_slice(&entry.partition.bytes());
            out.extend_from_slice(&entry.base_offset.to_be_bytes());
            out.extend_from_slice(&entry.records.to_be_bytes());
            out.extend_from_slice(&entry.bytes_field().to_be_bytes());
            out.extend_from_slice(&entry.max_timestamp.to_be_bytes());
            out.extend_from_slice(&entry.leader_epoch.to_be_bytes());
        }
        sealed(out)
    }

    /// Reads a directory.
    pub fn decode(directory: &[u8]) -> Result<Self, StoreError> {
        let mut fields = Fields(directory);
        let crc = fields.u32()?;
        if crc != crc32c::crc32c(fields.0) {
            return Err(damaged("the checksum of a journal row's directory is wrong"));
        }
        let count = fields.u32()? as usize;
        let append_ms = fields.i64()?;
        let whole = fields.u32()? as usize;
        if fields.0.len() != count.saturating_mul(ENTRY_BYTES) {
            return Err(damaged(
                "the directory of a journal row has another length than it says",
            ));
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let partition = PartitionKey {
                topic: fields.u32()?,
                partition: fields.u32()?,
            };
            let (base_offset, records, bytes) = (fields.u64()?, fields.u32()?, fields.u32()?);
            entries.push(BatchEntry {
                partition,
                base_offset,
                records,
                bytes: bytes & !PACKED,
                packed: bytes & PACKED != 0,
                max_timestamp: fields.i64()?,
                append_ms,
                leader_epoch: fields.u32()? as i32,
            });
        }
        if row_bytes(&entries) != whole {
            return Err(damaged("the directory of a journal row does not add up"));
        }
        Ok(Self { entries })
    }
}

/// Bytes of a directory and its batches.
fn row_bytes(entries: &[BatchEntry]) -> usize {
    let batches: usize = entries.iter().map(|entry| entry.bytes as usize).sum();
    HEAD_BYTES + entries.len() * ENTRY_BYTES + batches
}

/// Writes the head of a segment: of batches of one partition, in the order of their offsets, one at least.
pub fn encode_segment(entries: &[BatchEntry]) -> Bytes {
    let base_offset = entries.first().map_or(0, |entry| entry.base_offset);
    let mut out = Vec::with_capacity(SEGMENT_HEAD_BYTES + entries.len() * SEGMENT_ENTRY_BYTES);
    out.extend_from_slice(&[0; SEGMENT_HEAD_BYTES]);
    for entry in entries {
        out.extend_from_slice(&((entry.base_offset - base_offset) as u32).to_be_bytes());
        out.extend_from_slice(&entry.records.to_be_bytes());
        out.extend_from_slice(&entry.bytes_field().to_be_bytes());
        out.extend_from_slice(&entry.max_timestamp.to_be_bytes());
        out.extend_from_slice(&entry.append_ms.to_be_bytes());
        out.extend_from_slice(&entry.leader_epoch.to_be_bytes());
    }
    sealed(out)
}

/// Reads a row of `Map::Segments`.
pub fn decode_segment(key: &[u8], value: &[u8]) -> Result<Vec<BatchEntry>, StoreError> {
    let partition = PartitionKey::parse(key)?;
    let base_offset = Fields(key.get(8..).unwrap_or_default()).u64()?;
    let mut fields = Fields(value);
    if fields.u32()? != crc32c::crc32c(fields.0) {
        return Err(damaged("the checksum of a segment's row is wrong"));
    }
    let alone = value.len() == SEGMENT_2_BYTES;
    if !alone && (fields.0.is_empty() || !fields.0.len().is_multiple_of(SEGMENT_ENTRY_BYTES)) {
        return Err(damaged("a segment's row has no length that one can have"));
    }
    let mut entries = Vec::with_capacity(fields.0.len() / SEGMENT_ENTRY_BYTES + 1);
    while !fields.0.is_empty() {
        let delta = if alone { 0 } else { fields.u32()? };
        let (records, bytes) = (fields.u32()?, fields.u32()?);
        entries.push(BatchEntry {
            partition,
            base_offset: base_offset.saturating_add(u64::from(delta)),
            records,
            bytes: bytes & !PACKED,
            packed: bytes & PACKED != 0,
            max_timestamp: fields.i64()?,
            append_ms: fields.i64()?,
            leader_epoch: fields.u32()? as i32,
        });
    }
    Ok(entries)
}

impl BatchEntry {
    fn bytes_field(&self) -> u32 {
        self.bytes | if self.packed { PACKED } else { 0 }
    }

    /// The offset after its last one.
    pub fn offset_next(&self) -> u64 {
        self.base_offset.saturating_add(u64::from(self.records))
    }
}

/// Bytes whose first four become the checksum of the others.
fn sealed(mut out: Vec<u8>) -> Bytes {
    let crc = crc32c::crc32c(&out[4..]);
    out[..4].copy_from_slice(&crc.to_be_bytes());
    out.into()
}

/// Reads numbers from the front of bytes.
pub struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    /// The next four bytes.
    pub fn u32(&mut self) -> Result<u32, StoreError> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> Result<u64, StoreError> {
        self.array().map(u64::from_be_bytes)
    }

    /// The next eight bytes.
    pub fn i64(&mut self) -> Result<i64, StoreError> {
        self.array().map(i64::from_be_bytes)
    }

    /// The next so many bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let Some((array, rest)) = self.0.split_first_chunk::<N>() else {
            return Err(damaged("a row is too short"));
        };
        self.0 = rest;
        Ok(*array)
    }
}

/// A `StoreError` for something that cannot be.
pub fn damaged(why: impl Into<String>) -> StoreError {
    StoreError::Damaged(why.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_reads_back_and_a_flipped_bit_is_found() {
        let entry = |partition, base_offset| BatchEntry {
            partition: PartitionKey { topic: 3, partition },
            base_offset,
            records: 5,
            bytes: 700,
            packed: partition == 1,
            max_timestamp: 17,
            append_ms: 99,
            leader_epoch: 1,
        };
        let entries = vec![entry(0, 10), entry(1, 1 << 41)];
        let mut row = Directory::encode(&entries, 99).to_vec();
        let directory = Directory::decode(&row).unwrap();
        assert_eq!(directory.entries, entries);
        row[30] ^= 1;
        assert!(matches!(Directory::decode(&row), Err(StoreError::Damaged(_))));
    }
}
