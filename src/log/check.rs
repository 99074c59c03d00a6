//! Looks at a data directory that nobody serves and says whether everything in it is as it was written: every batch's CRC and
//! records, every partition's offsets without a gap. Not a byte on the disk is changed: the database, which would repair itself when
//! it is opened after a kill, is opened through a copy-on-write view. What is damaged is listed; what cannot be read at all is said.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::model::batch::Batch;
use crate::model::compression::Inflater;

use super::depot::{self, DATABASE, Identity, Looked, OpenError, held_by, look};
use super::layout::{BatchEntry, Fields, PartitionKey};
use super::load::{directories, topic_rows};
use super::partition::{Indexed, SEGMENT};
use super::reader::{Missing, bytes_of};
use super::store::{Map, Store, StoreError};
use super::topic::{TopicRow, first_offset};

/// What the database may keep in memory meanwhile.
const CACHE_BYTES: usize = 16 << 20;
/// What one batch may decompress to: far above what any producer is allowed.
const INFLATE_BYTES_MAX: usize = 256 << 20;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CheckReport {
    /// The database.
    pub file: PathBuf,
    /// Databases that were lost before this one.
    pub generation: u32,
    /// Every partition, by topic and number.
    pub partitions: Vec<CheckedPartition>,
    /// What is damaged or missing.
    pub damaged: Vec<DamagedRange>,
    /// What could not be read, and why.
    pub unread: Vec<String>,
    /// Databases in the directory that were set aside earlier.
    pub set_aside: Vec<PathBuf>,
}

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

impl CheckReport {
    /// Nothing is damaged and everything could be read.
    pub fn sound(&self) -> bool {
        self.damaged.is_empty() && self.unread.is_empty()
    }

    /// Batches that are right, over all partitions.
    pub fn batches(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.batches).sum()
    }

    /// Records in them.
    pub fn records(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.records).sum()
    }

    /// Bytes of them.
    pub fn bytes(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.bytes).sum()
    }
}

/// Why a directory could not be looked at. A damaged database is no such reason.
#[derive(Debug)]
pub enum CheckError {
    /// There is no database in it.
    NothingThere(PathBuf),
    /// A process serves it, or it cannot be read.
    Open(OpenError),
}

impl std::fmt::Display for CheckError {
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

impl std::error::Error for CheckError {}

/// Checks a data directory.
pub fn check(directory: &Path) -> Result<CheckReport, CheckError> {
    let file = directory.join(DATABASE);
    if !file.exists() {
        return Err(CheckError::NothingThere(directory.into()));
    }
    held_by(directory).map_err(CheckError::Open)?;
    let unusable = |error: std::io::Error| {
        let (directory, why) = (directory.into(), error.to_string());
        CheckError::Open(OpenError::Directory { directory, why })
    };
    File::open(&file).map_err(unusable)?;
    let mut checker = Checker {
        directory: directory.into(),
        report: CheckReport {
            file,
            set_aside: depot::set_aside(directory),
            ..CheckReport::default()
        },
        topics: BTreeMap::new(),
        starts: BTreeMap::new(),
    };
    match checker.look() {
        Ok(()) => {}
        Err(error @ StoreError::Format { .. }) => return Err(CheckError::Open(OpenError::Store(error))),
        Err(error) => checker.report.unread.push(error.to_string()),
    }
    Ok(checker.report)
}

struct Checker {
    directory: PathBuf,
    report: CheckReport,
    topics: BTreeMap<u32, TopicRow>,
    starts: BTreeMap<PartitionKey, u64>,
}

/// Where a batch should be.
struct Place {
    entry: BatchEntry,
    row: u64,
    at: u32,
}

impl Checker {
    fn look(&mut self) -> Result<(), StoreError> {
        // Every page first; where that fails, what can be read is still looked at.
        if let Err(error) = look(&self.directory, CACHE_BYTES, true) {
            self.report.unread.push(format!("pages of the database: {error}"));
        }
        let store = look(&self.directory, CACHE_BYTES, false)?;
        let Identity { generation, .. } = depot::identity(&store)?;
        self.report.generation = generation;
        self.topics = topic_rows(&store)?;
        let mut places = BTreeMap::new();
        let starts = store.scan(Map::Partitions, &[], None, &mut |key, value| {
            self.starts.insert(PartitionKey::parse(key)?, Fields(value).u64()?);
            Ok(true)
        });
        self.note("log start offsets", starts);
        let store = look(&self.directory, CACHE_BYTES, false)?;
        let journal = self.journal(&store, &mut places);
        self.note("the journal", journal);
        let store = look(&self.directory, CACHE_BYTES, false)?;
        let segments = self.segments(&store, &mut places);
        self.note("the segments' directory", segments);
        self.partitions(places)
    }

    fn note(&mut self, what: &str, result: Result<(), StoreError>) {
        if let Err(error) = result {
            self.report.unread.push(format!("{what}, in part: {error}"));
        }
    }

    fn journal(
        &mut self,
        store: &dyn Store,
        places: &mut BTreeMap<PartitionKey, Vec<Place>>,
    ) -> Result<(), StoreError> {
        let unread = &mut self.report.unread;
        directories(store, &mut |row, directory| {
            let directory = match directory {
                Ok(directory) => directory,
                Err(error) => {
                    unread.push(format!("journal row {row}: {error}"));
                    return Ok(());
                }
            };
            let mut at = 0u32;
            for entry in directory.entries {
                places
                    .entry(entry.partition)
                    .or_default()
                    .push(Place { entry, row, at });
                at = at.saturating_add(entry.bytes);
            }
            Ok(())
        })
    }

    fn segments(
        &mut self,
        store: &dyn Store,
        places: &mut BTreeMap<PartitionKey, Vec<Place>>,
    ) -> Result<(), StoreError> {
        let unread = &mut self.report.unread;
        store.scan(Map::Segments, &[], None, &mut |key, value| {
            match BatchEntry::decode_segment(key, value) {
                Ok(entry) => places.entry(entry.partition).or_default().push(Place {
                    entry,
                    row: SEGMENT,
                    at: 0,
                }),
                Err(error) => unread.push(format!("a segment's entry: {error}")),
            }
            Ok(true)
        })
    }

    fn partitions(&mut self, mut places: BTreeMap<PartitionKey, Vec<Place>>) -> Result<(), StoreError> {
        let mut store = look(&self.directory, CACHE_BYTES, false)?;
        for (topic, row) in std::mem::take(&mut self.topics) {
            for partition in 0..row.partitions {
                let key = PartitionKey { topic, partition };
                let mut found = places.remove(&key).unwrap_or_default();
                found.sort_unstable_by_key(|place| place.entry.base_offset);
                self.partition(&mut store, key, &row, &found)?;
            }
        }
        Ok(())
    }

    fn partition(
        &mut self,
        store: &mut Looked,
        key: PartitionKey,
        row: &TopicRow,
        places: &[Place],
    ) -> Result<(), StoreError> {
        let log_start = self.starts.get(&key).copied().unwrap_or(first_offset(row.generation));
        let mut checked = CheckedPartition {
            topic: row.name.clone(),
            partition: key.partition,
            log_start,
            offset_next: log_start,
            ..CheckedPartition::default()
        };
        let mut damaged = |offset_first: u64, offset_next: u64, why: String| {
            self.report.damaged.push(DamagedRange {
                topic: row.name.clone(),
                partition: key.partition,
                offset_first,
                offset_last: offset_next.saturating_sub(1).max(offset_first),
                why,
            });
        };
        for place in places {
            let entry = &place.entry;
            let offset_next = entry.base_offset.saturating_add(u64::from(entry.records));
            if offset_next <= log_start {
                continue;
            }
            if entry.base_offset > checked.offset_next {
                damaged(
                    checked.offset_next,
                    entry.base_offset,
                    "these offsets are missing".into(),
                );
            }
            if entry.base_offset < checked.offset_next && checked.batches > 0 {
                damaged(
                    entry.base_offset,
                    checked.offset_next,
                    "these offsets are there twice".into(),
                );
            }
            checked.offset_next = checked.offset_next.max(offset_next);
            match wrong(store, key, place) {
                Ok(None) => {
                    checked.batches += 1;
                    checked.records += u64::from(entry.records);
                    checked.bytes += u64::from(entry.bytes);
                }
                Ok(Some(why)) => damaged(entry.base_offset, offset_next, why),
                Err(error) => {
                    damaged(entry.base_offset, offset_next, error.to_string());
                    // The handle is dead after an error.
                    *store = look(&self.directory, CACHE_BYTES, false)?;
                }
            }
        }
        self.report.partitions.push(checked);
        Ok(())
    }
}

/// What is wrong with a stored batch.
fn wrong(store: &Looked, key: PartitionKey, place: &Place) -> Result<Option<String>, StoreError> {
    let entry = &place.entry;
    let indexed = Indexed {
        base_offset: entry.base_offset,
        records: entry.records,
        bytes: entry.bytes,
        max_timestamp: entry.max_timestamp,
        max_so_far: entry.max_timestamp,
        append_ms: entry.append_ms,
        row: place.row,
        at: place.at,
    };
    let bytes: Bytes = match bytes_of(store, key, &indexed) {
        Ok(bytes) => bytes,
        Err(Missing::Batch(why)) => return Ok(Some(why)),
        Err(Missing::Store(error)) => return Err(error),
    };
    let batch = match Batch::parse(bytes) {
        Ok(batch) => batch,
        Err(error) => return Ok(Some(error.to_string())),
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
        return Ok(Some(why));
    }
    let verified = batch.verify_stored(&mut Inflater::default(), INFLATE_BYTES_MAX);
    Ok(verified.err().map(|error| error.to_string()))
}
