//! The word that the broker stops, for every task of the executor thread, and the count of the tasks that still run.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Set once; wakes every registered task. Lives on the executor's thread.
#[derive(Debug, Default)]
pub struct Stopping {
    set: Cell<bool>,
    next: Cell<u64>,
    tasks: RefCell<HashMap<u64, Waker>>,
    /// Waits for the last task to go.
    empty: RefCell<Option<Waker>>,
}

/// A task that wants to be told. Dropping it says that the task is over.
#[derive(Debug)]
pub struct Registration {
    stopping: Rc<Stopping>,
    id: u64,
}

impl Stopping {
    /// Registers a task by its waker.
    pub fn register(self: &Rc<Self>, waker: Waker) -> Registration {
        let id = self.next.get();
        self.next.set(id + 1);
        self.tasks.borrow_mut().insert(id, waker);
        Registration {
            stopping: Rc::clone(self),
            id,
        }
    }

    /// Whether the broker stops.
    pub fn is_set(&self) -> bool {
        self.set.get()
    }

    /// Says it, and wakes every task.
    pub fn set(&self) {
        self.set.set(true);
        self.tasks.borrow().values().for_each(Waker::wake_by_ref);
    }

    /// Tasks that are registered now.
    pub fn tasks(&self) -> usize {
        self.tasks.borrow().len()
    }

    /// Resolves once no task is registered.
    pub async fn all_gone(&self) {
        std::future::poll_fn(|cx| {
            if self.tasks() == 0 {
                return Poll::Ready(());
            }
            *self.empty.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Resolves once the broker stops.
    pub async fn stopped(self: &Rc<Self>) {
        let mut registration = None;
        std::future::poll_fn(|cx| {
            if self.is_set() {
                return Poll::Ready(());
            }
            registration = Some(self.register(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.stopping.tasks.borrow_mut().remove(&self.id);
        if self.stopping.tasks() == 0
            && let Some(waker) = self.stopping.empty.borrow_mut().take()
        {
            waker.wake();
        }
    }
}
