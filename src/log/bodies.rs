//! The data files: what is long and never changes lies in them, one behind the other, and the database keeps only its place.
//!
//! A database writes a page several times, copies it, and reads it again to remove it; a batch is written once and read in order. A
//! flush appends the bodies that it brings to the newest file and syncs it before the database's commit that names them; what a crash
//! leaves behind the last named byte is overwritten by the next flush. Each file's live bytes are counted in the database, in the same
//! commit. A file goes with its last body; until then the space of what is past in it is given back to the file system.
//!
//! A large commit writes its bodies here itself (`Run`), and its record of the ring holds their places and CRCs: they are written once,
//! and the flush only names them.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::disk::{Disk, UNSYNCED_BYTES};
pub(super) use super::extent::Extent;
use super::layout::Fields;
use super::ops;
use super::profile::Sizes;
use super::ring::{BLOCK, aligned};
use super::shelf::Shelf;
use super::space::Space;
use super::store::{Map, Op, Store, StoreError, of_io};

/// A data file that is longer gets no more bodies.
pub const FILE_BYTES: u64 = 64 << 20;
/// What is between a body and the one behind it.
const BETWEEN: [u8; BLOCK as usize] = [0; BLOCK as usize];
/// Files that stay open for readers.
const OPEN_MAX: usize = 8;

/// A body that its commit wrote to its place, and by what it is known to be whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) extent: Extent,
    /// CRC-32C of the body.
    pub(super) crc: u32,
}

/// Bodies of one commit that it writes itself, one behind the other.
#[derive(Debug)]
pub(super) struct Run {
    file: u32,
    at: u64,
    bodies: Vec<Vec<Bytes>>,
    /// Each of them, in order.
    pub(super) placed: Vec<Placed>,
}

/// What the database says of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    /// Bytes of bodies in it that some row names.
    live: u64,
    /// Where the next body goes.
    len: u64,
}

/// The data files of a store. Readers share it; one flush at a time changes it.
#[derive(Debug)]
pub(super) struct Bodies<F: Shelf> {
    shelf: F,
    sizes: Sizes,
    /// The newest last.
    open: Mutex<VecDeque<(u32, Arc<F::File>)>>,
    space: Mutex<Space>,
    /// Memory for what commits write.
    spare: Mutex<Vec<Vec<u8>>>,
}

/// What a flush knows of the files.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    counts: BTreeMap<u32, Counts>,
    /// Bytes of bodies of the journal that were written since it was last laid together.
    pub(super) journal_bytes: u64,
    /// Journal rows before this key were looked at then.
    pub(super) journal_from: Vec<u8>,
    /// Files that no row names were looked for.
    swept: bool,
    /// Memory for what is written.
    buffer: Vec<u8>,
}

/// The effect of a flush on the files, to be told once its commit is durable.
#[derive(Debug, Default)]
pub(super) struct Entry {
    counts: BTreeMap<u32, Counts>,
    gone: Vec<u32>,
    freed: Vec<Extent>,
    /// The newest record of the ring that the database has then.
    seq: u64,
    /// Files before it that the database does not name are nobody's.
    oldest_needed: u32,
}

impl Ledger {
    /// Reads what the database says.
    pub(super) fn load(database: &dyn Store) -> Result<Self, StoreError> {
        let mut ledger = Self::default();
        database.scan(Map::Files, &[], None, &mut |key, value| {
            let (number, mut fields) = (Fields(key).u32()?, Fields(value));
            let (live, len) = (fields.u64()?, fields.u64()?);
            ledger.counts.insert(number, Counts { live, len });
            Ok(true)
        })?;
        database.scan(Map::Journal, &[], None, &mut |_, row| {
            ledger.journal_bytes += Extent::decode(row)?.0.map_or(0, |extent| u64::from(extent.bytes));
            Ok(true)
        })?;
        Ok(ledger)
    }

    /// Bytes of bodies by file.
    #[cfg(test)]
    pub(super) fn live(&self) -> BTreeMap<u32, u64> {
        self.counts
            .iter()
            .map(|(number, counts)| (*number, counts.live))
            .collect()
    }

    /// The newest file that the database names; 0 if it names none.
    fn newest(&self) -> u32 {
        self.counts.last_key_value().map_or(0, |(number, _)| *number)
    }
}

impl<F: Shelf> Bodies<F> {
    /// Over a shelf. What is in the database comes with the ledger.
    pub(super) fn new(shelf: F, sizes: Sizes, ledger: &Ledger) -> Self {
        let mut space = Space::new(sizes.align_bytes);
        for (number, counts) in &ledger.counts {
            space.reaches(*number, counts.len);
        }
        // The newest is begun, though nothing of it may be named: the one before may not be fit to be written.
        let there = shelf.numbers().unwrap_or_default();
        there.into_iter().for_each(|number| space.reaches(number, 0));
        Self {
            shelf,
            sizes,
            open: Mutex::default(),
            space: Mutex::new(space),
            spare: Mutex::default(),
        }
    }

    /// Takes a place for the bodies of a commit with the record of that number, which `write_run` is to write.
    pub(super) fn run(&self, ops: &[Op], seq: u64) -> io::Result<Run> {
        let bodies: Vec<Vec<Bytes>> = ops.iter().filter_map(ops::placeable).map(<[Bytes]>::to_vec).collect();
        let (file, _, at) = self.reserve(laid_bytes(&bodies), Some(seq))?;
        let (extents, _) = lay(file, at, &bodies);
        let placed = extents.into_iter().zip(&bodies).map(|(extent, slices)| {
            let crc = slices.iter().fold(0, |crc, slice| crc32c::crc32c_append(crc, slice));
            Placed { extent, crc }
        });
        let placed = placed.collect();
        Ok(Run {
            file,
            at,
            bodies,
            placed,
        })
    }

    /// Writes them and makes them durable.
    pub(super) fn write_run(&self, run: &Run) -> io::Result<()> {
        let mut buffer = lock(&self.spare).pop().unwrap_or_default();
        let file = self.file(run.file)?;
        append(&*file, run.at, &run.bodies, &mut buffer).inspect_err(|error| self.leave(run.file, error))?;
        if buffer.capacity() <= 2 * UNSYNCED_BYTES {
            lock(&self.spare).push(buffer);
        }
        Ok(())
    }

    /// Whether the bodies that a record of the ring names are whole. What cannot be read is not.
    pub(super) fn are_whole(&self, ops: &[ops::FoundOp]) -> bool {
        let whole = |placed: &Placed| match self.read(placed.extent, 0..placed.extent.bytes as usize) {
            Ok(Some(body)) => crc32c::crc32c(&body) == placed.crc,
            Ok(None) => false,
            Err(error) => {
                tracing::debug!(%error, ?placed, "the bodies of the newest commit cannot be read");
                false
            }
        };
        ops.iter().filter_map(|found| found.placed.as_ref()).all(whole)
    }

    /// Takes over bodies that were found with a record of the ring; they are made durable, as they are believed from now on.
    pub(super) fn found(&self, ops: &[ops::FoundOp], seq: u64) -> io::Result<()> {
        for placed in ops.iter().filter_map(|found| found.placed.as_ref()) {
            lock(&self.space).found(seq, placed.extent.file, placed.extent.end());
            self.file(placed.extent.file)?.sync()?;
        }
        Ok(())
    }

    /// Says which files are missing that the database names.
    pub(super) fn missing(&self, ledger: &Ledger) -> io::Result<Vec<u32>> {
        let there = self.shelf.numbers()?;
        let named = ledger.counts.iter().filter(|(_, counts)| counts.live > 0);
        let gone = named
            .map(|(number, _)| *number)
            .filter(|number| !there.contains(number));
        Ok(gone
            .inspect(|number| tracing::error!(number, "a data file is missing: what was in it cannot be read"))
            .collect())
    }

    /// The same for a reader: `None` also where it is gone, `StoreError::Unreadable` where the disk does not give it now.
    pub(super) fn read_now(&self, extent: Extent, range: Range<usize>) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(extent, range).or_else(|error| {
            tracing::error!(%error, ?extent, "a data file cannot be read there");
            match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => Ok(None),
                _ => Err(StoreError::Unreadable(error.to_string())),
            }
        })
    }

    /// A part of a body; `None` where it has none.
    pub(super) fn read(&self, extent: Extent, range: Range<usize>) -> io::Result<Option<Vec<u8>>> {
        if range.start > range.end || range.end > extent.bytes as usize {
            return Ok(None);
        }
        let mut out = vec![0; range.end - range.start];
        if !out.is_empty() {
            self.file(extent.file)?
                .read(extent.offset + range.start as u64, &mut out)?;
        }
        Ok(Some(out))
    }

    /// Writes bodies behind those that are there and makes them durable; gives their places, in order. With what they are, what was
    /// written by its commit and what goes, the files' counts are to be committed, with the records up to `seq`: the operations for
    /// that are added to `ops`.
    pub(super) fn write(
        &self,
        ledger: &mut Ledger,
        bodies: &[Vec<Bytes>],
        written: &[Extent],
        mut freed: Vec<Extent>,
        seq: u64,
        ops: &mut Vec<Op>,
    ) -> Result<(Vec<Extent>, Entry), StoreError> {
        let mut counts = BTreeMap::new();
        let mut extents = Vec::with_capacity(bodies.len());
        if bodies.iter().flatten().all(Bytes::is_empty) {
            // Nothing to be found again.
            extents.resize(bodies.len(), Extent::default());
        } else {
            let (number, begins) = self.append(ledger, bodies)?;
            let end;
            (extents, end) = lay(number, begins, bodies);
            let bytes = extents.iter().map(|extent| u64::from(extent.bytes));
            let old = ledger.counts.get(&number).copied().unwrap_or_default();
            let new = Counts {
                live: old.live + bytes.sum::<u64>(),
                len: end.next_multiple_of(BLOCK),
            };
            counts.insert(number, new);
        }
        for extent in written.iter().filter(|extent| extent.bytes > 0) {
            let old = ledger.counts.get(&extent.file).copied().unwrap_or_default();
            let of_file = counts.entry(extent.file).or_insert(old);
            of_file.live += u64::from(extent.bytes);
            of_file.len = of_file.len.max(extent.end().next_multiple_of(BLOCK));
        }
        freed.retain(|extent| {
            let Some(mut of_file) = counts.get(&extent.file).or(ledger.counts.get(&extent.file)).copied() else {
                tracing::error!(?extent, "a body lies in a data file that is not known");
                return false;
            };
            let bytes = u64::from(extent.bytes);
            let known = extent.end() <= of_file.len && bytes <= of_file.live;
            if known {
                of_file.live -= bytes;
                counts.insert(extent.file, of_file);
            } else {
                tracing::error!(
                    ?extent,
                    ?of_file,
                    "a body lies where none can be; its space stays taken"
                );
            }
            known
        });
        let oldest_needed = lock(&self.space).oldest_needed(seq);
        let unchanged = ledger.counts.iter().filter(|(number, _)| !counts.contains_key(number));
        let past = unchanged
            .chain(&counts)
            .filter(|(number, of_file)| of_file.live == 0 && **number < oldest_needed);
        let mut gone: Vec<u32> = past.map(|(number, _)| *number).collect();
        // All that was in them went before the database heard of it.
        gone.extend((ledger.newest() + 1..oldest_needed).filter(|number| !counts.contains_key(number)));
        for number in &gone {
            counts.remove(number);
            ops.push(Op::delete(Map::Files, number.to_be_bytes()));
        }
        for (number, of_file) in &counts {
            let value = [of_file.live.to_be_bytes(), of_file.len.to_be_bytes()].concat();
            ops.push(Op::put(Map::Files, number.to_be_bytes(), value));
        }
        let entry = Entry {
            counts,
            gone,
            freed,
            seq,
            oldest_needed,
        };
        Ok((extents, entry))
    }

    /// The commit that was made for this is durable: files that are past go, and the space of bodies that are.
    pub(super) fn enter(&self, ledger: &mut Ledger, entry: Entry) {
        lock(&self.space).named(entry.seq);
        ledger.counts.extend(entry.counts);
        for number in entry.gone {
            ledger.counts.remove(&number);
            self.remove(number);
        }
        for (number, range) in holes(entry.freed) {
            if ledger.counts.contains_key(&number)
                && let Err(error) = self
                    .file(number)
                    .and_then(|file| file.punch(range.start, range.end - range.start))
            {
                tracing::debug!(%error, number, "the space in a data file stays taken until it goes");
            }
        }
        if !std::mem::replace(&mut ledger.swept, true) {
            // What a crash left: files that no row names.
            let numbers = self.shelf.numbers().unwrap_or_default();
            let nobodys = |number: &u32| *number < entry.oldest_needed && !ledger.counts.contains_key(number);
            let orphans = numbers.into_iter().filter(nobodys);
            orphans.for_each(|number| self.remove(number));
        }
    }

    /// Writes bodies to the newest file; gives which that is, and where they begin. A file that cannot be written any more is left
    /// as it is, and a new one takes its place.
    fn append(&self, ledger: &mut Ledger, bodies: &[Vec<Bytes>]) -> Result<(u32, u64), StoreError> {
        let mut append_once = || {
            let (number, file, begins) = self.reserve(laid_bytes(bodies), None)?;
            let written = append(&*file, begins, bodies, &mut ledger.buffer);
            written.inspect_err(|error| self.leave(number, error))?;
            Ok((number, begins))
        };
        let result = match append_once() {
            Err(error) if !is_full(&error) => append_once(),
            result => result,
        };
        // That is no damage of the store: nothing was named that is not there.
        result.map_err(|error: io::Error| match of_io(&error) {
            StoreError::Damaged(why) => StoreError::Io(why),
            other => other,
        })
    }

    /// Takes a place behind what is there, for the commit of a record if it is one.
    fn reserve(&self, bytes: u64, seq: Option<u64>) -> io::Result<(u32, Arc<F::File>, u64)> {
        let mut space = lock(&self.space);
        let newest = match space.number {
            0 => None,
            _ if space.at >= self.sizes.file_bytes => None,
            number => match self.file(number) {
                Ok(file) => Some(file),
                // It was taken away: what the database says of it stays, and so does the gap.
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => {
                    tracing::error!(%error, number, "a data file cannot be opened any more; a new one takes its place");
                    None
                }
            },
        };
        let file = match newest {
            Some(file) => file,
            None => self.begin(&mut space)?,
        };
        let end = space.next(bytes) + bytes;
        if self.sizes.ready_bytes > 0 && end > space.ready {
            let ready = end.next_multiple_of(self.sizes.ready_bytes);
            file.extend(ready)?;
            space.ready = ready;
        }
        let at = space.take(bytes, seq);
        Ok((space.number, file, at))
    }

    /// A file cannot be written any more: it is left as it is, and a new one takes its place, for the next opening, too.
    fn leave(&self, number: u32, error: &io::Error) {
        if is_full(error) {
            return;
        }
        tracing::error!(%error, number, "a data file cannot be written any more; a new one takes its place");
        let mut space = lock(&self.space);
        if space.number == number
            && let Err(error) = self.begin(&mut space)
        {
            tracing::error!(%error, "a new data file cannot be made");
        }
    }

    /// Makes the next file.
    fn begin(&self, space: &mut Space) -> io::Result<Arc<F::File>> {
        let number = space.number + 1;
        let file = self.create(number)?;
        space.begin(number);
        Ok(file)
    }

    fn create(&self, number: u32) -> io::Result<Arc<F::File>> {
        self.forget(number);
        let file = Arc::new(self.shelf.create(number)?);
        self.keep(number, Arc::clone(&file));
        Ok(file)
    }

    fn file(&self, number: u32) -> io::Result<Arc<F::File>> {
        if let Some((_, file)) = self.lock().iter().rev().find(|(open, _)| *open == number) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(self.shelf.open(number)?);
        self.keep(number, Arc::clone(&file));
        Ok(file)
    }

    fn keep(&self, number: u32, file: Arc<F::File>) {
        let mut open = self.lock();
        if open.len() >= OPEN_MAX {
            open.pop_front();
        }
        open.push_back((number, file));
    }

    fn forget(&self, number: u32) {
        self.lock().retain(|(open, _)| *open != number);
    }

    fn remove(&self, number: u32) {
        let removed = self.shelf.remove(number);
        // Behind that, so that no reader opens it again and keeps it.
        self.forget(number);
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, number, "a data file that nothing needs any more could not be removed; the next start tries again");
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(u32, Arc<F::File>)>> {
        lock(&self.open)
    }
}

/// What a panic in the middle leaves is not believed: the store is opened anew.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls `each` with the key of every row whose body lies in one of these files.
pub(super) fn each_in(database: &dyn Store, files: &[u32], each: &mut dyn FnMut(Map, &[u8])) -> Result<(), StoreError> {
    if files.is_empty() {
        return Ok(());
    }
    for map in [Map::Journal, Map::Segments] {
        database.scan(map, &[], None, &mut |key, row| {
            if Extent::decode(row)?
                .0
                .is_some_and(|extent| files.contains(&extent.file))
            {
                each(map, key);
            }
            Ok(true)
        })?;
    }
    Ok(())
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Their places from there on, and where the last one ends.
fn lay(file: u32, begins: u64, bodies: &[Vec<Bytes>]) -> (Vec<Extent>, u64) {
    let lengths = bodies.iter().map(|slices| slices.iter().map(Bytes::len).sum());
    Extent::lay(file, begins, lengths)
}

/// What they take, with what is between them.
fn laid_bytes(bodies: &[Vec<Bytes>]) -> u64 {
    lay(0, 0, bodies).1
}

/// Writes bodies to their places, in synced chunks that begin and end at blocks, in memory too.
fn append(file: &impl Disk, begins: u64, bodies: &[Vec<Bytes>], buffer: &mut Vec<u8>) -> io::Result<()> {
    let (extents, end) = lay(0, begins, bodies);
    let total = (end - begins) as usize;
    let start = aligned(buffer, UNSYNCED_BYTES.min(total.next_multiple_of(BLOCK as usize)));
    let mut at = begins;
    let mut written = begins;
    let mut slices = extents.iter().zip(bodies).flat_map(|(extent, body)| {
        let between = (extent.offset - written) as usize;
        written = extent.end();
        std::iter::once(&BETWEEN[..between]).chain(body.iter().map(|slice| &slice[..]))
    });
    let mut rest: &[u8] = &[];
    loop {
        let room = UNSYNCED_BYTES - (buffer.len() - start);
        if rest.is_empty() && room > 0 {
            match slices.next() {
                Some(slice) => rest = slice,
                None => break,
            }
        }
        let (now, later) = rest.split_at(room.min(rest.len()));
        buffer.extend_from_slice(now);
        rest = later;
        if buffer.len() - start == UNSYNCED_BYTES {
            file.write_synced(at, &buffer[start..])?;
            at += UNSYNCED_BYTES as u64;
            buffer.truncate(start);
        }
    }
    if buffer.len() > start {
        let whole = (buffer.len() - start).next_multiple_of(BLOCK as usize);
        buffer.resize(start + whole, 0);
        file.write_synced(at, &buffer[start..])?;
    }
    buffer.clear();
    Ok(())
}

/// Whole blocks in which nothing but these bodies lie; bodies that lie one behind the other make one hole.
fn holes(mut freed: Vec<Extent>) -> Vec<(u32, Range<u64>)> {
    freed.sort_unstable();
    let mut runs: Vec<(u32, Range<u64>)> = Vec::new();
    for extent in freed {
        match runs.last_mut() {
            Some((file, run)) if *file == extent.file && run.end == extent.offset => run.end = extent.blocks().end,
            _ => runs.push((extent.file, extent.blocks())),
        }
    }
    let whole = |(file, run): (u32, Range<u64>)| (file, run.start.next_multiple_of(BLOCK)..run.end / BLOCK * BLOCK);
    runs.into_iter()
        .map(whole)
        .filter(|(_, hole)| !hole.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_whole_blocks_of_what_lies_together() {
        let extent = |file, offset, bytes| Extent {
            file,
            offset,
            bytes,
            alone: false,
        };
        let freed = vec![
            extent(1, 5000, 4000),
            extent(1, 100, 4900),
            // What lies between is not past, or is padding.
            extent(1, 12_288, 4096),
            extent(1, 20_000, 100),
            extent(2, 0, 8192),
        ];
        assert_eq!(holes(freed), [(1, 4096..8192), (1, 12_288..16_384), (2, 0..8192)]);
    }
}
