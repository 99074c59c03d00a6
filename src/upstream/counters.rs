//! The metrics of one upstream, looked up once.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::metrics::{Metrics, UpstreamLabel};

#[derive(Debug)]
pub(super) struct Counters {
    pub(super) records_forwarded: Counter,
    pub(super) bytes_forwarded: Counter,
    pub(super) batches_retried: Counter,
    pub(super) timeouts: Counter,
    pub(super) batches_refused: Counter,
    pub(super) records_refused: Counter,
    pub(super) records_skipped: Counter,
    pub(super) log_went_back: Counter,
    pub(super) connects: Counter,
    pub(super) link_failures: Counter,
    pub(super) producer_resets: Counter,
    pub(super) lag_records: Gauge,
    pub(super) inflight_bytes: Gauge,
    pub(super) connected: Gauge,
    pub(super) produce_seconds: Histogram,
}

impl Counters {
    pub(super) fn new(metrics: &Metrics, upstream: &str) -> Self {
        let label = UpstreamLabel {
            upstream: upstream.to_owned(),
        };
        let m = &metrics.upstream;
        Self {
            records_forwarded: m.records_forwarded.get_or_create_owned(&label),
            bytes_forwarded: m.bytes_forwarded.get_or_create_owned(&label),
            batches_retried: m.batches_retried.get_or_create_owned(&label),
            timeouts: m.timeouts.get_or_create_owned(&label),
            batches_refused: m.batches_refused.get_or_create_owned(&label),
            records_refused: m.records_refused.get_or_create_owned(&label),
            records_skipped: m.records_skipped.get_or_create_owned(&label),
            log_went_back: m.log_went_back.get_or_create_owned(&label),
            connects: m.connects.get_or_create_owned(&label),
            link_failures: m.link_failures.get_or_create_owned(&label),
            producer_resets: m.producer_resets.get_or_create_owned(&label),
            lag_records: m.lag_records.get_or_create_owned(&label),
            inflight_bytes: m.inflight_bytes.get_or_create_owned(&label),
            connected: m.connected.get_or_create_owned(&label),
            produce_seconds: m.produce_seconds.get_or_create_owned(&label),
        }
    }
}
