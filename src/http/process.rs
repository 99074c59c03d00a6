//! What `/metrics` says of the process itself. Who serves reads it; this room touches no files.

/// One look at the process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessFacts {
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// Most file descriptors it may open.
    pub max_fds: u64,
    /// Threads.
    pub threads: u64,
    /// Processor time used, user and system, seconds.
    pub cpu_seconds: f64,
    /// Bytes that it had written to disks.
    pub written_bytes: u64,
    /// Seconds since 1970 at which it started.
    pub start_seconds: f64,
}
