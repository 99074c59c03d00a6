//! `headwater bench kafka`: one connection, one produce request outstanding, acks=all, beside what the same disk does with raw
//! writes and syncs of the same bytes in the same run.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use serde::Serialize;

use super::super::Failure;
use super::super::broker::{BrokerArgs, refused};
use super::super::client::kafka::{KafkaClient, KafkaError};
use super::cpu::{Watched, per_million};
use super::ring::{Ring, Scratch, turns};
use super::table::{Table, percentiles};
use crate::model::{Partition, Record, batch};

const TOPIC: &str = "bench-singles";
const ALL: i16 = -1;

/// Arguments of `bench kafka`.
#[derive(Args)]
pub(in crate::cli) struct BenchKafka {
    #[command(flatten)]
    broker: BrokerArgs,
    /// Process id of the broker
    #[arg(long)]
    pid: Option<u32>,
    /// Directory on the broker's disk, for the raw writes
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Bytes of a record's value
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    bytes: u32,
    /// Partitions of the topic; each record goes to the next one
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,
    /// Seconds of the measurement, and of the raw one beside it
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Figures {
    record_bytes: u32,
    acks_per_second: f64,
    ack_p50_us: u64,
    ack_p99_us: u64,
    cpu_seconds_per_million: Option<f64>,
    raw_syncs_per_second: f64,
    raw_p50_us: u64,
    ratio: f64,
}

impl Figures {
    const HEADINGS: [&str; 8] = [
        "bytes",
        "acks/s",
        "ack p50 us",
        "ack p99 us",
        "CPU s/million",
        "raw syncs/s",
        "raw p50 us",
        "ratio to raw",
    ];

    fn cells(&self) -> [String; 8] {
        [
            self.record_bytes.to_string(),
            format!("{:.0}", self.acks_per_second),
            self.ack_p50_us.to_string(),
            self.ack_p99_us.to_string(),
            self.cpu_seconds_per_million
                .map_or("-".to_owned(), |cpu| format!("{cpu:.2}")),
            format!("{:.0}", self.raw_syncs_per_second),
            self.raw_p50_us.to_string(),
            format!("{:.2}", self.ratio),
        ]
    }
}

impl BenchKafka {
    pub(super) fn run(self) -> Result<(), Failure> {
        let watched = Watched::new(self.pid)?;
        let mut client = self.broker.connect()?;
        if client.topic(TOPIC, false).is_err() {
            client.create_topic(TOPIC, Some(self.partitions), &[]).map_err(failed)?;
        }
        let mut next = (0..self.partitions).cycle().map(Partition);
        let scratch = Scratch::new(&self.dir)?;
        let disk = |error: std::io::Error| Failure::failed(format!("the raw writes failed: {error}"));
        let ring = Ring::new(&scratch.path().join("ring")).map_err(disk)?;
        // The first writes find everything cold.
        self.produce(&mut client, &mut next, Duration::from_millis(300), &mut Vec::new())?;
        let (count, turn) = turns(self.seconds);
        let (mut latencies, mut raw_latencies) = (Vec::new(), Vec::new());
        let (mut time, mut raw_time, mut cpu) = (Duration::ZERO, Duration::ZERO, Some(0.0));
        for _ in 0..count {
            let before = watched.seconds();
            time += self.produce(&mut client, &mut next, turn, &mut latencies)?;
            let spent = watched.seconds().zip(before).map(|(after, before)| after - before);
            cpu = cpu.zip(spent).map(|(sum, spent)| sum + spent);
            raw_time += ring.run(self.bytes as usize, turn, &mut raw_latencies).map_err(disk)?;
        }
        let acks_per_second = latencies.len() as f64 / time.as_secs_f64();
        let raw_syncs_per_second = raw_latencies.len() as f64 / raw_time.as_secs_f64();
        let (ack_p50_us, ack_p99_us) = percentiles(&mut latencies);
        let (raw_p50_us, _) = percentiles(&mut raw_latencies);
        let figures = Figures {
            record_bytes: self.bytes,
            acks_per_second,
            ack_p50_us,
            ack_p99_us,
            cpu_seconds_per_million: per_million(Some(0.0), cpu, latencies.len()),
            raw_syncs_per_second,
            raw_p50_us,
            ratio: acks_per_second / raw_syncs_per_second,
        };
        Table::new(&Figures::HEADINGS, self.json)?.row(&figures.cells(), &figures)
    }

    fn produce(
        &self,
        client: &mut KafkaClient,
        partitions: &mut impl Iterator<Item = Partition>,
        time: Duration,
        latencies_us: &mut Vec<u64>,
    ) -> Result<Duration, Failure> {
        let value: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
            .take(self.bytes as usize)
            .collect();
        let record = Record {
            value: Some(value.into()),
            ..Record::default()
        };
        let batch = Bytes::from(batch::pack(&[record]));
        let start = Instant::now();
        while start.elapsed() < time
            && let Some(partition) = partitions.next()
        {
            let before = Instant::now();
            client.produce(TOPIC, partition, batch.clone(), ALL).map_err(failed)?;
            latencies_us.push(before.elapsed().as_micros() as u64);
        }
        Ok(start.elapsed())
    }
}

fn failed(error: KafkaError) -> Failure {
    refused(&format!("writing to {TOPIC:?}"), &error)
}
