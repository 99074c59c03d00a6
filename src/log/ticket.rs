//! A result that comes later: the writer and the reader keep the `Promise`, the asker the `Ticket`.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use crate::model::Code;

use super::Refused;

/// A promise of a result. The waker given with the request is woken once the result is there.
pub struct Ticket<T> {
    slot: Arc<Slot<T>>,
}

/// The other end of a ticket. Dropped without a result, it refuses with `Code::Stopping`: nobody waits for ever.
pub(super) struct Promise<T> {
    slot: Arc<Slot<T>>,
    waker: Option<Waker>,
}

struct Slot<T> {
    result: Mutex<Option<Result<T, Refused>>>,
    done: Condvar,
}

impl<T> Slot<T> {
    fn lock(&self) -> MutexGuard<'_, Option<Result<T, Refused>>> {
        // Only whole values are put in and taken out under it.
        self.result.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the two ends.
pub(super) fn ticket<T>(waker: &Waker) -> (Promise<T>, Ticket<T>) {
    let slot = Arc::new(Slot {
        result: Mutex::new(None),
        done: Condvar::new(),
    });
    let promise = Promise {
        slot: Arc::clone(&slot),
        waker: Some(waker.clone()),
    };
    (promise, Ticket { slot })
}

impl<T> Ticket<T> {
    /// The result, once; `None` while it is not there yet.
    pub fn take(&mut self) -> Option<Result<T, Refused>> {
        self.slot.lock().take()
    }

    /// Blocks until the result is there: for threads of their own and tools, never for the executor.
    pub fn wait(self) -> Result<T, Refused> {
        let mut result = self.slot.lock();
        loop {
            match result.take() {
                Some(result) => return result,
                None => result = self.slot.done.wait(result).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// A ticket whose result is there already; its waker need not be woken.
    pub(super) fn ready(result: Result<T, Refused>) -> Self {
        let slot = Slot {
            result: Mutex::new(Some(result)),
            done: Condvar::new(),
        };
        Self { slot: Arc::new(slot) }
    }
}

impl<T> std::fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ticket")
    }
}

impl<T> Promise<T> {
    /// Keeps the promise. The caller wakes the waker when it holds no lock any more.
    pub(super) fn keep(mut self, result: Result<T, Refused>) -> Option<Waker> {
        self.put(result)
    }

    fn put(&mut self, result: Result<T, Refused>) -> Option<Waker> {
        let waker = self.waker.take()?;
        *self.slot.lock() = Some(result);
        self.slot.done.notify_all();
        Some(waker)
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        let refused = Refused::new(Code::Stopping, "the log is stopping");
        if let Some(waker) = self.put(Err(refused)) {
            waker.wake();
        }
    }
}

/// Wakers to be woken once no lock is held; one that was just added is not added again.
#[derive(Default)]
pub(super) struct Wakes(Vec<Waker>);

impl Wakes {
    pub(super) fn add(&mut self, waker: Option<Waker>) {
        if let Some(waker) = waker
            && !self.0.last().is_some_and(|last| last.will_wake(&waker))
        {
            self.0.push(waker);
        }
    }

    /// Wakes them.
    pub(super) fn fire(&mut self) {
        for waker in self.0.drain(..) {
            waker.wake();
        }
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        self.fire();
    }
}
