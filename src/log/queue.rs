//! What waits for the writer, bounded in bytes: past the soft bound `congested` tells drivers to stop reading from sockets; at the
//! hard bound, twice that, a submission is refused with `Code::Busy`.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::{Code, Topic};

use super::ticket::Promise;
use super::{Committed, Refused, Submission, TopicInfo, TopicSpec};

/// Something for the writer to do.
pub(super) enum Item {
    Submit {
        submission: Submission,
        promise: Promise<Committed>,
        /// Monotonic microseconds at which it came in.
        since_us: u64,
    },
    CreateTopic(TopicSpec, Promise<std::sync::Arc<TopicInfo>>),
    DeleteTopic(Topic, Promise<()>),
}

pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    soft_bytes: usize,
}

#[derive(Default)]
struct Waiting {
    items: VecDeque<(usize, Item)>,
    bytes: usize,
    stopped: bool,
    /// The soft bound was passed and nobody was told of room since.
    congested: bool,
    /// The writer waits: waking it is a system call, which a busy one needs not.
    asleep: bool,
}

/// What the writer got.
pub(super) struct Gathered {
    pub(super) items: Vec<Item>,
    /// The queue has fallen below its bound: whoever waits for room is to be woken.
    pub(super) room: bool,
    /// `stop` was called and nothing is left.
    pub(super) finished: bool,
}

impl Queue {
    pub(super) fn new(soft_bytes: usize) -> Self {
        let (waiting, arrived) = Default::default();
        Self {
            waiting,
            arrived,
            soft_bytes,
        }
    }

    /// Queues an item of `bytes`. A submission alone in the queue is taken whatever its size.
    pub(super) fn push(&self, bytes: usize, item: Item) -> Result<(), (Refused, Item)> {
        let mut waiting = self.lock();
        if waiting.stopped {
            return Err((Refused::new(Code::Stopping, "the broker is stopping"), item));
        }
        if waiting.bytes > 0 && waiting.bytes.saturating_add(bytes) > self.soft_bytes.saturating_mul(2) {
            let why = "the queue to the disk is full. Try: again in a moment";
            return Err((Refused::new(Code::Busy, why), item));
        }
        waiting.bytes += bytes;
        waiting.items.push_back((bytes, item));
        waiting.congested |= waiting.bytes > self.soft_bytes;
        let wake = waiting.asleep && (waiting.items.len() == 1 || waiting.congested);
        drop(waiting);
        if wake {
            self.arrived.notify_one();
        }
        Ok(())
    }

    pub(super) fn congested(&self) -> bool {
        self.lock().congested
    }

    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Waits for a first item no longer than `patience`; then, with a linger, so much longer for more, unless the queue is past its
    /// soft bound.
    pub(super) fn wait(&self, patience: Duration, linger: Option<Duration>) {
        let waiting = self.wait_while(self.lock(), patience, |waiting| waiting.items.is_empty());
        if let Some(linger) = linger.filter(|_| !waiting.items.is_empty()) {
            drop(self.wait_while(waiting, linger, |waiting| !waiting.congested));
        }
    }

    fn wait_while<'a>(
        &self,
        mut waiting: MutexGuard<'a, Waiting>,
        patience: Duration,
        short: impl Fn(&Waiting) -> bool,
    ) -> MutexGuard<'a, Waiting> {
        waiting.asleep = true;
        let short = |waiting: &mut Waiting| short(waiting) && !waiting.stopped;
        let waited = self.arrived.wait_timeout_while(waiting, patience, short);
        let mut waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        waiting.asleep = false;
        waiting
    }

    /// Takes what waits, up to `bytes_max` (one item at least). The deletion of a topic comes alone.
    pub(super) fn gather(&self, bytes_max: usize) -> Gathered {
        let mut waiting = self.lock();
        let mut items = Vec::new();
        let mut bytes = 0;
        while let Some((size, item)) = waiting.items.front() {
            let alone = matches!(item, Item::DeleteTopic(..));
            if !items.is_empty() && (alone || bytes + size > bytes_max) {
                break;
            }
            bytes += size;
            items.extend(waiting.items.pop_front().map(|(_, item)| item));
            if alone {
                break;
            }
        }
        waiting.bytes -= bytes;
        let room = waiting.congested && waiting.bytes <= self.soft_bytes / 2;
        if room {
            waiting.congested = false;
        }
        let finished = waiting.stopped && items.is_empty();
        Gathered { items, room, finished }
    }

    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.arrived.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
