//! What a commit costs a disk by each way of making it durable, checkpoints included: for `headwater bench wear`, by which the ways
//! are chosen.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::commit::SEGMENT_BYTES;
use super::depot::{Depot, Directory};
use super::disk::{Disk, FileDisk};
use super::profile::Way;
use super::redb::RedbStore;
use super::store::{Map, Op, Store, StoreError, of_io};
use super::tally::{Tallied, Tally, Written};

/// A way of making a commit durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    /// Writes and syncs, one behind the other.
    Raw,
    /// A transaction of redb.
    Redb,
    /// The same so that it opens quickly after a crash, as the store's own database does.
    RedbQuickRepair,
    /// The store, by a profile.
    Store(Way),
}

impl Durable {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Raw,
        Self::Redb,
        Self::RedbQuickRepair,
        Self::Store(Way::Ssd),
        Self::Store(Way::Sd),
    ];

    /// Its name in a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Redb => "redb",
            Self::RedbQuickRepair => "redb, quick-repair",
            Self::Store(Way::Ssd) => "ring, ssd",
            Self::Store(Way::Sd) => "ring, sd",
        }
    }

    /// Makes so many commits of this body in an empty directory, with random bytes for a ring's id; gives what was written for them.
    pub fn commits(self, directory: &Path, body: &Bytes, count: u32, seed: [u8; 16]) -> Result<Written, StoreError> {
        let tally = Arc::<Tally>::default();
        let file = || {
            let mut options = OpenOptions::new();
            let file = options
                .read(true)
                .write(true)
                .create_new(true)
                .open(directory.join("file"));
            let file = FileDisk(file.map_err(|error| of_io(&error))?);
            Ok::<_, StoreError>(Tallied::new(file, Arc::clone(&tally)))
        };
        match self {
            Self::Raw => {
                let file = file()?;
                for i in 0..count as usize {
                    let written = file.write_synced((i * body.len()) as u64, body);
                    written.map_err(|error| of_io(&error))?;
                }
                Ok(tally.written())
            }
            Self::Redb | Self::RedbQuickRepair => {
                let quick_repair = self == Self::RedbQuickRepair;
                let store = RedbStore::open(file()?, 16 << 20, false)?.with_quick_repair(quick_repair);
                let row = |number: u64| Op::put(Map::Topics, number.to_be_bytes(), body.clone());
                commits(&store, row, count, || tally.written())
            }
            Self::Store(way) => {
                let mut depot = Directory::take(directory, 16 << 20, [1; 16], seed)
                    .map_err(|error| StoreError::Io(error.to_string()))?;
                depot.set_sizes(way.sizes());
                let (store, _) = depot.open(false)?;
                // As commits do it: what is large has a row of its own.
                let map = if body.len() < SEGMENT_BYTES {
                    Map::Journal
                } else {
                    Map::Segments
                };
                let row = |number: u64| {
                    let head = vec![0; ROW_HEAD];
                    Op::put_long(map, number.to_be_bytes(), head, vec![body.clone()])
                };
                commits(&*store, row, count, || depot.written())
            }
        }
    }
}

/// Bytes of the head of a row of one batch.
const ROW_HEAD: usize = 52;

fn commits(
    store: &dyn Store,
    row: impl Fn(u64) -> Op,
    count: u32,
    written: impl Fn() -> Written,
) -> Result<Written, StoreError> {
    // What a first commit makes is no commit's.
    store.commit(&[row(0)])?;
    store.checkpoint()?;
    let before = written();
    for number in 1..=u64::from(count) {
        store.commit(&[row(number)])?;
        if store.checkpoint_due() {
            store.checkpoint()?;
        }
    }
    store.checkpoint()?;
    Ok(written().since(before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::tests::Folder;

    fn bytes_for_one(durable: Durable, bytes: usize, count: u32) -> f64 {
        let folder = Folder::new();
        let written = durable
            .commits(folder.path(), &vec![7; bytes].into(), count, [7; 16])
            .unwrap();
        assert!(
            written.runs >= u64::from(count) && written.syncs >= u64::from(count),
            "{written:?}"
        );
        written.bytes as f64 / (bytes * count as usize) as f64
    }

    #[test]
    fn a_card_gets_few_bytes_for_each_of_a_commit() {
        let sd = Durable::Store(Way::Sd);
        for (bytes, count, bound) in [
            (1 << 10, 1000, 20.0),
            (16 << 10, 300, 3.0),
            (160 << 10, 60, 1.3),
            (1 << 20, 20, 1.3),
        ] {
            let found = bytes_for_one(sd, bytes, count);
            assert!(found <= bound, "{bytes} bytes: {found}");
        }
    }

    #[test]
    fn other_disks_get_large_commits_once_too_and_fewer_bytes_than_a_database_writes() {
        let ssd = Durable::Store(Way::Ssd);
        assert!(bytes_for_one(ssd, 1 << 20, 20) <= 1.3);
        assert!(bytes_for_one(ssd, 1 << 10, 500) < bytes_for_one(Durable::Redb, 1 << 10, 500));
    }
}
