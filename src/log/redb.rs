//! The store on redb. The only file that names it.
//!
//! Every call is wrapped: redb panics on some damaged pages, and such a panic becomes `StoreError::Damaged` here. After any error
//! the handle is dead: nothing more reaches the disk through it, also not what redb writes when it is dropped.

use std::fmt::Debug;
use std::io::{Error as IoError, ErrorKind};
use std::ops::{Bound, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ::redb::{Builder, Database, DatabaseError, Error, ReadableDatabase, StorageBackend, TableDefinition, TableError};

use super::disk::{Disk, UNSYNCED_BYTES};
use super::store::{Change, Each, Map, Op, Store, StoreError, of_io};

/// A store in a redb database.
pub struct RedbStore {
    /// `None` only while it is dropped.
    database: Option<Database>,
    dead: Arc<AtomicBool>,
    quick_repair: bool,
}

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

fn table(map: Map) -> Definition {
    TableDefinition::new(map.name())
}

impl RedbStore {
    /// Opens the database on a disk; repairs it when it was not closed. An empty disk becomes an empty database.
    /// `verify` checks every page.
    pub fn open(disk: impl Disk, cache_bytes: usize, verify: bool) -> Result<Self, StoreError> {
        let dead = Arc::new(AtomicBool::new(false));
        let backend = Backend {
            disk: Box::new(disk),
            dead: Arc::clone(&dead),
            unsynced: AtomicUsize::new(0),
        };
        let open = || {
            let mut builder = Builder::new();
            builder.set_cache_size(cache_bytes).set_check_integrity_on_open(verify);
            builder.create_with_backend(backend).map_err(Error::from)
        };
        let database = Some(guarded(&dead, open)?);
        let quick_repair = true;
        Ok(Self {
            database,
            dead,
            quick_repair,
        })
    }

    /// Whether commits are such that it opens quickly after a crash: all of them, or it is of no use.
    pub fn with_quick_repair(self, quick_repair: bool) -> Self {
        let mut store = self;
        store.quick_repair = quick_repair;
        store
    }

    /// Rows of a map in the order of their keys, or backwards, as far as they can be read: for what is damaged. `each` gives
    /// `false` to end it.
    pub fn walk(
        &self,
        map: Map,
        backwards: bool,
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        self.guarded(|database| {
            let transaction = database.begin_read()?;
            let table = match transaction.open_table(table(map)) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(()),
                table => table?,
            };
            let mut rows = table.range::<&[u8]>(..)?;
            let mut next = || if backwards { rows.next_back() } else { rows.next() };
            while let Some(row) = next() {
                let (key, value) = row?;
                if !each(key.value(), value.value()) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn guarded<R>(&self, f: impl FnOnce(&Database) -> Result<R, Error>) -> Result<R, StoreError> {
        if self.dead.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        let database = self.database.as_ref().ok_or(StoreError::Closed)?;
        guarded(&self.dead, || f(database))
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        let database = self.database.take();
        if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
            tracing::warn!("the database panicked when it was closed");
        }
    }
}

impl Debug for RedbStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RedbStore")
    }
}

/// Runs a call of redb at the border: errors and panics come out as `StoreError`, and the handle is dead after either.
fn guarded<R>(dead: &AtomicBool, f: impl FnOnce() -> Result<R, Error>) -> Result<R, StoreError> {
    let error = match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(result)) => return Ok(result),
        Ok(Err(error)) => meaning(error),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            StoreError::Damaged(format!("a page makes no sense ({})", text.unwrap_or("no reason")))
        }
    };
    dead.store(true, Ordering::Release);
    Err(error)
}

fn meaning(error: Error) -> StoreError {
    match error {
        Error::Io(error) => of_io(&error),
        Error::Corrupted(why) => StoreError::Damaged(why),
        Error::UpgradeRequired(version) => StoreError::Damaged(format!("redb file format {version} is not known")),
        Error::RepairAborted => StoreError::Damaged("it could not be repaired".into()),
        #[allow(unreachable_patterns)]
        Error::TableTypeMismatch { .. } => StoreError::Damaged(error.to_string()),
        other => StoreError::Io(other.to_string()),
    }
}

impl Store for RedbStore {
    fn commit(&self, ops: &[Op]) -> Result<(), StoreError> {
        self.guarded(|database| {
            let mut transaction = database.begin_write()?;
            // Opening after a crash takes milliseconds then, whatever the size. It is on for every commit or of no use.
            transaction.set_quick_repair(self.quick_repair);
            for map in Map::ALL {
                let mut of_map = ops.iter().filter(|op| op.map == map).peekable();
                if of_map.peek().is_none() {
                    continue;
                }
                let mut table = transaction.open_table(table(map))?;
                for op in of_map {
                    apply(&mut table, op)?;
                }
            }
            transaction.commit()?;
            Ok(())
        })
    }

    fn point(&self, map: Map, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.guarded(|database| {
            let transaction = database.begin_read()?;
            let table = match transaction.open_table(table(map)) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                table => table?,
            };
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        })
    }

    fn body(&self, _: Map, _: &[u8], _: Range<usize>) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn scan(&self, map: Map, from: &[u8], until: Option<&[u8]>, each: &mut Each<'_>) -> Result<(), StoreError> {
        if until.is_some_and(|until| until <= from) {
            return Ok(());
        }
        let mut refused = Ok(());
        self.guarded(|database| {
            let transaction = database.begin_read()?;
            let table = match transaction.open_table(table(map)) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(()),
                table => table?,
            };
            let until = until.map_or(Bound::Unbounded, Bound::Excluded);
            for entry in table.range::<&[u8]>((Bound::Included(from), until))? {
                let (key, value) = entry?;
                match each(key.value(), value.value()) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        refused = Err(error);
                        break;
                    }
                }
            }
            Ok(())
        })?;
        refused
    }
}

fn apply(table: &mut ::redb::Table<'_, &'static [u8], &'static [u8]>, op: &Op) -> Result<(), Error> {
    let key = op.key.as_slice();
    match &op.change {
        Change::Put(slices) if slices.len() == 1 => {
            table.insert(key, slices[0].as_ref())?;
        }
        Change::Put(slices) => {
            let total = slices.iter().map(|slice| slice.len()).sum();
            let mut room = table.insert_reserve(key, total)?;
            let mut rest = room.as_mut();
            for slice in slices {
                let (here, behind) = rest.split_at_mut(slice.len());
                here.copy_from_slice(slice);
                rest = behind;
            }
        }
        Change::PutLong { .. } => {
            let why = IoError::new(ErrorKind::Unsupported, "bodies are kept by whoever stands above");
            return Err(Error::Io(why));
        }
        Change::Delete => {
            table.remove(key)?;
        }
        Change::DeleteUntil(until) if until.as_slice() > key => {
            table.retain_in::<&[u8], _>(key..until.as_slice(), |_, _| false)?;
        }
        Change::DeleteUntil(_) => {}
    }
    Ok(())
}

/// Our disk as redb wants it.
#[derive(Debug)]
struct Backend {
    disk: Box<dyn Disk>,
    dead: Arc<AtomicBool>,
    /// Bytes written since the last sync.
    unsynced: AtomicUsize,
}

impl Backend {
    fn alive(&self) -> Result<&dyn Disk, IoError> {
        if self.dead.load(Ordering::Acquire) {
            return Err(IoError::other("the handle is not used any more after an error"));
        }
        Ok(self.disk.as_ref())
    }

    /// An error of the disk is the end of this handle.
    fn watched<R>(&self, result: Result<R, IoError>) -> Result<R, IoError> {
        if result.is_err() {
            self.dead.store(true, Ordering::Release);
        }
        result
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> Result<u64, IoError> {
        self.watched(self.alive()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), IoError> {
        self.watched(self.alive()?.read(offset, out))
    }

    fn set_len(&self, len: u64) -> Result<(), IoError> {
        self.watched(self.alive()?.set_len(len))
    }

    fn sync_data(&self) -> Result<(), IoError> {
        self.unsynced.store(0, Ordering::Relaxed);
        self.watched(self.alive()?.sync())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), IoError> {
        self.watched(self.alive()?.write(offset, data))?;
        if self.unsynced.fetch_add(data.len(), Ordering::Relaxed) < UNSYNCED_BYTES {
            return Ok(());
        }
        self.sync_data()
    }
}

impl From<DatabaseError> for StoreError {
    fn from(error: DatabaseError) -> Self {
        meaning(error.into())
    }
}
