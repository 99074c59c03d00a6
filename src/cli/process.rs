//! What Linux says of this process, for `/metrics`. What cannot be read is 0.

use std::fs;

use crate::http::ProcessFacts;

/// Reads `/proc` anew.
pub(super) fn facts() -> ProcessFacts {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the program's name in parentheses and may hold anything; the rest is numbers from field 3 on.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map_or(vec![], |(_, rest)| rest.split_whitespace().collect());
    let field = |number: usize| fields.get(number - 3).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    let ticks_per_second = rustix::param::clock_ticks_per_second().max(1) as f64;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    ProcessFacts {
        resident_bytes: field(24) * rustix::param::page_size() as u64,
        open_fds: fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1) as u64),
        max_fds: limit.unwrap_or(0),
        threads: field(20),
        cpu_seconds: (field(14) + field(15)) as f64 / ticks_per_second,
        written_bytes: written_bytes(),
        start_seconds: boot_seconds() + field(22) as f64 / ticks_per_second,
    }
}

/// Bytes that this process had written to disks, by the kernel's account; 0 where that keeps none.
pub(super) fn written_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}

/// Seconds since 1970 at which the machine started.
fn boot_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|seconds| seconds.trim().parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_memory_files_and_a_start() {
        let facts = super::facts();
        assert!(
            facts.resident_bytes > 100_000 && facts.open_fds >= 3 && facts.threads >= 1,
            "{facts:?}"
        );
        assert!(
            facts.max_fds >= facts.open_fds && facts.start_seconds > 1.6e9,
            "{facts:?}"
        );
    }
}
