//! `headwater inspect`: what is in the data directory of a broker that does not run, without changing a byte.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Failure;
use super::check::{boots, findings, losses, refused, verdict};
use super::moment::to_rfc3339;
use super::output::Out;
use crate::log::{CheckedPartition, DataFile, InspectReport, inspect};

/// `headwater inspect`
#[derive(Args)]
pub(super) struct Inspect {
    /// Data directory of a broker that does not run
    dir: PathBuf,
    /// One JSON object a line: store, files, data files, topics, partitions, tables, then damage and the sum
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn run(self) -> Result<(), Failure> {
        let report = inspect(&self.dir).map_err(|error| refused(&error))?;
        let mut out = Out::new();
        match self.json {
            true => as_json(&mut out, &report)?,
            false => self.as_text(&mut out, &report)?,
        }
        boots(&mut out, self.json, &report.boots, &report.untrusted)?;
        losses(&mut out, self.json, &report.losses)?;
        findings(&mut out, self.json, &report.damaged, &report.unread, &report.set_aside)?;
        if self.json {
            out.json(&json!({ "sound": report.sound() }))?;
        }
        out.flush()?;
        verdict(report.sound(), &self.dir)
    }

    fn as_text(&self, out: &mut Out, report: &InspectReport) -> Result<(), Failure> {
        let dir = self.dir.display();
        match &report.store {
            Some(store) => out.line(&format!(
                "{dir}: format {}, generation {}, store {}, {} journal rows, {} segments",
                store.format, store.generation, store.store_id, store.journal_rows, store.segments
            ))?,
            None => out.line(&format!("{dir}: the store does not say what it is"))?,
        }
        let files = report.files.iter().map(|file| {
            let (bytes, disk_bytes) = (file.bytes, file.disk_bytes);
            vec![
                file.name.clone(),
                format!("{bytes} bytes"),
                format!("{disk_bytes} on the disk"),
            ]
        });
        section(out, "files", files.collect())?;
        section(out, "data files", report.data_files.iter().map(data_file).collect())?;
        for topic in &report.topics {
            out.line(&format!(
                "{}: {} partitions, id {}, generation {}",
                topic.topic, topic.partitions, topic.id, topic.generation
            ))?;
            let settings = topic.settings.iter();
            let settings = settings.map(|(name, value)| vec![format!("{name} = {value}")]);
            out.table(&settings.collect::<Vec<_>>())?;
            let partitions = report.partitions.iter().filter(|p| p.topic == topic.topic);
            out.table(&partitions.map(partition).collect::<Vec<_>>())?;
        }
        let tables = report.tables.iter().map(|table| {
            let (rows, bytes) = (table.rows, table.bytes);
            vec![table.table.to_owned(), format!("{rows} rows"), format!("{bytes} bytes")]
        });
        section(out, "tables", tables.collect())
    }
}

fn section(out: &mut Out, title: &str, rows: Vec<Vec<String>>) -> Result<(), Failure> {
    if rows.is_empty() {
        return Ok(());
    }
    out.line(&format!("{title}:"))?;
    out.table(&rows)
}

fn data_file(file: &DataFile) -> Vec<String> {
    let size = match file.bytes {
        Some(bytes) => format!("{bytes} bytes"),
        None => "missing".to_owned(),
    };
    vec![
        format!("{:010}", file.number),
        size,
        format!("{} live", file.live_bytes),
        format!("{:.1} %", file.fill() * 100.0),
        format!("written to {}", file.written_bytes),
    ]
}

fn partition(p: &CheckedPartition) -> Vec<String> {
    let time = |ms: Option<i64>| ms.map_or("-".to_owned(), to_rfc3339);
    vec![
        format!("partition {}", p.partition),
        format!("offsets {} to {} (exclusive)", p.log_start, p.offset_next),
        format!("{} records", p.records),
        format!("{} batches", p.batches),
        format!("{} bytes", p.bytes),
        format!("{} to {}", time(p.first_ms), time(p.last_ms)),
    ]
}

fn as_json(out: &mut Out, report: &InspectReport) -> Result<(), Failure> {
    if let Some(store) = &report.store {
        out.json(&json!({ "store": store }))?;
    }
    for file in &report.files {
        out.json(&json!({ "file": file }))?;
    }
    for file in &report.data_files {
        let mut told = json!({ "data_file": file });
        told["data_file"]["fill"] = file.fill().into();
        out.json(&told)?;
    }
    for topic in &report.topics {
        out.json(&json!({ "topic": topic }))?;
    }
    for partition in &report.partitions {
        out.json(&json!({ "partition": partition }))?;
    }
    for table in &report.tables {
        out.json(&json!({ "table": table }))?;
    }
    Ok(())
}
