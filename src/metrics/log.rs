//! Metrics of `log`.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::model::Code;

/// Counters, gauges and histograms of `log`.
#[derive(Debug)]
pub struct LogMetrics {
    /// Commits that are durable.
    pub commits: Counter,
    /// Records in them.
    pub records: Counter,
    /// Bytes of their batches.
    pub bytes: Counter,
    /// Records a commit.
    pub commit_records: Histogram,
    /// From the store's transaction to its end, seconds.
    pub commit_seconds: Histogram,
    /// Checkpoints of the disk beside commits, seconds.
    pub checkpoint_seconds: Histogram,
    /// From submission to durable, seconds.
    pub ack_seconds: Histogram,
    /// Bytes that wait for the writer.
    pub queue_bytes: Gauge,
    /// Reads that the tail cache answered.
    pub tail_hits: Counter,
    /// Reads that went to the store.
    pub tail_misses: Counter,
    /// Bytes in the tail cache.
    pub tail_bytes: Gauge,
    /// Records that retention removed.
    pub expired_records: Counter,
    /// Bytes that retention removed.
    pub expired_bytes: Counter,
    /// Submissions refused, by code.
    pub refused: Family<CodeLabel, Counter>,
    /// Topics.
    pub topics: Gauge,
    /// Partitions over all topics.
    pub partitions: Gauge,
    /// Times that the store was opened anew after an error.
    pub store_recoveries: Counter,
    /// Times that a store was set aside as damaged.
    pub stores_lost: Counter,
    /// Times that what was damaged of a store was set aside and the rest stayed in use.
    pub stores_mended: Counter,
    /// Stored batches that could not be read.
    pub unreadable: Counter,
    /// Bytes of the batches that are held.
    pub held_bytes: Gauge,
    /// Bytes that count for the quota.
    pub used_bytes: Gauge,
    /// The quota, bytes.
    pub quota_bytes: Gauge,
    /// Records that went before their retention was over.
    pub shed_records: Counter,
    /// Bytes of them.
    pub shed_bytes: Counter,
    /// How long commits waited for the space of what is past, seconds.
    pub give_back_seconds: Histogram,
    /// Bytes of batches that were laid together by partition.
    pub sealed_bytes: Counter,
    /// Passes of compaction over a partition.
    pub compactions: Counter,
    /// Records that compaction removed.
    pub compacted_records: Counter,
    /// Bytes of batches that compaction freed.
    pub compacted_bytes: Counter,
    /// When the newest pass ended, seconds since 1970.
    pub compacted_seconds: Gauge,
    /// The largest part of a compacted partition that no pass has seen, 0 to 1.
    pub dirty_ratio: Gauge<f64, AtomicU64>,
    /// Partitions that cannot be compacted because a batch in them does not open.
    pub uncleanable: Gauge,
    /// Records that went although they were held for somebody who was to forward them.
    pub unforwarded_records: Counter,
}

/// A code as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabel {
    code: &'static str,
}

impl Default for LogMetrics {
    fn default() -> Self {
        // 50 us to 26 s: from an NVMe drive to a card that hangs.
        let seconds = || Histogram::new(exponential_buckets(50e-6, 2.0, 20));
        Self {
            commits: Counter::default(),
            records: Counter::default(),
            bytes: Counter::default(),
            commit_records: Histogram::new(exponential_buckets(1.0, 2.0, 16)),
            commit_seconds: seconds(),
            checkpoint_seconds: seconds(),
            ack_seconds: seconds(),
            queue_bytes: Gauge::default(),
            tail_hits: Counter::default(),
            tail_misses: Counter::default(),
            tail_bytes: Gauge::default(),
            expired_records: Counter::default(),
            expired_bytes: Counter::default(),
            refused: Family::default(),
            topics: Gauge::default(),
            partitions: Gauge::default(),
            store_recoveries: Counter::default(),
            stores_lost: Counter::default(),
            stores_mended: Counter::default(),
            unreadable: Counter::default(),
            held_bytes: Gauge::default(),
            used_bytes: Gauge::default(),
            quota_bytes: Gauge::default(),
            shed_records: Counter::default(),
            shed_bytes: Counter::default(),
            give_back_seconds: seconds(),
            sealed_bytes: Counter::default(),
            compactions: Counter::default(),
            compacted_records: Counter::default(),
            compacted_bytes: Counter::default(),
            compacted_seconds: Gauge::default(),
            dirty_ratio: Gauge::default(),
            uncleanable: Gauge::default(),
            unforwarded_records: Counter::default(),
        }
    }
}

impl LogMetrics {
    /// A commit is durable.
    pub fn committed(&self, records: u64, bytes: u64, took_us: u64) {
        self.commits.inc();
        self.records.inc_by(records);
        self.bytes.inc_by(bytes);
        self.commit_records.observe(records as f64);
        self.commit_seconds.observe(took_us as f64 / 1e6);
    }

    /// A checkpoint is done.
    pub fn checkpointed(&self, took_us: u64) {
        self.checkpoint_seconds.observe(took_us as f64 / 1e6);
    }

    /// A submission is durable, so long after it came.
    pub fn ack(&self, took_us: u64) {
        self.ack_seconds.observe(took_us as f64 / 1e6);
    }

    /// A submission was refused.
    pub fn refused(&self, code: Code) {
        self.refused.get_or_create(&CodeLabel { code: code.name() }).inc();
    }

    /// Retention removed records.
    pub fn expired(&self, records: u64, bytes: u64) {
        self.expired_records.inc_by(records);
        self.expired_bytes.inc_by(bytes);
    }

    /// Records went before their retention was over.
    pub fn shed(&self, records: u64, bytes: u64) {
        self.shed_records.inc_by(records);
        self.shed_bytes.inc_by(bytes);
    }

    /// Batches were laid together by partition.
    pub fn sealed(&self, bytes: u64) {
        self.sealed_bytes.inc_by(bytes);
    }

    /// A pass of compaction over a partition ended at this time, milliseconds since 1970.
    pub fn compacted(&self, now_ms: i64) {
        self.compactions.inc();
        self.compacted_seconds.set(now_ms / 1000);
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("log");
        r.register("commits", "Durable commits", self.commits.clone());
        r.register("records", "Records committed", self.records.clone());
        r.register("bytes", "Batch bytes committed", self.bytes.clone());
        r.register("commit_records", "Records a commit", self.commit_records.clone());
        r.register("commit_seconds", "Time of a store commit", self.commit_seconds.clone());
        let checkpoints = self.checkpoint_seconds.clone();
        r.register("checkpoint_seconds", "Time of a checkpoint beside commits", checkpoints);
        r.register(
            "ack_seconds",
            "Time from submission to durable",
            self.ack_seconds.clone(),
        );
        r.register("queue_bytes", "Bytes waiting for the writer", self.queue_bytes.clone());
        r.register("tail_hits", "Reads answered from memory", self.tail_hits.clone());
        r.register("tail_misses", "Reads that went to the store", self.tail_misses.clone());
        r.register("tail_bytes", "Bytes in the tail cache", self.tail_bytes.clone());
        r.register(
            "expired_records",
            "Records removed by retention",
            self.expired_records.clone(),
        );
        r.register(
            "expired_bytes",
            "Bytes removed by retention",
            self.expired_bytes.clone(),
        );
        r.register("refused", "Submissions refused", self.refused.clone());
        r.register("topics", "Topics", self.topics.clone());
        r.register("partitions", "Partitions", self.partitions.clone());
        r.register(
            "store_recoveries",
            "Store opened anew after an error",
            self.store_recoveries.clone(),
        );
        r.register("stores_lost", "Stores set aside as damaged", self.stores_lost.clone());
        r.register(
            "stores_mended",
            "Stores of which the damaged part was set aside",
            self.stores_mended.clone(),
        );
        r.register(
            "unreadable_batches",
            "Stored batches that could not be read",
            self.unreadable.clone(),
        );
        r.register(
            "held_bytes",
            "Bytes of the batches that are held",
            self.held_bytes.clone(),
        );
        let used = self.used_bytes.clone();
        r.register("used_bytes", "Bytes on the disk that count for the quota", used);
        r.register("quota_bytes", "The storage quota", self.quota_bytes.clone());
        let shed = self.shed_records.clone();
        r.register("shed_records", "Records given up for the quota", shed);
        r.register("shed_bytes", "Bytes given up for the quota", self.shed_bytes.clone());
        let waits = self.give_back_seconds.clone();
        r.register(
            "give_back_seconds",
            "Time that commits waited for space to be given back below the quota",
            waits,
        );
        let sealed = self.sealed_bytes.clone();
        r.register("sealed_bytes", "Bytes of batches laid together by partition", sealed);
        r.register("compactions", "Passes of compaction", self.compactions.clone());
        let compacted = self.compacted_records.clone();
        r.register("compacted_records", "Records removed by compaction", compacted);
        let compacted = self.compacted_bytes.clone();
        r.register("compacted_bytes", "Bytes removed by compaction", compacted);
        let compacted = self.compacted_seconds.clone();
        r.register(
            "compacted_timestamp_seconds",
            "When the newest pass of compaction ended",
            compacted,
        );
        let dirty = self.dirty_ratio.clone();
        r.register(
            "dirty_ratio_max",
            "Largest part of a compacted partition that no pass has seen",
            dirty,
        );
        let uncleanable = self.uncleanable.clone();
        r.register(
            "uncleanable_partitions",
            "Partitions with a batch that does not open, compacted no further",
            uncleanable,
        );
        r.register(
            "unforwarded_records",
            "Records that retention or the quota took while they were held for an upstream",
            self.unforwarded_records.clone(),
        );
    }
}
