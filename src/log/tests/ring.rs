//! The ringed store, with a real database, on machines that lose power.

use super::machine::{MAPS, Machine, Model, RING, Random, apply, content};
use crate::log::disk::Disk;
use crate::log::redb::RedbStore;
use crate::log::ring::BLOCK;
use crate::log::shelf::Shelf;
use crate::log::store::{Map, Op, Store, StoreError};

/// Whether a store holds one of these; which.
fn one_of<'a>(found: &Model, models: &[&'a Model]) -> Option<&'a Model> {
    models.iter().find(|model| **model == found).copied()
}

#[test]
fn a_power_cut_at_any_operation_keeps_every_commit_that_was_told() {
    let machine = |seed| Machine::new(seed);
    cut_again_and_again(machine);
}

#[test]
fn a_power_cut_keeps_what_wrote_its_bodies_itself() {
    let machine = |seed| Machine {
        once_bytes: 5_000,
        ready_bytes: [0, 32 << 10][seed as usize % 2],
        align_bytes: [BLOCK, 16 << 10][seed as usize / 2 % 2],
        ..Machine::new(seed)
    };
    cut_again_and_again(machine);
}

fn cut_again_and_again(machine: impl Fn(u64) -> Machine) {
    let (mut cuts, mut cuts_in_recovery, mut between_two, mut files_gone) = (0, 0, 0, 0);
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut random = Random::default();
        let mut machine = machine(seed);
        let mut told = Model::new();
        for _ in 0..25 {
            machine.set_operations_left(rng.u64(1..900));
            let (mut first, mut second) = (told.clone(), told.clone());
            let mut run = || -> Result<(), StoreError> {
                let store = machine.open()?;
                loop {
                    let ops = random.ops(&mut rng);
                    apply(&mut first, &ops);
                    second.clone_from(&first);
                    match store.begin(&ops)? {
                        Some(begun) if rng.u8(..3) == 0 => {
                            // Another goes to the disk beside it, and is there first or last.
                            let beside = random.ops(&mut rng);
                            apply(&mut second, &beside);
                            let begun_beside = store.begin(&beside)?;
                            let early = rng.bool();
                            if let (Some(begun), true) = (&begun_beside, early) {
                                store.write(begun)?;
                            }
                            store.write(&begun)?;
                            store.settle(begun, &ops)?;
                            told = first.clone();
                            match begun_beside {
                                Some(begun) => {
                                    if !early {
                                        store.write(&begun)?;
                                    }
                                    store.settle(begun, &beside)?;
                                }
                                None => store.commit(&beside)?,
                            }
                            first.clone_from(&second);
                        }
                        Some(begun) => {
                            store.write(&begun)?;
                            store.settle(begun, &ops)?;
                        }
                        None => store.commit(&ops)?,
                    }
                    told = first.clone();
                    if store.checkpoint_due() || rng.u8(..20) == 0 {
                        store.checkpoint()?;
                    }
                    if rng.u8(..50) == 0 {
                        assert!(content(&store, &told) == told, "seed {seed}");
                    }
                }
            };
            assert!(run().is_err());
            cuts += 1;
            machine = machine.after_cut();
            // A second cut in the middle of the recovery changes nothing.
            machine.set_operations_left(rng.u64(..40));
            if machine.open().is_err() {
                cuts_in_recovery += 1;
            }
            machine = machine.after_cut();
            machine.set_operations_left(u64::MAX);
            let store = machine.open().expect("it recovers");
            let mut any = told.clone();
            any.extend(first.clone());
            any.extend(second.clone());
            let found = content(&store, &any);
            let made = one_of(&found, &[&told, &first, &second]);
            told = made.unwrap_or_else(|| panic!("seed {seed}: neither commit")).clone();
            between_two += usize::from(told == first && first != second);
        }
        // Every byte of a body is counted, and no file is there that nobody needs.
        let store = machine.open().unwrap();
        store.commit(&[Op::put(Map::Topics, [9, 9], vec![1])]).unwrap();
        store.checkpoint().unwrap();
        let live = store.live();
        let bodies: usize = told.values().map(|(_, body)| body.len()).sum();
        assert_eq!(live.values().sum::<u64>(), bodies as u64, "seed {seed}");
        let numbers = machine.shelf.numbers().unwrap();
        assert!(
            numbers.iter().all(|number| live.contains_key(number)),
            "{numbers:?}, {live:?}"
        );
        let newest = live.keys().max();
        assert!(
            live.iter().all(|(number, bytes)| *bytes > 0 || Some(number) == newest),
            "{live:?}"
        );
        files_gone += live.keys().min().map_or(0, |oldest| oldest - 1);
    }
    assert_eq!(cuts, 20 * 25);
    assert!(cuts_in_recovery > 50, "{cuts_in_recovery}");
    assert!(between_two > 5, "{between_two}");
    assert!(files_gone > 20, "{files_gone}");
}

#[test]
fn what_the_next_process_reads_survives_a_power_cut() {
    let mut unsynced = 0;
    for seed in 0..100 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut random = Random::default();
        let machine = Machine::new(seed);
        machine.set_operations_left(rng.u64(20..200));
        let mut model = Model::new();
        let mut run = || -> Result<(), StoreError> {
            let store = machine.open()?;
            loop {
                let ops = random.ops(&mut rng);
                apply(&mut model, &ops);
                store.commit(&ops)?;
            }
        };
        assert!(run().is_err());
        machine.file.after_kill();
        machine.shelf.after_kill();
        unsynced += usize::from(machine.ring.after_kill());
        machine.set_operations_left(u64::MAX);
        let store = machine.open().expect("it opens");
        let found = content(&store, &model);
        std::mem::forget(store);
        let again = machine.after_cut().open().expect("it recovers");
        assert!(content(&again, &model) == found, "seed {seed}");
    }
    assert!(unsynced > 10, "{unsynced}");
}

#[test]
fn what_was_written_ahead_of_a_torn_record_is_dropped_and_never_comes_back() {
    let machine = Machine::new(1);
    let store = machine.open().unwrap();
    let put = |key: u8, value: u8| [Op::put(Map::Topics, [key], vec![value; 100])];
    store.commit(&put(1, 1)).unwrap();
    let torn = store.begin(&put(2, 2)).unwrap().unwrap();
    let ahead = store.begin(&put(3, 3)).unwrap().unwrap();
    store.write(&ahead).unwrap();
    std::mem::forget((store, torn, ahead));
    for value in 4..7 {
        let store = machine.open().expect("nothing that was told is missing");
        // In the place of the torn one; the record that was written ahead lies behind it, with the next number.
        store.commit(&put(2, value)).unwrap();
        let told = Model::from_iter([(1, 1), (2, value)].map(|(key, value)| {
            let place = (Map::Topics, vec![key]);
            (place, (vec![value; 100], Vec::new()))
        }));
        assert!(content(&store, &told) == told, "{value}");
        // As a kill leaves it, with what was found flushed and this one not.
        std::mem::forget(store);
        assert!(content(&machine.open().unwrap(), &told) == told, "{value}");
    }
}

#[test]
fn a_disk_that_takes_nothing_is_read_and_takes_no_commit_over_what_it_owes() {
    let machine = Machine::new(1);
    let store = machine.open().unwrap();
    let op = |key: u8| Op::put(MAPS[0], [key], vec![key; 50_000]);
    for key in 0..3 {
        store.commit(&[op(key)]).unwrap();
    }
    // As a cut leaves it: nothing of it is in the database.
    let machine = machine.after_cut();
    std::mem::forget(store);
    machine.file.set_full(true);
    for _ in 0..2 {
        let store = machine.open().unwrap();
        assert_eq!(content(&store, &Model::new()).len(), 3);
        let refused = store.commit(&[Op::delete(MAPS[0], [9])]).unwrap_err();
        assert!(matches!(refused, StoreError::Full(_)), "{refused}");
    }
    machine.file.set_full(false);
    let store = machine.open().unwrap();
    store.commit(&[op(3)]).unwrap();
    assert_eq!(content(&store, &Model::new()).len(), 4);
}

#[test]
fn what_waits_is_laid_over_the_database_whenever_it_is_flushed() {
    for seed in 0..10 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut random = Random::default();
        let machine = Machine::new(seed);
        let store = machine.open().unwrap();
        let mut model = Model::new();
        for _ in 0..200 {
            let ops = random.ops(&mut rng);
            apply(&mut model, &ops);
            store.commit(&ops).unwrap();
            if rng.u8(..10) == 0 {
                store.checkpoint().unwrap();
            }
            assert!(content(&store, &model) == model, "seed {seed}");
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
    let machine = Machine::new(1);
    let store = machine.open().unwrap();
    let put = |key: u8| Op::put(Map::Topics, [key], vec![key; 50_000]);
    let flushed = || {
        let file = machine.file.after_cut(&machine.power);
        let applied = RedbStore::open(file, 1 << 20, false).unwrap();
        let found = applied.point(Map::Topics, &[0]).unwrap();
        found.is_some()
    };
    for key in 0..9 {
        store.commit(&[put(key)]).unwrap();
    }
    assert_eq!(machine.ring.len().unwrap(), 2 * RING);
    assert!(!flushed());
    for key in 9..20 {
        store.commit(&[put(key)]).unwrap();
    }
    assert_eq!(machine.ring.len().unwrap(), 2 * RING);
    assert!(flushed());
    // What a killed process leaves is found in the longer one.
    let found = content(&machine.after_cut().open().unwrap(), &Model::new());
    let expected = (0..20).map(|key| ((Map::Topics, vec![key]), (vec![key; 50_000], Vec::new())));
    assert!(found == expected.collect());
}

#[test]
fn a_damaged_record_that_is_needed_is_damage_and_no_guess() {
    let machine = Machine::new(1);
    let store = machine.open().unwrap();
    for i in 0..4u8 {
        store.commit(&[Op::put(Map::Topics, vec![i], vec![i; 1000])]).unwrap();
    }
    // As a kill leaves it: nothing is flushed.
    std::mem::forget(store);
    // The second record, in its body.
    machine.ring.0.lock().unwrap().seen[BLOCK as usize * 2 + 500] ^= 1;
    let refused = machine.open().map(|_| ()).unwrap_err();
    assert!(
        matches!(&refused, StoreError::Damaged(why) if why.contains("record 2")),
        "{refused}"
    );
}

#[test]
fn the_record_before_the_newest_is_needed_where_it_was_durable_before_the_newest_was_written() {
    for both_at_once in [false, true] {
        let machine = Machine::new(1);
        let store = machine.open().unwrap();
        let put = |key: u8| [Op::put(Map::Topics, [key], vec![key; 1000])];
        if both_at_once {
            let begun = [1, 2].map(|key| store.begin(&put(key)).unwrap().unwrap());
            begun.iter().for_each(|begun| store.write(begun).unwrap());
            std::mem::forget(begun);
        } else {
            store.commit(&put(1)).unwrap();
            store.commit(&put(2)).unwrap();
        }
        std::mem::forget(store);
        machine.ring.0.lock().unwrap().seen[BLOCK as usize + 500] ^= 1;
        let opened = machine.open().map(|store| content(&store, &Model::new()).len());
        match both_at_once {
            true => assert_eq!(opened.unwrap(), 0, "neither was told"),
            false => assert!(matches!(opened, Err(StoreError::Damaged(_)))),
        }
    }
}

#[test]
fn a_ring_without_a_trace_of_what_its_database_has_is_damage() {
    let machine = Machine::new(1);
    let store = machine.open().unwrap();
    for key in 1..3 {
        store.commit(&[Op::put(Map::Topics, [key], vec![key; 100])]).unwrap();
    }
    drop(store);
    // A bit of the newest one flips: nobody needs it any more.
    machine.ring.0.lock().unwrap().seen[2 * BLOCK as usize + 60] ^= 1;
    drop(machine.open().unwrap());
    // The disk confirmed it and lost it, and perhaps others behind it.
    machine.ring.0.lock().unwrap().seen[2 * BLOCK as usize..].fill(0);
    let refused = machine.open().map(|_| ()).unwrap_err();
    assert!(
        matches!(&refused, StoreError::Damaged(why) if why.contains("record 2, of which there is no trace")),
        "{refused}"
    );
}

#[test]
fn what_was_built_on_a_commit_past_the_ring_is_not_taken_without_it() {
    let machine = Machine::new(1);
    let store = machine.open().unwrap();
    let put = |key: u8, bytes: usize| [Op::put(Map::Topics, [key], vec![key; bytes])];
    store.commit(&put(1, 100)).unwrap();
    store.checkpoint().unwrap();
    let before = machine.file.0.lock().unwrap().seen.clone();
    store.commit(&put(2, 100_000)).unwrap();
    store.commit(&put(3, 100)).unwrap();
    std::mem::forget(store);
    let after = std::mem::replace(&mut machine.file.0.lock().unwrap().seen, before.clone());
    let keys = |store: &dyn Store| {
        content(store, &Model::new())
            .into_keys()
            .map(|(_, key)| key[0])
            .collect::<Vec<_>>()
    };
    // The disk confirmed the large one and lost it: what is left is the state before it.
    assert_eq!(keys(&machine.open().unwrap()), [1]);
    machine.file.0.lock().unwrap().seen = after;
    let store = machine.open().unwrap();
    assert_eq!(keys(&store), [1, 2, 3]);
    store.commit(&put(4, 100_000)).unwrap();
    store.commit(&put(5, 100)).unwrap();
    store.commit(&put(6, 100)).unwrap();
    std::mem::forget(store);
    machine.file.0.lock().unwrap().seen = before;
    // Two that were durable one behind the other prove that something is missing.
    assert!(matches!(machine.open(), Err(StoreError::Damaged(_))));
}

/// A body of so many bytes under a key.
fn long(key: u8, bytes: usize) -> Op {
    Op::put_long(Map::Journal, [key], vec![key], vec![vec![key; bytes].into()])
}

#[test]
fn a_data_file_that_is_missing_takes_nothing_but_its_own_bodies_along() {
    let machine = Machine::new(1);
    let store = machine.open().unwrap();
    let put = |key: u8| [long(key, 40_000)];
    for key in 0..6 {
        store.commit(&put(key)).unwrap();
        store.checkpoint().unwrap();
    }
    drop(store);
    let numbers = machine.shelf.numbers().unwrap();
    assert_eq!(numbers, [1, 2, 3]);
    for gone in [2, 3] {
        machine.shelf.0.lock().unwrap().remove(&gone);
        let store = machine.open().unwrap();
        let heads = content(&store, &Model::new());
        let there = |key: u8| store.body(Map::Journal, &[key], 0..40_000).unwrap().is_some();
        let lost = (0..6).filter(|key| !there(*key)).collect::<Vec<_>>();
        assert_eq!(lost, (2..2 * gone as u8).collect::<Vec<_>>());
        assert_eq!(heads.len(), 6 + usize::from(gone > 2));
        // It goes on, in a new file where the newest is gone.
        store.commit(&put(4 + gone as u8)).unwrap();
        store.checkpoint().unwrap();
        assert!(there(4 + gone as u8));
    }
}

#[test]
fn a_data_file_that_cannot_be_written_any_more_is_left_and_a_new_one_takes_its_place() {
    let machine = Machine::new(1);
    let store = machine.open().unwrap();
    let put = |key: u8| [long(key, 9_000)];
    for key in 0..4 {
        store.commit(&put(key)).unwrap();
        store.checkpoint().unwrap();
        if key == 1 {
            machine.shelf.0.lock().unwrap()[&1].0.0.lock().unwrap().bad = true;
        }
    }
    assert_eq!(machine.shelf.numbers().unwrap(), [1, 2]);
    for key in 0..4 {
        let body = store.body(Map::Journal, &[key], 0..9_000).unwrap();
        assert_eq!(body, Some(vec![key; 9_000]));
    }
}

#[test]
fn a_ring_of_another_database_is_refused_before_anything_is_taken_from_it() {
    let (machine, other) = (Machine::new(1), Machine::new(2));
    other.ring.0.lock().unwrap().seen[8] ^= 1;
    let mixed = Machine {
        ring: other.ring,
        ..machine
    };
    let refused = mixed.open().map(|_| ()).unwrap_err();
    assert!(
        matches!(&refused, StoreError::Damaged(why) if why.contains("not the ring")),
        "{refused}"
    );
}
