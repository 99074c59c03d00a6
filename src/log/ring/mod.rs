//! The ring: a write-ahead log under the database file, so that a durable commit is one sequential write and one sync.
//!
//! The database writes a commit as 7 or 8 pages scattered over its file and syncs them. Here these writes are held until the
//! sync, appended to the ring file as one *record*, and the ring is synced: the commit is durable. Only then the pages go to
//! the database file, unsynced. A *checkpoint* syncs that file; records before it are then free space.
//!
//! Invariants, which the crash tests below hold:
//! - the database file gets a small page only after a durable record holds it (so replay can mend any torn page of it);
//! - space of a record is reused only once a *durable* record says that it is checkpointed: else a torn write over it could
//!   leave a ring whose newest record still asks for it;
//! - a commit above `DIRECT_BYTES` writes its large extents to the database file first and syncs that, which is a checkpoint of
//!   everything before; the record with the remaining pages says so. Older records are then never replayed over them.
//!
//! Ring file: block 0 holds magic "HWRING01" and an id of 16 random bytes; then records, each at a multiple of 4,096 bytes,
//! never cut by the end of the file. The id goes into every CRC and is known to nobody outside: bytes that a peer sent and that
//! look like a record, left over in free space, are never taken for one. Little-endian:
//! ```text
//! 0  magic "HWRING01"   8  seq u64          16 checkpointed seq u64    24 database length u64
//! 32 extents u32        36 body bytes u32   40 CRC-32C u32 of the id and all of the record with this field 0     44 zero to 64
//! 64 extents: offset u64, length u32, stored u32; then the stored bytes of each (what is cut off its end is zeros)
//! ```
//! Recovery finds the record with the highest seq, and replays from the one after its checkpoint to it, in order.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use self::body::Body;
use self::recovery::{identify, replay, scan};
use super::disk::Disk;

mod body;
mod recovery;

/// Bytes of a new ring. A first lap writes into unwritten blocks and is slower; after that every commit is one run.
pub const RING_BYTES: u64 = 8 << 20;
/// What the ring is written in.
pub(super) const BLOCK: u64 = 4096;
const HEADER: usize = 64;
const EXTENT: usize = 16;
const MAGIC: &[u8; 8] = b"HWRING01";
/// Above so many bytes a commit's large extents bypass the ring: writing them twice would cost more than a second sync.
const DIRECT_BYTES: usize = 96 << 10;
/// What counts as large.
const LARGE_EXTENT_BYTES: usize = 8 << 10;

/// A database file with a ring before it.
pub struct Ringed<D> {
    file: Body<D>,
    ring: D,
    state: Mutex<State>,
    /// Every record up to here is in the database file, synced. Behind `State::durable` until a record says so.
    checkpointed: AtomicU64,
    /// Every record up to here has been written to the database file, if not synced.
    applied: AtomicU64,
}

struct State {
    /// Writes since the last sync, without overlaps.
    pending: BTreeMap<u64, Vec<u8>>,
    pending_bytes: usize,
    file_len: u64,
    ring_len: u64,
    id: [u8; 16],
    /// Seq of the newest record.
    seq: u64,
    /// What the newest record says is checkpointed.
    durable: u64,
    /// Where the next record goes, if it fits before the end.
    head: u64,
    /// Records that are not free space yet: seq, place, bytes.
    live: VecDeque<(u64, u64, u64)>,
    record: Vec<u8>,
}

impl<D> fmt::Debug for Ringed<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ringed")
    }
}

impl<D: Disk> Ringed<D> {
    /// Opens a database file with its ring, replaying what a crash left in it. An empty ring file is made ready with
    /// `ring_bytes` and `fresh_id`, which must be random; one that is there keeps its own.
    pub fn open(file: D, ring: D, ring_bytes: u64, fresh_id: [u8; 16]) -> io::Result<Self> {
        let id = identify(&ring, ring_bytes, fresh_id)?;
        let ring_len = ring.len()? / BLOCK * BLOCK;
        let records = scan(&ring, ring_len, &id)?;
        let file = Body::open(file, id, records.is_empty())?;
        let newest = records.values().next_back();
        let (seq, head) = newest.map_or((0, BLOCK), |r| (r.seq, r.at + r.bytes));
        if let Some(newest) = newest {
            replay(&file, &ring, &records, newest)?;
        }
        let state = State {
            pending: BTreeMap::new(),
            pending_bytes: 0,
            file_len: file.len()?,
            ring_len,
            id,
            seq,
            durable: newest.map_or(0, |r| r.checkpointed),
            head,
            // Until a record says that they are checkpointed, all that were replayed keep their place.
            live: newest
                .map(|n| {
                    records
                        .range(n.checkpointed + 1..)
                        .map(|(_, r)| (r.seq, r.at, r.bytes))
                        .collect()
                })
                .unwrap_or_default(),
            record: Vec::new(),
        };
        Ok(Self {
            file,
            ring,
            state: Mutex::new(state),
            checkpointed: AtomicU64::new(seq),
            applied: AtomicU64::new(seq),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // After a panic in the middle of a sync the store is reopened, and recovery decides.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write_direct(&self, state: &mut State, direct: impl Fn(u64, &[u8]) -> bool) -> io::Result<()> {
        let large: Vec<u64> = state
            .pending
            .iter()
            .filter(|(o, d)| direct(**o, d))
            .map(|(o, _)| *o)
            .collect();
        for offset in large {
            let data = state.pending.remove(&offset).unwrap_or_default();
            state.pending_bytes -= data.len();
            self.file.write(offset, &data)?;
        }
        Ok(())
    }

    /// A checkpoint, and a record that says so.
    fn checkpoint_now(&self, state: &mut State) -> io::Result<()> {
        self.checkpoint()?;
        if state.durable < state.seq {
            let held = std::mem::take(&mut state.pending);
            let appended = self.append(state);
            state.pending = held;
            appended?;
            // The mark itself needs no replay.
            self.applied.store(state.seq, Ordering::Release);
            self.checkpointed.store(state.seq, Ordering::Release);
        }
        Ok(())
    }

    /// Appends what is pending as one record and syncs the ring.
    fn append(&self, state: &mut State) -> io::Result<()> {
        state.encode();
        let bytes = state.record.len() as u64;
        if state.place(bytes).is_none() {
            // The ring is full of records that no durable record calls checkpointed. One block is always left for one that does.
            if self.checkpointed.load(Ordering::Acquire) < state.seq {
                self.file.sync()?;
                self.checkpointed.store(state.seq, Ordering::Release);
            }
            let held = std::mem::take(&mut state.record);
            let pending = std::mem::take(&mut state.pending);
            state.encode();
            let marked = self.put(state);
            state.pending = pending;
            state.record = held;
            marked?;
        }
        self.put(state)
    }

    /// Stamps the record, writes it at its place and syncs.
    fn put(&self, state: &mut State) -> io::Result<()> {
        let bytes = state.record.len() as u64;
        let at = state
            .place(bytes)
            .or_else(|| (bytes == BLOCK).then(|| state.reserve()))
            .ok_or_else(|| {
                io::Error::other(format!(
                    "a record of {bytes} bytes does not fit into a ring of {}",
                    state.ring_len
                ))
            })?;
        let (seq, checkpointed) = (state.seq + 1, self.checkpointed.load(Ordering::Acquire));
        state.stamp(seq, checkpointed);
        self.ring.write(at, &state.record)?;
        self.ring.sync()?;
        (state.seq, state.durable, state.head) = (seq, checkpointed, at + bytes);
        state.live.push_back((seq, at, bytes));
        while state.live.front().is_some_and(|(seq, ..)| *seq <= checkpointed) {
            state.live.pop_front();
        }
        Ok(())
    }
}

impl<D: Disk> Disk for Ringed<D> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().file_len)
    }

    /// Reads, seeing what is not synced yet.
    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let end = at.saturating_add(out.len() as u64);
        {
            let state = self.state();
            if let Some(whole) = state.pending.get(&at).filter(|data| data.len() >= out.len()) {
                out.copy_from_slice(&whole[..out.len()]);
                return Ok(());
            }
            let overlaps = state
                .pending
                .range(..end)
                .next_back()
                .is_some_and(|(o, d)| o + d.len() as u64 > at);
            if overlaps {
                self.file.read(at, out)?;
                for (offset, data) in state
                    .pending
                    .range(..end)
                    .rev()
                    .take_while(|(o, d)| *o + d.len() as u64 > at)
                {
                    let from = at.max(*offset);
                    let to = end.min(offset + data.len() as u64);
                    out[(from - at) as usize..(to - at) as usize]
                        .copy_from_slice(&data[(from - offset) as usize..(to - offset) as usize]);
                }
                return Ok(());
            }
        }
        self.file.read(at, out)
    }

    /// Holds a write until the next sync.
    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        if let Some(same) = state.pending.get_mut(&at).filter(|same| same.len() == data.len()) {
            same.copy_from_slice(data);
            return Ok(());
        }
        state.cut(at, at + data.len() as u64);
        state.pending_bytes += data.len();
        state.pending.insert(at, data.to_vec());
        Ok(())
    }

    /// Grows at once (with zeros, which no commit refers to yet), shrinks after a checkpoint.
    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        if len < state.file_len {
            state.cut(len, u64::MAX);
            self.checkpoint_now(&mut state)?;
        }
        self.file.set_len(len)?;
        state.file_len = len;
        Ok(())
    }

    /// Makes every write before it durable.
    fn sync(&self) -> io::Result<()> {
        let mut guard = self.state();
        let state = &mut *guard;
        if state.pending.is_empty() {
            return Ok(());
        }
        let most = (state.ring_len / 4) as usize;
        if state.pending_bytes > DIRECT_BYTES {
            self.write_direct(state, |offset, data| {
                offset >= BLOCK && data.len() >= LARGE_EXTENT_BYTES
            })?;
            if state.pending_bytes + state.pending.len() * EXTENT + HEADER > most {
                // A huge transaction of small pages: all but the header page, which alone is overwritten in place.
                self.write_direct(state, |offset, _| offset >= BLOCK)?;
            }
            self.file.sync()?;
            self.checkpointed.store(state.seq, Ordering::Release);
        }
        self.append(state)?;
        for (offset, data) in std::mem::take(&mut state.pending) {
            self.file.write(offset, &data)?;
        }
        state.pending_bytes = 0;
        self.applied.store(state.seq, Ordering::Release);
        Ok(())
    }

    /// Whether half of the ring waits for a checkpoint.
    fn checkpoint_due(&self) -> bool {
        let state = self.state();
        let checkpointed = self.checkpointed.load(Ordering::Acquire);
        let waiting: u64 = state
            .live
            .iter()
            .filter(|(seq, ..)| *seq > checkpointed)
            .map(|(.., bytes)| bytes)
            .sum();
        waiting > state.ring_len / 2
    }

    /// Syncs the database file beside commits: for a thread other than the writer's.
    fn checkpoint(&self) -> io::Result<()> {
        let applied = self.applied.load(Ordering::Acquire);
        self.file.sync()?;
        self.checkpointed.fetch_max(applied, Ordering::AcqRel);
        Ok(())
    }

    /// Syncs the database file and says so in the ring: nothing is left to replay.
    fn close(&self) -> io::Result<()> {
        self.sync()?;
        self.checkpoint_now(&mut self.state())
    }
}

impl State {
    /// Removes what is pending in a range, keeping what sticks out on either side.
    fn cut(&mut self, from: u64, to: u64) {
        let hit: Vec<u64> = self
            .pending
            .range(..to)
            .rev()
            .take_while(|(o, d)| **o + d.len() as u64 > from)
            .map(|(o, _)| *o)
            .collect();
        for offset in hit {
            let data = self.pending.remove(&offset).unwrap_or_default();
            self.pending_bytes -= data.len();
            let end = offset + data.len() as u64;
            if offset < from {
                let left = data[..(from - offset) as usize].to_vec();
                self.pending_bytes += left.len();
                self.pending.insert(offset, left);
            }
            if end > to {
                let right = data[(to - offset) as usize..].to_vec();
                self.pending_bytes += right.len();
                self.pending.insert(to, right);
            }
        }
    }

    /// Where a record of `bytes` can go without touching a live one, a block kept in reserve for a checkpoint mark.
    fn place(&self, bytes: u64) -> Option<u64> {
        let needed = bytes + BLOCK;
        let Some((_, tail, _)) = self.live.front() else {
            let at = if self.head + needed <= self.ring_len {
                self.head
            } else {
                BLOCK
            };
            return (at + needed <= self.ring_len).then_some(at);
        };
        if self.head > *tail {
            if self.head + needed <= self.ring_len {
                Some(self.head)
            } else {
                (BLOCK + needed <= *tail).then_some(BLOCK)
            }
        } else {
            (self.head + needed <= *tail).then_some(self.head)
        }
    }

    /// The block that `place` keeps free.
    fn reserve(&self) -> u64 {
        if self.head + BLOCK <= self.ring_len {
            self.head
        } else {
            BLOCK
        }
    }

    fn encode(&mut self) {
        let record = &mut self.record;
        record.clear();
        record.resize(HEADER + self.pending.len() * EXTENT, 0);
        for (i, (offset, data)) in self.pending.iter().enumerate() {
            // Fresh pages end in zeros: cut in words, which is quick.
            let zeros = data.rchunks_exact(8).take_while(|word| **word == [0; 8]).count() * 8;
            let stored = data.len() - zeros;
            let entry = &mut record[HEADER + i * EXTENT..][..EXTENT];
            entry[..8].copy_from_slice(&offset.to_le_bytes());
            entry[8..12].copy_from_slice(&(data.len() as u32).to_le_bytes());
            entry[12..].copy_from_slice(&(stored as u32).to_le_bytes());
            record.extend_from_slice(&data[..stored]);
        }
        let body = record.len() - HEADER;
        record[32..36].copy_from_slice(&(self.pending.len() as u32).to_le_bytes());
        record[36..40].copy_from_slice(&(body as u32).to_le_bytes());
        record.resize(record.len().next_multiple_of(BLOCK as usize), 0);
    }

    fn stamp(&mut self, seq: u64, checkpointed: u64) {
        let record = &mut self.record;
        record[..8].copy_from_slice(MAGIC);
        record[8..16].copy_from_slice(&seq.to_le_bytes());
        record[16..24].copy_from_slice(&checkpointed.to_le_bytes());
        record[24..32].copy_from_slice(&self.file_len.to_le_bytes());
        record[40..44].fill(0);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&self.id), record);
        record[40..44].copy_from_slice(&crc.to_le_bytes());
    }
}
