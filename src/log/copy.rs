//! Everything that is intact in a data directory that nobody serves, as operations for a new store: topics, batches with their
//! offsets and bytes, producers, and the state of the rooms above. For what is not intact there are loss markers.
//!
//! Where rows of batches may be missing that nothing names, the offsets that they had are not known. No offset that was ever told may
//! be given out again, and so each partition goes on far above: at the next multiple of 2^40, as after any other loss.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::model::batch::Batch;

use super::layout::{BatchEntry, Mark, PartitionKey, encode_segment};
use super::load::{topic_key_op, topic_op};
use super::loss::{Loss, LossFound, LossReason};
use super::store::{Map, Op, StoreError};
use super::survey::{CheckedPartition, DamagedRange, Survey, Visitor};
use super::topic::first_offset;

/// What goes into one operation, and into one commit, about; a batch is never cut.
pub(super) const ROW_BYTES: usize = 256 << 10;
pub(super) const COMMIT_BYTES: usize = 1 << 20;
/// Batches that are looked up at a time.
pub(super) const READ_BYTES: usize = 1 << 20;

/// Takes operations of one commit.
pub(super) type Put<'a> = dyn FnMut(&[Op]) -> Result<(), StoreError> + 'a;

/// Offsets that a partition goes on behind when it is not known which were given out.
const LEAP: u64 = 1 << 40;

/// What was copied, and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CopyReport {
    /// Every partition as it is in the copy.
    pub partitions: Vec<CheckedPartition>,
    /// Rows of state, by table.
    pub tables: BTreeMap<String, u64>,
    /// What could not be read.
    pub damaged: Vec<DamagedRange>,
    /// The same, and what of a database could not be read at all.
    pub unread: Vec<String>,
    /// Markers of damage that the copy has and the source did not.
    pub losses: Vec<LossFound>,
}

impl CopyReport {
    /// Everything was read.
    pub fn sound(&self) -> bool {
        self.damaged.is_empty() && self.unread.is_empty()
    }
}

/// Copies everything; `put` takes it commit by commit.
pub(super) fn copy(survey: &mut Survey, now_ms: i64, put: &mut Put<'_>) -> Result<CopyReport, StoreError> {
    let mut writer = Writer::new(put);
    let mut report = CopyReport::default();
    let next = survey.topics.last_key_value().map_or(0, |(key, _)| key + 1);
    writer.op(topic_key_op(next.max(survey.topic_key_next())))?;
    for (key, row) in &survey.topics {
        writer.op(topic_op(*key, row))?;
    }
    let of_partitions = |map: Map| matches!(map, Map::Producers | Map::Losses | Map::Untrusted);
    let state = |map: &Map| of_partitions(*map) || matches!(map, Map::Boots | Map::State(_));
    for map in Map::ALL.into_iter().filter(state) {
        let (mut rows, mut failed) = (0, None);
        let topics: Vec<u32> = survey.topics.keys().copied().collect();
        survey.scan(map, &mut |key, value| {
            // Of a topic that is gone nothing is needed.
            if of_partitions(map) && !topics.contains(&PartitionKey::parse(key)?.topic) {
                return Ok(true);
            }
            rows += 1;
            failed = writer.op(Op::put(map, key, value.to_vec())).err();
            Ok(failed.is_none())
        });
        match failed {
            Some(error) => return Err(error),
            None => report.tables.insert(map.name().into(), rows),
        };
    }
    let keys = survey.topics.iter().map(|(key, row)| (row.name.clone(), *key));
    let mut copier = Copier {
        keys: keys.collect(),
        starts: survey
            .topics
            .values()
            .map(|row| (row.name.clone(), first_offset(row.generation)))
            .collect(),
        clean: survey.clean.clone(),
        leaps: !survey.unread.is_empty(),
        now_ms,
        writer,
        report,
        next: 0,
        first: None,
        last_ms: now_ms,
        holes: Vec::new(),
        failed: None,
    };
    survey.walk(&mut copier);
    if let Some(error) = copier.failed {
        return Err(error);
    }
    copier.writer.finish()?;
    let mut report = copier.report;
    report.unread = std::mem::take(&mut survey.unread);
    Ok(report)
}

/// The marker of a range that could not be read.
pub(super) fn loss_of(range: &DamagedRange, time_ms: i64, now_ms: i64) -> Loss {
    loss(range.offset_first, range.offset_last, range.bytes, time_ms, now_ms)
}

fn loss(offset_first: u64, offset_last: u64, bytes: u64, time_ms: i64, now_ms: i64) -> Loss {
    Loss {
        offset_first,
        offset_last,
        bytes,
        time_first_ms: time_ms,
        time_last_ms: time_ms,
        lost_ms: now_ms,
        reason: LossReason::Damage,
    }
}

/// Gathers operations to commits.
pub(super) struct Writer<'a> {
    put: &'a mut Put<'a>,
    ops: Vec<Op>,
    bytes: usize,
    /// Batches of one partition: a segment.
    batches: Vec<(BatchEntry, Bytes)>,
    batch_bytes: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(put: &'a mut Put<'_>) -> Self {
        Self {
            put,
            ops: Vec::new(),
            bytes: 0,
            batches: Vec::new(),
            batch_bytes: 0,
        }
    }

    pub(super) fn op(&mut self, op: Op) -> Result<(), StoreError> {
        self.bytes += super::ops::encoded_bytes(std::slice::from_ref(&op), false);
        self.ops.push(op);
        match self.bytes >= COMMIT_BYTES {
            true => self.commit(),
            false => Ok(()),
        }
    }

    /// Adds a batch, behind all others of its partition.
    pub(super) fn batch(&mut self, entry: &BatchEntry, bytes: Bytes) -> Result<(), StoreError> {
        // A segment's row has the distance to its first offset in 32 bits.
        let fits = |(first, _): &(BatchEntry, Bytes)| {
            first.partition == entry.partition && entry.base_offset - first.base_offset <= u64::from(u32::MAX)
        };
        if self.batch_bytes >= ROW_BYTES || !self.batches.first().is_none_or(fits) {
            self.row()?;
        }
        self.batch_bytes += bytes.len();
        self.batches.push((*entry, bytes));
        Ok(())
    }

    /// Commits what is left.
    pub(super) fn finish(&mut self) -> Result<(), StoreError> {
        self.row()?;
        self.commit()
    }

    fn row(&mut self) -> Result<(), StoreError> {
        let Some((first, _)) = self.batches.first() else {
            return Ok(());
        };
        let key = first.partition.segment(first.base_offset);
        let (entries, body): (Vec<_>, Vec<_>) = self.batches.drain(..).unzip();
        self.batch_bytes = 0;
        self.op(Op::put_long(Map::Segments, key, encode_segment(&entries), body))
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        let ops = std::mem::take(&mut self.ops);
        self.bytes = 0;
        match ops.is_empty() {
            true => Ok(()),
            false => (self.put)(&ops),
        }
    }
}

/// Copies what it is shown.
struct Copier<'a> {
    keys: BTreeMap<String, u32>,
    starts: BTreeMap<String, u64>,
    clean: BTreeMap<PartitionKey, u64>,
    /// Rows may be missing.
    leaps: bool,
    now_ms: i64,
    writer: Writer<'a>,
    report: CopyReport,
    /// Of the partition being walked: the offset after the newest batch, the first offset copied, the newest time, and the holes.
    next: u64,
    first: Option<u64>,
    last_ms: i64,
    holes: Vec<Loss>,
    failed: Option<StoreError>,
}

impl Copier<'_> {
    fn hole(&mut self, offset_first: u64, offset_last: u64, bytes: u64, time_ms: Option<i64>) {
        let time = time_ms.unwrap_or(self.last_ms);
        let hole = loss(offset_first, offset_last, bytes, time, self.now_ms);
        match self.holes.last_mut() {
            Some(last) if last.offset_last.saturating_add(1) >= offset_first => {
                last.offset_last = last.offset_last.max(offset_last);
                last.bytes = last.bytes.saturating_add(bytes);
                last.time_last_ms = time;
            }
            _ => self.holes.push(hole),
        }
    }

    fn end(&mut self, checked: &mut CheckedPartition) -> Result<(), StoreError> {
        let (topic, partition) = (&checked.topic, checked.partition);
        let Some(topic_key) = self.keys.get(topic).copied() else {
            return Ok(());
        };
        let key = PartitionKey {
            topic: topic_key,
            partition,
        };
        if self.leaps {
            let beyond = (checked.offset_next / LEAP + 1) * LEAP;
            self.hole(checked.offset_next, beyond - 1, 0, None);
            checked.offset_next = beyond;
        }
        // Where its begin is lost, it begins behind that.
        let lost = self
            .holes
            .first()
            .is_some_and(|hole| hole.offset_first <= checked.log_start);
        let first = self.first.unwrap_or(checked.offset_next);
        let start = if lost {
            first.max(checked.log_start)
        } else {
            checked.log_start
        };
        checked.log_start = start;
        if self.starts.get(topic) != Some(&start) {
            self.writer.op(Mark::LogStart(key, start).op())?;
        }
        if let Some(clean_until) = self.clean.get(&key) {
            self.writer.op(Mark::CleanUntil(key, *clean_until).op())?;
        }
        for loss in std::mem::take(&mut self.holes) {
            self.writer.op(loss.op(key))?;
            self.report.losses.push(LossFound {
                topic: topic.clone(),
                partition,
                loss,
            });
        }
        Ok(())
    }
}

impl Visitor for Copier<'_> {
    fn stored(&mut self, at: &CheckedPartition, entry: &BatchEntry, batch: &Batch) -> ControlFlow<()> {
        let (base_offset, offset_next) = (entry.base_offset, entry.offset_next());
        if base_offset < self.next {
            // Of what is there twice the first is taken, and of the second what goes beyond it is lost.
            if offset_next > self.next {
                self.hole(self.next, offset_next - 1, 0, Some(entry.max_timestamp));
            }
            return ControlFlow::Continue(());
        }
        // The second of two may be whole where the first is not.
        while self.holes.pop_if(|hole| hole.offset_first >= base_offset).is_some() {}
        if let Some(hole) = self.holes.last_mut() {
            hole.offset_last = hole.offset_last.min(base_offset - 1);
        }
        if let Err(error) = self.writer.batch(entry, batch.bytes().clone()) {
            self.failed = Some(error);
            return ControlFlow::Break(());
        }
        self.next = offset_next;
        self.first.get_or_insert(base_offset);
        self.last_ms = at.last_ms.unwrap_or(self.last_ms);
        ControlFlow::Continue(())
    }

    fn damaged(&mut self, range: DamagedRange) {
        // What is there twice is not lost.
        if range.offset_last >= self.next {
            let first = range.offset_first.max(self.next);
            self.hole(first, range.offset_last, range.bytes, range.max_timestamp);
        }
        self.report.damaged.push(range);
    }

    fn partition(&mut self, mut checked: CheckedPartition) {
        if let Err(error) = self.end(&mut checked) {
            self.failed = Some(error);
        }
        self.report.partitions.push(checked);
        (self.next, self.first, self.last_ms) = (0, None, self.now_ms);
    }
}
