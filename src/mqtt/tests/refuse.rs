//! What is refused, and how the peer learns it.

use super::bytes_of::*;
use super::*;
use crate::log::fault::Faulty;
use crate::model::Code;

/// What a 5.0 client is told after these bytes.
fn told(bytes: &[u8]) -> Option<u8> {
    let house = House::new("");
    let mut wire = house.connected(&connect5("a", true, &[]));
    let got = wire.send(bytes);
    assert!(wire.is_blamed(), "{bytes:02x?} was taken");
    // 3.1.1 has no properties: the same packets without them end there as well, without a word.
    disconnect_reason(&got)
}

#[test]
fn malformed_packets_are_named_and_end_the_session() {
    let long = |n: usize| publish5(&"x".repeat(n), 1, 1, &[], "");
    for (bytes, reason) in [
        (publish5("a\0b", 1, 1, &[], ""), 0x81),
        (publish5("a/+", 1, 1, &[], ""), 0x81),
        (publish5("#", 0, 0, &[], ""), 0x81),
        (publish5("", 1, 1, &[], ""), 0x82),
        (long(4097), 0x90),
        (publish5("a", 1, 0, &[], ""), 0x82),
        (packet(0x36, &publish5("a", 1, 1, &[], "")[2..]), 0x81),
        (packet(0x38, &publish5("a", 0, 0, &[], "")[2..]), 0x81),
        (packet(0x30, &[0, 5, b'a']), 0x81),
        (packet(0x30, &[0, 1, 0xff, 0]), 0x81),
        (packet(0x32, &[0, 1, b'a', 0]), 0x81),
        (publish5("a", 1, 1, &[&[35, 0, 0]], ""), 0x94),
        (publish5("a", 1, 1, &[&[35, 0, 9]], ""), 0x94),
        (publish5("", 1, 1, &[&[35, 0, 1]], ""), 0x82),
        (publish5("a", 1, 1, &[&[11, 1]], ""), 0x81),
        (publish5("a", 1, 1, &[&[1, 2]], ""), 0x82),
        (publish5("a", 1, 1, &[&property_text(8, "a/#")], ""), 0x82),
        (publish5("a", 1, 1, &[&[17, 0, 0, 0, 1]], ""), 0x81),
        (packet(0x60, &[0, 1]), 0x81),
        (packet(0x62, &[0, 0]), 0x82),
        (packet(0x62, &[0]), 0x81),
        (packet(0x80, &subscribe5(1, &[], &[("a", 0)])[2..]), 0x81),
        (subscribe5(1, &[], &[]), 0x82),
        (subscribe5(0, &[], &[("a", 0)]), 0x82),
        (subscribe5(1, &[], &[("a", 3)]), 0x81),
        (subscribe5(1, &[], &[("a", 0x40)]), 0x81),
        (subscribe5(1, &[], &[("a", 0x30)]), 0x82),
        (subscribe5(1, &[], &[("$share/g/a", 4)]), 0x82),
        (subscribe5(1, &[&[11, 0]], &[("a", 0)]), 0x82),
        (packet(0xa2, &[0, 1, 0]), 0x82),
        (packet(0xc0, &[0]), 0x81),
        (packet(0x10, &[]), 0x81),
        (packet(0x20, &[0, 0, 0]), 0x82),
        (packet(0x90, &[0, 1, 0, 0]), 0x82),
        (packet(0xb0, &[0, 1, 0, 0]), 0x82),
        (packet(0xd0, &[]), 0x82),
        (packet(0xf0, &[]), 0x82),
        // DISCONNECT with a server reference, which only a server gives.
        (packet(0xe0, &[&[0, 4][..], &property_text(28, "b")].concat()), 0x82),
        (packet(0x00, &[]), 0x81),
        (packet(0x50, &[0, 1]), 0x82),
        (packet(0x70, &[0, 1]), 0x82),
        (vec![0x30, 0xff, 0xff, 0xff, 0xff, 1], 0x81),
        (vec![0x30, 0xff, 0xff, 0xff, 0x7f], 0x95),
    ] {
        assert_eq!(told(&bytes), Some(reason), "{bytes:02x?}");
    }
}

#[test]
fn a_fault_in_311_closes_without_a_word() {
    let house = House::new("");
    for bytes in [
        publish4("a/#", 1, 1, ""),
        publish4("", 1, 1, ""),
        publish4("a\0", 0, 0, ""),
        packet(0xe0, &[0]),
    ] {
        let mut wire = house.connected(&connect4("a", true, 0));
        assert_eq!(wire.send(&bytes), [0u8; 0]);
        assert!(wire.is_blamed(), "{bytes:02x?}");
    }
}

#[test]
fn a_packet_too_large_is_refused_from_its_first_bytes() {
    let house = House::new("[limits]\nmqtt_packet = \"16KiB\"\n");
    let mut wire = house.connected(&connect5("a", true, &[]));
    assert_eq!(disconnect_reason(&wire.send(&[0x30, 0x80, 0x80, 0x01])), Some(0x95));
}

#[test]
fn what_was_sent_before_a_fault_is_kept() {
    let house = House::new("");
    let mut wire = house.connected(&connect5("a", true, &[]));
    let got = wire.send(&[publish5("a", 1, 1, &[], "kept"), packet(0xf0, &[])].concat());
    assert_eq!(disconnect_reason(&got), Some(0x82));
    assert_eq!(house.values("telemetry"), ["kept"]);
}

#[test]
fn more_in_flight_than_receive_maximum_is_told() {
    let house = House::new("[limits]\nmqtt_inflight = 3\n");
    let mut wire = house.connected(&connect5("a", true, &[]));
    for id in 1..=3 {
        wire.send(&publish5("t", 2, id, &[], "x"));
    }
    // A resend is no new message.
    wire.send(&publish5("t", 2, 3, &[], "x"));
    assert!(wire.end().is_none());
    wire.send(&pubrel(1));
    wire.send(&publish5("t", 2, 4, &[], "x"));
    assert!(wire.end().is_none());
    assert_eq!(
        disconnect_reason(&wire.send(&publish5("t", 1, 5, &[], "x"))),
        Some(0x93)
    );
    assert_eq!(house.records("telemetry").len(), 4);
}

#[test]
fn receive_maximum_starts_anew_with_every_connection() {
    let house = House::new("[limits]\nmqtt_inflight = 3\n");
    let connect = connect5("a", false, &[&expiry(3600)]);
    let mut wire = house.connected(&connect);
    for id in 1..=3 {
        wire.send(&publish5("t", 2, id, &[], "x"));
    }
    wire.cut(START);
    let mut wire = house.connected(&connect);
    // What the last connection left is no part of this one's window, and its PUBCOMPs make it no larger.
    for id in 4..=5 {
        wire.send(&publish5("t", 2, id, &[], "x"));
    }
    for id in 1..=3 {
        assert_eq!(wire.send(&pubrel(id)), [0x70, 2, 0, id as u8]);
    }
    wire.send(&publish5("t", 2, 6, &[], "x"));
    assert!(wire.end().is_none());
    assert_eq!(
        disconnect_reason(&wire.send(&publish5("t", 2, 7, &[], "x"))),
        Some(0x93)
    );
}

#[test]
fn a_name_no_topic_can_have_is_refused_by_name() {
    let house = House::new("[[route]]\nmatch = \"#\"\ntopic = \"{mqtt_topic}\"\n");
    let mut wire = house.connected(&connect5("a", true, &[]));
    let long = "x".repeat(300);
    assert_eq!(wire.send(&publish5(&long, 1, 1, &[], "")), [0x40, 3, 0, 1, 0x90]);
    assert_eq!(wire.send(&publish5(&long, 2, 2, &[], "")), [0x50, 3, 0, 2, 0x90]);
    // The id is free again, and the session goes on.
    assert_eq!(wire.send(&publish5("../é", 2, 2, &[], "")), [0x50, 2, 0, 2]);
    assert_eq!(house.records(".._2f_c3_a9").len(), 1);
    let mut wire = house.connected(&connect4("a", true, 0));
    assert_eq!(wire.send(&publish4(&long, 1, 1, "")), [0u8; 0]);
    assert!(wire.is_blamed());
    // QoS 0 is dropped and counted.
    let mut wire = house.connected(&connect4("a", true, 0));
    wire.send(&publish4(&long, 0, 0, ""));
    assert!(wire.end().is_none());
    assert_eq!(
        house
            .metrics
            .mqtt
            .dropped_in
            .get_or_create(&[("reason", "invalid_topic")])
            .get(),
        1
    );
}

#[test]
fn when_storage_refuses_a_5_client_is_told_and_a_311_client_closed() {
    let house = House::new("");
    let mut five = house.connected(&connect5("five", true, &[]));
    let mut four = house.connected(&connect4("four", true, 0));
    house.log.stop();
    assert_eq!(five.send(&publish5("a", 1, 1, &[], "x")), [0x40, 3, 0, 1, 0x83]);
    assert_eq!(five.send(&publish5("a", 2, 2, &[], "x")), [0x50, 3, 0, 2, 0x83]);
    assert_eq!(five.send(&publish5("a", 0, 0, &[], "x")), [0u8; 0]);
    // The refused QoS 2 message released its id: it counts as new.
    assert_eq!(five.send(&publish5("a", 2, 2, &[], "x")), [0x50, 3, 0, 2, 0x83]);
    assert!(five.end().is_none());
    assert_eq!(four.send(&publish4("a", 0, 0, "x")), [0u8; 0]);
    assert!(four.end().is_none());
    assert_eq!(four.send(&publish4("a", 1, 1, "x")), [0u8; 0]);
    assert!(matches!(four.end(), Some(End::Broker(_))));
    let refused = |family: &crate::metrics::MqttByName| family.get_or_create(&[("reason", "stopping")]).get();
    assert_eq!(refused(&house.metrics.mqtt.refused), 4);
    assert_eq!(refused(&house.metrics.mqtt.dropped_in), 2);
}

#[test]
fn a_full_disk_is_told_and_what_comes_again_is_stored_once() {
    for gone in [false, true] {
        let disk = Faulty::default();
        let house = House::over(disk.inline(START), "");
        let mut five = house.connected(&connect5("five", false, &[&expiry(3600)]));
        let mut four: Vec<_> = (1..=2).map(|_| house.connected(&connect4("", true, 0))).collect();
        disk.set_full(true);
        disk.set_gone(gone);
        assert_eq!(five.send(&publish5("a", 1, 1, &[], "one")), [0x40, 3, 0, 1, 0x83]);
        assert_eq!(five.send(&publish5("a", 2, 2, &[], "two")), [0x50, 3, 0, 2, 0x83]);
        assert!(five.end().is_none());
        for (wire, qos) in four.iter_mut().zip(1..) {
            assert_eq!(wire.send(&publish4("a", qos, 3, "four")), [0u8; 0]);
            assert!(matches!(wire.end(), Some(End::Broker(_))), "{:?}", wire.end());
        }
        disk.set_full(false);
        disk.set_gone(false);
        house.log.set_now(at_s(2));
        assert_eq!(five.send(&publish5("a", 1, 1, &[], "one")), [0x40, 2, 0, 1]);
        // The id that was refused is free.
        assert_eq!(five.send(&publish5("a", 2, 2, &[], "two")), [0x50, 2, 0, 2]);
        assert_eq!(five.send(&publish5("a", 2, 2, &[], "two")), [0x50, 2, 0, 2]);
        assert_eq!(house.values("telemetry"), ["one", "two"]);
    }
}

#[test]
fn a_quota_that_is_reached_is_0x97() {
    let house = House::new("");
    let mut five = house.connected(&connect5("five", true, &[]));
    let mut four = house.connected(&connect4("four", true, 0));
    house.log.refuse_with(Some(Code::Quota));
    assert_eq!(five.send(&publish5("a", 1, 1, &[], "x")), [0x40, 3, 0, 1, 0x97]);
    assert_eq!(five.send(&publish5("a", 2, 2, &[], "x")), [0x50, 3, 0, 2, 0x97]);
    assert!(five.end().is_none());
    assert_eq!(four.send(&publish4("a", 1, 1, "x")), [0u8; 0]);
    assert!(matches!(four.end(), Some(End::Broker(_))));
    house.log.refuse_with(None);
    assert_eq!(five.send(&publish5("a", 1, 1, &[], "x")), [0x40, 2, 0, 1]);
    assert_eq!(house.values("telemetry"), ["x"]);
}

#[test]
fn wrong_filters_are_refused_one_by_one() {
    let house = House::new("[limits]\nmqtt_subscriptions = 3\n");
    let mut wire = house.connected(&connect5("a", true, &[]));
    let filters = [
        ("a", 0),
        ("a/#/b", 0),
        ("$share/g/a", 0),
        ("b+", 1),
        ("c", 2),
        ("d", 1),
        ("e", 1),
        ("a", 1),
    ];
    let got = wire.send(&subscribe5(9, &[], &filters));
    assert_eq!(got, [0x90, 11, 0, 9, 0, 0, 0x8f, 0x9e, 0x8f, 1, 1, 0x97, 1]);
    assert_eq!(house.metrics.mqtt.subscriptions.get(), 3);
    let mut wire = house.connected(&connect4("b", true, 0));
    assert_eq!(
        wire.send(&subscribe4(9, &[("a", 2), ("#a", 0)])),
        [0x90, 4, 0, 9, 1, 0x80]
    );
}
