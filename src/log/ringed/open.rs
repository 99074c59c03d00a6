//! Opening a ringed store: what the ring has and the database has not is taken into memory.

use std::fmt::Debug;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use super::super::bodies::{Bodies, Ledger};
use super::super::disk::Disk;
use super::super::layout::{Fields, damaged};
use super::super::ops::{self, FoundOp};
use super::super::overlay::Overlay;
use super::super::profile::Sizes;
use super::super::ring::{Applied, Ring};
use super::super::shelf::Shelf;
use super::super::store::{Map, Store, StoreError, of_io};
use super::{Log, META_APPLIED, META_RING, RingedStore, Waiting};

impl<S: Store + Debug, D: Disk, F: Shelf> RingedStore<S, D, F> {
    /// Opens a ring over its database and their data files; writes to none of them.
    pub fn open(database: S, ring: D, shelf: F, sizes: Sizes) -> Result<Self, StoreError> {
        let meta = |key: &[u8]| {
            let value = database.point(Map::Meta, key)?;
            value.ok_or_else(|| damaged("the database does not know its ring"))
        };
        let id = meta(META_RING)?
            .try_into()
            .map_err(|_| damaged("the ring's id is not 16 bytes"))?;
        let applied = meta(META_APPLIED)?;
        let mut applied = Fields(&applied);
        let (seq, crc) = (applied.u64()?, applied.u32()?);
        let applied = Applied { seq, crc };
        let ledger = Ledger::load(&database)?;
        let bodies = Bodies::new(shelf, sizes, &ledger);
        let mut records = Vec::new();
        let sound = |body: Vec<u8>| {
            let ops = ops::decode(body)?;
            let whole = bodies.are_whole(&ops);
            records.extend(whole.then_some(ops));
            Ok(whole)
        };
        let ring = Ring::open(ring, id, applied, sizes, sound)?;
        let mut newest = Overlay::default();
        for (seq, ops) in (applied.seq + 1..).zip(records) {
            bodies.found(&ops, seq).map_err(|error| of_io(&error))?;
            for FoundOp { op, placed } in &ops {
                newest.apply(op, placed.map(|placed| placed.extent));
            }
        }
        let found = !newest.is_empty() || ring.has_torn();
        let waiting = Waiting {
            newest,
            seq: ring.newest(),
            applied,
            ..Waiting::default()
        };
        match bodies.missing(&ledger) {
            Ok(missing) => missing.into_iter().for_each(|number| {
                tracing::error!(number, "a data file is missing: what was in it cannot be read");
            }),
            Err(error) => tracing::error!(%error, "the data files cannot be listed"),
        }
        Ok(Self {
            database,
            bodies,
            only_looks: false,
            waiting: Mutex::new(waiting),
            ring_disk: ring.disk(),
            sizes,
            spare: Mutex::default(),
            log: Mutex::new(Log { ring, found }),
            flushing: Mutex::new(ledger),
            sealer: Mutex::default(),
            dead: AtomicBool::new(false),
        })
    }
}
