//! What the host says of its clocks, and who vouches for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::clock::{Backing, STEP_MS};

/// Made by systemd-timesyncd when it has synchronised the clock for the first time since boot.
const TIMESYNCD: &str = "run/systemd/timesync/synchronized";
const BOOT_ID: &str = "proc/sys/kernel/random/boot_id";
const RTC: &str = "sys/class/rtc";
const CLOCKSOURCES: &str = "sys/devices/system/clocksource/clocksource0/available_clocksource";
/// Clock sources that a hypervisor offers: it set the clock, too, when the machine booted.
const OF_HYPERVISORS: [&str; 3] = ["kvm-clock", "hyperv", "xen"];

/// Milliseconds since 1970 by the host's clock.
pub(super) fn wall_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        // A clock before 1970 is a clock that was never set.
        Err(_) => 0,
    }
}

/// Milliseconds since the machine booted, suspends included.
pub(super) fn boot_ms() -> i64 {
    let since = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    since
        .tv_sec
        .saturating_mul(1000)
        .saturating_add(since.tv_nsec / 1_000_000)
}

/// Where the host's files are.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) root: PathBuf,
    /// What the kernel says.
    pub(super) synchronised: fn() -> Option<bool>,
}

impl Host {
    /// This one.
    pub(super) fn this() -> Self {
        Self {
            root: PathBuf::from("/"),
            synchronised: headwater_timex::synchronised,
        }
    }

    /// The kernel's id of this boot; zeros where it has none.
    pub(super) fn boot_id(&self) -> [u8; 16] {
        let text = fs::read_to_string(self.root.join(BOOT_ID)).unwrap_or_default();
        let hex = text.trim().replace('-', "");
        u128::from_str_radix(&hex, 16).unwrap_or_default().to_be_bytes()
    }

    /// Who vouches for the clock, which says this. `since_boot`: what was true at some time since the boot counts, too;
    /// that is so until the clock is trusted, and no more when it jumped later.
    pub(super) fn backing(&self, wall_ms: i64, since_boot: bool) -> Backing {
        let kernel = (self.synchronised)();
        if kernel == Some(true) || (since_boot && self.root.join(TIMESYNCD).exists()) {
            return Backing::Synchronised;
        }
        let hardware = match self.hardware_clocks_ms() {
            clocks if !clocks.is_empty() => clocks.iter().any(|ms| ms.abs_diff(wall_ms) <= STEP_MS.unsigned_abs()),
            _ => since_boot && (self.is_virtual() || kernel.is_none()),
        };
        match hardware {
            true => Backing::Hardware,
            false => Backing::Nobody,
        }
    }

    fn hardware_clocks_ms(&self) -> Vec<i64> {
        let clock = |path: &Path| {
            let text = fs::read_to_string(path.join("since_epoch")).ok()?;
            text.trim().parse::<i64>().ok()?.checked_mul(1000)
        };
        let entries = fs::read_dir(self.root.join(RTC)).into_iter().flatten();
        entries.filter_map(|entry| clock(&entry.ok()?.path())).collect()
    }

    fn is_virtual(&self) -> bool {
        let sources = fs::read_to_string(self.root.join(CLOCKSOURCES)).unwrap_or_default();
        sources
            .split_whitespace()
            .any(|source| OF_HYPERVISORS.iter().any(|name| source.starts_with(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL_MS: i64 = 1_800_000_000_000;

    /// A host of files that a test writes.
    fn host(name: &str, synchronised: fn() -> Option<bool>, files: &[(&str, &str)]) -> Host {
        let root = std::env::temp_dir().join(format!("headwater-host-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        Host { root, synchronised }
    }

    #[test]
    fn the_kernel_and_the_time_daemon_vouch_for_it() {
        let kernel = host("kernel", || Some(true), &[]);
        assert_eq!(kernel.backing(WALL_MS, false), Backing::Synchronised);
        let daemon = host("daemon", || Some(false), &[(TIMESYNCD, "")]);
        assert_eq!(daemon.backing(WALL_MS, true), Backing::Synchronised);
        // That was before the jump.
        assert_eq!(daemon.backing(WALL_MS, false), Backing::Nobody);
        let _ = fs::remove_dir_all(daemon.root);
    }

    #[test]
    fn a_hardware_clock_vouches_for_what_it_says_itself() {
        let epoch = format!("{}/rtc0/since_epoch", RTC);
        let sources = (CLOCKSOURCES, "kvm-clock tsc\n");
        let rtc = host("rtc", || Some(false), &[(&epoch, "1800000003\n"), sources]);
        assert_eq!(rtc.backing(WALL_MS, false), Backing::Hardware);
        assert_eq!(rtc.backing(WALL_MS + 300_000, true), Backing::Nobody);
        let _ = fs::remove_dir_all(rtc.root);
    }

    #[test]
    fn without_one_a_virtual_machine_is_believed_at_its_boot_and_a_board_is_not() {
        let virtual_machine = host("vm", || Some(false), &[(CLOCKSOURCES, "tsc kvm-clock \n")]);
        assert_eq!(virtual_machine.backing(WALL_MS, true), Backing::Hardware);
        assert_eq!(virtual_machine.backing(WALL_MS, false), Backing::Nobody);
        let _ = fs::remove_dir_all(virtual_machine.root);
        let board = host("board", || Some(false), &[(CLOCKSOURCES, "arch_sys_counter \n")]);
        assert_eq!(board.backing(WALL_MS, true), Backing::Nobody);
        let _ = fs::remove_dir_all(board.root);
        // A sandbox that may not ask the kernel has no better clock.
        let sandbox = host("sandbox", || None, &[]);
        assert_eq!(sandbox.backing(WALL_MS, true), Backing::Hardware);
    }

    #[test]
    fn the_boot_has_an_id() {
        let id = "00112233-4455-6677-8899-aabbccddeeff\n";
        let some = host("boot", || None, &[(BOOT_ID, id)]);
        assert_eq!(some.boot_id()[..3], [0x00, 0x11, 0x22]);
        let _ = fs::remove_dir_all(some.root);
        assert_eq!(host("none", || None, &[]).boot_id(), [0; 16]);
    }
}
