//! Live delivery: follows every partition of the log behind its high watermark, makes MQTT messages of the records, asks the
//! tree once for each and fills the outboxes. Nothing is delivered that is not durable.
//!
//! Without a subscription it does nothing at all, not even follow; the first one sets its positions to the high watermarks. After
//! that only partitions that moved are looked at: what a commit costs here does not grow with the partitions there are.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;

use super::broker::{Broker, Shared};
use super::outbox::{Message, Outbox, Queued};
use super::packet::Properties;
use super::subscriptions::Subscription;
use crate::log::{Bounds, Moves, ReadBatches, ReadRequest, Refused, Ticket, TopicInfo};
use crate::model::batch::{Batch, RecordView};
use crate::model::compression::Inflater;
use crate::model::{Code, Offset, Partition, Topic};
use crate::route::{self, Outgoing};

/// Bytes of one read; a batch is taken whole whatever its size.
const READ_BYTES_MAX: usize = 256 << 10;

/// Largest records section after decompression.
const BATCH_BYTES_MAX: usize = 64 << 20;

/// Rounds in one call, so that others on this thread get their turn.
const ROUNDS_MAX: usize = 4;

#[derive(Default)]
pub(super) struct Hub {
    cursors: HashMap<Place, Cursor>,
    /// While somebody subscribes.
    moves: Option<Moves>,
    /// Where there may be something to deliver: what moved, until it is read to its end.
    behind: BTreeSet<Place>,
    inflater: Inflater,
    /// Partitions looked at.
    #[cfg(test)]
    pub(super) looks: usize,
}

type Place = (Topic, Partition);

struct Cursor {
    topic_id: [u8; 16],
    next: Offset,
    read: Option<Ticket<ReadBatches>>,
}

impl Hub {
    /// The first subscription is there: follow from here on.
    pub(super) fn activate(&mut self, broker: &Broker) {
        let mut shared = broker.shared();
        if shared.hub_active {
            return;
        }
        shared.hub_active = true;
        self.cursors.clear();
        self.behind.clear();
        // First this, then the positions: what moves in between is looked at once for nothing.
        self.moves = Some(broker.log.follow());
        let topics = broker.log.topics();
        for info in topics.iter().filter(|info| !info.name.is_internal()) {
            for partition in (0..info.partitions).map(Partition) {
                if let Some(bounds) = broker.log.bounds(info.name.as_str(), partition) {
                    let cursor = Cursor::new(info, bounds.high_watermark);
                    self.cursors.insert((info.name.clone(), partition), cursor);
                }
            }
        }
        if let Some(waker) = &shared.waker {
            waker.wake_by_ref();
        }
    }

    pub(super) fn poll(&mut self, broker: &Broker, waker: &Waker) {
        for _ in 0..ROUNDS_MAX {
            {
                let mut shared = broker.shared();
                if shared.tree.len() == 0 {
                    shared.hub_active = false;
                    self.cursors = HashMap::new();
                    self.behind = BTreeSet::new();
                    self.moves = None;
                    return;
                }
            }
            // Without them `activate` is on its way.
            let Some(moves) = &self.moves else { return };
            self.behind.extend(moves.take(waker));
            if !self.round(broker, waker) {
                return;
            }
        }
        waker.wake_by_ref();
    }

    /// One look at every partition that is behind; whether anything was delivered.
    fn round(&mut self, broker: &Broker, waker: &Waker) -> bool {
        let mut moved = false;
        for place in std::mem::take(&mut self.behind) {
            #[cfg(test)]
            {
                self.looks = self.looks.saturating_add(1);
            }
            let (topic, partition) = &place;
            let found = broker.log.topic(topic.as_str());
            let bounds = broker.log.bounds(topic.as_str(), *partition);
            let (Some(info), Some(bounds)) = (found, bounds) else {
                self.cursors.remove(&place);
                continue;
            };
            if info.name.is_internal() {
                continue;
            }
            let new = || Cursor::new(&info, bounds.log_start);
            let cursor = self.cursors.entry(place.clone()).or_insert_with(new);
            if cursor.topic_id != info.id {
                // Deleted and made again.
                *cursor = new();
            }
            if cursor.read.is_none() && cursor.next < bounds.high_watermark {
                let request = ReadRequest {
                    topic: info.name.clone(),
                    partition: *partition,
                    from: cursor.next,
                    bytes_max: READ_BYTES_MAX,
                };
                cursor.read = Some(broker.log.read(request, waker));
            }
            if let Some(result) = cursor.read.as_mut().and_then(Ticket::take) {
                cursor.read = None;
                let from = cursor.next;
                cursor.next = match result {
                    Ok(read) => deliver(broker, &mut self.inflater, from, &read),
                    Err(refused) => skip_to(broker, from, bounds, &refused),
                };
                // A read that brought nothing is tried again at the next commit, not at once.
                moved |= cursor.next > from;
            }
            if cursor.read.is_some() || cursor.next < bounds.high_watermark {
                self.behind.insert(place);
            }
        }
        moved
    }
}

impl Cursor {
    fn new(info: &TopicInfo, next: Offset) -> Self {
        Self {
            topic_id: info.id,
            next,
            read: None,
        }
    }
}

/// Where to go on after a read that failed: what is gone is counted, never waited for.
fn skip_to(broker: &Broker, from: Offset, bounds: Bounds, refused: &Refused) -> Offset {
    let next = match refused.code {
        Code::OffsetOutOfRange if bounds.log_start > from => bounds.log_start,
        // Nothing is wrong with the records: ask again at the next commit, or when the store is there again.
        Code::Busy | Code::Stopping | Code::Storage => return from,
        _ => bounds.high_watermark,
    };
    broker.metrics().hub_skipped.inc_by(next.0.saturating_sub(from.0));
    next
}

fn deliver(broker: &Broker, inflater: &mut Inflater, from: Offset, read: &ReadBatches) -> Offset {
    let mut called: Vec<Arc<Outbox>> = Vec::new();
    let mut shared = broker.shared();
    for batch in read.batches.iter().cloned().flat_map(Batch::split_trusted) {
        let Ok(batch) = batch else {
            broker.metrics().hub_skipped.inc();
            continue;
        };
        if batch.header().is_control() {
            continue;
        }
        let Ok(records) = batch.views(inflater, BATCH_BYTES_MAX) else {
            broker.metrics().hub_skipped.inc();
            continue;
        };
        for record in records.map_while(Result::ok).filter(|r| r.offset >= from) {
            hand_out(broker, &mut shared, &record, &mut called);
        }
    }
    drop(shared);
    called.iter().for_each(|outbox| outbox.wake());
    read.offset_next.max(from)
}

fn hand_out(broker: &Broker, shared: &mut Shared, record: &RecordView<'_>, called: &mut Vec<Arc<Outbox>>) {
    let headers = record.headers.clone().map(|h| (h.name, h.value));
    let Some(outgoing) = route::outgoing(record.key, headers) else {
        return;
    };
    let mut found = Vec::new();
    shared.tree.matches(outgoing.topic, &mut found);
    if found.is_empty() {
        return;
    }
    found.sort_by_key(|(session, _)| *session);
    let message = Arc::new(message_of(record, &outgoing));
    for group in found.chunk_by(|a, b| a.0 == b.0) {
        let Some((session, _)) = group.first() else { continue };
        let Some(outbox) = shared.live.get(session) else {
            continue;
        };
        let Some(queued) = queued_for(&message, group) else {
            continue;
        };
        let pushed = outbox.push(queued);
        if pushed.dropped {
            broker.metrics().add(&broker.metrics().dropped_out, "slow", 1);
        }
        if pushed.to_wake {
            called.push(Arc::clone(outbox));
        }
    }
}

/// One message for a session, however many of its subscriptions match: the highest QoS of them, all their ids.
fn queued_for(message: &Arc<Message>, group: &[(u64, &Subscription)]) -> Option<Queued> {
    let granted = group.iter().map(|(_, s)| s.qos).max()?;
    Some(Queued {
        message: Arc::clone(message),
        qos: granted.min(message.qos).min(1),
        retain: message.retain && group.iter().any(|(_, s)| s.retain_as_published),
        subscription_ids: group.iter().filter_map(|(_, s)| s.id).collect(),
        no_local: group.iter().all(|(_, s)| s.no_local),
    })
}

fn message_of(record: &RecordView<'_>, outgoing: &Outgoing<'_>) -> Message {
    Message {
        topic: outgoing.topic.to_owned(),
        payload: Bytes::copy_from_slice(record.value.unwrap_or_default()),
        qos: outgoing.qos,
        retain: outgoing.retain,
        properties: Properties {
            payload_is_text: outgoing.payload_is_text,
            expiry_s: outgoing.expiry_s,
            content_type: outgoing.content_type.map(str::to_owned),
            response_topic: outgoing.response_topic.map(str::to_owned),
            correlation: outgoing.correlation.map(Bytes::copy_from_slice),
            user: outgoing
                .user
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect(),
        },
        timestamp_ms: record.timestamp_ms,
        origin: outgoing.origin.map(str::to_owned),
    }
}
