//! Log starts that a client moves, and settings that change: at once, and after a restart.

use super::*;
use crate::config::TopicEntry;
use crate::log::fault::Faulty;
use crate::log::store::{Map, StoreError};

fn topic() -> Topic {
    Topic::parse("t").unwrap()
}

/// A batch of so many records, at times from one on.
fn add(log: &Log, partition: u32, records: i64, bytes: usize, time: i64) {
    let records: Vec<Record> = (0..records)
        .map(|i| record(None, &"x".repeat(bytes), time + i))
        .collect();
    let batch = Batch::parse(batch::pack(&records).into()).unwrap();
    append_batch(log, "t", Partition(partition), batch).unwrap();
}

fn cut(partition: u32, to: Option<u64>) -> Cut {
    Cut {
        topic: topic(),
        partition: Partition(partition),
        to: to.map(Offset),
    }
}

fn delete(log: &Log, partition: u32, to: Option<u64>) -> Result<Offset, Code> {
    let cuts = vec![cut(partition, to)];
    let mut answers = log.delete_records(cuts, Waker::noop()).wait().unwrap();
    answers.pop().unwrap().map_err(|refused| refused.code)
}

fn bounds(log: &Log, partition: u32) -> (u64, u64) {
    let bounds = log.bounds("t", Partition(partition)).unwrap();
    (bounds.log_start.0, bounds.high_watermark.0)
}

#[test]
fn the_log_start_goes_where_it_is_told_and_never_back() {
    let log = Log::inline(now(1));
    make(&log, "t", &[]);
    (0..4).for_each(|i| add(&log, 0, 1, 100, i));
    assert_eq!(delete(&log, 0, Some(2)), Ok(Offset(2)));
    assert_eq!(delete(&log, 0, Some(1)), Ok(Offset(2)));
    assert_eq!(delete(&log, 0, Some(5)), Err(Code::OffsetOutOfRange));
    assert_eq!(delete(&log, 7, None), Err(Code::UnknownTopic));
    assert_eq!(bounds(&log, 0), (2, 4));
    let refused = read(&log, "t", Partition(0), 1).unwrap_err();
    assert_eq!(refused.code, Code::OffsetOutOfRange);
    assert_eq!(delete(&log, 0, None), Ok(Offset(4)));
    assert_eq!(bounds(&log, 0), (4, 4));
    log.set_now(now(2));
    assert_eq!(rows(&log, Map::Journal), 0);
    add(&log, 0, 1, 100, 9);
    assert_eq!(bounds(&log, 0), (4, 5));
}

#[test]
fn cuts_of_one_request_are_answered_one_by_one() {
    let log = Log::inline(now(1));
    make(&log, "t", &[]);
    (0..2).for_each(|partition| add(&log, partition, 4, 10, 1));
    let cuts = vec![
        cut(0, Some(3)),
        cut(1, Some(9)),
        cut(0, Some(2)),
        cut(1, None),
        cut(2, None),
    ];
    let answers = log.delete_records(cuts, Waker::noop()).wait().unwrap();
    let answers: Vec<_> = answers
        .into_iter()
        .map(|answer| answer.map_err(|refused| refused.code))
        .collect();
    assert_eq!(
        answers,
        [
            Ok(Offset(3)),
            Err(Code::OffsetOutOfRange),
            Ok(Offset(3)),
            Ok(Offset(4)),
            Err(Code::UnknownTopic)
        ]
    );
}

#[test]
fn a_batch_stays_until_all_of_it_is_past() {
    let log = Log::inline(now(1));
    make(&log, "t", &[]);
    add(&log, 0, 5, 10_000, 100);
    add(&log, 0, 5, 10_000, 200);
    assert_eq!(delete(&log, 0, Some(3)), Ok(Offset(3)));
    log.set_now(now(2));
    assert_eq!((bounds(&log, 0), rows(&log, Map::Segments)), ((3, 10), 2));
    assert_eq!(read(&log, "t", Partition(0), 3).unwrap().batches.len(), 2);
    assert_eq!(delete(&log, 0, Some(5)), Ok(Offset(5)));
    log.set_now(now(3));
    assert_eq!(rows(&log, Map::Segments), 1);
}

#[test]
fn a_time_is_not_found_before_the_log_start() {
    let log = Log::inline(now(1));
    make(&log, "t", &[]);
    // The youngest of the first batch comes first in it.
    let records = [record(None, "a", 500), record(None, "b", 100)];
    let batch = Batch::parse(batch::pack(&records).into()).unwrap();
    append_batch(&log, "t", Partition(0), batch).unwrap();
    add(&log, 0, 1, 10, 500);
    let find = || {
        let found = log.offset_for_time(&topic(), Partition(0), 400, Waker::noop());
        found.wait().unwrap().map(|point| point.offset.0)
    };
    assert_eq!(find(), Some(0));
    delete(&log, 0, Some(1)).unwrap();
    assert_eq!(find(), Some(2));
    delete(&log, 0, Some(3)).unwrap();
    assert_eq!(find(), None);
}

#[test]
fn a_log_start_survives_a_kill_and_the_check_agrees() {
    let folder = Folder::new();
    let log = folder.open();
    make(&log, "t", &[]);
    add(&log, 0, 5, 10, 1);
    add(&log, 0, 5, 10_000, 1);
    add(&log, 1, 3, 10, 1);
    delete(&log, 0, Some(7)).unwrap();
    delete(&log, 1, None).unwrap();
    let killed = Folder::new();
    folder.copy_to(&killed);
    let report = check(killed.path()).unwrap();
    assert!(report.sound(), "{report:?}");
    let spans: Vec<_> = report.partitions.iter().map(|p| (p.log_start, p.offset_next)).collect();
    assert_eq!(spans, [(7, 10), (3, 3)]);
    // Each directory has a ring of its own: it is opened where it was made.
    drop(log);
    let log = folder.open();
    assert_eq!((bounds(&log, 0), bounds(&log, 1)), ((7, 10), (3, 3)));
    assert_eq!(records(&log, "t", Partition(0), 7).last().unwrap().0, 9);
    add(&log, 1, 1, 10, 1);
    assert_eq!(bounds(&log, 1), (3, 4));
}

#[test]
fn retention_that_waits_does_not_move_a_log_start_back() {
    let log = Log::inline(now(10_000));
    make(&log, "t", &[]);
    set(&log, "retention.ms", "1000").unwrap();
    for time in [5_000, 10_000, 10_000] {
        add(&log, 0, 1, 10, time);
    }
    // Both in one turn: the cut comes first, the look at what is due after it.
    inline::lock(log.inline.as_ref().unwrap()).now = now(10_001);
    delete(&log, 0, Some(2)).unwrap();
    log.set_now(now(10_002));
    let mut stored = None;
    let each = &mut |_: &[u8], value: &[u8]| {
        stored = Some(u64::from_be_bytes(value.try_into().unwrap()));
        Ok(true)
    };
    log.shared
        .keeper
        .with(|store| store.scan(Map::Partitions, &[], None, each))
        .unwrap();
    assert_eq!((stored, bounds(&log, 0)), (Some(2), (2, 3)));
}

fn change(name: &str, what: SettingChange) -> TopicChange {
    TopicChange {
        name: topic(),
        settings: vec![(name.into(), what)],
        replaces_all: false,
    }
}

fn alter(log: &Log, name: &str, what: SettingChange) -> Result<Arc<TopicInfo>, Refused> {
    log.alter_topic(change(name, what), Waker::noop()).wait()
}

fn set(log: &Log, name: &str, value: &str) -> Result<Arc<TopicInfo>, Refused> {
    alter(log, name, SettingChange::Set(value.into()))
}

#[test]
fn a_setting_is_in_force_at_once_and_after_a_restart() {
    let folder = Folder::new();
    let log = folder.open();
    make(&log, "t", &[]);
    add(&log, 0, 1, 10, 1);
    inline::lock(log.inline.as_ref().unwrap()).now = now(5_000);
    let info = set(&log, "retention.ms", "1000").unwrap();
    assert_eq!(info.settings.retention_ms, Some(1000));
    // Nobody turned the clock on: the change itself had retention look.
    assert_eq!(bounds(&log, 0), (1, 1));
    set(&log, "max.message.bytes", "300").unwrap();
    let refused = append(&log, "t", Some("k"), &"x".repeat(400), 1).unwrap_err();
    assert_eq!(refused.code, Code::TooLarge);
    drop(log);
    let log = folder.open();
    let info = log.topic("t").unwrap();
    assert_eq!(info.given, ["max.message.bytes", "retention.ms"]);
    assert_eq!(
        (info.settings.batch_bytes_max, info.settings.retention_ms),
        (300, Some(1000))
    );
    alter(&log, "retention.ms", SettingChange::Unset).unwrap();
    assert_eq!(log.topic("t").unwrap().settings.retention_ms, None);
    let all = TopicChange {
        replaces_all: true,
        ..change("priority", SettingChange::Set("2".into()))
    };
    log.alter_topic(all, Waker::noop()).wait().unwrap();
    drop(log);
    assert_eq!(folder.open().topic("t").unwrap().given, ["priority"]);
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let log = Log::inline(now(1));
    make(&log, "t", &[]);
    let before = log.topic("t").unwrap().given.clone();
    let long = "0".repeat(1_000);
    for (name, what, hint) in [
        ("retention.mss", SettingChange::Set("1".into()), "retention.ms"),
        ("retention.mss", SettingChange::Unset, "retention.ms"),
        (
            "retention.ms",
            SettingChange::Set("soon".into()),
            "a whole number, -1 for no limit",
        ),
        ("segment.bytes", SettingChange::Set(long), "a shorter one"),
        ("retention.ms", SettingChange::Append("1".into()), "to set it"),
        (
            "cleanup.policy",
            SettingChange::Subtract("delete".into()),
            "delete, compact, or compact,delete",
        ),
    ] {
        let asked = change(name, what.clone());
        let valid = log.check_change(&asked).unwrap_err();
        let refused = alter(&log, name, what).unwrap_err();
        assert_eq!(refused, valid);
        assert_eq!(refused.code, Code::InvalidConfig);
        assert!(refused.why.ends_with(&format!("Try: {hint}")), "{}", refused.why);
    }
    assert_eq!(log.topic("t").unwrap().given, before);
    let gone = TopicChange {
        name: Topic::parse("gone").unwrap(),
        ..change("priority", SettingChange::Unset)
    };
    let refused = log.alter_topic(gone, Waker::noop()).wait().unwrap_err();
    assert_eq!(refused.code, Code::UnknownTopic);
}

#[test]
fn a_list_is_added_to_and_taken_from() {
    let log = Log::inline(now(1));
    make(&log, "t", &[]);
    let policy = |what| {
        alter(&log, "cleanup.policy", what)
            .unwrap()
            .settings
            .cleanup_policy
            .clone()
    };
    assert_eq!(policy(SettingChange::Append("compact".into())), "compact,delete");
    assert_eq!(policy(SettingChange::Append("compact".into())), "compact,delete");
    assert_eq!(policy(SettingChange::Subtract("delete".into())), "compact");
}

#[test]
fn what_the_file_fixes_is_refused_with_its_line() {
    let mut options = inline::options(now(1));
    options.topics = vec![TopicEntry {
        name: topic(),
        line: 12,
        partitions: Some(2),
        retention_ms: Some(Some(5_000)),
        retention_bytes: None,
        priority: None,
        shed: None,
        hold_until_forwarded: None,
        hold_ms_max: None,
        hold_bytes_max: None,
    }];
    let depot = memory::MemoryDepot::default();
    let log = inline::open_in(Box::new(depot), options).unwrap();
    for what in [SettingChange::Set("1".into()), SettingChange::Unset] {
        let refused = alter(&log, "retention.ms", what).unwrap_err();
        assert_eq!(refused.code, Code::InvalidConfig);
        assert!(refused.why.contains("line 12"), "{}", refused.why);
    }
    set(&log, "retention.bytes", "1").unwrap();
    assert_eq!(log.topic("t").unwrap().settings.retention_ms, Some(5_000));
}

#[test]
fn a_change_that_failed_is_refused_and_what_is_on_the_disk_then_is_in_force() {
    let depot = Faulty::default();
    let log = depot.inline(now(1));
    make(&log, "t", &[]);
    (0..4).for_each(|i| add(&log, 0, 1, 100, i));
    let cut = |to| log.delete_records(vec![cut(0, Some(to))], Waker::noop()).wait();
    depot.fail_once(StoreError::Io("no".into()));
    assert_eq!(cut(2).unwrap_err().code, Code::Storage);
    assert_eq!(bounds(&log, 0), (0, 4));
    depot.fail_behind(StoreError::Io("the sync failed".into()));
    assert_eq!(cut(2).unwrap_err().code, Code::Storage);
    assert_eq!(bounds(&log, 0), (2, 4));
    depot.fail_once(StoreError::Io("no".into()));
    assert_eq!(set(&log, "priority", "1").unwrap_err().code, Code::Storage);
    assert_eq!(log.topic("t").unwrap().settings.priority, 5);
    depot.fail_behind(StoreError::Io("the sync failed".into()));
    assert_eq!(set(&log, "priority", "1").unwrap_err().code, Code::Storage);
    assert_eq!(log.topic("t").unwrap().settings.priority, 1);
    assert_eq!(cut(3).unwrap()[0], Ok(Offset(3)));
    assert_eq!(records(&log, "t", Partition(0), 3).len(), 1);
    assert_eq!(log.shared.metrics.log.stores_lost.get(), 0);
}

fn grow(log: &Log, partitions: u32) -> Result<u32, (Code, String)> {
    let grown = log.add_partitions(&topic(), partitions, Waker::noop()).wait();
    grown
        .map(|info| info.partitions)
        .map_err(|refused| (refused.code, refused.why))
}

#[test]
fn partitions_are_added_and_none_is_taken_away() {
    let folder = Folder::new();
    let log = folder.open();
    make(&log, "t", &[("retention.ms", "1000")]);
    add(&log, 1, 3, 10, 1);
    let seen = log.commit_number();
    assert_eq!(grow(&log, 5), Ok(5));
    assert!(log.commit_number() > seen, "who waits for topics is told");
    (0..5).for_each(|partition| add(&log, partition, 1, 10, 1));
    for partitions in [5, 4, 1, 0] {
        let (code, why) = grow(&log, partitions).unwrap_err();
        assert_eq!(code, Code::InvalidPartitions);
        assert!(why.ends_with("Try: more than 5"), "{why}");
    }
    let unknown = Topic::parse("other").unwrap();
    let refused = log.add_partitions(&unknown, 9, Waker::noop()).wait().unwrap_err();
    assert_eq!(refused.code, Code::UnknownTopic);
    drop(log);
    let log = folder.open();
    let info = log.topic("t").unwrap();
    assert_eq!((info.partitions, info.settings.retention_ms), (5, Some(1000)));
    assert_eq!([0, 1, 2, 3, 4].map(|p| bounds(&log, p).1), [1, 4, 1, 1, 1]);
    log.measure();
    assert_eq!(log.shared.metrics.log.partitions.get(), 5);
}

#[test]
fn partitions_are_added_up_to_the_limit_of_the_node_and_not_against_the_file() {
    let mut options = inline::options(now(1));
    options.limits.partitions = 10;
    let mut entry = options.clone();
    let log = inline::open_in(Box::new(memory::MemoryDepot::default()), options).unwrap();
    make(&log, "t", &[]);
    make(&log, "u", &[]);
    let (code, why) = grow(&log, 9).unwrap_err();
    assert_eq!(code, Code::TooManyTopics);
    assert!(why.ends_with("and 6 are left. Try: 3 to 8"), "{why}");
    assert_eq!(grow(&log, 11).unwrap_err().0, Code::InvalidPartitions);
    assert_eq!(log.check_partitions(&topic(), 9).unwrap_err().code, Code::TooManyTopics);
    assert_eq!(log.check_partitions(&topic(), 8), Ok(()));
    assert_eq!(log.topic("t").unwrap().partitions, 2, "it was only asked");
    assert_eq!(grow(&log, 8), Ok(8));
    let (code, why) = grow(&log, 9).unwrap_err();
    assert_eq!(code, Code::TooManyTopics);
    assert!(why.ends_with("Try: a higher limit"), "{why}");

    entry.topics = vec![TopicEntry {
        name: topic(),
        line: 7,
        partitions: Some(3),
        retention_ms: None,
        retention_bytes: None,
        priority: None,
        shed: None,
        hold_until_forwarded: None,
        hold_ms_max: None,
        hold_bytes_max: None,
    }];
    let log = inline::open_in(Box::new(memory::MemoryDepot::default()), entry).unwrap();
    let (code, why) = grow(&log, 5).unwrap_err();
    assert_eq!(code, Code::InvalidPartitions);
    assert!(why.contains("line 7"), "{why}");
}

#[test]
fn partitions_that_could_not_be_stored_are_not_there_but_those_on_the_disk_are() {
    let depot = Faulty::default();
    let log = depot.inline(now(1));
    make(&log, "t", &[]);
    depot.fail_once(StoreError::Io("no".into()));
    assert_eq!(grow(&log, 4).unwrap_err().0, Code::Storage);
    assert_eq!(log.topic("t").unwrap().partitions, 2);
    assert!(log.bounds("t", Partition(3)).is_none());
    depot.fail_behind(StoreError::Io("the sync failed".into()));
    assert_eq!(grow(&log, 4).unwrap_err().0, Code::Storage);
    assert_eq!(log.topic("t").unwrap().partitions, 4);
    add(&log, 3, 1, 10, 1);
    assert_eq!(log.shared.metrics.log.stores_lost.get(), 0);
}
