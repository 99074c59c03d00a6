//! The order of answers, bounds on what waits, and the end of sessions.

use super::*;
use crate::kafka_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use crate::model::{Offset, Partition};

fn long_poll(offset: i64) -> FetchRequest {
    let partition = FetchPartition::default()
        .with_fetch_offset(offset)
        .with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default()
        .with_topic(name("t"))
        .with_partitions(vec![partition]);
    FetchRequest::default()
        .with_max_wait_ms(500)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_topics(vec![topic])
}

#[test]
fn answers_come_in_the_order_of_the_requests() {
    let house = House::with_topic("t");
    let mut wire = house.dial();
    let first = wire.send(11, &long_poll(0));
    let second = wire.send(9, &MetadataRequest::default());
    assert_eq!(wire.receive_frame(START), None, "Metadata waits behind the Fetch");
    house.dial().ask(9, &produce("t", 0, -1, batch(&["a"])));
    assert_eq!(wire.receive::<FetchRequest>(11, at_ms(1)).unwrap().0, first);
    assert_eq!(wire.receive::<MetadataRequest>(9, at_ms(1)).unwrap().0, second);
}

#[test]
fn a_produce_behind_a_fetch_on_the_same_connection_waits_for_it() {
    let house = House::with_topic("t");
    let mut wire = house.dial();
    wire.send(11, &long_poll(0));
    wire.send(9, &produce("t", 0, -1, batch(&["a"])));
    assert_eq!(wire.receive_frame(START), None);
    assert_eq!(house.log.bounds("t", Partition(0)).unwrap().high_watermark, Offset(0));
    assert!(wire.receive::<FetchRequest>(11, at_ms(500)).is_some());
    assert!(wire.receive::<ProduceRequest>(9, at_ms(500)).is_some());
}

#[test]
fn a_connection_with_too_much_waiting_is_not_read() {
    let house = House::with_topic("t");
    let mut wire = house.dial();
    let mut sent = 0;
    while wire.session.wants_input() {
        wire.send(11, &long_poll(0));
        sent += 1;
        assert!(sent < 1000);
    }
    assert_eq!(wire.send_bytes(&[0, 0, 0, 9, 0]), 0);
    house.dial().ask(9, &produce("t", 0, -1, batch(&["a"])));
    for _ in 0..sent {
        assert!(wire.receive_frame(at_ms(1)).is_some());
    }
    assert!(wire.session.wants_input());
}

#[test]
fn a_peer_that_does_not_read_gets_no_more_than_the_bound() {
    let house = House::with_topic("t");
    let value = "x".repeat(900_000);
    for _ in 0..4 {
        house.dial().ask(9, &produce("t", 0, -1, batch(&[&value])));
    }
    let mut wire = house.dial();
    let mut sent = 0;
    while wire.session.wants_input() && sent < 50 {
        wire.send(11, &long_poll(0));
        sent += 1;
    }
    wire.session.poll(START);
    assert!(wire.session.output().len() < 3 << 20, "{}", wire.session.output().len());
    for _ in 0..sent {
        assert!(wire.receive_frame(START).is_some());
    }
}

#[test]
fn stop_answers_what_is_in_flight_and_ends() {
    let house = House::with_topic("t");
    let mut wire = house.dial();
    wire.send(11, &long_poll(0));
    wire.send(9, &MetadataRequest::default());
    wire.session.stop(START);
    assert!(!wire.session.wants_input());
    assert!(wire.receive::<FetchRequest>(11, START).is_some());
    assert!(wire.receive::<MetadataRequest>(9, START).is_some());
    assert_eq!(wire.session.end(), Some(&End::Finished));
}

#[test]
fn a_frame_may_come_in_pieces() {
    let house = House::new("");
    let mut wire = house.dial();
    let frame = encode_request(0, 7, "slow", &ApiVersionsRequest::default()).unwrap();
    for cut in 0..frame.len() {
        assert_eq!(wire.send_bytes(&frame[..cut]), 0);
        assert_eq!(wire.session.frame_bytes_wanted(), if cut < 4 { 0 } else { frame.len() });
    }
    assert_eq!(wire.send_bytes(&frame), frame.len());
    assert_eq!(wire.receive::<ApiVersionsRequest>(0, START).unwrap().0, 7);
}

#[test]
fn clients_are_counted_while_they_are_here() {
    let house = House::new("");
    let mut wire = house.dial();
    assert_eq!(house.counter("kafka_clients"), 1);
    wire.session.gone(START);
    assert_eq!(house.counter("kafka_clients"), 0);
}
