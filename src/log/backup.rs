//! A backup of a log that is served. While nothing is on its way to the disk the writer notes where each partition begins and ends,
//! who its producers are, and what the tables of state hold: one point in time, which has every record that was acknowledged before.
//! The batches up to there are read afterwards, beside everything else. They never change; what retention removes meanwhile is left
//! out, and the partition begins behind it. No transaction and no lock is held.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use bytes::Bytes;

use crate::model::batch::{self, Batch, Header};
use crate::model::{Code, Offset, Record};

use super::copy::{CopyReport, READ_BYTES, Writer, loss_of};
use super::depot::Identity;
use super::desk::{Desk, storage};
use super::layout::{BatchEntry, FORMAT, Mark, PartitionKey, damaged};
use super::load::{topic_key_op, topic_op};
use super::loss::LossFound;
use super::partition::Indexed;
use super::reader::{Missing, stored};
use super::shared::Shared;
use super::store::{Map, Op, StoreError};
use super::stream::{Sink, StreamWriter};
use super::survey::{CheckedPartition, DamagedRange};
use super::{Log, Refused, Ticket, admin::Admin, queue::Item, ticket::ticket, topic::first_offset};

/// What a batch that headwater packed may decompress to, far above what it packs.
const INFLATE_BYTES_MAX: usize = 256 << 20;
/// How often a batch that is somewhere else by now is looked for.
const ATTEMPTS: usize = 5;

/// Held by the one backup that is made at a time.
#[derive(Debug)]
pub(super) struct Turn(Arc<AtomicBool>);

impl Turn {
    pub(super) fn take(taken: &Arc<AtomicBool>) -> Option<Self> {
        (!taken.swap(true, Ordering::AcqRel)).then(|| Self(Arc::clone(taken)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A point in time of a log, to be written out.
pub struct Backup {
    shared: Arc<Shared>,
    _turn: Turn,
    identity: Identity,
    taken_ms: i64,
    /// Everything but the batches.
    ops: Vec<Op>,
    partitions: Vec<Span>,
    report: CopyReport,
}

/// A partition at that point.
struct Span {
    key: PartitionKey,
    topic: String,
    partition: u32,
    offset_first: u64,
    log_start: u64,
    offset_next: u64,
}

impl Log {
    /// Takes a point in time for a backup. `Code::Busy` while another one is made.
    pub fn backup(&self, waker: &Waker) -> Ticket<Backup> {
        let Some(turn) = Turn::take(&self.shared.backup) else {
            let why = "another backup is being made. Try: once it is done";
            return Ticket::ready(Err(Refused::new(Code::Busy, why)));
        };
        let (promise, ticket) = ticket(waker);
        self.push(Item::Admin(Admin::Backup(turn, promise)));
        ticket
    }
}

impl Desk {
    /// What a backup is of. Nothing is on its way to the disk.
    pub(super) fn backup(&self, turn: Turn) -> Result<Backup, Refused> {
        let now = self.shared.now();
        let mut ops = vec![topic_key_op(self.topic_key_next)];
        let mut report = CopyReport::default();
        let mut partitions = Vec::new();
        {
            let state = self.shared.read_state();
            for (name, topic) in &state.topics {
                ops.push(topic_op(topic.key, &topic.row));
                for (partition, log) in (0..).zip(&topic.partitions) {
                    let key = PartitionKey {
                        topic: topic.key,
                        partition,
                    };
                    ops.extend(log.losses.iter().map(|loss| loss.op(key)));
                    partitions.push(Span {
                        key,
                        topic: name.to_string(),
                        partition,
                        offset_first: first_offset(topic.row.generation),
                        log_start: log.log_start,
                        offset_next: log.offset_next,
                    });
                }
            }
        }
        for ((partition, id), producer) in &self.producers {
            ops.push(Op::put(Map::Producers, partition.producer(*id), producer.encode()));
        }
        report
            .tables
            .insert(Map::Producers.name().into(), self.producers.len() as u64);
        let rows = |map: &Map| matches!(map, Map::Boots | Map::Untrusted | Map::State(_));
        for map in Map::ALL.into_iter().filter(rows) {
            let mut rows = 0;
            let read = self.shared.lend(|store| {
                store.scan(map, &[], None, &mut |key, value| {
                    rows += 1;
                    ops.push(Op::put(map, key, value.to_vec()));
                    Ok(true)
                })
            });
            read.map_err(|error| storage(&error))?;
            report.tables.insert(map.name().into(), rows);
        }
        Ok(Backup {
            shared: Arc::clone(&self.shared),
            _turn: turn,
            identity: Identity {
                format: FORMAT,
                store_id: self.rules.store_id,
                generation: self.rules.generation,
            },
            taken_ms: now.wall_ms,
            ops,
            partitions,
            report,
        })
    }
}

impl Backup {
    /// Writes it out, a piece of about a megabyte at a time. Blocks on the disk and on the sink.
    pub fn write(mut self, sink: &mut Sink<'_>) -> Result<CopyReport, StoreError> {
        let mut stream = StreamWriter::begin(sink, self.identity, self.taken_ms)?;
        let mut put = |ops: &[Op]| stream.put(ops);
        let mut writer = Writer::new(&mut put);
        for op in std::mem::take(&mut self.ops) {
            writer.op(op)?;
        }
        for span in std::mem::take(&mut self.partitions) {
            self.span(&span, &mut writer)?;
        }
        writer.finish()?;
        drop(writer);
        stream.finish(&self.report)?;
        Ok(self.report)
    }

    fn span(&mut self, span: &Span, writer: &mut Writer<'_>) -> Result<(), StoreError> {
        let mut told = CheckedPartition {
            topic: span.topic.clone(),
            partition: span.partition,
            log_start: span.log_start,
            offset_next: span.offset_next,
            ..CheckedPartition::default()
        };
        let (mut next, mut attempts) = (span.log_start, 0);
        while next < span.offset_next {
            let (places, log_start) = self.places(span, next);
            if log_start > next {
                // It went meanwhile.
                next = log_start.min(span.offset_next);
                told.log_start = next;
                continue;
            }
            let before = next;
            for place in &places {
                match stored(&self.shared, span.key, place) {
                    Ok(bytes) => {
                        // A flush may have laid batches together: across what is copied already, or across the end.
                        let grown = place.base_offset < next && next > told.log_start;
                        let (entry, bytes) = match grown || place.offset_next() > span.offset_next {
                            true => cut(span.key, place, bytes, next..span.offset_next)?,
                            false => (entry(span.key, place, &bytes)?, bytes),
                        };
                        told.batches += 1;
                        told.records += u64::from(entry.records);
                        told.bytes += u64::from(entry.bytes);
                        writer.batch(&entry, bytes)?;
                    }
                    // It may be somewhere else by now, or gone.
                    Err(_) if attempts < ATTEMPTS && self.moved(span, place) => {
                        attempts += 1;
                        break;
                    }
                    Err(Missing::Store(error)) => return Err(error),
                    Err(Missing::Batch(_, why)) => self.lost(span, place, why, writer)?,
                    Err(Missing::Now(_, why)) => return Err(StoreError::Io(why)),
                }
                (next, attempts) = (place.offset_next().min(span.offset_next), 0);
            }
            if places.is_empty() && before == next {
                // Nothing but a loss up to the end.
                break;
            }
        }
        if told.log_start != span.offset_first {
            writer.op(Mark::LogStart(span.key, told.log_start).op())?;
        }
        let clean_until = self.clean_until(span);
        if clean_until > 0 {
            writer.op(Mark::CleanUntil(span.key, clean_until).op())?;
        }
        self.report.partitions.push(told);
        Ok(())
    }

    /// The batches from an offset on, and the log start; of a topic that is gone everything is past.
    fn places(&self, span: &Span, next: u64) -> (Vec<Indexed>, u64) {
        let state = self.shared.read_state();
        let Some(log) = state.partition(span.key) else {
            return (Vec::new(), u64::MAX);
        };
        let mut places = log.places(next, READ_BYTES);
        places.retain(|place| place.base_offset < span.offset_next);
        (places, log.log_start)
    }

    /// What was compacted away up to now is missing in the copy, too.
    fn clean_until(&self, span: &Span) -> u64 {
        let state = self.shared.read_state();
        let clean_until = state.partition(span.key).map_or(0, |log| log.clean_until);
        clean_until.min(span.offset_next)
    }

    fn moved(&self, span: &Span, place: &Indexed) -> bool {
        let (places, log_start) = self.places(span, place.base_offset);
        let same = |now: &Indexed| (now.base_offset, now.home, now.at) == (place.base_offset, place.home, place.at);
        log_start > place.base_offset || !places.first().is_some_and(same)
    }

    fn lost(&mut self, span: &Span, place: &Indexed, why: String, writer: &mut Writer<'_>) -> Result<(), StoreError> {
        let range = DamagedRange {
            topic: span.topic.clone(),
            partition: span.partition,
            offset_first: place.base_offset.max(span.log_start),
            offset_last: place.offset_next().saturating_sub(1),
            bytes: place.bytes.into(),
            max_timestamp: Some(place.max_timestamp),
            why,
        };
        let loss = loss_of(&range, place.max_timestamp, self.taken_ms);
        writer.op(loss.op(span.key))?;
        let (topic, partition) = (span.topic.clone(), span.partition);
        self.report.losses.push(LossFound { topic, partition, loss });
        self.report.damaged.push(range);
        Ok(())
    }
}

/// The records of a batch in a range of offsets, packed anew, as the flush did it: batches of producers are never laid together.
fn cut(
    partition: PartitionKey,
    place: &Indexed,
    bytes: Bytes,
    offsets: Range<u64>,
) -> Result<(BatchEntry, Bytes), StoreError> {
    let whole = entry(partition, place, &bytes)?;
    let batch = Batch::parse_trusted(bytes).map_err(|error| damaged(error.to_string()))?;
    let records = batch.records(INFLATE_BYTES_MAX);
    let records = records.map_err(|error| damaged(error.to_string()))?;
    let wanted = records.into_iter().filter(|(offset, _)| offsets.contains(&offset.0));
    let (kept, records): (Vec<Offset>, Vec<Record>) = wanted.unzip();
    let (Some(first), Some(last)) = (kept.first(), kept.last()) else {
        return Err(damaged("a batch has no record of those that its row names"));
    };
    if last.0 - first.0 + 1 != kept.len() as u64 {
        return Err(damaged("a batch that was laid together has a gap"));
    }
    let mut bytes = batch::pack(&records);
    batch::stamp(&mut bytes, *first, whole.leader_epoch);
    let entry = BatchEntry {
        base_offset: first.0,
        records: kept.len() as u32,
        bytes: bytes.len() as u32,
        packed: true,
        max_timestamp: records.iter().map(|record| record.timestamp_ms).max().unwrap_or(-1),
        ..whole
    };
    Ok((entry, bytes.into()))
}

/// What the row of a batch says of it.
fn entry(partition: PartitionKey, place: &Indexed, bytes: &Bytes) -> Result<BatchEntry, StoreError> {
    let header = Header::parse(bytes).map_err(|error| damaged(error.to_string()))?;
    Ok(BatchEntry {
        partition,
        base_offset: place.base_offset,
        records: place.records,
        bytes: place.bytes,
        // The index does not tell. What a producer packed may be left as it is, and so may this.
        packed: false,
        max_timestamp: place.max_timestamp,
        append_ms: place.append_ms,
        leader_epoch: header.partition_leader_epoch,
    })
}
