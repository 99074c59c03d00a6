//! The partitioned log. `Log` is the handle that every room holds: submit records and state, read, watch, look at topics.
//!
//! What goes in goes through one writer (`writer`): it gathers what waits into one durable commit of the `store`, and only then
//! are tickets done and wakers woken. The log starts no thread and reads no clock: `net` runs `Writer::run` (twice), `Reader::run`
//! and `Checkpointer::run` on threads of their own and passes time in. Without them (`Log::inline`) everything happens on the caller's thread, for tests.

mod admin;
mod backup;
mod bodies;
mod boots;
mod build;
mod check;
mod checkpoint;
mod clean;
mod commit;
mod compaction;
mod compare;
mod copy;
mod depot;
mod desk;
mod disk;
mod draft;
mod extent;
#[cfg(test)]
pub(crate) mod fault;
mod floors;
mod inline;
mod inspect;
mod keeper;
mod layout;
mod load;
mod loss;
mod media;
mod memory;
mod mend;
mod moving;
mod open;
mod ops;
mod overlay;
mod partition;
mod producers;
mod profile;
mod queue;
mod quota;
mod read;
mod reader;
mod redb;
mod repair;
mod reserve;
mod retention;
mod ring;
mod ring_row;
mod ringed;
mod room;
mod salvage;
mod seal;
mod sealed;
mod sealer;
mod shared;
mod shelf;
mod space;
mod state;
mod store;
mod stream;
mod submission;
mod survey;
mod swap;
mod tally;
mod ticket;
mod topic;
mod usage;
mod watch;
mod wear;
mod writer;

#[cfg(test)]
#[path = "../../tests/power/mod.rs"]
mod power;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};
use std::task::Waker;

use crate::model::{Code, Now, Offset, Partition, Topic};

pub use admin::{Cut, CutAnswers, SettingChange, TopicChange};
pub use backup::Backup;
pub use boots::{Boot, BootClock, BootState, UntrustedRange};
pub use check::{CheckReport, check};
pub use checkpoint::Checkpointer;
pub use compaction::Cleaner;
pub use compare::Durable;
pub use copy::CopyReport;
pub use depot::OpenError;
pub use floors::Carrier;
pub use inspect::{DataFile, FileOnDisk, InspectReport, StateTable, StoreFound, TopicFound, inspect};
pub use loss::{Loss, LossFound, LossReason};
pub use media::{DiskFound, Media};
pub use open::{OpenOptions, Opening};
pub use profile::{Chosen, Way, choose};
pub use read::{Bounds, ReadBatches, ReadRequest, TimePoint};
pub use reader::Reader;
pub use repair::{CopyError, Fresh, clone_directory, repair};
pub use stream::{Sink, relay, restore, stream_directory};
pub use submission::{Append, Appended, Committed, Expect, Refused, StateChange, Submission, Table};
pub use survey::{CheckedPartition, DamagedRange, Survey, SurveyError, Visitor};
pub use tally::Written;
pub use ticket::Ticket;
pub use topic::{CompactionSettings, TopicInfo, TopicSettings, TopicSpec};
pub use watch::{Moves, Watch};
pub use writer::Writer;

use admin::Admin;
use queue::Item;
use shared::Shared;
use store::Map;
use ticket::{Wakes, ticket};
use watch::Interest;

/// Handle to the log; clones share it.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    /// The writer of a log that commits on the caller's thread, and its time.
    inline: Option<Arc<Mutex<inline::Inline>>>,
}

impl Log {
    /// Queues a submission. Refuses at once with `Code::Busy` when the queue is at its hard bound (the driver stops reading
    /// long before) and with `Code::Stopping` after `stop`; else the ticket tells.
    pub fn submit(&self, submission: Submission, waker: &Waker) -> Ticket<Committed> {
        let bytes = submission.size_bytes();
        let (promise, ticket) = ticket(waker);
        let since_us = self.shared.clock_us();
        self.push(Item::Submit {
            submission,
            bytes,
            promise,
            since_us,
        });
        ticket
    }

    /// Whether the queue to the writer is past its soft bound: drivers stop reading from sockets. `watch_room` tells when to go on.
    pub fn congested(&self) -> bool {
        self.shared.queue.congested()
    }

    /// Wakes once when there is room again.
    pub fn watch_room(&self, waker: &Waker) -> Watch {
        let watch = self.shared.watches.add(Interest::Room, waker);
        if !self.shared.queue.congested() {
            waker.wake_by_ref();
        }
        watch
    }

    /// Makes a topic, durably. `Code::TopicExists`, `TooManyTopics`, `InvalidPartitions`, `InvalidConfig`.
    pub fn create_topic(&self, spec: TopicSpec, waker: &Waker) -> Ticket<Arc<TopicInfo>> {
        let (promise, ticket) = ticket(waker);
        self.push(Item::CreateTopic(spec, promise));
        ticket
    }

    /// Checks a topic to be made without making it.
    pub fn check_topic(&self, spec: &TopicSpec) -> Result<(), Refused> {
        let rules = self.shared.rules();
        let state = self.shared.read_state();
        let there = state.topics.contains_key(&spec.name);
        draft::check_spec(spec, &rules, state.topics.len(), state.partitions, there).map(|_| ())
    }

    /// Removes a topic and its records, durably.
    pub fn delete_topic(&self, name: &Topic, waker: &Waker) -> Ticket<()> {
        let (promise, ticket) = ticket(waker);
        self.push(Item::DeleteTopic(name.clone(), promise));
        ticket
    }

    /// Moves log starts forward, durably, all in one commit; one that is past the offset already stays. Each cut has an answer of
    /// its own: `Code::UnknownTopic`, `OffsetOutOfRange` past the high watermark.
    pub fn delete_records(&self, cuts: Vec<Cut>, waker: &Waker) -> Ticket<CutAnswers> {
        let (promise, ticket) = ticket(waker);
        self.push(Item::Admin(Admin::DeleteRecords(cuts, promise)));
        ticket
    }

    /// Changes settings of a topic, durably; they are in force once the ticket tells. `Code::UnknownTopic`, `InvalidConfig`.
    pub fn alter_topic(&self, change: TopicChange, waker: &Waker) -> Ticket<Arc<TopicInfo>> {
        let (promise, ticket) = ticket(waker);
        self.push(Item::Admin(Admin::AlterTopic(change, promise)));
        ticket
    }

    /// Checks a change of settings without making it.
    pub fn check_change(&self, change: &TopicChange) -> Result<(), Refused> {
        let rules = self.shared.rules();
        let state = self.shared.read_state();
        admin::after(change, &state, &rules).map(drop)
    }

    /// Gives a topic more partitions, durably: so many in all. What has a key may go to another partition from then on, as in Kafka.
    /// `Code::UnknownTopic`, `InvalidPartitions` for no more than before, `TooManyTopics` past the limit.
    pub fn add_partitions(&self, name: &Topic, partitions: u32, waker: &Waker) -> Ticket<Arc<TopicInfo>> {
        let (promise, ticket) = ticket(waker);
        self.push(Item::Admin(Admin::AddPartitions(name.clone(), partitions, promise)));
        ticket
    }

    /// Checks whether a topic could have so many partitions.
    pub fn check_partitions(&self, name: &Topic, partitions: u32) -> Result<(), Refused> {
        let rules = self.shared.rules();
        admin::grown(name, partitions, &self.shared.read_state(), &rules).map(drop)
    }

    /// A topic by name.
    pub fn topic(&self, name: &str) -> Option<Arc<TopicInfo>> {
        let state = self.shared.read_state();
        state.topics.get(name).map(|topic| Arc::clone(&topic.info))
    }

    /// All topics, by name.
    pub fn topics(&self) -> Vec<Arc<TopicInfo>> {
        let state = self.shared.read_state();
        state.topics.values().map(|topic| Arc::clone(&topic.info)).collect()
    }

    /// What a partition holds; `None` when there is no such partition. Never blocks on the disk.
    pub fn bounds(&self, topic: &str, partition: Partition) -> Option<Bounds> {
        let state = self.shared.read_state();
        let partitions = &state.topics.get(topic)?.partitions;
        partitions
            .get(partition.0 as usize)
            .map(partition::PartitionLog::bounds)
    }

    /// What was given up before its retention was over, by topic and partition, oldest first.
    pub fn losses(&self) -> Vec<LossFound> {
        let state = self.shared.read_state();
        let mut losses = Vec::new();
        for (name, topic) in &state.topics {
            for (partition, log) in (0..).zip(&topic.partitions) {
                losses.extend(log.losses.iter().map(|loss| LossFound {
                    topic: name.to_string(),
                    partition,
                    loss: *loss,
                }));
            }
        }
        losses
    }

    /// Says what the machine's clock is. Whatever was submitted before was stamped by the clock as it was told before.
    pub fn set_clock(&self, clock: BootClock) {
        self.push(Item::Admin(Admin::Clock(clock)));
    }

    /// Every boot of the machine of which something is known.
    pub fn boots(&self) -> Vec<Boot> {
        self.shared.read_state().boots.clone()
    }

    /// Whether the clock of this boot is trusted, as far as the log was told.
    pub fn clock_trusted(&self) -> bool {
        let state = self.shared.read_state();
        state.boots.last().is_none_or(|boot| boot.state != BootState::Untrusted)
    }

    /// What has to be added to the timestamp of the record at an offset: 0, unless the gateway gave it while its clock was not
    /// trusted, and knows better by now.
    pub fn shift_ms(&self, topic: &str, partition: Partition, offset: Offset) -> i64 {
        let state = self.shared.read_state();
        let topic = state.topics.get(topic);
        let log = topic.and_then(|topic| topic.partitions.get(partition.0 as usize));
        log.map_or(0, |log| boots::shift_ms(&log.marks, offset.0))
    }

    /// A time that this gateway's clock gave, corrected where it was not trusted then and is by now.
    pub fn corrected(&self, time_ms: i64) -> i64 {
        self.shared.read_state().corrected(time_ms)
    }

    /// A carrier (by its name in `OpenOptions`) has durably carried away what is before `floor`; `None`: the topic is gone, or it does
    /// not carry it any more. Until it was told once, nothing counts as carried away.
    pub fn set_floor(&self, carrier: &str, topic_id: [u8; 16], partition: Partition, floor: Option<Offset>) {
        self.shared.floors().set(carrier, (topic_id, partition.0), floor);
    }

    /// Reads batches: at once from the tail cache, else by the reader thread. `Code::OffsetOutOfRange` (with the bounds in the
    /// text) before the log start or past the high watermark, `Code::UnknownTopic`.
    pub fn read(&self, request: ReadRequest, waker: &Waker) -> Ticket<ReadBatches> {
        self.shared
            .reader
            .read(&self.shared, request, waker, self.inline.is_some())
    }

    /// The first offset whose timestamp is at or after `timestamp_ms`; `None` when there is none. By the reader thread.
    pub fn offset_for_time(
        &self,
        topic: &Topic,
        partition: Partition,
        timestamp_ms: i64,
        waker: &Waker,
    ) -> Ticket<Option<TimePoint>> {
        let request = reader::TimeRequest {
            topic: topic.clone(),
            partition,
            timestamp_ms,
        };
        let shared = &self.shared;
        shared
            .reader
            .offset_for_time(shared, request, waker, self.inline.is_some())
    }

    /// Wakes once when the partition's high watermark passes `offset`, or the topic goes; at once when that is so already.
    pub fn watch_partition(&self, topic: &Topic, partition: Partition, offset: Offset, waker: &Waker) -> Watch {
        let interest = Interest::Partition(topic.clone(), partition, offset);
        let watch = self.shared.watches.add(interest, waker);
        if self
            .bounds(topic.as_str(), partition)
            .is_none_or(|bounds| bounds.high_watermark > offset)
        {
            waker.wake_by_ref();
        }
        watch
    }

    /// Wakes once when a commit with a number above `seen` has added records or changed topics; at once when that is so already.
    pub fn watch_commits(&self, seen: u64, waker: &Waker) -> Watch {
        let watch = self.shared.watches.add(Interest::Commits(seen), waker);
        if self.commit_number() > seen {
            waker.wake_by_ref();
        }
        watch
    }

    /// Gathers the partitions that move from here on.
    pub fn follow(&self) -> Moves {
        self.shared.watches.follow()
    }

    /// The number of the newest commit.
    pub fn commit_number(&self) -> u64 {
        self.shared.read_state().commit_number
    }

    /// A committed value. A short read of an indexed table; may touch the disk.
    pub fn state(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Refused> {
        let read = self.shared.keeper.with(|store| store.point(Map::State(table), key));
        read.map_err(|error| desk::storage(&error))
    }

    /// Committed entries whose key begins with `prefix`, in key order, at most `limit`.
    #[allow(clippy::type_complexity)]
    pub fn state_scan(&self, table: Table, prefix: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Refused> {
        let mut entries = Vec::new();
        let until = store::prefix_until(prefix);
        let read = self.shared.keeper.with(|store| {
            store.scan(Map::State(table), prefix, until.as_deref(), &mut |key, value| {
                if entries.len() < limit {
                    entries.push((key.to_vec(), value.to_vec()));
                }
                Ok(entries.len() < limit)
            })
        });
        read.map_err(|error| desk::storage(&error))?;
        Ok(entries)
    }

    /// Wakes, on the thread that polls it, what the writer's commits wake; it never ends. Without it the writer wakes task by task
    /// from its own thread, which a thread that runs many of them pays with a system call each.
    pub async fn carry_wakes(&self) {
        self.shared.courier.carry().await;
    }

    /// A log over the in-memory store that commits on the caller's thread: for tests of the rooms above. `now` is the time
    /// every submission sees until `set_now` turns it.
    pub fn inline(now: Now) -> Self {
        inline::open_with(now, Vec::new())
    }

    /// The same, whose retention waits for these.
    pub fn inline_with(now: Now, carriers: Vec<Carrier>) -> Self {
        inline::open_with(now, carriers)
    }

    /// Turns the clock of an inline log and runs what is due (retention).
    pub fn set_now(&self, now: Now) {
        if let Some(inline) = &self.inline {
            inline::lock(inline).set_now(now);
        }
    }

    /// An inline log refuses whatever comes with this code, or takes it again.
    pub fn refuse_with(&self, code: Option<Code>) {
        if let Some(inline) = &self.inline {
            inline::lock(inline).refuse_with(code);
        }
    }

    /// Looks whether the disk answers: for `/healthz`, which says so when it does not.
    pub fn look_at_disk(&self) {
        self.shared.look_at_disk();
    }

    /// Sets the gauges of the log: for a scrape.
    pub fn measure(&self) {
        let gauges = &self.shared.metrics.log;
        let state = self.shared.read_state();
        let held = state.held_bytes();
        gauges.held_bytes.set(i64::try_from(held).unwrap_or(i64::MAX));
        gauges.topics.set(state.topics.len() as i64);
        gauges.partitions.set(state.partitions as i64);
        gauges.tail_bytes.set(state.tail_bytes() as i64);
        gauges.queue_bytes.set(self.shared.queue.bytes() as i64);
        let keeper = &self.shared.keeper;
        let written = keeper.written();
        let device_bytes = keeper.media().and_then(Media::written_bytes);
        let wear = &self.shared.metrics.wear;
        let linger_us = self.shared.linger().map_or(0, |linger| linger.as_micros() as u64);
        let counts = [written.bytes, written.runs, written.syncs];
        wear.measured(counts, written.card_us(), device_bytes, linger_us);
    }

    /// Takes no more submissions; what is queued is still committed. The writer's `run` returns after that.
    pub fn stop(&self) {
        self.shared.queue.stop();
        self.shared.reader.stop();
        self.shared.bell.stop();
        self.shared.rest.stop();
    }

    fn push(&self, item: Item) {
        if let Err((refused, item)) = self.shared.queue.push(item) {
            self.shared.metrics.log.refused(refused.code);
            let mut wakes = Wakes::default();
            match item {
                Item::Submit { promise, .. } => wakes.add(promise.keep(Err(refused))),
                Item::CreateTopic(_, promise) => wakes.add(promise.keep(Err(refused))),
                Item::DeleteTopic(_, promise) => wakes.add(promise.keep(Err(refused))),
                Item::Admin(admin) => wakes.add(admin.refuse(refused)),
            }
            return;
        }
        if let Some(inline) = &self.inline {
            inline::commit_all(inline);
        }
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Log")
    }
}
