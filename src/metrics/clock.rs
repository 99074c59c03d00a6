//! Metrics of the machine's clock.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The machine's clock.
#[derive(Debug, Default)]
pub struct ClockMetrics {
    /// 1 once it is trusted in this boot of the machine.
    pub trusted: Gauge,
    /// What has to be added to times of this boot from before it was trusted.
    pub correction_ms: Gauge,
}

impl ClockMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "clock_trusted",
            "1 once the machine's clock is trusted; until then time retention waits",
            self.trusted.clone(),
        );
        registry.register(
            "clock_correction_ms",
            "Milliseconds to be added to times from before the clock was trusted in this boot",
            self.correction_ms.clone(),
        );
    }
}
