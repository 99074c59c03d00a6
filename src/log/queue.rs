//! What waits for the writer, bounded in bytes: past the soft bound `congested` tells drivers to stop reading from sockets; at the
//! hard bound, twice that, a submission is refused with `Code::Busy`.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::{Code, Topic};

use super::admin::Admin;
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
    Admin(Admin),
}

/// What a topic to be made or deleted costs in the queue.
const TOPIC_ITEM_BYTES: usize = 1024;

impl Item {
    /// What it holds while it waits.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Submit { bytes, .. } => *bytes,
            Self::CreateTopic(..) | Self::DeleteTopic(..) => TOPIC_ITEM_BYTES,
            Self::Admin(admin) => admin.bytes(),
        }
    }

    /// It is worked off by itself, with nothing on its way to the disk.
    pub(super) fn is_alone(&self) -> bool {
        matches!(self, Self::DeleteTopic(..) | Self::Admin(..))
    }
}

pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// There is more, or the disk is free.
    arrived: Condvar,
    /// A commit has ended.
    ended: Condvar,
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
    /// Number of the newest commit that went to the disk.
    begun: u64,
    /// Number of the newest one that is done there; they end in order.
    ended: u64,
    /// The last one failed, and nobody has looked after it yet.
    failed: bool,
}

/// A commit's place in the order in which they go to the disk and end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    number: u64,
    /// The one before had failed already.
    pub(super) on_failed: bool,
}

/// What a sleeping writer is woken for.
#[derive(Clone, Copy)]
struct Until {
    items: usize,
    bytes: usize,
    disk: Option<Lane>,
}

/// What is waited for at the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Nothing else is on its way.
    Alone,
    /// At most one other is.
    Beside,
}

impl Until {
    const NEVER: Self = Self {
        items: usize::MAX,
        bytes: usize::MAX,
        disk: None,
    };

    fn holds(&self, waiting: &Waiting) -> bool {
        waiting.items.len() >= self.items
            || waiting.bytes >= self.bytes
            || self.disk.is_some_and(|lane| waiting.has(lane))
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
    /// The commit may go to the disk.
    pub(super) turn: Option<Turn>,
}

impl Queue {
    pub(super) fn new(soft_bytes: usize) -> Self {
        let (waiting, arrived, ended) = Default::default();
        Self {
            waiting,
            arrived,
            ended,
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
        if bytes > 0 && waiting.bytes > 0 && waiting.bytes.saturating_add(bytes) > self.soft_bytes.saturating_mul(2) {
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

    /// For a commit that is being prepared: waits until it may go to the disk in that lane, or until so much waits that it pays to go
    /// on preparing, `worth` of items or bytes; gives what waits, up to `bytes_max`.
    pub(super) fn more(&self, bytes_max: usize, worth: (usize, usize), lane: Lane) -> More {
        let waiting = self.lock();
        let next = waiting.items.front();
        let until = match next {
            Some(item) if item.is_alone() || item.bytes() > bytes_max => Until::NEVER,
            _ if bytes_max == 0 => Until::NEVER,
            _ => Until {
                items: worth.0,
                bytes: worth.1,
                ..Until::NEVER
            },
        };
        let until = Until {
            disk: Some(lane),
            ..until
        };
        let mut waiting = self.sleep(waiting, until, None);
        // A large one that may go goes: what waits is the next one's.
        let bytes_max = if lane == Lane::Beside && waiting.has(lane) {
            0
        } else {
            bytes_max
        };
        let gathered = self.take(&mut waiting, bytes_max, false);
        let turn = waiting.has(lane).then(|| waiting.begin());
        More { gathered, turn }
    }

    /// Waits until nothing is on its way to the disk, and takes it; what failed before is looked after by the caller.
    pub(super) fn take_disk(&self) -> Turn {
        let free = Until {
            disk: Some(Lane::Alone),
            ..Until::NEVER
        };
        let mut waiting = self.sleep(self.lock(), free, None);
        waiting.failed = false;
        waiting.begin()
    }

    /// Waits until every commit before has ended; false if one of them failed, and with it this one.
    pub(super) fn wait_for(&self, turn: Turn) -> bool {
        let early = |waiting: &mut Waiting| waiting.ended + 1 < turn.number;
        let waited = self.ended.wait_while(self.lock(), early);
        !waited.unwrap_or_else(PoisonError::into_inner).failed
    }

    /// A commit is done, or what failed of it is looked after: the next one may end.
    pub(super) fn done(&self, turn: Turn) {
        self.end(turn, false);
    }

    /// A commit failed: what was prepared on top of it fails with it.
    pub(super) fn failed(&self, turn: Turn) {
        self.end(turn, true);
    }

    fn end(&self, turn: Turn, failed: bool) {
        let mut waiting = self.lock();
        waiting.ended = turn.number;
        waiting.failed = failed;
        let wake = waiting.wakes();
        let others = waiting.begun > waiting.ended;
        drop(waiting);
        if others {
            self.ended.notify_all();
        }
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
        let early = |waiting: &mut Waiting| !(until.holds(waiting) || waiting.stopped && until.disk.is_none());
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

    /// Whether a commit may go to the disk.
    fn has(&self, lane: Lane) -> bool {
        let at_disk = self.begun - self.ended;
        match lane {
            Lane::Alone => at_disk == 0,
            Lane::Beside => at_disk < 2,
        }
    }

    /// A commit goes to the disk.
    fn begin(&mut self) -> Turn {
        self.begun += 1;
        Turn {
            number: self.begun,
            on_failed: self.failed,
        }
    }
}
