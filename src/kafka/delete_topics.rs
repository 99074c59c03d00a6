//! DeleteTopics, by name or (version 6) by id.

use super::call::{Call, Context, Step, answer, error, text};
use crate::kafka_wire::messages::delete_topics_request::DeleteTopicState;
use crate::kafka_wire::messages::delete_topics_response::DeletableTopicResult;
use crate::kafka_wire::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
use crate::log::{Refused, Ticket};
use crate::model::{Code, Output, Topic};

/// UNKNOWN_TOPIC_ID
const UNKNOWN_TOPIC_ID: i16 = 100;

struct DeleteTopics {
    topics: Vec<(DeleteTopicState, Stage)>,
}

enum Stage {
    Going(Ticket<()>),
    Gone,
    Refused(i16, String),
}

pub(super) fn begin(request: DeleteTopicsRequest, cx: &Context<'_>) -> Box<dyn Call> {
    let named = request.topic_names.into_iter();
    let named = named.map(|name| DeleteTopicState::default().with_name(Some(name)));
    let asked = request.topics.into_iter().chain(named);
    let topics = asked.map(|asked| delete(asked, cx)).collect();
    Box::new(DeleteTopics { topics })
}

fn delete(mut asked: DeleteTopicState, cx: &Context<'_>) -> (DeleteTopicState, Stage) {
    let log = &cx.broker.log;
    let topic = match &asked.name {
        Some(name) => {
            let parsed = Topic::parse(name.0.as_str()).ok();
            parsed.ok_or((Code::UnknownTopic.kafka(), "no such topic".to_owned()))
        }
        None => {
            let found = log
                .topics()
                .into_iter()
                .find(|topic| topic.id == *asked.topic_id.as_bytes());
            found
                .map(|topic| topic.name.clone())
                .ok_or((UNKNOWN_TOPIC_ID, "no such topic id".to_owned()))
        }
    };
    match topic {
        Err((code, why)) => (asked, Stage::Refused(code, why)),
        Ok(topic) => {
            asked.name = Some(TopicName(topic.to_string().into()));
            let ticket = log.delete_topic(&topic, cx.waker);
            (asked, Stage::Going(ticket))
        }
    }
}

impl Call for DeleteTopics {
    fn poll(&mut self, cx: &Context<'_>, out: &mut Output) -> Step {
        for (_, stage) in &mut self.topics {
            let Stage::Going(ticket) = stage else { continue };
            *stage = match ticket.take() {
                None => return Step::Waiting,
                Some(Ok(())) => Stage::Gone,
                Some(Err(Refused { code, why })) => Stage::Refused(code.kafka(), why),
            };
        }
        let responses = self.topics.iter().map(|(asked, stage)| {
            let result = DeletableTopicResult::default()
                .with_name(asked.name.clone())
                .with_topic_id(asked.topic_id);
            match stage {
                Stage::Refused(code, why) => result
                    .with_error_code(error(cx, *code))
                    .with_error_message(text(why.as_str())),
                Stage::Gone | Stage::Going(_) => result,
            }
        });
        let response = DeleteTopicsResponse::default().with_responses(responses.collect());
        answer::<DeleteTopicsRequest>(&response, cx, out)
    }
}
