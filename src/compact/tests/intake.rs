//! Records: stored once and in order, holes counted, the window, and every way to refuse one.

use headwater_wire::{BatchWriter, Entry};

use super::*;
use crate::log::TopicSpec;
use crate::model::{End, Topic};

#[test]
fn a_record_has_the_route_of_its_name_and_the_time_of_its_device() {
    let bench = Bench::new();
    let mut line = bench.session();
    assert_eq!(line.hello(5, 1), [Said::Hello { last: 0 }]);
    let message = Message::Publish(Publish {
        sequence: 1,
        time: Some(-1500),
        channel: "oil/temperature",
        payload: b"71",
    });
    line.send(&message, later(9000));
    assert_eq!(line.said(), [Said::Ack(1)]);
    let [record] = &bench.records("telemetry")[..] else {
        panic!("one record")
    };
    assert_eq!(record.key.as_deref(), Some(&b"device/pump-7/oil/temperature"[..]));
    assert_eq!(record.value.as_deref(), Some(&b"71"[..]));
    assert_eq!(record.timestamp_ms, START.wall_ms - 1500);
}

#[test]
fn a_resend_after_a_crash_of_either_side_is_stored_once() {
    let bench = Bench::new();
    let mut line = bench.session();
    line.hello(5, 1);
    for sequence in 1..=3 {
        line.publish(sequence);
    }
    // The device never heard the Acks; the broker is a new one over the same log.
    let bench = bench.again();
    let mut line = bench.session();
    assert_eq!(line.hello(5, 1), [Said::Hello { last: 3 }]);
    assert_eq!(line.publish(2), [Said::Ack(3)]);
    assert_eq!(line.publish(3), [Said::Ack(3)]);
    assert_eq!(line.publish(4), [Said::Ack(4)]);
    assert_eq!(bench.values(), numbers(1..=4));
    assert_eq!(bench.metrics.compact.duplicates.get(), 2);
}

#[test]
fn a_new_epoch_begins_at_one_again() {
    let bench = Bench::new();
    let mut line = bench.session();
    line.hello(5, 1);
    line.publish(1);
    assert_eq!(line.hello(6, 1), [Said::Hello { last: 0 }]);
    assert_eq!(line.publish(1), [Said::Ack(1)]);
    assert_eq!(bench.values().len(), 2);
    assert_eq!(bench.row("pump-7").epoch, 6);
}

#[test]
fn a_hole_that_the_device_declares_is_counted_and_kept_in_its_row() {
    let bench = Bench::new();
    let mut line = bench.session();
    line.hello(5, 1);
    line.publish(1);
    line.send(&Message::Skip(5), START);
    assert_eq!(line.said(), [Said::Ack(4)]);
    assert_eq!(line.publish(5), [Said::Ack(5)]);
    // The next hole is found at Hello.
    let mut line = bench.session();
    assert_eq!(line.hello(5, 9), [Said::Hello { last: 5 }]);
    assert_eq!(line.publish(9), [Said::Ack(9)]);
    let row = bench.row("pump-7");
    assert_eq!((row.last, row.lost), (9, 6));
    assert_eq!(
        (bench.metrics.compact.gaps.get(), bench.metrics.compact.lost.get()),
        (2, 6)
    );
}

#[test]
fn a_record_that_is_missing_is_asked_for_once() {
    let bench = Bench::new();
    let mut line = bench.session();
    line.hello(5, 1);
    line.publish(1);
    assert_eq!(line.publish(3), [Said::Nack(2, Code::OUT_OF_ORDER, 0)]);
    assert_eq!(line.publish(4), []);
    line.send(&publish(4, "t", b"4"), later(3000));
    assert_eq!(line.said(), [Said::Nack(2, Code::OUT_OF_ORDER, 0)]);
    line.publish(2);
    line.publish(3);
    assert_eq!(bench.values(), numbers(1..=3));
    assert_eq!(bench.row("pump-7").lost, 0);
}

#[test]
fn a_batch_is_one_ack_and_a_record_past_the_window_ends_the_session() {
    let bench = Bench::new();
    let mut line = bench.session();
    line.hello(5, 1);
    let mut buf = [0; 1000];
    let mut batch = BatchWriter::new(&mut buf, 1, 900).unwrap();
    for payload in [b"1", b"2", b"3"] {
        let channel = if payload == b"1" { "t" } else { "" };
        assert!(batch.push(&Entry {
            time: Some(0),
            channel,
            payload
        }));
    }
    let n = batch.finish().unwrap();
    line.bytes(&buf[..n], START);
    assert_eq!(line.said(), [Said::Ack(3)]);
    assert_eq!(bench.values(), numbers(1..=3));
    assert_eq!(line.publish(3 + 8193), [Said::Bye(Code::WINDOW)]);
    assert!(matches!(line.session.end(), Some(End::Peer(_))));
}

#[test]
fn a_channel_that_is_no_name_is_settled_and_the_rest_goes_on() {
    let bench = Bench::new();
    let mut line = bench.session();
    line.hello(5, 1);
    line.publish(1);
    line.send(&publish(2, "a/+/b", b"x"), START);
    let said = line.said();
    assert_eq!(said, [Said::Nack(2, Code::INVALID_CHANNEL, 0), Said::Ack(2)]);
    assert_eq!(line.publish(3), [Said::Ack(3)]);
    let row = bench.row("pump-7");
    assert_eq!((row.last, row.refused), (3, 1));
    assert_eq!(bench.values(), numbers([1, 3]));
}

#[test]
fn a_refusal_for_now_names_where_to_go_on_and_when() {
    let bench = Bench::new();
    let mut line = bench.session();
    line.hello(5, 1);
    line.publish(1);
    bench.log.stop();
    assert_eq!(line.publish(2), [Said::Nack(2, Code::BUSY, 250)]);
    assert!(line.session.wants_input());
}

#[test]
fn a_record_that_only_the_log_refuses_is_found_among_others() {
    let bench = Bench::new();
    let spec = TopicSpec {
        name: Topic::parse("telemetry").unwrap(),
        partitions: None,
        settings: vec![("max.message.bytes".to_owned(), "300".to_owned())],
    };
    bench.log.create_topic(spec, Waker::noop()).take().unwrap().unwrap();
    let mut line = bench.session();
    line.hello(5, 1);
    let large = [7; 400];
    let mut buf = [0; 2000];
    let mut batch = BatchWriter::new(&mut buf, 1, 1900).unwrap();
    for payload in [&b"1"[..], &large, b"3"] {
        assert!(batch.push(&Entry {
            time: None,
            channel: "t",
            payload
        }));
    }
    let n = batch.finish().unwrap();
    line.bytes(&buf[..n], START);
    assert_eq!(line.said(), [Said::Nack(1, Code::OUT_OF_ORDER, 0)]);
    // Now one by one; what comes behind the bad one comes again.
    line.bytes(&buf[..n], START);
    let said = line.said();
    let settled = Said::Nack(2, Code::RECORD_TOO_LARGE, 0);
    assert!(said.contains(&settled) && said.contains(&Said::Ack(2)), "{said:?}");
    assert!(line.publish(3).contains(&Said::Ack(3)));
    assert_eq!(bench.values(), numbers([1, 3]));
    assert_eq!(bench.row("pump-7").refused, 1);
}
