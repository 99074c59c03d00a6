//! A small Apache Kafka without sockets: brokers, partitions, idempotent producers as a broker checks them (the last five
//! batches are known again, a gap is refused), and switches for everything that goes wrong in the centre.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};

use crate::kafka_wire::messages::api_versions_response::ApiVersion;
use crate::kafka_wire::messages::create_topics_response::CreatableTopicResult;
use crate::kafka_wire::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use crate::kafka_wire::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use crate::kafka_wire::messages::*;
use crate::kafka_wire::{Api, Request, StrBytes, decode_header, decode_request, encode_response, frame_bytes};
use crate::model::batch::Batch;
use crate::model::compression::Codec;

/// A record as the centre holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub key: Option<Bytes>,
    pub value: String,
    pub timestamp_ms: i64,
}

#[derive(Default)]
pub struct PartitionThere {
    pub leader: i32,
    pub records: Vec<Arrived>,
    pub batches: usize,
    /// By producer id: first and next sequence of the newest batches.
    producers: BTreeMap<i64, VecDeque<(i32, i32)>>,
}

pub struct Broker {
    pub up: bool,
    /// Takes everything, answers nothing.
    pub silent: bool,
}

pub struct Centre {
    pub brokers: BTreeMap<i32, Broker>,
    pub topics: BTreeMap<String, Vec<PartitionThere>>,
    pub batch_bytes_max: usize,
    /// Values that hold this text are refused as invalid records.
    pub poison: Option<&'static str>,
    /// Codec that is refused.
    pub codec_refused: Option<Codec>,
    /// So many Produce requests are appended, and their answers lost with the connection.
    pub answers_lost: usize,
    /// So many Produce requests get this error for every partition, unappended.
    pub errors: VecDeque<i16>,
    pub throttle_ms: i32,
    pub produce_requests: usize,
    pub biggest_request: usize,
    pub creations: Vec<(String, i32, i16)>,
    pub create_error: i16,
    producer_next: i64,
    pub producers_given: BTreeSet<i64>,
}

/// What a broker does with a request.
pub enum Reaction {
    Answer(Bytes),
    Nothing,
    Close,
}

impl Centre {
    pub fn new(brokers: i32) -> Self {
        let up = || Broker {
            up: true,
            silent: false,
        };
        Self {
            brokers: (1..=brokers).map(|id| (id, up())).collect(),
            topics: BTreeMap::new(),
            batch_bytes_max: 1 << 20,
            poison: None,
            codec_refused: None,
            answers_lost: 0,
            errors: VecDeque::new(),
            throttle_ms: 0,
            produce_requests: 0,
            biggest_request: 0,
            creations: Vec::new(),
            create_error: 0,
            producer_next: 1000,
            producers_given: BTreeSet::new(),
        }
    }

    pub fn make_topic(&mut self, name: &str, partitions: i32) {
        let brokers: Vec<i32> = self.brokers.keys().copied().collect();
        let partition = |p: i32| PartitionThere {
            leader: brokers[p as usize % brokers.len()],
            ..Default::default()
        };
        self.topics
            .insert(name.into(), (0..partitions).map(partition).collect());
    }

    pub fn values(&self, topic: &str, partition: usize) -> Vec<String> {
        self.topics[topic][partition]
            .records
            .iter()
            .map(|r| r.value.clone())
            .collect()
    }

    pub fn count(&self, topic: &str) -> usize {
        self.topics
            .get(topic)
            .map_or(0, |t| t.iter().map(|p| p.records.len()).sum())
    }

    /// Takes the first whole frame off `received` and reacts to it; `None` when there is none.
    pub fn react(&mut self, broker: i32, received: &mut BytesMut) -> Option<Reaction> {
        let whole = frame_bytes(received, 64 << 20).expect("a Kafka frame")?;
        if received.len() < whole {
            return None;
        }
        let mut frame = received.split_to(whole).freeze().slice(4..);
        let header = decode_header(&mut frame).expect("a request header");
        assert_eq!(header.client_id.as_deref(), Some("headwater-gw-1"));
        let api = Api::from_key(header.key).expect("an API that is spoken");
        let request = decode_request(api, header.version, frame).expect("a request that decodes");
        let (version, correlation) = (header.version, header.correlation);
        let bytes = match request {
            Request::ApiVersions(_) => encode_response::<ApiVersionsRequest>(version, correlation, &versions()),
            Request::Metadata(r) => encode_response::<MetadataRequest>(version, correlation, &self.metadata(&r)),
            Request::CreateTopics(r) => encode_response::<CreateTopicsRequest>(version, correlation, &self.create(&r)),
            Request::InitProducerId(r) => {
                assert_eq!(r.transactional_id, None);
                self.producer_next += 1;
                self.producers_given.insert(self.producer_next);
                let answer = InitProducerIdResponse::default().with_producer_id(self.producer_next.into());
                encode_response::<InitProducerIdRequest>(version, correlation, &answer.with_producer_epoch(0))
            }
            Request::Produce(r) => {
                self.produce_requests += 1;
                self.biggest_request = self.biggest_request.max(whole);
                let answer = self.produce(broker, &r);
                if self.answers_lost > 0 {
                    self.answers_lost -= 1;
                    return Some(Reaction::Close);
                }
                encode_response::<ProduceRequest>(version, correlation, &answer)
            }
            other => panic!("the forwarder has no business with {other:?}"),
        };
        if self.brokers[&broker].silent {
            return Some(Reaction::Nothing);
        }
        Some(Reaction::Answer(bytes.expect("an answer that encodes")))
    }

    fn metadata(&self, request: &MetadataRequest) -> MetadataResponse {
        assert!(
            !request.allow_auto_topic_creation,
            "topics are made with the right partition count"
        );
        let up = self.brokers.iter().filter(|(_, b)| b.up);
        let brokers = up.map(|(id, _)| {
            MetadataResponseBroker::default()
                .with_node_id((*id).into())
                .with_host(host(*id))
                .with_port(9092)
        });
        let topics = request.topics.as_deref().unwrap_or_default().iter().map(|asked| {
            let name = asked.name.clone().expect("by name");
            let answer = MetadataResponseTopic::default().with_name(Some(name.clone()));
            let Some(partitions) = self.topics.get(name.0.as_str()) else {
                return answer.with_error_code(3);
            };
            let partition = |(index, p): (usize, &PartitionThere)| {
                let there = self.brokers.get(&p.leader).is_some_and(|b| b.up);
                MetadataResponsePartition::default()
                    .with_partition_index(index as i32)
                    .with_leader_id(if there { p.leader } else { -1 }.into())
                    .with_error_code(if there { 0 } else { 5 })
            };
            answer.with_partitions(partitions.iter().enumerate().map(partition).collect())
        });
        let controller = self.brokers.iter().find(|(_, b)| b.up).map_or(-1, |(id, _)| *id);
        MetadataResponse::default()
            .with_brokers(brokers.collect())
            .with_controller_id(controller.into())
            .with_topics(topics.collect())
    }

    fn create(&mut self, request: &CreateTopicsRequest) -> CreateTopicsResponse {
        let mut topics = Vec::new();
        for topic in &request.topics {
            self.creations
                .push((topic.name.0.to_string(), topic.num_partitions, topic.replication_factor));
            let exists = self.topics.contains_key(topic.name.0.as_str());
            let error = if exists { 36 } else { self.create_error };
            if error == 0 {
                self.make_topic(&topic.name.0, topic.num_partitions);
            }
            topics.push(
                CreatableTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_error_code(error),
            );
        }
        CreateTopicsResponse::default().with_topics(topics)
    }

    fn produce(&mut self, broker: i32, request: &ProduceRequest) -> ProduceResponse {
        assert_eq!(request.acks, -1, "acknowledged by all");
        let scripted = self.errors.pop_front();
        let mut topics = Vec::new();
        for topic in &request.topic_data {
            let mut parts = Vec::new();
            for data in &topic.partition_data {
                let records = data.records.clone().expect("records");
                let error = scripted.unwrap_or_else(|| self.append(broker, &topic.name.0, data.index, records));
                parts.push(
                    PartitionProduceResponse::default()
                        .with_index(data.index)
                        .with_error_code(error),
                );
            }
            topics.push(
                TopicProduceResponse::default()
                    .with_name(topic.name.clone())
                    .with_partition_responses(parts),
            );
        }
        ProduceResponse::default()
            .with_responses(topics)
            .with_throttle_time_ms(self.throttle_ms)
    }

    /// As a broker checks and appends one batch: `LogValidator`, then `ProducerAppendInfo`.
    fn append(&mut self, broker: i32, topic: &str, partition: i32, records: Bytes) -> i16 {
        let size = records.len();
        let Some(there) = self.topics.get_mut(topic).and_then(|t| t.get_mut(partition as usize)) else {
            return 3;
        };
        if there.leader != broker {
            return 6;
        }
        let batch = Batch::parse(records).expect("one whole batch with a good CRC");
        batch.verify_records(64 << 20).expect("a batch as producers send it");
        let horizon = batch.header().delete_horizon_ms();
        assert_eq!(horizon, None, "no producer says when tombstones may go");
        let header = *batch.header();
        assert_eq!(header.base_offset, 0, "as producers send it");
        assert!(!header.is_append_time() && !header.is_transactional());
        if size > self.batch_bytes_max {
            return 10;
        }
        if self.codec_refused.is_some() && header.codec().ok() == self.codec_refused {
            return 76;
        }
        let records = batch.records(64 << 20).expect("verified");
        let text = |v: &Option<Bytes>| String::from_utf8_lossy(v.as_deref().unwrap_or_default()).into_owned();
        if self
            .poison
            .is_some_and(|poison| records.iter().any(|(_, r)| text(&r.value).contains(poison)))
        {
            return 87;
        }
        assert!(self.producers_given.contains(&header.producer_id), "a producer of ours");
        let last = there.producers.entry(header.producer_id).or_default();
        let after = header.base_sequence.wrapping_add(header.records_count) & i32::MAX;
        if last.contains(&(header.base_sequence, after)) {
            return 0;
        }
        if last.back().is_some_and(|(_, next)| *next != header.base_sequence) {
            return 45;
        }
        last.push_back((header.base_sequence, after));
        if last.len() > 5 {
            last.pop_front();
        }
        there.batches += 1;
        there.records.extend(records.into_iter().map(|(_, r)| Arrived {
            key: r.key.clone(),
            value: text(&r.value),
            timestamp_ms: r.timestamp_ms,
        }));
        0
    }

    /// The broker of an address, if it takes connections.
    pub fn broker_at(&self, address: &str) -> Option<i32> {
        let id: i32 = address.strip_prefix("kafka-")?.parse().ok()?;
        self.brokers.get(&id).filter(|b| b.up).map(|_| id)
    }
}

fn host(id: i32) -> StrBytes {
    StrBytes::from_string(format!("kafka-{id}"))
}

fn versions() -> ApiVersionsResponse {
    // As Kafka 4.1 has them.
    let all = [(0, 3, 13), (3, 0, 13), (18, 0, 4), (19, 2, 7), (22, 0, 6)];
    let one = |(key, min, max): &(i16, i16, i16)| {
        ApiVersion::default()
            .with_api_key(*key)
            .with_min_version(*min)
            .with_max_version(*max)
    };
    ApiVersionsResponse::default().with_api_keys(all.iter().map(one).collect())
}
