//! Backups of a log that is served and of a directory, and what is restored of them.

use super::inspect::{COUNT, Keeper, filled, kept};
use super::*;

fn fresh() -> Fresh {
    Fresh {
        store_id: *b"the copy's store",
        ring_seed: *b"another ring id.",
        now_ms: 77,
    }
}

/// The bytes of a backup; `meanwhile` is called with each piece's number before it goes out.
fn taken(log: &Log, meanwhile: &mut dyn FnMut(usize)) -> (Vec<u8>, CopyReport) {
    let backup = log.backup(Waker::noop()).wait().unwrap();
    let (mut bytes, mut piece) = (Vec::new(), 0);
    let report = backup.write(&mut |more| {
        meanwhile(piece);
        piece += 1;
        bytes.extend(more);
        Ok(())
    });
    (bytes, report.unwrap())
}

fn restored(bytes: &[u8]) -> (Folder, CopyReport) {
    let to = Folder::new();
    let report = restore(&mut &bytes[..], to.path(), &fresh()).unwrap();
    let checked = check(to.path()).unwrap();
    assert!(checked.sound(), "{checked:?}");
    (to, report)
}

#[test]
fn a_backup_is_of_the_moment_it_was_taken_and_the_copy_is_another_store() {
    let (folder, copy) = (filled(true), Folder::new());
    let old = inspect(folder.path()).unwrap();
    let log = folder.open();
    let before = records(&log, "t", Partition(0), 0);
    let backup = log.backup(Waker::noop()).wait().unwrap();
    // What comes now is not in it, neither record nor state.
    append_batch(&log, "t", Partition(0), idempotent(7, 0, 1, "later")).unwrap();
    assert_eq!(log.backup(Waker::noop()).wait().map(drop).unwrap_err().code, Code::Busy);
    let mut bytes = Vec::new();
    let sink = &mut |more: Vec<u8>| {
        bytes.extend(more);
        Ok(())
    };
    assert!(backup.write(sink).unwrap().sound());
    drop(log.backup(Waker::noop()).wait().unwrap());
    drop(log);
    let (to, report) = restored(&bytes);
    assert_eq!(report.partitions[0].records, COUNT + 1);
    let new = inspect(to.path()).unwrap();
    let (old_store, new_store) = (old.store.unwrap(), new.store.unwrap());
    assert_eq!(new_store.origin, Some(old_store.store_id.clone()));
    assert_ne!(new_store.store_id, old_store.store_id);
    assert_eq!((new.topics, new.tables), (old.topics, old.tables));
    let log = to.open();
    assert_eq!(records(&log, "t", Partition(0), 0), before);
    assert_eq!(log.state(Table::Forward, b"progress").unwrap().unwrap(), b"12");
    let next = append_batch(&log, "t", Partition(0), idempotent(7, 0, 1, "other")).unwrap();
    assert_eq!((next.base_offset, next.duplicate), (Offset(COUNT + 1), false));
    // Topics that both make from now on are not the same.
    let id = |log: &Log| {
        make(log, "new", &[]);
        log.topic("new").unwrap().id
    };
    folder.copy_to(&copy);
    assert_ne!(id(&log), id(&copy.open()));
}

#[test]
fn what_retention_removes_meanwhile_is_left_out() {
    let folder = filled(true);
    let mut options = folder.options();
    options.storage.tail_bytes = 0;
    let log = inline::open_directory(options).unwrap();
    for i in 0..100 {
        append(&log, "t", Some("k"), &"x".repeat(60_000), i).unwrap();
    }
    let cut = |to: u64| {
        let cut = Cut {
            topic: Topic::parse("t").unwrap(),
            partition: Partition(0),
            to: Some(Offset(to)),
        };
        log.delete_records(vec![cut], Waker::noop()).wait().unwrap()[0]
            .clone()
            .unwrap();
    };
    let (bytes, report) = taken(&log, &mut |piece| {
        if piece == 2 {
            cut(COUNT + 90);
        }
    });
    assert!(report.sound(), "{report:?}");
    let (to, _) = restored(&bytes);
    let bounds = to.open().bounds("t", Partition(0)).unwrap();
    assert_eq!((bounds.log_start.0, bounds.high_watermark.0), (COUNT + 90, COUNT + 101));
}

#[test]
fn a_backup_that_is_torn_or_altered_makes_no_directory() {
    let folder = filled(true);
    let (bytes, _) = taken(&folder.open(), &mut |_| {});
    let to = Folder::new();
    let to = to.path().join("new");
    let mut wrong: Vec<Vec<u8>> = [0, 7, 43, 44, 60, bytes.len() / 2, bytes.len() - 1]
        .iter()
        .map(|length| bytes[..*length].to_vec())
        .collect();
    for at in [0, 9, 20, 44, 46, 100, bytes.len() / 2, bytes.len() - 2] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x40;
        wrong.push(flipped);
    }
    for bytes in wrong {
        let refused = restore(&mut &bytes[..], &to, &fresh()).unwrap_err();
        assert!(matches!(refused, CopyError::Torn(_)), "{refused}");
        assert_eq!(std::fs::read_dir(to.parent().unwrap()).unwrap().count(), 0);
        assert!(matches!(
            relay(&mut &bytes[..], &mut Vec::new()),
            Err(CopyError::Torn(_))
        ));
    }
    let mut same = Vec::new();
    relay(&mut &bytes[..], &mut same).unwrap();
    assert!(same == bytes);
}

#[test]
fn a_directory_gives_the_same_and_what_is_damaged_in_it_is_told() {
    let folder = filled(true);
    let values = |path: &std::path::Path| kept(path, Keeper::default()).records;
    let before = values(folder.path());
    let mut bytes = Vec::new();
    assert!(stream_directory(folder.path(), &mut bytes, 5).unwrap().sound());
    assert_eq!(values(restored(&bytes).0.path()), before);
    let copy = Folder::new();
    assert!(clone_directory(folder.path(), copy.path(), &fresh()).unwrap().sound());
    assert_eq!(values(copy.path()), before);
    let path = folder.path().join(depot::DATA).join("0000000001.data");
    let mut data = std::fs::read(&path).unwrap();
    let at = data.windows(8).position(|bytes| bytes == b"00170017").unwrap();
    data[at] ^= 1;
    std::fs::write(&path, data).unwrap();
    // Of a directory, and of the log that serves it.
    bytes.clear();
    let report = stream_directory(folder.path(), &mut bytes, 5).unwrap();
    let log = folder.open();
    let (live, told) = taken(&log, &mut |_| {});
    for (bytes, report) in [(bytes, report), (live, told)] {
        let offsets: Vec<u64> = report.damaged.iter().map(|range| range.offset_first).collect();
        assert_eq!(offsets, [17]);
        let (to, again) = restored(&bytes);
        assert_eq!(again, report);
        assert_eq!(check(to.path()).unwrap().losses, report.losses);
        let left: Vec<_> = before.iter().filter(|(offset, _)| *offset != 17).cloned().collect();
        assert_eq!(values(to.path()), left);
    }
}
