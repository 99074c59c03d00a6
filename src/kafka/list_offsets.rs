//! ListOffsets: the ends of a partition, and offsets by time.

use super::call::{Call, Context, Step, answer, error};
use crate::kafka_wire::messages::list_offsets_request::ListOffsetsPartition;
use crate::kafka_wire::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use crate::kafka_wire::messages::{ListOffsetsRequest, ListOffsetsResponse, TopicName};
use crate::log::{Ticket, TimePoint};
use crate::model::{Code, Output, Partition, Topic};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
/// The first record with the largest timestamp (KIP-734).
const MAX_TIMESTAMP: i64 = -3;

/// Beyond the year 10000; a record from there is found all the same, by a longer search.
const FAR_MS: i64 = 1 << 48;

struct ListOffsets {
    topics: Vec<(TopicName, Vec<Lookup>)>,
}

struct Lookup {
    index: i32,
    target: Option<(Topic, Partition)>,
    leader_epoch: i32,
    state: Search,
}

enum Search {
    Done(Found),
    /// The first offset at or after a time.
    Time(Ticket<Option<TimePoint>>),
    /// Halves the span between a time that has records at or after it and one that has none.
    Max {
        best: Option<TimePoint>,
        none_from_ms: i64,
        asked_ms: i64,
        ticket: Ticket<Option<TimePoint>>,
    },
}

#[derive(Clone, Copy)]
enum Found {
    At { offset: i64, timestamp_ms: i64 },
    Error(i16),
}

const NOWHERE: Found = Found::At {
    offset: -1,
    timestamp_ms: -1,
};

pub(super) fn begin(request: ListOffsetsRequest, cx: &Context<'_>) -> Box<dyn Call> {
    let topics = request.topics.into_iter().map(|topic| {
        let lookups = topic.partitions.iter().map(|asked| look_up(&topic.name, asked, cx));
        let lookups = lookups.collect();
        (topic.name, lookups)
    });
    Box::new(ListOffsets {
        topics: topics.collect(),
    })
}

fn look_up(name: &TopicName, asked: &ListOffsetsPartition, cx: &Context<'_>) -> Lookup {
    let mut lookup = Lookup {
        index: asked.partition_index,
        target: None,
        leader_epoch: -1,
        state: Search::Done(Found::Error(Code::UnknownTopic.kafka())),
    };
    let partition = u32::try_from(asked.partition_index).ok().map(Partition);
    let target = Topic::parse(name.0.as_str()).ok().zip(partition);
    let Some((topic, partition)) = target else {
        return lookup;
    };
    let log = &cx.broker.log;
    let Some(bounds) = log.bounds(topic.as_str(), partition) else {
        return lookup;
    };
    lookup.leader_epoch = bounds.leader_epoch;
    let end = |offset: crate::model::Offset| {
        Search::Done(Found::At {
            offset: offset.kafka(),
            timestamp_ms: -1,
        })
    };
    lookup.state = match asked.timestamp {
        LATEST => end(bounds.high_watermark),
        EARLIEST => end(bounds.log_start),
        MAX_TIMESTAMP => Search::Max {
            best: None,
            none_from_ms: i64::MAX,
            asked_ms: i64::MIN,
            ticket: log.offset_for_time(&topic, partition, i64::MIN, cx.waker),
        },
        time if time >= 0 => Search::Time(log.offset_for_time(&topic, partition, time, cx.waker)),
        _ => Search::Done(Found::Error(Code::UnsupportedVersion.kafka())),
    };
    lookup.target = Some((topic, partition));
    lookup
}

impl Lookup {
    /// Goes on; the result once it is there.
    fn settle(&mut self, cx: &Context<'_>) -> Option<Found> {
        while let Search::Time(ticket) | Search::Max { ticket, .. } = &mut self.state {
            let result = ticket.take()?;
            self.state = match (result, &self.state) {
                (Err(refused), _) => Search::Done(Found::Error(refused.code.kafka())),
                (
                    Ok(point),
                    Search::Max {
                        best,
                        none_from_ms,
                        asked_ms,
                        ..
                    },
                ) => halve(point, *best, *none_from_ms, *asked_ms, self.target.as_ref(), cx),
                (Ok(point), _) => Search::Done(found(point)),
            };
        }
        match self.state {
            Search::Done(found) => Some(found),
            _ => None,
        }
    }
}

fn found(point: Option<TimePoint>) -> Found {
    point.map_or(NOWHERE, |point| Found::At {
        offset: point.offset.kafka(),
        timestamp_ms: point.timestamp_ms,
    })
}

fn halve(
    point: Option<TimePoint>,
    best: Option<TimePoint>,
    none_from_ms: i64,
    asked_ms: i64,
    target: Option<&(Topic, Partition)>,
    cx: &Context<'_>,
) -> Search {
    let none_from_ms = if point.is_none() { asked_ms } else { none_from_ms };
    let best = point.or(best);
    let (Some(low), Some((topic, partition))) = (best, target) else {
        return Search::Done(NOWHERE);
    };
    // A record is at `low`, none at or after `none_from_ms`.
    let span = none_from_ms.saturating_sub(low.timestamp_ms);
    if span <= 1 {
        return Search::Done(found(best));
    }
    let asked_ms = match none_from_ms {
        i64::MAX if low.timestamp_ms < FAR_MS => FAR_MS,
        _ => low.timestamp_ms.saturating_add(span.wrapping_shr(1)),
    };
    Search::Max {
        best,
        none_from_ms,
        asked_ms,
        ticket: cx.broker.log.offset_for_time(topic, *partition, asked_ms, cx.waker),
    }
}

impl Call for ListOffsets {
    fn poll(&mut self, cx: &Context<'_>, out: &mut Output) -> Step {
        let lookups = self.topics.iter_mut().flat_map(|(_, lookups)| lookups);
        for lookup in lookups {
            if lookup.settle(cx).is_none() {
                return Step::Waiting;
            }
        }
        let topics = self.topics.iter_mut().map(|(name, lookups)| {
            let partitions = lookups.iter_mut().map(|lookup| lookup.answer(cx));
            ListOffsetsTopicResponse::default()
                .with_name(name.clone())
                .with_partitions(partitions.collect())
        });
        let response = ListOffsetsResponse::default().with_topics(topics.collect());
        answer::<ListOffsetsRequest>(&response, cx, out)
    }
}

impl Lookup {
    fn answer(&mut self, cx: &Context<'_>) -> ListOffsetsPartitionResponse {
        let answer = ListOffsetsPartitionResponse::default().with_partition_index(self.index);
        match self.settle(cx).unwrap_or(NOWHERE) {
            Found::At { offset, timestamp_ms } => answer
                .with_offset(offset)
                .with_timestamp(timestamp_ms)
                .with_leader_epoch(if cx.version >= 4 { self.leader_epoch } else { -1 }),
            Found::Error(code) => answer
                .with_error_code(error(cx, code))
                .with_offset(-1)
                .with_timestamp(-1),
        }
    }
}
