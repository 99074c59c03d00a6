//! What is asked of the centre beside Produce, what its answers lead to, and what becomes of links.

use bytes::Bytes;

use super::links::{Asked, Link, LinkId, Request};
use super::target::Producer;
use super::verdict::{Verdict, error_name};
use super::{Forwarder, health_part, wire};
use crate::kafka_wire::Api;
use crate::model::Now;

impl Forwarder {
    /// Asks for metadata when it is wanted, over any link, or opens one.
    pub(super) fn ask_metadata(&mut self, now: Now) {
        let Some(at) = self.cluster.refresh_at(now) else { return };
        if at > now.mono_us {
            return self.wake_at(at);
        }
        let Some(link) = self.links.any() else {
            return self.reach_anyone(now);
        };
        let version = self.version(link, Api::Metadata);
        let (client, topics) = (&self.client_id, self.cluster.topics.keys());
        self.links.ask(link, Asked::Metadata, version, 0, now, |c| {
            wire::metadata_request(version, c, client, topics)
        });
        self.cluster.asked();
    }

    /// Opens a link to the next address of the configuration, or to a broker known from before.
    fn reach_anyone(&mut self, now: Now) {
        if self
            .links
            .all
            .values()
            .any(|link| link.node.is_none() || link.is_ready())
        {
            return;
        }
        let known = self.cluster.brokers.values();
        let candidates: Vec<_> = self.seeds.iter().chain(known).cloned().collect();
        for _ in 0..candidates.len() {
            let at = self.seed_next.checked_rem(candidates.len()).unwrap_or(0);
            self.seed_next = self.seed_next.wrapping_add(1);
            let Some(address) = candidates.get(at) else { return };
            match self.links.open(address, None, now) {
                Ok(_) => return,
                Err(until) => self.wake_at(until),
            }
        }
    }

    /// Makes the topics that the centre does not have.
    pub(super) fn ask_topics(&mut self, now: Now) {
        let missing = self.cluster.to_create(now);
        if missing.is_empty() {
            return;
        }
        let controller = self.cluster.controller().map(|(id, address)| (id, address.clone()));
        let direct = controller.as_ref().and_then(|(id, _)| self.links.to_node(*id));
        let link = match (direct.map(|(link, to)| (link, to.may_ask())), controller) {
            (Some((link, true)), _) => Some(link),
            (Some(_), _) => return,
            (None, Some((id, address))) if self.links.open(&address, Some(id), now).is_ok() => return,
            // Brokers of today pass it on to the controller.
            _ => self.links.any(),
        };
        let Some(link) = link else { return };
        let version = self.version(link, Api::CreateTopics);
        let timeout_ms = i32::try_from(self.config.request_timeout_ms / 2).unwrap_or(i32::MAX);
        let client = &self.client_id;
        let names: Vec<_> = missing.iter().map(|(name, _)| name.clone()).collect();
        for name in &names {
            self.cluster.creating(name, true);
        }
        let encode = |c| wire::create_request(version, c, client, &missing, timeout_ms);
        self.links
            .ask(link, Asked::CreateTopics(names), version, 0, now, encode);
    }

    /// Takes a producer id when a target lacks one.
    pub(super) fn ask_producer(&mut self, now: Now) {
        let mut missing = false;
        for target in self
            .targets
            .values_mut()
            .filter(|t| !t.is_empty() && t.wants_producer())
        {
            match self.identity.producer(target.given_up()) {
                Some(producer) => target.adopt(producer),
                None => missing = true,
            }
        }
        let Some(at) = self.identity.ask_at(now).filter(|_| missing) else {
            return;
        };
        if at > now.mono_us {
            return self.wake_at(at);
        }
        let Some(link) = self.links.any() else { return };
        let version = self.version(link, Api::InitProducerId);
        let client = &self.client_id;
        self.links.ask(link, Asked::Producer, version, 0, now, |c| {
            wire::producer_request(version, c, client)
        });
        self.identity.asking = true;
    }

    fn version(&self, link: LinkId, api: Api) -> i16 {
        self.links.all.get(&link).map_or(0, |link| link.versions.of(api))
    }

    /// Takes one answer. An error means that it does not decode or makes no sense.
    pub(super) fn answered(&mut self, id: LinkId, request: Request, frame: Bytes, now: Now) -> Result<(), String> {
        let (max, version) = (self.config.backoff_ms_max, request.version);
        match request.asked {
            Asked::Versions => {
                let versions = wire::versions_answer(frame)?;
                self.links.greeted(id, versions);
                self.greeted(id);
            }
            Asked::Metadata => {
                // A broker that does not answer as it should must not leave the request open.
                let answer = wire::metadata_answer(version, frame).inspect_err(|_| self.cluster.unanswered())?;
                self.cluster.learn(answer, now, max, &mut self.jitter);
                if let Some(why) = self.unusable_topic() {
                    self.note_error(why, now);
                }
                self.match_links(now);
                self.fill_now = true;
            }
            Asked::CreateTopics(names) => {
                names.iter().for_each(|name| self.cluster.creating(name, false));
                for (name, error, message) in wire::create_answer(version, frame)? {
                    self.cluster.created(&name, error, now, max, &mut self.jitter);
                    if !matches!(error, 0 | 36) {
                        let why = message.unwrap_or_default();
                        self.note_error(
                            format!("topic {name} cannot be made: {} ({error}) {why}", error_name(error)),
                            now,
                        );
                    }
                }
            }
            Asked::Producer => {
                let (error, id, epoch) =
                    wire::producer_answer(version, frame).inspect_err(|_| self.identity.unanswered())?;
                if error == 0 && id >= 0 {
                    self.identity.got(Producer { id, epoch });
                } else {
                    self.identity.refused(now, max, &mut self.jitter);
                    self.note_error(format!("no producer id: {} ({error})", error_name(error)), now);
                }
            }
            Asked::Produce(sent) => {
                let micros = now.mono_us.saturating_sub(request.sent_us);
                self.counters
                    .produce_seconds
                    .observe(std::time::Duration::from_micros(micros).as_secs_f64());
                self.fill_now = true;
                let answer = wire::produce_answer(version, frame);
                let parts = answer.as_ref().map_or(&[][..], |(parts, _)| parts);
                for (key, entry) in sent {
                    let told = parts
                        .iter()
                        .find(|p| wire::target_key(&p.topic, p.partition).as_ref() == Some(&key));
                    let error = told.map(|p| (p.error, p.message.clone()));
                    self.produced(&key, entry, error, now);
                }
                let (_, throttle_ms) = answer?;
                if let Some(link) = self.links.all.get_mut(&id) {
                    link.throttle(throttle_ms, now);
                }
            }
        }
        Ok(())
    }

    /// What became of one entry; no error means no answer.
    fn produced(&mut self, key: &super::target::TargetKey, entry: u64, told: Option<(i16, Option<String>)>, now: Now) {
        let verdict = told.as_ref().map_or(Verdict::Unknown, |(error, _)| Verdict::of(*error));
        let Some(target) = self.targets.get_mut(key) else {
            return;
        };
        let lane = target.queue.iter().find(|e| e.id == entry).map(|e| e.lane.clone());
        let max = self.config.backoff_ms_max;
        let effect = target.answer(entry, verdict, &mut self.entry_ids, now, max, &mut self.jitter);
        self.counters.records_forwarded.inc_by(effect.records_acked);
        self.counters.bytes_forwarded.inc_by(effect.bytes_acked);
        self.counters.batches_retried.inc_by(effect.retried.into());
        self.counters.producer_resets.inc_by(effect.producer_lost.into());
        if let Some(lane) = lane.and_then(|key| self.lanes.get_mut(&key)) {
            lane.forwarded = lane.forwarded.saturating_add(effect.records_acked);
            lane.queued = lane.queued.saturating_add(effect.entries_added);
        }
        if effect.refresh {
            self.cluster.doubt();
        }
        let Some((error, message)) = told.filter(|_| verdict != Verdict::Acked) else {
            return;
        };
        let cause = format!("{} ({error}) {}", error_name(error), message.unwrap_or_default());
        match effect.refused {
            Some(refusal) => self.keep_refused(&refusal, error, cause.trim_end().to_owned(), now),
            None => self.note_error(format!("{}/{}: {}", key.0, key.1, cause.trim_end()), now),
        }
    }

    fn greeted(&mut self, id: LinkId) {
        let Some(link) = self.links.all.get(&id) else { return };
        let (host, port) = &link.address;
        self.troubled = false;
        self.metrics.health.restore(&health_part(&self.config.name));
        tracing::info!(upstream = %self.config.name, broker = %format!("{host}:{port}"), "connected");
        self.fill_now = true;
    }

    /// After metadata: says of links which broker they lead to, and closes those that lead nowhere.
    fn match_links(&mut self, now: Now) {
        let nodes: Vec<i32> = self.links.all.values().filter_map(|link| link.node).collect();
        let mut closing = Vec::new();
        for (id, link) in &mut self.links.all {
            match link.node {
                Some(node) => {
                    let moved = self
                        .cluster
                        .brokers
                        .get(&node)
                        .is_none_or(|address| *address != link.address);
                    if moved && link.is_idle() {
                        closing.push(*id);
                    }
                }
                None => {
                    let same = self
                        .cluster
                        .brokers
                        .iter()
                        .find(|(_, address)| **address == link.address);
                    match same {
                        Some((node, _)) if !nodes.contains(node) => link.node = Some(*node),
                        // A second way to a broker, or a name that only leads to the others.
                        _ if link.is_idle() && !nodes.is_empty() => closing.push(*id),
                        _ => {}
                    }
                }
            }
        }
        for id in closing {
            self.links.close(id, false, now, &mut self.jitter);
        }
    }

    /// Ends links on which nothing moves though something was asked.
    pub(super) fn end_hung_links(&mut self, now: Now) {
        for id in self.links.hung(now) {
            self.counters.timeouts.inc();
            self.end_link(id, "nothing moved within the request time-out", true, now);
        }
    }

    pub(super) fn end_link(&mut self, id: LinkId, why: &str, hung: bool, now: Now) {
        if let Some(link) = self.links.close(id, hung, now, &mut self.jitter) {
            self.unanswered(link, why, now);
        }
    }

    /// A link is gone: whatever was asked over it is open again.
    pub(super) fn unanswered(&mut self, link: Link, why: &str, now: Now) {
        let at_rest = link.is_ready() && link.is_idle();
        let (host, port) = link.address.clone();
        if !at_rest {
            self.counters.link_failures.inc();
            let text = format!("{host}:{port}: {why}");
            if !std::mem::replace(&mut self.troubled, true) {
                tracing::warn!(upstream = %self.config.name, broker = %format!("{host}:{port}"), why, "link lost; what was sent and not answered is sent again");
            }
            let part = health_part(&self.config.name);
            self.metrics.health.degrade(part, text.clone());
            self.note_error(text, now);
            self.cluster.doubt();
        }
        for request in link.into_requests() {
            match request.asked {
                Asked::Versions => {}
                Asked::Metadata => self.cluster.unanswered(),
                Asked::CreateTopics(names) => names.iter().for_each(|name| self.cluster.creating(name, false)),
                Asked::Producer => self.identity.unanswered(),
                Asked::Produce(sent) => {
                    for (key, entry) in sent {
                        self.produced(&key, entry, None, now);
                    }
                }
            }
        }
    }
}
