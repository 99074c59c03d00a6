//! The writer on its thread, and a store that fails.

use std::sync::mpsc::sync_channel;

use super::*;
use crate::log::desk::LARGE_ITEMS;
use crate::log::fault::{Fate, Faulty};
use crate::log::memory::MemoryDepot;
use crate::log::store::StoreError;

fn ask(log: &Log, value: &str) -> Ticket<Committed> {
    let append = Append::Record {
        topic: Topic::parse("t").unwrap(),
        record: record(Some("k"), value, 1),
    };
    let submission = Submission {
        appends: vec![append],
        state: Vec::new(),
    };
    log.submit(submission, Waker::noop())
}

#[test]
fn a_ticket_is_done_only_after_the_commit_and_what_came_meanwhile_shares_the_next() {
    let depot = Faulty::default();
    let Opening { log, writer, .. } = depot.held(now(1));
    let (begun_in, begun) = sync_channel(1);
    let (go, go_out) = sync_channel(1);
    depot.set_gate(begun_in, go_out);
    let thread = std::thread::spawn(move || writer.run(|| now(1)));
    let mut first = ask(&log, "first");
    begun.recv().unwrap();
    assert!(first.take().is_none());
    let mut others: Vec<_> = (0..50).map(|i| ask(&log, &i.to_string())).collect();
    go.send(Fate::Pass).unwrap();
    begun.recv().unwrap();
    assert!(first.take().unwrap().is_ok());
    assert!(others.iter_mut().all(|ticket| ticket.take().is_none()));
    assert_eq!(log.bounds("t", partition_of("k")).unwrap().high_watermark, Offset(1));
    go.send(Fate::PassAll).unwrap();
    for ticket in others {
        ticket.wait().unwrap();
    }
    assert_eq!(depot.commits(), 2);
    log.stop();
    thread.join().unwrap();
}

/// Both of the writer's threads.
fn both(writer: crate::log::Writer) -> [std::thread::JoinHandle<()>; 2] {
    let writer = Arc::new(writer);
    [(); 2].map(|()| {
        let writer = Arc::clone(&writer);
        std::thread::spawn(move || writer.run(|| now(1)))
    })
}

/// Until so few wait that the thread that prepares leaves them until the disk is free.
fn until_most_are_taken(log: &Log) {
    while log.shared.queue.waiting() >= LARGE_ITEMS {
        std::thread::yield_now();
    }
}

fn sequence(number: u8, value: u8) -> Submission {
    let change = StateChange {
        table: Table::Devices,
        key: b"device".to_vec(),
        expect: match number {
            0 => Expect::Absent,
            number => Expect::Value(vec![number - 1]),
        },
        value: Some(vec![value]),
    };
    Submission {
        appends: Vec::new(),
        state: vec![change],
    }
}

#[test]
fn the_next_commit_is_prepared_on_the_one_that_is_on_its_way() {
    let depot = Faulty::default();
    let Opening { log, writer, .. } = depot.held(now(1));
    let (begun_in, begun) = sync_channel(1);
    let (go, go_out) = sync_channel(1);
    let mut tickets = vec![ask(&log, "makes the topic")];
    tickets.extend((0..LARGE_ITEMS).map(|i| ask(&log, &i.to_string())));
    let threads = both(writer);
    tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
    depot.set_gate(begun_in, go_out);
    // A small one keeps the disk busy, so that the large one behind it is one commit.
    let mut first = vec![ask(&log, "busy")];
    let number = begun.recv().unwrap();
    first.extend((0..LARGE_ITEMS).map(|i| ask(&log, &i.to_string())));
    first.push(ask(&log, "last"));
    let device = log.submit(sequence(0, 0), Waker::noop());
    go.send(Fate::Pass).unwrap();
    assert_eq!(begun.recv().unwrap(), number + 1);
    // While that one is at the disk, the second thread works on this: offsets and state go on from what is not durable yet.
    let second: Vec<_> = (0..3 * LARGE_ITEMS).map(|i| ask(&log, &i.to_string())).collect();
    let device_again = log.submit(sequence(1, 1), Waker::noop());
    let stale = log.submit(sequence(0, 9), Waker::noop());
    until_most_are_taken(&log);
    go.send(Fate::Pass).unwrap();
    begun.recv().unwrap();
    let offset = |ticket: Ticket<Committed>| ticket.wait().unwrap().appended[0].base_offset.0;
    let before = first.into_iter().map(offset).max().unwrap();
    assert!(device.wait().is_ok());
    let seen = log.bounds("t", partition_of("k")).unwrap().high_watermark;
    assert_eq!(seen, Offset(before + 1));
    go.send(Fate::PassAll).unwrap();
    let offsets: Vec<_> = second.into_iter().map(offset).collect();
    assert_eq!(
        offsets,
        (before + 1..=before + 3 * LARGE_ITEMS as u64).collect::<Vec<_>>()
    );
    assert!(device_again.wait().is_ok());
    assert_eq!(stale.wait().unwrap_err().code, Code::Conflict);
    assert_eq!(depot.commits() - number, 3);
    log.stop();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn what_was_prepared_on_a_commit_that_failed_is_refused_with_it() {
    let depot = Faulty::default();
    let Opening { log, writer, .. } = depot.held(now(1));
    let (begun_in, begun) = sync_channel(1);
    let (go, go_out) = sync_channel(1);
    let topic = ask(&log, "makes the topic");
    let threads = both(writer);
    topic.wait().unwrap();
    depot.set_gate(begun_in, go_out);
    let mut first = vec![ask(&log, "busy")];
    begun.recv().unwrap();
    first.extend((0..LARGE_ITEMS).map(|i| ask(&log, &i.to_string())));
    go.send(Fate::Pass).unwrap();
    begun.recv().unwrap();
    let second: Vec<_> = (0..3 * LARGE_ITEMS).map(|i| ask(&log, &i.to_string())).collect();
    until_most_are_taken(&log);
    go.send(Fate::Fail(StoreError::Io("no space left".into()))).unwrap();
    let results: Vec<_> = first.into_iter().skip(1).chain(second).map(Ticket::wait).collect();
    assert!(
        results
            .iter()
            .all(|result| result.as_ref().is_err_and(|refused| refused.code == Code::Storage)),
        "{results:?}"
    );
    // It goes on, with the offsets that nothing was stored under.
    assert_eq!(ask(&log, "next").wait().unwrap().appended[0].base_offset, Offset(2));
    log.stop();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn two_large_commits_are_at_the_disk_at_once_and_end_in_order_and_fail_together() {
    let (asked_in, asked) = sync_channel(2);
    let depot = Faulty::default();
    depot.take_two(asked_in);
    let Opening { log, writer, .. } = depot.held(now(1));
    let topic = ask(&log, "makes the topic");
    let threads = both(writer);
    asked.recv().unwrap().send(Ok(())).unwrap();
    topic.wait().unwrap();
    let offset = |ticket: Ticket<Committed>| ticket.wait().map(|done| done.appended[0].base_offset.0);
    let mut next = 1;
    for fails in [None, Some(true), Some(false), None] {
        let many = || -> Vec<_> { (0..LARGE_ITEMS).map(|i| ask(&log, &i.to_string())).collect() };
        // One thread does a small one from end to end, so that what comes meanwhile is one large one.
        let small = ask(&log, "small");
        let of_small = asked.recv().unwrap();
        let mut first = many();
        of_small.send(Ok(())).unwrap();
        assert_eq!(offset(small), Ok(next));
        next += 1;
        let of_first = asked.recv().unwrap();
        let second = many();
        let of_second = asked.recv().unwrap();
        let fate = |of_first| match fails {
            Some(first) if first == of_first => Err(StoreError::Io("no space left".into())),
            _ => Ok(()),
        };
        of_second.send(fate(false)).unwrap();
        assert!(first.iter_mut().all(|ticket| ticket.take().is_none()));
        of_first.send(fate(true)).unwrap();
        for (tickets, fail) in [(first, fails == Some(true)), (second, fails.is_some())] {
            let results: Vec<_> = tickets.into_iter().map(offset).collect();
            if fail {
                let refused = |result: &Result<u64, Refused>| result.as_ref().is_err_and(|it| it.code == Code::Storage);
                assert!(results.iter().all(refused), "{results:?}");
            } else {
                assert!(results.into_iter().eq((next..next + LARGE_ITEMS as u64).map(Ok)));
                next += LARGE_ITEMS as u64;
            }
        }
    }
    log.stop();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn partition_of(key: &str) -> Partition {
    crate::model::name::partition_of_key(key.as_bytes(), 4)
}

#[test]
fn stop_commits_what_is_queued_and_refuses_what_comes_later() {
    let depot = MemoryDepot::default();
    let Opening {
        log, writer, reader, ..
    } = Log::open_in(Box::new(depot), inline::options(now(1))).unwrap();
    let queued = ask(&log, "queued");
    log.stop();
    assert_eq!(ask(&log, "late").wait().unwrap_err().code, Code::Stopping);
    writer.run(|| now(1));
    reader.run();
    assert!(queued.wait().is_ok());
}

#[test]
fn a_full_queue_tells_to_stop_reading_and_then_refuses() {
    let depot = MemoryDepot::default();
    let mut options = inline::options(now(1));
    options.storage.queue_bytes = 10_000;
    let Opening { log, writer, .. } = Log::open_in(Box::new(depot), options).unwrap();
    let value = "x".repeat(4000);
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut tickets = vec![ask(&log, &value), ask(&log, &value)];
    assert!(!log.congested());
    tickets.push(ask(&log, &value));
    assert!(log.congested());
    let _watch = log.watch_room(&waker);
    tickets.push(ask(&log, &value));
    assert_eq!(ask(&log, &value).wait().unwrap_err().code, Code::Busy);
    assert_eq!(count.0.load(Ordering::Relaxed), 0);
    log.stop();
    writer.run(|| now(1));
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert!(!log.congested());
    assert!(tickets.into_iter().all(|ticket| ticket.wait().is_ok()));
}

#[test]
fn a_failed_commit_acks_nothing_and_the_log_goes_on() {
    let depot = Faulty::default();
    let log = depot.inline(now(1));
    append(&log, "t", Some("k"), "kept", 1).unwrap();
    depot.fail_once(StoreError::Io("no space left".into()));
    let refused = append(&log, "t", Some("k"), "lost", 1).unwrap_err();
    assert_eq!(refused.code, Code::Storage);
    assert_eq!(append(&log, "t", Some("k"), "next", 1).unwrap().base_offset, Offset(1));
    assert_eq!(log.shared.metrics.log.store_recoveries.get(), 1);
    assert!(log.shared.metrics.health.degraded().is_empty());
    let values = records(&log, "t", partition_of("k"), 0);
    let values: Vec<_> = values.into_iter().map(|(_, record)| record.value.unwrap()).collect();
    assert_eq!(values, ["kept", "next"]);
}

#[test]
fn without_a_disk_everything_is_refused_until_it_is_back() {
    let depot = Faulty::default();
    let log = depot.inline(now(1));
    append(&log, "t", Some("k"), "kept", 1).unwrap();
    depot.fail_once(StoreError::Io("gone".into()));
    depot.set_gone(true);
    assert_eq!(append(&log, "t", Some("k"), "lost", 1).unwrap_err().code, Code::Storage);
    // Attempts to open it that fail do not hide why they do.
    for time in [1, 2_000, 4_000] {
        log.set_now(now(time));
        let refused = append(&log, "t", Some("k"), "lost", 1).unwrap_err();
        assert_eq!(
            (refused.code, &*refused.why),
            (Code::Storage, "the disk refused: no disk")
        );
        let degraded = log.shared.metrics.health.degraded();
        assert_eq!(degraded, [("store".into(), "the disk refused: no disk".into())]);
    }
    depot.set_gone(false);
    log.set_now(now(6_000));
    assert_eq!(append(&log, "t", Some("k"), "next", 1).unwrap().base_offset, Offset(1));
    assert!(log.shared.metrics.health.degraded().is_empty());
}

#[test]
fn what_a_full_disk_holds_is_read_and_nothing_is_committed_until_it_takes_a_commit() {
    let depot = Faulty::default();
    let log = depot.inline_cold(now(1));
    append(&log, "t", Some("k"), "kept", 1).unwrap();
    let commits = depot.commits();
    depot.set_full(true);
    for time in [1, 2, 3, 2_000, 2_001] {
        log.set_now(now(time));
        assert_eq!(append(&log, "t", Some("k"), "lost", 1).unwrap_err().code, Code::Storage);
        assert_eq!(records(&log, "t", partition_of("k"), 0).len(), 1);
        assert_eq!(log.shared.metrics.health.degraded().len(), 1);
    }
    assert_eq!(log.shared.metrics.log.store_recoveries.get(), 2, "one attempt a second");
    depot.set_full(false);
    assert_eq!(append(&log, "t", Some("k"), "lost", 1).unwrap_err().code, Code::Storage);
    assert_eq!(depot.commits(), commits);
    log.set_now(now(4_000));
    assert_eq!(append(&log, "t", Some("k"), "next", 1).unwrap().base_offset, Offset(1));
    assert!(log.shared.metrics.health.degraded().is_empty());
}

#[test]
fn a_store_whose_commits_meet_damage_again_and_again_is_set_aside() {
    let depot = Faulty::default();
    let log = depot.inline(now(1));
    append(&log, "t", Some("k"), "one", 1).unwrap();
    depot.set_failing(Some(StoreError::Damaged("a page makes no sense".into())));
    assert_eq!(append(&log, "t", Some("k"), "two", 1).unwrap_err().code, Code::Storage);
    assert_eq!(
        log.shared.metrics.log.stores_lost.get(),
        0,
        "one bad page may be one bad read"
    );
    log.set_now(now(2_000));
    assert_eq!(log.shared.metrics.log.stores_lost.get(), 1);
    depot.set_failing(None);
    log.set_now(now(4_000));
    let appended = append(&log, "t", Some("k"), "three", 1).unwrap();
    assert_eq!(appended.base_offset, Offset(1 << 40));
    assert_eq!(log.shared.metrics.log.stores_lost.get(), 1);
}

#[test]
fn a_store_that_lost_what_was_acked_is_set_aside() {
    let depot = Faulty::default();
    let log = depot.inline(now(1));
    append(&log, "t", Some("k"), "one", 1).unwrap();
    // The disk forgets everything that it said to have stored.
    depot.inner.forget();
    depot.fail_once(StoreError::Io("gone".into()));
    assert_eq!(append(&log, "t", Some("k"), "two", 1).unwrap_err().code, Code::Storage);
    assert_eq!(
        append(&log, "t", Some("k"), "three", 1).unwrap().base_offset,
        Offset(1 << 40)
    );
    assert_eq!(log.shared.metrics.log.stores_lost.get(), 1);
}

#[test]
fn a_deletion_that_failed_and_is_on_the_disk_all_the_same_costs_no_other_topic() {
    let depot = Faulty::default();
    let log = depot.inline(now(1));
    append(&log, "t", Some("k"), "kept", 1).unwrap();
    append(&log, "goes", Some("k"), "gone", 1).unwrap();
    let delete = || log.delete_topic(&Topic::parse("goes").unwrap(), Waker::noop()).wait();
    depot.fail_behind(StoreError::Damaged("the sync failed".into()));
    assert_eq!(delete().unwrap_err().code, Code::Storage);
    assert!(log.topic("goes").is_none());
    assert_eq!(records(&log, "t", partition_of("k"), 0).len(), 1);
    // One that did not reach the disk leaves the topic.
    append(&log, "goes", Some("k"), "there", 1).unwrap();
    depot.fail_once(StoreError::Io("no".into()));
    assert_eq!(delete().unwrap_err().code, Code::Storage);
    assert_eq!(records(&log, "goes", partition_of("k"), 0).len(), 1);
    assert_eq!(log.shared.metrics.log.stores_lost.get(), 0);
}
