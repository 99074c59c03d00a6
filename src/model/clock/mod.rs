//! Which time to believe. A gateway may have no clock of its own (no battery, no network yet), one that says 1970, or
//! one that somebody set to 2099. `Judge` takes readings of the host's clocks and gives the time that records get.
//!
//! - While the clock is not trusted, time is what was last seen in the store and goes on with the time since the
//!   machine's boot (which counts suspends, too). It never goes back, and is never later than the right time.
//! - Once it is trusted, time is the host's, as it is; the difference at that moment is the boot's correction. It stays
//!   trusted until the machine boots again: a synchronisation that is lost later costs some seconds a day.
//! - A later jump that nobody vouches for is not followed: time goes on from what was trusted.
//!
//! Nothing here reads a clock. Why it is so: `src/manual/decisions/0006-clock.md`.

use super::Now;

/// No clock is right that says less: 2026-11-01. A constant of the source, so that a build is reproducible; each
/// release moves it.
pub const FLOOR_MS: i64 = 1_793_491_200_000;
/// Nor one that says more: 20 years later.
pub const CEILING_MS: i64 = FLOOR_MS + 20 * 365 * 86_400_000;
/// A step of the clock up to here is followed without asking: leap seconds, a daemon's corrections, the drift of some
/// days.
pub const STEP_MS: i64 = 60_000;

/// `clock.trust`: when the host's clock is believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Once it is synchronised, or the machine's hardware clock vouches for it.
    #[default]
    Auto,
    /// Whatever it says.
    Always,
    /// Never: time goes on from what was last seen.
    Never,
}

impl Trust {
    /// By its name in the configuration.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Self::Auto),
            "always" => Some(Self::Always),
            "never" => Some(Self::Never),
            _ => None,
        }
    }
}

/// Who vouches for the host's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// The kernel or a time daemon says that it is synchronised.
    Synchronised,
    /// A hardware clock with a battery, or the machine's hypervisor, says about the same.
    Hardware,
    /// Nobody.
    Nobody,
}

/// One reading of the host's clocks.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Microseconds of the process's monotonic clock, which stands still while the machine is suspended.
    pub mono_us: u64,
    /// Milliseconds since the machine booted, suspends included.
    pub boot_ms: i64,
    /// Milliseconds since 1970, as the host has them.
    pub wall_ms: i64,
}

/// What is known of the boot when the process starts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// The newest time that an earlier process of this store saw, ms since 1970.
    pub seen_ms: Option<i64>,
    /// That process ran in this very boot of the machine: ms from the machine's boot to the time that it held to be
    /// right.
    pub offset_ms: Option<i64>,
    /// And it trusted the clock.
    pub trusted: bool,
}

/// Why the host's clock is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It says a time before this headwater was made, ms since 1970.
    BeforeRelease(i64),
    /// It says a time far in the future, ms since 1970.
    FarAhead(i64),
    /// It says a time before what was seen already: both in ms since 1970.
    BeforeSeen(i64, i64),
    /// It may be right, but nobody vouches for it.
    NobodyVouches,
    /// It jumped by so many ms, and nobody vouches for that.
    Jumped(i64),
    /// The configuration says so.
    Told,
}

/// What time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The time to go by.
    pub now: Now,
    /// Milliseconds from the machine's boot to `now`, less the time since the boot: `now` is `boot_ms + offset_ms`.
    pub offset_ms: i64,
    /// Whether the clock was trusted in this boot.
    pub trusted: bool,
    /// It became trusted just now: what has to be added to the times before.
    pub correction_ms: Option<i64>,
    /// The host's clock is not followed, and why.
    pub doubt: Option<Doubt>,
}

/// Judges the host's clock, reading by reading.
#[derive(Clone, Debug)]
pub struct Judge {
    trust: Trust,
    seen_ms: i64,
    offset_ms: i64,
    trusted: bool,
}

impl Judge {
    /// A judge for a process that starts at this reading.
    pub fn new(trust: Trust, known: Known, first: Reading) -> Self {
        let sane = |ms: &i64| (FLOOR_MS..=CEILING_MS).contains(ms);
        let seen_ms = known.seen_ms.filter(sane).unwrap_or(FLOOR_MS);
        // How long the machine runs says nothing about when the last process ended: the disk may come from another one.
        let begins_ms = known
            .offset_ms
            .map_or(seen_ms, |offset_ms| first.boot_ms.saturating_add(offset_ms));
        let begins_ms = match known.trusted {
            true => begins_ms,
            false => begins_ms.max(seen_ms),
        };
        Self {
            trust,
            seen_ms,
            offset_ms: begins_ms.saturating_sub(first.boot_ms),
            trusted: known.trusted,
        }
    }

    /// What time it is. `backing` is asked only where the answer counts, for it may be slow.
    pub fn judge(&mut self, reading: Reading, backing: impl FnOnce() -> Backing) -> Judged {
        let expected_ms = reading.boot_ms.saturating_add(self.offset_ms);
        let jump_ms = reading.wall_ms.saturating_sub(expected_ms);
        let doubt = self.doubt(reading.wall_ms, jump_ms, backing);
        let mut correction_ms = None;
        if doubt.is_none() {
            if !self.trusted {
                correction_ms = Some(jump_ms);
            }
            self.trusted = true;
            self.offset_ms = reading.wall_ms.saturating_sub(reading.boot_ms);
        }
        Judged {
            now: Now {
                mono_us: reading.mono_us,
                wall_ms: reading.boot_ms.saturating_add(self.offset_ms),
            },
            offset_ms: self.offset_ms,
            trusted: self.trusted,
            correction_ms,
            doubt,
        }
    }

    fn doubt(&self, wall_ms: i64, jump_ms: i64, backing: impl FnOnce() -> Backing) -> Option<Doubt> {
        match self.trust {
            Trust::Always => return None,
            Trust::Never => return Some(Doubt::Told),
            Trust::Auto if self.trusted && jump_ms.saturating_abs() <= STEP_MS => return None,
            Trust::Auto => {}
        }
        if wall_ms < FLOOR_MS {
            return Some(Doubt::BeforeRelease(wall_ms));
        }
        if wall_ms > CEILING_MS {
            return Some(Doubt::FarAhead(wall_ms));
        }
        match backing() {
            Backing::Synchronised => None,
            // A battery that was empty, or one that was never set: what was seen counts more.
            Backing::Hardware if !self.trusted && wall_ms.saturating_add(STEP_MS) < self.seen_ms => {
                Some(Doubt::BeforeSeen(wall_ms, self.seen_ms))
            }
            Backing::Hardware => None,
            Backing::Nobody if self.trusted => Some(Doubt::Jumped(jump_ms)),
            Backing::Nobody => Some(Doubt::NobodyVouches),
        }
    }
}

#[cfg(test)]
mod tests;
