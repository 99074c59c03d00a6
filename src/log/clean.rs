//! What compaction keeps, without a store: of each key the last record, a tombstone until its delete horizon. `KeyMap` takes in the
//! part of a partition that was not cleaned yet, as far as its bound reaches; `clean` then says of every batch, from the log start
//! on, what stays. Source: `org.apache.kafka.storage.internals.log.Cleaner`, `shouldRetainRecord` and `buildOffsetMap`.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use crate::model::batch::{Batch, BatchError, RecordView, Retained, retain};
use crate::model::compression::Inflater;

/// What the records of one batch may decompress to. More than a producer is allowed.
pub(super) const INFLATE_BYTES_MAX: usize = 64 << 20;

/// A key: half of its SHA-256, so that nobody can make two that are taken for one.
type Digest = [u8; 16];

/// The last offset of each key in a part of a partition.
#[derive(Debug)]
pub(super) struct KeyMap {
    offsets: HashMap<Digest, u64>,
    keys_max: usize,
    from: u64,
    until: u64,
}

/// When, and for how long tombstones stay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// Milliseconds since 1970.
    pub(super) now_ms: i64,
    /// `delete.retention.ms`.
    pub(super) delete_retention_ms: u64,
}

impl KeyMap {
    /// Of a part that begins at an offset, for at most so many keys.
    pub(super) fn new(from: u64, keys_max: usize) -> Self {
        Self {
            offsets: HashMap::new(),
            keys_max,
            from,
            until: from,
        }
    }

    /// Takes in the next batch; false when not all of it had room: the part ends with the last record that had.
    pub(super) fn add(&mut self, batch: &Batch, inflater: &mut Inflater) -> Result<bool, BatchError> {
        if !batch.header().is_control() {
            for view in batch.views(inflater, INFLATE_BYTES_MAX)? {
                let view = view?;
                let offset = view.offset.0;
                if offset < self.from {
                    continue;
                }
                if let Some(key) = view.key
                    && !self.enter(digest(key), offset)
                {
                    return Ok(false);
                }
                self.until = offset + 1;
            }
        }
        self.until = self.until.max(batch.offset_next().0);
        Ok(true)
    }

    fn enter(&mut self, key: Digest, offset: u64) -> bool {
        let full = self.offsets.len() >= self.keys_max;
        match self.offsets.get_mut(&key) {
            Some(last) => *last = offset,
            None if full => return false,
            None => drop(self.offsets.insert(key, offset)),
        }
        true
    }

    /// The offset after the last record that it knows.
    pub(super) fn until(&self) -> u64 {
        self.until
    }

    fn keeps(&self, view: &RecordView<'_>, tombstones: bool) -> bool {
        let offset = view.offset.0;
        if offset >= self.until {
            return true;
        }
        // Without a key it would stay for ever. None is taken into a compacted topic; this one was there before.
        let Some(key) = view.key else { return false };
        let newest = self.offsets.get(&digest(key)).is_none_or(|last| offset >= *last);
        newest && (view.value.is_some() || tombstones)
    }
}

fn digest(key: &[u8]) -> Digest {
    let whole = Sha256::digest(key);
    *whole.first_chunk().expect("a SHA-256 has 32 bytes")
}

/// What stays of a batch.
pub(super) fn clean(
    batch: &Batch,
    keys: &KeyMap,
    moment: Moment,
    inflater: &mut Inflater,
) -> Result<Retained, BatchError> {
    let header = batch.header();
    // A transaction's marker is no record; none is taken in, but what there is stays.
    if header.is_control() {
        return Ok(Retained::Whole);
    }
    let Moment {
        now_ms,
        delete_retention_ms,
    } = moment;
    let tombstones = header.delete_horizon_ms().is_none_or(|horizon_ms| now_ms < horizon_ms);
    let horizon_ms = now_ms.saturating_add_unsigned(delete_retention_ms);
    retain(batch, inflater, INFLATE_BYTES_MAX, horizon_ms, |view| {
        keys.keeps(view, tombstones)
    })
}

#[cfg(test)]
mod tests;
