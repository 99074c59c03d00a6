//! Metrics of `net`: connections and bytes.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// The protocol of a listener, as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ProtocolLabel {
    /// Its name as the configuration has it.
    pub protocol: &'static str,
}

/// Connections and bytes.
#[derive(Debug, Default)]
pub struct NetMetrics {
    /// Open connections.
    pub connections: Family<ProtocolLabel, Gauge>,
    /// Accepted connections.
    pub accepted: Family<ProtocolLabel, Counter>,
    /// Connections closed at once because `limits.connections` was reached.
    pub over_limit: Family<ProtocolLabel, Counter>,
    /// Connections that ended because the peer broke the protocol or a limit.
    pub peer_errors: Family<ProtocolLabel, Counter>,
    /// Connections that ended because of us: storage or a bug.
    pub broker_errors: Family<ProtocolLabel, Counter>,
    /// Connections closed because the peer sent no first frame, sent nothing or took nothing for too long.
    pub timeouts: Family<ProtocolLabel, Counter>,
    /// Sessions that panicked; each ended only itself.
    pub panics: Family<ProtocolLabel, Counter>,
    /// Failed accepts (out of file descriptors).
    pub accept_errors: Counter,
    /// Bytes received.
    pub received_bytes: Counter,
    /// Bytes sent.
    pub sent_bytes: Counter,
}

impl NetMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register("connections_accepted", "Accepted connections", self.accepted.clone());
        registry.register(
            "connections_over_limit",
            "Connections refused by limits.connections",
            self.over_limit.clone(),
        );
        registry.register(
            "connection_peer_errors",
            "Connections ended by a peer's error",
            self.peer_errors.clone(),
        );
        registry.register(
            "connection_broker_errors",
            "Connections ended by our failure",
            self.broker_errors.clone(),
        );
        registry.register(
            "connection_timeouts",
            "Connections closed for silence or a full pipe",
            self.timeouts.clone(),
        );
        registry.register("session_panics", "Sessions that panicked", self.panics.clone());
        registry.register("accept_errors", "Failed accepts", self.accept_errors.clone());
        registry.register_with_unit("received", "Bytes received", Unit::Bytes, self.received_bytes.clone());
        registry.register_with_unit("sent", "Bytes sent", Unit::Bytes, self.sent_bytes.clone());
    }
}
