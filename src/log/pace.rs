//! When to commit: at once when alone, together when producers answer acks with their next record.
//!
//! Producers that wait for acks come back in one wave after each commit. A writer that commits the first of them at once makes two
//! half groups of every wave, for the price of two syncs. So after a commit it waits a moment for as many as it has just answered
//! and as came meanwhile. Where they do not come, it soon stops asking.

use std::time::Duration;

use super::queue::Linger;

/// The wait is at most this part of what a commit takes.
const PART_OF_COMMIT: u64 = 2;
/// And at most this.
const PATIENCE_US_MAX: u64 = 2_000;
/// Commits that it does not wait after waiting in vain; doubles each time up to `1 << SKIP_SHIFT_MAX`.
const SKIP_SHIFT_MAX: u32 = 6;

/// What the last commits tell of the next.
#[derive(Debug)]
pub(super) struct Pace {
    fixed: Option<Duration>,
    items: usize,
    /// Smoothed time of a commit.
    commit_us: u64,
    /// Times in a row that the wait was in vain.
    in_vain: u32,
    /// Commits before the next wait.
    skip: u32,
}

impl Pace {
    /// `fixed` is the configured linger, if any.
    pub(super) fn new(fixed: Option<Duration>) -> Self {
        Self {
            fixed,
            items: 1,
            commit_us: 0,
            in_vain: 0,
            skip: 0,
        }
    }

    /// What to wait for before the next commit.
    pub(super) fn linger(&self) -> Linger {
        if let Some(patience) = self.fixed {
            let items = usize::MAX;
            return Linger { items, patience };
        }
        let items = if self.skip == 0 { self.items } else { 1 };
        let patience = Duration::from_micros((self.commit_us / PART_OF_COMMIT).min(PATIENCE_US_MAX));
        Linger { items, patience }
    }

    /// A commit of so many items is done while so many wait already; the company asked for had come or not.
    pub(super) fn committed(&mut self, items: usize, waiting: usize, company: bool, took_us: u64) {
        if items == 0 {
            return;
        }
        let asked = self.skip == 0 && self.items > 1;
        self.skip = self.skip.saturating_sub(1);
        if asked && company {
            self.in_vain = 0;
        } else if asked {
            self.in_vain = (self.in_vain + 1).min(SKIP_SHIFT_MAX);
            self.skip = 1 << self.in_vain;
        }
        self.commit_us = (self.commit_us * 7 + took_us) / 8;
        self.items = items + waiting;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_producer_never_waits() {
        let mut pace = Pace::new(None);
        for _ in 0..10 {
            pace.committed(1, 0, true, 1000);
            assert_eq!(pace.linger().items, 1);
        }
    }

    #[test]
    fn a_wave_is_waited_for_at_most_a_part_of_a_commit() {
        let mut pace = Pace::new(None);
        for _ in 0..100 {
            pace.committed(10, 6, true, 1000);
        }
        let linger = pace.linger();
        assert_eq!(linger.items, 16);
        assert!(linger.patience <= Duration::from_micros(500));
    }

    #[test]
    fn who_does_not_come_is_not_waited_for_again_and_again() {
        let mut pace = Pace::new(None);
        let mut waits = 0;
        for _ in 0..1000 {
            let waited = pace.linger().items > 1;
            waits += usize::from(waited);
            pace.committed(2, 1, !waited, 1000);
        }
        assert!(waits < 30, "{waits}");
    }
}
