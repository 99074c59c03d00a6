//! The log in a data directory: restarts, damage, locks.

use super::*;
use crate::log::depot::{DATABASE, OpenError, RING};

#[test]
fn what_was_acked_is_there_after_a_process_that_just_stopped_existing() {
    let folder = Folder::new();
    let log = folder.open();
    let partition = append(&log, "t", Some("k"), "one", 1).unwrap().partition;
    append(&log, "t", Some("k"), &"x".repeat(50_000), 2).unwrap();
    append_batch(&log, "t", partition, idempotent(9, 0, 0, "three")).unwrap();
    let before = records(&log, "t", partition, 0);
    let copy = Folder::new();
    // The files as a kill leaves it: nothing was closed.
    folder.copy_to(&copy);
    drop(log);
    for folder in [copy, folder] {
        let log = folder.open();
        assert_eq!(records(&log, "t", partition, 0), before);
        let resent = append_batch(&log, "t", partition, idempotent(9, 0, 0, "three")).unwrap();
        assert_eq!((resent.base_offset, resent.duplicate), (Offset(2), true));
        assert_eq!(append(&log, "t", Some("k"), "four", 4).unwrap().base_offset, Offset(3));
    }
}

#[test]
fn topics_state_and_ids_survive() {
    let folder = Folder::new();
    let log = folder.open();
    let spec = TopicSpec {
        name: Topic::parse("made").unwrap(),
        partitions: Some(3),
        settings: vec![("retention.ms".into(), "60000".into())],
    };
    let made = log.create_topic(spec.clone(), Waker::noop()).wait().unwrap();
    assert_eq!(
        log.create_topic(spec, Waker::noop()).wait().unwrap_err().code,
        Code::TopicExists
    );
    let state = StateChange {
        table: Table::Forward,
        key: b"a".to_vec(),
        expect: Expect::Absent,
        value: Some(b"b".to_vec()),
    };
    let submission = Submission {
        appends: Vec::new(),
        state: vec![state],
    };
    log.submit(submission, Waker::noop()).wait().unwrap();
    drop(log);
    let log = folder.open();
    let found = log.topic("made").unwrap();
    assert_eq!(
        (found.id, found.partitions, &found.settings),
        (made.id, 3, &made.settings)
    );
    assert_eq!(
        log.state_scan(Table::Forward, b"", 10).unwrap(),
        [(b"a".to_vec(), b"b".to_vec())]
    );
}

#[test]
fn a_second_log_on_the_same_directory_is_told_who_holds_it() {
    let folder = Folder::new();
    let _log = folder.open();
    let refused = folder.try_open().map(|_| ()).unwrap_err();
    let pid = Some(std::process::id());
    assert!(
        matches!(refused, OpenError::Held { pid: told, .. } if told == pid),
        "{refused}"
    );
}

#[test]
fn a_damaged_database_is_set_aside_and_offsets_go_on_above_it() {
    for damage in ["rubbish", "short", "empty", "pages", "no ring", "another's ring"] {
        let folder = Folder::new();
        let log = folder.open();
        for i in 0..100 {
            append(&log, "t", Some("k"), &"x".repeat(1000), i).unwrap();
        }
        drop(log);
        let path = folder.path().join(DATABASE);
        let mut bytes = std::fs::read(&path).unwrap();
        match damage {
            "rubbish" => bytes = b"no database at all".repeat(1000),
            "short" => bytes.truncate(bytes.len() / 2),
            "empty" => bytes.clear(),
            "no ring" => std::fs::remove_file(folder.path().join(RING)).unwrap(),
            "another's ring" => {
                let other = Folder::new();
                let log = other.open();
                append(&log, "t", None, "other", 1).unwrap();
                // As a kill leaves it: there is something to replay.
                std::fs::copy(other.path().join(RING), folder.path().join(RING)).unwrap();
            }
            // Everything behind the header.
            _ => bytes[4096..].fill(0x5a),
        }
        std::fs::write(&path, &bytes).unwrap();
        let log = folder.open();
        let appended = append(&log, "t", Some("k"), "after", 1).unwrap();
        assert_eq!(appended.base_offset, Offset(1 << 40), "{damage}");
        assert_eq!(log.bounds("t", appended.partition).unwrap().leader_epoch, 1);
        let aside = folder.path().join(format!("{DATABASE}.damaged-1"));
        assert!(std::fs::read(aside).unwrap() == bytes, "{damage}");
        assert!(!log.shared.metrics.health.degraded().is_empty());
    }
}

#[test]
fn a_generation_is_counted_also_when_set_aside_files_are_gone() {
    let folder = Folder::new();
    for generation in 1..3u64 {
        drop(folder.open());
        std::fs::write(folder.path().join(DATABASE), "rubbish").unwrap();
        let log = folder.open();
        let offset = append(&log, "t", Some("k"), "v", 1).unwrap().base_offset;
        assert_eq!(offset, Offset(generation << 40));
        std::fs::remove_file(folder.path().join(format!("{DATABASE}.damaged-{generation}"))).unwrap();
    }
}

#[test]
fn a_database_of_a_newer_format_is_refused_and_left_alone() {
    use crate::log::store::{Map, Op};
    let folder = Folder::new();
    let log = folder.open();
    let newer = Op::put(Map::Meta, *b"format", 77u32.to_be_bytes().to_vec());
    log.shared.keeper.with(|store| store.commit(&[newer])).unwrap();
    drop(log);
    let refused = folder.try_open().map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("format 77"), "{refused}");
    assert!(folder.path().join(DATABASE).exists());
}

#[test]
fn topics_of_the_file_are_made_and_grow_but_never_shrink() {
    let folder = Folder::new();
    let entry = |partitions| crate::config::TopicEntry {
        name: Topic::parse("sensors").unwrap(),
        line: 3,
        partitions: Some(partitions),
        retention_ms: None,
        retention_bytes: None,
        priority: None,
    };
    for (asked, there) in [(2, 2), (3, 3), (1, 3)] {
        let mut options = folder.options();
        options.topics = vec![entry(asked)];
        let log = inline::open_directory(options).unwrap();
        assert_eq!(log.topic("sensors").unwrap().partitions, there);
        assert!(log.bounds("sensors", Partition(there - 1)).is_some());
    }
}

#[test]
fn a_flipped_bit_in_a_stored_batch_is_never_served() {
    let folder = Folder::new();
    let log = folder.open();
    let partition = append(&log, "t", Some("k"), "needle-in-the-file", 1).unwrap().partition;
    drop(log);
    let path = folder.path().join(DATABASE);
    let mut bytes = std::fs::read(&path).unwrap();
    let needle = b"needle-in-the-file";
    let places: Vec<usize> = (0..bytes.len() - 20)
        .filter(|at| bytes[*at..].starts_with(needle))
        .collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at] ^= 1;
    }
    std::fs::write(&path, bytes).unwrap();
    let log = folder.open();
    let refused = read(&log, "t", partition, 0).unwrap_err();
    assert_eq!(refused.code, Code::CorruptBatch);
    assert_eq!(append(&log, "t", Some("k"), "next", 2).unwrap().base_offset, Offset(1));
}
