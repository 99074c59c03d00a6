//! What every store must do, run against each.

use super::*;
use crate::log::disk::FileDisk;
use crate::log::memory::MemoryStore;
use crate::log::profile::Sizes;
use crate::log::redb::RedbStore;
use crate::log::ring::{RING_BYTES, Ring};
use crate::log::ring_row::new_ring;
use crate::log::ringed::RingedStore;
use crate::log::shelf::Folder as Shelved;
use crate::log::store::{Change, Map, Op, Store};

type Stores = Vec<(Box<dyn Store>, Folder)>;

fn file(folder: &Folder, name: &str) -> FileDisk {
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false);
    FileDisk(file.open(folder.path().join(name)).unwrap())
}

fn stores() -> Stores {
    let folder = Folder::new();
    let plain = RedbStore::open(file(&folder, "plain"), 1 << 20, false).unwrap();
    let mut stores = with_bodies();
    stores.push((Box::new(plain), folder));
    stores
}

/// Those that keep bodies by themselves.
fn with_bodies() -> Stores {
    let folder = Folder::new();
    let database = RedbStore::open(file(&folder, "database"), 1 << 20, false).unwrap();
    database.commit(&new_ring([3; 16])).unwrap();
    Ring::create(file(&folder, "ring"), [3; 16], RING_BYTES).unwrap();
    let shelf = Shelved::new(folder.path().join("data"), Default::default());
    let ringed = RingedStore::open(database, file(&folder, "ring"), shelf, Sizes::default()).unwrap();
    let memory = Box::new(Arc::<MemoryStore>::default());
    vec![(memory, Folder::new()), (Box::new(ringed), folder)]
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
        assert_eq!(store.point(Map::Topics, b"a").unwrap(), None);
        assert!(entries(store.as_ref(), Map::Topics, b"", None).is_empty());
        store.commit(&[Op::delete(Map::Meta, *b"a")]).unwrap();
        assert_eq!(store.body(Map::Journal, b"a", 0..0).unwrap(), None);
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
                map: Map::Topics,
                key,
                change,
            }])
            .unwrap();
        assert_eq!(store.point(Map::Topics, b"k").unwrap(), Some(b"onetwo".to_vec()));
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
        let put = |number: u16| Op::put(Map::Topics, number.to_be_bytes(), vec![0; 100]);
        let ops: Vec<Op> = (0..500).rev().map(put).collect();
        store.commit(&ops).unwrap();
        let found = entries(
            store.as_ref(),
            Map::Topics,
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
        store.scan(Map::Topics, b"", None, each).unwrap();
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
                    ops.push(Op::put(Map::Producers, key, value));
                } else if random.bool() {
                    model.remove(&key);
                    ops.push(Op::delete(Map::Producers, key));
                } else {
                    let until = vec![random.u8(..20)];
                    model.retain(|at, _| *at < key || *at >= until);
                    let change = Change::DeleteUntil(until);
                    ops.push(Op {
                        map: Map::Producers,
                        key,
                        change,
                    });
                }
            }
            store.commit(&ops).unwrap();
        }
        let found: std::collections::BTreeMap<_, _> =
            entries(store.as_ref(), Map::Producers, b"", None).into_iter().collect();
        assert!(found == model);
    }
}

#[test]
fn a_body_is_read_in_parts_before_and_after_a_flush_and_goes_with_its_key() {
    for (store, _folder) in with_bodies() {
        let put = |key: u8| {
            let body = vec![Bytes::from(vec![key; 3000]), Bytes::new(), Bytes::from_static(b"end")];
            Op::put_long(Map::Journal, [key], vec![key; 2], body)
        };
        store.commit(&[put(1), put(2), put(3)]).unwrap();
        for flushed in [false, true] {
            if flushed {
                store.checkpoint().unwrap();
            }
            let body = |key: u8, range| store.body(Map::Journal, &[key], range).unwrap();
            assert_eq!(body(2, 0..3003).unwrap().len(), 3003);
            assert_eq!(body(2, 2999..3002).unwrap(), [2, b'e', b'n']);
            assert_eq!(body(3, 3003..3003).unwrap(), b"");
            assert_eq!(body(2, 3000..3004), None);
            assert_eq!(body(9, 0..1), None);
            assert_eq!(store.point(Map::Journal, &[2]).unwrap(), Some(vec![2, 2]));
            let heads = entries(store.as_ref(), Map::Journal, &[2], None);
            assert_eq!(heads, [(vec![2], vec![2, 2]), (vec![3], vec![3, 3])]);
        }
        store.commit(&[Op::delete(Map::Journal, [2])]).unwrap();
        for flushed in [false, true] {
            if flushed {
                store.checkpoint().unwrap();
            }
            assert_eq!(store.body(Map::Journal, &[2], 0..1).unwrap(), None);
            assert_eq!(store.body(Map::Journal, &[3], 0..1).unwrap().unwrap(), [3]);
        }
    }
}
