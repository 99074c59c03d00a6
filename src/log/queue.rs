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
    /// The writer is to be woken when so many items are there.
    wanted: usize,
}

/// How long the writer waits for company of a first item.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linger {
    /// Until so many are there,
    pub(super) items: usize,
    /// or so long.
    pub(super) patience: Duration,
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
        let enough = waiting.items.len() == waiting.wanted || waiting.congested;
        drop(waiting);
        if enough {
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

    /// Waits for a first item no longer than `patience`, and then for `linger` to be satisfied. Tells whether it was.
    pub(super) fn wait(&self, patience: Duration, linger: Linger) -> bool {
        let waiting = self.wait_for(self.lock(), 1, patience);
        if waiting.items.is_empty() || linger.items <= 1 {
            return true;
        }
        self.wait_for(waiting, linger.items, linger.patience).items.len() >= linger.items
    }

    fn wait_for<'a>(
        &self,
        mut waiting: MutexGuard<'a, Waiting>,
        items: usize,
        patience: Duration,
    ) -> MutexGuard<'a, Waiting> {
        waiting.wanted = items;
        let short = |waiting: &mut Waiting| {
            waiting.items.len() < items && !waiting.stopped && (items == 1 || !waiting.congested)
        };
        let waited = self.arrived.wait_timeout_while(waiting, patience, short);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Items that wait.
    pub(super) fn len(&self) -> usize {
        self.lock().items.len()
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
