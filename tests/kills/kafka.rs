//! Kafka producers, idempotent and not, and the reader of the whole log.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::time::Duration;

use bytes::Bytes;
use headwater::cli::client::kafka::{KafkaClient, KafkaError, Producer};
use headwater::kafka_wire::StrBytes;
use headwater::kafka_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use headwater::kafka_wire::messages::{ProduceRequest, TopicName};
use headwater::model::batch::{Batch, pack};
use headwater::model::{Offset, Partition, Record};

use crate::checker::{ReadBack, Seen};
use crate::ledger::{Kind, Ledger, Place, identity, wrong};
use crate::load::{ANSWER_WITHIN, Client, Shared, breathe, refused};

/// Topics of the producers, made before the load, with `PARTITIONS` each.
pub const TOPICS: [&str; 2] = ["kills-idempotent", "kills-plain"];
pub const PARTITIONS: u32 = 2;

const PRODUCE: i16 = 8;
/// Batches on their way; the broker remembers five.
const BATCHES_MAX: usize = 4;

struct Pending {
    batch: Bytes,
    counters: Vec<u64>,
}

/// A producer that writes to one partition.
pub struct KafkaLoad {
    ledger: Ledger,
    address: String,
    topic: &'static str,
    partition: Partition,
    producer: Option<Producer>,
    in_flight: VecDeque<Pending>,
}

impl KafkaLoad {
    pub fn new(kind: Kind, number: usize, address: &str) -> Self {
        Self {
            ledger: Ledger::new(kind, number),
            address: address.to_owned(),
            topic: TOPICS[usize::from(kind != Kind::Idempotent)],
            partition: Partition(number as u32 % PARTITIONS),
            producer: None,
            in_flight: VecDeque::new(),
        }
    }

    fn pack(&mut self, rng: &mut fastrand::Rng) -> Pending {
        let mut counters = Vec::new();
        let records: Vec<Record> = (0..rng.usize(1..12))
            .map(|_| {
                let (counter, value) = self.ledger.next(rng);
                counters.push(counter);
                Record {
                    key: Some(Bytes::from(self.ledger.name.clone())),
                    value: Some(Bytes::from(value)),
                    headers: Vec::new(),
                    timestamp_ms: 1_700_000_000_000 + counter as i64,
                }
            })
            .collect();
        let batch = match &mut self.producer {
            Some(producer) => producer.pack(self.topic, self.partition, &records),
            None => Bytes::from(pack(&records)),
        };
        Pending { batch, counters }
    }

    fn answer(&mut self, client: &mut KafkaClient) -> Result<(), KafkaError> {
        let answer = client.receive::<ProduceRequest>(PRODUCE)?;
        let Some(part) = answer.responses.iter().flat_map(|t| &t.partition_responses).next() else {
            return Err(refusal(0, "an answer without the partition"));
        };
        if part.error_code != 0 {
            return Err(refusal(part.error_code, "a batch was refused"));
        }
        let done = self.in_flight.pop_front();
        let done = done.ok_or_else(|| refusal(0, "an answer to nothing"))?;
        for (offset, counter) in (part.base_offset..).zip(&done.counters) {
            self.ledger.ack(*counter);
            let Ok(offset) = u64::try_from(offset) else { continue };
            self.ledger.placed.push(Place {
                counter: *counter,
                topic: self.topic.to_owned(),
                partition: self.partition.0 as i32,
                offset,
            });
        }
        Ok(())
    }

    fn run(&mut self, shared: &Shared, rng: &mut fastrand::Rng) -> Result<(), KafkaError> {
        let mut client = KafkaClient::connect(&self.address, ANSWER_WITHIN)?;
        if self.ledger.kind == Kind::Idempotent && self.producer.is_none() {
            self.producer = Some(client.producer()?);
        }
        // Everything that has no answer yet goes again, byte for byte and in order.
        self.ledger.resent += self.in_flight.len() as u64;
        for pending in &self.in_flight {
            client.send(PRODUCE, &request(self.topic, self.partition, pending))?;
        }
        loop {
            while !self.in_flight.is_empty() {
                self.answer(&mut client)?;
            }
            if shared.is_ending() {
                return Ok(());
            }
            breathe(rng);
            for _ in 0..rng.usize(1..=BATCHES_MAX) {
                let pending = self.pack(rng);
                let request = request(self.topic, self.partition, &pending);
                self.in_flight.push_back(pending);
                client.send(PRODUCE, &request)?;
            }
        }
    }
}

impl Client for KafkaLoad {
    fn session(&mut self, shared: &Shared, rng: &mut fastrand::Rng) -> io::Result<()> {
        self.run(shared, rng).map_err(broken)
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

fn request(topic: &str, partition: Partition, pending: &Pending) -> ProduceRequest {
    let data = PartitionProduceData::default()
        .with_index(partition.0 as i32)
        .with_records(Some(pending.batch.clone()));
    let topic = TopicProduceData::default()
        .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partition_data(vec![data]);
    ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![topic])
}

fn refusal(code: i16, text: &str) -> KafkaError {
    KafkaError::Refused {
        code,
        text: text.to_owned(),
    }
}

fn broken(error: KafkaError) -> io::Error {
    match error {
        KafkaError::Io(error) => error,
        error => refused(error),
    }
}

/// Makes the producers' topics.
pub fn create_topics(address: &str, settings: &[(String, String)]) -> Result<(), KafkaError> {
    let mut client = KafkaClient::connect(address, ANSWER_WITHIN)?;
    for topic in TOPICS {
        client.create_topic(topic, Some(PARTITIONS), settings)?;
    }
    Ok(())
}

/// Reads every topic from its log start, or from `from` where that names a later offset, up to where it ended when the reading
/// began.
pub fn read_back(address: &str, from: &BTreeMap<(String, i32), u64>) -> io::Result<ReadBack> {
    let mut client = KafkaClient::connect(address, ANSWER_WITHIN).map_err(broken)?;
    let mut read = ReadBack::default();
    for topic in client.metadata(None, false).map_err(broken)? {
        for partition in topic.partitions {
            let key = (topic.name.clone(), partition.0 as i32);
            let least = from.get(&key).copied().unwrap_or(0);
            let part = read_partition(&mut client, &topic.name, partition, least)?;
            read.partitions.insert(key, part);
        }
    }
    Ok(read)
}

fn read_partition(
    client: &mut KafkaClient,
    topic: &str,
    partition: Partition,
    least: u64,
) -> io::Result<(u64, Vec<Seen>)> {
    'again: loop {
        let mut at = |time| client.offset_at(topic, partition, time).map_err(broken)?.ok_or_else(|| wrong("no bounds"));
        let start = at(-2)?.max(Offset(least));
        let end = at(-1)?;
        if start > end {
            return Err(wrong(format!("{topic}/{} ends at {end:?}, it was read up to {start:?}", partition.0)));
        }
        let (mut next, mut seen) = (start, Vec::new());
        while next < end {
            let fetched = match client.fetch(topic, &[(partition, next)], Duration::from_millis(500), 4 << 20) {
                // Retention was quicker.
                Err(error) if error.code() == Some(1) => continue 'again,
                result => result.map_err(broken)?,
            };
            let part = fetched.into_iter().next().ok_or_else(|| wrong("an empty fetch"))?;
            if part.next <= next {
                return Err(wrong(format!("{topic}/{} gives nothing at {next:?}, its end is {end:?}", partition.0)));
            }
            seen.extend(part.records.iter().map(|(offset, record)| Seen {
                offset: offset.0,
                digest: digest(record),
                from: record.value.as_deref().and_then(identity).map(|(name, n)| (name.to_owned(), n)),
            }));
            next = part.next;
        }
        return Ok((start.0, seen));
    }
}

fn digest(record: &Record) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&record.key, &record.value, record.timestamp_ms).hash(&mut hasher);
    for header in &record.headers {
        (&header.name, &header.value).hash(&mut hasher);
    }
    hasher.finish()
}

/// A batch parses as the one it was packed from: the reader and the producers share this code, so it is looked at once.
#[test]
fn a_packed_batch_reads_as_its_records() {
    let record = Record {
        value: Some(Bytes::from_static(b"plain-0 7 x")),
        ..Record::default()
    };
    let batch = Batch::parse(pack(&[record]).into()).expect("a whole batch");
    let records = batch.records(1 << 20).expect("its records");
    assert_eq!(identity(records[0].1.value.as_deref().expect("a value")), Some(("plain-0", 7)));
}
