//! The writer: takes what waits, makes one durable commit of it, and only then tells. `net` runs it on two threads: while one
//! waits for the disk, the other prepares the next commit out of what comes meanwhile. One alone does the same, one thing after
//! the other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::Now;

use super::desk::Desk;
use super::queue::Item;
use super::shared::{Clock, Shared};
use super::store::keep_worst;
use super::ticket::Wakes;

/// How long the writer sleeps without work before it looks at what is due.
const TICK: Duration = Duration::from_millis(500);
/// The same while there is something to be removed from the store.
const TICK_OF_REMOVALS: Duration = Duration::from_millis(50);

/// The one that changes the log.
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    /// Held by the thread that prepares a commit.
    desk: Mutex<Desk>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, desk: Desk) -> Self {
        let desk = Mutex::new(desk);
        Self { shared, desk }
    }

    /// The desk. A thread that panicked at it ends the process: nothing is prepared on what it left.
    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits until `Log::stop` was called and everything queued before is durable, once every thread that runs this has returned.
    pub fn run(&self, clock: impl Fn() -> Now + Send + Sync + 'static) {
        let clock: Clock = Arc::new(clock);
        self.shared.set_clock(Arc::clone(&clock));
        let queue = &self.shared.queue;
        let mut kept = None;
        loop {
            let desk = kept.take().unwrap_or_else(|| self.desk());
            // Without a linger it never waits: what comes while the disk is busy joins the next commit.
            let tick = if desk.due.has_garbage() { TICK_OF_REMOVALS } else { TICK };
            queue.wait(tick, self.shared.linger());
            let gathered = queue.gather(self.shared.commit_bytes_max());
            if gathered.finished {
                return;
            }
            let mut wakes = Wakes::default();
            if gathered.room {
                self.shared.watches.room(&mut wakes);
                wakes.send(&self.shared.courier);
            }
            kept = self.turn(desk, gathered.items, clock(), &mut wakes);
            wakes.send(&self.shared.courier);
        }
    }

    /// One commit of these items, of what joins them while the disk is busy, and of what is due. Gives the desk back unless another
    /// thread was let to it.
    pub(super) fn turn<'a>(
        &self,
        mut desk: MutexGuard<'a, Desk>,
        mut items: Vec<Item>,
        now: Now,
        wakes: &mut Wakes,
    ) -> Option<MutexGuard<'a, Desk>> {
        let queue = &self.shared.queue;
        while desk.must_recover() || items.iter().any(Item::is_alone) {
            // Nothing may be on its way to the disk meanwhile.
            let turn = queue.take_disk();
            let rest = desk.work_alone(items, now, wakes);
            queue.done(turn);
            match rest {
                Some(rest) => items = rest,
                None => return Some(desk),
            }
        }
        let now = desk.clock.time(now);
        desk.look_at_what_is_due(now);
        if desk.must_give_back() {
            let turn = queue.take_disk();
            desk.give_back(now, wakes);
            queue.done(turn);
        }
        if items.is_empty() && !desk.due.has_garbage() && !desk.clock.is_dirty() {
            return Some(desk);
        }
        let (mut sealed, turn) = desk.prepare(items, now, wakes);
        sealed.begin(&self.shared);
        let mut desk = (!sealed.lets_another_prepare(&self.shared)).then_some(desk);
        let (news, stored) = sealed.store(&self.shared, || queue.wait_for(turn));
        match (&stored, &mut desk) {
            (Ok(()), _) => {
                queue.done(turn);
                if desk.as_mut().is_some_and(|desk| desk.due.pays_a_flush()) {
                    self.shared.bell.ring();
                }
            }
            (Err(error), None) => {
                self.shared.failed(error);
                queue.failed(turn);
            }
            (Err(error), Some(desk)) => {
                // Nothing else is on its way: the others have ended, and no one prepares.
                let mut worst = self.shared.take_failure();
                keep_worst(&mut worst, error.clone());
                desk.recover(worst.as_ref().unwrap_or(error), now, wakes);
                queue.done(turn);
            }
        }
        news.tell(&self.shared, stored.err().as_ref(), wakes);
        desk
    }
}
