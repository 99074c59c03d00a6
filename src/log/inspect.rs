//! Looks into a data directory that nobody serves and says what is in it: the store's identity, its files, topics, partitions and
//! tables. Batches are read and checked on the way, as `check` does; not a byte is changed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::boots::{Boot, UntrustedRange};
use super::depot::{self, DATA};
use super::layout::Fields;
use super::loss::LossFound;
use super::store::Map;
use super::survey::{CheckedPartition, DamagedRange, Findings, Survey, SurveyError};
use super::usage::on_disk;
use super::{Table, shelf};
use shelf::Shelf;

/// Tables whose rows are counted.
const TABLES: [Map; 6] = [
    Map::State(Table::Kafka),
    Map::State(Table::MqttSessions),
    Map::State(Table::MqttQos2),
    Map::State(Table::Devices),
    Map::State(Table::Forward),
    Map::Producers,
];

/// What is in a data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InspectReport {
    /// What the store says of itself; `None` when it cannot.
    pub store: Option<StoreFound>,
    /// Every file, those that were set aside included, by name.
    pub files: Vec<FileOnDisk>,
    /// The files of batches, by number.
    pub data_files: Vec<DataFile>,
    /// Topics, in the order in which they were made.
    pub topics: Vec<TopicFound>,
    /// Their partitions.
    pub partitions: Vec<CheckedPartition>,
    /// State tables and producers.
    pub tables: Vec<StateTable>,
    /// What is damaged or missing.
    pub damaged: Vec<DamagedRange>,
    /// What could not be read, and why.
    pub unread: Vec<String>,
    /// What was given up before its time; no damage.
    pub losses: Vec<LossFound>,
    /// Boots of the machine, and what is known of their clocks.
    pub boots: Vec<Boot>,
    /// Offsets that were appended before the clock was trusted.
    pub untrusted: Vec<UntrustedRange>,
    /// Databases in the directory that were set aside earlier.
    pub set_aside: Vec<PathBuf>,
}

/// A store as a whole.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct StoreFound {
    /// Format of its rows.
    pub format: u32,
    /// Stores of the directory that were lost before it.
    pub generation: u32,
    /// Its id, in hexadecimal digits.
    pub store_id: String,
    /// The id of the store that it was copied or restored from, if it was.
    pub origin: Option<String>,
    /// Rows of the journal: commits whose small appends are still needed.
    pub journal_rows: u64,
    /// Large batches, each with a row of its own.
    pub segments: u64,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FileOnDisk {
    /// Path within the directory.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// What it takes of the disk: less than its length where it has holes.
    pub disk_bytes: u64,
}

/// A file of batches.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DataFile {
    /// Its number.
    pub number: u32,
    /// Its length; `None` when it is not there.
    pub bytes: Option<u64>,
    /// Bytes in it that some row names, as of the last flush.
    pub live_bytes: u64,
    /// Where the next flush would write.
    pub written_bytes: u64,
}

impl DataFile {
    /// The live part of it, 0 to 1.
    pub fn fill(&self) -> f64 {
        match self.bytes {
            Some(bytes) if bytes > 0 => self.live_bytes as f64 / bytes as f64,
            _ => 0.0,
        }
    }
}

/// A topic as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TopicFound {
    /// Name.
    pub topic: String,
    /// Kafka's topic id, in hexadecimal digits.
    pub id: String,
    /// Number of partitions.
    pub partitions: u32,
    /// Stores that were lost before it was made.
    pub generation: u32,
    /// Settings that were given when it was made, by Kafka name; the configuration and its defaults decide the others.
    pub settings: BTreeMap<String, String>,
}

/// A table beside the log.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct StateTable {
    /// Its name in `src/manual/format.md`.
    pub table: &'static str,
    /// Rows.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

impl InspectReport {
    /// Nothing is damaged and everything could be read.
    pub fn sound(&self) -> bool {
        self.damaged.is_empty() && self.unread.is_empty()
    }
}

/// Looks into a data directory.
pub fn inspect(directory: &Path) -> Result<InspectReport, SurveyError> {
    let mut survey = Survey::open(directory)?;
    let origin = survey.origin();
    let mut report = InspectReport {
        store: survey.identity.map(|identity| StoreFound {
            format: identity.format,
            generation: identity.generation,
            store_id: hex(&identity.store_id),
            origin: origin.map(|id| hex(&id)),
            journal_rows: survey.journal_rows,
            segments: survey.segments,
        }),
        set_aside: depot::set_aside(&survey.files().directory),
        ..InspectReport::default()
    };
    let directory = survey.files().directory.clone();
    if let Err(error) = files(&directory, "", &mut report.files) {
        survey.unread.push(format!("the files of the directory: {error}"));
    }
    report.files.sort_by(|a, b| a.name.cmp(&b.name));
    report.topics = topics(&survey);
    if survey.identity.is_some() {
        let rows = data_rows(&mut survey);
        match data_files(survey.files().path(DATA), rows) {
            Ok(files) => report.data_files = files,
            Err(error) => survey.unread.push(format!("the data files: {error}")),
        }
        for map in TABLES {
            report.tables.push(table(&mut survey, map));
        }
    }
    let mut findings = Findings::default();
    survey.walk(&mut findings);
    report.partitions = findings.partitions;
    report.damaged = findings.damaged;
    report.unread = survey.unread;
    report.losses = survey.losses;
    report.boots = survey.boots;
    report.untrusted = survey.untrusted;
    Ok(report)
}

/// Every file in a folder and the folders in it.
fn files(folder: &Path, prefix: &str, found: &mut Vec<FileOnDisk>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            files(&entry.path(), &format!("{name}/"), found)?;
        } else {
            found.push(FileOnDisk {
                name,
                bytes: metadata.len(),
                disk_bytes: on_disk(&metadata),
            });
        }
    }
    Ok(())
}

fn topics(survey: &Survey) -> Vec<TopicFound> {
    let found = survey.topics.values().map(|row| TopicFound {
        topic: row.name.clone(),
        id: hex(&row.id),
        partitions: row.partitions,
        generation: row.generation,
        settings: row.settings.clone(),
    });
    found.collect()
}

/// Live bytes and the place of the next write, by number.
fn data_rows(survey: &mut Survey) -> BTreeMap<u32, (u64, u64)> {
    let mut rows = BTreeMap::new();
    survey.scan(Map::Files, &mut |key, value| {
        let (number, mut fields) = (Fields(key).u32()?, Fields(value));
        rows.insert(number, (fields.u64()?, fields.u64()?));
        Ok(true)
    });
    rows
}

/// What the rows say of the files, and those that no row names.
fn data_files(data: PathBuf, mut rows: BTreeMap<u32, (u64, u64)>) -> io::Result<Vec<DataFile>> {
    let folder = shelf::Folder::new(data, Default::default());
    for number in folder.numbers()? {
        rows.entry(number).or_default();
    }
    let file = |(number, (live_bytes, written_bytes))| DataFile {
        number,
        bytes: fs::metadata(folder.file(number)).ok().map(|file| file.len()),
        live_bytes,
        written_bytes,
    };
    Ok(rows.into_iter().map(file).collect())
}

fn table(survey: &mut Survey, map: Map) -> StateTable {
    let (mut rows, mut bytes) = (0, 0);
    survey.scan(map, &mut |key, value| {
        rows += 1;
        bytes += (key.len() + value.len()) as u64;
        Ok(true)
    });
    let table = map.name();
    StateTable { table, rows, bytes }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
