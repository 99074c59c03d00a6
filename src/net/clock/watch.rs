//! The watch over the host's clock: reads it, has it judged, and tells whoever goes by it.

use std::sync::Arc;
use std::time::Duration;

use crate::config;
use crate::log::{BootClock, BootState, Log};
use crate::metrics::Metrics;
use crate::model::clock::{Doubt, Judge, Judged, Known, Trust};

use super::host::Host;
use super::{Clock, PLAIN};

/// Between two looks at the clock.
pub const LOOK: Duration = Duration::from_secs(1);
/// The log is told of what changed so little, ms, or of nothing for so long, microseconds.
const DRIFT_MS: u64 = 1000;
const QUIET_US: u64 = 3_600_000_000;

/// Watches the host's clock. It runs on the thread of the sessions: when it turns the clock, whatever was stamped
/// before has been handed to the log, and what the log is told comes right behind it.
#[derive(Debug)]
pub struct Watcher {
    clock: Clock,
    host: Host,
    log: Log,
    metrics: Arc<Metrics>,
    trust: Trust,
    boot_id: [u8; 16],
    judge: Judge,
    told: Option<Judged>,
    /// What was last said aloud.
    doubt: Option<std::mem::Discriminant<Doubt>>,
}

impl Watcher {
    /// Takes up the watch: goes on from what the log knows, and turns the clock.
    pub fn begin(clock: &Clock, config: config::Clock, log: &Log, metrics: &Arc<Metrics>) -> Self {
        let host = Host::this();
        let boot_id = host.boot_id();
        let newest = log.boots().last().copied();
        let same = newest.filter(|boot| boot.id == boot_id);
        let known = Known {
            seen_ms: newest.map(|boot| boot.seen_ms),
            offset_ms: same.map(|boot| boot.offset_ms),
            trusted: same.is_some_and(|boot| boot.state != BootState::Untrusted),
        };
        let mut watcher = Self {
            judge: Judge::new(config.trust, known, clock.reading()),
            clock: clock.clone(),
            host,
            log: log.clone(),
            metrics: Arc::clone(metrics),
            trust: config.trust,
            boot_id,
            told: None,
            doubt: None,
        };
        watcher.look();
        watcher
    }

    /// Looks at the clock.
    pub fn look(&mut self) {
        let reading = self.clock.reading();
        let since_boot = self.told.is_none_or(|told| !told.trusted);
        let host = &self.host;
        let judged = self.judge.judge(reading, || host.backing(reading.wall_ms, since_boot));
        self.clock.follow(&judged);
        if self.trust == Trust::Always {
            self.clock
                .shared
                .mode
                .store(PLAIN, std::sync::atomic::Ordering::Release);
        }
        if self.is_news(&judged) {
            self.log.set_clock(BootClock {
                id: self.boot_id,
                offset_ms: judged.offset_ms,
                trusted: judged.trusted,
                correction_ms: judged.correction_ms,
                now: judged.now,
            });
            self.told = Some(judged);
        }
        self.metrics.clock.trusted.set(i64::from(judged.trusted));
        self.say(&judged);
    }

    /// Whether the log is to be told.
    fn is_news(&self, judged: &Judged) -> bool {
        let Some(told) = &self.told else { return true };
        let mono_offset = |judged: &Judged| judged.now.wall_ms.saturating_sub((judged.now.mono_us / 1000) as i64);
        // While it is not trusted, the log counts from what it was told; a suspend moves that.
        let moved = judged.offset_ms.abs_diff(told.offset_ms) > DRIFT_MS
            || (!judged.trusted && mono_offset(judged).abs_diff(mono_offset(told)) > DRIFT_MS);
        let quiet_us = judged.now.mono_us.saturating_sub(told.now.mono_us);
        judged.correction_ms.is_some() || judged.trusted != told.trusted || moved || quiet_us > QUIET_US
    }

    /// Says what changed, once.
    fn say(&mut self, judged: &Judged) {
        if let Some(by_ms) = judged.correction_ms {
            self.metrics.clock.correction_ms.set(by_ms);
            tracing::info!(correction_ms = by_ms, "the clock is trusted from now on");
        }
        let doubt = judged.doubt.as_ref().map(std::mem::discriminant);
        if doubt == self.doubt {
            return;
        }
        self.doubt = doubt;
        match &judged.doubt {
            Some(doubt) => {
                let why = words(doubt, judged.trusted);
                tracing::warn!(
                    wall_ms = self.clock.reading().wall_ms,
                    own_ms = judged.now.wall_ms,
                    "{why}"
                );
                self.metrics.health.degrade("clock", why);
            }
            None => {
                self.metrics.health.restore("clock");
                if judged.correction_ms.is_none() {
                    tracing::info!("the machine's clock is followed again");
                }
            }
        }
    }
}

fn words(doubt: &Doubt, trusted: bool) -> String {
    let days = |ms: i64| ms / 86_400_000;
    let what = match doubt {
        Doubt::BeforeRelease(ms) => format!(
            "the machine's clock says a time before this headwater was made, {} days after 1970",
            days(*ms)
        ),
        Doubt::FarAhead(ms) => format!(
            "the machine's clock says a time far in the future, {} days after 1970",
            days(*ms)
        ),
        Doubt::BeforeSeen(ms, seen_ms) => format!(
            "the machine's clock is {} s behind a time that was seen already",
            seen_ms.saturating_sub(*ms) / 1000
        ),
        Doubt::NobodyVouches => {
            "the machine's clock is not synchronised, and no hardware clock says the same".to_owned()
        }
        Doubt::Jumped(ms) => format!(
            "the machine's clock jumped by {} s, and nobody vouches for it",
            ms / 1000
        ),
        Doubt::Told => "clock.trust is never".to_owned(),
    };
    let then = match trusted {
        true => "time goes on from what it was before",
        false => {
            "clock not trusted: time goes on from what was last seen, time retention waits, times are corrected later"
        }
    };
    format!("{what}; {then}. Try: a time server, or clock.trust = \"always\" if the clock is right")
}
