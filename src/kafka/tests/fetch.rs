//! Fetch and ListOffsets.

use super::*;
use crate::kafka_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use crate::kafka_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};

/// Topic `t`: these partitions from these offsets, at most so many bytes each.
fn fetch(wanted: &[(i32, i64, i32)], min_bytes: i32, wait_ms: i32) -> FetchRequest {
    let partitions = wanted.iter().map(|(index, offset, bytes)| {
        FetchPartition::default()
            .with_partition(*index)
            .with_fetch_offset(*offset)
            .with_partition_max_bytes(*bytes)
    });
    let topic = FetchTopic::default()
        .with_topic(name("t"))
        .with_partitions(partitions.collect());
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(min_bytes)
        .with_max_bytes(1 << 20)
        .with_topics(vec![topic])
}

fn append(house: &House, partition: i32, values: &[&str]) {
    let response = house.dial().ask(9, &produce("t", partition, -1, batch(values)));
    assert_eq!(produced(&response).0, 0);
}

/// Error, high watermark and bytes of records of each partition.
fn got(response: &FetchResponse) -> Vec<(i16, i64, usize)> {
    let partitions = response.responses.iter().flat_map(|t| &t.partitions);
    let records = |p: &fetch_response::PartitionData| p.records.as_ref().map_or(0, Bytes::len);
    partitions
        .map(|p| (p.error_code, p.high_watermark, records(p)))
        .collect()
}

#[test]
fn what_was_produced_is_fetched_in_every_version() {
    let house = House::with_topic("t");
    append(&house, 0, &["a", "b"]);
    append(&house, 0, &["c"]);
    let (first, second) = (batch(&["a", "b"]).len(), batch(&["c"]).len());
    let mut wire = house.dial();
    for version in 4..=12 {
        let response = wire.ask(version, &fetch(&[(0, 0, 1 << 20)], 1, 500));
        assert_eq!(got(&response), [(0, 3, first + second)], "version {version}");
        let response = wire.ask(version, &fetch(&[(0, 2, 1 << 20)], 1, 500));
        assert_eq!(got(&response), [(0, 3, second)], "version {version}");
    }
}

#[test]
fn a_long_poll_wakes_on_an_append_and_not_before() {
    let house = House::with_topic("t");
    let mut wire = house.dial();
    wire.send(11, &fetch(&[(0, 0, 1 << 20)], 1, 500));
    assert_eq!(wire.receive_frame(START), None);
    assert_eq!(house.counter("kafka_long_polls"), 1);
    assert_eq!(wire.session.deadline_us(), Some(at_ms(500).mono_us));
    let before = wire.wakes();
    append(&house, 0, &["a"]);
    assert!(wire.wakes() > before, "the append wakes the session");
    let (_, response) = wire.receive::<FetchRequest>(11, at_ms(1)).unwrap();
    assert_eq!(got(&response), [(0, 1, batch(&["a"]).len())]);
    assert_eq!(house.counter("kafka_long_polls"), 0);
}

#[test]
fn a_long_poll_ends_empty_at_its_deadline() {
    let house = House::with_topic("t");
    let mut wire = house.dial();
    wire.send(11, &fetch(&[(0, 0, 1 << 20)], 1, 500));
    assert_eq!(wire.receive_frame(at_ms(499)), None);
    let (_, response) = wire.receive::<FetchRequest>(11, at_ms(500)).unwrap();
    assert_eq!(got(&response), [(0, 0, 0)]);
}

#[test]
fn min_bytes_are_gathered_over_appends_and_partitions() {
    let house = House::new("");
    house.make("t", 2, &[]);
    let one = batch(&["a"]).len();
    let mut wire = house.dial();
    wire.send(11, &fetch(&[(0, 0, 1 << 20), (1, 0, 1 << 20)], 3 * one as i32, 500));
    append(&house, 0, &["a"]);
    assert_eq!(wire.receive_frame(at_ms(1)), None);
    append(&house, 1, &["b"]);
    assert_eq!(wire.receive_frame(at_ms(2)), None);
    append(&house, 0, &["c"]);
    let (_, response) = wire.receive::<FetchRequest>(11, at_ms(3)).unwrap();
    assert_eq!(got(&response), [(0, 2, 2 * one), (0, 1, one)]);
}

#[test]
fn the_first_batch_is_given_whatever_its_size_and_the_rest_keeps_to_the_limits() {
    let house = House::new("");
    house.make("t", 2, &[]);
    append(&house, 0, &["a"]);
    append(&house, 0, &["b"]);
    append(&house, 1, &["c"]);
    let one = batch(&["a"]).len();
    let mut wire = house.dial();
    let response = wire.ask(11, &fetch(&[(0, 0, 1), (1, 0, 1)], 1, 500));
    assert_eq!(got(&response), [(0, 2, one), (0, 1, 0)]);
    let response = wire.ask(11, &fetch(&[(0, 0, 1), (1, 0, 1 << 20)], 1, 500));
    assert_eq!(got(&response), [(0, 2, one), (0, 1, one)]);
    let small = fetch(&[(0, 0, 1 << 20), (1, 0, 1 << 20)], 1, 500).with_max_bytes(one as i32);
    assert_eq!(got(&wire.ask(11, &small)), [(0, 2, one), (0, 1, 0)]);
}

#[test]
fn offsets_that_are_not_there_are_out_of_range_at_once() {
    let house = House::with_topic("t");
    append(&house, 0, &["a"]);
    let mut wire = house.dial();
    for offset in [2, -5, i64::MAX] {
        let response = wire.ask(11, &fetch(&[(0, offset, 100)], 1, 500));
        assert_eq!(got(&response), [(1, -1, 0)], "{offset}");
    }
    let response = wire.ask(11, &fetch(&[(1, 0, 100)], 1, 500));
    assert_eq!(got(&response), [(3, -1, 0)]);
}

#[test]
fn a_topic_that_goes_ends_the_wait() {
    let house = House::with_topic("t");
    let mut wire = house.dial();
    wire.send(11, &fetch(&[(0, 0, 100)], 1, 500));
    let topic = Topic::parse("t").unwrap();
    house.log.delete_topic(&topic, Waker::noop()).wait().unwrap();
    assert!(wire.wakes() > 0);
    let (_, response) = wire.receive::<FetchRequest>(11, at_ms(1)).unwrap();
    assert_eq!(got(&response), [(3, -1, 0)]);
}

#[test]
fn fetch_sessions_and_wrong_epochs_are_refused() {
    let house = House::with_topic("t");
    let mut wire = house.dial();
    let request = fetch(&[(0, 0, 100)], 1, 500).with_session_id(9).with_session_epoch(1);
    assert_eq!(wire.ask(11, &request).error_code, 70);
    let request = fetch(&[(0, 0, 100)], 1, 500).with_session_epoch(1);
    assert_eq!(wire.ask(11, &request).error_code, 71);
    let request = fetch(&[(0, 0, 100)], 1, 500).with_session_epoch(-1).with_max_wait_ms(0);
    assert_eq!(
        (wire.ask(11, &request).error_code, wire.ask(11, &request).session_id),
        (0, 0)
    );
    let mut request = fetch(&[(0, 0, 100)], 1, 500);
    request.topics[0].partitions[0].current_leader_epoch = 5;
    assert_eq!(got(&wire.ask(11, &request)), [(75, -1, 0)]);
}

#[test]
fn when_all_fetches_together_take_too_much_answers_become_small_and_still_go_on() {
    let house = House::new("limits.kafka_fetch = \"64KiB\"");
    house.make("t", 1, &[]);
    let value = "x".repeat(40_000);
    for _ in 0..4 {
        append(&house, 0, &[&value]);
    }
    let leases: Vec<_> = (0..8).map(|_| house.broker.lease(64 << 10).unwrap()).collect();
    let response = house.dial().ask(11, &fetch(&[(0, 0, 1 << 20)], 1, 500));
    assert_eq!(got(&response), [(0, 4, batch(&[&value]).len())]);
    assert_eq!(house.counter("kafka_fetches_shortened_total"), 1);
    drop(leases);
    let mut wire = house.dial();
    wire.ask(11, &fetch(&[(0, 0, 1 << 20)], 1, 500));
    assert_eq!(house.counter("kafka_fetches_shortened_total"), 1);
    // The room of an answer is given back once it is sent.
    assert!(house.broker.lease(8 * (64 << 10)).is_some());
}

fn offset_at(wire: &mut Wire, version: i16, time: i64) -> (i16, i64, i64) {
    let partition = ListOffsetsPartition::default().with_timestamp(time);
    let topic = ListOffsetsTopic::default()
        .with_name(name("t"))
        .with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_topics(vec![topic]);
    let response = wire.ask(version, &request);
    let found = &response.topics[0].partitions[0];
    (found.error_code, found.offset, found.timestamp)
}

#[test]
fn offsets_are_found_by_end_and_by_time_in_every_version() {
    let house = House::with_topic("t");
    let mut wire = house.dial();
    assert_eq!(offset_at(&mut wire, 7, -3), (0, -1, -1), "nothing there");
    append(&house, 0, &["a", "b"]);
    append(&house, 0, &["c"]);
    let time = START.wall_ms;
    for version in 1..=7 {
        assert_eq!(offset_at(&mut wire, version, -2), (0, 0, -1));
        assert_eq!(offset_at(&mut wire, version, -1), (0, 3, -1));
        assert_eq!(offset_at(&mut wire, version, time + 1), (0, 1, time + 1));
        assert_eq!(offset_at(&mut wire, version, 0), (0, 0, time));
        assert_eq!(offset_at(&mut wire, version, time + 2), (0, -1, -1));
        assert_eq!(
            offset_at(&mut wire, version, -3),
            (0, 1, time + 1),
            "the largest timestamp"
        );
        assert_eq!(offset_at(&mut wire, version, -9).0, 35);
    }
}

#[test]
fn a_record_from_the_far_future_is_the_one_with_the_largest_timestamp() {
    let house = House::with_topic("t");
    let far = pack(&[record("far", 1 << 55)]);
    let mut wire = house.dial();
    assert_eq!(produced(&wire.ask(9, &produce("t", 0, -1, far))).0, 0);
    append(&house, 0, &["a"]);
    assert_eq!(offset_at(&mut wire, 7, -3), (0, 0, 1 << 55));
}

#[test]
fn an_epoch_ends_at_the_high_watermark() {
    use crate::kafka_wire::messages::offset_for_leader_epoch_request::*;
    let house = House::with_topic("t");
    append(&house, 0, &["a"]);
    let partition = |epoch| OffsetForLeaderPartition::default().with_leader_epoch(epoch);
    let topic = OffsetForLeaderTopic::default()
        .with_topic(name("t"))
        .with_partitions(vec![partition(0), partition(5)]);
    let request = OffsetForLeaderEpochRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_topics(vec![topic]);
    let response = house.dial().ask(4, &request);
    let ends: Vec<_> = response.topics[0]
        .partitions
        .iter()
        .map(|p| (p.leader_epoch, p.end_offset))
        .collect();
    assert_eq!(ends, [(0, 1), (-1, -1)]);
}
