//! `/metrics`: every room's numbers and the process's own, as OpenMetrics text.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::ProcessFacts;
use crate::metrics::Metrics;

/// The registry, and the gauges that are set at each scrape.
pub(super) struct Scrape {
    registry: Registry,
    resident_bytes: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    threads: Gauge,
    cpu_seconds: Counter<f64, AtomicU64>,
    written_bytes: Counter,
    start_seconds: Gauge<f64, AtomicU64>,
}

impl Scrape {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let mut registry = Registry::with_prefix("headwater");
        metrics.register(&mut registry);
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version that runs", build);
        let scrape = Self {
            resident_bytes: Gauge::default(),
            open_fds: Gauge::default(),
            max_fds: Gauge::default(),
            threads: Gauge::default(),
            cpu_seconds: Counter::default(),
            written_bytes: Counter::default(),
            start_seconds: Gauge::default(),
            registry: Registry::default(),
        };
        let process = registry.sub_registry_with_prefix("process");
        let bytes = scrape.resident_bytes.clone();
        process.register_with_unit("resident_memory", "Memory in use", Unit::Bytes, bytes);
        process.register("open_fds", "Open file descriptors", scrape.open_fds.clone());
        process.register(
            "max_fds",
            "Most file descriptors that may be open",
            scrape.max_fds.clone(),
        );
        process.register("threads", "Threads", scrape.threads.clone());
        let cpu = scrape.cpu_seconds.clone();
        process.register_with_unit("cpu", "Processor time used, user and system", Unit::Seconds, cpu);
        let written = scrape.written_bytes.clone();
        process.register(
            "written_bytes",
            "Bytes that the kernel counts as written to disks",
            written,
        );
        let start = scrape.start_seconds.clone();
        process.register_with_unit("start_time", "When it started, since 1970", Unit::Seconds, start);
        Self { registry, ..scrape }
    }

    pub(super) fn text(&self, facts: &ProcessFacts) -> String {
        let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.resident_bytes.set(whole(facts.resident_bytes));
        self.open_fds.set(whole(facts.open_fds));
        self.max_fds.set(whole(facts.max_fds));
        self.threads.set(whole(facts.threads));
        self.cpu_seconds
            .inner()
            .store(facts.cpu_seconds.to_bits(), Ordering::Relaxed);
        self.written_bytes.inner().store(facts.written_bytes, Ordering::Relaxed);
        self.start_seconds.set(facts.start_seconds);
        let mut text = String::with_capacity(16 * 1024);
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}
