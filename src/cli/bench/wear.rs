//! `headwater bench wear`: what the disk gets for a commit by each way of making it durable, and what a card would take for it.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::super::{Failure, process};
use super::ring::Scratch;
use super::table::Table;
use crate::log::Durable;

/// Bytes of a commit, and how many of them: enough for several checkpoints.
const COMMITS: [(usize, u32); 4] = [(1 << 10, 6000), (16 << 10, 1500), (160 << 10, 400), (1 << 20, 64)];

/// Arguments of `bench wear`.
#[derive(Args)]
pub(in crate::cli) struct BenchWear {
    /// Directory on the disk to be measured; a new one is made in it and removed
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// What was measured; all but the first two for each commit.
#[derive(Serialize)]
struct Figures {
    way: &'static str,
    commit_bytes: usize,
    /// Device bytes for a byte of a commit, as the store counts what it writes.
    bytes_for_one: f64,
    /// The same by the kernel's account of this process.
    kernel_bytes_for_one: f64,
    runs: f64,
    syncs: f64,
    card_ms: f64,
}

impl Figures {
    const HEADINGS: [&str; 7] = [
        "way",
        "bytes",
        "written for one",
        "by the kernel",
        "runs",
        "syncs",
        "card ms",
    ];

    fn cells(&self) -> [String; 7] {
        [
            self.way.to_owned(),
            self.commit_bytes.to_string(),
            format!("{:.2}", self.bytes_for_one),
            format!("{:.2}", self.kernel_bytes_for_one),
            format!("{:.2}", self.runs),
            format!("{:.2}", self.syncs),
            format!("{:.2}", self.card_ms),
        ]
    }
}

impl BenchWear {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut table = Table::new(&Figures::HEADINGS, self.json)?;
        for (bytes, count) in COMMITS {
            let body = std::iter::repeat_with(|| fastrand::u8(..)).take(bytes).collect();
            for way in Durable::ALL {
                let scratch = Scratch::new(&self.dir)?;
                let before = process::written_bytes();
                let seed = fastrand::u128(..).to_le_bytes();
                let written = way.commits(scratch.path(), &body, count, seed);
                let kernel = process::written_bytes() - before;
                let written =
                    written.map_err(|error| Failure::failed(format!("the bench could not be run: {error}")))?;
                let (payload, count) = ((bytes * count as usize) as f64, f64::from(count));
                let figures = Figures {
                    way: way.name(),
                    commit_bytes: bytes,
                    bytes_for_one: written.bytes as f64 / payload,
                    kernel_bytes_for_one: kernel as f64 / payload,
                    runs: written.runs as f64 / count,
                    syncs: written.syncs as f64 / count,
                    card_ms: written.card_us() as f64 / 1e3 / count,
                };
                table.row(&figures.cells(), &figures)?;
            }
        }
        Ok(())
    }
}
