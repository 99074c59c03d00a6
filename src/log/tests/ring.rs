//! The ring over a disk that loses power: unsynced writes survive by halves, sector by sector, in any order.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use crate::log::disk::Disk;
use crate::log::ring::{BLOCK, Ringed};

const SECTOR: usize = 512;
/// Small, so that it wraps often: a record is at most a quarter.
const RING: u64 = 1 << 20;

/// One file on a disk that counts down to a power cut.
#[derive(Clone, Debug)]
struct Plate(Arc<Mutex<Platter>>, Arc<Mutex<Power>>);

#[derive(Default, Debug)]
struct Platter {
    durable: Vec<u8>,
    seen: Vec<u8>,
    /// Sectors written since the last sync, in order.
    unsynced: Vec<(usize, Vec<u8>)>,
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
            unsynced: vec![],
        };
        Plate(Arc::new(Mutex::new(platter)), Arc::clone(power))
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
        platter.seen.resize(len as usize, 0);
        platter
            .unsynced
            .retain(|(at, sector)| at + sector.len() <= len as usize);
        Ok(())
    }
}

/// A copy-on-write store of the simplest kind: the header block names the version; a version is a set of pages, of which none
/// is overwritten while it is live.
#[derive(Clone, Default)]
struct Version {
    number: u64,
    pages: BTreeMap<u64, (usize, u8)>,
}

fn next_version(old: &Version, rng: &mut fastrand::Rng) -> (Version, Vec<(u64, Vec<u8>)>) {
    let mut new = Version {
        number: old.number + 1,
        pages: old.pages.clone(),
    };
    let mut writes = vec![];
    for _ in 0..rng.usize(1..9) {
        let blocks = if rng.u8(..4) == 0 { 1 << rng.u32(1..6) } else { 1 };
        let (at, len) = (BLOCK * (1 + rng.u64(..200)), BLOCK as usize * blocks);
        let overlaps = |pages: &BTreeMap<u64, (usize, u8)>| {
            pages
                .range(..at + len as u64)
                .next_back()
                .is_some_and(|(o, (l, _))| o + *l as u64 > at)
        };
        if overlaps(&old.pages) || overlaps(&new.pages) {
            // Instead, free what is there: the next version may write it.
            new.pages
                .retain(|o, (l, _)| !(*o < at + len as u64 && o + *l as u64 > at) || !old.pages.contains_key(o));
            continue;
        }
        let fill = rng.u8(1..);
        let mut data = vec![fill; len];
        if rng.bool() {
            data[len / 2..].fill(0);
        }
        new.pages.insert(at, (len, fill));
        writes.push((at, data));
    }
    let mut header = vec![0; BLOCK as usize];
    header[..8].copy_from_slice(&new.number.to_le_bytes());
    writes.push((0, header));
    (new, writes)
}

fn holds(store: &Ringed<Plate>, version: &Version) -> bool {
    version.pages.iter().all(|(at, (len, fill))| {
        let mut data = vec![0; *len];
        store.read(*at, &mut data).is_ok() && data[..len / 2].iter().all(|b| b == fill)
    })
}

fn number(store: &Ringed<Plate>) -> u64 {
    let mut header = [0; 8];
    if store.read(0, &mut header).is_err() {
        return 0;
    }
    u64::from_le_bytes(header)
}

#[test]
fn a_power_cut_at_any_operation_keeps_every_synced_version() {
    let mut cuts = 0;
    for seed in 0..24 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let power = Arc::new(Mutex::new(Power {
            operations_left: u64::MAX,
            rng: fastrand::Rng::with_seed(seed),
        }));
        let empty = || Plate(Arc::new(Mutex::new(Platter::default())), Arc::clone(&power));
        let (mut file, mut ring) = (empty(), empty());
        let mut acked = Version::default();
        for _ in 0..20 {
            power.lock().unwrap().operations_left = rng.u64(1..4000);
            let mut attempted = acked.clone();
            let run = || -> io::Result<()> {
                let store = Ringed::open(file.clone(), ring.clone(), RING, [7; 16])?;
                if store.len()? < BLOCK * 300 {
                    store.set_len(BLOCK * 300)?;
                }
                loop {
                    let (new, writes) = next_version(&acked, &mut rng);
                    attempted = new.clone();
                    for (at, data) in writes {
                        store.write(at, &data)?;
                    }
                    assert!(holds(&store, &new), "seed {seed}: a read does not see what was written");
                    store.sync()?;
                    acked = new;
                    if store.checkpoint_due() || rng.u8(..50) == 0 {
                        store.checkpoint()?;
                    }
                }
            };
            let ended: io::Result<()> = {
                let mut run = run;
                run()
            };
            assert!(ended.is_err_and(|e| e.to_string() == "power is out"), "seed {seed}");
            cuts += 1;
            (file, ring) = (file.after_cut(&power), ring.after_cut(&power));
            // A second cut in the middle of the recovery changes nothing.
            power.lock().unwrap().operations_left = rng.u64(..6);
            if Ringed::open(file.clone(), ring.clone(), RING, [8; 16]).is_err() {
                (file, ring) = (file.after_cut(&power), ring.after_cut(&power));
            }
            power.lock().unwrap().operations_left = u64::MAX;
            let store = Ringed::open(file.clone(), ring.clone(), RING, [9; 16]).expect("recovers");
            let found = number(&store);
            assert!(
                found == acked.number || found == attempted.number,
                "seed {seed}: {found} is neither version"
            );
            acked = if found == attempted.number { attempted } else { acked };
            assert!(holds(&store, &acked), "seed {seed}: version {found} lost a page");
        }
    }
    assert_eq!(cuts, 24 * 20);
}

#[test]
fn overlapping_writes_are_read_back_as_the_newest() {
    let power = Arc::new(Mutex::new(Power {
        operations_left: u64::MAX,
        rng: fastrand::Rng::with_seed(1),
    }));
    let disk = || Plate(Arc::new(Mutex::new(Platter::default())), Arc::clone(&power));
    let (file, ring) = (disk(), disk());
    let store = Ringed::open(file.clone(), ring.clone(), RING, [1; 16]).expect("opens");
    let mut model = vec![0u8; 64 * 1024];
    store.set_len(model.len() as u64).expect("grows");
    let mut rng = fastrand::Rng::with_seed(5);
    for round in 0..2000u32 {
        let at = rng.usize(..model.len() - 1);
        let len = rng.usize(1..=(model.len() - at).min(9000));
        let data: Vec<u8> = (0..len).map(|_| rng.u8(..)).collect();
        store.write(at as u64, &data).expect("written");
        model[at..at + len].copy_from_slice(&data);
        let from = rng.usize(..model.len());
        let mut out = vec![0; rng.usize(..=model.len() - from)];
        store.read(from as u64, &mut out).expect("read");
        assert!(out == model[from..from + out.len()], "round {round}");
        if round % 37 == 0 {
            store.sync().expect("synced");
        }
    }
    store.close().expect("closed");
    drop(store);
    let mut all = vec![0; model.len()];
    // Behind the block that names the ring.
    file.read(BLOCK, &mut all).expect("the whole file");
    assert!(all == model);
}

#[test]
fn a_damaged_record_that_is_needed_is_an_error_and_no_guess() {
    let power = Arc::new(Mutex::new(Power {
        operations_left: u64::MAX,
        rng: fastrand::Rng::with_seed(1),
    }));
    let disk = || Plate(Arc::new(Mutex::new(Platter::default())), Arc::clone(&power));
    let (file, ring) = (disk(), disk());
    let store = Ringed::open(file.clone(), ring.clone(), RING, [1; 16]).expect("opens");
    store.set_len(BLOCK * 8).expect("grows");
    for i in 0..4u8 {
        store
            .write(BLOCK * u64::from(i), &[i + 1; BLOCK as usize])
            .expect("written");
        store.sync().expect("synced");
    }
    drop(store);
    // The second record, in its body.
    ring.0.lock().unwrap().seen[BLOCK as usize * 3 + 1000] ^= 1;
    let refused = Ringed::open(file, ring, RING, [2; 16]).expect_err("a hole in the middle");
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    assert!(refused.to_string().contains("damaged"), "{refused}");
}
