//! `repair` on whole and damaged directories: what is intact is kept as it was, and a marker stands for everything else.

use super::inspect::{COUNT, Keeper, filled, kept};
use super::*;
use crate::log::depot::{DATA, DATABASE, RING};

fn fresh() -> Fresh {
    Fresh {
        store_id: *b"another store id",
        ring_seed: *b"another ring id.",
        now_ms: 77,
    }
}

/// Repairs into a new directory, which must be sound.
fn repaired(folder: &Folder) -> (Folder, CopyReport) {
    let to = Folder::new();
    let report = repair(folder.path(), to.path(), &fresh()).unwrap();
    let checked = check(to.path()).unwrap();
    assert!(checked.sound(), "{checked:?} after {report:?}");
    assert_eq!(checked.partitions, report.partitions);
    (to, report)
}

fn all(folder: &Folder) -> Vec<(u64, Vec<u8>)> {
    kept(folder.path(), Keeper::default()).records
}

/// The stored bytes of every batch, by the log's own reader.
fn batches(log: &Log) -> Vec<Bytes> {
    let (mut next, mut found) = (0, Vec::new());
    loop {
        let read = read(log, "t", Partition(0), next).unwrap();
        if read.offset_next.0 == next {
            return found;
        }
        next = read.offset_next.0;
        found.extend(read.batches);
    }
}

#[test]
fn a_whole_directory_closed_or_killed_is_the_same_afterwards() {
    for closed in [true, false] {
        let folder = filled(closed);
        let before = inspect(folder.path()).unwrap();
        let (to, report) = repaired(&folder);
        assert!(report.sound() && report.losses.is_empty(), "{report:?}");
        let after = inspect(to.path()).unwrap();
        assert_eq!((after.topics, after.tables), (before.topics, before.tables));
        assert_eq!(after.partitions, before.partitions);
        assert_eq!(after.store.unwrap().store_id, before.store.unwrap().store_id);
        assert_eq!(all(&to), all(&folder));
        let (old, new) = (folder.open(), to.open());
        assert!(batches(&old) == batches(&new));
        for log in [old, new] {
            // The producer is known: what it sends again is not stored again, and what comes next is next.
            let again = append_batch(&log, "t", Partition(0), idempotent(7, 0, 0, "last")).unwrap();
            assert_eq!(again.base_offset, Offset(COUNT));
            let next = append_batch(&log, "t", Partition(0), idempotent(7, 0, 1, "next")).unwrap();
            assert_eq!(next.base_offset, Offset(COUNT + 1));
            assert_eq!(log.state(Table::Forward, b"progress").unwrap().unwrap(), b"12");
        }
    }
}

#[test]
fn a_marker_stands_for_what_a_data_file_lost_and_everything_else_is_kept() {
    let folder = filled(true);
    let before = all(&folder);
    let path = folder.path().join(DATA).join("0000000001.data");
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    let text = b"0017".repeat(10);
    let at = flipped.windows(text.len()).position(|bytes| bytes == text).unwrap();
    flipped[at] ^= 1;
    let mut last = whole.clone();
    let at = whole.windows(4).position(|bytes| bytes == b"last").unwrap();
    last[at] ^= 1;
    let short = whole[..whole.len() / 2].to_vec();
    for (bytes, at_end) in [(flipped, false), (short, false), (last, true)] {
        std::fs::write(&path, &bytes).unwrap();
        let (to, report) = repaired(&folder);
        let lost: Vec<u64> = report
            .damaged
            .iter()
            .flat_map(|r| r.offset_first..=r.offset_last)
            .collect();
        assert_eq!(lost.contains(&COUNT), at_end);
        assert!(
            report
                .damaged
                .iter()
                .all(|range| range.bytes > 0 && range.max_timestamp.is_some())
        );
        let intact: Vec<_> = before
            .iter()
            .filter(|(offset, _)| !lost.contains(offset))
            .cloned()
            .collect();
        assert_eq!(all(&to), intact);
        let marked = |losses: Vec<LossFound>| -> Vec<u64> {
            let losses = losses.iter().map(|found| found.loss);
            assert!(
                losses
                    .clone()
                    .all(|loss| (loss.reason, loss.lost_ms) == (LossReason::Damage, 77))
            );
            losses.flat_map(|loss| loss.offset_first..=loss.offset_last).collect()
        };
        assert_eq!(marked(check(to.path()).unwrap().losses), lost);
        let log = to.open();
        assert_eq!(marked(log.losses()), lost);
        let bounds = log.bounds("t", Partition(0)).unwrap();
        assert_eq!((bounds.log_start.0, bounds.high_watermark.0), (0, COUNT + 1));
        // A reader in the hole goes on behind it, also where it reaches to the end.
        let read = read(&log, "t", Partition(0), *lost.last().unwrap()).unwrap();
        assert!(read.offset_next.0 > *lost.last().unwrap());
        let next = append(&log, "t", Some("k"), "next", 5).unwrap();
        assert_eq!(next.base_offset, Offset(COUNT + 1));
        drop(log);
        assert!(check(to.path()).unwrap().sound());
    }
}

#[test]
fn a_partition_that_lost_its_begin_begins_behind_it() {
    let folder = filled(true);
    let path = folder.path().join(DATA).join("0000000001.data");
    let mut bytes = std::fs::read(&path).unwrap();
    let text = b"0000".repeat(10);
    let at = bytes.windows(text.len()).position(|bytes| bytes == text).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let (to, report) = repaired(&folder);
    assert_eq!((report.damaged.len(), report.partitions[0].log_start), (1, 1));
    assert_eq!(to.open().bounds("t", Partition(0)).unwrap().log_start, Offset(1));
    // With nothing left it begins at its end.
    std::fs::remove_file(&path).unwrap();
    let (to, report) = repaired(&folder);
    assert_eq!(
        (report.partitions[0].log_start, report.partitions[0].records),
        (COUNT + 1, 0)
    );
    assert_eq!(
        append(&to.open(), "t", Some("k"), "next", 5).unwrap().base_offset,
        Offset(COUNT + 1)
    );
}

#[test]
fn a_damaged_ring_costs_what_was_in_the_damaged_records() {
    let folder = filled(false);
    let before = all(&folder);
    let path = folder.path().join(RING);
    let whole = std::fs::read(&path).unwrap();
    let text = b"0017".repeat(10);
    let at = whole.windows(text.len()).position(|bytes| bytes == text).unwrap();
    let mut flipped = whole.clone();
    flipped[at] ^= 1;
    std::fs::write(&path, &flipped).unwrap();
    let (to, report) = repaired(&folder);
    assert!(!report.sound());
    let left: Vec<_> = before.iter().filter(|(offset, _)| *offset != 17).cloned().collect();
    assert_eq!(all(&to), left);
    let [hole, leap] = &report.losses[..] else {
        panic!("{report:?}")
    };
    assert_eq!((hole.loss.offset_first, hole.loss.offset_last), (17, 17));
    // What else was in there nobody knows: no offset of it is given out again.
    assert_eq!(
        (leap.loss.offset_first, leap.loss.offset_last),
        (COUNT + 1, (1 << 40) - 1)
    );
    assert_eq!(
        append(&to.open(), "t", Some("k"), "next", 5).unwrap().base_offset,
        Offset(1 << 40)
    );
    for bytes in [
        whole[..whole.len() / 3 * 2].to_vec(),
        b"rubbish".repeat(1000),
        Vec::new(),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let found = all_of(repaired(&folder).0);
        assert!(before.starts_with(&found));
    }
    std::fs::remove_file(&path).unwrap();
    assert!(before.starts_with(&all_of(repaired(&folder).0)));
}

fn all_of(folder: Folder) -> Vec<(u64, Vec<u8>)> {
    all(&folder)
}

#[test]
fn a_damaged_database_is_walked_as_far_as_it_can_be_read() {
    // The rows of one table take many pages.
    let folder = Folder::new();
    let log = folder.open();
    let name = Topic::parse("t").unwrap();
    let spec = TopicSpec {
        name,
        partitions: Some(1),
        settings: Vec::new(),
    };
    log.create_topic(spec, Waker::noop()).wait().unwrap();
    for i in 0..400 {
        append(&log, "t", Some("k"), &format!("{i:04}"), i).unwrap();
    }
    drop(log);
    let before = all(&folder);
    let path = folder.path().join(DATABASE);
    let whole = std::fs::read(&path).unwrap();
    let (mut partly, mut nothing) = (0, 0);
    // Page after page, overwritten and torn.
    for page in 0..whole.len() / 4096 {
        if whole[page * 4096..(page + 1) * 4096].iter().all(|byte| *byte == 0) {
            continue;
        }
        let mut bytes = whole.clone();
        bytes[page * 4096..(page + 1) * 4096].fill(0xa5);
        std::fs::write(&path, &bytes).unwrap();
        let to = Folder::new();
        match repair(folder.path(), to.path(), &fresh()) {
            Ok(report) => {
                assert!(check(to.path()).unwrap().sound(), "page {page}: {report:?}");
                let found = all(&to);
                assert!(found.iter().all(|record| before.contains(record)), "page {page}");
                // Whatever is not there is told.
                assert!(found == before || !report.sound(), "page {page}: {report:?}");
                let in_part = !found.is_empty() && found != before;
                partly += usize::from(in_part);
                if in_part {
                    append(&to.open(), "t", Some("k"), "next", 5).unwrap();
                }
            }
            Err(CopyError::Nothing(why)) => {
                assert!(!why.is_empty());
                nothing += 1;
            }
            Err(error) => panic!("page {page}: {error}"),
        }
    }
    // With its own assertions the database reads every page when it is opened, and is then lost as a whole.
    let walks = !cfg!(debug_assertions);
    assert!(
        nothing > 0 && (partly > 3 || !walks),
        "{partly} partly, {nothing} nothing"
    );
}

#[test]
fn a_store_that_was_set_aside_is_repaired_beside_the_one_that_is_served() {
    let folder = filled(true);
    let before = all(&folder);
    let path = folder.path().join(DATABASE);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, b"rubbish".repeat(3000)).unwrap();
    let log = folder.open();
    let aside = folder.path().join(format!("{DATABASE}.damaged-1"));
    std::fs::write(&aside, whole).unwrap();
    let refused = repair(folder.path(), Folder::new().path(), &fresh()).unwrap_err();
    assert!(
        matches!(refused, CopyError::From(SurveyError::Open(OpenError::Held { .. }))),
        "{refused}"
    );
    let to = Folder::new();
    let report = repair(&aside, to.path(), &fresh()).unwrap();
    assert!(report.sound(), "{report:?}");
    assert_eq!(all(&to), before);
    drop(log);
}

#[test]
fn nothing_is_written_over_and_nothing_half_is_left() {
    let folder = filled(true);
    let to = Folder::new();
    std::fs::write(to.path().join("mine"), b"mine").unwrap();
    let refused = repair(folder.path(), to.path(), &fresh()).unwrap_err();
    assert!(matches!(refused, CopyError::To(_)), "{refused}");
    assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 1);
    std::fs::write(folder.path().join(DATABASE), b"rubbish".repeat(3000)).unwrap();
    let to = to.path().join("new");
    let refused = repair(folder.path(), &to, &fresh()).unwrap_err();
    assert!(matches!(refused, CopyError::Nothing(_)), "{refused}");
    assert_eq!(std::fs::read_dir(to.parent().unwrap()).unwrap().count(), 1);
}
