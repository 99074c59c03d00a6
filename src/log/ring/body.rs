//! The database's file: a block that names its ring, and behind it the bytes that the store reads and writes.
//!
//! ```text
//! 0  magic "HWREDB01"   8  id of the ring, 16 bytes   24 zeros to 4,096   then the database
//! ```
//! Replaying a ring over a file that it does not belong to would leave neither; so nothing is replayed before the ids agree.

use std::io;

use super::BLOCK;
use crate::log::disk::Disk;

const MAGIC: &[u8; 8] = b"HWREDB01";
const HEADER: usize = 24;

/// The bytes behind the first block.
#[derive(Debug)]
pub(super) struct Body<D>(D);

impl<D: Disk> Body<D> {
    /// Of a file whose ring has this id. A file without a name gets it, if its ring holds nothing yet: it was never written to.
    pub(super) fn open(file: D, id: [u8; 16], ring_is_empty: bool) -> io::Result<Self> {
        let mut header = [0; HEADER];
        if file.len()? >= BLOCK {
            file.read(0, &mut header)?;
        }
        let damaged = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        if &header[..8] == MAGIC {
            return match header[8..] == id {
                true => Ok(Self(file)),
                false => damaged("the database and the ring do not belong together"),
            };
        }
        if header != [0; HEADER] || !ring_is_empty || file.len()? > BLOCK {
            return damaged("this is no database of headwater, or its first block is damaged");
        }
        file.set_len(BLOCK)?;
        header[..8].copy_from_slice(MAGIC);
        header[8..].copy_from_slice(&id);
        file.write(0, &header)?;
        file.sync()?;
        Ok(Self(file))
    }
}

impl<D: Disk> Disk for Body<D> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len()?.saturating_sub(BLOCK))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset + BLOCK, out)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset + BLOCK, data)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len + BLOCK)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}
