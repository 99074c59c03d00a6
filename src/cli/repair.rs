//! `headwater repair`: what is intact of a data directory, in a new one. The old one stays as it is.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Failure;
use super::check::{findings, losses, refused};
use super::output::Out;
use crate::log::{CopyError, CopyReport, Fresh, SurveyError, repair};

/// `headwater repair`
#[derive(Args)]
pub(super) struct Repair {
    /// Data directory of a broker that does not run, or headwater.redb.damaged-N, which one has set aside
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The directory to be made
    #[arg(long, value_name = "NEWDIR")]
    to: PathBuf,
    /// One JSON object a line: partitions, tables, then what is lost and the sum
    #[arg(long)]
    json: bool,
}

impl Repair {
    pub(super) fn run(self) -> Result<(), Failure> {
        let report = repair(&self.from, &self.to, &fresh()).map_err(|error| failed(&error, &self.from))?;
        let mut out = Out::new();
        told(&mut out, self.json, &report)?;
        let (from, to) = (self.from.display(), self.to.display());
        match self.json {
            true => out.json(&json!({ "sound": report.sound(), "records": records(&report), "to": self.to }))?,
            false => out.line(&format!("{} records are in {to}", records(&report)))?,
        }
        out.flush()?;
        match report.sound() {
            true => Ok(()),
            false => Err(Failure::damaged(format!(
                "{from} is damaged, see above: what is not named there is in {to}. Try: headwater serve --data-dir {to}"
            ))),
        }
    }
}

/// What is new in a directory that is made now.
pub(super) fn fresh() -> Fresh {
    Fresh {
        store_id: fastrand::u128(..).to_le_bytes(),
        ring_seed: fastrand::u128(..).to_le_bytes(),
        now_ms: super::moment::ago(0),
    }
}

/// No directory was made.
pub(super) fn failed(error: &CopyError, from: &std::path::Path) -> Failure {
    let from = from.display();
    match error {
        CopyError::From(error @ SurveyError::NothingThere(_)) => refused(error),
        CopyError::Nothing(_) => {
            Failure::damaged(format!("{from}: {error}. Try: headwater inspect {from}, and a backup"))
        }
        CopyError::Torn(_) => Failure::damaged(format!("{from}: {error}")),
        error => Failure::failed(error.to_string()),
    }
}

/// Records that were copied.
pub(super) fn records(report: &CopyReport) -> u64 {
    report.partitions.iter().map(|partition| partition.records).sum()
}

/// Prints what was copied and what was not.
pub(super) fn told(out: &mut Out, json: bool, report: &CopyReport) -> Result<(), Failure> {
    for p in &report.partitions {
        match json {
            true => out.json(&json!({ "partition": p }))?,
            false => out.line(&format!(
                "{} partition {}: offsets {} to {} (exclusive), {} records in {} batches, {} bytes",
                p.topic, p.partition, p.log_start, p.offset_next, p.records, p.batches, p.bytes
            ))?,
        }
    }
    for (table, rows) in &report.tables {
        match json {
            true => out.json(&json!({ "table": { "table": table, "rows": rows } }))?,
            false => out.line(&format!("table {table}: {rows} rows"))?,
        }
    }
    losses(out, json, &report.losses)?;
    findings(out, json, &report.damaged, &report.unread, &[])
}
