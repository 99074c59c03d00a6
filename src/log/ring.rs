//! The ring: a file, written round and round, that makes a commit durable with one sequential write and one sync.
//! What a record holds is the business of `ringed`; here it is bytes with a number.
//!
//! Block 0 holds magic "HWRING01" and an id of 16 random bytes. Records follow, each at a multiple of 4,096 bytes, never cut by
//! the end of the file. The id goes into every CRC and is known to nobody outside: bytes that a peer sent and that look like a
//! record, left over in free space, are never taken for one. Little-endian:
//! ```text
//! 0  magic "HWRECORD"   8  seq u64   16 body bytes u32   20 CRC-32C u32 of the id, seq, length and body   24 body, zeros to the block's end
//! ```
//! Invariants, which the crash tests hold:
//! - a record is written only once the one before it is durable, so that only the newest can be torn;
//! - its space is used again only once the caller has said (`free`) that its content is durable elsewhere.

use std::collections::VecDeque;
use std::io;

use super::disk::Disk;

/// Bytes of a new ring. A first lap writes into unwritten blocks and is slower; after that every commit is one run.
pub const RING_BYTES: u64 = 8 << 20;
/// A ring grows up to this where the database does not keep up for a moment.
pub const RING_BYTES_MAX: u64 = 32 << 20;
/// What the ring is written in.
pub(super) const BLOCK: u64 = 4096;
/// Bytes of a record before its body.
pub(super) const HEADER: usize = 24;
const MAGIC: &[u8; 8] = b"HWRING01";
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
        self.bytes.clear();
        self.bytes.reserve(whole(body_bytes) as usize + BLOCK as usize);
        // Where the place cannot be told the disk takes the long way.
        let begins = self.bytes.as_ptr().align_offset(BLOCK as usize);
        self.begins = if begins < BLOCK as usize { begins } else { 0 };
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

    /// Fills in the header and pads it; gives what is to be written.
    fn finish(&mut self, id: &[u8; 16], seq: u64) -> &[u8] {
        let body = self.bytes.len() - self.begins - HEADER;
        self.bytes.resize(self.begins + whole(body) as usize, 0);
        let record = &mut self.bytes[self.begins..];
        record[..8].copy_from_slice(RECORD_MAGIC);
        record[8..16].copy_from_slice(&seq.to_le_bytes());
        record[16..20].copy_from_slice(&(body as u32).to_le_bytes());
        let crc = crc(id, &record[8..20], &record[HEADER..HEADER + body]);
        record[20..24].copy_from_slice(&crc.to_le_bytes());
        record
    }
}

/// An open ring. One at a time writes to it.
#[derive(Debug)]
pub struct Ring<D> {
    disk: D,
    id: [u8; 16],
    len: u64,
    len_max: u64,
    /// Where the next record goes, if it fits before the end.
    head: u64,
    /// Records that are not free space yet: seq, place, bytes.
    live: VecDeque<(u64, u64, u64)>,
    seq: u64,
}

impl<D: Disk> Ring<D> {
    /// Makes a ring in an empty file. The id must be random.
    pub fn create(disk: D, id: [u8; 16], len: u64) -> io::Result<()> {
        disk.extend(len)?;
        disk.write(0, MAGIC)?;
        disk.write(8, &id)?;
        disk.sync()
    }

    /// Opens a ring whose records up to `freed` are durable elsewhere, and that may grow to `len_max`; gives the bodies of those
    /// behind it, in order. A hole among them is damage: each was durable before the next was written.
    pub fn open(disk: D, id: [u8; 16], freed: u64, len_max: u64) -> io::Result<(Self, Vec<Vec<u8>>)> {
        let mut first = [0; HEADER];
        disk.read(0, &mut first)?;
        if &first[..8] != MAGIC || first[8..] != id {
            return Err(damaged("it is not the ring of this database".into()));
        }
        let len = disk.len()? / BLOCK * BLOCK;
        let mut places = scan(&disk, len, &id)?;
        places.sort_unstable();
        let (seq, head) = places
            .last()
            .map_or((freed, BLOCK), |(seq, at, bytes)| (*seq, at + bytes));
        let mut ring = Self {
            disk,
            id,
            len,
            len_max,
            head,
            live: VecDeque::new(),
            seq: seq.max(freed),
        };
        let mut found = Vec::new();
        for (seq, at, bytes) in places.into_iter().filter(|(seq, ..)| *seq > freed) {
            let expected = freed + 1 + found.len() as u64;
            if seq != expected {
                return Err(damaged(format!(
                    "its record {expected} is damaged; {} is the newest",
                    ring.seq
                )));
            }
            let body = read(&ring.disk, at, &ring.id)?.ok_or_else(|| damaged(format!("its record {seq} changed")))?;
            found.push(body);
            ring.live.push_back((seq, at, bytes));
        }
        if !found.is_empty() {
            // The newest may have been written and not synced; whoever reads it takes it for durable.
            ring.disk.sync()?;
        }
        Ok((ring, found))
    }

    /// Largest body that is taken.
    pub fn body_bytes_max(&self) -> usize {
        (self.len / 4) as usize - HEADER
    }

    /// Whether a record with such a body has room now.
    pub fn has_room(&self, body_bytes: usize) -> bool {
        self.place(whole(body_bytes)).is_some()
    }

    /// Makes the ring longer if it can be, so that more has room behind the newest record; false if it cannot, because of its bound
    /// or because the disk has no space for it: then what is there goes round.
    pub fn grow(&mut self) -> bool {
        let wrapped = self.live.front().is_some_and(|(_, tail, _)| self.head <= *tail);
        if wrapped || self.len * 2 > self.len_max {
            return false;
        }
        let grown = self.disk.extend(self.len * 2).is_ok();
        if grown {
            self.len *= 2;
        }
        grown
    }

    /// Number of the newest record.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Writes a record and makes it durable; gives its number and the bytes that it takes. There must be room.
    pub fn append(&mut self, record: &mut Record) -> io::Result<(u64, u64)> {
        let seq = self.seq + 1;
        let record = record.finish(&self.id, seq);
        let bytes = record.len() as u64;
        let Some(at) = self.place(bytes) else {
            return Err(io::Error::other(format!(
                "a record of {bytes} bytes has no room in the ring"
            )));
        };
        self.disk.write_synced(at, record)?;
        self.seq = seq;
        self.head = at + bytes;
        self.live.push_back((seq, at, bytes));
        Ok((seq, bytes))
    }

    /// Records up to this one are durable elsewhere.
    pub fn free(&mut self, seq: u64) {
        while self.live.pop_front_if(|(number, ..)| *number <= seq).is_some() {}
    }

    /// Where a record of `bytes` can go without touching one that is live.
    fn place(&self, bytes: u64) -> Option<u64> {
        let Some((_, tail, _)) = self.live.front() else {
            let at = if self.head + bytes <= self.len {
                self.head
            } else {
                BLOCK
            };
            return (at + bytes <= self.len).then_some(at);
        };
        if self.head > *tail {
            if self.head + bytes <= self.len {
                Some(self.head)
            } else {
                (BLOCK + bytes <= *tail).then_some(BLOCK)
            }
        } else {
            (self.head + bytes <= *tail).then_some(self.head)
        }
    }
}

/// Bytes that a record takes.
fn whole(body_bytes: usize) -> u64 {
    ((HEADER + body_bytes) as u64).next_multiple_of(BLOCK)
}

fn crc(id: &[u8; 16], head: &[u8], body: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(id), head);
    crc32c::crc32c_append(crc, body)
}

fn damaged(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the ring is damaged: {why}"))
}

/// Number, place and bytes of every whole record.
fn scan(disk: &impl Disk, len: u64, id: &[u8; 16]) -> io::Result<Vec<(u64, u64, u64)>> {
    let mut places = Vec::new();
    let mut at = BLOCK;
    let mut header = [0; HEADER];
    while at < len {
        disk.read(at, &mut header)?;
        let body = u64::from(u32_at(&header, 16));
        if &header[..8] == RECORD_MAGIC && at + whole(body as usize) <= len && read(disk, at, id)?.is_some() {
            places.push((u64_at(&header, 8), at, whole(body as usize)));
        }
        // Block by block: what looks like a long record may be the left-over of one that others were written into.
        at += BLOCK;
    }
    Ok(places)
}

/// The body of the record there, if it is whole.
fn read(disk: &impl Disk, at: u64, id: &[u8; 16]) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; HEADER];
    disk.read(at, &mut header)?;
    let mut body = vec![0; u32_at(&header, 16) as usize];
    disk.read(at + HEADER as u64, &mut body)?;
    let sound = crc(id, &header[8..20], &body) == u32_at(&header, 20);
    Ok(sound.then_some(body))
}

fn u64_at(header: &[u8; HEADER], at: usize) -> u64 {
    header[at..].first_chunk().copied().map_or(0, u64::from_le_bytes)
}

fn u32_at(header: &[u8; HEADER], at: usize) -> u32 {
    header[at..].first_chunk().copied().map_or(0, u32::from_le_bytes)
}
