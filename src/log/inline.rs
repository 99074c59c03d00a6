//! A log that commits on its caller's thread over the store in memory: for tests of the rooms above.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::{Config, TopicDefaults};
use crate::model::{Code, Now};

use super::depot::Depot;
use super::memory::MemoryDepot;
use super::ticket::Wakes;
use super::{Carrier, Log, OpenError, OpenOptions, Opening, Refused, Writer};

/// The writer of such a log, and its time.
pub(super) struct Inline {
    writer: Writer,
    pub(super) now: Now,
    refuses: Option<Code>,
}

/// Topics of such a log: made on first use, four partitions, kept for ever.
pub(super) fn topic_defaults() -> TopicDefaults {
    TopicDefaults {
        auto_create: true,
        partitions: 4,
        retention_ms: None,
        retention_bytes: None,
        priority: 5,
        hold_until_forwarded: false,
        hold_ms_max: None,
        hold_bytes_max: None,
        batch_bytes_max: 1 << 20,
    }
}

pub(super) fn options(now: Now) -> OpenOptions {
    let config = Config::default();
    OpenOptions {
        data_dir: Default::default(),
        storage: config.storage,
        topic_defaults: topic_defaults(),
        limits: config.limits,
        topics: Vec::new(),
        carriers: Vec::new(),
        metrics: Arc::default(),
        now,
        store_id: *b"headwater-inline",
        ring_seed: *b"its ring's seed.",
    }
}

pub(super) fn open_with(now: Now, carriers: Vec<Carrier>) -> Log {
    let options = OpenOptions {
        carriers,
        ..options(now)
    };
    let depot = MemoryDepot::default();
    open_in(Box::new(depot), options).expect("there is nothing in it yet")
}

/// A log in a data directory that commits on its caller's thread.
#[cfg(test)]
pub(super) fn open_directory(options: OpenOptions) -> Result<Log, OpenError> {
    let cache_bytes = options.storage.cache_bytes;
    let directory = super::depot::Directory::take(&options.data_dir, cache_bytes, options.store_id, options.ring_seed)?;
    open_in(Box::new(directory), options)
}

/// Opens a log that commits on its caller's thread.
pub(super) fn open_in(depot: Box<dyn Depot>, options: OpenOptions) -> Result<Log, OpenError> {
    let now = options.now;
    let Opening { log, writer, .. } = Log::open_in(depot, options)?;
    let inline = Some(Arc::new(Mutex::new(Inline {
        writer,
        now,
        refuses: None,
    })));
    Ok(Log { inline, ..log })
}

pub(super) fn lock(inline: &Mutex<Inline>) -> MutexGuard<'_, Inline> {
    inline.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Commits everything that waits; wakes once the writer is free again, so that a woken one may submit at once.
pub(super) fn commit_all(inline: &Mutex<Inline>) {
    let mut wakes = Wakes::default();
    lock(inline).commit_all(&mut wakes);
    wakes.fire();
}

impl Inline {
    pub(super) fn set_now(&mut self, now: Now) {
        self.now = now;
        self.writer.desk().due.look_now();
        let mut wakes = Wakes::default();
        loop {
            let desk = self.writer.turn(self.writer.desk(), Vec::new(), now, &mut wakes);
            if desk.is_none_or(|desk| !desk.due.has_garbage()) {
                break;
            }
        }
    }

    pub(super) fn refuse_with(&mut self, code: Option<Code>) {
        self.refuses = code;
    }

    fn commit_all(&mut self, wakes: &mut Wakes) {
        let shared = Arc::clone(&self.writer.shared);
        loop {
            let gathered = shared.queue.gather(shared.commit_bytes_max());
            if gathered.room {
                shared.watches.room(wakes);
            }
            if gathered.items.is_empty() {
                break;
            }
            let desk = self.writer.desk();
            match self.refuses {
                Some(code) => desk.refuse(gathered.items, &Refused::new(code, "the test refuses it"), wakes),
                None => drop(self.writer.turn(desk, gathered.items, self.now, wakes)),
            }
        }
    }
}
