//! The writer on its thread, and a store that fails.

use std::sync::mpsc::sync_channel;

use super::*;
use crate::log::fault::Faulty;
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
    go.send(()).unwrap();
    begun.recv().unwrap();
    assert!(first.take().unwrap().is_ok());
    assert!(others.iter_mut().all(|ticket| ticket.take().is_none()));
    assert_eq!(log.bounds("t", partition_of("k")).unwrap().high_watermark, Offset(1));
    go.send(()).unwrap();
    for ticket in others {
        ticket.wait().unwrap();
    }
    assert_eq!(depot.commits(), 2);
    log.stop();
    assert!(thread.join().unwrap().is_ok());
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
    writer.run(|| now(1)).unwrap();
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
    writer.run(|| now(1)).unwrap();
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
