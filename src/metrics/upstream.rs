//! Metrics of `upstream`, each by the upstream's configured name.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Which upstream; names come from the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UpstreamLabel {
    /// Its name.
    pub upstream: String,
}

/// Counters, gauges and histograms of `upstream`.
#[derive(Debug)]
pub struct UpstreamMetrics {
    /// Records acknowledged by the centre.
    pub records_forwarded: Family<UpstreamLabel, Counter>,
    /// Bytes of the batches acknowledged by the centre.
    pub bytes_forwarded: Family<UpstreamLabel, Counter>,
    /// Batches sent again, for whatever reason.
    pub batches_retried: Family<UpstreamLabel, Counter>,
    /// Links dropped because nothing moved within the request time-out.
    pub timeouts: Family<UpstreamLabel, Counter>,
    /// Batches that the centre refused for good; they are kept.
    pub batches_refused: Family<UpstreamLabel, Counter>,
    /// Records in them.
    pub records_refused: Family<UpstreamLabel, Counter>,
    /// Records lost before they could be forwarded: passed by retention, or damaged in the store.
    pub records_skipped: Family<UpstreamLabel, Counter>,
    /// Times the log had fewer records than were forwarded already.
    pub log_went_back: Family<UpstreamLabel, Counter>,
    /// Links that came to be.
    pub connects: Family<UpstreamLabel, Counter>,
    /// Links that failed: could not be had, broke, hung or spoke nonsense.
    pub link_failures: Family<UpstreamLabel, Counter>,
    /// Producer ids taken anew because the centre had lost track; what was in doubt then may have arrived twice.
    pub producer_resets: Family<UpstreamLabel, Counter>,
    /// Panics of the forwarder; a new one goes on from the stored progress.
    pub panics: Family<UpstreamLabel, Counter>,
    /// Records that the centre does not have yet.
    pub lag_records: Family<UpstreamLabel, Gauge>,
    /// Bytes of records in memory on their way.
    pub inflight_bytes: Family<UpstreamLabel, Gauge>,
    /// 1 while a broker of it answers.
    pub connected: Family<UpstreamLabel, Gauge>,
    /// From a Produce request to its answer.
    pub produce_seconds: Family<UpstreamLabel, Histogram>,
}

impl Default for UpstreamMetrics {
    fn default() -> Self {
        // 1 ms to 65 s.
        let times = || Histogram::new((0..17).map(|n| 0.001 * f64::from(1u32 << n)));
        Self {
            records_forwarded: Family::default(),
            bytes_forwarded: Family::default(),
            batches_retried: Family::default(),
            timeouts: Family::default(),
            batches_refused: Family::default(),
            records_refused: Family::default(),
            records_skipped: Family::default(),
            log_went_back: Family::default(),
            connects: Family::default(),
            link_failures: Family::default(),
            producer_resets: Family::default(),
            panics: Family::default(),
            lag_records: Family::default(),
            inflight_bytes: Family::default(),
            connected: Family::default(),
            produce_seconds: Family::new_with_constructor(times),
        }
    }
}

impl UpstreamMetrics {
    #[rustfmt::skip]
    pub(super) fn register(&self, registry: &mut Registry) {
        let counters = [
            ("records_forwarded", "Records acknowledged by the centre", &self.records_forwarded),
            ("bytes_forwarded", "Bytes of batches acknowledged by the centre", &self.bytes_forwarded),
            ("batches_retried", "Batches sent again", &self.batches_retried),
            ("timeouts", "Links dropped because nothing moved within the request time-out", &self.timeouts),
            ("batches_refused", "Batches that the centre refused for good; they are kept", &self.batches_refused),
            ("records_refused", "Records in refused batches", &self.records_refused),
            ("records_skipped", "Records lost before they could be forwarded", &self.records_skipped),
            ("log_went_back", "Times the log had fewer records than were forwarded already", &self.log_went_back),
            ("connects", "Links that came to be", &self.connects),
            ("link_failures", "Links that could not be had, broke, hung or spoke nonsense", &self.link_failures),
            ("producer_resets", "Producer ids taken anew because the centre had lost track", &self.producer_resets),
            ("panics", "Panics of the forwarder; a new one goes on from the stored progress", &self.panics),
        ];
        for (name, help, counter) in counters {
            registry.register(format!("upstream_{name}"), help, counter.clone());
        }
        let gauges = [
            ("lag_records", "Records that the centre does not have yet", &self.lag_records),
            ("inflight_bytes", "Bytes of records in memory on their way", &self.inflight_bytes),
            ("connected", "1 while a broker of it answers", &self.connected),
        ];
        for (name, help, gauge) in gauges {
            registry.register(format!("upstream_{name}"), help, gauge.clone());
        }
        registry.register_with_unit(
            "upstream_produce",
            "From a Produce request to its answer",
            Unit::Seconds,
            self.produce_seconds.clone(),
        );
    }
}
