//! Where the data files stand: a folder of numbered files. The seam for power cuts in tests and for looking without writing.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{DirectDisk, Disk};
use super::tally::{Tallied, Tally};

/// Numbered files.
pub trait Shelf: Debug + Send + Sync + 'static {
    /// One of them.
    type File: Disk;
    /// The numbers that are there, in any order.
    fn numbers(&self) -> Result<Vec<u32>>;
    /// Makes an empty file, whatever was there under its number. Once this returns it is there after a power cut, too.
    fn create(&self, number: u32) -> Result<Self::File>;
    /// Opens one that is there.
    fn open(&self, number: u32) -> Result<Self::File>;
    /// Removes one. A power cut may bring it back.
    fn remove(&self, number: u32) -> Result<()>;
}

/// A folder of the file system; it is made with its first file.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    tally: Arc<Tally>,
}

impl Folder {
    /// At this path; what is written is counted there.
    pub fn new(path: PathBuf, tally: Arc<Tally>) -> Self {
        Self { path, tally }
    }

    fn disk(&self, path: &Path) -> Result<Tallied<DirectDisk>> {
        Ok(Tallied::new(DirectDisk::open(path)?, Arc::clone(&self.tally)))
    }

    /// The path of one of its files.
    pub fn file(&self, number: u32) -> PathBuf {
        self.path.join(format!("{number:010}.data"))
    }
}

impl Shelf for Folder {
    type File = Tallied<DirectDisk>;

    fn numbers(&self) -> Result<Vec<u32>> {
        numbers(&self.path)
    }

    fn create(&self, number: u32) -> Result<Tallied<DirectDisk>> {
        match fs::create_dir(&self.path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // Each time: who made the folder may have gone before it was durable.
        if let Some(parent) = self.path.parent() {
            sync(parent)?;
        }
        let path = self.file(number);
        File::create(&path)?;
        sync(&self.path)?;
        self.disk(&path)
    }

    fn open(&self, number: u32) -> Result<Tallied<DirectDisk>> {
        self.disk(&self.file(number))
    }

    fn remove(&self, number: u32) -> Result<()> {
        fs::remove_file(self.file(number))
    }
}

/// The same, to be looked at.
#[derive(Debug)]
pub struct ReadOnlyFolder(pub Folder);

/// A file that nothing is written to.
#[derive(Debug)]
pub struct ReadOnlyDisk(File);

impl Shelf for ReadOnlyFolder {
    type File = ReadOnlyDisk;

    fn numbers(&self) -> Result<Vec<u32>> {
        self.0.numbers()
    }

    fn create(&self, _: u32) -> Result<ReadOnlyDisk> {
        Err(read_only())
    }

    fn open(&self, number: u32) -> Result<ReadOnlyDisk> {
        let file = OpenOptions::new().read(true).open(self.0.file(number));
        file.map(ReadOnlyDisk)
    }

    fn remove(&self, _: u32) -> Result<()> {
        Err(read_only())
    }
}

impl Disk for ReadOnlyDisk {
    fn len(&self) -> Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.0, out, offset)
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<()> {
        Err(read_only())
    }

    fn set_len(&self, _: u64) -> Result<()> {
        Err(read_only())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

fn numbers(folder: &Path) -> Result<Vec<u32>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".data"));
        numbers.extend(number.and_then(|number| number.parse::<u32>().ok()));
    }
    Ok(numbers)
}

/// Makes durable which files a folder has.
pub fn sync(folder: &Path) -> Result<()> {
    File::open(folder)?.sync_all()
}

fn read_only() -> Error {
    Error::new(ErrorKind::Unsupported, "it is only looked at")
}
