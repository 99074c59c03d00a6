//! What the link and the brokers do: lost answers, silence, other leaders, restarts, nonsense.

use super::*;

#[test]
fn another_address_is_tried_when_the_first_one_is_dead() {
    for dead in [1, 2] {
        let mut world = World::new();
        world.topic("t", 1);
        world.append("t", 0, numbers(0..5));
        world.centre.brokers.get_mut(&dead).expect("a broker").up = false;
        world.centre.make_topic("t", 1);
        world.centre.topics.get_mut("t").expect("there")[0].leader = 3 - dead;
        world.run(3_000, World::acked);
        assert_eq!(world.centre.values("t", 0), numbers(0..5));
    }
}

#[test]
fn a_link_that_is_taken_and_says_nothing_is_dropped_and_another_is_tried() {
    let mut world = World::new();
    world.topic("t", 1);
    world.append("t", 0, numbers(0..5));
    world.centre.brokers.values_mut().for_each(|b| b.silent = true);
    world.pass(4_900);
    let counters = |world: &World| {
        let counters = &world.forwarder.counters;
        (counters.timeouts.get(), counters.connects.get())
    };
    assert_eq!(counters(&world), (0, 1), "the time-out is 5 s");
    world.pass(400);
    assert_eq!(counters(&world), (1, 2));
    assert!(!world.forwarder.status().connected);
    world.centre.brokers.values_mut().for_each(|b| b.silent = false);
    world.run(10_000, World::acked);
}

#[test]
fn a_connection_that_does_not_come_about_is_given_up_within_the_time_out() {
    let mut world = World::new();
    world.topic("t", 1);
    world.append("t", 0, numbers(0..5));
    world.forwarder.poll(world.now);
    let Some(Command::Connect { link, .. }) = world.forwarder.poll_command() else {
        panic!("it connects first");
    };
    // The driver says nothing more of it: the name or the network does not answer.
    world.to(world.now.after_ms(4_999));
    world.forwarder.poll(world.now);
    assert!(world.forwarder.poll_command().is_none());
    world.to(world.now.after_ms(1));
    world.forwarder.poll(world.now);
    let closed = world.forwarder.poll_command();
    assert!(
        matches!(closed, Some(Command::Close { link: closed }) if closed == link),
        "{closed:?}"
    );
    world.run(10_000, World::acked);
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
    let degraded = world.metrics.health.degraded();
    assert_eq!(degraded.len(), 1, "{degraded:?}");
    assert_eq!(degraded[0].0, "upstream central", "each upstream has a line of its own");
    world.run(10_000, World::acked);
    assert_eq!(world.centre.values("t", 0), numbers(0..10));
    assert!(world.metrics.health.degraded().is_empty());
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
        for (partition, count) in sent.into_iter().enumerate() {
            let there = world.centre.values("t", partition);
            assert_eq!(there, numbers(0..count), "seed {seed}, partition {partition}");
        }
    }
}
