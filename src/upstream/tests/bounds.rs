//! Memory, and what retention takes before it could go.

use super::*;

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
