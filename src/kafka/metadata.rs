//! Metadata: the one node, and topics, made on first use where the configuration allows it.

use std::sync::Arc;

use super::broker::NODE_ID;
use super::call::{Call, Context, Step, answer, error};
use crate::kafka_wire::messages::metadata_request::MetadataRequestTopic;
use crate::kafka_wire::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use crate::kafka_wire::messages::{BrokerId, MetadataRequest, MetadataResponse, TopicName};
use crate::log::{Log, Ticket, TopicInfo, TopicSpec};
use crate::model::{Code, Output, Partition, Topic};

/// UNKNOWN_TOPIC_ID
const UNKNOWN_TOPIC_ID: i16 = 100;

struct Metadata {
    /// `None` is all.
    asked: Option<Vec<Asked>>,
}

struct Asked {
    name: Option<TopicName>,
    id: Vec<u8>,
    /// It is being made.
    making: Option<Ticket<Arc<TopicInfo>>>,
    refused: Option<Code>,
}

pub(super) fn begin(request: MetadataRequest, cx: &Context<'_>) -> Box<dyn Call> {
    // Version 0 has no null: nothing asked is everything asked.
    let topics = request.topics.filter(|topics| cx.version > 0 || !topics.is_empty());
    // Before version 4 a client has no say in it.
    let may_create =
        (cx.version < 4 || request.allow_auto_topic_creation) && cx.broker.config.topic_defaults.auto_create;
    let asked = topics.map(|topics| topics.into_iter().map(|topic| ask(topic, may_create, cx)).collect());
    Box::new(Metadata { asked })
}

fn ask(topic: MetadataRequestTopic, may_create: bool, cx: &Context<'_>) -> Asked {
    let mut asked = Asked {
        name: topic.name,
        id: topic.topic_id.as_bytes().to_vec(),
        making: None,
        refused: None,
    };
    let log = &cx.broker.log;
    let Some(name) = asked.name.as_ref().filter(|name| log.topic(name.0.as_str()).is_none()) else {
        return asked;
    };
    match Topic::parse(name.0.as_str()) {
        Err(_) => asked.refused = Some(Code::InvalidTopic),
        Ok(name) if may_create && !name.is_internal() && !cx.stopping => {
            let spec = TopicSpec {
                name,
                partitions: None,
                settings: Vec::new(),
            };
            asked.making = Some(log.create_topic(spec, cx.waker));
        }
        Ok(_) => asked.refused = Some(Code::UnknownTopic),
    }
    asked
}

impl Call for Metadata {
    fn poll(&mut self, cx: &Context<'_>, out: &mut Output) -> Step {
        for asked in self.asked.iter_mut().flatten() {
            let Some(ticket) = &mut asked.making else { continue };
            match ticket.take() {
                None => return Step::Waiting,
                Some(Err(refused)) if refused.code != Code::TopicExists => asked.refused = Some(refused.code),
                Some(_) => {}
            }
            asked.making = None;
        }
        let log = &cx.broker.log;
        let topics = match &self.asked {
            None => log.topics().iter().map(|topic| known(log, topic)).collect(),
            Some(asked) => asked.iter().map(|asked| asked.answer(cx)).collect(),
        };
        let (host, port) = cx.broker.address(cx.peer);
        let broker = MetadataResponseBroker::default()
            .with_node_id(BrokerId(NODE_ID))
            .with_host(host)
            .with_port(port);
        let response = MetadataResponse::default()
            .with_brokers(vec![broker])
            .with_cluster_id(Some(cx.broker.cluster_id.clone()))
            .with_controller_id(BrokerId(NODE_ID))
            .with_topics(topics);
        answer::<MetadataRequest>(&response, cx, out)
    }
}

impl Asked {
    fn answer(&self, cx: &Context<'_>) -> MetadataResponseTopic {
        let log = &cx.broker.log;
        let found = match &self.name {
            Some(name) => log.topic(name.0.as_str()),
            None => log.topics().into_iter().find(|topic| topic.id == *self.id),
        };
        if let Some(topic) = found {
            return known(log, &topic);
        }
        let code = match self.refused {
            Some(code) => code.kafka(),
            None if self.name.is_none() => UNKNOWN_TOPIC_ID,
            None => Code::UnknownTopic.kafka(),
        };
        let mut topic = MetadataResponseTopic::default().with_error_code(error(cx, code));
        // Only version 12 may leave the name out.
        topic.name = self.name.clone().or_else(|| (cx.version < 12).then(TopicName::default));
        if let Ok(id) = self.id.clone().try_into() {
            topic.topic_id = id;
        }
        topic
    }
}

fn known(log: &Log, info: &TopicInfo) -> MetadataResponseTopic {
    let node = || vec![BrokerId(NODE_ID)];
    let partitions = (0..info.partitions).map(|index| {
        let bounds = log.bounds(info.name.as_str(), Partition(index));
        MetadataResponsePartition::default()
            .with_partition_index(i32::try_from(index).unwrap_or(i32::MAX))
            .with_leader_id(BrokerId(NODE_ID))
            .with_leader_epoch(bounds.map_or(0, |b| b.leader_epoch))
            .with_replica_nodes(node())
            .with_isr_nodes(node())
    });
    let mut topic = MetadataResponseTopic::default()
        .with_name(Some(TopicName(info.name.to_string().into())))
        .with_is_internal(info.name.is_internal())
        .with_partitions(partitions.collect());
    if let Ok(id) = info.id.to_vec().try_into() {
        topic.topic_id = id;
    }
    topic
}
