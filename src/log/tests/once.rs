//! Commits that write their bodies to a data file themselves, on machines that lose power.

use super::machine::{Machine, Model, Opened, apply, content};
use crate::log::disk::Disk;
use crate::log::ring::{self, BLOCK};
use crate::log::shelf::Shelf;
use crate::log::store::{Begun, Change, Map, Op, Store, StoreError};

const BODY: usize = 20_000;

/// A body under a key.
fn long(key: u8, bytes: usize) -> Op {
    Op::put_long(Map::Segments, [key], vec![key], vec![vec![key; bytes].into()])
}

fn machine(seed: u64) -> Machine {
    Machine {
        once_bytes: 10_000,
        ..Machine::new(seed)
    }
}

fn begin(store: &Opened, ops: &[Op]) -> Begun {
    store.begin(ops).unwrap().unwrap()
}

fn model(ops: &[Op]) -> Model {
    let mut model = Model::new();
    apply(&mut model, ops);
    model
}

#[test]
fn a_large_commit_is_written_once() {
    let machine = machine(1);
    let store = machine.open().unwrap();
    let ops: Vec<Op> = (0..5).map(|key| long(key, BODY)).collect();
    for op in ops.chunks(1) {
        let begun = begin(&store, op);
        assert_eq!(begun.place.bytes, BLOCK);
        store.write(&begun).unwrap();
        store.settle(begun, op).unwrap();
    }
    let told = model(&ops);
    assert!(content(&store, &told) == told, "before a flush");
    let before = machine.shelf.open(1).unwrap().len().unwrap();
    store.checkpoint().unwrap();
    assert_eq!(machine.shelf.open(1).unwrap().len().unwrap(), before);
    assert!(content(&store, &told) == told, "after it");
    assert_eq!(store.live().values().sum::<u64>(), (5 * BODY) as u64);
}

#[test]
fn bodies_that_came_and_went_between_two_flushes_take_no_space() {
    let machine = machine(1);
    let store = machine.open().unwrap();
    let until = Op {
        map: Map::Segments,
        key: vec![3],
        change: Change::DeleteUntil(vec![5]),
    };
    for op in [
        long(0, BODY),
        long(1, BODY),
        long(2, BODY),
        long(3, BODY),
        long(4, BODY),
        // Gone, put anew, gone in a range.
        Op::delete(Map::Segments, [0]),
        long(1, BODY + 1),
        until,
    ] {
        store.commit(&[op]).unwrap();
    }
    store.checkpoint().unwrap();
    let told = model(&[long(2, BODY), long(1, BODY + 1)]);
    assert!(content(&store, &told) == told);
    assert_eq!(store.live().values().sum::<u64>(), (2 * BODY + 1) as u64);
    let mut used = 0;
    for number in machine.shelf.numbers().unwrap() {
        let file = machine.shelf.open(number).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read(0, &mut bytes).unwrap();
        let blocks = bytes.chunks(BLOCK as usize);
        used += blocks.filter(|block| block.iter().any(|byte| *byte != 0)).count();
    }
    assert_eq!(used, 2 * (BODY + 1).div_ceil(BLOCK as usize));
}

#[test]
fn what_a_flush_lays_together_goes_with_the_record() {
    let machine = machine(1);
    let store = machine.open().unwrap();
    let row = Op::put_long(Map::Journal, [9], vec![9], vec![vec![9; BODY].into()]);
    let begun = begin(&store, std::slice::from_ref(&row));
    assert!(begun.bodies.is_none() && begun.place.bytes > BODY as u64);
    drop(begun);
    // Beside a large batch, too.
    let both = [row, long(1, BODY)];
    let begun = begin(&store, &both);
    assert!(begun.bodies.is_some() && (BODY as u64..2 * BODY as u64).contains(&begun.place.bytes));
}

#[test]
fn what_a_cut_leaves_of_bodies_and_record_is_believed_only_where_both_are_whole() {
    for (data, record) in [(false, true), (true, false), (true, true)] {
        let machine = machine(1);
        let store = machine.open().unwrap();
        let first = long(1, BODY);
        store.commit(std::slice::from_ref(&first)).unwrap();
        let second = long(2, BODY);
        let begun = begin(&store, std::slice::from_ref(&second));
        if data {
            store.write_bodies(&begun).unwrap();
        }
        if record {
            ring::write(&machine.ring, begun.place, &begun.record).unwrap();
        }
        std::mem::forget(store);
        let machine = machine.after_cut();
        let (one, both) = (model(std::slice::from_ref(&first)), model(&[first, second]));
        let told = if data && record { both } else { one };
        let store = machine.open().unwrap();
        assert!(content(&store, &told) == told, "{data} {record}");
        // Its place and its number are taken again.
        let third = long(3, BODY);
        store.commit(std::slice::from_ref(&third)).unwrap();
        let mut told = told;
        apply(&mut told, &[third]);
        std::mem::forget(store);
        let again = machine.after_cut().open().unwrap();
        assert!(content(&again, &told) == told, "{data} {record}, then another");
    }
}

#[test]
fn bodies_that_were_not_synced_are_missed_after_a_cut() {
    let lost = |lies: bool| {
        let lost_with = |seed: &u64| {
            let machine = machine(*seed);
            let store = machine.open().unwrap();
            store.commit(&[long(1, BODY)]).unwrap();
            machine.shelf.0.lock().unwrap()[&1].0.0.lock().unwrap().lies = lies;
            store.commit(&[long(2, BODY)]).unwrap();
            std::mem::forget(store);
            let store = machine.after_cut().open().unwrap();
            content(&store, &Model::new()).len() < 2
        };
        (0..20).filter(lost_with).count()
    };
    assert_eq!(lost(false), 0);
    assert!(lost(true) > 10, "a disk that lies is found out");
}

#[test]
fn torn_bodies_below_a_commit_that_was_told_are_damage() {
    let machine = machine(1);
    let store = machine.open().unwrap();
    for key in 1..3 {
        store.commit(&[long(key, BODY)]).unwrap();
    }
    std::mem::forget(store);
    machine.shelf.0.lock().unwrap()[&1].0.0.lock().unwrap().seen[500] ^= 1;
    let refused = machine.open().map(|_| ()).unwrap_err();
    assert!(
        matches!(&refused, StoreError::Damaged(why) if why.contains("record 1")),
        "{refused}"
    );
}

#[test]
fn a_record_whose_bodies_were_torn_is_never_taken_for_the_one_in_its_place() {
    let machine = machine(1);
    let store = machine.open().unwrap();
    // Up to the end of the ring but for a few blocks, so that a large record goes round and a small one does not.
    let fill = |key: u8, bytes: usize| Op::put(Map::Topics, [key], vec![key; bytes]);
    for key in 0..4 {
        store.commit(&[fill(key, 58_000)]).unwrap();
    }
    store.checkpoint().unwrap();
    let (body, small) = (long(1, BODY), fill(9, 30_000));
    let torn = begin(&store, &[body.clone(), small]);
    ring::write(&machine.ring, torn.place, &torn.record).unwrap();
    std::mem::forget(store);
    let store = machine.open().unwrap();
    // Of the same number, elsewhere in the ring; the same body in the same place makes the torn one whole again.
    let next = begin(&store, std::slice::from_ref(&body));
    assert_eq!(next.place.seq, torn.place.seq);
    store.write(&next).unwrap();
    store.settle(next, &[body]).unwrap();
    std::mem::forget(store);
    let store = machine.open().unwrap();
    assert_eq!(store.point(Map::Topics, &[9]).unwrap(), None, "it was never told");
    assert_eq!(content(&store, &Model::new()).len(), 5);
}

#[test]
fn where_a_data_file_has_no_space_ready_the_ring_takes_the_bodies() {
    let machine = Machine {
        ready_bytes: 64 << 10,
        ..machine(1)
    };
    let store = machine.open().unwrap();
    let (first, second) = ([long(1, BODY)], [long(2, 50_000)]);
    store.commit(&first).unwrap();
    machine.shelf.0.lock().unwrap()[&1].0.set_full(true);
    let begun = begin(&store, &second);
    assert!(begun.bodies.is_none() && begun.place.bytes > 50_000);
    store.write(&begun).unwrap();
    store.settle(begun, &second).unwrap();
    std::mem::forget(store);
    let told = model(&[first, second].concat());
    assert!(content(&machine.after_cut().open().unwrap(), &told) == told);
}

#[test]
fn after_a_data_file_refused_a_commit_the_next_opening_begins_another() {
    let machine = machine(1);
    let store = machine.open().unwrap();
    store.commit(&[long(1, BODY)]).unwrap();
    machine.shelf.0.lock().unwrap()[&1].0.0.lock().unwrap().bad = true;
    assert!(store.commit(&[long(2, BODY)]).is_err());
    drop(store);
    let store = machine.open().unwrap();
    let again = long(2, BODY);
    store.commit(std::slice::from_ref(&again)).unwrap();
    store.checkpoint().unwrap();
    let told = model(&[long(1, BODY), again]);
    assert!(content(&store, &told) == told);
    assert_eq!(machine.shelf.numbers().unwrap(), [1, 2]);
}
