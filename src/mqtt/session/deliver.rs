//! Messages out: from the outbox to the client, within its Receive Maximum and Maximum Packet Size and what is unsent.

use std::sync::Arc;

use super::{Client, MqttSession, OUTPUT_BYTES_MAX};
use crate::log::Log;
use crate::model::Now;
use crate::mqtt::codec::Delivery;
use crate::mqtt::outbox::Queued;

/// Payloads from this size on are not copied into the output.
const SEGMENT_BYTES: usize = 4 << 10;

impl MqttSession {
    pub(super) fn deliver(&mut self, now: Now) {
        let Some(outbox) = self.outbox.as_ref().filter(|o| o.is_ready()).map(Arc::clone) else {
            return;
        };
        let Some(client) = &mut self.client else { return };
        while self.output.len() < OUTPUT_BYTES_MAX && !self.stopping {
            // A QoS 1 message beyond the client's Receive Maximum waits, and what is behind it with it: order is kept.
            let room = client.sent.len() < client.receive_max;
            let Some(queued) = outbox.pop(|next| next.qos == 0 || room) else {
                return;
            };
            let message = &queued.message;
            if queued.no_local && message.origin.as_deref() == Some(client.id.as_str()) {
                continue;
            }
            let metrics = self.broker.metrics();
            let expiry_s = match left_s(&queued, &self.broker.log, now) {
                Ok(left_s) => left_s,
                Err(Expired) => {
                    metrics.add(&metrics.dropped_out, "expired", 1);
                    continue;
                }
            };
            let mut delivery = Delivery {
                topic: &message.topic,
                payload_bytes: message.payload.len(),
                qos: queued.qos,
                retain: queued.retain,
                id: 0,
                properties: &message.properties,
                expiry_s,
                subscription_ids: &queued.subscription_ids,
            };
            if client.codec.publish_bytes(&delivery) > client.packet_bytes_max {
                metrics.add(&metrics.dropped_out, "too_large", 1);
                continue;
            }
            if delivery.qos > 0 {
                delivery.id = next_id(client);
            }
            self.output.put_with(|out| client.codec.publish(out, &delivery));
            if message.payload.len() < SEGMENT_BYTES {
                self.output.put(&message.payload);
            } else {
                self.output.put_bytes(message.payload.clone());
            }
            metrics.delivered.inc();
        }
    }
}

struct Expired;

/// Seconds left of the message's expiry interval, if it has one.
fn left_s(queued: &Queued, log: &Log, now: Now) -> Result<Option<u32>, Expired> {
    let Some(interval_s) = queued.message.properties.expiry_s else {
        return Ok(None);
    };
    let came_ms = log.corrected(queued.message.timestamp_ms);
    let waited_ms = now.wall_ms.saturating_sub(came_ms).max(0);
    let waited_s = u32::try_from(waited_ms.wrapping_div(1000)).unwrap_or(u32::MAX);
    match interval_s.checked_sub(waited_s) {
        None | Some(0) => Err(Expired),
        left_s => Ok(left_s),
    }
}

/// A packet id that is not on its way. There is one: fewer than 65,535 are.
fn next_id(client: &mut Client) -> u16 {
    loop {
        client.sent_id = client.sent_id.wrapping_add(1);
        if client.sent_id != 0 && client.sent.insert(client.sent_id) {
            return client.sent_id;
        }
    }
}
