//! The ringed store, with a real database, on disks that lose power: unsynced writes survive by halves, sector by sector, in any
//! order.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use crate::log::disk::Disk;
use crate::log::redb::RedbStore;
use crate::log::ring::{BLOCK, Ring};
use crate::log::ringed::{RingedStore, new_ring};
use crate::log::store::{Change, Map, Op, Store, StoreError};

const SECTOR: usize = 512;
/// Small, so that it wraps often: a record is at most a quarter.
const RING: u64 = 256 << 10;
const ID: [u8; 16] = [7; 16];

/// One file on a disk that counts down to a power cut.
#[derive(Clone, Debug)]
struct Plate(Arc<Mutex<Platter>>, Arc<Mutex<Power>>);

#[derive(Default, Debug)]
struct Platter {
    durable: Vec<u8>,
    seen: Vec<u8>,
    /// Sectors written since the last sync, in order.
    unsynced: Vec<(usize, Vec<u8>)>,
    /// It does not grow.
    full: bool,
}

#[derive(Debug)]
struct Power {
    operations_left: u64,
    rng: fastrand::Rng,
}

impl Plate {
    fn operate(&self) -> io::Result<()> {
        let mut power = self.1.lock().unwrap();
        if power.operations_left == 0 {
            return Err(io::Error::other("power is out"));
        }
        power.operations_left -= 1;
        Ok(())
    }

    /// What a machine holds whose process is gone: what was written is seen, on the disk or not. Gives whether any is not.
    fn after_kill(&self) -> bool {
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

    fn set_full(&self, full: bool) {
        self.0.lock().unwrap().full = full;
    }

    /// What a machine finds after the cut: the synced bytes, and any of the sectors written since.
    fn after_cut(&self, power: &Arc<Mutex<Power>>) -> Plate {
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

type Model = BTreeMap<(Map, Vec<u8>), Vec<u8>>;
type Opened = RingedStore<RedbStore, Plate>;

const MAPS: [Map; 3] = [Map::Journal, Map::Segments, Map::Producers];

fn made(power: &Arc<Mutex<Power>>) -> (Plate, Plate) {
    let empty = || Plate(Arc::default(), Arc::clone(power));
    let (file, ring) = (empty(), empty());
    RedbStore::open(file.clone(), 1 << 20, false)
        .unwrap()
        .commit(&new_ring(ID))
        .unwrap();
    Ring::create(ring.clone(), ID, RING).unwrap();
    (file, ring)
}

fn power(seed: u64) -> Arc<Mutex<Power>> {
    Arc::new(Mutex::new(Power {
        operations_left: u64::MAX,
        rng: fastrand::Rng::with_seed(seed),
    }))
}

fn open(file: &Plate, ring: &Plate) -> Result<Opened, StoreError> {
    // It grows once, and goes round and round after that.
    RingedStore::open(RedbStore::open(file.clone(), 1 << 20, false)?, ring.clone(), 2 * RING)
}

fn random_ops(rng: &mut fastrand::Rng) -> Vec<Op> {
    let key = |rng: &mut fastrand::Rng| vec![rng.u8(..24), rng.u8(..4)];
    let ops = (0..rng.usize(1..8)).map(|_| {
        let change = match rng.u8(..10) {
            0 => Change::DeleteUntil(key(rng)),
            1 | 2 => Change::Delete,
            // Now and then one that goes past the ring.
            3 if rng.u8(..20) == 0 => Change::Put(vec![vec![rng.u8(..); 80_000].into()]),
            _ => Change::Put(vec![vec![rng.u8(..); rng.usize(..3000)].into(), vec![1].into()]),
        };
        let map = MAPS[rng.usize(..MAPS.len())];
        let key = key(rng);
        Op { map, key, change }
    });
    ops.collect()
}

fn apply(model: &mut Model, ops: &[Op]) {
    for op in ops {
        let place = (op.map, op.key.clone());
        match &op.change {
            Change::Put(slices) => drop(model.insert(place, slices.concat())),
            Change::Delete => drop(model.remove(&place)),
            Change::DeleteUntil(until) => {
                model.retain(|(map, key), _| *map != op.map || *key < op.key || key >= until);
            }
        }
    }
}

fn content(store: &dyn Store) -> Model {
    let mut found = Model::new();
    for map in MAPS {
        let each = &mut |key: &[u8], value: &[u8]| {
            assert!(found.insert((map, key.to_vec()), value.to_vec()).is_none());
            Ok(true)
        };
        store.scan(map, &[], None, each).unwrap();
    }
    for ((map, key), value) in &found {
        assert!(store.point(*map, key).unwrap().as_ref() == Some(value));
    }
    found
}

#[test]
fn a_power_cut_at_any_operation_keeps_every_commit_that_was_told() {
    let (mut cuts, mut cuts_in_recovery) = (0, 0);
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let power = power(seed);
        let (mut file, mut ring) = made(&power);
        let mut told = Model::new();
        for _ in 0..25 {
            power.lock().unwrap().operations_left = rng.u64(1..900);
            let mut attempted = told.clone();
            let mut run = || -> Result<(), StoreError> {
                let store = open(&file, &ring)?;
                loop {
                    let ops = random_ops(&mut rng);
                    apply(&mut attempted, &ops);
                    store.commit(&ops)?;
                    told = attempted.clone();
                    if store.checkpoint_due() || rng.u8(..20) == 0 {
                        store.checkpoint()?;
                    }
                    if rng.u8(..50) == 0 {
                        assert!(content(&store) == told, "seed {seed}");
                    }
                }
            };
            assert!(run().is_err());
            cuts += 1;
            (file, ring) = (file.after_cut(&power), ring.after_cut(&power));
            // A second cut in the middle of the recovery changes nothing.
            power.lock().unwrap().operations_left = rng.u64(..40);
            if open(&file, &ring).is_err() {
                cuts_in_recovery += 1;
            }
            (file, ring) = (file.after_cut(&power), ring.after_cut(&power));
            power.lock().unwrap().operations_left = u64::MAX;
            let found = content(&open(&file, &ring).expect("it recovers"));
            assert!(found == told || found == attempted, "seed {seed}: neither commit");
            told = found;
        }
    }
    assert_eq!(cuts, 20 * 25);
    assert!(cuts_in_recovery > 50, "{cuts_in_recovery}");
}

#[test]
fn what_the_next_process_reads_survives_a_power_cut() {
    let mut unsynced = 0;
    for seed in 0..100 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let power = power(seed);
        let (file, ring) = made(&power);
        power.lock().unwrap().operations_left = rng.u64(20..200);
        let mut run = || -> Result<(), StoreError> {
            let store = open(&file, &ring)?;
            loop {
                store.commit(&random_ops(&mut rng))?;
            }
        };
        assert!(run().is_err());
        file.after_kill();
        unsynced += usize::from(ring.after_kill());
        power.lock().unwrap().operations_left = u64::MAX;
        let store = open(&file, &ring).expect("it opens");
        let found = content(&store);
        let (file, ring) = (file.after_cut(&power), ring.after_cut(&power));
        assert!(
            content(&open(&file, &ring).expect("it recovers")) == found,
            "seed {seed}"
        );
    }
    assert!(unsynced > 10, "{unsynced}");
}

#[test]
fn a_disk_that_takes_nothing_is_read_and_takes_no_commit_over_what_it_owes() {
    let power = power(1);
    let (file, ring) = made(&power);
    let store = open(&file, &ring).unwrap();
    let op = |key: u8| Op::put(MAPS[0], [key], vec![key; 50_000]);
    for key in 0..3 {
        store.commit(&[op(key)]).unwrap();
    }
    // As a cut leaves it: nothing of it is in the database.
    let (file, ring) = (file.after_cut(&power), ring.after_cut(&power));
    file.set_full(true);
    for _ in 0..2 {
        let store = open(&file, &ring).unwrap();
        assert_eq!(content(&store).len(), 3);
        let refused = store.commit(&[Op::delete(MAPS[0], [9])]).unwrap_err();
        assert!(matches!(refused, StoreError::Io(_)), "{refused}");
    }
    file.set_full(false);
    let store = open(&file, &ring).unwrap();
    store.commit(&[op(3)]).unwrap();
    assert_eq!(content(&store).len(), 4);
}

#[test]
fn what_waits_is_laid_over_the_database_whenever_it_is_flushed() {
    for seed in 0..10 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (file, ring) = made(&power(seed));
        let store = open(&file, &ring).unwrap();
        let mut model = Model::new();
        for _ in 0..200 {
            let ops = random_ops(&mut rng);
            apply(&mut model, &ops);
            store.commit(&ops).unwrap();
            if rng.u8(..10) == 0 {
                store.checkpoint().unwrap();
            }
            assert!(content(&store) == model, "seed {seed}");
        }
        let (map, from, until) = (MAPS[0], [5], [15]);
        let mut part = Vec::new();
        let each = &mut |key: &[u8], _: &[u8]| {
            part.push(key.to_vec());
            Ok(part.len() < 3)
        };
        store.scan(map, &from, Some(&until), each).unwrap();
        let keys = model
            .keys()
            .filter(|(of, key)| *of == map && *key >= from.to_vec() && *key < until.to_vec());
        let wanted: Vec<Vec<u8>> = keys.take(3).map(|(_, key)| key.clone()).collect();
        assert_eq!(part, wanted);
    }
}

#[test]
fn a_ring_that_has_no_room_grows_up_to_its_bound_before_a_commit_waits_for_a_flush() {
    let power = power(1);
    let (file, ring) = made(&power);
    let store = open(&file, &ring).unwrap();
    let put = |key: u8| Op::put(Map::Journal, [key], vec![key; 50_000]);
    let flushed = || {
        let applied = RedbStore::open(file.after_cut(&power), 1 << 20, false).unwrap();
        let found = applied.point(Map::Journal, &[0]).unwrap();
        found.is_some()
    };
    for key in 0..9 {
        store.commit(&[put(key)]).unwrap();
    }
    assert_eq!(ring.len().unwrap(), 2 * RING);
    assert!(!flushed());
    for key in 9..20 {
        store.commit(&[put(key)]).unwrap();
    }
    assert_eq!(ring.len().unwrap(), 2 * RING);
    assert!(flushed());
    // What a killed process leaves is found in the longer one.
    let found = content(&open(&file.after_cut(&power), &ring.after_cut(&power)).unwrap());
    let expected = (0..20).map(|key| ((Map::Journal, vec![key]), vec![key; 50_000]));
    assert!(found == expected.collect());
}

#[test]
fn a_damaged_record_that_is_needed_is_damage_and_no_guess() {
    let (file, ring) = made(&power(1));
    let store = open(&file, &ring).unwrap();
    for i in 0..4u8 {
        store.commit(&[Op::put(Map::Journal, vec![i], vec![i; 1000])]).unwrap();
    }
    // As a kill leaves it: nothing is flushed.
    std::mem::forget(store);
    // The second record, in its body.
    ring.0.lock().unwrap().seen[BLOCK as usize * 2 + 500] ^= 1;
    let refused = open(&file, &ring).map(|_| ()).unwrap_err();
    assert!(
        matches!(&refused, StoreError::Damaged(why) if why.contains("record 2")),
        "{refused}"
    );
}

#[test]
fn a_ring_of_another_database_is_refused_before_anything_is_taken_from_it() {
    let (file, _) = made(&power(1));
    let (_, other) = made(&power(2));
    other.0.lock().unwrap().seen[8] ^= 1;
    let refused = open(&file, &other).map(|_| ()).unwrap_err();
    assert!(
        matches!(&refused, StoreError::Damaged(why) if why.contains("not the ring")),
        "{refused}"
    );
}
