//! A record of the ring as bytes, and where the next one may go.

use std::collections::VecDeque;

use super::extents::Extents;
use super::{BLOCK, EXTENT, HEADER, MAGIC};

/// The bytes of a record with these extents, its header not stamped yet.
pub(super) fn encode(extents: &Extents, record: &mut Vec<u8>) {
    record.clear();
    record.resize(HEADER + extents.len() * EXTENT, 0);
    for (i, (at, data)) in extents.iter().enumerate() {
        // Fresh pages end in zeros: cut in words, which is quick.
        let zeros = data.rchunks_exact(8).take_while(|word| **word == [0; 8]).count() * 8;
        let stored = data.len() - zeros;
        let entry = &mut record[HEADER + i * EXTENT..][..EXTENT];
        entry[..8].copy_from_slice(&at.to_le_bytes());
        entry[8..12].copy_from_slice(&(data.len() as u32).to_le_bytes());
        entry[12..].copy_from_slice(&(stored as u32).to_le_bytes());
        record.extend_from_slice(&data[..stored]);
    }
    let body = record.len() - HEADER;
    record[32..36].copy_from_slice(&(extents.len() as u32).to_le_bytes());
    record[36..40].copy_from_slice(&(body as u32).to_le_bytes());
    record.resize(record.len().next_multiple_of(BLOCK as usize), 0);
}

/// Completes a record's header.
pub(super) fn stamp(record: &mut [u8], id: &[u8; 16], seq: u64, checkpointed: u64, file_len: u64) {
    record[..8].copy_from_slice(MAGIC);
    record[8..16].copy_from_slice(&seq.to_le_bytes());
    record[16..24].copy_from_slice(&checkpointed.to_le_bytes());
    record[24..32].copy_from_slice(&file_len.to_le_bytes());
    record[40..44].fill(0);
    let crc = crc32c::crc32c_append(crc32c::crc32c(id), record);
    record[40..44].copy_from_slice(&crc.to_le_bytes());
}

/// Which part of the ring is in use.
#[derive(Debug)]
pub(super) struct Track {
    /// Bytes of the ring.
    pub(super) len: u64,
    /// Where the next record goes, if it fits before the end.
    pub(super) head: u64,
    /// Records that are not free space yet: seq, place, bytes.
    pub(super) live: VecDeque<(u64, u64, u64)>,
}

impl Track {
    /// Where a record of `bytes` can go without touching a live one, a block kept in reserve for a checkpoint mark.
    pub(super) fn place(&self, bytes: u64) -> Option<u64> {
        let needed = bytes + BLOCK;
        let Some((_, tail, _)) = self.live.front() else {
            let at = if self.head + needed <= self.len {
                self.head
            } else {
                BLOCK
            };
            return (at + needed <= self.len).then_some(at);
        };
        if self.head > *tail {
            if self.head + needed <= self.len {
                Some(self.head)
            } else {
                (BLOCK + needed <= *tail).then_some(BLOCK)
            }
        } else {
            (self.head + needed <= *tail).then_some(self.head)
        }
    }

    /// The block that `place` keeps free.
    pub(super) fn reserve(&self) -> u64 {
        if self.head + BLOCK <= self.len {
            self.head
        } else {
            BLOCK
        }
    }

    /// A record is durable that says what is checkpointed: what lies before that is free.
    pub(super) fn add(&mut self, seq: u64, at: u64, bytes: u64, checkpointed: u64) {
        self.head = at + bytes;
        self.live.push_back((seq, at, bytes));
        while self.live.front().is_some_and(|(seq, ..)| *seq <= checkpointed) {
            self.live.pop_front();
        }
    }

    /// Bytes of records after `seq`.
    pub(super) fn bytes_after(&self, seq: u64) -> u64 {
        let newer = self.live.iter().rev().take_while(|(number, ..)| *number > seq);
        newer.map(|(.., bytes)| bytes).sum()
    }
}
