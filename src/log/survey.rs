//! The one walk over a data directory that nobody serves: every partition, and in it every batch in the order of offsets, each
//! read, checked against its row, its CRC and its records, and handed to a visitor; what cannot be read is handed over, too.
//!
//! Not a byte on the disk is changed: the database, which would repair itself when it is opened after a kill, is opened through a
//! copy-on-write view. In memory are the places of all batches, as the broker has them, and one batch at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::model::batch::{Batch, Header, RecordViews};
use crate::model::compression::Inflater;

use super::boots::{self, Boot, ClockMark, UntrustedRange};
use super::depot::{self, DATABASE, Identity, Looked, OpenError, held_by, look};
use super::layout::{BatchEntry, Mark, PartitionKey, decode_segment};
use super::load::{directories, marks, segment, topic_rows};
use super::loss::{Loss, LossFound};
use super::partition::{Home, Indexed};
use super::reader::{Missing, bytes_of};
use super::store::{Map, Store, StoreError};
use super::topic::{TopicRow, first_offset};

/// What the database may keep in memory meanwhile.
const CACHE_BYTES: usize = 16 << 20;
/// What one batch may decompress to: far above what any producer is allowed.
const INFLATE_BYTES_MAX: usize = 256 << 20;

/// A partition and how much of it is right.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DamagedRange {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: u32,
    /// First offset.
    pub offset_first: u64,
    /// Last offset, inclusive.
    pub offset_last: u64,
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
    directory: PathBuf,
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
    clean: BTreeMap<PartitionKey, u64>,
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
    /// Reads the directory's rows; the batches are left to `walk`. Refuses a directory that a process serves.
    pub fn open(directory: &Path) -> Result<Self, SurveyError> {
        let file = directory.join(DATABASE);
        if !file.exists() {
            return Err(SurveyError::NothingThere(directory.into()));
        }
        held_by(directory).map_err(SurveyError::Open)?;
        let unusable = |error: std::io::Error| {
            let (directory, why) = (directory.into(), error.to_string());
            SurveyError::Open(OpenError::Directory { directory, why })
        };
        File::open(&file).map_err(unusable)?;
        let mut survey = Self {
            directory: directory.into(),
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
            Err(error) => {
                // Without all places, nothing can be said of what is missing.
                survey.topics.clear();
                survey.unread.push(error.to_string());
            }
        }
        Ok(survey)
    }

    /// Name and number of partitions of every topic.
    pub fn topics(&self) -> impl Iterator<Item = (&str, u32)> {
        self.topics.values().map(|row| (row.name.as_str(), row.partitions))
    }

    /// The store, for reading more of it. It is dead after an error.
    pub(super) fn store(&self) -> Result<Looked, StoreError> {
        look(&self.directory, CACHE_BYTES, false)
    }

    /// Remembers an error and that something was not read because of it.
    pub(super) fn note(&mut self, what: &str, result: Result<(), StoreError>) {
        if let Err(error) = result {
            self.unread.push(format!("{what}, in part: {error}"));
        }
    }

    fn gather(&mut self) -> Result<(), StoreError> {
        // Every page first; where that fails, what can be read is still looked at.
        if let Err(error) = look(&self.directory, CACHE_BYTES, true) {
            self.unread.push(format!("pages of the database: {error}"));
        }
        let mut store = self.store()?;
        self.identity = Some(depot::identity(&store)?);
        self.topics = topic_rows(&store)?;
        type Part = fn(&mut Survey, &dyn Store) -> Result<(), StoreError>;
        let parts: [(&str, Part); 5] = [
            ("log start offsets", Self::marks),
            ("loss markers", Self::losses),
            ("boots", Self::boots),
            ("the journal", Self::journal),
            ("the segments' directory", Self::segments),
        ];
        for (what, part) in parts {
            if let Err(error) = part(self, &store) {
                self.note(what, Err(error));
                // The handle is dead after an error.
                store = self.store()?;
            }
        }
        for places in self.places.values_mut() {
            places.sort_unstable_by_key(|place| place.entry.base_offset);
        }
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
        if let Err(error) = self.partitions(visitor) {
            self.unread.push(error.to_string());
        }
    }

    fn partitions(&self, visitor: &mut dyn Visitor) -> Result<(), StoreError> {
        if self.topics.is_empty() {
            return Ok(());
        }
        let mut store = self.store()?;
        for (topic, row) in &self.topics {
            for partition in 0..row.partitions {
                if visitor.wants_partition(&row.name, partition) {
                    let key = PartitionKey {
                        topic: *topic,
                        partition,
                    };
                    let walked = self.partition(&mut store, key, row, visitor)?;
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
        store: &mut Looked,
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
        let damaged = |offset_first: u64, offset_next: u64, why: String| DamagedRange {
            topic: row.name.clone(),
            partition: key.partition,
            offset_first,
            offset_last: offset_next.saturating_sub(1).max(offset_first),
            why,
        };
        let mut inflater = Inflater::default();
        let mut seen = false;
        for place in self.places.get(&key).into_iter().flatten() {
            let entry = &place.entry;
            let offset_next = entry.offset_next();
            if offset_next <= log_start {
                continue;
            }
            let missed = checked.offset_next.max(clean_until);
            if entry.base_offset > missed && !self.is_marked(row, key, missed) {
                let why = "these offsets are missing".into();
                visitor.damaged(damaged(missed, entry.base_offset, why));
            }
            if entry.base_offset < checked.offset_next && seen {
                let why = "these offsets are there twice".into();
                visitor.damaged(damaged(entry.base_offset, checked.offset_next, why));
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
                    visitor.damaged(damaged(entry.base_offset, offset_next, error.to_string()));
                    // The handle is dead after an error.
                    *store = self.store()?;
                    continue;
                }
            };
            let sound = batch
                .as_ref()
                .map_err(Clone::clone)
                .and_then(|batch| records(batch, &mut inflater).map(|found| (batch.header(), found)));
            match sound {
                Ok((
                    header,
                    Records {
                        views,
                        first_ms,
                        last_ms,
                    },
                )) => {
                    checked.batches += 1;
                    checked.records += u64::from(header.records_count.unsigned_abs());
                    checked.bytes += u64::from(entry.bytes);
                    checked.first_ms = checked.first_ms.into_iter().chain(first_ms).min();
                    checked.last_ms = checked.last_ms.max(last_ms);
                    if visitor.batch(&checked, header, views).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Err(why) => visitor.damaged(damaged(entry.base_offset, offset_next, why)),
            }
        }
        visitor.partition(checked);
        Ok(ControlFlow::Continue(()))
    }
}

/// A stored batch, or what is wrong with it.
fn stored(store: &Looked, key: PartitionKey, place: &Place) -> Result<Result<Batch, String>, StoreError> {
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
