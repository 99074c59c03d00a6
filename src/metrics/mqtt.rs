//! Metrics of `mqtt`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// A counter for each name of a fixed set.
pub type ByName = Family<[(&'static str, &'static str); 1], Counter>;

/// Counters, gauges and histograms of `mqtt`.
#[derive(Debug)]
pub struct MqttMetrics {
    /// Accepted CONNECTs.
    pub connects: Counter,
    /// CONNECTs that were refused, by reason.
    pub connects_refused: ByName,
    /// Clients connected now.
    pub clients: Gauge,
    /// Sessions ended by the broker, by reason: protocol faults, time-outs, take-over, slow readers.
    pub disconnects: ByName,
    /// Persistent sessions, present and absent.
    pub sessions_stored: Gauge,
    /// Persistent sessions whose time was over.
    pub sessions_expired: Counter,
    /// Messages received, QoS 0.
    pub received_qos0: Counter,
    /// Messages received, QoS 1.
    pub received_qos1: Counter,
    /// Messages received, QoS 2.
    pub received_qos2: Counter,
    /// QoS 2 messages that were stored already and not stored again.
    pub duplicates: Counter,
    /// QoS 1 and 2 messages refused, by code.
    pub refused: ByName,
    /// QoS 0 messages that were not stored, by code.
    pub dropped_in: ByName,
    /// Messages with the retain flag; they are stored as records, not kept as retained.
    pub retain_flagged: Counter,
    /// Wills that the log took in.
    pub wills: Counter,
    /// Wills that the log refused.
    pub wills_refused: Counter,
    /// Subscriptions now.
    pub subscriptions: Gauge,
    /// Filters refused in SUBSCRIBE, by reason.
    pub subscriptions_refused: ByName,
    /// Messages sent to subscribers.
    pub delivered: Counter,
    /// Messages not sent to a subscriber, by reason: slow, too_large, expired.
    pub dropped_out: ByName,
    /// Records that live delivery passed over because they were gone or unreadable.
    pub hub_skipped: Counter,
    /// Time from reading a QoS 1 or 2 message to its acknowledgement.
    pub ack_seconds: Histogram,
}

impl Default for MqttMetrics {
    fn default() -> Self {
        Self {
            connects: Counter::default(),
            connects_refused: ByName::default(),
            clients: Gauge::default(),
            disconnects: ByName::default(),
            sessions_stored: Gauge::default(),
            sessions_expired: Counter::default(),
            received_qos0: Counter::default(),
            received_qos1: Counter::default(),
            received_qos2: Counter::default(),
            duplicates: Counter::default(),
            refused: ByName::default(),
            dropped_in: ByName::default(),
            retain_flagged: Counter::default(),
            wills: Counter::default(),
            wills_refused: Counter::default(),
            subscriptions: Gauge::default(),
            subscriptions_refused: ByName::default(),
            delivered: Counter::default(),
            dropped_out: ByName::default(),
            hub_skipped: Counter::default(),
            ack_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
        }
    }
}

impl MqttMetrics {
    /// Adds `n` to the counter of `name`.
    pub fn add(&self, family: &ByName, name: &'static str, n: u64) {
        family.get_or_create(&[("reason", name)]).inc_by(n);
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("mqtt");
        r.register("connects", "Accepted CONNECTs", self.connects.clone());
        r.register(
            "connects_refused",
            "Refused CONNECTs, by reason",
            self.connects_refused.clone(),
        );
        r.register("clients", "Clients connected now", self.clients.clone());
        r.register(
            "disconnects",
            "Sessions ended by the broker, by reason",
            self.disconnects.clone(),
        );
        r.register("sessions_stored", "Persistent sessions", self.sessions_stored.clone());
        r.register(
            "sessions_expired",
            "Persistent sessions that expired",
            self.sessions_expired.clone(),
        );
        r.register(
            "received_qos0",
            "Messages received with QoS 0",
            self.received_qos0.clone(),
        );
        r.register(
            "received_qos1",
            "Messages received with QoS 1",
            self.received_qos1.clone(),
        );
        r.register(
            "received_qos2",
            "Messages received with QoS 2",
            self.received_qos2.clone(),
        );
        r.register("duplicates", "QoS 2 messages stored already", self.duplicates.clone());
        r.register(
            "refused",
            "QoS 1 and 2 messages refused, by reason",
            self.refused.clone(),
        );
        r.register(
            "dropped_in",
            "QoS 0 messages not stored, by reason",
            self.dropped_in.clone(),
        );
        r.register(
            "retain_flagged",
            "Messages with the retain flag, stored as records only",
            self.retain_flagged.clone(),
        );
        r.register("wills", "Wills published", self.wills.clone());
        r.register(
            "wills_refused",
            "Wills that the log refused",
            self.wills_refused.clone(),
        );
        r.register("subscriptions", "Subscriptions now", self.subscriptions.clone());
        r.register(
            "subscriptions_refused",
            "Filters refused, by reason",
            self.subscriptions_refused.clone(),
        );
        r.register("delivered", "Messages sent to subscribers", self.delivered.clone());
        r.register(
            "dropped_out",
            "Messages not sent to a subscriber, by reason",
            self.dropped_out.clone(),
        );
        r.register(
            "hub_skipped",
            "Records that live delivery passed over, gone or unreadable",
            self.hub_skipped.clone(),
        );
        r.register_with_unit(
            "ack",
            "Time from reading a message to its acknowledgement",
            Unit::Seconds,
            self.ack_seconds.clone(),
        );
    }
}
