//! The process's clocks, read once per event and handed down as `Now`; and the watch over them: `Watcher` asks the host
//! once a second and lets `model::clock` judge. Until a watcher has begun, and with `clock.trust = "always"`, the time
//! is the host's as it is.

mod host;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crate::model::Now;
use crate::model::clock::{Judged, Reading, STEP_MS};

pub use watch::{LOOK, Watcher};

/// The host's clock as it is.
const PLAIN: u8 = 0;
/// The host's clock, unless it jumps.
const FOLLOWED: u8 = 1;
/// What was judged to be right, and the time since the machine booted.
const HELD: u8 = 2;

/// Reads the clocks; clones share the same monotonic start, and what was judged.
#[derive(Clone, Debug)]
pub struct Clock {
    start: Instant,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    mode: AtomicU8,
    /// From the process's monotonic clock, and from the machine's boot, to the right time.
    mono_offset_ms: AtomicI64,
    boot_offset_ms: AtomicI64,
}

impl Clock {
    /// A clock whose monotonic reading begins now.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            shared: Arc::default(),
        }
    }

    /// One reading.
    pub fn now(&self) -> Now {
        let shared = &self.shared;
        let mono_us = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let since_boot = || host::boot_ms().saturating_add(shared.boot_offset_ms.load(Ordering::Relaxed));
        let near = |wall_ms: i64, expected_ms: i64| wall_ms.abs_diff(expected_ms) <= STEP_MS.unsigned_abs();
        let wall_ms = match shared.mode.load(Ordering::Acquire) {
            PLAIN => host::wall_ms(),
            HELD => since_boot(),
            _ => {
                let wall_ms = host::wall_ms();
                let mono_ms = i64::try_from(mono_us / 1000).unwrap_or(i64::MAX);
                let expected_ms = mono_ms.saturating_add(shared.mono_offset_ms.load(Ordering::Relaxed));
                // A machine that was suspended is where its time since boot says; what jumped waits for the watcher's
                // word.
                match near(wall_ms, expected_ms) {
                    true => wall_ms,
                    false => Some(since_boot()).filter(|ms| !near(wall_ms, *ms)).unwrap_or(wall_ms),
                }
            }
        };
        Now { mono_us, wall_ms }
    }

    /// The instant of a deadline given in this clock's monotonic microseconds.
    pub fn instant(&self, mono_us: u64) -> Option<Instant> {
        self.start.checked_add(Duration::from_micros(mono_us))
    }

    /// Every clock of the host.
    fn reading(&self) -> Reading {
        Reading {
            mono_us: u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX),
            boot_ms: host::boot_ms(),
            wall_ms: host::wall_ms(),
        }
    }

    /// From now on the time is as it was judged.
    fn follow(&self, judged: &Judged) {
        let mono_ms = i64::try_from(judged.now.mono_us / 1000).unwrap_or(i64::MAX);
        let shared = &self.shared;
        let mono_offset_ms = judged.now.wall_ms.saturating_sub(mono_ms);
        shared.mono_offset_ms.store(mono_offset_ms, Ordering::Relaxed);
        shared.boot_offset_ms.store(judged.offset_ms, Ordering::Relaxed);
        let mode = if judged.doubt.is_some() { HELD } else { FOLLOWED };
        shared.mode.store(mode, Ordering::Release);
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
