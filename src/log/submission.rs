//! What is handed to the log to be made durable, and what became of it.

use crate::model::batch::Batch;
use crate::model::{Code, Offset, Partition, Record, Topic};

/// What is to be made durable together, all of it or nothing.
#[derive(Debug, Default)]
pub struct Submission {
    /// Records and batches.
    pub appends: Vec<Append>,
    /// State that belongs to them: device sequences, QoS 2 ids, sessions, forward progress.
    pub state: Vec<StateChange>,
}

/// Records for the log.
#[derive(Debug)]
pub enum Append {
    /// One record that headwater packs itself, with all others of the same commit and partition, into one batch. The partition
    /// comes from the key (Kafka's murmur2) or, without one, from the writer's choice. The topic is made if that is allowed.
    Record {
        /// Where to.
        topic: Topic,
        /// What.
        record: Record,
    },
    /// A producer's batch, stored byte for byte but for base offset and leader epoch. `batch.verify_records` was called.
    /// Its idempotent producer fields, if set, are checked against the producer's state, which moves in the same commit.
    Batch {
        /// Where to; must exist.
        topic: Topic,
        /// Which partition; must exist.
        partition: Partition,
        /// The bytes.
        batch: Batch,
    },
}

/// The small tables beside the log, each a map from bytes to bytes. A room owns the keys and values of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Owned by `kafka`: cluster id, next producer id block.
    Kafka,
    /// Owned by `mqtt`: the publisher's side of persistent sessions, by client id.
    MqttSessions,
    /// Owned by `mqtt`: incoming QoS 2 packet ids, by client id and packet id.
    MqttQos2,
    /// Owned by `compact`: last stored sequence, by device.
    Devices,
    /// Owned by `upstream`: progress, by upstream, topic and partition; refused records.
    Forward,
}

/// A change of one key, with what it builds on. When the expectation does not hold, the whole submission is refused with
/// `Code::Conflict`: this is how a resend after a crash or a second connection of the same device can never be stored twice.
#[derive(Clone, Debug)]
pub struct StateChange {
    /// Which table.
    pub table: Table,
    /// Key, at most 1 KiB.
    pub key: Vec<u8>,
    /// What must be there before.
    pub expect: Expect,
    /// What is there after; `None` removes.
    pub value: Option<Vec<u8>>,
}

/// What must be in the table before a change; earlier submissions of the same commit count.
#[derive(Clone, Debug)]
pub enum Expect {
    /// Anything or nothing.
    Any,
    /// Nothing.
    Absent,
    /// Exactly this.
    Value(Vec<u8>),
}

/// What became of a submission that is durable now: one entry an append, in order.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// Where each append landed.
    pub appended: Vec<Appended>,
}

/// Where an append landed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The partition.
    pub partition: Partition,
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Milliseconds since 1970, when the topic stamps append time; else `None`.
    pub append_time_ms: Option<i64>,
    /// First offset still in the partition.
    pub log_start: Offset,
    /// It was a resend of an idempotent producer's batch that is stored already: nothing was added.
    pub duplicate: bool,
}

/// Why a submission, read or topic change was refused. Nothing of it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// For the peer.
    pub code: Code,
    /// For a person: cause, and what to try.
    pub why: String,
}

impl Submission {
    /// Bytes that it holds while it waits, for the bound of the queue.
    pub(super) fn size_bytes(&self) -> usize {
        let appends: usize = self
            .appends
            .iter()
            .map(|append| match append {
                Append::Record { record, .. } => record.size_bytes(),
                Append::Batch { batch, .. } => batch.bytes().len(),
            })
            .sum();
        let state: usize = self
            .state
            .iter()
            .map(|change| change.key.len() + change.value.as_ref().map_or(0, Vec::len))
            .sum();
        appends + state + SUBMISSION_BYTES
    }
}

/// Share of a queued submission beside its records: ticket, waker, vectors.
const SUBMISSION_BYTES: usize = 256;

impl Refused {
    pub(super) fn new(code: Code, why: impl Into<String>) -> Self {
        Self { code, why: why.into() }
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.why)
    }
}

impl std::error::Error for Refused {}
