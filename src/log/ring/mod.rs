//! The ring: a write-ahead log under the database file, so that a durable commit is one sequential write and one sync.
//!
//! The database writes a commit as 7 or 8 pages scattered over its file and syncs them. Here these writes are held until the
//! sync, appended to the ring file as one *record*, and the ring is synced: the commit is durable. Its pages stay in memory, where
//! the next commits overwrite many of them; a *checkpoint*, on another thread, writes them to the database file and syncs it.
//! Records before it are then free space.
//!
//! Invariants, which the crash tests hold:
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

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::body::Body;
use self::extents::Extents;
use self::record::{Track, encode, stamp};
use self::recovery::{identify, replay, scan};
use super::disk::Disk;

mod body;
mod extents;
mod record;
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
/// A checkpoint is due when so much waits in memory.
const HELD_BYTES: usize = 2 << 20;
/// A larger buffer for records is not kept.
const RECORD_BYTES_KEPT: usize = 256 << 10;

/// A database file with a ring before it. Reads and checkpoints come from any thread, everything else from one at a time.
#[derive(Debug)]
pub struct Ringed<D> {
    file: Body<D>,
    ring: D,
    id: [u8; 16],
    state: Mutex<State>,
    /// Held during a checkpoint. Taken before `state`, never after.
    checkpointing: Mutex<()>,
}

#[derive(Debug)]
struct State {
    /// Writes since the last sync.
    pending: Extents,
    /// Writes that are durable in the ring, and are in the database file after the next checkpoint.
    held: Extents,
    /// Writes that a checkpoint is putting into the database file.
    flushing: Arc<Extents>,
    file_len: u64,
    track: Track,
    /// Seq of the newest record.
    seq: u64,
    /// Every record up to here is in the database file, synced.
    checkpointed: u64,
    /// What the newest record says of that.
    checkpointed_durable: u64,
    record: Vec<u8>,
}

impl<D: Disk> Ringed<D> {
    /// Opens a database file with its ring, replaying what a crash left in it. An empty ring file is made ready with
    /// `ring_bytes` and `fresh_id`, which must be random; one that is there keeps its own.
    pub fn open(file: D, ring: D, ring_bytes: u64, fresh_id: [u8; 16]) -> io::Result<Self> {
        let id = identify(&ring, ring_bytes, fresh_id)?;
        let len = ring.len()? / BLOCK * BLOCK;
        let records = scan(&ring, len, &id)?;
        let file = Body::open(file, id, records.is_empty())?;
        let newest = records.values().next_back();
        if let Some(newest) = newest {
            replay(&file, &ring, &records, newest)?;
        }
        let (seq, head) = newest.map_or((0, BLOCK), |r| (r.seq, r.at + r.bytes));
        let checkpointed_durable = newest.map_or(0, |r| r.checkpointed);
        // Until a record says that they are checkpointed, all that were replayed keep their place.
        let live = records.range(checkpointed_durable + 1..);
        let live = live.map(|(_, r)| (r.seq, r.at, r.bytes)).collect();
        let state = State {
            pending: Extents::default(),
            held: Extents::default(),
            flushing: Arc::default(),
            file_len: file.len()?,
            track: Track { len, head, live },
            seq,
            checkpointed: seq,
            checkpointed_durable,
            record: Vec::new(),
        };
        Ok(Self {
            file,
            ring,
            id,
            state: Mutex::new(state),
            checkpointing: Mutex::new(()),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // After a panic the store is opened anew, and recovery decides.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is held, then `direct`, to the database file and syncs it.
    fn checkpoint_with(&self, direct: &Extents) -> io::Result<()> {
        let _one = self.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        let (seq, flushing) = {
            let mut state = self.state();
            if !state.flushing.is_empty() {
                return Err(io::Error::other("an earlier checkpoint failed"));
            }
            state.flushing = Arc::new(std::mem::take(&mut state.held));
            (state.seq, Arc::clone(&state.flushing))
        };
        for (at, data) in flushing.iter().chain(direct.iter()) {
            self.file.write(at, data)?;
        }
        self.file.sync()?;
        let mut state = self.state();
        state.flushing = Arc::default();
        state.checkpointed = state.checkpointed.max(seq);
        Ok(())
    }

    /// The large extents of a large commit, and all that waits for a checkpoint, go to the database file.
    fn write_direct(&self) -> io::Result<()> {
        let direct = {
            let mut state = self.state();
            if state.pending.bytes() <= DIRECT_BYTES {
                return Ok(());
            }
            let large = |at: u64, data: &[u8]| at >= BLOCK && data.len() >= LARGE_EXTENT_BYTES;
            let mut direct = state.pending.take(large);
            let rest = state.pending.bytes() + state.pending.len() * EXTENT + HEADER;
            if rest > (state.track.len / 4) as usize {
                // A huge transaction of small pages: all but the header page, which alone is overwritten in place.
                direct.merge(state.pending.take(|at, _| at >= BLOCK));
            }
            direct
        };
        self.checkpoint_with(&direct)
    }

    /// Appends what is pending as one record and syncs the ring.
    fn append(&self) -> io::Result<()> {
        let mut record = std::mem::take(&mut self.state().record);
        let fits = {
            let state = self.state();
            encode(&state.pending, &mut record);
            state.track.place(record.len() as u64).is_some()
        };
        if !fits {
            // The ring is full of records that no durable record calls checkpointed. One block is always left for one that does.
            self.checkpoint()?;
            self.mark()?;
        }
        self.put(record, true)
    }

    /// Appends a record without extents: it says what is checkpointed.
    fn mark(&self) -> io::Result<()> {
        {
            let state = self.state();
            if state.checkpointed_durable >= state.seq {
                return Ok(());
            }
        }
        let mut record = Vec::new();
        encode(&Extents::default(), &mut record);
        self.put(record, false)?;
        // The mark itself needs no replay.
        let mut state = self.state();
        if state.held.is_empty() && state.flushing.is_empty() {
            state.checkpointed = state.seq;
        }
        Ok(())
    }

    /// Stamps a record, writes it at its place and syncs. The lock is free meanwhile: readers do not wait for the disk.
    fn put(&self, mut record: Vec<u8>, of_pending: bool) -> io::Result<()> {
        let bytes = record.len() as u64;
        let (at, seq, checkpointed) = {
            let state = self.state();
            let reserve = || (bytes == BLOCK).then(|| state.track.reserve());
            let Some(at) = state.track.place(bytes).or_else(reserve) else {
                let len = state.track.len;
                let why = format!("a record of {bytes} bytes does not fit into a ring of {len}");
                return Err(io::Error::other(why));
            };
            let (seq, checkpointed) = (state.seq + 1, state.checkpointed);
            stamp(&mut record, &self.id, seq, checkpointed, state.file_len);
            (at, seq, checkpointed)
        };
        self.ring.write(at, &record)?;
        self.ring.sync()?;
        let mut state = self.state();
        state.track.add(seq, at, bytes, checkpointed);
        (state.seq, state.checkpointed_durable) = (seq, checkpointed);
        if of_pending {
            // Together with its seq: a checkpoint takes both or none.
            let durable = std::mem::take(&mut state.pending);
            state.held.merge(durable);
        }
        if record.capacity() <= RECORD_BYTES_KEPT {
            state.record = record;
        }
        Ok(())
    }
}

impl<D: Disk> Disk for Ringed<D> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().file_len)
    }

    /// Reads, seeing what is not in the file yet.
    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let end = at.saturating_add(out.len() as u64);
        {
            let state = self.state();
            let layers = [&*state.flushing, &state.held, &state.pending];
            let whole = layers.iter().rposition(|layer| layer.read_whole(at, out));
            if whole.is_some() || layers.iter().any(|layer| layer.touches(at, end)) {
                if whole.is_none() {
                    self.file.read(at, out)?;
                }
                for newer in &layers[whole.map_or(0, |i| i + 1)..] {
                    newer.overlay(at, out);
                }
                return Ok(());
            }
        }
        self.file.read(at, out)
    }

    /// Holds a write until the next sync.
    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.state().pending.write(at, data);
        Ok(())
    }

    /// Grows at once (with zeros, which no commit refers to yet), shrinks after a checkpoint.
    fn set_len(&self, len: u64) -> io::Result<()> {
        let shrinks = {
            let mut state = self.state();
            state.pending.cut(len, u64::MAX);
            len < state.file_len
        };
        if shrinks {
            self.checkpoint()?;
            self.mark()?;
        }
        self.file.set_len(len)?;
        self.state().file_len = len;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if self.state().pending.is_empty() {
            return Ok(());
        }
        self.write_direct()?;
        self.append()
    }

    /// Whether half of the ring waits for a checkpoint, or much memory does.
    fn checkpoint_due(&self) -> bool {
        let state = self.state();
        state.held.bytes() > HELD_BYTES || state.track.bytes_after(state.checkpointed) > state.track.len / 2
    }

    fn checkpoint(&self) -> io::Result<()> {
        self.checkpoint_with(&Extents::default())
    }

    /// A checkpoint, and a record that says so: nothing is left to replay.
    fn close(&self) -> io::Result<()> {
        self.sync()?;
        self.checkpoint()?;
        self.mark()
    }
}
