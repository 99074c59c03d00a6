//! The 61 bytes before the records.

use super::BatchError;
use crate::model::compression::Codec;

/// Bytes of the header, before the first record.
pub const HEADER_BYTES: usize = 61;

/// Bytes of base offset and length, which the length field does not count.
pub(super) const LENGTH_EXCLUDES: usize = 12;

/// The first byte the CRC covers: the attributes.
pub(super) const CRC_FROM: usize = 21;

pub(super) const APPEND_TIME: i16 = 0x08;
pub(super) const TRANSACTIONAL: i16 = 0x10;
pub(super) const CONTROL: i16 = 0x20;
pub(super) const DELETE_HORIZON: i16 = 0x40;

/// The header of a batch. Field names are Kafka's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Offset of the first record; not negative.
    pub base_offset: i64,
    /// Bytes of the whole batch, the first 12 (base offset and length) included.
    pub total_bytes: usize,
    /// Leader epoch; not covered by the CRC.
    pub partition_leader_epoch: i32,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// Compression (bits 0-2), timestamp type (3), transactional (4), control (5), delete horizon (6).
    pub attributes: i16,
    /// Offset of the last record less the base offset; not negative.
    pub last_offset_delta: i32,
    /// Timestamp of the first record, or the delete horizon where the batch has one. Records count theirs from here.
    pub base_timestamp: i64,
    /// Largest timestamp.
    pub max_timestamp: i64,
    /// -1 when the producer is not idempotent.
    pub producer_id: i64,
    /// -1 when the producer is not idempotent.
    pub producer_epoch: i16,
    /// Sequence of the first record, -1 when the producer is not idempotent.
    pub base_sequence: i32,
    /// Records in the batch; not negative.
    pub records_count: i32,
}

impl Header {
    /// Reads the header at the front of `bytes` and checks what can be checked without the rest: magic, and that lengths,
    /// offsets and counts are not negative. `total_bytes` may be more than there is.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(BatchError::Short { have: bytes.len() });
        };
        let mut at = Fields(head);
        let base_offset = i64::from_be_bytes(at.next());
        let length = i32::from_be_bytes(at.next());
        let partition_leader_epoch = i32::from_be_bytes(at.next());
        let [magic] = at.next();
        if magic != 2 {
            return Err(BatchError::Magic(magic));
        }
        let total_bytes = usize::try_from(length).unwrap_or(0).saturating_add(LENGTH_EXCLUDES);
        if total_bytes < HEADER_BYTES {
            return Err(BatchError::Field {
                name: "batchLength",
                value: length.into(),
            });
        }
        let header = Self {
            base_offset,
            total_bytes,
            partition_leader_epoch,
            crc: u32::from_be_bytes(at.next()),
            attributes: i16::from_be_bytes(at.next()),
            last_offset_delta: i32::from_be_bytes(at.next()),
            base_timestamp: i64::from_be_bytes(at.next()),
            max_timestamp: i64::from_be_bytes(at.next()),
            producer_id: i64::from_be_bytes(at.next()),
            producer_epoch: i16::from_be_bytes(at.next()),
            base_sequence: i32::from_be_bytes(at.next()),
            records_count: i32::from_be_bytes(at.next()),
        };
        let not_negative = [
            ("baseOffset", base_offset),
            ("lastOffsetDelta", header.last_offset_delta.into()),
            ("recordsCount", header.records_count.into()),
        ];
        match not_negative.into_iter().find(|(_, value)| *value < 0) {
            Some((name, value)) => Err(BatchError::Field { name, value }),
            None => Ok(header),
        }
    }

    /// How the records are compressed.
    pub fn codec(&self) -> Result<Codec, BatchError> {
        let id = (self.attributes & 0x07).unsigned_abs() as u8;
        Codec::from_id(id).ok_or(BatchError::UnknownCodec(id))
    }

    /// Whether every record's timestamp is the broker's append time, which is `max_timestamp`.
    pub fn is_append_time(&self) -> bool {
        self.attributes & APPEND_TIME != 0
    }

    /// Whether it is part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether it is a transaction's marker, which no producer may send.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// When the tombstones in it may go, ms since 1970; compaction sets it when it first meets them. Source: KIP-534.
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON != 0).then_some(self.base_timestamp)
    }

    /// Whether an idempotent producer made it.
    pub fn is_idempotent(&self) -> bool {
        self.producer_id >= 0
    }

    /// The rules for a producer's batch that the header alone shows.
    pub(super) fn check_producer(&self) -> Result<(), BatchError> {
        let wrong = |name, value: i64| Err(BatchError::Field { name, value });
        if self.is_control() {
            return wrong("attributes", self.attributes.into());
        }
        if self.records_count == 0 || self.records_count.checked_sub(1) != Some(self.last_offset_delta) {
            return wrong("lastOffsetDelta", self.last_offset_delta.into());
        }
        if self.is_idempotent() && self.base_sequence < 0 {
            return wrong("baseSequence", self.base_sequence.into());
        }
        if self.is_idempotent() && self.producer_epoch < 0 {
            return wrong("producerEpoch", self.producer_epoch.into());
        }
        if !self.is_idempotent() && self.is_transactional() {
            return wrong("producerId", self.producer_id);
        }
        Ok(())
    }
}

/// Takes fields off the front; the array's length makes it a compile-time sum that all fits.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn next<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk::<N>() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            // Never: the fields add up to `HEADER_BYTES`.
            None => [0; N],
        }
    }
}
