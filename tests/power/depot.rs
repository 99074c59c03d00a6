//! The depot of a machine: the real store, in its three parts, on recorded disks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::disks::{Disks, File};
use crate::log::depot::{Depot, Identity, identity, new_store};
use crate::log::profile::Sizes;
use crate::log::redb::RedbStore;
use crate::log::ring::Ring;
use crate::log::ringed::RingedStore;
use crate::log::store::{Store, StoreError, of_io};
use crate::log::usage::Usage;

/// Small, so that it wraps, grows and is full often; a commit above a quarter of it goes past it.
const RING: u64 = 128 << 10;
/// A data file is full soon.
const FILE_BYTES: u64 = 100_000;
/// redb's page cache.
const CACHE_BYTES: usize = 1 << 20;

/// Clones are of the same machine.
#[derive(Clone)]
pub struct Machine {
    pub disks: Disks,
    /// A commit with so many bytes of bodies writes them to a data file itself.
    once_bytes: usize,
    /// Stores that were set aside.
    lost: Arc<AtomicU32>,
}

impl Machine {
    pub fn new(disks: Disks) -> Self {
        let lost = Arc::default();
        // On a card much smaller commits do so than on other disks.
        let once_bytes = match std::env::var("HEADWATER_PROFILE").as_deref() {
            Ok("sd") => 8 << 10,
            _ => Sizes::default().once_bytes,
        };
        Self {
            disks,
            once_bytes,
            lost,
        }
    }

    /// How often a store was set aside.
    pub fn lost(&self) -> u32 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Makes an empty store, as `Directory` does: it has its name once it is whole and durable.
    pub fn create(&self) -> Result<(), StoreError> {
        let generation = self.lost();
        let ring_id = [generation as u8 + 7; 16];
        for file in [File::Database, File::Ring] {
            self.disks.make(file);
        }
        Ring::create(self.disks.disk(File::Ring), ring_id, RING).map_err(|error| of_io(&error))?;
        let store = RedbStore::open(self.disks.disk(File::Database), CACHE_BYTES, false)?;
        store.commit(&new_store(ring_id, *b"headwater-power!", generation))
    }
}

impl Depot for Machine {
    fn open(&self, verify: bool) -> Result<(Box<dyn Store>, Identity), StoreError> {
        if !self.disks.has(File::Database) {
            self.create()?;
        }
        let database = RedbStore::open(self.disks.disk(File::Database), CACHE_BYTES, verify)?;
        let identity = identity(&database)?;
        let sizes = Sizes {
            ring_bytes: RING,
            ring_bytes_max: 2 * RING,
            file_bytes: FILE_BYTES,
            once_bytes: self.once_bytes,
            ..Sizes::default()
        };
        let store = RingedStore::open(database, self.disks.disk(File::Ring), self.disks.shelf(), sizes)?;
        Ok((Box::new(store), identity))
    }

    fn set_aside(&self) -> Result<String, StoreError> {
        self.disks.clear();
        self.lost.fetch_add(1, Ordering::Relaxed);
        Ok("elsewhere".into())
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        let (index_bytes, body_bytes) = self.disks.used();
        Ok(Usage {
            index_bytes,
            body_bytes,
            ..Usage::default()
        })
    }
}
