//! The clients' codecs against bytes from the specifications, and the sessions against a scripted broker.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::mqtt::{Event, Level, MqttClient, MqttOptions};
use super::mqtt_packet::{self as packet, Packet};

#[test]
fn packets_are_those_of_the_specification() {
    let options = MqttOptions {
        keep_alive_s: 10,
        ..MqttOptions::new("", "a", Level::V311)
    };
    assert_eq!(
        packet::connect(&options, true),
        b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x0a\x00\x01a"
    );
    let options = MqttOptions {
        level: Level::V5,
        session_expiry_s: 258,
        ..options
    };
    assert_eq!(
        packet::connect(&options, false),
        b"\x10\x13\x00\x04MQTT\x05\x00\x00\x0a\x05\x11\x00\x00\x01\x02\x00\x01a"
    );
    assert_eq!(
        packet::publish(Level::V311, "a/b", b"hi", 0, 0, false),
        b"\x30\x07\x00\x03a/bhi"
    );
    assert_eq!(
        packet::publish(Level::V5, "a/b", b"hi", 2, 7, true),
        b"\x3c\x0a\x00\x03a/b\x00\x07\x00hi"
    );
    assert_eq!(packet::acknowledge(packet::PUBREL, 258), b"\x62\x02\x01\x02");
    assert_eq!(
        packet::publish(Level::V311, "t", &[0; 200], 0, 0, false)[..3],
        [0x30, 0xcb, 0x01]
    );
}

#[test]
fn answers_are_read_in_pieces_and_nonsense_is_refused() {
    let bytes = b"\x50\x04\x01\x02\x91\x00\x40\x02\x00\x07";
    for cut in 0..6 {
        assert_eq!(packet::decode(&bytes[..cut]), Ok(None), "{cut}");
    }
    let refused = Packet::PubRec { id: 258, code: 0x91 };
    assert_eq!(packet::decode(bytes), Ok(Some((refused, 6))));
    assert_eq!(
        packet::decode(&bytes[6..]),
        Ok(Some((Packet::PubAck { id: 7, code: 0 }, 4)))
    );
    assert!(packet::decode(b"\x40\x01\x09").is_err());
    assert!(packet::decode(b"\x40\xff\xff\xff\xff\x01").is_err());
    assert!(packet::decode(b"\x10\x00").is_err());
}

fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    stream.read_exact(&mut got).expect("the client's bytes");
    assert_eq!(got, bytes);
}

#[test]
fn what_is_not_acknowledged_is_resent_in_order_after_a_reconnect() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let broker = std::thread::spawn(move || {
        let connect = b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x3c\x00\x01c";
        let (mut stream, _) = listener.accept().expect("the first connection");
        expect(&mut stream, connect);
        stream.write_all(b"\x20\x02\x00\x00").expect("CONNACK");
        expect(
            &mut stream,
            b"\x32\x06\x00\x01t\x00\x01a\x34\x06\x00\x01t\x00\x02b\x32\x06\x00\x01t\x00\x03c",
        );
        // The first is acknowledged, the second half way; then the connection is gone.
        stream.write_all(b"\x40\x02\x00\x01\x50\x02\x00\x02").expect("acks");
        expect(&mut stream, b"\x62\x02\x00\x02");
        drop(stream);
        let (mut stream, _) = listener.accept().expect("the second connection");
        expect(&mut stream, connect);
        stream.write_all(b"\x20\x02\x01\x00").expect("CONNACK");
        expect(&mut stream, b"\x62\x02\x00\x02\x3a\x06\x00\x01t\x00\x03c");
        stream.write_all(b"\x70\x02\x00\x02\x40\x02\x00\x03").expect("acks");
    });
    let mut client = MqttClient::connect(MqttOptions::new(address, "c", Level::V311)).expect("a connection");
    for (payload, qos) in [(b"a", 1), (b"b", 2), (b"c", 1)] {
        client.publish("t", payload, qos).expect("a publish");
    }
    assert_eq!(
        client.poll(Duration::from_secs(5)).expect("an ack"),
        Event::Acked { token: 1, code: 0 }
    );
    while client.poll(Duration::from_secs(5)).is_ok() {}
    assert_eq!(client.unacked(), 2);
    client.reconnect().expect("a second connection");
    assert!(client.session_present());
    for token in [2, 3] {
        let event = client.poll(Duration::from_secs(5)).expect("an ack");
        assert_eq!(event, Event::Acked { token, code: 0 });
    }
    broker.join().expect("the broker saw what it should");
}
