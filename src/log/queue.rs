//! What waits for the writer, bounded in bytes: past the soft bound `congested` tells drivers to stop reading from sockets; at the
//! hard bound, twice that, a submission is refused with `Code::Busy`.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::{Code, Topic};

use super::desk::{LARGE_BYTES, LARGE_ITEMS};
use super::ticket::Promise;
use super::{Committed, Refused, Submission, TopicInfo, TopicSpec};

/// Something for the writer to do.
pub(super) enum Item {
    Submit {
        submission: Submission,
        /// What it holds while it waits.
        bytes: usize,
        promise: Promise<Committed>,
        /// Monotonic microseconds at which it came in.
        since_us: u64,
    },
    CreateTopic(TopicSpec, Promise<std::sync::Arc<TopicInfo>>),
    DeleteTopic(Topic, Promise<()>),
}

/// What a topic to be made or deleted costs in the queue.
const TOPIC_ITEM_BYTES: usize = 1024;

impl Item {
    /// What it holds while it waits.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Submit { bytes, .. } => *bytes,
            Self::CreateTopic(..) | Self::DeleteTopic(..) => TOPIC_ITEM_BYTES,
        }
    }

    /// It is worked off by itself, with nothing on its way to the disk.
    pub(super) fn is_alone(&self) -> bool {
        matches!(self, Self::DeleteTopic(..))
    }
}

pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    soft_bytes: usize,
}

#[derive(Default)]
struct Waiting {
    items: VecDeque<Item>,
    bytes: usize,
    stopped: bool,
    /// The soft bound was passed and nobody was told of room since.
    congested: bool,
    /// The writer sleeps until this: waking it is a system call, which a busy one needs not.
    asleep: Option<Until>,
    /// A commit is on its way to the disk.
    disk_busy: bool,
    /// The last one failed, and nobody has looked after it yet.
    disk_failed: bool,
}

/// What a sleeping writer is woken for.
#[derive(Clone, Copy)]
struct Until {
    items: usize,
    bytes: usize,
    disk_free: bool,
}

impl Until {
    const NEVER: Self = Self {
        items: usize::MAX,
        bytes: usize::MAX,
        disk_free: false,
    };

    fn holds(&self, waiting: &Waiting) -> bool {
        waiting.items.len() >= self.items || waiting.bytes >= self.bytes || self.disk_free && !waiting.disk_busy
    }
}

/// What the writer got.
pub(super) struct Gathered {
    pub(super) items: Vec<Item>,
    /// The queue has fallen below its bound: whoever waits for room is to be woken.
    pub(super) room: bool,
    /// `stop` was called and nothing is left.
    pub(super) finished: bool,
}

/// What the writer got for a commit that it is preparing already.
pub(super) struct More {
    pub(super) gathered: Gathered,
    /// The disk is free, and taken for this commit; whether the one before failed.
    pub(super) disk_failed: Option<bool>,
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

    /// Queues an item. A submission alone in the queue is taken whatever its size.
    pub(super) fn push(&self, item: Item) -> Result<(), (Refused, Item)> {
        let bytes = item.bytes();
        let mut waiting = self.lock();
        if waiting.stopped {
            return Err((Refused::new(Code::Stopping, "the broker is stopping"), item));
        }
        if waiting.bytes > 0 && waiting.bytes.saturating_add(bytes) > self.soft_bytes.saturating_mul(2) {
            let why = "the queue to the disk is full. Try: again in a moment";
            return Err((Refused::new(Code::Busy, why), item));
        }
        waiting.bytes += bytes;
        waiting.items.push_back(item);
        waiting.congested |= waiting.bytes > self.soft_bytes;
        let wake = waiting.wakes();
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

    /// How many items wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.lock().items.len()
    }

    /// Waits for a first item no longer than `patience`; then, with a linger, so much longer for more, unless the queue is past its
    /// soft bound.
    pub(super) fn wait(&self, patience: Duration, linger: Option<Duration>) {
        let first = Until {
            items: 1,
            ..Until::NEVER
        };
        let waiting = self.sleep(self.lock(), first, Some(patience));
        if let Some(linger) = linger.filter(|_| !waiting.items.is_empty()) {
            let many = Until {
                bytes: self.soft_bytes + 1,
                ..Until::NEVER
            };
            drop(self.sleep(waiting, many, Some(linger)));
        }
    }

    /// Takes what waits, up to `bytes_max` (one item at least). What is worked off alone comes alone.
    pub(super) fn gather(&self, bytes_max: usize) -> Gathered {
        self.take(&mut self.lock(), bytes_max, true)
    }

    /// For a commit that is being prepared: waits until the disk is free, and takes it, or until so much waits that it pays to go on
    /// preparing; gives what waits, up to `bytes_max`.
    pub(super) fn more(&self, bytes_max: usize) -> More {
        let waiting = self.lock();
        let next = waiting.items.front();
        let until = match next {
            Some(item) if item.is_alone() || item.bytes() > bytes_max => Until::NEVER,
            _ if bytes_max == 0 => Until::NEVER,
            _ => Until {
                items: LARGE_ITEMS,
                bytes: LARGE_BYTES,
                ..Until::NEVER
            },
        };
        let until = Until {
            disk_free: true,
            ..until
        };
        let mut waiting = self.sleep(waiting, until, None);
        let gathered = self.take(&mut waiting, bytes_max, false);
        let disk_failed = (!waiting.disk_busy).then(|| waiting.take_disk());
        More { gathered, disk_failed }
    }

    /// Waits until the disk is free, and takes it. Who finds that the commit before failed knows it from elsewhere.
    pub(super) fn take_disk(&self) {
        let free = Until {
            disk_free: true,
            ..Until::NEVER
        };
        self.sleep(self.lock(), free, None).take_disk();
    }

    /// A commit is done: the next one may go to the disk.
    pub(super) fn disk_is_free(&self) {
        self.give_disk(false);
    }

    /// A commit failed: what was prepared on top of it must not go to the disk.
    pub(super) fn disk_failed(&self) {
        self.give_disk(true);
    }

    fn give_disk(&self, failed: bool) {
        let mut waiting = self.lock();
        waiting.disk_busy = false;
        waiting.disk_failed = failed;
        let wake = waiting.wakes();
        drop(waiting);
        if wake {
            self.arrived.notify_one();
        }
    }

    /// Sleeps until that holds, or the queue is stopped and the disk not waited for, or for so long.
    fn sleep<'a>(
        &self,
        mut waiting: MutexGuard<'a, Waiting>,
        until: Until,
        patience: Option<Duration>,
    ) -> MutexGuard<'a, Waiting> {
        waiting.asleep = Some(until);
        let early = |waiting: &mut Waiting| !(until.holds(waiting) || waiting.stopped && !until.disk_free);
        let mut waiting = match patience {
            Some(patience) => {
                let waited = self.arrived.wait_timeout_while(waiting, patience, early);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => {
                let waited = self.arrived.wait_while(waiting, early);
                waited.unwrap_or_else(PoisonError::into_inner)
            }
        };
        waiting.asleep = None;
        waiting
    }

    fn take(&self, waiting: &mut Waiting, bytes_max: usize, one_at_least: bool) -> Gathered {
        let mut items = Vec::new();
        let mut bytes = 0;
        while let Some(item) = waiting.items.front() {
            let (alone, size) = (item.is_alone(), item.bytes());
            let first = one_at_least && items.is_empty();
            if !first && (alone || bytes + size > bytes_max) {
                break;
            }
            bytes += size;
            items.extend(waiting.items.pop_front());
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

impl Waiting {
    /// Whether the sleeping writer is to be woken; once.
    fn wakes(&mut self) -> bool {
        let due = self.asleep.is_some_and(|until| until.holds(self));
        if due {
            self.asleep = None;
        }
        due
    }

    /// Takes the free disk; gives whether the commit before failed.
    fn take_disk(&mut self) -> bool {
        self.disk_busy = true;
        std::mem::take(&mut self.disk_failed)
    }
}
