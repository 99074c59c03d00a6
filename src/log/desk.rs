//! Where commits are prepared: everything of the writer that one thread at a time works with.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Storage;
use crate::model::{Code, Now};

use super::Refused;
use super::admin::Admin;
use super::boots::Clock;
use super::commit::Commit;
use super::draft::{Ahead, Changes, Draft, Rules, Trouble};
use super::layout::PartitionKey;
use super::media::Media;
use super::producers::Producers;
use super::queue::{Item, Lane, Turn};
use super::sealed::{Answer, News, Sealed};
use super::shared::Shared;
use super::store::{Map, Op, StoreError, keep_worst};
use super::ticket::Wakes;
use super::wear::{Budget, Wear, life_days};

/// A commit of so many items, or bytes, is worth a second thread.
pub(super) const LARGE_ITEMS: usize = 8;
pub(super) const LARGE_BYTES: usize = 16 << 10;

/// The part of the health that tells of wear.
const WEAR: &str = "wear";

/// What the writer works with.
pub(super) struct Desk {
    pub(super) shared: Arc<Shared>,
    pub(super) rules: Rules,
    pub(super) producers: Producers,
    pub(super) topic_key_next: u32,
    pub(super) row_next: u64,
    pub(super) due: super::retention::Due,
    /// What is known of the machine's clock.
    pub(super) clock: Clock,
    /// Keeps the quota.
    pub(super) keep: super::quota::Keep,
    /// Keeps the wear budget.
    pub(super) wear: Wear,
    write_cycles: u64,
    /// What the commit before brings; it may not be durable yet.
    pub(super) ahead: Ahead,
    /// Commits that were prepared.
    pub(super) prepared: u64,
    /// The store takes no commits: why, and the monotonic time at which the next attempt is due.
    pub(super) closed: Option<(StoreError, u64)>,
    /// The store was checked because of damage that was not found.
    pub(super) doubted: bool,
    /// Attempts with a disk that has a fault, one behind the other.
    pub(super) faults: u32,
    /// The disk is full, and why nothing is taken: only what makes room is written.
    pub(super) full: Option<StoreError>,
    /// When damage was last told, monotonic microseconds.
    pub(super) told_us: Option<u64>,
}

impl Desk {
    pub(super) fn new(shared: Arc<Shared>, rules: Rules, storage: &Storage) -> Self {
        let budget = Budget {
            bytes_per_day: storage.wear_budget,
            linger_us: storage.linger_us.unwrap_or(0),
            linger_us_max: storage.linger_us_max,
        };
        Self {
            shared,
            rules,
            producers: HashMap::new(),
            topic_key_next: 0,
            row_next: 0,
            due: Default::default(),
            clock: Clock::default(),
            keep: super::quota::Keep::new(storage.quota),
            wear: Wear::new(budget),
            write_cycles: storage.write_cycles,
            ahead: Ahead::default(),
            prepared: 0,
            closed: None,
            doubted: false,
            faults: 0,
            full: None,
            told_us: None,
        }
    }

    /// The store takes no commits, or it failed.
    pub(super) fn must_recover(&self) -> bool {
        self.closed.is_some() || self.shared.has_failed()
    }

    /// Looks at the pace of what is written: commits wait as long as the budget asks for.
    pub(super) fn look_at_wear(&mut self, now: Now) {
        let (keeper, metrics) = (&self.shared.keeper, &self.shared.metrics);
        let device_bytes = keeper.media().and_then(Media::written_bytes);
        let Some(look) = self.wear.look(keeper.written().bytes, device_bytes, now.mono_us) else {
            return;
        };
        self.shared.set_linger(look.linger_us);
        let pace = look.device_bytes_per_day.unwrap_or(look.store_bytes_per_day);
        let disk_bytes = keeper.media().and_then(Media::bytes).unwrap_or(0);
        let days = life_days(disk_bytes, self.write_cycles, pace);
        metrics.wear.looked(look.store_bytes_per_day, days);
        if look.over {
            let gb = look.store_bytes_per_day / 1e9;
            let why = format!(
                "{gb:.1} GB a day are written, more than storage.wear_budget, with commits that wait for storage.linger_max. \
                 Try: a longer storage.linger_max, or a larger budget"
            );
            metrics.health.degrade(WEAR, why);
        } else {
            metrics.health.restore(WEAR);
        }
    }

    /// What is done while nothing is on its way to the disk: recovers, deletes and changes topics. Gives the other items, or nothing when the
    /// store takes no commits.
    pub(super) fn work_alone(&mut self, items: Vec<Item>, now: Now, wakes: &mut Wakes) -> Option<Vec<Item>> {
        for item in &items {
            // Also while nothing can be stored: what comes behind it is stamped by it.
            if let Item::Admin(Admin::Clock(told)) = item {
                self.turn_clock(*told);
            }
        }
        if !self.takes_commits(now, wakes) {
            let why = self.closed.as_ref().map_or(&StoreError::Closed, |(why, _)| why);
            self.refuse(items, &storage(why), wakes);
            return None;
        }
        let mut rest = Vec::new();
        for item in items {
            match item {
                Item::DeleteTopic(name, promise) => {
                    let result = self.delete_topic(&name, wakes);
                    wakes.add(promise.keep(result));
                }
                Item::Admin(admin) => self.administer(admin, wakes),
                other => rest.push(other),
            }
        }
        Some(rest)
    }

    /// Nothing of it is committed.
    pub(super) fn refuse(&self, items: Vec<Item>, refused: &Refused, wakes: &mut Wakes) {
        for item in items {
            self.shared.metrics.log.refused(refused.code);
            let refused = refused.clone();
            wakes.add(match item {
                Item::Submit { promise, .. } => promise.keep(Err(refused)),
                Item::CreateTopic(_, promise) => promise.keep(Err(refused)),
                Item::DeleteTopic(_, promise) => promise.keep(Err(refused)),
                Item::Admin(admin) => admin.refuse(refused),
            });
        }
    }

    /// Prepares a commit of these items and of what comes until it may go to the disk. A large one goes there beside another, where
    /// the store takes two and the disk is quick.
    pub(super) fn prepare(&mut self, items: Vec<Item>, now: Now, wakes: &mut Wakes) -> (Sealed, Turn) {
        let shared = Arc::clone(&self.shared);
        let queue = &shared.queue;
        let (beside, bytes_max) = (shared.pays_beside(), shared.commit_bytes_max());
        let mut drafting = Drafting::new(self, now);
        drafting.add(items);
        let turn = loop {
            let lane = match beside && drafting.drafted.is_large() {
                true => Lane::Beside,
                false => Lane::Alone,
            };
            let drafted = &drafting.drafted;
            let more = queue.more(bytes_max.saturating_sub(drafted.bytes), drafted.worth(), lane);
            if more.gathered.room {
                shared.watches.room(wakes);
            }
            drafting.add(more.gathered.items);
            if let Some(turn) = more.turn {
                break turn;
            }
        };
        if turn.on_failed {
            // This one was prepared on top of what is not there.
            let error = shared.take_failure().unwrap_or(StoreError::Closed);
            keep_worst(&mut drafting.drafted.failed, error);
        }
        let drafted = drafting.done();
        (self.seal(drafted, now), turn)
    }

    /// A commit while nothing else is on its way to the disk, which is held already. False if the store did not take it.
    pub(super) fn commit_alone(&mut self, items: Vec<Item>, now: Now, wakes: &mut Wakes) -> bool {
        let mut drafting = Drafting::new(self, now);
        drafting.add(items);
        let drafted = drafting.done();
        let (news, stored) = self.seal(drafted, now).store(&self.shared, || true);
        news.tell(&self.shared, stored.as_ref().err(), wakes);
        if let Err(error) = &stored {
            self.recover(error, now, wakes);
        }
        stored.is_ok()
    }

    /// From a draft to what goes to the disk. The next one builds on it from now on.
    fn seal(&mut self, drafted: Drafted, now: Now) -> Sealed {
        let large = drafted.is_large();
        self.comes(drafted.bytes as u64);
        let changed = !drafted.changes.is_empty();
        let Changes {
            topic_key_next,
            topics,
            growth,
            producers,
            values,
        } = drafted.changes;
        let mut ops = Vec::new();
        for topic in topics.values() {
            ops.push(super::load::topic_op(topic.key, &topic.row));
        }
        if !topics.is_empty() {
            ops.push(super::load::topic_key_op(topic_key_next));
        }
        let touched: Vec<PartitionKey> = growth.keys().copied().collect();
        let offsets = growth.iter().map(|(key, growth)| (*key, growth.offset_next)).collect();
        let mut commit = Commit::new(growth.into_iter(), self.row_next, now, &mut ops);
        self.mark(&mut commit, &mut ops);
        for ((partition, id), producer) in &producers {
            ops.push(Op::put(Map::Producers, partition.producer(*id), producer.encode()));
        }
        for ((table, key), value) in &values {
            ops.push(match value {
                Some(value) => Op::put(Map::State(*table), key.clone(), value.clone()),
                None => Op::delete(Map::State(*table), key.clone()),
            });
        }
        self.boot_ops(now, &mut ops);
        self.due.are_back(&producers);
        self.due.bite(commit.rows(), &mut ops);
        self.row_next += u64::from(commit.has_row());
        self.topic_key_next = topic_key_next;
        self.producers.extend(producers);
        self.prepared += 1;
        self.ahead = Ahead { offsets, values };
        Sealed {
            ops,
            commit,
            topics: topics.into_values().collect(),
            large,
            begun: None,
            failed: drafted.failed,
            news: News {
                touched,
                changed,
                answers: drafted.answers,
            },
        }
    }
}

/// A commit in the making.
struct Drafting<'a> {
    draft: Draft<'a>,
    /// Nothing is taken, and why.
    refuses: Option<Refused>,
    drafted: Drafted,
}

/// What was made, and who is to be told.
#[derive(Default)]
struct Drafted {
    changes: Changes,
    answers: Vec<Answer>,
    /// The store could not be read: nothing of it counts.
    failed: Option<StoreError>,
    items: usize,
    bytes: usize,
}

impl Drafted {
    /// Worth a second thread.
    fn is_large(&self) -> bool {
        self.items >= LARGE_ITEMS || self.bytes >= LARGE_BYTES
    }

    /// Items or bytes that are worth going on for: those that make it large, or as many again.
    fn worth(&self) -> (usize, usize) {
        match self.is_large() {
            true => (LARGE_ITEMS, LARGE_BYTES),
            false => (LARGE_ITEMS - self.items, LARGE_BYTES - self.bytes),
        }
    }
}

impl<'a> Drafting<'a> {
    fn new(desk: &'a Desk, now: Now) -> Self {
        Self {
            draft: Draft::new(desk, now),
            refuses: desk.full.as_ref().map(storage),
            drafted: Drafted::default(),
        }
    }

    fn done(self) -> Drafted {
        let changes = self.draft.into_changes();
        Drafted {
            changes,
            ..self.drafted
        }
    }

    fn add(&mut self, items: Vec<Item>) {
        let drafted = &mut self.drafted;
        drafted.items += items.len();
        drafted.answers.reserve(items.len());
        for item in items {
            match item {
                Item::Submit {
                    submission,
                    promise,
                    since_us,
                    bytes,
                } => {
                    drafted.bytes += bytes;
                    if let Some(refused) = self.refuses.clone() {
                        drafted.answers.push(Answer::Submit(promise, Err(refused), since_us));
                        continue;
                    }
                    let result = match self.draft.submit(submission) {
                        Ok(committed) => Ok(committed),
                        Err(Trouble::Refused(refused)) => Err(refused),
                        Err(Trouble::Store(error)) => {
                            let refused = storage(&error);
                            keep_worst(&mut drafted.failed, error);
                            Err(refused)
                        }
                    };
                    drafted.answers.push(Answer::Submit(promise, result, since_us));
                }
                Item::CreateTopic(spec, promise) => {
                    let result = match self.refuses.clone() {
                        Some(refused) => Err(refused),
                        None => self.draft.create_topic(&spec),
                    };
                    drafted.answers.push(Answer::Topic(promise, result));
                }
                Item::DeleteTopic(..) | Item::Admin(..) => unreachable!("it is worked off alone"),
            }
        }
    }
}

/// What a peer is told when the store failed.
pub(super) fn storage(error: &StoreError) -> Refused {
    Refused::new(Code::Storage, error.to_string())
}
