//! Who changes where batches lie. A swap of the writer's takes rows away in one commit, and memory is told a moment later; a flush
//! that seals decides what becomes of journal rows, and does it a moment later. Each builds on what the other leaves, so there is one
//! at a time; neither waits for the other.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// No flush takes longer on a disk that works.
const MOVE_MAX: Duration = Duration::from_secs(5);

/// One who moves batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mover {
    /// The writer, which puts batches in the place of others (`swap`).
    Swap,
    /// A flush, which lays journal rows together (`sealer`).
    Seal,
}

/// Who is at it.
#[derive(Default)]
pub(super) struct Moving {
    who: Mutex<Option<Mover>>,
    changed: Condvar,
}

impl Moving {
    /// Whether this one may begin: nobody is at it. Ends with `end`.
    pub(super) fn begin(&self, mover: Mover) -> bool {
        let mut who = self.lock();
        let free = who.is_none();
        if free {
            *who = Some(mover);
        }
        free
    }

    /// It is done, if it was at it.
    pub(super) fn end(&self, mover: Mover) {
        let mut who = self.lock();
        if *who == Some(mover) {
            *who = None;
            self.changed.notify_all();
        }
    }

    /// Waits while that one is at it.
    pub(super) fn wait_for(&self, mover: Mover) {
        let at_it = |who: &mut Option<Mover>| *who == Some(mover);
        drop(
            self.changed
                .wait_while(self.lock(), at_it)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Waits until nobody is at it. A flush that failed ends with the store that is opened anew, so this is not for ever.
    pub(super) fn wait_for_all(&self) {
        let at_it = |who: &mut Option<Mover>| who.is_some();
        let waited = self.changed.wait_timeout_while(self.lock(), MOVE_MAX, at_it);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, Option<Mover>> {
        self.who.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
