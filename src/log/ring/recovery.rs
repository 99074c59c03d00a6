//! What an opening finds in a ring: its id, its records, and what of them the database file may lack.

use std::collections::BTreeMap;
use std::io;

use super::{BLOCK, EXTENT, HEADER, MAGIC};
use crate::log::disk::Disk;

/// A whole record of the ring.
pub(super) struct Record {
    pub(super) seq: u64,
    pub(super) checkpointed: u64,
    pub(super) file_len: u64,
    pub(super) at: u64,
    pub(super) bytes: u64,
    extents: u32,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

/// The ring's id; an empty file gets one.
pub(super) fn identify(ring: &impl Disk, ring_bytes: u64, fresh_id: [u8; 16]) -> io::Result<[u8; 16]> {
    let mut first = [0; HEADER];
    let len = ring.len()?;
    if len >= BLOCK {
        ring.read(0, &mut first)?;
    }
    if &first[..8] == MAGIC {
        let mut id = [0; 16];
        id.copy_from_slice(&first[8..24]);
        return Ok(id);
    }
    // A power cut during the very first opening leaves zeros; anything else is damage, and records may be lost with it.
    let mut block = vec![0; BLOCK as usize];
    for at in (0..len / BLOCK * BLOCK).step_by(BLOCK as usize) {
        ring.read(at, &mut block)?;
        if block.iter().any(|byte| *byte != 0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the ring's first block is damaged",
            ));
        }
    }
    ring.set_len(ring_bytes)?;
    ring.write(0, MAGIC)?;
    ring.write(8, &fresh_id)?;
    ring.sync()?;
    Ok(fresh_id)
}

/// Every whole record, by seq.
pub(super) fn scan(ring: &impl Disk, ring_len: u64, id: &[u8]) -> io::Result<BTreeMap<u64, Record>> {
    let mut records = BTreeMap::new();
    let mut header = [0; HEADER];
    for at in (BLOCK..ring_len).step_by(BLOCK as usize) {
        ring.read(at, &mut header)?;
        let bytes = (HEADER as u64 + u64::from(u32_at(&header, 36))).next_multiple_of(BLOCK);
        if &header[..8] != MAGIC || at + bytes > ring_len {
            continue;
        }
        let mut whole = vec![0; bytes as usize];
        ring.read(at, &mut whole)?;
        whole[40..44].fill(0);
        if crc32c::crc32c_append(crc32c::crc32c(id), &whole) != u32_at(&header, 40) {
            continue;
        }
        let seq = u64_at(&header, 8);
        let record = Record {
            seq,
            checkpointed: u64_at(&header, 16),
            file_len: u64_at(&header, 24),
            at,
            bytes,
            extents: u32_at(&header, 32),
        };
        records.insert(seq, record);
    }
    Ok(records)
}

/// Whether every record after the newest checkpoint is there.
fn gapless(records: &BTreeMap<u64, Record>, newest: &Record) -> bool {
    let there = records.range(newest.checkpointed + 1..=newest.seq).count() as u64;
    there == newest.seq - newest.checkpointed
}

/// Writes what the records after the newest checkpoint hold, and syncs.
pub(super) fn replay(
    file: &impl Disk,
    ring: &impl Disk,
    records: &BTreeMap<u64, Record>,
    newest: &Record,
) -> io::Result<()> {
    let after = records.range(newest.checkpointed + 1..=newest.seq);
    if after.map(|(_, record)| record).all(|record| record.extents == 0) && gapless(records, newest) {
        // Closed, or all of it checkpointed: whatever the database file holds, it does not come from here.
        return Ok(());
    }
    if file.len()? < newest.file_len {
        file.set_len(newest.file_len)?;
    }
    for seq in newest.checkpointed + 1..=newest.seq {
        let Some(record) = records.get(&seq) else {
            let why = format!("record {seq} of the ring is damaged; {} is the newest", newest.seq);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        };
        let mut whole = vec![0; record.bytes as usize];
        ring.read(record.at, &mut whole)?;
        let extents = record.extents as usize;
        let mut from = HEADER + extents * EXTENT;
        for i in 0..extents {
            let entry = HEADER + i * EXTENT;
            let (len, stored) = (u32_at(&whole, entry + 8) as usize, u32_at(&whole, entry + 12) as usize);
            let mut data = whole
                .get(from..from + stored)
                .ok_or(io::ErrorKind::InvalidData)?
                .to_vec();
            data.resize(len, 0);
            file.write(u64_at(&whole, entry), &data)?;
            from += stored;
        }
    }
    file.sync()
}
