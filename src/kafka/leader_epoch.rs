//! OffsetForLeaderEpoch: where an epoch's records end. There is a new epoch only after damage. It begins at an offset that only it gives
//! out: an older one ends where the next begins, or where the log starts, if that is later.

use super::call::{Call, Context, Ready, error};
use crate::kafka_wire::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use crate::kafka_wire::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use crate::kafka_wire::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, TopicName};
use crate::model::{Code, Offset, Partition};

pub(super) fn begin(request: OffsetForLeaderEpochRequest, cx: &Context<'_>) -> Box<dyn Call> {
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| end_of(&topic.topic, asked, cx));
        OffsetForLeaderTopicResult::default()
            .with_partitions(partitions.collect())
            .with_topic(topic.topic.clone())
    });
    let response = OffsetForLeaderEpochResponse::default().with_topics(topics.collect());
    Ready::<OffsetForLeaderEpochRequest>::call(response)
}

fn end_of(topic: &TopicName, asked: &OffsetForLeaderPartition, cx: &Context<'_>) -> EpochEndOffset {
    let answer = EpochEndOffset::default()
        .with_partition(asked.partition)
        .with_leader_epoch(-1)
        .with_end_offset(-1);
    let partition = u32::try_from(asked.partition).ok().map(Partition);
    let bounds = partition.and_then(|partition| cx.broker.log.bounds(topic.0.as_str(), partition));
    let Some(bounds) = bounds else {
        return answer.with_error_code(error(cx, Code::UnknownTopic.kafka()));
    };
    match asked.leader_epoch {
        epoch if epoch == bounds.leader_epoch => answer
            .with_leader_epoch(epoch)
            .with_end_offset(bounds.high_watermark.kafka()),
        epoch if (0..bounds.leader_epoch).contains(&epoch) => answer
            .with_leader_epoch(epoch)
            .with_end_offset(bounds.log_start.max(Offset::of_epoch(epoch.saturating_add(1))).kafka()),
        // An epoch that was never here: undefined.
        _ => answer,
    }
}
