//! Changes to the header of a batch that exists: what a broker or the forwarder writes into it. Records are never touched.
//! The slice must hold a batch that was parsed before; anything else is our own bug and panics.

#![allow(
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "batches of our own, parsed before"
)]

use super::header::{APPEND_TIME, CRC_FROM, HEADER_BYTES, TRANSACTIONAL};
use crate::model::Offset;

/// Writes base offset and leader epoch into a batch's bytes; the CRC does not cover them.
pub fn stamp(batch: &mut [u8], base_offset: Offset, leader_epoch: i32) {
    put(batch, 0, base_offset.kafka().to_be_bytes());
    put(batch, 12, leader_epoch.to_be_bytes());
}

/// Makes `time_ms` the timestamp of every record, as a topic with LogAppendTime has it, and renews the CRC.
pub fn stamp_append_time(batch: &mut [u8], time_ms: i64) {
    put(batch, CRC_FROM, (attributes(batch) | APPEND_TIME).to_be_bytes());
    put(batch, 35, time_ms.to_be_bytes());
    renew_crc(batch);
}

/// Moves the timestamp of every record, and renews the CRC: records hold theirs less the batch's.
pub fn shift_time(batch: &mut [u8], by_ms: i64) {
    for at in [27, 35] {
        let time_ms = i64::from_be_bytes(*batch[at..].first_chunk().expect("a whole batch header"));
        put(batch, at, time_ms.saturating_add(by_ms).to_be_bytes());
    }
    renew_crc(batch);
}

/// Makes it a batch of this producer, and renews the CRC: how the forwarder sends on what another producer had made.
pub fn stamp_producer(
    batch: &mut [u8],
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    transactional: bool,
) {
    let others = attributes(batch) & !TRANSACTIONAL;
    put(
        batch,
        CRC_FROM,
        (others | if transactional { TRANSACTIONAL } else { 0 }).to_be_bytes(),
    );
    put(batch, 43, producer_id.to_be_bytes());
    put(batch, 51, producer_epoch.to_be_bytes());
    put(batch, 53, base_sequence.to_be_bytes());
    renew_crc(batch);
}

pub(super) fn renew_crc(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[CRC_FROM..]);
    put(batch, 17, crc.to_be_bytes());
}

fn attributes(batch: &[u8]) -> i16 {
    i16::from_be_bytes(*batch[CRC_FROM..].first_chunk().expect("a whole batch header"))
}

pub(super) fn put<const N: usize>(batch: &mut [u8], at: usize, field: [u8; N]) {
    debug_assert!(batch.len() >= HEADER_BYTES, "a whole batch header");
    *batch[at..].first_chunk_mut().expect("a whole batch header") = field;
}
