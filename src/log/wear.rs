//! The wear budget: at what pace the store writes, how long a commit waits so that the pace stays within the budget, and how long the
//! disk lasts. Time and bytes come in; nothing is read here.

/// A pace is that of about so long.
const PACE_US: f64 = 60e6;
/// Between two looks, microseconds.
const LOOK_US: u64 = 5_000_000;
/// Where a wait begins when there was none, microseconds.
const FIRST_WAIT_US: f64 = 1_000.0;
const DAY_US: f64 = 86_400e6;

/// What is to be kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Bytes a day; `None` is no bound.
    pub(super) bytes_per_day: Option<u64>,
    /// The wait without a budget, microseconds.
    pub(super) linger_us: u64,
    /// The longest that the budget may bring, microseconds.
    pub(super) linger_us_max: u64,
}

/// Keeps it.
#[derive(Debug)]
pub(super) struct Wear {
    budget: Budget,
    /// Microseconds.
    linger_us: f64,
    store: Pace,
    device: Pace,
    look_us: u64,
}

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    /// Wait before a commit, microseconds.
    pub(super) linger_us: u64,
    /// Bytes a day that the store writes at its pace.
    pub(super) store_bytes_per_day: f64,
    /// The same of all that is written to the disk, where that is known.
    pub(super) device_bytes_per_day: Option<f64>,
    /// The longest wait is not enough.
    pub(super) over: bool,
}

impl Wear {
    pub(super) fn new(budget: Budget) -> Self {
        Self {
            budget,
            linger_us: budget.linger_us as f64,
            store: Pace::default(),
            device: Pace::default(),
            look_us: 0,
        }
    }

    /// Whether the next look is due.
    pub(super) fn is_due(&self, now_us: u64) -> bool {
        now_us >= self.look_us
    }

    /// So many bytes were written up to now: by the store since it was opened, and to the disk since the machine started. `None`
    /// until there is a pace.
    pub(super) fn look(&mut self, store_bytes: u64, device_bytes: Option<u64>, now_us: u64) -> Option<Look> {
        self.look_us = now_us + LOOK_US;
        let device_bytes_per_day = device_bytes.and_then(|bytes| self.device.add(bytes, now_us));
        let pace = self.store.add(store_bytes, now_us)?;
        let least = self.budget.linger_us as f64;
        let most = (self.budget.linger_us_max as f64).max(least);
        let over = self.budget.bytes_per_day.map(|budget| pace / budget as f64);
        if let Some(over) = over {
            // More while it is over, and no faster than the pace can follow.
            let wait = match over > 1.0 {
                true => self.linger_us.max(FIRST_WAIT_US),
                false => self.linger_us,
            };
            let wait = (wait * over.powf(0.25).clamp(0.8, 1.25)).min(most);
            self.linger_us = if wait < least.max(FIRST_WAIT_US) { least } else { wait };
        }
        Some(Look {
            linger_us: self.linger_us as u64,
            store_bytes_per_day: pace,
            device_bytes_per_day,
            over: over.is_some_and(|over| over > 1.1) && self.linger_us >= most,
        })
    }
}

/// Days until so many bytes are written that each cell was cleared as often as it endures.
pub(super) fn life_days(disk_bytes: u64, cycles: u64, bytes_per_day: f64) -> Option<f64> {
    (disk_bytes > 0 && bytes_per_day > 0.0).then(|| disk_bytes as f64 * cycles as f64 / bytes_per_day)
}

/// A pace of which what is long ago counts less and less.
#[derive(Debug, Default)]
struct Pace {
    before: Option<(u64, u64)>,
    bytes_per_us: f64,
    /// How much of it is measured; the rest is not known yet.
    weight: f64,
}

impl Pace {
    /// Bytes a day.
    fn add(&mut self, bytes: u64, now_us: u64) -> Option<f64> {
        let (bytes_before, before_us) = self.before.replace((bytes, now_us))?;
        let time_us = now_us.saturating_sub(before_us) as f64;
        if time_us > 0.0 {
            let pace = bytes.saturating_sub(bytes_before) as f64 / time_us;
            let share = 1.0 - (-time_us / PACE_US).exp();
            self.bytes_per_us += (pace - self.bytes_per_us) * share;
            self.weight += (1.0 - self.weight) * share;
        }
        (self.weight > 0.0).then(|| self.bytes_per_us / self.weight * DAY_US)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;
    const STEP_US: u64 = LOOK_US;

    fn wear(bytes_per_day: Option<u64>) -> Wear {
        Wear::new(Budget {
            bytes_per_day,
            linger_us: 0,
            linger_us_max: 100_000,
        })
    }

    /// A gateway whose commits come one at a time, 20 ms of work and the wait between them, 16 KiB each.
    fn run(wear: &mut Wear, from: &mut (u64, u64), looks: u32) -> Look {
        let mut last = None;
        for _ in 0..looks {
            let linger_us = last.map_or(0, |look: Look| look.linger_us);
            from.0 += STEP_US / (20_000 + linger_us) * 16_384;
            from.1 += STEP_US;
            last = wear.look(from.0, None, from.1).or(last);
        }
        last.unwrap()
    }

    #[test]
    fn above_the_budget_commits_wait_until_the_pace_is_the_budget() {
        // 50 commits a second are 70 GB a day.
        let mut wear = wear(Some(35 * GB));
        let look = run(&mut wear, &mut (0, 0), 200);
        let (pace, budget) = (look.store_bytes_per_day, 35e9);
        assert!((0.9 * budget..1.1 * budget).contains(&pace), "{look:?}");
        assert!((10_000..40_000).contains(&look.linger_us) && !look.over, "{look:?}");
    }

    #[test]
    fn the_wait_has_a_bound_and_what_is_over_then_is_told() {
        let mut wear = wear(Some(GB));
        let look = run(&mut wear, &mut (0, 0), 200);
        assert!(look.linger_us == 100_000 && look.over, "{look:?}");
    }

    #[test]
    fn below_the_budget_nothing_waits_any_more() {
        let mut wear = wear(Some(10 * GB));
        let mut from = (0, 0);
        assert!(run(&mut wear, &mut from, 100).linger_us > 0);
        let mut look = None;
        for _ in 0..200 {
            from.1 += STEP_US;
            look = wear.look(from.0, None, from.1);
        }
        assert_eq!(look.unwrap().linger_us, 0);
    }

    #[test]
    fn without_a_budget_nothing_changes_and_the_pace_is_known() {
        let mut wear = Wear::new(Budget {
            bytes_per_day: None,
            linger_us: 5_000,
            linger_us_max: 100_000,
        });
        assert!(wear.is_due(0));
        assert_eq!(wear.look(0, Some(0), 1), None);
        assert!(!wear.is_due(STEP_US));
        let look = wear.look(1_000_000, Some(3_000_000), 1 + STEP_US).unwrap();
        assert_eq!(look.linger_us, 5_000);
        // A megabyte in five seconds.
        let day = 17_280e6;
        assert!((look.store_bytes_per_day / day - 1.0).abs() < 1e-6, "{look:?}");
        assert!(
            (look.device_bytes_per_day.unwrap() / day - 3.0).abs() < 1e-6,
            "{look:?}"
        );
    }

    #[test]
    fn a_card_lasts_as_long_as_its_cells() {
        assert_eq!(life_days(32 * GB, 500, 16e9), Some(1000.0));
        assert_eq!(life_days(0, 500, 16e9), None);
        assert_eq!(life_days(32 * GB, 500, 0.0), None);
    }
}
