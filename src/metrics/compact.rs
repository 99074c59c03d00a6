//! Metrics of `compact`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// A counter for each name of a fixed set.
type ByName = Family<[(&'static str, &'static str); 1], Counter>;

/// Counters, gauges and histograms of `compact`.
#[derive(Debug)]
pub struct CompactMetrics {
    /// Sessions opened by a Hello.
    pub hellos: Counter,
    /// Devices connected now.
    pub devices: Gauge,
    /// Sessions ended by the broker, by reason.
    pub ended: ByName,
    /// Sessions that a newer one of the same device took over.
    pub takeovers: Counter,
    /// Frames with a wrong CRC, length or stuffing.
    pub bad_frames: Counter,
    /// Records received, resent ones among them.
    pub received: Counter,
    /// Records stored.
    pub stored: Counter,
    /// Records that came again and were stored already.
    pub duplicates: Counter,
    /// Records that came while an earlier one was missing; they are sent again.
    pub out_of_order: Counter,
    /// Records that devices said they lost.
    pub lost: Counter,
    /// Holes in the sequence of a device.
    pub gaps: Counter,
    /// Nacks, by code.
    pub nacks: ByName,
    /// Submissions that found the device's state moved by another session.
    pub conflicts: Counter,
    /// Commands sent, resent ones among them.
    pub commands_sent: Counter,
    /// Commands that devices carried out.
    pub commands_acked: Counter,
    /// Commands not sent, because they are larger than the device can receive.
    pub commands_too_large: Counter,
    /// Time from a record's arrival to its Ack.
    pub ack_seconds: Histogram,
}

impl Default for CompactMetrics {
    fn default() -> Self {
        Self {
            hellos: Counter::default(),
            devices: Gauge::default(),
            ended: ByName::default(),
            takeovers: Counter::default(),
            bad_frames: Counter::default(),
            received: Counter::default(),
            stored: Counter::default(),
            duplicates: Counter::default(),
            out_of_order: Counter::default(),
            lost: Counter::default(),
            gaps: Counter::default(),
            nacks: ByName::default(),
            conflicts: Counter::default(),
            commands_sent: Counter::default(),
            commands_acked: Counter::default(),
            commands_too_large: Counter::default(),
            ack_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
        }
    }
}

impl CompactMetrics {
    /// Counts a session's end.
    pub fn end(&self, reason: &'static str) {
        self.ended.get_or_create(&[("reason", reason)]).inc();
    }

    /// Counts a Nack.
    pub fn nack(&self, code: &'static str) {
        self.nacks.get_or_create(&[("code", code)]).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("compact");
        r.register("hellos", "Sessions opened", self.hellos.clone());
        r.register("devices", "Devices connected now", self.devices.clone());
        r.register("ended", "Sessions ended by the broker, by reason", self.ended.clone());
        r.register(
            "takeovers",
            "Sessions taken over by a newer one of the same device",
            self.takeovers.clone(),
        );
        r.register("bad_frames", "Frames that arrived damaged", self.bad_frames.clone());
        r.register("received", "Records received", self.received.clone());
        r.register("stored", "Records stored", self.stored.clone());
        r.register(
            "duplicates",
            "Records that were stored already",
            self.duplicates.clone(),
        );
        r.register(
            "out_of_order",
            "Records that came while an earlier one was missing",
            self.out_of_order.clone(),
        );
        r.register("lost", "Records that devices lost", self.lost.clone());
        r.register("gaps", "Holes in a device's sequence", self.gaps.clone());
        r.register("nacks", "Refusals, by code", self.nacks.clone());
        r.register(
            "conflicts",
            "Submissions that found the device's state moved",
            self.conflicts.clone(),
        );
        r.register("commands_sent", "Commands sent", self.commands_sent.clone());
        r.register("commands_acked", "Commands carried out", self.commands_acked.clone());
        r.register(
            "commands_too_large",
            "Commands larger than the device can receive",
            self.commands_too_large.clone(),
        );
        r.register(
            "ack_seconds",
            "Time from a record's arrival to its Ack",
            self.ack_seconds.clone(),
        );
    }
}
