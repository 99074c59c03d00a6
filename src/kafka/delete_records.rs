//! DeleteRecords: partitions begin at a later offset. Source of what is answered: `Partition.deleteRecordsOnLeader` and
//! `UnifiedLog.maybeIncrementLogStartOffset` of Apache Kafka.

use super::call::{Call, Context, Step, answer, error};
use crate::kafka_wire::messages::delete_records_request::DeleteRecordsPartition;
use crate::kafka_wire::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use crate::kafka_wire::messages::{DeleteRecordsRequest, DeleteRecordsResponse, TopicName};
use crate::log::{Cut, CutAnswers, Ticket};
use crate::model::{Code, Offset, Output, Partition, Topic};

/// POLICY_VIOLATION: Kafka deletes nothing from a topic that is only compacted.
const POLICY_VIOLATION: i16 = 44;
/// An offset that stands for the high watermark.
const HIGH_WATERMARK: i64 = -1;
/// The low watermark beside an error.
const NO_WATERMARK: i64 = -1;

struct DeleteRecords {
    topics: Vec<(TopicName, Vec<Asked>)>,
    stage: Stage,
}

enum Stage {
    Going(Ticket<CutAnswers>),
    Done(CutAnswers),
    Refused(Code),
}

struct Asked {
    index: i32,
    /// Its place among the cuts, or why there is none.
    cut: Result<usize, i16>,
}

pub(super) fn begin(request: DeleteRecordsRequest, cx: &Context<'_>) -> Box<dyn Call> {
    let mut cuts = Vec::new();
    let topics = request.topics.into_iter().map(|topic| {
        let target = target(&topic.name, cx);
        let asked = topic.partitions.iter().map(|partition| Asked {
            index: partition.partition_index,
            cut: target.clone().and_then(|topic| {
                let at = cuts.len();
                cuts.push(cut(topic, partition)?);
                Ok(at)
            }),
        });
        let asked = asked.collect();
        (topic.name, asked)
    });
    let topics = topics.collect();
    let stage = match cuts.is_empty() {
        true => Stage::Done(Vec::new()),
        false => Stage::Going(cx.broker.log.delete_records(cuts, cx.waker)),
    };
    Box::new(DeleteRecords { topics, stage })
}

fn target(name: &TopicName, cx: &Context<'_>) -> Result<Topic, i16> {
    let topic = Topic::parse(name.0.as_str()).map_err(|_| Code::UnknownTopic.kafka())?;
    if topic.is_internal() {
        return Err(Code::InvalidTopic.kafka());
    }
    let info = cx.broker.log.topic(topic.as_str()).ok_or(Code::UnknownTopic.kafka())?;
    if !info.settings.is_deleted() {
        return Err(POLICY_VIOLATION);
    }
    Ok(topic)
}

fn cut(topic: Topic, asked: &DeleteRecordsPartition) -> Result<Cut, i16> {
    let partition = u32::try_from(asked.partition_index).map_err(|_| Code::UnknownTopic.kafka())?;
    let to = match asked.offset {
        HIGH_WATERMARK => None,
        offset => Some(Offset::from_kafka(offset).ok_or(Code::OffsetOutOfRange.kafka())?),
    };
    Ok(Cut {
        topic,
        partition: Partition(partition),
        to,
    })
}

impl DeleteRecords {
    fn result(&self, asked: &Asked) -> Result<Offset, i16> {
        let at = asked.cut?;
        let answers = match &self.stage {
            Stage::Done(answers) => answers,
            Stage::Refused(code) => return Err(code.kafka()),
            Stage::Going(_) => return Err(Code::Busy.kafka()),
        };
        match answers.get(at) {
            Some(Ok(start)) => Ok(*start),
            Some(Err(refused)) => Err(refused.code.kafka()),
            None => Err(Code::Storage.kafka()),
        }
    }
}

impl Call for DeleteRecords {
    fn poll(&mut self, cx: &Context<'_>, out: &mut Output) -> Step {
        if let Stage::Going(ticket) = &mut self.stage {
            self.stage = match ticket.take() {
                None => return Step::Waiting,
                Some(Ok(answers)) => Stage::Done(answers),
                Some(Err(refused)) => Stage::Refused(refused.code),
            };
        }
        let topics = self.topics.iter().map(|(name, asked)| {
            let partitions = asked.iter().map(|asked| {
                let result = DeleteRecordsPartitionResult::default().with_partition_index(asked.index);
                match self.result(asked) {
                    Ok(start) => result.with_low_watermark(start.kafka()),
                    Err(code) => result.with_low_watermark(NO_WATERMARK).with_error_code(error(cx, code)),
                }
            });
            DeleteRecordsTopicResult::default()
                .with_name(name.clone())
                .with_partitions(partitions.collect())
        });
        let response = DeleteRecordsResponse::default().with_topics(topics.collect());
        answer::<DeleteRecordsRequest>(&response, cx, out)
    }
}
