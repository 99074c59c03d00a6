//! The one walk over a data directory that nobody serves: every partition, and in it every batch in the order of offsets, each
//! read, checked against its row, its CRC and its records, and handed to a visitor; what cannot be read is handed over, too.
//!
//! Not a byte on the disk is changed: the database, which would repair itself when it is opened after a kill, is opened through a
//! copy-on-write view. In memory are the places of all batches, as the broker has them, and one batch at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::model::batch::{Batch, Header, RecordViews};
use crate::model::compression::Inflater;

use super::boots::{self, Boot, ClockMark, UntrustedRange};
use super::depot::{self, DATABASE, Files, Identity, OpenError, held_by};
use super::layout::{BatchEntry, Mark, PartitionKey, decode_segment};
use super::load::{directories, marks, segment, topic_key_next, topic_rows};
use super::loss::{Loss, LossFound};
use super::partition::{Home, Indexed};
use super::reader::{Missing, bytes_of};
use super::salvage::Salvage;
use super::store::{Each, Map, Store, StoreError};
use super::topic::{TopicRow, first_offset};

/// What one batch may decompress to: far above what any producer is allowed.
const INFLATE_BYTES_MAX: usize = 256 << 20;

/// A partition and how much of it is right.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CheckedPartition {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: u32,
    /// First offset.
    pub log_start: u64,
    /// The offset of the next record.
    pub offset_next: u64,
    /// Batches that are right.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Smallest timestamp of their records, ms since 1970.
    pub first_ms: Option<i64>,
    /// Largest timestamp of their records, ms since 1970.
    pub last_ms: Option<i64>,
}

/// Offsets that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DamagedRange {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: u32,
    /// First offset.
    pub offset_first: u64,
    /// Last offset, inclusive.
    pub offset_last: u64,
    /// Bytes of their batches, as far as their rows are there.
    pub bytes: u64,
    /// Largest timestamp as their row has it, ms since 1970.
    pub max_timestamp: Option<i64>,
    /// What is wrong.
    pub why: String,
}

/// Why a directory could not be looked at. A damaged database is no such reason.
#[derive(Debug)]
pub enum SurveyError {
    /// There is no database in it.
    NothingThere(PathBuf),
    /// A process serves it, or it cannot be read.
    Open(OpenError),
}

impl std::fmt::Display for SurveyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NothingThere(path) => write!(
                f,
                "there is no {DATABASE} in {}. Try: the node.data_dir of a broker",
                path.display()
            ),
            Self::Open(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SurveyError {}

/// What is told along the walk. Only `damaged` must be listened to.
pub trait Visitor {
    /// Whether to walk over a partition.
    fn wants_partition(&self, _topic: &str, _partition: u32) -> bool {
        true
    }

    /// Whether to read a batch of which is known: its first offset, the one after its last, its largest timestamp.
    fn wants_batch(&self, _offset_first: u64, _offset_next: u64, _max_timestamp: i64) -> bool {
        true
    }

    /// The same batch as it is stored, and what its row says of it; comes before its records.
    fn stored(&mut self, _at: &CheckedPartition, _entry: &BatchEntry, _batch: &Batch) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// A batch that is right. Its records, checked already, may begin before the log start. Ends the walk with `Break`.
    fn batch(&mut self, _at: &CheckedPartition, _header: &Header, _records: RecordViews<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Offsets that are damaged, missing, or there twice.
    fn damaged(&mut self, range: DamagedRange);

    /// A partition is done.
    fn partition(&mut self, _checked: CheckedPartition) {}
}

/// A data directory, and where everything in it should be.
#[derive(Debug)]
pub struct Survey {
    files: Files,
    /// The store; `None` when it cannot be opened.
    store: Option<Arc<Salvage>>,
    /// What could not be read so far, and why.
    pub unread: Vec<String>,
    /// What the store says of itself, if it does.
    pub(super) identity: Option<Identity>,
    pub(super) topics: BTreeMap<u32, TopicRow>,
    /// What was given up, by topic, partition and offset.
    pub(super) losses: Vec<LossFound>,
    /// Boots of the machine.
    pub(super) boots: Vec<Boot>,
    /// What was appended before the clock was trusted.
    pub(super) untrusted: Vec<UntrustedRange>,
    pub(super) journal_rows: u64,
    pub(super) segments: u64,
    starts: BTreeMap<PartitionKey, u64>,
    /// How far partitions are clean.
    pub(super) clean: BTreeMap<PartitionKey, u64>,
    places: BTreeMap<PartitionKey, Vec<Place>>,
}

/// Where a batch should be.
#[derive(Clone, Copy, Debug)]
struct Place {
    entry: BatchEntry,
    home: Home,
    at: u32,
}

impl Survey {
    /// Reads the rows of a directory, or of a store that was put aside, by the name of its database; the batches are left to `walk`.
    /// Refuses a directory that a process serves.
    pub fn open(directory: &Path) -> Result<Self, SurveyError> {
        let files = Files::of(directory);
        let file = files.path(DATABASE);
        if !file.exists() {
            return Err(SurveyError::NothingThere(directory.into()));
        }
        if !files.set_aside() {
            held_by(&files.directory).map_err(SurveyError::Open)?;
        }
        let unusable = |error: std::io::Error| {
            let (directory, why) = (directory.into(), error.to_string());
            SurveyError::Open(OpenError::Directory { directory, why })
        };
        File::open(&file).map_err(unusable)?;
        let mut survey = Self {
            files,
            store: None,
            unread: Vec::new(),
            identity: None,
            topics: BTreeMap::new(),
            losses: Vec::new(),
            boots: Vec::new(),
            untrusted: Vec::new(),
            journal_rows: 0,
            segments: 0,
            starts: BTreeMap::new(),
            clean: BTreeMap::new(),
            places: BTreeMap::new(),
        };
        match survey.gather() {
            Ok(()) => {}
            Err(error @ StoreError::Format { .. }) => return Err(SurveyError::Open(OpenError::Store(error))),
            Err(error) => survey.unread.push(error.to_string()),
        }
        Ok(survey)
    }

    /// Name and number of partitions of every topic.
    pub fn topics(&self) -> impl Iterator<Item = (&str, u32)> {
        self.topics.values().map(|row| (row.name.as_str(), row.partitions))
    }

    /// Where the files are.
    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// The number that the next topic gets, if the store says so.
    pub(super) fn topic_key_next(&mut self) -> u32 {
        let Some(store) = self.store.clone() else { return 0 };
        let next = topic_key_next(&*store);
        let found = next.as_ref().map_or(0, |next| next.unwrap_or(0));
        self.note(&store, "the number of the next topic", next.map(drop));
        found
    }

    /// The store that this one is a copy of, where it is one.
    pub(super) fn origin(&mut self) -> Option<[u8; 16]> {
        let store = self.store.clone()?;
        let origin = depot::origin(&*store);
        let found = origin.as_ref().ok().copied().flatten();
        self.note(&store, "where the store comes from", origin.map(drop));
        found
    }

    /// Reads a table as far as it can be read; of the rest it is noted that there is some.
    pub(super) fn scan(&mut self, map: Map, each: &mut Each<'_>) {
        let Some(store) = self.store.clone() else { return };
        let read = store.scan(map, &[], None, each);
        self.note(&store, map.name(), read);
    }

    /// Remembers what was not read.
    fn note(&mut self, store: &Salvage, what: &str, result: Result<(), StoreError>) {
        self.unread.extend(store.take_unread());
        if let Err(error) = result {
            self.unread.push(format!("{what}, in part: {error}"));
        }
    }

    fn gather(&mut self) -> Result<(), StoreError> {
        let store = Arc::new(Salvage::open(&self.files)?);
        // Every page; where that fails, what can be read is still looked at.
        if let Err(error) = store.verify() {
            self.unread.push(format!("pages of the database: {error}"));
        }
        self.store = Some(Arc::clone(&store));
        self.identity = Some(depot::identity(&*store)?);
        self.topics = topic_rows(&*store)?;
        type Part = fn(&mut Survey, &dyn Store) -> Result<(), StoreError>;
        let parts: [(&str, Part); 5] = [
            ("log start offsets", Self::marks),
            ("loss markers", Self::losses),
            ("boots", Self::boots),
            ("the journal", Self::journal),
            ("the segments' directory", Self::segments),
        ];
        for (what, part) in parts {
            let read = part(self, &*store);
            self.note(&store, what, read);
        }
        for places in self.places.values_mut() {
            places.sort_unstable_by_key(|place| place.entry.base_offset);
        }
        self.losses.sort_by_key(|found| found.loss.offset_first);
        Ok(())
    }

    fn marks(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        for mark in marks(store)? {
            match mark {
                Mark::LogStart(key, log_start) => self.starts.insert(key, log_start),
                Mark::CleanUntil(key, clean_until) => self.clean.insert(key, clean_until),
                Mark::CompactedUntil(..) => None,
            };
        }
        Ok(())
    }

    /// Before it everything lies in segments, and offsets that no batch has were compacted away.
    fn clean_until(&self, key: PartitionKey) -> u64 {
        self.clean.get(&key).copied().unwrap_or(0)
    }

    fn losses(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        store.scan(Map::Losses, &[], None, &mut |key, value| {
            let (key, loss) = Loss::decode(key, value)?;
            // Of a topic that is gone nothing is missed.
            if let Some(row) = self.topics.get(&key.topic) {
                let (topic, partition) = (row.name.clone(), key.partition);
                self.losses.push(LossFound { topic, partition, loss });
            }
            Ok(true)
        })
    }

    fn boots(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        self.boots = boots::boots(store)?;
        store.scan(Map::Untrusted, &[], None, &mut |key, value| {
            let (key, mark) = ClockMark::decode(key, value)?;
            if let Some(row) = self.topics.get(&key.topic) {
                self.untrusted.push(UntrustedRange {
                    topic: row.name.clone(),
                    partition: key.partition,
                    offset_first: mark.first,
                    offset_last: mark.next.saturating_sub(1),
                    boot: mark.boot,
                    own: mark.own,
                });
            }
            Ok(true)
        })
    }

    fn journal(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        directories(store, &mut |row, directory| {
            self.journal_rows += 1;
            let directory = match directory {
                Ok(directory) => directory,
                Err(error) => {
                    self.unread.push(format!("journal row {row}: {error}"));
                    return Ok(());
                }
            };
            let mut at = 0u32;
            for entry in directory.entries {
                if entry.base_offset >= self.clean_until(entry.partition) {
                    let places = self.places.entry(entry.partition).or_default();
                    let home = Home::Journal(row);
                    places.push(Place { entry, home, at });
                }
                at = at.saturating_add(entry.bytes);
            }
            Ok(())
        })
    }

    fn segments(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        store.scan(Map::Segments, &[], None, &mut |key, value| {
            self.segments += 1;
            match decode_segment(key, value) {
                Ok(entries) => {
                    let partition = PartitionKey::parse(key)?;
                    let places = segment(&entries).into_iter();
                    let places = places.map(|(entry, home, at)| Place { entry, home, at });
                    self.places.entry(partition).or_default().extend(places);
                }
                Err(error) => self.unread.push(format!("a segment's entry: {error}")),
            }
            Ok(true)
        })
    }

    /// Walks over what the visitor wants: topics in the order in which they were made, partitions by number, batches by offset.
    pub fn walk(&mut self, visitor: &mut dyn Visitor) {
        let Some(store) = self.store.clone() else { return };
        let walked = self.partitions(&store, visitor);
        self.note(&store, "the batches", walked);
    }

    fn partitions(&self, store: &Salvage, visitor: &mut dyn Visitor) -> Result<(), StoreError> {
        for (topic, row) in &self.topics {
            for partition in 0..row.partitions {
                if visitor.wants_partition(&row.name, partition) {
                    let key = PartitionKey {
                        topic: *topic,
                        partition,
                    };
                    let walked = self.partition(store, key, row, visitor)?;
                    if walked.is_break() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a marker says that damage took this offset: what is given up already is not damage once more.
    fn is_marked(&self, row: &TopicRow, key: PartitionKey, offset: u64) -> bool {
        let of_partition = |found: &&LossFound| found.topic == row.name && found.partition == key.partition;
        let mut losses = self.losses.iter().filter(of_partition);
        losses.any(|found| found.loss.hides(offset))
    }

    fn partition(
        &self,
        store: &Salvage,
        key: PartitionKey,
        row: &TopicRow,
        visitor: &mut dyn Visitor,
    ) -> Result<ControlFlow<()>, StoreError> {
        let log_start = self.starts.get(&key).copied().unwrap_or(first_offset(row.generation));
        let clean_until = self.clean_until(key);
        let mut checked = CheckedPartition {
            topic: row.name.clone(),
            partition: key.partition,
            log_start,
            offset_next: log_start,
            ..CheckedPartition::default()
        };
        let range = |offset_first: u64, offset_next: u64, why: String| DamagedRange {
            topic: row.name.clone(),
            partition: key.partition,
            offset_first,
            offset_last: offset_next.saturating_sub(1).max(offset_first),
            bytes: 0,
            max_timestamp: None,
            why,
        };
        let damaged = |entry: &BatchEntry, offset_next: u64, why: String| DamagedRange {
            bytes: entry.bytes.into(),
            max_timestamp: Some(entry.max_timestamp),
            ..range(entry.base_offset.max(log_start), offset_next, why)
        };
        let lost = |loss: &&LossFound| loss.topic == row.name && loss.partition == key.partition;
        let losses: Vec<Loss> = self.losses.iter().filter(lost).map(|found| found.loss).collect();
        let mut inflater = Inflater::default();
        let mut seen = false;
        for place in self.places.get(&key).into_iter().flatten() {
            let entry = &place.entry;
            let offset_next = entry.offset_next();
            if offset_next <= log_start {
                continue;
            }
            // Before that, what is not there was compacted away.
            let missed = checked.offset_next.max(clean_until);
            for (first, next) in missing(missed, entry.base_offset, &losses) {
                visitor.damaged(range(first, next, "these offsets are missing".into()));
            }
            if entry.base_offset < checked.offset_next && seen {
                let why = "these offsets are there twice".into();
                visitor.damaged(range(entry.base_offset, checked.offset_next, why));
            }
            seen = true;
            checked.offset_next = checked.offset_next.max(offset_next);
            if self.is_marked(row, key, entry.base_offset) {
                continue;
            }
            if !visitor.wants_batch(entry.base_offset, offset_next, entry.max_timestamp) {
                continue;
            }
            let batch = match stored(store, key, place) {
                Ok(batch) => batch,
                Err(error) => {
                    visitor.damaged(damaged(entry, offset_next, error.to_string()));
                    continue;
                }
            };
            let sound = batch
                .as_ref()
                .map_err(Clone::clone)
                .and_then(|batch| records(batch, &mut inflater).map(|found| (batch, found)));
            match sound {
                Ok((
                    batch,
                    Records {
                        views,
                        first_ms,
                        last_ms,
                    },
                )) => {
                    checked.batches += 1;
                    checked.records += u64::from(batch.header().records_count.unsigned_abs());
                    checked.bytes += u64::from(entry.bytes);
                    checked.first_ms = checked.first_ms.into_iter().chain(first_ms).min();
                    checked.last_ms = checked.last_ms.max(last_ms);
                    if visitor.stored(&checked, entry, batch).is_break()
                        || visitor.batch(&checked, batch.header(), views).is_break()
                    {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Err(why) => visitor.damaged(damaged(entry, offset_next, why)),
            }
        }
        let lost = losses.iter().map(|loss| loss.offset_last.saturating_add(1)).max();
        let end = lost.unwrap_or(0).max(checked.offset_next);
        for (first, next) in missing(checked.offset_next, end, &losses) {
            visitor.damaged(range(first, next, "these offsets are missing".into()));
        }
        checked.offset_next = end;
        visitor.partition(checked);
        Ok(ControlFlow::Continue(()))
    }
}

/// Offsets from one on and before another that no loss marker names. The markers stand in the order of their first offsets.
fn missing(mut from: u64, until: u64, losses: &[Loss]) -> Vec<(u64, u64)> {
    let mut missing = Vec::new();
    for loss in losses {
        if from < loss.offset_first.min(until) {
            missing.push((from, loss.offset_first.min(until)));
        }
        from = from.max(loss.offset_last.saturating_add(1));
    }
    if from < until {
        missing.push((from, until));
    }
    missing
}

/// A stored batch, or what is wrong with it.
fn stored(store: &Salvage, key: PartitionKey, place: &Place) -> Result<Result<Batch, String>, StoreError> {
    let entry = &place.entry;
    let indexed = Indexed::new(entry, place.home, place.at);
    let bytes: Bytes = match bytes_of(store, key, &indexed) {
        Ok(bytes) => bytes,
        Err(Missing::Batch(_, why) | Missing::Now(_, why)) => return Ok(Err(why)),
        Err(Missing::Store(error)) => return Err(error),
    };
    let batch = match Batch::parse(bytes) {
        Ok(batch) => batch,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let header = batch.header();
    let told = (entry.base_offset, u64::from(entry.records), entry.leader_epoch);
    let found = (
        header.base_offset as u64,
        header.last_offset_delta as u64 + 1,
        header.partition_leader_epoch,
    );
    if told != found {
        let why = format!("offset, records and epoch should be {told:?}, and are {found:?}");
        return Ok(Err(why));
    }
    Ok(Ok(batch))
}

/// The records of a batch, which all decode.
struct Records<'a> {
    views: RecordViews<'a>,
    first_ms: Option<i64>,
    last_ms: Option<i64>,
}

fn records<'a>(batch: &'a Batch, inflater: &'a mut Inflater) -> Result<Records<'a>, String> {
    let views = batch.views(inflater, INFLATE_BYTES_MAX).map_err(|e| e.to_string())?;
    let (mut first_ms, mut last_ms) = (None::<i64>, None::<i64>);
    for view in views.clone() {
        let time = view.map_err(|e| e.to_string())?.timestamp_ms;
        first_ms = Some(first_ms.map_or(time, |first| first.min(time)));
        last_ms = last_ms.max(Some(time));
    }
    Ok(Records {
        views,
        first_ms,
        last_ms,
    })
}

/// A visitor that keeps what was found, and no batch.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) partitions: Vec<CheckedPartition>,
    pub(super) damaged: Vec<DamagedRange>,
}

impl Visitor for Findings {
    fn damaged(&mut self, range: DamagedRange) {
        self.damaged.push(range);
    }

    fn partition(&mut self, checked: CheckedPartition) {
        self.partitions.push(checked);
    }
}
