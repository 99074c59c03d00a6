//! Messages in.

use super::bytes_of::*;
use super::*;
use crate::log::Table;

const KEEP: [u8; 5] = [17, 0, 0, 0x0e, 0x10];

fn pubrec(id: u16) -> Vec<u8> {
    packet(0x50, &id.to_be_bytes())
}

fn pubcomp(id: u16) -> Vec<u8> {
    packet(0x70, &id.to_be_bytes())
}

fn dup(mut publish: Vec<u8>) -> Vec<u8> {
    publish[0] |= 8;
    publish
}

fn qos2_ids(house: &House) -> usize {
    house.log.state_scan(Table::MqttQos2, b"", 100).expect("a scan").len()
}

#[test]
fn every_qos_is_stored_and_answered() {
    let house = House::new("");
    let mut wire = house.connected(&connect4("a", true, 0));
    assert_eq!(wire.send(&publish4("t", 0, 0, "zero")), [0u8; 0]);
    assert_eq!(wire.send(&publish4("t", 1, 7, "one")), puback(7));
    assert_eq!(wire.send(&publish4("t", 2, 8, "two")), pubrec(8));
    assert_eq!(wire.send(&pubrel(8)), pubcomp(8));
    assert_eq!(house.values("telemetry"), ["zero", "one", "two"]);
    let records = house.records("telemetry");
    let headers: Vec<_> = records
        .iter()
        .map(|r| {
            r.headers
                .iter()
                .map(|h| (h.name.as_str(), h.value.as_deref()))
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(
        headers,
        [
            vec![("mqtt.qos", Some(&b"0"[..]))],
            vec![],
            vec![("mqtt.qos", Some(&b"2"[..]))]
        ]
    );
    assert!(
        records
            .iter()
            .all(|r| r.key.as_deref() == Some(b"t") && r.timestamp_ms == START.wall_ms)
    );
}

#[test]
fn answers_keep_the_order_of_the_packets() {
    let house = House::new("");
    let mut wire = house.connected(&connect5("a", true, &[]));
    let all = [
        publish5("a", 1, 1, &[], "1"),
        publish5("b", 2, 2, &[], "2"),
        publish5("$SYS/x", 1, 3, &[], "refused"),
        publish5("a", 1, 4, &[], "4"),
    ]
    .concat();
    let want = [puback(1), pubrec(2), vec![0x40, 3, 0, 3, 0x90], puback(4)].concat();
    assert_eq!(wire.send(&all), want);
}

#[test]
fn a_qos2_message_sent_again_is_stored_once() {
    let house = House::new("");
    let mut wire = house.connected(&connect4("a", true, 0));
    assert_eq!(wire.send(&publish4("t", 2, 5, "x")), pubrec(5));
    assert_eq!(wire.send(&dup(publish4("t", 2, 5, "x"))), pubrec(5));
    assert_eq!(wire.send(&pubrel(5)), pubcomp(5));
    // After PUBCOMP the id is free for another message.
    assert_eq!(wire.send(&publish4("t", 2, 5, "y")), pubrec(5));
    assert_eq!(house.values("telemetry"), ["x", "y"]);
    assert_eq!(house.metrics.mqtt.duplicates.get(), 1);
}

#[test]
fn a_qos2_message_sent_again_after_a_crash_is_stored_once() {
    let mut house = House::new("");
    let mut wire = house.connected(&connect5("a", true, &[&KEEP]));
    wire.send(&publish5("t", 2, 5, &[], "x"));
    // Before the client has the PUBREC.
    drop(wire);
    house = house.crash("");
    let mut wire = house.dial();
    assert_eq!(wire.send(&connect5("a", false, &[&KEEP]))[2], 1);
    assert_eq!(wire.send(&dup(publish5("t", 2, 5, &[], "x"))), pubrec(5));
    // Between PUBREC and PUBREL.
    drop(wire);
    house = house.crash("");
    let mut wire = house.connected(&connect5("a", false, &[&KEEP]));
    assert_eq!(wire.send(&pubrel(5)), pubcomp(5));
    assert_eq!(qos2_ids(&house), 0);
    // And when PUBCOMP was lost.
    drop(wire);
    house = house.crash("");
    let mut wire = house.connected(&connect5("a", false, &[&KEEP]));
    assert_eq!(wire.send(&pubrel(5)), vec![0x70, 3, 0, 5, 0x92]);
    assert_eq!(house.values("telemetry"), ["x"]);
}

#[test]
fn a_qos2_message_on_a_second_connection_is_stored_once() {
    let house = House::new("");
    let mut old = house.connected(&connect4("a", false, 0));
    old.send(&publish4("t", 2, 5, "x"));
    let mut new = house.connected(&connect4("a", false, 0));
    assert_eq!(new.send(&dup(publish4("t", 2, 5, "x"))), pubrec(5));
    assert_eq!(new.send(&pubrel(5)), pubcomp(5));
    assert_eq!(house.values("telemetry"), ["x"]);
}

#[test]
fn a_clean_start_frees_the_ids() {
    let house = House::new("");
    house
        .connected(&connect4("a", false, 0))
        .send(&publish4("t", 2, 5, "x"));
    assert_eq!(qos2_ids(&house), 1);
    let mut wire = house.connected(&connect4("a", true, 0));
    assert_eq!(qos2_ids(&house), 0);
    assert_eq!(wire.send(&publish4("t", 2, 5, "another")), pubrec(5));
    assert_eq!(house.values("telemetry"), ["x", "another"]);
}

#[test]
fn the_id_is_stored_with_its_message_and_gone_before_pubcomp() {
    let house = House::new("");
    let mut wire = house.connected(&connect4("a", false, 0));
    let before = house.log.commit_number();
    assert_eq!(wire.send(&publish4("t", 2, 5, "x")), pubrec(5));
    assert_eq!(house.log.commit_number(), before + 1, "one commit for both");
    assert_eq!(qos2_ids(&house), 1);
    assert_eq!(wire.send(&pubrel(5)), pubcomp(5));
    assert_eq!(qos2_ids(&house), 0);
}

#[test]
fn properties_and_routes_become_headers() {
    let toml = "[[route]]\nmatch = \"plant/+line/#\"\ntopic = \"plant-{line}\"\nkey = \"{line}\"\nheaders = { by = \"{client}\" }\n";
    let house = House::new(toml);
    let mut wire = house.connected(&connect5("gw", true, &[]));
    let list: [&[u8]; 6] = [
        &[1, 1],
        &[2, 0, 0, 0, 60],
        &property_text(3, "text/plain"),
        &property_text(8, "back"),
        &[9, 0, 2, 0xff, 0],
        &user_property("unit", "°C"),
    ];
    let mut publish = publish5("plant/é/x", 1, 1, &list, "21");
    publish[0] |= 1;
    assert_eq!(wire.send(&publish), puback(1));
    let records = house.records("plant-_c3_a9");
    let header = |name: &str| {
        let found = records[0].headers.iter().find(|h| h.name == name);
        found
            .and_then(|h| h.value.as_deref())
            .unwrap_or_else(|| panic!("no {name}"))
            .to_vec()
    };
    assert_eq!(header("by"), b"gw");
    assert_eq!(header("mqtt.topic"), "plant/é/x".as_bytes());
    assert_eq!(header("mqtt.retain"), b"1");
    assert_eq!(header("mqtt.expiry"), b"60");
    assert_eq!(header("content-type"), b"text/plain");
    assert_eq!(header("mqtt.response-topic"), b"back");
    assert_eq!(header("mqtt.correlation"), b"\xff\0");
    assert_eq!(header("mqtt.payload-format"), b"1");
    assert_eq!(header("unit"), "°C".as_bytes());
    assert_eq!(house.metrics.mqtt.retain_flagged.get(), 1);
}

#[test]
fn topic_aliases_stand_for_their_topics() {
    let house = House::new("");
    let mut wire = house.connected(&connect5("a", true, &[]));
    wire.send(&publish5("long/topic", 1, 1, &[&[35, 0, 3]], "1"));
    wire.send(&publish5("", 1, 2, &[&[35, 0, 3]], "2"));
    wire.send(&publish5("other", 1, 3, &[&[35, 0, 3]], "3"));
    wire.send(&publish5("", 1, 4, &[&[35, 0, 3]], "4"));
    let mut keys: Vec<_> = house
        .records("telemetry")
        .into_iter()
        .map(|r| (r.value, r.key))
        .collect();
    keys.sort();
    let keys: Vec<_> = keys.iter().map(|(_, k)| k.as_deref().unwrap_or_default()).collect();
    assert_eq!(keys, [&b"long/topic"[..], b"long/topic", b"other", b"other"]);
}

#[test]
fn many_messages_in_one_read_are_all_answered() {
    let house = House::new("");
    let mut wire = house.connected(&connect4("a", true, 0));
    let mut all = Vec::new();
    let mut want = Vec::new();
    for id in 1..=1000u16 {
        all.extend(publish4("t", 1, id, &"x".repeat(usize::from(id))));
        want.extend(puback(id));
    }
    assert_eq!(wire.send(&all), want);
    assert_eq!(house.records("telemetry").len(), 1000);
}

#[test]
fn a_message_in_pieces_arrives() {
    let house = House::new("");
    let mut wire = house.connected(&connect4("a", true, 0));
    let publish = publish4("t", 1, 1, &"y".repeat(100_000));
    for until in [1, 3, 50, 60_000] {
        assert_eq!(wire.session.input(&publish[..until], START), 0);
    }
    assert_eq!(wire.session.frame_bytes_wanted(), publish.len());
    assert_eq!(wire.send(&publish), puback(1));
}
