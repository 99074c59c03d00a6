//! SUBSCRIBE and UNSUBSCRIBE. QoS 2 is granted as QoS 1, shared subscriptions are refused.

use super::MqttSession;
use super::pending::Pending;
use crate::log::Refused;
use crate::model::{End, Now};
use crate::mqtt::packet::{Fault, Subscribe, SubscribeFilter, reason};
use crate::mqtt::subscriptions::{Subscription, is_filter};

impl MqttSession {
    pub(super) fn subscribe(&mut self, subscribe: Subscribe, _now: Now) -> Result<(), Fault> {
        self.flush_group();
        let subscriptions_max = self.broker.limits.mqtt_subscriptions;
        let Some(client) = &mut self.client else { return Ok(()) };
        let mut added = Vec::new();
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        for wanted in subscribe.filters {
            let known = client.subscriptions.contains_key(&wanted.filter);
            let refused = refusal(&wanted)
                .or((!known && client.subscriptions.len() >= subscriptions_max).then_some(reason::QUOTA));
            if let Some(reason) = refused {
                let metrics = self.broker.metrics();
                metrics.add(&metrics.subscriptions_refused, reason::name(reason), 1);
                codes.push(reason);
                continue;
            }
            let subscription = Subscription {
                qos: wanted.qos.min(1),
                no_local: wanted.no_local,
                retain_as_published: wanted.retain_as_published,
                id: subscribe.subscription_id,
            };
            codes.push(subscription.qos);
            client.subscriptions.insert(wanted.filter.clone(), subscription.clone());
            added.push((wanted.filter, subscription));
        }
        client.no_local = client.subscriptions.values().any(|s| s.no_local);
        let ticket = self.broker.subscribe(client.number, &client.id, &added, &self.waker);
        self.pending.push_back(Pending::Subscription {
            ticket,
            id: subscribe.id,
            codes,
            unsubscribe: false,
        });
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, id: u16, filters: Vec<String>) {
        self.flush_group();
        let Some(client) = &mut self.client else { return };
        let mut removed = Vec::new();
        let mut codes = Vec::with_capacity(filters.len());
        for filter in filters {
            if client.subscriptions.remove(&filter).is_some() {
                codes.push(reason::SUCCESS);
                removed.push(filter);
            } else if is_filter(&filter) {
                codes.push(reason::NO_SUBSCRIPTION);
            } else {
                codes.push(reason::FILTER);
            }
        }
        client.no_local = client.subscriptions.values().any(|s| s.no_local);
        let ticket = self
            .broker
            .unsubscribe(client.number, &client.id, &removed, &self.waker);
        self.pending.push_back(Pending::Subscription {
            ticket,
            id,
            codes,
            unsubscribe: true,
        });
    }

    pub(super) fn settled_subscription(
        &mut self,
        id: u16,
        codes: &[u8],
        unsubscribe: bool,
        result: Result<(), Refused>,
    ) {
        if let Err(refused) = result {
            // It holds now but would not after a restart, and the client must not believe that it does.
            let end = End::Broker(format!("a subscription could not be stored: {}", refused.why));
            return self.finish(refused.code.mqtt5(), end);
        }
        let Some(client) = &self.client else { return };
        self.output.put_with(|out| match unsubscribe {
            true => client.codec.unsuback(out, id, codes),
            false => client.codec.suback(out, id, codes),
        });
    }
}

fn refusal(wanted: &SubscribeFilter) -> Option<u8> {
    if wanted.filter.starts_with("$share/") {
        return Some(reason::SHARED);
    }
    (!is_filter(&wanted.filter)).then_some(reason::FILTER)
}
