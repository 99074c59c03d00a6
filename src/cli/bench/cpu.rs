//! CPU time of another process, from `/proc`.

use std::fs;

use super::super::Failure;

/// A process whose CPU time is watched, or none.
#[derive(Clone, Copy)]
pub(super) struct Watched(Option<u32>);

impl Watched {
    /// An error if there is no such process.
    pub(super) fn new(pid: Option<u32>) -> Result<Self, Failure> {
        match pid {
            Some(pid) if seconds(pid).is_none() => Err(Failure::absent(format!(
                "there is no process {pid}. Try: --pid of the broker"
            ))),
            pid => Ok(Self(pid)),
        }
    }

    /// User and system seconds so far.
    pub(super) fn seconds(self) -> Option<f64> {
        self.0.and_then(seconds)
    }
}

/// CPU seconds a million records, between two readings.
pub(super) fn per_million(before: Option<f64>, after: Option<f64>, records: usize) -> Option<f64> {
    match (before, after) {
        (Some(before), Some(after)) if records > 0 => Some((after - before) * 1e6 / records as f64),
        _ => None,
    }
}

fn seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; behind it come numbers, from field 3 on.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks_per_second = rustix::param::clock_ticks_per_second().max(1) as f64;
    Some((field(14)? + field(15)?) as f64 / ticks_per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_cpu_time_and_no_process_none() {
        let before = seconds(std::process::id()).expect("this process");
        let mut sum = 0_u64;
        while seconds(std::process::id()).expect("this process") - before < 0.02 {
            sum = (0..100_000).fold(sum, |sum, n| sum.wrapping_mul(31).wrapping_add(n));
        }
        assert_ne!(sum, 0);
        assert!(Watched::new(Some(u32::MAX)).is_err());
        assert_eq!(per_million(Some(1.0), Some(1.5), 250_000), Some(2.0));
        assert_eq!(per_million(None, Some(1.5), 250_000), None);
    }
}
