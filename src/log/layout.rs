//! Keys and rows of the store, byte by byte; `src/manual/format.md` says the same in words. All numbers are big-endian, so that
//! keys sort as numbers do.
//!
//! ```text
//! journal key      row u64
//! journal head     crc-32c u32 of the rest | entries u32 | append time ms i64 | bytes of head and body u32 |
//!                  entries x (topic key u32, partition u32, base offset u64, records u32, bytes u32, max timestamp i64,
//!                             leader epoch i32)
//! journal body     the batches, in the same order
//! segment key      topic key u32 | partition u32 | base offset u64
//! segment head     crc-32c u32 of the rest | records u32 | bytes u32 | max timestamp i64 | append time ms i64 | leader epoch i32
//! segment body     the batch
//! partition key    topic key u32 | partition u32                              value: log start offset u64
//! ```

use bytes::Bytes;

use super::store::StoreError;

/// The format written here; a store of a newer one is refused.
pub const FORMAT: u32 = 2;

/// Bytes of a directory before its entries.
pub const HEAD_BYTES: usize = 20;
/// Bytes of one entry.
pub const ENTRY_BYTES: usize = 36;

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
            out.extend_from_slice(&entry.bytes.to_be_bytes());
            out.extend_from_slice(&entry.max_timestamp.to_be_bytes());
            out.extend_from_slice(&entry.leader_epoch.to_be_bytes());
        }
        let crc = crc32c::crc32c(&out[4..]);
        out[..4].copy_from_slice(&crc.to_be_bytes());
        out.into()
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
            entries.push(BatchEntry {
                partition: PartitionKey {
                    topic: fields.u32()?,
                    partition: fields.u32()?,
                },
                base_offset: fields.u64()?,
                records: fields.u32()?,
                bytes: fields.u32()?,
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

impl BatchEntry {
    /// The value in `Map::Segments`.
    pub fn encode_segment(&self) -> Vec<u8> {
        let mut out = vec![0; 4];
        out.extend_from_slice(&self.records.to_be_bytes());
        out.extend_from_slice(&self.bytes.to_be_bytes());
        out.extend_from_slice(&self.max_timestamp.to_be_bytes());
        out.extend_from_slice(&self.append_ms.to_be_bytes());
        out.extend_from_slice(&self.leader_epoch.to_be_bytes());
        let crc = crc32c::crc32c(&out[4..]);
        out[..4].copy_from_slice(&crc.to_be_bytes());
        out
    }

    /// Reads an entry of `Map::Segments`.
    pub fn decode_segment(key: &[u8], value: &[u8]) -> Result<Self, StoreError> {
        let partition = PartitionKey::parse(key)?;
        let base_offset = Fields(key.get(8..).unwrap_or_default()).u64()?;
        let mut fields = Fields(value);
        let crc = fields.u32()?;
        if crc != crc32c::crc32c(fields.0) {
            return Err(damaged("the checksum of a segment's row is wrong"));
        }
        Ok(Self {
            partition,
            base_offset,
            records: fields.u32()?,
            bytes: fields.u32()?,
            max_timestamp: fields.i64()?,
            append_ms: fields.i64()?,
            leader_epoch: fields.u32()? as i32,
        })
    }
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

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
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
