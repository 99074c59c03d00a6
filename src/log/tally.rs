//! Counts what the store gives to its disk: what wears a card, and what makes it slow.

use std::io::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::disk::Disk;

/// What a device writes at least.
const BLOCK: u64 = 4096;

/// What was given to a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Whole blocks of 4,096 bytes.
    pub bytes: u64,
    /// Writes that did not begin where the one before in the same file ended, or came after a sync.
    pub runs: u64,
    /// Syncs.
    pub syncs: u64,
}

impl Written {
    /// What a card takes for that, microseconds, by a model: 2 ms a run, 10 MB/s, 1 ms a sync.
    pub fn card_us(self) -> u64 {
        self.runs * 2_000 + self.bytes / 10 + self.syncs * 1_000
    }

    /// What came after `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(before.bytes),
            runs: self.runs.saturating_sub(before.runs),
            syncs: self.syncs.saturating_sub(before.syncs),
        }
    }
}

/// The count, over all files of a store.
#[derive(Debug, Default)]
pub struct Tally {
    bytes: AtomicU64,
    runs: AtomicU64,
    syncs: AtomicU64,
}

impl Tally {
    /// Up to now.
    pub fn written(&self) -> Written {
        Written {
            bytes: self.bytes.load(Ordering::Relaxed),
            runs: self.runs.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed),
        }
    }
}

/// A file that is counted.
#[derive(Debug)]
pub struct Tallied<D> {
    disk: D,
    tally: Arc<Tally>,
    /// Where the newest write ended.
    end: AtomicU64,
}

impl<D: Disk> Tallied<D> {
    /// Counts what is written to a disk.
    pub fn new(disk: D, tally: Arc<Tally>) -> Self {
        let end = AtomicU64::new(u64::MAX);
        Self { disk, tally, end }
    }

    fn count(&self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        let bytes = end.next_multiple_of(BLOCK) - offset / BLOCK * BLOCK;
        self.tally.bytes.fetch_add(bytes, Ordering::Relaxed);
        let goes_on = self.end.swap(end, Ordering::Relaxed) == offset;
        self.tally.runs.fetch_add(u64::from(!goes_on), Ordering::Relaxed);
    }

    fn count_sync(&self) {
        self.tally.syncs.fetch_add(1, Ordering::Relaxed);
        self.end.store(u64::MAX, Ordering::Relaxed);
    }
}

impl<D: Disk> Disk for Tallied<D> {
    fn len(&self) -> Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.disk.read(offset, out)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.count(offset, data);
        self.disk.write(offset, data)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.disk.set_len(len)
    }

    fn extend(&self, len: u64) -> Result<()> {
        self.disk.extend(len)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.disk.punch(offset, len)
    }

    fn sync(&self) -> Result<()> {
        self.count_sync();
        self.disk.sync()
    }

    fn write_synced(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.count(offset, data);
        self.count_sync();
        self.disk.write_synced(offset, data)
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::FileDisk;
    use super::*;
    use crate::log::tests::Folder;

    #[test]
    fn bytes_count_in_blocks_and_what_goes_on_is_one_run() {
        let tally = Arc::<Tally>::default();
        let folder = Folder::new();
        let file = std::fs::File::create(folder.path().join("file")).unwrap();
        let disk = Tallied::new(FileDisk(file), Arc::clone(&tally));
        disk.write(0, &[1; 4096]).unwrap();
        disk.write(4096, &[1; 100]).unwrap();
        disk.sync().unwrap();
        disk.write_synced(20_000, &[1; 1000]).unwrap();
        disk.write(21_000, &[1; 3000]).unwrap();
        let written = tally.written();
        let expected = Written {
            bytes: 2 * 4096 + 2 * 4096 + 4096,
            runs: 3,
            syncs: 2,
        };
        assert_eq!(written, expected);
        assert_eq!(written.card_us(), 6_000 + 2_048 + 2_000);
        assert_eq!(written.since(written), Written::default());
    }
}
