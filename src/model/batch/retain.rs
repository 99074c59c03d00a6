//! A batch with some of its records: what compaction leaves of it. Offsets, producer fields, timestamp type and compression stay,
//! and so does the last offset delta, which the last sequence follows from. Source: `MemoryRecords.filterTo` of Apache Kafka.

#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "batches of our own, parsed before"
)]

use super::header::{CRC_FROM, DELETE_HORIZON, HEADER_BYTES};
use super::pack::{put_length, put_varint, varint_bytes};
use super::stamp::{put, renew_crc};
use super::{Batch, BatchError, RecordView};
use crate::model::compression::{Codec, Inflater, compress};

/// What is left of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retained {
    /// All of it, as it is.
    Whole,
    /// No record.
    Nothing,
    /// This batch, with so many records.
    Part(Vec<u8>, u32),
}

/// The batch with the records that `keep` wants; it is asked about each up to twice. Where tombstones stay and the batch has no
/// delete horizon, it gets this one. Its records decompress to at most `output_bytes_max`.
pub fn retain(
    batch: &Batch,
    inflater: &mut Inflater,
    output_bytes_max: usize,
    horizon_ms: i64,
    keep: impl Fn(&RecordView<'_>) -> bool,
) -> Result<Retained, BatchError> {
    let header = *batch.header();
    let codec = header.codec()?;
    let views = batch.views(inflater, output_bytes_max)?;
    let (mut all, mut kept, mut tombstones, mut newest) = (0u32, 0u32, false, i64::MIN);
    for view in views.clone() {
        let view = view?;
        all += 1;
        if keep(&view) {
            kept += 1;
            tombstones |= view.value.is_none();
            newest = newest.max(view.timestamp_ms);
        }
    }
    if kept == 0 {
        return Ok(Retained::Nothing);
    }
    let gets_horizon = tombstones && header.delete_horizon_ms().is_none();
    if kept == all && !gets_horizon {
        return Ok(Retained::Whole);
    }
    let base_timestamp = if gets_horizon {
        horizon_ms
    } else {
        header.base_timestamp
    };
    let mut section = Vec::new();
    for view in views {
        let view = view?;
        if keep(&view) {
            put_view(&mut section, &view, base_timestamp);
        }
    }
    let mut out = batch.bytes()[..HEADER_BYTES].to_vec();
    match codec {
        Codec::None => out.append(&mut section),
        codec => compress(codec, &section, &mut out),
    }
    put_length(&mut out);
    let horizon = if gets_horizon { DELETE_HORIZON } else { 0 };
    put(&mut out, CRC_FROM, (header.attributes | horizon).to_be_bytes());
    put(&mut out, 27, base_timestamp.to_be_bytes());
    put(&mut out, 35, newest.to_be_bytes());
    put(&mut out, 57, kept.to_be_bytes());
    renew_crc(&mut out);
    Ok(Retained::Part(out, kept))
}

/// The record as it was, its timestamp counted from another base.
fn put_view(out: &mut Vec<u8>, view: &RecordView<'_>, base_timestamp: i64) {
    // Wrapping, as a Java client adds them up.
    let timestamp_delta = view.timestamp_ms.wrapping_sub(base_timestamp);
    let body = 1 + varint_bytes(timestamp_delta) + view.rest.len();
    put_varint(out, body as i64);
    out.push(view.attributes);
    put_varint(out, timestamp_delta);
    out.extend_from_slice(view.rest);
}
