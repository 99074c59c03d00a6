//! `check` on whole, killed and damaged directories.

use super::*;
use crate::log::depot::{DATA, DATABASE, RING};

fn filled(closed: bool) -> (Folder, Vec<Bytes>) {
    let folder = Folder::new();
    let log = folder.open();
    for i in 0..40 {
        let size = if i % 10 == 9 { 40_000 } else { 1_500 };
        append(&log, "t", Some("k"), &format!("{i:04}").repeat(size / 4), i).unwrap();
    }
    let partition = append(&log, "t", Some("k"), "last", 41).unwrap().partition;
    let mut batches = Vec::new();
    let mut from = 0;
    loop {
        let read = read(&log, "t", partition, from).unwrap();
        if read.batches.is_empty() {
            break;
        }
        batches.extend(read.batches);
        from = read.offset_next.0;
    }
    let copy = Folder::new();
    if closed {
        drop(log);
    }
    // Else as a kill leaves it: the database was not closed.
    folder.copy_to(&copy);
    (copy, batches)
}

#[test]
fn a_killed_directory_is_sound_and_not_a_byte_of_it_changes() {
    let (folder, batches) = filled(false);
    let both = || [DATABASE, RING].map(|name| std::fs::read(folder.path().join(name)).unwrap());
    let (before, entries) = (both(), std::fs::read_dir(folder.path()).unwrap().count());
    let report = check(folder.path()).unwrap();
    assert!(report.sound(), "{report:?}");
    assert_eq!((report.batches(), report.records()), (batches.len() as u64, 41));
    assert!(both() == before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), entries);
}

#[test]
fn a_flipped_bit_in_any_batch_is_found() {
    // After a kill a flipped bit in the very last commit looks like a commit that was not finished, and is taken back.
    let (folder, batches) = filled(true);
    let path = folder.path().join(DATA).join("0000000001.data");
    let whole = std::fs::read(&path).unwrap();
    for batch in batches.iter().step_by(5).chain(batches.last()) {
        // CRC to timestamps: no two batches agree in these.
        let probe = &batch[17..43];
        let mut bytes = whole.clone();
        let places: Vec<usize> = (0..bytes.len() - probe.len())
            .filter(|at| bytes[*at..].starts_with(probe))
            .collect();
        assert!(!places.is_empty());
        for at in places {
            bytes[at + probe.len() + 20] ^= 0x10;
        }
        std::fs::write(&path, bytes).unwrap();
        let report = check(folder.path()).unwrap();
        let base_offset = u64::from_be_bytes(batch[..8].try_into().unwrap());
        let found: Vec<u64> = report.damaged.iter().map(|range| range.offset_first).collect();
        assert_eq!(found, [base_offset], "{report:?}");
        assert!(report.unread.is_empty() && !report.sound());
    }
}

#[test]
fn a_flipped_bit_in_the_database_is_found_and_so_is_a_data_file_that_is_missing_or_short() {
    let (folder, batches) = filled(true);
    let path = folder.path().join(DATABASE);
    let whole = std::fs::read(&path).unwrap();
    // The directory of a row: its checksum covers the entry, whose offset tells it apart.
    let key = [&40u64.to_be_bytes()[..], &1u32.to_be_bytes()].concat();
    let mut bytes = whole.clone();
    let places: Vec<usize> = (0..bytes.len() - 12)
        .filter(|at| bytes[*at..].starts_with(&key))
        .collect();
    assert!(!places.is_empty());
    places.into_iter().for_each(|at| bytes[at + 7] ^= 0x10);
    std::fs::write(&path, bytes).unwrap();
    assert!(!check(folder.path()).unwrap().sound());
    std::fs::write(&path, whole).unwrap();
    let data = folder.path().join(DATA).join("0000000001.data");
    let bytes = std::fs::read(&data).unwrap();
    std::fs::write(&data, &bytes[..bytes.len() / 2]).unwrap();
    let report = check(folder.path()).unwrap();
    let lost = report.damaged.len();
    assert!((1..batches.len()).contains(&lost), "{report:?}");
    assert_eq!(report.batches() as usize, batches.len() - lost);
    std::fs::remove_file(&data).unwrap();
    let report = check(folder.path()).unwrap();
    assert_eq!((report.damaged.len(), report.batches()), (batches.len(), 0));
    assert_eq!(std::fs::read_dir(folder.path().join(DATA)).unwrap().count(), 0);
}

#[test]
fn a_flipped_bit_in_a_value_is_found_at_the_start_and_the_value_not_served() {
    let folder = Folder::new();
    let log = folder.open();
    let (key, value) = (b"key".to_vec(), b"seventeen".repeat(9));
    let change = StateChange {
        table: Table::Devices,
        key: key.clone(),
        expect: Expect::Absent,
        value: Some(value.clone()),
    };
    let submission = Submission {
        state: vec![change],
        ..Submission::default()
    };
    log.submit(submission, Waker::noop()).wait().unwrap();
    drop(log);
    let path = folder.path().join(DATABASE);
    let mut bytes = std::fs::read(&path).unwrap();
    let places: Vec<usize> = (0..bytes.len() - value.len())
        .filter(|at| bytes[*at..].starts_with(&value))
        .collect();
    assert!(!places.is_empty());
    places.into_iter().for_each(|at| bytes[at + 9] ^= 1);
    std::fs::write(&path, bytes).unwrap();
    let log = folder.open();
    assert_eq!(log.state(Table::Devices, &key), Ok(None));
    assert_eq!(depot::set_aside(folder.path()).len(), 1);
}

#[test]
fn a_torn_or_foreign_file_is_reported_and_not_fatal() {
    let (folder, _) = filled(true);
    let path = folder.path().join(DATABASE);
    let whole = std::fs::read(&path).unwrap();
    for bytes in [whole[..whole.len() / 2].to_vec(), b"rubbish".repeat(3000), Vec::new()] {
        std::fs::write(&path, bytes).unwrap();
        assert!(!check(folder.path()).unwrap().sound());
    }
}

#[test]
fn a_directory_that_is_served_or_empty_is_refused() {
    let folder = Folder::new();
    assert!(matches!(check(folder.path()), Err(SurveyError::NothingThere(_))));
    let _log = folder.open();
    let refused = check(folder.path()).unwrap_err();
    assert!(
        matches!(refused, SurveyError::Open(OpenError::Held { .. })),
        "{refused}"
    );
}
