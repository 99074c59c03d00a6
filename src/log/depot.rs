//! Where the store lies: the data directory, its lock, the database file, and what was set aside.
//!
//! ```text
//! LOCK                          locked by the process that serves it, whose pid is in it
//! headwater.redb                the database
//! headwater.ring                its newest commits (`ringed`)
//! headwater.data/               its batches (`bodies`), in numbered files: none of the three is whole without the others
//! headwater.redb.new            a database in the making, and its ring; never opened, removed at the next start
//! headwater.redb.format-N       the database as it was before it was brought from format N to a newer one, and its ring
//! headwater.reserve             space that is given back where the disk is full, so that removing works (`reserve`)
//! headwater.redb.damaged-N      the N-th database that was set aside, its ring and its batches; never touched again
//! GENERATION                    how many databases were set aside, also when those files are gone
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{Error as IoError, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};

use super::disk::Disk;
use super::disk::{CopyOnWriteDisk, DirectDisk, FileDisk, forget_cached};
use super::layout::{FORMAT, FORMAT_OLDEST, Fields, damaged};
use super::media::Media;
use super::profile::Sizes;
use super::redb::RedbStore;
use super::reserve;
use super::ring::Ring;
use super::ring_row::new_ring;
use super::ringed::RingedStore;
use super::shelf::{self, Folder, ReadOnlyFolder};
use super::store::{Map, Op, Store, StoreError, of_io};
use super::tally::{Tallied, Tally, Written};
use super::usage::{self, Usage};

/// Name of the database.
pub const DATABASE: &str = "headwater.redb";
/// Name of its ring.
pub const RING: &str = "headwater.ring";
/// Name of the folder of its batches.
pub const DATA: &str = "headwater.data";
const LOCK: &str = "LOCK";
const GENERATION: &str = "GENERATION";

/// Keys in `Map::Meta`.
const META_FORMAT: &[u8] = b"format";
const META_STORE_ID: &[u8] = b"store_id";
pub(super) const META_GENERATION: &[u8] = b"generation";
const META_ORIGIN: &[u8] = b"origin";

/// What a store says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The format that it is written in.
    pub format: u32,
    /// Random, given when the first store of the directory was made.
    pub store_id: [u8; 16],
    /// Stores that were lost before it.
    pub generation: u32,
}

/// Where a store comes from, and where a damaged one goes.
pub trait Depot: Send + Sync {
    /// Opens the store; makes one if there is none. Checks every page of it if `verify` says so.
    fn open(&self, verify: bool) -> Result<(Box<dyn Store>, Identity), StoreError>;
    /// Puts the damaged store away, so that the next `open` makes a new one. Says where it is now.
    fn set_aside(&self) -> Result<String, StoreError>;
    /// Sets aside what is damaged of the store and keeps in use what is intact, under a new generation. Says where the damaged is
    /// now; `None` where nothing can be kept.
    fn mend(&self, _error: &StoreError) -> Result<Option<String>, StoreError> {
        Ok(None)
    }
    /// What the store takes of the disk.
    fn usage(&self) -> Result<Usage, StoreError>;
    /// What was written to the disk.
    fn written(&self) -> Written {
        Written::default()
    }
    /// What it lies on; `None` where it lies on no disk.
    fn media(&self) -> Option<&Media> {
        None
    }
    /// Keeps space for what has to be written to make room on a full disk. `StoreError::Full` where there is none.
    fn take_reserve(&self) -> Result<(), StoreError> {
        Ok(())
    }
    /// Gives that space back; whether there was any.
    fn give_reserve(&self) -> bool {
        false
    }
}

/// Why a data directory cannot be served.
#[derive(Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Another process serves it.
    Held {
        /// The directory.
        directory: PathBuf,
        /// The process, when it says so.
        pid: Option<u32>,
    },
    /// The directory cannot be made or written.
    Directory {
        /// Which.
        directory: PathBuf,
        /// Why.
        why: String,
    },
    /// The store cannot be opened, and that is no damage that setting it aside would mend.
    Store(StoreError),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Held { directory, pid } => {
                let directory = directory.display();
                match pid {
                    Some(pid) => write!(
                        f,
                        "{directory} is served by process {pid}. Try: another node.data_dir, or stop it"
                    ),
                    None => write!(
                        f,
                        "{directory} is served by another process. Try: another node.data_dir, or stop it"
                    ),
                }
            }
            Self::Directory { directory, why } => write!(
                f,
                "{} cannot be used: {why}. Try: a node.data_dir that this user may write to",
                directory.display()
            ),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

/// The depot of a data directory.
#[derive(Debug)]
pub struct Directory {
    pub(super) path: PathBuf,
    pub(super) cache_bytes: usize,
    store_id: [u8; 16],
    ring_seed: [u8; 16],
    media: Media,
    sizes: Sizes,
    tally: Arc<Tally>,
    /// Locked as long as it is open.
    _lock: File,
}

impl Directory {
    /// Takes a data directory: makes it if need be and locks it.
    pub fn take(path: &Path, cache_bytes: usize, store_id: [u8; 16], ring_seed: [u8; 16]) -> Result<Self, OpenError> {
        let unusable = |error: IoError| OpenError::Directory {
            directory: path.into(),
            why: error.to_string(),
        };
        fs::create_dir_all(path).map_err(unusable)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK))
            .map_err(unusable)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(held(path, &mut lock));
        }
        let pid = format!("{}\n", std::process::id());
        lock.set_len(0)
            .and_then(|()| lock.write_all(pid.as_bytes()))
            .map_err(unusable)?;
        Ok(Self {
            path: path.into(),
            cache_bytes,
            store_id,
            ring_seed,
            media: Media::of_directory(path),
            sizes: Sizes::default(),
            tally: Arc::default(),
            _lock: lock,
        })
    }

    /// How the files are written that are opened from now on.
    pub(super) fn set_sizes(&mut self, sizes: Sizes) {
        self.sizes = sizes;
    }

    pub(super) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// Stores that were set aside: by the file that counts them, and by those that are still there.
    fn generation(&self) -> u32 {
        let counted = fs::read_to_string(self.path.join(GENERATION)).ok();
        let counted = counted.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let prefix = format!("{DATABASE}.damaged-");
        let names = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let numbers = names.filter_map(|entry| entry.file_name().to_str()?.strip_prefix(&prefix)?.parse().ok());
        numbers.fold(counted, u32::max)
    }

    /// A database is made under another name, synced and renamed: a power cut in the middle would else leave a file that cannot
    /// be opened for ever.
    fn create(&self) -> Result<(), StoreError> {
        let aside = |name: &str| self.path.join(format!("{name}.new"));
        let fresh = |name: &str| {
            let path = aside(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            OpenOptions::new().read(true).write(true).create_new(true).open(&path)
        };
        let (file, ring) = (fresh(DATABASE).map_err(|e| io(&e))?, fresh(RING).map_err(|e| io(&e))?);
        let both = [
            file.try_clone().map_err(|e| io(&e))?,
            ring.try_clone().map_err(|e| io(&e))?,
        ];
        let ring_id = self.ring_id();
        Ring::create(FileDisk(ring), ring_id, self.sizes.ring_bytes).map_err(|e| of_io(&e))?;
        let store = RedbStore::open(FileDisk(file), self.cache_bytes, false)?;
        store.commit(&new_store(ring_id, self.store_id, self.generation()))?;
        drop(store);
        let finish = || {
            both.iter().try_for_each(File::sync_all)?;
            fs::rename(aside(RING), self.path.join(RING))?;
            // The database last: where it is, its ring is.
            fs::rename(aside(DATABASE), self.database())?;
            self.sync()
        };
        finish().map_err(|error| io(&error))
    }

    /// Puts files away under the next generation's number, in this order; those that are not there are not missed. Gives where the
    /// last one is.
    fn put_aside(&self, names: &[&str]) -> Result<PathBuf, IoError> {
        let generation = self.next_generation()?;
        let mut aside = PathBuf::new();
        for name in names {
            aside = self.put_one_aside(name, generation)?;
        }
        Ok(aside)
    }

    /// Puts a file away; one that is not there is not missed. Gives where it is.
    pub(super) fn put_one_aside(&self, name: &str, generation: u32) -> Result<PathBuf, IoError> {
        let aside = self.path.join(format!("{name}.damaged-{generation}"));
        match fs::rename(self.path.join(name), &aside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => self.sync()?,
        }
        Ok(aside)
    }

    /// Counts one more store, or part of one, that is lost.
    pub(super) fn next_generation(&self) -> Result<u32, IoError> {
        let generation = self.generation() + 1;
        // The count first: a crash between the two leaves a gap in the numbers, never a number given twice.
        self.count(generation)?;
        Ok(generation)
    }

    /// Copies the database and its ring before they are brought from a format to the next: the way back. The data files are the
    /// same for both. No commit was made since the database was opened.
    fn keep_copy(&self, format: u32) -> Result<(), IoError> {
        for name in [RING, DATABASE] {
            let making = self.path.join(format!("{name}.format-{format}.new"));
            fs::copy(self.path.join(name), &making)?;
            File::open(&making)?.sync_all()?;
            fs::rename(&making, self.path.join(format!("{name}.format-{format}")))?;
        }
        self.sync()
    }

    /// Makes durable how many stores of the directory were lost.
    pub fn count(&self, generation: u32) -> Result<(), IoError> {
        let count = self.path.join(format!("{GENERATION}.new"));
        let mut file = File::create(&count)?;
        file.write_all(format!("{generation}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&count, self.path.join(GENERATION))?;
        self.sync()
    }

    /// New for every ring, and known to nobody outside.
    pub(super) fn ring_id(&self) -> [u8; 16] {
        let mut id = self.ring_seed;
        for (byte, count) in id.iter_mut().zip(self.generation().to_le_bytes()) {
            *byte ^= count;
        }
        id
    }

    pub(super) fn sync(&self) -> Result<(), IoError> {
        shelf::sync(&self.path)
    }
}

impl Depot for Directory {
    fn open(&self, verify: bool) -> Result<(Box<dyn Store>, Identity), StoreError> {
        let path = self.database();
        match fs::metadata(&path) {
            Ok(found) if found.len() == 0 => return Err(damaged("the database is an empty file")),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let there = |name: &str| self.path.join(name).try_exists().map_err(|error| io(&error));
                // A ring alone, beside a database in the making, is left of a creation that was cut off.
                let cut_off = || there(&format!("{DATABASE}.new"));
                if there(DATA)? || there(RING)? && !cut_off()? {
                    return Err(damaged(
                        "the database is missing, and with it what was in the data files",
                    ));
                }
                self.create()?;
            }
            Err(error) => return Err(io(&error)),
        }
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(|error| io(&error))?;
        // After a failed sync what is in memory may never have reached the disk, and is taken for clean.
        forget_cached(&file);
        let file = Tallied::new(FileDisk(file), Arc::clone(&self.tally));
        let database = RedbStore::open(file, self.cache_bytes, verify)?;
        // Before the ring is looked at: a newer one may look different.
        let mut identity = identity(&database)?;
        self.finish_mending(&database)?;
        let ring = DirectDisk::open(&self.path.join(RING)).map_err(|error| ring_gone(&error))?;
        ring.forget_cached();
        let ring = Tallied::new(ring, Arc::clone(&self.tally));
        if identity.format != FORMAT {
            self.keep_copy(identity.format).map_err(|error| io(&error))?;
            tracing::info!(
                from = identity.format,
                to = FORMAT,
                "the store is brought to this headwater's format; {DATABASE}.format-{} is what it was",
                identity.format
            );
            database.commit(&[format_op()])?;
            identity.format = FORMAT;
        }
        let shelf = Folder::new(self.path.join(DATA), Arc::clone(&self.tally));
        let store = RingedStore::open(database, ring, shelf, self.sizes)?;
        Ok((Box::new(store), identity))
    }

    fn set_aside(&self) -> Result<String, StoreError> {
        // The database last: without its ring it is damaged, whatever it holds.
        let aside = self.put_aside(&[RING, DATA, DATABASE]).map_err(|error| io(&error))?;
        Ok(aside.display().to_string())
    }

    fn mend(&self, error: &StoreError) -> Result<Option<String>, StoreError> {
        self.mend_in_place(error)
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        usage::of_directory(&self.path).map_err(|error| io(&error))
    }

    fn written(&self) -> Written {
        self.tally.written()
    }

    fn media(&self) -> Option<&Media> {
        Some(&self.media)
    }

    fn take_reserve(&self) -> Result<(), StoreError> {
        reserve::take(&self.path).map_err(|error| io(&error))
    }

    fn give_reserve(&self) -> bool {
        reserve::give(&self.path)
    }
}

/// A store to look at: what is written goes nowhere.
pub type Looked = RingedStore<RedbStore, CopyOnWriteDisk, ReadOnlyFolder>;

/// The files of one store: those of a directory, or those that were put aside in it under one number.
#[derive(Clone, Debug)]
pub struct Files {
    /// Where they are.
    pub directory: PathBuf,
    /// What stands behind their names: nothing, or `.damaged-N`.
    suffix: String,
}

impl Files {
    /// Those of a path: a directory, or the database of a store that was put aside.
    pub fn of(path: &Path) -> Self {
        let name = path.file_name().and_then(|name| name.to_str());
        let aside = name.and_then(|name| name.strip_prefix(DATABASE));
        match (aside, path.parent()) {
            (Some(suffix), Some(directory)) if !path.is_dir() => Self {
                directory: directory.into(),
                suffix: suffix.into(),
            },
            _ => Self {
                directory: path.into(),
                suffix: String::new(),
            },
        }
    }

    /// One of them, or the folder of the batches.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}{}", self.suffix))
    }

    /// Whether nobody can be writing to them, though the directory may be served.
    pub fn set_aside(&self) -> bool {
        self.suffix.starts_with(".damaged-")
    }
}

/// Checks every page of a database.
pub fn verify(files: &Files, cache_bytes: usize) -> Result<(), StoreError> {
    RedbStore::open(database(files)?, cache_bytes, true).map(drop)
}

/// A store as its next opening would find it, and what could not be read of its ring: that costs what was in it.
pub fn look(files: &Files, cache_bytes: usize) -> Result<(Looked, Vec<String>), StoreError> {
    let ring = |path: &Path| File::open(path).and_then(CopyOnWriteDisk::new);
    let shelf = || ReadOnlyFolder(Folder::new(files.path(DATA), Arc::default()));
    let open = || {
        let store = RedbStore::open(database(files)?, cache_bytes, false)?;
        identity(&store)?;
        Ok::<_, StoreError>(store)
    };
    let found = ring(&files.path(RING)).map_err(|error| ring_gone(&error));
    let why = match found.and_then(|ring| RingedStore::look(open()?, ring, shelf())) {
        Err(error @ (StoreError::Damaged(_) | StoreError::Io(_))) => error,
        found => return found,
    };
    // Without its ring, if that is what failed: an empty file is a ring in which nothing is.
    let empty = ring(Path::new("/dev/null")).map_err(|error| io(&error))?;
    let (store, mut unread) = RingedStore::look(open()?, empty, shelf())?;
    unread.push(format!("the ring: {why}"));
    Ok((store, unread))
}

/// Whether a store would open as it is, its ring and all.
pub(super) fn opens(files: &Files, cache_bytes: usize) -> Result<(), StoreError> {
    let ring = File::open(files.path(RING)).and_then(CopyOnWriteDisk::new);
    let ring = ring.map_err(|error| ring_gone(&error))?;
    let shelf = ReadOnlyFolder(Folder::new(files.path(DATA), Arc::default()));
    let database = RedbStore::open(database(files)?, cache_bytes, false)?;
    RingedStore::open(database, ring, shelf, Sizes::default()).map(|store| drop(store.only_looks()))
}

fn database(files: &Files) -> Result<CopyOnWriteDisk, StoreError> {
    let file = File::open(files.path(DATABASE)).and_then(CopyOnWriteDisk::new);
    let file = file.map_err(|error| io(&error))?;
    match file.len().map_err(|error| io(&error))? {
        0 => Err(damaged("the database is an empty file")),
        _ => Ok(file),
    }
}

pub(super) fn ring_gone(error: &IoError) -> StoreError {
    match error.kind() {
        ErrorKind::NotFound => damaged(format!("{RING} is missing, and with it the newest commits")),
        _ => io(error),
    }
}

/// Refuses a directory that a process serves. Looks only, and does not wait.
pub fn held_by(path: &Path) -> Result<(), OpenError> {
    let Ok(mut lock) = File::open(path.join(LOCK)) else {
        return Ok(());
    };
    match flock(&lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(()),
        Err(_) => Err(held(path, &mut lock)),
    }
}

fn held(path: &Path, lock: &mut File) -> OpenError {
    let mut text = String::new();
    let pid = lock
        .read_to_string(&mut text)
        .ok()
        .and_then(|_| text.trim().parse().ok());
    let directory = path.into();
    OpenError::Held { directory, pid }
}

/// The databases in a directory that were set aside.
pub fn set_aside(path: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(path).into_iter().flatten().flatten();
    let aside = |name: &PathBuf| {
        let name = name.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(&format!("{DATABASE}.damaged-")))
    };
    let mut found: Vec<PathBuf> = names.map(|entry| entry.path()).filter(aside).collect();
    found.sort();
    found
}

/// Says of which store a copy with an id of its own was made, and when.
pub fn origin_op(store_id: [u8; 16], taken_ms: i64) -> Op {
    let value = [&store_id[..], &taken_ms.to_be_bytes()].concat();
    Op::put(Map::Meta, META_ORIGIN, value)
}

/// The store that a store is a copy of, where it is one.
pub fn origin(store: &dyn Store) -> Result<Option<[u8; 16]>, StoreError> {
    let origin = store.point(Map::Meta, META_ORIGIN)?;
    Ok(origin.and_then(|origin| origin.first_chunk().copied()))
}

/// Operations for a new database: what it says of itself, and of its ring.
pub fn new_store(ring_id: [u8; 16], store_id: [u8; 16], generation: u32) -> Vec<Op> {
    let mut ops = new_ring(ring_id).to_vec();
    ops.extend([
        format_op(),
        Op::put(Map::Meta, META_STORE_ID, store_id.to_vec()),
        Op::put(Map::Meta, META_GENERATION, generation.to_be_bytes().to_vec()),
    ]);
    ops
}

/// What a store says of itself; refuses one of another format.
pub fn identity(store: &dyn Store) -> Result<Identity, StoreError> {
    let meta = |key: &[u8]| {
        let value = store.point(Map::Meta, key)?;
        value.ok_or_else(|| damaged(format!("it does not say its {}", String::from_utf8_lossy(key))))
    };
    let found = Fields(&meta(META_FORMAT)?).u32()?;
    if !(FORMAT_OLDEST..=FORMAT).contains(&found) {
        return Err(StoreError::Format { found, known: FORMAT });
    }
    let store_id = meta(META_STORE_ID)?.try_into();
    Ok(Identity {
        format: found,
        store_id: store_id.map_err(|_| damaged("its id is not 16 bytes"))?,
        generation: Fields(&meta(META_GENERATION)?).u32()?,
    })
}

fn format_op() -> Op {
    Op::put(Map::Meta, META_FORMAT, FORMAT.to_be_bytes().to_vec())
}

/// An error of the files themselves; what is in them is another matter.
pub(super) fn io(error: &IoError) -> StoreError {
    match of_io(error) {
        StoreError::Damaged(why) => StoreError::Io(why),
        other => other,
    }
}
