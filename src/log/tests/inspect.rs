//! `inspect`, and the walk that it shares with `check` and what exports records.

use std::ops::ControlFlow;

use super::*;
use crate::log::depot::{DATA, DATABASE, RING};
use crate::model::batch::{Header, RecordViews};

/// Keeps offsets and values.
#[derive(Default)]
pub(super) struct Keeper {
    pub(super) records: Vec<(u64, Vec<u8>)>,
    damaged: Vec<(u64, u64)>,
    /// Only batches that reach this time.
    from_ms: i64,
    /// Ends after so many batches.
    batches_max: usize,
    batches: usize,
}

impl Visitor for Keeper {
    fn wants_batch(&self, _: u64, _: u64, max_timestamp: i64) -> bool {
        max_timestamp >= self.from_ms
    }

    fn batch(&mut self, at: &CheckedPartition, header: &Header, records: RecordViews<'_>) -> ControlFlow<()> {
        assert_eq!((at.topic.as_str(), header.is_control()), ("t", false));
        for view in records {
            let view = view.unwrap();
            self.records.push((view.offset.0, view.value.unwrap().to_vec()));
        }
        self.batches += 1;
        match self.batches == self.batches_max {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn damaged(&mut self, range: DamagedRange) {
        self.damaged.push((range.offset_first, range.offset_last));
    }
}

pub(super) const COUNT: u64 = 40;

pub(super) fn filled(closed: bool) -> Folder {
    let folder = Folder::new();
    let log = folder.open();
    let spec = TopicSpec {
        name: Topic::parse("t").unwrap(),
        partitions: Some(1),
        settings: vec![("retention.ms".into(), "-1".into())],
    };
    log.create_topic(spec, Waker::noop()).wait().unwrap();
    for i in 0..COUNT {
        // Every tenth is a segment.
        let size = if i % 10 == 9 { 40_000 } else { 1_500 };
        append(
            &log,
            "t",
            Some("k"),
            &format!("{i:04}").repeat(size / 4),
            1000 + i as i64,
        )
        .unwrap();
    }
    let state = StateChange {
        table: Table::Forward,
        key: b"progress".to_vec(),
        expect: Expect::Absent,
        value: Some(b"12".to_vec()),
    };
    let submission = Submission {
        appends: Vec::new(),
        state: vec![state],
    };
    log.submit(submission, Waker::noop()).wait().unwrap();
    append_batch(&log, "t", Partition(0), idempotent(7, 0, 0, "last")).unwrap();
    let copy = Folder::new();
    if closed {
        drop(log);
    }
    folder.copy_to(&copy);
    copy
}

pub(super) fn kept(path: &std::path::Path, mut keeper: Keeper) -> Keeper {
    let mut survey = Survey::open(path).unwrap();
    survey.walk(&mut keeper);
    assert_eq!(survey.unread, Vec::<String>::new());
    keeper
}

#[test]
fn everything_is_told_of_a_directory_closed_or_killed_and_not_a_byte_changes() {
    for closed in [true, false] {
        let folder = filled(closed);
        let both = || [DATABASE, RING].map(|name| std::fs::read(folder.path().join(name)).unwrap());
        let before = both();
        let report = inspect(folder.path()).unwrap();
        assert!(both() == before);
        assert!(report.sound(), "{report:?}");
        let store = report.store.unwrap();
        assert_eq!((store.format, store.generation, store.store_id.len()), (3, 0, 32));
        assert_eq!((store.journal_rows, store.segments), (COUNT - 4 + 1, 4));
        let names: Vec<&str> = report.files.iter().map(|file| file.name.as_str()).collect();
        assert!(names.contains(&DATABASE) && names.contains(&RING), "{names:?}");
        let [topic] = &report.topics[..] else {
            panic!("{:?}", report.topics)
        };
        assert_eq!((topic.topic.as_str(), topic.partitions), ("t", 1));
        assert_eq!(topic.settings["retention.ms"], "-1");
        let [p] = &report.partitions[..] else {
            panic!("{:?}", report.partitions)
        };
        assert_eq!(
            (p.log_start, p.offset_next, p.records, p.batches),
            (0, COUNT + 1, COUNT + 1, COUNT + 1)
        );
        assert_eq!((p.first_ms, p.last_ms), (Some(1), Some(1000 + COUNT as i64 - 1)));
        let table = |name| report.tables.iter().find(|table| table.table == name).unwrap();
        assert_eq!((table("forward").rows, table("forward").bytes), (1, 10));
        assert_eq!((table("producers").rows, table("devices").rows), (1, 0));
        if closed {
            let [data] = &report.data_files[..] else {
                panic!("{:?}", report.data_files)
            };
            assert_eq!((data.number, data.live_bytes), (1, p.bytes));
            assert!(
                data.bytes >= Some(data.written_bytes) && data.fill() > 0.5 && data.fill() <= 1.0,
                "{data:?}"
            );
        }
    }
}

#[test]
fn the_walk_gives_every_record_once_in_order_and_ends_when_it_is_told() {
    for closed in [true, false] {
        let folder = filled(closed);
        let all = kept(folder.path(), Keeper::default());
        let offsets: Vec<u64> = all.records.iter().map(|(offset, _)| *offset).collect();
        assert_eq!(offsets, (0..=COUNT).collect::<Vec<_>>());
        assert!(all.records[9].1 == b"0009".repeat(10_000) && all.records[COUNT as usize].1 == b"last");
        let late = Keeper {
            from_ms: 1000 + COUNT as i64 - 2,
            ..Keeper::default()
        };
        let late = kept(folder.path(), late);
        assert!(late.damaged.is_empty());
        assert_eq!(late.records[..], all.records[COUNT as usize - 2..COUNT as usize]);
        let few = Keeper {
            batches_max: 3,
            ..Keeper::default()
        };
        assert_eq!(kept(folder.path(), few).records[..], all.records[..3]);
    }
}

#[test]
fn what_is_intact_beside_damage_is_given_and_the_damage_named() {
    let folder = filled(true);
    let all = kept(folder.path(), Keeper::default()).records;
    let path = folder.path().join(DATA).join("0000000001.data");
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    let text = b"0017".repeat(10);
    let at = flipped.windows(text.len()).position(|bytes| bytes == text).unwrap();
    flipped[at] ^= 1;
    for bytes in [flipped, whole[..whole.len() / 2].to_vec()] {
        std::fs::write(&path, &bytes).unwrap();
        let found = kept(folder.path(), Keeper::default());
        let lost: Vec<u64> = found.damaged.iter().flat_map(|(first, last)| *first..=*last).collect();
        assert!(!lost.is_empty());
        let intact: Vec<_> = all
            .iter()
            .filter(|(offset, _)| !lost.contains(offset))
            .cloned()
            .collect();
        assert_eq!(found.records, intact);
        let report = inspect(folder.path()).unwrap();
        assert_eq!(report.damaged.len(), lost.len());
        assert_eq!(report.damaged, check(folder.path()).unwrap().damaged);
        assert_eq!(report.data_files[0].bytes, Some(bytes.len() as u64));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
    std::fs::remove_file(&path).unwrap();
    let report = inspect(folder.path()).unwrap();
    assert_eq!((report.data_files[0].bytes, report.data_files[0].fill()), (None, 0.0));
    assert!(!report.sound());
}

#[test]
fn files_are_told_even_when_the_database_is_none() {
    let folder = filled(true);
    std::fs::write(folder.path().join(DATABASE), b"rubbish".repeat(3000)).unwrap();
    let report = inspect(folder.path()).unwrap();
    assert!(report.store.is_none() && !report.sound() && report.topics.is_empty());
    assert!(
        report
            .files
            .iter()
            .any(|file| file.name == DATABASE && file.bytes == 21_000 && file.disk_bytes > 0)
    );
}
