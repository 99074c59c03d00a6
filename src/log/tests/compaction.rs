//! Compaction through the log: what readers see of it, what it does to rows, when it is due, and that a power cut at any point
//! loses nothing.

use std::collections::BTreeMap;

use super::machine::Machine;
use super::*;
use crate::log::compaction::Cleaner;
use crate::log::depot::{Depot, Identity};
use crate::log::layout::FORMAT;
use crate::log::store::{Map, Store, StoreError};
use crate::log::usage::Usage;
use crate::model::compression::Codec;

type Found = BTreeMap<u64, Record>;

const T: Partition = Partition(0);

/// Of a topic of two.
fn partition_of(key: &str) -> Partition {
    crate::model::name::partition_of_key(key.as_bytes(), 2)
}

/// `k=v`; without a value a tombstone.
fn keyed(pairs: &[(&str, Option<&str>)], time: i64) -> Batch {
    let records: Vec<Record> = pairs
        .iter()
        .map(|(key, value)| Record {
            value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
            ..record(Some(key), "", time)
        })
        .collect();
    Batch::parse(batch::pack(&records).into()).unwrap()
}

fn put(log: &Log, key: &str, value: Option<&str>, time: i64) -> u64 {
    let batch = keyed(&[(key, value)], time);
    append_batch(log, "t", T, batch).unwrap().base_offset.0
}

fn found(log: &Log) -> Found {
    let log_start = log.bounds("t", T).unwrap().log_start.0;
    let all = records(log, "t", T, log_start).into_iter();
    all.filter(|(offset, _)| *offset >= log_start).collect()
}

fn offsets(log: &Log) -> Vec<u64> {
    found(log).into_keys().collect()
}

fn at(ms: i64) -> Now {
    now(ms)
}

/// What a reader that starts at the beginning ends up with.
fn table(records: &Found) -> BTreeMap<Option<Bytes>, Bytes> {
    let mut table = BTreeMap::new();
    for record in records.values() {
        match &record.value {
            Some(value) => table.insert(record.key.clone(), value.clone()),
            None => table.remove(&record.key),
        };
    }
    table
}

/// In a journal row together with a record of another topic, which is not compacted.
fn append_beside(log: &Log, batch: Batch) -> Result<(), Refused> {
    let topic = Topic::parse("t").unwrap();
    let batch = Append::Batch {
        topic,
        partition: T,
        batch,
    };
    let other = Append::Record {
        topic: Topic::parse("other").unwrap(),
        record: record(Some("k"), "other", 1),
    };
    let submission = Submission {
        appends: vec![batch, other],
        state: Vec::new(),
    };
    log.submit(submission, Waker::noop()).wait().map(drop)
}

fn random_batch(rng: &mut fastrand::Rng, next: u64, model: &mut Found) -> Batch {
    let records: Vec<Record> = (0..rng.usize(1..8))
        .map(|_| Record {
            key: Some(vec![b'a' + rng.u8(..15)].into()),
            value: (rng.u8(..5) > 0).then(|| vec![rng.u8(b'a'..=b'z'); rng.usize(..900)].into()),
            headers: Vec::new(),
            timestamp_ms: rng.i64(0..5_000),
        })
        .collect();
    let codec = [Codec::None, Codec::Lz4][rng.usize(..2)];
    let bytes = batch::pack_compressed(&records, codec);
    model.extend((next..).zip(records));
    Batch::parse(bytes.into()).unwrap()
}

/// Nothing but old values of keys is missing, and a read from any offset goes on with the next record there is.
fn holds(log: &Log, model: &Found, context: &str) {
    let found = found(log);
    for (offset, record) in &found {
        assert_eq!(model.get(offset), Some(record), "{context}, offset {offset}");
    }
    assert!(table(&found) == table(model), "{context}");
    let high_watermark = log.bounds("t", T).unwrap().high_watermark.0;
    assert_eq!(
        high_watermark,
        model.keys().last().map_or(0, |last| last + 1),
        "{context}"
    );
    for from in (0..high_watermark).step_by(3) {
        let next = records(log, "t", T, from)
            .into_iter()
            .find(|(offset, _)| *offset >= from);
        assert_eq!(
            next.map(|(offset, _)| offset),
            found.range(from..).next().map(|(o, _)| *o),
            "{context}, {from}"
        );
    }
    for time in (0..5_000).step_by(499) {
        let topic = Topic::parse("t").unwrap();
        let point = log.offset_for_time(&topic, T, time, Waker::noop()).wait().unwrap();
        let wanted = found.iter().find(|(_, record)| record.timestamp_ms >= time);
        assert_eq!(
            point.map(|point| point.offset.0),
            wanted.map(|(offset, _)| *offset),
            "{context}, time {time}"
        );
    }
}

#[test]
fn old_values_go_and_what_stays_is_the_same_after_a_restart() {
    let folder = Folder::new();
    let log = folder.open();
    make(
        &log,
        "t",
        &[("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0")],
    );
    let (mut rng, mut model) = (fastrand::Rng::with_seed(1), Found::new());
    let mut cleaner = Cleaner::within(log.clone(), 1 << 10, 4 << 10);
    let mut rewritten = 0;
    for round in 0..12 {
        for i in 0..25 {
            let next = model.keys().last().map_or(0, |last| last + 1);
            let batch = if i % 10 == 9 {
                // A row of its own.
                let value = "x".repeat(30_000);
                let batch = keyed(&[("large", Some(&value)), ("b", Some("small"))], 17);
                let records = batch.records(1 << 20).unwrap();
                model.extend((next..).zip(records.into_iter().map(|(_, record)| record)));
                batch
            } else {
                random_batch(&mut rng, next, &mut model)
            };
            append_batch(&log, "t", T, batch).unwrap();
        }
        let before = found(&log).len();
        cleaner.clean_what_is_due(at(10_000));
        rewritten += before - found(&log).len();
        holds(&log, &model, &format!("round {round}"));
    }
    let metrics = &log.shared.metrics.log;
    assert_eq!(metrics.compacted_records.get() as usize, rewritten);
    assert!(rewritten > 1_000, "{rewritten}");
    // One record a key, and the newest batch.
    assert!(found(&log).len() < 25, "{}", found(&log).len());
    assert!(rows(&log, Map::Segments) < 12, "{}", rows(&log, Map::Segments));
    log.set_now(at(20_000));
    // What was not cleaned, at most.
    assert!(rows(&log, Map::Journal) <= 1);
    let (before, bytes) = (found(&log), log.shared.read_state().held_bytes());
    drop((log, cleaner));
    let report = check(folder.path()).unwrap();
    assert!(report.sound(), "{report:?}");
    assert_eq!(report.records(), before.len() as u64);
    let log = folder.open();
    assert!(found(&log) == before);
    assert_eq!(log.shared.read_state().held_bytes(), bytes);
    holds(&log, &model, "opened again");
    // It goes on where it was: there is nothing to do.
    let mut cleaner = Cleaner::new(log.clone());
    cleaner.clean_what_is_due(at(20_000));
    assert_eq!(log.shared.metrics.log.compactions.get(), 0);
}

#[test]
fn the_newest_batch_and_what_is_younger_than_the_lag_stay() {
    let log = Log::inline(at(1_000));
    make(
        &log,
        "t",
        &[
            ("cleanup.policy", "compact"),
            ("min.cleanable.dirty.ratio", "0"),
            ("min.compaction.lag.ms", "100"),
        ],
    );
    let mut cleaner = Cleaner::new(log.clone());
    for (i, time) in [1_000, 1_050, 1_090].into_iter().enumerate() {
        put(&log, "k", Some(&i.to_string()), time);
    }
    for (clock, stay) in [
        (1_099, vec![0, 1, 2]),
        (1_100, vec![0, 1, 2]),
        (1_150, vec![1, 2]),
        (9_000, vec![1, 2]),
    ] {
        cleaner.clean_what_is_due(at(clock));
        assert_eq!(offsets(&log), stay, "{clock}");
    }
    put(&log, "k", Some("3"), 9_000);
    cleaner.clean_what_is_due(at(9_000));
    assert_eq!(offsets(&log), [2, 3]);
}

#[test]
fn a_pass_waits_for_the_dirty_ratio_or_the_longest_lag() {
    let log = Log::inline(at(1_000));
    let settings = [("cleanup.policy", "compact"), ("max.compaction.lag.ms", "500")];
    make(&log, "t", &settings);
    let mut cleaner = Cleaner::new(log.clone());
    for key in ["a", "b", "c", "d"] {
        put(&log, key, Some("value"), 1_000);
    }
    cleaner.clean_what_is_due(at(1_000));
    let compactions = || log.shared.metrics.log.compactions.get();
    assert_eq!(compactions(), 1, "all of it was dirty");
    put(&log, "a", Some("again"), 1_100);
    put(&log, "a", Some("again"), 1_100);
    // Three clean, and two dirty that may be cleaned.
    for (clock, passes) in [(1_100, 1), (1_500, 1), (1_501, 2)] {
        cleaner.clean_what_is_due(at(clock));
        assert_eq!(compactions(), passes, "{clock}");
    }
    assert_eq!(log.shared.metrics.log.dirty_ratio.get(), 0.0);
}

#[test]
fn a_tombstone_goes_a_while_after_it_was_first_cleaned() {
    let log = Log::inline(at(1_000));
    make(
        &log,
        "t",
        &[
            ("cleanup.policy", "compact"),
            ("min.cleanable.dirty.ratio", "0"),
            ("delete.retention.ms", "100"),
        ],
    );
    let mut cleaner = Cleaner::new(log.clone());
    put(&log, "k", Some("x"), 1_000);
    put(&log, "k", None, 1_000);
    for (clock, key, stay) in [
        (2_000, "a", vec![1, 2]),
        (2_099, "b", vec![1, 2, 3]),
        (2_100, "c", vec![2, 3, 4]),
    ] {
        put(&log, key, Some("x"), 1_000);
        cleaner.clean_what_is_due(at(clock));
        assert_eq!(offsets(&log), stay, "{clock}");
    }
}

#[test]
fn a_topic_that_is_deleted_from_as_well_loses_what_is_old() {
    let log = Log::inline(at(1_000));
    make(
        &log,
        "t",
        &[
            ("cleanup.policy", "compact,delete"),
            ("min.cleanable.dirty.ratio", "0"),
            ("retention.ms", "1000"),
        ],
    );
    let mut cleaner = Cleaner::new(log.clone());
    for (key, time) in [("a", 1_000), ("b", 1_000), ("a", 1_500), ("c", 1_600), ("d", 2_500)] {
        put(&log, key, Some("x"), time);
    }
    cleaner.clean_what_is_due(at(1_600));
    assert_eq!(offsets(&log), [1, 2, 3, 4]);
    let log_start = || log.bounds("t", T).unwrap().log_start.0;
    // All four lie in one segment but the newest; it goes with the last batch in it.
    for (clock, start) in [(2_000, 0), (2_001, 2), (2_501, 3), (2_601, 4)] {
        log.set_now(Now {
            mono_us: clock as u64 * 1_000_000,
            wall_ms: clock,
        });
        assert_eq!(log_start(), start, "{clock}");
        assert_eq!(rows(&log, Map::Segments), usize::from(start < 4));
        cleaner.clean_what_is_due(at(clock));
    }
    assert_eq!(offsets(&log), [4]);
}

/// What somebody does between the cleaner's look and its commit, and what is there then.
fn meanwhile(change: impl FnOnce(&Log, &Topic), stay: &[u64]) {
    let log = Log::inline(at(1_000));
    make(
        &log,
        "t",
        &[("cleanup.policy", "compact,delete"), ("min.cleanable.dirty.ratio", "0")],
    );
    for key in ["a", "a", "b", "c"] {
        put(&log, key, Some("x"), 1_000);
    }
    let mut cleaner = Cleaner::new(log.clone());
    assert!(!cleaner.clean_but(at(1_000), || change(&log, &Topic::parse("t").unwrap())));
    assert_eq!(offsets(&log), stay);
}

#[test]
fn what_changed_meanwhile_is_left_to_the_next_pass() {
    let cut = |log: &Log, topic: &Topic| {
        let (topic, partition, to) = (topic.clone(), T, Some(Offset(1)));
        let cuts = vec![Cut { topic, partition, to }];
        log.delete_records(cuts, Waker::noop()).wait().unwrap();
    };
    meanwhile(cut, &[1, 2, 3]);
    let alter = |log: &Log, topic: &Topic| {
        let change = TopicChange {
            name: topic.clone(),
            settings: vec![("cleanup.policy".into(), SettingChange::Set("delete".into()))],
            replaces_all: false,
        };
        log.alter_topic(change, Waker::noop()).wait().unwrap();
    };
    meanwhile(alter, &[0, 1, 2, 3]);
    let make_anew = |log: &Log, topic: &Topic| {
        log.delete_topic(topic, Waker::noop()).wait().unwrap();
        make(log, "t", &[("cleanup.policy", "compact")]);
    };
    meanwhile(make_anew, &[]);
    let moved = |log: &Log, _: &Topic| Cleaner::new(log.clone()).clean_what_is_due(at(1_000));
    meanwhile(moved, &[1, 2, 3]);
}

#[test]
fn a_record_without_a_key_is_refused_and_one_from_before_goes() {
    let log = Log::inline(at(1_000));
    make(&log, "t", &[("cleanup.policy", "compact")]);
    let refused = append(&log, "t", None, "x", 1).unwrap_err();
    assert_eq!(refused.code, Code::InvalidRecord);
    assert!(refused.why.contains("Try: a key"), "{}", refused.why);
    append(&log, "t", Some("k"), "x", 1).unwrap();
}

#[test]
fn a_batch_that_does_not_open_stops_the_compaction_of_its_partition_alone() {
    let log = Log::inline(at(1_000));
    make(
        &log,
        "t",
        &[("cleanup.policy", "compact,delete"), ("min.cleanable.dirty.ratio", "0")],
    );
    put(&log, "a", Some("1"), 1_000);
    let mut bytes = keyed(&[("a", Some("2"))], 1_000).bytes().to_vec();
    bytes[61] = 0x80;
    batch::stamp_append_time(&mut bytes, 1_000);
    append_batch(&log, "t", T, Batch::parse(bytes.into()).unwrap()).unwrap();
    for _ in 0..3 {
        put(&log, "a", Some("3"), 1_000);
        append_batch(&log, "t", Partition(1), keyed(&[("a", Some("x"))], 1_000)).unwrap();
    }
    let mut cleaner = Cleaner::new(log.clone());
    cleaner.clean_what_is_due(at(1_000));
    let gauges = &log.shared.metrics.log;
    assert_eq!((gauges.uncleanable.get(), gauges.compacted_records.get()), (1, 1));
    assert_eq!(records(&log, "t", Partition(1), 0).len(), 2);
    assert_eq!(
        log.shared.read_state().topics.values().next().unwrap().partitions[0]
            .index
            .len(),
        5
    );
    // Once it is past, it goes on.
    let to = Some(Offset(2));
    let (topic, partition) = (Topic::parse("t").unwrap(), T);
    log.delete_records(vec![Cut { topic, partition, to }], Waker::noop())
        .wait()
        .unwrap();
    cleaner.clean_what_is_due(at(1_000));
    assert_eq!(gauges.uncleanable.get(), 0);
    assert_eq!(offsets(&log), [3, 4]);
}

/// A depot of a machine that loses power.
struct Powered(Machine);

impl Depot for Powered {
    fn open(&self, _verify: bool) -> Result<(Box<dyn Store>, Identity), StoreError> {
        let identity = Identity {
            format: FORMAT,
            store_id: [3; 16],
            generation: 0,
        };
        Ok((Box::new(self.0.open()?), identity))
    }

    fn set_aside(&self) -> Result<String, StoreError> {
        Err(StoreError::Io(
            "a store that only lost its power is to be set aside".into(),
        ))
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        Ok(Usage::default())
    }
}

#[test]
fn a_power_cut_at_any_point_of_a_pass_loses_nothing_and_the_next_pass_goes_on() {
    let (mut in_passes, mut removed) = (0, 0);
    for seed in 0..12 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut machine = Machine::new(seed);
        let mut model = Found::new();
        for cut in 0..12 {
            machine.set_operations_left(u64::MAX);
            let mut options = inline::options(at(1_000));
            options.storage.tail_bytes = 0;
            let log = inline::open_in(Box::new(Powered(machine.clone())), options).unwrap();
            if cut == 0 {
                let settings = [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.1")];
                make(&log, "t", &settings);
            }
            // What was not told may be there all the same, whole.
            let there = log.bounds("t", T).unwrap().high_watermark.0;
            model.retain(|offset, _| *offset < there);
            holds(&log, &model, &format!("seed {seed}, cut {cut}"));
            let keys_max = if rng.bool() { 5 } else { 100 };
            let mut cleaner = Cleaner::within(log.clone(), keys_max, 3_000);
            machine.set_operations_left(rng.u64(20..1_200));
            loop {
                let next = model.keys().last().map_or(0, |last| last + 1);
                let batch = random_batch(&mut rng, next, &mut model);
                if append_beside(&log, batch).is_err() {
                    break;
                }
                if rng.u8(..8) == 0 {
                    let before = log.shared.metrics.log.compacted_records.get();
                    let passes = log.shared.metrics.log.compactions.get();
                    cleaner.clean_what_is_due(at(2_000));
                    let gone = log.shared.metrics.log.compacted_records.get() - before;
                    removed += gone;
                    in_passes += usize::from(gone > 0 && log.shared.metrics.log.compactions.get() == passes);
                }
            }
            drop((log, cleaner));
            machine = machine.after_cut();
        }
    }
    assert!(in_passes > 10, "{in_passes}");
    assert!(removed > 1_000, "{removed}");
}

#[test]
fn what_is_laid_together_and_what_is_compacted_meet_in_any_order() {
    for seed in 0..8 {
        let folder = Folder::new();
        let mut options = folder.options();
        options.storage.tail_bytes = 0;
        let log = inline::open_directory(options).unwrap();
        make(
            &log,
            "t",
            &[("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0")],
        );
        let (mut rng, mut model, mut others) = (fastrand::Rng::with_seed(seed), Found::new(), 0);
        let mut cleaner = Cleaner::within(log.clone(), 1 << 10, 3_000);
        for _ in 0..150 {
            match rng.u8(..10) {
                0 => cleaner.clean_what_is_due(at(10_000)),
                1 => log.shared.keeper.with(|store| store.checkpoint()).unwrap(),
                2 => {
                    // Packed by headwater; in the partition by its key.
                    let key = ["a", "b"].into_iter().find(|key| partition_of(key) == T).unwrap_or("c");
                    let appended = append(&log, "t", Some(key), "packed", 17).unwrap();
                    if appended.partition == T {
                        model.insert(appended.base_offset.0, record(Some(key), "packed", 17));
                    }
                }
                _ => {
                    let next = model.keys().last().map_or(0, |last| last + 1);
                    let batch = random_batch(&mut rng, next, &mut model);
                    append_beside(&log, batch).unwrap();
                    others += 1;
                }
            }
        }
        holds(&log, &model, &format!("seed {seed}"));
        let before = found(&log);
        drop((log, cleaner));
        let report = check(folder.path()).unwrap();
        assert!(report.sound(), "{report:?}");
        let log = folder.open();
        assert!(found(&log) == before, "seed {seed}");
        let other: usize = (0..4).map(|p| records(&log, "other", Partition(p), 0).len()).sum();
        assert_eq!(other, others, "seed {seed}");
    }
}

#[test]
fn readers_and_producers_go_on_while_it_is_cleaned() {
    let folder = Folder::new();
    let mut options = folder.options();
    options.storage.tail_bytes = 0;
    let Opening {
        log,
        writer,
        reader,
        checkpointer,
        ..
    } = Log::open(options).unwrap();
    let threads = [
        std::thread::spawn(move || writer.run(|| now(1_000))),
        std::thread::spawn(move || reader.run()),
        std::thread::spawn(move || checkpointer.run()),
    ];
    make(
        &log,
        "t",
        &[("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0")],
    );
    let reads = {
        let log = log.clone();
        std::thread::spawn(move || {
            let mut reads = 0;
            // Until it has seen the last one.
            loop {
                let mut offsets = records(&log, "t", T, 0).into_iter().map(|(offset, _)| offset);
                reads += 1;
                assert!(offsets.clone().is_sorted_by(|a, b| a < b));
                if offsets.any(|offset| offset == 1_999) {
                    return reads;
                }
            }
        })
    };
    let mut cleaner = Cleaner::within(log.clone(), 1 << 10, 2_000);
    for i in 0..2_000 {
        let (key, value) = (format!("k{}", i % 7), i.to_string());
        append_beside(&log, keyed(&[(&key, Some(&value))], 1_000)).unwrap();
        if i % 50 == 49 {
            cleaner.clean_what_is_due(at(1_000));
        }
    }
    assert!(reads.join().unwrap() > 1);
    cleaner.clean_what_is_due(at(1_000));
    // The newest batch is not looked at, so that of its key the one before is there, too.
    assert_eq!(offsets(&log), (1_992..2_000).collect::<Vec<_>>());
    log.stop();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
