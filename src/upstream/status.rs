//! What forwarding looks like from outside: for `headwater upstream`, the API and the dashboard.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// One upstream as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Whether a broker of it answers.
    pub connected: bool,
    /// Records that the centre does not have yet.
    pub lag_records: u64,
    /// Records acknowledged since the start of this process.
    pub forwarded_records: u64,
    /// Batches that the centre refused for good, ever; the newest thousand are kept.
    pub refused_batches: u64,
    /// Records that retention removed before they could go, since the start of this process.
    pub skipped_records: u64,
    /// Bytes of records that are in memory on their way.
    pub inflight_bytes: u64,
    /// What went wrong last, in words.
    pub last_error: Option<String>,
    /// When, milliseconds since 1970.
    pub last_error_ms: Option<i64>,
    /// Every partition that is forwarded.
    pub partitions: Vec<PartitionStatus>,
    /// The newest refused batches, newest first.
    pub refused: Vec<RefusedStatus>,
}

/// One local partition on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// Local topic.
    pub topic: String,
    /// Local partition.
    pub partition: u32,
    /// The topic's name in the centre.
    pub topic_there: String,
    /// The partition there, once it is known.
    pub partition_there: Option<u32>,
    /// Next local offset that the centre does not have.
    pub next_offset: u64,
    /// Records that it does not have yet.
    pub lag_records: u64,
    /// Records acknowledged since the start of this process.
    pub forwarded_records: u64,
    /// Records that retention removed before they could go.
    pub skipped_records: u64,
}

/// A batch that the centre refused for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedStatus {
    /// Local topic.
    pub topic: String,
    /// Local partition.
    pub partition: u32,
    /// First local offset.
    pub offset: u64,
    /// Records in it.
    pub records: u32,
    /// Kafka's error code; -2 when the stored batch did not open.
    pub error: i16,
    /// In words.
    pub cause: String,
    /// When, milliseconds since 1970.
    pub wall_ms: i64,
}

/// The statuses of all upstreams, shared between who writes and who shows them.
#[derive(Clone, Debug, Default)]
pub struct Statuses(Arc<Mutex<BTreeMap<String, UpstreamStatus>>>);

impl Statuses {
    /// Replaces the status of one upstream.
    pub fn set(&self, status: UpstreamStatus) {
        self.lock().insert(status.name.clone(), status);
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<UpstreamStatus> {
        self.lock().values().cloned().collect()
    }

    /// All of them as JSON objects, by name.
    pub fn json(&self) -> Vec<serde_json::Value> {
        self.all()
            .iter()
            .filter_map(|status| serde_json::to_value(status).ok())
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, UpstreamStatus>> {
        // Only whole statuses are put in under it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
