//! Opening a ringed store: what the ring has and the database has not is taken into memory.

use std::fmt::Debug;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use super::super::bodies::{Bodies, Ledger};
use super::super::disk::Disk;
use super::super::ops::{self, FoundOp};
use super::super::overlay::Overlay;
use super::super::profile::Sizes;
use super::super::ring::{Applied, Ring};
use super::super::ring_row::ring_of;
use super::super::shelf::Shelf;
use super::super::store::{Store, StoreError, of_io};
use super::{Log, RingedStore, Waiting};

impl<S: Store + Debug, D: Disk, F: Shelf> RingedStore<S, D, F> {
    /// Opens a ring over its database and their data files; writes to none of them.
    pub fn open(database: S, ring: D, shelf: F, sizes: Sizes) -> Result<Self, StoreError> {
        let (id, applied) = ring_of(&database)?;
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
        for (seq, ops) in (applied.seq + 1..).zip(&records) {
            bodies.found(ops, seq).map_err(|error| of_io(&error))?;
        }
        let missing = bodies.missing(&ledger).map_err(|error| of_io(&error))?;
        Ok(Self::over(
            database,
            ring,
            records,
            applied,
            (bodies, ledger),
            missing,
            sizes,
        ))
    }

    /// Opens them only to look, whatever their state; what is damaged of the ring is told and costs what was in it.
    pub fn look(database: S, ring: D, shelf: F) -> Result<(Self, Vec<String>), StoreError> {
        let (id, applied) = ring_of(&database)?;
        // Nothing is written: what is counted in the files counts for nothing.
        let (sizes, ledger) = (Sizes::default(), Ledger::default());
        let bodies = Bodies::new(shelf, sizes, &ledger);
        let (mut records, mut unread) = (Vec::new(), Vec::new());
        let sound = |body: Vec<u8>| {
            let ops = match ops::decode(body) {
                Ok(ops) => ops,
                Err(error) => {
                    unread.push(error.to_string());
                    return Ok(true);
                }
            };
            let whole = bodies.are_whole(&ops);
            records.extend(whole.then_some(ops));
            Ok(whole)
        };
        let (ring, holes) = Ring::look(ring, id, applied, sound)?;
        unread.extend(holes);
        let store = Self::over(database, ring, records, applied, (bodies, ledger), Vec::new(), sizes);
        Ok((store.only_looks(), unread))
    }

    /// What waits is not flushed when this is dropped.
    pub fn only_looks(mut self) -> Self {
        self.only_looks = true;
        self
    }

    fn over(
        database: S,
        ring: Ring<D>,
        records: Vec<Vec<FoundOp>>,
        applied: Applied,
        (bodies, ledger): (Bodies<F>, Ledger),
        missing: Vec<u32>,
        sizes: Sizes,
    ) -> Self {
        let mut newest = Overlay::default();
        for FoundOp { op, placed } in records.iter().flatten() {
            newest.apply(op, placed.map(|placed| placed.extent));
        }
        let found = !newest.is_empty() || ring.has_torn();
        let waiting = Waiting {
            newest,
            seq: ring.newest(),
            applied,
            ..Waiting::default()
        };
        for number in &missing {
            tracing::error!(number, "a data file is missing: what was in it cannot be read");
        }
        Self {
            database,
            bodies,
            missing,
            only_looks: false,
            waiting: Mutex::new(waiting),
            ring_disk: ring.disk(),
            sizes,
            spare: Mutex::default(),
            log: Mutex::new(Log { ring, found }),
            flushing: Mutex::new(ledger),
            sealer: Mutex::default(),
            dead: AtomicBool::new(false),
        }
    }
}
