//! `headwater upstream`: what forwarding looks like right now.

use clap::{Args, Subcommand};

use super::Failure;
use super::broker::HttpArgs;
use super::moment::to_rfc3339;
use super::output::Out;
use crate::upstream::UpstreamStatus;

/// `headwater upstream`
#[derive(Subcommand)]
pub(super) enum Upstream {
    /// State and lag of every upstream, or of the one named
    Status(Status),
}

#[derive(Args)]
pub(super) struct Status {
    /// Name of one upstream
    name: Option<String>,
    #[command(flatten)]
    http: HttpArgs,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

impl Upstream {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self::Status(command) = self;
        command.run()
    }
}

impl Status {
    fn run(self) -> Result<(), Failure> {
        let page = self.http.page("/api/v1/upstreams")?;
        let bad = |e: serde_json::Error| Failure::failed(format!("the broker's answer is not what was expected: {e}"));
        let all: Vec<UpstreamStatus> = serde_json::from_str(&page).map_err(bad)?;
        let wanted = |u: &&UpstreamStatus| self.name.as_ref().is_none_or(|name| *name == u.name);
        let found: Vec<_> = all.iter().filter(wanted).collect();
        if let (Some(name), true) = (&self.name, found.is_empty()) {
            return Err(Failure::absent(format!(
                "there is no upstream named {name:?}. Try: headwater upstream status"
            )));
        }
        if found.is_empty() {
            eprintln!("headwater: nothing is forwarded. Try: an [[upstream]] in the configuration");
        }
        let mut out = Out::new();
        for upstream in found {
            match self.json {
                true => out.json(&serde_json::to_value(upstream).map_err(bad)?)?,
                false => print(&mut out, upstream)?,
            }
        }
        out.flush()
    }
}

fn print(out: &mut Out, upstream: &UpstreamStatus) -> Result<(), Failure> {
    out.line(&format!(
        "{}: {}, {} records behind, {} forwarded since start, {} batches refused, {} records lost to retention before they went",
        upstream.name,
        if upstream.connected { "connected" } else { "not connected" },
        upstream.lag_records,
        upstream.forwarded_records,
        upstream.refused_batches,
        upstream.skipped_records,
    ))?;
    if let Some(error) = &upstream.last_error {
        let at = upstream
            .last_error_ms
            .map_or(String::new(), |ms| format!(" at {}", to_rfc3339(ms)));
        out.line(&format!("  last error{at}: {error}"))?;
    }
    for p in &upstream.partitions {
        let there = p
            .partition_there
            .map_or(String::new(), |number| format!(" partition {number}"));
        out.line(&format!(
            "  {} partition {} to {}{there}: next offset {}, {} behind",
            p.topic, p.partition, p.topic_there, p.next_offset, p.lag_records
        ))?;
    }
    for r in &upstream.refused {
        out.line(&format!(
            "  refused: {} partition {} offset {}, {} records, error {}: {}",
            r.topic, r.partition, r.offset, r.records, r.error, r.cause
        ))?;
    }
    Ok(())
}
