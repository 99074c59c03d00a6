//! Standard output: a line at a time, JSON or text that no terminal takes for commands.

use std::io::{self, BufWriter, Stdout, Write};

use super::Failure;
use crate::model::{Partition, Record, RecordHeader};

/// Buffered standard output.
pub(super) struct Out(BufWriter<Stdout>);

impl Out {
    pub(super) fn new() -> Self {
        Self(BufWriter::new(io::stdout()))
    }

    /// One line.
    pub(super) fn line(&mut self, line: &str) -> Result<(), Failure> {
        writeln!(self.0, "{line}").map_err(|e| Failure::output(&e))
    }

    /// Bytes as they are, and the end of a line.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.0.write_all(bytes).and_then(|()| self.0.write_all(b"\n"));
        written.map_err(|e| Failure::output(&e))
    }

    /// One JSON object as one line.
    pub(super) fn json(&mut self, value: &serde_json::Value) -> Result<(), Failure> {
        self.line(&value.to_string())
    }

    /// Rows whose cells stand below each other, indented by two.
    pub(super) fn table(&mut self, rows: &[Vec<String>]) -> Result<(), Failure> {
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..rows.iter().map(Vec::len).max().unwrap_or(0)).map(width).collect();
        for row in rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("  {cell:<width$}"));
            }
            self.line(line.trim_end())?;
        }
        Ok(())
    }

    /// What was written is out.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.0.flush().map_err(|e| Failure::output(&e))
    }
}

/// Bytes for people: text as it is, control characters and what is not UTF-8 escaped.
pub(super) fn printable(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// Bytes for JSON: a string, or an object with hexadecimal digits when they are not UTF-8.
pub(super) fn json_bytes(bytes: Option<&[u8]>) -> serde_json::Value {
    match bytes.map(|b| (b, std::str::from_utf8(b))) {
        None => serde_json::Value::Null,
        Some((_, Ok(text))) => text.into(),
        Some((bytes, Err(_))) => {
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            serde_json::json!({ "hex": hex })
        }
    }
}

/// Headers for JSON: names may repeat, so a list.
pub(super) fn json_headers(headers: &[RecordHeader]) -> serde_json::Value {
    let header = |h: &RecordHeader| serde_json::json!({ "name": h.name, "value": json_bytes(h.value.as_deref()) });
    headers.iter().map(header).collect()
}

/// A record for JSON.
pub(super) fn json_record(topic: &str, partition: Partition, offset: u64, record: &Record) -> serde_json::Value {
    serde_json::json!({
        "topic": topic,
        "partition": partition.0,
        "offset": offset,
        "timestamp_ms": record.timestamp_ms,
        "key": json_bytes(record.key.as_deref()),
        "value": json_bytes(record.value.as_deref()),
        "headers": json_headers(&record.headers),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_printed_moves_the_cursor_and_no_byte_is_lost() {
        assert_eq!(printable("21.5 °C".as_bytes()), "21.5 °C");
        assert_eq!(printable(b"a\x1b[2J\n\xff"), "a\\u{1b}[2J\\n\\xff");
        assert_eq!(json_bytes(Some(b"\xff\x00")), serde_json::json!({ "hex": "ff00" }));
        assert_eq!(json_bytes(None), serde_json::Value::Null);
    }
}
