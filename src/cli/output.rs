//! Standard output: a line at a time, JSON or text that no terminal takes for commands.

use std::io::{self, BufWriter, Stdout, Write};

use super::Failure;

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
