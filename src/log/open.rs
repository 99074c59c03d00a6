//! Opening the log: the store, the state from it, the topics of the configuration; and the same again after the store failed.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use crate::config::{Limits, Storage, TopicDefaults, TopicEntry};
use crate::metrics::Metrics;
use crate::model::{Now, Offset, Partition, Topic};

use super::depot::{Depot, Directory, OpenError};
use super::desk::Desk;
use super::draft::Rules;
use super::floors::{Carrier, Floors};
use super::keeper::{Keeper, Lost, Opened};
use super::layout::PartitionKey;
use super::load::{Loaded, topic_key_op};
use super::loss::Loss;
use super::moving::Mover;
use super::profile;
use super::queue::Item;
use super::sealer::LogSealer;
use super::shared::Shared;
use super::state::State;
use super::store::StoreError;
use super::ticket::{Wakes, ticket};
use super::{Checkpointer, Cleaner, Log, Reader, TopicSpec, Writer};

/// After so many attempts with a disk that has a fault, what it does not give is taken for lost. One a second.
const FAULTS_MAX: u32 = 3;
/// Between two attempts with a store that the disk refuses, microseconds.
const RETRY_US: u64 = 1_000_000;

/// What a log is opened with.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// `node.data_dir`
    pub data_dir: PathBuf,
    /// `[storage]`
    pub storage: Storage,
    /// `[topic_defaults]`
    pub topic_defaults: TopicDefaults,
    /// `[limits]`
    pub limits: Limits,
    /// Every `[[topic]]`
    pub topics: Vec<TopicEntry>,
    /// Who carries records away: retention waits for them where a topic says so.
    pub carriers: Vec<Carrier>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// The time of opening.
    pub now: Now,
    /// Random; becomes the store's id if it has to be made.
    pub store_id: [u8; 16],
    /// Random and told to nobody; the ids of rings come from it.
    pub ring_seed: [u8; 16],
}

/// A log that is open, and what has to run on threads of its own.
pub struct Opening {
    /// The handle.
    pub log: Log,
    /// Commits.
    pub writer: Writer,
    /// Reads what is not in memory.
    pub reader: Reader,
    /// Keeps the disk from having to do it inside of a commit.
    pub checkpointer: Checkpointer,
    /// Compacts.
    pub cleaner: Cleaner,
}

impl Log {
    /// Opens the log of a data directory, and gives what has to run on threads of its own. Damage is no error: the damaged
    /// store is set aside, and the log goes on in a new one.
    pub fn open(mut options: OpenOptions) -> Result<Opening, OpenError> {
        let mut directory = Directory::take(
            &options.data_dir,
            options.storage.cache_bytes,
            options.store_id,
            options.ring_seed,
        )?;
        let media = directory.media().cloned().unwrap_or_default();
        let chosen = profile::choose(options.storage.profile, &media);
        tracing::info!(
            profile = chosen.way.name(),
            why = chosen.why,
            "the disk is treated by this profile"
        );
        let device = media.names();
        let wear = &options.metrics.wear;
        wear.profiled(chosen.way.name(), chosen.cause, &device);
        let mut sizes = chosen.way.sizes();
        if let Ok(usage) = directory.usage() {
            sizes = sizes.within(options.storage.quota.bytes(usage.disk_bytes));
        }
        directory.set_sizes(sizes);
        options.storage.linger_us = options.storage.linger_us.or(chosen.way.linger_us());
        Self::open_in(Box::new(directory), options)
    }

    pub(super) fn open_in(depot: Box<dyn Depot>, options: OpenOptions) -> Result<Opening, OpenError> {
        let rules = Rules {
            defaults: options.topic_defaults,
            limits: options.limits,
            entries: options.topics,
            store_id: options.store_id,
            generation: 0,
        };
        let shared = Arc::new(Shared::new(
            Keeper::new(depot),
            options.metrics,
            rules.clone(),
            &options.storage,
            State::default(),
            Floors::new(options.carriers),
        ));
        let mut desk = Desk::new(Arc::clone(&shared), rules, &options.storage);
        let mut wakes = Wakes::default();
        // Every page of it is checked: what a disk lost in spite of a sync would else be taken for what is there.
        let open = |gives_up| shared.keeper.open(&desk.rules, true, gives_up, |_| Ok(()));
        // A fault may be one bad read. One that stays is a part of the disk that is gone.
        let opened = match open(false) {
            Err(StoreError::Fault(why)) => {
                tracing::warn!(why, "the disk has a fault; trying once more");
                open(true)
            }
            opened => opened,
        };
        let opened = opened.map_err(OpenError::Store)?;
        desk.install(opened, options.now, &mut wakes);
        let writer = Writer::new(Arc::clone(&shared), desk);
        let reader = Reader {
            shared: Arc::clone(&shared),
        };
        let checkpointer = Checkpointer {
            shared: Arc::clone(&shared),
        };
        let log = Self { shared, inline: None };
        let cleaner = Cleaner::new(log.clone());
        Ok(Opening {
            log,
            writer,
            reader,
            checkpointer,
            cleaner,
        })
    }
}

impl Desk {
    /// After an error of the store: drops the handle, opens it anew, and goes on with what is really there.
    pub(super) fn recover(&mut self, error: &StoreError, now: Now, wakes: &mut Wakes) {
        tracing::error!(%error, "the store failed; opening it anew");
        self.shared.metrics.health.degrade("store", error.to_string());
        self.open_anew(error, now, wakes);
    }

    fn open_anew(&mut self, error: &StoreError, now: Now, wakes: &mut Wakes) {
        self.shared.metrics.log.store_recoveries.inc();
        let shared = Arc::clone(&self.shared);
        // A page that made no sense may have been one bad read: the whole store is checked. If it is found sound and again makes no
        // sense, it is not believed any more.
        let damaged = matches!(error, StoreError::Damaged(_));
        let again = Cell::new(damaged && std::mem::replace(&mut self.doubted, true));
        if matches!(error, StoreError::Full(_)) {
            self.fill_up(error);
        }
        let faulty = matches!(error, StoreError::Fault(_));
        self.faults = if faulty { self.faults.saturating_add(1) } else { 0 };
        let gives_up = self.faults >= FAULTS_MAX;
        let opened = shared.keeper.open(&self.rules, damaged || faulty, gives_up, |loaded| {
            // Once: what was mended meanwhile is another store.
            if again.take() {
                return Err(error.clone());
            }
            whole(&shared.read_state(), loaded)
        });
        // What was met with the store before this one.
        shared.take_failure();
        let error = match opened {
            Ok(opened) => match shared.keeper.prove(topic_key_op(opened.loaded.topic_key_next)) {
                Ok(()) => {
                    if self.closed.take().is_some() {
                        tracing::info!("the store takes commits again");
                    }
                    shared.metrics.health.restore("store");
                    self.faults = 0;
                    return self.install(opened, now, wakes);
                }
                Err(error) => {
                    self.open_to_read(opened, wakes);
                    error
                }
            },
            Err(error) => error,
        };
        // Said once, however long it stays so.
        if self.closed.as_ref().is_none_or(|(before, _)| *before != error) {
            tracing::error!(%error, "the store takes no commits; trying again until it does");
        }
        shared.metrics.health.degrade("store", error.to_string());
        self.closed = Some((error, now.mono_us.saturating_add(RETRY_US)));
    }

    /// A disk that takes nothing, a full one, can still be read: opens once more what failed at the proof.
    fn open_to_read(&mut self, opened: Opened, wakes: &mut Wakes) {
        if self.closed.is_none() || opened.lost.is_some() {
            self.take_over(opened, wakes);
        }
        let shared = Arc::clone(&self.shared);
        let sound = |loaded: &Loaded| whole(&shared.read_state(), loaded);
        match shared.keeper.open(&self.rules, false, false, sound) {
            Ok(opened) if opened.lost.is_some() => self.take_over(opened, wakes),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "the store cannot even be read"),
        }
    }

    /// Looks after a store that took no commit, or that a read found failing. False while it takes none.
    pub(super) fn takes_commits(&mut self, now: Now, wakes: &mut Wakes) -> bool {
        let failure = self.shared.take_failure();
        match (self.closed.clone(), failure) {
            (Some((why, retry_us)), _) if now.mono_us >= retry_us => self.open_anew(&why, now, wakes),
            (None, Some(error)) => self.recover(&error, now, wakes),
            _ => {}
        }
        self.closed.is_none()
    }

    /// Takes over what a store holds, and brings it to what the configuration says.
    fn install(&mut self, opened: Opened, now: Now, wakes: &mut Wakes) {
        self.take_over(opened, wakes);
        self.shared.measure_usage(self.shared.flush_begins());
        self.settle(now, wakes);
        let state = self.shared.read_state();
        self.shared.watches.committed(state.commit_number, wakes);
    }

    fn take_over(&mut self, opened: Opened, wakes: &mut Wakes) {
        if let Some(lost) = &opened.lost {
            self.tell_loss(lost, opened.identity.generation);
        }
        let Loaded {
            mut state,
            producers,
            topic_key_next,
            row_next,
            garbage,
            holes,
        } = opened.loaded;
        self.rules.store_id = opened.identity.store_id;
        self.rules.generation = opened.identity.generation;
        self.producers = producers;
        self.topic_key_next = topic_key_next;
        self.row_next = row_next;
        self.ahead = Default::default();
        self.due = Default::default();
        self.due.add(garbage);
        // A flush of the store before this one does not end any more.
        self.shared.moving.end(Mover::Seal);
        self.shared.past.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.mark_holes(holes, &mut state);
        let mut current = self.shared.write_state();
        state.commit_number = current.commit_number + 1;
        let before = std::mem::replace(&mut *current, state);
        drop(current);
        // Only now does memory know what is in there.
        let shared = Arc::downgrade(&self.shared);
        self.shared.keeper.seal_with(Arc::new(LogSealer { shared }));
        self.clock_again();
        for (name, topic) in &before.topics {
            for partition in 0..topic.info.partitions {
                let next = self.high_watermark(name, partition);
                self.shared
                    .watches
                    .partition_moved(name, Partition(partition), next, wakes);
            }
        }
    }

    /// Damage is told once, where somebody looks: in the log, in `/healthz` for a while, and in metrics.
    fn tell_loss(&mut self, lost: &Lost, generation: u32) {
        let Lost { error, aside, mended } = lost;
        let metrics = Arc::clone(&self.shared.metrics);
        self.doubted = false;
        self.told_us = Some(self.shared.clock_us());
        if *mended {
            tracing::error!(
                %error, aside, generation,
                "the store was damaged: the damaged file is set aside, what is intact stays in use, and what is missing is marked \
                 (/api/v1/losses); offsets go on in a new leader epoch"
            );
            metrics.log.stores_mended.inc();
            let why = format!("{error}; set aside as {aside}, what is intact stays in use, see /api/v1/losses");
            return metrics.health.degrade("store-damaged", why);
        }
        tracing::error!(
            %error, aside, generation,
            "the store was damaged and is set aside; records, sessions and deduplication state in it are lost to readers; \
             offsets go on above them in a new leader epoch"
        );
        metrics.log.stores_lost.inc();
        let why = format!("{error}; it was set aside as {aside}, and the log goes on in a new one");
        metrics.health.degrade("store-lost", why);
    }

    /// Has the markers of what is missing stored.
    fn mark_holes(&mut self, holes: Vec<(PartitionKey, Loss)>, state: &mut State) {
        let now_ms = self.shared.now().wall_ms;
        for (key, hole) in holes {
            let marker = Loss {
                lost_ms: now_ms,
                ..hole
            };
            let topic = state.names.get(&key.topic).map_or("?", |name| name.as_str());
            tracing::error!(
                topic,
                partition = key.partition,
                offset_first = marker.offset_first,
                offset_last = marker.offset_last,
                "what was there is lost to damage"
            );
            if let Some(log) = state.partition_mut(key) {
                log.lose(marker);
            }
            self.due.mark(key, marker);
        }
    }

    fn high_watermark(&self, topic: &Topic, partition: u32) -> Option<Offset> {
        let state = self.shared.read_state();
        let found = state.topics.get(topic)?.partitions.get(partition as usize)?;
        Some(found.bounds().high_watermark)
    }

    /// Makes the topics that the file names, and gives them the partitions that it asks for.
    fn settle(&mut self, now: Now, wakes: &mut Wakes) {
        let mut missing = Vec::new();
        for entry in self.rules.entries.clone() {
            let there = self
                .shared
                .read_state()
                .topics
                .get(&entry.name)
                .map(|topic| topic.row.partitions);
            match (there, entry.partitions) {
                (None, _) => {
                    let spec = TopicSpec {
                        name: entry.name.clone(),
                        partitions: None,
                        settings: Vec::new(),
                    };
                    let (promise, ticket) = ticket(std::task::Waker::noop());
                    missing.push((Item::CreateTopic(spec, promise), ticket));
                }
                (Some(there), Some(wanted)) if wanted > there => self.grow_to(&entry, wanted, wakes),
                (Some(there), Some(wanted)) if wanted < there => tracing::error!(
                    topic = %entry.name, line = entry.line, there, wanted,
                    "a topic cannot lose partitions; it keeps those it has"
                ),
                _ => {}
            }
        }
        let (items, tickets): (Vec<_>, Vec<_>) = missing.into_iter().unzip();
        if !items.is_empty() {
            self.commit_alone(items, now, wakes);
        }
        for mut ticket in tickets {
            if let Some(Err(refused)) = ticket.take() {
                tracing::error!(%refused, "a topic of the configuration could not be made");
            }
        }
    }

    fn grow_to(&mut self, entry: &TopicEntry, wanted: u32, wakes: &mut Wakes) {
        let Some((key, mut row)) = self
            .shared
            .read_state()
            .topics
            .get(&entry.name)
            .map(|topic| (topic.key, topic.row.clone()))
        else {
            return;
        };
        row.partitions = wanted;
        let info = row.info(entry.name.clone(), &self.rules.defaults, Some(entry));
        let grown = info.map_err(|refused| refused.to_string()).and_then(|info| {
            let grown = self.grow(key, row, info, wakes);
            grown.map_err(|error| error.to_string())
        });
        if let Err(why) = grown {
            tracing::error!(topic = %entry.name, why, "partitions could not be added");
        }
    }
}

/// A store that was opened anew must hold everything that was told to be durable.
fn whole(before: &State, found: &Loaded) -> Result<(), StoreError> {
    for (name, topic) in &before.topics {
        for (number, partition) in topic.partitions.iter().enumerate() {
            let there = found
                .state
                .topics
                .get(name)
                .and_then(|topic| topic.partitions.get(number));
            if there.is_none_or(|there| there.offset_next < partition.offset_next) {
                let why = format!(
                    "{name} {number} ends before offset {}, which was durable",
                    partition.offset_next
                );
                return Err(StoreError::Damaged(why));
            }
        }
    }
    Ok(())
}
