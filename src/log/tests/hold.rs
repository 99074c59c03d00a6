//! Retention waits for who carries records away, up to a cap; and what the quota takes all the same.

use super::*;
use crate::config::Quota;

/// Wants every topic whose name begins so.
fn carrier(name: &str, wants: &'static str) -> Carrier {
    Carrier {
        name: name.into(),
        wants: Arc::new(move |topic| topic.as_str().starts_with(wants)),
    }
}

fn options() -> OpenOptions {
    let mut options = inline::options(now(10_000));
    options.carriers = vec![carrier("a", ""), carrier("b", "t")];
    options.storage.quota = Quota::Bytes(8 << 20);
    options
}

fn open() -> Log {
    inline::open_in(Box::new(memory::MemoryDepot::default()), options()).unwrap()
}

const HOLD: [(&str, &str); 2] = [("hold.until.forwarded", "true"), ("retention.ms", "1000")];

/// So many batches of one record, one a millisecond from `from` on.
fn add(log: &Log, topic: &str, from: i64, count: i64, bytes: usize) {
    for at in 0..count {
        let record = record(None, &"x".repeat(bytes), from + at);
        let batch = Batch::parse(batch::pack(&[record]).into()).unwrap();
        append_batch(log, topic, Partition(0), batch).unwrap();
    }
}

fn tell(log: &Log, carrier: &str, topic: &str, floor: u64) {
    let id = log.topic(topic).unwrap().id;
    log.set_floor(carrier, id, Partition(0), Some(Offset(floor)));
}

fn start(log: &Log, topic: &str) -> u64 {
    log.bounds(topic, Partition(0)).unwrap().log_start.0
}

fn losses(log: &Log) -> Vec<(u64, u64, LossReason)> {
    let found = log.losses().into_iter().map(|found| found.loss);
    found
        .map(|loss| (loss.offset_first, loss.offset_last, loss.reason))
        .collect()
}

#[test]
fn retention_waits_for_the_lowest_floor_and_for_those_who_have_not_told() {
    let log = open();
    make(&log, "t", &HOLD);
    add(&log, "t", 10_000, 6, 10);
    log.set_now(now(20_000));
    assert_eq!(start(&log, "t"), 0, "nobody told");
    tell(&log, "a", "t", 5);
    log.set_now(now(20_001));
    assert_eq!(start(&log, "t"), 0, "one did not tell");
    for (floor, expected) in [(2, 2), (4, 4), (6, 5)] {
        tell(&log, "b", "t", floor);
        log.set_now(now(20_002));
        assert_eq!(start(&log, "t"), expected, "b is at {floor}");
    }
    assert_eq!(losses(&log), []);
    // A name that the log was not opened with holds nothing and lets nothing go.
    tell(&log, "c", "t", 6);
    log.set_now(now(20_003));
    assert_eq!(start(&log, "t"), 5);
}

#[test]
fn who_does_not_want_a_topic_is_not_waited_for_nor_anybody_where_the_topic_does_not_hold() {
    let log = open();
    make(&log, "other", &HOLD);
    make(&log, "t", &[("retention.ms", "1000")]);
    add(&log, "other", 10_000, 3, 10);
    add(&log, "t", 10_000, 3, 10);
    tell(&log, "a", "other", 2);
    log.set_now(now(20_000));
    assert_eq!((start(&log, "other"), start(&log, "t")), (2, 3));
    // Settings that change are in force at once.
    let off = TopicChange {
        name: Topic::parse("other").unwrap(),
        settings: vec![("hold.until.forwarded".into(), SettingChange::Set("false".into()))],
        replaces_all: false,
    };
    log.alter_topic(off, Waker::noop()).wait().unwrap();
    log.set_now(now(20_001));
    assert_eq!(start(&log, "other"), 3);
}

#[test]
fn size_waits_as_well_and_a_batch_that_went_in_part_stays_whole() {
    let log = open();
    make(&log, "t", &[("hold.until.forwarded", "true"), ("retention.bytes", "1")]);
    let three: Vec<_> = (0..3).map(|_| record(None, "x", 1)).collect();
    for _ in 0..3 {
        let batch = Batch::parse(batch::pack(&three).into()).unwrap();
        append_batch(&log, "t", Partition(0), batch).unwrap();
    }
    tell(&log, "a", "t", 9);
    for (floor, expected) in [(2, 0), (5, 3), (6, 6), (9, 6)] {
        tell(&log, "b", "t", floor);
        log.set_now(now(20_000));
        assert_eq!(start(&log, "t"), expected, "b is at {floor}");
    }
}

#[test]
fn the_cap_in_time_counts_from_when_records_came_in_and_leaves_a_marker() {
    let log = open();
    make(&log, "t", &[HOLD[0], HOLD[1], ("hold.max.ms", "5000")]);
    log.set_now(now(10_000));
    // Old already when they came in: nothing but the hold keeps them.
    add(&log, "t", 1_000, 4, 10);
    tell(&log, "a", "t", 4);
    tell(&log, "b", "t", 1);
    log.set_now(now(15_000));
    assert_eq!(start(&log, "t"), 1);
    log.set_now(now(15_001));
    assert_eq!(start(&log, "t"), 4);
    assert_eq!(losses(&log), [(1, 3, LossReason::HoldMax)]);
    let metrics = &log.shared.metrics.log;
    assert_eq!(
        (metrics.unforwarded_records.get(), metrics.expired_records.get()),
        (3, 4)
    );
}

#[test]
fn the_cap_in_bytes_keeps_as_much_of_a_partition() {
    let log = open();
    make(&log, "t", &[HOLD[0], HOLD[1], ("hold.max.bytes", "3000")]);
    add(&log, "t", 10_000, 10, 1_000 - 70);
    log.set_now(now(20_000));
    let kept = log.shared.read_state().held_bytes();
    assert!((3_000..4_100).contains(&kept), "{kept}");
    let first = start(&log, "t");
    assert_eq!(losses(&log), [(0, first - 1, LossReason::HoldMax)]);
}

#[test]
fn after_a_restart_nothing_is_taken_until_it_is_told_again() {
    let folder = Folder::new();
    let opened = || {
        let OpenOptions { carriers, .. } = options();
        inline::open_directory(OpenOptions {
            carriers,
            ..folder.options()
        })
        .unwrap()
    };
    let log = opened();
    make(&log, "t", &HOLD);
    add(&log, "t", 1, 5, 10);
    ["a", "b"].iter().for_each(|carrier| tell(&log, carrier, "t", 2));
    log.set_now(now(20_000));
    assert_eq!(start(&log, "t"), 2);
    drop(log);
    let log = opened();
    log.set_now(now(30_000));
    assert_eq!(start(&log, "t"), 2);
    ["a", "b"].iter().for_each(|carrier| tell(&log, carrier, "t", 3));
    log.set_now(now(30_001));
    assert_eq!(start(&log, "t"), 3);
}

#[test]
fn the_quota_takes_held_records_last_of_their_priority_and_says_so() {
    let log = open();
    // Older than what comes after it, and of the same priority; then one that matters more.
    make(&log, "t", &[HOLD[0]]);
    make(&log, "free", &[]);
    make(&log, "high", &[("priority", "9")]);
    tell(&log, "a", "t", 4);
    tell(&log, "b", "t", 4);
    let fill = |topic, from: i64, count| {
        for at in 0..count {
            log.set_now(now(from + at));
            add(&log, topic, from + at, 1, 256 << 10);
        }
    };
    fill("t", 10_000, 10);
    fill("free", 11_000, 10);
    fill("high", 12_000, 4);
    let (mut at, mut seen) = (13_000, Vec::new());
    while start(&log, "high") == 0 {
        fill("high", at, 1);
        at += 1;
        seen.push((start(&log, "t"), start(&log, "free")));
        seen.dedup();
    }
    // First what is forwarded, then what nobody has to forward, then what is held.
    let order = |&(t, free): &(u64, u64)| (t.min(4), free, t);
    assert!(seen.is_sorted_by_key(order), "{seen:?}");
    assert!(seen.iter().all(|&(t, free)| t <= 4 || free == 10), "{seen:?}");
    assert!(seen.iter().all(|&(t, free)| t >= 4 || free == 0), "{seen:?}");
    assert_eq!(seen.last(), Some(&(10, 10)));
    let told: Vec<_> = log.losses().into_iter().filter(|found| found.topic == "t").collect();
    let told: Vec<_> = told
        .iter()
        .map(|found| (found.loss.offset_first, found.loss.offset_last, found.loss.reason))
        .collect();
    assert_eq!(told, [(0, 3, LossReason::Quota), (4, 9, LossReason::QuotaUnforwarded)]);
    assert_eq!(log.shared.metrics.log.unforwarded_records.get(), 6);
}

#[test]
fn every_reason_reads_back() {
    let key = layout::PartitionKey { topic: 1, partition: 2 };
    for reason in [LossReason::Quota, LossReason::QuotaUnforwarded, LossReason::HoldMax] {
        let loss = Loss {
            offset_first: 1,
            offset_last: 2,
            bytes: 3,
            time_first_ms: 4,
            time_last_ms: 5,
            lost_ms: 6,
            reason,
        };
        let op = loss.op(key);
        let store::Change::Put(value) = op.change else {
            panic!("it is stored")
        };
        let value = value.concat();
        assert_eq!(Loss::decode(&op.key, &value).unwrap(), (key, loss));
        assert_eq!(value.last(), Some(&(reason as u8)));
    }
}
