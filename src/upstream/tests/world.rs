//! The log, the forwarder and the centre, joined by connections that a test can cut.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;

use bytes::{Bytes, BytesMut};

use super::super::*;
use super::centre::{Centre, Reaction};
use crate::log::{Append, Submission, TopicSpec};
use crate::model::batch::{self, Batch};
use crate::model::compression::Codec;
use crate::model::{Partition, Record, Topic};

pub(super) const START: Now = Now {
    mono_us: 1_000_000,
    wall_ms: 1_700_000_000_000,
};

/// The log, the forwarder and the centre, joined by connections that a test can cut.
pub(super) struct World {
    pub(super) now: Now,
    pub(super) log: Log,
    pub(super) forwarder: Forwarder,
    pub(super) centre: Centre,
    pub(super) links: BTreeMap<LinkId, (i32, BytesMut)>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) connects: usize,
    pub(super) bytes_held_most: usize,
}

pub(super) fn config() -> config::Upstream {
    config::Upstream {
        name: "central".into(),
        bootstrap: vec!["kafka-1:9092".into(), "kafka-2:9092".into()],
        topics: vec!["*".into()],
        topic_name: "{topic}".into(),
        request_timeout_ms: 5_000,
        backoff_ms_max: 2_000,
        clock_wait_ms: 120_000,
        inflight_bytes_max: 1 << 20,
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(config(), Log::inline(START), Centre::new(2), START)
    }

    pub(super) fn with(config: config::Upstream, log: Log, centre: Centre, now: Now) -> Self {
        let metrics = Arc::new(Metrics::default());
        let waker = Waker::noop().clone();
        let forwarder = Forwarder::new(config, "gw-1", log.clone(), Arc::clone(&metrics), waker, 7, now);
        Self {
            now,
            log,
            forwarder,
            centre,
            links: BTreeMap::new(),
            metrics,
            connects: 0,
            bytes_held_most: 0,
        }
    }

    /// The process dies: a new forwarder goes on over the same log and centre.
    pub(super) fn crash(self) -> Self {
        Self::with(self.forwarder.config.clone(), self.log, self.centre, self.now)
    }

    pub(super) fn topic(&self, name: &str, partitions: u32) {
        let spec = TopicSpec {
            name: topic(name),
            partitions: Some(partitions),
            settings: vec![],
        };
        self.log.create_topic(spec, Waker::noop()).wait().expect("a topic");
    }

    /// Appends one batch a call.
    pub(super) fn append(&self, name: &str, partition: u32, values: impl IntoIterator<Item = String>) {
        self.append_as(name, partition, values, Codec::None);
    }

    pub(super) fn append_as(&self, name: &str, partition: u32, values: impl IntoIterator<Item = String>, codec: Codec) {
        let records: Vec<Record> = values
            .into_iter()
            .map(|v| Record {
                value: Some(v.into()),
                timestamp_ms: 1_700_000_000_123,
                ..Record::default()
            })
            .collect();
        self.append_bytes(name, partition, batch::pack_compressed(&records, codec));
    }

    pub(super) fn append_bytes(&self, name: &str, partition: u32, bytes: Vec<u8>) {
        let batch = Batch::parse(Bytes::from(bytes)).expect("a batch");
        let append = Append::Batch {
            topic: topic(name),
            partition: Partition(partition),
            batch,
        };
        let submission = Submission {
            appends: vec![append],
            state: vec![],
        };
        self.log.submit(submission, Waker::noop()).wait().expect("appended");
    }

    /// Does what the driver and the network would, until nothing moves without the clock.
    pub(super) fn turn(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "it never comes to rest");
            self.forwarder.poll(self.now);
            self.bytes_held_most = self.bytes_held_most.max(self.forwarder.bytes_held());
            let mut moved = false;
            while let Some(command) = self.forwarder.poll_command() {
                moved = true;
                self.obey(command);
            }
            for id in self.links.keys().copied().collect::<Vec<_>>() {
                moved |= self.answer(id);
            }
            if !moved {
                return;
            }
        }
    }

    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Connect { link, host, port } => {
                assert_eq!(port, 9092);
                self.connects += 1;
                match self.centre.broker_at(&host) {
                    Some(broker) => {
                        self.links.insert(link, (broker, BytesMut::new()));
                        self.forwarder.connected(link, self.now);
                    }
                    None => self.forwarder.lost(link, "connection refused", self.now),
                }
            }
            Command::Send { link, segments } => {
                if let Some((_, received)) = self.links.get_mut(&link) {
                    segments.iter().for_each(|s| received.extend_from_slice(s));
                }
            }
            Command::Close { link } => drop(self.links.remove(&link)),
        }
    }

    /// One request of a link.
    pub(super) fn answer(&mut self, id: LinkId) -> bool {
        let Some((broker, received)) = self.links.get_mut(&id) else {
            return false;
        };
        match self.centre.react(*broker, received) {
            None => false,
            Some(Reaction::Nothing) => true,
            Some(Reaction::Answer(bytes)) => {
                // In two pieces, as a network has it.
                let (a, b) = bytes.split_at(bytes.len() / 2);
                self.forwarder.input(id, a, self.now);
                self.forwarder.input(id, b, self.now);
                true
            }
            Some(Reaction::Close) => {
                self.links.remove(&id);
                self.forwarder.lost(id, "reset", self.now);
                true
            }
        }
    }

    /// Turns the clock from deadline to deadline until `done`, at most `ms`.
    pub(super) fn run(&mut self, ms: u64, done: impl Fn(&Self) -> bool) {
        let end_us = self.now.after_ms(ms);
        loop {
            self.turn();
            if done(self) {
                return;
            }
            assert!(
                self.now.mono_us < end_us,
                "not done within {ms} ms: {:#?} {:#?}",
                self.forwarder.status(),
                self.forwarder.targets
            );
            let next = self.forwarder.deadline_us().unwrap_or(end_us);
            assert!(next > self.now.mono_us, "a deadline that has passed would spin");
            self.to(next.min(self.now.after_ms(50)));
        }
    }

    /// Lets `ms` pass.
    pub(super) fn pass(&mut self, ms: u64) {
        let end_us = self.now.after_ms(ms);
        self.turn();
        while self.now.mono_us < end_us {
            let next = self.forwarder.deadline_us().unwrap_or(end_us);
            self.to(next.clamp(self.now.mono_us + 1, end_us));
            self.turn();
        }
    }

    pub(super) fn to(&mut self, mono_us: u64) {
        let ms = (mono_us - START.mono_us) / 1000;
        self.now = Now {
            mono_us,
            wall_ms: START.wall_ms + ms as i64,
        };
        self.log.set_now(self.now);
    }

    pub(super) fn broker_down(&mut self, id: i32) {
        self.centre.brokers.get_mut(&id).expect("a broker").up = false;
        let gone: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, (b, _))| *b == id)
            .map(|(l, _)| *l)
            .collect();
        for link in gone {
            self.links.remove(&link);
            self.forwarder.lost(link, "reset", self.now);
        }
    }

    pub(super) fn all_there(&self, topic: &str, records: usize) -> bool {
        self.centre.count(topic) >= records
    }

    pub(super) fn acked(&self) -> bool {
        self.forwarder.status().lag_records == 0
    }
}

pub(super) fn topic(name: &str) -> Topic {
    Topic::parse(name).expect("a name")
}

pub(super) fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| format!("v{n}")).collect()
}
