//! Mending: what is damaged of a store is set aside, and what is intact stays in use. The ring and the database are each replaced by
//! a new file with everything that can still be read in the old one; data files stay where they are. What is missing then shows
//! as holes in the offsets, which get markers when the store is loaded (`loss`).
//!
//! A mended store has a new generation: what was acked last may be gone, so offsets go on above everything that was ever given out.
//! Nothing is deleted, and the one step that replaces a file is a rename.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{Error as IoError, ErrorKind};
use std::path::{Path, PathBuf};

use super::bodies::Extent;
use super::boots::{Boot, ClockMark};
use super::depot::{DATA, DATABASE, Directory, Files, META_GENERATION, RING, identity, io, opens};
use super::disk::{CopyOnWriteDisk, FileDisk};
use super::layout::{Directory as JournalHead, Fields, Mark, damaged, decode_segment};
use super::loss::Loss;
use super::producers::Producer;
use super::redb::RedbStore;
use super::ring::{Applied, BLOCK, RING_BYTES, Ring, create_with, salvage};
use super::ring_row::{META_APPLIED, META_RING, new_ring};
use super::shelf::{Folder, Shelf};
use super::store::{Map, Op, Store, StoreError, of_io};
use super::topic::TopicRow;

/// Rows of a commit to the new database.
const ROWS: usize = 4096;

impl Directory {
    /// Finds out what is damaged and mends it; `None` where nothing can be kept.
    pub(super) fn mend_in_place(&self, error: &StoreError) -> Result<Option<String>, StoreError> {
        if !self.database().try_exists().map_err(|error| io(&error))? {
            return Ok(None);
        }
        let whole = self.old_database(true).and_then(|database| identity(&database));
        let mended = match whole {
            Ok(_) if !ring_opens(&self.path, self.cache_bytes) => self.renew_ring(),
            // Every page is as it was written, and still it makes no sense: rows that do are kept.
            Ok(_) => self.renew_database(true),
            Err(StoreError::Damaged(_) | StoreError::Fault(_)) => self.renew_database(false),
            Err(error) => Err(error),
        };
        match mended {
            Ok(aside) => Ok(Some(aside)),
            Err(StoreError::Damaged(why)) => {
                tracing::error!(why, %error, "the store cannot be mended");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A mending that was cut off between its two last steps is finished: the ring that the database names takes its place.
    pub(super) fn finish_mending(&self, database: &dyn Store) -> Result<(), StoreError> {
        let new = fresh(&self.path, RING);
        let file = match File::open(&new) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            file => file.map_err(|error| io(&error))?,
        };
        let id = Ring::id_of(&FileDisk(file));
        if id.is_none() || id.map(Vec::from) != database.point(Map::Meta, META_RING)? {
            // Cut off before that: nothing names it.
            return fs::remove_file(new).map_err(|error| io(&error));
        }
        let generation = identity(database)?.generation;
        self.put_one_aside(RING, generation).map_err(|error| io(&error))?;
        fs::rename(new, self.path.join(RING))
            .and_then(|()| self.sync())
            .map_err(|error| io(&error))
    }

    /// The database as it is, without a change on the disk.
    fn old_database(&self, verify: bool) -> Result<RedbStore, StoreError> {
        let disk = File::open(self.database()).and_then(CopyOnWriteDisk::new);
        RedbStore::open(disk.map_err(|error| io(&error))?, self.cache_bytes, verify)
    }

    /// A ring with what is whole in the old one.
    fn renew_ring(&self) -> Result<String, StoreError> {
        let path = self.path.join(RING);
        let old = self.old_database(false)?;
        let (mut bodies, mut len) = (Vec::new(), RING_BYTES);
        if let Some((id, applied)) = ring_of(&old)?
            && let Some(file) = there(&path)?
        {
            len = file.metadata().map_err(|error| io(&error))?.len().max(len);
            bodies = salvage(&FileDisk(file), &id, applied).map_err(|error| of_io(&error))?;
        }
        drop(old);
        let new = create(&self.path, RING)?;
        let generation = self.next_generation().map_err(|error| io(&error))?;
        let id = self.ring_id();
        create_with(FileDisk(new), id, len, &bodies).map_err(|error| io(&error))?;
        self.sync().map_err(|error| io(&error))?;
        let file = OpenOptions::new().read(true).write(true).open(self.database());
        let database = RedbStore::open(FileDisk(file.map_err(|error| io(&error))?), self.cache_bytes, false)?;
        let mut ops = new_ring(id).to_vec();
        ops.push(Op::put(Map::Meta, META_GENERATION, generation.to_be_bytes().to_vec()));
        database.commit(&ops)?;
        self.finish_mending(&database)?;
        let records = bodies.len();
        tracing::warn!(records, "a new ring has what was whole in the old one");
        Ok(format!("{}.damaged-{generation}", path.display()))
    }

    /// A database with the rows of the old one that can be read and make sense. Where its pages are not `as_written`, rows without a
    /// checksum of their own are not believed: a flipped bit in a session or a sequence would be served as truth.
    fn renew_database(&self, as_written: bool) -> Result<String, StoreError> {
        self.old_database(false).and_then(|database| identity(&database))?;
        let file = create(&self.path, DATABASE)?;
        let synced = file.try_clone().map_err(|error| io(&error))?;
        let new = RedbStore::open(FileDisk(file), self.cache_bytes, false)?;
        let mut kept = Kept::new(&new);
        for map in Map::ALL {
            let begins = kept.rows;
            let dropped = kept.dropped;
            kept.believes = as_written || !matches!(map, Map::Producers | Map::State(_));
            let cut = self.copy_rows(map, &mut kept)?;
            let (rows, dropped) = (kept.rows - begins, kept.dropped - dropped);
            if (cut || dropped > 0) && map == Map::Topics {
                // Without its topic a batch is nobody's, and would be removed.
                return Err(damaged("topics are lost, and with them what their batches belong to"));
            }
            if cut || dropped > 0 {
                let what = match map {
                    Map::Producers => {
                        "; idempotent producers in it are not known any more: what they repeat is stored twice"
                    }
                    Map::State(_) => "; sessions, deduplication state or progress in it are lost",
                    _ => "",
                };
                tracing::error!(
                    table = map.name(),
                    rows,
                    dropped,
                    "a part of a table of the database is lost{what}"
                );
            }
        }
        let generation = self.next_generation().map_err(|error| io(&error))?;
        kept.put(Op::put(Map::Meta, META_GENERATION, generation.to_be_bytes().to_vec()))?;
        self.count_files(&mut kept, generation)?;
        kept.commit()?;
        drop(new);
        let path = self.database();
        let aside = self.path.join(format!("{DATABASE}.damaged-{generation}"));
        let replace = || {
            synced.sync_all()?;
            // A second name first, so that there is a database at any moment.
            if fs::hard_link(&path, &aside).is_err() {
                fs::rename(&path, &aside)?;
            }
            fs::rename(fresh(&self.path, DATABASE), &path)?;
            self.sync()
        };
        replace().map_err(|error| io(&error))?;
        Ok(aside.display().to_string())
    }

    /// Copies the rows of a map: from the front up to what cannot be read, then from the back. Whether there was such.
    fn copy_rows(&self, map: Map, kept: &mut Kept<'_>) -> Result<bool, StoreError> {
        let (mut last, mut failed) = (None::<Vec<u8>>, None);
        let walked = self.old_database(false)?.walk(map, false, &mut |key, value| {
            last = Some(key.to_vec());
            failed = kept.row(map, key, value).err();
            failed.is_none()
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let Err(error) = walked else {
            return Ok(false);
        };
        tracing::warn!(%error, table = map.name(), "rows of the damaged database cannot be read");
        // What cannot be read from there on is lost.
        let _ = self.old_database(false)?.walk(map, true, &mut |key, value| {
            if last.as_deref().is_some_and(|last| key <= last) {
                return false;
            }
            failed = kept.row(map, key, value).err();
            failed.is_none()
        });
        failed.map_or(Ok(true), Err)
    }

    /// Counts the data files anew. One that no row names any more is set aside.
    fn count_files(&self, kept: &mut Kept<'_>, generation: u32) -> Result<(), StoreError> {
        let folder = Folder::new(self.path.join(DATA), Default::default());
        let there: BTreeSet<u32> = folder.numbers().map_err(|error| io(&error))?.into_iter().collect();
        for (number, (live, end)) in std::mem::take(&mut kept.files) {
            let len = match fs::metadata(folder.file(number)) {
                Err(error) if error.kind() == ErrorKind::NotFound => end,
                found => found.map_err(|error| io(&error))?.len().max(end),
            };
            let value = [live.to_be_bytes(), len.next_multiple_of(BLOCK).to_be_bytes()].concat();
            kept.put(Op::put(Map::Files, number.to_be_bytes(), value))?;
            kept.named.insert(number);
        }
        let aside = self.path.join(format!("{DATA}.damaged-{generation}"));
        for number in there.difference(&kept.named) {
            let from = folder.file(*number);
            let moved = fs::create_dir_all(&aside).and_then(|()| match from.file_name() {
                Some(name) => fs::rename(&from, aside.join(name)),
                None => Ok(()),
            });
            moved.map_err(|error| io(&error))?;
        }
        Ok(())
    }
}

/// What goes to the new database.
struct Kept<'a> {
    new: &'a RedbStore,
    ops: Vec<Op>,
    rows: u64,
    dropped: u64,
    /// Whether rows are taken over.
    believes: bool,
    /// Bytes and end of the bodies by data file.
    files: BTreeMap<u32, (u64, u64)>,
    named: BTreeSet<u32>,
}

impl<'a> Kept<'a> {
    fn new(new: &'a RedbStore) -> Self {
        Self {
            new,
            ops: Vec::new(),
            rows: 0,
            dropped: 0,
            believes: true,
            files: BTreeMap::new(),
            named: BTreeSet::new(),
        }
    }

    /// Takes a row over, if it makes sense.
    fn row(&mut self, map: Map, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        if map == Map::Files {
            return Ok(());
        }
        if !self.believes {
            self.dropped += 1;
            return Ok(());
        }
        match makes_sense(map, key, value) {
            Ok(extent) => {
                if let Some(extent) = extent.filter(|extent| extent.bytes > 0) {
                    let (live, end) = self.files.entry(extent.file).or_default();
                    *live += u64::from(extent.bytes);
                    *end = extent.end().max(*end);
                }
                self.rows += 1;
                self.put(Op::put(map, key, value.to_vec()))
            }
            Err(_) => {
                self.dropped += 1;
                Ok(())
            }
        }
    }

    fn put(&mut self, op: Op) -> Result<(), StoreError> {
        self.ops.push(op);
        match self.ops.len() < ROWS {
            true => Ok(()),
            false => self.commit(),
        }
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        let ops = std::mem::take(&mut self.ops);
        self.new.commit(&ops)
    }
}

/// Whether a row is one, as far as that can be told; where its body lies.
fn makes_sense(map: Map, key: &[u8], value: &[u8]) -> Result<Option<Extent>, StoreError> {
    match map {
        Map::Topics => {
            let row: TopicRow = serde_json::from_slice(value).map_err(|error| damaged(error.to_string()))?;
            crate::model::Topic::parse(&row.name).map_err(|error| damaged(error.to_string()))?;
            Fields(key).u32()?;
        }
        Map::Partitions => {
            Mark::decode(key, value)?;
        }
        Map::Journal | Map::Segments => {
            let (extent, head) = Extent::decode(value)?;
            let extent = extent.ok_or_else(|| damaged("its place is damaged"))?;
            match map {
                Map::Journal => {
                    JournalHead::decode(head)?;
                    Fields(key).u64()?;
                }
                _ => {
                    decode_segment(key, head)?;
                }
            }
            return Ok(Some(extent));
        }
        Map::Producers => {
            super::layout::PartitionKey::parse(key)?;
            Producer::decode(value)?;
        }
        Map::Losses => {
            Loss::decode(key, value)?;
        }
        Map::Boots => {
            Boot::decode(key, value)?;
        }
        Map::Untrusted => {
            ClockMark::decode(key, value)?;
        }
        Map::Meta | Map::Files | Map::State(_) => {}
    }
    Ok(None)
}

fn ring_opens(path: &Path, cache_bytes: usize) -> bool {
    opens(&Files::of(path), cache_bytes).is_ok()
}

/// Id of the ring of a database, and the newest record in it that the database holds.
fn ring_of(database: &dyn Store) -> Result<Option<([u8; 16], Applied)>, StoreError> {
    let (id, applied) = (
        database.point(Map::Meta, META_RING)?,
        database.point(Map::Meta, META_APPLIED)?,
    );
    let (Some(id), Some(applied)) = (id.and_then(|id| id.try_into().ok()), applied) else {
        return Ok(None);
    };
    let mut applied = Fields(&applied);
    let (seq, crc) = (applied.u64()?, applied.u32()?);
    Ok(Some((id, Applied { seq, crc })))
}

fn there(path: &Path) -> Result<Option<File>, StoreError> {
    match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        file => file.map(Some).map_err(|error| io(&error)),
    }
}

/// The path of a file in the making.
fn fresh(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.new"))
}

fn create(directory: &Path, name: &str) -> Result<File, StoreError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(fresh(directory, name));
    file.map_err(|error: IoError| io(&error))
}
