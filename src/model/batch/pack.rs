//! Packing records of our own into a batch: sizes first, so that one allocation of the exact size takes it all.

#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    reason = "records of our own, whose sizes were limited when they came in"
)]

use super::header::{CRC_FROM, HEADER_BYTES, LENGTH_EXCLUDES};
use super::stamp::{put, renew_crc};
use super::{Batch, BatchError};
use crate::model::Record;
use crate::model::compression::{Codec, Inflater, compress};

/// Packs records into one uncompressed batch with base offset 0 and no producer; the writer stamps the offset. Panics without
/// records: a batch has at least one.
pub fn pack(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::with_capacity(packed_bytes(records));
    pack_into(&mut out, records);
    out
}

/// Appends the batch of `records` to `out`, as `pack`.
pub fn pack_into<'a>(out: &mut Vec<u8>, records: impl IntoIterator<Item = &'a Record> + Clone) {
    let start = out.len();
    let mut shape = Shape::of(records.clone());
    out.resize(start + HEADER_BYTES, 0);
    put_records(out, records, shape.base_timestamp);
    shape.finish(&mut out[start..], Codec::None);
}

/// Bytes of the batch that `pack` makes of `records`.
pub fn packed_bytes<'a>(records: impl IntoIterator<Item = &'a Record>) -> usize {
    let mut base_timestamp = None;
    let mut bytes = HEADER_BYTES;
    for (delta, record) in (0i32..).zip(records) {
        let base = *base_timestamp.get_or_insert(record.timestamp_ms);
        let body = body_bytes(record, record.timestamp_ms.wrapping_sub(base), delta);
        bytes += varint_bytes(body as i64) + body;
    }
    bytes
}

/// As `pack`, compressed.
pub fn pack_compressed(records: &[Record], codec: Codec) -> Vec<u8> {
    let mut shape = Shape::of(records);
    let mut section = Vec::with_capacity(packed_bytes(records) - HEADER_BYTES);
    put_records(&mut section, records, shape.base_timestamp);
    let mut out = vec![0; HEADER_BYTES];
    compress(codec, &section, &mut out);
    shape.finish(&mut out, codec);
    out
}

/// The same batch, its records compressed by another codec; offsets, timestamps and producer fields stay.
pub fn recompress(batch: &Batch, codec: Codec, output_bytes_max: usize) -> Result<Vec<u8>, BatchError> {
    let mut inflater = Inflater::default();
    let section = inflater.inflate(batch.header().codec()?, batch.section(), output_bytes_max)?;
    let mut out = batch.bytes()[..HEADER_BYTES].to_vec();
    compress(codec, section, &mut out);
    let attributes = (batch.header().attributes & !0x07) | i16::from(codec.id());
    put(&mut out, CRC_FROM, attributes.to_be_bytes());
    put_length(&mut out);
    renew_crc(&mut out);
    Ok(out)
}

/// What the header says of the records.
struct Shape {
    base_timestamp: i64,
    max_timestamp: i64,
    count: i32,
}

impl Shape {
    fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut times = records.into_iter().map(|r| r.timestamp_ms);
        let base_timestamp = times.next().expect("a batch has at least one record");
        let mut shape = Self {
            base_timestamp,
            max_timestamp: base_timestamp,
            count: 1,
        };
        for time in times {
            shape.max_timestamp = shape.max_timestamp.max(time);
            shape.count += 1;
        }
        shape
    }

    fn finish(&mut self, batch: &mut [u8], codec: Codec) {
        put_length(batch);
        put(batch, 12, (-1i32).to_be_bytes());
        put(batch, 16, [2]);
        put(batch, CRC_FROM, i16::from(codec.id()).to_be_bytes());
        put(batch, 23, (self.count - 1).to_be_bytes());
        put(batch, 27, self.base_timestamp.to_be_bytes());
        put(batch, 35, self.max_timestamp.to_be_bytes());
        put(batch, 43, (-1i64).to_be_bytes());
        put(batch, 51, (-1i16).to_be_bytes());
        put(batch, 53, (-1i32).to_be_bytes());
        put(batch, 57, self.count.to_be_bytes());
        renew_crc(batch);
    }
}

fn put_length(batch: &mut [u8]) {
    let length = i32::try_from(batch.len() - LENGTH_EXCLUDES).expect("a batch within 2 GiB");
    put(batch, 8, length.to_be_bytes());
}

fn put_records<'a>(out: &mut Vec<u8>, records: impl IntoIterator<Item = &'a Record>, base_timestamp: i64) {
    for (offset_delta, record) in (0i32..).zip(records) {
        // Wrapping, so that timestamps at both ends of the range come back as they were.
        let timestamp_delta = record.timestamp_ms.wrapping_sub(base_timestamp);
        put_varint(out, body_bytes(record, timestamp_delta, offset_delta) as i64);
        out.push(0);
        put_varint(out, timestamp_delta);
        put_varint(out, offset_delta.into());
        put_field(out, record.key.as_deref());
        put_field(out, record.value.as_deref());
        put_varint(out, record.headers.len() as i64);
        for header in &record.headers {
            put_field(out, Some(header.name.as_bytes()));
            put_field(out, header.value.as_deref());
        }
    }
}

fn body_bytes(record: &Record, timestamp_delta: i64, offset_delta: i32) -> usize {
    let headers: usize = record
        .headers
        .iter()
        .map(|h| field_bytes(Some(h.name.as_bytes())) + field_bytes(h.value.as_deref()))
        .sum();
    1 + varint_bytes(timestamp_delta)
        + varint_bytes(offset_delta.into())
        + field_bytes(record.key.as_deref())
        + field_bytes(record.value.as_deref())
        + varint_bytes(record.headers.len() as i64)
        + headers
}

fn put_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    put_varint(out, field.map_or(-1, |f| f.len() as i64));
    out.extend_from_slice(field.unwrap_or_default());
}

fn field_bytes(field: Option<&[u8]>) -> usize {
    field.map_or(1, |f| varint_bytes(f.len() as i64) + f.len())
}

/// Zigzag, so one function serves varint and varlong.
fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut raw = zigzag(value);
    while raw > 0x7f {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

fn varint_bytes(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}
