//! The broker side over an in-memory log: with frames made here, and against the device crate over a bad line.

use std::sync::Arc;
use std::task::Waker;

use headwater_device::{Client, Event, RamQueue, Timing};
use headwater_wire::{BatchWriter, Code, Entry, Hello, Message, Publish, decode, encode, proof};

use super::{Broker, Keys, Row, device_key};
use crate::config::{Config, Listener, Protocol};
use crate::log::{Append, Log, ReadRequest, Submission, Table, TopicSpec};
use crate::metrics::Metrics;
use crate::model::{End, Now, Offset, Partition, Peer, Record, Session, Topic};

const START: Now = Now {
    mono_us: 1_000_000,
    wall_ms: 1_700_000_000_000,
};

fn later(ms: u64) -> Now {
    Now {
        mono_us: START.after_ms(ms),
        wall_ms: START.wall_ms + ms as i64,
    }
}

struct Bench {
    log: Log,
    metrics: Arc<Metrics>,
    broker: Arc<Broker>,
}

fn default_config() -> Config {
    Config::parse("test", "", &[], &crate::config::Env::fixed()).expect("the default configuration")
}

fn listener() -> Listener {
    Listener {
        protocol: Protocol::Compact,
        address: "127.0.0.1:7420".parse().unwrap(),
        allow_anonymous: true,
        psk_file: None,
    }
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = default_config();
        change(&mut config);
        let log = Log::inline(START);
        let metrics = Arc::new(Metrics::default());
        let broker = Broker::new(&config, log.clone(), Arc::clone(&metrics)).unwrap();
        Self { log, metrics, broker }
    }

    fn session(&self) -> Line {
        let address = "127.0.0.1:1".parse().unwrap();
        let peer = Peer {
            address,
            local: address,
        };
        Line {
            session: self.broker.session(peer, &listener(), Waker::noop().clone(), 7, START),
            input: Vec::new(),
        }
    }

    fn row(&self, device: &str) -> Row {
        let value = self.log.state(Table::Devices, &device_key(device)).unwrap();
        Row::decode(&value.expect("a row")).unwrap()
    }

    /// Every record of a topic in the order of its partitions and offsets.
    fn records(&self, topic: &str) -> Vec<Record> {
        let Some(info) = self.log.topic(topic) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for partition in 0..info.partitions {
            let mut from = Offset(0);
            loop {
                let request = ReadRequest {
                    topic: info.name.clone(),
                    partition: Partition(partition),
                    from,
                    bytes_max: 1 << 20,
                };
                let read = self.log.read(request, Waker::noop()).take().unwrap().unwrap();
                if read.offset_next == from {
                    break;
                }
                for piece in read.batches {
                    for record in super::commands::records(&piece) {
                        found.push(record.1);
                    }
                }
                from = read.offset_next;
            }
        }
        found
    }

    fn values(&self) -> Vec<Vec<u8>> {
        let records = self.records("telemetry");
        records.into_iter().map(|r| r.value.unwrap().to_vec()).collect()
    }
}

/// A connection as a driver would have it.
struct Line {
    session: Box<dyn Session>,
    input: Vec<u8>,
}

/// What a broker says, without borrowing.
#[derive(Debug, PartialEq)]
enum Said {
    Challenge([u8; 16]),
    Hello { last: u64 },
    Ack(u64),
    Nack(u64, Code, u32),
    Command(u64, String, Vec<u8>),
    Bye(Code),
    Other(u8),
}

impl Line {
    fn send(&mut self, message: &Message<'_>, now: Now) {
        let mut buf = vec![0; 4096];
        let n = encode(message, &mut buf).unwrap();
        self.bytes(&buf[..n], now);
    }

    fn bytes(&mut self, bytes: &[u8], now: Now) {
        self.input.extend_from_slice(bytes);
        let used = self.session.input(&self.input, now);
        self.input.drain(..used);
        self.session.poll(now);
    }

    fn said(&mut self) -> Vec<Said> {
        let out = self.session.output().take();
        let (mut at, mut said, mut scratch) = (0, Vec::new(), vec![0; 1 << 20]);
        while let Some((frame, used)) = decode(&out[at..], &mut scratch).unwrap() {
            at += used;
            said.push(match frame.message {
                Message::Challenge(nonce) => Said::Challenge(nonce),
                Message::HelloAck(ack) => Said::Hello { last: ack.last },
                Message::Ack(sequence) => Said::Ack(sequence),
                Message::Nack(nack) => Said::Nack(nack.sequence, nack.code(), nack.retry_after_ms),
                Message::Command(c) => Said::Command(c.id, c.name.to_owned(), c.payload.to_vec()),
                Message::Bye(code) => Said::Bye(Code(code)),
                other => Said::Other(other.number()),
            });
        }
        assert_eq!(at, out.len());
        said
    }

    fn hello(&mut self, epoch: u32, next: u64) -> Vec<Said> {
        self.send(&hello(epoch, next, None), START);
        self.said()
    }

    fn publish(&mut self, sequence: u64) -> Vec<Said> {
        let payload = sequence.to_string();
        self.send(&publish(sequence, "t", payload.as_bytes()), START);
        self.said()
    }
}

fn hello(epoch: u32, next: u64, proof: Option<[u8; 32]>) -> Message<'static> {
    Message::Hello(Hello {
        version: 1,
        device: "pump-7",
        epoch,
        next,
        frame_bytes_max: 200,
        proof,
    })
}

fn publish<'a>(sequence: u64, channel: &'a str, payload: &'a [u8]) -> Message<'a> {
    Message::Publish(Publish {
        sequence,
        time: None,
        channel,
        payload,
    })
}

fn numbers(values: impl IntoIterator<Item = u64>) -> Vec<Vec<u8>> {
    values.into_iter().map(|n| n.to_string().into_bytes()).collect()
}

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
    let config = default_config();
    let broker = Broker::new(&config, bench.log.clone(), Arc::clone(&bench.metrics)).unwrap();
    let bench = Bench { broker, ..bench };
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

#[test]
fn the_newest_session_of_a_device_wins_and_nothing_is_stored_twice() {
    let bench = Bench::new();
    let mut old = bench.session();
    old.hello(5, 1);
    old.publish(1);
    let mut new = bench.session();
    assert_eq!(new.hello(5, 1), [Said::Hello { last: 1 }]);
    // What the old one still had in its socket comes after the new one's Hello.
    old.send(&publish(2, "t", b"2"), START);
    assert!(old.said().contains(&Said::Bye(Code::TAKEN_OVER)));
    old.session.gone(START);
    assert_eq!(new.publish(2), [Said::Nack(3, Code::OUT_OF_ORDER, 0), Said::Ack(2)]);
    assert_eq!(new.publish(3), [Said::Ack(3)]);
    assert_eq!(bench.values(), numbers(1..=3));
    assert_eq!(bench.metrics.compact.conflicts.get(), 1);
    assert_eq!(bench.metrics.compact.devices.get(), 1);
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
fn commands_wait_for_their_device_and_come_one_by_one_until_they_are_done() {
    let bench = Bench::new();
    let command = |key: &str, value: &str| {
        let record = Record {
            key: Some(key.to_owned().into()),
            value: Some(value.to_owned().into()),
            ..Record::default()
        };
        let topic = Topic::parse("commands").unwrap();
        let submission = Submission {
            appends: vec![Append::Record { topic, record }],
            state: Vec::new(),
        };
        bench.log.submit(submission, Waker::noop()).take().unwrap().unwrap();
    };
    let bytes = |value: &str| value.as_bytes().to_vec();
    command("pump-7", "open");
    command("another", "x");
    command("pump-7", &"large".repeat(100));
    command("pump-7", "close");
    let mut line = bench.session();
    let said = line.hello(5, 1);
    let [Said::Hello { last: 0 }, Said::Command(first, _, payload)] = &said[..] else {
        panic!("{said:?}")
    };
    assert_eq!(*payload, bytes("open"));
    // Without an answer it comes again, also to the next session.
    line.session.poll(later(5001));
    assert_eq!(line.said(), [Said::Command(*first, String::new(), bytes("open"))]);
    line.session.gone(later(5001));
    let mut line = bench.session();
    assert_eq!(line.hello(5, 1)[1], Said::Command(*first, String::new(), bytes("open")));
    line.send(&Message::CommandAck(*first), START);
    let said = line.said();
    let [Said::Command(second, _, payload)] = &said[..] else {
        panic!("{said:?}")
    };
    assert_eq!(*payload, bytes("close"));
    assert_eq!(bench.metrics.compact.commands_too_large.get(), 1);
    line.send(&Message::CommandAck(*second), START);
    line.session.gone(START);
    let mut line = bench.session();
    assert_eq!(line.hello(5, 1), [Said::Hello { last: 0 }]);
    command("pump-7", "stop");
    line.session.poll(START);
    assert!(matches!(&line.said()[..], [Said::Command(_, _, payload)] if *payload == bytes("stop")));
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
    let hello = Message::Hello(Hello {
        version: 1,
        device: "pump-8",
        epoch: 1,
        next: 1,
        frame_bytes_max: 128,
        proof: None,
    });
    other.send(&hello, START);
    assert_eq!(other.said(), [Said::Bye(Code::TOO_MANY_DEVICES)]);
    line.session.stop(START);
    assert_eq!(line.said(), [Said::Bye(Code::STOPPING)]);
    assert_eq!(line.session.end(), Some(&End::Finished));
}

/// A line that loses, changes and doubles bytes.
fn spoil(bytes: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in bytes {
        match rng.u32(..400) {
            0 => {}
            1 => out.push(byte ^ (1 << rng.u8(..8))),
            2 => out.extend([*byte, rng.u8(..)]),
            _ => out.push(*byte),
        }
    }
    out
}

#[test]
fn over_a_bad_line_every_record_is_stored_once_and_in_order() {
    for seed in 1..=20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let bench = Bench::new();
        let mut line = bench.session();
        let timing = Timing {
            hello_ms: 200,
            ack_ms: 300,
            ping_ms: 1000,
            silence_ms: 5000,
        };
        let mut client = Client::<_, 256>::new("pump-7", 9, RamQueue::<600>::new()).with_timing(timing);
        client.connected(0);
        let (mut pushed, mut ms) = (0u64, 0u64);
        while client.acked() < 300 {
            ms += 10;
            assert!(ms < 2_000_000, "seed {seed}: stuck at {}", client.acked());
            while pushed < 300
                && client
                    .push(Some(ms as i64), "t", (pushed + 1).to_string().as_bytes())
                    .is_ok()
            {
                pushed += 1;
            }
            let mut out = Vec::new();
            loop {
                let bytes = client.transmit(ms as i64).to_vec();
                if bytes.is_empty() {
                    break;
                }
                client.sent(bytes.len());
                out.extend(bytes);
            }
            line.bytes(&spoil(&out, &mut rng), later(ms));
            let broken = line.session.end().is_some() || rng.u32(..500) == 0;
            let back = spoil(&line.session.output().take(), &mut rng);
            let mut at = 0;
            while at < back.len() {
                at += client.receive(&back[at..], ms as i64).0;
            }
            let closed = client.phase() == headwater_device::Phase::Closed;
            if broken || closed || rng.u32(..700) == 0 {
                line.session.gone(later(ms));
                line = bench.session();
                client.connected(ms as i64);
            }
        }
        assert_eq!(bench.values(), numbers(1..=300), "seed {seed}");
        assert_eq!(bench.row("pump-7").lost, 0);
    }
}

#[test]
fn a_device_whose_epoch_was_used_takes_a_new_one() {
    let bench = Bench::new();
    let mut line = bench.session();
    line.hello(9, 1);
    line.publish(1);
    let mut line = bench.session();
    let mut client = Client::<_, 256>::new("pump-7", 9, RamQueue::<600>::new());
    client.connected(0);
    let exchange = |client: &mut Client<'_, RamQueue<600>, 256>, line: &mut Line| {
        let bytes = client.transmit(0).to_vec();
        client.sent(bytes.len());
        line.bytes(&bytes, START);
        let back = line.session.output().take();
        client.receive(&back, 0).1
    };
    assert_eq!(exchange(&mut client, &mut line), Some(Event::EpochUsed));
    client.push(None, "t", b"2").unwrap();
    client.renew(10, 0);
    assert_eq!(exchange(&mut client, &mut line), Some(Event::Open(0)));
    assert_eq!(exchange(&mut client, &mut line), Some(Event::Acked(1)));
    assert_eq!(bench.values(), numbers(1..=2));
}
