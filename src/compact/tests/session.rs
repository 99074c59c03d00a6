//! Connections: who gets in, who has the device, what noise and silence do, how many there may be.

use headwater_wire::proof;

use super::*;
use crate::compact::Keys;
use crate::model::End;

#[test]
fn the_newest_session_of_a_device_wins_and_the_old_one_takes_nothing_more_in() {
    let bench = Bench::new();
    let mut old = bench.session();
    old.hello(5, 1);
    old.publish(1);
    let mut new = bench.session();
    assert_eq!(new.hello(5, 1), [Said::Hello { last: 1 }]);
    // What the old one still had in its socket comes after the new one's Hello.
    assert_eq!(old.publish(2), [Said::Bye(Code::TAKEN_OVER)]);
    old.session.gone(START);
    assert_eq!(new.publish(2), [Said::Ack(2)]);
    assert_eq!(bench.values(), numbers(1..=2));
    assert_eq!(bench.metrics.compact.devices.get(), 1);
    assert_eq!(bench.metrics.compact.takeovers.get(), 1);
}

#[test]
fn a_record_that_another_session_stored_in_between_is_stored_once() {
    let bench = Bench::new();
    let mut old = bench.session();
    old.hello(5, 1);
    old.publish(1);
    let mut new = bench.again().session();
    assert_eq!(new.hello(5, 1), [Said::Hello { last: 1 }]);
    assert_eq!(old.publish(2), [Said::Ack(2)]);
    assert_eq!(new.publish(2), [Said::Nack(3, Code::OUT_OF_ORDER, 0), Said::Ack(2)]);
    assert_eq!(new.publish(3), [Said::Ack(3)]);
    assert_eq!(bench.values(), numbers(1..=3));
    assert_eq!(bench.metrics.compact.conflicts.get(), 1);
}

#[test]
fn a_session_of_an_older_queue_does_not_overwrite_what_the_newer_one_stored() {
    let bench = Bench::new();
    let mut line = bench.session();
    line.hello(5, 1);
    line.publish(1);
    // The old queue says that it has lost something, which is written before anything else is.
    let mut old = bench.session();
    old.hello(5, 2);
    let mut new = bench.again().session();
    assert_eq!(new.hello(6, 1), [Said::Hello { last: 0 }]);
    assert_eq!(new.publish(1), [Said::Ack(1)]);
    assert_eq!(old.publish(2), [Said::Bye(Code::TAKEN_OVER)]);
    assert_eq!(new.publish(1), [Said::Ack(1)]);
    assert_eq!(new.publish(2), [Said::Ack(2)]);
    let row = bench.row("pump-7");
    assert_eq!((row.epoch, row.last, row.lost), (6, 2, 0));
    assert_eq!(bench.values(), numbers([1, 1, 2]));
}

#[test]
fn a_listener_with_keys_lets_in_who_proves_one() {
    let path = std::env::temp_dir().join(format!("headwater-psk-{}", std::process::id()));
    std::fs::write(&path, "pump-7:000102030405060708090a0b0c0d0e0f\n").unwrap();
    let rules = Listener {
        psk_file: Some(path.clone()),
        ..listener()
    };
    let bench = Bench::with(|config| config.listeners = vec![rules.clone()]);
    std::fs::remove_file(&path).unwrap();
    let key: Vec<u8> = (0..16).collect();
    let connect = || {
        let mut line = bench.session();
        let address = "127.0.0.1:1".parse().unwrap();
        line.session = bench.broker.session(
            Peer {
                address,
                local: address,
            },
            &rules,
            Waker::noop().clone(),
            1,
            START,
        );
        let [Said::Challenge(nonce)] = line.hello(5, 1)[..] else {
            panic!("a challenge")
        };
        (line, nonce)
    };
    let (mut line, nonce) = connect();
    let good = proof(&key, &nonce, "pump-7", 5, 1);
    line.send(&hello(5, 1, Some(good)), START);
    assert_eq!(line.said(), [Said::Hello { last: 0 }]);
    // The same proof is worth nothing on another connection, nor is one of another key.
    let (mut line, nonce) = connect();
    line.send(&hello(5, 1, Some(good)), START);
    assert_eq!(line.said(), [Said::Bye(Code::NOT_AUTHORIZED)]);
    let (mut line, _) = connect();
    line.send(&hello(5, 1, Some(proof(b"another", &nonce, "pump-7", 5, 1))), START);
    assert_eq!(line.said(), [Said::Bye(Code::NOT_AUTHORIZED)]);
    let (mut line, _) = connect();
    line.send(&publish(1, "t", b"1"), START);
    assert_eq!(line.said(), [Said::Bye(Code::HELLO_REQUIRED)]);
    assert!(Keys::parse("").unwrap().key("pump-7").is_none());
}

#[test]
fn noise_is_counted_and_passed_over_and_silence_ends_a_session() {
    let bench = Bench::new();
    let mut line = bench.session();
    line.bytes(&[9, 9, 9, 0, 0, 0], START);
    assert_eq!(line.hello(5, 1), [Said::Hello { last: 0 }]);
    for _ in 0..40 {
        line.bytes(&[1; 1000], START);
    }
    assert!(line.input.is_empty(), "a frame past the limit is not gathered");
    line.bytes(&[0], START);
    assert_eq!(line.publish(1), [Said::Ack(1)]);
    assert_eq!(bench.metrics.compact.bad_frames.get(), 2);
    assert_eq!(
        line.session.deadline_us().map(|at| at <= later(90_000).mono_us),
        Some(true)
    );
    line.session.poll(later(90_000));
    assert_eq!(line.said(), [Said::Bye(Code::TIMEOUT)]);
    let mut line = bench.session();
    line.session.poll(later(10_000));
    assert_eq!(line.said(), [Said::Bye(Code::TIMEOUT)]);
}

#[test]
fn one_device_more_than_allowed_is_refused_and_a_stop_says_so() {
    let bench = Bench::with(|config| config.limits.compact_devices = 1);
    let mut line = bench.session();
    line.hello(5, 1);
    line.publish(1);
    let mut other = bench.session();
    other.send(&hello_of("pump-8"), START);
    assert_eq!(other.said(), [Said::Bye(Code::TOO_MANY_DEVICES)]);
    line.session.stop(START);
    assert_eq!(line.said(), [Said::Bye(Code::STOPPING)]);
    assert_eq!(line.session.end(), Some(&End::Finished));
}

fn hello_of(device: &str) -> Message<'_> {
    Message::Hello(Hello {
        version: 1,
        device,
        epoch: 1,
        next: 1,
        frame_bytes_max: 128,
        proof: None,
    })
}

#[test]
fn devices_that_come_and_go_before_their_first_commit_are_counted_once_each() {
    let bench = Bench::with(|config| config.limits.compact_devices = 2);
    // Nothing stored: the place is free again.
    for n in 0..5 {
        let mut line = bench.session();
        line.send(&hello_of(&format!("idle-{n}")), START);
        assert_eq!(line.said(), [Said::Hello { last: 0 }]);
        line.session.gone(START);
    }
    // Stored, and gone before the session saw it.
    for device in ["a", "b", "a", "b"] {
        let mut line = bench.session();
        line.send(&hello_of(device), START);
        line.said();
        line.session.gone(START);
        let mut line = bench.session();
        line.send(&hello_of(device), START);
        let [Said::Hello { last }] = line.said()[..] else {
            panic!("{device} is refused")
        };
        let mut buf = [0; 100];
        let n = encode(&publish(last + 1, "t", b"x"), &mut buf).unwrap();
        assert_eq!(line.session.input(&buf[..n], START), n);
        line.session.gone(START);
    }
    let mut line = bench.session();
    line.send(&hello_of("c"), START);
    assert_eq!(line.said(), [Said::Bye(Code::TOO_MANY_DEVICES)]);
}

#[test]
fn a_session_from_before_the_clock_was_set_must_say_hello_again() {
    let bench = Bench::new();
    let clock = |now: Now, correction_ms| crate::log::BootClock {
        id: [1; 16],
        offset_ms: 0,
        trusted: correction_ms != 0,
        correction_ms: Some(correction_ms).filter(|ms| *ms != 0),
        now,
    };
    bench.log.set_clock(clock(START, 0));
    let mut line = bench.session();
    line.hello(5, 1);
    let second = publish(2, "t", b"2");
    assert_eq!(line.publish(1), [Said::Ack(1)]);
    // Time passes, and nothing happens; then the clock is set.
    line.send(&second, later(5_000));
    assert_eq!(line.said(), [Said::Ack(2)]);
    let by_ms = 86_400_000;
    let set = Now {
        wall_ms: later(6_000).wall_ms + by_ms,
        ..later(6_000)
    };
    bench.log.set_clock(clock(set, by_ms));
    line.send(&publish(3, "t", b"3"), set);
    assert_eq!(line.said(), [Said::Bye(Code::HELLO_REQUIRED)]);
    let mut again = bench.session();
    again.send(&hello(5, 3, None), set);
    assert_eq!(again.said(), [Said::Hello { last: 2 }]);
    again.send(&publish(3, "t", b"3"), set);
    assert_eq!(again.said(), [Said::Ack(3)]);
    assert_eq!(bench.values(), numbers(1..=3));
}
