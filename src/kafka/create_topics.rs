//! CreateTopics.

use std::collections::HashSet;
use std::sync::Arc;

use super::broker::NODE_ID;
use super::call::{Call, Context, Step, answer, error, text};
use super::configs;
use crate::kafka_wire::messages::create_topics_request::CreatableTopic;
use crate::kafka_wire::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use crate::kafka_wire::messages::{BrokerId, CreateTopicsRequest, CreateTopicsResponse, TopicName};
use crate::log::{Refused, Ticket, TopicInfo, TopicSpec};
use crate::model::{Code, Output, Topic};

/// INVALID_REPLICATION_FACTOR
const INVALID_REPLICATION_FACTOR: i16 = 38;
/// INVALID_REPLICA_ASSIGNMENT
pub(super) const INVALID_ASSIGNMENT: i16 = 39;

struct CreateTopics {
    topics: Vec<(TopicName, Stage)>,
}

enum Stage {
    Making(Ticket<Arc<TopicInfo>>),
    Made(Arc<TopicInfo>),
    /// Only asked whether it could be made.
    Valid,
    Refused(i16, String),
}

pub(super) fn begin(request: CreateTopicsRequest, cx: &Context<'_>) -> Box<dyn Call> {
    let mut names = HashSet::new();
    let twice: HashSet<TopicName> = request
        .topics
        .iter()
        .filter(|topic| !names.insert(&topic.name))
        .map(|topic| topic.name.clone())
        .collect();
    let topics = request.topics.into_iter().map(|topic| {
        let name = topic.name.clone();
        let spec = match twice.contains(&name) {
            true => Err((Code::InvalidRequest.kafka(), "named twice in one request".to_owned())),
            false => spec(topic),
        };
        let stage = match spec {
            Err((code, why)) => Stage::Refused(code, why),
            Ok(spec) if request.validate_only => match cx.broker.log.check_topic(&spec) {
                Ok(()) => Stage::Valid,
                Err(Refused { code, why }) => Stage::Refused(code.kafka(), why),
            },
            Ok(spec) => Stage::Making(cx.broker.log.create_topic(spec, cx.waker)),
        };
        (name, stage)
    });
    Box::new(CreateTopics {
        topics: topics.collect(),
    })
}

fn spec(topic: CreatableTopic) -> Result<TopicSpec, (i16, String)> {
    let name = Topic::parse(topic.name.0.as_str()).map_err(|e| (Code::InvalidTopic.kafka(), e.to_string()))?;
    let partitions = match (topic.num_partitions, topic.assignments.len()) {
        (-1, 0) => None,
        (n, 0) => Some(u32::try_from(n).unwrap_or(0)),
        (_, assigned) => Some(u32::try_from(assigned).unwrap_or(u32::MAX)),
    };
    if !matches!(topic.replication_factor, -1 | 1) {
        let why = format!(
            "replication factor {}: there is one node. Try: 1",
            topic.replication_factor
        );
        return Err((INVALID_REPLICATION_FACTOR, why));
    }
    let mut assigned: Vec<i32> = topic.assignments.iter().map(|a| a.partition_index).collect();
    assigned.sort_unstable();
    let in_order = assigned.iter().zip(0..).all(|(index, expected)| *index == expected);
    let here = topic.assignments.iter().all(|a| a.broker_ids == [BrokerId(NODE_ID)]);
    if !in_order || !here {
        let why = format!("replicas can only be on node {NODE_ID}, of partitions from 0 without a gap");
        return Err((INVALID_ASSIGNMENT, why));
    }
    let settings = topic.configs.into_iter().filter_map(|config| {
        let value = config.value?;
        Some((config.name.to_string(), value.to_string()))
    });
    Ok(TopicSpec {
        name,
        partitions,
        settings: settings.collect(),
    })
}

impl Call for CreateTopics {
    fn poll(&mut self, cx: &Context<'_>, out: &mut Output) -> Step {
        for (_, stage) in &mut self.topics {
            let Stage::Making(ticket) = stage else { continue };
            *stage = match ticket.take() {
                None => return Step::Waiting,
                Some(Ok(info)) => Stage::Made(info),
                Some(Err(Refused { code, why })) => Stage::Refused(code.kafka(), why),
            };
        }
        let topics = self.topics.iter().map(|(name, stage)| result(name, stage, cx));
        let response = CreateTopicsResponse::default().with_topics(topics.collect());
        answer::<CreateTopicsRequest>(&response, cx, out)
    }
}

fn result(name: &TopicName, stage: &Stage, cx: &Context<'_>) -> CreatableTopicResult {
    let result = CreatableTopicResult::default()
        .with_name(name.clone())
        .with_error_message(None);
    match stage {
        Stage::Made(info) => made(result, info),
        Stage::Refused(code, why) => result
            .with_error_code(error(cx, *code))
            .with_error_message(text(why.as_str()))
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_configs(Some(Vec::new())),
        // What it would be is not known without making it; -1 and no settings say so.
        Stage::Valid | Stage::Making(_) => result
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_configs(Some(Vec::new())),
    }
}

fn made(mut result: CreatableTopicResult, info: &TopicInfo) -> CreatableTopicResult {
    if let Ok(id) = info.id.to_vec().try_into() {
        result.topic_id = id;
    }
    let settings = configs::of_topic(info).into_iter().map(|setting| {
        CreatableTopicConfigs::default()
            .with_name(setting.name.into())
            .with_value(text(setting.value))
            .with_read_only(setting.read_only)
            .with_config_source(setting.source)
    });
    result
        .with_num_partitions(i32::try_from(info.partitions).unwrap_or(i32::MAX))
        .with_replication_factor(1)
        .with_configs(Some(settings.collect()))
}
