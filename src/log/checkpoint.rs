//! Checkpoints: work of the store's disk that is done beside commits, so that no ack waits for it. `net` runs it on a thread of its
//! own. Where nobody does, the disk does it inside of a commit when it must.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::shared::Shared;

/// How much lower the priority of flushes is.
const FLUSH_NICE: i32 = 10;

/// A measurement looks at all files, and flushes come by the dozen a second: it may take this part of the time.
const MEASURE_PART: u64 = 50;

/// Rung by the writer when a checkpoint is due.
#[derive(Default)]
pub(super) struct Bell {
    state: Mutex<Rung>,
    changed: Condvar,
}

#[derive(Default)]
struct Rung {
    due: bool,
    stopped: bool,
}

impl Bell {
    pub(super) fn ring(&self) {
        self.lock().due = true;
        self.changed.notify_one();
    }

    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Waits until it is rung; false once it was stopped.
    fn heard(&self) -> bool {
        let quiet = |rung: &mut Rung| !rung.due && !rung.stopped;
        let waited = self.changed.wait_while(self.lock(), quiet);
        let mut rung = waited.unwrap_or_else(PoisonError::into_inner);
        rung.due = false;
        !rung.stopped
    }

    fn lock(&self) -> MutexGuard<'_, Rung> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does the checkpoints.
pub struct Checkpointer {
    pub(super) shared: Arc<Shared>,
}

impl Checkpointer {
    /// Runs until `Log::stop`.
    pub fn run(self) {
        // Of this thread alone. A flush has time; who waits for an ack has none, and would get a processor of it only after some
        // milliseconds. Where it is not allowed nothing but those is lost.
        if let Err(error) = rustix::process::nice(FLUSH_NICE) {
            tracing::debug!(%error, "flushes keep their priority");
        }
        let mut measure_us = 0;
        while self.shared.bell.heard() {
            let before_us = self.shared.clock_us();
            let flush = self.shared.flush_begins();
            // The writer looks after a store that failed before its next commit.
            if self.shared.lend(|store| store.checkpoint()).is_ok() {
                let now_us = self.shared.clock_us();
                self.shared.metrics.log.checkpointed(now_us.saturating_sub(before_us));
                if now_us >= measure_us {
                    self.shared.measure_usage(flush);
                    let done_us = self.shared.clock_us();
                    measure_us = done_us + MEASURE_PART * done_us.saturating_sub(now_us);
                }
            }
        }
    }
}
