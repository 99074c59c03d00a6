//! `headwater check`: whether everything in a data directory is as it was written, without changing a byte.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::Failure;
use super::moment::to_rfc3339;
use super::output::Out;
use crate::log::{Boot, BootState, DamagedRange, LossFound, SurveyError, UntrustedRange, check};

/// `headwater check`
#[derive(Args)]
pub(super) struct Check {
    /// Data directory of a broker that does not run
    dir: PathBuf,
    /// One JSON object a line: partitions, then damage, then the sum
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        let report = check(&self.dir).map_err(|error| refused(&error))?;
        let mut out = Out::new();
        for p in &report.partitions {
            match self.json {
                true => out.json(&json!({ "partition": p }))?,
                false => out.line(&format!(
                    "{} partition {}: offsets {} to {} (exclusive), {} records in {} batches, {} bytes",
                    p.topic, p.partition, p.log_start, p.offset_next, p.records, p.batches, p.bytes
                ))?,
            }
        }
        boots(&mut out, self.json, &report.boots, &report.untrusted)?;
        losses(&mut out, self.json, &report.losses)?;
        findings(&mut out, self.json, &report.damaged, &report.unread, &report.set_aside)?;
        let (records, batches, bytes) = (report.records(), report.batches(), report.bytes());
        match self.json {
            true => {
                out.json(&json!({ "sound": report.sound(), "records": records, "batches": batches, "bytes": bytes }))?
            }
            false => out.line(&format!(
                "{records} records in {batches} batches are as they were written, {bytes} bytes"
            ))?,
        }
        out.flush()?;
        verdict(report.sound(), &self.dir)
    }
}

/// The database panics at pages that make no sense. That is caught and told as damage: its own words are not for people.
pub(super) fn hush_pages() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|at| at.file().contains("/redb-")) {
            told(panic);
        }
    }));
}

/// The directory cannot be looked at.
pub(super) fn refused(error: &SurveyError) -> Failure {
    match error {
        SurveyError::NothingThere(_) => Failure::absent(error.to_string()),
        SurveyError::Open(_) => Failure::failed(error.to_string()),
    }
}

/// Prints boots, and what was appended in them before the clock was trusted.
pub(super) fn boots(out: &mut Out, json: bool, boots: &[Boot], untrusted: &[UntrustedRange]) -> Result<(), Failure> {
    for boot in boots {
        let clock = match boot.state {
            BootState::Untrusted => "the clock was not trusted".to_owned(),
            BootState::Trusted => "the clock was trusted".to_owned(),
            BootState::Corrected { by_ms, .. } => {
                format!("times from before the clock was trusted are corrected by {by_ms} ms")
            }
        };
        match json {
            true => out.json(&json!({ "boot": boot }))?,
            false => out.line(&format!(
                "boot {}: {} to {}, {clock}",
                boot.number,
                to_rfc3339(boot.begun_ms),
                to_rfc3339(boot.seen_ms)
            ))?,
        }
    }
    for range in untrusted {
        match json {
            true => out.json(&json!({ "untrusted": range }))?,
            false => out.line(&format!(
                "before the clock was trusted: {} partition {} offsets {} to {}, boot {}",
                range.topic, range.partition, range.offset_first, range.offset_last, range.boot
            ))?,
        }
    }
    Ok(())
}

/// Prints what was given up.
pub(super) fn losses(out: &mut Out, json: bool, losses: &[LossFound]) -> Result<(), Failure> {
    for found in losses {
        let LossFound { topic, partition, loss } = found;
        match json {
            true => out.json(&json!({ "loss": found }))?,
            false => out.line(&format!(
                "given up: {topic} partition {partition} offsets {} to {}, of {} to {}, at {} {}",
                loss.offset_first,
                loss.offset_last,
                to_rfc3339(loss.time_first_ms),
                to_rfc3339(loss.time_last_ms),
                to_rfc3339(loss.lost_ms),
                loss.reason.text()
            ))?,
        }
    }
    Ok(())
}

/// Prints what is wrong.
pub(super) fn findings(
    out: &mut Out,
    json: bool,
    damaged: &[DamagedRange],
    unread: &[String],
    set_aside: &[PathBuf],
) -> Result<(), Failure> {
    for d in damaged {
        match json {
            true => out.json(&json!({ "damaged": d }))?,
            false => out.line(&format!(
                "DAMAGED {} partition {} offsets {} to {}: {}",
                d.topic, d.partition, d.offset_first, d.offset_last, d.why
            ))?,
        }
    }
    for why in unread {
        match json {
            true => out.json(&json!({ "unread": why }))?,
            false => out.line(&format!("UNREADABLE {why}"))?,
        }
    }
    for path in set_aside {
        match json {
            true => out.json(&json!({ "set_aside": path }))?,
            false => out.line(&format!("set aside earlier: {}", path.display()))?,
        }
    }
    Ok(())
}

/// How a command ends that looked at everything.
pub(super) fn verdict(sound: bool, dir: &Path) -> Result<(), Failure> {
    match sound {
        true => Ok(()),
        false => Err(Failure::damaged(format!("{} is damaged, see above", dir.display()))),
    }
}
