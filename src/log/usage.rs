//! What the store takes of the disk: blocks, not lengths, because files have holes.

use std::fs::{self, Metadata};
use std::io::{ErrorKind, Result};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::depot::{DATA, DATABASE, RING};
use super::reserve::RESERVE;

/// Bytes on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the database, the ring and the reserve.
    pub index_bytes: u64,
    /// Of the data files.
    pub body_bytes: u64,
    /// Of the whole file system, used or not; 0 where there is none.
    pub disk_bytes: u64,
    /// The flush that it was measured after.
    pub flush: Flush,
}

/// A flush that began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flush {
    /// Counts from 1.
    pub number: u64,
    /// Bytes of batches that commits had brought by then, in all.
    pub taken: u64,
}

/// Measures a data directory. What was set aside as damaged does not count: it is not headwater's to remove, and must not keep
/// a new store from taking records.
pub fn of_directory(path: &Path) -> Result<Usage> {
    let mut body_bytes = 0;
    match fs::read_dir(path.join(DATA)) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(files) => {
            for file in files {
                body_bytes += blocks(&file?.path())?;
            }
        }
    }
    let disk = rustix::fs::statvfs(path)?;
    Ok(Usage {
        index_bytes: blocks(&path.join(DATABASE))? + blocks(&path.join(RING))? + blocks(&path.join(RESERVE))?,
        body_bytes,
        disk_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
        flush: Flush::default(),
    })
}

/// What a file takes of the disk.
pub fn on_disk(file: &Metadata) -> u64 {
    /// `stat` counts in these whatever the file system's are.
    const BLOCK: u64 = 512;
    file.blocks().saturating_mul(BLOCK)
}

fn blocks(path: &Path) -> Result<u64> {
    match fs::metadata(path) {
        // A data file that went meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        found => Ok(on_disk(&found?)),
    }
}
