//! Times that the gateway gave without a trusted clock: what goes to the centre, and when.

use super::*;
use crate::log::{Append, BootClock, Submission};

const BY_MS: i64 = 100 * 86_400_000;

fn clock(world: &World, correction_ms: Option<i64>) -> BootClock {
    let now = Now {
        wall_ms: world.now.wall_ms + correction_ms.unwrap_or(0),
        ..world.now
    };
    BootClock {
        id: [1; 16],
        offset_ms: 0,
        trusted: correction_ms.is_some(),
        correction_ms,
        now,
    }
}

/// A record that has its time from the gateway.
fn append(world: &World, value: &str) {
    let record = Record {
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        timestamp_ms: world.now.wall_ms,
        ..Record::default()
    };
    let submission = Submission {
        appends: vec![Append::Record {
            topic: topic("t"),
            record,
        }],
        state: vec![],
    };
    world.log.submit(submission, Waker::noop()).wait().expect("appended");
}

fn arrived(world: &World) -> Vec<i64> {
    let records = &world.centre.topics["t"][0].records;
    records.iter().map(|record| record.timestamp_ms).collect()
}

#[test]
fn a_link_gives_the_clock_time_to_be_set_and_then_the_right_times_go() {
    let mut world = World::new();
    world.log.set_clock(clock(&world, None));
    world.topic("t", 1);
    append(&world, "ours");
    world.append("t", 0, ["a producer's".to_owned()]);
    world.pass(20_000);
    assert_eq!(world.centre.count("t"), 0);
    world.log.set_clock(clock(&world, Some(BY_MS)));
    world.run(10_000, World::acked);
    assert_eq!(arrived(&world), [START.wall_ms + BY_MS, 1_700_000_000_123]);
}

#[test]
fn without_one_times_go_as_they_are_after_the_wait() {
    let mut world = World::new();
    world.log.set_clock(clock(&world, None));
    world.topic("t", 1);
    append(&world, "ours");
    world.pass(119_000);
    assert_eq!(world.centre.count("t"), 0);
    world.run(2_000, World::acked);
    assert_eq!(arrived(&world), [START.wall_ms]);
}
