//! Messages out.

use super::bytes_of::*;
use super::*;
use crate::log::fault::Faulty;

const KEEP: [u8; 5] = [17, 0, 0, 0x0e, 0x10];

#[test]
fn subscribers_get_what_is_committed_after_they_subscribed() {
    let house = House::new("");
    let mut publisher = house.connected(&connect4("p", true, 0));
    publisher.send(&publish4("a/b", 1, 1, "before"));
    let mut subscriber = house.connected(&connect4("s", true, 0));
    assert_eq!(subscriber.send(&subscribe4(1, &[("a/+", 1)])), [0x90, 3, 0, 1, 1]);
    publisher.send(&publish4("a/b", 1, 2, "one"));
    publisher.send(&publish4("a/b", 0, 0, "zero"));
    publisher.send(&publish4("other", 1, 3, "not for it"));
    assert_eq!(subscriber.receive(), [0u8; 0]);
    house.deliver(START);
    assert!(subscriber.wakes() > 0);
    let want = [publish4("a/b", 1, 1, "one"), publish4("a/b", 0, 0, "zero")].concat();
    assert_eq!(subscriber.receive(), want);
    assert_eq!(subscriber.send(&puback(1)), [0u8; 0]);
}

#[test]
fn a_commit_costs_looks_at_what_moved_whatever_else_there_is() {
    let house = House::new("[[route]]\nmatch = \"#\"\ntopic = \"{mqtt_topic}\"\n");
    let mut publisher = house.connected(&connect4("p", true, 0));
    for i in 0..50 {
        publisher.send(&publish4(&format!("t{i}"), 1, 1, "before"));
    }
    let mut subscriber = house.connected(&connect4("s", true, 0));
    subscriber.send(&subscribe4(1, &[("#", 0)]));
    // What it takes to deliver what was just published.
    let mut looks = |topic: &str, payload: &str| {
        let looked = || house.broker.hub.lock().expect("whole").looks;
        let before = looked();
        house.deliver(START);
        assert_eq!(subscriber.receive(), publish4(topic, 0, 0, payload));
        looked() - before
    };
    publisher.send(&publish4("t7", 1, 1, "one"));
    assert_eq!(looks("t7", "one"), 1);
    publisher.send(&publish4("new", 1, 1, "two"));
    assert_eq!(looks("new", "two"), 1);
    let name = crate::model::Topic::parse("t7").expect("a name");
    house.log.delete_topic(&name, Waker::noop()).wait().expect("it is gone");
    publisher.send(&publish4("t7", 1, 1, "again"));
    assert_eq!(looks("t7", "again"), 4, "each partition of the topic that went");
}

#[test]
fn what_cannot_be_read_for_now_is_delivered_later() {
    let disk = Faulty::default();
    let house = House::over(disk.inline_cold(START), "");
    let mut publisher = house.connected(&connect5("p", true, &[]));
    let mut subscriber = house.connected(&connect4("s", true, 0));
    subscriber.send(&subscribe4(1, &[("a", 0)]));
    publisher.send(&publish5("a", 1, 1, &[], "one"));
    disk.set_full(true);
    disk.set_gone(true);
    assert_eq!(publisher.send(&publish5("a", 1, 2, &[], "two")), [0x40, 3, 0, 2, 0x83]);
    house.deliver(START);
    assert_eq!(subscriber.receive(), [0u8; 0]);
    disk.set_full(false);
    disk.set_gone(false);
    house.log.set_now(at_s(2));
    house.deliver(at_s(2));
    assert_eq!(subscriber.receive(), publish4("a", 0, 0, "one"));
    assert_eq!(house.metrics.mqtt.hub_skipped.get(), 0);
}

#[test]
fn the_granted_qos_bounds_what_is_delivered() {
    let house = House::new("");
    let mut publisher = house.connected(&connect4("p", true, 0));
    let mut zero = house.connected(&connect4("zero", true, 0));
    zero.send(&subscribe4(1, &[("#", 0)]));
    let mut two = house.connected(&connect4("two", true, 0));
    two.send(&subscribe4(1, &[("#", 2)]));
    publisher.send(&publish4("a", 2, 1, "x"));
    house.deliver(START);
    assert_eq!(zero.receive(), publish4("a", 0, 0, "x"));
    assert_eq!(two.receive(), publish4("a", 1, 1, "x"));
}

#[test]
fn properties_arrive_and_expiry_counts_down() {
    let house = House::new("");
    let mut publisher = house.connected(&connect5("p", true, &[]));
    let mut subscriber = house.connected(&connect5("s", true, &[]));
    subscriber.send(&subscribe5(1, &[&[11, 5]], &[("a", 1)]));
    let list: [&[u8]; 6] = [
        &[1, 1],
        &[2, 0, 0, 0, 60],
        &property_text(3, "text/plain"),
        &property_text(8, "back"),
        &[9, 0, 2, 0xff, 0],
        &user_property("unit", "°C"),
    ];
    publisher.send(&publish5("a", 1, 1, &list, "21"));
    house.deliver(START);
    let want: [&[u8]; 7] = [list[0], &[2, 0, 0, 0, 50], list[2], list[3], list[4], &[11, 5], list[5]];
    assert_eq!(subscriber.receive_at(at_s(10)), publish5("a", 1, 1, &want, "21"));
    publisher.send(&publish5("a", 1, 2, &list, "late"));
    house.deliver(START);
    assert_eq!(subscriber.receive_at(at_s(60)), [0u8; 0]);
    assert_eq!(
        house
            .metrics
            .mqtt
            .dropped_out
            .get_or_create(&[("reason", "expired")])
            .get(),
        1
    );
}

#[test]
fn a_311_subscriber_gets_no_properties() {
    let house = House::new("");
    let mut publisher = house.connected(&connect5("p", true, &[]));
    let mut subscriber = house.connected(&connect4("s", true, 0));
    subscriber.send(&subscribe4(1, &[("a", 1)]));
    publisher.send(&publish5("a", 1, 1, &[&user_property("x", "y")], "21"));
    house.deliver(START);
    assert_eq!(subscriber.receive(), publish4("a", 1, 1, "21"));
}

#[test]
fn overlapping_subscriptions_bring_one_message_with_all_ids() {
    let house = House::new("");
    let mut publisher = house.connected(&connect5("p", true, &[]));
    let mut subscriber = house.connected(&connect5("s", true, &[]));
    subscriber.send(&subscribe5(1, &[&[11, 1]], &[("a", 0)]));
    subscriber.send(&subscribe5(2, &[&[11, 2]], &[("#", 1)]));
    publisher.send(&publish5("a", 1, 1, &[], "x"));
    house.deliver(START);
    let got = subscriber.receive();
    let orders = [[&[11u8, 1][..], &[11, 2]], [&[11, 2], &[11, 1]]];
    assert!(orders.iter().any(|ids| got == publish5("a", 1, 1, ids, "x")), "{got:?}");
}

#[test]
fn no_local_and_retain_as_published_are_kept() {
    let house = House::new("");
    let mut own = house.connected(&connect5("own", true, &[]));
    own.send(&subscribe5(1, &[], &[("a", 0x05)]));
    let mut other = house.connected(&connect5("other", true, &[]));
    other.send(&subscribe5(1, &[], &[("a", 0x09)]));
    let mut plain = house.connected(&connect5("plain", true, &[]));
    plain.send(&subscribe5(1, &[], &[("a", 0x01)]));
    let mut publish = publish5("a", 1, 1, &[], "x");
    publish[0] |= 1;
    own.send(&publish);
    house.deliver(START);
    assert_eq!(own.receive(), [0u8; 0]);
    assert_eq!(other.receive(), publish);
    publish[0] &= !1;
    assert_eq!(plain.receive(), publish);
}

#[test]
fn unsubscribing_ends_it() {
    let house = House::new("");
    let mut publisher = house.connected(&connect4("p", true, 0));
    let mut subscriber = house.connected(&connect5("s", true, &[]));
    subscriber.send(&subscribe5(1, &[], &[("a", 1)]));
    let filters = [text("a"), text("never"), text("b#")].concat();
    let got = subscriber.send(&packet(0xa2, &[&[0, 2, 0][..], &filters].concat()));
    assert_eq!(got, [0xb0, 6, 0, 2, 0, 0, 0x11, 0x8f]);
    publisher.send(&publish4("a", 1, 1, "x"));
    house.deliver(START);
    assert_eq!(subscriber.receive(), [0u8; 0]);
    assert_eq!(house.metrics.mqtt.subscriptions.get(), 0);
}

#[test]
fn a_client_gets_no_more_than_its_receive_maximum() {
    let house = House::new("");
    let mut publisher = house.connected(&connect4("p", true, 0));
    let mut subscriber = house.connected(&connect5("s", true, &[&[33, 0, 2]]));
    subscriber.send(&subscribe5(1, &[], &[("a", 1)]));
    for id in 1..=4 {
        publisher.send(&publish4("a", 1, id, "x"));
    }
    house.deliver(START);
    let sent = |id| publish5("a", 1, id, &[], "x");
    assert_eq!(subscriber.receive(), [sent(1), sent(2)].concat());
    assert_eq!(subscriber.send(&puback(2)), sent(3));
    assert_eq!(subscriber.send(&puback(1)), sent(4));
}

#[test]
fn a_puback_brings_the_next_message_though_nobody_polls() {
    let house = House::new("");
    let mut publisher = house.connected(&connect4("p", true, 0));
    let mut subscriber = house.connected(&connect5("s", true, &[&[33, 0, 1]]));
    subscriber.send(&subscribe5(1, &[], &[("a", 1)]));
    for id in 1..=3 {
        publisher.send(&publish4("a", 1, id, "x"));
    }
    house.deliver(START);
    assert_eq!(subscriber.receive(), publish5("a", 1, 1, &[], "x"));
    for id in 1..=2 {
        // The driver polls when the waker fires; bytes from the client are no reason to.
        subscriber.session.input(&puback(id), START);
        assert_eq!(subscriber.session.output().take(), publish5("a", 1, id + 1, &[], "x"));
    }
}

#[test]
fn a_message_larger_than_the_client_takes_is_dropped_and_counted() {
    let house = House::new("");
    let mut publisher = house.connected(&connect4("p", true, 0));
    let mut subscriber = house.connected(&connect5("s", true, &[&[39, 0, 0, 0, 50]]));
    subscriber.send(&subscribe5(1, &[], &[("a", 1)]));
    publisher.send(&publish4("a", 1, 1, &"x".repeat(50)));
    publisher.send(&publish4("a", 1, 2, "small"));
    house.deliver(START);
    assert_eq!(subscriber.receive(), publish5("a", 1, 1, &[], "small"));
    assert_eq!(
        house
            .metrics
            .mqtt
            .dropped_out
            .get_or_create(&[("reason", "too_large")])
            .get(),
        1
    );
}

#[test]
fn a_slow_subscriber_loses_qos0_and_is_ended_at_qos1() {
    let house = House::new("[limits]\nmqtt_outbound = \"64KiB\"\n");
    let mut publisher = house.connected(&connect4("p", true, 0));
    let mut zero = house.connected(&connect5("zero", true, &[]));
    zero.send(&subscribe5(1, &[], &[("a", 0)]));
    let mut one = house.connected(&connect5("one", true, &[]));
    one.send(&subscribe5(1, &[], &[("a", 1)]));
    let mut fast = house.connected(&connect5("fast", true, &[]));
    fast.send(&subscribe5(1, &[], &[("a", 1)]));
    let mut received = 0;
    for id in 1..=100u16 {
        publisher.send(&publish4("a", 1, id, &"x".repeat(1000)));
        house.deliver(START);
        received += fast.receive().len() / 1000;
        fast.send(&puback(id));
    }
    assert_eq!(received, 100, "a slow neighbour harms nobody");
    let zero_got = zero.receive().len() / 1000;
    assert!((30..70).contains(&zero_got), "{zero_got}");
    assert!(zero.end().is_none());
    assert_eq!(disconnect_reason(&one.receive()), Some(0x97));
    assert!(
        house
            .metrics
            .mqtt
            .dropped_out
            .get_or_create(&[("reason", "slow")])
            .get()
            > 30
    );
    assert_eq!(
        house
            .metrics
            .mqtt
            .disconnects
            .get_or_create(&[("reason", "quota")])
            .get(),
        1
    );
}

#[test]
fn delivery_goes_on_once_the_output_is_sent() {
    let house = House::new("");
    let mut publisher = house.connected(&connect4("p", true, 0));
    let mut subscriber = house.connected(&connect4("s", true, 0));
    subscriber.send(&subscribe4(1, &[("a", 0)]));
    for id in 1..=200u16 {
        publisher.send(&publish4("a", 1, id, &"x".repeat(1000)));
    }
    house.deliver(START);
    subscriber.session.poll(START);
    let waiting = subscriber.session.output().len();
    assert!(waiting < 100_000, "the rest waits in the outbox: {waiting}");
    let mut got = waiting;
    loop {
        let len = subscriber.session.output().len();
        subscriber.session.output().advance(len);
        let wakes = subscriber.wakes();
        let _ = subscriber.session.output();
        if subscriber.wakes() == wakes {
            break;
        }
        subscriber.session.poll(START);
        got += subscriber.session.output().len();
    }
    assert!(got >= 200_000, "{got}");
}

#[test]
fn a_kept_session_has_its_subscriptions_after_a_crash() {
    let mut house = House::new("");
    house
        .connected(&connect5("s", true, &[&KEEP]))
        .send(&subscribe5(1, &[&[11, 7]], &[("a/#", 1)]));
    house = house.crash("");
    let mut subscriber = house.connected(&connect5("s", false, &[&KEEP]));
    let mut publisher = house.connected(&connect4("p", true, 0));
    publisher.send(&publish4("a/b", 1, 1, "x"));
    house.deliver(START);
    assert_eq!(subscriber.receive(), publish5("a/b", 1, 1, &[&[11, 7]], "x"));
}

#[test]
fn order_is_kept_for_a_topic() {
    let house = House::new("");
    let mut publisher = house.connected(&connect4("p", true, 0));
    let mut subscriber = house.connected(&connect4("s", true, 0));
    subscriber.send(&subscribe4(1, &[("a", 0)]));
    let mut want = Vec::new();
    for id in 1..=500u16 {
        publisher.send(&publish4("a", 1 + (id % 2) as u8, id, &id.to_string()));
        publisher.send(&pubrel(id));
        want.extend(publish4("a", 0, 0, &id.to_string()));
    }
    house.deliver(START);
    assert_eq!(subscriber.receive(), want);
}
