//! The way of a record: from the log into lanes, from lanes into entries, from entries into requests.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster::There;
use super::entry::{LaneKey, Made};
use super::lane::{Found, Lane, READ_BYTES};
use super::links::{Asked, LinkId};
use super::progress::{Kept, checkpoint_key, checkpoint_offset};
use super::target::{Refusal, Target, TargetKey};
use super::{Forwarder, health_part, wire};
use crate::kafka_wire::Api;
use crate::log::{Table, TopicInfo};
use crate::model::{Now, Offset, Partition, Topic};

/// Bytes of records that small batches are packed into, and of one request.
const ENTRY_BYTES: usize = 256 << 10;
const REQUEST_BYTES: usize = 1 << 20;
/// Under load the log is looked at this often; what came in between goes together.
const FILL_MS: u64 = 5;
/// New topics are looked for this often.
const TOPICS_MS: u64 = 250;
/// While it waits for the clock it looks this often.
const CLOCK_LOOK_MS: u64 = 500;
/// After a failed read of the log.
const UNREADABLE_MS: u64 = 1000;
/// The error under which our own damaged batches are kept; Kafka has no such number.
const DAMAGED: i16 = -2;

impl Forwarder {
    /// Sees what is new in the log: records, and topics that come and go.
    pub(super) fn follow_log(&mut self, now: Now) {
        let newest = self.log.commit_number();
        if newest != self.commit_seen || self.watch.is_none() {
            self.commit_seen = newest;
            self.watch = Some(self.log.watch_commits(newest, &self.waker));
        }
        if self.topics_seen == Some(newest) {
            return;
        }
        if self.topics_due_us > now.mono_us {
            return self.wake_at(self.topics_due_us);
        }
        self.topics_due_us = now.after_ms(TOPICS_MS);
        if self.match_topics(now) {
            self.topics_seen = Some(newest);
        } else {
            self.wake_at(self.topics_due_us);
        }
    }

    /// Makes lanes of new partitions and ends those of topics that are gone. False when something must be tried again.
    fn match_topics(&mut self, now: Now) -> bool {
        let topics = self.log.topics();
        let ids: BTreeMap<_, _> = topics.iter().map(|t| (t.name.clone(), t.id)).collect();
        let gone = self
            .lanes
            .values()
            .filter(|lane| ids.get(&lane.key.0) != Some(&lane.topic_id));
        for key in gone.map(|lane| lane.key.clone()).collect::<Vec<_>>() {
            if let Some(lane) = self.lanes.remove(&key) {
                self.keeper.forget(&lane.checkpoint());
                self.log.set_floor(&self.config.name, lane.topic_id, key.1, None);
                self.ghosts.insert(key);
            }
        }
        self.nameless.retain(|topic| ids.contains_key(topic));
        let mut complete = true;
        for topic in &topics {
            let there = match self.selection.name_there(&topic.name) {
                None => continue,
                Some(Ok(there)) => there,
                Some(Err(why)) => {
                    self.note_nameless(&topic.name, &why.to_string(), now);
                    continue;
                }
            };
            self.cluster.want(&there, topic.partitions);
            for partition in (0..topic.partitions).map(Partition) {
                let key = (topic.name.clone(), partition);
                if !self.lanes.contains_key(&key) {
                    complete &= self.open_lane(topic, key, &there, now);
                }
            }
        }
        let lanes = &self.lanes;
        self.cluster
            .keep(|name| lanes.values().any(|lane| lane.name_there == *name));
        self.targets
            .retain(|key, target| !target.is_empty() || lanes.values().any(|l| l.target.as_ref() == Some(key)));
        complete
    }

    /// A topic that is to be forwarded and can have no name there: said once, for it stays so.
    fn note_nameless(&mut self, topic: &Topic, why: &str, now: Now) {
        if !self.nameless.insert(topic.clone()) {
            return;
        }
        let (upstream, template) = (&self.config.name, &self.config.topic_name);
        tracing::error!(%upstream, %topic, why, "this topic is not forwarded: it has no valid name there. Try: a shorter topic_name");
        let text = format!("{topic} is not forwarded: {template:?} makes no valid name of it: {why}");
        self.metrics
            .health
            .degrade(format!("{} names", health_part(upstream)), text.clone());
        self.note_error(text, now);
    }

    fn open_lane(&mut self, topic: &TopicInfo, key: LaneKey, there: &Topic, now: Now) -> bool {
        if self.ghosts.contains(&key) {
            if self.targets.values().any(|t| t.queue.iter().any(|e| e.lane == key)) {
                return false;
            }
            self.ghosts.remove(&key);
        }
        let Some(bounds) = self.log.bounds(key.0.as_str(), key.1) else {
            return false;
        };
        let stored = self
            .log
            .state(Table::Forward, &checkpoint_key(&self.config.name, &topic.id, key.1));
        let position = match stored {
            Ok(value) => value.as_deref().and_then(checkpoint_offset),
            Err(refused) => {
                self.note_error(format!("progress of {} cannot be read: {}", key.0, refused.why), now);
                return false;
            }
        };
        let from = position.unwrap_or(bounds.log_start);
        let lane = Lane::new(key.clone(), topic.id, there.clone(), from, position.is_some());
        lane.tell_floor(&self.config.name, &self.log);
        self.lanes.insert(key, lane);
        self.fill_now = true;
        true
    }

    /// Reads ahead and makes entries, for every lane whose leader can be reached, within the bound on memory.
    pub(super) fn fill(&mut self, now: Now) {
        if !self.fill_now && self.fill_due_us > now.mono_us {
            return self.wake_at(self.fill_due_us);
        }
        self.fill_now = false;
        self.fill_due_us = now.after_ms(FILL_MS);
        let waits = self.waits_for_clock(now);
        let mut held = self.bytes_held();
        let mut lag = 0u64;
        let keys: Vec<LaneKey> = self.lanes.keys().cloned().collect();
        // Where the memory is short, the first ones get it: begin elsewhere every time.
        let first = self.turn.checked_rem(keys.len()).unwrap_or(0);
        self.turn = self.turn.wrapping_add(1);
        for key in keys.iter().cycle().skip(first).take(keys.len()) {
            let Some(bounds) = self.log.bounds(key.0.as_str(), key.1) else {
                continue;
            };
            if let Some(lane) = self.lanes.get_mut(key) {
                lag = lag.saturating_add(lane.lag(bounds.high_watermark));
                let found = lane.check_bounds(&self.log);
                self.note_found(key, found, now);
            }
            if !waits {
                self.fill_lane(key, bounds.high_watermark, &mut held, now);
            }
        }
        self.counters.lag_records.set(i64::try_from(lag).unwrap_or(i64::MAX));
        self.counters
            .inflight_bytes
            .set(i64::try_from(held).unwrap_or(i64::MAX));
    }

    /// Without a trusted clock, a link gives the clock some time to be set by it: then what was recorded meanwhile goes
    /// with its right times.
    fn waits_for_clock(&mut self, now: Now) -> bool {
        let (Some(linked_us), false) = (self.linked_us, self.log.clock_trusted()) else {
            return false;
        };
        let until_us = linked_us.saturating_add(self.config.clock_wait_ms.saturating_mul(1000));
        let waits = now.mono_us < until_us;
        if waits {
            self.wake_at(until_us.min(now.after_ms(CLOCK_LOOK_MS)));
        }
        waits
    }

    fn fill_lane(&mut self, key: &LaneKey, high_watermark: Offset, held: &mut usize, now: Now) {
        let Some(target_key) = self.target_of(key) else { return };
        let reachable = self
            .cluster
            .leader(&target_key.0, target_key.1.0)
            .and_then(|leader| self.links.to_node(leader))
            .filter(|(_, link)| link.is_ready())
            .map(|(_, link)| link.window_bytes());
        let target = self.targets.entry(target_key.clone()).or_default();
        if target.backoff.waits_until(now).is_some() || reachable.is_none() {
            self.give_memory_back(&target_key);
            return;
        }
        let entry_bytes = reachable.unwrap_or(ENTRY_BYTES).min(ENTRY_BYTES);
        let bytes_max = self.config.inflight_bytes_max;
        loop {
            let Some(target) = self.targets.get_mut(&target_key) else {
                return;
            };
            let Some(lane) = self.lanes.get_mut(key) else { return };
            // A quarter for one partition, so that one which does not move leaves room for the others.
            let share = target.is_empty() || target.bytes() < bytes_max / 4;
            if !target.has_room() || !share {
                return;
            }
            if lane.has_raw() {
                let before = lane.bytes();
                let made = lane.make(self.entry_ids, entry_bytes);
                *held = held.saturating_sub(before.saturating_sub(lane.bytes()));
                self.entry_ids = self.entry_ids.saturating_add(1);
                self.place(&target_key, made, held, now);
                continue;
            }
            let found = lane.take_read(&self.log);
            if found == Found::Nothing && !lane.has_raw() {
                let free = bytes_max.saturating_sub(*held);
                if free == 0 || lane.bytes() > 0 || !lane.is_behind(high_watermark) {
                    return;
                }
                let before = lane.bytes();
                lane.read(&self.log, high_watermark, READ_BYTES.min(free), &self.waker);
                let found = lane.take_read(&self.log);
                *held = held.saturating_add(lane.bytes()).saturating_sub(before);
                let waits = !lane.has_raw();
                self.note_found(key, found, now);
                if waits {
                    return;
                }
                continue;
            }
            let stuck = !lane.has_raw();
            self.note_found(key, found, now);
            if stuck {
                return;
            }
        }
    }

    /// The partition that a lane goes to, once the topic there is known: the same number, modulo where it has fewer.
    fn target_of(&mut self, key: &LaneKey) -> Option<TargetKey> {
        let lane = self.lanes.get_mut(key)?;
        if lane.target.is_none() {
            let there = self.cluster.partitions(&lane.name_there)?;
            let partition = key.1.0.checked_rem(there)?;
            lane.target = Some((lane.name_there.clone(), Partition(partition)));
        }
        lane.target.clone()
    }

    fn place(&mut self, target: &TargetKey, made: Option<Made>, held: &mut usize, now: Now) {
        match made {
            Some(Made::Entry(entry)) => {
                *held = held.saturating_add(entry.bytes.len());
                if let Some(target) = self.targets.get_mut(target) {
                    target.queue.push_back(entry);
                }
            }
            Some(Made::Damaged { lane, batch, why }) => {
                let refusal = Refusal {
                    lane,
                    first: batch.base_offset(),
                    next: batch.offset_next(),
                    count: batch.header().records_count.unsigned_abs(),
                    bytes: batch.bytes().clone(),
                };
                self.keep_refused(&refusal, DAMAGED, format!("the stored batch does not open: {why}"), now);
            }
            Some(Made::Nothing { .. }) | None => {}
        }
    }

    /// Counts, keeps and logs what does not go.
    pub(super) fn keep_refused(&mut self, refusal: &Refusal, error: i16, cause: String, now: Now) {
        self.counters.batches_refused.inc();
        self.counters.records_refused.inc_by(refusal.count.into());
        let ((topic, partition), upstream) = (&refusal.lane, &self.config.name);
        tracing::warn!(%upstream, %topic, %partition, offset = %refusal.first, next = %refusal.next, records = refusal.count, error, %cause,
            "refused for good: kept, and the partition goes on");
        self.note_error(format!("{topic}/{partition} at offset {}: {cause}", refusal.first), now);
        self.keeper.keep(|number| Kept::new(number, refusal, error, cause, now));
    }

    /// A target that must wait holds as little as it can.
    fn give_memory_back(&mut self, key: &TargetKey) {
        let Some(target) = self.targets.get_mut(key) else {
            return;
        };
        if target.in_flight() > 0 {
            return;
        }
        for (lane, first) in target.release() {
            if let Some(lane) = self.lanes.get_mut(&lane) {
                lane.released(first);
            }
        }
        let feeding = self.lanes.values_mut().filter(|lane| lane.target.as_ref() == Some(key));
        feeding.filter(|lane| lane.bytes() > 0).for_each(Lane::forget_raw);
    }

    fn note_found(&mut self, (topic, partition): &LaneKey, found: Found, now: Now) {
        let upstream = &self.config.name;
        let lost = |records: u64| {
            self.counters.records_skipped.inc_by(records);
            // It stays until the process ends: nothing brings them back.
            self.metrics.health.degrade(
                format!("{} loss", health_part(upstream)),
                format!("{records} records of {topic}/{partition} were lost unforwarded"),
            );
        };
        let why = match found {
            Found::Nothing => return,
            Found::Skipped(records) => {
                lost(records);
                tracing::error!(%upstream, %topic, %partition, records, "retention removed records before they could be forwarded");
                format!("retention removed {records} records of {topic}/{partition} before they could be forwarded")
            }
            Found::Damaged(records, why) => {
                lost(records);
                tracing::error!(%upstream, %topic, %partition, records, %why, "stored records cannot be forwarded");
                format!("{records} stored records of {topic}/{partition} do not parse: {why}")
            }
            Found::WentBack(to) => {
                self.counters.log_went_back.inc();
                let lane = self.lanes.get(&(topic.clone(), *partition));
                lane.into_iter().for_each(|lane| lane.tell_floor(upstream, &self.log));
                tracing::error!(%upstream, %topic, %partition, %to, "the log ends before what was forwarded: going on from its end");
                format!("the log of {topic}/{partition} ends before what was forwarded")
            }
            Found::Unreadable(why) => {
                let again = now.after_ms(UNREADABLE_MS);
                self.fill_due_us = self.fill_due_us.max(again);
                self.wake_at(again);
                format!("{topic}/{partition} cannot be read: {why}")
            }
        };
        self.note_error(why, now);
    }

    /// Links to the leaders of partitions for which something waits.
    pub(super) fn reach_leaders(&mut self, now: Now) {
        let mut leaders = BTreeSet::new();
        for lane in self.lanes.values() {
            let Some((topic, partition)) = &lane.target else {
                continue;
            };
            let bounds = self.log.bounds(lane.key.0.as_str(), lane.key.1);
            let waits = lane.queued > 0 || bounds.is_some_and(|b| lane.is_behind(b.high_watermark));
            if waits {
                match self.cluster.leader(topic, partition.0) {
                    Some(leader) => drop(leaders.insert(leader)),
                    None => self.cluster.doubt(),
                }
            }
        }
        for leader in leaders {
            if self.links.to_node(leader).is_some() {
                continue;
            }
            match self.cluster.brokers.get(&leader).cloned() {
                Some(address) => {
                    if let Err(until) = self.links.open(&address, Some(leader), now) {
                        self.wake_at(until);
                    }
                }
                None => self.cluster.doubt(),
            }
        }
        if let Some(at) = self.cluster.refresh_at(now).filter(|at| *at > now.mono_us) {
            self.wake_at(at);
        }
    }

    /// Sends what can be sent: for each leader, requests with one entry of each of its partitions.
    pub(super) fn send(&mut self, now: Now) {
        if self.keeper.is_full() {
            return;
        }
        let ready: Vec<(LinkId, i32)> = self
            .links
            .all
            .iter()
            .filter(|(_, l)| l.is_ready())
            .filter_map(|(id, l)| Some((*id, l.node?)))
            .collect();
        for (link, node) in ready {
            while self.send_one(link, node, now) {}
            if let Some(until) = self.links.all.get(&link).and_then(|l| l.throttled_until(now)) {
                self.wake_at(until);
            }
        }
        let waits: Vec<u64> = self
            .targets
            .values()
            .filter_map(|t| t.backoff.waits_until(now))
            .collect();
        waits.into_iter().for_each(|at| self.wake_at(at));
    }

    fn send_one(&mut self, id: LinkId, node: i32, now: Now) -> bool {
        let Some(link) = self.links.all.get(&id) else {
            return false;
        };
        let Some(room) = link.room(now) else { return false };
        let (idle, version) = (link.is_idle(), link.versions.of(Api::Produce));
        let mut room = room.min(REQUEST_BYTES);
        let mut chosen: Vec<TargetKey> = Vec::new();
        let count = self.targets.len();
        let first = self.turn.checked_rem(count).unwrap_or(0);
        let rotated = self
            .targets
            .iter_mut()
            .skip(first)
            .map(|(key, target)| (key.clone(), target.next_bytes(now)));
        let mut sendable: Vec<(TargetKey, usize)> = rotated.filter_map(|(k, b)| Some((k, b?))).collect();
        let others = self
            .targets
            .iter_mut()
            .take(first)
            .map(|(key, target)| (key.clone(), target.next_bytes(now)));
        sendable.extend(others.filter_map(|(k, b)| Some((k, b?))));
        for (key, bytes) in sendable {
            if self.cluster.leader(&key.0, key.1.0) != Some(node) {
                continue;
            }
            let alone = idle && chosen.is_empty();
            if bytes <= room || alone {
                room = room.saturating_sub(bytes);
                chosen.push(key);
            }
        }
        if chosen.is_empty() {
            return false;
        }
        chosen.sort();
        self.turn = self.turn.wrapping_add(1);
        let mut parts = Vec::with_capacity(chosen.len());
        let mut sent = Vec::with_capacity(chosen.len());
        for key in chosen {
            if let Some((entry, bytes)) = self.targets.get_mut(&key).and_then(Target::take_next) {
                parts.push((key.clone(), bytes));
                sent.push((key, entry));
            }
        }
        let bytes = parts.iter().map(|(_, batch)| batch.len()).sum();
        let timeout_ms = i32::try_from(self.config.request_timeout_ms / 2).unwrap_or(i32::MAX);
        let client = &self.client_id;
        let asked = Asked::Produce(sent.clone());
        let encode = |c| wire::produce_request(version, c, client, timeout_ms, &parts);
        let Some(correlation) = self.links.ask(id, asked, version, bytes, now, encode) else {
            return false;
        };
        for (key, entry) in sent {
            if let Some(target) = self.targets.get_mut(&key) {
                target.mark_sent(entry, id, correlation);
            }
        }
        true
    }

    /// Moves lanes on for what is settled.
    pub(super) fn settle(&mut self) {
        for target in self.targets.values_mut() {
            for (lane, next) in target.pop_settled() {
                if let Some(lane) = self.lanes.get_mut(&lane) {
                    lane.passed(next);
                }
            }
        }
    }

    /// Why nothing can go to a topic, for the status.
    pub(super) fn unusable_topic(&self) -> Option<String> {
        self.cluster.topics.values().find_map(|topic| match &topic.there {
            There::Unusable(why) => Some(why.clone()),
            _ => None,
        })
    }
}
