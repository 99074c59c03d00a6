//! The five requests that forwarding needs and what their answers say, over `kafka_wire`'s guarded messages. Produce is written
//! here field by field, so that records go out from where they are; versions before the flexible ones keep that short.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

use super::target::TargetKey;
use crate::kafka_wire::messages::create_topics_request::CreatableTopic;
use crate::kafka_wire::messages::metadata_request::MetadataRequestTopic;
use crate::kafka_wire::messages::{
    ApiVersionsRequest, CreateTopicsRequest, InitProducerIdRequest, MetadataRequest, ProduceRequest, TopicName,
};
use crate::kafka_wire::{Api, RequestType, StrBytes, WireError, decode_response, encode_request};
use crate::model::{Partition, Topic};

/// What we speak of each API: from a version that Kafka 2.4 has to the newest one that kafka_wire describes.
const SPOKEN: [(Api, i16, i16); 4] = [
    (Api::Produce, 7, 8),
    (Api::Metadata, 4, 12),
    (Api::CreateTopics, 4, 7),
    (Api::InitProducerId, 0, 4),
];

/// The version to speak of each API with one broker.
#[derive(Clone, Debug, Default)]
pub(super) struct Versions(BTreeMap<i16, i16>);

impl Versions {
    /// The version for `api`. Before the greeting, the oldest one.
    pub(super) fn of(&self, api: Api) -> i16 {
        self.0.get(&api.key()).copied().unwrap_or(0)
    }
}

/// A broker, partition leaders and errors, as Metadata tells them.
#[derive(Debug, Default)]
pub(super) struct MetadataAnswer {
    pub(super) brokers: Vec<(i32, String, u16)>,
    pub(super) controller: i32,
    pub(super) topics: Vec<TopicAnswer>,
}

#[derive(Debug)]
pub(super) struct TopicAnswer {
    pub(super) name: String,
    pub(super) error: i16,
    /// Partition and leader; -1 for no leader.
    pub(super) leaders: Vec<(i32, i32)>,
}

/// What became of one batch.
#[derive(Debug)]
pub(super) struct ProducedPart {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) error: i16,
    pub(super) message: Option<String>,
}

pub(super) fn versions_request(correlation: i32, client: &str) -> Vec<Bytes> {
    frame(encode_request(0, correlation, client, &ApiVersionsRequest::default()))
}

pub(super) fn versions_answer(frame: Bytes) -> Result<Versions, String> {
    let answer = decode::<ApiVersionsRequest>(0, frame)?;
    if answer.error_code != 0 {
        return Err(format!("ApiVersions is answered with error {}", answer.error_code));
    }
    let mut versions = BTreeMap::new();
    for (api, least, most) in SPOKEN {
        let theirs = answer.api_keys.iter().find(|k| k.api_key == api.key());
        let (from, to) = theirs.map_or((0, -1), |k| (k.min_version, k.max_version));
        let version = most.min(to);
        if version < least.max(from) {
            return Err(format!(
                "the broker speaks {} {from} to {to}, we speak {least} to {most}. Try: Apache Kafka 2.4 or newer as upstream",
                api.name()
            ));
        }
        versions.insert(api.key(), version);
    }
    Ok(Versions(versions))
}

pub(super) fn metadata_request<'a>(
    version: i16,
    correlation: i32,
    client: &str,
    topics: impl Iterator<Item = &'a Topic>,
) -> Vec<Bytes> {
    let topics = topics
        .map(|t| MetadataRequestTopic::default().with_name(Some(name(t))))
        .collect();
    let request = MetadataRequest::default()
        .with_topics(Some(topics))
        .with_allow_auto_topic_creation(false);
    frame(encode_request(version, correlation, client, &request))
}

pub(super) fn metadata_answer(version: i16, frame: Bytes) -> Result<MetadataAnswer, String> {
    let answer = decode::<MetadataRequest>(version, frame)?;
    let port = |port: i32| u16::try_from(port).map_err(|_| format!("a broker on port {port}"));
    let mut brokers = Vec::with_capacity(answer.brokers.len());
    for broker in &answer.brokers {
        brokers.push((broker.node_id.0, broker.host.to_string(), port(broker.port)?));
    }
    let topics = answer
        .topics
        .iter()
        .map(|topic| TopicAnswer {
            name: topic.name.as_ref().map_or_else(String::new, |n| n.0.to_string()),
            error: topic.error_code,
            leaders: topic
                .partitions
                .iter()
                .map(|p| (p.partition_index, p.leader_id.0))
                .collect(),
        })
        .collect();
    Ok(MetadataAnswer {
        brokers,
        controller: answer.controller_id.0,
        topics,
    })
}

/// Topics with their partition counts; replication is the centre's default.
pub(super) fn create_request(
    version: i16,
    correlation: i32,
    client: &str,
    topics: &[(Topic, u32)],
    timeout_ms: i32,
) -> Vec<Bytes> {
    let wanted = topics.iter().map(|(topic, partitions)| {
        CreatableTopic::default()
            .with_name(name(topic))
            .with_num_partitions(i32::try_from(*partitions).unwrap_or(i32::MAX))
            .with_replication_factor(-1)
    });
    let request = CreateTopicsRequest::default()
        .with_topics(wanted.collect())
        .with_timeout_ms(timeout_ms);
    frame(encode_request(version, correlation, client, &request))
}

/// Each topic with its error and the centre's words for it.
pub(super) fn create_answer(version: i16, frame: Bytes) -> Result<Vec<(String, i16, Option<String>)>, String> {
    let answer = decode::<CreateTopicsRequest>(version, frame)?;
    let one = |t: &crate::kafka_wire::messages::create_topics_response::CreatableTopicResult| {
        (
            t.name.0.to_string(),
            t.error_code,
            t.error_message.as_ref().map(|m| m.to_string()),
        )
    };
    Ok(answer.topics.iter().map(one).collect())
}

pub(super) fn producer_request(version: i16, correlation: i32, client: &str) -> Vec<Bytes> {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000);
    frame(encode_request(version, correlation, client, &request))
}

/// The error, producer id and epoch.
pub(super) fn producer_answer(version: i16, frame: Bytes) -> Result<(i16, i64, i16), String> {
    let answer = decode::<InitProducerIdRequest>(version, frame)?;
    Ok((answer.error_code, answer.producer_id.0, answer.producer_epoch))
}

/// Produce in version 7 or 8: header v1, then transactional id (null), acks (all), time-out, topics with their partitions.
/// Parts of one topic must follow each other.
pub(super) fn produce_request(
    version: i16,
    correlation: i32,
    client: &str,
    timeout_ms: i32,
    parts: &[(TargetKey, Bytes)],
) -> Vec<Bytes> {
    let mut head = BytesMut::with_capacity(64);
    let mut segments = Vec::with_capacity(parts.len().saturating_mul(2));
    head.put_i32(0);
    head.put_i16(Api::Produce.key());
    head.put_i16(version);
    head.put_i32(correlation);
    put_text(&mut head, client);
    head.put_i16(-1);
    head.put_i16(-1);
    head.put_i32(timeout_ms);
    let topics: Vec<_> = parts.chunk_by(|a, b| a.0.0 == b.0.0).collect();
    put_count(&mut head, topics.len());
    for topic in topics {
        if let Some(((name, _), _)) = topic.first() {
            put_text(&mut head, name.as_str());
        }
        put_count(&mut head, topic.len());
        for ((_, partition), batch) in topic {
            head.put_u32(partition.0);
            put_count(&mut head, batch.len());
            segments.push(head.split().freeze());
            segments.push(batch.clone());
        }
    }
    let bytes: usize = segments.iter().map(Bytes::len).sum();
    if let Some(first) = segments.first_mut() {
        let mut with_length = BytesMut::from(&first[..]);
        let length = u32::try_from(bytes.saturating_sub(4)).unwrap_or(u32::MAX);
        if let Some(place) = with_length.first_chunk_mut::<4>() {
            *place = length.to_be_bytes();
        }
        *first = with_length.freeze();
    }
    segments
}

/// What became of each batch, and how long the centre wants to be left alone, ms.
pub(super) fn produce_answer(version: i16, frame: Bytes) -> Result<(Vec<ProducedPart>, i32), String> {
    let answer = decode::<ProduceRequest>(version, frame)?;
    let mut parts = Vec::new();
    for topic in &answer.responses {
        for partition in &topic.partition_responses {
            parts.push(ProducedPart {
                topic: topic.name.0.to_string(),
                partition: partition.index,
                error: partition.error_code,
                message: partition.error_message.as_ref().map(|m| m.to_string()),
            });
        }
    }
    Ok((parts, answer.throttle_time_ms))
}

/// The key of a target as an answer names it.
pub(super) fn target_key(topic: &str, partition: i32) -> Option<TargetKey> {
    Some((Topic::parse(topic).ok()?, Partition(u32::try_from(partition).ok()?)))
}

fn decode<R: RequestType>(version: i16, frame: Bytes) -> Result<R::Response, String> {
    decode_response::<R>(version, frame)
        .map(|(_, answer)| answer)
        .map_err(|e| e.to_string())
}

/// Our own requests encode: versions were negotiated and names are valid. Should one not, an empty frame makes the broker close
/// the link, and the cause is in the log.
fn frame(encoded: Result<Bytes, WireError>) -> Vec<Bytes> {
    match encoded {
        Ok(bytes) => vec![bytes],
        Err(error) => {
            tracing::error!(%error, "a request to the upstream does not encode");
            Vec::new()
        }
    }
}

fn name(topic: &Topic) -> TopicName {
    TopicName(StrBytes::from_string(topic.as_str().to_owned()))
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_i16(i16::try_from(text.len()).unwrap_or(0));
    out.put_slice(text.as_bytes());
}

fn put_count(out: &mut BytesMut, n: usize) {
    out.put_i32(i32::try_from(n).unwrap_or(i32::MAX));
}
