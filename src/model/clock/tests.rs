//! The clock of machines that boot without one, jump, sleep and restart.

use super::*;

const DAY_MS: i64 = 86_400_000;
/// The right time of these tests when their machine boots: some months after the floor.
const BOOTED_MS: i64 = FLOOR_MS + 200 * DAY_MS;

/// A machine whose clocks a test turns.
struct Machine {
    /// Since boot.
    up_ms: i64,
    suspended_ms: i64,
    /// What the host's clock says above `BOOTED_MS + up_ms`.
    wrong_by_ms: i64,
    backing: Backing,
    judge: Judge,
}

impl Machine {
    /// A process that starts a second after the machine did.
    fn new(known: Known, wall_ms: i64, backing: Backing) -> Self {
        let up_ms = 1000;
        let wrong_by_ms = wall_ms - BOOTED_MS - up_ms;
        let judge = Judge::new(Trust::Auto, known, reading(up_ms, 0, wall_ms));
        Self {
            up_ms,
            suspended_ms: 0,
            wrong_by_ms,
            backing,
            judge,
        }
    }

    fn right_ms(&self) -> i64 {
        BOOTED_MS + self.up_ms
    }

    fn reading(&self) -> Reading {
        reading(self.up_ms, self.suspended_ms, self.right_ms() + self.wrong_by_ms)
    }

    fn judge(&mut self) -> Judged {
        let (reading, backing) = (self.reading(), self.backing);
        self.judge.judge(reading, || backing)
    }

    /// Some time later.
    fn after(&mut self, ms: i64) -> Judged {
        self.up_ms += ms;
        self.judge()
    }

    /// The process starts anew, in the same boot.
    fn restart(&mut self, before: &Judged) -> Judged {
        let known = Known {
            seen_ms: Some(before.now.wall_ms),
            offset_ms: Some(before.offset_ms),
            trusted: before.trusted,
        };
        self.judge = Judge::new(Trust::Auto, known, self.reading());
        self.judge()
    }
}

fn reading(up_ms: i64, suspended_ms: i64, wall_ms: i64) -> Reading {
    Reading {
        mono_us: (up_ms - suspended_ms) as u64 * 1000,
        boot_ms: up_ms,
        wall_ms,
    }
}

fn seen(ms: i64) -> Known {
    Known {
        seen_ms: Some(ms),
        ..Known::default()
    }
}

fn synced() -> Machine {
    let mut machine = Machine::new(seen(BOOTED_MS - DAY_MS), BOOTED_MS + 1000, Backing::Synchronised);
    assert!(machine.judge().trusted);
    machine
}

#[test]
fn a_synchronised_clock_is_the_time_as_it_is() {
    let mut machine = synced();
    for wrong_by_ms in [0, 5, -3, 900, -900, 30_000] {
        machine.wrong_by_ms = wrong_by_ms;
        let judged = machine.after(10);
        assert_eq!(judged.now.wall_ms, machine.right_ms() + wrong_by_ms);
        assert_eq!((judged.trusted, judged.doubt, judged.correction_ms), (true, None, None));
    }
}

#[test]
fn nobody_is_asked_while_the_clock_goes_as_it_should() {
    let mut machine = synced();
    machine.up_ms += 1000;
    let reading = machine.reading();
    let judged = machine.judge.judge(reading, || panic!("asked"));
    assert_eq!(judged.now.wall_ms, machine.right_ms());
}

#[test]
fn a_clock_of_1970_goes_on_from_what_was_seen_until_it_is_set() {
    let seen_ms = BOOTED_MS - 30 * DAY_MS;
    let mut machine = Machine::new(seen(seen_ms), 1000, Backing::Nobody);
    let first = machine.judge();
    assert_eq!(first.now.wall_ms, seen_ms);
    assert_eq!((first.trusted, first.doubt), (false, Some(Doubt::BeforeRelease(1000))));
    assert_eq!(machine.after(5000).now.wall_ms, seen_ms + 5000);
    // A daemon that says so is not believed either.
    machine.backing = Backing::Synchronised;
    assert!(!machine.after(1000).trusted);
    machine.wrong_by_ms = 0;
    let set = machine.after(1000);
    assert_eq!((set.trusted, set.doubt), (true, None));
    assert_eq!(set.now.wall_ms, machine.right_ms());
    assert_eq!(set.correction_ms, Some(machine.right_ms() - (seen_ms + 7000)));
    assert_eq!(machine.after(1000).correction_ms, None, "once");
}

#[test]
fn a_new_store_begins_at_the_release() {
    let mut machine = Machine::new(Known::default(), 0, Backing::Nobody);
    assert_eq!(machine.judge().now.wall_ms, FLOOR_MS);
}

#[test]
fn a_clock_of_2099_is_not_followed_before_it_is_trusted_nor_after() {
    let far = 4_080_000_000_000;
    let mut machine = Machine::new(seen(BOOTED_MS), far, Backing::Hardware);
    let first = machine.judge();
    assert_eq!((first.now.wall_ms, first.trusted), (BOOTED_MS, false));
    assert!(matches!(first.doubt, Some(Doubt::FarAhead(_))));
    let mut machine = synced();
    machine.wrong_by_ms = far - machine.right_ms();
    let held = machine.after(1000);
    assert_eq!((held.now.wall_ms, held.trusted), (machine.right_ms(), true));
    machine.wrong_by_ms = 0;
    let back = machine.after(1000);
    assert_eq!(
        (back.now.wall_ms, back.doubt, back.correction_ms),
        (machine.right_ms(), None, None)
    );
}

#[test]
fn a_jump_of_years_that_nobody_vouches_for_is_not_followed_and_the_way_back_is_no_step() {
    let mut machine = synced();
    machine.backing = Backing::Nobody;
    machine.wrong_by_ms = 5 * 365 * DAY_MS;
    let held = machine.after(10);
    assert_eq!((held.now.wall_ms, held.trusted), (machine.right_ms(), true));
    assert_eq!(held.doubt, Some(Doubt::Jumped(5 * 365 * DAY_MS)));
    assert_eq!(machine.after(DAY_MS).now.wall_ms, machine.right_ms());
    machine.wrong_by_ms = -3 * DAY_MS;
    assert_eq!(machine.after(10).doubt, Some(Doubt::Jumped(-3 * DAY_MS)));
    machine.wrong_by_ms = 0;
    assert_eq!(machine.after(10).doubt, None);
}

#[test]
fn a_jump_that_a_daemon_or_the_hardware_clock_vouches_for_is_followed_both_ways() {
    let mut machine = synced();
    for (wrong_by_ms, backing) in [
        (2 * DAY_MS, Backing::Hardware),
        (-DAY_MS, Backing::Synchronised),
        (0, Backing::Hardware),
    ] {
        (machine.wrong_by_ms, machine.backing) = (wrong_by_ms, backing);
        let judged = machine.after(10);
        assert_eq!(judged.now.wall_ms, machine.right_ms() + wrong_by_ms);
        assert_eq!((judged.doubt, judged.correction_ms), (None, None));
    }
}

#[test]
fn a_hardware_clock_is_believed_unless_it_is_behind_what_was_seen() {
    let mut machine = Machine::new(seen(BOOTED_MS - DAY_MS), BOOTED_MS + 1000, Backing::Hardware);
    assert!(machine.judge().trusted);
    let mut machine = Machine::new(seen(BOOTED_MS + DAY_MS), BOOTED_MS + 1000, Backing::Hardware);
    let judged = machine.judge();
    assert!(!judged.trusted && matches!(judged.doubt, Some(Doubt::BeforeSeen(..))));
    assert_eq!(judged.now.wall_ms, BOOTED_MS + DAY_MS, "never backwards");
    // Synchronised, it is right: what was seen was not.
    machine.backing = Backing::Synchronised;
    let judged = machine.judge();
    assert_eq!(judged.correction_ms, Some(1000 - DAY_MS));
    assert_eq!(judged.now.wall_ms, machine.right_ms());
}

#[test]
fn a_plausible_clock_that_nobody_vouches_for_waits() {
    let mut machine = Machine::new(seen(BOOTED_MS - DAY_MS), BOOTED_MS - DAY_MS / 2, Backing::Nobody);
    let judged = machine.judge();
    assert_eq!(judged.now.wall_ms, BOOTED_MS - DAY_MS);
    assert_eq!((judged.trusted, judged.doubt), (false, Some(Doubt::NobodyVouches)));
}

#[test]
fn a_leap_second_and_a_lost_synchronisation_change_nothing() {
    let mut machine = synced();
    machine.backing = Backing::Nobody;
    machine.wrong_by_ms = -1000;
    let judged = machine.after(1000);
    assert_eq!(judged.now.wall_ms, machine.right_ms() - 1000);
    // 50 ms a minute: a bad crystal over 50 days.
    for _ in 0..1000 {
        machine.wrong_by_ms += 3600;
        assert_eq!(machine.after(72 * 60_000).doubt, None);
    }
    assert_eq!(machine.judge().now.wall_ms, machine.right_ms() + 1000 * 3600 - 1000);
}

#[test]
fn a_suspended_machine_loses_no_time_trusted_or_not() {
    for (wall_ms, backing) in [(BOOTED_MS + 1000, Backing::Synchronised), (0, Backing::Nobody)] {
        let mut machine = Machine::new(seen(BOOTED_MS), wall_ms, backing);
        let before = machine.judge();
        machine.backing = Backing::Nobody;
        machine.suspended_ms += DAY_MS;
        let after = machine.after(DAY_MS + 1000);
        assert_eq!(after.now.wall_ms - before.now.wall_ms, DAY_MS + 1000);
        assert_eq!(after.now.mono_us - before.now.mono_us, 1_000_000);
        assert_eq!(after.doubt.is_some(), before.doubt.is_some());
    }
}

#[test]
fn a_process_that_starts_anew_in_the_same_boot_goes_on_where_the_one_before_was() {
    let mut machine = Machine::new(seen(BOOTED_MS - DAY_MS), 0, Backing::Nobody);
    let before = machine.after(60_000);
    machine.up_ms += 3000;
    let after = machine.restart(&before);
    assert_eq!(after.now.wall_ms, before.now.wall_ms + 3000);
    assert!(!after.trusted);
    // Trusted, and the clock jumped while no process ran.
    let mut machine = synced();
    let before = machine.after(60_000);
    machine.backing = Backing::Nobody;
    machine.wrong_by_ms = 4 * 365 * DAY_MS;
    machine.up_ms += 3000;
    let after = machine.restart(&before);
    assert_eq!((after.now.wall_ms, after.trusted), (machine.right_ms(), true));
    assert_eq!(after.correction_ms, None);
}

#[test]
fn a_long_uptime_at_the_first_start_puts_no_time_into_the_future() {
    let known = seen(BOOTED_MS);
    let first = Reading {
        mono_us: 0,
        boot_ms: 300 * DAY_MS,
        wall_ms: 0,
    };
    let mut judge = Judge::new(Trust::Auto, known, first);
    assert_eq!(judge.judge(first, || Backing::Nobody).now.wall_ms, BOOTED_MS);
}

#[test]
fn always_follows_whatever_the_clock_says_and_never_follows_nothing() {
    let far = reading(1000, 0, 4_080_000_000_000);
    let mut judge = Judge::new(Trust::Always, seen(BOOTED_MS), far);
    let judged = judge.judge(far, || panic!("asked"));
    assert_eq!((judged.now.wall_ms, judged.trusted), (far.wall_ms, true));
    let right = reading(1000, 0, BOOTED_MS + 1000);
    let mut judge = Judge::new(Trust::Never, seen(BOOTED_MS), right);
    let judged = judge.judge(right, || Backing::Synchronised);
    assert_eq!(
        (judged.now.wall_ms, judged.trusted, judged.doubt),
        (BOOTED_MS, false, Some(Doubt::Told))
    );
}

#[test]
fn a_time_seen_in_2099_is_no_time_that_was_seen() {
    let mut machine = Machine::new(seen(4_080_000_000_000), 0, Backing::Nobody);
    assert_eq!(machine.judge().now.wall_ms, FLOOR_MS);
}
