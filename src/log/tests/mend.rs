//! Damage of one part of a store: what is intact stays in use, what is missing has markers, and offsets go on above.

use super::*;
use crate::log::depot::{DATA, DATABASE, RING};
use crate::log::ring::BLOCK;

/// Offsets that markers of damage name.
pub(super) fn damage(log: &Log) -> Vec<(u64, u64)> {
    let losses = log.losses().into_iter();
    let of_damage = losses.filter(|found| found.loss.reason == LossReason::Damage);
    of_damage
        .map(|found| (found.loss.offset_first, found.loss.offset_last))
        .collect()
}

/// A closed directory with twenty small records, or one as a kill leaves it.
fn filled(closed: bool) -> Folder {
    let folder = Folder::new();
    let log = folder.open();
    for n in 0..20 {
        append(&log, "t", Some("k"), &format!("record {n}"), n).unwrap();
    }
    if closed {
        drop(log);
        return folder;
    }
    let copy = Folder::new();
    folder.copy_to(&copy);
    copy
}

fn partition_of(log: &Log) -> Partition {
    let partitions = 0..log.topic("t").unwrap().partitions;
    let filled = |p: &u32| {
        log.bounds("t", Partition(*p)).unwrap().high_watermark.0 > log.bounds("t", Partition(*p)).unwrap().log_start.0
    };
    Partition(
        partitions
            .into_iter()
            .max_by_key(|p| (filled(p), log.held(*p)))
            .unwrap(),
    )
}

impl Log {
    /// Batches that a partition of "t" has.
    fn held(&self, partition: u32) -> usize {
        let state = self.shared.read_state();
        state.topics["t"].partitions[partition as usize].index.len()
    }
}

/// Whatever was lost, records go on above, in a new epoch, and after another start all is as it was.
fn goes_on(folder: &Folder, kept: usize) -> Log {
    let log = folder.open();
    let partition = partition_of(&log);
    assert_eq!(log.held(partition.0), kept);
    let bounds = log.bounds("t", partition).unwrap();
    assert_eq!((bounds.high_watermark, bounds.leader_epoch), (Offset(1 << 40), 1));
    let appended = append(&log, "t", Some("k"), "after", 50).unwrap();
    assert_eq!((appended.partition, appended.base_offset), (partition, Offset(1 << 40)));
    let all = records(&log, "t", partition, 0);
    assert_eq!(all.len(), kept + 1);
    let markers = damage(&log);
    drop(log);
    let log = folder.open();
    assert_eq!(log.bounds("t", partition).unwrap().leader_epoch, 1);
    assert_eq!(damage(&log), markers);
    assert_eq!(records(&log, "t", partition, 0), all);
    log
}

#[test]
fn without_its_ring_the_database_stays_in_use() {
    for damage_of in ["missing", "another's", "rubbish"] {
        let folder = filled(true);
        let path = folder.path().join(RING);
        match damage_of {
            "missing" => std::fs::remove_file(path).unwrap(),
            "rubbish" => std::fs::write(path, b"no ring at all".repeat(1000)).unwrap(),
            _ => {
                std::fs::copy(filled(false).path().join(RING), path).unwrap();
            }
        }
        let log = goes_on(&folder, 20);
        assert!(damage(&log).contains(&(20, (1 << 40) - 1)), "{damage_of}");
        drop(log);
        assert!(check(folder.path()).unwrap().sound(), "{damage_of}");
    }
}

#[test]
fn records_of_the_ring_on_both_sides_of_damage_are_kept() {
    let folder = filled(false);
    let path = folder.path().join(RING);
    let mut bytes = std::fs::read(&path).unwrap();
    let is_record = |at: &usize| &bytes[*at..*at + 8] == b"HWRECORD";
    let places: Vec<usize> = (0..bytes.len()).step_by(BLOCK as usize).filter(is_record).collect();
    bytes[places[places.len() - 10] + 100] ^= 4;
    std::fs::write(&path, &bytes).unwrap();
    let log = goes_on(&folder, 19);
    assert!(damage(&log).contains(&(10, 10)), "{:?}", damage(&log));
    assert_eq!(
        std::fs::read(folder.path().join(format!("{RING}.damaged-1"))).unwrap(),
        bytes
    );
}

#[test]
fn a_mending_that_was_cut_off_is_finished_by_the_next_start() {
    let folder = filled(false);
    let mended = Folder::new();
    folder.copy_to(&mended);
    std::fs::remove_file(mended.path().join(RING)).unwrap();
    drop(mended.open());
    // The database names the new ring already, which has not taken its place.
    let ring = mended.path().join(RING);
    std::fs::rename(&ring, mended.path().join(format!("{RING}.new"))).unwrap();
    std::fs::copy(folder.path().join(RING), &ring).unwrap();
    let log = mended.open();
    assert_eq!(log.shared.metrics.log.stores_mended.get(), 0);
    append(&log, "t", Some("k"), "after", 50).unwrap();
}

#[test]
fn a_missing_data_file_takes_what_lay_in_it_and_nothing_else() {
    let folder = filled(true);
    std::fs::remove_file(folder.path().join(DATA).join("0000000001.data")).unwrap();
    let log = folder.open();
    let partition = partition_of(&log);
    assert_eq!(damage(&log), [(0, 19)]);
    assert_eq!(
        append(&log, "t", Some("k"), "after", 50).unwrap().base_offset,
        Offset(20)
    );
    assert_eq!(records(&log, "t", partition, 0).len(), 1);
    drop(log);
    assert!(check(folder.path()).unwrap().sound());
    assert_eq!(damage(&folder.open()), [(0, 19)]);
}

#[test]
fn whatever_page_of_the_database_is_damaged_every_record_is_there_or_marked_or_all_is_set_aside() {
    let folder = filled(true);
    let bytes = std::fs::read(folder.path().join(DATABASE)).unwrap();
    let (mut mended, mut aside) = (0, 0);
    for page in 0..bytes.len() / 4096 {
        let here = page * 4096..(page + 1) * 4096;
        if bytes[here.clone()].iter().all(|byte| *byte == 0) {
            continue;
        }
        let copy = Folder::new();
        folder.copy_to(&copy);
        let mut flipped = bytes.clone();
        flipped[here].iter_mut().step_by(61).for_each(|byte| *byte ^= 0x11);
        std::fs::write(copy.path().join(DATABASE), &flipped).unwrap();
        let log = copy.open();
        let metrics = &log.shared.metrics.log;
        if metrics.stores_lost.get() > 0 {
            aside += 1;
            assert!(copy.path().join(format!("{DATA}.damaged-1")).exists() || metrics.stores_mended.get() == 0);
        } else {
            mended += metrics.stores_mended.get();
            let partition = partition_of(&log);
            let there = records(&log, "t", partition, 0).len() as u64;
            let lost: u64 = damage(&log)
                .into_iter()
                .map(|(first, last)| last.min(19).saturating_sub(first) + u64::from(first < 20))
                .sum();
            assert!(
                there + lost >= 20,
                "page {page}: {there} there, markers {:?}",
                damage(&log)
            );
        }
        let offset = append(&log, "t", Some("k"), "after", 50).unwrap().base_offset;
        assert!(offset >= Offset(20), "page {page}: {offset}");
    }
    assert!(mended > 0 && aside > 0, "{mended} {aside}");
}

#[test]
fn a_topic_whose_row_is_lost_takes_no_batch_along() {
    let folder = filled(true);
    let path = folder.path().join(DATABASE);
    let mut bytes = std::fs::read(&path).unwrap();
    let needle = b"\"partitions\"";
    let places: Vec<usize> = (0..bytes.len() - needle.len())
        .filter(|at| bytes[*at..].starts_with(needle))
        .collect();
    for at in places {
        bytes[at] = b'!';
    }
    std::fs::write(&path, &bytes).unwrap();
    let log = folder.open();
    assert_eq!(log.shared.metrics.log.stores_lost.get(), 1);
    assert!(
        folder
            .path()
            .join(format!("{DATA}.damaged-1"))
            .join("0000000001.data")
            .exists()
    );
}
