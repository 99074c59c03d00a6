//! CONNECT, keep-alive, take-over, sessions over time.

use super::bytes_of::*;
use super::*;
use crate::log::Opening;
use crate::log::fault::Faulty;

const KEEP: [u8; 5] = [17, 0, 0, 0x0e, 0x10];

#[test]
fn both_versions_share_a_port() {
    let house = House::new("");
    let mut four = house.dial();
    assert_eq!(four.send(&connect4("a", true, 0)), [0x20, 2, 0, 0]);
    let mut five = house.dial();
    let answer = five.send(&connect5("b", true, &[]));
    assert_eq!(answer[0], 0x20);
    assert_eq!(&answer[2..4], [0, 0]);
    // Receive Maximum 1024, Retain Available 0, Shared Subscription Available 0.
    for property in [&[33, 4, 0][..], &[37, 0], &[42, 0]] {
        assert!(
            answer.windows(property.len()).any(|w| w == property),
            "{property:?} in {answer:?}"
        );
    }
}

#[test]
fn a_connect_in_pieces_is_waited_for() {
    let house = House::new("");
    let mut wire = house.dial();
    let connect = connect5("piece", true, &[]);
    assert_eq!(wire.session.input(&connect[..5], START), 0);
    assert_eq!(wire.session.frame_bytes_wanted(), connect.len());
    assert_eq!(wire.session.input(&connect, START), connect.len());
    assert_eq!(wire.receive()[0], 0x20);
}

#[test]
fn levels_that_are_not_served_are_told_so() {
    let house = House::new("");
    for (name, level, answer) in [
        ("MQIsdp", 3, Some([0x20, 2, 0, 1])),
        ("MQTT", 3, Some([0x20, 2, 0, 1])),
        ("AMQP", 4, None),
    ] {
        let mut wire = house.dial();
        let got = wire.send(&connect_raw(name, level, 2, 0, None, &[&text("x")]));
        assert_eq!(got, answer.map_or(vec![], |a| a.to_vec()), "{name} {level}");
        assert!(wire.is_blamed());
    }
    let mut wire = house.dial();
    let got = wire.send(&connect_raw("MQTT", 6, 2, 0, Some(&[]), &[&text("x")]));
    assert_eq!((got[0], got[3]), (0x20, 0x84));
}

#[test]
fn anything_before_connect_ends_it_unanswered() {
    let house = House::new("");
    for first in [
        &PING[..],
        &publish4("a", 1, 1, "x"),
        &DISCONNECT,
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut wire = house.dial();
        assert_eq!(wire.send(first), [0u8; 0]);
        assert!(wire.is_blamed(), "{first:?}");
    }
}

#[test]
fn a_second_connect_is_a_protocol_error() {
    let house = House::new("");
    let mut wire = house.connected(&connect5("a", true, &[]));
    assert_eq!(disconnect_reason(&wire.send(&connect5("a", true, &[]))), Some(0x82));
    let mut wire = house.connected(&connect4("a", true, 0));
    assert_eq!(wire.send(&connect4("a", true, 0)), [0u8; 0]);
    assert!(wire.is_blamed());
}

#[test]
fn malformed_connects_are_refused() {
    let house = House::new("");
    let will = [&text("w")[..], &text("x")].concat();
    for (flags, payload) in [
        (0x03, text("a")),                               // reserved flag
        (0x1e, [&text("a")[..], &will].concat()),        // will QoS 3
        (0x0a, text("a")),                               // will QoS without a will
        (0x42, [text("a"), text("secret")].concat()),    // password without user name
        (0x02, [text("a"), text("left over")].concat()), // trailing bytes
        (0x82, text("a")),                               // user name missing
        (0x02, vec![0, 1, 0xff]),                        // not UTF-8
        (0x02, vec![0, 1, 0]),                           // NUL
    ] {
        let mut wire = house.dial();
        let got = wire.send(&connect_raw("MQTT", 4, flags, 0, None, &[&payload]));
        assert_eq!(got, [0u8; 0], "flags {flags:02x}");
        assert!(wire.is_blamed(), "flags {flags:02x}");
    }
    for list in [
        &[33, 0, 0][..],
        &[39, 0, 0, 0, 0],
        &[17, 0, 0, 0, 1, 17, 0, 0, 0, 1],
        &[1, 1],
        &[99],
        &[22, 0, 0],
    ] {
        let mut wire = house.dial();
        let got = wire.send(&connect5("a", true, &[list]));
        assert_eq!(got[0], 0x20, "{list:?}");
        assert!(matches!(got[3], 0x81 | 0x82), "{list:?}: {got:02x?}");
    }
}

#[test]
fn client_ids_follow_the_rules_of_their_version() {
    let house = House::new("");
    assert_eq!(house.dial().send(&connect4("", true, 0)), [0x20, 2, 0, 0]);
    assert_eq!(house.dial().send(&connect4("", false, 0)), [0x20, 2, 0, 2]);
    let assigned = house.dial().send(&connect5("", false, &[]));
    assert!(String::from_utf8_lossy(&assigned).contains("headwater-"));
    assert_eq!(house.dial().send(&connect4(&"x".repeat(257), true, 0)), [0x20, 2, 0, 2]);
    assert_eq!(house.dial().send(&connect5(&"x".repeat(257), true, &[]))[3], 0x85);
}

#[test]
fn a_listener_without_anonymous_clients_refuses_everybody() {
    let house = House::new("");
    assert_eq!(house.dial_where(false).send(&connect4("a", true, 0)), [0x20, 2, 0, 5]);
    assert_eq!(house.dial_where(false).send(&connect5("a", true, &[]))[3], 0x87);
}

#[test]
fn user_names_and_passwords_that_are_not_text_are_taken() {
    let house = House::new("[[route]]\nmatch = \"u\"\ntopic = \"u\"\nkey = \"{user}\"\n");
    for level in [4, 5] {
        let list: Option<&[&[u8]]> = (level == 5).then_some(&[]);
        let payload = [&text("c")[..], &text("anna"), &[0, 2, 0xff, 0]].concat();
        let mut wire = house.connected(&connect_raw("MQTT", level, 0xc2, 0, list, &[&payload]));
        let publish = if level == 4 {
            publish4("u", 1, 1, "x")
        } else {
            publish5("u", 1, 1, &[], "x")
        };
        assert_eq!(wire.send(&publish), puback(1));
    }
    assert!(house.records("u").iter().all(|r| r.key.as_deref() == Some(b"anna")));
}

#[test]
fn authentication_methods_are_refused() {
    let house = House::new("");
    assert_eq!(
        house.dial().send(&connect5("a", true, &[&property_text(21, "SCRAM")]))[3],
        0x8c
    );
}

#[test]
fn a_new_connection_has_so_long_for_connect() {
    let house = House::new("[limits]\nhandshake = \"5s\"\n");
    let mut wire = house.dial();
    assert_eq!(wire.session.deadline_us(), Some(at_s(5).mono_us));
    wire.receive_at(at_s(4));
    assert!(wire.end().is_none());
    wire.receive_at(at_s(5));
    assert!(wire.is_blamed());
}

#[test]
fn keep_alive_is_one_and_a_half_of_what_was_said() {
    let house = House::new("");
    let mut wire = house.dial();
    wire.send(&connect_raw("MQTT", 5, 2, 10, Some(&[]), &[&text("k")]));
    assert_eq!(wire.session.deadline_us(), Some(at_s(15).mono_us));
    assert_eq!(wire.send_at(&PING, at_s(14)), PONG);
    wire.receive_at(at_s(28));
    assert!(wire.end().is_none());
    assert_eq!(disconnect_reason(&wire.receive_at(at_s(29))), Some(0x8d));
    // Pieces of a packet are no packet.
    let mut slow = house.connected(&connect4("slow", true, 10));
    slow.send_at(&[0x30], at_s(14));
    slow.receive_at(at_s(15));
    assert!(slow.is_blamed());
    // 0 is never.
    let wire = house.connected(&connect4("never", true, 0));
    assert_eq!(wire.session.deadline_us(), None);
}

#[test]
fn the_newer_connection_takes_a_client_id_over() {
    let house = House::new("");
    let mut old = house.connected(&connect5("same", false, &[&KEEP]));
    let mut new = house.dial();
    let answer = new.send(&connect5("same", false, &[&KEEP]));
    assert_eq!(answer[2], 1, "session present");
    assert!(old.wakes() > 0);
    assert_eq!(disconnect_reason(&old.receive()), Some(0x8e));
    old.cut(START);
    // The old one's end changes nothing for the new one.
    assert_eq!(new.send(&PING), PONG);
    new.cut(START);
    assert_eq!(house.dial().send(&connect5("same", false, &[&KEEP]))[2], 1);
}

#[test]
fn what_a_taken_over_connection_still_sends_is_not_read() {
    let house = House::new("");
    let mut old = house.connected(&connect4("same", true, 0));
    let _new = house.connected(&connect4("same", true, 0));
    old.send(&publish4("a", 1, 1, "late"));
    assert_eq!(house.values("telemetry"), [""; 0]);
}

#[test]
fn sessions_survive_a_crash_until_they_expire() {
    let mut house = House::new("");
    house.connected(&connect5("keep", true, &[&KEEP])).cut(START);
    house.connected(&connect5("drop", true, &[])).cut(START);
    house.connected(&connect4("four", false, 0)).cut(START);
    house = house.crash("");
    assert_eq!(house.dial().send(&connect5("keep", false, &[&KEEP]))[2], 1);
    assert_eq!(house.dial().send(&connect5("drop", false, &[]))[2], 0);
    assert_eq!(house.dial().send(&connect4("four", false, 0))[2], 1);
    // Clean start discards.
    assert_eq!(house.dial().send(&connect5("keep", true, &[&KEEP]))[2], 0);
}

#[test]
fn expired_sessions_are_removed_and_counted() {
    let house = House::new("");
    house.connected(&connect5("keep", true, &[&KEEP])).cut(START);
    assert_eq!(house.metrics.mqtt.sessions_stored.get(), 1);
    assert_eq!(house.broker.poll(START, Waker::noop()), Some(at_s(3600).mono_us));
    house.broker.poll(at_s(3600), Waker::noop());
    assert_eq!(house.metrics.mqtt.sessions_expired.get(), 1);
    assert_eq!(house.metrics.mqtt.sessions_stored.get(), 0);
    let mut wire = house.dial();
    assert_eq!(wire.send_at(&connect5("keep", false, &[&KEEP]), at_s(3601))[2], 0);
}

#[test]
fn an_expiry_beyond_the_limit_is_cut_and_told() {
    let house = House::new("[limits]\nmqtt_session_expiry_max = \"1h\"\n");
    let answer = house.dial().send(&connect5("a", true, &[&expiry(u32::MAX)]));
    assert!(answer.windows(5).any(|w| w == expiry(3600)), "{answer:?}");
}

#[test]
fn sessions_beyond_the_limit_are_refused() {
    let house = House::new("[limits]\nmqtt_sessions = 1\n");
    house.connected(&connect5("one", true, &[&KEEP])).cut(START);
    assert_eq!(house.dial().send(&connect5("two", true, &[&KEEP]))[3], 0x97);
    assert_eq!(house.dial().send(&connect4("two", false, 0)), [0x20, 2, 0, 3]);
    assert_eq!(house.dial().send(&connect5("two", true, &[]))[3], 0);
}

#[test]
fn a_goodbye_can_end_a_session_but_not_begin_one() {
    let house = House::new("");
    let mut wire = house.connected(&connect5("a", true, &[&KEEP]));
    wire.send(&packet(0xe0, &[&[0][..], &properties(&[&expiry(0)])].concat()));
    assert_eq!(wire.end(), Some(&End::Finished));
    wire.cut(START);
    assert_eq!(house.dial().send(&connect5("a", false, &[]))[2], 0);
    let mut wire = house.connected(&connect5("b", true, &[]));
    let got = wire.send(&packet(0xe0, &[&[0][..], &properties(&[&expiry(9)])].concat()));
    assert_eq!(disconnect_reason(&got), Some(0x82));
}

#[test]
fn a_will_is_published_only_without_a_goodbye() {
    let house = House::new("");
    let connect = |id: &str| {
        let payload = [text(id), text("w/1"), text(id)].concat();
        connect_raw("MQTT", 4, 0x0e, 0, None, &[&payload])
    };
    house.connected(&connect("broken")).cut(START);
    let mut polite = house.connected(&connect("polite"));
    polite.send(&DISCONNECT);
    polite.cut(START);
    // The goodbye that asks for it (5.0, reason 0x04).
    let payload = [text("asked"), vec![0], text("w/1"), text("asked")].concat();
    let mut asked = house.connected(&connect_raw("MQTT", 5, 0x0e, 0, Some(&[]), &[&payload]));
    asked.send(&[0xe0, 1, 4]);
    asked.cut(START);
    assert_eq!(house.values("telemetry"), ["broken", "asked"]);
    assert_eq!(house.metrics.mqtt.wills.get(), 2);
}

#[test]
fn a_will_is_counted_when_its_fate_is_known() {
    let disk = Faulty::default();
    let Opening { log, writer, .. } = disk.held(START);
    let house = House::over(log, "");
    let wakes = Arc::new(Wakes::default());
    house.broker.poll(START, &Waker::from(Arc::clone(&wakes)));
    let payload = [text("a"), text("w/1"), text("x")].concat();
    house
        .connected(&connect_raw("MQTT", 4, 0x0e, 0, None, &[&payload]))
        .cut(START);
    let counted = || {
        house.deliver(START);
        (house.metrics.mqtt.wills.get(), house.metrics.mqtt.wills_refused.get())
    };
    assert_eq!(counted(), (0, 0));
    disk.set_full(true);
    house.log.stop();
    writer.run(|| START);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    assert_eq!(counted(), (0, 1));
    assert_eq!(counted(), (0, 1));
}

#[test]
fn a_will_to_nowhere_is_refused() {
    let house = House::new("");
    let payload = [text("a"), vec![0], text("w/#"), text("x")].concat();
    assert_eq!(
        house
            .dial()
            .send(&connect_raw("MQTT", 5, 0x06, 0, Some(&[]), &[&payload]))[3],
        0x90
    );
}

#[test]
fn stop_says_so_and_ends() {
    let house = House::new("");
    let mut wire = house.connected(&connect5("a", true, &[]));
    wire.session.stop(START);
    assert_eq!(disconnect_reason(&wire.receive()), Some(0x8b));
    assert_eq!(wire.end(), Some(&End::Finished));
    assert!(!wire.session.wants_input());
}
