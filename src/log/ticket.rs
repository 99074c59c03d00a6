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
    state: Mutex<State<T>>,
    done: Condvar,
}

struct State<T> {
    result: Option<Result<T, Refused>>,
    /// A thread sleeps on `done`: waking a condition variable is a system call, and almost nobody sleeps.
    blocked: bool,
}

impl<T> Slot<T> {
    fn new(result: Option<Result<T, Refused>>) -> Self {
        let blocked = false;
        Self {
            state: Mutex::new(State { result, blocked }),
            done: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Only whole values are put in and taken out under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the two ends.
pub(super) fn ticket<T>(waker: &Waker) -> (Promise<T>, Ticket<T>) {
    let slot = Arc::new(Slot::new(None));
    let promise = Promise {
        slot: Arc::clone(&slot),
        waker: Some(waker.clone()),
    };
    (promise, Ticket { slot })
}

impl<T> Ticket<T> {
    /// The result, once; `None` while it is not there yet.
    pub fn take(&mut self) -> Option<Result<T, Refused>> {
        self.slot.lock().result.take()
    }

    /// Blocks until the result is there: for threads of their own and tools, never for the executor.
    pub fn wait(self) -> Result<T, Refused> {
        let mut state = self.slot.lock();
        loop {
            if let Some(result) = state.result.take() {
                return result;
            }
            state.blocked = true;
            state = self.slot.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A ticket whose result is there already; its waker need not be woken.
    pub(super) fn ready(result: Result<T, Refused>) -> Self {
        let slot = Arc::new(Slot::new(Some(result)));
        Self { slot }
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
        let mut state = self.slot.lock();
        state.result = Some(result);
        if state.blocked {
            self.slot.done.notify_all();
        }
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
