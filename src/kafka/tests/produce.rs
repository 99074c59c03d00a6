//! Produce and InitProducerId.

use super::*;
use crate::log::ReadRequest;
use crate::model::batch::pack_compressed;
use crate::model::compression::Codec;
use crate::model::{Offset, Partition};

/// The codec's default has an empty transactional id, not none.
fn init() -> InitProducerIdRequest {
    InitProducerIdRequest::default().with_transactional_id(None)
}

fn stored(house: &House, topic: &str) -> Vec<u8> {
    let request = ReadRequest {
        topic: Topic::parse(topic).unwrap(),
        partition: Partition(0),
        from: Offset(0),
        bytes_max: 1 << 20,
    };
    let read = house.log.read(request, Waker::noop()).wait().unwrap();
    read.batches.concat()
}

#[test]
fn a_batch_is_stored_in_its_own_bytes_and_answered_with_its_offset_in_every_version() {
    let house = House::with_topic("t");
    let mut wire = house.dial();
    let mut sent = Vec::new();
    for version in 3..=11 {
        let bytes = batch(&["a", "b"]);
        let response = wire.ask(version, &produce("t", 0, -1, bytes.clone()));
        let base = sent.len() as i64 * 2;
        assert_eq!(produced(&response), (0, base), "version {version}");
        sent.push(bytes);
    }
    let mut stored = stored(&house, "t");
    for (i, bytes) in sent.iter_mut().enumerate() {
        let rest = stored.split_off(bytes.len());
        // Base offset, length (the same), leader epoch; everything after those is as it was sent.
        assert_eq!(stored[..8], (i as i64 * 2).to_be_bytes());
        assert_eq!(stored[16..], bytes[16..]);
        stored = rest;
    }
    assert!(stored.is_empty());
}

#[test]
fn a_compacted_topic_takes_no_record_without_a_key() {
    let house = House::new("");
    house.make("compacted", 1, &[("cleanup.policy", "compact")]);
    let mut wire = house.dial();
    let keyed = Record {
        key: Some(Bytes::from_static(b"k")),
        ..record("x", START.wall_ms)
    };
    for codec in [Codec::None, Codec::Zstd] {
        let mixed = pack_compressed(&[keyed.clone(), record("x", START.wall_ms)], codec);
        let refused = wire.ask(11, &produce("compacted", 0, -1, mixed));
        assert_eq!(produced(&refused).0, 87);
        let why = refused.responses[0].partition_responses[0].error_message.clone();
        assert!(why.is_some_and(|why| why.contains("Try: a key")));
        let taken = pack_compressed(std::slice::from_ref(&keyed), codec);
        assert_eq!(produced(&wire.ask(11, &produce("compacted", 0, -1, taken))).0, 0);
    }
    assert_eq!(
        house.log.bounds("compacted", Partition(0)).unwrap().high_watermark,
        Offset(2)
    );
}

#[test]
fn every_compression_is_taken_and_zstd_only_from_those_who_know_it() {
    let house = House::with_topic("t");
    let mut wire = house.dial();
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let bytes = pack_compressed(&[record(&"x".repeat(500), START.wall_ms)], codec);
        assert_eq!(produced(&wire.ask(7, &produce("t", 0, 1, bytes))).0, 0, "{codec:?}");
    }
    let bytes = pack_compressed(&[record("x", START.wall_ms)], Codec::Zstd);
    assert_eq!(produced(&wire.ask(6, &produce("t", 0, 1, bytes))).0, 76);
}

#[test]
fn acks_0_has_no_answer_and_a_refusal_closes() {
    let house = House::with_topic("t");
    let mut wire = house.dial();
    wire.send(9, &produce("t", 0, 0, batch(&["a"])));
    assert_eq!(wire.receive_frame(START), None);
    assert_eq!(house.log.bounds("t", Partition(0)).unwrap().high_watermark, Offset(1));
    assert_eq!(wire.session.end(), None);
    wire.send(9, &produce("nowhere", 0, 0, batch(&["a"])));
    assert!(wire.blamed().contains("acks=0"), "{}", wire.blamed());
    assert_eq!(house.counter("kafka_peer_errors_total"), 1);
}

#[test]
fn an_idempotent_resend_gets_the_offset_of_the_first() {
    let house = House::with_topic("t");
    let mut wire = house.dial();
    let id = wire.ask(4, &init()).producer_id.0;
    let first = batch_of(id, 0, 0, &["a", "b"]);
    assert_eq!(produced(&wire.ask(9, &produce("t", 0, -1, first.clone()))), (0, 0));
    let second = batch_of(id, 0, 2, &["c"]);
    assert_eq!(produced(&wire.ask(9, &produce("t", 0, -1, second))), (0, 2));
    assert_eq!(produced(&wire.ask(9, &produce("t", 0, -1, first))), (0, 0));
    assert_eq!(house.log.bounds("t", Partition(0)).unwrap().high_watermark, Offset(3));
    assert_eq!(house.counter("kafka_produced_duplicates_total"), 1);
    let skipped = batch_of(id, 0, 9, &["x"]);
    assert_eq!(produced(&wire.ask(9, &produce("t", 0, -1, skipped))).0, 45);
}

#[test]
fn producer_ids_never_come_twice_not_even_after_a_crash_or_from_two_connections() {
    let log = Log::inline(START);
    let mut seen = std::collections::HashSet::new();
    for seed in 0..3 {
        let house = House::over(log.clone(), "", seed);
        let mut wires = [house.dial(), house.dial()];
        for i in 0..1500 {
            let answer = wires[i % 2].ask(2, &init());
            assert_eq!((answer.error_code, answer.producer_epoch), (0, 0));
            assert!(seen.insert(answer.producer_id.0));
        }
    }
}

#[test]
fn partitions_of_one_request_are_refused_each_for_itself() {
    let house = House::new("");
    house.make("t", 2, &[]);
    let mut request = produce("t", 0, -1, batch(&["a"]));
    let mut bad = request.topic_data[0].partition_data[0].clone();
    bad.index = 7;
    request.topic_data[0].partition_data.push(bad);
    let response = house.dial().ask(8, &request);
    let parts = &response.responses[0].partition_responses;
    assert_eq!((parts[0].error_code, parts[0].base_offset), (0, 0));
    assert_eq!((parts[1].error_code, parts[1].base_offset), (3, -1));
    assert!(parts[1].error_message.is_some());
    assert_eq!(
        house.counter("kafka_errors_total{code=\"UNKNOWN_TOPIC_OR_PARTITION\"}"),
        1
    );
}

/// Sets the attributes and renews the CRC.
fn with_attributes(mut bytes: Vec<u8>, attributes: i16) -> Vec<u8> {
    bytes[21..23].copy_from_slice(&attributes.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

#[test]
fn bad_batches_are_refused_as_kafka_does_and_nothing_is_stored() {
    let house = House::with_topic("t");
    let mut flipped = batch(&["a"]);
    *flipped.last_mut().unwrap() ^= 1;
    let mut old = batch(&["a"]);
    old[16] = 1;
    let two = [batch(&["a"]), batch(&["b"])].concat();
    let large = batch(&["x".repeat(2 << 20).as_str()]);
    let bomb = pack_compressed(&[record(&"0".repeat(40 << 20), START.wall_ms)], Codec::Zstd);
    let cases: [(&str, Vec<u8>, i16); 9] = [
        ("CRC", flipped, 2),
        ("old magic", old, 87),
        ("two batches", two, 87),
        ("nothing", Vec::new(), 87),
        ("cut short", batch(&["a"])[..60].to_vec(), 2),
        ("too large", large, 10),
        ("a bomb", bomb, 10),
        ("a control batch", with_attributes(batch(&["a"]), 0x20), 87),
        ("an unknown codec", with_attributes(batch(&["a"]), 7), 76),
    ];
    for (what, bytes, code) in cases {
        let response = house.dial().ask(9, &produce("t", 0, -1, bytes));
        assert_eq!(produced(&response), (code, -1), "{what}");
        assert!(
            response.responses[0].partition_responses[0].error_message.is_some(),
            "{what}"
        );
    }
    assert_eq!(house.log.bounds("t", Partition(0)).unwrap().high_watermark, Offset(0));
}

#[test]
fn transactions_are_refused_in_words() {
    let house = House::with_topic("t");
    let mut wire = house.dial();
    let id = TransactionalId(StrBytes::from_static_str("tx"));
    let request = produce("t", 0, -1, batch(&["a"])).with_transactional_id(Some(id.clone()));
    assert_eq!(produced(&wire.ask(9, &request)), (53, -1));
    let request = InitProducerIdRequest::default().with_transactional_id(Some(id));
    assert_eq!(wire.ask(4, &request).error_code, 53);
    let transactional = with_attributes(batch_of(1, 0, 0, &["a"]), 0x10);
    assert_eq!(produced(&wire.ask(9, &produce("t", 0, -1, transactional))).0, 53);
    let request = FindCoordinatorRequest::default()
        .with_key_type(1)
        .with_coordinator_keys(vec![StrBytes::from_static_str("tx")]);
    assert_eq!(wire.ask(4, &request).coordinators[0].error_code, 53);
    assert_eq!(produced(&wire.ask(9, &produce("t", 0, 7, batch(&["a"])))).0, 21);
}
