//! The log in a data directory: restarts, damage, locks.

use super::mend::damage;
use super::*;
use crate::log::depot::{DATA, DATABASE, OpenError, RING};

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
    for how in ["rubbish", "short", "empty", "pages", "none"] {
        let folder = Folder::new();
        let log = folder.open();
        for i in 0..100 {
            append(&log, "t", Some("k"), &"x".repeat(1000), i).unwrap();
        }
        drop(log);
        let path = folder.path().join(DATABASE);
        let mut bytes = std::fs::read(&path).unwrap();
        match how {
            "rubbish" => bytes = b"no database at all".repeat(1000),
            "short" => bytes.truncate(bytes.len() / 2),
            "empty" => bytes.clear(),
            // Everything behind the header.
            _ => bytes[4096..].fill(0x5a),
        }
        match how {
            "none" => std::fs::remove_file(&path).unwrap(),
            _ => std::fs::write(&path, &bytes).unwrap(),
        }
        let log = folder.open();
        let appended = append(&log, "t", Some("k"), "after", 1).unwrap();
        assert_eq!(appended.base_offset, Offset(1 << 40), "{how}");
        assert_eq!(log.bounds("t", appended.partition).unwrap().leader_epoch, 1);
        assert!(
            folder
                .path()
                .join(format!("{DATA}.damaged-1"))
                .join("0000000001.data")
                .exists()
        );
        let aside = folder.path().join(format!("{DATABASE}.damaged-1"));
        assert!(how == "none" || std::fs::read(aside).unwrap() == bytes, "{how}");
        assert!(folder.path().join(format!("{RING}.damaged-1")).exists());
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
fn a_database_of_another_format_is_refused_and_left_alone() {
    use crate::log::store::{Map, Op};
    for (format, hint) in [(77u32, "the newer headwater"), (1, "another node.data_dir")] {
        let folder = Folder::new();
        let log = folder.open();
        let other = Op::put(Map::Meta, *b"format", format.to_be_bytes().to_vec());
        log.shared.keeper.with(|store| store.commit(&[other])).unwrap();
        drop(log);
        let refused = folder.try_open().map(|_| ()).unwrap_err().to_string();
        let told = format!("format {format}");
        assert!(refused.contains(&told) && refused.contains(hint), "{refused}");
        assert!(folder.path().join(DATABASE).exists());
    }
}

#[test]
fn batches_whose_database_is_gone_are_put_aside_and_not_written_among() {
    let folder = Folder::new();
    let log = folder.open();
    append(&log, "t", Some("k"), "one", 1).unwrap();
    drop(log);
    std::fs::remove_file(folder.path().join(DATABASE)).unwrap();
    let file = "0000000001.data";
    let before = std::fs::read(folder.path().join(DATA).join(file)).unwrap();
    let log = folder.open();
    assert_eq!(
        append(&log, "t", Some("k"), "two", 2).unwrap().base_offset,
        Offset(1 << 40)
    );
    let aside = folder.path().join(format!("{DATA}.damaged-1"));
    assert!(std::fs::read(aside.join(file)).unwrap() == before);
}

#[test]
fn the_space_of_what_is_past_is_given_back() {
    use std::os::unix::fs::MetadataExt;
    let folder = Folder::new();
    let log = folder.open();
    let spec = TopicSpec {
        name: Topic::parse("t").unwrap(),
        partitions: Some(1),
        settings: [("retention.bytes", "1000000"), ("compression.type", "uncompressed")]
            .map(|(name, value)| (name.into(), value.into()))
            .to_vec(),
    };
    log.create_topic(spec, Waker::noop()).wait().unwrap();
    let path = folder.path().join(DATA).join("0000000001.data");
    for round in 0..10 {
        for i in 0..1000 {
            append(&log, "t", Some("k"), &"x".repeat(900), i).unwrap();
        }
        log.set_now(Now {
            mono_us: (round + 1) * 2_000_000,
            wall_ms: 1000,
        });
        log.shared.keeper.with(|store| store.checkpoint()).unwrap();
    }
    let file = std::fs::metadata(path).unwrap();
    assert!(file.len() > 9_000_000, "{}", file.len());
    assert!(
        file.blocks() * 512 < 3_000_000,
        "{} of {}",
        file.blocks() * 512,
        file.len()
    );
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
        shed: None,
        hold_until_forwarded: None,
        hold_ms_max: None,
        hold_bytes_max: None,
    };
    for (asked, there) in [(2, 2), (3, 3), (1, 3)] {
        let mut options = folder.options();
        options.topics = vec![entry(asked)];
        let log = inline::open_directory(options).unwrap();
        assert_eq!(log.topic("sensors").unwrap().partitions, there);
        assert!(log.bounds("sensors", Partition(there - 1)).is_some());
    }
}

/// Flips a bit of this text wherever it is in the first data file.
fn flip(folder: &Folder, needle: &str) {
    let path = folder.path().join(DATA).join("0000000001.data");
    let mut bytes = std::fs::read(&path).unwrap();
    let places: Vec<usize> = (0..bytes.len() - needle.len())
        .filter(|at| bytes[*at..].starts_with(needle.as_bytes()))
        .collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at] ^= 1;
    }
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn reads_go_on_behind_a_damaged_batch_in_which_the_log_begins() {
    let folder = Folder::new();
    let log = folder.open();
    let batch = [0, 1, 2].map(|time| record(None, "needle-in-the-file", time));
    let batch = Batch::parse(batch::pack(&batch).into()).unwrap();
    make(&log, "t", &[]);
    append_batch(&log, "t", Partition(0), batch).unwrap();
    append_batch(&log, "t", Partition(0), idempotent(7, 0, 0, "behind it")).unwrap();
    let cut = Cut {
        topic: Topic::parse("t").unwrap(),
        partition: Partition(0),
        to: Some(Offset(1)),
    };
    log.delete_records(vec![cut], Waker::noop()).wait().unwrap();
    drop(log);
    flip(&folder, "needle-in-the-file");
    let log = folder.open();
    let read = read(&log, "t", Partition(0), 1).unwrap();
    assert_eq!(
        read.bounds.log_start,
        Offset(1),
        "it is in the middle of the damaged batch"
    );
    assert_eq!(records(&log, "t", Partition(0), 3).len(), 1);
    assert_eq!((read.batches.len(), read.offset_next), (1, Offset(4)));
    assert_eq!(damage(&log), [(1, 2)]);
}

#[test]
fn a_flipped_bit_in_a_stored_batch_is_never_served() {
    let folder = Folder::new();
    let log = folder.open();
    let partition = append(&log, "t", Some("k"), "needle-in-the-file", 1).unwrap().partition;
    drop(log);
    flip(&folder, "needle-in-the-file");
    let log = folder.open();
    let read = read(&log, "t", partition, 0).unwrap();
    assert_eq!((read.batches.len(), read.offset_next), (0, Offset(1)));
    assert_eq!(damage(&log), [(0, 0)]);
    assert_eq!(append(&log, "t", Some("k"), "next", 2).unwrap().base_offset, Offset(1));
    assert_eq!(records(&log, "t", partition, 0).len(), 1);
    // The marker is stored with what is due.
    log.set_now(now(5_000));
    drop(log);
    let log = folder.open();
    assert_eq!(damage(&log), [(0, 0)]);
    assert_eq!(records(&log, "t", partition, 0).len(), 1);
}
