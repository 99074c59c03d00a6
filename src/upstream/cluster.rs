//! What is known of the centre: brokers, and for each topic that something goes to, its partitions' leaders.

use std::collections::BTreeMap;

use super::backoff::{Backoff, Jitter};
use super::links::Address;
use super::verdict::error_name;
use super::wire::MetadataAnswer;
use crate::model::{Now, Topic};

/// Metadata is asked for anew after this time even when nothing failed; it also keeps the link from being closed as idle.
const REFRESH_MS: u64 = 4 * 60_000;

/// What is known of a topic.
#[derive(Debug)]
pub(super) enum There {
    /// Nothing yet.
    Unknown,
    /// It is not there: to be made.
    Missing,
    /// Its partitions, each with its leader, if it has one.
    Present(Vec<Option<i32>>),
    /// It cannot be used, for this reason.
    Unusable(String),
}

#[derive(Debug)]
pub(super) struct TopicThere {
    pub(super) there: There,
    /// Partitions to make it with.
    pub(super) partitions_wanted: u32,
    pub(super) creating: bool,
    backoff: Backoff,
}

#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) brokers: BTreeMap<i32, Address>,
    controller: i32,
    pub(super) topics: BTreeMap<Topic, TopicThere>,
    /// Metadata is wanted: something failed or is new.
    stale: bool,
    /// A request is out.
    pub(super) asking: bool,
    refresh_us: u64,
    backoff: Backoff,
}

impl Cluster {
    pub(super) fn new(now: Now) -> Self {
        Self {
            brokers: BTreeMap::new(),
            controller: -1,
            topics: BTreeMap::new(),
            stale: true,
            asking: false,
            refresh_us: now.mono_us,
            backoff: Backoff::default(),
        }
    }

    /// Something goes to this topic.
    pub(super) fn want(&mut self, topic: &Topic, partitions: u32) {
        match self.topics.get_mut(topic) {
            Some(known) => known.partitions_wanted = known.partitions_wanted.max(partitions),
            None => {
                let new = TopicThere {
                    there: There::Unknown,
                    partitions_wanted: partitions,
                    creating: false,
                    backoff: Backoff::default(),
                };
                self.topics.insert(topic.clone(), new);
                self.stale = true;
            }
        }
    }

    /// What is known may be wrong.
    pub(super) fn doubt(&mut self) {
        self.stale = true;
    }

    /// When metadata is to be asked for; a time in the past means now.
    pub(super) fn refresh_at(&self, now: Now) -> Option<u64> {
        if self.asking {
            return None;
        }
        let due = if self.stale { now.mono_us } else { self.refresh_us };
        Some(self.backoff.waits_until(now).map_or(due, |until| due.max(until)))
    }

    pub(super) fn asked(&mut self) {
        self.asking = true;
    }

    /// The request for metadata failed.
    pub(super) fn unanswered(&mut self) {
        self.asking = false;
        self.stale = true;
    }

    /// Takes an answer. Whether any topic or partition is still not usable decides how soon it is asked again.
    pub(super) fn learn(&mut self, answer: MetadataAnswer, now: Now, backoff_ms_max: u64, jitter: &mut Jitter) {
        self.asking = false;
        self.stale = false;
        self.refresh_us = now.after_ms(REFRESH_MS);
        self.controller = answer.controller;
        if !answer.brokers.is_empty() {
            let address = |(id, host, port): (i32, String, u16)| (id, (host.into(), port));
            self.brokers = answer.brokers.into_iter().map(address).collect();
        }
        for told in answer.topics {
            let Some(topic) = self.topics.get_mut(told.name.as_str()) else {
                continue;
            };
            topic.there = match told.error {
                0 => There::Present(leaders(&told.leaders)),
                3 => There::Missing,
                error => There::Unusable(format!("{} ({error}) for topic {}", error_name(error), told.name)),
            };
            if told.error == 0 {
                topic.backoff.worked();
                topic.creating = false;
            }
        }
        let usable = |t: &TopicThere| match &t.there {
            There::Present(leaders) => leaders.iter().all(Option::is_some),
            _ => false,
        };
        if self.topics.values().all(usable) {
            self.backoff.worked();
        } else {
            self.backoff.failed(now, backoff_ms_max, jitter);
            self.stale = true;
        }
    }

    /// Missing topics that may be made now, with their partition counts.
    pub(super) fn to_create(&self, now: Now) -> Vec<(Topic, u32)> {
        let wanted = |t: &&TopicThere| matches!(t.there, There::Missing) && !t.creating;
        let due = |t: &&TopicThere| t.backoff.waits_until(now).is_none();
        let all = self.topics.iter().filter(|(_, t)| wanted(t) && due(t));
        all.map(|(name, t)| (name.clone(), t.partitions_wanted)).collect()
    }

    pub(super) fn creating(&mut self, topic: &Topic, creating: bool) {
        if let Some(topic) = self.topics.get_mut(topic) {
            topic.creating = creating;
        }
    }

    /// What the centre said to making a topic: 0, or 36 when somebody else was quicker; anything else waits before the next try.
    pub(super) fn created(&mut self, topic: &str, error: i16, now: Now, backoff_ms_max: u64, jitter: &mut Jitter) {
        if let Some(topic) = self.topics.get_mut(topic) {
            topic.creating = false;
            // Also after success: it takes a moment until every broker knows the topic.
            topic.backoff.failed(now, backoff_ms_max, jitter);
        }
        if matches!(error, 0 | 36) {
            self.stale = true;
            self.backoff.worked();
        }
    }

    /// The address of the broker that makes topics.
    pub(super) fn controller(&self) -> Option<(i32, &Address)> {
        self.brokers
            .get(&self.controller)
            .map(|address| (self.controller, address))
    }

    /// The leader of a partition.
    pub(super) fn leader(&self, topic: &Topic, partition: u32) -> Option<i32> {
        match &self.topics.get(topic)?.there {
            There::Present(leaders) => *leaders.get(usize::try_from(partition).ok()?)?,
            _ => None,
        }
    }

    /// Partitions of a topic, once it is there.
    pub(super) fn partitions(&self, topic: &Topic) -> Option<u32> {
        match &self.topics.get(topic)?.there {
            There::Present(leaders) => u32::try_from(leaders.len()).ok().filter(|n| *n > 0),
            _ => None,
        }
    }

    /// Nothing goes to the others any more.
    pub(super) fn keep(&mut self, wanted: impl Fn(&Topic) -> bool) {
        self.topics.retain(|name, _| wanted(name));
    }
}

/// Leaders by partition number; -1 is none. Numbers come from a peer: only those within the count are believed.
fn leaders(told: &[(i32, i32)]) -> Vec<Option<i32>> {
    let mut leaders = vec![None; told.len()];
    for (partition, leader) in told {
        if let Some(place) = usize::try_from(*partition).ok().and_then(|at| leaders.get_mut(at)) {
            *place = (*leader >= 0).then_some(*leader);
        }
    }
    leaders
}
