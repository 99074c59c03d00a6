//! Figures for people: a heading and rows under it; or for machines: one JSON object a row.

use serde::Serialize;

use super::super::Failure;
use super::super::output::Out;

/// Rows that are printed as they are measured.
pub(super) struct Table {
    out: Out,
    widths: Vec<usize>,
    json: bool,
}

impl Table {
    /// Prints the heading.
    pub(super) fn new(headings: &[&str], json: bool) -> Result<Self, Failure> {
        let widths = headings.iter().map(|heading| heading.len().max(9)).collect();
        let mut table = Self {
            out: Out::new(),
            widths,
            json,
        };
        if !json {
            table.cells(headings)?;
        }
        Ok(table)
    }

    /// Prints a row.
    pub(super) fn row<T: AsRef<str>>(&mut self, cells: &[T], figures: &impl Serialize) -> Result<(), Failure> {
        if !self.json {
            return self.cells(cells);
        }
        let value = serde_json::to_value(figures).map_err(|error| Failure::failed(format!("cannot print: {error}")))?;
        self.out.json(&value)?;
        self.out.flush()
    }

    /// Prints what the rows mean.
    pub(super) fn end(&mut self, lines: &[String], meaning: &impl Serialize) -> Result<(), Failure> {
        if self.json {
            return self.row::<&str>(&[], meaning);
        }
        lines.iter().try_for_each(|line| self.out.line(line))?;
        self.out.flush()
    }

    fn cells<T: AsRef<str>>(&mut self, cells: &[T]) -> Result<(), Failure> {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&self.widths) {
            line.push_str(&format!("{:>width$}  ", cell.as_ref()));
        }
        self.out.line(line.trim_end())?;
        self.out.flush()
    }
}

/// The median and what 99 of 100 stay below; sorts them.
pub(super) fn percentiles(latencies_us: &mut [u64]) -> (u64, u64) {
    latencies_us.sort_unstable();
    let at = |part: f64| {
        let place = (latencies_us.len() as f64 * part) as usize;
        latencies_us.get(place).copied().unwrap_or_default()
    };
    (at(0.5), at(0.99))
}

/// What was measured of a broker over one of its protocols.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Acks {
    /// Whose figures these are.
    pub(super) broker: String,
    pub(super) connections: usize,
    pub(super) record_bytes: usize,
    pub(super) acks_per_second: f64,
    pub(super) ack_p50_us: u64,
    pub(super) ack_p99_us: u64,
    /// CPU seconds of the broker for a million records, if its process is known.
    pub(super) cpu_seconds_per_million: Option<f64>,
}

impl Acks {
    pub(super) const HEADINGS: [&'static str; 7] = [
        "broker",
        "connections",
        "bytes",
        "acks/s",
        "ack p50 us",
        "ack p99 us",
        "CPU s/million",
    ];

    pub(super) fn cells(&self) -> [String; 7] {
        [
            self.broker.clone(),
            self.connections.to_string(),
            self.record_bytes.to_string(),
            format!("{:.0}", self.acks_per_second),
            self.ack_p50_us.to_string(),
            self.ack_p99_us.to_string(),
            self.cpu_seconds_per_million
                .map_or("-".to_owned(), |cpu| format!("{cpu:.2}")),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::percentiles;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let mut latencies: Vec<u64> = (1..=1000).rev().collect();
        assert_eq!(percentiles(&mut latencies), (501, 991));
        assert_eq!(percentiles(&mut [7]), (7, 7));
        assert_eq!(percentiles(&mut []), (0, 0));
    }
}
