//! The process's clocks, read once per event and handed down as `Now`.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::Now;

/// Reads both clocks; copies share the same monotonic start.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock whose monotonic reading begins now.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// One reading.
    pub fn now(&self) -> Now {
        let wall_ms = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            // A clock before 1970 is a clock that was never set.
            Err(_) => 0,
        };
        Now {
            mono_us: u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX),
            wall_ms,
        }
    }

    /// The instant of a deadline given in this clock's monotonic microseconds.
    pub fn instant(&self, mono_us: u64) -> Option<Instant> {
        self.start.checked_add(Duration::from_micros(mono_us))
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
