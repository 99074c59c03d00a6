//! Who wants to be woken by what: new records of a partition, commits, room in the queue. Each interest wakes once. Who follows all
//! partitions has those that moved gathered (`Moves`).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use crate::model::{Offset, Partition, Topic};

use super::ticket::Wakes;

/// Dropping it takes the interest back.
pub struct Watch {
    watches: Arc<Watches>,
    interest: Interest,
    id: u64,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watch({:?})", self.interest)
    }
}

/// The partitions that move, for one who follows all of them. Dropping it ends that.
pub struct Moves {
    watches: Arc<Watches>,
    id: u64,
}

impl Moves {
    /// Those that got records or went since the last call. `waker` is woken once when there are more.
    pub fn take(&self, waker: &Waker) -> BTreeSet<(Topic, Partition)> {
        let mut table = self.watches.lock();
        let Some(follower) = table.followers.get_mut(&self.id) else {
            return BTreeSet::new();
        };
        follower.waker = Some(waker.clone());
        std::mem::take(&mut follower.moved)
    }
}

impl std::fmt::Debug for Moves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Moves")
    }
}

impl Drop for Moves {
    fn drop(&mut self) {
        self.watches.lock().followers.remove(&self.id);
    }
}

/// What is watched.
#[derive(Clone, Debug)]
pub(super) enum Interest {
    /// The partition's high watermark passes the offset, or the partition goes.
    Partition(Topic, Partition, Offset),
    /// A commit with a number above this.
    Commits(u64),
    /// Room in the queue to the writer.
    Room,
}

/// All interests. A lock of its own, taken after no other is held but the queue's.
#[derive(Default)]
pub(super) struct Watches {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    id_next: u64,
    partitions: HashMap<(Topic, Partition), HashMap<u64, (Offset, Waker)>>,
    commits: HashMap<u64, (u64, Waker)>,
    room: HashMap<u64, Waker>,
    followers: HashMap<u64, Follower>,
}

#[derive(Default)]
struct Follower {
    /// At most the partitions that there are.
    moved: BTreeSet<(Topic, Partition)>,
    /// There until something moves.
    waker: Option<Waker>,
}

impl Watches {
    /// Follows all partitions from here on.
    pub(super) fn follow(self: &Arc<Self>) -> Moves {
        let mut table = self.lock();
        table.id_next += 1;
        let id = table.id_next;
        table.followers.insert(id, Follower::default());
        let watches = Arc::clone(self);
        Moves { watches, id }
    }

    /// Adds an interest. The caller then looks whether what is waited for has happened already, and wakes if so: whoever makes
    /// it happen looks at the watches afterwards, so that no order of the two misses it.
    pub(super) fn add(self: &Arc<Self>, interest: Interest, waker: &Waker) -> Watch {
        let mut table = self.lock();
        table.id_next += 1;
        let id = table.id_next;
        let waker = waker.clone();
        match &interest {
            Interest::Partition(topic, partition, offset) => {
                let key = (topic.clone(), *partition);
                table.partitions.entry(key).or_default().insert(id, (*offset, waker));
            }
            Interest::Commits(seen) => {
                table.commits.insert(id, (*seen, waker));
            }
            Interest::Room => {
                table.room.insert(id, waker);
            }
        }
        let watches = Arc::clone(self);
        Watch { watches, interest, id }
    }

    /// The partition's high watermark is now this; `None` when it is gone.
    pub(super) fn partition_moved(
        &self,
        topic: &Topic,
        partition: Partition,
        high_watermark: Option<Offset>,
        wakes: &mut Wakes,
    ) {
        let mut table = self.lock();
        if table.partitions.is_empty() && table.followers.is_empty() {
            return;
        }
        let key = (topic.clone(), partition);
        for follower in table.followers.values_mut() {
            follower.moved.insert(key.clone());
            wakes.add(follower.waker.take());
        }
        let Some(watching) = table.partitions.get_mut(&key) else {
            return;
        };
        watching.retain(|_, (offset, waker)| {
            let waits_on = high_watermark.is_some_and(|high_watermark| high_watermark <= *offset);
            if !waits_on {
                wakes.add(Some(waker.clone()));
            }
            waits_on
        });
        if watching.is_empty() {
            table.partitions.remove(&key);
        }
    }

    pub(super) fn committed(&self, number: u64, wakes: &mut Wakes) {
        self.lock().commits.retain(|_, (seen, waker)| {
            let waits_on = number <= *seen;
            if !waits_on {
                wakes.add(Some(waker.clone()));
            }
            waits_on
        });
    }

    pub(super) fn room(&self, wakes: &mut Wakes) {
        for (_, waker) in self.lock().room.drain() {
            wakes.add(Some(waker));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Wakers are cloned and dropped under it, nothing else that could panic half-way.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut table = self.watches.lock();
        match &self.interest {
            Interest::Partition(topic, partition, _) => {
                let key = (topic.clone(), *partition);
                if let Some(watching) = table.partitions.get_mut(&key) {
                    watching.remove(&self.id);
                    if watching.is_empty() {
                        table.partitions.remove(&key);
                    }
                }
            }
            Interest::Commits(_) => {
                table.commits.remove(&self.id);
            }
            Interest::Room => {
                table.room.remove(&self.id);
            }
        }
    }
}
