//! The ring: a file, written round and round, that makes a commit durable with one sequential write and one sync.
//! What a record holds is the business of `ringed`; here it is bytes with a number.
//!
//! Block 0 holds magic "HWRING02" and an id of 16 random bytes. Records follow, each at a multiple of 4,096 bytes, never cut by
//! the end of the file. The id goes into every CRC and is known to nobody outside: bytes that a peer sent and that look like a
//! record, left over in free space, are never taken for one. Little-endian:
//! ```text
//! 0  magic "HWRECORD"   8  seq u64   16 body bytes u32   20 CRC-32C u32 of the id and of all that follows and goes before but the magic
//! 24 CRC of the record before u32   28 ahead u32   32 body, zeros to the block's end
//! ```
//! `ahead` counts the records before it that were still on their way to the disk when it was written.
//!
//! Invariants, which the crash tests hold:
//! - a record is only told to be durable once all before it are, so that what a power cut tears is the newest, with those
//!   that were written ahead of its end; these are dropped with it, and not taken for the successors of what is written in its place:
//!   each record names the one before it by its CRC;
//! - its space is used again only once the caller has said (`free`) that its content is durable elsewhere.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::disk::Disk;
use super::profile::Sizes;
use super::store::{StoreError, of_io};

/// Bytes of a new ring. A first lap writes into unwritten blocks and is slower; after that every commit is one run.
pub const RING_BYTES: u64 = 8 << 20;
/// A ring grows up to this where the database does not keep up for a moment.
pub const RING_BYTES_MAX: u64 = 32 << 20;
/// What the ring is written in.
pub(super) const BLOCK: u64 = 4096;
/// Bytes of a record before its body.
pub(super) const HEADER: usize = 32;
const MAGIC: &[u8; 8] = b"HWRING02";
const RECORD_MAGIC: &[u8; 8] = b"HWRECORD";

/// A record in the making. It begins at a multiple of `BLOCK` in memory too, for disks that ask for that.
#[derive(Debug, Default)]
pub struct Record {
    bytes: Vec<u8>,
    begins: usize,
}

impl Record {
    /// An empty one with room for a body, in the memory of one that is done with.
    pub fn renew(&mut self, body_bytes: usize) {
        self.begins = aligned(&mut self.bytes, whole(body_bytes) as usize);
        self.bytes.resize(self.begins + HEADER, 0);
    }

    /// To append the body to.
    pub fn body(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Bytes of memory that it holds.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Fills in the header and pads it; gives the CRC.
    fn finish(&mut self, id: &[u8; 16], seq: u64, before: u32, ahead: u32) -> u32 {
        let body = self.bytes.len() - self.begins - HEADER;
        self.bytes.resize(self.begins + whole(body) as usize, 0);
        let record = &mut self.bytes[self.begins..];
        record[..8].copy_from_slice(RECORD_MAGIC);
        record[8..16].copy_from_slice(&seq.to_le_bytes());
        record[16..20].copy_from_slice(&(body as u32).to_le_bytes());
        record[24..28].copy_from_slice(&before.to_le_bytes());
        record[28..32].copy_from_slice(&ahead.to_le_bytes());
        let crc = crc(id, record, body);
        record[20..24].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// What is to be written once it is finished.
    fn whole(&self) -> &[u8] {
        &self.bytes[self.begins..]
    }
}

/// Where a record is, or goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its number.
    pub seq: u64,
    /// Its CRC.
    pub crc: u32,
    /// Where it begins.
    at: u64,
    /// Bytes that it takes.
    pub bytes: u64,
}

impl Place {
    /// Its number and CRC.
    pub fn applied(self) -> Applied {
        Applied {
            seq: self.seq,
            crc: self.crc,
        }
    }
}

/// A record by number and CRC: the newest whose content is durable elsewhere. A commit that went past the ring behind
/// it shows in the CRC, which the next record names as the one before it: without that commit nothing that was built
/// on it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Its number.
    pub seq: u64,
    /// Its CRC.
    pub crc: u32,
}

impl Applied {
    /// Behind a commit of so many bytes that goes past the ring.
    pub fn passed_by(self, bytes: usize) -> Self {
        let crc = crc32c::crc32c_append(self.crc, &(bytes as u64).to_le_bytes());
        Self { crc, ..self }
    }
}

/// An open ring.
#[derive(Debug)]
pub struct Ring<D> {
    disk: Arc<D>,
    id: [u8; 16],
    len: u64,
    sizes: Sizes,
    /// Where the next record goes, if it fits before the end.
    head: u64,
    /// Records that are not free space yet.
    live: VecDeque<Place>,
    /// Number and CRC of the newest record that has a place.
    newest: Applied,
    /// Where whole records begin of which something else was torn. What takes their numbers must not be mistaken for them.
    torn: Vec<u64>,
}

impl<D: Disk> Ring<D> {
    /// Makes a ring in an empty file. The id must be random.
    pub fn create(disk: D, id: [u8; 16], len: u64) -> io::Result<()> {
        create_with(disk, id, len, &[])
    }

    /// The id that a ring's file says it has; `None` of what is no ring.
    pub fn id_of(disk: &D) -> Option<[u8; 16]> {
        let mut first = [0; 24];
        disk.read(0, &mut first).ok()?;
        let magic = &first[..8] == MAGIC;
        magic.then(|| first[8..].try_into().ok()).flatten()
    }

    /// Opens a ring whose records up to `applied` are durable elsewhere, and that may grow as `sizes` say; shows the bodies of those
    /// behind it, in order. What a cut may have torn is left out, as is what is not `sound` because what it needs beside the ring is torn;
    /// a hole where a later record proves that something was durable is damage.
    pub fn open(
        disk: D,
        id: [u8; 16],
        applied: Applied,
        sizes: Sizes,
        mut sound: impl FnMut(Vec<u8>) -> Result<bool, StoreError>,
    ) -> Result<Self, StoreError> {
        let mut first = [0; 24];
        disk.read(0, &mut first).map_err(io)?;
        if &first[..8] != MAGIC || first[8..] != id {
            return Err(damaged("it is not the ring of this database".into()));
        }
        let (ring, found, newest) = Self::take_up(disk, id, applied, sizes, &mut sound)?;
        if newest < applied.seq {
            // It was synced before the database learned of it, and is written over only behind a newer one.
            return Err(damaged(format!(
                "the database has its record {}, of which there is no trace; the newest one is {newest}. The disk confirmed what it did \
                 not write, and newer records may be lost, too",
                applied.seq
            )));
        }
        let missing = ring.newest.seq + 1;
        if let Some(witness) = found.iter().find(|found| found.proves(missing)) {
            return Err(damaged(format!(
                "its record {missing} is damaged; there is a record {}",
                witness.place.seq
            )));
        }
        if !ring.live.is_empty() {
            // The newest may have been written and not synced; whoever reads it takes it for durable.
            ring.disk.sync().map_err(io)?;
        }
        Ok(ring)
    }

    /// As `open`, of a ring that may be damaged and is only looked at: whatever is whole in it counts, and the holes between are told.
    pub fn look(
        disk: D,
        id: [u8; 16],
        applied: Applied,
        mut sound: impl FnMut(Vec<u8>) -> Result<bool, StoreError>,
    ) -> Result<(Self, Vec<String>), StoreError> {
        let (mut ring, found, _) = Self::take_up(disk, id, applied, Sizes::default(), &mut sound)?;
        let mut holes = Vec::new();
        if !found.iter().any(|found| found.proves(ring.newest.seq + 1)) {
            return Ok((ring, holes));
        }
        // From the newest backwards: of two records of one number the one counts whose successor names it.
        let mut behind: Vec<&Found> = Vec::new();
        for found in found.iter().rev().take_while(|found| found.place.seq > ring.newest.seq) {
            let superseded = behind.last().is_some_and(|after| {
                found.place.seq == after.place.seq
                    || found.place.seq + 1 == after.place.seq && !after.follows(found.place.applied())
            });
            if !superseded {
                behind.push(found);
            }
        }
        for found in behind.into_iter().rev() {
            let (first, last) = (ring.newest.seq + 1, found.place.seq - 1);
            if first <= last {
                holes.push(format!("records {first} to {last} of the ring are damaged"));
            }
            if let Some(body) = read(&*ring.disk, found.place.at, &ring.id).map_err(io)? {
                sound(body)?;
            }
            ring.take(found.place);
        }
        Ok((ring, holes))
    }

    /// Every whole record, and the number of the newest that there is a trace of; those that follow one behind the other are shown.
    fn take_up(
        disk: D,
        id: [u8; 16],
        applied: Applied,
        sizes: Sizes,
        sound: &mut dyn FnMut(Vec<u8>) -> Result<bool, StoreError>,
    ) -> Result<(Self, Vec<Found>, u64), StoreError> {
        let len = disk.len().map_err(io)? / BLOCK * BLOCK;
        let (found, newest) = scan(&disk, len, &id).map_err(io)?;
        let old = found.iter().rfind(|found| found.place.seq == applied.seq);
        let mut ring = Self {
            id,
            len,
            sizes,
            head: old.map_or(BLOCK, |found| found.place.at + found.place.bytes),
            live: VecDeque::new(),
            newest: applied,
            torn: Vec::new(),
            disk: Arc::new(disk),
        };
        'next: loop {
            for next in successors(&found, ring.newest) {
                let body = read(&*ring.disk, next.place.at, &ring.id).map_err(io)?;
                let body = body.ok_or_else(|| damaged(format!("its record {} changed", next.place.seq)))?;
                if sound(body)? {
                    ring.take(next.place);
                    continue 'next;
                }
                ring.torn.push(next.place.at);
            }
            break;
        }
        Ok((ring, found, newest))
    }

    /// Whether there are records to be wiped before the next one is written.
    pub fn has_torn(&self) -> bool {
        !self.torn.is_empty()
    }

    /// Wipes the records that were not sound, durably.
    pub fn wipe_torn(&mut self) -> io::Result<()> {
        for at in &self.torn {
            self.disk.write(*at, &[0; HEADER])?;
        }
        if self.has_torn() {
            self.disk.sync()?;
            self.torn.clear();
        }
        Ok(())
    }

    /// Largest body that is taken.
    pub fn body_bytes_max(&self) -> usize {
        (self.len / 4 - (self.sizes.align_bytes - BLOCK)) as usize - HEADER
    }

    /// Whether a record with such a body has room now.
    pub fn has_room(&self, body_bytes: usize) -> bool {
        self.place(whole(body_bytes)).is_some()
    }

    /// Makes the ring longer if it can be, so that more has room behind the newest record; false if it cannot, because of its bound
    /// or because the disk has no space for it: then what is there goes round.
    pub fn grow(&mut self) -> bool {
        let wrapped = self.live.front().is_some_and(|oldest| self.head <= oldest.at);
        if wrapped || self.len * 2 > self.sizes.ring_bytes_max {
            return false;
        }
        let grown = self.disk.extend(self.len * 2).is_ok();
        if grown {
            self.len *= 2;
        }
        grown
    }

    /// Number and CRC of the newest record that has a place.
    pub fn newest(&self) -> Applied {
        self.newest
    }

    /// Its disk, to write records that have a place.
    pub fn disk(&self) -> Arc<D> {
        Arc::clone(&self.disk)
    }

    /// Gives a record its number and its place. There must be room. The records of numbers above `durable` are still on their way.
    pub fn assign(&mut self, record: &mut Record, durable: u64) -> io::Result<Place> {
        let seq = self.newest.seq + 1;
        let ahead = self.newest.seq.saturating_sub(durable) as u32;
        let crc = record.finish(&self.id, seq, self.newest.crc, ahead);
        let bytes = record.whole().len() as u64;
        let Some(at) = self.place(bytes) else {
            return Err(io::Error::other(format!(
                "a record of {bytes} bytes has no room in the ring"
            )));
        };
        let place = Place { seq, crc, at, bytes };
        self.take(place);
        Ok(place)
    }

    fn take(&mut self, place: Place) {
        self.newest = place.applied();
        self.head = place.at + place.bytes;
        self.live.push_back(place);
    }

    /// A commit that went past the ring is durable: the next record is built on it.
    pub fn passed(&mut self, applied: Applied) {
        self.free(applied.seq);
        self.newest = applied;
    }

    /// Records up to this one are durable elsewhere.
    pub fn free(&mut self, seq: u64) {
        while self.live.pop_front_if(|place| place.seq <= seq).is_some() {}
    }

    /// Where a record of `bytes` can go without touching one that is live.
    fn place(&self, bytes: u64) -> Option<u64> {
        let aligned = |at: u64| match bytes < self.sizes.align_bytes {
            true => at,
            false => at.next_multiple_of(self.sizes.align_bytes),
        };
        let (next, first) = (aligned(self.head), aligned(BLOCK));
        let Some(Place { at: tail, .. }) = self.live.front() else {
            let at = if next + bytes <= self.len { next } else { first };
            return (at + bytes <= self.len).then_some(at);
        };
        if self.head > *tail {
            if next + bytes <= self.len {
                Some(next)
            } else {
                (first + bytes <= *tail).then_some(first)
            }
        } else {
            (next + bytes <= *tail).then_some(next)
        }
    }
}

/// Empties a buffer and gives it room for so many bytes from a multiple of `BLOCK` in memory on; it is filled up to there.
pub(super) fn aligned(buffer: &mut Vec<u8>, bytes: usize) -> usize {
    buffer.clear();
    buffer.reserve(bytes + BLOCK as usize);
    // Where the place cannot be told the disk takes the long way.
    let begins = buffer.as_ptr().align_offset(BLOCK as usize);
    let begins = if begins < BLOCK as usize { begins } else { 0 };
    buffer.resize(begins, 0);
    begins
}

/// Writes a record to its place and makes it durable.
pub fn write(disk: &impl Disk, place: Place, record: &Record) -> io::Result<()> {
    disk.write_synced(place.at, record.whole())
}

/// Bytes that a record takes.
fn whole(body_bytes: usize) -> u64 {
    ((HEADER + body_bytes) as u64).next_multiple_of(BLOCK)
}

fn crc(id: &[u8; 16], record: &[u8], body: usize) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(id), &record[8..20]);
    crc32c::crc32c_append(crc, &record[24..HEADER + body])
}

fn damaged(why: String) -> StoreError {
    StoreError::Damaged(format!("the ring is damaged: {why}"))
}

fn io(error: io::Error) -> StoreError {
    of_io(&error)
}

/// A whole record that was found.
struct Found {
    place: Place,
    /// CRC of the one before it.
    before: u32,
    ahead: u64,
}

impl Found {
    fn at(at: u64, header: &[u8; HEADER]) -> Self {
        let bytes = whole(u32_at(header, 16) as usize);
        let (seq, crc) = (u64_at(header, 8), u32_at(header, 20));
        Self {
            place: Place { seq, crc, at, bytes },
            before: u32_at(header, 24),
            ahead: u64::from(u32_at(header, 28)),
        }
    }

    fn follows(&self, before: Applied) -> bool {
        self.place.seq == before.seq + 1 && self.before == before.crc
    }

    /// Whether it was written when the record of that number, and so something that was told, was durable.
    fn proves(&self, seq: u64) -> bool {
        self.place.seq > seq + self.ahead
    }
}

/// What may be the record behind that one, among records in the order of their numbers.
fn successors(found: &[Found], before: Applied) -> impl Iterator<Item = &Found> {
    let first = found.partition_point(|found| found.place.seq <= before.seq);
    let same = found[first..].iter();
    let same = same.take_while(move |found| found.place.seq == before.seq + 1);
    same.filter(move |found| found.follows(before))
}

/// Every whole record, in the order of their numbers; and the largest number of any, whole or damaged.
fn scan(disk: &impl Disk, len: u64, id: &[u8; 16]) -> io::Result<(Vec<Found>, u64)> {
    let (mut all, mut newest) = (Vec::new(), 0);
    let mut at = BLOCK;
    let mut header = [0; HEADER];
    while at < len {
        disk.read(at, &mut header)?;
        let bytes = whole(u32_at(&header, 16) as usize);
        if &header[..8] == RECORD_MAGIC {
            newest = newest.max(u64_at(&header, 8));
        }
        if &header[..8] == RECORD_MAGIC && at + bytes <= len && read(disk, at, id)?.is_some() {
            all.push(Found::at(at, &header));
        }
        // Block by block: what looks like a long record may be the left-over of one that others were written into.
        at += BLOCK;
    }
    all.sort_unstable_by_key(|found| found.place.seq);
    Ok((all, newest))
}

/// The body of the record there, if it is whole.
fn read(disk: &impl Disk, at: u64, id: &[u8; 16]) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; HEADER];
    disk.read(at, &mut header)?;
    let body = u32_at(&header, 16) as usize;
    let mut record = vec![0; HEADER + body];
    disk.read(at, &mut record)?;
    let sound = crc(id, &record, body) == u32_at(&header, 20);
    record.drain(..HEADER);
    Ok(sound.then_some(record))
}

/// What can still be had of a damaged ring: the bodies of its whole records behind `applied`, in order, whatever is missing between
/// them. `Err` when not one block can be read: then the disk fails, not the ring.
pub fn salvage(disk: &impl Disk, id: &[u8; 16], applied: Applied) -> io::Result<Vec<Vec<u8>>> {
    let (mut found, mut readable, mut failed) = (Vec::new(), false, None);
    let len = disk.len()? / BLOCK * BLOCK;
    let mut header = [0; HEADER];
    for at in (0..len).step_by(BLOCK as usize) {
        let whole_there = match disk.read(at, &mut header) {
            Ok(()) if &header[..8] == RECORD_MAGIC && at + whole(u32_at(&header, 16) as usize) <= len => {
                read(disk, at, id)
            }
            other => other.map(|()| None),
        };
        match whole_there {
            Ok(body) => {
                readable = true;
                found.extend(body.map(|body| (Found::at(at, &header), body)));
            }
            Err(error) => failed = Some(error),
        }
    }
    if let (false, Some(error)) = (readable, failed) {
        return Err(error);
    }
    found.sort_by_key(|(found, _)| found.place.seq);
    let numbers: Vec<_> = found
        .iter()
        .map(|(found, _)| (found.place.applied(), found.before))
        .collect();
    let named = |found: &Found| {
        let next = found.place.seq + 1;
        numbers
            .iter()
            .any(|(of, before)| of.seq == next && *before == found.place.crc)
    };
    let (mut newest, mut bodies) = (applied, Vec::new());
    for same in found.chunk_by_mut(|(a, _), (b, _)| a.place.seq == b.place.seq) {
        let seq = same.first().map_or(0, |(found, _)| found.place.seq);
        let chained = same.iter().position(|(found, _)| found.follows(newest));
        // Behind a gap nothing says which of two is the right one but a record behind them. Without a gap what does not follow is
        // left over from before a power cut.
        let behind_gap = || {
            same.iter()
                .position(|(found, _)| named(found))
                .unwrap_or(same.len() - 1)
        };
        let chosen = chained.or_else(|| (seq > newest.seq + 1).then(behind_gap));
        if let Some((found, body)) = chosen.and_then(|at| same.get_mut(at))
            && found.place.seq > applied.seq
        {
            newest = found.place.applied();
            bodies.push(std::mem::take(body));
        }
    }
    Ok(bodies)
}

/// Makes a ring with these records in an empty file.
pub fn create_with<D: Disk>(disk: D, id: [u8; 16], len: u64, bodies: &[Vec<u8>]) -> io::Result<()> {
    disk.extend(len)?;
    disk.write(0, MAGIC)?;
    disk.write(8, &id)?;
    let sizes = Sizes {
        ring_bytes_max: len,
        ..Sizes::default()
    };
    let ring = Ring::open(disk, id, Applied::default(), sizes, |_| Ok(true));
    let mut ring = ring.map_err(|error| io::Error::other(error.to_string()))?;
    for (number, body) in (0..).zip(bodies) {
        let mut record = Record::default();
        record.renew(body.len());
        record.body().extend_from_slice(body);
        let place = ring.assign(&mut record, number)?;
        write(&*ring.disk, place, &record)?;
    }
    ring.disk.sync()
}

fn u64_at(header: &[u8; HEADER], at: usize) -> u64 {
    header[at..].first_chunk().copied().map_or(0, u64::from_le_bytes)
}

fn u32_at(header: &[u8; HEADER], at: usize) -> u32 {
    header[at..].first_chunk().copied().map_or(0, u32::from_le_bytes)
}
