//! CreatePartitions: more of them for topics that are there.

use std::collections::HashSet;
use std::sync::Arc;

use super::broker::NODE_ID;
use super::call::{Call, Context, Step, answer, error, text};
use super::create_topics::INVALID_ASSIGNMENT;
use crate::kafka_wire::messages::create_partitions_request::CreatePartitionsTopic;
use crate::kafka_wire::messages::create_partitions_response::CreatePartitionsTopicResult;
use crate::kafka_wire::messages::{BrokerId, CreatePartitionsRequest, CreatePartitionsResponse, TopicName};
use crate::log::{Refused, Ticket, TopicInfo};
use crate::model::{Code, Output, Topic};

struct CreatePartitions {
    topics: Vec<(TopicName, Stage)>,
}

enum Stage {
    Going(Ticket<Arc<TopicInfo>>),
    Done,
    Refused(i16, String),
}

pub(super) fn begin(request: CreatePartitionsRequest, cx: &Context<'_>) -> Box<dyn Call> {
    let mut names = HashSet::new();
    let again = request.topics.iter().filter(|topic| !names.insert(&topic.name));
    let twice: HashSet<TopicName> = again.map(|topic| topic.name.clone()).collect();
    let topics = request.topics.into_iter().map(|topic| {
        let asked = match twice.contains(&topic.name) {
            true => Err((Code::InvalidRequest.kafka(), "named twice in one request".to_owned())),
            false => asked(&topic, cx),
        };
        let log = &cx.broker.log;
        let stage = match asked {
            Err((code, why)) => Stage::Refused(code, why),
            Ok((name, count)) if request.validate_only => match log.check_partitions(&name, count) {
                Ok(()) => Stage::Done,
                Err(Refused { code, why }) => Stage::Refused(code.kafka(), why),
            },
            Ok((name, count)) => Stage::Going(log.add_partitions(&name, count, cx.waker)),
        };
        (topic.name, stage)
    });
    let topics = topics.collect();
    Box::new(CreatePartitions { topics })
}

/// The topic and how many partitions it is to have.
fn asked(topic: &CreatePartitionsTopic, cx: &Context<'_>) -> Result<(Topic, u32), (i16, String)> {
    let unknown = || (Code::UnknownTopic.kafka(), "no such topic".to_owned());
    let name = Topic::parse(topic.name.0.as_str()).map_err(|_| unknown())?;
    let info = cx.broker.log.topic(name.as_str()).ok_or_else(unknown)?;
    // Below one it is fewer than there are; the log says so.
    let count = u32::try_from(topic.count).unwrap_or(0);
    let added = count.saturating_sub(info.partitions);
    if let Some(assignments) = topic.assignments.as_ref().filter(|_| added > 0) {
        let whole = u32::try_from(assignments.len()) == Ok(added);
        let here = assignments.iter().all(|a| a.broker_ids == [BrokerId(NODE_ID)]);
        if !whole || !here {
            let why = format!("replicas can only be on node {NODE_ID}, of each of the {added} partitions to be added");
            return Err((INVALID_ASSIGNMENT, why));
        }
    }
    Ok((name, count))
}

impl Call for CreatePartitions {
    fn poll(&mut self, cx: &Context<'_>, out: &mut Output) -> Step {
        for (_, stage) in &mut self.topics {
            let Stage::Going(ticket) = stage else { continue };
            *stage = match ticket.take() {
                None => return Step::Waiting,
                Some(Ok(_)) => Stage::Done,
                Some(Err(Refused { code, why })) => Stage::Refused(code.kafka(), why),
            };
        }
        let results = self.topics.iter().map(|(name, stage)| {
            let (code, why) = match stage {
                Stage::Refused(code, why) => (error(cx, *code), text(why.as_str())),
                Stage::Done | Stage::Going(_) => (0, None),
            };
            CreatePartitionsTopicResult::default()
                .with_name(name.clone())
                .with_error_code(code)
                .with_error_message(why)
        });
        let response = CreatePartitionsResponse::default().with_results(results.collect());
        answer::<CreatePartitionsRequest>(&response, cx, out)
    }
}
