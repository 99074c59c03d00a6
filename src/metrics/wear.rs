//! Metrics of what is written to the disk.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// A number that is no whole one.
type Level = Gauge<f64, AtomicU64>;

/// Counters and gauges of `wear`.
#[derive(Debug, Default)]
pub struct WearMetrics {
    /// 1 for the profile in force.
    pub profile: Family<ProfileLabel, Gauge>,
    /// Bytes that the store wrote, in blocks of 4,096.
    pub store_bytes: Counter,
    /// Writes of the store that did not go on where the one before ended.
    pub store_runs: Counter,
    /// Syncs of the store.
    pub store_syncs: Counter,
    /// What a card takes for these, seconds.
    pub card_seconds: Counter<f64, AtomicU64>,
    /// Bytes written to the disk since the machine started, whoever wrote them.
    pub disk_bytes: Gauge,
    /// Bytes a day at the store's pace of now.
    pub pace_bytes: Level,
    /// Wait before a commit, seconds.
    pub linger_seconds: Level,
    /// Days that the disk lasts at the pace of now.
    pub life_days: Level,
}

/// The profile in force and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ProfileLabel {
    profile: &'static str,
    cause: &'static str,
    device: String,
}

impl WearMetrics {
    /// The store goes by this profile.
    pub fn profiled(&self, profile: &'static str, cause: &'static str, device: &str) {
        let device = device.to_owned();
        let label = ProfileLabel { profile, cause, device };
        self.profile.get_or_create(&label).set(1);
    }

    /// Bytes, runs and syncs of the store up to now, what a card takes for them, what was written to the disk, and the wait that is in
    /// force.
    pub fn measured(&self, [bytes, runs, syncs]: [u64; 3], card_us: u64, disk_bytes: Option<u64>, linger_us: u64) {
        self.linger_seconds.set(linger_us as f64 / 1e6);
        self.store_bytes.inner().store(bytes, Ordering::Relaxed);
        self.store_runs.inner().store(runs, Ordering::Relaxed);
        self.store_syncs.inner().store(syncs, Ordering::Relaxed);
        let card_seconds = card_us as f64 / 1e6;
        self.card_seconds
            .inner()
            .store(card_seconds.to_bits(), Ordering::Relaxed);
        let disk_bytes = disk_bytes.unwrap_or(0);
        self.disk_bytes.set(i64::try_from(disk_bytes).unwrap_or(i64::MAX));
    }

    /// The pace, and how long the disk lasts.
    pub fn looked(&self, bytes_per_day: f64, life_days: Option<f64>) {
        self.pace_bytes.set(bytes_per_day);
        // Nothing is written: it lasts.
        self.life_days.set(life_days.unwrap_or(f64::INFINITY));
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        // Until there is a pace.
        self.life_days.set(f64::INFINITY);
        let r = registry.sub_registry_with_prefix("wear");
        r.register("profile", "The storage profile, and why", self.profile.clone());
        let bytes = self.store_bytes.clone();
        r.register("store_bytes", "Bytes the store wrote, in blocks of 4096", bytes);
        let runs = self.store_runs.clone();
        r.register("store_runs", "Writes that did not go on where one ended", runs);
        r.register("store_syncs", "Syncs of the store", self.store_syncs.clone());
        let card = self.card_seconds.clone();
        r.register("card_seconds", "What a card takes for these, by a model", card);
        let disk = self.disk_bytes.clone();
        r.register("disk_bytes", "Bytes written to the disk by all since the boot", disk);
        let pace = self.pace_bytes.clone();
        r.register("pace_bytes", "Bytes a day at the pace of the store", pace);
        let linger = self.linger_seconds.clone();
        r.register_with_unit("linger", "Wait before a commit", Unit::Seconds, linger);
        r.register(
            "life_days",
            "Days that the disk lasts at this pace",
            self.life_days.clone(),
        );
    }
}
