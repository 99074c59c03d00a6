//! What leaves the journal lies by partition, and readers see what they saw before.

use std::sync::atomic::AtomicBool;

use super::*;

/// A log whose readers find nothing in memory.
fn open(folder: &Folder) -> Log {
    let mut options = folder.options();
    options.storage.tail_bytes = 0;
    inline::open_directory(options).unwrap()
}

fn flush(log: &Log) {
    log.shared.keeper.with(|store| store.checkpoint()).unwrap();
}

/// Batches in the index.
fn batches(log: &Log, topic: &str, partition: usize) -> usize {
    log.shared.read_state().topics[topic].partitions[partition].index.len()
}

/// Everything of a topic of two partitions.
fn all(log: &Log, topic: &str) -> [Vec<(u64, Record)>; 2] {
    [0, 1].map(|partition| records(log, topic, Partition(partition), log_start(log, topic, partition)))
}

fn log_start(log: &Log, topic: &str, partition: u32) -> u64 {
    log.bounds(topic, Partition(partition)).unwrap().log_start.0
}

fn sound(folder: &Folder) {
    let report = check(folder.path()).unwrap();
    assert!(report.damaged.is_empty() && report.unread.is_empty(), "{report:?}");
}

const TOPICS: [&str; 3] = ["a", "b", "c"];

/// Single records, turn by turn.
fn fill(log: &Log, count: usize) {
    for i in 0..count {
        let (topic, key) = (TOPICS[i % 3], format!("{}", i % 7));
        append(log, topic, Some(&key), &format!("{i}: {}", "on ".repeat(40)), i as i64).unwrap();
    }
}

#[test]
fn small_appends_become_one_segment_a_partition_and_read_as_before() {
    let folder = Folder::new();
    let log = open(&folder);
    TOPICS.iter().for_each(|topic| make(&log, topic, &[]));
    fill(&log, 600);
    let before = TOPICS.map(|topic| all(&log, topic));
    let many = batches(&log, "a", 0);
    assert_eq!((rows(&log, Map::Journal), rows(&log, Map::Segments)), (600, 0));
    flush(&log);
    assert_eq!((rows(&log, Map::Journal), rows(&log, Map::Segments)), (0, 6));
    assert!(TOPICS.map(|topic| all(&log, topic)) == before);
    // Packed by headwater: regrouped, and smaller.
    assert!(batches(&log, "a", 0) * 20 < many, "{} of {many}", batches(&log, "a", 0));
    let bytes: u64 = log.shared.read_state().held_bytes();
    assert!(bytes < 600 * 60, "{bytes}");
    fill(&log, 30);
    let before = TOPICS.map(|topic| all(&log, topic));
    drop(log);
    sound(&folder);
    let log = open(&folder);
    assert!(TOPICS.map(|topic| all(&log, topic)) == before);
    assert_eq!(log.shared.read_state().held_bytes(), {
        let state = log.shared.read_state();
        let logs = state.topics.values().flat_map(|topic| &topic.partitions);
        logs.flat_map(|log| &log.index)
            .map(|batch| u64::from(batch.bytes))
            .sum::<u64>()
    });
}

#[test]
fn a_time_is_found_in_what_was_regrouped() {
    let folder = Folder::new();
    let log = open(&folder);
    TOPICS.iter().for_each(|topic| make(&log, topic, &[]));
    fill(&log, 600);
    let topic = Topic::parse("b").unwrap();
    let find = |log: &Log, time| {
        let found = [0, 1].map(|partition| {
            log.offset_for_time(&topic, Partition(partition), time, Waker::noop())
                .wait()
        });
        found.map(|found| found.unwrap().map(|point| (point.offset, point.timestamp_ms)))
    };
    let times = [-1, 0, 1, 77, 299, 450, 598, 600];
    let before = times.map(|time| find(&log, time));
    flush(&log);
    assert_eq!(times.map(|time| find(&log, time)), before);
}

#[test]
fn a_producers_batches_keep_their_bytes() {
    let folder = Folder::new();
    let log = open(&folder);
    make(&log, "t", &[("compression.type", "zstd")]);
    let bytes = |log: &Log| {
        let (mut from, mut out) = (0, Vec::new());
        loop {
            let read = read(log, "t", Partition(0), from).unwrap();
            if read.batches.is_empty() {
                return out;
            }
            from = read.offset_next.0;
            out.extend(read.batches);
        }
    };
    for i in 0..50 {
        append_batch(&log, "t", Partition(0), idempotent(5, 0, i, &"value".repeat(50))).unwrap();
    }
    let before = bytes(&log);
    flush(&log);
    assert_eq!((rows(&log, Map::Journal), rows(&log, Map::Segments)), (0, 1));
    assert_eq!(bytes(&log), before);
    assert_eq!(before.len(), 50);
}

#[test]
fn shares_too_small_for_a_segment_stay_together_until_they_are_many() {
    let folder = Folder::new();
    let log = open(&folder);
    let spec = TopicSpec {
        name: Topic::parse("wide").unwrap(),
        partitions: Some(64),
        settings: Vec::new(),
    };
    log.create_topic(spec, Waker::noop()).wait().unwrap();
    let round = |i: i64| {
        let batch = |partition| {
            let value = format!("{i} {partition} {}", "x".repeat(1000));
            Append::Batch {
                topic: Topic::parse("wide").unwrap(),
                partition: Partition(partition),
                batch: Batch::parse(batch::pack(&[record(None, &value, i)]).into()).unwrap(),
            }
        };
        let submission = Submission {
            appends: (0..64).map(batch).collect(),
            state: Vec::new(),
        };
        log.submit(submission, Waker::noop()).wait().unwrap();
    };
    for i in 0..3 {
        round(i);
    }
    flush(&log);
    assert_eq!((rows(&log, Map::Journal), rows(&log, Map::Segments)), (1, 0));
    for i in 3..130 {
        round(i);
        if i % 3 == 0 {
            flush(&log);
        }
    }
    let values = |log: &Log| [0, 33, 63].map(|partition| records(log, "wide", Partition(partition), 0));
    let before = values(&log);
    assert!(before.iter().all(|records| records.len() == 130));
    flush(&log);
    // About eight megabytes were laid together at once: a segment of each partition.
    assert!(rows(&log, Map::Segments) >= 64, "{}", rows(&log, Map::Segments));
    assert!(rows(&log, Map::Journal) < 10, "{}", rows(&log, Map::Journal));
    assert!(values(&log) == before);
    drop(log);
    sound(&folder);
    assert!(values(&open(&folder)) == before);
}

#[test]
fn a_segment_goes_with_its_last_batch() {
    let folder = Folder::new();
    let log = open(&folder);
    make(&log, "t", &[]);
    for i in 0..40 {
        append_batch(&log, "t", Partition(0), idempotent(5, 0, i, &"v".repeat(200))).unwrap();
    }
    flush(&log);
    let cut = |offset| {
        let cut = Cut {
            topic: Topic::parse("t").unwrap(),
            partition: Partition(0),
            to: Some(Offset(offset)),
        };
        log.delete_records(vec![cut], Waker::noop()).wait().unwrap();
        log.set_now(now(10_000 + offset as i64 * 5000));
    };
    cut(25);
    assert_eq!(rows(&log, Map::Segments), 1);
    assert_eq!(records(&log, "t", Partition(0), 25).len(), 15);
    cut(40);
    append(&log, "t", Some("k"), "more", 1).unwrap();
    assert_eq!(rows(&log, Map::Segments), 0);
    drop(log);
    sound(&folder);
}

#[test]
fn what_became_past_while_it_was_laid_together_goes_all_the_same() {
    let folder = Folder::new();
    let log = open(&folder);
    make(&log, "t", &[("retention.ms", "1000")]);
    for i in 0..40 {
        append_batch(&log, "t", Partition(0), idempotent(5, 0, i, &"v".repeat(200))).unwrap();
    }
    // Memory knows that they are past before the store does.
    log.set_now(now(60_000));
    flush(&log);
    log.set_now(now(120_000));
    append(&log, "t", Some("k"), "more", 120_000).unwrap();
    flush(&log);
    let live = rows(&log, Map::Journal) + rows(&log, Map::Segments);
    assert_eq!(live, 1);
    drop(log);
    sound(&folder);
}

#[test]
fn readers_go_on_while_batches_move() {
    let folder = Folder::new();
    let log = open(&folder);
    TOPICS.iter().for_each(|topic| make(&log, topic, &[]));
    fill(&log, 60);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) || rounds == 0 {
                for topic in TOPICS {
                    for found in all(&log, topic) {
                        assert!(found.iter().zip(0..).all(|((offset, _), wanted)| *offset == wanted));
                    }
                }
                rounds += 1;
            }
        });
        for _ in 0..30 {
            fill(&log, 60);
            flush(&log);
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    let total: usize = TOPICS
        .iter()
        .flat_map(|topic| all(&log, topic))
        .map(|found| found.len())
        .sum();
    assert_eq!(total, 31 * 60);
}
