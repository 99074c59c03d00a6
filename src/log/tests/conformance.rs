//! What every store must do, run against each.

use super::*;
use crate::log::disk::FileDisk;
use crate::log::memory::MemoryStore;
use crate::log::redb::RedbStore;
use crate::log::ring::{RING_BYTES, Ring};
use crate::log::ringed::{RingedStore, new_ring};
use crate::log::store::{Change, Map, Op, Store};

fn stores() -> Vec<(Box<dyn Store>, Option<Folder>)> {
    let folder = Folder::new();
    let file = |name: &str| {
        let mut options = std::fs::OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(folder.path().join(name));
        FileDisk(file.unwrap())
    };
    let redb = RedbStore::open(file("plain"), 1 << 20, false).unwrap();
    let ringed = RedbStore::open(file("ringed"), 1 << 20, false).unwrap();
    ringed.commit(&new_ring([3; 16])).unwrap();
    Ring::create(file("ring"), [3; 16], RING_BYTES).unwrap();
    let options = || std::fs::OpenOptions::new().read(true).write(true).to_owned();
    let ring = FileDisk(options().open(folder.path().join("ring")).unwrap());
    let ringed = RingedStore::open(ringed, ring, RING_BYTES).unwrap();
    let memory = Box::new(Arc::<MemoryStore>::default());
    vec![(memory, None), (Box::new(redb), None), (Box::new(ringed), Some(folder))]
}

fn entries(store: &dyn Store, map: Map, from: &[u8], until: Option<&[u8]>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    let each = &mut |key: &[u8], value: &[u8]| {
        found.push((key.to_vec(), value.to_vec()));
        Ok(true)
    };
    store.scan(map, from, until, each).unwrap();
    found
}

#[test]
fn what_was_never_put_is_not_there() {
    for (store, _folder) in stores() {
        assert_eq!(store.point(Map::Journal, b"a").unwrap(), None);
        assert!(entries(store.as_ref(), Map::Topics, b"", None).is_empty());
        store.commit(&[Op::delete(Map::Meta, *b"a")]).unwrap();
    }
}

#[test]
fn slices_are_stored_one_behind_the_other() {
    for (store, _folder) in stores() {
        let change = Change::Put(vec![
            Bytes::from_static(b"one"),
            Bytes::new(),
            Bytes::from_static(b"two"),
        ]);
        let key = b"k".to_vec();
        store
            .commit(&[Op {
                map: Map::Journal,
                key,
                change,
            }])
            .unwrap();
        assert_eq!(store.point(Map::Journal, b"k").unwrap(), Some(b"onetwo".to_vec()));
        assert_eq!(store.point(Map::Meta, b"k").unwrap(), None);
    }
}

#[test]
fn operations_of_a_commit_apply_in_order() {
    for (store, _folder) in stores() {
        let put = |key: &[u8], value: &'static str| Op::put(Map::Topics, key, value);
        let until = |key: &[u8], until: &[u8]| Op {
            map: Map::Topics,
            key: key.to_vec(),
            change: Change::DeleteUntil(until.to_vec()),
        };
        store
            .commit(&[put(b"a", "1"), put(b"b", "2"), put(b"c", "3"), put(b"a", "4")])
            .unwrap();
        store
            .commit(&[
                Op::delete(Map::Topics, *b"c"),
                put(b"c", "5"),
                until(b"a", b"c"),
                until(b"d", b"a"),
            ])
            .unwrap();
        assert_eq!(
            entries(store.as_ref(), Map::Topics, b"", None),
            [(b"c".to_vec(), b"5".to_vec())]
        );
    }
}

#[test]
fn scans_go_in_key_order_and_stop_when_told() {
    for (store, _folder) in stores() {
        let put = |number: u16| Op::put(Map::Journal, number.to_be_bytes(), vec![0; 100]);
        let ops: Vec<Op> = (0..500).rev().map(put).collect();
        store.commit(&ops).unwrap();
        let found = entries(
            store.as_ref(),
            Map::Journal,
            &300u16.to_be_bytes(),
            Some(&310u16.to_be_bytes()),
        );
        let keys: Vec<Vec<u8>> = found.into_iter().map(|(key, _)| key).collect();
        assert_eq!(
            keys,
            (300..310u16).map(|n| n.to_be_bytes().to_vec()).collect::<Vec<_>>()
        );
        let mut seen = 0;
        let each = &mut |_: &[u8], _: &[u8]| {
            seen += 1;
            Ok(seen < 3)
        };
        store.scan(Map::Journal, b"", None, each).unwrap();
        assert_eq!(seen, 3);
    }
}

#[test]
fn random_commits_agree_with_a_map() {
    let mut random = fastrand::Rng::with_seed(7);
    for (store, _folder) in stores() {
        let mut model = std::collections::BTreeMap::new();
        for _ in 0..60 {
            let mut ops = Vec::new();
            for _ in 0..random.usize(1..20) {
                let key = vec![random.u8(..20); random.usize(1..4)];
                if random.bool() {
                    let value = vec![random.u8(..); random.usize(0..9000)];
                    model.insert(key.clone(), value.clone());
                    ops.push(Op::put(Map::Segments, key, value));
                } else if random.bool() {
                    model.remove(&key);
                    ops.push(Op::delete(Map::Segments, key));
                } else {
                    let until = vec![random.u8(..20)];
                    model.retain(|at, _| *at < key || *at >= until);
                    let change = Change::DeleteUntil(until);
                    ops.push(Op {
                        map: Map::Segments,
                        key,
                        change,
                    });
                }
            }
            store.commit(&ops).unwrap();
        }
        let found: std::collections::BTreeMap<_, _> =
            entries(store.as_ref(), Map::Segments, b"", None).into_iter().collect();
        assert!(found == model);
    }
}
