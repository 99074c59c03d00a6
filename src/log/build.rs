//! A data directory in the making: a copy, a repaired one or a restored backup. It is filled beside its place, under another name, and
//! has its own name once it is whole and durable: nobody can take a part of it for all of it.

use std::fs;
use std::io::{Error as IoError, ErrorKind};
use std::path::{Path, PathBuf};

use super::depot::{Depot, Directory, Identity, OpenError};
use super::shelf;
use super::store::{Op, Store, StoreError};

/// What the database may keep in memory meanwhile.
const CACHE_BYTES: usize = 16 << 20;

/// A data directory that nobody sees yet. Dropped before it is finished, it goes.
pub(super) struct Building {
    to: PathBuf,
    aside: PathBuf,
    open: Option<(Box<dyn Store>, Directory)>,
}

impl Building {
    /// Begins one. `to` must not be there, or be an empty folder.
    pub(super) fn begin(to: &Path, identity: Identity, ring_seed: [u8; 16]) -> Result<Self, OpenError> {
        let unusable = |why: String| OpenError::Directory {
            directory: to.into(),
            why,
        };
        match fs::read_dir(to).map(|mut entries| entries.next().is_some()) {
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Ok(true) => return Err(unusable("it is there already, and nothing is written over".into())),
            Err(error) => return Err(unusable(error.to_string())),
        }
        let name = to
            .file_name()
            .ok_or_else(|| unusable("it has no name of its own".into()))?;
        let mut part = name.to_owned();
        part.push(".part");
        let aside = to.with_file_name(part);
        if aside.exists() {
            let why = format!("{} is there, of one that was not finished; remove it", aside.display());
            return Err(unusable(why));
        }
        let directory = Directory::take(&aside, CACHE_BYTES, identity.store_id, ring_seed)?;
        let mut building = Self {
            to: to.into(),
            aside,
            open: None,
        };
        if identity.generation > 0 {
            // What makes the store reads its generation from there.
            let counted = directory.count(identity.generation);
            counted.map_err(|error| unusable(error.to_string()))?;
        }
        let (store, _) = directory.open(false).map_err(OpenError::Store)?;
        building.open = Some((store, directory));
        Ok(building)
    }

    /// Adds to it.
    pub(super) fn put(&self, ops: &[Op]) -> Result<(), StoreError> {
        match &self.open {
            Some((store, _)) => store.commit(ops),
            None => Err(StoreError::Closed),
        }
    }

    /// All of it is there: it becomes durable, and gets its name.
    pub(super) fn finish(mut self) -> Result<(), StoreError> {
        let (store, directory) = self.open.take().ok_or(StoreError::Closed)?;
        store.checkpoint()?;
        drop((store, directory));
        self.name().map_err(|error| StoreError::Io(error.to_string()))
    }

    fn name(&self) -> Result<(), IoError> {
        shelf::sync(&self.aside)?;
        // Over an empty folder, or over nothing.
        fs::rename(&self.aside, &self.to)?;
        match self.to.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => shelf::sync(parent),
            _ => shelf::sync(Path::new(".")),
        }
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        self.open = None;
        match fs::remove_dir_all(&self.aside) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(%error, "{} could not be removed", self.aside.display());
            }
            _ => {}
        }
    }
}
