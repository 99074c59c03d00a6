//! The data files: what is long and never changes lies in them, one behind the other, and the database keeps only its place.
//!
//! A database writes a page several times, copies it, and reads it again to remove it; a batch is written once and read in order. A
//! flush appends the bodies that it brings to the newest file and syncs it before the database's commit that names them; what a crash
//! leaves behind the last named byte is overwritten by the next flush. Each file's live bytes are counted in the database, in the same
//! commit. A file goes with its last body; until then the space of what is past in it is given back to the file system.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::disk::{Disk, UNSYNCED_BYTES};
use super::layout::Fields;
use super::ring::{BLOCK, aligned};
use super::shelf::Shelf;
use super::store::{Map, Op, Store, StoreError, of_io};

/// A data file that is longer gets no more bodies.
pub const FILE_BYTES: u64 = 64 << 20;
/// Files that stay open for readers.
const OPEN_MAX: usize = 8;

/// Where a body lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Extent {
    pub(super) file: u32,
    offset: u64,
    pub(super) bytes: u32,
}

impl Extent {
    /// Bytes of an extent before its CRC.
    const PLACE: usize = 16;

    /// For a row. Big-endian: file u32, offset u64, bytes u32, CRC-32C of these u32.
    pub(super) fn encode(self) -> Bytes {
        let mut out = Vec::with_capacity(Self::PLACE + 4);
        out.extend_from_slice(&self.file.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&self.bytes.to_be_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_be_bytes());
        out.into()
    }

    /// Takes it from the front of a row, and gives the rest, too. `None` for a place that is damaged: what lies where it points is
    /// another's.
    pub(super) fn decode(row: &[u8]) -> Result<(Option<Self>, &[u8]), StoreError> {
        let mut fields = Fields(row);
        let extent = Self {
            file: fields.u32()?,
            offset: fields.u64()?,
            bytes: fields.u32()?,
        };
        let sound = fields.u32()? == crc32c::crc32c(&row[..Self::PLACE]);
        Ok((sound.then_some(extent), fields.0))
    }

    /// File, offset, bytes.
    #[cfg(test)]
    pub(super) fn parts(self) -> [u64; 3] {
        [self.file.into(), self.offset, self.bytes.into()]
    }

    pub(super) fn end(self) -> u64 {
        self.offset.saturating_add(u64::from(self.bytes))
    }
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
    file_bytes: u64,
    /// The newest last.
    open: Mutex<VecDeque<(u32, Arc<F::File>)>>,
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

    /// The file that bodies go to.
    fn active(&self) -> Option<u32> {
        self.counts.last_key_value().map(|(number, _)| *number)
    }
}

impl<F: Shelf> Bodies<F> {
    /// Over a shelf, in files of about this size.
    pub(super) fn new(shelf: F, file_bytes: u64) -> Self {
        let open = Mutex::default();
        Self {
            shelf,
            file_bytes,
            open,
        }
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

    /// Writes bodies behind those that are there and makes them durable; gives their places, in order. With what they are and what
    /// goes the files' counts are to be committed: the operations for that are added to `ops`.
    pub(super) fn write(
        &self,
        ledger: &mut Ledger,
        bodies: &[Vec<Bytes>],
        mut freed: Vec<Extent>,
        ops: &mut Vec<Op>,
    ) -> Result<(Vec<Extent>, Entry), StoreError> {
        let mut counts = BTreeMap::new();
        let mut extents = Vec::with_capacity(bodies.len());
        if bodies.iter().flatten().all(Bytes::is_empty) {
            // Nothing to be found again.
            extents.resize(bodies.len(), Extent::default());
        } else {
            let (number, begins) = self.append(ledger, bodies)?;
            let mut offset = begins;
            for slices in bodies {
                let bytes = slices.iter().map(Bytes::len).sum::<usize>() as u32;
                extents.push(Extent {
                    file: number,
                    offset,
                    bytes,
                });
                offset += u64::from(bytes);
            }
            let old = ledger.counts.get(&number).copied().unwrap_or_default();
            let new = Counts {
                live: old.live + (offset - begins),
                len: offset.next_multiple_of(BLOCK),
            };
            counts.insert(number, new);
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
        let active = counts.keys().copied().max().max(ledger.active());
        let unchanged = ledger.counts.iter().filter(|(number, _)| !counts.contains_key(number));
        let past = unchanged
            .chain(&counts)
            .filter(|(number, of_file)| of_file.live == 0 && Some(**number) != active);
        let gone: Vec<u32> = past.map(|(number, _)| *number).collect();
        for number in &gone {
            counts.remove(number);
            ops.push(Op::delete(Map::Files, number.to_be_bytes()));
        }
        for (number, of_file) in &counts {
            let value = [of_file.live.to_be_bytes(), of_file.len.to_be_bytes()].concat();
            ops.push(Op::put(Map::Files, number.to_be_bytes(), value));
        }
        Ok((extents, Entry { counts, gone, freed }))
    }

    /// The commit that was made for this is durable: files that are past go, and the space of bodies that are.
    pub(super) fn enter(&self, ledger: &mut Ledger, entry: Entry) {
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
            let orphans = numbers.into_iter().filter(|number| !ledger.counts.contains_key(number));
            orphans.for_each(|number| self.remove(number));
        }
    }

    /// Writes bodies to the newest file; gives which that is, and where they begin. A file that cannot be written any more is left
    /// as it is, and a new one takes its place.
    fn append(&self, ledger: &mut Ledger, bodies: &[Vec<Bytes>]) -> Result<(u32, u64), StoreError> {
        let newest = ledger.active().unwrap_or(0);
        let placed = self.place(ledger);
        let number = placed.as_ref().map_or(newest, |(number, ..)| *number);
        let mut written = |(number, file, begins): (u32, Arc<F::File>, u64)| {
            append(&*file, begins, bodies, &mut ledger.buffer)?;
            Ok((number, begins))
        };
        let result = match placed.and_then(&mut written) {
            Err(error) if !is_full(&error) => {
                tracing::error!(%error, number, "a data file cannot be written any more; a new one takes its place");
                self.create(number.max(newest) + 1).and_then(written)
            }
            result => result,
        };
        // That is no damage of the store: nothing was named that is not there.
        result.map_err(|error| match of_io(&error) {
            StoreError::Damaged(why) => StoreError::Io(why),
            other => other,
        })
    }

    /// The file that the next bodies go to, and where they begin in it.
    fn place(&self, ledger: &Ledger) -> io::Result<(u32, Arc<F::File>, u64)> {
        let Some((number, counts)) = ledger.counts.last_key_value() else {
            return self.create(1);
        };
        if counts.len >= self.file_bytes {
            return self.create(number + 1);
        }
        match self.file(*number) {
            Ok(file) => Ok((*number, file, counts.len)),
            // It was taken away: what the database says of it stays, and so does the gap.
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create(number + 1),
            Err(error) => Err(error),
        }
    }

    fn create(&self, number: u32) -> io::Result<(u32, Arc<F::File>, u64)> {
        self.forget(number);
        let file = Arc::new(self.shelf.create(number)?);
        self.keep(number, Arc::clone(&file));
        Ok((number, file, 0))
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

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(u32, Arc<F::File>)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

/// Writes bodies one behind the other, in synced chunks that begin and end at blocks, in memory too.
fn append(file: &impl Disk, begins: u64, bodies: &[Vec<Bytes>], buffer: &mut Vec<u8>) -> io::Result<()> {
    let total: usize = bodies.iter().flatten().map(Bytes::len).sum();
    let start = aligned(buffer, UNSYNCED_BYTES.min(total.next_multiple_of(BLOCK as usize)));
    let mut at = begins;
    let mut slices = bodies.iter().flatten().map(|slice| &slice[..]);
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
            Some((file, run)) if *file == extent.file && run.end == extent.offset => run.end = extent.end(),
            _ => runs.push((extent.file, extent.offset..extent.end())),
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
        let extent = |file, offset, bytes| Extent { file, offset, bytes };
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
