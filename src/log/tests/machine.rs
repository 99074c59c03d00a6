//! A machine that loses power: files whose unsynced writes survive by halves, sector by sector, in any order; and random commits for
//! its store.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::log::disk::Disk;
use crate::log::profile::Sizes;
use crate::log::redb::RedbStore;
use crate::log::ring::{BLOCK, Ring};
use crate::log::ring_row::new_ring;
use crate::log::ringed::RingedStore;
use crate::log::shelf::Shelf;
use crate::log::store::{Change, Map, Op, Store, StoreError};

const SECTOR: usize = 512;
/// Small, so that it wraps often: a record is at most a quarter.
pub(super) const RING: u64 = 256 << 10;
const ID: [u8; 16] = [7; 16];

/// One file on a disk that counts down to a power cut.
#[derive(Clone, Debug)]
pub(super) struct Plate(pub(super) Arc<Mutex<Platter>>, Arc<Mutex<Power>>);

#[derive(Default, Debug)]
pub(super) struct Platter {
    durable: Vec<u8>,
    pub(super) seen: Vec<u8>,
    /// Sectors written since the last sync, in order.
    unsynced: Vec<(usize, Vec<u8>)>,
    /// It does not grow.
    full: bool,
    /// Its blocks are bad: nothing is written to it any more.
    pub(super) bad: bool,
    /// It says that it synced and did not.
    pub(super) lies: bool,
}

#[derive(Debug)]
pub(super) struct Power {
    operations_left: u64,
    rng: fastrand::Rng,
}

impl Power {
    fn operate(&mut self) -> io::Result<()> {
        if self.operations_left == 0 {
            return Err(io::Error::other("power is out"));
        }
        self.operations_left -= 1;
        Ok(())
    }
}

impl Plate {
    fn operate(&self) -> io::Result<()> {
        self.1.lock().unwrap().operate()
    }

    /// What a machine holds whose process is gone: what was written is seen, on the disk or not. Gives whether any is not.
    pub(super) fn after_kill(&self) -> bool {
        let mut platter = self.0.lock().unwrap();
        let Platter { durable, seen, .. } = &*platter;
        let sectors = seen.chunks(SECTOR).enumerate().map(|(i, sector)| (i * SECTOR, sector));
        let unsynced: Vec<_> = sectors
            .filter(|(at, sector)| durable.get(*at..at + sector.len()) != Some(*sector))
            .map(|(at, sector)| (at, sector.to_vec()))
            .collect();
        platter.unsynced = unsynced;
        !platter.unsynced.is_empty()
    }

    pub(super) fn set_full(&self, full: bool) {
        self.0.lock().unwrap().full = full;
    }

    /// What a machine finds after the cut: the synced bytes, and any of the sectors written since.
    pub(super) fn after_cut(&self, power: &Arc<Mutex<Power>>) -> Plate {
        let platter = self.0.lock().unwrap();
        let mut bytes = platter.durable.clone();
        // The length may or may not have reached the disk.
        if power.lock().unwrap().rng.bool() {
            bytes.resize(bytes.len().max(platter.seen.len()), 0);
        }
        for (at, sector) in &platter.unsynced {
            if power.lock().unwrap().rng.bool() {
                bytes.resize(bytes.len().max(at + sector.len()), 0);
                bytes[*at..at + sector.len()].copy_from_slice(sector);
            }
        }
        let platter = Platter {
            durable: bytes.clone(),
            seen: bytes,
            ..Platter::default()
        };
        Plate(Arc::new(Mutex::new(platter)), Arc::clone(power))
    }
}

impl Platter {
    fn room_for(&self, len: usize) -> io::Result<()> {
        match self.full && len > self.seen.len() {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

impl Disk for Plate {
    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.0.lock().unwrap();
        let from = platter
            .seen
            .get(at as usize..at as usize + out.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(from);
        Ok(())
    }
    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let mut cut = self.operate();
        let mut platter = self.0.lock().unwrap();
        if platter.bad {
            return Err(io::Error::from_raw_os_error(5));
        }
        let at = at as usize;
        let len = platter.seen.len().max(at + data.len());
        platter.room_for(len)?;
        platter.seen.resize(len, 0);
        platter.seen[at..at + data.len()].copy_from_slice(data);
        for (i, sector) in data.chunks(SECTOR).enumerate() {
            // A cut in the middle of a write leaves some of its sectors.
            if cut.is_ok() || self.1.lock().unwrap().rng.bool() {
                platter.unsynced.push((at + i * SECTOR, sector.to_vec()));
            }
        }
        std::mem::replace(&mut cut, Ok(()))
    }
    fn sync(&self) -> io::Result<()> {
        self.operate()?;
        let mut platter = self.0.lock().unwrap();
        if platter.lies {
            return Ok(());
        }
        let Platter {
            durable,
            seen,
            unsynced,
            ..
        } = &mut *platter;
        durable.resize(seen.len(), 0);
        for (at, sector) in unsynced.drain(..) {
            durable[at..at + sector.len()].copy_from_slice(&seen[at..at + sector.len()]);
        }
        Ok(())
    }
    fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        assert!(at.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK) && len > 0);
        let mut platter = self.0.lock().unwrap();
        let (at, len) = (at as usize, len as usize);
        platter.seen[at..at + len].fill(0);
        let sectors = (at..at + len).step_by(SECTOR).map(|at| (at, vec![0; SECTOR]));
        platter.unsynced.extend(sectors);
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().seen.len() as u64)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.operate()?;
        let mut platter = self.0.lock().unwrap();
        platter.room_for(len as usize)?;
        platter.seen.resize(len as usize, 0);
        platter
            .unsynced
            .retain(|(at, sector)| at + sector.len() <= len as usize);
        Ok(())
    }
}

/// A shelf of such files. What is removed may be back after a cut.
#[derive(Clone, Debug)]
pub(super) struct Plates(pub(super) Arc<Mutex<BTreeMap<u32, (Plate, bool)>>>, Arc<Mutex<Power>>);

impl Plates {
    pub(super) fn after_cut(&self, power: &Arc<Mutex<Power>>) -> Plates {
        let mut files = BTreeMap::new();
        for (number, (plate, removed)) in &*self.0.lock().unwrap() {
            if !removed || power.lock().unwrap().rng.bool() {
                files.insert(*number, (plate.after_cut(power), false));
            }
        }
        Plates(Arc::new(Mutex::new(files)), Arc::clone(power))
    }

    pub(super) fn after_kill(&self) {
        for (plate, _) in self.0.lock().unwrap().values() {
            plate.after_kill();
        }
    }
}

impl Shelf for Plates {
    type File = Plate;

    fn numbers(&self) -> io::Result<Vec<u32>> {
        let files = self.0.lock().unwrap();
        let there = files.iter().filter(|(_, (_, removed))| !removed);
        Ok(there.map(|(number, _)| *number).collect())
    }
    fn create(&self, number: u32) -> io::Result<Plate> {
        self.1.lock().unwrap().operate()?;
        let plate = Plate(Arc::default(), Arc::clone(&self.1));
        self.0.lock().unwrap().insert(number, (plate.clone(), false));
        Ok(plate)
    }
    fn open(&self, number: u32) -> io::Result<Plate> {
        match self.0.lock().unwrap().get(&number) {
            Some((plate, false)) => Ok(plate.clone()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
    fn remove(&self, number: u32) -> io::Result<()> {
        self.1.lock().unwrap().operate()?;
        let mut files = self.0.lock().unwrap();
        let (_, removed) = files.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
        *removed = true;
        Ok(())
    }
}

/// Everything of a store that survives its process.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) file: Plate,
    pub(super) ring: Plate,
    pub(super) shelf: Plates,
    pub(super) power: Arc<Mutex<Power>>,
    /// `Sizes::once_bytes`: by default no commit writes its bodies itself.
    pub(super) once_bytes: usize,
    /// `Sizes::ready_bytes`
    pub(super) ready_bytes: u64,
    /// `Sizes::align_bytes`
    pub(super) align_bytes: u64,
}

impl Machine {
    pub(super) fn new(seed: u64) -> Self {
        let power = Arc::new(Mutex::new(Power {
            operations_left: u64::MAX,
            rng: fastrand::Rng::with_seed(seed),
        }));
        let empty = || Plate(Arc::default(), Arc::clone(&power));
        let (file, ring) = (empty(), empty());
        RedbStore::open(file.clone(), 1 << 20, false)
            .unwrap()
            .commit(&new_ring(ID))
            .unwrap();
        Ring::create(ring.clone(), ID, RING).unwrap();
        let shelf = Plates(Arc::default(), Arc::clone(&power));
        Self {
            file,
            ring,
            shelf,
            power,
            once_bytes: usize::MAX,
            ready_bytes: 0,
            align_bytes: BLOCK,
        }
    }

    pub(super) fn open(&self) -> Result<Opened, StoreError> {
        // The ring grows once, and goes round and round after that; a data file is full soon.
        let sizes = Sizes {
            ring_bytes_max: 2 * RING,
            file_bytes: 60_000,
            once_bytes: self.once_bytes,
            ready_bytes: self.ready_bytes,
            align_bytes: self.align_bytes,
            ..Sizes::default()
        };
        let database = RedbStore::open(self.file.clone(), 1 << 20, false)?;
        RingedStore::open(database, self.ring.clone(), self.shelf.clone(), sizes)
    }

    pub(super) fn set_operations_left(&self, operations: u64) {
        self.power.lock().unwrap().operations_left = operations;
    }

    pub(super) fn after_cut(&self) -> Self {
        Self {
            file: self.file.after_cut(&self.power),
            ring: self.ring.after_cut(&self.power),
            shelf: self.shelf.after_cut(&self.power),
            power: Arc::clone(&self.power),
            ..*self
        }
    }
}

/// Values and bodies.
pub(super) type Model = BTreeMap<(Map, Vec<u8>), (Vec<u8>, Vec<u8>)>;
pub(super) type Opened = RingedStore<RedbStore, Plate, Plates>;

pub(super) const MAPS: [Map; 4] = [Map::Topics, Map::Producers, Map::Journal, Map::Segments];

/// Operations on few keys; on keys that were never there where there are bodies.
#[derive(Default)]
pub(super) struct Random {
    key_next: u16,
}

impl Random {
    pub(super) fn ops(&mut self, rng: &mut fastrand::Rng) -> Vec<Op> {
        (0..rng.usize(1..8)).map(|_| self.op(rng)).collect()
    }

    fn op(&mut self, rng: &mut fastrand::Rng) -> Op {
        let map = MAPS[rng.usize(..MAPS.len())];
        if !map.has_bodies() {
            let key = |rng: &mut fastrand::Rng| vec![rng.u8(..24), rng.u8(..4)];
            let change = match rng.u8(..10) {
                0 => Change::DeleteUntil(key(rng)),
                1 | 2 => Change::Delete,
                _ => Change::Put(vec![vec![rng.u8(..); rng.usize(..3000)].into(), vec![1].into()]),
            };
            return Op {
                map,
                key: key(rng),
                change,
            };
        }
        let old = self.key_next.saturating_sub(rng.u16(..20));
        match rng.u8(..10) {
            0 => {
                // A few of them, or all that are old.
                let (from, until) = match rng.bool() {
                    true => (old, old + rng.u16(..6)),
                    false => (0, self.key_next.saturating_sub(20)),
                };
                let change = Change::DeleteUntil(until.to_be_bytes().into());
                let key = from.to_be_bytes().into();
                Op { map, key, change }
            }
            1..4 => Op::delete(map, old.to_be_bytes()),
            what => {
                self.key_next += 1;
                // Now and then one that goes past the ring, or to a data file at once.
                let bytes = if what == 9 && rng.u8(..20) == 0 {
                    80_000
                } else {
                    rng.usize(..3000)
                };
                let body = vec![vec![rng.u8(..); bytes].into(), Bytes::from_static(b"end")];
                Op::put_long(map, self.key_next.to_be_bytes(), vec![rng.u8(..); 9], body)
            }
        }
    }
}

pub(super) fn apply(model: &mut Model, ops: &[Op]) {
    for op in ops {
        let place = (op.map, op.key.clone());
        match &op.change {
            Change::Put(slices) => drop(model.insert(place, (slices.concat(), Vec::new()))),
            Change::PutLong { head, body } => drop(model.insert(place, (head.to_vec(), body.concat()))),
            Change::Delete => drop(model.remove(&place)),
            Change::DeleteUntil(until) => {
                model.retain(|(map, key), _| *map != op.map || *key < op.key || key >= until);
            }
        }
    }
}

/// What is in a store; `model` says how long the bodies are.
pub(super) fn content(store: &dyn Store, model: &Model) -> Model {
    let mut found = Model::new();
    for map in MAPS {
        let each = &mut |key: &[u8], value: &[u8]| {
            let none = found.insert((map, key.to_vec()), (value.to_vec(), Vec::new()));
            assert!(none.is_none());
            Ok(true)
        };
        store.scan(map, &[], None, each).unwrap();
    }
    for ((map, key), (value, body)) in &mut found {
        assert!(store.point(*map, key).unwrap().as_ref() == Some(value));
        if let Some((_, told)) = model.get(&(*map, key.clone())).filter(|_| map.has_bodies()) {
            *body = store.body(*map, key, 0..told.len()).unwrap().unwrap_or_default();
            let part = told.len() / 3..told.len() / 2;
            assert!(store.body(*map, key, part.clone()).unwrap().as_deref() == told.get(part));
        }
    }
    found
}
