//! Records of before the clock was trusted: marked, held, and corrected where times count, while what is stored stays
//! as it is.

use super::super::boots::{BootClock, BootState};
use super::super::inline;
use super::*;

const DAY_MS: i64 = 86_400_000;
/// What an untrusted clock says of these tests, and what is right.
const ESTIMATED_MS: i64 = 1_793_500_000_000;
const BY_MS: i64 = 100 * DAY_MS;

fn clock(boot: u8, ms: i64, trusted: bool, correction_ms: Option<i64>) -> BootClock {
    BootClock {
        id: [boot; 16],
        offset_ms: ms,
        trusted,
        correction_ms,
        now: now(ms),
    }
}

/// The clock is not trusted yet.
fn untrusted(boot: u8, ms: i64) -> BootClock {
    clock(boot, ms, false, None)
}

/// It is from now on.
fn trusted(boot: u8, ms: i64) -> BootClock {
    clock(boot, ms + BY_MS, true, Some(BY_MS))
}

fn open_at(folder: &Folder, ms: i64) -> Log {
    let mut options = inline::options(now(ms));
    options.data_dir = folder.path().into();
    inline::open_directory(options).unwrap()
}

/// One record that gets its time from the gateway.
fn own(log: &Log, time: i64) -> Appended {
    append(log, "t", Some("key"), "value", time).unwrap()
}

fn found(log: &Log, partition: Partition, time: i64) -> Option<(u64, i64)> {
    let topic = Topic::parse("t").unwrap();
    let found = log.offset_for_time(&topic, partition, time, Waker::noop()).wait();
    found.unwrap().map(|point| (point.offset.0, point.timestamp_ms))
}

fn timestamps(log: &Log, partition: Partition) -> Vec<i64> {
    let batches = read(log, "t", partition, 0).unwrap().batches;
    let batches = batches.into_iter().flat_map(Batch::split);
    let records = batches.flat_map(|batch| batch.unwrap().records(1 << 20).unwrap());
    records.map(|(_, record)| record.timestamp_ms).collect()
}

fn boots(log: &Log) -> Vec<(u32, BootState)> {
    log.boots().iter().map(|boot| (boot.number, boot.state)).collect()
}

#[test]
fn times_are_corrected_once_the_clock_is_trusted_and_what_is_stored_stays() {
    let log = Log::inline(now(ESTIMATED_MS));
    log.set_clock(untrusted(1, ESTIMATED_MS));
    make(&log, "t", &[("retention.ms", "-1")]);
    let partition = own(&log, ESTIMATED_MS + 1).partition;
    own(&log, ESTIMATED_MS + 2);
    // A producer's own time is not the gateway's to correct.
    let batch = Batch::parse(batch::pack(&[record(None, "x", ESTIMATED_MS + 7)]).into()).unwrap();
    append_batch(&log, "t", partition, batch).unwrap();
    let before = timestamps(&log, partition);
    assert_eq!(found(&log, partition, ESTIMATED_MS + BY_MS), None);
    log.set_clock(trusted(1, ESTIMATED_MS + 10));
    own(&log, ESTIMATED_MS + BY_MS + 20);
    assert_eq!(timestamps(&log, partition)[..3], before);
    let at = |ms| found(&log, partition, ms);
    assert_eq!(at(ESTIMATED_MS + BY_MS), Some((0, ESTIMATED_MS + BY_MS + 1)));
    assert_eq!(at(ESTIMATED_MS + BY_MS + 2), Some((1, ESTIMATED_MS + BY_MS + 2)));
    assert_eq!(at(ESTIMATED_MS + BY_MS + 3), Some((3, ESTIMATED_MS + BY_MS + 20)));
    let shifts = [0, 1, 2, 3].map(|offset| log.shift_ms("t", partition, Offset(offset)));
    assert_eq!(shifts, [BY_MS, BY_MS, 0, 0]);
    assert_eq!(log.corrected(ESTIMATED_MS + 5), ESTIMATED_MS + 5 + BY_MS);
    assert_eq!(log.corrected(ESTIMATED_MS + BY_MS), ESTIMATED_MS + BY_MS);
}

#[test]
fn retention_by_time_waits_for_the_clock_and_retention_by_size_does_not() {
    let log = Log::inline(now(ESTIMATED_MS));
    log.set_clock(untrusted(1, ESTIMATED_MS));
    make(&log, "t", &[("retention.ms", "1000"), ("retention.bytes", "1000")]);
    let partition = own(&log, ESTIMATED_MS).partition;
    let start = || log.bounds("t", partition).unwrap().log_start.0;
    log.set_now(now(ESTIMATED_MS + 3 * DAY_MS));
    assert_eq!(start(), 0);
    append(&log, "t", Some("key"), &"x".repeat(1100), ESTIMATED_MS + 3 * DAY_MS).unwrap();
    log.set_now(now(ESTIMATED_MS + 3 * DAY_MS));
    assert_eq!(start(), 1, "by size");
    // By its estimated time it would be past for long; by the right one it is a second old.
    let at = ESTIMATED_MS + 3 * DAY_MS + 1000;
    log.set_clock(trusted(1, at));
    log.set_now(now(at + BY_MS));
    assert_eq!(start(), 1);
    log.set_now(now(at + BY_MS + 1));
    assert_eq!(start(), 2);
    assert_eq!(rows(&log, store::Map::Untrusted), 0, "its mark went with it");
}

#[test]
fn what_was_submitted_before_the_clock_was_set_gets_the_time_of_before() {
    let log = Log::inline(now(ESTIMATED_MS));
    log.set_clock(untrusted(1, ESTIMATED_MS));
    make(&log, "t", &[("message.timestamp.type", "LogAppendTime")]);
    // The rim's clock is trusted already, and the log was not told yet.
    log.set_now(Now {
        mono_us: (ESTIMATED_MS as u64 + 5) * 1000,
        wall_ms: ESTIMATED_MS + BY_MS,
    });
    let partition = own(&log, ESTIMATED_MS).partition;
    assert_eq!(timestamps(&log, partition), [ESTIMATED_MS + 5]);
}

#[test]
fn marks_and_corrections_are_there_after_a_restart_and_a_boot_is_corrected_once() {
    let folder = Folder::new();
    let log = open_at(&folder, ESTIMATED_MS);
    log.set_clock(untrusted(1, ESTIMATED_MS));
    make(&log, "t", &[("retention.ms", "-1")]);
    let partition = own(&log, ESTIMATED_MS + 1).partition;
    own(&log, ESTIMATED_MS + 2);
    assert_eq!(rows(&log, store::Map::Untrusted), 1, "one run of offsets has one mark");
    drop(log);
    // The machine lost its power and boots again, still without a clock.
    let log = open_at(&folder, ESTIMATED_MS + 100);
    assert_eq!(boots(&log), [(0, BootState::Untrusted)]);
    assert!(!log.clock_trusted());
    log.set_clock(untrusted(2, ESTIMATED_MS + 100));
    own(&log, ESTIMATED_MS + 101);
    assert_eq!(rows(&log, store::Map::Untrusted), 2);
    log.set_clock(trusted(2, ESTIMATED_MS + 200));
    let expected = [0, 1, 2].map(|at| (at, timestamps(&log, partition)[at as usize] + BY_MS));
    drop(log);
    let log = open_at(&folder, ESTIMATED_MS + BY_MS);
    let corrected = |until_ms| BootState::Corrected { until_ms, by_ms: BY_MS };
    let known = boots(&log);
    assert_eq!(known[1], (1, corrected(ESTIMATED_MS + 200)));
    assert!(
        matches!(known[0], (0, BootState::Corrected { by_ms: BY_MS, .. })),
        "with the boot after it"
    );
    for (offset, time) in expected {
        assert_eq!(found(&log, partition, time), Some((offset, time)));
    }
    // The same correction again: nothing is added twice.
    log.set_clock(clock(2, ESTIMATED_MS + BY_MS, true, Some(BY_MS)));
    assert_eq!(found(&log, partition, expected[0].1), Some(expected[0]));
    // A later boot forgets those of which nothing is left.
    log.set_clock(clock(3, ESTIMATED_MS + BY_MS + 300, true, None));
    assert_eq!(boots(&log).len(), 3);
    let topic = Topic::parse("t").unwrap();
    log.delete_topic(&topic, Waker::noop()).wait().unwrap();
    log.set_clock(clock(4, ESTIMATED_MS + BY_MS + 400, true, None));
    assert_eq!(boots(&log), [(3, BootState::Trusted)]);
}

#[test]
fn an_idempotent_producer_is_not_forgotten_because_the_clock_was_set() {
    let log = Log::inline(now(ESTIMATED_MS));
    log.set_clock(untrusted(1, ESTIMATED_MS));
    make(&log, "t", &[("retention.ms", "-1")]);
    let first = append_batch(&log, "t", Partition(0), idempotent(7, 0, 0, "a")).unwrap();
    log.set_clock(trusted(1, ESTIMATED_MS + 10));
    log.set_now(now(ESTIMATED_MS + BY_MS + 10));
    let again = append_batch(&log, "t", Partition(0), idempotent(7, 0, 0, "a")).unwrap();
    assert!(again.duplicate && again.base_offset == first.base_offset);
}

#[test]
fn a_log_that_was_told_nothing_of_a_clock_stores_nothing_of_it() {
    let log = Log::inline(now(10));
    make(&log, "t", &[]);
    own(&log, 10);
    assert_eq!(rows(&log, store::Map::Boots) + rows(&log, store::Map::Untrusted), 0);
    assert!(log.clock_trusted());
}
