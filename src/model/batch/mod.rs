//! Kafka record batch v2: a checked view on the bytes as they are stored and as a Kafka client reads them, and a packer for
//! the records that headwater batches itself. Source: Kafka documentation, "Record Batch"; `DefaultRecordBatch.java`.
//!
//! | bytes | field | bytes | field |
//! |---|---|---|---|
//! | 0..8 | base offset | 27..35 | base timestamp |
//! | 8..12 | length of what follows | 35..43 | max timestamp |
//! | 12..16 | partition leader epoch | 43..51 | producer id |
//! | 16 | magic, 2 | 51..53 | producer epoch |
//! | 17..21 | CRC-32C of 21.. | 53..57 | base sequence |
//! | 21..23 | attributes | 57..61 | number of records |
//! | 23..27 | last offset delta | 61.. | records, compressed as one piece |
//!
//! Numbers are big-endian. A record: length (varint), attributes (1 byte), timestamp delta (varlong), offset delta (varint), key,
//! value (each a varint length, -1 for null, and bytes), number of headers (varint), and for each a name and a value likewise.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use bytes::Bytes;

use super::compression::{Codec, Inflater};
use super::{Offset, Record, RecordHeader};

mod error;
mod header;
mod pack;
mod retain;
mod stamp;
#[cfg(test)]
mod tests;
mod view;

pub use error::{BatchError, RecordFault};
pub use header::{HEADER_BYTES, Header};
pub use pack::{Packer, pack, pack_compressed, pack_into, packed_bytes, recompress};
pub use retain::{Retained, retain};
pub use stamp::{shift_time, stamp, stamp_append_time, stamp_producer};
pub use view::{HeaderView, Headers, RecordView, RecordViews};

/// One batch whose header and CRC are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    bytes: Bytes,
    header: Header,
}

impl Batch {
    /// Parses exactly one batch and checks length, magic, header fields and CRC; does not look at the records.
    pub fn parse(bytes: Bytes) -> Result<Self, BatchError> {
        let batch = Self::parse_trusted(bytes)?;
        let covered = batch.bytes.get(header::CRC_FROM..).unwrap_or_default();
        let is = crc32c::crc32c(covered);
        if is != batch.header.crc {
            return Err(BatchError::Crc {
                says: batch.header.crc,
                is,
            });
        }
        Ok(batch)
    }

    /// As `parse`, for bytes of our own store, whose CRC was checked on the way in.
    pub fn parse_trusted(bytes: Bytes) -> Result<Self, BatchError> {
        let header = Header::parse(&bytes)?;
        if header.total_bytes != bytes.len() {
            return Err(BatchError::Length {
                says: header.total_bytes,
                have: bytes.len(),
            });
        }
        Ok(Self { bytes, header })
    }

    /// The same batch with every timestamp moved.
    pub fn shifted(self, by_ms: i64) -> Self {
        if by_ms == 0 {
            return self;
        }
        let mut bytes = self.bytes.to_vec();
        shift_time(&mut bytes, by_ms);
        Self::parse_trusted(bytes.into()).unwrap_or(self)
    }

    /// The batches that follow each other in `bytes`, as a read gives them, each checked as by `parse`. Ends after an error.
    pub fn split(bytes: Bytes) -> impl Iterator<Item = Result<Self, BatchError>> {
        pieces(bytes).map(|piece| piece.and_then(Self::parse))
    }

    /// As `split`, for bytes of our own store: without the CRC.
    pub fn split_trusted(bytes: Bytes) -> impl Iterator<Item = Result<Self, BatchError>> {
        pieces(bytes).map(|piece| piece.and_then(Self::parse_trusted))
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The bytes as stored.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bytes as stored.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The offset of the first record.
    pub fn base_offset(&self) -> Offset {
        // `Header::parse` refuses negative ones.
        Offset(self.header.base_offset.unsigned_abs())
    }

    /// The offset after the last record.
    pub fn offset_next(&self) -> Offset {
        self.base_offset()
            .plus(u64::from(self.header.last_offset_delta.unsigned_abs()))
            .plus(1)
    }

    /// The records in place, decompressed into `inflater`'s buffer where needed, at most `output_bytes_max` of it. Offsets must
    /// rise and stay within the batch; after an error nothing more comes.
    pub fn views<'a>(
        &'a self,
        inflater: &'a mut Inflater,
        output_bytes_max: usize,
    ) -> Result<RecordViews<'a>, BatchError> {
        let section = match self.header.codec()? {
            Codec::None => self.section(),
            codec => inflater.inflate(codec, self.section(), output_bytes_max)?,
        };
        Ok(RecordViews::new(&self.header, section))
    }

    /// Every record, with its offset, decompressed; at most `output_bytes_max` of decompressed records section. Keys and values
    /// share the memory of the batch or of its decompressed form.
    pub fn records(&self, output_bytes_max: usize) -> Result<Vec<(Offset, Record)>, BatchError> {
        let section = match self.header.codec()? {
            Codec::None => self.bytes.slice(HEADER_BYTES..),
            codec => {
                let mut inflater = Inflater::default();
                inflater.inflate(codec, self.section(), output_bytes_max)?;
                Bytes::from(inflater.into_buffer())
            }
        };
        let views = RecordViews::new(&self.header, &section);
        let mut records = Vec::with_capacity(views.records_max());
        let share = |part: Option<&[u8]>| part.map(|p| section.slice_ref(p));
        for view in views {
            let view = view?;
            let headers = view.headers.clone();
            records.push((
                view.offset,
                Record {
                    key: share(view.key),
                    value: share(view.value),
                    headers: headers
                        .map(|h| RecordHeader {
                            name: h.name.to_owned(),
                            value: share(h.value),
                        })
                        .collect(),
                    timestamp_ms: view.timestamp_ms,
                },
            ));
        }
        Ok(records)
    }

    /// What a broker must check before it stores a producer's batch: every record decodes within the bound, nothing is left
    /// over, offsets count up from 0 without a gap, it is no control batch, and sequence fields fit together. Copies no record.
    /// Source: `LogValidator.java`.
    pub fn verify_records(&self, output_bytes_max: usize) -> Result<(), BatchError> {
        self.verify_records_with(&mut Inflater::default(), output_bytes_max, false)
    }

    /// As `verify_records`, with a buffer that is used again and again; for a compacted topic every record must be `keyed`.
    pub fn verify_records_with(
        &self,
        inflater: &mut Inflater,
        output_bytes_max: usize,
        keyed: bool,
    ) -> Result<(), BatchError> {
        let header = &self.header;
        header.check_producer()?;
        for view in self.views(inflater, output_bytes_max)?.without_gaps().keyed(keyed) {
            view?;
        }
        Ok(())
    }

    /// What must hold for any stored batch, compacted ones with gaps and control batches included: every record decodes within
    /// the bound, offsets rise within the batch, nothing is left over.
    pub fn verify_stored(&self, inflater: &mut Inflater, output_bytes_max: usize) -> Result<(), BatchError> {
        for view in self.views(inflater, output_bytes_max)? {
            view?;
        }
        Ok(())
    }

    fn section(&self) -> &[u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }
}

fn pieces(mut bytes: Bytes) -> impl Iterator<Item = Result<Bytes, BatchError>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let piece = Header::parse(&bytes).and_then(|h| {
            if h.total_bytes > bytes.len() {
                return Err(BatchError::Length {
                    says: h.total_bytes,
                    have: bytes.len(),
                });
            }
            Ok(bytes.split_to(h.total_bytes))
        });
        if piece.is_err() {
            bytes.clear();
        }
        Some(piece)
    })
}
