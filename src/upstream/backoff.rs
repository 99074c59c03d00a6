//! Waits between attempts: doubling, with jitter, up to a bound, so that many gateways do not come back to the centre at once.

use crate::model::Now;

/// The first wait, ms.
const FIRST_MS: u64 = 100;

/// Pseudo-random numbers from the seed that the rim gave (SplitMix64); for jitter only.
#[derive(Clone, Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Between half of `n` and `n`.
    pub(super) fn upper_half(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let half = n / 2;
        half.saturating_add(z.checked_rem(n.saturating_sub(half).saturating_add(1)).unwrap_or(0))
    }
}

/// How often in a row something failed, and until when it waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until_us: u64,
}

impl Backoff {
    /// It failed: wait longer than the last time.
    pub(super) fn failed(&mut self, now: Now, ms_max: u64, jitter: &mut Jitter) {
        let ms = FIRST_MS
            .checked_shl(self.failures.min(32))
            .unwrap_or(u64::MAX)
            .min(ms_max.max(1));
        self.failures = self.failures.saturating_add(1);
        self.until_us = now.after_ms(jitter.upper_half(ms));
    }

    /// It worked.
    pub(super) fn worked(&mut self) {
        *self = Self::default();
    }

    /// When the wait is over, if it is not yet.
    pub(super) fn waits_until(&self, now: Now) -> Option<u64> {
        (self.until_us > now.mono_us).then_some(self.until_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_with_jitter_up_to_the_bound() {
        let now = Now {
            mono_us: 5_000,
            wall_ms: 0,
        };
        let mut jitter = Jitter::new(1);
        let mut backoff = Backoff::default();
        assert_eq!(backoff.waits_until(now), None);
        for ms in [100u64, 200, 400, 800, 1000, 1000] {
            backoff.failed(now, 1000, &mut jitter);
            let wait = backoff.waits_until(now).expect("it waits") - now.mono_us;
            assert!(wait >= ms * 500 && wait <= ms * 1000, "{wait} for {ms} ms");
        }
        let other = |seed| {
            let mut backoff = Backoff::default();
            backoff.failed(now, 1000, &mut Jitter::new(seed));
            backoff.waits_until(now)
        };
        assert_ne!(other(1), other(2), "two gateways do not come back together");
        backoff.worked();
        assert_eq!(backoff.waits_until(now), None);
        backoff.failed(now, 1000, &mut jitter);
        let wait = backoff.waits_until(now).expect("it waits") - now.mono_us;
        assert!(wait <= 100_000, "{wait}: what worked begins again with the first wait");
    }
}
