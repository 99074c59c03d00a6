//! Packing records of our own into a batch.

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
pub fn pack_into<'a>(out: &mut Vec<u8>, records: impl IntoIterator<Item = &'a Record>) {
    let mut packer = Packer::behind(std::mem::take(out));
    records.into_iter().for_each(|record| packer.push(record));
    *out = packer.finish();
}

/// A batch in the making: each record is packed as it comes, and what is left to do for the last one is the header.
#[derive(Debug)]
pub struct Packer {
    out: Vec<u8>,
    /// Where the batch begins.
    begins: usize,
    shape: Option<Shape>,
}

impl Packer {
    /// A batch behind what is in `out`.
    pub fn behind(mut out: Vec<u8>) -> Self {
        let begins = out.len();
        out.resize(begins + HEADER_BYTES, 0);
        Self {
            out,
            begins,
            shape: None,
        }
    }

    /// Packs a record behind the others.
    pub fn push(&mut self, record: &Record) {
        let (base_timestamp, delta) = match &mut self.shape {
            Some(shape) => {
                shape.add(record.timestamp_ms);
                (shape.base_timestamp, shape.count - 1)
            }
            None => {
                self.shape = Some(Shape::of_first(record.timestamp_ms));
                (record.timestamp_ms, 0)
            }
        };
        put_record(&mut self.out, record, base_timestamp, delta);
    }

    /// How many records are in it.
    pub fn records(&self) -> u32 {
        self.shape.as_ref().map_or(0, |shape| shape.count as u32)
    }

    /// Bytes so far.
    pub fn bytes(&self) -> usize {
        self.out.len() - self.begins
    }

    /// Largest timestamp of its records; -1 while there are none.
    pub fn max_timestamp(&self) -> i64 {
        self.shape.as_ref().map_or(-1, |shape| shape.max_timestamp)
    }

    /// The batch, with its header filled in, as `pack`.
    pub fn finish(mut self) -> Vec<u8> {
        let mut shape = self.shape.expect("a batch has at least one record");
        shape.finish(&mut self.out[self.begins..], Codec::None);
        self.out
    }
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
#[derive(Debug)]
struct Shape {
    base_timestamp: i64,
    max_timestamp: i64,
    count: i32,
}

impl Shape {
    fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut times = records.into_iter().map(|r| r.timestamp_ms);
        let mut shape = Self::of_first(times.next().expect("a batch has at least one record"));
        times.for_each(|time| shape.add(time));
        shape
    }

    fn of_first(time: i64) -> Self {
        Self {
            base_timestamp: time,
            max_timestamp: time,
            count: 1,
        }
    }

    fn add(&mut self, time: i64) {
        self.max_timestamp = self.max_timestamp.max(time);
        self.count += 1;
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

pub(super) fn put_length(batch: &mut [u8]) {
    let length = i32::try_from(batch.len() - LENGTH_EXCLUDES).expect("a batch within 2 GiB");
    put(batch, 8, length.to_be_bytes());
}

fn put_records<'a>(out: &mut Vec<u8>, records: impl IntoIterator<Item = &'a Record>, base_timestamp: i64) {
    for (offset_delta, record) in (0i32..).zip(records) {
        put_record(out, record, base_timestamp, offset_delta);
    }
}

fn put_record(out: &mut Vec<u8>, record: &Record, base_timestamp: i64, offset_delta: i32) {
    // Wrapping, so that timestamps at both ends of the range come back as they were.
    let timestamp_delta = record.timestamp_ms.wrapping_sub(base_timestamp);
    let body = body_bytes(record, timestamp_delta, offset_delta);
    out.reserve(varint_bytes(body as i64) + body);
    put_varint(out, body as i64);
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
pub(super) fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut raw = zigzag(value);
    while raw > 0x7f {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

pub(super) fn varint_bytes(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}
