//! `headwater backup` and `headwater restore`: a copy of everything at one point in time, of a broker that runs or of a directory
//! that nobody serves, and a new data directory of it.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::Failure;
use super::broker::HttpArgs;
use super::output::Out;
use super::repair::{failed, fresh, records, told};
use crate::log::{CopyError, CopyReport, clone_directory, relay, restore, stream_directory};

/// `headwater backup`
#[derive(Args)]
pub(super) struct Backup {
    #[command(flatten)]
    http: HttpArgs,
    /// Data directory of a broker that does not run; without it, the broker at --http is asked
    #[arg(long, value_name = "DIR", conflicts_with = "http")]
    from: Option<PathBuf>,
    /// The data directory to be made, or - for a stream on standard output, for `headwater restore`
    #[arg(long, value_name = "NEWDIR|-")]
    to: PathBuf,
    /// One JSON object a line: partitions, tables, then what is lost and the sum
    #[arg(long)]
    json: bool,
}

/// `headwater restore`
#[derive(Args)]
pub(super) struct Restore {
    /// What `headwater backup --to -` wrote, or - for standard input
    #[arg(long, value_name = "FILE|-")]
    from: PathBuf,
    /// The data directory to be made
    #[arg(long, value_name = "NEWDIR")]
    to: PathBuf,
    /// One JSON object a line: partitions, tables, then what is lost and the sum
    #[arg(long)]
    json: bool,
}

impl Backup {
    pub(super) fn run(self) -> Result<(), Failure> {
        let streams = is_pipe(&self.to);
        let mut stdout = BufWriter::new(std::io::stdout().lock());
        let (from, copied) = match &self.from {
            Some(from) if streams => (from.clone(), stream_directory(from, &mut stdout, fresh().now_ms)),
            Some(from) => (from.clone(), clone_directory(from, &self.to, &fresh())),
            None => {
                let mut input = BufReader::new(self.http.stream("/api/v1/backup")?);
                let copied = match streams {
                    true => relay(&mut input, &mut stdout),
                    false => restore(&mut input, &self.to, &fresh()),
                };
                (PathBuf::from(&self.http.http), copied)
            }
        };
        drop(stdout);
        let report = copied.map_err(|error| match error {
            CopyError::Output(error) => Failure::output(&error),
            error => failed(&error, &from),
        })?;
        conclude(&from, &self.to, self.json, &report)
    }
}

impl Restore {
    pub(super) fn run(self) -> Result<(), Failure> {
        let absent = |error: std::io::Error| {
            let from = self.from.display();
            Failure::absent(format!(
                "{from} cannot be read: {error}. Try: what headwater backup --to - wrote"
            ))
        };
        let mut input: Box<dyn Read> = match is_pipe(&self.from) {
            true => Box::new(std::io::stdin().lock()),
            false => Box::new(BufReader::new(File::open(&self.from).map_err(absent)?)),
        };
        let report = restore(&mut input, &self.to, &fresh()).map_err(|error| failed(&error, &self.from))?;
        conclude(&self.from, &self.to, self.json, &report)
    }
}

fn is_pipe(path: &Path) -> bool {
    path == Path::new("-")
}

/// Says what is in it; on standard error in two words where the backup itself went to standard output.
fn conclude(from: &Path, to: &Path, json: bool, report: &CopyReport) -> Result<(), Failure> {
    let (from, records) = (from.display(), records(report));
    if is_pipe(to) {
        eprintln!("headwater: {records} records are in the backup");
        for d in &report.damaged {
            let (topic, partition, first, last) = (&d.topic, d.partition, d.offset_first, d.offset_last);
            eprintln!(
                "headwater: not in it: {topic} partition {partition} offsets {first} to {last}: {}",
                d.why
            );
        }
        report
            .unread
            .iter()
            .for_each(|why| eprintln!("headwater: unreadable: {why}"));
    } else {
        let mut out = Out::new();
        told(&mut out, json, report)?;
        match json {
            true => out.json(&json!({ "sound": report.sound(), "records": records, "to": to }))?,
            false => out.line(&format!("{records} records are in {}", to.display()))?,
        }
        out.flush()?;
    }
    match report.sound() {
        true => Ok(()),
        false => Err(Failure::damaged(format!(
            "{from} is damaged, see above: what is not named there is in the copy. Try: headwater check on a stopped broker"
        ))),
    }
}
