//! The reserve: a file that takes space and holds nothing. Where the disk is full it is given back, so that what makes room (the removal of
//! what is past) can be written; it is taken again once there is room.

use std::fs::{self, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::path::Path;

use super::disk::{Disk, FileDisk};
use super::usage::on_disk;

/// Name of the file.
pub const RESERVE: &str = "headwater.reserve";
/// What it takes. A flush of what is past needs some pages of the database, and a megabyte for batches that wait.
pub const RESERVE_BYTES: u64 = 4 << 20;
/// So much must be free beside it before records are taken again: else the disk would be full at once.
const FREE_BYTES: u64 = 4 << 20;

/// Takes it, if it is not there yet.
pub fn take(directory: &Path) -> Result<()> {
    let path = directory.join(RESERVE);
    match fs::metadata(&path) {
        Ok(found) if on_disk(&found) >= RESERVE_BYTES => return Ok(()),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let disk = rustix::fs::statvfs(directory)?;
    if disk.f_bavail.saturating_mul(disk.f_frsize) < RESERVE_BYTES + FREE_BYTES {
        return Err(Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()));
    }
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
    FileDisk(file).extend(RESERVE_BYTES)
}

/// Gives it back; whether there was any.
pub fn give(directory: &Path) -> bool {
    match fs::remove_file(directory.join(RESERVE)) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => {
            tracing::warn!(%error, "the reserve could not be given back");
            false
        }
    }
}
