//! What is past goes, batch by batch, and space with it.

use super::*;
use crate::log::store::Map;

fn add(log: &Log, partition: u32, bytes: usize, time: i64) -> Appended {
    let record = record(None, &"x".repeat(bytes), time);
    let batch = Batch::parse(batch::pack(&[record]).into()).unwrap();
    append_batch(log, "t", Partition(partition), batch).unwrap()
}

fn log_start(log: &Log, partition: u32) -> u64 {
    log.bounds("t", Partition(partition)).unwrap().log_start.0
}

#[test]
fn the_log_start_moves_batch_by_batch_with_time() {
    let log = Log::inline(now(10_000));
    make(&log, "t", &[("retention.ms", "1000")]);
    for time in [9_000, 9_500, 10_000] {
        add(&log, 0, 100, time);
    }
    for (clock, start) in [(10_000, 0), (10_001, 1), (10_501, 2), (11_001, 3)] {
        log.set_now(Now {
            mono_us: clock as u64 * 1_000_000,
            wall_ms: clock,
        });
        assert_eq!(log_start(&log, 0), start, "{clock}");
        assert_eq!(rows(&log, Map::Journal), 3 - start as usize);
    }
    assert_eq!(log.bounds("t", Partition(0)).unwrap().high_watermark, Offset(3));
    assert_eq!(
        read(&log, "t", Partition(0), 2).unwrap_err().code,
        Code::OffsetOutOfRange
    );
    assert_eq!(log.shared.metrics.log.expired_records.get(), 3);
}

#[test]
fn a_timestamp_ahead_of_the_clock_does_not_hold_a_batch_for_ever() {
    let log = Log::inline(now(10_000));
    make(&log, "t", &[("retention.ms", "1000")]);
    add(&log, 0, 100, 4_000_000_000_000);
    log.set_now(now(11_001));
    assert_eq!(log_start(&log, 0), 1);
}

#[test]
fn a_backlog_that_is_past_on_arrival_goes_at_the_next_look_but_not_from_behind_a_younger_batch() {
    let log = Log::inline(now(10_000));
    make(&log, "t", &[("retention.ms", "1000")]);
    add(&log, 0, 100, 5_000);
    add(&log, 1, 100, 10_000);
    add(&log, 1, 100, 5_000);
    log.set_now(now(10_001));
    assert_eq!((log_start(&log, 0), log_start(&log, 1)), (1, 0));
    log.set_now(now(11_001));
    assert_eq!(log_start(&log, 1), 2);
}

#[test]
fn a_packed_batch_goes_with_its_youngest_record() {
    let log = Log::inline(now(10_000));
    make(&log, "t", &[("retention.ms", "1000")]);
    let append = |time| Append::Record {
        topic: Topic::parse("t").unwrap(),
        record: record(Some("k"), "x", time),
    };
    let submission = Submission {
        appends: vec![append(5_000), append(10_000)],
        state: Vec::new(),
    };
    let partition = log.submit(submission, Waker::noop()).wait().unwrap().appended[0].partition;
    log.set_now(now(11_000));
    assert_eq!(log_start(&log, partition.0), 0);
    log.set_now(now(11_001));
    assert_eq!(log_start(&log, partition.0), 2);
}

#[test]
fn a_topic_that_stamps_its_own_time_keeps_a_backlog() {
    let log = Log::inline(now(10_000));
    make(
        &log,
        "t",
        &[("retention.ms", "1000"), ("message.timestamp.type", "LogAppendTime")],
    );
    let partition = append(&log, "t", Some("k"), "x", 5_000).unwrap().partition;
    log.set_now(now(11_000));
    assert_eq!(log_start(&log, partition.0), 0);
    assert_eq!(records(&log, "t", partition, 0)[0].1.timestamp_ms, 10_000);
    log.set_now(now(11_001));
    assert_eq!(log_start(&log, partition.0), 1);
}

#[test]
fn size_keeps_what_fits_as_kafka_does() {
    let log = Log::inline(now(1));
    make(&log, "t", &[("retention.bytes", "3000")]);
    for _ in 0..10 {
        add(&log, 0, 1000 - 70, 1);
    }
    log.set_now(now(2_000));
    let bytes: usize = {
        let kept = read(&log, "t", Partition(0), log_start(&log, 0)).unwrap();
        kept.batches.iter().map(Bytes::len).sum()
    };
    assert!((3000..4100).contains(&bytes), "{bytes}");
}

#[test]
fn a_journal_row_goes_only_when_all_its_batches_are_past() {
    let log = Log::inline(now(10_000));
    make(&log, "t", &[("retention.ms", "1000")]);
    let batch = |time| {
        let bytes = batch::pack(&[record(None, "x", time)]);
        Batch::parse(bytes.into()).unwrap()
    };
    let append = |partition, time| Append::Batch {
        topic: Topic::parse("t").unwrap(),
        partition: Partition(partition),
        batch: batch(time),
    };
    let submission = Submission {
        appends: vec![append(0, 9_000), append(1, 10_000)],
        state: Vec::new(),
    };
    log.submit(submission, Waker::noop()).wait().unwrap();
    log.set_now(now(10_500));
    assert_eq!((log_start(&log, 0), log_start(&log, 1)), (1, 0));
    assert_eq!(rows(&log, Map::Journal), 1);
    assert_eq!(records(&log, "t", Partition(1), 0).len(), 1);
    log.set_now(now(11_600));
    assert_eq!((log_start(&log, 0), log_start(&log, 1)), (1, 1));
    assert_eq!(rows(&log, Map::Journal), 0);
}

#[test]
fn segments_go_one_by_one() {
    let log = Log::inline(now(10_000));
    make(&log, "t", &[("retention.ms", "1000")]);
    add(&log, 0, 100_000, 10_000);
    assert_eq!(rows(&log, Map::Segments), 1);
    log.set_now(now(11_600));
    assert_eq!(rows(&log, Map::Segments), 0);
}

#[test]
fn a_deleted_topic_frees_its_space_and_one_of_the_same_name_begins_anew() {
    let log = Log::inline(now(10_000));
    make(&log, "t", &[]);
    add(&log, 0, 100, 1);
    add(&log, 1, 100_000, 1);
    append_batch(&log, "t", Partition(0), idempotent(5, 0, 0, "x")).unwrap();
    let id = log.topic("t").unwrap().id;
    let watched = Arc::new(Count::default());
    let topic = Topic::parse("t").unwrap();
    let waker = Waker::from(Arc::clone(&watched));
    let _watch = log.watch_partition(&topic, Partition(0), Offset(2), &waker);
    log.delete_topic(&topic, Waker::noop()).wait().unwrap();
    assert_eq!(watched.0.load(Ordering::Relaxed), 1);
    assert!(log.topic("t").is_none());
    log.set_now(now(20_000));
    for map in [Map::Journal, Map::Segments, Map::Producers, Map::Topics] {
        assert_eq!(rows(&log, map), 0, "{map:?}");
    }
    make(&log, "t", &[]);
    assert_ne!(log.topic("t").unwrap().id, id);
    assert_eq!(add(&log, 0, 100, 1).base_offset, Offset(0));
}

#[test]
fn the_high_watermark_of_an_emptied_partition_survives_a_restart() {
    let folder = Folder::new();
    let log = folder.open();
    make(&log, "t", &[("retention.ms", "1000")]);
    add(&log, 0, 100, 1);
    log.set_now(now(100_000));
    assert_eq!(log_start(&log, 0), 1);
    drop(log);
    let log = folder.open();
    let bounds = log.bounds("t", Partition(0)).unwrap();
    assert_eq!((bounds.log_start, bounds.high_watermark), (Offset(1), Offset(1)));
}

#[test]
fn a_silent_producer_is_forgotten_after_a_day() {
    let log = Log::inline(now(1));
    make(&log, "t", &[]);
    append_batch(&log, "t", Partition(0), idempotent(5, 0, 0, "x")).unwrap();
    assert_eq!(rows(&log, Map::Producers), 1);
    log.set_now(now(90_000_000));
    assert_eq!(rows(&log, Map::Producers), 0);
    assert!(append_batch(&log, "t", Partition(0), idempotent(5, 0, 7, "x")).is_ok());
}

#[test]
fn a_producer_that_comes_back_with_the_commit_that_forgets_it_is_not_forgotten() {
    let log = Log::inline(now(1));
    make(&log, "t", &[]);
    append_batch(&log, "t", Partition(0), idempotent(5, 0, 0, "x")).unwrap();
    // The clock jumps, and nobody looks before the batch comes.
    inline::lock(log.inline.as_ref().unwrap()).now = now(90_000_000);
    append_batch(&log, "t", Partition(0), idempotent(5, 0, 1, "x")).unwrap();
    assert_eq!(rows(&log, Map::Producers), 1);
}

#[test]
fn the_gauges_tell_what_is_held() {
    let log = Log::inline(now(10_000));
    make(&log, "t", &[("retention.ms", "1000")]);
    add(&log, 0, 100, 10_000);
    let gauges = &log.shared.metrics.log;
    log.measure();
    assert_eq!((gauges.topics.get(), gauges.partitions.get()), (1, 2));
    assert!(gauges.held_bytes.get() > 100 && gauges.tail_bytes.get() == gauges.held_bytes.get());
    log.set_now(Now {
        mono_us: 20_000_000,
        wall_ms: 20_000,
    });
    log.measure();
    assert_eq!(gauges.held_bytes.get(), 0);
}

#[test]
fn the_space_of_a_deleted_topic_is_given_back_by_a_broker_that_has_nothing_else_to_do() {
    let folder = Folder::new();
    let opening = Log::open(folder.options()).unwrap();
    let (log, writer, checkpointer) = (opening.log, opening.writer, opening.checkpointer);
    let start = std::time::Instant::now();
    let clock = move || Now {
        mono_us: start.elapsed().as_micros() as u64,
        wall_ms: 1,
    };
    let threads = [
        std::thread::spawn(move || writer.run(clock)),
        std::thread::spawn(move || checkpointer.run()),
    ];
    for i in 0..80 {
        append(&log, "t", Some("k"), &"x".repeat(100_000), i).unwrap();
    }
    let blocks = |file: std::io::Result<std::fs::DirEntry>| {
        std::os::unix::fs::MetadataExt::blocks(&file.unwrap().metadata().unwrap())
    };
    let data = folder.path().join(crate::log::depot::DATA);
    let taken = || std::fs::read_dir(&data).unwrap().map(blocks).sum::<u64>() * 512;
    while !data.exists() || taken() < 4_000_000 {
        assert!(start.elapsed().as_secs() < 60, "nothing was flushed");
        std::thread::yield_now();
    }
    log.delete_topic(&Topic::parse("t").unwrap(), Waker::noop())
        .wait()
        .unwrap();
    while taken() > 1_000_000 {
        assert!(start.elapsed().as_secs() < 60, "{} bytes are still taken", taken());
        std::thread::yield_now();
    }
    log.stop();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
