//! Messages in: PUBLISH and PUBREL, and the answers once the log has them.

use std::collections::hash_map::Entry;

use bytes::Bytes;

use super::connect::ALIAS_MAX;
use super::pending::{ALONE_BYTES, GROUP_BYTES_MAX, GROUP_MESSAGES_MAX, Group, Pending};
use super::{Incoming, MqttSession, Stage};
use crate::log::{Append, Expect, Refused, StateChange, Submission, Table};
use crate::model::{Code, End, Now, Record, Topic};
use crate::mqtt::codec::Ack;
use crate::mqtt::packet::{Fault, Properties, Publish, Version, reason};
use crate::mqtt::row;
use crate::route::{Message, Source};

impl MqttSession {
    pub(super) fn publish(&mut self, publish: Publish, now: Now) -> Result<(), Fault> {
        let inflight_max = usize::from(self.broker.limits.mqtt_inflight);
        let Some(client) = &mut self.client else { return Ok(()) };
        let metrics = self.broker.metrics();
        match publish.qos {
            0 => &metrics.received_qos0,
            1 => &metrics.received_qos1,
            _ => &metrics.received_qos2,
        }
        .inc();
        if publish.retain {
            metrics.retain_flagged.inc();
        }
        let topic = resolve_alias(&mut client.aliases, &publish)?;
        let resent = publish.qos == 2 && client.incoming.contains_key(&publish.id);
        if publish.qos > 0 && !resent {
            if client.version == Version::V5 && self.unacknowledged >= inflight_max {
                return Err(Fault {
                    reason: reason::RECEIVE_MAXIMUM,
                    why: "more messages in flight than Receive Maximum allows",
                });
            }
            self.unacknowledged = self.unacknowledged.saturating_add(1);
        }
        if resent {
            self.resent(publish.id);
            return Ok(());
        }
        let reserved = topic.starts_with(b"$SYS/") || topic.starts_with(b"$share/");
        let source = Source {
            name: &topic,
            client: &client.id,
            user: &client.user,
        };
        let origin = client.no_local.then_some(client.id.as_str());
        let message = message(
            publish.payload,
            publish.qos,
            publish.retain,
            publish.properties.as_deref(),
            origin,
        );
        let routed = match self.broker.router.record(&source, message, now.wall_ms) {
            Ok(routed) if !reserved => Ok(routed),
            Ok(_) => Err(Code::InvalidTopic),
            Err(code) => Err(code),
        };
        match (routed, publish.qos) {
            (Err(code), qos) => {
                self.flush_group();
                let ack = if qos == 1 { Ack::Puback } else { Ack::Pubrec };
                if let Some(reason) = self.refuse_messages(code, qos, 1, "no topic can hold it") {
                    self.answer(ack, publish.id, reason);
                }
            }
            (Ok((topic, record)), 2) => self.submit_exact(topic, record, publish.id, now),
            (Ok((topic, record)), qos) => self.add_to_group(topic, record, qos, publish.id, now),
        }
        Ok(())
    }

    /// A QoS 2 message whose id is known: not stored again.
    fn resent(&mut self, id: u16) {
        self.flush_group();
        self.broker.metrics().duplicates.inc();
        let state = self.client.as_ref().and_then(|c| c.incoming.get(&id)).copied();
        // One that is still on its way gets its PUBREC with the first; one that is being released, its PUBCOMP.
        if state.is_some_and(|s| s.stage == Stage::Stored) {
            self.answer(Ack::Pubrec, id, reason::SUCCESS);
        }
    }

    fn add_to_group(&mut self, topic: Topic, record: Record, qos: u8, id: u16, now: Now) {
        let bytes = record.size_bytes();
        let full = self.group.as_ref().is_some_and(|g| {
            g.topic != topic
                || bytes >= ALONE_BYTES
                || g.appends.len() >= GROUP_MESSAGES_MAX
                || g.bytes.saturating_add(bytes) > GROUP_BYTES_MAX
        });
        if full {
            self.flush_group();
        }
        let group = self.group.get_or_insert_with(|| Group {
            topic: topic.clone(),
            appends: Vec::new(),
            ids: Vec::new(),
            bytes: 0,
            started_us: now.mono_us,
        });
        group.appends.push(Append::Record { topic, record });
        group.bytes = group.bytes.saturating_add(bytes);
        if qos > 0 {
            group.ids.push(id);
            self.pending_acks = self.pending_acks.saturating_add(1);
        }
        self.pending_messages = self.pending_messages.saturating_add(1);
        self.pending_bytes = self.pending_bytes.saturating_add(bytes);
        if bytes >= ALONE_BYTES {
            self.flush_group();
        }
    }

    /// Submits what gathered. Called before anything else is submitted, so that order is kept.
    pub(super) fn flush_group(&mut self) {
        let Some(group) = self.group.take() else { return };
        let messages = group.appends.len();
        let submission = Submission {
            appends: group.appends,
            state: Vec::new(),
        };
        self.pending.push_back(Pending::Group {
            ticket: self.broker.log.submit(submission, &self.waker),
            ids: group.ids,
            messages,
            bytes: group.bytes,
            started_us: group.started_us,
        });
    }

    fn submit_exact(&mut self, topic: Topic, record: Record, id: u16, now: Now) {
        self.flush_group();
        let Some(client) = &mut self.client else { return };
        let bytes = record.size_bytes();
        let mut submission = Submission {
            appends: vec![Append::Record { topic, record }],
            state: Vec::new(),
        };
        if client.expiry_s > 0 {
            submission.state.push(StateChange {
                table: Table::MqttQos2,
                key: row::qos2_key(&client.id, client.incarnation, id),
                expect: Expect::Absent,
                value: Some(row::qos2_value()),
            });
        }
        let incoming = Incoming {
            stage: Stage::Pending,
            counted: true,
        };
        client.incoming.insert(id, incoming);
        self.pending_acks = self.pending_acks.saturating_add(1);
        self.pending_messages = self.pending_messages.saturating_add(1);
        self.pending_bytes = self.pending_bytes.saturating_add(bytes);
        self.pending.push_back(Pending::Exact {
            ticket: self.broker.log.submit(submission, &self.waker),
            id,
            bytes,
            started_us: now.mono_us,
        });
    }

    /// PUBREL: the id goes from the log, and only then PUBCOMP.
    pub(super) fn release(&mut self, id: u16) {
        self.flush_group();
        let Some(client) = &mut self.client else { return };
        match client.incoming.entry(id) {
            Entry::Vacant(_) => self.answer(Ack::Pubcomp, id, reason::ID_NOT_FOUND),
            Entry::Occupied(entry) if entry.get().stage == Stage::Releasing => {}
            Entry::Occupied(mut entry) => {
                entry.get_mut().stage = Stage::Releasing;
                // Also with nothing stored an empty submission keeps it behind a message still on its way.
                let state = (client.expiry_s > 0).then(|| StateChange {
                    table: Table::MqttQos2,
                    key: row::qos2_key(&client.id, client.incarnation, id),
                    expect: Expect::Any,
                    value: None,
                });
                match state {
                    Some(change) => {
                        let submission = Submission {
                            appends: Vec::new(),
                            state: vec![change],
                        };
                        let ticket = self.broker.log.submit(submission, &self.waker);
                        self.pending.push_back(Pending::Release { ticket, id });
                    }
                    None => self.answer(Ack::Pubcomp, id, reason::SUCCESS),
                }
            }
        }
    }

    fn answer(&mut self, ack: Ack, id: u16, reason: u8) {
        self.pending.push_back(Pending::Answer { ack, id, reason });
    }

    /// Answers everything at the front that is done.
    pub(super) fn settle(&mut self, now: Now) {
        while self.end.is_none()
            && let Some(result) = self.pending.front_mut().and_then(Pending::result)
            && let Some(pending) = self.pending.pop_front()
        {
            self.settled(pending, result, now);
        }
        if self.pending.is_empty() && self.pending.capacity() > 64 {
            // A connection at rest holds no buffer.
            self.pending = std::collections::VecDeque::new();
        }
    }

    fn settled(&mut self, pending: Pending, result: Result<(), Refused>, now: Now) {
        match pending {
            Pending::Group {
                ids,
                messages,
                bytes,
                started_us,
                ..
            } => {
                self.count_settled(messages, ids.len(), bytes, started_us, now);
                match result {
                    Ok(()) => ids
                        .iter()
                        .for_each(|id| self.write_ack(Ack::Puback, *id, reason::SUCCESS)),
                    Err(refused) => {
                        let unanswered = messages.saturating_sub(ids.len());
                        self.refuse_messages(refused.code, 0, unanswered, &refused.why);
                        if let Some(reason) = self.refuse_messages(refused.code, 1, ids.len(), &refused.why) {
                            ids.iter().for_each(|id| self.write_ack(Ack::Puback, *id, reason));
                        }
                    }
                }
            }
            Pending::Exact {
                id, bytes, started_us, ..
            } => {
                self.count_settled(1, 1, bytes, started_us, now);
                self.settled_exact(id, result);
            }
            Pending::Release { id, .. } => match result {
                Ok(()) => self.write_ack(Ack::Pubcomp, id, reason::SUCCESS),
                // The id is still there: without PUBCOMP the client asks again after it reconnects.
                Err(refused) => {
                    let end = End::Broker(format!("a QoS 2 id could not be released: {}", refused.why));
                    self.finish(refused.code.mqtt5(), end);
                }
            },
            Pending::Subscription {
                id, codes, unsubscribe, ..
            } => self.settled_subscription(id, &codes, unsubscribe, result),
            Pending::Answer { ack, id, reason } => self.write_ack(ack, id, reason),
        }
    }

    fn settled_exact(&mut self, id: u16, result: Result<(), Refused>) {
        let Some(client) = &mut self.client else { return };
        let stored = match &result {
            Ok(()) => true,
            // Stored already: by a connection before this one, which had no time to say so.
            Err(refused) if refused.code == Code::Conflict => {
                self.broker.metrics().duplicates.inc();
                true
            }
            Err(_) => false,
        };
        if stored {
            if let Some(incoming) = client.incoming.get_mut(&id)
                && incoming.stage == Stage::Pending
            {
                incoming.stage = Stage::Stored;
            }
            self.write_ack(Ack::Pubrec, id, reason::SUCCESS);
        } else if let Err(refused) = result {
            client.incoming.remove(&id);
            if let Some(reason) = self.refuse_messages(refused.code, 2, 1, &refused.why) {
                self.write_ack(Ack::Pubrec, id, reason);
            }
        }
    }

    /// Messages that are not stored: counted, and above QoS 0 a 5.0 client is told, with the reason that this returns, while
    /// one of 3.1.1, which cannot be told, is closed.
    fn refuse_messages(&mut self, code: Code, qos: u8, count: usize, why: &str) -> Option<u8> {
        if count == 0 {
            return None;
        }
        let metrics = self.broker.metrics();
        let family = if qos == 0 {
            &metrics.dropped_in
        } else {
            &metrics.refused
        };
        metrics.add(family, code.name(), u64::try_from(count).unwrap_or(u64::MAX));
        let version = self.client.as_ref()?.version;
        if qos == 0 {
            return None;
        }
        if version == Version::V311 {
            let why = format!("a message was refused: {why}");
            let end = if code == Code::InvalidTopic {
                End::Peer(why)
            } else {
                End::Broker(why)
            };
            self.finish(code.mqtt5(), end);
            return None;
        }
        // 0x95 is not among the codes of PUBACK and PUBREC (sections 3.4.2.1, 3.5.2.1).
        Some(match code.mqtt5() {
            reason::TOO_LARGE => reason::QUOTA,
            reason => reason,
        })
    }

    fn write_ack(&mut self, ack: Ack, id: u16, reason: u8) {
        let Some(client) = &mut self.client else { return };
        let ends = match ack {
            Ack::Puback => true,
            Ack::Pubrec => reason >= reason::UNSPECIFIED,
            Ack::Pubcomp => client.incoming.remove(&id).is_some_and(|i| i.counted),
        };
        if ends {
            self.unacknowledged = self.unacknowledged.saturating_sub(1);
        }
        let codec = client.codec;
        self.output.put_with(|out| codec.ack(out, ack, id, reason));
    }

    fn count_settled(&mut self, messages: usize, acks: usize, bytes: usize, started_us: u64, now: Now) {
        self.pending_acks = self.pending_acks.saturating_sub(acks);
        self.pending_messages = self.pending_messages.saturating_sub(messages);
        self.pending_bytes = self.pending_bytes.saturating_sub(bytes);
        let waited_us = u32::try_from(now.mono_us.saturating_sub(started_us)).unwrap_or(u32::MAX);
        self.broker.metrics().ack_seconds.observe(f64::from(waited_us) / 1e6);
    }
}

/// The topic that a message names, directly or by an alias.
fn resolve_alias(aliases: &mut Vec<Option<Bytes>>, publish: &Publish) -> Result<Bytes, Fault> {
    let Some(alias) = publish.alias else {
        return Ok(publish.topic.clone());
    };
    if alias > ALIAS_MAX {
        return Err(Fault {
            reason: reason::ALIAS,
            why: "a topic alias beyond Topic Alias Maximum",
        });
    }
    let at = usize::from(alias);
    if aliases.len() <= at {
        aliases.resize(at.saturating_add(1), None);
    }
    let Some(place) = aliases.get_mut(at) else {
        return Ok(publish.topic.clone());
    };
    if publish.topic.is_empty() {
        return place.clone().ok_or(Fault::protocol("a topic alias that was never set"));
    }
    // Copied: the packet's own bytes go with it.
    *place = Some(Bytes::copy_from_slice(&publish.topic));
    Ok(publish.topic.clone())
}

pub(super) fn message<'a>(
    payload: Bytes,
    qos: u8,
    retain: bool,
    properties: Option<&'a Properties>,
    origin: Option<&'a str>,
) -> Message<'a> {
    let message = Message {
        payload,
        qos,
        retain,
        origin,
        ..Message::default()
    };
    match properties {
        None => message,
        Some(p) => Message {
            payload_is_text: p.payload_is_text,
            content_type: p.content_type.as_deref(),
            response_topic: p.response_topic.as_deref(),
            correlation: p.correlation.as_deref(),
            expiry_s: p.expiry_s,
            user: &p.user,
            ..message
        },
    }
}
