//! Names and counters: one struct a room, each in a file of its own, registered under `headwater_`. Rooms hold an
//! `Arc<Metrics>` and count; `http` encodes. Label values come from fixed sets only, never from peers.

use prometheus_client::registry::Registry;

mod clock;
mod compact;
mod health;
mod kafka;
mod log;
mod mqtt;
mod net;
mod upstream;
mod wear;

pub use clock::ClockMetrics;
pub use compact::CompactMetrics;
pub use health::Health;
pub use kafka::KafkaMetrics;
pub use log::LogMetrics;
pub use mqtt::{ByName as MqttByName, MqttMetrics};
pub use net::{NetMetrics, ProtocolLabel};
pub use upstream::{UpstreamLabel, UpstreamMetrics};
pub use wear::{ProfileLabel, WearMetrics};

/// All metrics of the process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// What is degraded right now, for `/healthz` and `/readyz`.
    pub health: Health,
    /// The log and its writer.
    pub log: LogMetrics,
    /// MQTT.
    pub mqtt: MqttMetrics,
    /// The Kafka protocol.
    pub kafka: KafkaMetrics,
    /// The compact protocol.
    pub compact: CompactMetrics,
    /// Connections.
    pub net: NetMetrics,
    /// The forwarder.
    pub upstream: UpstreamMetrics,
    /// The machine's clock.
    pub clock: ClockMetrics,
    /// What is written to the disk.
    pub wear: WearMetrics,
}

impl Metrics {
    /// Registers everything.
    pub fn register(&self, registry: &mut Registry) {
        self.log.register(registry);
        self.mqtt.register(registry);
        self.kafka.register(registry);
        self.compact.register(registry);
        self.net.register(registry);
        self.upstream.register(registry);
        self.clock.register(registry);
        self.wear.register(registry);
    }
}
