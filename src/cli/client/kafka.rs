//! A blocking Kafka client over one connection to one broker: what headwater is, and what a test's centre is. It follows no
//! leader to another broker; the forwarder does.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest, FetchRequest,
    IncrementalAlterConfigsRequest, InitProducerIdRequest, ListOffsetsRequest, MetadataRequest, ProduceRequest,
    TopicName, describe_configs_request,
};

use super::dial;
use crate::kafka_wire::{self, RequestType, StrBytes, WireError};
use crate::model::batch::{self, Batch};
use crate::model::{Offset, Partition, Record};

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Kafka's `ConfigResource.Type`.
const TOPIC: i8 = 2;
/// Largest records section after decompression.
const RECORDS_BYTES_MAX: usize = 256 << 20;

/// Why a request failed.
#[derive(Debug)]
pub enum KafkaError {
    /// The connection: connect again, then resend.
    Io(io::Error),
    /// Bytes that are not the answer they should be.
    Wire(WireError),
    /// The broker refused.
    Refused {
        /// Kafka's error code.
        code: i16,
        /// What the broker says, or the code's name.
        text: String,
    },
}

impl fmt::Display for KafkaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Wire(error) => write!(f, "{error}"),
            Self::Refused { code, text } => write!(f, "{text} (error {code})"),
        }
    }
}

impl std::error::Error for KafkaError {}

impl From<io::Error> for KafkaError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<WireError> for KafkaError {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl KafkaError {
    fn check(code: i16, message: Option<&StrBytes>) -> Result<(), Self> {
        if code == 0 {
            return Ok(());
        }
        let text = message.map_or_else(|| code_name(code).to_owned(), |m| m.to_string());
        Err(Self::Refused { code, text })
    }

    /// The broker's error code, if it refused.
    pub fn code(&self) -> Option<i16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// Words for the codes that a broker answers these requests with.
fn code_name(code: i16) -> &'static str {
    match code {
        1 => "the offset is out of range",
        2 => "a corrupt batch",
        3 => "no such topic or partition",
        5 | 6 => "the partition has no leader here",
        7 => "the request timed out in the broker",
        10 | 18 => "too large",
        17 => "not a valid topic name",
        35 => "a protocol version that is not served",
        36 => "the topic exists already",
        37 => "an impossible number of partitions",
        40 => "an unknown or impossible setting",
        45 => "a sequence number was skipped",
        46 => "a sequence number from long ago",
        47 => "a newer producer has taken over",
        56 => "the broker's storage failed",
        59 => "the producer's state is gone",
        87 => "a record that breaks the rules",
        _ => "refused",
    }
}

/// A topic as the broker knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMetadata {
    /// Name.
    pub name: String,
    /// Kafka's error code; 0 when the topic is there.
    pub code: i16,
    /// Its partitions, in order.
    pub partitions: Vec<Partition>,
}

/// What a fetch brought of one partition.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Which partition.
    pub partition: Partition,
    /// Records from the offset asked for on, with their offsets.
    pub records: Vec<(Offset, Record)>,
    /// Where to go on.
    pub next: Offset,
}

/// One connection.
pub struct KafkaClient {
    stream: TcpStream,
    client_id: String,
    correlation: i32,
}

impl KafkaClient {
    /// Connects; `timeout` also bounds every read and write.
    pub fn connect(address: &str, timeout: Duration) -> Result<Self, KafkaError> {
        Ok(Self {
            stream: dial(address, timeout)?,
            client_id: "headwater-cli".to_owned(),
            correlation: 0,
        })
    }

    /// Sends one request.
    pub fn send<R: RequestType>(&mut self, version: i16, request: &R) -> Result<(), KafkaError> {
        self.correlation = self.correlation.wrapping_add(1);
        let frame = kafka_wire::encode_request(version, self.correlation, &self.client_id, request)?;
        Ok(self.stream.write_all(&frame)?)
    }

    /// Reads one answer: to the oldest request that has none yet.
    pub fn receive<R: RequestType>(&mut self, version: i16) -> Result<R::Response, KafkaError> {
        let mut prefix = [0; kafka_wire::LENGTH_BYTES];
        self.stream.read_exact(&mut prefix)?;
        let whole = kafka_wire::frame_bytes(&prefix, ANSWER_BYTES_MAX)?.unwrap_or_default();
        let mut frame = vec![0; whole.saturating_sub(prefix.len())];
        self.stream.read_exact(&mut frame)?;
        Ok(kafka_wire::decode_response::<R>(version, Bytes::from(frame))?.1)
    }

    /// One request and its answer.
    pub fn call<R: RequestType>(&mut self, version: i16, request: &R) -> Result<R::Response, KafkaError> {
        self.send(version, request)?;
        self.receive::<R>(version)
    }

    /// The topics named, or all; `create` makes those that are not there, if the broker does so.
    pub fn metadata(&mut self, topics: Option<&[&str]>, create: bool) -> Result<Vec<TopicMetadata>, KafkaError> {
        let named = |name: &&str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request = MetadataRequest::default()
            .with_topics(topics.map(|names| names.iter().map(named).collect()))
            .with_allow_auto_topic_creation(create);
        let answer = self.call(8, &request)?;
        let topic = |t: kafka_protocol::messages::metadata_response::MetadataResponseTopic| {
            let number = |index: i32| Some(Partition(u32::try_from(index).ok()?));
            let mut partitions: Vec<_> = t.partitions.iter().filter_map(|p| number(p.partition_index)).collect();
            partitions.sort();
            TopicMetadata {
                name: t.name.map_or(String::new(), |name| name.to_string()),
                code: t.error_code,
                partitions,
            }
        };
        Ok(answer.topics.into_iter().map(topic).collect())
    }

    /// Host and port of every broker, as it tells clients to connect to.
    pub fn brokers(&mut self) -> Result<Vec<(String, u16)>, KafkaError> {
        let answer = self.call(8, &MetadataRequest::default().with_topics(Some(Vec::new())))?;
        let broker = |b: kafka_protocol::messages::metadata_response::MetadataResponseBroker| {
            (b.host.to_string(), u16::try_from(b.port).unwrap_or_default())
        };
        Ok(answer.brokers.into_iter().map(broker).collect())
    }

    /// One topic that must be there.
    pub fn topic(&mut self, name: &str, create: bool) -> Result<TopicMetadata, KafkaError> {
        let found = self
            .metadata(Some(&[name]), create)?
            .into_iter()
            .find(|t| t.name == name);
        match found {
            Some(topic) if topic.code == 0 => Ok(topic),
            found => Err(KafkaError::Refused {
                code: found.as_ref().map_or(3, |t| t.code),
                text: code_name(found.map_or(3, |t| t.code)).to_owned(),
            }),
        }
    }

    /// Sends one batch; with acks 0 there is no answer, and no offset.
    pub fn produce(
        &mut self,
        topic: &str,
        partition: Partition,
        batch: Bytes,
        acks: i16,
    ) -> Result<Option<Offset>, KafkaError> {
        const VERSION: i16 = 8;
        let data = PartitionProduceData::default()
            .with_index(index(partition))
            .with_records(Some(batch));
        let topic = TopicProduceData::default()
            .with_name(topic_name(topic))
            .with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_acks(acks)
            .with_timeout_ms(30_000)
            .with_topic_data(vec![topic]);
        self.send(VERSION, &request)?;
        if acks == 0 {
            return Ok(None);
        }
        let answer = self.receive::<ProduceRequest>(VERSION)?;
        let answer = answer.responses.into_iter().flat_map(|t| t.partition_responses).next();
        let answer = answer.ok_or_else(|| nothing("the produced partition"))?;
        KafkaError::check(answer.error_code, answer.error_message.as_ref())?;
        Ok(Offset::from_kafka(answer.base_offset))
    }

    /// Fetches from several partitions of a topic, waiting at most `wait` for something new.
    pub fn fetch(
        &mut self,
        topic: &str,
        from: &[(Partition, Offset)],
        wait: Duration,
        bytes_max: i32,
    ) -> Result<Vec<Fetched>, KafkaError> {
        let one = |(partition, offset): &(Partition, Offset)| {
            FetchPartition::default()
                .with_partition(index(*partition))
                .with_current_leader_epoch(-1)
                .with_fetch_offset(offset.kafka())
                .with_partition_max_bytes(bytes_max)
        };
        let topics = FetchTopic::default()
            .with_topic(topic_name(topic))
            .with_partitions(from.iter().map(one).collect());
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX))
            .with_min_bytes(1)
            .with_max_bytes(bytes_max)
            .with_session_epoch(-1)
            .with_topics(vec![topics]);
        let answer = self.call(11, &request)?;
        KafkaError::check(answer.error_code, None)?;
        let mut fetched = Vec::new();
        for part in answer.responses.into_iter().flat_map(|t| t.partitions) {
            let Some((partition, offset)) = from.iter().find(|(p, _)| index(*p) == part.partition_index).copied()
            else {
                return Err(nothing("a partition that was asked for"));
            };
            KafkaError::check(part.error_code, None)?;
            let (records, next) = unpack(part.records.unwrap_or_default(), offset)?;
            fetched.push(Fetched {
                partition,
                records,
                next,
            });
        }
        Ok(fetched)
    }

    /// The first offset at or after a time in milliseconds; -2 is the earliest, -1 the end. `None` when there is none so late.
    pub fn offset_at(&mut self, topic: &str, partition: Partition, time_ms: i64) -> Result<Option<Offset>, KafkaError> {
        let offsets = self.offsets_at(topic, &[partition], time_ms)?;
        Ok(offsets.into_iter().next().flatten())
    }

    /// The same of several partitions, in their order.
    pub fn offsets_at(
        &mut self,
        topic: &str,
        partitions: &[Partition],
        time_ms: i64,
    ) -> Result<Vec<Option<Offset>>, KafkaError> {
        let one = |partition: &Partition| {
            ListOffsetsPartition::default()
                .with_partition_index(index(*partition))
                .with_current_leader_epoch(-1)
                .with_timestamp(time_ms)
        };
        let topics = ListOffsetsTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(partitions.iter().map(one).collect());
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_topics(vec![topics]);
        let answer = self.call(5, &request)?;
        let answers = answer.topics.into_iter().flat_map(|topic| topic.partitions);
        let found: BTreeMap<_, _> = answers.map(|answer| (answer.partition_index, answer)).collect();
        let offset = |partition: &Partition| {
            let answer = found.get(&index(*partition));
            let answer = answer.ok_or_else(|| nothing("the partition that was asked for"))?;
            KafkaError::check(answer.error_code, None)?;
            Ok(Offset::from_kafka(answer.offset))
        };
        partitions.iter().map(offset).collect()
    }

    /// Makes a topic; `None` partitions are the broker's default. Settings by their Kafka names.
    pub fn create_topic(
        &mut self,
        name: &str,
        partitions: Option<u32>,
        settings: &[(String, String)],
    ) -> Result<(), KafkaError> {
        let text = |s: &str| StrBytes::from_string(s.to_owned());
        let setting = |(name, value): &(String, String)| {
            CreatableTopicConfig::default()
                .with_name(text(name))
                .with_value(Some(text(value)))
        };
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions.map_or(-1, |n| i32::try_from(n).unwrap_or(i32::MAX)))
            .with_replication_factor(-1)
            .with_configs(settings.iter().map(setting).collect());
        let request = CreateTopicsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(30_000);
        let answer = self.call(4, &request)?;
        let answer = answer.topics.into_iter().next().ok_or_else(|| nothing("the topic"))?;
        KafkaError::check(answer.error_code, answer.error_message.as_ref())
    }

    /// Gives a topic more partitions: so many in all.
    pub fn add_partitions(&mut self, name: &str, partitions: u32) -> Result<(), KafkaError> {
        let topic = CreatePartitionsTopic::default()
            .with_name(topic_name(name))
            .with_count(i32::try_from(partitions).unwrap_or(i32::MAX))
            .with_assignments(None);
        let request = CreatePartitionsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(30_000);
        let answer = self.call(0, &request)?;
        let answer = answer.results.into_iter().next().ok_or_else(|| nothing("the topic"))?;
        KafkaError::check(answer.error_code, answer.error_message.as_ref())
    }

    /// Removes a topic and its records.
    pub fn delete_topic(&mut self, name: &str) -> Result<(), KafkaError> {
        let request = DeleteTopicsRequest::default()
            .with_topic_names(vec![topic_name(name)])
            .with_timeout_ms(30_000);
        let answer = self.call(3, &request)?;
        let answer = answer
            .responses
            .into_iter()
            .next()
            .ok_or_else(|| nothing("the topic"))?;
        KafkaError::check(answer.error_code, None)
    }

    /// Changes a topic's settings, by Kafka name; `None` puts one back to its default.
    pub fn alter_topic(&mut self, name: &str, settings: &[(String, Option<String>)]) -> Result<(), KafkaError> {
        const SET: i8 = 0;
        const DELETE: i8 = 1;
        let text = |s: &String| StrBytes::from_string(s.clone());
        let setting = |(name, value): &(String, Option<String>)| {
            AlterableConfig::default()
                .with_name(text(name))
                .with_config_operation(if value.is_some() { SET } else { DELETE })
                .with_value(value.as_ref().map(text))
        };
        let resource = AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(StrBytes::from_string(name.to_owned()))
            .with_configs(settings.iter().map(setting).collect());
        let answer = self.call(
            0,
            &IncrementalAlterConfigsRequest::default().with_resources(vec![resource]),
        )?;
        let answer = answer.responses.into_iter().next();
        let answer = answer.ok_or_else(|| nothing("the topic"))?;
        KafkaError::check(answer.error_code, answer.error_message.as_ref())
    }

    /// A topic's settings in force, by Kafka name.
    pub fn topic_settings(&mut self, name: &str) -> Result<Vec<(String, String)>, KafkaError> {
        let resource = describe_configs_request::DescribeConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(StrBytes::from_string(name.to_owned()))
            .with_configuration_keys(None);
        let answer = self.call(1, &DescribeConfigsRequest::default().with_resources(vec![resource]))?;
        let answer = answer.results.into_iter().next().ok_or_else(|| nothing("the topic"))?;
        KafkaError::check(answer.error_code, answer.error_message.as_ref())?;
        let setting = |c: kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult| {
            (c.name.to_string(), c.value.map_or(String::new(), |v| v.to_string()))
        };
        Ok(answer.configs.into_iter().map(setting).collect())
    }

    /// A new identity for an idempotent producer.
    pub fn producer(&mut self) -> Result<Producer, KafkaError> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        let answer = self.call(3, &request)?;
        KafkaError::check(answer.error_code, None)?;
        Ok(Producer {
            id: answer.producer_id.0,
            epoch: answer.producer_epoch,
            sequences: HashMap::new(),
        })
    }
}

/// An idempotent producer's identity and sequences: a batch that it packed may be sent again, over any connection, until it is
/// acknowledged, and is stored once.
#[derive(Clone, Debug)]
pub struct Producer {
    id: i64,
    epoch: i16,
    sequences: HashMap<(String, Partition), i32>,
}

impl Producer {
    /// Packs records into the partition's next batch. Batches of a partition must be sent in the order they were packed.
    pub fn pack(&mut self, topic: &str, partition: Partition, records: &[Record]) -> Bytes {
        let mut bytes = batch::pack(records);
        let sequence = self.sequences.entry((topic.to_owned(), partition)).or_insert(0);
        batch::stamp_producer(&mut bytes, self.id, self.epoch, *sequence, false);
        // Kafka's sequences go round at 2^31 (`DefaultRecordBatch.incrementSequence`).
        let count = i64::try_from(records.len()).unwrap_or(i64::MAX);
        *sequence = i32::try_from((i64::from(*sequence) + count) & i64::from(i32::MAX)).unwrap_or(0);
        Bytes::from(bytes)
    }
}

fn unpack(bytes: Bytes, from: Offset) -> Result<(Vec<(Offset, Record)>, Offset), KafkaError> {
    let mut records = Vec::new();
    let mut next = from;
    let mut rest = bytes;
    // A broker may cut the last batch at the byte limit.
    while let Ok(header) = batch::Header::parse(&rest) {
        if header.total_bytes > rest.len() {
            break;
        }
        let corrupt = |error: batch::BatchError| KafkaError::Refused {
            code: error.code().kafka(),
            text: error.to_string(),
        };
        let batch = Batch::parse(rest.split_to(header.total_bytes)).map_err(corrupt)?;
        next = next.max(batch.offset_next());
        if !header.is_control() {
            let read = batch.records(RECORDS_BYTES_MAX).map_err(corrupt)?;
            records.extend(read.into_iter().filter(|(offset, _)| *offset >= from));
        }
    }
    Ok((records, next))
}

fn index(partition: Partition) -> i32 {
    i32::try_from(partition.0).unwrap_or(i32::MAX)
}

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn nothing(what: &str) -> KafkaError {
    KafkaError::Wire(WireError::Codec(format!("the answer does not name {what}")))
}
