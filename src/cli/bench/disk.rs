//! `headwater bench --disk`: what a durable write costs on the disk of a directory, in one file after the other that nobody else sees
//! and that goes with this process, and what that means for a gateway.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::super::Failure;
use super::table::{Table, percentiles};
use crate::config::{Config, Profile};
use crate::log::{Media, Way, choose};

/// A commit of one record, one page of a card, and the groups that a busy log makes.
const SIZES_KIB: [usize; 4] = [4, 16, 160, 1024];
/// A file that is written round and round.
const FILE_BYTES: usize = 16 << 20;
/// Of each measurement.
const TIME: Duration = Duration::from_millis(500);
/// Above this a durable write is as slow as a card's, microseconds: the log, too, calls a disk quick below it.
const QUICK_US: u64 = 1_000;
/// Records of 1 KB in a group of 160 KiB.
const GROUP_RECORDS: f64 = 160.0;

/// Durable writes of one size.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Figures {
    kib: usize,
    /// Over blocks that were written before.
    syncs_per_second: f64,
    p50_us: u64,
    p99_us: u64,
    mb_per_second: f64,
    /// Two threads, each with a file of its own.
    two_syncs_per_second: f64,
    /// Into blocks that were never written.
    fresh_p50_us: u64,
}

/// What it means.
#[derive(Debug, Serialize, PartialEq)]
struct Verdict {
    profile: &'static str,
    why: String,
    /// Durable acks a second of one client that waits for each, with records of 1 KB.
    acks_alone: f64,
    /// The same of many clients, in groups of 160 KiB, two at a time.
    acks_in_groups: f64,
    fresh_blocks_cost: f64,
    disks: String,
    disk_bytes: Option<u64>,
    /// Days for each gigabyte a day, at the default of `storage.write_cycles`.
    life_days_at_a_gb_a_day: Option<f64>,
}

impl Figures {
    const HEADINGS: [&str; 7] = [
        "KiB",
        "syncs/s",
        "p50 us",
        "p99 us",
        "MB/s",
        "two, syncs/s",
        "fresh p50 us",
    ];

    fn cells(&self) -> [String; 7] {
        [
            self.kib.to_string(),
            format!("{:.0}", self.syncs_per_second),
            self.p50_us.to_string(),
            self.p99_us.to_string(),
            format!("{:.1}", self.mb_per_second),
            format!("{:.0}", self.two_syncs_per_second),
            self.fresh_p50_us.to_string(),
        ]
    }
}

/// Measures the disk of a directory.
pub(super) fn run(directory: &Path, json: bool) -> Result<(), Failure> {
    let mut table = Table::new(&Figures::HEADINGS, json)?;
    let mut rows = Vec::new();
    for kib in SIZES_KIB {
        let figures = measure(directory, kib).map_err(|error| unusable(directory, &error))?;
        table.row(&figures.cells(), &figures)?;
        rows.push(figures);
    }
    let verdict = judge(
        &rows,
        &Media::of_directory(directory),
        Config::default().storage.write_cycles,
    );
    table.end(&verdict.lines(), &verdict)
}

fn unusable(directory: &Path, error: &io::Error) -> Failure {
    let hint = match error.kind() {
        ErrorKind::StorageFull => "a disk with 64 MiB to spare",
        _ => "a directory that is there and can be written to",
    };
    Failure::failed(format!(
        "{} cannot be measured: {error}. Try: {hint}",
        directory.display()
    ))
}

fn measure(directory: &Path, kib: usize) -> io::Result<Figures> {
    let bytes = kib << 10;
    let (first, second) = (written(directory)?, written(directory)?);
    let mut alone = rounds(&first, bytes, TIME)?;
    let count = alone.len() as f64;
    let seconds = TIME.as_secs_f64();
    let (one, other) = thread::scope(|scope| {
        let other = scope.spawn(|| rounds(&second, bytes, TIME));
        (rounds(&first, bytes, TIME), other.join())
    });
    let other = other.map_err(|_| io::Error::other("a thread panicked"))??;
    let both = one?.len() + other.len();
    let (p50_us, p99_us) = percentiles(&mut alone);
    let (fresh_p50_us, _) = percentiles(&mut appends(directory, bytes)?);
    Ok(Figures {
        kib,
        syncs_per_second: count / seconds,
        p50_us,
        p99_us,
        mb_per_second: count * bytes as f64 / seconds / 1e6,
        two_syncs_per_second: both as f64 / seconds,
        fresh_p50_us,
    })
}

/// A file that no directory names any more: it goes with its last handle, however this process ends.
fn nameless(directory: &Path) -> io::Result<File> {
    let name = format!(".headwater-bench-{}-{:08x}", std::process::id(), fastrand::u32(..));
    let path = directory.join(name);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// One with every block written.
fn written(directory: &Path) -> io::Result<File> {
    let file = nameless(directory)?;
    let part = noise(1 << 20);
    for at in (0..FILE_BYTES).step_by(part.len()) {
        file.write_all_at(&part, at as u64)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// Writes and syncs round and round for so long; gives how long each took, in microseconds.
fn rounds(file: &File, bytes: usize, time: Duration) -> io::Result<Vec<u64>> {
    let (data, start, mut at, mut took) = (noise(bytes), Instant::now(), 0, Vec::new());
    while start.elapsed() < time {
        if at + bytes > FILE_BYTES {
            at = 0;
        }
        took.push(synced(file, &data, at)?);
        at += bytes;
    }
    Ok(took)
}

/// Writes and syncs behind the end of a new file.
fn appends(directory: &Path, bytes: usize) -> io::Result<Vec<u64>> {
    let (file, data, start) = (nameless(directory)?, noise(bytes), Instant::now());
    let (mut at, mut took) = (0, Vec::new());
    while start.elapsed() < TIME && at + bytes <= FILE_BYTES {
        took.push(synced(&file, &data, at)?);
        at += bytes;
    }
    Ok(took)
}

fn synced(file: &File, data: &[u8], at: usize) -> io::Result<u64> {
    let before = Instant::now();
    file.write_all_at(data, at as u64)?;
    file.sync_data()?;
    Ok(before.elapsed().as_micros() as u64)
}

/// Bytes that no disk makes less of.
fn noise(bytes: usize) -> Vec<u8> {
    std::iter::repeat_with(|| fastrand::u8(..)).take(bytes).collect()
}

fn judge(rows: &[Figures], media: &Media, cycles: u64) -> Verdict {
    let of = |kib: usize| rows.iter().find(|row| row.kib == kib).copied().unwrap_or_default();
    let (single, group) = (of(SIZES_KIB[0]), of(SIZES_KIB[2]));
    let chosen = choose(Profile::Auto, media);
    let slow = single.p50_us > QUICK_US;
    let (way, why) = match (chosen.way, slow) {
        (Way::Sd, _) => (Way::Sd, chosen.why),
        (Way::Ssd, true) => {
            let why = format!(
                "a durable write takes {} us, as a card's. `auto` does not see that",
                single.p50_us
            );
            (Way::Sd, why)
        }
        (Way::Ssd, false) => (
            Way::Ssd,
            format!("{}; a durable write takes {} us", chosen.why, single.p50_us),
        ),
    };
    // A group goes to the disk once, and a second time with a flush.
    let group_rate = group.syncs_per_second.max(group.two_syncs_per_second) / 2.0;
    let linger_us = way.linger_us().unwrap_or(0) as f64;
    Verdict {
        profile: way.name(),
        why,
        acks_alone: 1e6 / (single.p50_us as f64 + linger_us).max(1.0),
        acks_in_groups: group_rate * GROUP_RECORDS,
        fresh_blocks_cost: group.fresh_p50_us as f64 / group.p50_us.max(1) as f64,
        disks: media.names(),
        disk_bytes: media.bytes(),
        life_days_at_a_gb_a_day: media.bytes().map(|bytes| bytes as f64 * cycles as f64 / 1e9),
    }
}

impl Verdict {
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            String::new(),
            format!("profile: {} ({})", self.profile, self.why),
            format!(
                "durable acks a second to expect, 1 KB each: {:.0} of one client that waits for each, up to {:.0} of many",
                self.acks_alone, self.acks_in_groups
            ),
            format!(
                "a write of 160 KiB into blocks never written takes {:.1} times as long",
                self.fresh_blocks_cost
            ),
        ];
        if let (Some(bytes), Some(days)) = (self.disk_bytes, self.life_days_at_a_gb_a_day) {
            lines.push(format!(
                "{} holds {:.0} GB: at storage.write_cycles it lasts {:.0} years where 10 GB a day are written",
                self.disks,
                bytes as f64 / 1e9,
                days / 10.0 / 365.0
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(p50_us: u64) -> Vec<Figures> {
        let row = |kib| Figures {
            kib,
            p50_us,
            syncs_per_second: 100.0,
            two_syncs_per_second: 150.0,
            fresh_p50_us: 2 * p50_us,
            ..Figures::default()
        };
        SIZES_KIB.map(row).to_vec()
    }

    #[test]
    fn a_disk_that_is_as_slow_as_a_card_is_to_be_treated_like_one() {
        let none = Media::default();
        let slow = judge(&rows(4_000), &none, 500);
        assert_eq!(slow.profile, "sd");
        // Its linger comes to the write.
        assert!((slow.acks_alone - 111.1).abs() < 0.1, "{slow:?}");
        let quick = judge(&rows(100), &none, 500);
        assert_eq!((quick.profile, quick.acks_alone), ("ssd", 10_000.0));
        assert_eq!((quick.acks_in_groups, quick.fresh_blocks_cost), (12_000.0, 2.0));
    }

    #[test]
    fn it_measures_and_leaves_nothing() {
        let directory = std::env::temp_dir().join(format!("headwater-bench-test-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let figures = measure(&directory, 4).expect("figures");
        assert!(
            figures.syncs_per_second > 0.0 && figures.p99_us >= figures.p50_us,
            "{figures:?}"
        );
        let left = std::fs::read_dir(&directory).expect("it is there").count();
        std::fs::remove_dir(&directory).expect("it is empty");
        assert_eq!(left, 0);
        let failure = run(&directory, true).expect_err("it is gone");
        assert!(
            failure.text.contains("Try: a directory that is there"),
            "{}",
            failure.text
        );
    }
}
