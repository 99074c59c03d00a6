//! Keys and rows of the store, byte by byte; `src/manual/format.md` says the same in words. All numbers are big-endian, so that
//! keys sort as numbers do.
//!
//! ```text
//! journal row      crc-32c u32 of the rest of the directory | entries u32 | append time ms i64 | row bytes u32 |
//!                  entries x (topic key u32, partition u32, base offset u64, records u32, bytes u32, max timestamp i64,
//!                             leader epoch i32) | the batches, in the same order
//! journal key      row u64 | piece u16
//! segment key      topic key u32 | partition u32 | base offset u64            (segment_data: | piece u16)
//! segment value    crc-32c u32 of the rest | records u32 | bytes u32 | max timestamp i64 | append time ms i64 | leader epoch i32
//! partition key    topic key u32 | partition u32                              value: log start offset u64
//! ```

use bytes::Bytes;

use super::store::StoreError;

/// The format written here; a store of a newer one is refused.
pub const FORMAT: u32 = 1;

/// Bytes of a journal row before its entries.
pub const ROW_HEAD_BYTES: usize = 20;
/// Bytes of one entry.
pub const ENTRY_BYTES: usize = 36;
/// Largest piece of a row: `4096 << PIECE_SHIFT_MAX` less `PIECE_SLACK_BYTES`.
const PIECE_SHIFT_MAX: u32 = 6;
/// What a page of the store needs beside key and value: a larger piece would take a page of twice the size.
const PIECE_SLACK_BYTES: usize = 32;
const PAGE_BYTES: usize = 4096;

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

    /// Key in `Map::SegmentData`.
    pub fn segment_piece(self, base_offset: u64, piece: usize) -> Vec<u8> {
        [&self.segment(base_offset)[..], &piece_number(piece)].concat()
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
pub fn journal_key(row: u64, piece: usize) -> Vec<u8> {
    [&row.to_be_bytes()[..], &piece_number(piece)].concat()
}

fn piece_number(piece: usize) -> [u8; 2] {
    u16::try_from(piece)
        .expect("a commit has far fewer pieces")
        .to_be_bytes()
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
    /// Bytes of the whole row.
    pub row_bytes: usize,
    /// Its batches, in the order of their bytes.
    pub entries: Vec<BatchEntry>,
}

impl Directory {
    /// Bytes before the first batch.
    pub fn bytes(entries: usize) -> usize {
        ROW_HEAD_BYTES + entries * ENTRY_BYTES
    }

    /// Writes the directory of a row.
    pub fn encode(entries: &[BatchEntry], append_ms: i64) -> Bytes {
        let head = Self::bytes(entries.len());
        let row = head + entries.iter().map(|entry| entry.bytes as usize).sum::<usize>();
        let mut out = Vec::with_capacity(head);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(entries.len() as u32).to_be_bytes());
        out.extend_from_slice(&append_ms.to_be_bytes());
        out.extend_from_slice(&(row as u32).to_be_bytes());
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

    /// Bytes that `decode` needs, from a row's first bytes.
    pub fn bytes_needed(row: &[u8]) -> Result<usize, StoreError> {
        let mut fields = Fields(row);
        fields.u32()?;
        let entries = fields.u32()? as usize;
        Ok(Self::bytes(entries))
    }

    /// Reads the directory from a row's beginning.
    pub fn decode(row: &[u8]) -> Result<Self, StoreError> {
        let needed = Self::bytes_needed(row)?;
        let Some(directory) = row.get(..needed) else {
            return Err(damaged("a journal row ends inside of its directory"));
        };
        let mut fields = Fields(directory);
        if fields.u32()? != crc32c::crc32c(&directory[4..]) {
            return Err(damaged("the checksum of a journal row's directory is wrong"));
        }
        let count = fields.u32()?;
        let append_ms = fields.i64()?;
        let row_bytes = fields.u32()? as usize;
        let mut entries = Vec::with_capacity(count as usize);
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
        Ok(Self { row_bytes, entries })
    }
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

/// Sizes of the pieces that a value of `total` bytes is cut to, so that each but the last fills a page of the store.
pub fn pieces(total: usize) -> Vec<usize> {
    let mut sizes = Vec::new();
    let mut rest = total;
    while rest > 0 {
        let fits = |shift: &u32| (PAGE_BYTES << shift) - PIECE_SLACK_BYTES <= rest;
        let size = match (0..=PIECE_SHIFT_MAX).rev().find(fits) {
            Some(shift) => (PAGE_BYTES << shift) - PIECE_SLACK_BYTES,
            None => rest,
        };
        sizes.push(size);
        rest -= size;
    }
    sizes
}

/// Cuts slices that lie one behind the other to pieces, without copying.
pub fn cut(slices: Vec<Bytes>) -> Vec<Vec<Bytes>> {
    let total = slices.iter().map(Bytes::len).sum();
    let mut slices = slices.into_iter();
    let mut rest = Bytes::new();
    let mut out = Vec::new();
    for mut wanted in pieces(total) {
        let mut piece = Vec::new();
        while wanted > 0 {
            if rest.is_empty() {
                rest = slices.next().expect("the pieces add up to the slices");
            }
            let taken = rest.split_to(wanted.min(rest.len()));
            wanted -= taken.len();
            piece.push(taken);
        }
        out.push(piece);
    }
    out
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
    fn pieces_fill_pages_and_add_up() {
        for total in [0, 1, 4064, 4065, 10_000, 69_000, 1 << 20, 3_000_001] {
            let sizes = pieces(total);
            assert_eq!(sizes.iter().sum::<usize>(), total);
            let full = |size: &usize| (size + PIECE_SLACK_BYTES).is_power_of_two();
            assert!(sizes.iter().rev().skip(1).all(full), "{total}: {sizes:?}");
        }
    }

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
        assert_eq!(directory.row_bytes, row.len() + 1400);
        row[30] ^= 1;
        assert!(matches!(Directory::decode(&row), Err(StoreError::Damaged(_))));
    }
}
