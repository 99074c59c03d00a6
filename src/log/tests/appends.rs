//! Records and state in, batches out.

use super::*;

#[test]
fn a_record_is_read_back_at_the_offset_that_its_ticket_told() {
    let log = Log::inline(now(1000));
    let appended = append(&log, "t", Some("key"), "value", 900).unwrap();
    assert_eq!(appended.base_offset, Offset(0));
    assert_eq!(appended.append_time_ms, None);
    let records = records(&log, "t", appended.partition, 0);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].1, record(Some("key"), "value", 900));
}

#[test]
fn records_of_one_submission_share_a_batch_a_partition() {
    let log = Log::inline(now(1));
    let topic = Topic::parse("t").unwrap();
    let appends = (0..10).map(|i| Append::Record {
        topic: topic.clone(),
        record: record(Some("same"), &i.to_string(), i),
    });
    let submission = Submission {
        appends: appends.collect(),
        state: Vec::new(),
    };
    let committed = log.submit(submission, Waker::noop()).wait().unwrap();
    let offsets: Vec<u64> = committed
        .appended
        .iter()
        .map(|appended| appended.base_offset.0)
        .collect();
    assert_eq!(offsets, (0..10).collect::<Vec<u64>>());
    let read = read(&log, "t", committed.appended[0].partition, 0).unwrap();
    assert_eq!(read.batches.len(), 1);
    assert_eq!(read.offset_next, Offset(10));
}

#[test]
fn small_and_large_records_of_one_commit_keep_their_order() {
    let log = Log::inline(now(1));
    let values: Vec<String> = [10, 10, 20_000, 10, 20_000].map(|bytes| "x".repeat(bytes)).into();
    let appends = values.iter().map(|value| Append::Record {
        topic: Topic::parse("t").unwrap(),
        record: record(Some("same"), value, 1),
    });
    let submission = Submission {
        appends: appends.collect(),
        state: Vec::new(),
    };
    let committed = log.submit(submission, Waker::noop()).wait().unwrap();
    let read = records(&log, "t", committed.appended[0].partition, 0);
    let read: Vec<(u64, usize)> = read
        .iter()
        .map(|(o, r)| (*o, r.value.as_ref().unwrap().len()))
        .collect();
    assert_eq!(read, [(0, 10), (1, 10), (2, 20_000), (3, 10), (4, 20_000)]);
}

#[test]
fn a_submission_whose_expectation_fails_leaves_nothing_not_even_an_offset() {
    let log = Log::inline(now(1));
    let partition = append(&log, "t", Some("k"), "first", 1).unwrap().partition;
    let change = |expect, value: &str| StateChange {
        table: Table::Devices,
        key: b"device".to_vec(),
        expect,
        value: Some(value.into()),
    };
    let submission = |expect, value: &str| Submission {
        appends: vec![Append::Record {
            topic: Topic::parse("t").unwrap(),
            record: record(Some("k"), value, 1),
        }],
        state: vec![change(expect, value)],
    };
    let stored = log
        .submit(submission(Expect::Absent, "1"), Waker::noop())
        .wait()
        .unwrap();
    assert_eq!(stored.appended[0].base_offset, Offset(1));
    let refused = log
        .submit(submission(Expect::Absent, "2"), Waker::noop())
        .wait()
        .unwrap_err();
    assert_eq!(refused.code, Code::Conflict);
    assert_eq!(log.state(Table::Devices, b"device").unwrap(), Some(b"1".to_vec()));
    let stored = log
        .submit(submission(Expect::Value(b"1".to_vec()), "3"), Waker::noop())
        .wait()
        .unwrap();
    assert_eq!(stored.appended[0].base_offset, Offset(2));
    assert_eq!(log.bounds("t", partition).unwrap().high_watermark, Offset(3));
}

#[test]
fn a_producers_batch_keeps_its_bytes_but_for_offset_and_epoch() {
    let log = Log::inline(now(1));
    let partition = append(&log, "t", Some("k"), "first", 1).unwrap().partition;
    let bytes = batch::pack(&[record(None, "a", 5), record(None, "b", 6)]);
    let batch = Batch::parse(bytes.clone().into()).unwrap();
    let appended = append_batch(&log, "t", partition, batch).unwrap();
    assert_eq!(appended.base_offset, Offset(1));
    let read = read(&log, "t", partition, 1).unwrap();
    let stored = read.batches.last().unwrap();
    assert_eq!(stored[..8], 1u64.to_be_bytes());
    assert_eq!(stored[16..], bytes[16..]);
}

#[test]
fn an_idempotent_producers_resend_is_stored_once() {
    let log = Log::inline(now(1));
    let partition = append(&log, "t", Some("k"), "first", 1).unwrap().partition;
    let batch = |sequence| idempotent(7, 0, sequence, "x");
    let first = append_batch(&log, "t", partition, batch(0)).unwrap();
    let resent = append_batch(&log, "t", partition, batch(0)).unwrap();
    assert_eq!((resent.base_offset, resent.duplicate), (first.base_offset, true));
    let gap = append_batch(&log, "t", partition, batch(2)).unwrap_err();
    assert_eq!(gap.code, Code::OutOfOrderSequence);
    assert_eq!(log.bounds("t", partition).unwrap().high_watermark, Offset(2));
}

#[test]
fn reads_outside_of_the_log_are_refused() {
    let log = Log::inline(now(1));
    let partition = append(&log, "t", Some("k"), "v", 1).unwrap().partition;
    assert_eq!(read(&log, "t", partition, 2).unwrap_err().code, Code::OffsetOutOfRange);
    assert!(read(&log, "t", partition, 1).unwrap().batches.is_empty());
    assert_eq!(read(&log, "u", partition, 0).unwrap_err().code, Code::UnknownTopic);
}

#[test]
fn a_large_batch_gets_a_row_of_its_own_and_reads_back() {
    let log = Log::inline(now(1));
    let value = "x".repeat(300_000);
    let appended = append(&log, "t", Some("k"), &value, 1).unwrap();
    let small = append(&log, "t", Some("k"), "small", 2).unwrap();
    assert_eq!(small.base_offset, Offset(1));
    let records = records(&log, "t", appended.partition, 0);
    assert_eq!(records[0].1.value.as_ref().map(Bytes::len), Some(300_000));
    assert_eq!(records[1].1, record(Some("k"), "small", 2));
}

#[test]
fn watches_wake_once_what_they_wait_for_is_durable() {
    let log = Log::inline(now(1));
    let partition = append(&log, "t", Some("k"), "v", 1).unwrap().partition;
    let topic = Topic::parse("t").unwrap();
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let _partition = log.watch_partition(&topic, partition, Offset(1), &waker);
    let _commits = log.watch_commits(log.commit_number(), &waker);
    let dropped = log.watch_commits(log.commit_number(), &waker);
    drop(dropped);
    assert_eq!(count.0.load(Ordering::Relaxed), 0);
    append(&log, "t", Some("k"), "v", 1).unwrap();
    append(&log, "t", Some("k"), "v", 1).unwrap();
    assert!((1..=2).contains(&count.0.load(Ordering::Relaxed)));
}

#[test]
fn who_follows_gets_the_partitions_that_moved_and_one_wake() {
    let log = Log::inline(now(1));
    let one = append(&log, "t", Some("k"), "v", 1).unwrap().partition;
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let moves = log.follow();
    let topic = |name| Topic::parse(name).unwrap();
    assert_eq!(moves.take(&waker).len(), 0);
    for _ in 0..2 {
        append(&log, "t", Some("k"), "v", 1).unwrap();
    }
    let other = append(&log, "u", Some("k"), "v", 1).unwrap().partition;
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    let moved: Vec<_> = moves.take(&waker).into_iter().collect();
    assert_eq!(moved, [(topic("t"), one), (topic("u"), other)]);
    assert_eq!(moves.take(&waker).len(), 0);
    log.delete_topic(&topic("t"), Waker::noop()).wait().unwrap();
    assert_eq!(count.0.load(Ordering::Relaxed), 2);
    assert_eq!(moves.take(&waker).len(), 4, "all of a topic that went");
    drop(moves);
    append(&log, "t", Some("k"), "v", 1).unwrap();
    assert_eq!(count.0.load(Ordering::Relaxed), 2);
}

#[test]
fn an_offset_is_found_by_time() {
    let log = Log::inline(now(1));
    let partition = append(&log, "t", Some("k"), "a", 100).unwrap().partition;
    for time in [300, 200, 400] {
        append(&log, "t", Some("k"), "b", time).unwrap();
    }
    let topic = Topic::parse("t").unwrap();
    let find = |time| {
        let found = log
            .offset_for_time(&topic, partition, time, Waker::noop())
            .wait()
            .unwrap();
        found.map(|point| (point.offset.0, point.timestamp_ms))
    };
    assert_eq!(find(0), Some((0, 100)));
    assert_eq!(find(101), Some((1, 300)));
    assert_eq!(find(301), Some((3, 400)));
    assert_eq!(find(401), None);
}
