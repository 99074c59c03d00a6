//! `headwater produce`: a record a line from standard input, over the Kafka protocol. With `--acks all` (the default) as an
//! idempotent producer, which sends again what was not acknowledged without storing it twice.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde_json::json;

use super::Failure;
use super::broker::{BrokerArgs, refused};
use super::client::kafka::{KafkaClient, KafkaError, Producer};
use super::output::Out;
use crate::model::name::partition_of_key;
use crate::model::{Partition, Record, RecordHeader, batch};

/// Lines read ahead; then reading waits.
const AHEAD: usize = 1024;
/// Records and bytes gathered into one round of requests.
const ROUND_RECORDS: usize = 1000;
const ROUND_BYTES: usize = 256 * 1024;
/// How long a broker that went is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// `headwater produce`
#[derive(Args)]
pub(super) struct Produce {
    /// Topic to write to
    topic: String,
    #[command(flatten)]
    broker: BrokerArgs,
    /// Key of every record
    #[arg(long, conflicts_with = "key_separator")]
    key: Option<String>,
    /// Splits each line into key and value at the first of these
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key_separator: Option<String>,
    /// A header of every record
    #[arg(long, value_name = "NAME=VALUE")]
    header: Vec<String>,
    /// What to wait for: all and 1 are on disk, 0 waits for nothing and promises nothing
    #[arg(long, value_enum, default_value = "all")]
    acks: Acks,
    /// Partition; without it, by the key, or in turn
    #[arg(long)]
    partition: Option<u32>,
    /// One JSON object with what was written
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Acks {
    All,
    #[value(name = "1")]
    One,
    #[value(name = "0")]
    None,
}

impl Acks {
    fn kafka(self) -> i16 {
        match self {
            Self::All => -1,
            Self::One => 1,
            Self::None => 0,
        }
    }
}

impl Produce {
    pub(super) fn run(self) -> Result<(), Failure> {
        let headers = self.headers()?;
        let mut client = self.broker.connect()?;
        let failed = |e: KafkaError| refused(&format!("topic {:?}", self.topic), &e);
        let partitions = client.topic(&self.topic, true).map_err(failed)?.partitions;
        if let Some(partition) = self.partition.filter(|p| !partitions.contains(&Partition(*p))) {
            let text = format!(
                "topic {:?} has {} partitions and none numbered {partition}. Try: --partition 0 to {}",
                self.topic,
                partitions.len(),
                partitions.len().saturating_sub(1)
            );
            return Err(Failure::absent(text));
        }
        let mut producer = match self.acks {
            Acks::All => Some(client.producer().map_err(failed)?),
            _ => None,
        };
        let lines = lines();
        let (mut count, mut bytes, mut round) = (0_u64, 0_u64, 0_usize);
        let mut ended = Ok(());
        while let Ok(first) = lines.recv() {
            let mut by_partition: BTreeMap<Partition, Vec<Record>> = BTreeMap::new();
            let (mut records, mut size, mut line) = (0, 0, Some(first));
            while let Some(next) = line {
                let record = match next
                    .map_err(|e| Failure::failed(format!("reading standard input: {e}")))
                    .and_then(|l| self.record(&l, &headers))
                {
                    Ok(record) => record,
                    Err(failure) => {
                        ended = Err(failure);
                        break;
                    }
                };
                (records, size) = (records + 1, size + record.size_bytes());
                by_partition
                    .entry(self.place(&record, &partitions, round))
                    .or_default()
                    .push(record);
                let full = records >= ROUND_RECORDS || size >= ROUND_BYTES;
                line = if full { None } else { lines.try_recv().ok() };
            }
            round += 1;
            for (partition, records) in by_partition {
                self.send(&mut client, producer.as_mut(), partition, &records)?;
                count += records.len() as u64;
            }
            bytes += size as u64;
            if ended.is_err() {
                break;
            }
        }
        let mut out = Out::new();
        match self.json {
            true => out.json(&json!({ "topic": self.topic, "records": count, "bytes": bytes }))?,
            false => eprintln!("headwater: {count} records to {}", self.topic),
        }
        out.flush()?;
        ended
    }

    fn headers(&self) -> Result<Vec<RecordHeader>, Failure> {
        let header = |text: &String| match text.split_once('=') {
            Some((name, value)) => Ok(RecordHeader {
                name: name.to_owned(),
                value: Some(Bytes::from(value.to_owned())),
            }),
            None => Err(Failure::usage(format!(
                "{text:?} is not a header. Try: --header site=north"
            ))),
        };
        self.header.iter().map(header).collect()
    }

    fn record(&self, line: &[u8], headers: &[RecordHeader]) -> Result<Record, Failure> {
        let (key, value) = match &self.key_separator {
            None => (self.key.as_ref().map(|key| key.as_bytes().to_vec()), line),
            Some(separator) => {
                let at = line
                    .windows(separator.len())
                    .position(|window| window == separator.as_bytes());
                let Some(at) = at else {
                    let text = format!(
                        "the line {:?} has no {separator:?} in it. Try: lines such as press-1{separator}21.5",
                        super::output::printable(line),
                    );
                    return Err(Failure::usage(text));
                };
                (Some(line[..at].to_vec()), &line[at + separator.len()..])
            }
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Record {
            key: key.map(Bytes::from),
            value: Some(Bytes::copy_from_slice(value)),
            headers: headers.to_vec(),
            timestamp_ms: i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
        })
    }

    fn place(&self, record: &Record, partitions: &[Partition], round: usize) -> Partition {
        match (self.partition, &record.key) {
            (Some(partition), _) => Partition(partition),
            (None, Some(key)) => partition_of_key(key, u32::try_from(partitions.len()).unwrap_or(u32::MAX)),
            (None, None) => partitions
                .get(round % partitions.len().max(1))
                .copied()
                .unwrap_or(Partition(0)),
        }
    }

    /// Sends a batch until it is acknowledged. Only an idempotent producer may send again.
    fn send(
        &self,
        client: &mut KafkaClient,
        producer: Option<&mut Producer>,
        partition: Partition,
        records: &[Record],
    ) -> Result<(), Failure> {
        let again = producer.is_some();
        let batch = match producer {
            Some(producer) => producer.pack(&self.topic, partition, records),
            None => Bytes::from(batch::pack(records)),
        };
        let until = Instant::now() + RETRY;
        loop {
            match client.produce(&self.topic, partition, batch.clone(), self.acks.kafka()) {
                Ok(_) => return Ok(()),
                Err(KafkaError::Io(_)) if again && Instant::now() < until => loop {
                    std::thread::sleep(Duration::from_millis(200));
                    match self.broker.connect() {
                        Ok(connected) => {
                            *client = connected;
                            break;
                        }
                        Err(failure) if Instant::now() >= until => return Err(failure),
                        Err(_) => {}
                    }
                },
                Err(error) => return Err(refused(&format!("writing to {:?}", self.topic), &error)),
            }
        }
    }
}

/// Lines of standard input without their ends, read on a thread so that what is there can go while more is awaited.
fn lines() -> Receiver<std::io::Result<Vec<u8>>> {
    let (sender, receiver) = sync_channel(AHEAD);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let sent = match input.read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) => {
                    if line.ends_with(b"\n") {
                        line.pop();
                    }
                    if line.ends_with(b"\r") {
                        line.pop();
                    }
                    sender.send(Ok(line))
                }
                Err(error) => {
                    let _ = sender.send(Err(error));
                    return;
                }
            };
            if sent.is_err() {
                return;
            }
        }
    });
    receiver
}
