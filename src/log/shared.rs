//! What all handles share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use crate::metrics::Metrics;
use crate::model::Now;

use super::checkpoint::Bell;
use super::compaction::Rest;
use super::draft::Rules;
use super::floors::Floors;
use super::keeper::Keeper;
use super::layout::PartitionKey;
use super::load::Garbage;
use super::loss::Loss;
use super::moving::Moving;
use super::queue::Queue;
use super::reader::ReaderQueue;
use super::state::State;
use super::store::{Begun, Op, Store, StoreError, keep_worst};
use super::ticket::Courier;
use super::usage::{Flush, Usage};
use super::watch::Watches;

/// A disk is quick when a commit takes no longer, microseconds. A slow one does two at a time no faster than one of their size.
const QUICK_US: u64 = 1_000;
/// A disk that takes so long for a commit is worth a word, microseconds.
const SLOW_US: u64 = 2_000_000;
/// A quick disk is used best by two commits of about this size at a time: what waits beyond goes with the next one.
const BESIDE_BYTES: usize = 96 << 10;

/// Reads the clocks; comes from `net` with `Writer::run`.
pub(super) type Clock = Arc<dyn Fn() -> Now + Send + Sync>;

/// Lock order: `state`, then the floors' or the keeper's, then the queue's or the watches'. No waker is woken while one is held.
pub(super) struct Shared {
    pub(super) queue: Queue,
    pub(super) watches: Arc<Watches>,
    pub(super) courier: Courier,
    pub(super) keeper: Keeper,
    pub(super) reader: ReaderQueue,
    pub(super) bell: Bell,
    pub(super) rest: Rest,
    pub(super) moving: Moving,
    pub(super) metrics: Arc<Metrics>,
    pub(super) rules: RwLock<Rules>,
    commit_bytes_max: usize,
    pub(super) tail_bytes_max: usize,
    /// How long the newest commit was at the disk, microseconds.
    disk_us: AtomicU64,
    /// The wait before every commit, microseconds.
    linger_us: AtomicU64,
    state: RwLock<State>,
    floors: Mutex<Floors>,
    clock: OnceLock<Clock>,
    pub(super) failure: Mutex<Option<StoreError>>,
    /// Markers of damage that reads found, for the writer to store.
    damage: Mutex<Vec<(PartitionKey, Loss)>>,
    /// When the commits that are at the disk went there, monotonic microseconds, the oldest first.
    at_disk: Mutex<VecDeque<u64>>,
    /// Rows that nothing needs any more, found beside the writer, which removes them.
    pub(super) past: Mutex<Vec<Garbage>>,
    usage: Mutex<Usage>,
    /// Flushes that began.
    flushes: AtomicU64,
    /// Bytes of batches of all commits.
    taken: AtomicU64,
    /// A backup is being made.
    pub(super) backup: Arc<AtomicBool>,
}

impl Shared {
    pub(super) fn new(
        keeper: Keeper,
        metrics: Arc<Metrics>,
        rules: Rules,
        storage: &crate::config::Storage,
        state: State,
        floors: Floors,
    ) -> Self {
        Self {
            queue: Queue::new(storage.queue_bytes),
            watches: Arc::default(),
            courier: Courier::default(),
            keeper,
            reader: ReaderQueue::default(),
            bell: Bell::default(),
            rest: Rest::default(),
            moving: Moving::default(),
            metrics,
            rules: RwLock::new(rules),
            commit_bytes_max: storage.commit_bytes_max,
            tail_bytes_max: storage.tail_bytes,
            disk_us: AtomicU64::new(0),
            linger_us: AtomicU64::new(storage.linger_us.unwrap_or(0)),
            state: RwLock::new(state),
            floors: Mutex::new(floors),
            clock: OnceLock::new(),
            failure: Mutex::new(None),
            damage: Mutex::default(),
            at_disk: Mutex::default(),
            past: Mutex::default(),
            usage: Mutex::default(),
            flushes: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            backup: Arc::default(),
        }
    }

    /// The state. A writer that panicked in it ends the process: what is read from a poisoned lock goes nowhere.
    pub(super) fn read_state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write_state(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far records are carried away.
    pub(super) fn floors(&self) -> MutexGuard<'_, Floors> {
        self.floors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rules(&self) -> Rules {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_clock(&self, clock: Clock) {
        // The writer's second thread brings the same one.
        let _ = self.clock.set(clock);
    }

    /// The time; zero before the writer runs.
    pub(super) fn now(&self) -> Now {
        self.clock.get().map_or(Now { mono_us: 0, wall_ms: 0 }, |clock| clock())
    }

    /// Monotonic microseconds, for measurements; 0 before the writer runs.
    pub(super) fn clock_us(&self) -> u64 {
        self.now().mono_us
    }

    /// The wait before every commit, if there is one.
    pub(super) fn linger(&self) -> Option<Duration> {
        let us = self.linger_us.load(Ordering::Relaxed);
        (us > 0).then(|| Duration::from_micros(us))
    }

    pub(super) fn set_linger(&self, us: u64) {
        self.linger_us.store(us, Ordering::Relaxed);
    }

    /// Lends the store for something beside commits. What it meets is told to the writer while the store is still lent: once it was
    /// opened anew, nobody speaks of the one before.
    pub(super) fn lend<R>(&self, f: impl FnOnce(&dyn Store) -> Result<R, StoreError>) -> Result<R, StoreError> {
        self.keeper
            .with(|store| f(store).inspect_err(|error| self.failed(error)))
    }

    /// Measures what the store takes of the disk, after a flush.
    pub(super) fn measure_usage(&self, flush: Flush) {
        self.measure(|_, found| Usage { flush, ..found });
    }

    /// Measures what is beside the data files, which grows without a flush, too.
    pub(super) fn measure_index(&self) {
        self.measure(|before, found| Usage {
            body_bytes: before.body_bytes,
            flush: before.flush,
            ..found
        });
    }

    fn measure(&self, join: impl FnOnce(Usage, Usage) -> Usage) {
        match self.keeper.usage() {
            Ok(found) => {
                let mut usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
                *usage = join(*usage, found);
            }
            Err(error) => tracing::warn!(%error, "the data directory cannot be measured"),
        }
    }

    /// A flush begins.
    pub(super) fn flush_begins(&self) -> Flush {
        Flush {
            number: self.flushes.fetch_add(1, Ordering::AcqRel) + 1,
            taken: self.taken.load(Ordering::Acquire),
        }
    }

    /// A commit brings so many bytes of batches.
    pub(super) fn take(&self, bytes: u64) {
        self.taken.fetch_add(bytes, Ordering::AcqRel);
    }

    /// The newest measurement.
    pub(super) fn usage(&self) -> Usage {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// More than this the store does not take of the disk, but for the commits that were under way when the flush of the newest
    /// measurement began.
    pub(super) fn usage_bound(&self) -> u64 {
        let usage = self.usage();
        let came = self.taken.load(Ordering::Acquire) - usage.flush.taken;
        usage.index_bytes + usage.body_bytes + came
    }

    /// Whether the store takes a commit while another is on its way.
    pub(super) fn takes_two(&self) -> bool {
        self.keeper.with(|store| Ok(store.takes_two())).unwrap_or(false)
    }

    /// Whether it pays to send a commit to the disk beside another.
    pub(super) fn pays_beside(&self) -> bool {
        self.takes_two() && self.disk_us.load(Ordering::Relaxed) < QUICK_US
    }

    /// Most that a commit gathers.
    pub(super) fn commit_bytes_max(&self) -> usize {
        match self.pays_beside() {
            true => self.commit_bytes_max.min(BESIDE_BYTES),
            false => self.commit_bytes_max,
        }
    }

    /// Brings a commit that began to the disk.
    pub(super) fn write(&self, begun: &Begun) -> Result<(), StoreError> {
        let before_us = self.clock_us();
        self.keeper.with(|store| store.write(begun))?;
        self.disk_us
            .store(self.clock_us().saturating_sub(before_us), Ordering::Relaxed);
        Ok(())
    }

    /// One store commit, beside none, with its measurements.
    pub(super) fn store(&self, ops: &[Op], records: u64, bytes: u64) -> Result<(), StoreError> {
        let before_us = self.clock_us();
        self.keeper.with(|store| store.commit(ops))?;
        self.stored(records, bytes, before_us);
        Ok(())
    }

    /// A commit goes to the disk; calls `f`, which brings it there.
    pub(super) fn at_disk<R>(&self, f: impl FnOnce() -> R) -> R {
        let since_us = self.clock_us();
        self.lock_at_disk().push_back(since_us);
        let done = f();
        let mut at_disk = self.lock_at_disk();
        if let Some(at) = at_disk.iter().position(|other| *other == since_us) {
            at_disk.remove(at);
        }
        drop(at_disk);
        let took_us = self.clock_us().saturating_sub(since_us);
        if took_us >= SLOW_US {
            tracing::warn!(seconds = took_us / 1_000_000, "a commit was at the disk for so long");
        }
        done
    }

    /// Says in `/healthz` when the disk does not answer, and when it does again.
    pub(super) fn look_at_disk(&self) {
        let oldest_us = self.lock_at_disk().front().copied();
        let waited_us = oldest_us.map_or(0, |since_us| self.clock_us().saturating_sub(since_us));
        let health = &self.metrics.health;
        if waited_us < SLOW_US {
            return health.restore("disk-slow");
        }
        let seconds = waited_us / 1_000_000;
        let why = format!("a commit has been at the disk for {seconds} s. Try: look at the disk, or its cable");
        health.degrade("disk-slow", why);
    }

    fn lock_at_disk(&self) -> MutexGuard<'_, VecDeque<u64>> {
        self.at_disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A commit was made that began at that time.
    pub(super) fn stored(&self, records: u64, bytes: u64, before_us: u64) {
        if self.keeper.with(|store| Ok(store.checkpoint_due())).unwrap_or(false) {
            self.bell.ring();
        }
        let took_us = self.clock_us().saturating_sub(before_us);
        self.metrics.log.committed(records, bytes, took_us);
    }

    /// A read found damage.
    pub(super) fn damaged(&self, key: PartitionKey, marker: Loss) {
        self.lock_damage().push((key, marker));
    }

    /// The damage that reads found since the last call.
    pub(super) fn take_damage(&self) -> Vec<(PartitionKey, Loss)> {
        std::mem::take(&mut self.lock_damage())
    }

    fn lock_damage(&self) -> MutexGuard<'_, Vec<(PartitionKey, Loss)>> {
        self.damage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the writer has to look after the store.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// What a read, a checkpoint or a commit met since the last call.
    pub(super) fn take_failure(&self) -> Option<StoreError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A read, a checkpoint or a commit met an error of the store: the writer is to look after it before its next commit.
    pub(super) fn failed(&self, error: &StoreError) {
        tracing::warn!(%error, "the store failed");
        let mut first = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        keep_worst(&mut first, error.clone());
    }
}
