//! The quota: what goes, in which order, who is refused, and that the markers say the same as the log.

use super::*;
use crate::config::Quota;

const MIB: u64 = 1 << 20;
const QUOTA: u64 = 8 * MIB;

/// Of a store on a disk, whose ring and database count, too.
const QUOTA_ON_DISK: u64 = 32 * MIB;

fn options(quota: u64) -> OpenOptions {
    let mut options = inline::options(now(1));
    options.storage.quota = Quota::Bytes(quota);
    options.topic_defaults.batch_bytes_max = 4 << 20;
    options
}

fn open() -> Log {
    inline::open_in(Box::new(memory::MemoryDepot::default()), options(QUOTA)).unwrap()
}

/// A quarter of a MiB, at a time of the broker.
fn add(log: &Log, topic: &str, partition: u32, ms: i64) -> Result<Appended, Refused> {
    add_bytes(log, topic, partition, ms, 256 << 10)
}

fn add_bytes(log: &Log, topic: &str, partition: u32, ms: i64, bytes: usize) -> Result<Appended, Refused> {
    log.set_now(now(ms));
    let record = record(None, &"x".repeat(bytes), ms);
    let batch = Batch::parse(batch::pack(&[record]).into()).unwrap();
    append_batch(log, topic, Partition(partition), batch)
}

fn starts(log: &Log, topic: &str) -> [u64; 2] {
    [0, 1].map(|partition| log.bounds(topic, Partition(partition)).unwrap().log_start.0)
}

fn held(log: &Log) -> u64 {
    log.shared.read_state().held_bytes()
}

#[test]
fn the_lowest_priority_goes_first_and_of_it_the_oldest() {
    let log = open();
    make(&log, "low", &[("priority", "1")]);
    make(&log, "high", &[("priority", "8")]);
    // 5 MiB, then the other topic comes until the quota is reached, and then some.
    for at in 0..20 {
        add(
            &log,
            if at < 10 { "high" } else { "low" },
            at % 2,
            1_000 + i64::from(at),
        )
        .unwrap();
    }
    assert_eq!(log.losses(), []);
    for at in 20..40 {
        add(&log, "high", at % 2, 1_000 + i64::from(at)).unwrap();
        assert!(held(&log) <= QUOTA);
        let (low, high) = (starts(&log, "low"), starts(&log, "high"));
        assert!(low[0].abs_diff(low[1]) <= 1, "not by age: {low:?}");
        assert!(low == [5, 5] || high == [0, 0], "{low:?} {high:?}");
    }
    assert_eq!(starts(&log, "low"), [5, 5]);
    assert_ne!(starts(&log, "high"), [0, 0]);
    assert!(
        log.shared.metrics.health.degraded()[0]
            .1
            .contains("quota of 8388608 bytes")
    );
}

#[test]
fn the_markers_say_what_went_and_stay_over_a_restart() {
    let folder = Folder::new();
    let folder_options = || OpenOptions {
        data_dir: folder.path().into(),
        ..options(QUOTA_ON_DISK)
    };
    let log = inline::open_directory(folder_options()).unwrap();
    make(&log, "t", &[]);
    let mut last = log.losses();
    for at in 0..40 {
        // Past the ring, which would grow.
        add_bytes(&log, "t", at % 2, 1_000 + i64::from(at), 1 << 20).unwrap();
        let usage = log.shared.keeper.usage().unwrap();
        let used = usage.index_bytes + usage.body_bytes;
        assert!(used <= QUOTA_ON_DISK, "{used} bytes on the disk");
        // As a power cut would leave it.
        let copy = Folder::new();
        if log.losses() != last {
            last = log.losses();
            folder.copy_to(&copy);
            let found = inline::open_directory(OpenOptions {
                data_dir: copy.path().into(),
                ..options(QUOTA_ON_DISK)
            });
            let found = found.unwrap();
            let ends = |log: &Log| {
                let losses = log.losses().into_iter();
                losses
                    .map(|found| (found.partition, found.loss.offset_first, found.loss.offset_last + 1))
                    .collect::<Vec<_>>()
            };
            for (partition, first, next) in ends(&found) {
                assert_eq!((first, next), (0, starts(&found, "t")[partition as usize]));
            }
        }
    }
    let losses = log.losses();
    assert_eq!(losses.len(), 2, "one run of offsets a partition");
    let shed: u64 = losses.iter().map(|found| found.loss.records()).sum();
    assert_eq!(shed, starts(&log, "t").iter().sum::<u64>());
    assert_eq!(shed, log.shared.metrics.log.shed_records.get());
    assert_eq!(
        losses.iter().map(|found| found.loss.bytes).sum::<u64>(),
        log.shared.metrics.log.shed_bytes.get()
    );
    for LossFound { partition, loss, .. } in &losses {
        let last = 1_000 + 2 * loss.offset_last as i64 + i64::from(*partition);
        assert_eq!(
            (loss.time_first_ms, loss.time_last_ms),
            (1_000 + i64::from(*partition), last)
        );
    }
    log.set_now(now(2_000));
    let starts_before = starts(&log, "t");
    log.stop();
    drop(log);
    let log = inline::open_directory(folder_options()).unwrap();
    assert_eq!((log.losses(), starts(&log, "t")), (losses, starts_before));
}

#[test]
fn a_topic_that_refuses_does_so_at_its_turn_and_takes_records_again_when_there_is_room() {
    let log = open();
    make(&log, "keep", &[("priority", "3"), ("shed", "refuse")]);
    make(&log, "low", &[("priority", "3")]);
    make(&log, "high", &[("priority", "9")]);
    let batch = |sequence| idempotent(7, 0, sequence, "kept");
    append_batch(&log, "keep", Partition(0), batch(0)).unwrap();
    for at in 0..8 {
        add(&log, "keep", 1, 1_000 + at).unwrap();
        add(&log, "low", 1, 1_000 + at).unwrap();
        add(&log, "high", 1, 1_000 + at).unwrap();
    }
    // Some of `low` went in its place; with none of it left, no more of `high` goes for it than the first time.
    assert_eq!(starts(&log, "high"), [0, 0]);
    let refused = loop {
        match add(&log, "keep", 1, 2_000) {
            Ok(_) => assert!(held(&log) <= QUOTA),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.code, Code::Quota);
    assert!(refused.why.contains("shed = refuse"), "{}", refused.why);
    assert_eq!(starts(&log, "low")[1], 8);
    assert_eq!(starts(&log, "keep"), [0, 0], "it keeps what it has");
    // What is stored already is acked again.
    assert!(append_batch(&log, "keep", Partition(0), batch(0)).unwrap().duplicate);
    assert_eq!(
        append_batch(&log, "keep", Partition(0), batch(1)).unwrap_err().code,
        Code::Quota
    );
    add(&log, "high", 0, 2_001).unwrap();
    log.delete_topic(&Topic::parse("high").unwrap(), Waker::noop())
        .wait()
        .unwrap();
    add(&log, "low", 0, 10_000).unwrap();
    add(&log, "keep", 1, 20_000).unwrap();
    append_batch(&log, "keep", Partition(0), batch(1)).unwrap();
    assert_eq!(log.shared.metrics.health.degraded(), []);
}

#[test]
fn with_nothing_left_to_shed_everything_is_refused() {
    let log = open();
    make(&log, "keep", &[("shed", "refuse")]);
    make(&log, "low", &[]);
    while add(&log, "keep", 0, 1_000).is_ok() {
        assert!(held(&log) <= QUOTA);
    }
    assert!(held(&log) > QUOTA - 3 * MIB);
    let refused = add(&log, "low", 0, 2_000).unwrap_err();
    assert_eq!(refused.code, Code::Quota);
    assert!(refused.why.contains("nothing is left to shed"), "{}", refused.why);
    assert!(
        log.shared.metrics.health.degraded()[0]
            .1
            .contains("so records are refused")
    );
    assert_eq!((starts(&log, "keep"), log.losses()), ([0, 0], Vec::new()));
}

/// Nothing is flushed any more once everything is past, and so nothing would be measured.
#[test]
fn records_are_taken_again_when_all_that_took_the_space_is_past() {
    let folder = Folder::new();
    let options = OpenOptions {
        data_dir: folder.path().into(),
        ..options(QUOTA_ON_DISK)
    };
    let log = inline::open_directory(options).unwrap();
    make(&log, "keep", &[("shed", "refuse"), ("retention.ms", "10000")]);
    make(&log, "low", &[]);
    while add(&log, "keep", 0, 1_000).is_ok() {}
    assert_eq!(add(&log, "low", 0, 1_001).unwrap_err().code, Code::Quota);
    log.set_now(now(20_000));
    add(&log, "low", 0, 20_001).unwrap();
    add(&log, "keep", 0, 20_002).unwrap();
    assert_eq!((log.losses(), log.shared.metrics.health.degraded()), (vec![], vec![]));
}

/// A burst between two looks of retention is kept within the quota by retention, where that is enough.
#[test]
fn what_retention_would_remove_anyway_is_no_loss_in_a_burst_either() {
    let log = open();
    make(&log, "t", &[("retention.bytes", "1048576")]);
    for _ in 0..60 {
        let record = record(None, &"x".repeat(256 << 10), 1);
        let batch = Batch::parse(batch::pack(&[record]).into()).unwrap();
        append_batch(&log, "t", Partition(0), batch).unwrap();
        assert!(held(&log) <= QUOTA);
    }
    assert_ne!(starts(&log, "t"), [0, 0]);
    assert_eq!(log.losses(), []);
}

#[test]
fn retention_is_no_loss() {
    let log = open();
    make(&log, "t", &[("retention.ms", "10000")]);
    for at in 0..60 {
        add(&log, "t", 0, 1_000 + 1_000 * at).unwrap();
    }
    assert_ne!(starts(&log, "t"), [0, 0]);
    assert_eq!(log.losses(), []);
}
