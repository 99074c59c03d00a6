//! What the centre does not take: counted, kept and shown, and everything behind it goes on.

use super::*;

#[test]
fn a_topic_that_can_have_no_name_there_is_told_and_stops_nobody() {
    let config = crate::config::Upstream {
        topic_name: "edge.{topic}".into(),
        ..config()
    };
    let mut world = World::with(config, Log::inline(START), centre::Centre::new(2), START);
    let long = "x".repeat(247);
    world.topic(&long, 1);
    world.topic("t", 1);
    world.append(&long, 0, numbers(0..5));
    world.append("t", 0, numbers(0..5));
    world.run(10_000, |w| w.all_there("edge.t", 5));
    world.pass(1_000);
    assert_eq!(world.centre.topics.len(), 1);
    let (part, why) = world.metrics.health.degraded().remove(0);
    assert_eq!(part, "upstream central names");
    assert!(why.contains(&long) && why.contains("edge.{topic}"), "{why}");
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
