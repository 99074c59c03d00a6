//! Makes a data directory of what is intact in another one that nobody serves, which stays as it is: `headwater repair`, and the copy
//! of a directory under an identity of its own.

use std::path::Path;

use super::build::Building;
use super::copy::{CopyReport, copy};
use super::depot::{Identity, OpenError, origin_op};
use super::store::StoreError;
use super::survey::{Survey, SurveyError};

/// What is new in a directory that is made.
#[derive(Clone, Copy, Debug)]
pub struct Fresh {
    /// Random; the store's id where it gets one of its own.
    pub store_id: [u8; 16],
    /// Random and told to nobody; the ring's id comes from it.
    pub ring_seed: [u8; 16],
    /// The time, ms since 1970.
    pub now_ms: i64,
}

/// Why no directory was made.
#[derive(Debug)]
pub enum CopyError {
    /// The source cannot be looked at.
    From(SurveyError),
    /// Nothing of the source can be read: why.
    Nothing(Vec<String>),
    /// The new directory cannot be made.
    To(OpenError),
    /// Writing to it failed.
    Write(StoreError),
    /// Where a backup was to go takes no more.
    Output(std::io::Error),
    /// A backup ends too early, or is not as it was written.
    Torn(String),
}

impl std::fmt::Display for CopyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::From(error) => error.fmt(f),
            Self::Nothing(unread) => write!(f, "nothing of it can be read: {}", unread.join("; ")),
            Self::To(OpenError::Directory { directory, why }) => write!(
                f,
                "{} cannot be made: {why}. Try: a directory that is not there yet",
                directory.display()
            ),
            Self::To(error) => error.fmt(f),
            Self::Write(error) => write!(f, "the new directory could not be written, and is removed: {error}"),
            Self::Output(error) => write!(f, "the backup could not be written: {error}"),
            Self::Torn(why) => write!(f, "the backup is not whole: {why}. Try: another backup"),
        }
    }
}

impl std::error::Error for CopyError {}

/// Copies what is intact of `from`, a directory or the database of a store that was put aside, to a new directory. It keeps the
/// store's id: it takes the place of the other one.
pub fn repair(from: &Path, to: &Path, fresh: &Fresh) -> Result<CopyReport, CopyError> {
    let mut survey = Survey::open(from).map_err(CopyError::From)?;
    let identity = identity(&survey)?;
    let building = Building::begin(to, identity, fresh.ring_seed).map_err(CopyError::To)?;
    fill(building, &mut survey, fresh)
}

/// Copies a directory that nobody serves under the id of `fresh`.
pub fn clone_directory(from: &Path, to: &Path, fresh: &Fresh) -> Result<CopyReport, CopyError> {
    let mut survey = Survey::open(from).map_err(CopyError::From)?;
    let of = identity(&survey)?;
    let identity = Identity {
        store_id: fresh.store_id,
        ..of
    };
    let building = Building::begin(to, identity, fresh.ring_seed).map_err(CopyError::To)?;
    let origin = origin_op(of.store_id, fresh.now_ms);
    building.put(&[origin]).map_err(CopyError::Write)?;
    fill(building, &mut survey, fresh)
}

pub(super) fn identity(survey: &Survey) -> Result<Identity, CopyError> {
    survey.identity.ok_or_else(|| CopyError::Nothing(survey.unread.clone()))
}

fn fill(building: Building, survey: &mut Survey, fresh: &Fresh) -> Result<CopyReport, CopyError> {
    let report = copy(survey, fresh.now_ms, &mut |ops| building.put(ops)).map_err(CopyError::Write)?;
    building.finish().map_err(CopyError::Write)?;
    Ok(report)
}
