//! `headwater bench`: this machine's own limits, always beside a yardstick of the same run. `scripts/bench` calls it. The log is
//! measured inside this process, the protocols at a broker that runs already, whose CPU time is read from its process id.

use clap::Subcommand;

use super::Failure;

mod compact;
mod cpu;
mod kafka;
mod log;
mod mqtt;
mod ring;
mod table;

/// Measures this machine
#[derive(Subcommand)]
pub(super) enum Bench {
    /// Durable appends through the log, against raw writes and syncs of the same size
    Log(log::BenchLog),
    /// Single produce requests over the Kafka protocol, one outstanding, against raw writes and syncs
    Kafka(kafka::BenchKafka),
    /// QoS 1 acknowledgements a second over many MQTT connections, of any MQTT broker
    Mqtt(mqtt::BenchMqtt),
    /// Batches of readings over one connection of the compact protocol
    Compact(compact::BenchCompact),
}

impl Bench {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Log(bench) => bench.run(),
            Self::Kafka(bench) => bench.run(),
            Self::Mqtt(bench) => bench.run(),
            Self::Compact(bench) => bench.run(),
        }
    }
}
