//! The forwarder against a simulated centre, with a clock that the test turns.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod centre;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;

use bytes::{Bytes, BytesMut};

use super::*;
use crate::log::{Append, Submission, TopicSpec};
use crate::model::batch::{self, Batch};
use crate::model::compression::Codec;
use crate::model::{Offset, Partition, Record, Topic};
use centre::{Centre, Reaction};

const START: Now = Now {
    mono_us: 1_000_000,
    wall_ms: 1_700_000_000_000,
};

/// The log, the forwarder and the centre, joined by connections that a test can cut.
struct World {
    now: Now,
    log: Log,
    forwarder: Forwarder,
    centre: Centre,
    links: BTreeMap<LinkId, (i32, BytesMut)>,
    metrics: Arc<Metrics>,
    connects: usize,
    bytes_held_most: usize,
}

fn config() -> config::Upstream {
    config::Upstream {
        name: "central".into(),
        bootstrap: vec!["kafka-1:9092".into(), "kafka-2:9092".into()],
        topics: vec!["*".into()],
        topic_name: "{topic}".into(),
        request_timeout_ms: 5_000,
        backoff_ms_max: 2_000,
        inflight_bytes_max: 1 << 20,
    }
}

impl World {
    fn new() -> Self {
        Self::with(config(), Log::inline(START), Centre::new(2), START)
    }

    fn with(config: config::Upstream, log: Log, centre: Centre, now: Now) -> Self {
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
    fn crash(self) -> Self {
        Self::with(self.forwarder.config.clone(), self.log, self.centre, self.now)
    }

    fn topic(&self, name: &str, partitions: u32) {
        let spec = TopicSpec {
            name: topic(name),
            partitions: Some(partitions),
            settings: vec![],
        };
        self.log.create_topic(spec, Waker::noop()).wait().expect("a topic");
    }

    /// Appends one batch a call.
    fn append(&self, name: &str, partition: u32, values: impl IntoIterator<Item = String>) {
        self.append_as(name, partition, values, Codec::None);
    }

    fn append_as(&self, name: &str, partition: u32, values: impl IntoIterator<Item = String>, codec: Codec) {
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

    fn append_bytes(&self, name: &str, partition: u32, bytes: Vec<u8>) {
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
    fn turn(&mut self) {
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

    fn obey(&mut self, command: Command) {
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
    fn answer(&mut self, id: LinkId) -> bool {
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
    fn run(&mut self, ms: u64, done: impl Fn(&Self) -> bool) {
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
    fn pass(&mut self, ms: u64) {
        let end_us = self.now.after_ms(ms);
        self.turn();
        while self.now.mono_us < end_us {
            let next = self.forwarder.deadline_us().unwrap_or(end_us);
            self.to(next.clamp(self.now.mono_us + 1, end_us));
            self.turn();
        }
    }

    fn to(&mut self, mono_us: u64) {
        let ms = (mono_us - START.mono_us) / 1000;
        self.now = Now {
            mono_us,
            wall_ms: START.wall_ms + ms as i64,
        };
        self.log.set_now(self.now);
    }

    fn broker_down(&mut self, id: i32) {
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

    fn all_there(&self, topic: &str, records: usize) -> bool {
        self.centre.count(topic) >= records
    }

    fn acked(&self) -> bool {
        self.forwarder.status().lag_records == 0
    }
}

fn topic(name: &str) -> Topic {
    Topic::parse(name).expect("a name")
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| format!("v{n}")).collect()
}

#[test]
fn records_arrive_in_order_in_a_topic_made_with_the_same_partitions() {
    let mut world = World::new();
    world.topic("sensors", 3);
    for n in 0..30 {
        world.append("sensors", n % 3, numbers(n..n + 1));
    }
    world.run(10_000, World::acked);
    assert_eq!(world.centre.creations, [("sensors".to_owned(), 3, -1)]);
    for partition in 0..3u32 {
        let expected: Vec<String> = (0..10).map(|i| format!("v{}", partition + 3 * i)).collect();
        assert_eq!(world.centre.values("sensors", partition as usize), expected);
    }
    let arrived = &world.centre.topics["sensors"][0].records[0];
    assert_eq!((arrived.timestamp_ms, &arrived.key), (1_700_000_000_123, &None));
    let status = world.forwarder.status();
    assert!(status.connected);
    assert_eq!(
        (status.forwarded_records, status.refused_batches, status.lag_records),
        (30, 0, 0)
    );
}

#[test]
fn new_records_and_new_topics_are_picked_up() {
    let mut world = World::new();
    world.topic("a", 1);
    world.append("a", 0, numbers(0..1));
    world.run(10_000, World::acked);
    world.append("a", 0, numbers(1..2));
    world.topic("b", 2);
    world.append("b", 1, numbers(0..5));
    world.run(10_000, |w| w.all_there("b", 5) && w.acked());
    assert_eq!(world.centre.values("a", 0), ["v0", "v1"]);
    assert_eq!(world.centre.values("b", 1).len(), 5);
}

#[test]
fn small_batches_go_together() {
    let mut world = World::new();
    world.topic("t", 1);
    for n in 0..1000 {
        world.append("t", 0, numbers(n..n + 1));
    }
    world.run(10_000, World::acked);
    assert_eq!(world.centre.values("t", 0), numbers(0..1000));
    assert!(
        world.centre.produce_requests < 10,
        "{} requests",
        world.centre.produce_requests
    );
}

#[test]
fn lost_answers_make_no_duplicates() {
    let mut world = World::new();
    world.topic("t", 2);
    world.append("t", 0, numbers(0..10));
    world.append("t", 1, numbers(0..10));
    world.centre.answers_lost = 4;
    world.run(60_000, World::acked);
    assert_eq!(world.centre.values("t", 0), numbers(0..10));
    assert_eq!(world.centre.values("t", 1), numbers(0..10));
    assert!(world.forwarder.counters.batches_retried.get() >= 4);
}

#[test]
fn a_silent_link_is_noticed_and_dropped() {
    let mut world = World::new();
    world.topic("t", 1);
    world.append("t", 0, numbers(0..1));
    world.run(10_000, World::acked);
    for broker in world.centre.brokers.values_mut() {
        broker.silent = true;
    }
    world.append("t", 0, numbers(1..20));
    world.pass(5_100);
    assert_eq!(world.forwarder.counters.timeouts.get(), 1);
    assert!(
        world
            .forwarder
            .status()
            .last_error
            .expect("an error")
            .contains("nothing moved")
    );
    for broker in world.centre.brokers.values_mut() {
        broker.silent = false;
    }
    world.run(30_000, World::acked);
    assert_eq!(
        world.centre.values("t", 0),
        numbers(0..20),
        "what the silent broker had appended is recognised"
    );
}

#[test]
fn another_leader_is_found() {
    let mut world = World::new();
    world.topic("t", 1);
    world.append("t", 0, numbers(0..1));
    world.run(10_000, World::acked);
    let other = if world.centre.topics["t"][0].leader == 1 { 2 } else { 1 };
    world.centre.topics.get_mut("t").expect("there")[0].leader = other;
    world.append("t", 0, numbers(1..5));
    world.run(10_000, World::acked);
    assert_eq!(world.centre.values("t", 0), numbers(0..5));
}

#[test]
fn a_restarted_broker_gets_what_it_lacks_and_nothing_twice() {
    let mut world = World::new();
    world.topic("t", 2);
    world.append("t", 0, numbers(0..10));
    world.append("t", 1, numbers(0..10));
    world.centre.answers_lost = 1;
    world.turn();
    world.broker_down(1);
    world.broker_down(2);
    world.append("t", 0, numbers(10..20));
    world.pass(60_000);
    assert!(!world.forwarder.status().connected);
    assert!(world.connects <= 120, "{} attempts in a minute", world.connects);
    for broker in world.centre.brokers.values_mut() {
        broker.up = true;
    }
    world.run(10_000, World::acked);
    assert_eq!(world.centre.values("t", 0), numbers(0..20));
    assert_eq!(world.centre.values("t", 1), numbers(0..10));
}

#[test]
fn a_poisoned_record_is_kept_aside_and_stops_nobody() {
    let mut world = World::new();
    world.topic("t", 1);
    world.centre.poison = Some("poison");
    world.append(
        "t",
        0,
        (0..100).map(|n| if n == 37 { "poison".into() } else { format!("v{n}") }),
    );
    world.append("t", 0, numbers(100..110));
    world.run(60_000, World::acked);
    let expected: Vec<String> = (0..110).filter(|n| *n != 37).map(|n| format!("v{n}")).collect();
    assert_eq!(world.centre.values("t", 0), expected);
    let status = world.forwarder.status();
    assert_eq!(status.refused_batches, 1);
    let refused = &status.refused[0];
    assert_eq!(
        (refused.topic.as_str(), refused.partition, refused.offset, refused.error),
        ("t", 0, 37, 87)
    );
    let world = world.crash();
    assert_eq!(
        world.forwarder.status().refused[0].offset,
        37,
        "it is known after a restart"
    );
    let stored = world
        .log
        .state_scan(crate::log::Table::Forward, &progress::refused_prefix("central"), 10)
        .unwrap();
    let kept = Kept::parse(&stored[0].1).expect("its format");
    let batch = Batch::parse(Bytes::from(kept.batch)).expect("the batch itself is kept");
    assert_eq!(batch.records(1000).unwrap()[0].1.value.as_deref(), Some(&b"poison"[..]));
}

#[test]
fn many_poisoned_records_are_all_kept_aside() {
    let mut world = World::new();
    world.topic("t", 1);
    world.centre.poison = Some("poison");
    for n in 0..20 {
        world.append("t", 0, [format!("v{n}"), format!("poison{n}"), format!("poison-{n}")]);
    }
    world.run(600_000, World::acked);
    assert_eq!(world.centre.values("t", 0), numbers(0..20));
    assert_eq!(world.forwarder.status().refused_batches, 40);
}

#[test]
fn what_is_too_large_goes_in_smaller_batches() {
    let mut world = World::new();
    world.topic("t", 1);
    world.centre.batch_bytes_max = 2000;
    let mut rng = fastrand::Rng::with_seed(1);
    let mut text = |bytes: usize| {
        std::iter::repeat_with(|| rng.alphanumeric())
            .take(bytes)
            .collect::<String>()
    };
    let values: Vec<String> = (0..50).map(|n| format!("{n:04}{}", text(500))).collect();
    let large = text(3000);
    world.append("t", 0, values.clone());
    world.append("t", 0, ["x".repeat(10), large]);
    world.run(60_000, World::acked);
    let there = world.centre.values("t", 0);
    assert_eq!(there[..50], values[..]);
    assert_eq!(there[50], "x".repeat(10));
    assert_eq!(there.len(), 51);
    assert_eq!(world.forwarder.status().refused[0].error, 10);
}

#[test]
fn a_refused_compression_is_left_away() {
    let mut world = World::new();
    world.topic("t", 1);
    world.centre.codec_refused = Some(Codec::Lz4);
    world.append_as("t", 0, numbers(0..5000), Codec::Lz4);
    world.run(60_000, World::acked);
    assert_eq!(world.centre.values("t", 0), numbers(0..5000));
    assert_eq!(world.forwarder.status().refused_batches, 0);
}

#[test]
fn memory_is_bounded_whatever_the_backlog() {
    let mut world = World::new();
    world.topic("t", 4);
    for n in 0..400u32 {
        world.append(
            "t",
            n % 4,
            (0..40).map(|i| format!("{n:05}-{i:05}-{}", "x".repeat(1000))),
        );
    }
    world.run(60_000, World::acked);
    assert_eq!(world.centre.count("t"), 16_000);
    let bound = (1 << 20) + 4 * (64 << 10);
    assert!(world.bytes_held_most <= bound, "{} bytes", world.bytes_held_most);
    assert!(world.centre.biggest_request < 2 << 20);
}

#[test]
fn a_partition_that_waits_holds_no_memory_and_stops_nobody() {
    let mut world = World::new();
    world.topic("a", 1);
    world.topic("b", 1);
    world.centre.make_topic("a", 1);
    world.centre.make_topic("b", 1);
    world.centre.topics.get_mut("a").expect("there")[0].leader = 99;
    for n in 0..200u32 {
        world.append("a", 0, (0..40).map(|i| format!("{n:05}-{i:05}-{}", "x".repeat(1000))));
        world.append("b", 0, numbers(n..n + 1));
    }
    world.run(10_000, |w| w.all_there("b", 200));
    world.pass(3_000);
    assert_eq!(world.forwarder.status().inflight_bytes, 0);
    world.centre.topics.get_mut("a").expect("there")[0].leader = 1;
    world.run(60_000, World::acked);
    assert_eq!(world.centre.count("a"), 8_000);
}

#[test]
fn order_holds_under_retries_of_every_kind() {
    for seed in 0..40 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = World::new();
        world.topic("t", 2);
        let mut sent = [0u32; 2];
        for _ in 0..60 {
            let partition = rng.u32(..2);
            let n = sent[partition as usize];
            let count = rng.u32(1..30);
            world.append("t", partition, numbers(n..n + count));
            sent[partition as usize] += count;
            match rng.u8(..10) {
                0 => world.centre.answers_lost += 1,
                1 => world.centre.errors.push_back([6, 5, 3, 19, 56, 89][rng.usize(..6)]),
                2 => world.broker_down(rng.i32(1..3)),
                3 => world.centre.brokers.values_mut().for_each(|b| b.silent = true),
                4 => {
                    let leader = rng.i32(1..3);
                    world
                        .centre
                        .topics
                        .values_mut()
                        .for_each(|t| t.iter_mut().for_each(|p| p.leader = leader));
                }
                _ => {}
            }
            world.pass(rng.u64(0..2000));
            world
                .centre
                .brokers
                .values_mut()
                .for_each(|b| (b.up, b.silent) = (true, false));
        }
        world.run(120_000, World::acked);
        for partition in 0..2 {
            let there = world.centre.values("t", partition);
            assert_eq!(there, numbers(0..sent[partition]), "seed {seed}, partition {partition}");
        }
    }
}

#[test]
fn a_lost_producer_is_replaced_and_everything_arrives_in_order() {
    for error in [45, 47, 59] {
        let mut world = World::new();
        world.topic("t", 1);
        world.append("t", 0, numbers(0..10));
        world.run(10_000, World::acked);
        world.centre.errors.push_back(error);
        world.append("t", 0, numbers(10..20));
        world.run(10_000, World::acked);
        assert_eq!(world.centre.values("t", 0), numbers(0..20));
        assert_eq!(world.centre.producers_given.len(), 2);
        assert_eq!(world.forwarder.counters.producer_resets.get(), 1);
    }
}

#[test]
fn a_new_process_goes_on_from_the_stored_progress() {
    let mut world = World::new();
    world.topic("t", 1);
    world.append("t", 0, numbers(0..100));
    world.run(10_000, World::acked);
    world.pass(1_100);
    let mut world = world.crash();
    world.append("t", 0, numbers(100..110));
    world.run(10_000, World::acked);
    assert_eq!(
        world.centre.values("t", 0),
        numbers(0..110),
        "what was stored is not sent again"
    );
}

#[test]
fn a_crash_before_progress_is_stored_sends_twice_but_loses_nothing() {
    let mut world = World::new();
    world.topic("t", 1);
    world.append("t", 0, numbers(0..1));
    world.run(10_000, World::acked);
    world.append("t", 0, numbers(1..50));
    world.run(900, |w| w.all_there("t", 50));
    let mut world = world.crash();
    world.run(10_000, World::acked);
    let there = world.centre.values("t", 0);
    assert!(there.len() > 50, "the test means to crash before the commit");
    let again = there.len() - 50;
    assert_eq!(there[..50], numbers(0..50)[..]);
    assert_eq!(
        there[50..],
        numbers(50 - again as u32..50)[..],
        "in order the second time as well"
    );
}

#[test]
fn a_stop_stores_what_is_acknowledged() {
    let mut world = World::new();
    world.topic("t", 1);
    world.append("t", 0, numbers(0..1));
    world.run(10_000, World::acked);
    world.append("t", 0, numbers(1..50));
    world.run(900, |w| w.all_there("t", 50));
    world.forwarder.stop(world.now);
    world.turn();
    assert!(world.forwarder.is_stopped(world.now));
    let mut world = world.crash();
    world.append("t", 0, numbers(50..51));
    world.run(10_000, World::acked);
    assert_eq!(world.centre.values("t", 0), numbers(0..51));
}

#[test]
fn a_topic_there_with_fewer_partitions_gets_all_records() {
    let mut world = World::new();
    world.centre.make_topic("t", 2);
    world.topic("t", 5);
    for partition in 0..5 {
        world.append("t", partition, (0..10).map(|n| format!("{partition}-{n}")));
    }
    world.centre.answers_lost = 2;
    world.run(60_000, World::acked);
    assert_eq!(world.centre.count("t"), 50);
    for partition in 0..5usize {
        let there = world.centre.values("t", partition % 2);
        let prefix = format!("{partition}-");
        let own: Vec<_> = there.iter().filter(|v| v.starts_with(&prefix)).collect();
        assert_eq!(
            own,
            (0..10)
                .map(|n| format!("{partition}-{n}"))
                .collect::<Vec<_>>()
                .iter()
                .collect::<Vec<_>>()
        );
    }
}

#[test]
fn what_retention_took_is_counted_and_the_rest_goes() {
    let mut world = World::new();
    let settings = vec![("retention.ms".to_owned(), "10000".to_owned())];
    let spec = TopicSpec {
        name: topic("t"),
        partitions: Some(1),
        settings,
    };
    world.log.create_topic(spec, Waker::noop()).wait().expect("a topic");
    world.append("t", 0, numbers(0..1));
    world.run(9_000, World::acked);
    world.pass(1_100);
    world.broker_down(1);
    world.broker_down(2);
    for n in 1..30 {
        let value = Some(Bytes::from(format!("v{n}")));
        let record = Record {
            value,
            timestamp_ms: world.now.wall_ms,
            ..Record::default()
        };
        world.append_bytes("t", 0, batch::pack(&[record]));
        world.pass(1_000);
    }
    for broker in world.centre.brokers.values_mut() {
        broker.up = true;
    }
    let start = world.log.bounds("t", Partition(0)).expect("there").log_start.0 as u32;
    assert!(start > 1, "retention must have passed it");
    world.run(9_000, World::acked);
    let status = world.forwarder.status();
    assert!(status.skipped_records >= u64::from(start - 1));
    let there = world.centre.values("t", 0);
    assert_eq!(
        there.len() as u64 + status.skipped_records,
        30,
        "every record arrived or is counted"
    );
    assert_eq!(there[0], "v0");
    assert_eq!(there.last().map(String::as_str), Some("v29"));
}

#[test]
fn append_time_goes_as_the_records_own_timestamps() {
    let mut world = World::new();
    let settings = vec![("message.timestamp.type".to_owned(), "LogAppendTime".to_owned())];
    let spec = TopicSpec {
        name: topic("t"),
        partitions: Some(1),
        settings,
    };
    world.log.create_topic(spec, Waker::noop()).wait().expect("a topic");
    world.append("t", 0, numbers(0..40));
    world.run(10_000, World::acked);
    let there = &world.centre.topics["t"][0].records;
    assert!(
        there.len() == 40 && there.iter().all(|r| r.timestamp_ms == START.wall_ms),
        "{there:?}"
    );
}

#[test]
fn a_stored_batch_goes_with_its_own_compression() {
    let mut world = World::new();
    world.topic("t", 1);
    let mut rng = fastrand::Rng::with_seed(5);
    let values: Vec<String> = (0..3000).map(|_| format!("{:x}", rng.u128(..))).collect();
    world.append_as("t", 0, values.clone(), Codec::Gzip);
    let read = world.log.bounds("t", Partition(0)).expect("there");
    assert_eq!(read.high_watermark, Offset(3000));
    world.run(10_000, World::acked);
    assert_eq!(world.centre.values("t", 0), values);
    assert_eq!(world.centre.topics["t"][0].batches, 1);
}

#[test]
fn a_topic_that_may_not_be_made_waits_with_its_reason_shown() {
    let mut world = World::new();
    world.centre.create_error = 29;
    world.topic("t", 1);
    world.append("t", 0, numbers(0..5));
    world.pass(30_000);
    assert!(
        world
            .forwarder
            .status()
            .last_error
            .expect("an error")
            .contains("TOPIC_AUTHORIZATION_FAILED")
    );
    assert!(
        world.centre.creations.len() < 60,
        "{} attempts",
        world.centre.creations.len()
    );
    world.centre.create_error = 0;
    world.run(10_000, World::acked);
    assert_eq!(world.centre.values("t", 0), numbers(0..5));
}

#[test]
fn a_throttling_centre_is_left_alone() {
    let mut world = World::new();
    world.topic("t", 1);
    world.centre.throttle_ms = 20_000;
    world.append("t", 0, numbers(0..5));
    world.run(5_000, |w| w.all_there("t", 5));
    world.append("t", 0, numbers(5..10));
    let before = world.centre.produce_requests;
    world.pass(19_000);
    assert_eq!(world.centre.produce_requests, before);
    assert_eq!(world.forwarder.counters.timeouts.get(), 0);
    world.run(5_000, World::acked);
}

#[test]
fn a_topic_made_again_starts_anew() {
    let mut world = World::new();
    world.topic("t", 1);
    world.append("t", 0, numbers(0..10));
    world.run(10_000, World::acked);
    world.log.delete_topic(&topic("t"), Waker::noop()).wait().expect("gone");
    world.topic("t", 1);
    world.append("t", 0, numbers(10..13));
    world.run(10_000, |w| w.all_there("t", 13) && w.acked());
    assert_eq!(world.centre.values("t", 0), numbers(0..13));
}

#[test]
fn at_rest_nothing_is_sent_and_nothing_is_held() {
    let mut world = World::new();
    world.topic("t", 1);
    world.append("t", 0, numbers(0..10));
    world.run(10_000, World::acked);
    world.pass(2_000);
    assert_eq!(world.forwarder.status().inflight_bytes, 0);
    let rest = world
        .forwarder
        .deadline_us()
        .expect("metadata is refreshed now and then");
    assert!(
        rest > world.now.after_ms(60_000),
        "it wakes in {} ms",
        (rest - world.now.mono_us) / 1000
    );
}

#[test]
fn a_peer_that_speaks_nonsense_loses_its_link_and_nothing_else() {
    let mut world = World::new();
    world.topic("t", 1);
    world.append("t", 0, numbers(0..10));
    for nonsense in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        &[0, 0, 0, 4, 0, 0, 0, 99],
        &[0xff; 64],
    ] {
        world.forwarder.poll(world.now);
        while let Some(command) = world.forwarder.poll_command() {
            if let Command::Connect { link, .. } = command {
                world.forwarder.connected(link, world.now);
                world.forwarder.input(link, nonsense, world.now);
            }
        }
        world.to(world.now.after_ms(5_000));
    }
    assert!(world.forwarder.counters.link_failures.get() >= 2);
    assert!(!world.metrics.health.degraded().is_empty());
    world.run(10_000, World::acked);
    assert_eq!(world.centre.values("t", 0), numbers(0..10));
    assert!(world.metrics.health.degraded().is_empty());
}
