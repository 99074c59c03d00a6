//! What arrives: every record, in order, in the topic and partition it belongs to, as it was.

use bytes::Bytes;

use super::*;
use crate::model::Record;
use crate::model::batch::{self, Batch};
use crate::model::compression::Inflater;

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
fn what_compaction_left_of_batches_arrives_as_its_records() {
    let mut world = World::new();
    world.topic("t", 1);
    let records: Vec<Record> = (0..6)
        .map(|n| Record {
            key: Some(n.to_string().into()),
            value: (n != 3).then(|| format!("v{n}").into()),
            headers: Vec::new(),
            timestamp_ms: 1_700_000_000_123 + n,
        })
        .collect();
    let whole = Batch::parse(batch::pack(&records).into()).unwrap();
    let keep: [fn(u64) -> bool; 3] = [|_| true, |offset| offset % 2 == 1, |offset| offset == 3];
    for (at, keep) in (0..).zip(keep) {
        let left = batch::retain(&whole, &mut Inflater::default(), 1 << 20, 99, |view| {
            keep(view.offset.0)
        });
        let Ok(batch::Retained::Part(bytes, _)) = left else {
            panic!("some of it stays, with a delete horizon");
        };
        world.append_bytes("t", 0, bytes);
        // Alone, and packed together.
        if at == 0 {
            world.run(10_000, World::acked);
        }
    }
    world.run(10_000, World::acked);
    let arrived = &world.centre.topics["t"][0].records;
    let shown = |key: &Option<Bytes>| String::from_utf8(key.clone().unwrap().to_vec()).unwrap();
    let keys: String = arrived.iter().map(|record| shown(&record.key)).collect();
    assert_eq!(keys, "012345".to_owned() + "135" + "3");
    assert!(
        arrived
            .iter()
            .all(|record| record.timestamp_ms - 1_700_000_000_123 == shown(&record.key).parse::<i64>().unwrap())
    );
    assert_eq!(world.forwarder.status().lag_records, 0);
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
