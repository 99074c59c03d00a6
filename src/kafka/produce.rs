//! Produce: each partition's one batch is checked as Kafka checks it and goes to the log as it came. The answer waits until
//! every batch of the request is durable or refused; with acks=0 there is no answer, and a refusal closes the connection, the
//! only sign such a producer can notice.

use bytes::Bytes;

use super::call::{Call, Context, Step, answer, error, text};
use crate::kafka_wire::StrBytes;
use crate::kafka_wire::messages::produce_request::PartitionProduceData;
use crate::kafka_wire::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use crate::kafka_wire::messages::{ProduceRequest, ProduceResponse, TopicName};
use crate::log::{Append, Appended, Committed, Refused, Submission, Ticket, TopicInfo, TopicSettings};
use crate::model::batch::{Batch, Header};
use crate::model::compression::Codec;
use crate::model::{Code, Output, Partition};

/// Most bytes that the records of one batch may have once decompressed. More is refused (MESSAGE_TOO_LARGE).
const RECORDS_BYTES_MAX: usize = 32 << 20;
/// What the shared buffer for decompressed records may keep between batches.
const INFLATER_BYTES_KEPT: usize = 1 << 20;

/// INVALID_REQUIRED_ACKS
const INVALID_REQUIRED_ACKS: i16 = 21;
/// TRANSACTIONAL_ID_AUTHORIZATION_FAILED: what ends a transactional producer at once, where retriable errors would not.
pub(super) const TRANSACTIONS_REFUSED: i16 = 53;
/// What a person reads beside it.
pub(super) const TRANSACTIONS_REFUSED_WHY: &str =
    "headwater has no transactions. Try: an idempotent producer without a transactional id";

struct Produce {
    acks: i16,
    topics: Vec<(TopicName, Vec<Part>)>,
}

struct Part {
    index: i32,
    state: Stage,
}

enum Stage {
    Queued(Ticket<Committed>),
    Stored(Appended),
    Refused(i16, String),
}

pub(super) fn begin(request: ProduceRequest, cx: &Context<'_>) -> Box<dyn Call> {
    let acks = request.acks;
    let whole = match (&request.transactional_id, acks) {
        (Some(_), _) => Some((TRANSACTIONS_REFUSED, TRANSACTIONS_REFUSED_WHY)),
        (None, -1..=1) => None,
        (None, _) => Some((INVALID_REQUIRED_ACKS, "acks is 0, 1 or -1 (all)")),
    };
    let topics = request.topic_data.into_iter().map(|topic| {
        let info = cx.broker.log.topic(topic.name.0.as_str());
        let parts = topic.partition_data.into_iter().map(|data| Part {
            index: data.index,
            state: match whole {
                Some((code, why)) => Stage::Refused(code, why.into()),
                None => queue(info.as_deref(), data, cx).unwrap_or_else(|(code, why)| Stage::Refused(code, why)),
            },
        });
        (topic.name, parts.collect())
    });
    Box::new(Produce {
        acks,
        topics: topics.collect(),
    })
}

/// Checks one partition's batch and hands it to the log.
fn queue(info: Option<&TopicInfo>, data: PartitionProduceData, cx: &Context<'_>) -> Result<Stage, (i16, String)> {
    let partition = u32::try_from(data.index).ok();
    let (Some(info), Some(partition)) = (info, partition.filter(|p| info.is_some_and(|i| *p < i.partitions))) else {
        return Err(refuse(Code::UnknownTopic, "no such topic or partition"));
    };
    let records = data.records.unwrap_or_default();
    let bytes = records.len();
    let batch = check(records, &info.settings, cx)?;
    let metrics = cx.broker.metrics();
    metrics.produced_bytes.inc_by(bytes as u64);
    metrics
        .produced_records
        .inc_by(u64::try_from(batch.header().records_count).unwrap_or(0));
    let append = Append::Batch {
        topic: info.name.clone(),
        partition: Partition(partition),
        batch,
    };
    // One submission a partition: each is stored or refused on its own.
    let submission = Submission {
        appends: vec![append],
        state: Vec::new(),
    };
    Ok(Stage::Queued(cx.broker.log.submit(submission, cx.waker)))
}

fn check(records: Bytes, settings: &TopicSettings, cx: &Context<'_>) -> Result<Batch, (i16, String)> {
    let batch_bytes_max = settings.batch_bytes_max;
    if records.is_empty() {
        return Err(refuse(Code::InvalidRecord, "no batch in the request"));
    }
    let failed = |e: crate::model::batch::BatchError| refuse(e.code(), e.to_string());
    let header = Header::parse(&records).map_err(failed)?;
    if header.total_bytes < records.len() {
        return Err(refuse(Code::InvalidRecord, "more than one batch for a partition"));
    }
    if header.total_bytes > batch_bytes_max {
        let why = format!(
            "a batch of {} bytes, the topic takes {batch_bytes_max}",
            header.total_bytes
        );
        return Err(refuse(Code::TooLarge, why));
    }
    let batch = Batch::parse(records).map_err(failed)?;
    let header = batch.header();
    if header.is_control() {
        return Err(refuse(Code::InvalidRecord, "a producer may not send control batches"));
    }
    if header.is_transactional() {
        return Err((TRANSACTIONS_REFUSED, TRANSACTIONS_REFUSED_WHY.into()));
    }
    if header.codec().map_err(failed)? == Codec::Zstd && cx.version < 7 {
        return Err(refuse(Code::UnsupportedCompression, "zstd needs Produce version 7"));
    }
    let mut inflater = cx.broker.inflater();
    let verified = batch.verify_records_with(&mut inflater, RECORDS_BYTES_MAX, settings.is_compacted());
    inflater.shrink(INFLATER_BYTES_KEPT);
    drop(inflater);
    verified.map_err(failed)?;
    Ok(batch)
}

fn refuse(code: Code, why: impl Into<String>) -> (i16, String) {
    (code.kafka(), why.into())
}

impl Stage {
    fn settle(&mut self) -> bool {
        let Self::Queued(ticket) = self else { return true };
        *self = match ticket.take() {
            None => return false,
            Some(Ok(committed)) => match committed.appended.into_iter().next() {
                Some(appended) => Self::Stored(appended),
                None => Self::Refused(Code::Storage.kafka(), "the log said nothing of the batch".into()),
            },
            Some(Err(Refused { code, why })) => Self::Refused(code.kafka(), why),
        };
        true
    }
}

impl Call for Produce {
    fn poll(&mut self, cx: &Context<'_>, out: &mut Output) -> Step {
        let parts = self.topics.iter_mut().flat_map(|(_, parts)| parts);
        for part in parts {
            if !part.state.settle() {
                return Step::Waiting;
            }
        }
        let mut refused = None;
        let topics = self.topics.iter().map(|(name, parts)| {
            let answers = parts.iter().map(|part| {
                if let Stage::Refused(code, why) = &part.state {
                    error(cx, *code);
                    refused.get_or_insert_with(|| format!("{}-{}: error {code}, {why}", name.0, part.index));
                }
                if let Stage::Stored(appended) = &part.state {
                    cx.broker
                        .metrics()
                        .produced_duplicates
                        .inc_by(u64::from(appended.duplicate));
                }
                part.answer()
            });
            TopicProduceResponse::default()
                .with_name(name.clone())
                .with_partition_responses(answers.collect())
        });
        let response = ProduceResponse::default().with_responses(topics.collect());
        match (self.acks, refused) {
            (0, None) => Step::Done(None),
            (0, Some(why)) => Step::Close(format!("acks=0, so only closing tells the producer: {why}")),
            _ => answer::<ProduceRequest>(&response, cx, out),
        }
    }
}

impl Part {
    fn answer(&self) -> PartitionProduceResponse {
        let answer = PartitionProduceResponse::default().with_index(self.index);
        match &self.state {
            Stage::Stored(appended) => answer
                .with_base_offset(appended.base_offset.kafka())
                .with_log_append_time_ms(appended.append_time_ms.unwrap_or(-1))
                .with_log_start_offset(appended.log_start.kafka()),
            Stage::Refused(code, why) => answer
                .with_error_code(*code)
                .with_base_offset(-1)
                .with_log_append_time_ms(-1)
                .with_log_start_offset(-1)
                .with_error_message(text(why.as_str())),
            Stage::Queued(_) => answer.with_error_message(Some(StrBytes::default())),
        }
    }
}
