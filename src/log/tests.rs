//! Behaviour of the log as the rooms above see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use bytes::Bytes;

use super::*;
use crate::model::batch::{self, Batch};
use crate::model::{Code, Record};

mod admin;
mod appends;
mod backup;
mod check;
mod clock;
mod compaction;
mod conformance;
mod files;
mod golden;
mod hold;
mod inspect;
mod machine;
mod mend;
mod once;
mod quota;
mod repair;
mod retention;
mod ring;
mod sealing;
mod wear;
mod writer;

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn now(ms: i64) -> Now {
    Now {
        mono_us: ms as u64 * 1000,
        wall_ms: ms,
    }
}

fn record(key: Option<&str>, value: &str, timestamp_ms: i64) -> Record {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Record {
        key: key.map(bytes),
        value: Some(bytes(value)),
        headers: Vec::new(),
        timestamp_ms,
    }
}

/// A topic of two partitions.
fn make(log: &Log, topic: &str, settings: &[(&str, &str)]) {
    let settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    let spec = TopicSpec {
        name: Topic::parse(topic).unwrap(),
        partitions: Some(2),
        settings: settings.collect(),
    };
    log.create_topic(spec, Waker::noop()).wait().unwrap();
}

/// How many rows the store has of a kind.
fn rows(log: &Log, map: Map) -> usize {
    let mut count = 0;
    let each = &mut |_: &[u8], _: &[u8]| {
        count += 1;
        Ok(true)
    };
    log.shared
        .keeper
        .with(|store| store.scan(map, &[], None, each))
        .unwrap();
    count
}

fn append(log: &Log, topic: &str, key: Option<&str>, value: &str, time: i64) -> Result<Appended, Refused> {
    let append = Append::Record {
        topic: Topic::parse(topic).unwrap(),
        record: record(key, value, time),
    };
    submit(log, append)
}

fn append_batch(log: &Log, topic: &str, partition: Partition, batch: Batch) -> Result<Appended, Refused> {
    let topic = Topic::parse(topic).unwrap();
    submit(
        log,
        Append::Batch {
            topic,
            partition,
            batch,
        },
    )
}

fn submit(log: &Log, append: Append) -> Result<Appended, Refused> {
    let submission = Submission {
        appends: vec![append],
        state: Vec::new(),
    };
    let committed = log.submit(submission, Waker::noop()).wait()?;
    Ok(committed.appended[0].clone())
}

fn idempotent(producer: i64, epoch: i16, sequence: i32, value: &str) -> Batch {
    let mut bytes = batch::pack(&[record(None, value, 1)]);
    batch::stamp_producer(&mut bytes, producer, epoch, sequence, false);
    Batch::parse(bytes.into()).unwrap()
}

fn read(log: &Log, topic: &str, partition: Partition, from: u64) -> Result<ReadBatches, Refused> {
    let request = ReadRequest {
        topic: Topic::parse(topic).unwrap(),
        partition,
        from: Offset(from),
        bytes_max: 1 << 20,
    };
    log.read(request, Waker::noop()).wait()
}

fn records(log: &Log, topic: &str, partition: Partition, from: u64) -> Vec<(u64, Record)> {
    let mut records = Vec::new();
    let mut next = from;
    loop {
        let read = read(log, topic, partition, next).unwrap();
        if read.batches.is_empty() {
            return records;
        }
        for bytes in read.batches {
            let batch = Batch::parse(bytes).unwrap();
            let all = batch.records(1 << 20).unwrap();
            records.extend(all.into_iter().map(|(offset, record)| (offset.0, record)));
        }
        next = read.offset_next.0;
    }
}

/// A directory that goes with the value.
pub(super) struct Folder(std::path::PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "headwater-log-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &std::path::Path {
        &self.0
    }

    /// The store's files as they are now.
    fn copy_to(&self, other: &Self) {
        for name in [depot::DATABASE, depot::RING] {
            std::fs::copy(self.0.join(name), other.0.join(name)).unwrap();
        }
        let Ok(data) = std::fs::read_dir(self.0.join(depot::DATA)) else {
            return;
        };
        std::fs::create_dir(other.0.join(depot::DATA)).unwrap();
        for file in data {
            let file = file.unwrap();
            std::fs::copy(file.path(), other.0.join(depot::DATA).join(file.file_name())).unwrap();
        }
    }

    fn options(&self) -> OpenOptions {
        let mut options = inline::options(now(1));
        options.data_dir = self.0.clone();
        let name = self.0.as_os_str().as_encoded_bytes();
        // Every directory has a ring of its own.
        options.ring_seed.copy_from_slice(&name[name.len() - 16..]);
        options
    }

    fn try_open(&self) -> Result<Log, OpenError> {
        inline::open_directory(self.options())
    }

    fn open(&self) -> Log {
        self.try_open().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
