//! Time as an argument. The rim reads the clocks once per event and hands both readings down together.

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Microseconds of the monotonic clock, from an arbitrary start; never goes back. Deadlines are in these units.
    pub mono_us: u64,
    /// Milliseconds since 1970-01-01 UTC, as the wall clock has them; may jump either way.
    pub wall_ms: i64,
}

impl Now {
    /// The monotonic time `ms` milliseconds from now, for a deadline.
    pub fn after_ms(self, ms: u64) -> u64 {
        self.mono_us.saturating_add(ms.saturating_mul(1000))
    }
}
