//! `headwater bench`: this machine's own limits, always beside a yardstick of the same run. `scripts/bench` calls it. The log is
//! measured inside this process, the protocols at a broker that runs already, whose CPU time is read from its process id.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Failure;

mod compact;
mod cpu;
mod disk;
mod kafka;
mod log;
mod mqtt;
mod ring;
mod table;
mod wear;

/// `headwater bench`
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(super) struct Bench {
    /// Measures the disk of a directory: what a durable write costs, which profile fits, how many acks to expect
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = ".")]
    disk: Option<PathBuf>,
    /// One JSON object a line, the last one with what it means
    #[arg(long, requires = "disk")]
    json: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What else is measured.
#[derive(Subcommand)]
enum Part {
    /// Durable appends through the log, against raw writes and syncs of the same size
    Log(log::BenchLog),
    /// Single produce requests over the Kafka protocol, one outstanding, against raw writes and syncs
    Kafka(kafka::BenchKafka),
    /// QoS 1 acknowledgements a second over many MQTT connections, of any MQTT broker
    Mqtt(mqtt::BenchMqtt),
    /// Batches of readings over one connection of the compact protocol
    Compact(compact::BenchCompact),
    /// What the disk gets for a commit: redb, the store by both profiles, raw
    Wear(wear::BenchWear),
}

impl Bench {
    pub(super) fn run(self) -> Result<(), Failure> {
        match (self.disk, self.part) {
            (Some(directory), _) => disk::run(&directory, self.json),
            (None, Some(Part::Log(bench))) => bench.run(),
            (None, Some(Part::Kafka(bench))) => bench.run(),
            (None, Some(Part::Mqtt(bench))) => bench.run(),
            (None, Some(Part::Compact(bench))) => bench.run(),
            (None, Some(Part::Wear(bench))) => bench.run(),
            (None, None) => Err(Failure::usage(
                "bench needs something to measure. Try: headwater bench --disk",
            )),
        }
    }
}
