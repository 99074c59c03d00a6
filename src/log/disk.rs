//! What lies under a store: a flat run of bytes that is read, written and synced. The seam for the ring, for faults in tests, and for
//! looking at a database without writing to it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Advice, FallocateFlags, OFlags, fadvise, fallocate};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};

/// So much of a flush is written at most before a sync. A device takes what it is given in turn: behind megabytes of a flush a commit
/// of the ring would wait for milliseconds.
pub const UNSYNCED_BYTES: usize = 512 << 10;

/// A run of bytes. New length is zeroes; only what was synced survives a power cut.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Its length.
    fn len(&self) -> Result<u64>;
    /// Fills `out` from `offset` on, or fails.
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()>;
    /// Writes all of it.
    fn write(&self, offset: u64, data: &[u8]) -> Result<()>;
    /// Makes it shorter or longer.
    fn set_len(&self, len: u64) -> Result<()>;
    /// Makes it longer, with space behind every byte where the file system can promise that: to write there needs none any more.
    fn extend(&self, len: u64) -> Result<()> {
        self.set_len(len)
    }
    /// Gives the space behind whole blocks back: they read as zeroes, if they are read at all.
    fn punch(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }
    /// Makes durable what was written before.
    fn sync(&self) -> Result<()>;
    /// Writes all of it and makes that durable.
    fn write_synced(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.write(offset, data)?;
        self.sync()
    }
}

/// Drops what the kernel keeps of a file and has written, or believes it has, so that the disk itself is read next.
pub fn forget_cached(file: &File) {
    if let Err(error) = fadvise(file, 0, None, Advice::DontNeed) {
        tracing::debug!(%error, "what is cached of a file stays there");
    }
}

/// A plain file.
#[derive(Debug)]
pub struct FileDisk(pub File);

impl Disk for FileDisk {
    fn len(&self) -> Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.0.set_len(len)
    }

    fn extend(&self, len: u64) -> Result<()> {
        // From its end on: holes before it stay holes.
        let from = self.len()?;
        match fallocate(&self.0, FallocateFlags::empty(), from, len.saturating_sub(from)) {
            _ if len <= from => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => self.set_len(len),
            allocated => Ok(allocated?),
        }
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.0, how, offset, len) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            punched => Ok(punched?),
        }
    }

    fn sync(&self) -> Result<()> {
        self.0.sync_data()
    }

    /// One call for both, where the file system has it: it syncs what is written and nothing else of the file.
    fn write_synced(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < data.len() {
            let rest = [IoSlice::new(&data[done..])];
            match pwritev2(&self.0, &rest, offset + done as u64, ReadWriteFlags::DSYNC) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    self.write(offset, data)?;
                    return self.sync();
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// A file whose synced writes go past the page cache where the file system can do that: a quarter less time for a large one, and
/// nothing is kept in memory that nobody reads.
#[derive(Debug)]
pub struct DirectDisk {
    file: FileDisk,
    direct: Option<File>,
    /// The file system took it for open and not for write.
    refused: AtomicBool,
}

impl DirectDisk {
    /// What memory and place of a direct write must be a multiple of; devices ask for 512 or 4,096.
    pub const ALIGNMENT: usize = 4096;

    /// Opens a file that is there.
    pub fn open(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = FileDisk(options.open(path)?);
        // Not every file system has it; a plain write does the same.
        let direct = options.custom_flags(OFlags::DIRECT.bits() as i32).open(path).ok();
        let refused = AtomicBool::new(false);
        Ok(Self { file, direct, refused })
    }

    /// What is read next comes from the disk.
    pub fn forget_cached(&self) {
        forget_cached(&self.file.0);
    }

    fn fits(offset: u64, data: &[u8]) -> bool {
        let place = offset.is_multiple_of(Self::ALIGNMENT as u64) && data.len().is_multiple_of(Self::ALIGNMENT);
        place && data.as_ptr().align_offset(Self::ALIGNMENT) == 0
    }
}

impl Disk for DirectDisk {
    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read(offset, out)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.file.write(offset, data)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len)
    }

    fn extend(&self, len: u64) -> Result<()> {
        self.file.extend(len)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.file.punch(offset, len)
    }

    fn sync(&self) -> Result<()> {
        self.file.sync()
    }

    fn write_synced(&self, offset: u64, data: &[u8]) -> Result<()> {
        if let Some(direct) = &self.direct
            && Self::fits(offset, data)
            && !self.refused.load(Ordering::Relaxed)
        {
            // A part of it may be written and the rest not: the whole is written again below.
            match pwritev2(direct, &[IoSlice::new(data)], offset, ReadWriteFlags::DSYNC) {
                Ok(written) if written == data.len() => return Ok(()),
                Err(Errno::INVAL | Errno::OPNOTSUPP) => self.refused.store(true, Ordering::Relaxed),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.file.write_synced(offset, data)
    }
}

/// A file that is only read; what is written is kept in memory, over it. A store that repairs itself when it is opened can so be
/// opened without a change on the disk.
#[derive(Debug)]
pub struct CopyOnWriteDisk {
    file: File,
    over: Mutex<Over>,
}

#[derive(Debug)]
struct Over {
    len: u64,
    /// The file counts up to here: what lies beyond is zeroes, though a longer file had other bytes there.
    file_len: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

const PAGE: usize = 4096;

impl CopyOnWriteDisk {
    /// Over a file that was opened for reading.
    pub fn new(file: File) -> Result<Self> {
        let len = file.metadata()?.len();
        let over = Mutex::new(Over {
            len,
            file_len: len,
            pages: BTreeMap::new(),
        });
        Ok(Self { file, over })
    }

    fn lock(&self) -> MutexGuard<'_, Over> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn page(&self, over: &Over, number: u64) -> Result<Box<[u8; PAGE]>> {
        if let Some(page) = over.pages.get(&number) {
            return Ok(page.clone());
        }
        let mut page = Box::new([0; PAGE]);
        let begins = number * PAGE as u64;
        let there = over.file_len.saturating_sub(begins).min(PAGE as u64) as usize;
        self.file.read_exact_at(&mut page[..there], begins)?;
        Ok(page)
    }
}

impl Disk for CopyOnWriteDisk {
    fn len(&self) -> Result<u64> {
        Ok(self.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let over = self.lock();
        if offset.saturating_add(out.len() as u64) > over.len {
            return Err(Error::new(ErrorKind::UnexpectedEof, "the file is shorter than it says"));
        }
        each_page(offset, out.len(), |number, at, range| {
            let wanted = &mut out[range];
            wanted.copy_from_slice(&self.page(&over, number)?[at..at + wanted.len()]);
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut over = self.lock();
        over.len = over.len.max(offset + data.len() as u64);
        each_page(offset, data.len(), |number, at, range| {
            let mut page = self.page(&over, number)?;
            let given = &data[range];
            page[at..at + given.len()].copy_from_slice(given);
            over.pages.insert(number, page);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut over = self.lock();
        over.len = len;
        over.file_len = over.file_len.min(len);
        let first_gone = len.div_ceil(PAGE as u64);
        over.pages.split_off(&first_gone);
        let last = len / PAGE as u64;
        if let Some(page) = over.pages.get_mut(&last) {
            page[(len % PAGE as u64) as usize..].fill(0);
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// Calls `each` with page number, place in the page and range of the bytes for every page that they touch.
fn each_page(
    offset: u64,
    len: usize,
    mut each: impl FnMut(u64, usize, std::ops::Range<usize>) -> Result<()>,
) -> Result<()> {
    let mut done = 0;
    while done < len {
        let place = offset + done as u64;
        let at = (place % PAGE as u64) as usize;
        let until = len.min(done + PAGE - at);
        each(place / PAGE as u64, at, done..until)?;
        done = until;
    }
    Ok(())
}
