//! `headwater tail`: records out, over the Kafka protocol.

use std::time::{Duration, Instant};

use clap::Args;

use super::Failure;
use super::broker::{BrokerArgs, refused};
use super::client::kafka::{KafkaClient, KafkaError};
use super::moment::{From, ago, to_rfc3339};
use super::output::{Out, json_record, printable};
use crate::model::{Offset, Partition, Record};

/// Kafka's time of the first offset that is there.
const EARLIEST: i64 = -2;
/// Kafka's code for an offset that is not there any more.
const OFFSET_OUT_OF_RANGE: i16 = 1;
/// Longest wait of one fetch.
const WAIT: Duration = Duration::from_millis(500);
/// Most bytes of one fetch.
const FETCH_BYTES: i32 = 1 << 20;
/// How long a broker that went is tried again, while following.
const RETRY: Duration = Duration::from_secs(60);

/// `headwater tail`
#[derive(Args)]
pub(super) struct Tail {
    /// Topic to read
    topic: String,
    #[command(flatten)]
    broker: BrokerArgs,
    /// Where to begin: earliest, latest, an offset, -1h, or 2026-01-31T08:00Z
    #[arg(long, default_value = "latest", allow_hyphen_values = true)]
    from: From,
    /// End after so many records
    #[arg(long)]
    count: Option<u64>,
    /// Wait for new records; this is the default
    #[arg(long, overrides_with = "no_follow")]
    follow: bool,
    /// End at what is there now
    #[arg(long)]
    no_follow: bool,
    /// One partition only
    #[arg(long)]
    partition: Option<u32>,
    /// Values alone, a line each, as they are
    #[arg(long, conflicts_with = "json")]
    values: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// A partition being read: where to go on, and where to stop when not following.
struct Reading {
    partition: Partition,
    next: Offset,
    stop: Offset,
}

impl Tail {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut client = self.broker.connect()?;
        let failed = |e: KafkaError| refused(&format!("topic {:?}", self.topic), &e);
        let mut readings = self.begin(&mut client).map_err(failed)?;
        if readings.is_empty() {
            return Err(Failure::absent(format!(
                "topic {:?} has no partition {}. Try: headwater topic describe {}",
                self.topic,
                self.partition.unwrap_or(0),
                self.topic
            )));
        }
        let mut out = Out::new();
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            if self.no_follow {
                readings.retain(|r| r.next < r.stop);
                if readings.is_empty() {
                    break;
                }
            }
            let from: Vec<_> = readings.iter().map(|r| (r.partition, r.next)).collect();
            let fetched = match client.fetch(&self.topic, &from, WAIT, FETCH_BYTES) {
                Ok(fetched) => fetched,
                Err(KafkaError::Io(_)) if !self.no_follow => {
                    client = self.reconnect()?;
                    continue;
                }
                Err(error) if error.code() == Some(OFFSET_OUT_OF_RANGE) => {
                    if !self.skip_what_went(&mut client, &mut readings).map_err(failed)? {
                        return Err(failed(error));
                    }
                    continue;
                }
                Err(error) => return Err(failed(error)),
            };
            for part in fetched {
                let Some(reading) = readings.iter_mut().find(|r| r.partition == part.partition) else {
                    continue;
                };
                for (offset, record) in &part.records {
                    if left == 0 || (self.no_follow && *offset >= reading.stop) {
                        break;
                    }
                    self.print(&mut out, part.partition, *offset, record)?;
                    left -= 1;
                }
                reading.next = part.next;
            }
            out.flush()?;
        }
        out.flush()
    }

    /// Records went before they were read. Says which, and goes on behind them; false when nothing went.
    fn skip_what_went(&self, client: &mut KafkaClient, readings: &mut [Reading]) -> Result<bool, KafkaError> {
        let mut went = false;
        for reading in readings {
            let start = client.offset_at(&self.topic, reading.partition, EARLIEST)?;
            let Some(start) = start.filter(|start| reading.next < *start) else {
                continue;
            };
            eprintln!(
                "headwater: {} partition {}: offsets {} to {} went before they were read, by retention or for the storage quota",
                self.topic,
                reading.partition,
                reading.next,
                start.0.saturating_sub(1)
            );
            reading.next = start;
            went = true;
        }
        Ok(went)
    }

    fn begin(&self, client: &mut KafkaClient) -> Result<Vec<Reading>, KafkaError> {
        const LATEST: i64 = -1;
        let mut readings = Vec::new();
        for partition in client.topic(&self.topic, false)?.partitions {
            if self.partition.is_some_and(|wanted| wanted != partition.0) {
                continue;
            }
            let mut at = |time_ms| client.offset_at(&self.topic, partition, time_ms);
            let stop = at(LATEST)?.unwrap_or_default();
            let time = match self.from {
                From::Earliest => Some(EARLIEST),
                From::Latest => Some(LATEST),
                From::Ago(ms) => Some(ago(ms)),
                From::Time(ms) => Some(ms),
                From::Offset(_) => None,
            };
            let next = match (time, self.from) {
                (Some(LATEST), _) => stop,
                // Nothing so late: what comes from now on.
                (Some(time_ms), _) => at(time_ms)?.unwrap_or(stop),
                (None, From::Offset(offset)) => Offset(offset).max(at(EARLIEST)?.unwrap_or_default()).min(stop),
                (None, _) => stop,
            };
            readings.push(Reading { partition, next, stop });
        }
        Ok(readings)
    }

    fn reconnect(&self) -> Result<KafkaClient, Failure> {
        let until = Instant::now() + RETRY;
        loop {
            match self.broker.connect() {
                Ok(client) => return Ok(client),
                Err(failure) if Instant::now() >= until => return Err(failure),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    fn print(&self, out: &mut Out, partition: Partition, offset: Offset, record: &Record) -> Result<(), Failure> {
        if self.json {
            return out.json(&json_record(&self.topic, partition, offset.0, record));
        }
        let text = |part: &Option<bytes::Bytes>| part.as_deref().map_or("-".to_owned(), printable);
        if self.values {
            return out.raw(record.value.as_deref().unwrap_or_default());
        }
        let time = to_rfc3339(record.timestamp_ms);
        out.line(&format!(
            "{time}\t{partition}:{offset}\t{}\t{}",
            text(&record.key),
            text(&record.value)
        ))
    }
}
