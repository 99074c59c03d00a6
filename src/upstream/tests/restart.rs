//! A new process goes on from what the old one stored.

use super::*;

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
