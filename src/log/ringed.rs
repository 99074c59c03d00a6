//! A store whose commits are durable in a ring at once and in its database later.
//!
//! A database commit writes seven or eight pages all over its file and takes its time to find them. Here a commit is one record of
//! the ring, written and synced; its changes stay in memory (`overlay`) over what the database says. A *flush*, on a thread of its
//! own, makes one database commit of many of them; it stores the number of the newest record in it, in the same transaction, and so
//! the two always agree: what has a higher number is in the ring, what has not is in the database. Opening after a crash takes the
//! records that the database lacks into memory, so that a full disk can be read; they are flushed before the next commit.
//!
//! A flush brings bodies to the data files (`bodies`) and only their places to the database. A commit with many bytes of bodies
//! (`Sizes::once_bytes`) writes them there itself, and its record holds their places and CRCs: it is believed when both are whole.
//!
//! What is above `DIRECT_BYTES` without its bodies goes past the ring, with all that waits: writing it twice would cost more than it
//! saves.

mod open;

use std::collections::HashSet;
use std::fmt::{self, Debug};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::bodies::{self, Bodies, Extent, Ledger, Run};
use super::disk::Disk;
use super::layout::{Fields, journal_key};
use super::ops;
use super::overlay::{Layer, Overlay, Says, Value, part};
use super::profile::Sizes;
use super::ring::{self, Applied, Record, Ring};
use super::ring_row::applied_op;
use super::seal::SealedRow;
use super::shelf::Shelf;
use super::store::{Begun, Change, Each, LongRow, Map, Op, Sealer, Sealing, Store, StoreError, of_io};

/// A larger commit goes past the ring.
const DIRECT_BYTES: usize = 512 << 10;
/// A commit waits for the flush when the database does not name so many times `Sizes::unnamed_bytes` yet.
const UNNAMED_MOST: u64 = 4;
/// A larger buffer for records is not kept.
const RECORD_BYTES_KEPT: usize = 256 << 10;

/// A store over a ring.
pub struct RingedStore<S: Store + Debug, D: Disk, F: Shelf> {
    database: S,
    bodies: Bodies<F>,
    /// Numbers of the data files that were not there when this was opened, though rows name them.
    missing: Vec<u32>,
    waiting: Mutex<Waiting>,
    log: Mutex<Log<D>>,
    ring_disk: Arc<D>,
    sizes: Sizes,
    /// Memory of records that are written.
    spare: Mutex<Vec<Record>>,
    /// Held during a flush. Lock order: `log`, `flushing`, what a `Sealer` holds, `waiting`.
    flushing: Mutex<Ledger>,
    sealer: Mutex<Option<Arc<dyn Sealer>>>,
    /// What waits is left as it is when the store is dropped.
    only_looks: bool,
    /// After an error nothing is believed until the store was opened anew.
    dead: AtomicBool,
}

#[derive(Debug)]
struct Log<D> {
    ring: Ring<D>,
    /// What was found in the ring is to be in the database before a commit: a ring is not written behind records that this process
    /// has not made durable itself.
    found: bool,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Changes since the last flush began.
    newest: Overlay,
    /// Changes that a flush is bringing to the database.
    leaving: Arc<Overlay>,
    /// The newest record in `newest`.
    seq: Applied,
    /// The newest record in the database.
    applied: Applied,
    /// Bytes that the records of `newest` take in the ring.
    ring_bytes: u64,
}

impl Waiting {
    /// Bytes of bodies that commits wrote to the data files, and the database does not name yet.
    fn unnamed_bytes(&self) -> u64 {
        self.newest.placed_bytes() + self.leaving.placed_bytes()
    }
}

impl<S: Store + Debug, D: Disk, F: Shelf> RingedStore<S, D, F> {
    /// Bytes of bodies by data file, as the last flush left it.
    #[cfg(test)]
    pub(super) fn live(&self) -> std::collections::BTreeMap<u32, u64> {
        lock(&self.flushing).live()
    }

    /// What waiting changes say of a key: a part of its value, or that it is gone; `None` when they say nothing.
    fn overlaid<R>(&self, map: Map, key: &[u8], part: impl FnOnce(&Value) -> Option<R>) -> Option<Option<R>> {
        let waiting = self.waiting();
        let says = [&waiting.newest, &*waiting.leaving].map(|overlay| overlay.says(map, key));
        match says.into_iter().find(|says| *says != Says::Nothing)? {
            Says::Value(value) => Some(part(value)),
            _ => Some(None),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }

    /// After an error the handle is dead.
    fn watched<R>(&self, result: Result<R, StoreError>) -> Result<R, StoreError> {
        if result.is_err() {
            self.dead.store(true, Ordering::Release);
        }
        result
    }

    fn alive(&self) -> Result<(), StoreError> {
        match self.dead.load(Ordering::Acquire) {
            true => Err(StoreError::Closed),
            false => Ok(()),
        }
    }

    /// Brings what waits to the database and the data files.
    fn flush(&self) -> Result<(), StoreError> {
        let mut ledger = lock(&self.flushing);
        let (leaving, seq) = {
            let mut waiting = self.waiting();
            if waiting.newest.is_empty() {
                return Ok(());
            }
            waiting.leaving = Arc::new(std::mem::take(&mut waiting.newest));
            waiting.ring_bytes = 0;
            (Arc::clone(&waiting.leaving), waiting.seq)
        };
        let rows = leaving.journal();
        let sealing = self.watched(self.seal(&rows, false))?;
        self.watched(self.bring(&mut ledger, &leaving, seq, sealing.as_ref()))?;
        self.seen(sealing, &mut || {
            let mut waiting = self.waiting();
            waiting.leaving = Arc::default();
            waiting.applied = seq;
        });
        Ok(())
    }

    fn sealer(&self) -> Option<Arc<dyn Sealer>> {
        lock(&self.sealer).clone()
    }

    fn seal(&self, rows: &[(u64, LongRow)], all: bool) -> Result<Option<Sealing>, StoreError> {
        match self.sealer() {
            Some(sealer) if !rows.is_empty() => sealer.seal(rows, all).map(Some),
            _ => Ok(None),
        }
    }

    /// What was brought is found by readers from now on.
    fn seen(&self, sealing: Option<Sealing>, seen: &mut dyn FnMut()) {
        match (self.sealer(), sealing) {
            (Some(sealer), Some(sealing)) => sealer.sealed(sealing, seen),
            _ => seen(),
        }
    }

    /// Lays together what is in the journal of the database, when it is much: what of it was too little, flush by flush, for a
    /// segment of its own, and what was written before there was anybody to do it.
    fn lay_together(&self) -> Result<(), StoreError> {
        let mut ledger = lock(&self.flushing);
        if ledger.journal_bytes < self.sizes.journal_bytes || self.sealer().is_none() {
            return Ok(());
        }
        let (mut rows, mut bytes, mut from) = (Vec::new(), 0, ledger.journal_from.clone());
        self.database.scan(Map::Journal, &from.clone(), None, &mut |key, row| {
            let (extent, head) = Extent::decode(row)?;
            from = [key, &[0]].concat();
            if let Some(extent) = extent {
                bytes += u64::from(extent.bytes);
                rows.push((Fields(key).u64()?, key.to_vec(), extent, Bytes::copy_from_slice(head)));
            }
            Ok(bytes < self.sizes.journal_bytes)
        })?;
        let rows: Vec<(u64, LongRow)> = rows
            .into_iter()
            .filter_map(|(number, key, extent, head)| {
                // What cannot be read stays where it is, for `check` to say so.
                let body = self.bodies.read(extent, 0..extent.bytes as usize).ok()??;
                let (map, head, body) = (Map::Journal, vec![head], vec![body.into()]);
                Some((number, LongRow { map, key, head, body }))
            })
            .collect();
        let sealing = self.watched(self.seal(&rows, true))?;
        let mut gone = Overlay::default();
        for number in sealing.iter().flat_map(|sealing| &sealing.consumed) {
            gone.apply(&Op::delete(Map::Journal, journal_key(*number)), None);
        }
        let applied = self.waiting().applied;
        self.watched(self.bring(&mut ledger, &gone, applied, sealing.as_ref()))?;
        ledger.journal_from = from;
        ledger.journal_bytes = ledger.journal_bytes.saturating_sub(bytes);
        self.seen(sealing, &mut || ());
        Ok(())
    }

    /// A large commit, with all that waits, past the ring. No other is on its way.
    fn commit_direct(&self, log: &mut Log<D>, ops: &[Op]) -> Result<(), StoreError> {
        self.flush()?;
        let mut ledger = lock(&self.flushing);
        let mut overlay = Overlay::default();
        ops.iter().for_each(|op| overlay.apply(op, None));
        let seq = self.waiting().seq.passed_by(ops::encoded_bytes(ops, false));
        self.watched(self.bring(&mut ledger, &overlay, seq, None))?;
        let mut waiting = self.waiting();
        (waiting.seq, waiting.applied) = (seq, seq);
        log.ring.passed(seq);
        Ok(())
    }

    /// Makes changes durable in the database and the data files.
    fn bring(
        &self,
        ledger: &mut Ledger,
        overlay: &Overlay,
        seq: Applied,
        sealing: Option<&Sealing>,
    ) -> Result<(), StoreError> {
        let sealed: Vec<LongRow> = sealing
            .into_iter()
            .flat_map(|sealing| sealing.rows.iter().map(SealedRow::long_row))
            .collect();
        let consumed: HashSet<Vec<u8>> = sealing
            .into_iter()
            .flat_map(|sealing| sealing.consumed.iter().map(|number| journal_key(*number).to_vec()))
            .collect();
        let (mut ops, mut long, mut bodies, mut freed) = (vec![applied_op(seq)], Vec::new(), Vec::new(), Vec::new());
        // What came and went between two flushes is counted in and out again.
        let mut written = overlay.dropped().to_vec();
        freed.extend(&written);
        for (map, layer) in overlay.layers() {
            for (from, until) in &layer.gone {
                if map.has_bodies() {
                    self.database.scan(map, from, Some(until), &mut |_, row| {
                        freed.extend(Extent::decode(row)?.0);
                        Ok(true)
                    })?;
                }
                let (key, change) = (from.clone(), Change::DeleteUntil(until.clone()));
                ops.push(Op { map, key, change });
            }
            for (key, value) in &layer.entries {
                match value {
                    Some(value) if !map.has_bodies() => {
                        let (key, change) = (key.clone(), Change::Put(value.head.clone()));
                        ops.push(Op { map, key, change });
                    }
                    Some(_) if map == Map::Journal && consumed.contains(key) => {}
                    Some(value) => {
                        if map == Map::Segments {
                            self.frees(map, key, &mut freed)?;
                        }
                        match value.place {
                            Some(extent) => written.push(extent),
                            None => bodies.push(value.body.clone()),
                        }
                        long.push((map, key, &value.head, value.place));
                    }
                    None => {
                        if map.has_bodies() {
                            self.frees(map, key, &mut freed)?;
                        }
                        ops.push(Op::delete(map, key.clone()));
                    }
                }
            }
        }
        for row in &sealed {
            bodies.push(row.body.clone());
            long.push((row.map, &row.key, &row.head, None));
        }
        let to_write = long.iter().filter(|(.., place)| place.is_none()).zip(&bodies);
        let journal = to_write.filter(|((map, ..), _)| *map == Map::Journal);
        let journal_bytes: usize = journal.flat_map(|(_, body)| body).map(Bytes::len).sum();
        // A key that went may lie in a range that went, too.
        freed.sort_unstable();
        freed.dedup();
        freed.retain(|extent: &Extent| extent.bytes > 0);
        let (extents, entry) = self.bodies.write(ledger, &bodies, &written, freed, seq.seq, &mut ops)?;
        let mut extents = extents.into_iter();
        for (map, key, head, place) in long {
            let extent = place.or_else(|| extents.next()).unwrap_or_default();
            let row = std::iter::once(extent.encode()).chain(head.iter().cloned()).collect();
            let (key, change) = (key.clone(), Change::Put(row));
            ops.push(Op { map, key, change });
        }
        self.database.commit(&ops)?;
        self.bodies.enter(ledger, entry);
        ledger.journal_bytes += journal_bytes as u64;
        Ok(())
    }

    /// The body that the database has of a key is not needed any more.
    fn frees(&self, map: Map, key: &[u8], freed: &mut Vec<Extent>) -> Result<(), StoreError> {
        if let Some(row) = self.database.point(map, key)? {
            freed.extend(Extent::decode(&row)?.0);
        }
        Ok(())
    }

    /// Sees to it that a record has room.
    fn make_room(&self, log: &mut Log<D>, body_bytes: usize) -> Result<(), StoreError> {
        log.ring.free(self.waiting().applied.seq);
        if !log.ring.has_room(body_bytes) && !log.ring.grow() {
            // The flush did not keep up: this commit waits for it, and does one itself if that was none or not enough.
            drop(lock(&self.flushing));
            log.ring.free(self.waiting().applied.seq);
        }
        if !log.ring.has_room(body_bytes) {
            self.flush()?;
            log.ring.free(self.waiting().applied.seq);
        }
        if self.waiting().unnamed_bytes() > UNNAMED_MOST * self.sizes.unnamed_bytes {
            self.flush()?;
        }
        Ok(())
    }

    /// A place in a data file for the bodies of the commit with the record of that number. Without one, as on a full disk, they go the
    /// way of others.
    fn run(&self, ops: &[Op], seq: u64) -> Option<Run> {
        let run = self.bodies.run(ops, seq);
        run.inspect_err(|error| tracing::debug!(%error, "no place in a data file"))
            .ok()
    }

    /// Brings the bodies to their data file that do not go with the record.
    pub(super) fn write_bodies(&self, begun: &Begun) -> Result<(), StoreError> {
        let written = begun.bodies.as_ref().map_or(Ok(()), |run| self.bodies.write_run(run));
        self.watched(written.map_err(|error| of_io(&error)))
    }

    /// The store's log, with nothing in the ring that the database does not have and this process has not written.
    fn ready(&self) -> Result<MutexGuard<'_, Log<D>>, StoreError> {
        self.alive()?;
        let mut log = lock(&self.log);
        if log.found {
            self.flush()?;
            self.watched(log.ring.wipe_torn().map_err(|error| of_io(&error)))?;
            log.found = false;
        }
        Ok(log)
    }
}

/// Where a body is while its commit waits.
enum Found {
    Part(Vec<u8>),
    At(Extent),
}

fn is_direct<D: Disk>(log: &Log<D>, body_bytes: usize) -> bool {
    body_bytes > DIRECT_BYTES.min(log.ring.body_bytes_max())
}

impl<S: Store + Debug, D: Disk, F: Shelf> Store for RingedStore<S, D, F> {
    fn commit(&self, ops: &[Op]) -> Result<(), StoreError> {
        match self.begin(ops)? {
            Some(begun) => {
                self.write(&begun)?;
                self.settle(begun, ops)
            }
            None => {
                let mut log = self.ready()?;
                self.commit_direct(&mut log, ops)
            }
        }
    }

    fn takes_two(&self) -> bool {
        true
    }

    fn begin(&self, ops: &[Op]) -> Result<Option<Begun>, StoreError> {
        let mut log = self.ready()?;
        let run = match ops::placeable_bytes(ops) >= self.sizes.once_bytes {
            true => self.run(ops, log.ring.newest().seq + 1),
            false => None,
        };
        let body_bytes = ops::encoded_bytes(ops, run.is_some());
        if is_direct(&log, body_bytes) {
            return Ok(None);
        }
        self.make_room(&mut log, body_bytes)?;
        let mut record = lock(&self.spare).pop().unwrap_or_default();
        record.renew(body_bytes);
        ops::encode(ops, run.as_ref().map(|run| &run.placed[..]), record.body());
        let durable = self.waiting().seq.seq;
        let assigned = log.ring.assign(&mut record, durable).map_err(|error| of_io(&error));
        let place = self.watched(assigned)?;
        let bodies = run;
        Ok(Some(Begun { record, place, bodies }))
    }

    fn write(&self, begun: &Begun) -> Result<(), StoreError> {
        self.alive()?;
        self.write_bodies(begun)?;
        let written = ring::write(&*self.ring_disk, begun.place, &begun.record);
        self.watched(written.map_err(|error| of_io(&error)))
    }

    fn settle(&self, begun: Begun, ops: &[Op]) -> Result<(), StoreError> {
        self.alive()?;
        {
            let mut waiting = self.waiting();
            let mut places = begun.bodies.iter().flat_map(|run| &run.placed);
            for op in ops {
                let place = ops::placeable(op).and_then(|_| places.next());
                waiting.newest.apply(op, place.map(|placed| placed.extent));
            }
            waiting.seq = begun.place.applied();
            waiting.ring_bytes += begun.place.bytes;
        }
        if begun.record.capacity() <= RECORD_BYTES_KEPT {
            lock(&self.spare).push(begun.record);
        }
        Ok(())
    }

    fn point(&self, map: Map, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.alive()?;
        if let Some(told) = self.overlaid(map, key, |value| Some(value.head.concat())) {
            return Ok(told);
        }
        let row = self.database.point(map, key)?;
        match row {
            Some(row) if map.has_bodies() => Ok(Some(Extent::decode(&row)?.1.to_vec())),
            row => Ok(row),
        }
    }

    fn body(&self, map: Map, key: &[u8], range: Range<usize>) -> Result<Option<Vec<u8>>, StoreError> {
        self.alive()?;
        let told = self.overlaid(map, key, |value| match value.place {
            Some(extent) => Some(Found::At(extent)),
            None => part(&value.body, range.clone()).map(Found::Part),
        });
        let extent = match told {
            Some(None) => return Ok(None),
            Some(Some(Found::Part(part))) => return Ok(Some(part)),
            Some(Some(Found::At(extent))) => extent,
            None => {
                let Some(row) = self.database.point(map, key)? else {
                    return Ok(None);
                };
                let (Some(extent), _) = Extent::decode(&row)? else {
                    tracing::error!("the place of a body is damaged");
                    return Ok(None);
                };
                extent
            }
        };
        self.bodies.read_now(extent, range)
    }

    fn each_gone(&self, each: &mut dyn FnMut(Map, &[u8])) -> Result<(), StoreError> {
        bodies::each_in(&self.database, &self.missing, each)
    }

    fn scan(&self, map: Map, from: &[u8], until: Option<&[u8]>, each: &mut Each<'_>) -> Result<(), StoreError> {
        self.alive()?;
        if until.is_some_and(|until| until <= from) {
            return Ok(());
        }
        let mut layer = Layer::default();
        {
            let waiting = self.waiting();
            waiting.leaving.lay_over(&mut layer, map, from, until);
            waiting.newest.lay_over(&mut layer, map, from, until);
        }
        let (entries, gone) = layer.into_entries();
        let mut entries = entries.peekable();
        let mut ended = false;
        self.database.scan(map, from, until, &mut |key, value| {
            while let Some((newer, newer_value)) = entries.next_if(|(newer, _)| newer.as_slice() < key) {
                if let Some(value) = newer_value
                    && !each(&newer, &value.head.concat())?
                {
                    ended = true;
                    return Ok(false);
                }
            }
            let more = match entries.next_if(|(newer, _)| newer.as_slice() == key) {
                Some((_, Some(value))) => each(key, &value.head.concat())?,
                Some((_, None)) => true,
                None if gone.covers(key) => true,
                None if map.has_bodies() => each(key, Extent::decode(value)?.1)?,
                None => each(key, value)?,
            };
            ended = !more;
            Ok(more)
        })?;
        if ended {
            return Ok(());
        }
        for (key, value) in entries {
            if let Some(value) = value
                && !each(&key, &value.head.concat())?
            {
                break;
            }
        }
        Ok(())
    }

    fn checkpoint_due(&self) -> bool {
        let waiting = self.waiting();
        waiting.newest.bytes() > self.sizes.waiting_bytes
            || waiting.newest.placed_bytes() > self.sizes.unnamed_bytes
            || waiting.ring_bytes > self.sizes.waiting_ring_bytes
    }

    fn checkpoint(&self) -> Result<(), StoreError> {
        self.alive().and_then(|()| self.flush())?;
        self.lay_together()
    }

    fn seal_with(&self, sealer: Option<Arc<dyn Sealer>>) {
        // One that is sealing is waited for.
        let _flushing = lock(&self.flushing);
        *lock(&self.sealer) = sealer;
    }
}

/// When a store that works is dropped, nothing is left to the next opening.
impl<S, D, F> Drop for RingedStore<S, D, F>
where
    S: Store + Debug,
    D: Disk,
    F: Shelf,
{
    fn drop(&mut self) {
        if !self.only_looks
            && self.alive().is_ok()
            && let Err(error) = self.flush()
        {
            tracing::warn!(%error, "the last flush failed; the next start does it");
        }
    }
}

impl<S: Store + Debug, D: Disk, F: Shelf> Debug for RingedStore<S, D, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingedStore")
            .field("database", &self.database)
            .field("bodies", &self.bodies)
            .finish_non_exhaustive()
    }
}

/// What a panic in the middle leaves is not believed: the caller opens the store anew.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
