//! Sealing: what a partition has in the journal rows that leave memory for the database is laid together into segments on the way,
//! so that reading one partition of many is sequential, and no byte is written once more for it.
//!
//! Batches that headwater packed itself, of records that came one by one, are regrouped and compressed; a producer's batches keep
//! their bytes. Shares too small to be worth a row of their own stay together in one journal row.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use crate::model::batch::{self, Batch, pack_compressed};
use crate::model::compression::Codec;
use crate::model::{Offset, Record};

use super::layout::{BatchEntry, Directory, PartitionKey, encode_segment, journal_key};
use super::store::{LongRow, Map, StoreError};

/// A smaller share of a flush stays in the journal.
const SHARE_BYTES_MIN: usize = 4 << 10;
/// A segment gets no further batch behind this.
const SEGMENT_BYTES: usize = 512 << 10;
/// Records of so many bytes, before compression, are regrouped into one batch at most.
const GROUP_BYTES: usize = 64 << 10;
/// Batches that came in further apart are not regrouped, ms: retention takes whole batches.
const GROUP_MS: u64 = 60_000;
/// What a batch that headwater packed may unpack to: far above what one is given.
const INFLATE_BYTES_MAX: usize = 256 << 20;

/// How a partition is sealed.
#[derive(Clone, Copy, Debug)]
pub(super) struct SealRule {
    /// Everything of it goes to segments, however little it is: compaction looks at nothing else.
    pub(super) whole: bool,
    /// For what headwater packed.
    pub(super) codec: Codec,
    /// `max.message.bytes`
    pub(super) batch_bytes_max: usize,
}

/// A row that takes the place of others.
#[derive(Debug)]
pub(super) struct SealedRow {
    /// What it holds: batches in the order of their bytes.
    pub(super) entries: Vec<BatchEntry>,
    /// The number of a journal row; `None` for a segment.
    pub(super) journal: Option<u64>,
    body: Vec<Bytes>,
}

impl SealedRow {
    /// As the store takes it.
    pub(super) fn long_row(&self) -> LongRow {
        let (map, key, head) = match (self.journal, self.entries.first()) {
            (None, Some(first)) => {
                let key = first.partition.segment(first.base_offset);
                (Map::Segments, key, encode_segment(&self.entries))
            }
            (number, first) => {
                let append_ms = first.map_or(0, |first| first.append_ms);
                let key = journal_key(number.unwrap_or_default()).to_vec();
                (Map::Journal, key, Directory::encode(&self.entries, append_ms))
            }
        };
        let (head, body) = (vec![head], self.body.clone());
        LongRow { map, key, head, body }
    }
}

/// A batch on its way.
struct Moving {
    entry: BatchEntry,
    bytes: Bytes,
}

/// Lays journal rows together: `rows` are their numbers with what they hold. `rule` is `None` for a partition that is not known:
/// its batches keep their bytes. A batch that is `superseded` is left out. With `all`, nothing stays in the journal.
pub(super) fn seal(
    rows: &[(u64, LongRow)],
    rule: impl Fn(PartitionKey) -> Option<SealRule>,
    superseded: impl Fn(&BatchEntry) -> bool,
    all: bool,
) -> Result<Vec<SealedRow>, StoreError> {
    let mut shares: BTreeMap<PartitionKey, (Option<SealRule>, Vec<Moving>)> = BTreeMap::new();
    for (_, row) in rows {
        let mut at = 0;
        for mut entry in Directory::decode(&row.head.concat())?.entries {
            let range = at..at + entry.bytes as usize;
            at = range.end;
            if superseded(&entry) {
                continue;
            }
            let share = shares.entry(entry.partition);
            let (_, moving) = share.or_insert_with(|| (rule(entry.partition), Vec::new()));
            let bytes = cut(&row.body, range);
            entry.bytes = bytes.len() as u32;
            moving.push(Moving { entry, bytes });
        }
    }
    let (mut sealed, mut rest) = (Vec::new(), Vec::new());
    for (rule, moving) in shares.into_values() {
        let bytes: usize = moving.iter().map(|moving| moving.bytes.len()).sum();
        if bytes < SHARE_BYTES_MIN && !all && !rule.is_some_and(|rule| rule.whole) {
            rest.extend(moving);
        } else {
            let batches = match rule {
                Some(rule) => regrouped(moving, &rule),
                None => moving,
            };
            segments(batches, &mut sealed);
        }
    }
    // The batches of a row have one time: the newest of theirs, so that none goes early.
    if let Some(append_ms) = rest.iter().map(|moving| moving.entry.append_ms).max() {
        rest.iter_mut().for_each(|moving| moving.entry.append_ms = append_ms);
        sealed.push(sealed_row(rest, rows.last().map(|(number, _)| *number)));
    }
    Ok(sealed)
}

fn sealed_row(batches: Vec<Moving>, journal: Option<u64>) -> SealedRow {
    let (entries, body) = batches.into_iter().map(|moving| (moving.entry, moving.bytes)).unzip();
    SealedRow { entries, journal, body }
}

/// Cuts a partition's batches into segments.
fn segments(batches: Vec<Moving>, sealed: &mut Vec<SealedRow>) {
    let (mut segment, mut bytes) = (Vec::new(), 0);
    for moving in batches {
        bytes += moving.bytes.len();
        segment.push(moving);
        if bytes >= SEGMENT_BYTES {
            sealed.push(sealed_row(std::mem::take(&mut segment), None));
            bytes = 0;
        }
    }
    if !segment.is_empty() {
        sealed.push(sealed_row(segment, None));
    }
}

/// Batches that headwater packed, regrouped where they follow one another.
fn regrouped(batches: Vec<Moving>, rule: &SealRule) -> Vec<Moving> {
    let (mut out, mut group) = (Vec::new(), Group::default());
    for moving in batches {
        let Some(records) = group.takes(&moving, rule) else {
            group.finish(rule, &mut out);
            match records_of(&moving) {
                Some(records) => group.add(moving, records),
                None => out.push(moving),
            }
            continue;
        };
        group.add(moving, records);
    }
    group.finish(rule, &mut out);
    out
}

/// The records of a batch that may be regrouped.
fn records_of(moving: &Moving) -> Option<Vec<(Offset, Record)>> {
    if !moving.entry.packed {
        return None;
    }
    // One that is damaged stays as it is: whoever reads it says so.
    let batch = Batch::parse(moving.bytes.clone()).ok()?;
    let header = batch.header();
    let as_told = header.base_offset as u64 == moving.entry.base_offset && !header.is_append_time();
    as_told.then(|| batch.records(INFLATE_BYTES_MAX).ok()).flatten()
}

/// Batches that become one.
#[derive(Default)]
struct Group {
    batches: Vec<Moving>,
    records: Vec<Record>,
    bytes: usize,
}

impl Group {
    /// The records of a batch that goes into this group.
    fn takes(&self, moving: &Moving, rule: &SealRule) -> Option<Vec<(Offset, Record)>> {
        let (first, last) = (&self.batches.first()?.entry, &self.batches.last()?.entry);
        let entry = &moving.entry;
        let follows = last.offset_next() == entry.base_offset
            && first.leader_epoch == entry.leader_epoch
            && entry.append_ms.abs_diff(first.append_ms) <= GROUP_MS
            && self.bytes + moving.bytes.len() <= GROUP_BYTES.min(rule.batch_bytes_max);
        follows.then(|| records_of(moving)).flatten()
    }

    fn add(&mut self, moving: Moving, records: Vec<(Offset, Record)>) {
        self.bytes += moving.bytes.len();
        self.batches.push(moving);
        self.records.extend(records.into_iter().map(|(_, record)| record));
    }

    /// Gives its batches: as one, if that is smaller.
    fn finish(&mut self, rule: &SealRule, out: &mut Vec<Moving>) {
        let Self {
            batches,
            records,
            bytes,
        } = std::mem::take(self);
        let offsets: u64 = batches.iter().map(|moving| u64::from(moving.entry.records)).sum();
        let (Some(first), Some(last)) = (batches.first(), batches.last()) else {
            return;
        };
        if records.len() as u64 == offsets {
            let mut whole = pack_compressed(&records, rule.codec);
            if whole.len() < bytes {
                batch::stamp(&mut whole, Offset(first.entry.base_offset), first.entry.leader_epoch);
                let newest = batches.iter().map(|moving| moving.entry.max_timestamp).max();
                let entry = BatchEntry {
                    records: offsets as u32,
                    bytes: whole.len() as u32,
                    max_timestamp: newest.unwrap_or(-1),
                    append_ms: last.entry.append_ms,
                    ..first.entry
                };
                out.push(Moving {
                    entry,
                    bytes: whole.into(),
                });
                return;
            }
        }
        out.extend(batches);
    }
}

/// A part of slices that lie one behind the other; a copy only where it lies in several. What is not there is left out.
fn cut(slices: &[Bytes], range: Range<usize>) -> Bytes {
    let mut begins = 0;
    let mut parts = Vec::new();
    for slice in slices {
        let from = range.start.saturating_sub(begins).min(slice.len());
        let until = range.end.saturating_sub(begins).min(slice.len());
        if from < until {
            parts.push(slice.slice(from..until));
        }
        begins += slice.len();
    }
    match &parts[..] {
        [one] => one.clone(),
        parts => parts.concat().into(),
    }
}
