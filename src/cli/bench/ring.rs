//! The yardstick: what this disk does with plain writes and syncs, in a preallocated file written round and round.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::Failure;

/// One turn. What is measured and this yardstick take turns, short ones, so that a disk that becomes slower or faster meanwhile does
/// so for both.
const TURN: Duration = Duration::from_millis(200);

/// How many turns each of the two gets in so many seconds, and how long one is.
pub(super) fn turns(seconds: u64) -> (u32, Duration) {
    let time = Duration::from_secs(seconds.clamp(1, 3600));
    let count = u32::try_from(time.as_millis() / TURN.as_millis()).unwrap_or(1);
    (count, time / count)
}

/// Size of the file.
pub(super) const RING_BYTES: usize = 64 << 20;

/// A preallocated file that is written round and round, with a sync after each write.
pub(super) struct Ring {
    file: File,
    at: std::cell::Cell<usize>,
}

impl Ring {
    /// Makes the file, with every block of it written.
    pub(super) fn new(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        let zeroes = vec![0; 1 << 20];
        for at in (0..RING_BYTES).step_by(zeroes.len()) {
            file.write_all_at(&zeroes, at as u64)?;
        }
        file.sync_all()?;
        let at = std::cell::Cell::new(0);
        Ok(Self { file, at })
    }

    /// Writes and syncs groups of this size for a while; adds their latencies and gives the time it took.
    pub(super) fn run(
        &self,
        group_bytes: usize,
        duration: Duration,
        latencies_us: &mut Vec<u64>,
    ) -> std::io::Result<Duration> {
        let group: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(group_bytes).collect();
        let start = Instant::now();
        while start.elapsed() < duration {
            if self.at.get() + group_bytes > RING_BYTES {
                self.at.set(0);
            }
            let before = Instant::now();
            self.file.write_all_at(&group, self.at.get() as u64)?;
            self.file.sync_data()?;
            latencies_us.push(before.elapsed().as_micros() as u64);
            self.at.set(self.at.get() + group_bytes);
        }
        Ok(start.elapsed())
    }
}

/// A directory of a bench on the disk that is measured; it goes with it.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(within: &Path) -> Result<Self, Failure> {
        let path = within.join(format!(
            "headwater-bench-{}-{:08x}",
            std::process::id(),
            fastrand::u32(..)
        ));
        std::fs::create_dir_all(&path).map_err(|error| {
            Failure::failed(format!(
                "{} cannot be made: {error}. Try: --dir with a directory that can be written to",
                path.display()
            ))
        })?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed stays; the figures are told all the same.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
