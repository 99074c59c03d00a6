//! `headwater export`: records out of the data directory of a broker that does not run, without changing a byte. What cannot be
//! read is said on standard error, and everything else is exported.

use std::ops::ControlFlow;
use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, ValueEnum};

use super::Failure;
use super::check::refused;
use super::moment::{From, ago, to_rfc3339};
use super::output::{Out, json_headers, json_record};
use crate::log::{CheckedPartition, DamagedRange, Survey, Visitor};
use crate::model::batch::{Header, RecordView, RecordViews};
use crate::model::{Partition, Record, RecordHeader};

/// The last time that has four digits for its year: 9999-12-31T23:59:59.999Z.
const TIME_MS_MAX: i64 = 253_402_300_799_999;

/// The first line of CSV.
const CSV_HEAD: &str = "topic,partition,offset,timestamp_ms,timestamp,key_kind,key,value_kind,value,headers";

/// `headwater export`
#[derive(Args)]
pub(super) struct Export {
    /// Data directory of a broker that does not run
    dir: PathBuf,
    /// This topic only; may be given again for more
    #[arg(long, value_name = "NAME")]
    topic: Vec<String>,
    /// This partition only
    #[arg(long)]
    partition: Option<u32>,
    /// Records at or after: an offset, -1h, or 2026-01-31T08:00Z
    #[arg(long, value_name = "WHERE", default_value = "earliest", allow_hyphen_values = true)]
    from: From,
    /// Records before, in the same words
    #[arg(long, value_name = "WHERE", default_value = "latest", allow_hyphen_values = true)]
    until: From,
    /// Records with exactly this key
    #[arg(long, conflicts_with = "key_prefix")]
    key: Option<String>,
    /// Records whose key begins so
    #[arg(long, value_name = "TEXT")]
    key_prefix: Option<String>,
    /// A JSON object a line, or CSV
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Jsonl,
    Csv,
}

/// A bound of what is wanted; a side that is `None` does not bound.
#[derive(Clone, Copy, Debug, Default)]
struct Bound {
    offset: Option<u64>,
    time_ms: Option<i64>,
}

impl Bound {
    fn of(place: From) -> Self {
        let (offset, time_ms) = match place {
            From::Earliest | From::Latest => (None, None),
            From::Offset(offset) => (Some(offset), None),
            From::Ago(ms) => (None, Some(ago(ms))),
            From::Time(ms) => (None, Some(ms)),
        };
        Self { offset, time_ms }
    }
}

impl Export {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (wrong, hint) = match (self.from, self.until) {
            (From::Latest, _) => ("--from latest", "an offset, -1h or 2026-01-31T08:00Z"),
            (_, From::Earliest) => ("--until earliest", "an offset, -1h or 2026-01-31T08:00Z"),
            _ => ("", ""),
        };
        if !wrong.is_empty() {
            return Err(Failure::usage(format!("{wrong} leaves nothing to export. Try: {hint}")));
        }
        let mut survey = Survey::open(&self.dir).map_err(|error| refused(&error))?;
        self.wanted_is_there(&survey)?;
        let mut exporter = Exporter {
            from: Bound::of(self.from),
            until: Bound::of(self.until),
            out: Out::new(),
            next: 0,
            sound: true,
            failure: None,
            command: &self,
        };
        if self.format == Format::Csv {
            exporter.out.raw(format!("{CSV_HEAD}\r").as_bytes())?;
        }
        survey.walk(&mut exporter);
        if let Some(failure) = exporter.failure {
            return Err(failure);
        }
        exporter.out.flush()?;
        for why in &survey.unread {
            eprintln!("headwater: unreadable: {why}");
        }
        match exporter.sound && survey.unread.is_empty() {
            true => Ok(()),
            false => Err(Failure::damaged(format!(
                "{} is damaged, see above: what is not named there is exported. Try: headwater check {}",
                self.dir.display(),
                self.dir.display()
            ))),
        }
    }

    /// Refuses a topic or partition that is not there. In a directory that cannot be read whole that says nothing.
    fn wanted_is_there(&self, survey: &Survey) -> Result<(), Failure> {
        if !survey.unread.is_empty() {
            return Ok(());
        }
        let dir = self.dir.display();
        for wanted in &self.topic {
            if !survey.topics().any(|(topic, _)| topic == wanted) {
                let text = format!("there is no topic {wanted:?} in {dir}. Try: headwater inspect {dir}");
                return Err(Failure::absent(text));
            }
        }
        if let Some(partition) = self.partition {
            let mut topics = survey.topics().filter(|(topic, _)| self.wants_topic(topic));
            if topics.all(|(_, partitions)| partition >= partitions) {
                let text = format!("no topic has a partition {partition} in {dir}. Try: headwater inspect {dir}");
                return Err(Failure::absent(text));
            }
        }
        Ok(())
    }

    fn wants_topic(&self, topic: &str) -> bool {
        self.topic.is_empty() || self.topic.iter().any(|wanted| wanted == topic)
    }

    fn wants_key(&self, key: Option<&[u8]>) -> bool {
        match (&self.key, &self.key_prefix) {
            (Some(exact), _) => key == Some(exact.as_bytes()),
            (None, Some(prefix)) => key.is_some_and(|key| key.starts_with(prefix.as_bytes())),
            (None, None) => true,
        }
    }
}

/// Writes what it is shown.
struct Exporter<'a> {
    command: &'a Export,
    from: Bound,
    until: Bound,
    out: Out,
    /// The offset after the last record that was looked at, in the partition being walked: what is there twice goes out once.
    next: u64,
    sound: bool,
    failure: Option<Failure>,
}

impl Exporter<'_> {
    fn wants_offsets(&self, offset_first: u64, offset_next: u64) -> bool {
        self.from.offset.is_none_or(|from| offset_next > from)
            && self.until.offset.is_none_or(|until| offset_first < until)
    }

    fn wants(&self, record: &RecordView<'_>) -> bool {
        let (offset, time_ms) = (record.offset.0, record.timestamp_ms);
        self.wants_offsets(offset, offset.saturating_add(1))
            && self.from.time_ms.is_none_or(|from| time_ms >= from)
            && self.until.time_ms.is_none_or(|until| time_ms < until)
            && self.command.wants_key(record.key)
    }

    fn write(&mut self, at: &CheckedPartition, records: RecordViews<'_>) -> Result<(), Failure> {
        // Checked before: none of them is an error.
        for view in records.map_while(Result::ok) {
            let offset = view.offset.0;
            if offset < self.next.max(at.log_start) {
                continue;
            }
            self.next = offset.saturating_add(1);
            if !self.wants(&view) {
                continue;
            }
            let record = owned(&view);
            match self.command.format {
                Format::Jsonl => {
                    let mut told = json_record(&at.topic, Partition(at.partition), offset, &record);
                    told["timestamp"] = iso(record.timestamp_ms).into();
                    self.out.json(&told)?;
                }
                Format::Csv => self.out.raw(csv(at, offset, &record).as_bytes())?,
            }
        }
        Ok(())
    }
}

impl Visitor for Exporter<'_> {
    fn wants_partition(&self, topic: &str, partition: u32) -> bool {
        self.command.wants_topic(topic) && self.command.partition.is_none_or(|wanted| wanted == partition)
    }

    fn wants_batch(&self, offset_first: u64, offset_next: u64, max_timestamp: i64) -> bool {
        self.wants_offsets(offset_first, offset_next) && self.from.time_ms.is_none_or(|from| max_timestamp >= from)
    }

    fn batch(&mut self, at: &CheckedPartition, header: &Header, records: RecordViews<'_>) -> ControlFlow<()> {
        // The marker of a transaction is none of its records.
        if header.is_control() {
            return ControlFlow::Continue(());
        }
        match self.write(at, records) {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                self.failure = Some(failure);
                ControlFlow::Break(())
            }
        }
    }

    fn damaged(&mut self, range: DamagedRange) {
        if self.wants_offsets(range.offset_first, range.offset_last.saturating_add(1)) {
            self.sound = false;
            eprintln!(
                "headwater: not exported: {} partition {} offsets {} to {}: {}",
                range.topic, range.partition, range.offset_first, range.offset_last, range.why
            );
        }
    }

    fn partition(&mut self, _: CheckedPartition) {
        self.next = 0;
    }
}

fn owned(view: &RecordView<'_>) -> Record {
    let bytes = |part: Option<&[u8]>| part.map(Bytes::copy_from_slice);
    let headers = view.headers.clone().map(|h| RecordHeader {
        name: h.name.to_owned(),
        value: bytes(h.value),
    });
    Record {
        key: bytes(view.key),
        value: bytes(view.value),
        headers: headers.collect(),
        timestamp_ms: view.timestamp_ms,
    }
}

/// The time as text; `None` for what is no time since 1970.
fn iso(time_ms: i64) -> Option<String> {
    (0..=TIME_MS_MAX).contains(&time_ms).then(|| to_rfc3339(time_ms))
}

/// A record as a line of RFC 4180, up to its line feed.
fn csv(at: &CheckedPartition, offset: u64, record: &Record) -> String {
    let (key_kind, key) = csv_bytes(record.key.as_deref());
    let (value_kind, value) = csv_bytes(record.value.as_deref());
    let headers = match record.headers.is_empty() {
        true => String::new(),
        false => csv_field(&json_headers(&record.headers).to_string()),
    };
    format!(
        "{},{},{offset},{},{},{key_kind},{key},{value_kind},{value},{headers}\r",
        csv_field(&at.topic),
        at.partition,
        record.timestamp_ms,
        iso(record.timestamp_ms).unwrap_or_default()
    )
}

/// What bytes are, and a field for them. A NUL is text nowhere: many readers of CSV end there.
fn csv_bytes(bytes: Option<&[u8]>) -> (&'static str, String) {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => ("null", String::new()),
        Some((_, Ok(text))) if !text.contains('\0') => ("text", csv_field(text)),
        Some((bytes, _)) => ("hex", bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
    }
}

fn csv_field(text: &str) -> String {
    match text.contains([',', '"', '\r', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_tells_null_empty_text_and_bytes_apart() {
        assert_eq!(csv_bytes(None), ("null", String::new()));
        assert_eq!(csv_bytes(Some(b"")), ("text", String::new()));
        assert_eq!(csv_bytes(Some(b"21.5")), ("text", "21.5".into()));
        assert_eq!(csv_bytes(Some(b"a\0")), ("hex", "6100".into()));
        assert_eq!(csv_bytes(Some(b"\xff")), ("hex", "ff".into()));
        assert_eq!(csv_field("a,\"b\"\r\n"), "\"a,\"\"b\"\"\r\n\"");
    }

    #[test]
    fn what_is_no_time_has_no_text() {
        assert_eq!(iso(-1), None);
        assert_eq!(iso(0).as_deref(), Some("1970-01-01T00:00:00.000Z"));
        assert_eq!(iso(TIME_MS_MAX).as_deref(), Some("9999-12-31T23:59:59.999Z"));
        assert_eq!(iso(TIME_MS_MAX + 1), None);
    }
}
