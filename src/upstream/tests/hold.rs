//! Retention of a topic that holds waits for what the forwarder has stored, not for what is on its way.

use super::centre::Centre;
use super::*;
use crate::model::Code;

fn holding(config: config::Upstream) -> World {
    let log = Log::inline_with(START, carriers(std::slice::from_ref(&config), "gw-1"));
    let world = World::with(config, log, Centre::new(2), START);
    let settings = [("retention.ms", "1000"), ("hold.until.forwarded", "true")];
    let spec = TopicSpec {
        name: topic("t"),
        partitions: Some(2),
        settings: settings.map(|(name, value)| (name.into(), value.into())).into(),
    };
    world.log.create_topic(spec, Waker::noop()).wait().expect("a topic");
    world
}

fn starts(world: &World) -> [u64; 2] {
    [0, 1].map(|partition| {
        let bounds = world.log.bounds("t", Partition(partition));
        bounds.expect("a partition").log_start.0
    })
}

#[test]
fn an_outage_longer_than_retention_loses_nothing() {
    let mut world = holding(config());
    [1, 2].iter().for_each(|id| world.broker_down(*id));
    world.append("t", 0, numbers(0..20));
    world.pass(30_000);
    assert_eq!(starts(&world), [0, 0]);
    world.centre.brokers.values_mut().for_each(|broker| broker.up = true);
    world.run(60_000, |w| w.all_there("t", 20));
    assert_eq!(world.centre.values("t", 0), numbers(0..20));
    world.pass(3_000);
    assert_eq!(starts(&world), [20, 0]);
    let skipped: Vec<_> = world.forwarder.status().partitions;
    assert!(skipped.iter().all(|partition| partition.skipped_records == 0));
}

#[test]
fn what_arrived_and_is_not_stored_as_forwarded_is_held() {
    let mut world = holding(config());
    world.append("t", 0, numbers(0..1));
    world.run(10_000, World::acked);
    world.pass(3_000);
    assert_eq!(starts(&world), [1, 0]);
    // Old when they come in: past already. Progress is stored once a second, and from the second append on it cannot be.
    world.append("t", 0, numbers(1..2));
    world.run(500, World::acked);
    world.append("t", 0, numbers(2..5));
    world.run(900, |w| w.all_there("t", 5));
    world.log.refuse_with(Some(Code::Storage));
    world.pass(5_000);
    assert!(world.acked());
    assert_eq!(starts(&world), [2, 0]);
    world.log.refuse_with(None);
    world.pass(3_000);
    assert_eq!(starts(&world), [5, 0]);
}

#[test]
fn a_topic_that_no_upstream_takes_is_not_held() {
    let mut other = config();
    other.topics = vec!["!t".into()];
    let mut world = holding(other);
    world.append("t", 0, numbers(0..3));
    world.pass(5_000);
    assert_eq!(starts(&world), [3, 0]);
}
