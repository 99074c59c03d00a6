//! A result that comes later: the writer and the reader keep the `Promise`, the asker the `Ticket`.

use std::future::poll_fn;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

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

    /// Has them woken on the courier's thread, where there is one.
    pub(super) fn send(&mut self, courier: &Courier) {
        // One alone needs nobody to carry it.
        if self.0.len() < 2 || !courier.take(&mut self.0) {
            self.fire();
        }
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        self.fire();
    }
}

/// Carries the wakers of a commit to the thread of the tasks that they wake. A sleeping thread is woken once a commit then: woken
/// from outside task by task it would fall asleep again behind each, and a commit of 130 tickets would cost 130 system calls.
#[derive(Default)]
pub(super) struct Courier {
    bag: Mutex<Bag>,
}

#[derive(Default)]
struct Bag {
    wakers: Vec<Waker>,
    /// The task of `carry`, while there is one.
    task: Option<Waker>,
}

impl Courier {
    /// Takes the wakers if somebody carries them.
    fn take(&self, wakers: &mut Vec<Waker>) -> bool {
        let mut bag = self.lock();
        let Some(task) = bag.task.clone() else {
            return false;
        };
        bag.wakers.append(wakers);
        drop(bag);
        task.wake();
        true
    }

    /// Carries for ever: to be polled on the thread whose tasks submit.
    pub(super) async fn carry(&self) {
        let _leaving = Leaving(self);
        poll_fn(|cx| {
            let mut bag = self.lock();
            if !bag.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
                bag.task = Some(cx.waker().clone());
            }
            let wakers = std::mem::take(&mut bag.wakers);
            drop(bag);
            wakers.into_iter().for_each(Waker::wake);
            Poll::Pending
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, Bag> {
        self.bag.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever carried has gone: what is in the bag is woken, and later wakers are woken from where they are.
struct Leaving<'a>(&'a Courier);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let bag = std::mem::take(&mut *self.0.lock());
        bag.wakers.into_iter().for_each(Waker::wake);
    }
}
