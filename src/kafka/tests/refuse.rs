//! What ends a connection, and ApiVersions.

use super::*;

/// A header without a client id, and a body.
fn raw(key: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(key.to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend(77i32.to_be_bytes());
    frame.extend((-1i16).to_be_bytes());
    frame.extend(body);
    [&(frame.len() as i32).to_be_bytes()[..], &frame].concat()
}

#[test]
fn what_is_not_kafka_closes_the_connection_and_is_counted() {
    let house = House::new("");
    let huge = raw(3, 1, &i32::MAX.to_be_bytes());
    let cases: [(&str, &[u8], &str); 7] = [
        ("HTTP", b"GET / HTTP/1.1\r\n", "past the limit"),
        ("a negative length", &[0xff; 8], "-1"),
        ("too short", &[0, 0, 0, 2, 0, 0], "2 bytes"),
        ("no whole header", &[0, 0, 0, 4, 0, 3, 0, 1], "8 bytes"),
        ("a huge array", &huge, "2147483647 elements"),
        ("an unknown API", &raw(999, 0, b""), "999"),
        ("an unknown version", &raw(3, 99, b""), "Metadata version 99"),
    ];
    let count = cases.len() as u64;
    for (what, bytes, words) in cases {
        let mut wire = house.dial();
        wire.send_bytes(bytes);
        assert!(wire.blamed().contains(words), "{what}: {}", wire.blamed());
        assert!(!wire.session.wants_input());
        assert_eq!(wire.send_bytes(&raw(18, 0, b"")), 0, "{what}: nothing more is taken");
    }
    assert_eq!(house.counter("kafka_peer_errors_total"), count);
}

#[test]
fn an_old_produce_is_told_what_is_spoken_here() {
    let house = House::new("");
    let mut wire = house.dial();
    wire.send_bytes(&raw(0, 2, &[0; 20]));
    assert!(wire.blamed().contains("Produce version 2"), "{}", wire.blamed());
}

#[test]
fn api_versions_say_what_is_served_in_every_version() {
    let house = House::new("");
    let mut wire = house.dial();
    for version in 0..=4 {
        let request = ApiVersionsRequest::default();
        let response = wire.ask(version, &request);
        assert_eq!(response.error_code, 0);
        let find = |key| {
            response
                .api_keys
                .iter()
                .find(|k| k.api_key == key)
                .map(|k| (k.min_version, k.max_version))
        };
        assert_eq!(
            find(0),
            Some((0, 11)),
            "Produce from 0, or librdkafka does without compression"
        );
        assert_eq!(find(1), Some((4, 12)));
        assert_eq!(find(18), Some((0, 4)));
        assert_eq!(find(71), None);
    }
}

#[test]
fn api_versions_from_the_future_are_answered_in_version_0() {
    let house = House::new("");
    let mut wire = house.dial();
    wire.send_bytes(&raw(18, 99, &[0]));
    let (correlation, response) = wire.receive::<ApiVersionsRequest>(0, START).unwrap();
    assert_eq!((correlation, response.error_code), (77, 35));
    assert!(!response.api_keys.is_empty());
    assert_eq!(wire.session.end(), None, "and the connection goes on");
    wire.ask(4, &ApiVersionsRequest::default());
}
