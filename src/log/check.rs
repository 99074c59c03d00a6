//! Looks at a data directory that nobody serves and says whether everything in it is as it was written: every batch's CRC and
//! records, every partition's offsets without a gap. What is damaged is listed; what cannot be read at all is said.

use std::path::{Path, PathBuf};

use super::boots::{Boot, UntrustedRange};
use super::depot::{self, DATABASE};
use super::loss::LossFound;
use super::survey::{CheckedPartition, DamagedRange, Findings, Survey, SurveyError};

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
    /// What was given up before its time; no damage.
    pub losses: Vec<LossFound>,
    /// Boots of the machine, and what is known of their clocks.
    pub boots: Vec<Boot>,
    /// Offsets that were appended before the clock was trusted.
    pub untrusted: Vec<UntrustedRange>,
    /// Databases in the directory that were set aside earlier.
    pub set_aside: Vec<PathBuf>,
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

/// Checks a data directory.
pub fn check(directory: &Path) -> Result<CheckReport, SurveyError> {
    let mut survey = Survey::open(directory)?;
    let mut findings = Findings::default();
    survey.walk(&mut findings);
    let files = survey.files().clone();
    Ok(CheckReport {
        file: files.path(DATABASE),
        generation: survey.identity.map_or(0, |identity| identity.generation),
        partitions: findings.partitions,
        damaged: findings.damaged,
        unread: survey.unread,
        losses: survey.losses,
        boots: survey.boots,
        untrusted: survey.untrusted,
        set_aside: depot::set_aside(&files.directory),
    })
}
