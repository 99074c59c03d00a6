//! A topic read back whole through the Kafka protocol: from the broker of the demo, or from the centre.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::client::kafka::{KafkaClient, KafkaError};
use super::account::Stored;
use crate::model::{Offset, Partition};

/// Bound of every wait for an answer, and of the whole.
const TIMEOUT: Duration = Duration::from_secs(10);
const FETCH_BYTES: i32 = 1 << 20;
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

/// Every record of a topic up to where its partitions end now, each partition in offset order.
pub(super) fn read(address: &str, topic: &str) -> Result<Vec<Stored>, KafkaError> {
    let mut client = KafkaClient::connect(address, TIMEOUT)?;
    let mut records = Vec::new();
    for partition in client.topic(topic, false)?.partitions {
        let start = at(&mut client, topic, partition, EARLIEST)?;
        let stop = at(&mut client, topic, partition, LATEST)?;
        read_partition(&mut client, topic, partition, (start, stop), &mut records)?;
    }
    Ok(records)
}

/// The newest record of each partition that has one.
pub(super) fn newest(address: &str, topic: &str) -> Result<Vec<Stored>, KafkaError> {
    let mut client = KafkaClient::connect(address, TIMEOUT)?;
    let mut records = Vec::new();
    for partition in client.topic(topic, false)?.partitions {
        let start = at(&mut client, topic, partition, EARLIEST)?;
        let stop = at(&mut client, topic, partition, LATEST)?;
        if start < stop {
            let last = Offset(stop.0.saturating_sub(1));
            read_partition(&mut client, topic, partition, (last, stop), &mut records)?;
        }
    }
    Ok(records)
}

/// How many records a topic has; `None` while it is not there.
pub(super) fn count(address: &str, topic: &str) -> Result<Option<u64>, KafkaError> {
    const UNKNOWN_TOPIC: i16 = 3;
    let mut client = KafkaClient::connect(address, TIMEOUT)?;
    let found = match client.topic(topic, false) {
        Err(error) if error.code() == Some(UNKNOWN_TOPIC) => return Ok(None),
        found => found?,
    };
    let mut count = 0;
    for partition in found.partitions {
        let start = at(&mut client, topic, partition, EARLIEST)?;
        count += at(&mut client, topic, partition, LATEST)?.0.saturating_sub(start.0);
    }
    Ok(Some(count))
}

fn at(client: &mut KafkaClient, topic: &str, partition: Partition, time_ms: i64) -> Result<Offset, KafkaError> {
    Ok(client.offset_at(topic, partition, time_ms)?.unwrap_or_default())
}

fn read_partition(
    client: &mut KafkaClient,
    topic: &str,
    partition: Partition,
    (start, stop): (Offset, Offset),
    records: &mut Vec<Stored>,
) -> Result<(), KafkaError> {
    let (mut next, until) = (start, Instant::now() + TIMEOUT);
    while next < stop {
        if Instant::now() > until {
            let text = format!("{topic} partition {partition} gave nothing more at offset {next} of {stop}");
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, text).into());
        }
        for part in client.fetch(topic, &[(partition, next)], Duration::from_millis(500), FETCH_BYTES)? {
            next = part.next.max(next);
            let new = part.records.into_iter().filter(|(offset, _)| *offset < stop);
            records.extend(new.map(|(offset, record)| Stored {
                partition: partition.0,
                offset: offset.0,
                key: record.key.unwrap_or_else(Bytes::new),
                value: record.value.unwrap_or_else(Bytes::new),
            }));
        }
    }
    Ok(())
}
