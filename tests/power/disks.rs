//! The disks of a machine, in memory: database, ring and data files. What is written is seen at once; all that
//! happens is recorded in one order of time, so that a cut can be made afterwards, at any place of it (`cut`).

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::planted::{Plant, Planted};
use crate::log::disk::Disk;
use crate::log::ring::BLOCK;
use crate::log::shelf::Shelf;

/// One of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum File {
    Database,
    Ring,
    Data(u32),
}

/// What files hold.
pub type Image = BTreeMap<File, Vec<u8>>;

/// What happens on the disks, and what is told meanwhile.
#[derive(Clone, Debug)]
pub enum Event {
    Write {
        file: File,
        at: usize,
        data: Vec<u8>,
    },
    SetLen {
        file: File,
        len: usize,
    },
    Punch {
        file: File,
        at: usize,
        len: usize,
    },
    Sync(File),
    /// A data file is made empty, or made.
    Create(u32),
    Remove(u32),
    /// Which data files there are is durable.
    SyncFolder,
    /// The turn of this number begins, and ends with its answers.
    Begins(usize),
    Told(usize),
}

impl Event {
    /// The file whose content it changes or syncs.
    pub fn file(&self) -> Option<File> {
        match self {
            Self::Write { file, .. } | Self::SetLen { file, .. } | Self::Punch { file, .. } | Self::Sync(file) => {
                Some(*file)
            }
            Self::Create(_) | Self::Remove(_) | Self::SyncFolder | Self::Begins(_) | Self::Told(_) => None,
        }
    }
}

/// All disks of one machine; clones are of the same.
#[derive(Clone, Debug)]
pub struct Disks(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    seen: Image,
    trace: Vec<Event>,
    plant: Plant,
    /// The machine is switched off: nothing reaches a disk any more, and nothing is recorded.
    off: bool,
}

impl Disks {
    /// With this content, all of it durable.
    pub fn new(image: Image, planted: Option<Planted>) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            seen: image,
            trace: Vec::new(),
            plant: Plant::new(planted),
            off: false,
        })))
    }

    pub fn disk(&self, file: File) -> Track {
        let disks = self.clone();
        Track { disks, file }
    }

    pub fn shelf(&self) -> Tracks {
        Tracks(self.clone())
    }

    pub fn has(&self, file: File) -> bool {
        self.lock().seen.contains_key(&file)
    }

    /// Makes an empty file that is there whatever happens.
    pub fn make(&self, file: File) {
        self.lock().seen.insert(file, Vec::new());
    }

    /// A word between what happens on the disks.
    pub fn mark(&self, event: Event) {
        self.lock().record(event);
    }

    /// Switches the machine off; gives what happened.
    pub fn switch_off(&self) -> Vec<Event> {
        let mut inner = self.lock();
        inner.off = true;
        std::mem::take(&mut inner.trace)
    }

    /// What the files hold now, as whoever is running sees it.
    pub fn seen(&self) -> Image {
        self.lock().seen.clone()
    }

    /// Takes all files away.
    pub fn clear(&self) {
        self.lock().seen.clear();
    }

    /// Bytes that the files take, without holes: of the index and of the data files.
    pub fn used(&self) -> (u64, u64) {
        let inner = self.lock();
        let (mut index, mut bodies) = (0, 0);
        for (file, bytes) in &inner.seen {
            match file {
                File::Data(_) => {
                    let taken = bytes
                        .chunks(BLOCK as usize)
                        .filter(|block| block.iter().any(|byte| *byte != 0));
                    bodies += taken.map(|block| block.len() as u64).sum::<u64>();
                }
                File::Database | File::Ring => index += bytes.len() as u64,
            }
        }
        (index, bodies)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A test that failed elsewhere tells enough.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn running(&mut self) -> Result<&mut Self> {
        match self.off {
            true => Err(Error::other("power is out")),
            false => Ok(self),
        }
    }

    fn bytes(&mut self, file: File) -> Result<&mut Vec<u8>> {
        let bytes = self.running()?.seen.get_mut(&file);
        bytes.ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn record(&mut self, event: Event) {
        self.plant.record(event, &mut self.trace);
    }
}

/// One file.
#[derive(Clone, Debug)]
pub struct Track {
    disks: Disks,
    file: File,
}

impl Disk for Track {
    fn len(&self) -> Result<u64> {
        Ok(self.disks.lock().bytes(self.file)?.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut inner = self.disks.lock();
        let (bytes, at) = (inner.bytes(self.file)?, offset as usize);
        let there = bytes.get(at..at + out.len()).ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(there);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut inner = self.disks.lock();
        let (file, at) = (self.file, offset as usize);
        put(inner.bytes(file)?, at, data);
        let data = data.to_vec();
        inner.record(Event::Write { file, at, data });
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut inner = self.disks.lock();
        let (file, len) = (self.file, len as usize);
        inner.bytes(file)?.resize(len, 0);
        inner.record(Event::SetLen { file, len });
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        assert!(offset.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK) && len > 0);
        let mut inner = self.disks.lock();
        let (file, at, len) = (self.file, offset as usize, len as usize);
        inner.bytes(file)?[at..at + len].fill(0);
        inner.record(Event::Punch { file, at, len });
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let mut inner = self.disks.lock();
        inner.running()?.record(Event::Sync(self.file));
        Ok(())
    }
}

/// The data files.
#[derive(Clone, Debug)]
pub struct Tracks(Disks);

impl Shelf for Tracks {
    type File = Track;

    fn numbers(&self) -> Result<Vec<u32>> {
        let mut inner = self.0.lock();
        let files = inner.running()?.seen.keys();
        Ok(files
            .filter_map(|file| {
                if let File::Data(number) = file {
                    Some(*number)
                } else {
                    None
                }
            })
            .collect())
    }

    fn create(&self, number: u32) -> Result<Track> {
        let mut inner = self.0.lock();
        inner.running()?.seen.insert(File::Data(number), Vec::new());
        inner.record(Event::Create(number));
        inner.record(Event::SyncFolder);
        drop(inner);
        Ok(self.0.disk(File::Data(number)))
    }

    fn open(&self, number: u32) -> Result<Track> {
        self.0.lock().bytes(File::Data(number))?;
        Ok(self.0.disk(File::Data(number)))
    }

    fn remove(&self, number: u32) -> Result<()> {
        let mut inner = self.0.lock();
        inner.bytes(File::Data(number))?;
        inner.seen.remove(&File::Data(number));
        inner.record(Event::Remove(number));
        Ok(())
    }
}

/// Writes into a file, which grows with zeroes up to there.
pub fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    bytes.resize(bytes.len().max(at + data.len()), 0);
    bytes[at..at + data.len()].copy_from_slice(data);
}
